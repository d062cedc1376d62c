//! A server that nobody configured: found by its command line, read by its page, counted to the token.

use joulebook_tests::engine::{ALIAS, Engine, Usage, free_ports};
use joulebook_tests::installation::{AgentSettings, Installation};
use joulebook_tests::timestamp::now;

use crate::energy::alone;

/// A version of which no other server on this machine has weights.
const VERSION: &str = "found-1";

#[test]
fn a_server_is_found_among_the_processes_and_its_tokens_are_exact() {
    let _alone = alone();
    let (installation, _aggregator) = Installation::start().unwrap();
    let [port] = free_ports().unwrap();
    let begin = now().unwrap();
    let keys = "\n[discovery]\nprocesses = true\ninterval = \"1s\"\n".to_owned();
    let mut agent = installation.start_agent(&AgentSettings { keys, ..AgentSettings::default() }).unwrap();
    let engine = Engine::start(installation.folder(), VERSION, port).unwrap();
    agent.wait_for(&format!("a server was found.*:{port}/metrics.*llamacpp")).unwrap();
    let mut client = Usage::default();
    for question in 0..60 {
        engine.ask(&format!("question {question}"), 160, &mut client).unwrap();
    }
    // The last look at all servers is at the agent's end.
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let end = now().unwrap();
    let model = format!("{ALIAS}@{VERSION}");
    let scores = installation.ask(&["sci", "--model", &model, "--from", &begin, "--to", &end]).unwrap();
    let answers = scores["answers"].as_array().unwrap();
    assert_eq!(answers.len(), 1, "{scores}");
    let answer = &answers[0];
    assert_eq!(
        (&answer["tokens"]["input"], &answer["tokens"]["output"]),
        (&client.input.into(), &client.output.into())
    );
    assert_eq!(answer["subject"]["version_source"], "process");
    assert_eq!(answer["subject"]["engines"], serde_json::json!(["llamacpp"]));
    assert!(
        answer["energy"]["total_j"].as_f64().is_some_and(|joules| joules > 0.0),
        "its process was joined: {answer}"
    );
}

/// The node's pods: one that asks to be scraped at this port, and one whose annotations lead elsewhere.
fn pods(port: u16, label: &str) -> String {
    format!(
        "[node.under-test]\nlabels = {{ zone = \"a\" }}\n\n[[node.under-test.pod]]\nuid = \"p\"\nname = \"chat\"\n\
         addresses = [\"127.0.0.1\"]\nlabels = {{ modelVersion = \"{label}\" }}\n\
         annotations = {{ \"prometheus.io/scrape\" = \"true\", \"prometheus.io/port\" = \"{port}\" }}\n\n\
         [[node.under-test.pod]]\nuid = \"q\"\nname = \"hostile\"\naddresses = [\"127.0.0.1\"]\n\
         annotations = {{ \"prometheus.io/scrape\" = \"true\", \"prometheus.io/port\" = \"{port}\", \
         \"prometheus.io/path\" = \"http://169.254.169.254/\" }}\n"
    )
}

#[test]
fn b49_a_pod_that_asks_for_it_is_scraped_at_its_own_address_and_the_directory_follows_its_file() {
    let _alone = alone();
    let [port] = free_ports().unwrap();
    let (installation, aggregator) = Installation::start_with(|folder| {
        std::fs::write(folder.join("nodes.toml"), pods(port, "1")).unwrap();
        format!("node_directory = \"{}\"\n", folder.join("nodes.toml").display())
    })
    .unwrap();
    let begin = now().unwrap();
    let keys = "\n[discovery]\ninterval = \"1s\"\n".to_owned();
    let mut agent = installation.start_agent(&AgentSettings { keys, ..AgentSettings::default() }).unwrap();
    agent.wait_for("the aggregator told the pods of this node.*pods=2").unwrap();
    let engine = Engine::start(installation.folder(), VERSION, port).unwrap();
    agent.wait_for(&format!("a server was found.*:{port}/metrics")).unwrap();
    let mut client = Usage::default();
    engine.ask("a question to a pod", 30, &mut client).unwrap();

    // A wrong file changes nothing; a right one is told to the agent that is connected.
    let file = installation.folder().join("nodes.toml");
    std::fs::write(&file, "[node.under-test]\npods = 1\n").unwrap();
    aggregator.hang_up();
    aggregator.wait_for("the changed node directory is not taken over.*unknown field `pods`").unwrap();
    std::fs::write(&file, "[node.under-test]\nlabels = { zone = \"b\" }\n").unwrap();
    aggregator.hang_up();
    aggregator.wait_for("the node directory was read again").unwrap();
    agent.wait_for("the aggregator told the pods of this node.*pods=0").unwrap();
    assert!(!agent.said().contains("169.254"), "{}", agent.said());
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let end = now().unwrap();
    let scores = installation.ask(&["sci", "--from", &begin, "--to", &end]).unwrap();
    let answers = scores["answers"].as_array().unwrap();
    let versions: Vec<_> = answers.iter().map(|answer| answer["subject"]["model_version"].clone()).collect();
    assert_eq!(versions, [VERSION], "one page, once: {scores}");
    assert_eq!(answers[0]["tokens"]["output"], client.output);
}
