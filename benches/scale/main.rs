//! How does cost grow? Log-log slopes over points of each kind; the alarm is on the slope, not on the time.
//!
//! `make bench-scale`; the first line of the output says what was run, the last ones are the slopes.

mod fill;
mod law;
mod tables;

use crate::law::Law;
use anyhow::{Context, Result, ensure};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_aggregator::store::Book;
use joulebook_aggregator::store::rocks::RocksStore;
use joulebook_benches::cluster::{CONFIGURATION, Cluster};
use joulebook_benches::ours::Ours;
use joulebook_benches::workload::{self, Node, SERIES};
use joulebook_benches::{allow_connections, disk, fleet, meter, setting, sizes};
use joulebook_proto::query::GetSciRequest;
use joulebook_proto::query::query_service_client::QueryServiceClient;
use joulebook_units::UnixNanos;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const HOUR_SECONDS: i64 = 3600;
/// Slots of an hour.
const HOUR: u64 = 12;
/// Hours of the windows that are asked about, as far as there is that much.
const WINDOWS: [u64; 5] = [1, 6, 24, 168, 720];
/// Different nodes; each is told by many streams.
const DIFFERENT: u32 = 16;
const MAX_ANSWER_BYTES: usize = 256 << 20;
/// Hours that may be told of: what is older than a week is refused, and the last one was over an hour ago.
const MOST_HOURS: u32 = 166;
/// Streams from which on memory is shared out among their series: below it is mostly that of an empty aggregator.
const MANY_STREAMS: u32 = 1_000;
/// Resident bytes that a series may take then.
const SERIES_BYTES: f64 = 1_100.0;
/// Within what an aggregator that was killed listens again.
const RECOVERY_MILLIS: f64 = 2_000.0;
/// Bytes that flushes and compactions may write for each byte that is taken in.
const WRITE_AMPLIFICATION: f64 = 3.0;

/// What is run, from the environment.
struct Settings {
    nodes: u32,
    days: u64,
    seconds: usize,
    streams: Vec<u32>,
    asks: usize,
    seed: u64,
    /// Hours that are told of for longer and longer, and of how many nodes.
    hours: Vec<u32>,
    long_nodes: u32,
    /// Nodes of a full data folder.
    full_nodes: u32,
}

fn main() -> Result<()> {
    let settings = Settings {
        nodes: setting("BENCH_NODES", 32)?,
        days: setting("BENCH_DAYS", 30)?,
        seconds: setting("BENCH_SECONDS", 60)?,
        streams: sizes("BENCH_STREAMS", "10,100,1000,10000")?,
        asks: setting("BENCH_ASKS", 25)?,
        seed: setting("BENCH_SEED", 1)?,
        hours: sizes("BENCH_HOURS", "1,24,166")?,
        long_nodes: setting("BENCH_LONG_NODES", 1)?,
        full_nodes: setting("BENCH_FULL_NODES", 16)?,
    };
    ensure!(settings.asks > 0 && settings.days > 0, "BENCH_ASKS, BENCH_DAYS: at least 1");
    ensure!(
        settings.long_nodes > 0 && settings.hours.iter().all(|hours| *hours <= MOST_HOURS),
        "BENCH_LONG_NODES: at least 1; BENCH_HOURS: at most {MOST_HOURS}"
    );
    ensure!((1..=3_600).contains(&settings.seconds), "BENCH_SECONDS: 1 to 3600");
    meter::say(&format!(
        "bench: {} nodes, {} days of slots; {:?} streams of {} s; {} nodes of {:?} hours, {} of {MOST_HOURS}; seed {}",
        settings.nodes,
        settings.days,
        settings.streams,
        settings.seconds,
        settings.long_nodes,
        settings.hours,
        settings.full_nodes,
        settings.seed
    ));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut laws = windows(&settings, &runtime)?;
    laws.extend(streams_of(&settings, &runtime)?);
    laws.extend(time(&settings, &runtime)?);
    meter::say("| cost | grows with | points | expected exponent | measured | alarm above | or more than | |");
    meter::say("| --- | --- | --- | --- | --- | --- | --- | --- |");
    laws.iter().for_each(|law| meter::say(&law.line()));
    Ok(())
}

