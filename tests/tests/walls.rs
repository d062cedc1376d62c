//! Meters of a node's input and of a site's, from the sensor to what the operator's tool prints, on a simulated node whose
//! joules are known.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use joulebook_tests::engine::free_ports;
use joulebook_tests::installation::{AGENT_READY, Installation};
use joulebook_tests::program::{Program, binary};
use joulebook_tests::simulator::{MODEL, Server, Simulator};
use joulebook_tests::timestamp::now;
use joulebook_tests::wait::{Moment, until};
use serde_json::{Value, json};

/// Time that is accounted.
const MEASURED: Duration = Duration::from_secs(16);
/// A BMC shows whole watts of some 300.
const CLOSE: f64 = 0.02;
/// What the supplies of the simulated GH200 pass on at rest, and what the site draws for each joule at its nodes' inputs.
const EFFICIENCY: f64 = 0.92;
const PUE: f64 = 1.25;
const SITE: &str = "lab";
/// Where the seconds stand in a time that is written.
const SECONDS: std::ops::Range<usize> = 17..19;

fn close(value: f64, expected: f64) -> bool {
    (value / expected - 1.0).abs() < CLOSE
}

/// Within a twentieth: what the node has beyond its parts is known a minute at a time, and in the first one the meter is
/// there some seconds before the parts are.
fn roughly(value: f64, expected: f64) -> bool {
    (value / expected - 1.0).abs() < 0.05
}

/// One node with its BMC, and a site's meter that a program tells.
struct Rig {
    _aggregator: Program,
    node: Arc<Simulator>,
    _agent: Program,
    told: Arc<AtomicBool>,
    teller: Option<JoinHandle<()>>,
    /// Goes when nothing writes into it any more.
    installation: Installation,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.told.store(false, Ordering::SeqCst);
        let _ended = self.teller.take().map(JoinHandle::join);
    }
}

impl Rig {
    fn start() -> Self {
        let (installation, aggregator) = Installation::start().unwrap();
        let node = Arc::new(Simulator::with_bmc("gh200", &installation.folder().join("node")).unwrap());
        let [port] = free_ports().unwrap();
        let server = Server {
            name: "one",
            pid: 101,
            gpu: 0,
            // At rest: what the supplies pass on changes with the load, and a constant power needs no alignment.
            sm_permille: 0,
            gpu_gibibytes: 40,
            version: "1",
            requests_per_kilosecond: 3_000,
            port,
        };
        node.serve(&server).unwrap();
        let socket = installation.folder().join("push.sock");
        let text = node.agent_config(&installation.connection("simulated"), &installation.spool(), &[server]).unwrap();
        let text = text.replace("simulated = true", &format!("simulated = true\nsite = \"{SITE}\""));
        let meter = format!(
            "[[meter]]\nname = \"main\"\nof = \"site\"\nof_name = \"{SITE}\"\nuid = {}\n",
            nix::unistd::getuid()
        );
        let text = format!("{text}\n[redfish]\n{}\n[push]\nsocket = \"{}\"\n\n{meter}", node.bmc(), socket.display());
        let path = installation.folder().join("agent.toml");
        std::fs::write(&path, text).unwrap();
        let agent =
            Program::start(binary("joulebook-agent").unwrap(), &["--config".into(), path.into_os_string()]).unwrap();
        agent.wait_for(AGENT_READY).unwrap();
        let told = Arc::new(AtomicBool::new(true));
        let teller = tell(&socket, &node, &told);
        Self { installation, _aggregator: aggregator, node, _agent: agent, told, teller: Some(teller) }
    }

    fn layers(&self, words: &[&str]) -> Vec<Value> {
        let Ok(answer) = self.installation.ask(&[&["energy", "--by", "layer"], words].concat()) else {
            return Vec::new();
        };
        answer["rows"].as_array().cloned().unwrap_or_default()
    }

    /// Length of a window as it is answered, in seconds: its ends are those of whole seconds.
    fn seconds(&self, words: &[&str]) -> f64 {
        let answer = self.installation.ask(&[&["energy", "--by", "layer"], words].concat()).unwrap();
        let nanos = |end: &str| match &answer["window"][end] {
            Value::String(text) => text.parse::<i64>().unwrap(),
            number => number.as_i64().unwrap(),
        };
        Duration::from_nanos((nanos("end_unix_nanos") - nanos("start_unix_nanos")).unsigned_abs()).as_secs_f64()
    }

