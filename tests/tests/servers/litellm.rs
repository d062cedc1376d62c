//! LiteLLM with two keys in front of llama.cpp: whose the tokens and the joules of a version were.

use std::collections::BTreeMap;

use joulebook_tests::engine::litellm::{KEYS, LiteLlm};
use joulebook_tests::engine::{ALIAS, Engine, Usage, exposition, free_ports};
use joulebook_tests::installation::{AgentSettings, Installation};
use joulebook_tests::timestamp::now;
use serde_json::Value;

/// Questions through the gateway by each key, and past it.
const BY_KEY: [u32; 2] = [24, 12];
const DIRECT: u32 = 6;
const REMOTE: u32 = 3;
const TOKENS: u32 = 120;

fn key<'a>(row: &'a Value, name: &str) -> &'a str {
    let parts = row["key"].as_array().expect("a row has a key");
    parts.iter().find(|part| part["name"] == name).and_then(|part| part["value"].as_str()).unwrap_or_default()
}

fn rows(installation: &Installation, by: &str, window: &[&str; 4]) -> Value {
    installation.ask(&[&["energy", "--by", by, "--per", "total-token"], &window[..]].concat()).unwrap()
}

fn total(usage: &Usage) -> u64 {
    usage.input + usage.output
}

#[test]
fn two_keys_and_direct_are_the_models_tokens_and_its_energy_to_the_microjoule() {
    let (installation, _aggregator) = Installation::start().unwrap();
    let [served, elsewhere, gateway] = free_ports().unwrap();
    let begin = now().unwrap();
    let settings = AgentSettings {
        targets: vec![exposition(served), LiteLlm::target(gateway)],
        more: "[consumers]\nnames = \"raw\"\n".to_owned(),
        ..AgentSettings::default()
    };
    let mut agent = installation.start_agent(&settings).unwrap();
    let engine = Engine::start(installation.folder(), "1.0", served).unwrap();
    // Not a target of the agent's: for the book it is somewhere else.
    let _remote = Engine::start(installation.folder(), "2.0", elsewhere).unwrap();
    let proxy = LiteLlm::start(installation.folder(), gateway, &[("chat", served), ("elsewhere", elsewhere)]).unwrap();

    let (mut by_key, mut direct, mut remote) = ([Usage::default(); 2], Usage::default(), Usage::default());
    for question in 0..BY_KEY[0] {
        for (place, (key, _)) in KEYS.into_iter().enumerate().filter(|(place, _)| question < BY_KEY[*place]) {
            let text = format!("question {question} of {place}");
            proxy.ask(key, "chat", &text, TOKENS, &mut by_key[place]).unwrap();
        }
        if question < DIRECT {
            engine.ask(&format!("direct question {question}"), TOKENS, &mut direct).unwrap();
        }
        if question < REMOTE {
            proxy.ask(KEYS[0].0, "elsewhere", &format!("far {question}"), TOKENS, &mut remote).unwrap();
        }
    }
    // The same question once more is answered from the gateway's cache.
    let mut stored = Usage::default();
    proxy.ask(KEYS[1].0, "chat", "question 0 of 1", TOKENS, &mut stored).unwrap();
    proxy.wait_for_counts(u64::from(BY_KEY[0] + BY_KEY[1] + REMOTE + 1)).unwrap();
    let hits = proxy.sums("litellm_cache_hits_metric_total").unwrap();
    assert_eq!(hits.get(KEYS[1].1), Some(&1), "the gateway counts the answer from its cache: {hits:?}");
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let end = now().unwrap();
    let window = ["--from", begin.as_str(), "--to", end.as_str()];

    let by_model = rows(&installation, "model", &window);
    let model = by_model["rows"].as_array().unwrap().iter().find(|row| key(row, "model") == ALIAS).expect("a model");
    let by_consumer = rows(&installation, "consumer", &window);
    let mine = |row: &&Value| key(row, "model") == ALIAS && key(row, "account") != "remote";
    let parts: Vec<&Value> = by_consumer["rows"].as_array().unwrap().iter().filter(mine).collect();
    let number = |row: &Value, field: &str| row[field].as_f64().unwrap_or_else(|| panic!("{field} of {row}"));
    let tokens: BTreeMap<&str, u64> = parts
        .iter()
        .map(|row| {
            (if key(row, "account") == "direct" { "direct" } else { key(row, "consumer") }, number(row, "units") as u64)
        })
        .collect();
    let expected = BTreeMap::from([
        (KEYS[0].1, total(&by_key[0])),
        (KEYS[1].1, total(&by_key[1]) + total(&stored)),
        ("direct", total(&direct)),
    ]);
    assert_eq!(tokens, expected, "{by_consumer:#}");
    let served_tokens = total(&by_key[0]) + total(&by_key[1]) + total(&direct);
    assert_eq!(number(model, "units") as u64, served_tokens, "no engine worked for the answer from the cache");

    let microjoules = |row: &Value| row["microjoules"].as_u64().unwrap_or_else(|| panic!("energy of {row}"));
    let whole = microjoules(model);
    assert_eq!(parts.iter().map(|row| microjoules(row)).sum::<u64>(), whole, "to the microjoule");
    let sum: u64 = by_consumer["rows"].as_array().unwrap().iter().filter_map(|row| row["microjoules"].as_u64()).sum();
    assert_eq!(Some(sum), by_consumer["total_microjoules"].as_u64(), "remote rows hold no energy");
    for row in &parts {
        let weight = match key(row, "consumer") {
            name if name == KEYS[0].1 => total(&by_key[0]),
            name if name == KEYS[1].1 => total(&by_key[1]),
            _ => total(&direct),
        };
        let (share, by_tokens) = (microjoules(row) as f64 / whole as f64, weight as f64 / served_tokens as f64);
        println!(
            "{} {}: {share:.4} of the energy, {by_tokens:.4} of the tokens",
            key(row, "account"),
            key(row, "consumer")
        );
        assert!((share - by_tokens).abs() < 1e-6, "{row}");
    }
    let is_remote = |row: &&Value| key(row, "account") == "remote";
    let far: Vec<&Value> = by_consumer["rows"].as_array().unwrap().iter().filter(is_remote).collect();
    assert_eq!(far.len(), 1, "{by_consumer:#}");
    assert_eq!(number(far[0], "units") as u64, total(&remote));
    assert!(far[0]["microjoules"].is_null() && key(far[0], "endpoint").contains(&elsewhere.to_string()), "{}", far[0]);

    let scores = |by: &[&str]| {
        let asked = installation.ask(&[&["sci", "--per", "total-token"], by, &window[..]].concat()).unwrap();
        let schema = include_str!("../../../cli/schema/answer.schema.json");
        let schema = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap();
        let faults: Vec<String> =
            schema.iter_errors(&asked).map(|fault| format!("{}: {fault}", fault.instance_path)).collect();
        assert!(faults.is_empty(), "{faults:#?}");
        asked["answers"].as_array().unwrap().clone()
    };
    let grams =
        |answers: &[Value]| answers.iter().map(|answer| answer["carbon"]["total_g"].as_f64().unwrap()).sum::<f64>();
    let (whole, shared) = (scores(&[]), scores(&["--by", "consumer"]));
    assert_eq!((whole.len(), shared.len()), (1, 3));
    assert!((grams(&shared) / grams(&whole) - 1.0).abs() < 1e-9, "{} {}", grams(&shared), grams(&whole));
    let entities: Vec<_> = shared.iter().map(|answer| answer["subject"]["entity"].as_str().unwrap()).collect();
    assert_eq!(entities, ["team team-risk", "team team-web", "direct"]);
    let stored_requests = |answer: &Value| answer["delivered"]["stored_requests"].as_u64();
    assert_eq!(stored_requests(&shared[1]), Some(1), "{}", shared[1]);
}
