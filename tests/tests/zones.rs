//! Where nodes stand by the labels that their cluster gives them: two agents that state no site, an aggregator that has a
//! directory of nodes, and the intensity that each version's energy meets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "functions that tests call may fail the test")]

use joulebook_tests::engine::free_ports;
use joulebook_tests::installation::Installation;
use joulebook_tests::simulator::{Server, Simulator};
use joulebook_tests::wait::until;
use serde_json::Value;

const NODES: [&str; 2] = ["under-test", "simulated"];
/// The first stands where a rule of the operator says, the second in a region of a cloud that the embedded tables know.
const DIRECTORY: &str = r#"
[node.under-test]
labels = { "topology.kubernetes.io/region" = "us-east-1", hall = "2" }
[node.simulated]
labels = { "topology.kubernetes.io/region" = "eu-west-3", hall = "1" }
"#;
const SITES: &str = r#"
[site.cellar]
intensity_g_per_kwh = 17.5
[[site_rule]]
site = "cellar"
labels = { hall = "2", "topology.kubernetes.io/region" = "us-east-1" }
"#;

#[test]
fn labels_of_nodes_choose_the_zone_whose_intensity_their_energy_meets() {
    let (installation, _aggregator) = Installation::start_with(|folder| {
        let directory = folder.join("nodes.toml");
        std::fs::write(&directory, DIRECTORY).unwrap();
        format!("node_directory = \"{}\"\n{SITES}", directory.display())
    })
    .unwrap();
    let ports: [u16; 2] = free_ports().unwrap();
    let (mut agents, mut simulators) = (Vec::new(), Vec::new());
    for ((node, version), port) in NODES.into_iter().zip(["1", "2"]).zip(ports) {
        let server = Server {
            name: "chat",
            pid: 101,
            gpu: 0,
            sm_permille: 500,
            gpu_gibibytes: 40,
            version,
            requests_per_kilosecond: 3_000,
            port,
        };
        let simulator = Simulator::start("l40s-4gpu", &installation.folder().join(node)).unwrap();
        simulator.serve(&server).unwrap();
        let spool = installation.folder().join(format!("spool-{node}"));
        let config = simulator.agent_config(&installation.connection(node), &spool, &[server]).unwrap();
        agents.push(installation.start_agent_as(node, &config).unwrap());
        simulators.push(simulator);
    }
    let answers = || -> Vec<Value> {
        let asked = installation.ask(&["sci", "--last", "10m", "--per", "request"]);
        asked.map_or_else(|_| Vec::new(), |asked| asked["answers"].as_array().unwrap().clone())
    };
    let scored = |answers: &[Value]| answers.iter().filter(|answer| answer["sci"]["value"].is_f64()).count();
    until("both versions have a score", || scored(&answers()) == NODES.len());
    let answers = answers();
    let of = |version: &str| answers.iter().find(|answer| answer["subject"]["model_version"] == version).unwrap();
    let intensity = |version: &str| of(version)["intensity"]["effective_g_per_kwh"].as_f64().unwrap();
    assert!((intensity("1") - 17.5).abs() < 1e-9, "{}", of("1")["intensity"]);
    let france = &of("2")["intensity"];
    assert_eq!(france["zone"], "FRA", "{france}");
    assert!(intensity("2") > 17.5 && intensity("2") < 120.0, "a yearly average of France: {france}");
    for mut agent in agents {
        assert!(agent.stop().unwrap().success(), "{}", agent.said());
    }
}
