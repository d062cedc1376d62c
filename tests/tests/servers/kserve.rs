//! KServe's server with two models in one process, which tells no version: the configuration names them.

use joulebook_tests::engine::free_ports;
use joulebook_tests::engine::kserve::{KServe, MODELS};
use joulebook_tests::installation::{AgentSettings, Installation};
use joulebook_tests::timestamp::now;
use joulebook_tests::wait::until;

/// Requests to each model, of one unit of work, and requests that fail.
const REQUESTS: [u64; 2] = [60, 90];
const FAILURES: u64 = 4;

#[test]
fn calls_of_two_models_are_exact_and_their_energy_is_shared_by_busy_time() {
    let (installation, _aggregator) = Installation::start().unwrap();
    let [port] = free_ports().unwrap();
    let begin = now().unwrap();
    let names = "names = { scorer-1 = { model = \"scorer\", version = \"1\" }, scorer-2 = { model = \"scorer\", version = \"2\" } }\n";
    let settings =
        AgentSettings { targets: vec![KServe::target(port)], keys: names.to_owned(), ..AgentSettings::default() };
    let mut agent = installation.start_agent(&settings).unwrap();
    let server = KServe::start(port).unwrap();
    for (model, requests) in MODELS.into_iter().zip(REQUESTS) {
        for _ in 0..requests {
            assert_eq!(server.ask(model, 1).unwrap(), 200);
        }
    }
    for _ in 0..FAILURES {
        assert_ne!(server.ask(MODELS[1], -1).unwrap(), 200);
    }
    let at_work = || {
        let asked = installation.ask(&["energy", "--by", "model", "--from", &begin, "--to", &now().unwrap()]).unwrap();
        let rows = asked["rows"].as_array().unwrap().iter().filter(|row| row.to_string().contains("scorer"));
        rows.filter(|row| row["microjoules"].as_u64() > Some(0)).count()
    };
    until("the server was seen at work on both", || at_work() == MODELS.len());
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let end = now().unwrap();
    let scores = installation.ask(&["sci", "--per", "request", "--from", &begin, "--to", &end]).unwrap();
    let answers = scores["answers"].as_array().unwrap();
    assert_eq!(answers.len(), 2, "{scores}");
    for (place, version) in ["1", "2"].into_iter().enumerate() {
        let of_version =
            |subject: &serde_json::Value| subject["model"] == "scorer" && subject["model_version"] == version;
        let answer = answers.iter().find(|answer| of_version(&answer["subject"])).unwrap();
        // The server's histogram holds failed calls too: the answer says that these are all.
        let calls = REQUESTS[place] + if place == 1 { FAILURES } else { 0 };
        assert_eq!(answer["r"]["value"].as_f64(), Some(calls as f64), "{answer}");
        assert_eq!(answer["subject"]["version_source"], "config");
        assert_eq!(answer["subject"]["apportioned_by"][0], "busy_time", "{answer}");
        assert!(answer["energy"]["total_j"].as_f64().is_some_and(|joules| joules > 0.0), "{answer}");
    }
}
