//! The agent's own sensors over the simulated node: what it reports is the truth, and what it misses it declares.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "functions that tests call may fail the test and print what they found"
)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use joulebook_agent::process::cgroup::Hierarchy;
use joulebook_agent::process::proc;
use joulebook_hwsim::fault::{Fault, Kind};
use joulebook_hwsim::gpu;
use joulebook_hwsim::node::{Node, Options};
use joulebook_hwsim::powercap::Zone;
use joulebook_hwsim::workload::Workload;
use joulebook_tests::simulated::{BEGIN, Report, Rig, SECOND, profile};
use serde_json::Value;
use tempfile::TempDir;

#[path = "hwsim/bmc.rs"]
mod bmc;
#[path = "hwsim/hwmon.rs"]
mod hwmon;

const PACKAGE: &str = "intel-rapl:0";
/// µJ that rounding to the counter's unit and to whole µJ may cost at each end of a run.
const ROUNDING: i128 = 200;

/// Zone and source of every package, memory and platform that the agent should read.
fn sources(node: &Node) -> Vec<(String, String)> {
    let zones = node.zones().iter();
    zones
        .filter_map(|zone| {
            let socket = zone.id.split(':').nth(1)?;
            match zone.name.as_str() {
                "dram" => Some((zone.id.clone(), format!("rapl/package-{socket}/dram"))),
                "psys" => Some((zone.id.clone(), "rapl/psys".to_owned())),
                name if name.starts_with("package-") => Some((zone.id.clone(), format!("rapl/{name}"))),
                _ => None,
            }
        })
        .collect()
}

fn three_wraps(name: &str, step_ns: u64) {
    // Without stated limits the agent believes 1,500 W, so that wraps come soon.
    let mut rig = Rig::new(name, Options { limits: false, ..Options::default() }).unwrap();
    rig.config.nvml.enabled = false;
    rig.start().unwrap();
    let found = sources(&rig.node);
    for leaf in rig.node.leaf_names() {
        let watts = if leaf.ends_with(".pkg") { 1_200 } else { 450 };
        rig.node.set(&leaf, watts * 1_000_000, 2 * SECOND).unwrap();
    }
    // Past the third wrap of the slowest counter.
    let wrapping = |zone: &&Zone| zone.name != "psys" && found.iter().any(|(id, _)| *id == zone.id);
    let slowest = rig.node.zones().iter().filter(wrapping).map(|zone| {
        let watts = if zone.name == "dram" { 450 } else { 1_200 };
        zone.range_pj() / watts
    });
    let nanos = u64::try_from(slowest.max().unwrap() / 1_000 * 2 * 1_001 / 1_000 + i128::from(10 * SECOND)).unwrap();
    rig.pass(nanos / step_ns, step_ns).unwrap();
    let reports = rig.energy("rapl");
    assert_eq!(reports.len(), found.len(), "{:?}", reports.keys());
    for (zone, source) in &found {
        let truth = rig.zone_truth(zone);
        let report = &reports[source].1;
        let zone = rig.node.zones().iter().find(|other| other.id == *zone).unwrap();
        // The platform's counter of 1 J wraps once in 136 years of 1 W.
        let range = if zone.name == "psys" { 0 } else { zone.range_pj() / 1_000_000 };
        assert!(truth > 2 * range, "{}: the first wrap comes at once, two more follow", zone.id);
        assert!(report.agrees(truth), "{name} {source}: {} of {truth} µJ", report.value);
        assert!(report.gaps.is_empty(), "{:?}", report.gaps);
    }
}

#[test]
fn energy_over_three_wraps_is_the_truth_at_1_hz_on_every_profile_with_rapl() {
    for name in ["cpu-2s", "dgx-h100", "l40s-4gpu", "epyc-mi300x"] {
        three_wraps(name, SECOND);
    }
}

#[test]
fn energy_over_three_wraps_is_the_truth_at_10_hz_on_every_profile_with_rapl() {
    for name in ["cpu-2s", "dgx-h100", "l40s-4gpu", "epyc-mi300x"] {
        three_wraps(name, SECOND / 10);
    }
}

