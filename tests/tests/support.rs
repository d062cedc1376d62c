//! Support services: what a router and a vector store use is charged to the versions of their pool, as its idle capacity is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]

use std::time::Duration;

use joulebook_tests::engine::free_ports;
use joulebook_tests::installation::{AGENT_READY, Installation};
use joulebook_tests::program::{Program, binary};
use joulebook_tests::simulator::{MODEL, Server, Simulator};
use joulebook_tests::timestamp::now;
use serde_json::{Value, json};

/// After this, counts of every server and energy of every GPU are known.
const WARM_UP: Duration = Duration::from_secs(4);
/// Time that is accounted.
const MEASURED: Duration = Duration::from_secs(8);
/// Without a meter at the input, what the power supplies lose is estimated (decisions.md): parts are this share of the input.
const SUPPLY: f64 = 0.94;

fn wait_for_gpus(installation: &Installation) {
    for _ in 0..120 {
        let rows = installation.ask(&["energy", "--by", "gpu", "--last", "1m"]);
        if rows.is_ok_and(|rows| rows["rows"].as_array().is_some_and(|rows| rows.len() == 4)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    panic!("no energy of four GPUs within a minute");
}

#[test]
fn what_support_services_use_is_charged_to_the_versions_of_their_pool_and_named() {
    let (installation, _aggregator) = Installation::start().unwrap();
    let simulator = Simulator::start("l40s-4gpu", &installation.folder().join("node")).unwrap();
    let ports: [u16; 2] = free_ports().unwrap();
    let server = |name, pid, gpu, version, port| Server {
        name,
        pid,
        gpu,
        sm_permille: 400,
        gpu_gibibytes: 40,
        version,
        requests_per_kilosecond: 3_000,
        port,
    };
    let servers = [server("one", 101, 0, "1", ports[0]), server("two", 102, 1, "2", ports[1])];
    servers.iter().for_each(|server| simulator.serve(server).unwrap());
    for (name, pid, gpu) in [("router", 201, Value::Null), ("index", 202, json!(2)), ("batch", 203, json!(3))] {
        let add = json!({
            "name": name, "pid": pid, "cgroup": format!("/system.slice/{name}.service"), "cpu_millicores": 3_000,
            "gpu": gpu, "sm_permille": if gpu.is_null() { 0 } else { 300 }, "gpu_memory_bytes": 20u64 << 30,
            "memory_bytes": 4u64 << 30,
        });
        simulator.ask(&json!({ "op": "workload", "add": add })).unwrap();
    }
    let connection = installation.connection("simulated");
    let mut config = simulator.agent_config(&connection, &installation.spool(), &servers).unwrap();
    for (role, workload) in [("router", "router.service"), ("vector store", "index.service")] {
        config += &format!("\n[[support]]\nrole = \"{role}\"\nworkload = \"{workload}\"\n");
    }
    let path = installation.folder().join("agent.toml");
    std::fs::write(&path, config).unwrap();
    let mut agent =
        Program::start(binary("joulebook-agent").unwrap(), &["--config".into(), path.into_os_string()]).unwrap();
    agent.wait_for(AGENT_READY).unwrap();
    wait_for_gpus(&installation);
    std::thread::sleep(WARM_UP);
    let begin = now().unwrap();
    std::thread::sleep(MEASURED);
    let end = now().unwrap();
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let window = ["--from", begin.as_str(), "--to", end.as_str()];
    let ask = |words: &[&str]| installation.ask(&[words, &window[..]].concat()).unwrap();

    let rows = ask(&["energy", "--by", "workload"]);
    let used = |name: &str| -> f64 {
        let of = |row: &&Value| row["key"].to_string().contains(name);
        rows["rows"].as_array().unwrap().iter().filter(of).map(|row| row["microjoules"].as_f64().unwrap()).sum()
    };
    let declared = used("router.service") + used("index.service");
    assert!(used("router.service") > 0.0 && used("index.service") > 0.0 && used("batch.service") > 0.0, "{rows}");
    let page = ask(&["sci"]);
    let answers = page["answers"].as_array().unwrap();
    assert_eq!(answers.len(), 2, "{page}");
    let support: Vec<f64> =
        answers.iter().map(|answer| answer["energy"]["support_j"].as_f64().unwrap() * 1e6).collect();
    let charged: f64 = support.iter().sum();
    assert!((charged * SUPPLY / declared - 1.0).abs() < 1e-6, "{charged} of {declared}: {rows} {page}");
    // Both hold one GPU: the default policy charges them alike.
    assert!((support[0] / support[1] - 1.0).abs() < 0.01, "{support:?}");
    for answer in answers {
        let inclusions = answer["boundary"]["inclusions"].to_string();
        assert!(inclusions.contains("support services: router, vector store"), "{answer}");
        assert!(!answer["boundary"]["exclusions"].to_string().contains("support"), "{answer}");
    }
    for balance in ask(&["explain", "--model", &format!("{MODEL}@1")])["balances"].as_array().unwrap() {
        assert_eq!(balance["residual_microjoules"], 0, "{balance}");
    }
    // Without an idle policy nobody is charged, and the answer says so.
    let page = ask(&["sci", "--idle", "unallocated"]);
    for answer in page["answers"].as_array().unwrap() {
        assert_eq!(answer["energy"]["support_j"], 0.0, "{answer}");
        assert!(answer["boundary"]["exclusions"].to_string().contains("charged to no version"), "{answer}");
    }
}
