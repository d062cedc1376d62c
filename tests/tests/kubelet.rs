//! Who holds a GPU by allocation, from the kubelet's socket to the answer: a GPU that a pod holds and no process uses is the
//! pod's. A kubelet that is not there, slow or hostile costs nothing but that.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]

#[path = "kubelet/mig.rs"]
mod mig;
#[path = "kubelet/server.rs"]
mod server;

use joulebook_agent::kubelet::{Allocations, KubeletError, list};
use joulebook_tests::installation::{AGENT_READY, Installation};
use joulebook_tests::program::{Program, binary};
use joulebook_tests::simulator::Simulator;
use joulebook_tests::timestamp::now;
use joulebook_tests::wait::{Moment, until};
use serde_json::{Value, json};
use server::{Does, Kubelet, pod};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Time that is accounted.
const MEASURED: Duration = Duration::from_secs(6);
/// The window's two ends cut a step of the counters each.
const CLOSE: f64 = 0.08;
/// What NVIDIA's driver calls an instance.
const INSTANCE: &str = "gpu-1-mig-1g5gb-19-4";
/// Control group of a pod's container.
const CONTAINER: &str = "/kubepods.slice/kubepods-pod8c4b0b0f_1f7a_4b9a_9d2a_0a1b2c3d4e5f.slice/\
    cri-containerd-0f0e0d0c0b0a090807060504030201000f0e0d0c0b0a09080706050403020100.scope";

fn told(allocations: &Allocations) -> Vec<String> {
    let held = allocations.resolve(&BTreeMap::from([(7, "GPU-d".to_owned())])).held;
    let rows = held.iter().flat_map(|(device, holders)| {
        holders.iter().map(move |one| format!("{device} {}/{} {}", one.namespace, one.pod, one.container))
    });
    rows.collect()
}

#[tokio::test]
async fn what_a_kubelet_tells_of_ten_thousand_pods_is_read_and_what_is_none_of_its_answers_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("kubelet.sock");
    assert!(matches!(list(&socket).await, Err(KubeletError::NotThere { .. })));
    std::fs::write(&socket, "").unwrap();
    assert!(matches!(list(&socket).await, Err(KubeletError::Connect { .. })));
    std::fs::remove_file(&socket).unwrap();

    let mut pods: Vec<Vec<u8>> =
        (0..10_000).map(|number| pod("batch", &format!("job-{number:05}"), &[], &[])).collect();
    pods.push(pod("chat", "plugged", &["GPU-a", "GPU-b::1"], &[]));
    pods.push(pod("chat", "claimed", &[], &["gpu-7"]));
    let kubelet = Kubelet::start(&socket, Does::Tells(pods.concat()));
    let expected = ["GPU-a chat/plugged server", "GPU-b chat/plugged server", "GPU-d chat/claimed server"];
    assert_eq!(told(&list(&socket).await.unwrap()), expected);

    for (does, why) in [
        // UNAVAILABLE.
        (Does::Refuses(14), "unavailable"),
        // Longer than any list; nothing of it is kept for.
        (Does::Announces(u32::MAX), "valid range"),
        (Does::Tells(vec![0xff; 64]), "internal"),
    ] {
        kubelet.set(does.clone());
        let refused = list(&socket).await.unwrap_err();
        let KubeletError::Refused { status, .. } = &refused else { panic!("{does:?}: {refused:?}") };
        assert!(status.to_lowercase().contains(why), "{does:?}: {status}");
    }
    kubelet.set(Does::Nothing);
    let asked = Moment::now();
    assert!(matches!(list(&socket).await, Err(KubeletError::Slow { .. })));
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
}

