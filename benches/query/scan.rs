//! VictoriaMetrics, told the same rows of every second: what reading all of them takes it.

use crate::Settings;
use anyhow::{Context, Result, ensure};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_benches::peer::Peer;
use joulebook_benches::workload::{self, Node, SERIES};
use joulebook_benches::{fleet, meter};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const HOUR_SECONDS: i64 = 3600;
/// Rows of a request.
const ROWS: usize = 15;

/// CPU seconds of its process to read each of `per` samples once: the middle of some scans. None where it is not installed.
///
/// It counts the samples of every series, which is the least that it can be asked and has to unpack them all for.
pub fn victoria(settings: &Settings, runtime: &Runtime, per: f64) -> Result<Option<f64>> {
    let Some(program) = Peer::find() else { return Ok(None) };
    let told = (0..settings.nodes).map(|number| workload::node(settings.seed, number.into(), settings.seconds, 1.0));
    let told: Vec<Node> = told.collect();
    let folder = TempDir::new()?;
    let mut peer = Peer::start(&program, folder.path())?;
    let pid = i32::try_from(peer.program.pid())?;
    let begin = SystemClock.wall().floor_to(HOUR_SECONDS).plus_seconds(-2 * HOUR_SECONDS).0 / 1_000_000;
    drop(fleet::peer(&peer, &told, settings.nodes, begin, ROWS)?);
    peer.flush()?;
    let samples = f64::from(settings.nodes) * (SERIES * settings.seconds) as f64;
    let query = format!("sum(count_over_time({{__name__!=\"\"}}[{HOUR_SECONDS}s]))");
    let mut scans = Vec::new();
    for _ in 0..settings.peer_asks {
        let before = meter::cpu_millis(pid)?;
        let found = runtime.block_on(peer.ask(&query, begin + HOUR_SECONDS * 1_000))?;
        scans.push((meter::cpu_millis(pid)? - before) / 1e3);
        let (_, found) = found.first().context("no sum")?;
        ensure!((found - samples).abs() < 0.5, "VictoriaMetrics read {found} samples, {samples} were told");
    }
    let took = meter::median(&mut scans);
    meter::say(&format!(
        "VictoriaMetrics: {samples} samples read in {took:.3} CPU s: {:.1} M a CPU s",
        samples / 1e6 / took
    ));
    peer.program.terminate();
    peer.program.wait()?;
    Ok(Some(took * per / samples))
}
