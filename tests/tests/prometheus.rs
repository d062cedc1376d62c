//! The aggregator's page for Prometheus: a real one reads it, and what it shows is what the command line answers.

#![allow(clippy::expect_used, clippy::panic, reason = "functions that tests call may fail the test")]

#[path = "prometheus/cardinality.rs"]
mod cardinality;
#[path = "prometheus/own.rs"]
mod own;
#[path = "prometheus/page.rs"]
mod page;
#[path = "prometheus/program.rs"]
mod program;
#[path = "prometheus/rules.rs"]
mod rules;

use joulebook_aggregator::export::config::ExportSection;
use joulebook_tests::export::Exported;
use joulebook_tests::prometheus::{Labels, Prometheus};
use joulebook_tests::wait::until_async;
use joulebook_units::UnixNanos;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Whether two figures agree within 1e-9.
fn same(one: f64, other: f64) -> bool {
    (one - other).abs() <= 1e-9 * one.abs().max(other.abs())
}

/// No delay: everything that will come is there.
fn section() -> ExportSection {
    ExportSection { delay: Duration::ZERO, ..ExportSection::default() }
}

/// The value of the series with these labels.
fn value(series: &[(Labels, f64)], labels: &[(&str, &str)]) -> f64 {
    let matches = |found: &Labels| labels.iter().all(|(name, value)| found.get(*name).is_some_and(|it| it == value));
    let found: Vec<_> = series.iter().filter(|(labels, _)| matches(labels)).collect();
    let [(_, value)] = found.as_slice() else { panic!("{labels:?}: {found:?} of {series:?}") };
    *value
}

/// The only value of a query.
async fn only(prometheus: &Prometheus, query: &str) -> f64 {
    let found = prometheus.query(query).await.expect("an answer");
    let [(_, value)] = found.as_slice() else { panic!("{query}: {found:?}") };
    *value
}

/// A window of the page, exactly.
async fn window(prometheus: &Prometheus, name: &str) -> (UnixNanos, UnixNanos) {
    let at = |value: f64| UnixNanos::from_seconds(value as i64);
    let edge = |which: &str| format!("joulebook_window_{which}_timestamp_seconds{{window=\"{name}\"}}");
    (at(only(prometheus, &edge("start")).await), at(only(prometheus, &edge("end")).await))
}

async fn reading(exported: &Exported) -> Prometheus {
    let prometheus = Prometheus::start(&[exported.page.to_string()], "", &[]).expect("a Prometheus");
    until_async("Prometheus reads the page", async || {
        prometheus.query("joulebook_export_duration_seconds").await.is_ok_and(|found| !found.is_empty())
    })
    .await;
    prometheus
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_real_prometheus_reads_is_what_the_command_line_answers() {
    let exported = Exported::start(section()).await;
    let prometheus = reading(&exported).await;
    for name in ["5m", "1h"] {
        let asked = window(&prometheus, name).await;
        let answers = exported.ask(&["sci"], asked).await;
        let answers = answers["answers"].as_array().expect("answers");
        assert!(answers.len() >= 2, "two versions are served: {answers:?}");
        for answer in answers {
            model(&prometheus, answer, name).await;
        }
        let model_energy = exported.ask(&["energy"], asked).await;
        accounts(&prometheus, &model_energy, name).await;
    }
    let asked = window(&prometheus, "5m").await;
    let by_node = exported.ask(&["energy", "--by", "node"], asked).await;
    let shown = prometheus.query("sum by (node) (joulebook_node_energy_joules)").await.expect("an answer");
    let rows = by_node["rows"].as_array().expect("rows");
    assert_eq!((rows.len(), shown.len()), (2, 2));
    for row in rows {
        let energy = row["microjoules"].as_f64().expect("known") / 1e6;
        assert!(same(value(&shown, &[("node", key(row, "node"))]), energy), "{row} {shown:?}");
    }
    let by_gpu = exported.ask(&["energy", "--by", "gpu"], asked).await;
    let shown = prometheus.query("joulebook_gpu_energy_joules").await.expect("an answer");
    let rows = by_gpu["rows"].as_array().expect("rows");
    assert_eq!((rows.len(), shown.len()), (3, 3));
    for row in rows {
        let labels = [("node", key(row, "node")), ("gpu", key(row, "gpu")), ("model", key(row, "model"))];
        let energy = row["microjoules"].as_f64().expect("known") / 1e6;
        assert!(energy > 0.0 && same(value(&shown, &labels), energy), "{row} {shown:?}");
    }
}

fn key<'a>(row: &'a Value, name: &str) -> &'a str {
    let parts = row["key"].as_array().expect("a key");
    let part = parts.iter().find(|part| part["name"] == name).expect("that part");
    part["value"].as_str().expect("text")
}

