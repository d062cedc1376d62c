//! Bad inputs of sysfs and procfs through the agent's real sources and sampler, on a machine made of files with a clock
//! that the test moves. Each test is named after its row of the set of bad inputs and holds the whole outcome.

#![allow(clippy::expect_used, clippy::panic, reason = "a test ends at what it did not expect")]

use joulebook_agent::clock::Clock;
use joulebook_agent::collector::Sources;
use joulebook_agent::config::{Config, Roots};
use joulebook_agent::hardware;
use joulebook_agent::inference::CountSample;
use joulebook_agent::process::{InferenceGroup, Workloads};
use joulebook_agent::sampler::{Flush, Parts, Sampler, tell};
use joulebook_agent::spool::Recovery;
use joulebook_units::{
    BootId, BootNanos, Column, EnergyGap, GapReason, Inventory, NodeName, Placement, SourceState, StreamId, Subject,
    UnixNanos, Workload,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once};
use tokio::sync::{mpsc, watch};

#[path = "rows/access.rs"]
mod access;
#[path = "rows/counters.rs"]
mod counters;
#[path = "rows/processes.rs"]
mod processes;

const SECOND: u64 = 1_000_000_000;
/// The clock at the first row: no agent starts at boot.
const START: u64 = 10 * SECOND;
/// Range of the counters in µJ.
const RANGE: u64 = 262_143_328_850;
/// What each counter shows at first.
const BEGIN: u64 = 100_000_000_000;
/// The package that the rows break, and the one beside it.
const BROKEN: &str = "rapl/package-0";
const NEIGHBOUR: &str = "rapl/package-1";
/// Energy of the neighbour in one second.
const NEIGHBOUR_MICROJOULES: u64 = 90_000_007;

struct Hand(Mutex<BootNanos>);

impl Clock for Hand {
    fn boot(&self) -> BootNanos {
        *self.0.lock().expect("not poisoned")
    }

    fn wall(&self) -> UnixNanos {
        UnixNanos(i64::try_from(self.boot().0).expect("small") + 1_795_478_400 * UnixNanos::PER_SECOND)
    }
}

