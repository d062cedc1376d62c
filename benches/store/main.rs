//! What does a sample cost to take in and to keep, beside VictoriaMetrics and beside the least it could?
//!
//! `make bench`; the first line of the output says what was run, the last ones are the goals.

mod floor;

use anyhow::{Context, Result, ensure};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_benches::ours::{Ours, ROWS};
use joulebook_benches::peer::Peer;
use joulebook_benches::workload::{Node, SERIES};
use joulebook_benches::{disk, meter, setting, workload};
use joulebook_tests::chaos::latency::Latency;
use joulebook_tests::wait::until;
use joulebook_units::UnixNanos;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const HOUR_SECONDS: i64 = 3600;
/// Rows of a request of the peer where it is fed as fast as it takes them.
const PEER_ROWS: usize = 15;

/// What is run, from the environment.
struct Settings {
    nodes: u32,
    seconds: usize,
    live_seconds: usize,
    seed: u64,
    noise: f64,
    rounds: usize,
}

impl Settings {
    fn from_environment() -> Result<Self> {
        let settings = Self {
            nodes: setting("BENCH_NODES", 32)?,
            seconds: setting("BENCH_SECONDS", 3_600)?,
            live_seconds: setting("BENCH_LIVE_SECONDS", 60)?,
            seed: setting("BENCH_SEED", 1)?,
            noise: setting("BENCH_NOISE", 1.0)?,
            rounds: setting("BENCH_ROUNDS", 1)?,
        };
        ensure!(settings.seconds <= 3_600, "BENCH_SECONDS: at most an hour, 3600");
        Ok(settings)
    }

    fn samples(&self, seconds: usize) -> f64 {
        f64::from(self.nodes) * (SERIES * seconds) as f64
    }
}

/// What one contestant took.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    /// CPU seconds per million samples, all that it did with them included.
    backfill: f64,
    /// The same for rows as they come.
    live: f64,
    /// Bytes of its data folder per sample.
    bytes: f64,
    /// Resident memory in bytes per series at the end.
    memory: f64,
}

/// A peer.
struct Contestant {
    name: &'static str,
    /// None where it is not installed.
    program: Option<PathBuf>,
    start: fn(&Path, &Path) -> Result<Peer>,
    /// Whether it writes blocks, of which one is to be weighed, and not what waits to become one.
    has_blocks: bool,
}

fn main() -> Result<()> {
    let settings = Settings::from_environment()?;
    let Settings { nodes, seconds, live_seconds, seed, noise, rounds } = settings;
    meter::say(&format!(
        "bench: {nodes} nodes of {SERIES} series, {seconds} s backfill, {live_seconds} s live, seed {seed}, noise {noise}, \
         {rounds} rounds"
    ));
    let told: Vec<Node> = (0..nodes).map(|number| workload::node(seed, number.into(), seconds, noise)).collect();
    let told = Arc::new(told);
    let floor: usize = told.iter().map(floor::bytes).sum::<Result<usize>>()?;
    let floor = floor as f64 / settings.samples(seconds);
    let victoria = Contestant { name: "VictoriaMetrics", program: Peer::find(), start: Peer::start, has_blocks: false };
    let prometheus = Contestant {
        name: "Prometheus",
        program: Peer::find_prometheus(),
        start: Peer::start_prometheus,
        has_blocks: true,
    };
    let (mut own, mut others) = (Vec::new(), [Vec::new(), Vec::new()]);
    for round in 1..=rounds {
        own.push(ours(&settings, &told)?);
        meter::say(&format!("round {round}: ours {:?}", own.last()));
        for (peer, taken) in [&victoria, &prometheus].into_iter().zip(&mut others) {
            if let Some(program) = &peer.program {
                taken.push(theirs(peer, program, &settings, &told)?);
                meter::say(&format!("round {round}: {} {:?}", peer.name, taken.last()));
            }
        }
    }
    report(&own, &others, floor);
    Ok(())
}

fn ours(settings: &Settings, told: &Arc<Vec<Node>>) -> Result<Taken> {
    let folder = TempDir::new()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let aggregator = Arc::new(Ours::start(folder.path())?);
    let pid = i32::try_from(aggregator.program.pid())?;
    let begin = SystemClock.wall().floor_to(HOUR_SECONDS).plus_seconds(-2 * HOUR_SECONDS);
    let before = meter::cpu_millis(pid)?;
    runtime.block_on(send(&aggregator, told, begin, None))?;
    let acked = meter::cpu_millis(pid)?;
    until("every hour is sealed", || aggregator.sealed() >= told.len());
    let sealed = meter::cpu_millis(pid)?;
    let samples = settings.samples(settings.seconds) / 1e6;
    meter::say(&format!(
        "ours: {:.3} CPU s/M to take in, {:.3} to settle and seal",
        (acked - before) / 1e3 / samples,
        (sealed - acked) / 1e3 / samples
    ));
    let backfill = (sealed - before) / 1e3 / samples;
    let memory = meter::memory(pid)?.resident_kib as f64 * 1024.0 / f64::from(settings.nodes) / SERIES as f64;
    let mut aggregator = Arc::into_inner(aggregator).context("still in use")?;
    ensure!(aggregator.program.stop()?.success(), "{}", aggregator.program.said());
    let bytes = disk::compacted(aggregator.data(), settings.samples(settings.seconds))?;

    // What the hour left to settle would be counted with what is live: a database of its own.
    let folder = TempDir::new()?;
    let aggregator = Arc::new(Ours::start(folder.path())?);
    let pid = i32::try_from(aggregator.program.pid())?;
    let now = Arc::new(live(settings));
    let begin = SystemClock.wall().plus_seconds(-i64::try_from(settings.live_seconds)?);
    let before = meter::cpu_millis(pid)?;
    runtime.block_on(send(&aggregator, &now, begin, Some(Duration::from_secs(ROWS as u64))))?;
    let live = (meter::cpu_millis(pid)? - before) / 1e3 / (settings.samples(settings.live_seconds) / 1e6);
    Ok(Taken { backfill, live, bytes, memory })
}

