//! Ray Serve: two versions of a model as applications of one node, whose page is the node's and some seconds old.

use joulebook_tests::counted::{requests, wait_for_requests};
use joulebook_tests::engine::rayserve::{DEPLOYMENT, Ports, RayServe, VERSIONS};
use joulebook_tests::installation::{AgentSettings, Installation};
use joulebook_tests::timestamp::now;

/// Requests to each version, and failing ones of the second.
const REQUESTS: [u64; 2] = [40, 65];
const FAILURES: u64 = 5;
const MODEL: &str = "ranker";

#[test]
fn requests_of_two_versions_of_ray_serve_are_exact_and_its_own_version_is_none() {
    let (installation, _aggregator) = Installation::start().unwrap();
    let ports = Ports::find().unwrap();
    let begin = now().unwrap();
    let names = VERSIONS
        .map(|version| format!("\"{version}/{DEPLOYMENT}\" = {{ model = \"{MODEL}\", version = \"{version}\" }}"));
    let settings = AgentSettings {
        targets: vec![ports.target()],
        keys: format!("names = {{ {} }}\n", names.join(", ")),
        ..AgentSettings::default()
    };
    let mut agent = installation.start_agent(&settings).unwrap();
    let server = RayServe::start(installation.folder(), ports).unwrap();
    for (version, requests) in VERSIONS.into_iter().zip(REQUESTS) {
        for _ in 0..requests {
            assert_eq!(server.ask(version, 1).unwrap(), 200);
        }
    }
    for _ in 0..FAILURES {
        assert_eq!(server.ask(VERSIONS[1], -1).unwrap(), 500);
    }
    // No application: counted by the proxy, and by no deployment.
    assert_eq!(server.ask("v9", 1).unwrap(), 404);
    server.wait_for_counts(REQUESTS.iter().sum::<u64>() + FAILURES).unwrap();
    let expected =
        [(VERSIONS[0].to_owned(), (REQUESTS[0], 0)), (VERSIONS[1].to_owned(), (REQUESTS[1], FAILURES))].into();
    wait_for_requests(&installation, MODEL, &expected);
    drop(server);
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let end = now().unwrap();
    let window = ["--from", begin.as_str(), "--to", &end];
    assert_eq!(requests(&installation, MODEL, &window).unwrap(), expected, "requests: successful, failed");
    let scores = installation.ask(&[&["sci", "--per", "request"], &window[..]].concat()).unwrap();
    let answers = scores["answers"].as_array().unwrap();
    assert_eq!(answers.len(), VERSIONS.len(), "{scores}");
    for answer in answers {
        assert_eq!(answer["subject"]["version_source"], "config", "{answer}");
        assert_eq!(answer["subject"]["apportioned_by"][0], "busy_time", "{answer}");
    }
    let by_model = installation.ask(&[&["energy", "--by", "model"], &window[..]].concat()).unwrap();
    let joules = |part: &str, value: &str| {
        let rows = by_model["rows"].as_array().unwrap().iter();
        let of = rows.filter(|row| {
            row["key"].as_array().unwrap().iter().any(|key| key["name"] == part && key["value"] == value)
        });
        of.filter_map(|row| row["microjoules"].as_u64()).sum::<u64>() as f64 / 1e6
    };
    let [one, two] = VERSIONS.map(|version| joules("version", version));
    let lost = joules("account", "unattributed inference");
    println!("v1 {one:.2} J, v2 {two:.2} J, of replicas that no counts are of {lost:.2} J");
    // 40 requests of three times the work of 65.
    assert!(one > two && two > 0.0, "{by_model:#}");
    // The process that shows the page does no work: what does is started by the process that started it. Only what the
    // replicas did before that was known is nobody's.
    assert!(lost < 0.1 * (one + two), "{by_model:#}");
}
