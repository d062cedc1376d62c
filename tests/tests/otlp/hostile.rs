//! Names of models that would break what they are pasted into stay values of labels: on the page that a real Prometheus
//! reads, and behind a real receiver of OpenTelemetry.

use super::{OtlpProtocol, Telling, same, section, value};
use joulebook_aggregator::export::config::ExportSection;
use joulebook_proto::metrics::{LABEL_BYTES, bounded};
use joulebook_tests::export::{Exported, hostile_names};
use joulebook_tests::otlp::{Rotel, Victoria};
use joulebook_tests::prometheus::{Labels, Prometheus};
use joulebook_tests::wait::until_async;
use joulebook_units::UnixNanos;
use std::collections::BTreeSet;
use std::time::Duration;

/// Both names of each version, as labels say them.
fn expected() -> BTreeSet<[String; 2]> {
    hostile_names().into_iter().map(|names| names.map(|name| bounded(&name))).collect()
}

/// The labels of these names in all series.
fn found(series: &[(Labels, f64)], names: [&str; 2]) -> BTreeSet<[String; 2]> {
    series.iter().map(|(labels, _)| names.map(|name| labels.get(name).cloned().unwrap_or_default())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_of_models_are_values_of_labels_wherever_they_are_told() {
    let exported =
        Exported::of_hostile_names(ExportSection { delay: Duration::ZERO, ..ExportSection::default() }).await;
    exported.pass(Duration::from_secs(300));
    let mut figures = exported.figures.clone();
    let told = figures.wait_for(|now| now.as_ref().is_some_and(|now| !now.tally.versions.is_empty())).await;
    let snapshot = told.expect("figures").clone().expect("figures");
    assert!(expected().iter().flatten().any(|name| name.len() > LABEL_BYTES - 4), "one is cut");

    let prometheus = Prometheus::start(&[exported.page.to_string()], "", &[]).expect("a Prometheus");
    let page = async |query: &str| prometheus.query(query).await.expect("an answer");
    until_async("the page is read", async || !page("joulebook_model_sci_grams{window=\"1h\"}").await.is_empty()).await;
    assert_eq!(page("up").await.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [1.0], "the whole page is taken");
    let shown = page("joulebook_model_sci_grams{window=\"1h\"}").await;
    assert_eq!(found(&shown, ["model", "version"]), expected());
    let sums = page("joulebook_model_energy_joules_total").await;
    assert_eq!(found(&sums, ["model", "version"]), expected());
    assert!(page("joulebook_injected").await.is_empty(), "a name made a series of its own");

    let store = Victoria::start().expect("VictoriaMetrics");
    let rotel = Rotel::before(&store).expect("rotel");
    let telling = Telling::start(section(format!("http://{}", rotel.grpc), OtlpProtocol::Grpc));
    telling.tell(&snapshot);
    let at = snapshot.at.0 / UnixNanos::PER_SECOND;
    let stored = async |query: &str| store.query(query, at).await.unwrap_or_default();
    let query = "joulebook_model_window_sci_grams{joulebook_window=\"1h\"}";
    until_async("it is stored", async || stored(query).await.len() == shown.len()).await;
    let attributes = ["gen_ai_request_model", "joulebook_model_version"];
    let scores = stored(query).await;
    assert_eq!(found(&scores, attributes), expected());
    // Sums and windows of one version can be joined, however long its name is.
    assert_eq!(found(&stored("{__name__=~\"joulebook_model_energy.*total\"}").await, attributes), expected());
    for [model, version] in expected() {
        let told = value(&scores, &[(attributes[0], &model), (attributes[1], &version)]);
        assert!(same(told, value(&shown, &[("model", &model), ("version", &version)])), "{scores:?} {shown:?}");
    }
}
