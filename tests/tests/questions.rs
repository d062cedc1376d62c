//! What the operator's tool is asked of two simulated nodes: one whose GPUs are held and one that is out of service. Idle
//! capacity, the extended boundary, a comparison and an estimate, from the real programs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]

use std::path::Path;
use std::time::Duration;

use joulebook_tests::engine::free_ports;
use joulebook_tests::installation::{AGENT_READY, Installation};
use joulebook_tests::program::{Program, binary};
use joulebook_tests::simulator::{MODEL, Server, Simulator};
use joulebook_tests::timestamp::now;
use joulebook_tests::wait::until;
use serde_json::{Value, json};

/// The nodes: servers run on the first.
const SERVING: &str = "simulated";
const DRAINED: &str = "under-test";
/// Time that is accounted.
const MEASURED: Duration = Duration::from_secs(10);
/// Expected units of the trained version, and what its training cost.
const UNITS: f64 = 1e6;
const TRAINING_G: f64 = 5e6;
/// What holds at every site.
const KEYS: &str = "[site.default]\nintensity_g_per_kwh = 360.0\npue = 1.25\nwue_site_l_per_kwh = 1.8\n\
    wue_source_l_per_kwh = 3.0\nimpact_source = \"a study\"\n\
    [[out_of_service]]\nnode = \"under-test\"\nfrom = \"2020-01-01T00:00:00Z\"\nreason = \"burn-in\"\n";

struct Rig {
    _aggregator: Program,
    _nodes: [Simulator; 2],
    _agents: [Program; 2],
    /// Goes when nothing writes into it any more.
    installation: Installation,
}

fn agent(installation: &Installation, node: &str, simulator: &Simulator, servers: &[Server]) -> Program {
    let folder = installation.folder().join(format!("agent-{node}"));
    std::fs::create_dir(&folder).unwrap();
    let config = simulator.agent_config(&installation.connection(node), &folder.join("spool"), servers).unwrap();
    let path = folder.join("agent.toml");
    std::fs::write(&path, config).unwrap();
    let agent =
        Program::start(binary("joulebook-agent").unwrap(), &["--config".into(), path.into_os_string()]).unwrap();
    agent.wait_for(AGENT_READY).unwrap();
    agent
}

impl Rig {
    /// Version 1 works on one GPU and rests on another, version 2 works on a third; nothing is on the last.
    fn start() -> Self {
        let (installation, aggregator) = Installation::start_with(|_: &Path| KEYS.to_owned()).unwrap();
        let node = |name: &str, profile| Simulator::start(profile, &installation.folder().join(name)).unwrap();
        let (serving, drained) = (node("serving", "l40s-4gpu"), node("drained", "cpu-2s"));
        let ports: [u16; 3] = free_ports().unwrap();
        let server = |name, gpu, sm_permille, version, requests_per_kilosecond| Server {
            name,
            pid: 101 + gpu,
            gpu,
            sm_permille,
            gpu_gibibytes: 24,
            version,
            requests_per_kilosecond,
            port: ports[usize::try_from(gpu).unwrap()],
        };
        let servers =
            [server("one", 0, 500, "1", 3_000), server("resting", 1, 0, "1", 0), server("two", 2, 300, "2", 3_000)];
        servers.iter().for_each(|server| serving.serve(server).unwrap());
        let agents = [agent(&installation, SERVING, &serving, &servers), agent(&installation, DRAINED, &drained, &[])];
        Self { installation, _aggregator: aggregator, _nodes: [serving, drained], _agents: agents }
    }

    fn ask(&self, words: &[&str]) -> Value {
        self.installation.ask(words).unwrap()
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn close(found: f64, expected: f64) -> bool {
    (found / expected - 1.0).abs() < 1e-9
}

fn rows<'a>(answer: &'a Value, field: &str) -> &'a Vec<Value> {
    answer[field].as_array().unwrap_or_else(|| panic!("{field} of {answer}"))
}

fn capacity<'a>(answer: &'a Value, class: &str, node: &str, holder: &str) -> &'a Value {
    let is_it = |one: &&Value| one["class"] == class && one["node"] == node && one["holder"] == holder;
    rows(answer, "capacities").iter().find(is_it).unwrap_or_else(|| panic!("{class} of {holder} on {node}: {answer}"))
}

fn answer_of<'a>(answers: &'a Value, version: &str) -> &'a Value {
    let found = rows(answers, "answers").iter().find(|answer| answer["subject"]["model_version"] == version);
    found.unwrap_or_else(|| panic!("version {version} in {answers}"))
}

