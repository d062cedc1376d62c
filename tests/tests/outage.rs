//! An outage of an 8-GPU node on a simulated clock (PROC-P5): 183 series at 1 Hz in batches of five rows, and nobody who
//! takes them. A day fits into 256 MiB; of two days, what does not fit is lost from the oldest on and counted exactly. When an
//! aggregator is there again, the day is drained within minutes and live data is not behind it. The short form is three
//! hours and as much less space; `OUTAGE_HOURS=24` is the day.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions that tests call may fail the test")]
#![allow(clippy::print_stdout, reason = "prints its figures")]

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_agent::spool::{Baseline, Item, LocalState, Spool, SpoolConfig, SpoolError, SpoolHandle};
use joulebook_agent::uplink::{Security, Uplink, UplinkConfig};
use joulebook_proto::query::query_service_client::QueryServiceClient;
use joulebook_proto::query::{EnergyBy, GetEnergyRequest, TimeWindow};
use joulebook_tests::chaos::server::Server;
use joulebook_tests::chaos::{Random, folder_in_memory, setting};
use joulebook_units::{
    Batch, BootId, BootNanos, Column, Component, Hardware, Inventory, LossReason, Method, Milliwatts, Placement, Point,
    Source, SourceState, Subject, UnixNanos, Window,
};
use tokio::sync::watch;

/// Values of an 8-GPU node in a second.
const SERIES: u32 = 183;
const ROWS: u64 = 5;
/// Space for a day.
const DAY_BYTES: u64 = 256 << 20;
const SECOND: u64 = 1_000_000_000;
const BOOT: BootId = BootId([8; 16]);

/// Longest time for a day's records, and for a record of now beside them.
const DRAINED_WITHIN: Duration = Duration::from_secs(15 * 60);
const MOST_BEHIND: Duration = Duration::from_secs(10);

/// What the node measures: energy of sources whose power wanders, as µJ since its stream began.
struct Node {
    random: Random,
    values: Vec<u64>,
    row: u64,
    /// When its first row is, by the node's clock since boot and by the world's.
    clock: (BootNanos, UnixNanos),
    /// Sum of the first row's values.
    first: u64,
}

impl Node {
    /// A node whose first row is at this instant of its boot clock, and of the world's.
    fn new(boot: BootNanos, wall: UnixNanos) -> Self {
        Self { random: Random::new(8), values: vec![0; SERIES as usize], row: 0, clock: (boot, wall), first: 0 }
    }

    fn at(&self, row: u64) -> BootNanos {
        BootNanos(self.clock.0.0 + row * SECOND)
    }

    fn batch(&mut self, rows: u64) -> (Batch, LocalState) {
        let (first, begin) = (self.row, self.clock.0.0);
        let at = |row: u64| BootNanos(begin + row * SECOND);
        let mut columns = Vec::new();
        for (series, value) in (1..).zip(&mut self.values) {
            let previous = (first > 0).then(|| Point { at: at(first - 1), value: *value });
            let points = (first..first + rows).map(|row| {
                // 200 to 300 W, as a meter of millijoules shows them.
                *value += (200_000 + self.random.below(100_000)) * 1_000;
                Point { at: at(row), value: *value }
            });
            columns.push(Column { series, previous, points: points.collect() });
        }
        if first == 0 {
            self.first = columns.iter().map(|column: &Column| column.points[0].value).sum();
        }
        self.row += rows;
        let rows: Vec<BootNanos> = (first..self.row).map(at).collect();
        let (boot, wall) = (BOOT, self.clock.1.plus_seconds(self.row as i64 - 1));
        let at = self.at(self.row - 1);
        let baselines = (1..).zip(&self.values).map(|(series, value)| Baseline {
            series,
            raw: value / 1_000,
            value: *value,
            at,
            epoch: 0,
        });
        let local = LocalState { boot, at, wall, baselines: baselines.collect() };
        (Batch { boot, wall, rows, columns, gaps: Vec::new() }, local)
    }
}

fn source(series: u32) -> Source {
    Source {
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
    }
}

fn definitions() -> Vec<(u32, Subject)> {
    (1..=SERIES).map(|series| (series, Subject::Energy(source(series).into()))).collect()
}

/// Bytes of a folder's files: as they are long, and as they take space.
fn usage(folder: &Path) -> (u64, u64) {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    files.fold((0, 0), |sum, file| (sum.0 + file.len(), sum.1 + file.blocks() * 512))
}

