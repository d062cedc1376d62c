mod cells;
mod clocks;
mod cut;
mod disk;
mod pollers;
mod sealing;
mod series;
mod streams;

use super::*;
use crate::store::memory::MemoryStore;
use crate::store::rocks::RocksStore;
use crate::store::{Direction, Resolution, Store, Visit, retention};
use joulebook_sci::{Account, Cell, EntryKey, Flags, Purpose, ServiceUse, SourceKey, SourceUse, WorkloadUse};
use joulebook_units::{
    Column, Component, CountKind, CpuTimeMethod, GapReason, Hardware, LossReason, LostSpan, Method, Microjoules,
    Milliwatts, Placement, Point, Service, Source, VersionSource, Window, Workload, WorkloadKind,
};
use proptest::prelude::*;
use std::ops::Range;

const STREAM: StreamId = StreamId([7; 16]);
const BOOT: BootId = BootId([1; 16]);
/// Our clock when the node booted.
const BOOTED: i64 = 1_700_000_000;
const SECOND: u64 = 1_000_000_000;

fn energy(id: &str) -> Subject {
    Subject::Energy(
        Source {
            id: id.to_owned(),
            component: Component::Cpu,
            socket: None,
            device: None,
            collector: "rapl".to_owned(),
            method: Method::Counter,
            unit_nanojoules: None,
            ceiling: Milliwatts(100_000),
            uncertainty_permille: 20,
            contained_in: None,
            scope: None,
            basis: String::new(),
        }
        .into(),
    )
}

fn inventory(node: &str) -> Inventory {
    Inventory {
        node: node.parse().expect("a name"),
        agent_version: "1.2.3".to_owned(),
        sources: Vec::new(),
        hardware: Hardware::default(),
        placement: Placement { site: Some("paris".to_owned()), ..Placement::default() },
    }
}

struct Rig {
    store: Arc<dyn Store>,
    intake: Intake,
    book: Arc<Book>,
    /// Seconds since the node's boot.
    now: u64,
    session: u64,
    counters: Arc<Counters>,
    /// The poller that speaks; none for the node's agent.
    poller: Option<String>,
}

impl Rig {
    fn new(store: Arc<dyn Store>) -> Self {
        let book = Arc::new(Book::open(Arc::clone(&store)).expect("book"));
        let counters = Arc::new(Counters::default());
        let intake = Intake::new(Arc::clone(&book), Arc::clone(&counters));
        Self { store, intake, book, now: 1_000, session: 0, counters, poller: None }
    }

    fn open() -> Self {
        let mut rig = Self::new(Arc::new(MemoryStore::new()));
        rig.hello();
        rig
    }

    fn restart(&mut self) {
        let (now, session) = (self.now, self.session);
        *self = Self { now, session, ..Self::new(Arc::clone(&self.store)) };
        self.hello();
    }

    fn hello(&mut self) {
        assert!(matches!(self.say("gpu-1", 1, STREAM), Reply::Opened(_)));
        let series = (1..=3).map(|series| (series, energy(&format!("rapl/{series}")))).collect();
        assert_eq!(self.apply(Request::Define(self.session, STREAM, series)), Reply::Done);
    }

    fn clock(&self) -> UnixNanos {
        UnixNanos::from_seconds(BOOTED).plus_seconds(i64::try_from(self.now).expect("small"))
    }

    fn say(&mut self, node: &str, epoch: u64, stream: StreamId) -> Reply {
        self.say_at(node, epoch, stream, self.clock())
    }

    /// Says Hello with this wall clock of the node.
    fn say_at(&mut self, node: &str, epoch: u64, stream: StreamId, wall: UnixNanos) -> Reply {
        self.session += 1;
        let received = self.clock();
        let opening = Opening {
            inventory: inventory(node),
            poller: self.poller.as_deref().map(|name| name.parse().expect("a name")),
            epoch,
            boot: BOOT,
            boot_time: BootNanos(self.now * SECOND),
            wall,
            received,
            streams: vec![stream],
        };
        self.apply(Request::Open(self.session, Box::new(opening)))
    }

