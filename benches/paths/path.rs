//! The paths, and what they work on: ten minutes of one node of the workload.

use anyhow::{Context, Result, ensure};
use joulebook_aggregator::ingest::{Counters, Intake, Opening, Reply, Request};
use joulebook_aggregator::store::Book;
use joulebook_aggregator::store::block::row::{RowRecord, StoredColumn};
use joulebook_aggregator::store::block::{Reader, Writer, chunk, numbers};
use joulebook_aggregator::store::memory::MemoryStore;
use joulebook_benches::ours::{ROWS, batch, subject};
use joulebook_benches::workload::{self, Kind, Node};
use joulebook_proto::convert::{decode_batch, encode_batch};
use joulebook_sci::settle::{NodeSeries, Run, settle};
use joulebook_sci::tally::{Places, Tally};
use joulebook_sci::{Cell, IdlePolicy, Level, NodeSlot, Totals};
use joulebook_units::{Batch, BootId, BootNanos, Hardware, Inventory, Placement, StreamId, UnixNanos, Window};
use std::sync::Arc;

const SECONDS: usize = 600;
/// A whole hour.
const BEGIN: UnixNanos = UnixNanos(1_790_000_400 * UnixNanos::PER_SECOND);
/// Hours whose sums are subtracted.
const SUMS: usize = 720;
const KEY: &[u8] = b"a key of a row";
const BOOT: BootId = BootId([7; 16]);
const STREAM: StreamId = StreamId([7; 16]);
const SESSION: u64 = 1;

/// What every path works on.
pub struct Work {
    node: Node,
    batches: Vec<Batch>,
    payloads: Vec<Vec<u8>>,
    records: Vec<chunk::Numbered>,
    rows: Vec<Vec<u8>>,
    chunk: Vec<u8>,
    columns: Vec<(Kind, Vec<u8>)>,
    series: NodeSeries,
    cell: Cell,
    places: Places,
    tally: Tally,
}

/// A path.
pub struct Path {
    /// Its name.
    pub name: &'static str,
    /// What it is counted in.
    pub unit: &'static str,
    /// How many of them one run is.
    pub of: fn(&Work) -> usize,
    /// Goes it once; how much was made.
    pub run: fn(&Work) -> Result<usize>,
}

/// Every one.
pub const ALL: &[Path] = &[
    Path { name: "batch to the wire", unit: "samples", of: samples, run: to_wire },
    Path { name: "batch from the wire", unit: "samples", of: samples, run: from_wire },
    Path { name: "record taken in", unit: "samples", of: samples, run: taken },
    Path { name: "record to a row", unit: "samples", of: samples, run: to_row },
    Path { name: "record from a row", unit: "samples", of: samples, run: from_row },
    Path { name: "rows to a chunk", unit: "samples", of: samples, run: to_chunk },
    Path { name: "rows from a chunk", unit: "samples", of: samples, run: from_chunk },
    Path { name: "columns from a chunk", unit: "samples", of: samples, run: columns_of_chunk },
    Path { name: "a minute's columns from a chunk", unit: "samples", of: samples, run: minute_of_chunk },
    Path { name: "energies of GPUs, written", unit: "numbers", of: of_kind::<0>, run: written::<0> },
    Path { name: "energies of GPUs, read", unit: "numbers", of: of_kind::<0>, run: read::<0> },
    Path { name: "RAPL registers, written", unit: "numbers", of: of_kind::<1>, run: written::<1> },
    Path { name: "RAPL registers, read", unit: "numbers", of: of_kind::<1>, run: read::<1> },
    Path { name: "CPU times, written", unit: "numbers", of: of_kind::<2>, run: written::<2> },
    Path { name: "CPU times, read", unit: "numbers", of: of_kind::<2>, run: read::<2> },
    Path { name: "counts of tokens, written", unit: "numbers", of: of_kind::<3>, run: written::<3> },
    Path { name: "counts of tokens, read", unit: "numbers", of: of_kind::<3>, run: read::<3> },
    Path { name: "minutes settled", unit: "samples", of: samples, run: settled },
    Path { name: "cells added up", unit: "cells", of: |_| SUMS, run: added },
    Path { name: "sums of hours subtracted", unit: "sums", of: |_| SUMS, run: subtracted },
];

