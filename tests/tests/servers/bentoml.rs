//! BentoML: versions of a built bento, each with its own server, and one that was not built. Probes are no requests.

use joulebook_tests::counted::{requests, wait_for_requests};
use joulebook_tests::engine::bentoml::{Bento, BentoServer, SERVICE};
use joulebook_tests::engine::free_ports;
use joulebook_tests::installation::{AgentSettings, Installation};
use joulebook_tests::timestamp::now;

/// Requests, failures and probes of each version, and again after the first was restarted.
const VERSIONS: [(&str, u64, u64, u64); 2] = [("v1", 40, 3, 7), ("v2", 25, 0, 11)];
const RESTARTED: u64 = 12;
/// Requests to what was not built: until it is known, and from then on.
const UNBUILT: [u64; 2] = [5, 40];

fn load(server: &BentoServer, requests: u64, failures: u64, probes: u64) {
    for _ in 0..requests {
        assert_eq!(server.ask(1).unwrap(), 200);
    }
    for _ in 0..failures {
        assert_eq!(server.ask(-1).unwrap(), 500);
    }
    for _ in 0..probes {
        assert_eq!(server.probe().unwrap(), 200);
    }
}

#[test]
fn requests_of_two_versions_of_a_bento_are_exact_over_a_restart_and_probes_are_none() {
    let (installation, _aggregator) = Installation::start().unwrap();
    let ports: [u16; 3] = free_ports().unwrap();
    let begin = now().unwrap();
    let targets = ports.map(BentoServer::target).into_iter().collect();
    let mut agent = installation.start_agent(&AgentSettings { targets, ..AgentSettings::default() }).unwrap();
    let bentos = VERSIONS.map(|(version, ..)| Bento::build(version).unwrap());
    let mut servers: Vec<BentoServer> =
        bentos.iter().zip(ports).map(|(bento, port)| bento.serve(port).unwrap()).collect();
    for (server, (_, requests, failures, probes)) in servers.iter().zip(VERSIONS) {
        load(server, requests, failures, probes);
    }
    let mut expected = VERSIONS.map(|(version, ok, failed, _)| (version.to_owned(), (ok, failed))).into();
    // What a server counts after the last look at it is lost with it.
    wait_for_requests(&installation, SERVICE, &expected);
    drop(servers.remove(0));
    servers.insert(0, bentos[0].serve(ports[0]).unwrap());
    load(&servers[0], RESTARTED, 0, 2);
    let unbuilt = Bento::build("unused").unwrap();
    let unbuilt = unbuilt.serve_source(ports[2]).unwrap();
    load(&unbuilt, UNBUILT[0], 0, 3);
    expected.insert("v1".to_owned(), (VERSIONS[0].1 + RESTARTED, VERSIONS[0].2));
    expected.insert(String::new(), (UNBUILT[0], 0));
    // Without a look at its processes nothing of its energy would be known.
    wait_for_requests(&installation, SERVICE, &expected);
    load(&unbuilt, UNBUILT[1], 0, 0);
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let end = now().unwrap();

    expected.insert(String::new(), (UNBUILT.iter().sum(), 0));
    let window = ["--from", begin.as_str(), "--to", &end];
    assert_eq!(requests(&installation, SERVICE, &window).unwrap(), expected, "requests: successful, failed");
    let scores = installation.ask(&[&["sci", "--per", "request"], &window[..]].concat()).unwrap();
    let answers = scores["answers"].as_array().unwrap();
    assert_eq!(answers.len(), 3, "no probe opened another service: {scores}");
    for answer in answers {
        let subject = &answer["subject"];
        let source = if subject["model_version"].is_null() { "deny_list" } else { "label" };
        assert_eq!(subject["version_source"], source, "{answer}");
        assert!(answer["energy"]["total_j"].as_f64().is_some_and(|joules| joules > 0.0), "{answer}");
    }
}
