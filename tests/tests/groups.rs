//! Service groups whose servers run on two nodes: two agents, two simulated nodes, one counting point for each group.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use joulebook_tests::engine::free_ports;
use joulebook_tests::installation::Installation;
use joulebook_tests::simulator::{MODEL, Server, Simulator};
use joulebook_tests::timestamp::now;
use serde_json::Value;

const NODES: [&str; 2] = ["east", "west"];
/// GPUs of each node.
const GPUS: usize = 4;
/// After this, counts of every server are known: scrapes are a second apart.
const WARM_UP: Duration = Duration::from_secs(4);
/// Time that is accounted.
const MEASURED: Duration = Duration::from_secs(10);

fn server(
    name: &'static str,
    pid: u32,
    gpu: u32,
    version: &'static str,
    requests_per_kilosecond: u64,
    port: u16,
) -> Server {
    Server { name, pid, gpu, sm_permille: 500, gpu_gibibytes: 40, version, requests_per_kilosecond, port }
}

/// Accelerator energy in µJ by node and account; every node must balance.
fn accelerators(explained: &Value) -> BTreeMap<(String, String), u64> {
    let mut found = BTreeMap::new();
    for balance in explained["balances"].as_array().unwrap() {
        assert_eq!(balance["residual_microjoules"], 0, "{balance}");
        for account in balance["accounts"].as_array().unwrap() {
            let name = format!("{} {}", account["account"].as_str().unwrap(), account["name"].as_str().unwrap());
            let key = (balance["node"].as_str().unwrap().to_owned(), name.trim().to_owned());
            let parts = account["parts"].as_object().unwrap();
            let mine = parts.iter().filter(|(part, _)| part.starts_with("accelerator_"));
            *found.entry(key).or_default() += mine.map(|(_, energy)| energy.as_u64().unwrap()).sum::<u64>();
        }
    }
    found
}

/// Energy of each GPU in µJ by node and the GPU's place.
fn gpus(rows: &Value) -> BTreeMap<(String, usize), u64> {
    let mut by_node: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for row in rows["rows"].as_array().unwrap() {
        let key = row["key"].as_array().unwrap();
        let part = |name: &str| key.iter().find(|part| part["name"] == name).and_then(|part| part["value"].as_str());
        let (node, gpu) = (part("node").unwrap(), part("gpu").or(part("source")).unwrap());
        by_node.entry(node.to_owned()).or_default().insert(gpu.to_owned(), row["microjoules"].as_u64().unwrap());
    }
    let placed = by_node.into_iter().flat_map(|(node, gpus)| {
        gpus.into_values().enumerate().map(move |(place, energy)| ((node.clone(), place), energy))
    });
    placed.collect()
}

