//! What do the paths cost that every sample takes, each alone? Time for people, instructions for comparing: they are the same on
//! a loaded machine.
//!
//! `make bench-paths`; each path is run under callgrind once and then three times, and half the difference is what one run takes,
//! whatever it took to begin. `kept.json` holds what it took when it was last looked at: BENCH_KEEP=1 writes it anew.

mod path;

use anyhow::{Context, Result, ensure};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_benches::{meter, setting};
use path::{Path, Work};
use std::collections::BTreeMap;
use std::process::Command;

/// How often a path is run more in the second run under callgrind than in the first.
const FURTHER: u64 = 2;
/// How much more it may take than what is kept, before it is said.
const TOLERANCE: f64 = 0.03;
/// Runs of which the median time is shown.
const ROUNDS: usize = 15;
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/paths/kept.json");

fn main() -> Result<()> {
    let work = Work::new(setting("BENCH_SEED", 1)?)?;
    if let Ok(name) = std::env::var("BENCH_PATH") {
        let path = path::ALL.iter().find(|path| path.name == name).context("no such path")?;
        let times: u64 = setting("BENCH_TIMES", 1)?;
        return (0..times).try_for_each(|_| (path.run)(&work).map(drop));
    }
    let kept = std::fs::read_to_string(KEPT).unwrap_or_else(|_| "{}".to_owned());
    let kept: BTreeMap<String, u64> = serde_json::from_str(&kept).context(KEPT)?;
    let mut counted = BTreeMap::new();
    meter::say("| path | of | ns each | instructions each | kept | |");
    meter::say("| --- | --- | --- | --- | --- | --- |");
    let mut more = Vec::new();
    for path in path::ALL {
        let count = instructions(path)?;
        let of = (path.of)(&work) as f64;
        let was = kept.get(path.name).copied();
        let change = was.map(|was| count as f64 / was as f64 - 1.0);
        if change.is_some_and(|change| change > TOLERANCE) {
            more.push(path.name);
        }
        meter::say(&format!(
            "| {} | {of} {} | {:.1} | {:.1} | {} | {} |",
            path.name,
            path.unit,
            time(path, &work)? / of,
            count as f64 / of,
            was.map_or_else(|| "–".to_owned(), |was| format!("{:.1}", was as f64 / of)),
            change.map_or_else(|| "new".to_owned(), |change| format!("{:+.1} %", change * 100.0)),
        ));
        counted.insert(path.name, count);
    }
    if setting("BENCH_KEEP", 0u8)? == 1 {
        std::fs::write(KEPT, serde_json::to_string_pretty(&counted)? + "\n")?;
    } else {
        ensure!(more.is_empty(), "more than {:.0} % above what is kept: {}", TOLERANCE * 100.0, more.join(", "));
    }
    Ok(())
}

/// Median time of a run in ns.
fn time(path: &Path, work: &Work) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..=ROUNDS {
        let begin = SystemClock.boot();
        let made = (path.run)(work)?;
        times.push(meter::seconds_since(begin) * 1e9);
        ensure!(made > 0, "{} made nothing", path.name);
    }
    // The first one finds nothing in the caches.
    times.remove(0);
    Ok(meter::median(&mut times))
}

/// Instructions of a run.
fn instructions(path: &Path) -> Result<u64> {
    let (once, again) = (collected(path, 1)?, collected(path, 1 + FURTHER)?);
    Ok(again.saturating_sub(once) / FURTHER)
}

fn collected(path: &Path, times: u64) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(std::env::current_exe()?);
    command.env("BENCH_PATH", path.name).env("BENCH_TIMES", times.to_string());
    let run = command.output().context("valgrind; `.ci/setup valgrind` installs it")?;
    let said = String::from_utf8_lossy(&run.stderr);
    ensure!(run.status.success(), "{}: {said}", path.name);
    let line = said.lines().find_map(|line| line.split_once("Collected :")).context("no count")?;
    Ok(line.1.trim().parse()?)
}