fn doctor(config: &Path) -> Value {
    let mut command = Command::new(binary("joulebook-agent").unwrap());
    let output = command.args(["doctor", "-o", "json", "--seconds", "1", "--config"]).arg(config).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Starts a process on a GPU.
fn process(simulator: &Simulator, name: &str, gpu: u32, cgroup: &str, sm_permille: u32) {
    let add = json!({
        "name": name, "pid": 300 + gpu, "cgroup": cgroup, "cpu_millicores": 100, "gpu": gpu, "sm_permille": sm_permille,
        "gpu_memory_bytes": 1u64 << 30, "memory_bytes": 1u64 << 30,
    });
    simulator.ask(&json!({ "op": "workload", "add": add })).unwrap();
}

/// Accelerator energy in µJ by namespace and pod; what is no pod's stands under its kind.
fn by_pod(installation: &Installation, window: &[&str]) -> BTreeMap<String, f64> {
    let answer = installation.ask(&[&["energy", "--by", "pod"], window].concat()).unwrap();
    let energy = |row: &Value| row["microjoules"].as_u64().unwrap();
    let rows: u64 = answer["rows"].as_array().unwrap().iter().map(energy).sum();
    assert_eq!(rows, answer["total_microjoules"].as_u64().unwrap(), "{answer:#}");
    let mut found = BTreeMap::new();
    for row in answer["rows"].as_array().unwrap() {
        let of = |name: &str| {
            let part = row["key"].as_array().unwrap().iter().find(|part| part["name"] == name).unwrap();
            part["value"].as_str().unwrap().to_owned()
        };
        let name = if of("pod").is_empty() { of("kind") } else { format!("{}/{}", of("namespace"), of("pod")) };
        let energy = row["component_microjoules"]["accelerator"].as_f64().unwrap_or(0.0);
        if energy > 0.0 {
            *found.entry(name).or_default() += energy;
        }
    }
    found
}

/// Energy in µJ by GPU.
fn by_gpu(installation: &Installation, window: &[&str]) -> BTreeMap<String, f64> {
    let answer = installation.ask(&[&["energy", "--by", "gpu"], window].concat()).unwrap();
    let gpu = |row: &Value| {
        let part = row["key"].as_array().unwrap().iter().find(|part| part["name"] == "gpu").unwrap();
        (part["value"].as_str().unwrap().to_owned(), row["microjoules"].as_f64().unwrap())
    };
    answer["rows"].as_array().unwrap().iter().map(gpu).collect()
}

#[test]
fn a_gpu_that_a_pod_holds_and_no_process_uses_is_that_pods() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (installation, _aggregator) = Installation::start().unwrap();
    let simulator = Simulator::start("l40s-4gpu", &installation.folder().join("node")).unwrap();
    let socket = installation.folder().join("kubelet.sock");
    let path = installation.folder().join("agent.toml");
    let config = simulator.agent_config(&installation.connection("simulated"), &installation.spool(), &[]).unwrap();
    std::fs::write(&path, format!("{config}\n[kubelet]\nsocket = {socket:?}\ninterval = \"1s\"\n")).unwrap();

    // Of a socket that is configured and not there the doctor says what it is for.
    let found = doctor(&path);
    let absent = found["absent"].as_array().unwrap().iter().find(|one| one["kind"] == "kubelet").unwrap();
    assert!(absent["configured"] == true && absent["why"].as_str().unwrap().contains("kubelet.socket"), "{absent}");
    assert_eq!(found["held"], Value::Null);
    let is_gpu = |source: &&Value| source["component"] == "accelerator" && source["contained_in"].is_null();
    let gpus: Vec<String> = (found["sources"].as_array().unwrap().iter().filter(is_gpu))
        .map(|source| source["id"].as_str().unwrap().trim_start_matches("nvml/").to_owned())
        .collect();
    assert_eq!(gpus.len(), 4, "{found:#}");

    // One by device plugin, one by a claim, one in shares; on the last a process is. The simulator numbers the files of its
    // GPUs from the last to the first. A claim on an instance that nobody can find is nobody's.
    let shares = [format!("{}::0", gpus[2]), format!("{}::1", gpus[2])];
    let pods = [
        pod("chat", "plugged", &[&gpus[0]], &[]),
        pod("chat", "claimed", &[], &["gpu-2", INSTANCE]),
        pod("team", "share-a", &[&shares[0]], &[]),
        pod("team", "share-b", &[&shares[1]], &[]),
        pod("chat", "busy", &[&gpus[3]], &[]),
    ];
    let kubelet = {
        let _guard = runtime.enter();
        Kubelet::start(&socket, Does::Tells(pods.concat()))
    };
    let told = doctor(&path);
    let row =
        |device: &str, pod: &str| json!({ "device": device, "namespace": "chat", "pod": pod, "container": "server" });
    let held = told["held"].as_array().unwrap();
    assert!(held.len() == 5 && held.contains(&row(&gpus[0], "plugged")), "{told}");
    assert!(held.contains(&row(&gpus[1], "claimed")), "{told}");
    assert_eq!(told["unresolved"], json!([row(INSTANCE, "claimed")]));
    process(&simulator, "busy", 3, "/system.slice/busy.service", 500);

    let mut agent =
        Program::start(binary("joulebook-agent").unwrap(), &["--config".into(), path.into_os_string()]).unwrap();
    agent.wait_for(AGENT_READY).unwrap();
    agent.wait_for("the kubelet told who holds the devices of this node.*devices=5").unwrap();
    until("energy of the pods", || {
        let found = by_pod(&installation, &["--last", "1m"]);
        found.contains_key("chat/plugged") && found.len() > 4
    });
    let begin = now().unwrap();
    std::thread::sleep(MEASURED);
    let end = now().unwrap();
    // Windows are cut to the second.
    std::thread::sleep(Duration::from_secs(2));
    let later = now().unwrap();
    // A process comes to the first, in a container that no directory names, and goes again.
    process(&simulator, "late", 0, CONTAINER, 0);
    until("the container", || by_pod(&installation, &["--last", "1m"]).contains_key("container"));
    std::thread::sleep(MEASURED / 2);
    simulator.ask(&json!({ "op": "workload", "remove": "late" })).unwrap();
    std::thread::sleep(MEASURED / 2);
    let gone = now().unwrap();
    // The kubelet falls silent: the agent goes on, and ends as ever.
    kubelet.set(Does::Nothing);
    assert!(agent.stop().unwrap().success(), "{}", agent.said());

    let found = by_pod(&installation, &["--from", &begin, "--to", &end]);
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["chat/claimed", "chat/plugged", "not shown", "team/share-a", "team/share-b"], "{found:?}");
    let whole = found["chat/plugged"];
    for (name, part) in [("chat/claimed", 1.0), ("team/share-a", 0.5), ("team/share-b", 0.5)] {
        assert!((found[name] / whole - part).abs() < CLOSE, "{name}: {found:?}");
    }
    // The first one's energy is the pod's, then the container's, then the pod's: each joule once.
    let window = ["--from", &later, "--to", &gone];
    let found = by_pod(&installation, &window);
    let drawn = by_gpu(&installation, &window);
    let (pods, whole) = (found.values().sum::<f64>(), drawn.values().sum::<f64>());
    assert!((pods - whole).abs() < 0.5, "{found:?} {drawn:?}");
    let both = found["chat/plugged"] + found["container"];
    assert!(
        found["chat/plugged"] > 0.0 && both <= drawn[&gpus[0]] && both > 0.75 * drawn[&gpus[0]],
        "{found:?} {drawn:?}"
    );
    assert!((found["chat/claimed"] - drawn[&gpus[1]]).abs() < 0.5, "{found:?} {drawn:?}");
}
