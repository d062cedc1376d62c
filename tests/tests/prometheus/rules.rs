//! Recording and alert rules: their syntax, what each alert fires at, and one that fires and resolves.

use super::section;
use joulebook_aggregator::export::metric::ALL;
use joulebook_tests::export::Exported;
use joulebook_tests::prometheus::{Prometheus, promtool};
use joulebook_tests::wait::until_async;
use regex::Regex;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn rules() -> PathBuf {
    root().join("helm/joulebook/rules/joulebook.yaml")
}

fn found(pattern: &str, text: &str) -> BTreeSet<String> {
    let pattern = Regex::new(pattern).expect("a pattern");
    pattern.captures_iter(text).map(|found| found[1].to_owned()).collect()
}

#[test]
fn promtool_takes_the_rules_and_each_alert_fires_and_stays_silent_where_it_must() {
    let file = rules().display().to_string();
    let checked = promtool(&["check", "rules", "--lint-fatal", &file], "").expect("promtool");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let cases = root().join("tests/rules/joulebook.yaml");
    let tested = promtool(&["test", "rules", &cases.display().to_string()], "").expect("promtool");
    assert!(
        tested.status.success(),
        "{}{}",
        String::from_utf8_lossy(&tested.stdout),
        String::from_utf8_lossy(&tested.stderr)
    );

    let text = std::fs::read_to_string(&file).expect("the rules");
    let alerts = found(r"- alert: (\w+)", &text);
    let cases = std::fs::read_to_string(cases).expect("the cases");
    assert!(alerts.len() >= 15, "{alerts:?}");
    assert_eq!(found(r#"expr: count by .*ALERTS\{alertname="(\w+)""#, &cases), alerts, "each fires in a case");
    assert_eq!(found(r#"expr: count\(ALERTS\{alertname="(\w+)""#, &cases), alerts, "each is silent in a case");
    let texts = text.matches("runbook: ").count();
    assert_eq!(texts, alerts.len(), "each has a runbook");
    let known: BTreeSet<String> = ALL.iter().map(|metric| metric.name.to_owned()).collect();
    let recorded = found(r"- record: (\S+)", &text);
    let used = found(r"\b(joulebook[_:][a-z_:]+)", &text.replace("joulebook.", " "));
    let unknown: Vec<_> = used.difference(&known).filter(|name| !recorded.contains(*name)).collect();
    assert!(unknown.is_empty(), "no metric has these names: {unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_fires_when_storing_stops_and_resolves_when_it_goes_on() {
    let exported = Exported::start(section()).await;
    let folder = tempfile::tempdir().expect("a folder");
    // The same rules without the patience that people want.
    let text = std::fs::read_to_string(rules()).expect("the rules");
    let text = Regex::new(r"(for|interval): \w+").expect("a pattern").replace_all(&text, "$1: 1s").into_owned();
    let path = folder.path().join("rules.yaml");
    std::fs::write(&path, text).expect("a file");
    let prometheus = Prometheus::start(&[exported.page.to_string()], "", &[&path]).expect("a Prometheus");
    let alerts = async || {
        let answer = prometheus.api("/api/v1/alerts").await.expect("an answer");
        let alerts = answer["data"]["alerts"].as_array().expect("alerts").clone();
        let firing = alerts.into_iter().filter(|alert| alert["state"] == "firing");
        firing.filter_map(|alert| Some(alert["labels"]["alertname"].as_str()?.to_owned())).collect::<BTreeSet<_>>()
    };
    let recorded = async || prometheus.query("joulebook:node_power_watts").await.is_ok_and(|found| found.len() == 2);
    until_async("the power of both nodes is recorded", recorded).await;
    assert!(!alerts().await.contains("JoulebookIngestStopped"));
    exported.counters.set("intake_open", 0);
    until_async("it fires", async || alerts().await.contains("JoulebookIngestStopped")).await;
    exported.counters.set("intake_open", 1);
    until_async("it resolves", async || !alerts().await.contains("JoulebookIngestStopped")).await;
    assert!(!alerts().await.contains("JoulebookDown"), "the page is read all the time");
}
