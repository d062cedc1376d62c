//! GPUs from the vendor's library to the answer per model version, on a simulated node whose watts are known.

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

#[path = "accelerators/mig.rs"]
mod mig;

/// After this, counts of every server are known: scrapes are a second apart.
const WARM_UP: Duration = Duration::from_secs(3);
/// Parts of the whole that the ends of the window may leave to nobody.
const EDGES: f64 = 0.005;
/// Time that is accounted.
const MEASURED: Duration = Duration::from_secs(12);
/// Counters move in steps of 100 ms, of which the window's two ends cut one each; on a busy machine they are dated late
/// by as much. Every wrong split of these watts is further off.
const CLOSE: f64 = 0.04;

/// Idle power of an L40S in the agent's table, and what the simulated one draws: empty, with models at rest, at work.
const FLOOR_W: f64 = 28.0;
const EMPTY_W: f64 = 32.0;
const LOADED_W: f64 = 84.0;
const ACTIVE_W: f64 = 230.0;

fn at_work(permille: f64) -> f64 {
    LOADED_W + (ACTIVE_W - LOADED_W) * permille / 1000.0
}

/// Version 1 alone on a GPU, both versions at rest on another, version 2 alone on a third; nothing on the last.
fn servers(ports: [u16; 4]) -> [Server; 4] {
    let server = |name, pid, gpu, sm_permille, gpu_gibibytes, version, requests_per_kilosecond, port| Server {
        name,
        pid,
        gpu,
        sm_permille,
        gpu_gibibytes,
        version,
        requests_per_kilosecond,
        port,
    };
    [
        server("one", 101, 0, 500, 40, "1", 3_000, ports[0]),
        server("one-resting", 102, 1, 0, 24, "1", 0, ports[1]),
        server("two-resting", 103, 1, 0, 12, "2", 0, ports[2]),
        server("two", 104, 2, 300, 40, "2", 3_000, ports[3]),
    ]
}

/// Accelerator energy in µJ by account and part, over all nodes of an explanation; every node must balance.
fn accelerator_parts(explained: &Value) -> BTreeMap<(String, String), f64> {
    let mut found = BTreeMap::new();
    for balance in explained["balances"].as_array().unwrap() {
        assert_eq!(balance["residual_microjoules"], 0, "{balance}");
        assert_eq!(balance["simulated"], true);
        for account in balance["accounts"].as_array().unwrap() {
            let name = format!("{} {}", account["account"].as_str().unwrap(), account["name"].as_str().unwrap());
            for (part, energy) in account["parts"].as_object().unwrap() {
                if let Some(purpose) = part.strip_prefix("accelerator_") {
                    *found.entry((name.trim().to_owned(), purpose.to_owned())).or_default() += energy.as_f64().unwrap();
                }
            }
        }
    }
    found
}