/// What every node tells while it is live.
fn live(settings: &Settings) -> Vec<Node> {
    (0..settings.nodes)
        .map(|number| workload::node(settings.seed + 1, number.into(), settings.live_seconds, settings.noise))
        .collect()
}

async fn send(aggregator: &Arc<Ours>, told: &Arc<Vec<Node>>, begin: UnixNanos, pace: Option<Duration>) -> Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..u32::try_from(told.len())? {
        let (aggregator, told) = (Arc::clone(aggregator), Arc::clone(told));
        tasks.spawn(async move {
            let node = &told[number as usize];
            let session = aggregator.connect(number, node).await?;
            match pace {
                Some(pace) => session.pace(node, begin, pace, &mut Latency::default().node()).await,
                None => session.send(node, begin).await,
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

fn theirs(contestant: &Contestant, program: &Path, settings: &Settings, told: &Arc<Vec<Node>>) -> Result<Taken> {
    let folder = TempDir::new()?;
    let mut peer = (contestant.start)(program, folder.path())?;
    let pid = i32::try_from(peer.program.pid())?;
    let begin = SystemClock.wall().floor_to(HOUR_SECONDS).plus_seconds(-2 * HOUR_SECONDS).0 / 1_000_000;
    let before = meter::cpu_millis(pid)?;
    feed(&peer, told, begin, PEER_ROWS, None)?;
    let backfill = (meter::cpu_millis(pid)? - before) / 1e3 / (settings.samples(settings.seconds) / 1e6);
    let memory = meter::memory(pid)?.resident_kib as f64 * 1024.0 / f64::from(settings.nodes) / SERIES as f64;
    let block = contestant.has_blocks.then(|| peer.snapshot()).transpose()?;
    peer.program.terminate();
    peer.program.wait()?;
    let data = block.as_deref().unwrap_or(peer.data());
    let bytes = disk::size(data)? as f64 / settings.samples(settings.seconds);

    let folder = TempDir::new()?;
    let mut peer = (contestant.start)(program, folder.path())?;
    let pid = i32::try_from(peer.program.pid())?;
    let now = Arc::new(live(settings));
    let begin = SystemClock.wall().0 / 1_000_000;
    let before = meter::cpu_millis(pid)?;
    feed(&peer, &now, begin, 1, Some(Duration::from_secs(1)))?;
    let live = (meter::cpu_millis(pid)? - before) / 1e3 / (settings.samples(settings.live_seconds) / 1e6);
    peer.program.terminate();
    peer.program.wait()?;
    Ok(Taken { backfill, live, bytes, memory })
}

fn feed(peer: &Peer, told: &Arc<Vec<Node>>, begin: i64, rows: usize, pace: Option<Duration>) -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0u32..)
            .zip(told.iter())
            .map(|(number, node)| scope.spawn(move || peer.send(number, node, begin, rows, pace)))
            .collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(sent) => sent,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

fn report(own: &[Taken], [victoria, prometheus]: &[Vec<Taken>; 2], floor: f64) {
    let median = |all: &[Taken], of: fn(&Taken) -> f64| {
        let mut values: Vec<f64> = all.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    meter::say(
        "| goal | what | at most | ours | VictoriaMetrics | ratio, at most | Prometheus | floor | ratio, at most | |",
    );
    meter::say("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let line = |id: &str, what: &str, most: f64, of: fn(&Taken) -> f64, to_peer: f64, floor: Option<(f64, f64)>| {
        let Some(ours) = median(own, of) else { return };
        let peer = median(victoria, of);
        let met = ours <= most
            && peer.is_none_or(|peer| ours <= to_peer * peer)
            && floor.is_none_or(|(floor, to_floor)| ours <= to_floor * floor);
        let shown = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"));
        meter::say(&format!(
            "| {id} | {what} | {most} | {ours:.3} | {} | {} (≤ {to_peer}) | {} | {} | {} | {} |",
            shown(peer),
            shown(peer.map(|peer| ours / peer)),
            shown(median(prometheus, of)),
            shown(floor.map(|(floor, _)| floor)),
            floor.map_or_else(|| "–".to_owned(), |(floor, most)| format!("{:.3} (≤ {most})", ours / floor)),
            if met { "met" } else { "missed" }
        ));
    };
    line("PERF-S1", "bytes a sample, whole folder", 1.60, |taken| taken.bytes, 0.78, Some((floor, 1.06)));
    line("PERF-I1", "live: CPU s per M samples", 0.40, |taken| taken.live, 0.17, None);
    line("PERF-I2", "backfill, settled and sealed: CPU s per M samples", 0.13, |taken| taken.backfill, 0.35, None);
    line("PERF-M1", "RSS per series after backfill, bytes", 1_000.0, |taken| taken.memory, 0.28, None);
}