/// Those columns that the paths of one kind of numbers are about.
const KINDS: [&[Kind]; 4] =
    [&[Kind::GpuEnergy], &[Kind::Package, Kind::Dram], &[Kind::CpuTime], &[Kind::OutputTokens, Kind::PromptTokens]];

impl Work {
    /// Of a seed.
    pub fn new(seed: u64) -> Result<Self> {
        let node = workload::node(seed, 0, SECONDS, 1.0);
        let starts = || (0..SECONDS).step_by(ROWS);
        let batches: Vec<Batch> = starts().map(|start| batch(&node, BOOT, 0, BEGIN, start)).collect();
        let payloads = batches.iter().map(|batch| Ok(encode_batch(batch)?.bytes.to_vec())).collect::<Result<_>>()?;
        let records: Vec<_> = (1u64..).zip(&batches).map(|(number, batch)| (number, record(batch))).collect();
        let rows = records.iter().map(|(_, record)| record.encode(KEY)).collect();
        let chunk = chunk::encode(KEY, BEGIN, &records).context("a chunk")?;
        let columns = node.series.iter().map(|(kind, _, values)| (*kind, column(*kind, values))).collect();
        let at = |millis: &u64| UnixNanos(BEGIN.0 + i64::try_from(*millis).unwrap_or(0) * 1_000_000);
        let runs = node.series.iter().map(|(kind, of, values)| Run {
            subject: Arc::new(subject(0, *kind, *of)),
            points: node.rows.iter().map(at).zip(values.iter().map(|value| value * kind.unit())).collect(),
        });
        let series = NodeSeries { threads: Some(128), runs: runs.collect(), ..NodeSeries::default() };
        let cell = settle(&series, minute(1)?);
        let mut places = Places::default();
        let slot = NodeSlot {
            node: "node".to_owned(),
            pool: "default".to_owned(),
            simulated: false,
            support: Vec::new(),
            cell: cell.clone(),
            embodied_g: 0.0,
        };
        let mut totals = totals();
        totals.add_energy(&[slot]);
        let tally = places.tally(&totals);
        Ok(Self { node, batches, payloads, records, rows, chunk, columns, series, cell, places, tally })
    }
}

fn totals() -> Totals {
    Totals::new(Level::Facility, IdlePolicy::ReservedCapacityTime)
}

fn minute(number: i64) -> Result<Window> {
    let start = BEGIN.plus_seconds(60 * number);
    Window::new(start, start.plus_seconds(60)).context("a minute")
}

/// A batch as it is stored.
fn record(batch: &Batch) -> RowRecord {
    let at = |boot: BootNanos| UnixNanos(BEGIN.0.saturating_add_unsigned(boot.0));
    let column = |column: &joulebook_units::Column| StoredColumn {
        series: column.series,
        previous: column.previous.map(|point| (at(point.at), point.value)),
        points: column.points.iter().map(|point| (at(point.at), point.value)).collect(),
    };
    RowRecord {
        rows: batch.rows.iter().copied().map(at).collect(),
        columns: batch.columns.iter().map(column).collect(),
    }
}

fn column(kind: Kind, values: &[u64]) -> Vec<u8> {
    let mut writer = Writer::default();
    let values: Vec<u64> = values.iter().map(|value| value * kind.unit()).collect();
    numbers::write(&mut writer, &values);
    writer.seal(KEY)
}

fn samples(work: &Work) -> usize {
    work.node.rows.len() * work.node.series.len()
}

fn to_wire(work: &Work) -> Result<usize> {
    work.batches.iter().try_fold(0, |sum, batch| Ok(sum + encode_batch(batch)?.bytes.len()))
}

fn from_wire(work: &Work) -> Result<usize> {
    work.payloads.iter().try_fold(0, |sum, bytes| Ok(sum + decode_batch(bytes)?.samples()))
}