#[test]
fn energy_over_thirty_seconds_of_a_real_clock_is_the_truth_at_1_and_10_hz() {
    let options = Options { manual: false, ..Options::default() };
    let mut rigs: Vec<_> =
        ["cpu-2s", "dgx-h100", "l40s-4gpu", "epyc-mi300x"].map(|name| Rig::new(name, options).unwrap()).into();
    for rig in &mut rigs {
        rig.config.nvml.enabled = false;
        load(rig);
        rig.start().unwrap();
    }
    for tick in 1..=310 {
        std::thread::sleep(Duration::from_millis(100));
        for (index, rig) in rigs.iter_mut().enumerate().filter(|(index, _)| index % 2 == 0 || tick % 10 == 0) {
            if tick == 150 {
                rig.node.set("cpu0.pkg", (100 + 20 * index as i64) * 1_000_000, 5 * SECOND).unwrap();
            }
            rig.node.publish().unwrap();
            rig.row();
        }
    }
    for rig in &mut rigs {
        let reports = rig.energy("rapl");
        for (zone, source) in sources(&rig.node) {
            let (truth, report) = (rig.zone_truth(&zone), &reports[&source].1);
            assert!(report.agrees(truth), "{source}: {} of {truth} µJ", report.value);
        }
    }
}

#[test]
fn a_profile_without_rapl_has_no_powercap_sources() {
    let mut rig = Rig::new("gh200", Options::default()).unwrap();
    rig.start().unwrap();
    rig.pass(5, SECOND).unwrap();
    assert!(rig.energy("rapl").is_empty());
}

fn load(rig: &mut Rig) {
    let workload = Workload {
        name: "serving".to_owned(),
        pid: 4_242,
        cgroup: "/system.slice/serving.service".to_owned(),
        cpu_millicores: 60_000,
        gpu: None,
        sm_permille: 0,
        gpu_instance: 0,
        gpu_memory_bytes: 0,
        memory_bytes: 1 << 30,
        model: None,
        requests_per_kilosecond: 0,
        prompt_tokens: 0,
        generated_tokens: 0,
        port: None,
    };
    rig.node.add_workload(workload).unwrap();
}

/// Breaks the package's counter for 20 s and holds what was reported against the truth.
fn bounded(kind: Kind, target: &str, n: Option<i64>) -> Report {
    let mut rig = Rig::new("cpu-2s", Options::default()).unwrap();
    load(&mut rig);
    rig.start().unwrap();
    rig.pass(60, SECOND).unwrap();
    let broken_ns = BEGIN + rig.node.boot_ns();
    rig.fault(target, kind, n, Some(20_000)).unwrap();
    rig.pass(19, SECOND).unwrap();
    let repaired_ns = BEGIN + rig.node.boot_ns();
    rig.pass(121, SECOND).unwrap();
    let truth = rig.zone_truth(PACKAGE);
    let (_, report) = rig.energy("rapl").remove("rapl/package-0").unwrap();
    let (reported, high) = (report.value, report.high);
    assert!(reported <= truth + ROUNDING, "{kind:?}: {reported} µJ reported of {truth}");
    assert!(truth <= reported + high + ROUNDING, "{kind:?}: {truth} µJ, {reported} reported, at most {high} missing");
    if matches!(kind, Kind::Eio | Kind::Eacces | Kind::Freeze | Kind::RemoveZone) {
        let during = report.points.iter().filter(|(at, _)| *at > broken_ns && *at <= repaired_ns).count();
        assert_eq!(during, 0, "{kind:?}: no sample while the source is lost");
    }
    // Over a declared gap the sum stands: what passed there is unknown, and said to be.
    let unknown = |from: u64, to: u64| report.gaps.iter().any(|gap| gap.from.0 <= from && to <= gap.to.0);
    let flat = |pair: &&[(u64, u64)]| pair[0].1 == pair[1].1 && !unknown(pair[0].0, pair[1].0);
    let flat: Vec<_> = report.points.windows(2).filter(flat).collect();
    assert!(flat.is_empty(), "{kind:?}: intervals of 0 µJ while power flows: {flat:?}");
    report
}