/// Waits until every GPU's energy is known to the aggregator: how long the vendor's library takes is its own affair.
fn wait_for_gpus(installation: &Installation, gpus: usize) {
    for _ in 0..120 {
        let rows = installation.ask(&["energy", "--by", "gpu", "--last", "1m"]);
        if rows.is_ok_and(|rows| rows["rows"].as_array().is_some_and(|rows| rows.len() == gpus)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    panic!("no energy of {gpus} GPUs within a minute");
}

fn close(value: f64, expected: f64) -> bool {
    (value / expected - 1.0).abs() < CLOSE
}

#[test]
fn energy_of_gpus_goes_to_the_versions_that_hold_and_use_them() {
    let (installation, _aggregator) = Installation::start().unwrap();
    let simulator = Simulator::start("l40s-4gpu", &installation.folder().join("node")).unwrap();
    let servers = servers(free_ports().unwrap());
    servers.iter().for_each(|server| simulator.serve(server).unwrap());
    let config =
        simulator.agent_config(&installation.connection("simulated"), &installation.spool(), &servers).unwrap();
    let mut agent = installation.start_agent_as("agent", &config).unwrap();
    // The node draws power by the real clock, like any other.
    wait_for_gpus(&installation, 4);
    std::thread::sleep(WARM_UP);
    let begin = now().unwrap();
    std::thread::sleep(MEASURED);
    let end = now().unwrap();
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let window = ["--from", begin.as_str(), "--to", end.as_str()];
    let ask = |words: &[&str]| installation.ask(&[words, &window[..]].concat()).unwrap();

    // Each GPU's counter against the watts of the simulator.
    let gpus = ask(&["energy", "--by", "gpu"]);
    let energy: Vec<f64> =
        gpus["rows"].as_array().unwrap().iter().map(|row| row["microjoules"].as_f64().unwrap()).collect();
    let watts = [at_work(500.0), LOADED_W, at_work(300.0), EMPTY_W];
    assert_eq!(energy.len(), watts.len(), "{gpus}");
    for (energy, watts) in energy.iter().zip(watts) {
        assert!(close(energy / energy_a_watt(&gpus), watts), "{watts} W: {gpus}");
    }
    assert!(gpus["simulated"] == true && gpus["simulated_microjoules"] == gpus["total_microjoules"], "{gpus}");

    let seconds = energy_a_watt(&gpus) / 1e6;
    assert!((11.0..15.0).contains(&seconds), "12 s and the ends of the window: {seconds}");

    // Whose it is: base by what is held (one alone holds all), the rest by use or, at rest, by memory.
    let explained = ask(&["explain", "--model", &format!("{MODEL}@1")]);
    let mut parts = accelerator_parts(&explained);
    let whole: f64 = parts.values().sum();
    parts.retain(|_, energy| *energy > EDGES * whole);
    let unit = energy_a_watt(&gpus);
    let resting = |part: f64, of: f64| FLOOR_W * part + (LOADED_W - FLOOR_W) * of;
    let expected = [
        (format!("model {MODEL}@1"), "base", FLOOR_W),
        (format!("model {MODEL}@1"), "dynamic", at_work(500.0) - FLOOR_W),
        (format!("model {MODEL}@1"), "dedicated_idle", resting(0.5, 2.0 / 3.0)),
        (format!("model {MODEL}@2"), "base", FLOOR_W),
        (format!("model {MODEL}@2"), "dynamic", at_work(300.0) - FLOOR_W),
        (format!("model {MODEL}@2"), "dedicated_idle", resting(0.25, 1.0 / 3.0)),
        ("pool_idle".to_owned(), "idle", EMPTY_W + FLOOR_W / 4.0),
    ];
    assert_eq!(parts.len(), expected.len(), "{parts:?}");
    for (account, purpose, watts) in expected {
        let booked = parts[&(account.clone(), purpose.to_owned())] / unit;
        assert!(close(booked, watts), "{account} {purpose}: {booked} of {watts} W");
    }

    // The answer.
    let page = ask(&["sci"]);
    let schema = include_str!("../../cli/schema/answer.schema.json");
    let schema = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap();
    let faults: Vec<String> =
        schema.iter_errors(&page).map(|fault| format!("{}: {fault}", fault.instance_path)).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    let answers = page["answers"].as_array().unwrap();
    assert_eq!(answers.len(), 2, "{page}");
    for answer in answers {
        assert!(answer["simulated"] == true && answer["simulated_share"] == 1.0, "{answer}");
        assert_eq!(answer["boundary"]["label"], "SCI (simulated)");
        assert_eq!(answer["conformance"]["sci_1_1"], false);
        let l0 = answer["energy"]["accelerator_j"].as_f64().unwrap();
        let watts = if answer["subject"]["model_version"] == "1" { at_work(500.0) } else { at_work(300.0) };
        assert!(close(l0 * 1e6 / unit, watts), "{l0} J");
        let device =
            answer["hardware"].as_array().unwrap().iter().find(|part| part["component"] == "accelerator").unwrap();
        assert_eq!((device["model"].as_str(), device["count"].as_f64()), (Some("NVIDIA L40S"), Some(4.0)));
        assert_eq!((device["driver"].as_str(), device["memory_bytes"].as_u64()), (Some("550.163.01"), Some(48 << 30)));
        let nvml = |one: &&Value| one["collector"].as_str().unwrap().starts_with("nvml") && one["contained"] == false;
        let sensors: Vec<&Value> = answer["instruments"].as_array().unwrap().iter().filter(nvml).collect();
        assert!(sensors.len() == 4 && sensors.iter().all(|one| one["uncertainty"] == 0.05), "{sensors:?}");
        let flags = answer["quality"]["flags"].to_string();
        assert!(!flags.contains("disputed") && !flags.contains("idle_ratio"), "{flags}");
    }
    // One and a half GPUs and one and a quarter are held: embodied carbon goes by that, idle capacity too.
    let grams = |place: usize| answers[place]["embodied"]["m_g"].as_f64().unwrap();
    assert!(close(grams(0) / grams(1), 1.5 / 1.25), "{} and {}", grams(0), grams(1));
}

#[test]
fn the_power_limit_that_holds_for_its_gpus_is_a_part_of_a_servers_set_up() {
    let (installation, _aggregator) = Installation::start().unwrap();
    let simulator = Simulator::start("l40s-4gpu", &installation.folder().join("node")).unwrap();
    let [mut one, _, _, mut two] = servers(free_ports().unwrap());
    (one.version, two.version) = ("1", "1");
    let servers = [one, two];
    servers.iter().for_each(|server| simulator.serve(server).unwrap());
    let config =
        simulator.agent_config(&installation.connection("simulated"), &installation.spool(), &servers).unwrap();
    // Of the last server the configuration knows better.
    let config = config + "serving = { power_limit_watts = 200.0 }\n";
    let mut agent = installation.start_agent_as("agent", &config).unwrap();
    wait_for_gpus(&installation, 4);
    let begin = now().unwrap();
    std::thread::sleep(WARM_UP);
    let end = now().unwrap();
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let page = installation.ask(&["sci", "--from", &begin, "--to", &end]).unwrap();
    let answers = page["answers"].as_array().unwrap();
    let under = |limit: &str| {
        let limit = format!("power_limit_milliwatts={limit}");
        answers.iter().filter(|answer| answer["operating"].to_string().contains(&limit)).count()
    };
    assert_eq!((answers.len(), under("350000"), under("200000")), (2, 1, 1), "two set-ups of a version: {page}");
}

/// µJ of one watt over the time in which energy is known, from the energy of all GPUs.
fn energy_a_watt(gpus: &Value) -> f64 {
    gpus["total_microjoules"].as_f64().unwrap() / (at_work(500.0) + LOADED_W + at_work(300.0) + EMPTY_W)
}