    fn apply(&mut self, request: Request) -> Reply {
        let now = self.clock();
        self.intake.apply(now, vec![request]).expect("commit").remove(0)
    }

    fn record(&mut self, sequence: u64, batch: Batch) -> Reply {
        let request = self.request(sequence, batch);
        self.apply(request)
    }

    fn request(&self, sequence: u64, batch: Batch) -> Request {
        let payload = format!("{batch:?}").into_bytes();
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(&payload).as_bytes()[..16]);
        let batch = Some(Box::new(batch));
        Request::Record { session: self.session, stream: STREAM, sequence, hash, payload, batch }
    }

    fn window(&self) -> Window {
        Window::new(UnixNanos(0), self.clock().plus_seconds(3600)).expect("ordered")
    }

    /// Stores cells of the first node and clears every mark of it.
    fn settle(&self, cells: &[(Resolution, UnixNanos, Cell)]) {
        let marks: Vec<_> =
            self.book.dirty(100).into_iter().map(|(_, start, generation)| (start, generation)).collect();
        self.book.settle(0, cells, &marks).expect("settle");
    }

    /// Clears every mark of the first node.
    fn settle_all(&self) {
        while !self.book.dirty(1).is_empty() {
            self.settle(&[]);
        }
    }

    /// Σ of what the runs of a source say.
    fn energy(&self, id: &str) -> u64 {
        let runs = self.book.runs(0, self.window()).expect("runs");
        let own = runs.iter().filter(|run| matches!(&*run.subject, Subject::Energy(source) if source.id == id));
        own.map(|run| run.points.last().expect("point").1 - run.points[0].1).sum()
    }
}

fn point(second: u64, value: u64) -> Point {
    Point { at: BootNanos(second * SECOND), value }
}

/// A batch with a row at each second and one column a series, of 1 J a second from 0 at second 0.
fn steady(seconds: Range<u64>, series: Range<u32>) -> Batch {
    let column = |series| Column {
        series,
        previous: Some(point(seconds.start - 1, (seconds.start - 1) * 1_000_000)),
        points: seconds.clone().map(|second| point(second, second * 1_000_000)).collect(),
    };
    Batch {
        boot: BOOT,
        wall: UnixNanos::from_seconds(BOOTED + i64::try_from(seconds.start).expect("small")),
        rows: seconds.clone().map(|second| BootNanos(second * SECOND)).collect(),
        columns: series.map(column).collect(),
        gaps: Vec::new(),
    }
}

fn acked(sequence: u64) -> Reply {
    Reply::Ack { stream: STREAM, sequence, rejects: Vec::new(), record: true }
}

fn rejected(sequence: u64, reason: RejectReason, count: u64) -> Reply {
    let rejects = vec![Reject { sequence, reason, count }];
    Reply::Ack { stream: STREAM, sequence, rejects, record: true }
}

fn lost(from: u64, to: u64) -> StreamGap {
    let span = LostSpan { boot: BOOT, first: BootNanos(910 * SECOND), last: BootNanos(929 * SECOND) };
    StreamGap { from, to, reason: LossReason::SpoolFull, samples: 60, span: Some(span) }
}

#[test]
fn b54_a_replay_changes_nothing_and_other_content_is_moved_aside() {
    let mut rig = Rig::open();
    assert_eq!(rig.record(1, steady(901..906, 1..2)), acked(1));
    let before = rig.energy("rapl/1");
    assert_eq!(before, 5_000_000);
    assert_eq!(rig.record(1, steady(901..906, 1..2)), acked(1));
    rig.restart();
    assert_eq!(rig.record(1, steady(901..906, 1..2)), acked(1));
    assert_eq!(rig.counters.all().get("duplicates_total"), Some(&1));
    assert_eq!(rig.record(1, steady(901..907, 1..2)), rejected(1, RejectReason::SequenceConflict, 6));
    assert_eq!(rig.energy("rapl/1"), before);
    let mut aside = 0;
    let visit: &mut Visit<'_> = &mut |_, _| {
        aside += 1;
        ControlFlow::Continue(())
    };
    rig.store.scan(Table::Quarantine, &[]..&[0xff; 32], Direction::Forward, visit).expect("scan");
    assert_eq!(aside, 1);
    assert_eq!(rig.record(2, steady(906..911, 1..2)), acked(2));
}

