use super::*;
use crate::config::{Config, Roots};
use crate::hardware;
use crate::inference::ProcessId;
use joulebook_units::{Column, NodeName, Placement, StreamId, VersionSource};
use std::fs;
use std::path::Path;
use std::sync::Mutex;

const SECOND: u64 = 1_000_000_000;
const RANGE: u64 = 65_532_610_987;

struct Hand(Mutex<BootNanos>);

impl Clock for Hand {
    fn boot(&self) -> BootNanos {
        *self.0.lock().expect("not poisoned")
    }

    fn wall(&self) -> UnixNanos {
        UnixNanos(i64::try_from(self.boot().0).expect("small") + 1_700_000_000 * UnixNanos::PER_SECOND)
    }
}

/// A machine made of files, with one package whose counter is set by the test.
struct Rig {
    root: tempfile::TempDir,
    clock: Arc<Hand>,
    counts: Option<mpsc::Sender<CountSample>>,
    groups: watch::Sender<Vec<InferenceGroup>>,
}

impl Rig {
    fn new(with_counter: bool) -> Self {
        let rig = Self {
            root: tempfile::tempdir().expect("folder"),
            clock: Arc::new(Hand(Mutex::new(BootNanos(SECOND)))),
            counts: None,
            groups: watch::channel(Vec::new()).0,
        };
        rig.write("proc/cpuinfo", "processor : 0\nprocessor : 1\nvendor_id : AuthenticAMD\n");
        rig.write("proc/meminfo", "MemTotal: 1000000 kB\nMemAvailable: 400000 kB\n");
        rig.write("proc/stat", "cpu 0 0 0 0 0 0 0 0\n");
        if with_counter {
            rig.write("sys/class/powercap/intel-rapl:0/name", "package-0\n");
            rig.write("sys/class/powercap/intel-rapl:0/max_energy_range_uj", &format!("{RANGE}\n"));
            rig.counter(0);
        }
        rig
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().expect("inside")).expect("folder");
        fs::write(path, text).expect("file");
    }

    fn counter(&self, raw: u64) {
        self.write("sys/class/powercap/intel-rapl:0/energy_uj", &format!("{raw}\n"));
    }

    fn at(&self, second: u64) {
        *self.clock.0.lock().expect("not poisoned") = BootNanos(second * SECOND);
        self.write("proc/stat", &format!("cpu {} 0 0 {} 0 0 0 0\n", second * 100, second * 100));
    }

    fn sampler(&mut self, boot: u8, recovery: &Recovery) -> Sampler {
        let at = |path: &str| Path::new(self.root.path()).join(path);
        let roots = Roots { sysfs: at("sys"), procfs: at("proc"), cgroup: at("cgroup") };
        let mut sources = Sources::new(&Config::default(), &roots);
        let states = sources.discover().to_vec();
        let node: NodeName = "n".parse().expect("a name");
        let inventory = Inventory {
            node,
            agent_version: "0".to_owned(),
            sources: states,
            hardware: hardware::discover(&roots),
            placement: Placement::default(),
        };
        let (sender, counts) = mpsc::channel(16);
        self.counts = Some(sender);
        let parts = Parts {
            clock: self.clock.clone(),
            boot: BootId([boot; 16]),
            batch_rows: 5,
            sources,
            workloads: Some(Workloads::new(&roots, 2)),
            package_idle: None,
            counts,
            groups: self.groups.subscribe(),
            inventory: watch::channel(inventory).0,
        };
        Sampler::new(parts, recovery)
    }
}

fn empty() -> Recovery {
    Recovery {
        stream: StreamId([1; 16]),
        session_epoch: 1,
        dictionary: BTreeMap::new(),
        last: None,
        highest_sequence: 0,
    }
}

/// What a reader of the stream knows: amounts in (previous, last] of every column, and gaps.
#[derive(Default)]
struct Reader {
    dictionary: BTreeMap<u32, Subject>,
    flushes: Vec<Flush>,
}

impl Reader {
    fn take(&mut self, flushes: impl IntoIterator<Item = Flush>) {
        for flush in flushes {
            self.dictionary.extend(flush.new_series.iter().cloned());
            assert!(flush.batch.columns.iter().all(|column| {
                self.dictionary.contains_key(&column.series)
                    && column.points.len() <= flush.batch.rows.len()
                    && column.previous.is_none_or(|previous| previous.at <= flush.batch.rows[0])
                    && column.points.windows(2).all(|pair| pair[0].at < pair[1].at)
            }));
            joulebook_proto::convert::encode_batch(&flush.batch).expect("the contract takes it");
            self.flushes.push(flush);
        }
    }

