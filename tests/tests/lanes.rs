//! After an outage: live data has a stream of its own, what is old is drained beside it, and each joule is counted once,
//! also when the agent is started anew with several streams in its spool.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]
#![allow(clippy::print_stdout, reason = "prints its figures")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use joulebook_agent::clock::{Clock as _, SystemClock};
use joulebook_agent::collector::Sources;
use joulebook_agent::config::{Config, Roots};
use joulebook_agent::hardware;
use joulebook_agent::process::Workloads;
use joulebook_agent::sampler::{Flush, Parts, Sampler};
use joulebook_agent::spool::{Spool, SpoolConfig, SpoolError, SpoolHandle, read_all};
use joulebook_agent::uplink::{Security, Uplink, UplinkConfig, UplinkCounters};
use joulebook_tests::chaos::server::ANY_DISK;
use joulebook_tests::powercap::{Powercap, Zone};
use joulebook_units::{BootId, BootNanos, Inventory, Placement, Subject, UnixNanos};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

const SECOND: u64 = 1_000_000_000;
/// The aggregator's clock when the node's boot clock shows 0: 2026-11-24T00:00:00Z.
const BOOTED: i64 = 1_795_478_400;
const WATTS: u32 = 350;
/// Rows of an outage, one a second: 720 batches.
const OUTAGE: u64 = 3_600;
/// Most that live data may be behind while old data is drained.
const MOST_BEHIND: Duration = Duration::from_secs(10);

/// One clock for node and aggregator, moved by the test.
struct Hand(AtomicU64);

impl Hand {
    fn wall(&self) -> UnixNanos {
        UnixNanos(BOOTED * UnixNanos::PER_SECOND + i64::try_from(self.0.load(Ordering::SeqCst)).unwrap())
    }
}

impl joulebook_agent::clock::Clock for Hand {
    fn boot(&self) -> BootNanos {
        BootNanos(self.0.load(Ordering::SeqCst))
    }

    fn wall(&self) -> UnixNanos {
        Hand::wall(self)
    }
}

impl joulebook_aggregator::clock::Clock for Hand {
    fn unix(&self) -> UnixNanos {
        self.wall()
    }
}

/// An aggregator in this process.
struct Aggregator {
    address: String,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Aggregator {
    async fn start(folder: &Path, listen: &str, clock: &Arc<Hand>) -> Self {
        Self::start_with(folder, listen, Arc::<Hand>::clone(clock)).await
    }

    async fn start_with(folder: &Path, listen: &str, clock: Arc<dyn joulebook_aggregator::clock::Clock>) -> Self {
        let data = folder.join("db");
        let text =
            format!("listen = \"{listen}\"\ndata_dir = \"{}\"\ninsecure_loopback = true\n{ANY_DISK}", data.display());
        let config = joulebook_aggregator::config::Config::parse(&text, Path::new("test.toml")).unwrap();
        let (ready, address) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            joulebook_aggregator::run::run(config, clock, ready, stopped).await.unwrap();
        });
        Self { address: address.await.unwrap().to_string(), stop, serving }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.serving.await.unwrap();
    }

    /// Energy of the package over the whole day.
    async fn energy(&self) -> u64 {
        let url = format!("http://{}", self.address);
        let words = ["joulebook", "--aggregator", &url, "energy", "--by", "source"];
        let window = ["--from", "2026-11-24T00:00:00Z", "--to", "2026-11-25T00:00:00Z", "-o", "json"];
        let arguments: Vec<OsString> = words.iter().chain(&window).map(OsString::from).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = joulebook::run(arguments, &mut out, &mut err).await;
        assert_eq!(code, 0, "{}", String::from_utf8_lossy(&err));
        let answer: Value = serde_json::from_slice(&out).unwrap();
        let rows = answer["rows"].as_array().unwrap();
        let package = rows.iter().find(|row| row["key"].to_string().contains("package-0")).expect("the package");
        package["microjoules"].as_u64().unwrap()
    }
}

