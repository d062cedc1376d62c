//! What does a cycle of the agent cost: CPU time, memory and system calls, beside the least that it could cost in C and
//! beside other agents?
//!
//! `make bench-agent` runs it; `benches/README.md` says how. All contestants read one made-up powercap tree and the same
//! sleeping processes, one contestant after the other, in several rounds. Each measurement is a line of JSON; the goals
//! close the run. The exit status is 1 only if a cycle of the agent costs more than one of scaphandre: the other goals
//! are ratios to be read.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use contestant::{Contestant, Measured};
use joulebook_tests::installation::Installation;
use node::Node;
use settings::Settings;

mod contestant;
mod goal;
mod namespace;
mod node;
mod peer;
mod processes;
mod settings;

fn main() -> Result<ExitCode> {
    let settings = Settings::from_environment()?;
    let place = match namespace::enter()? {
        namespace::Entered::Outside(code) => return Ok(code),
        namespace::Entered::Inside(place) => place,
    };
    let tools = Tools::build(&place.folder)?;
    let node = Node::start(&place.folder)?;
    if place.why_not_private.is_none() {
        node.show_at_sys()?;
    }
    let (installation, _aggregator) = Installation::start()?;
    let peers = Peers::find(&settings);
    let why_not_private = place.why_not_private.clone();
    let bench = Bench { settings, tools, node, installation, peers, why_not_private, agents: Cell::new(0) };
    if let Some(why) = joulebook_benches::meter::why_no_calls() {
        joulebook_benches::meter::say(&format!("system calls: not measured: {why}"));
    }
    let (measured, left_out) = bench.run()?;
    let report = goal::report(&measured, &left_out);
    joulebook_benches::meter::say(&report.text);
    Ok(ExitCode::from(u8::from(!report.must_hold)))
}

/// Contestants that could not be measured, and why.
type LeftOut = Vec<(Contestant, String)>;

/// The C programs, built for this run.
struct Tools {
    floor: PathBuf,
    sleeper: PathBuf,
    modules: PathBuf,
}

impl Tools {
    fn build(folder: &Path) -> Result<Self> {
        let source = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("agent").join(name);
        let build = |name: &str, options: &[&str]| -> Result<PathBuf> {
            let built = folder.join(name);
            let mut command = std::process::Command::new("cc");
            command.args(["-O2", "-pthread"]).args(options).arg("-o").arg(&built).arg(source(&format!("{name}.c")));
            let status = command.status().context("running cc, the C compiler that Rust links with")?;
            anyhow::ensure!(status.success(), "cc could not build {name}.c");
            Ok(built)
        };
        Ok(Self {
            floor: build("floor", &[])?,
            sleeper: build("sleeper", &[])?,
            modules: build("modules", &["-shared", "-fPIC"])?,
        })
    }
}

/// Everything that a measurement needs.
struct Bench {
    settings: Settings,
    tools: Tools,
    node: Node,
    installation: Installation,
    peers: Peers,
    /// Why the node's tree is not at /sys, where some peers look for it, if it is not.
    why_not_private: Option<String>,
    /// Agents started so far; each has a folder of its own.
    agents: Cell<usize>,
}

/// Other agents that are installed.
struct Peers {
    node_exporter: Option<PathBuf>,
    scaphandre: Option<PathBuf>,
}

impl Peers {
    fn find(settings: &Settings) -> Self {
        Self {
            node_exporter: peer::find("prometheus-node-exporter", None),
            scaphandre: peer::find("scaphandre", settings.scaphandre.as_deref()),
        }
    }
}

impl Bench {
    /// All measurements, and the contestants that could not be measured, with the reason.
    fn run(&self) -> Result<(Vec<Measured>, LeftOut)> {
        let (able, left_out): (Vec<_>, Vec<_>) =
            Contestant::ALL.into_iter().map(|one| (one, self.obstacle(one))).partition(|(_, why)| why.is_none());
        let left_out: LeftOut = left_out.into_iter().filter_map(|(one, why)| Some((one, why?))).collect();
        for (one, why) in &left_out {
            joulebook_benches::meter::say(&format!("{}: not measured: {why}", one.name()));
        }
        let mut measured = Vec::new();
        for count in self.settings.processes.iter().copied() {
            let mut crowd = processes::Crowd::of(count, &self.tools.sleeper)?;
            for round in 1..=self.settings.rounds {
                for (one, _) in able.iter().filter(|(one, _)| one.runs_at(count)) {
                    crowd.arrange(one.arrangement())?;
                    match self.measure(*one, count, round) {
                        Ok(result) => {
                            joulebook_benches::meter::say(&result.line());
                            measured.push(result);
                        }
                        Err(why) if one.is_peer() => {
                            joulebook_benches::meter::say(&format!(
                                "{} at {count} processes: not measured: {why:#}",
                                one.name()
                            ));
                        }
                        Err(why) => return Err(why.context(format!("measuring {}", one.name()))),
                    }
                }
            }
        }
        Ok((measured, left_out))
    }
}
