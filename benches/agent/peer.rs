//! Other agents: how they are started, and how one knows that a cycle of theirs has passed.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Steps in which a cycle is waited for, and how many at most: a minute.
const STEP: Duration = Duration::from_millis(10);
const STEPS: usize = 6_000;

/// The program, from `given` or from the path.
pub fn find(name: &str, given: Option<&Path>) -> Option<PathBuf> {
    let program = given.map_or_else(|| PathBuf::from(name), Path::to_owned);
    let runs = Command::new(&program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    runs.is_ok_and(|status| status.success()).then_some(program)
}

/// The exporter with the collectors that read what the agent reads of the machine; it reads no processes.
pub fn node_exporter(program: &Path, sysfs: &Path, port: u16) -> Command {
    let mut command = Command::new(program);
    command.arg(format!("--web.listen-address=127.0.0.1:{port}")).arg(format!("--path.sysfs={}", sysfs.display()));
    command.arg("--collector.disable-defaults");
    command.args(["rapl", "hwmon", "cpu", "meminfo"].map(|name| format!("--collector.{name}")));
    command
}

/// scaphandre once a second into a file: its exporter for Prometheus works every two seconds at most.
///
/// `modules` is the library that gives it the modules of the kernel where the kernel names none.
pub fn scaphandre(program: &Path, into: &Path, modules: &Path) -> Result<Command> {
    // The shell becomes the program: it only opens the file.
    let mut command = Command::new("sh");
    command.args(["-c", r#"exec "$0" --no-header json --step 1 > "$1""#]).args([program, into]);
    if !Path::new("/proc/modules").exists() {
        let list = into.with_extension("modules");
        std::fs::write(&list, "intel_rapl_common 32768 0 - Live 0x0000000000000000\n")?;
        command.env("LD_PRELOAD", modules).env("BENCH_MODULES", list);
    }
    Ok(command)
}

/// Cycles that scaphandre has written so far.
fn written(file: &Path) -> usize {
    std::fs::read_to_string(file).map_or(0, |text| text.matches(r#""host":{"#).count())
}

/// Waits until scaphandre has ended one more cycle.
pub fn wait_written(file: &Path) -> Result<()> {
    let before = written(file);
    for _ in 0..STEPS {
        if written(file) > before {
            return Ok(());
        }
        std::thread::sleep(STEP);
    }
    bail!("no cycle was written to {} within a minute", file.display())
}

/// A port of 127.0.0.1 that is free now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Reads an exporter's page once and returns its length.
pub fn scrape(port: u16) -> Result<usize> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page).context("reading an exporter's page")?;
    ensure!(page.starts_with("HTTP/1.1 200"), "the exporter answered: {}", page.lines().next().unwrap_or("nothing"));
    ensure!(page.contains("node_rapl_package_joules_total"), "the exporter shows no energy of packages");
    Ok(page.len())
}

/// Waits until the exporter answers.
pub fn wait_answering(port: u16) -> Result<()> {
    for _ in 0..STEPS {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return scrape(port).map(|_| ());
        }
        std::thread::sleep(STEP);
    }
    bail!("nobody listened on port {port} within a minute")
}