async fn run(spool: &SpoolHandle, node: &mut Node, seconds: u64) {
    while node.row < seconds {
        let (batch, local) = node.batch(ROWS);
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
    let mut node = Node::new(BootNanos(1000 * SECOND), UnixNanos(1_790_000_000 * UnixNanos::PER_SECOND));
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

/// The clock of a node that was started longer ago than this machine.
struct Older(u64);

impl Clock for Older {
    fn boot(&self) -> BootNanos {
        BootNanos(SystemClock.boot().0 + self.0)
    }

    fn wall(&self) -> UnixNanos {
        SystemClock.wall()
    }
}

/// Energy of every source between two instants, asked ten minutes by ten minutes.
async fn stored(endpoint: &str, from: UnixNanos, to: UnixNanos) -> BTreeMap<String, u64> {
    let client = QueryServiceClient::connect(endpoint.to_owned()).await.unwrap();
    let mut client = client.max_decoding_message_size(64 << 20);
    let mut sums = BTreeMap::new();
    for part in Window::new(from, to).unwrap().slots(600) {
        let window = Some(TimeWindow { start_unix_nanos: part.start().0, end_unix_nanos: part.end().0 });
        let request = GetEnergyRequest { window, by: EnergyBy::Source.into(), ..GetEnergyRequest::default() };
        for row in client.get_energy(request).await.unwrap().into_inner().rows {
            *sums.entry(format!("{:?}", row.key)).or_insert(0) += row.microjoules.unwrap();
        }
    }
    sums
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_is_drained_beside_live_data() {
    let hours = setting("OUTAGE_HOURS", 3).unwrap();
    let folder = folder_in_memory().unwrap();
    let at = |name: &str| folder.path().join(name);
    let clock = Arc::new(Older(2 * hours * 3600 * SECOND));
    // The outage ends about now, on a whole second of the world's clock.
    let (ends, now) = (clock.boot(), clock.wall());
    let begins = UnixNanos(now.0 / UnixNanos::PER_SECOND * UnixNanos::PER_SECOND).plus_seconds(-(hours as i64) * 3600);
    let boot = BootNanos(ends.0 - (now.0 - begins.0) as u64);
    let mut node = Node::new(boot, begins);
    let config = SpoolConfig { min_free_bytes: 0, ..SpoolConfig::new(at("spool")) };
    let (spool, _) = Spool::open(&config).unwrap();
    run(&spool, &mut node, hours * 3600).await;
    let old = spool.counters();
    assert_eq!((old.waiting, old.lost_records), (node.row / ROWS, 0));

    let mut server = Server::new(folder.path(), &at("db"));
    let (_server, _) = server.start().unwrap();
    let settings = UplinkConfig { endpoint: server.endpoint(), security: Security::PlaintextOnLoopback, boot: BOOT };
    let inventory = Inventory {
        node: "eight".parse().unwrap(),
        agent_version: String::new(),
        sources: (1..=SERIES).map(|series| SourceState { source: source(series).into(), unavailable: None }).collect(),
        hardware: Hardware::default(),
        placement: Placement::default(),
    };
    let (_told, inventory) = watch::channel(inventory);
    let clock: Arc<dyn Clock> = clock;
    let uplink = Uplink::new(settings, spool.clone(), inventory, Arc::clone(&clock));
    let mut wishes = uplink.wishes_for_a_stream();
    let (_stop, stopped) = watch::channel(false);
    let begin = SystemClock.boot();
    let sending = tokio::spawn(uplink.run(stopped));

    let (mut behind, mut live_stream, mut drained) = (Vec::new(), false, None);
    // A row a second, each a record of its own, until the old ones are drained.
    while drained.is_none() {
        let due = node.at(node.row).0.saturating_sub(clock.boot().0);
        tokio::time::sleep(Duration::from_nanos(due)).await;
        let (batch, local) = node.batch(1);
        if wishes.has_changed().unwrap() {
            wishes.mark_unchanged();
            live_stream = true;
            spool.begin_stream(batch, local, definitions()).await.unwrap();
        } else {
            spool.append(batch, local, definitions()).await.unwrap();
        }
        let (appended, live) = (SystemClock.boot(), spool.counters());
        if live_stream {
            let mut seen = spool.watch();
            let acked = seen.wait_for(|now| now.stream == live.stream && now.acked >= live.highest);
            let acked = *tokio::time::timeout(DRAINED_WITHIN, acked).await.expect("acknowledged").unwrap();
            behind.push(SystemClock.boot().since(appended));
            drained = (acked.waiting == 0).then(|| SystemClock.boot().since(begin));
        }
        assert!(SystemClock.boot().since(begin) <= DRAINED_WITHIN, "{:?}", spool.counters());
    }
    let drained = drained.unwrap();
    behind.sort();
    let worst = *behind.last().expect("live records beside old ones");
    println!(
        "{hours} h: {} records of {SERIES} series drained in {drained:.1?}, {} live ones beside them acknowledged after \
         {worst:.1?} at most",
        old.waiting,
        behind.len()
    );
    assert!(behind.len() >= 3 && worst <= MOST_BEHIND, "{behind:?}");
    assert_eq!(spool.counters().lost_records, 0);
    let energy = stored(&server.endpoint(), begins.plus_seconds(-60), begins.plus_seconds(node.row as i64 + 60)).await;
    // From the first row on: what was counted before is nobody's.
    assert_eq!(energy.len(), SERIES as usize);
    let made: u64 = node.values.iter().sum::<u64>() - node.first;
    assert_eq!(energy.values().sum::<u64>(), made, "to the microjoule");
    sending.abort();
}
