//! What does a sample cost to take in and to keep, beside VictoriaMetrics and beside the least it could?
//!
//! `make bench`; the first line of the output says what was run, the last ones are the goals.

mod floor;
mod memory;
mod taking;

use anyhow::{Result, ensure};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_benches::ours::{Entrance, Ours, ROWS};
use joulebook_benches::peer::Peer;
use joulebook_benches::workload::{Node, SERIES};
use joulebook_benches::{disk, meter, setting, sizes, workload};
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
/// Time between two batches of a node that is live.
const PACE: Duration = Duration::from_secs(ROWS as u64);

/// What is run, from the environment.
struct Settings {
    nodes: u32,
    seconds: usize,
    live_seconds: usize,
    seed: u64,
    noise: f64,
    rounds: usize,
    /// Numbers of nodes of which memory is measured.
    series_nodes: Vec<u32>,
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
            series_nodes: sizes("BENCH_SERIES_NODES", "1000")?,
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
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some((taking::SERVER, words)) = words.split_first().map(|(first, words)| (first.as_str(), words)) {
        return taking::serve(words);
    }
    let settings = Settings::from_environment()?;
    let Settings { nodes, seconds, live_seconds, seed, noise, rounds, .. } = settings;
    meter::say(&format!(
        "bench: {nodes} nodes of {SERIES} series, {seconds} s backfill, {live_seconds} s live, seed {seed}, noise {noise}, \
         {rounds} rounds; memory of {:?} nodes",
        settings.series_nodes
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
    let (mut own, mut least, mut others) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
    for round in 1..=rounds {
        own.push(ours(&settings, &told)?);
        meter::say(&format!("round {round}: ours {:?}", own.last()));
        least.push(least_of(&settings, &told)?);
        meter::say(&format!("round {round}: floor {:?}", least.last()));
        for (peer, taken) in [&victoria, &prometheus].into_iter().zip(&mut others) {
            if let Some(program) = &peer.program {
                taken.push(theirs(peer, program, &settings, &told)?);
                meter::say(&format!("round {round}: {} {:?}", peer.name, taken.last()));
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let memory = settings.series_nodes.iter();
    let memory = memory.map(|nodes| memory::of(*nodes, seed, victoria.program.as_deref(), &runtime));
    report(&own, &others, &least, floor, &memory.collect::<Result<Vec<_>>>()?);
    Ok(())
}

fn ours(settings: &Settings, told: &Arc<Vec<Node>>) -> Result<Taken> {
    let folder = TempDir::new()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut aggregator = Ours::start(folder.path())?;
    let pid = i32::try_from(aggregator.program.pid())?;
    let begin = SystemClock.wall().floor_to(HOUR_SECONDS).plus_seconds(-2 * HOUR_SECONDS);
    let before = meter::cpu_millis(pid)?;
    runtime.block_on(send(&aggregator.entrance, told, begin, None))?;
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
    ensure!(aggregator.program.stop()?.success(), "{}", aggregator.program.said());
    let bytes = disk::compacted(aggregator.data(), settings.samples(settings.seconds))?;

    // What the hour left to settle would be counted with what is live: a database of its own.
    let folder = TempDir::new()?;
    let aggregator = Ours::start(folder.path())?;
    let pid = i32::try_from(aggregator.program.pid())?;
    let now = Arc::new(live(settings));
    let begin = SystemClock.wall().plus_seconds(-i64::try_from(settings.live_seconds)?);
    let before = meter::cpu_millis(pid)?;
    runtime.block_on(send(&aggregator.entrance, &now, begin, Some(PACE)))?;
    let live = (meter::cpu_millis(pid)? - before) / 1e3 / (settings.samples(settings.live_seconds) / 1e6);
    Ok(Taken { backfill, live, bytes })
}

/// The same batches, taken in by what does no more than that.
fn least_of(settings: &Settings, told: &Arc<Vec<Node>>) -> Result<taking::Least> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let take = |told: &Arc<Vec<Node>>, begin, pace| {
        let folder = TempDir::new()?;
        let (server, entrance) = taking::start(folder.path())?;
        let pid = i32::try_from(server.pid())?;
        let before = meter::cpu_millis(pid)?;
        runtime.block_on(send(&Arc::new(entrance), told, begin, pace))?;
        anyhow::Ok((meter::cpu_millis(pid)? - before) / 1e3)
    };
    let begin = SystemClock.wall().floor_to(HOUR_SECONDS).plus_seconds(-2 * HOUR_SECONDS);
    let taken = take(told, begin, None)?;
    let backfill = (taken + taking::pack(told)?) / (settings.samples(settings.seconds) / 1e6);
    let begin = SystemClock.wall().plus_seconds(-i64::try_from(settings.live_seconds)?);
    let live = take(&Arc::new(live(settings)), begin, Some(PACE))?;
    Ok(taking::Least { backfill, live: live / (settings.samples(settings.live_seconds) / 1e6) })
}

/// What every node tells while it is live.
fn live(settings: &Settings) -> Vec<Node> {
    (0..settings.nodes)
        .map(|number| workload::node(settings.seed + 1, number.into(), settings.live_seconds, settings.noise))
        .collect()
}

async fn send(entrance: &Arc<Entrance>, told: &Arc<Vec<Node>>, begin: UnixNanos, pace: Option<Duration>) -> Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..u32::try_from(told.len())? {
        let (entrance, told) = (Arc::clone(entrance), Arc::clone(told));
        tasks.spawn(async move {
            let node = &told[number as usize];
            let mut session = entrance.connect(number, node).await?;
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
    Ok(Taken { backfill, live, bytes })
}

fn feed(peer: &Peer, told: &Arc<Vec<Node>>, begin: i64, rows: usize, pace: Option<Duration>) -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0u32..)
            .zip(told.iter())
            .map(|(number, node)| scope.spawn(move || peer.send(number, node, begin, rows, pace).map(drop)))
            .collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(sent) => sent,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// The middle of what was measured in each round; none where nothing was.
fn median<T>(all: &[T], of: fn(&T) -> f64) -> Option<f64> {
    let mut values: Vec<f64> = all.iter().map(of).collect();
    (!values.is_empty()).then(|| meter::median(&mut values))
}

fn report(
    own: &[Taken],
    [victoria, prometheus]: &[Vec<Taken>; 2],
    least: &[taking::Least],
    floor: f64,
    memory: &[memory::Resident],
) {
    meter::say(
        "| goal | what | at most | ours | VictoriaMetrics | ratio, at most | Prometheus | floor | ratio, at most | |",
    );
    meter::say("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let line = |goal: &Goal, of: fn(&Taken) -> f64, floor: Option<f64>| {
        if let Some(ours) = median(own, of) {
            goal.say(ours, median(victoria, of), median(prometheus, of), floor);
        }
    };
    let goal = |id, what: &str, most, to_peer, to_floor| Goal { id, what: what.to_owned(), most, to_peer, to_floor };
    let nothing = f64::INFINITY;
    line(&goal("PERF-S1", "bytes a sample, whole folder", 1.60, 0.78, 1.06), |taken| taken.bytes, Some(floor));
    line(
        &goal("PERF-I1", "live: CPU s per M samples", 0.40, 0.17, 1.3),
        |taken| taken.live,
        median(least, |least| least.live),
    );
    let backfill = goal("PERF-I2", "backfill, settled and sealed: CPU s per M samples", 0.13, 0.35, 1.2);
    line(&backfill, |taken| taken.backfill, median(least, |least| least.backfill));
    for memory::Resident { series, ours, victoria } in memory {
        let what = format!("RSS per series of {series}, bytes");
        goal("PERF-M1", &what, 1_000.0, 0.28, nothing).say(*ours, *victoria, None, None);
    }
}

/// What is at most allowed: by itself, beside VictoriaMetrics and beside the floor.
struct Goal {
    id: &'static str,
    what: String,
    most: f64,
    to_peer: f64,
    to_floor: f64,
}

impl Goal {
    /// Its line of the table; no ratio decides where there is nothing beside.
    fn say(&self, ours: f64, victoria: Option<f64>, prometheus: Option<f64>, floor: Option<f64>) {
        let Self { id, what, most, to_peer, to_floor } = self;
        let within = |other: Option<f64>, ratio: &f64| other.is_none_or(|other| ours <= ratio * other);
        let met = ours <= *most && within(victoria, to_peer) && within(floor, to_floor);
        let shown = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"));
        let beside = |other: Option<f64>, ratio: &f64| {
            other.map_or_else(|| "–".to_owned(), |other| format!("{:.3} (≤ {ratio})", ours / other))
        };
        meter::say(&format!(
            "| {id} | {what} | {most} | {ours:.3} | {} | {} | {} | {} | {} | {} |",
            shown(victoria),
            beside(victoria, to_peer),
            shown(prometheus),
            shown(floor),
            beside(floor, to_floor),
            if met { "met" } else { "missed" }
        ));
    }
}
