//! The folder that `scripted-fleet` writes, under a real aggregator, asked by the operator's tool.

use super::*;
use jiff::Timestamp;
use joulebook_tests::installation::Installation;
use joulebook_tests::program::binary;
use joulebook_tests::scripted::grid;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// What nobody meters: traffic of every version, and what is kept for one.
const COMPONENTS: &str = r#"[[component]]
name = "internet"
kwh_per_gigabyte = 0.001
bytes_per_unit = 4000
unit = "output_token"
source = "a study"
[[component]]
name = "weights"
model = "chat"
version = "1"
terabytes = 2
watts_per_terabyte = 1.2
at_site = true
uncertainty = 0.2
source = "the maker"
"#;

/// Writes two days up to last midnight, so that nothing of them is too old; what is true of them.
fn write(folder: &Path) -> Value {
    let written = Command::new(binary("scripted-fleet").expect("built"))
        .args(["--data-dir".as_ref(), folder.as_os_str()])
        .args(["--days", "2", "--hours-a-day", "3", "--end", &midnight().to_string()])
        .output()
        .expect("runs");
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    serde_json::from_slice(&written.stdout).expect("JSON")
}

fn midnight() -> Timestamp {
    let day = 86_400;
    Timestamp::from_second(Timestamp::now().as_second() / day * day).expect("a time")
}

#[test]
fn a_written_folder_is_an_aggregators_and_its_answers_are_the_truth() {
    let mut truth = Value::Null;
    let (installation, mut aggregator) = Installation::start_with(|folder| {
        truth = write(&folder.join("aggregator"));
        format!("{}{COMPONENTS}", grid::CONFIGURATION)
    })
    .expect("started");
    let (to, from) = (midnight().to_string(), (midnight() - jiff::SignedDuration::from_hours(48)).to_string());
    let answered =
        installation.ask(&["sci", "--from", &from, "--to", &to, "--per", "output-token", "--timeout", "60s"]);
    let answered = answered.expect("answered");
    let answers = answered["answers"].as_array().expect("answers");
    assert_eq!(answers.len(), 3, "chat, code and embed: {answered}");
    for answer in answers {
        let subject = &answer["subject"];
        let text = |field: &str| subject[field].as_str().expect("named").to_owned();
        let expected = &truth["versions"][format!("{}@{}", text("model"), text("model_version"))];
        assert_eq!(answer["tokens"]["output"], expected["output_tokens"]);
        let grams = (answer["carbon"]["o_g"].as_f64().expect("known"), expected["operational_g"].as_f64());
        assert!(close(grams.0, grams.1.expect("known"), 1e-9), "{grams:?} {subject}");
        assert_eq!(answer["conservation"]["residual_uj"], 0);
    }
    let ask = |words: &[&str]| {
        let window = ["--from", &from, "--to", &to, "--timeout", "60s"];
        installation.ask(&[words, &window[..]].concat())
    };
    components(answers);
    held_seconds(&ask);
    compared(&ask);
    aggregator.stop().expect("stopped");
}

fn of<'a>(answers: &'a [Value], model: &str) -> &'a Value {
    answers.iter().find(|answer| answer["subject"]["model"] == model).expect("served")
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

/// Declared components stand beside the score, at its intensity; what is declared of one version is of no other.
fn components(answers: &[Value]) {
    for answer in answers {
        let intensity = number(&answer["intensity"]["effective_g_per_kwh"]);
        let modelled = answer["modelled"].as_array().expect("a list");
        let is_chat = answer["subject"]["model"] == "chat";
        assert_eq!(modelled.len(), if is_chat { 2 } else { 1 }, "{answer}");
        let tokens = number(&answer["tokens"]["output"]);
        let traffic = tokens * 4000.0 / 1e9 * 0.001 * 3.6e6;
        let kept = 2.0 * 1.2 * 48.0 * 3600.0 * number(&answer["pue"]["effective"]);
        for (one, (energy, half)) in modelled.iter().zip([(traffic, 0.4), (kept, 0.2)]) {
            assert_eq!(one["method"], "modelled");
            let grams = energy * intensity / 3.6e6;
            let expected = [energy, grams, grams * (1.0 - half), grams * (1.0 + half), grams / tokens];
            let found = ["energy_j", "carbon_g", "low_g", "high_g", "per_unit_g"].map(|field| number(&one[field]));
            assert!(found.iter().zip(expected).all(|(a, b)| close(*a, b, 1e-9)), "{found:?} {expected:?}");
        }
        // Every gram of the score is the node's: nothing of these is in it.
        let score = number(&answer["sci"]["value"]) * number(&answer["r"]["value"]);
        let own = number(&answer["carbon"]["o_g"]) + number(&answer["carbon"]["m_g"]);
        assert!(score <= own * (1.0 + 1e-9), "{score} g of {own} g");
        assert_eq!(answer["r"]["conversion"], "as counted");
    }
}

/// A second of a held accelerator is a unit where one is held.
fn held_seconds(ask: &dyn Fn(&[&str]) -> anyhow::Result<Value>) {
    let answered = ask(&["sci", "--per", "gpu-second"]).expect("answered");
    let answers = answered["answers"].as_array().expect("answers");
    let code = of(answers, "code");
    // One accelerator, three hours a day for two days.
    assert!(close(number(&code["r"]["value"]), 6.0 * 3600.0, 1e-6), "{}", code["r"]);
    assert!(code["r"]["conversion"].as_str().expect("told").contains("accelerator") && code["sci"]["value"].is_f64());
    let embed = of(answers, "embed");
    assert!(embed["sci"]["value"].is_null(), "{}", embed["sci"]);
    assert!(embed["sci"]["null_reason"].as_str().expect("told").contains("holds no accelerator"), "{}", embed["sci"]);
    let turns = ask(&["sci", "--per", "prompt"]).expect("answered");
    for answer in turns["answers"].as_array().expect("answers") {
        assert!(answer["r"]["value"].is_null() && answer["sci"]["value"].is_null(), "requests are no turns: {answer}");
        assert!(answer["sci"]["null_reason"].as_str().expect("told").contains("turns of users"), "{answer}");
    }
}

/// Tokens of two models are not compared; their requests are, where that is asked for and said.
fn compared(ask: &dyn Fn(&[&str]) -> anyhow::Result<Value>) {
    let words = ["compare", "chat@1", "code@1", "--per", "output-token"];
    let refused = ask(&words).expect_err("refused").to_string();
    assert!(refused.contains("tokenizer") && refused.contains("--normalise"), "{refused}");
    let compared = ask(&[&words[..], &["--normalise"]].concat()).expect("per request");
    assert_eq!(compared["unit"], "gCO2e/request");
    assert!(compared["normalised"][0].as_str().expect("named").contains("tokenizer"), "{compared}");
    let scores = ask(&["sci", "--per", "request"]).expect("answered");
    let score = |model: &str| number(&of(scores["answers"].as_array().expect("answers"), model)["sci"]["value"]);
    assert!(close(number(&compared["ratio"]), score("code") / score("chat"), 1e-9), "{compared}");
    // What stays different is refused all the same.
    let refused = ask(&["compare", "chat@1", "embed@1", "--per", "gpu-second", "--normalise"]);
    assert!(refused.expect_err("no score").to_string().contains("no accelerator"));
}
