//! A poller of BMCs beside the agents of two nodes: every program as users start it, over mutual TLS.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]

use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use joulebook_tests::engine::free_ports;
use joulebook_tests::installation::{AGENT_READY, Installation};
use joulebook_tests::program::{Program, binary};
use joulebook_tests::simulator::{MODEL, Server, Simulator};
use joulebook_tests::timestamp::{next_second, now};
use joulebook_tests::wait::until;
use serde_json::{Value, json};

/// The nodes with agents, and a third one that the poller is not to speak for.
const NODES: [&str; 2] = ["gpu-a", "gpu-b"];
const FOREIGN: &str = "gpu-c";
const POLLER: &str = "east";
/// Time that is accounted.
const MEASURED: Duration = Duration::from_secs(12);
/// What a GH200 of the simulator draws from its parts at rest, and the part of the input that its supplies pass on.
const PARTS_W: f64 = 272.0;
const EFFICIENCY: f64 = 0.92;

/// Aggregator and nodes.
struct Site {
    aggregator: Program,
    nodes: Vec<Simulator>,
    /// Goes when nothing writes into it any more.
    installation: Installation,
}

impl Site {
    fn start() -> Self {
        let (installation, aggregator) = Installation::of(&NODES, &[(POLLER, &NODES)]).unwrap();
        let node = |name: &&str| Simulator::with_bmc("gh200", &installation.folder().join(name)).unwrap();
        let nodes = NODES.iter().map(node).collect();
        Self { installation, aggregator, nodes }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.installation.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The agent of a node with one server on its GPU.
    fn start_agent(&self, place: usize, port: u16) -> Program {
        let server = Server {
            name: "one",
            pid: 101,
            gpu: 0,
            sm_permille: 500,
            gpu_gibibytes: 40,
            version: "1",
            requests_per_kilosecond: 3_000,
            port,
        };
        let (node, name) = (&self.nodes[place], NODES[place]);
        node.serve(&server).unwrap();
        let spool = self.installation.folder().join(format!("spool-{name}"));
        let text = node.agent_config(&self.installation.connection(name), &spool, &[server]).unwrap();
        start(&self.write(&format!("{name}.toml"), &text))
    }

    /// The poller, with these subjects, each at the BMC of one of the nodes.
    fn start_poller(&self, subjects: &[(&str, usize)]) -> Program {
        let spool = self.installation.folder().join("spool-poller");
        let mut text = format!(
            "{}\n[spool]\ndir = \"{}\"\nmin_free_bytes = 0\n\n[sampling]\nbatch_rows = 1\n",
            self.installation.poller_connection(POLLER),
            spool.display(),
        );
        for (node, bmc) in subjects {
            let keys = self.nodes[*bmc].bmc();
            write!(text, "\n[[subject]]\nnode = \"{node}\"\n[subject.redfish]\nrequest_timeout = \"2s\"\n{keys}")
                .unwrap();
        }
        start(&self.write("poller.toml", &text))
    }

    /// Rows of layers, those of nodes only.
    fn walls(&self, words: &[&str]) -> Vec<Value> {
        let Ok(answer) = self.installation.ask(&[&["energy", "--by", "layer"], words].concat()) else {
            return Vec::new();
        };
        let rows = answer["rows"].as_array().cloned().unwrap_or_default();
        rows.into_iter().filter(|row| column(row, "layer") == "node").collect()
    }

    /// Waits until the walls of these nodes are known since an instant.
    fn wait_for_walls(&self, nodes: &[&str], since: &str) {
        until(&format!("the walls of {nodes:?}"), || {
            let walls = self.walls(&["--from", since]);
            let known = |node: &&str| walls.iter().any(|row| column(row, "node") == *node && joules(row) > 0.0);
            nodes.iter().all(known)
        });
    }

    fn status(&self) -> Value {
        self.installation.ask(&["admin", "status"]).unwrap()
    }
}

fn start(config: &std::path::Path) -> Program {
    let program =
        Program::start(binary("joulebook-agent").unwrap(), &["--config".as_ref(), config.as_os_str()]).unwrap();
    program.wait_for(AGENT_READY).unwrap();
    program
}

fn column<'a>(row: &'a Value, name: &str) -> &'a str {
    let parts = row["key"].as_array().unwrap();
    parts.iter().find(|part| part["name"] == name).and_then(|part| part["value"].as_str()).unwrap_or_default()
}