#[test]
fn idle_extended_compared_and_estimated_answers_agree_about_one_window() {
    let rig = Rig::start();
    until("both versions have tokens, both nodes energy", || {
        let words = ["energy", "--by", "node", "--last", "1m"];
        let nodes = rig.installation.ask(&words).is_ok_and(|answer| rows(&answer, "rows").len() == 2);
        let scored = |answer: &Value| rows(answer, "answers").iter().filter(|one| one["sci"]["value"].is_f64()).count();
        nodes && rig.installation.ask(&["sci", "--last", "1m"]).is_ok_and(|answer| scored(&answer) == 2)
    });
    let begin = now().unwrap();
    std::thread::sleep(MEASURED);
    let end = now().unwrap();
    let window = ["--from", begin.as_str(), "--to", end.as_str()];
    let ask = |words: &[&str]| rig.ask(&[words, &window[..]].concat());
    idle(&ask);
    extended(&rig, &ask);
    compared(&rig, &ask, &window);
    estimated(&ask);
}

/// Who holds idle capacity and what it costs, against the score of the same window.
fn idle(ask: &dyn Fn(&[&str]) -> Value) {
    let (idle, scores) = (ask(&["idle"]), ask(&["sci"]));
    let names = [format!("{MODEL}@1"), format!("{MODEL}@2")];
    let one = answer_of(&scores, "1");
    let joules = |capacity: &Value| number(&capacity["microjoules"]) / 1e6;

    // Version 1 rests on a GPU of its own: 84 W and its part of the platform, all the time.
    let resting = capacity(&idle, "IDLE-I2", SERVING, &names[0]);
    assert!(close(joules(resting), number(&one["energy"]["dedicated_idle_j"])), "{resting} and {one}");
    assert!(joules(resting) > 0.9 * 84.0 * MEASURED.as_secs_f64(), "{resting}");
    assert_eq!(resting["charged_uj"], resting["microjoules"]);
    assert!(resting["since_unix_nanos"].to_string().len() > 10 && resting["ended"] == false, "{resting}");
    capacity(&idle, "IDLE-I1", SERVING, &names[1]);

    // A GPU that nobody holds is charged to both versions; what is out of service to neither, under any policy.
    let free = capacity(&idle, "IDLE-I3", SERVING, "");
    assert_eq!((&free["holder_kind"], &free["charged_uj"]), (&json!("nobody"), &free["microjoules"]));
    let out = capacity(&idle, "IDLE-I4", DRAINED, "");
    assert_eq!((&out["charged_uj"], &out["reason"], &out["simulated"]), (&json!(0), &json!("burn-in"), &json!(true)));
    let grams = number(&out["operational_g"]);
    assert!(close(grams, joules(out) * 1.25 * 360.0 / 3.6e6), "{out}");
    let all = grams + number(&out["embodied_g"]);
    assert!(number(&out["low_g"]) < all && number(&out["high_g"]) > all, "{out}");
    for sum in rows(&idle, "policies") {
        assert_eq!((&sum["total_uj"], &sum["out_of_service_uj"]), (&idle["total_uj"], &out["microjoules"]), "{sum}");
    }
    assert_eq!(rows(&idle, "policies").len(), 6);

    // The two figures: the provisioned one is the score.
    for (version, name) in ["1", "2"].into_iter().zip(&names) {
        let found = rows(&idle, "versions").iter().find(|one| one["label"] == **name).unwrap();
        let [marginal, whole] = ["marginal", "provisioned"].map(|figure| number(&found[figure]["g_per_unit"]));
        assert!(marginal < whole && close(whole, number(&answer_of(&scores, version)["sci"]["value"])), "{found}");
    }

    // Every policy and scope is asked of the score as well.
    let charged = |words: &[&str]| {
        let scores = ask(&[&["sci"], words].concat());
        let pool: f64 =
            ["1", "2"].map(|version| number(&answer_of(&scores, version)["energy"]["pool_idle_j"])).iter().sum();
        (scores["answers"][0]["idle"]["policy"].clone(), scores["answers"][0]["idle"]["scope"].clone(), pool)
    };
    for policy in ["reserved-capacity-time", "active-energy", "requests", "usage-time", "equal"] {
        let (named, scope, pool) = charged(&["--idle", policy, "--idle-scope", "cluster"]);
        assert_eq!((named, scope), (json!(policy.replace('-', "_")), json!("cluster")));
        assert!(close(pool, joules(free)), "{policy}: {pool} of {free}");
    }
    let (_, _, none) = charged(&["--idle", "unallocated"]);
    assert!(none.abs() < 1e-12, "{none}");

    // Water stands beside the score: the site's by IT energy, the electricity's with the PUE once.
    let water = &one["impacts"]["water"];
    let kwh = number(&one["energy"]["by_level_j"]["idle"]) / 3.6e6;
    assert!(close(number(&water["value"]), kwh * (1.8 + 1.25 * 3.0)), "{water}");
    assert!(
        one["impacts"]["primary_energy"]["value"].is_null()
            && one["not_available"]["impacts.primary_energy.value"].is_string()
    );
}