    fn energy(&self, component: Component) -> (u64, Vec<EnergyGap>) {
        let series = |id: &u32| matches!(self.dictionary.get(id), Some(Subject::Energy(source)) if source.component == component);
        let (amounts, gaps) = self.flushes.iter().fold((0, Vec::new()), |(mut sum, mut gaps), flush| {
            sum += amount(&flush.batch, series);
            gaps.extend(flush.batch.gaps.iter().filter(|gap| series(&gap.series)).cloned());
            (sum, gaps)
        });
        (amounts, gaps)
    }

    fn recovery(&self) -> Recovery {
        let last = self.flushes.last().map(|flush| crate::spool::LastRecord {
            sequence: self.flushes.len() as u64,
            batch: flush.batch.clone(),
            local: flush.local.clone(),
        });
        Recovery { dictionary: self.dictionary.clone(), last, ..empty() }
    }
}

fn amount(batch: &Batch, wanted: impl Fn(&u32) -> bool) -> u64 {
    let runs = batch.columns.iter().filter(|column| wanted(&column.series));
    runs.map(|column| {
        let first = column.previous.unwrap_or(column.points[0]).value;
        column.points[column.points.len() - 1].value - first
    })
    .sum()
}

#[test]
fn energy_may_be_read_more_often_than_workloads() {
    let mut rig = Rig::new(true);
    let mut sampler = rig.sampler(1, &empty());
    let at = |path: &str| rig.root.path().join(path);
    let roots = Roots { sysfs: at("sys"), procfs: at("proc"), cgroup: at("cgroup") };
    sampler.parts.workloads = Some(Workloads::new(&roots, 2).every(std::time::Duration::from_secs(1)));
    let mut flushes = Vec::new();
    for tenth in 0..=60 {
        rig.at(10 + tenth / 10);
        // A tick comes a little early now and then.
        let early = if tenth > 0 && tenth % 10 == 0 { SECOND / 50 } else { 0 };
        *rig.clock.0.lock().expect("not poisoned") = BootNanos(10 * SECOND + tenth * SECOND / 10 - early);
        rig.counter(tenth * 1_000_000);
        flushes.extend(sampler.tick());
    }
    flushes.extend(sampler.close());
    let points = |wanted: &dyn Fn(&Subject) -> bool| -> usize {
        let ids = flushes.iter().flat_map(|flush| &flush.new_series).filter(|(_, subject)| wanted(subject));
        let ids: Vec<u32> = ids.map(|(id, _)| *id).collect();
        let columns = flushes.iter().flat_map(|flush| &flush.batch.columns);
        columns.filter(|column| ids.contains(&column.series)).map(|column| column.points.len()).sum()
    };
    assert_eq!(points(&|subject| matches!(subject, Subject::Energy(source) if source.collector == "rapl")), 61);
    assert_eq!(points(&|subject| matches!(subject, Subject::CpuTime(workload) if workload.id == "remainder")), 7);
    // Held: at first, and again at the fifth sample after it.
    assert_eq!(points(&|subject| *subject == Subject::NodeMemoryUsed), 2);
}

/// Joules a second of the tests' package.
const POWER: u64 = 50_000_000;

/// Rows from `from` to `to`, each a second and [`POWER`] apart.
fn rows(rig: &Rig, sampler: &mut Sampler, from: u64, to: u64) -> Vec<Flush> {
    let mut flushes = Vec::new();
    for second in from..=to {
        rig.at(second);
        rig.counter(second * POWER);
        flushes.extend(sampler.tick());
    }
    flushes
}

/// The energy column of a batch.
fn package(reader: &Reader, flush: &Flush) -> Column {
    let energy = |id: &u32| matches!(reader.dictionary.get(id), Some(Subject::Energy(_)));
    flush.batch.columns.iter().find(|column| energy(&column.series)).expect("the package").clone()
}

