//! What is told by OpenTelemetry: real receivers print and store it, and none of them can hold anything up.

#![allow(clippy::expect_used, clippy::panic, reason = "functions that tests call may fail the test")]

#[path = "otlp/away.rs"]
mod away;
#[path = "otlp/hostile.rs"]
mod hostile;
#[path = "otlp/ingest.rs"]
mod ingest;
#[path = "otlp/own.rs"]
mod own;
#[path = "otlp/tls.rs"]
mod tls;

use joulebook_aggregator::export::Snapshot;
use joulebook_aggregator::export::config::ExportSection;
use joulebook_aggregator::export::otlp::{ROOM, messages, tell};
use joulebook_otlp::{Counts, OtlpSection, Protocol as OtlpProtocol, Queue, Sender, Signal};
use joulebook_tests::export::Exported;
use joulebook_tests::otlp::{Rotel, Victoria};
use joulebook_tests::prometheus::Labels;
use joulebook_tests::wait::until_async;
use joulebook_units::UnixNanos;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Figures of a step that counters have, too.
async fn figures() -> (Exported, Arc<Snapshot>) {
    let exported = Exported::start(ExportSection { delay: Duration::ZERO, ..ExportSection::default() }).await;
    exported.pass(Duration::from_secs(300));
    let mut figures = exported.figures.clone();
    let told = figures.wait_for(|now| now.as_ref().is_some_and(|now| !now.tally.nodes.is_empty())).await;
    let told = told.expect("figures").clone().expect("figures");
    (exported, told)
}

/// Someone who tells a receiver what is put in. It ends with the value.
struct Telling {
    told: watch::Sender<Option<Arc<Snapshot>>>,
    queue: Arc<Queue>,
    _task: JoinSet<()>,
}

impl Telling {
    fn start(section: OtlpSection) -> Self {
        let clock = Arc::new(|| UnixNanos(0));
        let mut sender = Sender::new(&section, Signal::Metrics, ROOM, clock).expect("a receiver");
        let queue = sender.queue();
        let (told, figures) = watch::channel(None);
        let mut task = JoinSet::new();
        task.spawn(async move { sender.run().await });
        task.spawn(tell(figures, Arc::clone(&queue), section.cluster));
        Self { told, queue, _task: task }
    }

    fn tell(&self, snapshot: &Arc<Snapshot>) {
        self.told.send_replace(Some(Arc::clone(snapshot)));
    }

    fn counts(&self) -> Counts {
        self.queue.counts()
    }
}

fn section(endpoint: String, protocol: OtlpProtocol) -> OtlpSection {
    OtlpSection { endpoint: Some(endpoint), protocol, cluster: Some("prod".to_owned()), ..OtlpSection::default() }
}

fn points(snapshot: &Snapshot) -> u64 {
    messages(snapshot, None).iter().map(|message| message.items as u64).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_receiver_prints_our_points_by_grpc_and_by_http() {
    let (_exported, snapshot) = figures().await;
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::Http] {
        let rotel = Rotel::printing("metrics").expect("rotel");
        let address = if protocol == OtlpProtocol::Grpc { &rotel.grpc } else { &rotel.http };
        let telling = Telling::start(section(format!("http://{address}"), protocol));
        telling.tell(&snapshot);
        until_async("all is delivered", async || telling.counts().sent == points(&snapshot)).await;
        for word in [
            "hw.energy",
            "hw.power",
            "hw.host.energy",
            "hw.host.power",
            "hw.gpu.memory.limit",
            "gen_ai.infrastructure.energy",
            "gen_ai.infrastructure.energy.per_token",
            "gen_ai.infrastructure.idle_ratio",
            "joulebook.model.carbon",
            "joulebook.model.window.sci",
            "k8s.node.name: Str(node-0)|k8s.node.name.*node-0",
            "k8s.cluster.name.*prod",
            "host.name.*node-1",
            "hw.type.*gpu",
        ] {
            rotel.program.wait_for(&word.replace('.', r"\.").replace(r"\.*", ".*")).expect("printed");
        }
    }
}

fn same(one: f64, other: f64) -> bool {
    (one - other).abs() <= 1e-9 * one.abs().max(other.abs())
}

fn value(series: &[(Labels, f64)], labels: &[(&str, &str)]) -> f64 {
    let matches = |found: &Labels| labels.iter().all(|(name, value)| found.get(*name).is_some_and(|it| it == value));
    let found: Vec<_> = series.iter().filter(|(labels, _)| matches(labels)).collect();
    let [(_, value)] = found.as_slice() else { panic!("{labels:?}: {series:?}") };
    *value
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_behind_a_real_receiver_is_what_the_command_line_answers() {
    let (exported, snapshot) = figures().await;
    let store = Victoria::start().expect("VictoriaMetrics");
    let rotel = Rotel::before(&store).expect("rotel");
    let telling = Telling::start(section(format!("http://{}", rotel.grpc), OtlpProtocol::Grpc));
    telling.tell(&snapshot);
    let at = snapshot.at.0 / UnixNanos::PER_SECOND;
    let ask = async |query: &str| store.query(query, at).await.unwrap_or_default();
    until_async("it is stored", async || ask("{__name__=~\"joulebook_model_window_sci.*\"}").await.len() >= 4).await;

    let since = (snapshot.tally.since, snapshot.at);
    let by_node = exported.ask(&["energy", "--by", "node"], since).await;
    let stored = ask("hw_host_energy_joules_total").await;
    let rows = by_node["rows"].as_array().expect("rows");
    assert_eq!((rows.len(), stored.len()), (2, 2), "{stored:?}");
    for row in rows {
        let node = row["key"][0]["value"].as_str().expect("a name");
        let energy = row["microjoules"].as_f64().expect("known") / 1e6;
        assert!(energy > 0.0 && same(value(&stored, &[("host_name", node)]), energy), "{row} {stored:?}");
    }
    let by_source = exported.ask(&["energy", "--by", "source"], since).await;
    let stored = ask("hw_energy_joules_total").await;
    let mut compared = 0;
    for row in by_source["rows"].as_array().expect("rows") {
        let key = |name: &str| -> &str {
            let parts = row["key"].as_array().expect("a key").iter();
            parts.filter(|part| part["name"] == name).find_map(|part| part["value"].as_str()).unwrap_or_default()
        };
        if !key("contained").is_empty() || !key("layer").is_empty() {
            continue;
        }
        let energy = row["microjoules"].as_f64().expect("known") / 1e6;
        let labels = [("host_name", key("node")), ("hw_id", key("source"))];
        assert!(same(value(&stored, &labels), energy), "{row} {stored:?}");
        compared += 1;
    }
    assert!(compared >= 7 && compared == stored.len(), "{compared} {stored:?}");

    let hour = (snapshot.at.plus_seconds(-3600), snapshot.at);
    let answers = exported.ask(&["sci"], hour).await;
    let answers: &Vec<Value> = answers["answers"].as_array().expect("answers");
    let (sci, carbon) =
        (ask("joulebook_model_window_sci_grams").await, ask("joulebook_model_window_carbon_grams").await);
    assert!(answers.len() >= 2);
    for answer in answers {
        let version = answer["subject"]["model_version"].as_str().expect("known");
        let of = [("joulebook_model_version", version), ("joulebook_window", "1h")];
        let shown = value(&sci, &of);
        assert!(same(shown, answer["sci"]["value"].as_f64().expect("known")), "{shown} {answer}");
        let operational = value(&carbon, &[of[0], of[1], ("joulebook_part", "operational")]);
        assert!(same(operational, answer["carbon"]["o_g"].as_f64().expect("known")), "{operational} {answer}");
    }
}
