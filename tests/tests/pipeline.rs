//! From a sensor that wraps and resets to the stored joule: one known truth, every part of the way real but time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "functions that tests call may fail the test")]

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use joulebook_agent::collector::Sources;
use joulebook_agent::config::{Config, Roots};
use joulebook_agent::hardware;
use joulebook_agent::process::Workloads;
use joulebook_agent::sampler::{Parts, Sampler};
use joulebook_agent::spool::{Spool, SpoolConfig};
use joulebook_agent::uplink::{Security, Uplink, UplinkConfig};
use joulebook_aggregator::store::Book;
use joulebook_aggregator::store::rocks::RocksStore;
use joulebook_tests::chaos::server::ANY_DISK;
use joulebook_tests::powercap::{Powercap, RANGE_MICROJOULES};
use joulebook_units::{BootId, BootNanos, GapReason, Inventory, Placement, UnixNanos, Window};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

const SECOND: u64 = 1_000_000_000;
/// The aggregator's clock when the node's boot clock shows 0: 2026-11-24T00:00:00Z.
const BOOTED: i64 = 1_795_478_400;
const WATTS: u32 = 350;
const TICKS: u64 = 2_400;
/// In the middle of the counter's range, where a fall can be no wrap.
const RESET_AT: u64 = 1_100;

/// One clock for node and aggregator, moved by the test.
struct Hand(AtomicU64);

