//! What is allocated for a sample that is taken in from a stream that is under way, for one that is read back, and for an answer
//! about an hour of energy?
//!
//! `make bench-paths` runs it as well. Counts are the same however loaded a machine is. What RocksDB allocates is not counted:
//! it does not ask this program's allocator.

use allocation_counter::{AllocationInfo, measure};
use anyhow::{Context, Result, ensure};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_aggregator::clock::SystemClock as AggregatorClock;
use joulebook_aggregator::factor::{FactorConfig, Factors};
use joulebook_aggregator::ingest::{Counters, Intake, Opening, Reply, Request};
use joulebook_aggregator::query::Query;
use joulebook_aggregator::store::Book;
use joulebook_aggregator::store::rocks::RocksStore;
use joulebook_benches::cluster::{CONFIGURATION, Cluster, SLOT};
use joulebook_benches::ours::{ROWS, batch, subject};
use joulebook_benches::workload::{self, SERIES};
use joulebook_benches::{meter, setting};
use joulebook_proto::convert::{decode_batch, encode_batch};
use joulebook_proto::query::{EnergyBy, GetEnergyRequest};
use joulebook_units::{BootId, BootNanos, Hardware, Inventory, Placement, StreamId, Window};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::sync::watch;

/// Records that are taken in before any is looked at, and those that are.
const WARM: usize = 20;
const LOOKED_AT: usize = 100;
const BOOT: BootId = BootId([7; 16]);
const STREAM: StreamId = StreamId([7; 16]);
const SESSION: u64 = 1;
/// Slots of an hour, and hours of which there are cells.
const HOUR: u64 = 12;
const HOURS: u64 = 24;
const HOUR_SECONDS: i64 = 3_600;

fn main() -> Result<()> {
    let nodes: u32 = setting("BENCH_NODES", 32)?;
    meter::say("| what | for each | allocations | bytes |");
    meter::say("| --- | --- | --- | --- |");
    let samples = (LOOKED_AT * ROWS * SERIES) as f64;
    let rows = rows(setting("BENCH_SEED", 1)?)?;
    line("records from the wire", "sample", &rows.decoded, samples);
    line("records judged, encoded and committed", "sample", &rows.taken, samples);
    let all = ((WARM + LOOKED_AT) * ROWS * SERIES) as f64;
    line("sealed rows read back, record by record", "sample", &rows.runs, all);
    line("sealed rows read back, series by series", "sample", &rows.series, all);
    for (what, info) in ["the first energy by model over an hour", "the next one"].into_iter().zip(answers(nodes)?) {
        line(what, "answer", &info, 1.0);
    }
    Ok(())
}

fn line(what: &str, each: &str, info: &AllocationInfo, count: f64) {
    let (allocations, bytes) = (info.count_total as f64 / count, info.bytes_total as f64 / count);
    meter::say(&format!("| {what} | {each} | {allocations:.3} | {bytes:.1} |"));
}

/// Of rows of a stream that is under way.
#[derive(Default)]
struct Rows {
    decoded: AllocationInfo,
    taken: AllocationInfo,
    runs: AllocationInfo,
    series: AllocationInfo,
}

