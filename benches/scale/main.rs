//! How does cost grow? Log-log slopes over points of each kind; the alarm is on the slope, not on the time.
//!
//! `make bench-scale`; the first line of the output says what was run, the last ones are the slopes.

mod law;
mod tables;

use crate::law::Law;
use anyhow::{Context, Result, ensure};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_aggregator::store::rocks::RocksStore;
use joulebook_benches::cluster::{CONFIGURATION, Cluster};
use joulebook_benches::ours::Ours;
use joulebook_benches::workload::{self, Node, SERIES};
use joulebook_benches::{disk, meter, setting};
use joulebook_proto::query::GetSciRequest;
use joulebook_proto::query::query_service_client::QueryServiceClient;
use joulebook_units::UnixNanos;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const HOUR_SECONDS: i64 = 3600;
/// Slots of an hour.
const HOUR: u64 = 12;
/// Hours of the windows that are asked about, as far as there is that much.
const WINDOWS: [u64; 5] = [1, 6, 24, 168, 720];
/// Sessions that are begun at once: a node whose handshake had to wait for more would be cut off.
const BEGINNING: usize = 32;
/// Different nodes; each is told by many streams.
const DIFFERENT: u32 = 16;
/// Nodes that are told of for longer and longer.
const LONG_NODES: u32 = 4;
const MAX_ANSWER_BYTES: usize = 256 << 20;
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
}

fn main() -> Result<()> {
    let streams: String = setting("BENCH_STREAMS", "10,100,1000".to_owned())?;
    let streams =
        streams.split(',').map(|streams| streams.trim().parse().context("BENCH_STREAMS: numbers, with commas"));
    let settings = Settings {
        nodes: setting("BENCH_NODES", 32)?,
        days: setting("BENCH_DAYS", 30)?,
        seconds: setting("BENCH_SECONDS", 60)?,
        streams: streams.collect::<Result<_>>()?,
        asks: setting("BENCH_ASKS", 25)?,
        seed: setting("BENCH_SEED", 1)?,
    };
    ensure!(settings.asks > 0 && settings.days > 0, "BENCH_ASKS, BENCH_DAYS: at least 1");
    ensure!((1..=3_600).contains(&settings.seconds), "BENCH_SECONDS: 1 to 3600");
    meter::say(&format!(
        "bench: {} nodes, {} days of slots; {:?} streams of {} s; seed {}",
        settings.nodes, settings.days, settings.streams, settings.seconds, settings.seed
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
            let mut times = Vec::new();
            for _ in 0..settings.asks {
                let begin = SystemClock.boot();
                let found = cluster.energy(&mut client, slots.clone()).await?;
                times.push(meter::seconds_since(begin) * 1e3);
                ensure!(found == cluster.truth(slots.clone()), "{hours} h: not what is true");
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
    for streams in &settings.streams {
        let told = (0..DIFFERENT).map(|number| workload::node(settings.seed, number.into(), settings.seconds, 1.0));
        let told: Arc<Vec<Node>> = Arc::new(told.collect());
        let folder = TempDir::new()?;
        let mut ours = Arc::new(Ours::start(folder.path())?);
        let pid = i32::try_from(ours.program.pid())?;
        let (cpu, empty) = (meter::cpu_millis(pid)?, meter::memory(pid)?);
        let begin = SystemClock.wall().plus_seconds(-i64::try_from(settings.seconds)?);
        runtime.block_on(send(&ours, &told, *streams, begin))?;
        let samples = f64::from(*streams) * (SERIES * settings.seconds) as f64;
        ingest.point(f64::from(*streams), (meter::cpu_millis(pid)? - cpu) / 1e3 / (samples / 1e6));
        let above = meter::memory(pid)?.resident_kib.saturating_sub(empty.resident_kib).max(1);
        memory.point(f64::from(*streams) * SERIES as f64, above as f64 / 1024.0);
        let ours = Arc::get_mut(&mut ours).context("still in use")?;
        ensure!(ours.program.stop()?.success(), "{}", ours.program.said());
    }
    Ok(vec![ingest, memory])
}

/// The same nodes for longer and longer.
fn time(settings: &Settings, runtime: &Runtime) -> Result<Vec<Law>> {
    let mut bytes = Law::new("data folder, B a sample", "seconds", 0.0, 0.1);
    let mut recovery =
        Law::new("ready after a kill, ms", "bytes of the data folder", 0.0, 0.2).at_most(RECOVERY_MILLIS);
    let mut amplification =
        Law::new("written to table files, B a byte taken in", "seconds", 0.0, 0.2).at_most(WRITE_AMPLIFICATION);
    for seconds in [900, 1_800, 3_600] {
        let told = (0..LONG_NODES).map(|number| workload::node(settings.seed, number.into(), seconds, 1.0));
        let told: Arc<Vec<Node>> = Arc::new(told.collect());
        let folder = TempDir::new()?;
        let mut ours = Arc::new(Ours::start(folder.path())?);
        let begin = SystemClock.wall().floor_to(HOUR_SECONDS).plus_seconds(-2 * HOUR_SECONDS);
        runtime.block_on(send(&ours, &told, LONG_NODES, begin))?;
        let mine = Arc::get_mut(&mut ours).context("still in use")?;
        mine.until_sealed(told.len())?;
        let weight = disk::size(mine.data())?;
        let mut times = Vec::new();
        for _ in 0..3 {
            times.push(mine.recover()?.as_secs_f64() * 1e3);
        }
        recovery.point(weight as f64, meter::median(&mut times));
        ensure!(mine.program.stop()?.success(), "{}", mine.program.said());
        let samples = f64::from(LONG_NODES) * (SERIES * seconds) as f64;
        let written = tables::written(mine.data())?;
        meter::say(&format!("{seconds} s: {written:?}, {:.3} B a sample in memory", written.taken as f64 / samples));
        amplification.point(seconds as f64, written.amplification());
        bytes.point(seconds as f64, disk::compacted(mine.data(), samples)?);
    }
    Ok(vec![bytes, recovery, amplification])
}

async fn send(ours: &Arc<Ours>, told: &Arc<Vec<Node>>, streams: u32, begin: UnixNanos) -> Result<()> {
    let (mut tasks, beginning) = (JoinSet::new(), Arc::new(Semaphore::new(BEGINNING)));
    for number in 0..streams {
        let (ours, told, beginning) = (Arc::clone(ours), Arc::clone(told), Arc::clone(&beginning));
        tasks.spawn(async move {
            let node = &told[number as usize % told.len()];
            let permit = beginning.acquire().await?;
            let session = ours.connect(number, node).await?;
            drop(permit);
            session.send(node, begin).await
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}