#[test]
fn a_source_that_cannot_be_read_for_a_while_loses_no_energy() {
    for kind in [Kind::Eio, Kind::Eacces, Kind::Freeze, Kind::RemoveZone] {
        let report = bounded(kind, PACKAGE, None);
        assert!(report.gaps.is_empty(), "{kind:?}: the counter counted on: {:?}", report.gaps);
    }
}

#[test]
fn what_a_reset_or_a_pause_of_several_wraps_hides_is_declared() {
    for (kind, n) in [(Kind::Reset, None), (Kind::JumpWraps, Some(2)), (Kind::Suspend, Some(3_600))] {
        let report = bounded(kind, PACKAGE, n);
        assert_eq!(report.gaps.len(), 1, "{kind:?}: {:?}", report.gaps);
    }
}

#[test]
fn a_clock_that_is_set_changes_no_energy() {
    let report = bounded(Kind::NtpStep, "", Some(-90_000));
    assert!(report.gaps.is_empty(), "{:?}", report.gaps);
}

#[test]
fn a_second_door_and_mirrored_dies_are_counted_once() {
    for (name, kind) in [("cpu-2s", Kind::DupMmio), ("l40s-4gpu", Kind::MirrorDies)] {
        let mut rig = Rig::new(name, Options::default()).unwrap();
        rig.config.nvml.enabled = false;
        let expected = sources(&rig.node);
        rig.fault("", kind, None, None).unwrap();
        rig.start().unwrap();
        rig.pass(60, SECOND).unwrap();
        let reports = rig.energy("rapl");
        assert_eq!(reports.len(), expected.len(), "{kind:?}: {:?}", reports.keys());
        for (zone, source) in expected {
            assert!(reports[&source].1.agrees(rig.zone_truth(&zone)), "{kind:?} {source}");
        }
    }
}

/// A simulated node with GPUs, the fake library, and NVIDIA's Python client of it.
struct Gpus {
    node: Node,
    /// Goes when nothing writes into it any more.
    folder: TempDir,
}

impl Gpus {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::new(profile(name).unwrap(), folder.path(), Options::default()).unwrap();
        let built = gpu::built_library().expect("cargo builds the library beside the tests");
        gpu::install(&built, folder.path()).unwrap();
        Self { folder, node }
    }

    fn client(&self) -> Command {
        let python = std::env::var_os("JOULEBOOK_NVML_CLIENT").expect("set by `make test`: python with nvidia-ml-py");
        let mut command = Command::new(python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("hwsim-nvml/read.py"));
        command.env("LD_LIBRARY_PATH", self.folder.path().join("lib"));
        command
    }

    fn read(&self) -> Value {
        let done = self.client().output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_slice(&done.stdout).unwrap()
    }

    fn fault(&mut self, target: &str, kind: Kind, for_ms: Option<u64>) {
        self.node.fault(&Fault { target: target.to_owned(), kind, n: None, for_ms }).unwrap();
    }
}

#[test]
fn an_independent_client_reads_the_joules_of_the_truth_through_the_fake_library() {
    for (name, count) in [("dgx-h100", 8), ("l40s-4gpu", 4), ("gh200", 1)] {
        let mut rig = Gpus::new(name);
        rig.node.step(SECOND).unwrap();
        let before = rig.read();
        assert_eq!(before["gpus"].as_array().unwrap().len(), count);
        for gpu in 0..count {
            rig.node.set(&format!("gpu{gpu}"), (100 + 75 * gpu as i64) * 1_000_000, 0).unwrap();
        }
        let begin = rig.node.now_ns();
        rig.node.step(60 * SECOND).unwrap();
        let after = rig.read();
        let truth = rig.node.truth(begin, rig.node.now_ns());
        for slot in 0..count {
            let of = |state: &Value| i128::from(state["gpus"][slot]["millijoules"].as_u64().unwrap()) * 1_000;
            let (read, truth) = (of(&after) - of(&before), truth.leaves[&format!("gpu{slot}")]);
            assert!((read - truth).abs() <= 1_000, "{name}, GPU {slot}: {read} µJ of {truth}");
            assert_eq!(after["gpus"][slot]["milliwatts"], (100 + 75 * slot as u64) * 1_000);
        }
    }
}

