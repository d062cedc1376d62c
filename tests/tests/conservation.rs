//! Every joule is counted once: random nodes, workloads, gaps and orders of arrival through ingest, store and ledger.

#![allow(clippy::expect_used, reason = "functions that tests call may fail the test")]

use joulebook_aggregator::clock::Clock;
use joulebook_aggregator::ingest::{Counters, Intake, Opening, Reply, Request};
use joulebook_aggregator::ledger::{Ledger, cell_from_rows};
use joulebook_aggregator::store::memory::MemoryStore;
use joulebook_aggregator::store::{Book, Resolution};
use joulebook_proto::convert::encode_batch;
use joulebook_sci::{Account, Cell};
use joulebook_units::{
    Batch, BootId, BootNanos, Column, Component, CountKind, CpuTimeMethod, EnergyGap, GapReason, Hardware, IdleOrigin,
    Inventory, Method, Microjoules, Milliwatts, Placement, Point, Service, Source, SourceState, StreamId, Subject,
    UnixNanos, VersionSource, Window, Workload, WorkloadKind,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const SECOND: u64 = 1_000_000_000;
/// The aggregator's clock when the nodes' boot clocks show 0.
const BOOTED: i64 = 1_790_000_000 * 1_000_000_000;
const CPU: u32 = 1;
const DRAM: u32 = 2;
const IDLE: u32 = 3;
const SERVED: u32 = 4;
const OTHER: u32 = 5;
const TOKENS: u32 = 6;

/// One row of a node's history: time since the row before, µJ and CPU ns since then, what else happens.
#[derive(Debug, Clone)]
struct Step {
    nanos: u64,
    microjoules: u64,
    cpu_nanos: u64,
    tokens: u64,
    scraped: bool,
    gap: bool,
    ends_batch: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let wide = prop_oneof![8 => 200_000_000..3 * SECOND, 1 => 3 * SECOND..200 * SECOND];
    (
        wide,
        0u64..300_000_000,
        0u64..2 * SECOND,
        0u64..50,
        any::<bool>(),
        prop::bool::weighted(0.05),
        prop::bool::weighted(0.3),
    )
        .prop_map(|(nanos, microjoules, cpu_nanos, tokens, scraped, gap, ends_batch)| Step {
            nanos,
            // Never above the ceiling of 1 kW.
            microjoules: microjoules.min(nanos / 1_000_000 * 900_000),
            cpu_nanos,
            tokens,
            scraped,
            gap,
            ends_batch,
        })
}

/// A node's records in their order, and what it measured.
#[derive(Debug)]
struct History {
    stream: StreamId,
    batches: Vec<Batch>,
    energy: u64,
    tokens: u64,
    end: u64,
}

/// Cumulative state of one series while its history is written.
#[derive(Default, Clone)]
struct Written {
    value: u64,
    last: Option<Point>,
    open: Vec<Column>,
}

impl Written {
    fn point(&mut self, series: u32, at: u64) {
        let point = Point { at: BootNanos(at), value: self.value };
        match self.open.last_mut() {
            Some(column) => column.points.push(point),
            None => self.open.push(Column { series, previous: self.last, points: vec![point] }),
        }
        self.last = Some(point);
    }

    /// The run breaks: what comes next is not joined to what was.
    fn cut(&mut self, series: u32, at: u64) {
        self.last = None;
        let point = Point { at: BootNanos(at), value: self.value };
        self.open.push(Column { series, previous: None, points: vec![point] });
        self.last = Some(point);
    }
}

fn history(index: u8, steps: &[Step]) -> History {
    let boot = BootId([index; 16]);
    let mut at = 1000 * SECOND + u64::from(index) * 137_000_001;
    let mut series: BTreeMap<u32, Written> =
        [CPU, DRAM, IDLE, SERVED, OTHER, TOKENS].map(|id| (id, Written::default())).into();
    let (mut batches, mut rows, mut gaps): (Vec<Batch>, Vec<BootNanos>, Vec<EnergyGap>) = (vec![], vec![], vec![]);
    let (mut energy, mut tokens) = (0, 0);
    for (number, step) in steps.iter().enumerate() {
        let before = at;
        at += step.nanos;
        let first = rows.first().copied();
        let full = rows.len() == 5 || first.is_some_and(|first| at - first.0 > 50 * SECOND);
        if full || (step.ends_batch && !rows.is_empty()) {
            batches.push(close(boot, &mut rows, &mut series, &mut gaps));
        }
        rows.push(BootNanos(at));
        let gap = step.gap && number > 0;
        for id in [CPU, DRAM, IDLE, SERVED, OTHER, TOKENS] {
            let Some(written) = series.get_mut(&id) else { continue };
            match id {
                CPU if gap => {
                    let (low, high) = (Microjoules(0), Microjoules(step.microjoules));
                    gaps.push(EnergyGap {
                        series: CPU,
                        from: BootNanos(before),
                        to: BootNanos(at),
                        reason: GapReason::CounterReset,
                        low,
                        high,
                    });
                    written.cut(CPU, at);
                    continue;
                }
                CPU => written.value += if number > 0 { step.microjoules } else { 0 },
                DRAM => written.value += if number > 0 { step.microjoules / 9 } else { 0 },
                IDLE => written.value = 20_000,
                SERVED | OTHER => written.value += if number > 0 { step.cpu_nanos / u64::from(id - 3) } else { 0 },
                _ => {
                    written.value += if number > 0 { step.tokens } else { 0 };
                    if !(step.scraped || number == 0 || number + 1 == steps.len()) {
                        continue;
                    }
                }
            }
            written.point(id, at);
        }
        if number > 0 {
            energy += if gap { 0 } else { step.microjoules } + step.microjoules / 9;
            tokens += step.tokens;
        }
    }
    if !rows.is_empty() {
        batches.push(close(boot, &mut rows, &mut series, &mut gaps));
    }
    History { stream: StreamId([index ^ 0xa5; 16]), batches, energy, tokens, end: at }
}

fn close(
    boot: BootId,
    rows: &mut Vec<BootNanos>,
    series: &mut BTreeMap<u32, Written>,
    gaps: &mut Vec<EnergyGap>,
) -> Batch {
    Batch {
        boot,
        wall: UnixNanos(BOOTED + i64::try_from(rows[0].0).expect("a time of this century")),
        rows: std::mem::take(rows),
        columns: series.values_mut().flat_map(|written| std::mem::take(&mut written.open)).collect(),
        gaps: std::mem::take(gaps),
    }
}

fn source(id: &str, component: Component) -> Source {
    Source {
        id: id.to_owned(),
        component,
        socket: None,
        device: None,
        collector: "rapl".to_owned(),
        method: Method::Counter,
        unit_nanojoules: None,
        ceiling: Milliwatts(1_000_000),
        uncertainty_permille: 50,
        contained_in: None,
        basis: "generated".to_owned(),
    }
}

fn workload(id: &str, kind: WorkloadKind, reserved: Option<u64>) -> Workload {
    Workload {
        id: id.to_owned(),
        kind,
        name: id.to_owned(),
        cgroup: None,
        container_id: None,
        pod_uid: None,
        cpu_time_method: CpuTimeMethod::ProcessTime,
        reserved_millicores: reserved,
        reservation_origin: None,
    }
}

fn dictionary() -> Vec<(u32, Subject)> {
    let service = Service {
        model: Some("tiny".to_owned()),
        version: Some("1".to_owned()),
        version_source: VersionSource::Config,
        fingerprint: None,
        adapter: None,
        engine: "custom".to_owned(),
        target: "http://127.0.0.1:1/".to_owned(),
        workload: Some("process/1".to_owned()),
        tokenizer: None,
    };
    vec![
        (CPU, Subject::Energy(source("rapl/package-0", Component::Cpu))),
        (DRAM, Subject::Energy(source("rapl/dram-0", Component::Dram))),
        (IDLE, Subject::IdlePower { source: "rapl/package-0".to_owned(), origin: IdleOrigin::Configured }),
        (SERVED, Subject::CpuTime(workload("process/1", WorkloadKind::ProcessTree, Some(500)))),
        (OTHER, Subject::CpuTime(workload("remainder", WorkloadKind::Remainder, None))),
        (TOKENS, Subject::Count(service, CountKind::OutputTokens)),
    ]
}

fn inventory(index: u8) -> Inventory {
    let state = |id, component| SourceState { source: source(id, component), unavailable: None };
    Inventory {
        node: format!("node-{index}").parse().expect("a node name"),
        agent_version: "0.1.0".to_owned(),
        sources: vec![state("rapl/package-0", Component::Cpu), state("rapl/dram-0", Component::Dram)],
        hardware: Hardware { threads: Some(4), memory_bytes: Some(1 << 34), ..Hardware::default() },
        placement: Placement::default(),
    }
}

struct At(UnixNanos);

impl Clock for At {
    fn unix(&self) -> UnixNanos {
        self.0
    }
}

/// An aggregator in memory whose clock is past every row.
struct Aggregator {
    book: Arc<Book>,
    intake: Intake,
    ledger: Ledger,
    now: UnixNanos,
}

impl Aggregator {
    fn new(histories: &[History]) -> Self {
        let book = Arc::new(Book::open(Arc::new(MemoryStore::default())).expect("an empty store opens"));
        let end = histories.iter().map(|history| history.end).max().expect("a history");
        let now = UnixNanos(BOOTED + i64::try_from(end).expect("a time of this century"));
        let clock: Arc<dyn Clock> = Arc::new(At(now));
        let mut intake = Intake::new(Arc::clone(&book), Arc::new(Counters::default()));
        for (index, history) in (0u8..).zip(histories) {
            let opening = Opening {
                inventory: inventory(index),
                epoch: 1,
                boot: BootId([index; 16]),
                boot_time: BootNanos(end),
                wall: now,
                received: now,
                streams: vec![history.stream],
            };
            let opened = vec![
                Request::Open(u64::from(index), Box::new(opening)),
                Request::Define(u64::from(index), history.stream, dictionary()),
            ];
            intake.apply(now, opened).expect("memory does not fail");
        }
        Self { ledger: Ledger::new(Arc::clone(&book), clock), book, intake, now }
    }

    /// Sends one record and requires that it is acknowledged whole.
    fn send(&mut self, index: usize, history: &History, record: usize) {
        let batch = history.batches[record].clone();
        let payload = encode_batch(&batch).expect("a batch within the limits");
        let request = Request::Record {
            session: index as u64,
            stream: history.stream,
            sequence: record as u64 + 1,
            hash: payload.hash,
            payload: payload.bytes.to_vec(),
            batch: Some(Box::new(batch)),
        };
        let replies = self.intake.apply(self.now, vec![request]).expect("memory does not fail");
        assert!(matches!(&replies[..], [Reply::Ack { rejects, .. }] if rejects.is_empty()), "{replies:?}");
    }

    /// Settles every marked cell; the clock is far past all of them.
    fn settle(&self) {
        while self.ledger.pass(self.now.plus_seconds(3600)).expect("memory does not fail") > 0 {}
    }

    /// Every stored cell of a node.
    fn cells(&self, index: usize) -> BTreeMap<(Resolution, UnixNanos), Cell> {
        // A cell of an hour may begin before the nodes do.
        let all = Window::new(UnixNanos(BOOTED).plus_seconds(-3600), self.now.plus_seconds(7200)).expect("ordered");
        let mut cells = BTreeMap::new();
        for resolution in [Resolution::Minute, Resolution::Settled, Resolution::Hour] {
            for (start, cell) in self.book.cells(index as u32, resolution, all).expect("memory does not fail") {
                cells.insert((resolution, start), cell);
            }
        }
        cells
    }
}

fn sum(cells: &BTreeMap<(Resolution, UnixNanos), Cell>, resolution: Resolution) -> Cell {
    let mut sum = Cell::default();
    cells.iter().filter(|((length, _), _)| *length == resolution).for_each(|(_, cell)| sum.merge(cell));
    sum
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_joule_is_booked_once_whatever_the_order_of_arrival(
        steps in prop::collection::vec(prop::collection::vec(step(), 2..40), 1..4),
        order in prop::collection::vec((any::<prop::sample::Index>(), 0u8..4), 0..200),
    ) {
        let histories: Vec<History> = (0u8..).zip(&steps).map(|(index, steps)| history(index, steps)).collect();

        // In order, settled once at the end.
        let mut early = Aggregator::new(&histories);
        for (index, history) in histories.iter().enumerate() {
            (0..history.batches.len()).for_each(|record| early.send(index, history, record));
        }
        early.settle();

        // Nodes interleaved, cells settled in between (so that later rows are late), records replayed.
        let mut late = Aggregator::new(&histories);
        let mut sent = vec![0usize; histories.len()];
        for (pick, what) in order {
            let index = pick.index(histories.len());
            match what {
                0 => late.settle(),
                1 if sent[index] > 0 => late.send(index, &histories[index], pick.index(sent[index])),
                _ if sent[index] < histories[index].batches.len() => {
                    late.send(index, &histories[index], sent[index]);
                    sent[index] += 1;
                }
                _ => {}
            }
        }
        for (index, history) in histories.iter().enumerate() {
            (sent[index]..history.batches.len()).for_each(|record| late.send(index, history, record));
        }
        late.settle();

        for (index, history) in histories.iter().enumerate() {
            let cells = early.cells(index);
            for resolution in [Resolution::Minute, Resolution::Settled, Resolution::Hour] {
                let whole = sum(&cells, resolution);
                prop_assert_eq!(whole.component_microjoules(), history.energy, "{:?}", resolution);
                let platform: u64 = whole.entries.iter().filter(|(key, _)| key.account == Account::Platform).map(|(_, e)| e).sum();
                prop_assert_eq!(whole.total_microjoules(), history.energy + platform);
                let tokens = whole.services.values().filter_map(|used| used.counts.get(&CountKind::OutputTokens)).sum::<u64>();
                prop_assert_eq!(tokens, history.tokens);
            }
            prop_assert_eq!(&late.cells(index), &cells);

            // A window of odd seconds from rows is the difference of its neighbours.
            let node = &early.book.nodes()[index];
            let all = Window::new(UnixNanos(BOOTED), early.now.ceil_to(1)).expect("ordered");
            let middle = UnixNanos(BOOTED + i64::try_from(history.end / 2 + 500 * SECOND).expect("small")).floor_to(1);
            let part = |from, to| cell_from_rows(&early.book, node, Window::new(from, to).expect("ordered")).expect("memory").component_microjoules();
            let late_start = UnixNanos(BOOTED + i64::try_from(1000 * SECOND).expect("small"));
            let cut = middle.max(late_start).min(all.end());
            prop_assert_eq!(part(late_start, cut) + part(cut, all.end()), history.energy);
        }
    }
}