/// Waits until the energy of every GPU is known.
fn wait_for_gpus(installation: &Installation) {
    for _ in 0..120 {
        let rows = installation.ask(&["energy", "--by", "gpu", "--last", "1m"]);
        if rows.is_ok_and(|rows| rows["rows"].as_array().is_some_and(|rows| rows.len() == NODES.len() * GPUS)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    panic!("no energy of all GPUs within a minute");
}

#[test]
fn a_group_over_two_nodes_has_the_energy_of_all_its_servers_and_the_requests_of_one() {
    let (installation, _aggregator) = Installation::of(&NODES, &[]).unwrap();
    let ports: [u16; 3] = free_ports().unwrap();
    // Version 1 is cut over both nodes: its head alone counts. Of version 2 one reads prompts and the other generates:
    // both count, the same requests (here at different rates, so that whose count it is can be told).
    let head = server("head", 101, 0, "1", 2_000, ports[0]);
    let prefill = server("prefill", 102, 1, "2", 9_000, ports[1]);
    let decode = server("decode", 202, 1, "2", 3_000, ports[2]);
    let group = |name: &str, role: &str| format!("service_group = \"{name}\"\n{role}");
    let east = [(head, group("cut", "")), (prefill, group("split", "role = \"prefill\"\n"))];
    let west = [(decode, group("split", "role = \"decode\"\n"))];
    let mut agents = Vec::new();
    let mut simulators = Vec::new();
    for (node, servers) in NODES.into_iter().zip([&east[..], &west[..]]) {
        let simulator = Simulator::start("l40s-4gpu", &installation.folder().join(node)).unwrap();
        let spool = installation.folder().join(format!("spool-{node}"));
        let mut config = simulator.agent_config(&installation.connection(node), &spool, &[]).unwrap();
        for (server, keys) in servers {
            simulator.serve(server).unwrap();
            let Server { port, version, .. } = server;
            let page = format!("url = \"http://127.0.0.1:{port}/metrics\"\npreset = \"vllm\"");
            config += &format!("\n[[target]]\n{page}\nversion = \"{version}\"\ninterval = \"1s\"\n{keys}");
        }
        if node == "west" {
            let worker = serde_json::json!({
                "name": "worker", "pid": 201, "cgroup": "/system.slice/worker.service", "cpu_millicores": 500, "gpu": 0,
                "sm_permille": 500, "gpu_memory_bytes": 40u64 << 30, "memory_bytes": 8u64 << 30,
            });
            simulator.ask(&serde_json::json!({ "op": "workload", "add": worker })).unwrap();
            config += "\n[[member]]\nservice_group = \"cut\"\ncgroup = \"/system.slice/worker.service\"\n";
        }
        agents.push(installation.start_agent_as(node, &config).unwrap());
        simulators.push(simulator);
    }
    // The nodes draw power by the real clock, like any other.
    wait_for_gpus(&installation);
    std::thread::sleep(WARM_UP);
    let begin = now().unwrap();
    std::thread::sleep(MEASURED);
    let end = now().unwrap();
    for mut agent in agents {
        assert!(agent.stop().unwrap().success(), "{}", agent.said());
    }
    let window = ["--from", begin.as_str(), "--to", end.as_str()];
    let ask = |words: &[&str]| installation.ask(&[words, &window[..]].concat()).unwrap();

    let rows = ask(&["energy", "--by", "gpu"]);
    let gpus = gpus(&rows);
    let explained = ask(&["explain", "--model", &format!("{MODEL}@1")]);
    let accounts = accelerators(&explained);
    for (version, of) in [("1", [("east", 0), ("west", 0)]), ("2", [("east", 1), ("west", 1)])] {
        for (node, gpu) in of {
            let booked = accounts[&(node.to_owned(), format!("model {MODEL}@{version}"))];
            assert_eq!(booked, gpus[&(node.to_owned(), gpu)], "version {version} on {node}: {explained} {rows}");
            assert!(booked > 0);
        }
    }
    let workers: Vec<_> = accounts.keys().filter(|(_, name)| name.contains("worker")).collect();
    assert!(workers.is_empty(), "who works for a group has no account of its own: {workers:?}");

    let page = ask(&["sci", "--per", "request"]);
    let answers = page["answers"].as_array().unwrap();
    assert_eq!(answers.len(), 2, "{page}");
    for (answer, (rate, part)) in answers.iter().zip([(2.0, 0), (3.0, 1)]) {
        let requests = answer["r"]["value"].as_f64().unwrap();
        // The ends of the window cut a scrape each.
        let expected = rate * MEASURED.as_secs_f64();
        assert!((requests - expected).abs() <= 2.0 * rate, "{requests} of {expected}: {answer}");
        let whole: u64 = NODES.iter().map(|node| gpus[&((*node).to_owned(), part)]).sum();
        let idle = answer["energy"]["dedicated_idle_j"].as_f64().unwrap();
        let l0 = answer["energy"]["accelerator_j"].as_f64().unwrap();
        assert!(
            l0 * 1e6 <= whole as f64 + 1.0 && (l0 + idle) * 1e6 >= whole as f64 - 1.0,
            "{l0} J of {whole}: {answer}"
        );
    }
}