    /// Energy of the leaves since the simulator's begin, in µJ.
    fn truth(&self) -> BTreeMap<String, f64> {
        truth(&self.node)
    }
}

fn truth(node: &Simulator) -> BTreeMap<String, f64> {
    let answer = node.ask(&json!({ "op": "truth", "from_ns": 0 })).unwrap();
    let leaves = answer["leaves_uj"].as_object().unwrap();
    leaves.iter().map(|(name, energy)| (name.clone(), energy.as_f64().unwrap())).collect()
}

/// Tells twice a second what the site's main meter has counted: the node's input and what the site needs beside it.
fn tell(socket: &Path, node: &Arc<Simulator>, told: &Arc<AtomicBool>) -> JoinHandle<()> {
    let (stream, node, told) = (UnixStream::connect(socket).unwrap(), Arc::clone(node), Arc::clone(told));
    std::thread::spawn(move || {
        let mut answers = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        for seq in 1.. {
            if !told.load(Ordering::SeqCst) {
                return;
            }
            let energy = (truth(&node).values().sum::<f64>() / EFFICIENCY * PUE).round();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "joules of a minute")]
            let line = json!({ "meter": "main", "seq": seq, "energy_microjoules": energy as u64 });
            writeln!(stream, "{line}").unwrap();
            let mut answer = String::new();
            answers.read_line(&mut answer).unwrap();
            assert!(answer.contains("true"), "{answer}");
            std::thread::sleep(Duration::from_millis(500));
        }
    })
}

fn column<'a>(row: &'a Value, name: &str) -> &'a str {
    let parts = row["key"].as_array().unwrap();
    parts.iter().find(|part| part["name"] == name).and_then(|part| part["value"].as_str()).unwrap_or_default()
}

fn number(row: &Value, name: &str) -> f64 {
    row[name].as_f64().unwrap_or_default()
}

/// The row of one source.
fn of<'a>(rows: &'a [Value], source: &str) -> &'a Value {
    rows.iter().find(|row| column(row, "source") == source).unwrap_or_else(|| panic!("{source} in {rows:?}"))
}