thread_local! {
    /// What this thread has logged.
    static SAID: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct Said;

impl io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        SAID.with_borrow_mut(|said| said.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines that this thread has logged with a word in them.
fn said(word: &str) -> Vec<String> {
    let text = SAID.with_borrow(|said| String::from_utf8_lossy(said).into_owned());
    text.lines().filter(|line| line.contains(word)).map(str::to_owned).collect()
}

/// A machine made of files: two packages, and whatever a row adds.
struct Machine {
    root: tempfile::TempDir,
    clock: Arc<Hand>,
    /// Whether the agent may not read everything.
    closed: Cell<bool>,
}

impl Machine {
    fn new() -> Self {
        static LISTEN: Once = Once::new();
        // For the whole process: a subscriber of one thread may miss what another thread was the first to log.
        LISTEN.call_once(|| tracing_subscriber::fmt().with_writer(|| Said).with_ansi(false).without_time().init());
        SAID.take();
        let machine = Self {
            root: tempfile::tempdir().expect("folder"),
            clock: Arc::new(Hand(Mutex::new(BootNanos(START)))),
            closed: Cell::new(false),
        };
        machine.write("proc/cpuinfo", "processor : 0\nprocessor : 1\nvendor_id : GenuineIntel\n");
        machine.write("proc/meminfo", "MemTotal: 1000000 kB\nMemAvailable: 400000 kB\n");
        machine.write("proc/stat", "cpu 0 0 0 0 0 0 0 0\n");
        machine.zone("intel-rapl:0", "package-0", BEGIN);
        machine.zone("intel-rapl:1", "package-1", BEGIN);
        // The neighbour's own limit: its counter cannot wrap within a quarter of an hour.
        machine.write("sys/class/powercap/intel-rapl:1/constraint_0_max_power_uw", "100000000\n");
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn zone_path(&self, folder: &str) -> PathBuf {
        self.path("sys/class/powercap").join(folder)
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("inside")).expect("folder");
        fs::write(path, content).expect("file");
    }

    fn zone(&self, folder: &str, name: &str, energy: u64) {
        for (file, text) in [("name", name.to_owned()), ("max_energy_range_uj", RANGE.to_string())] {
            self.write(&format!("sys/class/powercap/{folder}/{file}"), text + "\n");
        }
        self.shows(folder, format!("{energy}\n"));
    }

    fn shows(&self, folder: &str, content: impl AsRef<[u8]>) {
        self.write(&format!("sys/class/powercap/{folder}/energy_uj"), content);
    }

    /// A line of `/proc/<pid>/stat`: name, start, and user and system time in clock ticks.
    fn process(&self, pid: i32, comm: &str, start: u64, (user, system): (u64, u64)) {
        let line = format!("{pid} ({comm}) S 1 0 0 0 -1 0 0 0 0 0 {user} {system} 0 0 20 0 1 0 {start} 0 2 0\n");
        self.write(&format!("proc/{pid}/stat"), line);
    }

    fn roots(&self) -> Roots {
        Roots { sysfs: self.path("sys"), procfs: self.path("proc"), cgroup: self.path("sys/fs/cgroup") }
    }

    /// Starts the agent's parts and takes the first row.
    fn start(self) -> Rig {
        let unprivileged = self.unprivileged();
        let roots = self.roots();
        let hardware = hardware::discover(&roots);
        let mut sources = Sources::new(&Config::default(), &roots);
        let states = sources.discover().to_vec();
        states.iter().for_each(tell);
        let node: NodeName = "n".parse().expect("a name");
        let (agent_version, placement) = ("0".to_owned(), Placement::default());
        let inventory = Inventory { node, agent_version, sources: states.clone(), hardware, placement };
        let (counts_kept, counts) = mpsc::channel(1);
        let (groups_kept, groups) = watch::channel(Vec::new());
        let parts = Parts {
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            boot: BootId([7; 16]),
            batch_rows: 60,
            sources,
            workloads: Some(Workloads::new(&roots, 2)),
            package_idle: None,
            counts,
            groups,
            inventory: watch::channel(inventory).0,
        };
        let (stream, dictionary) = (StreamId([1; 16]), BTreeMap::new());
        let recovery = Recovery { stream, session_epoch: 1, dictionary, last: None, highest_sequence: 0 };
        let mut rig = Rig {
            machine: self,
            sampler: Sampler::new(parts, &recovery),
            states,
            subjects: BTreeMap::new(),
            columns: Vec::new(),
            gaps: Vec::new(),
            seconds: vec![0],
            _kept: (counts_kept, groups_kept),
        };
        let flushes = rig.sampler.tick();
        drop(unprivileged);
        rig.take(flushes);
        rig
    }
}

/// The machine with an agent on it.
struct Rig {
    machine: Machine,
    sampler: Sampler,
    /// The sources as discovered at the start.
    states: Vec<SourceState>,
    subjects: BTreeMap<u32, Subject>,
    columns: Vec<Column>,
    gaps: Vec<EnergyGap>,
    /// When rows were taken, in seconds after the first one.
    seconds: Vec<u64>,
    _kept: (mpsc::Sender<CountSample>, watch::Sender<Vec<InferenceGroup>>),
}

/// What became of one source.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// Its energy.
    microjoules: u64,
    /// The seconds at which its sum is known.
    known: Vec<u64>,
    /// What is unknown: reason, from which second to which.
    gaps: Vec<(GapReason, u64, u64)>,
    /// Readings refused or held, by reason.
    refused: Vec<(&'static str, u64)>,
    /// What its counter did.
    turns: Vec<(&'static str, u64)>,
}

impl Rig {
    /// The machine with its two packages, and the first row.
    fn new() -> Self {
        Machine::new().start()
    }

    /// The next row, a second after the last one, in which the broken counter shows this.
    fn shows(&mut self, content: impl AsRef<[u8]>) {
        self.machine.shows("intel-rapl:0", content);
        self.pass(1);
    }

    /// The next row, so many seconds after the last one; the neighbour works all the time.
    fn pass(&mut self, seconds: u64) {
        let now = self.seconds.last().expect("a first row") + seconds;
        self.seconds.push(now);
        *self.machine.clock.0.lock().expect("not poisoned") = BootNanos(START + now * SECOND);
        if self.machine.zone_path("intel-rapl:1").is_dir() {
            self.machine.shows("intel-rapl:1", format!("{}\n", BEGIN + now * NEIGHBOUR_MICROJOULES));
        }
        self.machine.write("proc/stat", format!("cpu {0} 0 0 {0} 0 0 0 0\n", now * 100));
        let unprivileged = self.machine.unprivileged();
        let flushes = self.sampler.tick();
        drop(unprivileged);
        self.take(flushes);
    }

    fn take(&mut self, flushes: impl IntoIterator<Item = Flush>) {
        for flush in flushes {
            self.subjects.extend(flush.new_series);
            self.columns.extend(flush.batch.columns);
            self.gaps.extend(flush.batch.gaps);
        }
    }

    /// What became of a source so far.
    fn outcome(&mut self, id: &str) -> Outcome {
        let last = self.sampler.close();
        self.take(last);
        let second = |at: BootNanos| (at.0 - START) / SECOND;
        let mine = |series: &u32| matches!(&self.subjects[series], Subject::Energy(source) if source.id == id);
        let of = |counts: &BTreeMap<(String, &'static str), u64>| {
            let mine = counts.iter().filter(|((source, _), _)| source == id);
            mine.map(|((_, word), count)| (*word, *count)).collect()
        };
        let columns: Vec<_> = self.columns.iter().filter(|column| mine(&column.series)).collect();
        let gaps = self.gaps.iter().filter(|gap| mine(&gap.series));
        Outcome {
            microjoules: columns.iter().map(|column| amount(column)).sum(),
            known: columns.iter().flat_map(|column| &column.points).map(|point| second(point.at)).collect(),
            gaps: gaps.map(|gap| (gap.reason, second(gap.from), second(gap.to))).collect(),
            refused: of(self.sampler.refused()),
            turns: of(self.sampler.turns()),
        }
    }

    /// What became of the broken source; its neighbour must have seen nothing of it.
    fn broken(&mut self) -> Outcome {
        let all = self.seconds.clone();
        let end = all.last().expect("a first row");
        let whole = Outcome {
            microjoules: end * NEIGHBOUR_MICROJOULES,
            known: all.clone(),
            gaps: Vec::new(),
            refused: Vec::new(),
            turns: Vec::new(),
        };
        assert_eq!(self.outcome(NEIGHBOUR), whole, "the neighbour");
        assert!(said("").iter().all(|line| line.len() <= 1_024), "lines of the log are short");
        self.outcome(BROKEN)
    }

    /// The declared bounds of the only gap, in µJ.
    fn bounds(&self) -> (u64, u64) {
        assert_eq!(self.gaps.len(), 1, "{:?}", self.gaps);
        (self.gaps[0].low.0, self.gaps[0].high.0)
    }

    /// CPU time of each workload so far, in ns, and the workloads as they are described.
    fn workloads(&mut self) -> (BTreeMap<String, u64>, Vec<Workload>) {
        let last = self.sampler.close();
        self.take(last);
        let (mut used, mut described) = (BTreeMap::new(), Vec::new());
        for (series, subject) in &self.subjects {
            let Subject::CpuTime(workload) = subject else { continue };
            let columns = self.columns.iter().filter(|column| column.series == *series);
            *used.entry(workload.id.clone()).or_default() += columns.map(amount).sum::<u64>();
            described.push(Workload::clone(workload));
        }
        (used, described)
    }
}

/// What passed in a run.
fn amount(column: &Column) -> u64 {
    let first = column.previous.unwrap_or(column.points[0]).value;
    column.points[column.points.len() - 1].value - first
}