/// Questions over longer and longer windows.
fn windows(settings: &Settings, runtime: &Runtime) -> Result<Vec<Law>> {
    let folder = TempDir::new()?;
    let end = SystemClock.wall().floor_to(HOUR_SECONDS).plus_seconds(-3 * HOUR_SECONDS);
    let cluster = Cluster::new(settings.nodes, settings.days * 24 * HOUR, end);
    drop(cluster.write(Arc::new(RocksStore::open(&Ours::data_below(folder.path()))?))?);
    let mut ours = Ours::configured(folder.path(), CONFIGURATION)?;
    let mut energy = Law::new("energy by model, ms", "hours of the window", 0.0, 0.1);
    let mut sci = Law::new("SCI by version, ms", "hours of the window, slots of 5 min", 1.0, 1.0);
    runtime.block_on(async {
        let mut client = QueryServiceClient::new(ours.operator().await?).max_decoding_message_size(MAX_ANSWER_BYTES);
        // What a question leaves for the next is there before the first time counts.
        cluster.energy(&mut client, 0..cluster.slots).await?;
        for hours in WINDOWS.into_iter().filter(|hours| hours * HOUR <= cluster.slots) {
            let slots = cluster.slots - hours * HOUR..cluster.slots;
            // Before the first question: what computes between them takes the machine's caches from both.
            let truth = cluster.truth(slots.clone());
            let mut times = Vec::new();
            for _ in 0..settings.asks {
                let begin = SystemClock.boot();
                let found = cluster.energy(&mut client, slots.clone()).await?;
                times.push(meter::seconds_since(begin) * 1e3);
                ensure!(found == truth, "{hours} h: not what is true");
            }
            energy.point(hours as f64, meter::median(&mut times));
            let mut times = Vec::new();
            for _ in 0..settings.asks.min(3) {
                let request = GetSciRequest { window: Some(cluster.window(slots.clone())), ..GetSciRequest::default() };
                let begin = SystemClock.boot();
                client.get_sci(request).await?;
                times.push(meter::seconds_since(begin) * 1e3);
            }
            sci.point(hours as f64, meter::median(&mut times));
        }
        Ok::<_, anyhow::Error>(())
    })?;
    ensure!(ours.program.stop()?.success(), "{}", ours.program.said());
    Ok(vec![energy, sci])
}

/// More and more nodes at once.
fn streams_of(settings: &Settings, runtime: &Runtime) -> Result<Vec<Law>> {
    let mut ingest = Law::new("taking in, CPU s per M samples", "streams", 0.0, 0.08);
    let mut memory = Law::new("resident memory above an empty one's, MiB", "series", 1.0, 1.0);
    let mut each =
        Law::new("resident memory from 1,000 streams on, B a series", "series", 0.0, 0.05).at_most(SERIES_BYTES);
    for streams in &settings.streams {
        allow_connections(*streams)?;
        let told = (0..DIFFERENT).map(|number| workload::node(settings.seed, number.into(), settings.seconds, 1.0));
        let told: Arc<Vec<Node>> = Arc::new(told.collect());
        let folder = TempDir::new()?;
        let mut ours = Arc::new(Ours::start(folder.path())?);
        let pid = i32::try_from(ours.program.pid())?;
        let (cpu, empty) = (meter::cpu_millis(pid)?, meter::memory(pid)?);
        let begin = SystemClock.wall().plus_seconds(-i64::try_from(settings.seconds)?);
        let sessions = runtime.block_on(fleet::ours(&ours, &told, *streams, begin))?;
        let samples = f64::from(*streams) * (SERIES * settings.seconds) as f64;
        ingest.point(f64::from(*streams), (meter::cpu_millis(pid)? - cpu) / 1e3 / (samples / 1e6));
        let resident = meter::memory(pid)?.resident_kib;
        drop(sessions);
        let series = f64::from(*streams) * SERIES as f64;
        memory.point(series, resident.saturating_sub(empty.resident_kib).max(1) as f64 / 1024.0);
        if *streams >= MANY_STREAMS {
            each.point(series, resident as f64 * 1024.0 / series);
        }
        let ours = Arc::get_mut(&mut ours).context("still in use")?;
        ensure!(ours.program.stop()?.success(), "{}", ours.program.said());
    }
    Ok(vec![ingest, memory, each])
}