#[test]
fn platform_overcount_and_pue_are_those_of_the_simulated_truth() {
    let rig = Rig::start();
    let began = now().unwrap();
    until("both meters", || {
        let rows = rig.layers(&["--from", &began]);
        ["redfish/wall", "meter/main"]
            .iter()
            .all(|id| rows.iter().any(|row| column(row, "source") == *id && number(row, "microjoules") > 0.0))
    });
    // All draws are constant: what counts is the power.
    let (begin, before, clock) = (now().unwrap(), rig.truth(), Moment::now());
    std::thread::sleep(MEASURED);
    let (end, after, passed) = (now().unwrap(), rig.truth(), clock.elapsed().as_secs_f64());
    let window = ["--from", begin.as_str(), "--to", end.as_str()];
    let scale = rig.seconds(&window) / passed;
    let drawn = |leaf: &str| (after[leaf] - before[leaf]) * scale;
    let input = after.keys().map(|leaf| drawn(leaf)).sum::<f64>() / EFFICIENCY;
    until("all of the window", || {
        let rows = rig.layers(&window);
        ["redfish/wall", "meter/main"]
            .iter()
            .zip([1.0, PUE])
            .all(|(id, times)| close(number(of(&rows, id), "microjoules"), input * times))
    });

    let rows = rig.layers(&window);
    let wall = of(&rows, "redfish/wall");
    assert_eq!((column(wall, "layer"), column(wall, "node")), ("node", "simulated"));
    // A node's first hour has none before it that its lag could be found by; past a full hour it may have one.
    assert!(["unknown", "cross_correlation"].iter().any(|method| wall["lag"]["method"] == *method), "{wall}");
    assert_eq!(of(&rows, "meter/main")["lag"], json!(null), "only what is a wall is late");
    // The parts that are metered against the truth, and what the wall has beyond them.
    let sources = rig.installation.ask(&[&["energy", "--by", "source"], &window[..]].concat()).unwrap();
    let content = sources["total_microjoules"].as_f64().unwrap();
    let gpu =
        sources["rows"].as_array().unwrap().iter().find(|row| row["key"].to_string().contains("nvml/GPU")).unwrap();
    assert!(close(number(gpu, "microjoules"), drawn("gpu0")), "{gpu}: {}", drawn("gpu0"));
    let platform = number(wall, "microjoules") - content;
    assert!(platform > 0.3 * input, "{sources}");
    if let Some(residual) = wall["layer_residual_microjoules"].as_i64() {
        assert!((residual as f64 - platform).abs() < 0.5, "to the microjoule");
    }
    let explained =
        rig.installation.ask(&[&["explain", "--model", &format!("{MODEL}@1")], &window[..]].concat()).unwrap();
    let answer = &explained["answer"];
    assert_eq!(answer["conservation"]["residual_uj"], 0, "{answer}");
    assert!(explained["balances"].as_array().unwrap().iter().all(|one| one["residual_microjoules"] == 0));
    let reconciled = &answer["reconciliation"];
    assert_eq!(reconciled["walls"], json!(["simulated: redfish/wall"]), "{reconciled}");
    assert_eq!(reconciled["overcount_uj"], 0, "{reconciled}");
    assert!((number(reconciled, "platform_uj") / platform - 1.0).abs() < 0.1, "{reconciled}: {platform}");

    // The site's meter over its node's input, as one figure and as a series.
    let main = of(&rows, "meter/main");
    assert_eq!((column(main, "layer"), column(main, "name")), ("site", SITE));
    assert!(roughly(number(main, "pue"), PUE), "{main}");
    let sci = rig.installation.ask(&[&["sci"], &window[..]].concat()).unwrap();
    assert!(
        sci["answers"][0]["pue"]["source"].as_str().unwrap().contains("measured by meter/main of simulated"),
        "{sci}"
    );
    assert!(roughly(number(&sci["answers"][0]["pue"], "effective"), PUE), "{sci}");
    let series = rig.layers(&[&window[..], &["--step", "4s"]].concat());
    let mains: Vec<&Value> = series.iter().filter(|row| column(row, "source") == "meter/main").collect();
    assert!(mains.len() >= 4, "{series:?}");
    let instants: Vec<&str> = mains.iter().map(|row| column(row, "from")).collect();
    assert!(instants.is_sorted_by(|a, b| a < b), "{instants:?}");
    let steady = mains.iter().filter(|row| (number(row, "pue") / PUE - 1.0).abs() < 0.1).count();
    assert!(steady >= 3, "the PUE of most steps: {mains:?}");

    // A BMC that lies from now on: less than the parts draw. A minute is reconciled as a whole, so it lies in all of one.
    until("a minute begins", || now().unwrap()[SECONDS].parse::<u32>().unwrap() < 4);
    rig.node.ask(&json!({ "op": "bmc", "fault": { "value": "100" } })).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let lies = now().unwrap();
    std::thread::sleep(MEASURED / 2);
    let end = now().unwrap();
    let window = ["--from", lies.as_str(), "--to", end.as_str()];
    let ask = |trust: &str| {
        rig.installation
            .ask(&[&["explain", "--model", &format!("{MODEL}@1"), "--trust", trust], &window[..]].concat())
            .unwrap()
    };
    // Flagged beyond 2 % of the meter: when enough of the window has come.
    let flags = |answer: &Value| answer["answer"]["quality"]["flags"].to_string();
    until("the overcount", || flags(&ask("components")).contains("\"overcount\""));
    let (components, wall) = (ask("components"), ask("wall"));
    for one in [&components, &wall] {
        assert_eq!(one["answer"]["conservation"]["residual_uj"], 0, "{one}");
    }
    assert!(number(&components["answer"]["reconciliation"], "overcount_uj") > 0.0, "{components}");
    assert_eq!(wall["answer"]["conservation"]["overcount_uj"], 0, "scaled to the meter: {wall}");
}