#[test]
fn b53_a_jump_of_the_sequence_is_refused_and_changes_nothing() {
    let mut rig = Rig::open();
    let refusal = Refusal::OutOfOrder { stream: STREAM, sequence: 2, expected: 1 };
    assert_eq!(rig.record(2, steady(901..906, 1..2)), Reply::Refused(refusal));
    assert_eq!(rig.book.runs(0, rig.window()).expect("runs"), []);
    assert_eq!(rig.record(1, steady(901..906, 1..2)), acked(1));
}

#[test]
fn lost_records_are_declared_and_no_joule_is() {
    for restart in [false, true] {
        let mut rig = Rig::open();
        assert_eq!(rig.record(1, steady(901..906, 1..3)), acked(1));
        assert_eq!(rig.record(2, steady(906..911, 1..2)), acked(2));
        if restart {
            rig.restart();
        }
        let gap = Request::Lost(rig.session, STREAM, lost(3, 6));
        let ack = Reply::Ack { stream: STREAM, sequence: 6, rejects: Vec::new(), record: false };
        assert_eq!(rig.apply(gap.clone()), ack);
        assert_eq!(rig.apply(gap), ack, "a replay of the declaration changes nothing");
        if restart {
            rig.restart();
        }
        assert_eq!(rig.record(7, steady(931..936, 1..3)), acked(7));
        assert_eq!(rig.energy("rapl/1"), 35_000_000, "from 900 to 935");
        assert_eq!(rig.energy("rapl/2"), 35_000_000);
        let (gaps, records) = rig.book.gaps(0, rig.window()).expect("gaps");
        assert_eq!((gaps.len(), records.len()), (0, 1));
        assert_eq!((records[0].first_sequence, records[0].last_sequence, records[0].samples), (3, 6, 60));
        assert_eq!(rig.book.status().streams[0].lost_records, 4);
        assert!(rig.book.read().bridges.is_empty() || restart, "only the third series may wait");
    }
}

#[test]
fn b60_a_stream_of_another_node_is_refused_and_its_owner_goes_on() {
    let mut rig = Rig::open();
    let owner = rig.session;
    assert_eq!(rig.say("gpu-2", 1, STREAM), Reply::Refused(Refusal::ForeignStream(STREAM)));
    assert!(rig.book.nodes().iter().all(|node| node.inventory.node.as_str() != "gpu-2"));
    rig.session = owner;
    assert_eq!(rig.record(1, steady(901..906, 1..2)), acked(1));
}

#[test]
fn a_newer_session_fences_the_older_one() {
    let mut rig = Rig::open();
    let older = rig.session;
    assert!(matches!(rig.say("gpu-1", 2, STREAM), Reply::Opened(_)));
    let newer = std::mem::replace(&mut rig.session, older);
    assert_eq!(rig.record(1, steady(901..906, 1..2)), Reply::Refused(Refusal::Fenced));
    assert_eq!(rig.say("gpu-1", 1, STREAM), Reply::Refused(Refusal::Fenced), "a lower epoch cannot take over");
    assert_eq!(rig.apply(Request::Close(newer)), Reply::Done);
    assert!(matches!(rig.say("gpu-1", 1, STREAM), Reply::Opened(_)), "nothing is open any more");
}

#[test]
fn b55_one_bad_value_costs_only_itself() {
    let mut rig = Rig::open();
    let mut batch = steady(901..906, 1..4);
    batch.columns[1].points[2].value = u64::MAX;
    assert_eq!(rig.record(1, batch), rejected(1, RejectReason::Value, 1));
    assert_eq!((rig.energy("rapl/1"), rig.energy("rapl/2"), rig.energy("rapl/3")), (5_000_000, 5_000_000, 5_000_000));
    assert_eq!(rig.book.status().streams[0].rejected_values, 1);
    assert_eq!(rig.record(2, steady(906..911, 1..4)), acked(2));
    assert_eq!(rig.energy("rapl/2"), 10_000_000);
}

