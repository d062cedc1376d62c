//! One name, other weights: llama.cpp comes back under the same alias with another file, while the configuration says that
//! the version is the same.

use std::time::Duration;

use joulebook_tests::engine::{ALIAS, Engine, Usage, exposition, free_ports};
use joulebook_tests::installation::{AgentSettings, Installation};
use joulebook_tests::timestamp::now;
use joulebook_tests::wait::{Moment, until};
use serde_json::Value;

use crate::energy::alone;

/// Where the second ends in a time that is written.
const SECOND_END: usize = "2026-11-26T00:00:00".len();
/// How long the agent may take to count and deliver what was served.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn same_alias_new_weights_is_another_version_and_the_alias_has_a_history() {
    let _alone = alone();
    let (installation, _aggregator) = Installation::start().unwrap();
    let [port] = free_ports().unwrap();
    let begin = now().unwrap();
    let settings = AgentSettings {
        targets: vec![exposition(port)],
        keys: "version = \"stable\"\n".to_owned(),
        ..AgentSettings::default()
    };
    let mut agent = installation.start_agent(&settings).unwrap();

    let mut served = Vec::new();
    for (version, tokens) in [("tiny-v1", 40), ("tiny-v2", 60)] {
        let engine = Engine::start(installation.folder(), version, port).unwrap();
        let mut client = Usage::default();
        for question in 0..3 {
            engine.ask(&format!("question {question} to {version}"), tokens, &mut client).unwrap();
        }
        // What is counted after the last look at a server that ends is lost: so it ends when all is in the book.
        let digest = wait_for(&installation, &begin, client);
        let at = now().unwrap();
        // Rows are dated by the second: the next server begins in another one.
        until("the next second", || now().unwrap()[..SECOND_END] != at[..SECOND_END]);
        served.push((digest, client, at));
    }
    let digests = [&served[0].0, &served[1].0];
    assert_ne!(digests[0], digests[1], "two files, two fingerprints");

    let end = now().unwrap();
    let scores = installation.ask(&["sci", "--from", &begin, "--to", &end]).unwrap();
    let answers = scores["answers"].as_array().unwrap();
    assert_eq!(answers.len(), 2, "{scores}");
    for (digest, client, at) in &served {
        let short = digest.as_str().and_then(|digest| digest.rsplit(':').next()).unwrap();
        let answer = answers.iter().find(|answer| answer["subject"]["model_version_digest"] == *digest).unwrap();
        assert_eq!(
            (&answer["subject"]["model"], &answer["subject"]["model_version"]),
            (&ALIAS.into(), &"stable".into())
        );
        assert_eq!(answer["subject"]["version_source"], "config");
        assert_eq!(answer["subject"]["label"], format!("{ALIAS}@stable [weights {}]", &short[..8]));
        assert_eq!(answer["tokens"]["output"], client.output);
        assert_eq!(
            answer["operating"]["serving_configuration"],
            "engine_version=b0-unknown, quantisation=all F32, max_batch=2"
        );
        assert_eq!(answer["phases"]["method"], "measured");
        assert!(answer["phases"]["decode_j_per_token"].as_f64().is_some_and(|joules| joules > 0.0), "{answer}");

        let then = installation.ask(&["explain", "--alias", ALIAS, "--at", at]).unwrap();
        let stood: Vec<&Value> = then["at"].as_array().unwrap().iter().map(|epoch| &epoch["weights"]).collect();
        assert_eq!(stood, [digest], "{then}");
        let both = then["history"]["epochs"].as_array().unwrap();
        let known: Vec<&Value> = both.iter().map(|epoch| &epoch["weights"]).collect();
        assert_eq!(known, digests, "{then}");
        let model = format!("{ALIAS}@stable");
        let one =
            installation.ask(&["sci", "--model", &model, "--weights", short, "--from", &begin, "--to", &end]).unwrap();
        assert_eq!(one["answers"].as_array().map(Vec::len), Some(1), "{one}");
    }
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    assert!(
        agent.said().contains("other weights under the same name although the version is the same"),
        "{}",
        agent.said()
    );
}

/// Waits until the book holds what the client got from one server, and gives the fingerprint under which it does.
fn wait_for(installation: &Installation, begin: &str, client: Usage) -> Value {
    let asked = Moment::now();
    loop {
        let end = now().unwrap();
        // Before the first row there is no model.
        let scores = installation.ask(&["sci", "--from", begin, "--to", &end]).unwrap_or_default();
        let answers = scores["answers"].as_array().cloned().unwrap_or_default();
        let newest = answers
            .iter()
            .find(|answer| answer["tokens"]["output"] == client.output && answer["tokens"]["input"] == client.input);
        if let Some(answer) = newest {
            return answer["subject"]["model_version_digest"].clone();
        }
        assert!(asked.elapsed() < PATIENCE, "{client:?} is not in the book: {scores}");
        std::thread::sleep(Duration::from_millis(500));
    }
}