fn joules(row: &Value) -> f64 {
    row["microjoules"].as_f64().unwrap_or_default() / 1e6
}

#[test]
fn each_nodes_wall_from_a_poller_stands_beside_the_parts_that_its_agent_tells() {
    let site = Site::start();
    let began = now().unwrap();
    let [first, second] = free_ports().unwrap();
    let _agents = [site.start_agent(0, first), site.start_agent(1, second)];
    let mut poller = site.start_poller(&[(NODES[0], 0), (NODES[1], 1)]);
    site.wait_for_walls(&NODES, &began);
    let begin = now().unwrap();
    std::thread::sleep(MEASURED);
    let end = now().unwrap();
    let window = ["--from", begin.as_str(), "--to", end.as_str()];
    // What is under way at the end of the window arrives within a batch.
    until("the whole window", || site.walls(&window).iter().filter(|row| joules(row) > 11.0 * 296.0).count() == 2);

    for row in site.walls(&window) {
        assert_eq!(column(&row, "source"), "east/redfish/wall", "{row}");
        assert_eq!(row["simulated"], true, "the agent says so of its node: {row}");
    }
    let explained =
        site.installation.ask(&[&["explain", "--model", &format!("{MODEL}@1")], &window[..]].concat()).unwrap();
    let balances = explained["balances"].as_array().unwrap();
    assert_eq!(balances.len(), 2, "{explained}");
    for balance in balances {
        assert_eq!(balance["residual_microjoules"], 0, "{balance}");
    }
    let reconciliation = &explained["answer"]["reconciliation"];
    let walls: Vec<&str> =
        reconciliation["walls"].as_array().unwrap().iter().map(|wall| wall.as_str().unwrap()).collect();
    assert_eq!(walls, ["gpu-a: east/redfish/wall", "gpu-b: east/redfish/wall"]);
    assert_eq!(explained["answer"]["conservation"]["residual_uj"], 0);

    // Hardware and placement are the agents' words.
    let status = site.status();
    for node in status["nodes"].as_array().unwrap() {
        assert_eq!(node["pollers"][0]["name"], POLLER, "{node}");
        assert_eq!(node["pollers"][0]["connected"], true, "{node}");
        assert_eq!(node["connected"], true, "{node}");
        let sources = node["sources"].as_array().unwrap();
        assert!(sources.iter().any(|source| source["source_id"].as_str().unwrap().starts_with("nvml/")), "{node}");
        let streams = node["streams"].as_array().unwrap();
        assert_eq!(streams.len(), 2, "one of the agent and one of the poller: {node}");
        assert!(streams.iter().all(|stream| stream["lost_records"] == 0 && stream["rejected_samples"] == 0), "{node}");
    }
    assert!(poller.stop().unwrap().success(), "{}", poller.said());
}

#[test]
fn a_node_that_is_not_on_the_list_is_refused_and_a_bmc_that_hangs_stops_itself_alone() {
    let site = Site::start();
    let began = now().unwrap();
    let poller = site.start_poller(&[(NODES[0], 0), (FOREIGN, 0), (NODES[1], 1)]);
    poller.wait_for(&format!("may not speak for the node `{FOREIGN}`")).unwrap();
    site.wait_for_walls(&NODES, &began);
    let status = site.status();
    let known: Vec<&str> =
        status["nodes"].as_array().unwrap().iter().map(|node| node["node"].as_str().unwrap()).collect();
    assert_eq!(known, NODES, "nothing of the third one is kept");
    assert!(status["counters"]["speakers_refused_total"].as_u64() >= Some(1), "{status}");

    // One BMC answers after a minute from now on.
    site.nodes[1].ask(&json!({ "op": "bmc", "fault": { "slow": 60_000 } })).unwrap();
    poller.wait_for("has shown no new value for").unwrap();
    let told = |node: &Value| node["pollers"][0]["sources"][0]["unavailable_reason"].as_str().unwrap().to_owned();
    until("the aggregator hears that the meter is silent", || {
        site.status()["nodes"].as_array().unwrap().iter().any(|node| node["node"] == NODES[1] && !told(node).is_empty())
    });
    let since = next_second().unwrap();
    site.wait_for_walls(&[NODES[0]], &since);
    let silent = site.walls(&["--from", &since]);
    assert!(!silent.iter().any(|row| column(row, "node") == NODES[1] && joules(row) > 0.0), "{silent:?}");

    site.nodes[1].ask(&json!({ "op": "bmc" })).unwrap();
    let mended = now().unwrap();
    site.wait_for_walls(&NODES, &mended);
}