/// The same nodes for longer and longer, until every hour is sealed.
fn time(settings: &Settings, runtime: &Runtime) -> Result<Vec<Law>> {
    let mut bytes = Law::new("data folder, B a sample", "hours", 0.0, 0.1);
    let mut recovery =
        Law::new("ready after a kill, ms", "bytes of the data folder", 0.0, 0.2).at_most(RECOVERY_MILLIS);
    let mut amplification =
        Law::new("written to table files, B a byte taken in", "hours", 0.0, 0.2).at_most(WRITE_AMPLIFICATION);
    for &hours in &settings.hours {
        let seconds = hours as usize * 3_600;
        // Values of many days take much memory: all nodes tell the same.
        let told = Arc::new(vec![workload::node(settings.seed, 0, seconds, 1.0)]);
        let folder = TempDir::new()?;
        let mut ours = Arc::new(Ours::start(folder.path())?);
        let begin = begin(hours);
        drop(runtime.block_on(fleet::ours(&ours, &told, settings.long_nodes, begin))?);
        let mine = Arc::get_mut(&mut ours).context("still in use")?;
        mine.until_sealed((settings.long_nodes * hours) as usize)?;
        kill(mine, &mut recovery)?;
        ensure!(mine.program.stop()?.success(), "{}", mine.program.said());
        // An hour that was sealed while some of it was still to come is sealed once more, as after the next minute.
        Book::open(Arc::new(RocksStore::open(mine.data())?))?.seal(SystemClock.wall(), &|| false)?;
        let samples = f64::from(settings.long_nodes) * (SERIES * seconds) as f64;
        let written = tables::written(mine.data())?;
        meter::say(&format!("{hours} h: {written:?}, {:.3} B a sample in memory", written.taken as f64 / samples));
        amplification.point(f64::from(hours), written.amplification());
        bytes.point(f64::from(hours), disk::compacted(mine.data(), samples)?);
    }
    if settings.full_nodes > 0 {
        let node = workload::node(settings.seed, 0, MOST_HOURS as usize * 3_600, 1.0);
        let folder = TempDir::new()?;
        let since = SystemClock.boot();
        let (data, now) = (Ours::data_below(folder.path()), SystemClock.wall());
        fill::rows(&data, &node, settings.full_nodes, begin(MOST_HOURS), now)?;
        meter::say(&format!(
            "{} nodes of {MOST_HOURS} h written in {:.0} s",
            settings.full_nodes,
            meter::seconds_since(since)
        ));
        let mut ours = Ours::start(folder.path())?;
        kill(&mut ours, &mut recovery)?;
        ensure!(ours.program.stop()?.success(), "{}", ours.program.said());
    }
    Ok(vec![bytes, recovery, amplification])
}

/// When so many hours began of which the last one is over for an hour.
fn begin(hours: u32) -> UnixNanos {
    SystemClock.wall().floor_to(HOUR_SECONDS).plus_seconds(-i64::from(hours + 1) * HOUR_SECONDS)
}

/// Kills it some times: how long it takes until it is ready again.
fn kill(ours: &mut Ours, recovery: &mut Law) -> Result<()> {
    let weight = disk::size(ours.data())?;
    let mut times = Vec::new();
    for _ in 0..3 {
        times.push(ours.recover()?.as_secs_f64() * 1e3);
    }
    recovery.point(weight as f64, meter::median(&mut times));
    Ok(())
}
