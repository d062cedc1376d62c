//! What a run measures, from the environment: `make bench-agent BENCH_ROUNDS=1`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// Processes on the node for which the goals hold.
pub const GOAL_PROCESSES: usize = 300;

/// What is measured how often.
#[derive(Debug)]
pub struct Settings {
    /// `BENCH_PROCESSES`: numbers of processes on the node, in the order in which they are measured.
    pub processes: Vec<usize>,
    /// `BENCH_ROUNDS`: how often each contestant is started and measured at each number.
    pub rounds: usize,
    /// `BENCH_CYCLES`: cycles of one measurement; a multiple of the five rows that the agent sends together.
    pub cycles: usize,
    /// `JOULEBOOK_SCAPHANDRE`: the program, if it is not on the path.
    pub scaphandre: Option<PathBuf>,
}

impl Settings {
    /// Reads the environment; what is not set has the default that the Makefile shows.
    pub fn from_environment() -> Result<Self> {
        let text = |name: &str, default: &str| {
            std::env::var(name).ok().filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned())
        };
        let number = |name: &str, default: &str| -> Result<usize> {
            let number = text(name, default).parse().with_context(|| format!("{name} is not a whole number"))?;
            ensure!(number > 0, "{name} has to be above 0");
            Ok(number)
        };
        let processes = text("BENCH_PROCESSES", "30,300,3000");
        let processes: Result<Vec<usize>, _> = processes.split(',').map(|word| word.trim().parse()).collect();
        let cycles = number("BENCH_CYCLES", "10")?;
        ensure!(cycles % 5 == 0, "BENCH_CYCLES has to be a multiple of 5: the agent sends five rows together");
        Ok(Self {
            processes: processes.context("BENCH_PROCESSES is not a list like 30,300,3000")?,
            rounds: number("BENCH_ROUNDS", "3")?,
            cycles,
            scaphandre: std::env::var_os("JOULEBOOK_SCAPHANDRE").map(PathBuf::from).filter(|path| path.is_file()),
        })
    }
}
