//! The folder that `scripted-fleet` writes, under a real aggregator, asked by the operator's tool.

use super::*;
use jiff::Timestamp;
use joulebook_tests::installation::Installation;
use joulebook_tests::program::binary;
use joulebook_tests::scripted::grid;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

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
        grid::CONFIGURATION.to_owned()
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
    aggregator.stop().expect("stopped");
}
