//! Resident memory of a series once many nodes are connected and have told a minute: ours and VictoriaMetrics, in turn.

use anyhow::{Result, ensure};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_benches::ours::Ours;
use joulebook_benches::peer::Peer;
use joulebook_benches::workload::{self, Node, SERIES};
use joulebook_benches::{allow_connections, fleet, meter};
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Rows that a node has told.
const SECONDS: usize = 60;
/// Different nodes; each is told by many streams.
const DIFFERENT: u32 = 16;

/// Resident bytes of one series, the whole process shared out.
#[derive(Debug, Clone, Copy)]
pub struct Resident {
    pub series: f64,
    pub ours: f64,
    /// None where it is not installed.
    pub victoria: Option<f64>,
}

/// So many nodes, each with a connection of its own that is open when memory is read.
pub fn of(nodes: u32, seed: u64, victoria: Option<&Path>, runtime: &Runtime) -> Result<Resident> {
    allow_connections(nodes)?;
    let told = (0..DIFFERENT).map(|number| workload::node(seed, number.into(), SECONDS, 1.0));
    let told: Arc<Vec<Node>> = Arc::new(told.collect());
    let series = f64::from(nodes) * SERIES as f64;
    let begin = SystemClock.wall().plus_seconds(-i64::try_from(SECONDS)?);
    let each = |name: &str, pid: u32, empty: meter::Memory| -> Result<f64> {
        let memory = meter::memory(i32::try_from(pid)?)?;
        meter::say(&format!(
            "{name}: {nodes} nodes, {series} series: {} KiB resident, {} of them anonymous; {} before",
            memory.resident_kib, memory.anonymous_kib, empty.resident_kib
        ));
        Ok(memory.resident_kib as f64 * 1024.0 / series)
    };

    let folder = TempDir::new()?;
    let mut aggregator = Arc::new(Ours::start(folder.path())?);
    let pid = aggregator.program.pid();
    let empty = meter::memory(i32::try_from(pid)?)?;
    let sessions = runtime.block_on(fleet::ours(&aggregator, &told, nodes, begin))?;
    let ours = each("ours", pid, empty)?;
    drop(sessions);
    if let Some(aggregator) = Arc::get_mut(&mut aggregator) {
        ensure!(aggregator.program.stop()?.success(), "{}", aggregator.program.said());
    }

    let victoria = victoria.map(|program| {
        let folder = TempDir::new()?;
        let mut peer = Peer::start(program, folder.path())?;
        let empty = meter::memory(i32::try_from(peer.program.pid())?)?;
        let connections = fleet::peer(&peer, &told, nodes, begin.0 / 1_000_000, crate::PEER_ROWS)?;
        let each = each("VictoriaMetrics", peer.program.pid(), empty)?;
        drop(connections);
        peer.flush()?;
        let query = format!("count(count_over_time({{__name__!=\"\"}}[{SECONDS}s]))");
        let found = runtime.block_on(peer.ask(&query, begin.0 / 1_000_000 + 1_000 * i64::try_from(SECONDS)?))?;
        let count: f64 = found.iter().map(|(_, count)| count).sum();
        ensure!((count - series).abs() < 0.5, "VictoriaMetrics has {count} series, {series} were told");
        peer.program.terminate();
        peer.program.wait()?;
        anyhow::Ok(each)
    });
    Ok(Resident { series, ours, victoria: victoria.transpose()? })
}
