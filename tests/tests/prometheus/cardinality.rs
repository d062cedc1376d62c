//! How many series a cluster of 1,000 nodes makes.

#![allow(clippy::print_stdout, reason = "it says what it counted")]

use super::section;
use joulebook_aggregator::export::live::Live;
use joulebook_aggregator::export::metric::ALL;
use joulebook_aggregator::export::tally::Tally;
use joulebook_aggregator::export::window::{Shown, points};
use joulebook_aggregator::factor::{FactorConfig, Factors};
use joulebook_aggregator::ingest::{Counters, Intake, Opening, Request};
use joulebook_aggregator::query::overview::{NodeView, Overview, SourceView, VersionView};
use joulebook_aggregator::store::Book;
use joulebook_aggregator::store::memory::MemoryStore;
use joulebook_aggregator::store::space::{Least, Space};
use joulebook_tests::export::Exported;
use joulebook_tests::history::inventory;
use joulebook_units::{BootId, BootNanos, Component, UnixNanos};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;

const NODES: usize = 1_000;
const GPUS: usize = 8;
const VERSIONS: usize = 100;
/// What is said of it wherever it is said.
const MOST_SERIES: usize = 45_000;

fn node(number: usize, of: &NodeView) -> NodeView {
    let gpu = |place: usize| SourceView {
        id: format!("nvml/GPU-{number}-{place}"),
        component: Component::Accelerator,
        device: Some((format!("GPU-{number}-{place}"), "NVIDIA H100".to_owned())),
        memory_bytes: Some(80 << 30),
        beside: false,
        microjoules: 1,
    };
    NodeView {
        node: format!("node-{number}"),
        pool: of.pool.clone(),
        site: of.site.clone(),
        simulated: of.simulated,
        accounts: of.accounts.clone(),
        overcount: of.overcount,
        coverage: Some(1.0),
        held: Some(1.0),
        own: [("agent", 1), ("aggregator", 1)].into(),
        sources: (0..GPUS).map(gpu).collect(),
    }
}

fn live() -> Live {
    let book = Arc::new(Book::open(Arc::new(MemoryStore::default())).expect("memory does not fail"));
    let counters = Arc::new(Counters::default());
    let mut intake = Intake::new(Arc::clone(&book), Arc::clone(&counters));
    for number in 0..NODES {
        let mut inventory = inventory(0);
        inventory.node = format!("node-{number}").parse().expect("a name");
        let now = UnixNanos::from_seconds(1_790_000_000);
        let opening = Opening {
            inventory,
            poller: None,
            epoch: 1,
            boot: BootId([1; 16]),
            boot_time: BootNanos(1),
            wall: now,
            received: now,
            streams: vec![],
        };
        intake.apply(now, vec![Request::Open(number as u64, Box::new(opening))]).expect("memory does not fail");
    }
    let factors = Factors::new(&FactorConfig::default()).expect("the embedded tables");
    Live {
        book,
        counters,
        factors: watch::channel(Arc::new(factors)).1,
        feeds: Arc::default(),
        space: Arc::new(Space::new(Path::new("."), Least { percent: 0.0, bytes: 0 })),
        told: None,
        started: UnixNanos(0),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_nodes_make_a_bounded_number_of_series() {
    let exported = Exported::start(section()).await;
    let figures = exported.figures.borrow().clone().expect("figures");
    let (some, of) = (&figures.step.versions, figures.step.nodes.first().expect("a node"));
    let version = |number: usize| {
        let VersionView { answer, .. } = &some[number % some.len()];
        let (model, version) = (format!("model-{number}"), "1".to_owned());
        let (weights, serving_config) = ("gguf:0123456789abcdef".to_owned(), "0123456789abcdef".to_owned());
        VersionView { model, version, weights, serving_config, answer: answer.clone() }
    };
    let overview = Overview {
        window: figures.step.window,
        versions: (0..VERSIONS).map(version).collect(),
        accounts: figures.step.accounts.clone(),
        nodes: (0..NODES).map(|number| node(number, of)).collect(),
    };
    let step = points(&overview, Shown { model_versions: 200, nodes: true }).into_vec();
    let hour = points(&overview, Shown { model_versions: 200, nodes: false }).into_vec();
    let mut tally = Tally::new(overview.window.start());
    tally.add(&overview, 200);
    let all: Vec<_> = [step, hour, tally.points().into_vec(), live().points().into_vec()].concat();
    let mut by_name: BTreeMap<&str, usize> = BTreeMap::new();
    all.iter().for_each(|point| *by_name.entry(point.metric.name).or_default() += 1);
    println!("{NODES} nodes of {GPUS} GPUs and {VERSIONS} model versions: {} series", all.len());
    by_name.iter().for_each(|(name, count)| println!("{count:>7} {name}"));
    assert!(all.len() <= MOST_SERIES, "{}", all.len());
    assert!(by_name["joulebook_gpu_energy_joules"] == NODES * GPUS && by_name["joulebook_node_connected"] == NODES);
    // Nothing of a process, a user or a pod.
    for metric in ALL {
        let fine = ["pid", "process", "pod", "container", "user", "consumer", "tenant"];
        assert!(metric.labels.iter().all(|label| !fine.contains(label)), "{}", metric.name);
    }
    let few = points(&overview, Shown { model_versions: 10, nodes: false }).into_vec();
    let value = |name: &str| few.iter().find(|point| point.metric.name == name).map(|point| point.value);
    assert_eq!(value("joulebook_export_left_out_model_versions"), Some(90.0));
    assert_eq!(few.iter().filter(|point| point.metric.name == "joulebook_model_info").count(), 10);
}