/// Every figure of one answer.
async fn model(prometheus: &Prometheus, answer: &Value, window: &str) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = [
        ("model", text(&answer["subject"]["model"])),
        ("version", text(&answer["subject"]["model_version"])),
        ("serving_config", text(&answer["subject"]["serving_config"])),
        ("window", window.to_owned()),
    ];
    let mut expected: BTreeMap<(&str, String), f64> = BTreeMap::new();
    let mut add = |metric: &'static str, label: String, value: &Value| {
        if let Some(value) = value.as_f64() {
            expected.insert((metric, label), value);
        }
    };
    for (level, value) in answer["energy"]["by_level_j"].as_object().expect("levels") {
        add("joulebook_model_energy_joules", format!("level=\"{level}\""), value);
    }
    for part in ["accelerator", "host", "platform", "dedicated_idle", "pool_idle", "support", "overhead"] {
        add("joulebook_model_energy_part_joules", format!("part=\"{part}\""), &answer["energy"][format!("{part}_j")]);
    }
    add("joulebook_model_carbon_grams", "part=\"operational\"".to_owned(), &answer["carbon"]["o_g"]);
    add("joulebook_model_carbon_grams", "part=\"embodied\"".to_owned(), &answer["carbon"]["m_g"]);
    let unit = format!("unit=\"{}\"", text(&answer["r"]["kind"]));
    add("joulebook_model_sci_grams", unit.clone(), &answer["sci"]["value"]);
    add("joulebook_model_sci_low_grams", unit.clone(), &answer["sci"]["low"]);
    add("joulebook_model_sci_high_grams", unit.clone(), &answer["sci"]["high"]);
    add("joulebook_model_units", unit, &answer["r"]["value"]);
    add("joulebook_model_tokens", "kind=\"output\"".to_owned(), &answer["tokens"]["output"]);
    add("joulebook_model_coverage_ratio", "of=\"joint\"".to_owned(), &answer["quality"]["joint_coverage"]);
    assert!(
        answer["sci"]["high"].is_number() && expected.len() >= 17,
        "few figures are known: {expected:?} of {answer}"
    );
    let of: String = of.iter().map(|(name, value)| format!("{name}=\"{value}\",")).collect();
    for ((metric, label), value) in expected {
        let shown = only(prometheus, &format!("{metric}{{{of}{label}}}")).await;
        assert!(same(shown, value), "{metric}{{{of}{label}}}: {shown}, and the command line says {value}");
    }
}

/// Energy of all nodes by account.
async fn accounts(prometheus: &Prometheus, answer: &Value, window: &str) {
    let sum = only(prometheus, &format!("sum(joulebook_account_energy_joules{{window=\"{window}\"}})")).await;
    let total = answer["total_microjoules"].as_f64().expect("a total") / 1e6;
    assert!(total > 0.0 && same(sum, total), "{sum} {total}");
    let shown = prometheus.query(&format!("joulebook_account_energy_joules{{window=\"{window}\"}}")).await;
    let shown = shown.expect("an answer");
    let mut versions = 0.0;
    for row in answer["rows"].as_array().expect("rows") {
        let energy = row["microjoules"].as_f64().expect("known") / 1e6;
        match key(row, "account") {
            "model" => versions += energy,
            account => assert!(same(value(&shown, &[("account", account)]), energy), "{row} {shown:?}"),
        }
    }
    assert!(versions > 0.0 && same(value(&shown, &[("account", "model versions")]), versions));
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_grow_by_each_closed_step_and_begin_where_the_export_did() {
    let exported = Exported::start(section()).await;
    let first = exported.figures.borrow().clone().expect("figures");
    assert!(first.tally.nodes.is_empty() && first.tally.since == first.at, "what was before is not counted again");
    // The next step holds the rest of the rows, and the one after it nothing.
    exported.pass(Duration::from_secs(600));
    let mut figures = exported.figures.clone();
    let at = first.at.plus_seconds(600);
    let later = figures.wait_for(|now| now.as_ref().is_some_and(|now| now.at >= at)).await.expect("figures").clone();
    let later = later.expect("figures");
    assert_eq!((later.tally.since, later.at), (first.at, at));
    let by_node = exported.ask(&["energy", "--by", "node"], (later.tally.since, later.at)).await;
    let rows = by_node["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), later.tally.nodes.len());
    for row in rows {
        let counted = later.tally.nodes.get(key(row, "node")).expect("counted").energy;
        assert_eq!(row["microjoules"].as_u64(), Some(counted), "to the microjoule");
    }
}