impl Hand {
    fn nanos(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn wall(&self) -> UnixNanos {
        UnixNanos(BOOTED * UnixNanos::PER_SECOND + i64::try_from(self.nanos()).unwrap())
    }
}

impl joulebook_agent::clock::Clock for Hand {
    fn boot(&self) -> BootNanos {
        BootNanos(self.nanos())
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

/// A machine of files: one processor that is half busy.
fn write_proc(folder: &Path, second: u64) {
    std::fs::create_dir_all(folder).unwrap();
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).unwrap();
    write("cpuinfo", "processor : 0\nvendor_id : GenuineIntel\nmodel name : Fake\n".to_owned());
    write("meminfo", "MemTotal: 1000000 kB\nMemAvailable: 400000 kB\n".to_owned());
    write("stat", format!("cpu {} 0 0 {} 0 0 0 0\n", second * 50, second * 50));
}

/// What the operator's tool answers as JSON.
async fn ask(address: &str, words: &[&str]) -> Value {
    let url = format!("http://{address}");
    let fixed = ["joulebook", "--aggregator", url.as_str()];
    let arguments: Vec<OsString> = fixed.iter().chain(words).chain(&["-o", "json"]).map(OsString::from).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = joulebook::run(arguments, &mut out, &mut err).await;
    assert_eq!(code, 0, "{}", String::from_utf8_lossy(&err));
    serde_json::from_slice(&out).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn energy_of_three_wraps_and_a_reset_is_the_truth_and_the_gap_is_declared() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let clock = Arc::new(Hand(AtomicU64::new(10 * SECOND)));

    // The aggregator, whole, on a free port.
    let (ready, address) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let text = format!(
        "listen = \"127.0.0.1:0\"\ndata_dir = \"{}\"\ninsecure_loopback = true\n{ANY_DISK}",
        path("db").display()
    );
    let config = joulebook_aggregator::config::Config::parse(&text, Path::new("test.toml")).unwrap();
    let serving = tokio::spawn(joulebook_aggregator::run::run(config, clock.clone(), ready, async {
        let _ = stopped.await;
    }));
    let address = address.await.unwrap().to_string();

    // The agent's parts over a tree of files.
    write_proc(&path("proc"), 10);
    let tree = Powercap::new(&path("sys")).unwrap();
    let mut zone = tree.zone("intel-rapl:0", "package-0", u32::MAX - 1_000_000).unwrap();
    let roots = Roots { sysfs: path("sys"), procfs: path("proc"), cgroup: path("cgroup") };
    let hardware = hardware::discover(&roots);
    let mut sources = Sources::new(&Config::default(), &roots);
    let states = sources.discover().to_vec();
    assert!(
        states.iter().any(|state| state.source.id.contains("package-0") && state.unavailable.is_none()),
        "{states:?}"
    );
    let inventory = Inventory {
        node: "under-test".parse().unwrap(),
        agent_version: "0".to_owned(),
        sources: states,
        hardware,
        placement: Placement::default(),
    };
    let (told, inventory) = watch::channel(inventory);
    let (_counts, no_counts) = mpsc::channel(1);
    let (_groups, no_groups) = watch::channel(Vec::new());
    let boot = BootId([7; 16]);
    let parts = Parts {
        clock: clock.clone(),
        boot,
        batch_rows: 5,
        sources,
        workloads: Some(Workloads::new(&roots, 1)),
        package_idle: None,
        counts: no_counts,
        groups: no_groups,
        inventory: told,
    };
    let (spool, recovery) = Spool::open(&SpoolConfig::new(path("spool"))).unwrap();
    let mut sampler = Sampler::new(parts, &recovery);
    let settings =
        UplinkConfig { endpoint: format!("http://{address}"), security: Security::PlaintextOnLoopback, boot };
    let uplink = Uplink::new(settings, spool.clone(), inventory, clock.clone());
    let mut counters = uplink.counters();
    let (end, ended) = watch::channel(false);
    let sending = tokio::spawn(uplink.run(ended));
    // Time stands still until the clocks have met.
    counters.wait_for(|counters| counters.connected).await.unwrap();

    for tick in 0..TICKS {
        if tick == RESET_AT {
            zone.flow(WATTS, Duration::from_millis(400)).unwrap();
            zone.reset().unwrap();
            zone.flow(WATTS, Duration::from_millis(600)).unwrap();
        } else if tick > 0 {
            zone.flow(WATTS, Duration::from_secs(1)).unwrap();
        }
        clock.0.store((11 + tick) * SECOND, Ordering::SeqCst);
        write_proc(&path("proc"), 11 + tick);
        for flush in sampler.tick() {
            spool.append(flush.batch, flush.local, flush.new_series).await.unwrap();
        }
    }
    if let Some(flush) = sampler.close() {
        spool.append(flush.batch, flush.local, flush.new_series).await.unwrap();
    }
    assert!(spool.drained(Duration::from_secs(60)).await, "{:?}", spool.counters());

    let truth = zone.truth_microjoules();
    assert!(truth > 3 * RANGE_MICROJOULES, "three wraps");
    let answer =
        ask(&address, &["energy", "--by", "source", "--from", "2026-11-24T00:00:00Z", "--to", "2026-11-24T01:00:00Z"])
            .await;
    let rows = answer["rows"].as_array().unwrap();
    let package = rows.iter().find(|row| row["key"].to_string().contains("package-0")).expect("the package has a row");
    let stored = package["microjoules"].as_u64().unwrap();
    assert!(stored.abs_diff(truth) * 1000 <= truth, "{stored} µJ stored of {truth} µJ");
    let covered = answer["energy_measured_fraction"].as_f64().unwrap();
    assert!(covered < 1.0, "the gap lowers the coverage: {covered}");

    end.send(true).unwrap();
    sending.await.unwrap().unwrap();
    spool.close().await.unwrap();
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();

    let book = Book::open(Arc::new(RocksStore::open(&path("db")).unwrap())).unwrap();
    let all = Window::new(UnixNanos::from_seconds(BOOTED), UnixNanos::from_seconds(BOOTED + 3600)).unwrap();
    let (gaps, lost) = book.gaps(0, all).unwrap();
    assert!(lost.is_empty(), "{lost:?}");
    assert_eq!(gaps.iter().map(|gap| gap.reason).collect::<Vec<_>>(), [GapReason::CounterReset]);
    let missing = truth - stored;
    assert!((gaps[0].low.0..=gaps[0].high.0).contains(&missing), "{missing} µJ are missing, declared: {gaps:?}");
    // The counter's unit is all that rounding may cost: one a wrap.
    assert!(missing.abs_diff(u64::from(WATTS) * 1_000_000) <= 4 * 62, "{missing} µJ");
}
