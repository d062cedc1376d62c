//! An outage of an 8-GPU node on a simulated clock (PROC-P5): 183 series at 1 Hz in batches of five rows, and nobody who
//! takes them. A day fits into 256 MiB; of two days, what does not fit is lost from the oldest on and counted exactly. The
//! short form is three hours and as much less space; `OUTAGE_HOURS=24` is the day.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions that tests call may fail the test")]
#![allow(clippy::print_stdout, reason = "prints its figures")]

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use joulebook_agent::clock::{Clock as _, SystemClock};
use joulebook_agent::spool::{Baseline, Item, LocalState, Spool, SpoolConfig, SpoolError, SpoolHandle};
use joulebook_tests::chaos::{Random, folder_in_memory, setting};
use joulebook_units::{
    Batch, BootId, BootNanos, Column, Component, LossReason, Method, Milliwatts, Point, Source, Subject, UnixNanos,
};

/// Values of an 8-GPU node in a second.
const SERIES: u32 = 183;
const ROWS: u64 = 5;
/// Space for a day.
const DAY_BYTES: u64 = 256 << 20;
const SECOND: u64 = 1_000_000_000;

/// What the node measures: energy of sources whose power wanders, as µJ since its stream began.
struct Node {
    random: Random,
    values: Vec<u64>,
    row: u64,
}

impl Node {
    fn new() -> Self {
        Self { random: Random::new(8), values: vec![0; SERIES as usize], row: 0 }
    }

    fn at(row: u64) -> BootNanos {
        BootNanos((1000 + row) * SECOND)
    }

    fn batch(&mut self) -> (Batch, LocalState) {
        let first = self.row;
        let mut columns = Vec::new();
        for (series, value) in (1..).zip(&mut self.values) {
            let previous = (first > 0).then(|| Point { at: Self::at(first - 1), value: *value });
            let points = (first..first + ROWS).map(|row| {
                // 200 to 300 W, as a meter of millijoules shows them.
                *value += (200_000 + self.random.below(100_000)) * 1_000;
                Point { at: Self::at(row), value: *value }
            });
            columns.push(Column { series, previous, points: points.collect() });
        }
        self.row += ROWS;
        let (boot, wall) = (BootId([8; 16]), UnixNanos(1_790_000_000 * UnixNanos::PER_SECOND));
        let at = Self::at(self.row - 1);
        let baselines = (1..).zip(&self.values).map(|(series, value)| Baseline {
            series,
            raw: value / 1_000,
            value: *value,
            at,
            epoch: 0,
        });
        let local = LocalState { boot, at, wall, baselines: baselines.collect() };
        (Batch { boot, wall, rows: (first..self.row).map(Self::at).collect(), columns, gaps: Vec::new() }, local)
    }
}

fn definitions() -> Vec<(u32, Subject)> {
    let source = |series: u32| Source {
        id: format!("nvml/GPU-{series}"),
        component: Component::Accelerator,
        socket: None,
        device: Some(format!("GPU-{series}")),
        collector: "nvml".to_owned(),
        method: Method::Counter,
        unit_nanojoules: Some(1_000_000),
        ceiling: Milliwatts(1_000_000),
        uncertainty_permille: 50,
        contained_in: None,
        scope: None,
        basis: "generated".to_owned(),
    };
    (1..=SERIES).map(|series| (series, Subject::Energy(source(series)))).collect()
}

/// Bytes of a folder's files: as they are long, and as they take space.
fn usage(folder: &Path) -> (u64, u64) {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    files.fold((0, 0), |sum, file| (sum.0 + file.len(), sum.1 + file.blocks() * 512))
}

async fn run(spool: &SpoolHandle, node: &mut Node, seconds: u64) {
    while node.row < seconds {
        let (batch, local) = node.batch();
        spool.append(batch, local, definitions()).await.unwrap();
    }
}

/// Reads and acknowledges everything; gives records, values lost by declaration, and the last value of the first series.
async fn drain(spool: &SpoolHandle) -> (u64, u64, u64) {
    let (stream, highest) = (spool.stream(), spool.counters().highest);
    let (mut at, mut records, mut lost, mut last) = (0, 0, 0, 0);
    while at < highest {
        match spool.next_after(stream, at).await.unwrap() {
            Item::Record { sequence, payload, .. } => {
                let batch = joulebook_proto::convert::decode_batch(&payload).unwrap();
                (at, records) = (sequence, records + 1);
                last = batch.columns[0].points.last().unwrap().value;
            }
            Item::Gap(gap) => {
                assert_eq!((gap.from, gap.reason), (at + 1, LossReason::SpoolFull));
                (at, lost) = (gap.to, lost + gap.samples);
            }
            Item::None => break,
        }
        spool.acked(stream, at).await.unwrap();
    }
    (records, lost, last)
}

#[tokio::test]
async fn a_day_fits_and_of_two_days_the_oldest_is_lost_and_counted() {
    let hours = setting("OUTAGE_HOURS", 3).unwrap();
    let cap = DAY_BYTES * hours / 24;
    let folder = folder_in_memory().unwrap();
    let config = SpoolConfig { max_bytes: cap, min_free_bytes: 0, ..SpoolConfig::new(folder.path().join("spool")) };
    let mut node = Node::new();
    let (spool, _) = Spool::open(&config).unwrap();
    let begin = SystemClock.boot();
    run(&spool, &mut node, hours * 3600).await;
    let (made, one) = (SystemClock.boot().since(begin), usage(&config.dir));
    println!(
        "{hours} h: {} records, {} bytes long, {} bytes of disk, made in {made:.1?}",
        node.row / ROWS,
        one.0,
        one.1
    );
    assert_eq!(spool.counters().lost_records, 0, "a day fits");
    assert!(one.0 <= cap && one.1 <= cap);

    // Twice as long: the agent is killed in between, and its count goes on.
    run(&spool, &mut node, hours * 3600 * 3 / 2).await;
    let before = spool.counters();
    drop(spool);
    let begin = SystemClock.boot();
    let (spool, recovery) = loop {
        // The lock goes with the thread of the spool.
        match Spool::open(&config) {
            Ok(opened) => break opened,
            Err(SpoolError::Locked { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    let opened = SystemClock.boot().since(begin);
    assert_eq!(recovery.highest_sequence, node.row / ROWS);
    assert_eq!(spool.counters().lost_records, before.lost_records);
    run(&spool, &mut node, hours * 3600 * 2).await;
    let two = usage(&config.dir);
    assert!(two.0 <= cap && two.1 <= cap, "{two:?}");

    let counted = spool.counters();
    let begin = SystemClock.boot();
    let (records, lost, last) = drain(&spool).await;
    let drained = SystemClock.boot().since(begin);
    println!(
        "{} h: {} bytes long, {} bytes of disk, {} records lost, opened in {opened:.1?}, {records} read in {drained:.1?}",
        hours * 2,
        two.0,
        two.1,
        counted.lost_records
    );
    let made = node.row / ROWS;
    assert_eq!(records + counted.lost_records, made, "the exact difference");
    assert_eq!(lost, counted.lost_records * ROWS * u64::from(SERIES));
    assert_eq!(counted.lost_samples, lost);
    assert_eq!(last, node.values[0]);
    assert_eq!(spool.counters().waiting, 0);
}
