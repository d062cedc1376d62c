//! Every query of every panel of every dashboard is asked of a real Prometheus that reads a real page; what is energy, power,
//! carbon or a score is held against the command line.

#![allow(clippy::expect_used, reason = "functions that tests call may fail the test")]

use joulebook_aggregator::export::config::ExportSection;
use joulebook_tests::export::Exported;
use joulebook_tests::prometheus::{Labels, Prometheus};
use joulebook_tests::wait::until_async;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// Seconds of a step.
const STEP: f64 = 300.0;

/// What the command line says.
struct Books {
    /// `sci`, for the window of the dashboard.
    sci: Value,
    /// `energy`, for the window of the dashboard.
    accounts: Value,
    /// `energy --by …`, for the last step.
    by_node: Value,
    by_gpu: Value,
    by_workload: Value,
    /// `energy --by node`, since the export began.
    since: Value,
}

/// What a panel's series must add up to, or each of them be.
enum Expected {
    /// Each.
    Each(fn(&Books, &Labels) -> Option<f64>),
    /// Their sum.
    Sum(fn(&Books) -> Option<f64>),
}

fn label<'a>(labels: &'a Labels, name: &str) -> &'a str {
    labels.get(name).map_or("", String::as_str)
}

fn key<'a>(row: &'a Value, name: &str) -> &'a str {
    let parts = row["key"].as_array().expect("a key").iter();
    parts.filter(|part| part["name"] == name).find_map(|part| part["value"].as_str()).unwrap_or_default()
}

/// Energy in joules of the rows that are meant.
fn rows(answer: &Value, meant: impl Fn(&Value) -> bool) -> Option<f64> {
    let rows = answer["rows"].as_array()?.iter().filter(|row| meant(row));
    rows.map(|row| row["microjoules"].as_f64()).sum::<Option<f64>>().map(|sum| sum / 1e6)
}

/// The answer for the version that labels name.
fn answer<'a>(sci: &'a Value, labels: &Labels) -> Option<&'a Value> {
    let of = |answer: &&Value, field: &str, name: &str| {
        labels.get(name).is_none_or(|it| answer["subject"][field].as_str().unwrap_or_default() == it)
    };
    sci["answers"].as_array()?.iter().find(|answer| {
        of(answer, "model", "model")
            && of(answer, "model_version", "version")
            && of(answer, "serving_config", "serving_config")
    })
}

fn each_version(sci: &Value, value: impl Fn(&Value) -> Option<f64>) -> Option<f64> {
    sci["answers"].as_array()?.iter().map(value).sum()
}

fn part(answer: &Value, labels: &Labels) -> Option<f64> {
    answer["energy"][format!("{}_j", label(labels, "part"))].as_f64()
}

fn grams(answer: &Value, labels: &Labels) -> Option<f64> {
    answer["carbon"][if label(labels, "part") == "embodied" { "m_g" } else { "o_g" }].as_f64()
}

fn score(answer: &Value, labels: &Labels) -> Option<f64> {
    let field = match label(labels, "__name__") {
        "joulebook_model_sci_low_grams" => "low",
        "joulebook_model_sci_high_grams" => "high",
        _ => "value",
    };
    answer["sci"][field].as_f64()
}

/// The energy of one account of a node in the last step, as workloads are told.
fn account(books: &Books, node: &str, account: &str) -> Option<f64> {
    let kinds: &[&str] = match account {
        // The command line tells both of a service together.
        "model" | "dedicated_idle" => return None,
        "system" => &["kernel"],
        "pool_idle" => &["idle"],
        "platform" => &["platform"],
        "unattributed" => &["unattributed"],
        _ => &["container", "unit", "cgroup", "process", "remainder", "joulebook", "not shown"],
    };
    rows(&books.by_workload, |row| key(row, "node") == node && kinds.contains(&key(row, "kind")))
}