#[test]
fn the_doctor_of_a_poller_shows_what_each_bmc_shows() {
    let folder = tempfile::tempdir().unwrap();
    let node = Simulator::with_bmc("gh200", &folder.path().join("node")).unwrap();
    let keys = node.bmc();
    let subject = |name: &str| format!("[[subject]]\nnode = \"{name}\"\n[subject.redfish]\n{keys}\n");
    let text = format!("role = \"bmc-poller\"\npoller = \"east\"\n{}{}", subject("a"), subject("b"));
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    let mut command = Command::new(binary("joulebook-agent").unwrap());
    let output = command.args(["doctor", "--seconds", "6", "--output", "json", "--config"]).arg(path).output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["node"], found["absent"].as_array().unwrap().len()), (&json!("east"), 0), "{found}");
    for id in ["a/redfish/wall", "b/redfish/wall"] {
        let source = found["sources"].as_array().unwrap().iter().find(|source| source["id"] == id).unwrap();
        let watts = source["w"].as_f64().unwrap();
        assert!((watts * EFFICIENCY / PARTS_W - 1.0).abs() < 0.02, "{source}");
    }
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn what_a_poller_wrote_before_it_was_killed_is_delivered_after_it() {
    let mut site = Site::start();
    let began = now().unwrap();
    let subjects = [(NODES[0], 0), (NODES[1], 1)];
    let mut poller = site.start_poller(&subjects);
    site.wait_for_walls(&NODES, &began);
    let streams = |site: &Site| -> Vec<String> {
        let status = site.status();
        let nodes = status["nodes"].as_array().unwrap().clone();
        let stream = |node: &Value| {
            assert_eq!(
                (node["pollers"][0]["name"].as_str(), node["streams"].as_array().unwrap().len()),
                (Some(POLLER), 1)
            );
            let stream = &node["streams"][0];
            assert_eq!((&stream["lost_records"], &stream["rejected_samples"]), (&json!(0), &json!(0)), "{node}");
            assert_eq!(stream["poller"], POLLER);
            stream["stream_id"].as_str().unwrap().to_owned()
        };
        nodes.iter().map(stream).collect()
    };
    let before = streams(&site);

    // Nobody takes what is told now, and then the poller is killed.
    assert!(site.aggregator.stop().unwrap().success());
    let begin = now().unwrap();
    std::thread::sleep(Duration::from_secs(6));
    let end = now().unwrap();
    poller.kill().unwrap();
    site.aggregator = site.installation.start_aggregator().unwrap();
    let again = now().unwrap();
    let mut poller = site.start_poller(&subjects);
    site.wait_for_walls(&NODES, &again);
    let window = ["--from", begin.as_str(), "--to", end.as_str()];
    // The last value before the end waits for the next one, which never came: two seconds of six at most.
    let input = PARTS_W / EFFICIENCY;
    for row in site.walls(&window) {
        assert!((input * 3.5..input * 6.5).contains(&joules(&row)), "{row}");
    }
    assert_eq!(site.walls(&window).len(), 2);
    assert_eq!(streams(&site), before, "the same streams, and nothing lost or refused");
    assert!(poller.stop().unwrap().success(), "{}", poller.said());
}
