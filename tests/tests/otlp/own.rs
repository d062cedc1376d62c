//! What the agent tells of its node, and what both daemons tell of themselves: programs and receivers are the real ones.

use joulebook_tests::installation::{AgentSettings, Installation};
use joulebook_tests::otlp::Rotel;
use joulebook_tests::powercap::Powercap;
use joulebook_tests::wait::until;

/// The words that a receiver is to print, in any order.
fn expect(rotel: &Rotel, words: &[&str]) {
    for word in words {
        rotel.program.wait_for(word).unwrap_or_else(|error| panic!("{word}: {error:#}"));
    }
}

#[test]
fn an_agent_tells_a_real_receiver_of_its_node_and_its_health() {
    let rotel = Rotel::printing("metrics").expect("rotel");
    let (installation, _aggregator) = Installation::start().expect("programs");
    let sysfs = installation.folder().join("sys");
    let _zone = Powercap::new(&sysfs).expect("a tree").zone("intel-rapl:0", "package-0", 7).expect("a zone");
    let more = format!("[export]\nendpoint = \"http://{}\"\ncluster = \"prod\"\n", rotel.grpc);
    let settings = AgentSettings { sysfs: Some(sysfs), more, ..AgentSettings::default() };
    let _agent = installation.start_agent(&settings).expect("an agent");
    expect(
        &rotel,
        &[
            r"service\.name: Str\(joulebook-agent\)|service\.name.*joulebook-agent",
            r"host\.name.*under-test",
            r"k8s\.cluster\.name.*prod",
            r"k8s\.node\.name.*under-test",
            r"hw\.energy",
            r"hw\.id.*rapl/package-0",
            r"joulebook\.agent\.rows",
            r"joulebook\.agent\.session\.open",
            r"joulebook\.agent\.spool",
        ],
    );
    // A mean takes two looks, a minute apart.
    until("a mean of the power is told", || rotel.program.said().contains("hw.power"));
}

#[test]
fn both_daemons_tell_their_spans_to_who_is_asked_for_them() {
    let rotel = Rotel::printing("traces").expect("rotel");
    let own =
        |section: &str| format!("[{section}]\nendpoint = \"http://{}\"\nmetrics = false\ntraces = true\n", rotel.grpc);
    let (installation, _aggregator) = Installation::start_with(|_| own("otlp")).expect("programs");
    let settings = AgentSettings { more: own("export"), ..AgentSettings::default() };
    let _agent = installation.start_agent(&settings).expect("an agent");
    expect(&rotel, &["spool.append", "ingest.commit", "ledger.settle"]);
    installation.text(&["energy", "--last", "1m"]).expect("an answer");
    expect(&rotel, &[r"\bquery\b", r"service\.name.*joulebook-agent", r"service\.name.*joulebook-aggregator"]);
}

#[test]
fn both_daemons_tell_their_log_over_http_the_last_words_too() {
    let rotel = Rotel::printing("logs").expect("rotel");
    let own = |section: &str| {
        let to = format!("endpoint = \"http://{}\"\nprotocol = \"http\"", rotel.http);
        format!("[{section}]\n{to}\nmetrics = false\nlogs = true\n")
    };
    let (installation, aggregator) = Installation::start_with(|_| own("otlp")).expect("programs");
    let settings = AgentSettings { more: own("export"), ..AgentSettings::default() };
    let mut agent = installation.start_agent(&settings).expect("an agent");
    expect(&rotel, &["agent starts", "listening on", r"service\.name.*joulebook-aggregator"]);
    agent.terminate();
    agent.wait().expect("it ends");
    expect(&rotel, &["agent stopped"]);
    drop(aggregator);
}