#[test]
fn b56_a_record_of_the_future_is_refused_whole_and_acknowledged() {
    let mut rig = Rig::open();
    assert_eq!(rig.record(1, steady(1_121..1_126, 1..3)), rejected(1, RejectReason::Time, 10));
    assert_eq!(rig.book.runs(0, rig.window()).expect("runs"), []);
    assert_eq!(rig.book.dirty(10), []);
    assert_eq!(rig.record(2, steady(901..906, 1..2)), acked(2));
    let mut old = steady(901..906, 1..2);
    (old.boot, old.wall) = (BootId([9; 16]), UnixNanos(i64::MIN));
    assert_eq!(rig.record(3, old), rejected(3, RejectReason::Time, 5));
}

#[test]
fn a_series_that_is_not_described_or_described_twice_is_refused_alone() {
    let mut rig = Rig::open();
    assert_eq!(rig.record(1, steady(901..906, 3..5)), rejected(1, RejectReason::UnknownSeries, 5));
    assert_eq!(rig.energy("rapl/3"), 5_000_000);
    assert_eq!(rig.apply(Request::Define(rig.session, STREAM, vec![(3, energy("another"))])), Reply::Done);
    assert_eq!(rig.record(2, steady(906..911, 3..4)), rejected(2, RejectReason::UnknownSeries, 5));
    assert_eq!(rig.energy("rapl/3"), 5_000_000);
}

#[test]
fn b57_series_beyond_the_cap_are_refused_until_others_fall_silent() {
    let mut rig = Rig::open();
    let cap = u32::try_from(ACTIVE_SERIES).expect("small");
    let series = (4..=cap + 2).map(|series| (series, energy(&format!("rapl/{series}")))).collect();
    assert_eq!(rig.apply(Request::Define(rig.session, STREAM, series)), Reply::Done);
    assert_eq!(rig.record(1, steady(901..902, 1..cap + 3)), rejected(1, RejectReason::Cardinality, 2));
    rig.now += 601;
    assert_eq!(rig.record(2, steady(1_501..1_502, cap + 1..cap + 3)), acked(2));
}

#[test]
fn a_restart_keeps_marks_dictionary_clock_and_dirty_cells() {
    let dir = tempfile::tempdir().expect("tempdir");
    let open = || Arc::new(RocksStore::open(dir.path()).expect("open")) as Arc<dyn Store>;
    let mut rig = Rig::new(open());
    rig.hello();
    assert_eq!(rig.record(1, steady(901..906, 1..2)), acked(1));
    let (dirty, cluster, now) = (rig.book.dirty(10), rig.book.cluster(), rig.now);
    assert_eq!(dirty.len(), 3, "its own cell and its neighbours");
    drop(rig);
    let mut rig = Rig { now, ..Rig::new(open()) };
    assert_eq!(rig.book.dirty(10), dirty);
    assert_eq!(rig.book.cluster(), cluster);
    let nodes = rig.book.nodes();
    assert_eq!(nodes[0].inventory, inventory("gpu-1"));
    assert_eq!(nodes[0].first_row, Some(UnixNanos::from_seconds(BOOTED + 901)));
    assert_eq!(nodes[0].last_row, Some(UnixNanos::from_seconds(BOOTED + 905)));
    // Nothing is described again: the dictionary is stored.
    assert_eq!(rig.say("gpu-1", 2, STREAM), Reply::Opened(vec![(STREAM, 1)]));
    assert_eq!(rig.record(2, steady(906..911, 1..2)), acked(2));
    assert_eq!(rig.energy("rapl/1"), 10_000_000);
}

