//! A GPU that is divided into instances, from the vendor's library to the grams of each version.

use super::{WARM_UP, accelerator_parts, wait_for_gpus};
use joulebook_tests::engine::free_ports;
use joulebook_tests::installation::Installation;
use joulebook_tests::simulator::{MODEL, Server, Simulator};
use joulebook_tests::timestamp::now;
use serde_json::{Value, json};

const GPUS: usize = 8;
/// The one that is divided.
const DIVIDED: u32 = 1;
/// Idle power of an H100 in the agent's table.
const FLOOR_W: f64 = 69.0;
/// 5,700 kg for the host and 164 kg for each GPU, in g, and the life of them in seconds.
const NODE_G: f64 = 5_700_000.0 + 8.0 * 164_000.0;
const LIFE_SECONDS: f64 = 35_040.0 * 3600.0;
/// Shares of time are told in ns of a second, amounts in µJ a piece of time.
const EXACT: f64 = 1e-6;

fn server(name: &'static str, pid: u32, sm_permille: u32, version: &'static str, port: u16) -> Server {
    let (gpu, gpu_gibibytes, requests_per_kilosecond) = (DIVIDED, 8, 3_000);
    Server { name, pid, gpu, sm_permille, gpu_gibibytes, version, requests_per_kilosecond, port }
}

fn exactly(value: f64, expected: f64) {
    assert!((value / expected - 1.0).abs() < EXACT, "{value} is not {expected}");
}

#[test]
fn versions_on_instances_of_a_gpu_have_its_joules_and_grams_by_their_slices_of_seven() {
    let (installation, _aggregator) = Installation::start().unwrap();
    let simulator = Simulator::start("dgx-h100", &installation.folder().join("node")).unwrap();
    // 3g.40gb has half of the memory, 2g.20gb a quarter; two slices are nobody's.
    simulator.ask(&json!({ "op": "divide", "gpu": DIVIDED, "slices": [3, 2] })).unwrap();
    let [first, second] = free_ports().unwrap();
    let servers = [server("three", 101, 1_000, "1", first), server("two", 102, 500, "2", second)];
    for (server, instance) in servers.iter().zip(1..) {
        simulator.serve_on(server, instance).unwrap();
    }
    let config =
        simulator.agent_config(&installation.connection("simulated"), &installation.spool(), &servers).unwrap();
    let mut agent = installation.start_agent_as("agent", &config).unwrap();
    wait_for_gpus(&installation, GPUS);
    // Before and behind the window as much again, so that all of it is known.
    std::thread::sleep(3 * WARM_UP);
    let begin = now().unwrap();
    std::thread::sleep(2 * WARM_UP);
    let end = now().unwrap();
    std::thread::sleep(3 * WARM_UP);
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let window = ["--from", begin.as_str(), "--to", end.as_str()];
    let ask = |words: &[&str]| installation.ask(&[words, &window[..]].concat()).unwrap();

    let energy = ask(&["energy", "--by", "gpu"]);
    let rows = energy["rows"].as_array().unwrap();
    let whole = |row: &Value| row["microjoules"].as_u64().unwrap();
    let (divided, others): (Vec<&Value>, Vec<&Value>) =
        rows.iter().partition(|row| row.to_string().contains("GPU-5157a1e0-0000-4000-8000-000000000001"));
    let (divided, others) = (whole(divided[0]), others.into_iter().map(whole).sum::<u64>());
    let mut parts = accelerator_parts(&ask(&["explain", "--model", &format!("{MODEL}@1"), "--idle", "unallocated"]));
    let mut of = |account: &str| {
        let sum: f64 = parts.iter().filter(|((name, _), _)| name == account).map(|(_, energy)| *energy).sum();
        parts.retain(|(name, _), _| name != account);
        sum
    };
    let (three, two, idle) = (of(&format!("model {MODEL}@1")), of(&format!("model {MODEL}@2")), of("pool_idle"));
    assert!(parts.is_empty(), "{parts:?}");
    let unheld = idle - others as f64;
    assert!((three + two + unheld - divided as f64).abs() < 0.5, "to the last microjoule");
    // Two slices of seven of the idle power are nobody's; what is above it goes by what each did: 3 × 1 to 2 × 0.5.
    let base = unheld * 3.5;
    let page = ask(&["sci", "--idle", "unallocated"]);
    let answers = page["answers"].as_array().unwrap();
    let nanos = |field: &str| answers[0]["window"][field].as_str().unwrap().to_owned();
    let seconds = window_seconds(&nanos("start"), &nanos("end"));
    exactly(base, FLOOR_W * 1e6 * seconds);
    let dynamic = divided as f64 - base;
    assert!(dynamic > base, "{dynamic} µJ beside {base}");
    exactly(three, base * 3.0 / 7.0 + dynamic * 0.75);
    exactly(two, base * 2.0 / 7.0 + dynamic * 0.25);

    let grams = |version: &str, field: &str| {
        let answer = answers.iter().find(|answer| answer["subject"]["model_version"] == version).unwrap();
        assert!(answer["embodied"]["rs_rule"].as_str().unwrap().contains("compute slices"), "{answer}");
        answer["embodied"][field].as_f64().unwrap()
    };
    let all = NODE_G * seconds / LIFE_SECONDS;
    exactly(grams("1", "m_g"), all * 3.0 / 7.0 / 8.0);
    exactly(grams("2", "m_g"), all * 2.0 / 7.0 / 8.0);
    exactly(grams("1", "unallocated_g"), all * (1.0 - 5.0 / 7.0 / 8.0));
}

/// Seconds between two instants of one answer.
fn window_seconds(start: &str, end: &str) -> f64 {
    let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_nanosecond();
    (at(end) - at(start)) as f64 / 1e9
}