#[test]
fn a_client_meets_each_fault_of_a_gpu_as_the_driver_would_show_it() {
    let mut rig = Gpus::new("dgx-h100");
    rig.node.step(10 * SECOND).unwrap();
    let healthy = rig.read();
    let uuid = |state: &Value, slot: usize| state["gpus"][slot]["uuid"].as_str().unwrap_or_default().to_owned();
    rig.fault("gpu2", Kind::Timeout, Some(5_000));
    rig.fault("gpu3", Kind::GpuLost, Some(5_000));
    rig.fault("gpu4", Kind::NotSupported, Some(5_000));
    rig.fault("gpu5", Kind::FrozenCounter, Some(5_000));
    rig.node.step(2 * SECOND).unwrap();
    let broken = rig.read();
    assert_eq!([2, 3, 4].map(|slot| broken["gpus"][slot]["error"].as_u64()), [Some(10), Some(15), Some(3)]);
    assert_eq!(broken["gpus"][5]["millijoules"], healthy["gpus"][5]["millijoules"]);
    assert_ne!(broken["gpus"][6]["millijoules"], healthy["gpus"][6]["millijoules"]);
    rig.node.step(10 * SECOND).unwrap();
    let repaired = rig.read();
    for slot in 0..8 {
        assert_eq!(repaired["gpus"][slot]["millijoules"], 22 * 69_000, "GPU {slot}: 69 W for 22 s");
    }

    rig.fault("gpu0", Kind::Hotplug, Some(5_000));
    let unplugged = rig.read();
    assert_eq!(unplugged["gpus"].as_array().unwrap().len(), 7);
    assert_eq!(uuid(&unplugged, 0), uuid(&healthy, 1), "the others move up");
    rig.fault("", Kind::LibMismatch, Some(5_000));
    assert!(!rig.client().output().unwrap().status.success(), "the library cannot be started");
    rig.node.step(5 * SECOND).unwrap();
    rig.fault("", Kind::IndexShift, None);
    assert_eq!(uuid(&rig.read(), 0), uuid(&healthy, 1));
    rig.node.repair(Kind::IndexShift, "").unwrap();
    rig.fault("", Kind::DriverReload, None);
    rig.node.step(10 * SECOND).unwrap();
    assert_eq!(rig.read()["gpus"][0]["millijoules"], 690_000, "the counter starts again");
}

#[test]
fn a_call_that_hangs_returns_when_the_fault_ends() {
    let mut rig = Gpus::new("gh200");
    rig.node.step(SECOND).unwrap();
    rig.fault("gpu0", Kind::Hang, None);
    let mut client = rig.client();
    let (done, ended) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || done.send(client.output().unwrap().status.success()).unwrap());
    assert!(ended.recv_timeout(Duration::from_millis(500)).is_err(), "it returned while the call should hang");
    rig.node.repair(Kind::Hang, "gpu0").unwrap();
    assert!(ended.recv().unwrap(), "it goes on when the fault ends");
    waiting.join().unwrap();
}

