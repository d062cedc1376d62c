//! What a gateway's consumers had from models that run elsewhere, rated by a file: from the gateway's page through a running
//! agent and a running aggregator to the operator's tool.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "functions that tests call may fail the test")]

use joulebook_tests::installation::{AgentSettings, Installation, Target};
use joulebook_tests::page::serve;
use joulebook_tests::powercap::Powercap;
use joulebook_tests::timestamp::now;
use joulebook_tests::wait::until;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Two teams at two endpoints: requests, prompt tokens and generated tokens of each.
const HAD: [(&str, &str, [u64; 3]); 3] = [
    ("team-risk", "https://eu.example/v1", [40, 4_000, 1_000]),
    ("team-risk", "https://us.example/v1", [10, 700, 90]),
    ("team-web", "https://eu.example/v1", [4, 80, 60]),
];

/// A page as LiteLLM shows it, with so many thousandths of what is had in all.
fn page(permille: u64) -> String {
    let families = [
        ("litellm_deployment_success_responses_total", "litellm_model_name"),
        ("litellm_input_tokens_metric_total", "model"),
        ("litellm_output_tokens_metric_total", "model"),
    ];
    let mut page = String::new();
    for (at, (family, model)) in families.into_iter().enumerate() {
        page += &format!("# TYPE {family} counter\n");
        for (team, endpoint, counts) in HAD {
            let deployment = if endpoint.contains("eu.") { "far-eu" } else { "far-us" };
            // Only the requests tell the address.
            let address = if at == 0 { format!("api_base=\"{endpoint}\",") } else { String::new() };
            let key = format!("hashed_api_key=\"{team}-key\",model_id=\"{deployment}\",team=\"{team}\"");
            let count = counts[at] * permille / 1_000;
            page += &format!("{family}{{{address}{model}=\"far\",{key}}} {count}.0\n");
        }
    }
    page
}

fn rate(unit: &str, grams: f64, endpoint: Option<&str>, kind: &str) -> Value {
    let mut rate = json!({
        "model": "far", "unit": unit, "grams_per_unit": grams, "half_width": 0.5, "kind": kind,
        "document": "report 2026, table 3",
    });
    if let Some(endpoint) = endpoint {
        rate["endpoint"] = endpoint.into();
    }
    rate
}

#[test]
fn what_a_gateways_consumers_had_elsewhere_is_rated_by_a_file_and_never_in_a_score() {
    let (installation, _aggregator) = Installation::start().unwrap();
    let sysfs = installation.folder().join("sys");
    let _zone = Powercap::new(&sysfs).unwrap().zone("intel-rapl:0", "package-0", 7).unwrap();
    let (shown, asked) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let gateway = {
        let (shown, asked) = (Arc::clone(&shown), Arc::clone(&asked));
        serve(move || {
            asked.fetch_add(1, Ordering::Relaxed);
            page(shown.load(Ordering::Relaxed))
        })
    }
    .unwrap();
    let target = Target { url: format!("http://{gateway}"), preset: "litellm", reserved_cores: None };
    let settings = AgentSettings {
        sysfs: Some(sysfs),
        targets: vec![target],
        more: "[consumers]\nnames = \"raw\"\n".to_owned(),
        ..AgentSettings::default()
    };
    let begin = now().unwrap();
    let mut agent = installation.start_agent(&settings).unwrap();
    let rows = || {
        let asked = installation.ask(&["energy", "--by", "consumer", "--per", "request", "--last", "10m"]);
        asked.map_or_else(|_| Vec::new(), |asked| asked["rows"].as_array().unwrap().clone())
    };
    let requests = || rows().iter().filter_map(|row| row["units"].as_f64()).sum::<f64>();
    // The first page is where counting begins.
    until("the gateway's page was read", || asked.load(Ordering::Relaxed) >= 2);
    shown.store(500, Ordering::Relaxed);
    until("half of it is counted", || requests() >= 27.0);
    shown.store(1_000, Ordering::Relaxed);
    until("all of it is counted", || requests() >= 54.0);
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let end = now().unwrap();

    let file = installation.folder().join("rates.json");
    let path = file.to_str().unwrap();
    let window = ["--from", begin.as_str(), "--to", end.as_str()];
    let rated = |rates: &Value| {
        std::fs::write(&file, rates.to_string()).unwrap();
        installation.ask(&[&["estimate", "--rates", path], &window[..]].concat()).unwrap()
    };
    // One endpoint has a rate of its own.
    let everywhere = rate("output_token", 0.002, None, "estimated");
    let one = rate("request", 0.25, Some(HAD[1].1), "provider_published");
    let answer = rated(&json!([everywhere, one]));
    assert_eq!(answer["label"], "estimated");
    let delivered = answer["delivered"].as_array().unwrap();
    assert_eq!(delivered.len(), HAD.len(), "{answer}");
    let expected = [
        ("output_token", 1_000.0, 2.0, "estimated"),
        ("request", 10.0, 2.5, "provider_published"),
        ("output_token", 60.0, 0.12, "estimated"),
    ];
    for ((team, endpoint, _), (unit, units, grams, method)) in HAD.into_iter().zip(expected) {
        let is = |row: &&Value| row["consumer"] == format!("team {team}") && row["endpoint"] == endpoint;
        let row = delivered.iter().find(is).unwrap();
        assert_eq!((row["unit"].as_str(), row["units"].as_f64()), (Some(unit), Some(units)), "{row}");
        assert_eq!((row["model"].as_str(), row["method"].as_str()), (Some("far"), Some(method)));
        let carbon = ["low", "value", "high"].map(|end| row["carbon_g"][end].as_f64().unwrap());
        for (found, expected) in carbon.into_iter().zip([0.5, 1.0, 1.5]) {
            assert!((found - expected * grams).abs() < 1e-9, "{row}");
        }
    }
    assert!((answer["carbon_g"]["value"].as_f64().unwrap() - 4.62).abs() < 1e-9, "{answer}");

    // What has no rate makes the sum unknown, not smaller.
    let partly = rated(&json!([rate("request", 0.25, Some(HAD[1].1), "estimated")]));
    assert!(partly["carbon_g"].is_null() && partly["null_reason"].is_string(), "{partly}");
    // No energy and no score comes of it.
    let remote = installation.ask(&[&["energy", "--by", "consumer"], &window[..]].concat()).unwrap();
    let remote = remote["rows"].as_array().unwrap().iter().filter(|row| row.to_string().contains("\"remote\""));
    assert!(remote.clone().count() == HAD.len() && remote.clone().all(|row| row["microjoules"].is_null()));
    let scores = installation.ask(&[&["sci"], &window[..]].concat()).unwrap();
    assert_eq!(scores["answers"].as_array().map(Vec::len), Some(0), "{scores}");
}
