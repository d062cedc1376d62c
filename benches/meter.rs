//! What a process uses, as the kernel counts it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_units::BootNanos;
use nix::sys::signal::{Signal, kill};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// How long strace may take until it has stopped the process once.
const ATTACH_STEPS: usize = 250;
const ATTACH_STEP: Duration = Duration::from_millis(20);

/// Memory of a process in KiB.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Anonymous resident memory: what the process made itself (`RssAnon`).
    pub anonymous_kib: u64,
    /// All resident memory, the program's own pages and shared libraries included (`VmRSS`).
    pub resident_kib: u64,
}

/// CPU time in ms that a process and its descendants have used so far.
///
/// The CPU clock of a process counts in ns what all its threads ran, ended ones included: `schedstat` of each thread
/// would forget those.
pub fn cpu_millis(pid: i32) -> Result<f64> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).with_context(|| format!("process {pid} has ended"))?;
    let time = clock_gettime(clock)?;
    let own = Duration::new(u64::try_from(time.tv_sec())?, u32::try_from(time.tv_nsec())?).as_secs_f64() * 1e3;
    let below: f64 = children(pid).into_iter().map(|child| cpu_millis(child).unwrap_or(0.0)).sum();
    Ok(own + below)
}

fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Memory of a process now.
pub fn memory(pid: i32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        Ok(line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse()?)
    };
    Ok(Memory { anonymous_kib: field("RssAnon")?, resident_kib: field("VmRSS")? })
}

/// Why system calls cannot be counted, if they cannot.
pub fn why_no_calls() -> Option<String> {
    let found = Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let found = found.is_ok_and(|status| status.success());
    (!found).then(|| "strace is not installed; run: make bench-peers".to_owned())
}

/// System calls that a process and its descendants make while `meanwhile` runs.
pub fn calls(pid: i32, folder: &Path, meanwhile: impl FnOnce() -> Result<()>) -> Result<u64> {
    let table = folder.join("strace");
    let mut strace = Command::new("strace")
        .args(["-c", "-f", "-q", "-o"])
        .arg(&table)
        .args(["-p", &pid.to_string()])
        .stderr(Stdio::null())
        .spawn()
        .context("starting strace")?;
    let attached = (0..ATTACH_STEPS).any(|_| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let traced = status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|by| by.trim() != "0"));
        if !traced {
            std::thread::sleep(ATTACH_STEP);
        }
        traced
    });
    let done = if attached { meanwhile() } else { Ok(()) };
    // On an interrupt strace lets the process go and writes its table.
    kill(Pid::from_raw(i32::try_from(strace.id())?), Signal::SIGINT)?;
    strace.wait()?;
    ensure!(attached, "strace could not attach to process {pid}");
    done?;
    total(&fs::read_to_string(&table)?).context("strace wrote no table")
}

/// The fourth column of the last line: `100.00 0.004242 5 812 3 total`, where the fifth may be missing.
fn total(table: &str) -> Option<u64> {
    let line = table.lines().find(|line| line.trim_end().ends_with(" total"))?;
    line.split_ascii_whitespace().nth(3)?.parse().ok()
}

/// Prints a line at once.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever closed the pipe does not want to read on.
    let _closed = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The middle one of some values; NaN of none.
pub fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Seconds since an instant of the machine's boot clock.
pub fn seconds_since(begin: BootNanos) -> f64 {
    SystemClock.boot().since(begin).as_secs_f64()
}