/// What the command line says of a panel; none where it is asked nothing of the kind.
fn expected(title: &str) -> Option<Expected> {
    use Expected::{Each, Sum};
    Some(match title {
        "Mean power of the last step" => Sum(|books| Some(rows(&books.by_node, |_| true)? / STEP)),
        "Power by pool" => Sum(|books| Some(rows(&books.by_node, |_| true)? / STEP)),
        "CO2e in the window" => Sum(|books| each_version(&books.sci, |answer| answer["carbon"]["total_g"].as_f64())),
        "Energy by account" => Each(|books, labels| match (labels.get("node"), label(labels, "account")) {
            (None, "model versions") => rows(&books.accounts, |row| key(row, "account") == "model"),
            (None, account) => rows(&books.accounts, |row| key(row, "account") == account),
            (Some(node), "model") => {
                let models = rows(&books.by_workload, |row| key(row, "node") == node && key(row, "kind") == "model")?;
                Some(models)
            }
            (Some(node), name) => account(books, node, name),
        }),
        "Facility energy by model version" => {
            Each(|books, labels| answer(&books.sci, labels)?["energy"]["by_level_j"]["facility"].as_f64())
        }
        "SCI by model version" | "SCI with its 95 % interval" => {
            Each(|books, labels| score(answer(&books.sci, labels)?, labels))
        }
        "CO2e by model version" => Each(|books, labels| answer(&books.sci, labels)?["carbon"]["total_g"].as_f64()),
        "Grid carbon intensity" => {
            Each(|books, labels| answer(&books.sci, labels)?["intensity"]["effective_g_per_kwh"].as_f64())
        }
        "Energy by boundary level" => {
            Each(|books, labels| answer(&books.sci, labels)?["energy"]["by_level_j"][label(labels, "level")].as_f64())
        }
        "Energy by part" | "Idle charged to model versions" | "Dedicated idle by model version" => {
            Each(|books, labels| part(answer(&books.sci, labels)?, labels))
        }
        "CO2e by part" => Each(|books, labels| grams(answer(&books.sci, labels)?, labels)),
        "IT energy per functional unit" => Each(|books, labels| {
            let answer = answer(&books.sci, labels)?;
            Some(answer["energy"]["by_level_j"]["idle"].as_f64()? / answer["r"]["value"].as_f64()?)
        }),
        "Pool idle power by node" => {
            Each(|books, labels| Some(account(books, label(labels, "node"), "pool_idle")? / STEP))
        }
        "Pool idle by node" => Each(|books, labels| account(books, label(labels, "node"), "pool_idle")),
        "Power" => {
            Each(|books, labels| Some(rows(&books.by_node, |row| key(row, "node") == label(labels, "node"))? / STEP))
        }
        "Energy of accelerators" => Each(|books, labels| {
            let same = |row: &Value, name| key(row, name) == label(labels, name);
            rows(&books.by_gpu, |row| same(row, "node") && same(row, "gpu"))
        }),
        "Energy since the export began" => {
            Each(|books, labels| rows(&books.since, |row| key(row, "node") == label(labels, "node")))
        }
        "Energy of Joulebook itself" => Each(|books, labels| {
            let (node, name) = (label(labels, "node"), format!("joulebook-{}", label(labels, "part")));
            let own = |row: &Value| key(row, "kind") == "joulebook" && key(row, "name") == name;
            rows(&books.by_workload, |row| key(row, "node") == node && own(row))
        }),
        "Energy of Joulebook itself since the export began" => Sum(|books| {
            let parts = books.since["own_microjoules"].as_object()?.values();
            parts.map(Value::as_f64).sum::<Option<f64>>().map(|sum| sum / 1e6)
        }),
        "Parts beyond the meter at the input" => {
            Sum(|books| Some(books.by_node["reconciliation"]["overcount_uj"].as_f64()? / 1e6))
        }
        "Unattributed energy" => Each(|books, labels| account(books, label(labels, "node"), "unattributed")),
        _ => return None,
    })
}

fn same(one: f64, other: f64) -> bool {
    (one - other).abs() <= 1e-9 * one.abs().max(other.abs())
}

/// A panel's query as Grafana would ask it, with everything selected.
fn filled(query: &str, window: &str) -> String {
    let query = query.replace("$window", window).replace("$__rate_interval", "30s");
    ["$model", "$version", "$node", "$pool"].iter().fold(query, |query, variable| query.replace(variable, ".*"))
}