#[test]
fn a_new_measure_of_the_clock_never_moves_a_stream_backwards() {
    let mut rig = Rig::open();
    assert_eq!(rig.record(1, steady(901..906, 1..2)), acked(1));
    // Our clock steps back by 30 s, and the agent comes again.
    let boot_time = BootNanos(rig.now * SECOND);
    let received = rig.clock().plus_seconds(-30);
    let (inventory, streams) = (inventory("gpu-1"), vec![STREAM]);
    let opening =
        Opening { inventory, poller: None, epoch: 1, boot: BOOT, boot_time, wall: received, received, streams };
    rig.session += 1;
    assert!(matches!(rig.apply(Request::Open(rig.session, Box::new(opening))), Reply::Opened(_)));
    assert_eq!(rig.record(2, steady(906..911, 1..2)), acked(2));
    assert_eq!(rig.record(3, steady(911..971, 1..2)), acked(3));
    // A pause longer than the step: the new measure has passed what is stored.
    rig.now = 1_100;
    assert_eq!(rig.record(4, steady(1_011..1_040, 1..2)), acked(4));
    assert_eq!(rig.energy("rapl/1"), 139_000_000);
    let runs = rig.book.runs(0, rig.window()).expect("runs");
    let points: Vec<_> = runs.iter().flat_map(|run| &run.points[1..]).map(|(at, _)| *at).collect();
    assert!(points.is_sorted_by(|a, b| a < b));
    assert_eq!(points.last(), Some(&UnixNanos::from_seconds(BOOTED + 1_039 - 30)));
}

#[test]
fn a_declared_gap_is_stored_with_its_bounds() {
    let mut rig = Rig::open();
    let mut batch = steady(901..906, 1..2);
    let (from, to) = (BootNanos(400 * SECOND), BootNanos(500 * SECOND));
    let (low, high) = (Microjoules(5), Microjoules(9));
    let gap = EnergyGap { series: 2, from, to, reason: GapReason::CounterReset, low, high };
    batch.gaps = vec![gap.clone(), EnergyGap { low: Microjoules(10), ..gap.clone() }, EnergyGap { series: 9, ..gap }];
    let reply = rig.record(1, batch);
    let Reply::Ack { rejects, .. } = reply else { panic!("{reply:?}") };
    assert_eq!(rejects.len(), 2);
    let (gaps, _) = rig.book.gaps(0, rig.window()).expect("gaps");
    assert_eq!(gaps.len(), 1);
    assert_eq!((gaps[0].low, gaps[0].high, gaps[0].reason), (low, high, GapReason::CounterReset));
    assert_eq!(gaps[0].window.nanos(), 100 * SECOND);
    // Cells from 400 to 500 and from 900 to 905 with their surroundings, on the grid of 60 s.
    let marked = rig.book.is_dirty(0, rig.window());
    assert!(marked.contains(&UnixNanos::from_seconds(BOOTED + 400).floor_to(60)));
    assert!(!marked.contains(&UnixNanos::from_seconds(BOOTED + 700).floor_to(60)));
}

#[test]
fn a_reader_finds_an_interval_that_begins_long_before_its_record() {
    let mut rig = Rig::open();
    let mut batch = steady(901..906, 1..2);
    batch.columns[0].previous = Some(point(400, 400_000_000));
    assert_eq!(rig.record(1, batch), acked(1));
    let window = |from: i64, to: i64| {
        let at = |second| UnixNanos::from_seconds(BOOTED + second);
        Window::new(at(from), at(to)).expect("ordered")
    };
    assert_eq!(rig.book.runs(0, window(500, 501)).expect("runs").len(), 1);
    assert_eq!(rig.book.runs(0, window(300, 400)).expect("runs").len(), 0);
    assert_eq!(rig.book.runs(0, window(906, 1_000)).expect("runs").len(), 0);
    assert_eq!(rig.book.runs(1, window(500, 501)).expect("runs").len(), 0, "another node");
}