fn rows(seed: u64) -> Result<Rows> {
    let node = workload::node(seed, 0, (WARM + LOOKED_AT) * ROWS, 1.0);
    let folder = TempDir::new()?;
    let book = Arc::new(Book::open(Arc::new(RocksStore::open(&folder.path().join("data"))?))?);
    let mut intake = Intake::new(Arc::clone(&book), Arc::new(Counters::default()));
    let begin = SystemClock.wall().floor_to(HOUR_SECONDS).plus_seconds(-2 * HOUR_SECONDS);
    let inventory = Inventory {
        node: "node".parse()?,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        sources: Vec::new(),
        hardware: Hardware::default(),
        placement: Placement::default(),
    };
    let booted = BootNanos(1_000_000_000);
    let opening = Opening {
        inventory,
        poller: None,
        epoch: 1,
        boot: BOOT,
        boot_time: booted,
        wall: begin,
        received: begin,
        streams: vec![STREAM],
    };
    let series = (1u32..).zip(&node.series).map(|(number, (kind, of, _))| (number, subject(0, *kind, *of))).collect();
    intake.apply(begin, vec![Request::Open(SESSION, Box::new(opening)), Request::Define(SESSION, STREAM, series)])?;
    let mut rows = Rows::default();
    for record in 0..WARM + LOOKED_AT {
        let start = record * ROWS;
        let payload = encode_batch(&batch(&node, BOOT, booted.0, begin, start))?;
        let (hash, payload) = (payload.hash, payload.bytes.to_vec());
        let mut read = None;
        let reading = measure(|| read = Some(decode_batch(&payload)));
        let batch = Some(Box::new(read.context("read")??));
        let sequence = record as u64 + 1;
        let requests = vec![Request::Record { session: SESSION, stream: STREAM, sequence, hash, payload, batch }];
        let now = begin.plus_seconds(i64::try_from(start + ROWS)?);
        let mut replies = None;
        let taking = measure(|| replies = Some(intake.apply(now, requests)));
        let reply = replies.context("taken")??.pop();
        ensure!(
            matches!(&reply, Some(Reply::Ack { rejects, record: true, .. }) if rejects.is_empty()),
            "record {sequence}: {reply:?}"
        );
        if record >= WARM {
            rows.decoded += reading;
            rows.taken += taking;
        }
    }
    for (node, start, generation) in book.dirty(usize::MAX) {
        book.settle(node, &[], &[(start, generation)])?;
    }
    let sealed = book.seal(begin.plus_seconds(2 * HOUR_SECONDS), &|| false)?;
    ensure!(sealed.records == WARM + LOOKED_AT, "{sealed:?}");
    let hour = Window::new(begin, begin.plus_seconds(HOUR_SECONDS)).context("an hour")?;
    let mut runs = None;
    rows.runs = measure(|| runs = Some(book.runs(0, hour)));
    let of_runs = runs.context("read")??.iter().map(|run| run.points.len() - usize::from(run.continued)).sum::<usize>();
    let mut series = None;
    rows.series = measure(|| series = Some(book.series(0, hour)));
    let of_series = series.context("read")??.iter().map(|series| series.column.len()).sum::<usize>();
    let told = (WARM + LOOKED_AT) * ROWS * SERIES;
    ensure!((of_runs, of_series) == (told, told), "{of_runs} and {of_series} samples are read");
    Ok(rows)
}

/// Of questions about an hour, the first and a later one.
fn answers(nodes: u32) -> Result<[AllocationInfo; 2]> {
    let folder = TempDir::new()?;
    let end = SystemClock.wall().floor_to(SLOT).plus_seconds(-3 * HOUR_SECONDS);
    let cluster = Cluster::new(nodes, HOURS * HOUR, end);
    let book = cluster.write(Arc::new(RocksStore::open(&folder.path().join("data"))?))?;
    let config: FactorConfig = toml::from_str(CONFIGURATION)?;
    let (_kept, factors) = watch::channel(Arc::new(Factors::new(&config)?));
    let query = Query::new(book, factors, Arc::new(AggregatorClock));
    let slots = cluster.slots - HOUR..cluster.slots;
    let request = GetEnergyRequest {
        window: Some(cluster.window(slots)),
        by: EnergyBy::Model.into(),
        ..GetEnergyRequest::default()
    };
    let ask = || {
        let mut answer = None;
        let info = measure(|| answer = Some(query.energy(&request)));
        ensure!(!answer.context("asked")??.rows.is_empty(), "no energy");
        Ok(info)
    };
    let first = ask()?;
    // What the second one still finds for the first time is not counted with those after it.
    ask()?;
    Ok([first, ask()?])
}
