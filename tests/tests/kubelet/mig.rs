//! A GPU that is divided into instances: who holds one by allocation has its slices of what the GPU draws at rest, though no
//! process is on it, and nothing of what others' processes make it draw.

use super::server::{Does, Kubelet, pod};
use super::{MEASURED, by_gpu, by_pod};
use joulebook_tests::installation::{AGENT_READY, Installation};
use joulebook_tests::program::{Program, binary};
use joulebook_tests::simulator::Simulator;
use joulebook_tests::timestamp::now;
use joulebook_tests::wait::until;
use serde_json::json;
use std::collections::BTreeMap;

/// The GPU that is divided.
const DIVIDED: u32 = 1;
/// What the simulator calls it.
const GPU: &str = "5157a1e0-0000-4000-8000-000000000001";
/// Of seven; one slice is no instance's.
const SLICES: [u8; 3] = [3, 2, 1];
/// Amounts are told in µJ a piece of time.
const EXACT: f64 = 1e-6;

#[test]
fn a_pod_that_an_instance_is_assigned_to_has_its_slices_of_the_gpu_at_rest() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (installation, _aggregator) = Installation::start().unwrap();
    let simulator = Simulator::start("dgx-h100", &installation.folder().join("node")).unwrap();
    simulator.ask(&json!({ "op": "divide", "gpu": DIVIDED, "slices": SLICES })).unwrap();
    // A process on the last instance alone, which no pod holds.
    let add = json!({
        "name": "busy", "pid": 301, "cgroup": "/system.slice/busy.service", "cpu_millicores": 100, "gpu": DIVIDED,
        "sm_permille": 500, "gpu_memory_bytes": 1u64 << 30, "memory_bytes": 1u64 << 30, "gpu_instance": 3,
    });
    simulator.ask(&json!({ "op": "workload", "add": add })).unwrap();

    // The first is one pod's alone, the second two pods' in shares. The id behind a device plugin's is the library's own.
    let instance = |index: usize| format!("MIG-{index}-{GPU}");
    let shares = [format!("{}::0", instance(1)), format!("{}::1", instance(1))];
    let pods = [
        pod("chat", "alone", &[&instance(0)], &[]),
        pod("team", "share-a", &[&shares[0]], &[]),
        pod("team", "share-b", &[&shares[1]], &[]),
    ];
    let socket = installation.folder().join("kubelet.sock");
    let _kubelet = {
        let _guard = runtime.enter();
        Kubelet::start(&socket, Does::Tells(pods.concat()))
    };
    let config = simulator.agent_config(&installation.connection("simulated"), &installation.spool(), &[]).unwrap();
    let path = installation.folder().join("agent.toml");
    std::fs::write(&path, format!("{config}\n[kubelet]\nsocket = {socket:?}\ninterval = \"1s\"\n")).unwrap();
    let mut agent =
        Program::start(binary("joulebook-agent").unwrap(), &["--config".into(), path.into_os_string()]).unwrap();
    agent.wait_for(AGENT_READY).unwrap();
    until("energy of the pods", || by_pod(&installation, &["--last", "1m"]).contains_key("team/share-b"));
    // Before and behind the window as much again, so that all of it is known.
    std::thread::sleep(MEASURED);
    let begin = now().unwrap();
    std::thread::sleep(MEASURED);
    let end = now().unwrap();
    std::thread::sleep(MEASURED);
    assert!(agent.stop().unwrap().success(), "{}", agent.said());

    let window = ["--from", begin.as_str(), "--to", end.as_str()];
    let (found, drawn) = (by_pod(&installation, &window), by_gpu(&installation, &window));
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["chat/alone", "idle", "not shown", "team/share-a", "team/share-b"], "{found:?}");
    let divided = drawn[&format!("GPU-{GPU}")];
    let others: BTreeMap<_, _> = drawn.iter().filter(|(gpu, _)| !gpu.ends_with(GPU)).collect();
    assert_eq!(others.len(), 7, "{drawn:?}");
    // What is idle is that of seven whole GPUs and the slice that is no instance's.
    let slice = found["idle"] - others.values().copied().sum::<f64>();
    for (name, slices) in [("chat/alone", 3.0), ("team/share-a", 1.0), ("team/share-b", 1.0)] {
        let energy = found[name];
        assert!((energy / (slice * slices) - 1.0).abs() < EXACT, "{name}: {energy} is not {slices} × {slice}");
    }
    let busy = found["not shown"];
    assert!(busy > slice, "what is drawn at work is the process': {found:?}");
    assert!(
        (busy + 6.0 * slice - divided).abs() < 10.0,
        "every microjoule, but what is rounded off: {found:?} {drawn:?}"
    );
}
