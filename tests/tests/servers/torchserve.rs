//! TorchServe: two versions of a model in one server. It counts requests without a version under "default", and the
//! management API tells which version that is.

use joulebook_tests::counted::{requests, wait_for_requests};
use joulebook_tests::engine::torchserve::{MODEL, Ports, TorchServe, VERSIONS};
use joulebook_tests::installation::{AgentSettings, Installation};
use joulebook_tests::timestamp::now;

/// Requests to each version, without one, and failing ones of the second.
const REQUESTS: [u64; 2] = [45, 70];
const DEFAULT: u64 = 20;
const FAILURES: u64 = 6;
/// Requests to the second version after a restart.
const RESTARTED: u64 = 15;

#[test]
fn requests_of_two_versions_of_torchserve_are_exact_over_a_restart_and_the_default_is_the_version_it_stands_for() {
    let (installation, _aggregator) = Installation::start().unwrap();
    let ports = Ports::find().unwrap();
    let begin = now().unwrap();
    let settings = AgentSettings { targets: vec![ports.target()], keys: ports.info_url(), ..AgentSettings::default() };
    let mut agent = installation.start_agent(&settings).unwrap();
    let server = TorchServe::start(installation.folder(), ports).unwrap();
    for (version, requests) in VERSIONS.into_iter().zip(REQUESTS) {
        for _ in 0..requests {
            assert_eq!(server.ask(Some(version), 1).unwrap(), 200);
        }
    }
    for _ in 0..DEFAULT {
        assert_eq!(server.ask(None, 1).unwrap(), 200);
    }
    for _ in 0..FAILURES {
        assert_eq!(server.ask(Some(VERSIONS[1]), -1).unwrap(), 503);
    }
    // A version that is not there makes no series.
    assert_eq!(server.ask(Some("9.9"), 1).unwrap(), 404);
    // The page does not tell failures apart: they are among the requests.
    let version = |place: usize, more: u64| (VERSIONS[place].to_owned(), (REQUESTS[place] + more, 0));
    wait_for_requests(&installation, MODEL, &[version(0, DEFAULT), version(1, FAILURES)].into());

    drop(server);
    let server = TorchServe::start(installation.folder(), ports).unwrap();
    for _ in 0..RESTARTED {
        assert_eq!(server.ask(Some(VERSIONS[1]), 1).unwrap(), 200);
    }
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let end = now().unwrap();
    let window = ["--from", begin.as_str(), "--to", &end];
    let expected = [version(0, DEFAULT), version(1, FAILURES + RESTARTED)].into();
    assert_eq!(requests(&installation, MODEL, &window).unwrap(), expected, "requests: successful, failed");
    let scores = installation.ask(&[&["sci", "--per", "request"], &window[..]].concat()).unwrap();
    for answer in scores["answers"].as_array().unwrap() {
        assert_eq!(answer["subject"]["apportioned_by"][0], "busy_time", "{answer}");
        assert!(answer["energy"]["total_j"].as_f64().is_some_and(|joules| joules > 0.0), "{answer}");
    }
}