#[test]
fn a_new_stream_begins_at_0_with_the_last_row_of_the_old_one_as_its_origin() {
    let mut rig = Rig::new(true);
    let mut sampler = rig.sampler(1, &empty());
    let mut old = Reader::default();
    old.take(rows(&rig, &mut sampler, 10, 21));
    old.take(sampler.begin_stream());
    let last = package(&old, old.flushes.last().expect("one"));
    assert_eq!(last.points.last().map(|point| point.value), Some(11 * POWER));

    // Another dictionary: a reader of the new stream knows nothing of the old one.
    let mut new = Reader::default();
    new.take(rows(&rig, &mut sampler, 22, 31));
    assert!(new.flushes[0].begins_stream && !new.flushes[1].begins_stream);
    let first = package(&new, &new.flushes[0]);
    assert_eq!(first.previous, Some(Point { at: BootNanos(21 * SECOND), value: 0 }));
    assert_eq!(first.points.last().map(|point| point.value), Some(5 * POWER));
    assert_eq!(old.energy(Component::Cpu).0 + new.energy(Component::Cpu).0, 21 * POWER, "each joule once");

    // After a restart the new stream goes on: the interval without an agent is bridged.
    let mut again = rig.sampler(1, &new.recovery());
    new.take(rows(&rig, &mut again, 60, 69));
    let (energy, gaps) = new.energy(Component::Cpu);
    assert_eq!((old.energy(Component::Cpu).0 + energy, gaps.len()), (59 * POWER, 0));
    // And once more a new stream, begun by the restarted agent.
    new.take(again.begin_stream());
    let mut newest = Reader::default();
    newest.take(rows(&rig, &mut again, 70, 79));
    assert_eq!(package(&newest, &newest.flushes[0]).previous, Some(Point { at: BootNanos(69 * SECOND), value: 0 }));
    let all: u64 = [&old, &new, &newest].iter().map(|reader| reader.energy(Component::Cpu).0).sum();
    assert_eq!(all, 69 * POWER);
}

#[test]
fn every_baseline_is_defined_in_the_stream_that_it_stands_in() {
    let mut rig = Rig::new(true);
    let mut sampler = rig.sampler(1, &empty());
    rows(&rig, &mut sampler, 10, 14);
    sampler.begin_stream();
    // The package cannot be read for a while, and its baseline is kept all the same.
    fs::remove_file(rig.root.path().join("sys/class/powercap/intel-rapl:0/energy_uj")).expect("removed");
    let mut new = Reader::default();
    for second in 15..=19 {
        rig.at(second);
        new.take(sampler.tick());
    }
    let flush = new.flushes.last().expect("one");
    assert!(flush.local.baselines.iter().all(|baseline| new.dictionary.contains_key(&baseline.series)));
    assert!(new.dictionary.values().any(|subject| matches!(subject, Subject::Energy(_))), "it was not read since");
}