/// The agent's parts over a tree of files, as `run` puts them together, but for the clock.
struct Agent {
    sampler: Sampler,
    spool: SpoolHandle,
    wishes: watch::Receiver<u64>,
    counters: watch::Receiver<UplinkCounters>,
    sending: JoinHandle<()>,
    _kept: (mpsc::Sender<joulebook_agent::inference::CountSample>, watch::Sender<bool>),
}

struct Node {
    folder: PathBuf,
    clock: Arc<Hand>,
    zone: Zone,
    second: u64,
    /// µJ between the ends of the energy runs of all batches.
    made: u64,
    package: Option<u32>,
}

impl Node {
    fn new(folder: &Path, clock: &Arc<Hand>) -> Self {
        let write = |name: &str, text: &str| {
            let path = folder.join("proc").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("cpuinfo", "processor : 0\nvendor_id : GenuineIntel\nmodel name : Fake\n");
        write("meminfo", "MemTotal: 1000000 kB\nMemAvailable: 400000 kB\n");
        write("stat", "cpu 50 0 0 50 0 0 0 0\n");
        let tree = Powercap::new(&folder.join("sys")).unwrap();
        let zone = tree.zone("intel-rapl:0", "package-0", u32::MAX - 1_000_000).unwrap();
        let (folder, clock) = (folder.to_owned(), Arc::clone(clock));
        Self { folder, clock, zone, second: 10, made: 0, package: None }
    }

    async fn start(&self, address: &str) -> Agent {
        let at = |name: &str| self.folder.join(name);
        let roots = Roots { sysfs: at("sys"), procfs: at("proc"), cgroup: at("cgroup") };
        let hardware = hardware::discover(&roots);
        let mut sources = Sources::new(&Config::default(), &roots);
        let inventory = Inventory {
            node: "under-test".parse().unwrap(),
            agent_version: "0".to_owned(),
            sources: sources.discover().to_vec(),
            hardware,
            placement: Placement::default(),
        };
        let (told, inventory) = watch::channel(inventory);
        let (counts_kept, counts) = mpsc::channel(1);
        let (_, groups) = watch::channel(Vec::new());
        let boot = BootId([7; 16]);
        let parts = Parts {
            clock: self.clock.clone(),
            boot,
            batch_rows: 5,
            sources,
            workloads: Some(Workloads::new(&roots, 1)),
            package_idle: None,
            counts,
            groups,
            inventory: told,
        };
        let config = SpoolConfig { min_free_bytes: 0, ..SpoolConfig::new(at("spool")) };
        let (spool, recovery) = loop {
            // The lock goes with the thread of the spool before.
            match Spool::open(&config) {
                Ok(opened) => break opened,
                Err(SpoolError::Locked { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        let endpoint = format!("http://{address}");
        let settings = UplinkConfig { endpoint, security: Security::PlaintextOnLoopback, boot };
        let uplink = Uplink::new(settings, spool.clone(), inventory, self.clock.clone());
        let (counters, wishes) = (uplink.counters(), uplink.wishes_for_a_stream());
        let (end, ended) = watch::channel(false);
        let sending = tokio::spawn(async move {
            // The spool's end is seen by the next append.
            let _ = uplink.run(ended).await;
        });
        let sampler = Sampler::new(parts, &recovery);
        Agent { sampler, spool, wishes, counters, sending, _kept: (counts_kept, end) }
    }

    /// A batch of five rows, a second each; heeds the wish for a new stream as `run` does.
    async fn batch(&mut self, agent: &mut Agent) {
        for _ in 0..5 {
            self.second += 1;
            self.zone.flow(WATTS, Duration::from_secs(1)).unwrap();
            self.clock.0.store(self.second * SECOND, Ordering::SeqCst);
            let mut flushes = Vec::new();
            if agent.wishes.has_changed().unwrap_or(false) {
                agent.wishes.mark_unchanged();
                flushes.extend(agent.sampler.begin_stream());
            }
            flushes.extend(agent.sampler.tick());
            for flush in flushes {
                self.append(&agent.spool, flush).await;
            }
        }
    }

    async fn append(&mut self, spool: &SpoolHandle, flush: Flush) {
        let is_package =
            |subject: &Subject| matches!(subject, Subject::Energy(source) if source.id.contains("package-0"));
        let package = flush.new_series.iter().find(|(_, subject)| is_package(subject));
        self.package = package.map(|(series, _)| *series).or(self.package);
        for column in flush.batch.columns.iter().filter(|column| Some(column.series) == self.package) {
            let ends = column.previous.or(column.points.first().copied()).zip(column.points.last());
            self.made += ends.map_or(0, |(first, last)| last.value - first.value);
        }
        let appended = if flush.begins_stream {
            spool.begin_stream(flush.batch, flush.local, flush.new_series).await
        } else {
            spool.append(flush.batch, flush.local, flush.new_series).await
        };
        appended.unwrap();
    }
}

impl Agent {
    async fn connected(&self) {
        self.counters.clone().wait_for(|counters| counters.connected).await.unwrap();
    }

    async fn disconnected(&self) {
        self.counters.clone().wait_for(|counters| !counters.connected).await.unwrap();
    }

    /// Ends it as a kill does: nothing is closed.
    async fn kill(self) {
        self.sending.abort();
        let _ = self.sending.await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn live_data_is_not_behind_old_data_and_each_joule_is_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(Hand(AtomicU64::new(10 * SECOND)));
    let mut node = Node::new(folder.path(), &clock);
    let mut aggregator = Aggregator::start(folder.path(), "127.0.0.1:0", &clock).await;
    let address = aggregator.address.clone();
    let mut agent = node.start(&address).await;
    agent.connected().await;
    node.batch(&mut agent).await;
    assert!(agent.spool.drained(Duration::from_secs(60)).await);

    let (mut worst, mut beside, mut drained, mut records) = (Duration::ZERO, 0, Duration::ZERO, 0);
    for round in 0..3 {
        aggregator.stop().await;
        agent.disconnected().await;
        for _ in 0..OUTAGE / 5 {
            node.batch(&mut agent).await;
        }
        if round == 1 {
            // Killed in the outage, with an older stream and the live one in its spool.
            agent.kill().await;
            agent = node.start(&address).await;
            node.batch(&mut agent).await;
        }
        records += agent.spool.counters().waiting;
        aggregator = Aggregator::start(folder.path(), &address, &clock).await;
        agent.connected().await;
        let before = agent.spool.stream();
        let begin = SystemClock.boot();
        let mut killed = false;
        while agent.spool.counters().waiting > 0 {
            let appended = SystemClock.boot();
            node.batch(&mut agent).await;
            let live = agent.spool.counters();
            let mut seen = agent.spool.watch();
            let acked = seen.wait_for(|now| now.stream == live.stream && now.acked >= live.highest);
            let acked = *tokio::time::timeout(MOST_BEHIND * 6, acked).await.expect("acknowledged").unwrap();
            if live.stream != before || killed {
                worst = worst.max(SystemClock.boot().since(appended));
                beside += u64::from(acked.waiting > 0);
            }
            if round == 2 && !killed && acked.waiting > 0 {
                // Killed while it drains: both streams go on, and the live one stays the live one.
                killed = true;
                agent.kill().await;
                agent = node.start(&address).await;
                agent.connected().await;
            }
        }
        drained += SystemClock.boot().since(begin);
        assert_ne!(agent.spool.stream(), before, "live data had a stream of its own");
    }
    assert!(agent.spool.drained(Duration::from_secs(60)).await);
    println!(
        "{records} old records drained in {drained:.1?}, {beside} live ones beside them, acknowledged after {worst:.1?} at \
         most; {} streams held",
        agent.spool.counters().streams
    );
    assert!(beside >= 5, "void: {beside} live records were acknowledged while old ones waited");
    assert!(worst <= MOST_BEHIND, "live data was {worst:?} behind");

    let counters = agent.counters.borrow().clone();
    assert!(counters.rejected.is_empty(), "{:?}", counters.rejected);
    assert_eq!((counters.ack_regressions, agent.spool.counters().lost_records), (0, 0));
    assert_eq!(aggregator.energy().await, node.made, "to the microjoule");
    // Before the first row nothing is known.
    let truth = node.zone.truth_microjoules() - u64::from(WATTS) * 1_000_000;
    assert!(node.made.abs_diff(truth) <= 62 * 40, "{} of {truth}: no more than the counter's unit a wrap", node.made);
    agent.kill().await;
    aggregator.stop().await;
}

/// Waits until `done`, a minute at most.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = SystemClock.boot();
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    while !done() {
        assert!(SystemClock.boot().since(begin) < Duration::from_secs(60), "it never came: {what}");
        looks.tick().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_long_without_an_aggregator_begins_a_stream_when_it_meets_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let clock = Arc::new(Hand(AtomicU64::new(0)));
    let node = Node::new(folder.path(), &clock);
    // A port that is free now; nobody listens there for a while.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let text = format!(
        "node = \"under-test\"\naggregator = \"http://{address}\"\ninsecure_loopback = true\n[spool]\ndir = \"{}\"\n\
         min_free_bytes = 0\nkeep_acked = true\n[sampling]\ntick = \"100ms\"\nworkloads = \"1s\"\nbatch_rows = 1\n[roots]\n\
         sysfs = \"{}\"\nprocfs = \"{}\"\ncgroup = \"{}\"\n[nvml]\nenabled = false\n",
        path("spool").display(),
        path("sys").display(),
        path("proc").display(),
        path("cgroup").display(),
    );
    let config = Config::parse(&text, Path::new("test.toml")).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let agent = tokio::spawn(joulebook_agent::run::run(config, Arc::new(SystemClock), stopped));
    let mut zone = node.zone;
    let flowing = tokio::spawn(async move {
        let mut steps = tokio::time::interval(Duration::from_millis(10));
        loop {
            steps.tick().await;
            zone.flow(WATTS, Duration::from_millis(10)).unwrap();
        }
    });
    let records = || read_all(&path("spool")).unwrap_or_default();
    until("more than a window of records", || records().len() > 80).await;
    let aggregator = Aggregator::start_with(folder.path(), &address, Arc::new(Real(SystemClock.boot()))).await;
    let lanes = || {
        std::fs::read_dir(path("spool"))
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("lane-"))
    };
    until("a new stream", || lanes().count() > 0).await;
    let before = records().len();
    until("records in it", || records().len() > before + 5).await;
    stop.send(()).unwrap();
    agent.await.unwrap().unwrap();
    flowing.abort();

    let (spool, recovery) = Spool::open(&SpoolConfig::new(path("spool"))).unwrap();
    let is_package = |subject: &Subject| matches!(subject, Subject::Energy(source) if source.id.contains("package-0"));
    let package = recovery.dictionary.iter().find(|(_, subject)| is_package(subject)).map(|(series, _)| *series);
    assert_eq!((spool.counters().streams, spool.counters().waiting), (2, 0), "all of it is delivered");
    let sent: u64 = records()
        .iter()
        .flat_map(|record| &record.batch.columns)
        .filter(|one| Some(one.series) == package)
        .map(|column| {
            let first = column.previous.unwrap_or(column.points[0]);
            column.points[column.points.len() - 1].value - first.value
        })
        .sum();
    assert!(sent > 0);
    assert_eq!(aggregator.energy().await, sent, "each joule once");
    aggregator.stop().await;
}

/// An aggregator's clock that goes as a real one does, on the day that is asked for.
struct Real(BootNanos);

impl joulebook_aggregator::clock::Clock for Real {
    fn unix(&self) -> UnixNanos {
        let nanos = i64::try_from(SystemClock.boot().since(self.0).as_nanos()).unwrap();
        UnixNanos((BOOTED + 3 * 3600) * UnixNanos::PER_SECOND + nanos)
    }
}