fn cell() -> Cell {
    let source = SourceKey {
        id: "rapl/1".to_owned(),
        component: Component::Cpu,
        method: Method::Counter,
        collector: "rapl".to_owned(),
        uncertainty_permille: 20,
        contained: false,
        scope: None,
    };
    let service = Arc::new(Service {
        model: Some("llama".to_owned()),
        version: None,
        version_source: VersionSource::Unresolved,
        fingerprint: None,
        adapter: None,
        engine: "llamacpp".to_owned(),
        target: "http://127.0.0.1:8080".to_owned(),
        workload: None,
        tokenizer: None,
        serving: joulebook_units::Serving::default(),
    });
    let workload = Arc::new(Workload {
        id: "unit/a".to_owned(),
        kind: WorkloadKind::Unit,
        name: "a".to_owned(),
        cgroup: None,
        container_id: None,
        pod_uid: None,
        cpu_time_method: CpuTimeMethod::Cgroup,
        reserved_millicores: None,
        reservation_origin: None,
        part_of: None,
        group: None,
        engine: None,
        pod: None,
    });
    let mut cell = Cell { overcount_microjoules: 3, expected_nanos: 60, flags: Flags::GAP, ..Cell::default() };
    cell.sources.insert(source, SourceUse { microjoules: 1 << 60, covered_nanos: 59, ..SourceUse::default() });
    let entry = |account| EntryKey { account, component: Component::Cpu, purpose: Purpose::Dynamic };
    cell.add(entry(Account::Service(Arc::clone(&service))), 5);
    cell.add(entry(Account::Workload(Arc::clone(&workload))), 6);
    cell.add(entry(Account::Unattributed), u64::MAX);
    let counts = BTreeMap::from([(CountKind::OutputTokens, 7), (CountKind::BusyNanos, 0)]);
    cell.services.insert(service, ServiceUse { counts, joint_microjoules: 4, ..ServiceUse::default() });
    cell.workloads.insert(workload, WorkloadUse { cpu_nanos: 8 });
    cell
}

#[test]
fn a_cell_comes_back_and_a_mark_goes_only_in_the_generation_that_was_read() {
    let mut rig = Rig::open();
    assert_eq!(rig.record(1, steady(901..906, 1..2)), acked(1));
    let (node, start, generation) = rig.book.dirty(10)[0];
    assert_eq!(rig.record(2, steady(906..911, 1..2)), acked(2));
    let cells = [(Resolution::Minute, start, cell()), (Resolution::Hour, start, Cell::default())];
    rig.book.settle(node, &cells, &[(start, generation)]).expect("settle");
    let newer = rig.book.dirty(10);
    assert_eq!(newer[0].1, start, "rows came after the mark was read");
    assert!(newer.iter().all(|mark| mark.2 > generation));
    rig.settle(&[]);
    assert_eq!(rig.book.dirty(10), []);
    for _ in 0..2 {
        assert_eq!(rig.book.cell(node, Resolution::Minute, start).expect("cell"), Some(cell()));
        assert_eq!(rig.book.cells(node, Resolution::Minute, rig.window()).expect("cells"), [(start, cell())]);
        assert_eq!(rig.book.cell(node, Resolution::Settled, start).expect("cell"), None);
        rig.restart();
    }
    assert_eq!(rig.book.dirty(10), []);
}

#[test]
fn old_rows_go_unless_a_cell_still_needs_them() {
    let mut rig = Rig::open();
    assert_eq!(rig.record(1, steady(901..906, 1..2)), acked(1));
    let periods = retention::Periods::default();
    let later = rig.clock().plus_seconds(7 * 86_400 + 7_200 + 3_600);
    retention::apply(&rig.book, &periods, later).expect("retention");
    assert_eq!(rig.energy("rapl/1"), 5_000_000, "the cell is dirty");
    let (node, start, _) = rig.book.dirty(10)[0];
    rig.settle(&[(Resolution::Minute, start, cell())]);
    retention::apply(&rig.book, &periods, rig.clock().plus_seconds(3_600)).expect("retention");
    assert_eq!(rig.energy("rapl/1"), 5_000_000, "young");
    retention::apply(&rig.book, &periods, later).expect("retention");
    assert_eq!(rig.book.runs(0, rig.window()).expect("runs"), []);
    assert!(rig.book.cell(node, Resolution::Minute, start).expect("cell").is_some());
    retention::apply(&rig.book, &periods, later.plus_seconds(90 * 86_400)).expect("retention");
    assert_eq!(rig.book.cell(node, Resolution::Minute, start).expect("cell"), None);
}