#[test]
fn a_series_that_comes_back_after_long_is_defined_again_and_workloads_that_ended_are_forgotten() {
    let mut rig = Rig::new(true);
    rig.write("sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
    let mut sampler = rig.sampler(1, &empty());
    let first = rows(&rig, &mut sampler, 10, 14);
    let remainder = |flushes: &[Flush]| {
        let new = flushes.iter().flat_map(|flush| flush.new_series.clone());
        new.filter(|(_, subject)| matches!(subject, Subject::CpuTime(_))).map(|(id, _)| id).collect::<Vec<_>>()
    };
    let [series] = remainder(&first)[..] else { panic!("the remainder") };
    assert!(first[0].local.baselines.iter().any(|baseline| baseline.series == series));
    // Workloads are not sampled for longer than they are remembered.
    let at = |path: &str| rig.root.path().join(path);
    let roots = Roots { sysfs: at("sys"), procfs: at("proc"), cgroup: at("cgroup") };
    sampler.parts.workloads = Some(Workloads::new(&roots, 2).every(std::time::Duration::from_secs(100_000)));
    let flushes = rows(&rig, &mut sampler, 15, 700);
    let later = flushes.last().expect("many");
    assert!(!later.local.baselines.iter().any(|baseline| baseline.series == series), "no record bears it any more");
    sampler.parts.workloads = Some(Workloads::new(&roots, 2));
    let back = remainder(&rows(&rig, &mut sampler, 701, 705));
    assert!(back.iter().all(|again| *again > series) && !back.is_empty(), "{back:?}: a number has one meaning");
}

#[test]
fn energy_through_three_wraps_and_a_reset_is_the_truth_less_a_declared_gap() {
    let mut rig = Rig::new(true);
    let mut reader = Reader::default();
    let mut sampler = rig.sampler(1, &empty());
    let power = 900_000_000u64;
    let (mut truth, mut shift, mut reset_at) = (0u64, RANGE - 2 * power, 0);
    for second in 2..=260 {
        rig.at(second);
        if second > 2 {
            truth += power;
        }
        if second == 240 {
            reset_at = truth;
            shift = RANGE - truth % RANGE + 1_000;
        }
        rig.counter((truth + shift) % RANGE);
        reader.take(sampler.tick());
    }
    reader.take(sampler.close());
    let (energy, gaps) = reader.energy(Component::Cpu);
    assert_eq!(gaps.len(), 1);
    assert_eq!((gaps[0].reason, gaps[0].from), (GapReason::CounterReset, BootNanos(239 * SECOND)));
    assert_eq!(gaps[0].to, BootNanos(240 * SECOND));
    assert!(reset_at > 3 * RANGE);
    assert_eq!(energy, truth - power, "all but the second of the reset is known exactly");
    assert!((gaps[0].low.0..=gaps[0].high.0).contains(&power));
}

#[test]
fn sums_go_on_over_a_restart_in_the_same_boot() {
    let mut rig = Rig::new(true);
    let mut reader = Reader::default();
    let mut sampler = rig.sampler(1, &empty());
    for second in 2..=8 {
        rig.at(second);
        rig.counter(second * 1_000_000);
        reader.take(sampler.tick());
    }
    reader.take(sampler.close());
    drop(sampler);
    let known = reader.dictionary.len();
    let mut sampler = rig.sampler(1, &reader.recovery());
    for second in [28, 29] {
        rig.at(second);
        rig.counter(second * 1_000_000);
        reader.take(sampler.tick());
    }
    reader.take(sampler.close());
    let (energy, gaps) = reader.energy(Component::Cpu);
    assert_eq!((energy, gaps.len()), (27_000_000, 0));
    assert_eq!(reader.dictionary.len(), known, "a subject keeps its number");
    let last = &reader.flushes.last().expect("a batch").batch;
    assert!(last.columns.iter().all(|column| column.points.windows(2).all(|pair| pair[0].value <= pair[1].value)));
}

#[test]
fn a_reboot_is_a_gap_with_bounds_and_values_go_on() {
    let mut rig = Rig::new(true);
    let mut reader = Reader::default();
    let mut sampler = rig.sampler(1, &empty());
    for second in 100..=105 {
        rig.at(second);
        rig.counter(second * 1_000_000);
        reader.take(sampler.tick());
    }
    reader.take(sampler.close());
    let mut sampler = rig.sampler(2, &reader.recovery());
    let end = reader.flushes.len();
    for second in 110..=115 {
        rig.at(second);
        rig.counter(second * 10);
        reader.take(sampler.tick());
    }
    reader.take(sampler.close());
    let (energy, gaps) = reader.energy(Component::Cpu);
    assert_eq!(energy, 5_000_000 + 50);
    assert_eq!((gaps.len(), gaps[0].reason, gaps[0].high), (1, GapReason::Reboot, Microjoules(5 * 1_875_000_000)));
    let series = gaps[0].series;
    let first = reader.flushes[end].batch.columns.iter().find(|column| column.series == series).expect("the run");
    assert_eq!((first.previous, first.points[0].value), (None, 5_000_000));
}

#[test]
fn a_machine_without_sensors_is_estimated_and_its_idle_power_is_told() {
    let mut rig = Rig::new(false);
    let mut reader = Reader::default();
    let mut sampler = rig.sampler(1, &empty());
    for second in 2..=12 {
        rig.at(second);
        reader.take(sampler.tick());
    }
    reader.take(sampler.close());
    let status = sampler.status();
    let cpu = status.cpu.expect("an estimate of the CPUs");
    assert_eq!((status.rows, cpu.energy, cpu.busy_nanos), (11, Microjoules(42_400_000), 10 * SECOND));
    assert!(status.sources.iter().all(|source| source.last == Some(BootNanos(12 * SECOND)) && !source.stuck));
    // Half busy: (1.48 + 7) ÷ 2 W for 10 s.
    assert_eq!(reader.energy(Component::Cpu), (42_400_000, Vec::new()));
    assert!(reader.energy(Component::Dram).0 > 0);
    let idle = reader.dictionary.values().filter(|subject| matches!(subject, Subject::IdlePower { .. })).count();
    assert_eq!(idle, 2);
    let cpu = |id: &u32| matches!(reader.dictionary.get(id), Some(Subject::CpuTime(_)));
    let used: u64 = reader.flushes.iter().map(|flush| amount(&flush.batch, cpu)).sum();
    assert_eq!(used, 10 * SECOND, "every nanosecond of CPU time is in a row");
}

fn service() -> Service {
    Service {
        model: Some("m".to_owned()),
        version: None,
        version_source: VersionSource::Unresolved,
        fingerprint: None,
        adapter: None,
        engine: "llamacpp".to_owned(),
        target: "t".to_owned(),
        workload: None,
        tokenizer: None,
        serving: joulebook_units::Serving::default(),
    }
}

fn counted(second: u64, counts: u64, shown: u64, origin: Option<u64>) -> CountSample {
    CountSample {
        of: None,
        service: service(),
        at: BootNanos(second * SECOND - SECOND / 2),
        counts: BTreeMap::from([(CountKind::OutputTokens, counts)]),
        origin: origin.map(|second| BootNanos(second * SECOND)),
        shown: BTreeMap::from([(CountKind::OutputTokens, shown)]),
        process: Some(ProcessId { pid: 7, start_ticks: 9 }),
        part: None,
    }
}

#[test]
fn counts_begin_at_their_origin_and_bridge_a_restart_of_the_agent() {
    let mut rig = Rig::new(false);
    let mut reader = Reader::default();
    let mut sampler = rig.sampler(1, &empty());
    let mut send = |rig: &Rig, sampler: &mut Sampler, second: u64, sample: CountSample| {
        rig.at(second);
        rig.counts.as_ref().expect("open").try_send(sample).expect("room");
        reader.take(sampler.tick());
    };
    send(&rig, &mut sampler, 5, counted(5, 100, 100, Some(3)));
    send(&rig, &mut sampler, 6, counted(6, 130, 130, None));
    reader.take(sampler.close());
    let mut sampler = rig.sampler(1, &reader.recovery());
    let mut send = |rig: &Rig, sampler: &mut Sampler, second: u64, sample: CountSample| {
        rig.at(second);
        rig.counts.as_ref().expect("open").try_send(sample).expect("room");
        reader.take(sampler.tick());
    };
    send(&rig, &mut sampler, 20, counted(20, 0, 200, None));
    send(&rig, &mut sampler, 21, counted(21, 15, 215, None));
    reader.take(sampler.close());
    let tokens = |id: &u32| matches!(reader.dictionary.get(id), Some(Subject::Count(..)));
    let sum: u64 = reader.flushes.iter().map(|flush| amount(&flush.batch, tokens)).sum();
    assert_eq!(sum, 215);
    assert_eq!(reader.dictionary.keys().filter(|id| tokens(id)).count(), 1);
}

#[test]
fn counts_follow_the_process_that_does_the_work_and_are_counted_once() {
    let mut rig = Rig::new(false);
    let mut reader = Reader::default();
    let process = |rig: &Rig, pid: i32, parent: i32, start: u64, command: &str| {
        let line = format!("{pid} (p) S {parent} 0 0 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0 2 0\n");
        rig.write(&format!("proc/{pid}/stat"), &line);
        rig.write(&format!("proc/{pid}/cmdline"), command);
    };
    process(&rig, 7, 1, 9, "server\0");
    let rule = "/(?P<model>[^/]+)/(?P<version>[0-9]+)/model".to_owned();
    rig.groups.send_replace(vec![InferenceGroup {
        target: "t".to_owned(),
        pid: 7,
        start_ticks: 9,
        reserved_millicores: None,
        parts: Some(rule.try_into().expect("valid")),
    }]);
    let mut sampler = rig.sampler(1, &empty());
    let part = PartName { model: "m".to_owned(), version: "1".to_owned() };
    let mut send = |second: u64, count: u64| {
        rig.at(second);
        let sample = CountSample { part: Some(part.clone()), ..counted(second, count, count, Some(2)) };
        rig.counts.as_ref().expect("open").try_send(sample).expect("room");
        reader.take(sampler.tick());
    };
    // The server alone, a process for the version, the server alone again, another process.
    send(3, 10);
    process(&rig, 8, 7, 350, "stub\0/repo/m/1/model.py\0");
    send(4, 30);
    send(5, 60);
    fs::remove_dir_all(rig.root.path().join("proc/8")).expect("ended");
    send(6, 100);
    process(&rig, 9, 7, 650, "stub\0/repo/m/1/model.py\0");
    send(7, 150);
    reader.take(sampler.close());
    let of = |id: u32| match reader.dictionary.get(&id) {
        Some(Subject::Count(service, _)) => service.workload.clone(),
        _ => None,
    };
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for workload in reader.dictionary.keys().filter_map(|id| of(*id)).collect::<BTreeSet<_>>() {
        let sum =
            reader.flushes.iter().map(|flush| amount(&flush.batch, |id| of(*id).as_ref() == Some(&workload))).sum();
        counts.insert(workload, sum);
    }
    let expected = [("process/7@9", 50), ("process/8@350", 50), ("process/9@650", 50)];
    assert_eq!(counts, expected.map(|(id, count)| (id.to_owned(), count)).into());
    // A later run goes on from the last one of them and from no other.
    let recovery = reader.recovery();
    let baselines = &recovery.last.as_ref().expect("a record").local.baselines;
    let kept: Vec<_> = baselines.iter().filter_map(|baseline| of(baseline.series)).collect();
    assert_eq!(kept, ["process/9@650"]);
}
