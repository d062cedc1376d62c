//! `joulebook-agent measure` beside a running agent of a simulated node: joules of a command against the node's truth.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "functions that tests call may fail the test, and print what they found"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use joulebook_tests::installation::AGENT_READY;
use joulebook_tests::program::{Program, binary};
use joulebook_tests::simulator::Simulator;
use joulebook_tests::wait::Moment;
use serde_json::{Value, json};

/// Power of each CPU package while the command works, and how long that lasts.
const WORKING_W: f64 = 200.0;
const WORK: Duration = Duration::from_millis(1_500);
/// How long a command may take to begin.
const PATIENCE: Duration = Duration::from_secs(30);

struct Rig {
    simulator: Simulator,
    _agent: Program,
    /// Goes when nothing writes into it any more.
    folder: tempfile::TempDir,
}

impl Rig {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let simulator = Simulator::start("cpu-2s", &folder.path().join("node")).unwrap();
        // Nobody listens there: energy is measured on the node, whether it is delivered or not.
        let connection = "node = \"simulated\"\ninsecure_loopback = true\naggregator = \"http://127.0.0.1:1\"\n";
        let config = simulator.agent_config(connection, &folder.path().join("spool"), &[]).unwrap();
        let socket = folder.path().join("push.sock");
        let config = format!("{config}\n[push]\nsocket = \"{}\"\n", socket.display());
        let path = folder.path().join("agent.toml");
        std::fs::write(&path, config).unwrap();
        let agent =
            Program::start(binary("joulebook-agent").unwrap(), &["--config".into(), path.into_os_string()]).unwrap();
        agent.wait_for(AGENT_READY).unwrap();
        Self { folder, simulator, _agent: agent }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn measure(&self, options: &[&str], command: &[&str]) -> Command {
        let mut measure = Command::new(binary("joulebook-agent").unwrap());
        measure.args(["measure", "--config"]).arg(self.file("agent.toml")).args(options).arg("--").args(command);
        measure.current_dir(self.folder.path());
        measure
    }

    fn set(&self, watts: f64) {
        for leaf in self.packages() {
            self.simulator.ask(&json!({"op": "set", "leaf": leaf, "w": watts})).unwrap();
        }
    }

    fn packages(&self) -> Vec<String> {
        let info = self.simulator.ask(&json!({"op": "info"})).unwrap();
        let leaves = info["leaves"].as_array().unwrap().iter().filter_map(Value::as_str);
        let packages: Vec<String> = leaves.filter(|leaf| leaf.contains("pkg")).map(str::to_owned).collect();
        assert_eq!(packages.len(), 2, "{info}");
        packages
    }

    fn now_ns(&self) -> u64 {
        self.simulator.ask(&json!({"op": "info"})).unwrap()["now_ns"].as_u64().unwrap()
    }

    /// What the packages drew since an instant, in µJ.
    fn truth(&self, from_ns: u64) -> u64 {
        let truth = self.simulator.ask(&json!({"op": "truth", "from_ns": from_ns, "to_ns": null})).unwrap();
        self.packages().iter().map(|leaf| truth["leaves_uj"][leaf].as_u64().unwrap()).sum()
    }
}

fn said(output: &Output) -> Value {
    serde_json::from_slice(&output.stderr).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn wait_for(path: &Path) {
    let begun = Moment::now();
    while !path.exists() {
        assert!(begun.elapsed() < PATIENCE, "{} never came", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Energy of the sources of a component in µJ.
fn of(run: &Value, component: &str) -> u64 {
    let sources = run["used"]["sources"].as_object().unwrap().values();
    let added = sources.filter(|source| source["component"] == component && source["added"] == true);
    added.map(|source| source["microjoules"].as_u64().unwrap()).sum()
}

#[test]
fn what_was_used_inside_a_span_is_measured_to_its_edges_and_nothing_beside_it() {
    let rig = Rig::start();
    rig.set(0.0);
    let begin = rig.now_ns();
    let command = ["sh", "-c", "touch begun; while [ ! -e done ]; do sleep 0.02; done"];
    let measuring = rig.measure(&["-o", "json"], &command);
    let output = std::thread::scope(|scope| {
        let mut measuring = measuring;
        let run = scope.spawn(move || measuring.output().unwrap());
        wait_for(&rig.file("begun"));
        rig.set(WORKING_W);
        std::thread::sleep(WORK);
        rig.set(0.0);
        std::fs::write(rig.file("done"), "").unwrap();
        run.join().unwrap()
    });
    assert!(output.status.success(), "{output:?}");
    let measured = said(&output);
    let run = &measured["runs"][0];
    // Outside the span the packages drew nothing: all that they drew since is the span's.
    let (used, truth) = (of(run, "cpu"), rig.truth(begin));
    assert!(truth > 500_000_000, "two packages at 200 W for 1.5 s are 600 J: {truth}");
    let off = used.abs_diff(truth) as f64 / truth as f64;
    println!("measured {used} µJ of {truth} µJ, {:.4} % off", off * 100.0);
    assert!(off < 0.005, "{used} µJ of {truth} µJ: {measured:#}");
    let all = run["used"]["microjoules"].as_u64().unwrap();
    assert!(all >= used && run["used"]["seconds"].as_f64().unwrap() >= WORK.as_secs_f64(), "{measured:#}");
    assert_eq!(all, ["cpu", "dram", "accelerator", "other"].map(|component| of(run, component)).iter().sum::<u64>());
}

#[test]
fn repeated_runs_have_a_mean_and_the_end_of_the_command_is_the_programs() {
    let rig = Rig::start();
    rig.set(100.0);
    let output = rig.measure(&["--repeat", "3", "-o", "json"], &["sleep", "0.4"]).output().unwrap();
    let measured = said(&output);
    assert_eq!(measured["runs"].as_array().unwrap().len(), 3, "{measured:#}");
    let watts = measured["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| of(run, "cpu") as f64 / 1e6 / run["used"]["seconds"].as_f64().unwrap());
    for watts in watts {
        assert!((watts - 200.0).abs() < 6.0, "two packages draw 100 W each: {watts} in {measured:#}");
    }
    let joules = &measured["mean"]["joules"];
    assert!(joules["mean"].as_f64().unwrap() > 0.0 && joules["deviation"].as_f64().is_some(), "{measured:#}");
    let output = rig.measure(&[], &["sh", "-c", "echo works; exit 3"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), &b"works\n"[..]), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("1 run,") && text.contains(" J") && text.contains("at rest"), "{text}");
}