#[test]
fn control_groups_count_the_tables_cpu_time_through_short_lives_and_new_groups() {
    let mut rig = Rig::new("cpu-2s", Options::default()).unwrap();
    load(&mut rig);
    let cgroup = rig.node.root().join("sys/fs/cgroup");
    let group =
        |path: &str| Hierarchy::find(&cgroup).unwrap().groups().into_iter().find(|group| group.path == path).unwrap();
    let serving = "/system.slice/serving.service";
    rig.node.step(10 * SECOND).unwrap();
    let before = group(serving);
    assert_eq!(before.cpu_nanos, 600 * SECOND, "60 cores for 10 s");
    let storm = Fault { target: String::new(), kind: Kind::ExitStorm, n: Some(10), for_ms: Some(10_000) };
    rig.node.fault(&storm).unwrap();
    let seen = proc::processes(&rig.node.root().join("proc"));
    assert_eq!(seen.len(), 1, "children of the storm are never seen");
    rig.node.step(20 * SECOND).unwrap();
    assert_eq!(group("/system.slice/exit-storm.service").cpu_nanos, 2_400_000_000, "24 ms × 10 × 10 s");
    assert_eq!(Hierarchy::find(&cgroup).unwrap().machine_nanos(), Some(1_800 * SECOND + 2_400_000_000));

    let fault = |kind| Fault { target: "serving".to_owned(), kind, n: None, for_ms: None };
    rig.node.fault(&fault(Kind::PidReuse)).unwrap();
    rig.node.fault(&fault(Kind::CgroupRecreate)).unwrap();
    rig.node.step(SECOND).unwrap();
    let (after, reused) = (group(serving), proc::processes(&rig.node.root().join("proc")));
    assert_eq!(after.cpu_nanos, 60 * SECOND);
    assert_ne!(after.inode, before.inode, "another group at the same path");
    assert_eq!((reused[0].pid, seen[0].pid, reused[0].ticks), (4_242, 4_242, 6_000));
    assert!(reused[0].start_ticks > seen[0].start_ticks);
}

/// Sources that a profile says its node has, each of which the agent must read. What its BMC shows is held against the truth
/// in [`bmc`].
fn listed(name: &str, read: &[String]) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/profiles/{name}.json"));
    let profile: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut lines = Vec::new();
    let mut line = |what: String| lines.push(format!("{name} {what}"));
    let reads = |prefix: &str| read.iter().filter(|id| id.starts_with(prefix)).count();
    let sockets = profile["cpu"]["sockets"].as_u64().unwrap() as usize;
    if let Some(zones) = profile["cpu"]["rapl"]["zones"].as_array() {
        let has = |zone: &str| zones.iter().any(|other| other == zone);
        let counted = sockets * (usize::from(has("package")) + usize::from(has("dram")));
        assert_eq!(reads("rapl/package"), counted, "{name}: {read:?}");
        line(format!("rapl: {counted} zones"));
    }
    if profile["cpu"]["rapl"]["psys"] == true {
        assert_eq!(reads("rapl/psys"), 1, "{name}: {read:?}");
        line("rapl: psys as a layer".to_owned());
    }
    if let Some(labels) = profile["cpu"]["hwmon"].as_array() {
        let powers = read.iter().filter(|id| id.starts_with("hwmon/") && id.contains("/power")).count();
        let wall = usize::from(profile["acpi_meter"].is_object());
        let each = if labels.iter().any(|label| label.as_str().unwrap().contains("Socket")) { 1 } else { sockets };
        assert_eq!(powers, labels.len() * each + wall, "{name}: {read:?}");
        line(format!("hwmon: {powers} powers"));
    }
    let count = profile["gpus"]["count"].as_u64().unwrap_or(0) as usize;
    match profile["gpus"]["vendor"].as_str() {
        Some("nvidia") => {
            let module = usize::from(profile["gpus"]["field_scope_module"] == true);
            let what = "a counter and an integral each, and a superchip's module";
            assert_eq!(reads("nvml/GPU"), (2 + module) * count, "{name}: {what}: {read:?}");
            line(format!("nvml: {count} GPUs"));
        }
        Some(vendor) => {
            assert_eq!(reads("hwmon/amdgpu/"), count, "{name}: {read:?}");
            line(format!("hwmon: {count} GPUs of {vendor}"));
        }
        None => {}
    }
    if profile["bmc"].is_object() {
        assert!(bmc::PROFILES.contains(&name), "{name}: its BMC is read too");
        line("bmc: redfish and dcmi".to_owned());
    }
    lines
}

#[test]
fn every_source_of_every_profile_is_read() {
    for name in ["cpu-2s", "dgx-h100", "l40s-4gpu", "epyc-mi300x", "gh200", "altra"] {
        let mut rig = Rig::new(name, Options::default()).unwrap();
        rig.start().unwrap();
        rig.pass(3, SECOND).unwrap();
        let read: Vec<String> =
            ["rapl", "nvml", "hwmon"].iter().flat_map(|collector| rig.energy(collector).into_keys()).collect();
        for line in listed(name, &read) {
            println!("{line}");
        }
    }
}