/// Each record judged, encoded and committed alone, by a node that came a moment ago.
fn taken(work: &Work) -> Result<usize> {
    let book = Arc::new(Book::open(Arc::new(MemoryStore::new()))?);
    let mut intake = Intake::new(Arc::clone(&book), Arc::new(Counters::default()));
    let inventory = Inventory {
        node: "node".parse()?,
        agent_version: String::new(),
        sources: Vec::new(),
        hardware: Hardware::default(),
        placement: Placement::default(),
    };
    let opening = Opening {
        inventory,
        poller: None,
        epoch: 1,
        boot: BOOT,
        boot_time: BootNanos(0),
        wall: BEGIN,
        received: BEGIN,
        streams: vec![STREAM],
    };
    let series =
        (1u32..).zip(&work.node.series).map(|(number, (kind, of, _))| (number, subject(0, *kind, *of))).collect();
    intake.apply(BEGIN, vec![Request::Open(SESSION, Box::new(opening)), Request::Define(SESSION, STREAM, series)])?;
    for ((batch, payload), sequence) in work.batches.iter().zip(&work.payloads).zip(1u64..) {
        let (batch, payload, hash) = (Some(Box::new(batch.clone())), payload.clone(), [0; 16]);
        let record = Request::Record { session: SESSION, stream: STREAM, sequence, hash, payload, batch };
        let now = BEGIN.plus_seconds(i64::try_from(sequence)? * i64::try_from(ROWS)?);
        let reply = intake.apply(now, vec![record])?.pop();
        let whole = matches!(&reply, Some(Reply::Ack { rejects, record: true, .. }) if rejects.is_empty());
        ensure!(whole, "record {sequence}: {reply:?}");
    }
    Ok(work.batches.len())
}

fn to_row(work: &Work) -> Result<usize> {
    Ok(work.records.iter().map(|(_, record)| record.encode(KEY).len()).sum())
}

fn from_row(work: &Work) -> Result<usize> {
    let first = |index: usize| work.records[index].1.rows[0];
    (0..)
        .zip(&work.rows)
        .try_fold(0, |sum, (index, row)| Ok(sum + RowRecord::decode(KEY, first(index), row)?.columns.len()))
}

fn to_chunk(work: &Work) -> Result<usize> {
    Ok(chunk::encode(KEY, BEGIN, &work.records).context("a chunk")?.len())
}

fn from_chunk(work: &Work) -> Result<usize> {
    Ok(chunk::decode(KEY, BEGIN, 1, &work.chunk, &|_, _| true)?.len())
}

fn columns(work: &Work, window: Window) -> Result<usize> {
    let rows = window.start()..window.end();
    Ok(chunk::columns(KEY, BEGIN, 1, &work.chunk, &rows, window)?.series.iter().map(|(_, column)| column.len()).sum())
}

fn columns_of_chunk(work: &Work) -> Result<usize> {
    columns(work, Window::new(BEGIN, BEGIN.plus_seconds(3_600)).context("an hour")?)
}

fn minute_of_chunk(work: &Work) -> Result<usize> {
    columns(work, minute(5)?)
}

fn of_kind<const KIND: usize>(work: &Work) -> usize {
    work.node.rows.len() * work.columns.iter().filter(|(kind, _)| KINDS[KIND].contains(kind)).count()
}

fn written<const KIND: usize>(work: &Work) -> Result<usize> {
    let mine = work.node.series.iter().filter(|(kind, ..)| KINDS[KIND].contains(kind));
    Ok(mine.map(|(kind, _, values)| column(*kind, values).len()).sum())
}

fn read<const KIND: usize>(work: &Work) -> Result<usize> {
    let mine = work.columns.iter().filter(|(kind, _)| KINDS[KIND].contains(kind));
    mine.map(|(_, bytes)| Ok(numbers::read(&mut Reader::open(KEY, bytes)?, SECONDS)?.len())).sum()
}

fn settled(work: &Work) -> Result<usize> {
    let minutes = i64::try_from(SECONDS / 60)?;
    (0..minutes).try_fold(0, |sum, number| Ok(sum + settle(&work.series, minute(number)?).entries.len()))
}

fn added(work: &Work) -> Result<usize> {
    let mut sum = Cell::default();
    (0..SUMS).for_each(|_| sum.merge(&work.cell));
    Ok(sum.entries.len())
}

fn subtracted(work: &Work) -> Result<usize> {
    let mut sum = work.tally.clone();
    for _ in 0..SUMS {
        sum.plus(&work.tally);
        sum.minus(&work.tally);
    }
    Ok(work.places.totals(&sum, Level::Facility, IdlePolicy::ReservedCapacityTime.into()).nodes.len())
}