/// A disclosed training beside the score, in its own block alone.
fn extended(rig: &Rig, ask: &dyn Fn(&[&str]) -> Value) {
    let before = ask(&["sci"]);
    let path = rig.installation.folder().join("training.json");
    let disclosure = json!({
        "schema": "joulebook-training/1", "pool": "sim", "model": MODEL, "version": "1", "scope": "final_run",
        "document": "https://example.org/card", "units": UNITS, "unit": "total_token", "training_g": TRAINING_G,
    });
    std::fs::write(&path, disclosure.to_string()).unwrap();
    rig.installation.text(&["training", "set", path.to_str().unwrap()]).unwrap();
    let (default, extended) = (ask(&["sci"]), ask(&["sci", "--extended"]));
    for version in ["1", "2"] {
        assert_eq!(
            answer_of(&default, version)["sci"],
            answer_of(&before, version)["sci"],
            "training is in no default answer"
        );
        assert_eq!(answer_of(&extended, version)["sci"], answer_of(&before, version)["sci"]);
    }
    let one = answer_of(&extended, "1");
    let block = &one["extended"];
    assert_eq!(block["available"], true, "{block}");
    let per_unit = TRAINING_G / UNITS;
    assert!(close(number(&block["per_unit_g"]), per_unit), "{block}");
    assert!(close(number(&block["sci"]), number(&one["sci"]["value"]) + per_unit), "{block}");
    let ledger = &block["ledgers"][0];
    let parts = ["allocated_g", "written_off_g", "remaining_g"].map(|part| number(&ledger[part]));
    assert!(close(parts.iter().sum(), TRAINING_G) && parts[0] > 0.0, "{ledger}");
    let two = &answer_of(&extended, "2")["extended"];
    assert!(two["available"] == false && two["sci"].is_null() && !rows(two, "failed_gates").is_empty(), "{two}");
}

/// Two versions side by side, and what may not be.
fn compared(rig: &Rig, ask: &dyn Fn(&[&str]) -> Value, window: &[&str]) {
    let names = [format!("{MODEL}@1"), format!("{MODEL}@2")];
    let scores = ask(&["sci"]);
    let score = |version: &str| number(&answer_of(&scores, version)["sci"]["value"]);
    let compared = ask(&["compare", &names[0], &names[1]]);
    assert!(close(number(&compared["ratio"]), score("2") / score("1")), "{compared}");
    let missing = format!("{MODEL}@3");
    let refused = rig.installation.ask(&[&["compare", &names[0], &missing], window].concat());
    assert!(refused.is_err_and(|error| error.to_string().contains("no such model version")));
}

/// An estimate beside what was measured, with the inputs of the same window.
fn estimated(ask: &dyn Fn(&[&str]) -> Value) {
    let name = format!("{MODEL}@1");
    let words = ["estimate", "--method", "teads", "--unit-watts", "350", "--utilisation", "0.5", "--model", &name];
    let estimate = ask(&words);
    assert_eq!((&estimate["label"], &estimate["measured"]["name"]), (&json!("estimated"), &json!(name)));
    let scores = ask(&["sci"]);
    let one = answer_of(&scores, "1");
    assert!(close(number(&estimate["measured"]["energy_j"]), number(&one["energy"]["total_j"])), "{estimate}");
    let from: Vec<&Value> = rows(&estimate, "inputs").iter().filter(|input| input["from"] == "measured").collect();
    let measured: Vec<&str> = from.iter().map(|input| input["name"].as_str().unwrap()).collect();
    assert_eq!(measured, ["duration", "pue", "grams-per-kwh"], "{estimate}");
    let seconds = number(&from[0]["value"]);
    let joules = 350.0 * 0.75 * seconds * 1.25;
    assert!(close(number(&estimate["energy_j"]["value"]), joules), "{estimate}");
    assert!(close(number(&estimate["carbon_g"]["value"]), joules * 360.0 / 3.6e6), "{estimate}");
}