fn dashboards() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../helm/joulebook/dashboards");
    let mut files: Vec<_> =
        folder.read_dir().expect("the dashboards").map(|file| file.expect("a file").path()).collect();
    files.sort();
    files.iter().map(|path| serde_json::from_slice(&std::fs::read(path).expect("readable")).expect("JSON")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_every_panel_gives_what_the_command_line_says() {
    let exported = Exported::with_agents(ExportSection { delay: Duration::ZERO, ..ExportSection::default() }).await;
    exported.pass(Duration::from_secs(300));
    let mut figures = exported.figures.clone();
    let told = figures.wait_for(|now| now.as_ref().is_some_and(|now| !now.tally.nodes.is_empty())).await;
    let told = told.expect("figures").clone().expect("figures");
    let prometheus = Prometheus::start(&[exported.page.to_string()], "", &[]).expect("a Prometheus");
    until_async("the page was read twice", async || {
        let rate = prometheus.query("rate(process_cpu_seconds_total[30s])").await;
        rate.is_ok_and(|found| !found.is_empty())
    })
    .await;

    let step = (told.at.plus_seconds(-300), told.at);
    let (mut asked, mut held) = (0, BTreeSet::new());
    let mut drawn = vec![];
    for (window, seconds) in [("1h", 3_600), ("5m", 300)] {
        let asked_for = (told.at.plus_seconds(-seconds), told.at);
        let books = Books {
            sci: exported.ask(&["sci"], asked_for).await,
            accounts: exported.ask(&["energy"], asked_for).await,
            by_node: exported.ask(&["energy", "--by", "node"], step).await,
            by_gpu: exported.ask(&["energy", "--by", "gpu"], step).await,
            by_workload: exported.ask(&["energy", "--by", "workload"], step).await,
            since: exported.ask(&["energy", "--by", "node"], (told.tally.since, told.at)).await,
        };
        for dashboard in dashboards() {
            for panel in dashboard["panels"].as_array().expect("panels") {
                let title = panel["title"].as_str().expect("a title");
                let expected = expected(title);
                let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().expect("a unit");
                assert_eq!(
                    ["joule", "watt", "massg"].contains(&unit),
                    expected.is_some(),
                    "{title} is held against nothing"
                );
                for target in panel["targets"].as_array().expect("targets") {
                    let query = filled(target["expr"].as_str().expect("a query"), window);
                    let series = prometheus.query(&query).await.expect("an answer");
                    assert!(!series.is_empty(), "{} / {title}: {query} gives nothing", dashboard["title"]);
                    asked += 1;
                    if window == "1h" {
                        let series: Vec<Value> =
                            series.iter().map(|(labels, value)| json!({"labels": labels, "value": value})).collect();
                        let (of, legend) = (&dashboard["title"], &target["legendFormat"]);
                        let uid = &dashboard["uid"];
                        drawn.push(json!({
                            "uid": uid, "dashboard": of, "panel": title, "type": panel["type"], "unit": unit,
                            "legend": legend, "series": series,
                        }));
                    }
                    held.extend(
                        check(&books, expected.as_ref(), &series, &format!("{title}: {query}"))
                            .then_some(title.to_owned()),
                    );
                }
            }
        }
    }
    if let Some(path) = std::env::var_os("JOULEBOOK_PICTURES") {
        std::fs::write(path, Value::from(drawn).to_string()).expect("`make pictures` names a file that can be written");
    }
    assert!(asked >= 100, "{asked} queries were asked");
    assert_eq!(held.len(), 24, "panels that were held against the command line: {held:?}");
}

/// Holds series against the command line; whether anything was.
fn check(books: &Books, expected: Option<&Expected>, series: &[(Labels, f64)], what: &str) -> bool {
    match expected {
        None => false,
        Some(Expected::Sum(of)) => {
            let (shown, said) = (series.iter().map(|(_, value)| value).sum::<f64>(), of(books).expect("known"));
            assert!(same(shown, said), "{what}: {shown}, and the command line says {said}");
            true
        }
        Some(Expected::Each(of)) => {
            let mut held = false;
            for (labels, shown) in series {
                let dedicated = label(labels, "account") == "model" && labels.contains_key("node");
                let others = series.iter().filter(|(other, _)| {
                    dedicated && label(other, "account") == "dedicated_idle" && other.get("node") == labels.get("node")
                });
                // What services used and kept reserved is one row of the command line.
                let shown = shown + others.map(|(_, value)| value).sum::<f64>();
                let Some(said) = of(books, labels) else {
                    assert_eq!(
                        label(labels, "account"),
                        "dedicated_idle",
                        "{what}: {labels:?} is known to nobody else"
                    );
                    continue;
                };
                assert!(same(shown, said), "{what}: {labels:?} {shown}, and the command line says {said}");
                held = true;
            }
            held
        }
    }
}

#[test]
fn dashboards_are_told_apart_and_ask_the_chosen_source() {
    let all = dashboards();
    let names: BTreeSet<&str> = all.iter().filter_map(|dashboard| dashboard["uid"].as_str()).collect();
    assert_eq!(names.len(), 5, "{names:?}");
    for dashboard in &all {
        let panels = dashboard["panels"].as_array().expect("panels");
        let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
        assert_eq!(ids.len(), panels.len());
        for panel in panels {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        }
    }
}