#[test]
fn settled_cells_and_gaps_are_kept_for_400_days_and_sums_of_an_hour_for_ever() {
    let mut rig = Rig::open();
    assert_eq!(rig.record(1, steady(901..906, 1..2)), acked(1));
    rig.apply(Request::Lost(rig.session, STREAM, StreamGap { span: None, ..lost(2, 2) }));
    for (node, start, generation) in rig.book.dirty(10) {
        rig.book.settle(node, &[(Resolution::Minute, start, cell())], &[(start, generation)]).expect("settle");
    }
    let start = rig.clock().floor_to(3_600);
    rig.settle(&[(Resolution::Settled, start, cell()), (Resolution::Hour, start, cell())]);
    let (periods, day) = (retention::Periods::default(), 86_400);
    let held = |rig: &Rig, resolution| rig.book.cell(0, resolution, start).expect("cell").is_some();
    let lost = |rig: &Rig| rig.book.gaps(0, Window::new(start, rig.clock()).expect("ordered")).expect("gaps").1.len();
    retention::apply(&rig.book, &periods, rig.clock().plus_seconds(399 * day)).expect("retention");
    assert_eq!((held(&rig, Resolution::Settled), held(&rig, Resolution::Hour), lost(&rig)), (true, true, 1));
    retention::apply(&rig.book, &periods, rig.clock().plus_seconds(401 * day)).expect("retention");
    assert_eq!((held(&rig, Resolution::Settled), held(&rig, Resolution::Hour), lost(&rig)), (false, true, 0));
}

#[derive(Debug, Clone)]
enum Step {
    Send(u64),
    Lose(u64),
    Replay,
    Restart,
}

proptest! {
    #[test]
    fn whatever_is_lost_replayed_or_restarted_the_sum_is_last_minus_first(
        steps in proptest::collection::vec(
            prop_oneof![
                4 => (1u64..20).prop_map(Step::Send),
                1 => (1u64..200).prop_map(Step::Lose),
                1 => Just(Step::Replay),
                1 => Just(Step::Restart),
            ],
            1..25,
        ),
    ) {
        let mut rig = Rig::open();
        rig.now = 10_000;
        rig.session += 1;
        rig.restart();
        let (mut sequence, mut second, mut known_until) = (0, 100u64, None);
        let mut sent: Vec<(u64, Batch)> = Vec::new();
        for step in steps {
            match step {
                Step::Send(rows) => {
                    sequence += 1;
                    let batch = steady(second + 1..second + 1 + rows, 1..4);
                    second += rows;
                    known_until = Some(second);
                    prop_assert_eq!(rig.record(sequence, batch.clone()), acked(sequence));
                    sent.push((sequence, batch));
                }
                // What is lost before anything was stored is lost: there is no first point.
                Step::Lose(rows) if known_until.is_some() => {
                    let gap = StreamGap { span: None, ..lost(sequence + 1, sequence + 1) };
                    sequence += 1;
                    second += rows;
                    rig.apply(Request::Lost(rig.session, STREAM, gap));
                }
                Step::Lose(_) => {}
                Step::Replay => if let Some((again, batch)) = sent.last().cloned() {
                    prop_assert_eq!(rig.record(again, batch), acked(sequence));
                },
                Step::Restart => rig.restart(),
            }
        }
        let expected = known_until.map_or(0, |until| (until - 100) * 1_000_000);
        for id in ["rapl/1", "rapl/2", "rapl/3"] {
            prop_assert_eq!(rig.energy(id), expected);
        }
        // Every instant's energy is in exactly one run.
        let runs = rig.book.runs(0, rig.window()).expect("runs");
        let mut spans: Vec<_> = runs
            .iter()
            .filter(|run| matches!(&*run.subject, Subject::Energy(source) if source.id == "rapl/1"))
            .map(|run| (run.points[0], run.points[run.points.len() - 1]))
            .collect();
        spans.sort_unstable();
        prop_assert!(spans.windows(2).all(|pair| pair[0].1 == pair[1].0));
    }
}
