//! GPUs through the agent's own collector, its helper process and the fake library: joules, faults, users, idle floor.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "functions that tests call may fail the test and print what they measured"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use joulebook_hwsim::fault::Kind;
use joulebook_hwsim::node::Options;
use joulebook_hwsim::workload::Workload;
use joulebook_tests::simulated::{BEGIN, Report, Rig, SECOND, profile};
use joulebook_units::{EnergyGap, GapReason, IdleOrigin, Method, Subject};
use serde_json::Value;

#[path = "nvml/mig.rs"]
mod mig;
#[path = "nvml/module.rs"]
mod module;
#[path = "nvml/rows.rs"]
mod rows;
#[path = "nvml/survival.rs"]
mod survival;

/// Profiles whose GPUs NVML shows, with their number.
const PROFILES: [(&str, usize); 3] = [("dgx-h100", 8), ("l40s-4gpu", 4), ("gh200", 1)];
/// µJ that rounding to the counter's millijoule may cost at each end of a run.
const ROUNDING: i128 = 2_000;

fn uuid(slot: usize) -> String {
    format!("GPU-5157a1e0-0000-4000-8000-{slot:012x}")
}

fn source(slot: usize) -> String {
    format!("nvml/{}", uuid(slot))
}

/// A rig whose helper is given up and started again at once.
fn hurried(name: &str, options: Options) -> Rig {
    let mut rig = Rig::new(name, options).unwrap();
    let limits = &mut rig.config.nvml.limits;
    limits.hang = Duration::from_millis(300);
    limits.first_pause = Duration::from_millis(5);
    limits.longest_pause = Duration::from_millis(20);
    limits.skip = Duration::from_millis(50);
    limits.all_fail = Duration::from_secs(2);
    rig
}

/// Energy of a GPU in µJ between the first and the last point of its report, exactly.
fn truth(rig: &Rig, slot: usize, report: &Report) -> i128 {
    let (first, last) = (report.points[0].0 - BEGIN, report.points.last().unwrap().0 - BEGIN);
    rig.leaf_truth(&format!("gpu{slot}"), first, last)
}

/// What NVIDIA's own client reads of the same library: mJ by UUID.
fn independent(rig: &Rig) -> BTreeMap<String, u64> {
    let python = std::env::var_os("JOULEBOOK_NVML_CLIENT").expect("set by `make test`: python with nvidia-ml-py");
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("hwsim-nvml/read.py"));
    let done = command.env("LD_LIBRARY_PATH", rig.node.root().join("lib")).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let read: Value = serde_json::from_slice(&done.stdout).unwrap();
    let gpus = read["gpus"].as_array().unwrap().iter();
    gpus.map(|gpu| (gpu["uuid"].as_str().unwrap().to_owned(), gpu["millijoules"].as_u64().unwrap())).collect()
}

/// Sets every GPU to a power of its own.
fn load(rig: &mut Rig, count: usize, watts: i64) {
    for slot in 0..count {
        let power = (watts + 37 * slot as i64) * 1_000_000;
        rig.node.set(&format!("gpu{slot}"), power, 3 * SECOND).unwrap();
    }
}

fn user(name: &str, pid: u32, gpu: u32, sm_permille: u32, gibibytes: u64) -> Workload {
    Workload {
        name: name.to_owned(),
        pid,
        cgroup: format!("/system.slice/{name}.service"),
        cpu_millicores: 500,
        gpu: Some(gpu),
        sm_permille,
        gpu_instance: 0,
        gpu_memory_bytes: gibibytes << 30,
        memory_bytes: 1 << 30,
        model: None,
        requests_per_kilosecond: 0,
        prompt_tokens: 0,
        generated_tokens: 0,
        port: None,
    }
}

fn joules_are_the_truth(step_ns: u64, rows: u64) {
    for (name, count) in PROFILES {
        let mut rig = Rig::new(name, Options::default()).unwrap();
        rig.node.step(10 * SECOND).unwrap();
        let before = independent(&rig);
        rig.start().unwrap();
        load(&mut rig, count, 150);
        rig.pass(rows / 2, step_ns).unwrap();
        load(&mut rig, count, 240);
        rig.pass(rows / 2, step_ns).unwrap();
        let after = independent(&rig);
        let mut energy = rig.energy("nvml");
        // What contains the GPU is another test.
        energy.retain(|id, _| !id.ends_with("/module"));
        assert_eq!(energy.len(), 2 * count, "a counter and an integral for each GPU: {:?}", energy.keys());
        for slot in 0..count {
            let (source, report) = &energy[&source(slot)];
            assert_eq!((source.method, source.device.as_deref()), (Method::Counter, Some(uuid(slot).as_str())));
            let truth = truth(&rig, slot, report);
            assert!(truth > 1_000_000_000, "{name}: enough happened");
            assert!(report.agrees(truth), "{name}, GPU {slot}: {} of {truth} µJ", report.value);
            assert!(report.gaps.is_empty(), "{:?}", report.gaps);
            let client = i128::from(after[&uuid(slot)] - before[&uuid(slot)]) * 1_000;
            assert!((report.value - client).abs() <= ROUNDING, "{} µJ here, {client} µJ there", report.value);
            let (integral, power) = &energy[&format!("{}/power", source.id)];
            assert_eq!(integral.contained_in.as_deref(), Some(source.id.as_str()), "never added");
            assert!((power.value - truth).abs() * 50 <= truth, "the integral is near: {} of {truth}", power.value);
        }
    }
}

#[test]
fn joules_are_the_truth_and_what_nvidias_own_client_reads_at_1_hz() {
    joules_are_the_truth(SECOND, 120);
}

#[test]
fn joules_are_the_truth_and_what_nvidias_own_client_reads_at_10_hz() {
    joules_are_the_truth(SECOND / 10, 400);
}

#[test]
fn a_gpu_newer_than_any_program_is_metered_like_the_newest_that_is_known() {
    let mut newer = profile("dgx-h100").unwrap();
    newer.gpus.as_mut().unwrap().model = "NVIDIA R200".to_owned();
    let mut rig = Rig::of(newer, Options::default()).unwrap();
    load(&mut rig, 8, 200);
    rig.start().unwrap();
    rig.pass(60, SECOND).unwrap();
    let energy = rig.energy("nvml");
    let (known, report) = &energy[&source(0)];
    assert!(report.agrees(truth(&rig, 0, report)), "{report:?}");
    assert_eq!((known.method, report.gaps.len()), (Method::Counter, 0));
}

#[test]
fn joules_over_thirty_seconds_of_a_real_clock_are_the_truth_at_1_and_10_hz() {
    let options = Options { manual: false, ..Options::default() };
    let mut rigs: Vec<_> = PROFILES.iter().map(|(name, count)| (Rig::new(name, options).unwrap(), *count)).collect();
    for (rig, count) in &mut rigs {
        load(rig, *count, 300);
        rig.start().unwrap();
    }
    // On a busy machine the helper's first answer may take seconds: thirty seconds are needed from there on.
    let is_enough = |(rig, count): &mut (Rig, usize)| {
        let energy = rig.energy("nvml");
        (0..*count).all(|slot| {
            let points = energy.get(&source(slot)).map(|(_, report)| &report.points);
            let ends = points.and_then(|points| points.first().zip(points.last()));
            ends.is_some_and(|(first, last)| last.0 - first.0 >= 30 * SECOND)
        })
    };
    for tick in 1..=900 {
        if tick > 320 && tick % 10 == 1 && rigs.iter_mut().all(is_enough) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        for (index, (rig, count)) in rigs.iter_mut().enumerate().filter(|(index, _)| index % 2 == 0 || tick % 10 == 0) {
            if tick == 150 {
                load(rig, *count, 400 - 50 * index as i64);
            }
            rig.node.publish().unwrap();
            rig.row();
        }
    }
    for (rig, count) in &mut rigs {
        let energy = rig.energy("nvml");
        for slot in 0..*count {
            let (_, report) = &energy[&source(slot)];
            let seconds = (report.points.last().unwrap().0 - report.points[0].0) / SECOND;
            assert!(seconds >= 30, "GPU {slot}: {seconds} s");
            let truth = truth(rig, slot, report);
            println!("GPU {slot} of {count}: {:+} ppm over {seconds} s", (report.value - truth) * 1_000_000 / truth);
            assert!(report.agrees(truth), "GPU {slot}: {} of {truth} µJ", report.value);
        }
    }
}

/// Breaks one GPU for 20 s and holds what was reported of it against the truth; the others are not touched.
fn bounded(kind: Kind, target: &str) -> (Report, Rig) {
    let mut rig = hurried("dgx-h100", Options::default());
    load(&mut rig, 8, 200);
    rig.start().unwrap();
    rig.pass(60, SECOND).unwrap();
    rig.fault(target, kind, None, Some(20_000)).unwrap();
    let broken_ns = rig.agent_now();
    rig.pass(19, SECOND).unwrap();
    let repaired_ns = rig.agent_now();
    rig.pass(120, SECOND).unwrap();
    // Simulated time is not the helper's, which pauses: rows go on until it reads again.
    for _ in 0..200 {
        let last = rig.energy("nvml").get(&source(3)).map_or(0, |(_, report)| report.points.last().unwrap().0);
        if rig.agent_now() - last <= 2 * SECOND {
            break;
        }
        rig.pass(10, SECOND).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    let energy = rig.energy("nvml");
    for slot in 0..8 {
        let (_, report) = &energy[&source(slot)];
        let whole = rig.leaf_truth(&format!("gpu{slot}"), rig.first_ns(), rig.node.shown_ns());
        let (reported, high) = (report.value, report.high);
        assert!(reported <= whole + ROUNDING, "{kind:?}, GPU {slot}: {reported} µJ reported of {whole}");
        assert!(whole <= reported + high + ROUNDING, "{kind:?}, GPU {slot}: {whole} µJ, {reported} + {high} told");
        // One gap or several that follow each other.
        let inside = |gap: &EnergyGap, from: u64, to: u64| gap.to.0.min(to).saturating_sub(gap.from.0.max(from));
        let unknown =
            |from: u64, to: u64| report.gaps.iter().map(|gap| inside(gap, from, to)).sum::<u64>() == to - from;
        let zero = |pair: &&[(u64, u64)]| pair[0].1 == pair[1].1 && !unknown(pair[0].0, pair[1].0);
        let zeros: Vec<_> = report.points.windows(2).filter(zero).collect();
        assert!(zeros.is_empty(), "{kind:?}, GPU {slot}: intervals of 0 µJ while power flows: {zeros:?}");
        let last = report.points.last().unwrap().0;
        assert!(rig.agent_now() - last <= 2 * SECOND, "{kind:?}, GPU {slot}: it is read again");
        if slot != 3 && !target.is_empty() {
            assert!(report.gaps.is_empty(), "{kind:?}, GPU {slot}: {:?}", report.gaps);
        }
    }
    let report = energy[&source(3)].1.clone();
    if matches!(kind, Kind::GpuLost | Kind::Timeout | Kind::NotSupported | Kind::Hotplug) {
        let during = report.points.iter().filter(|(at, _)| *at > broken_ns && *at <= repaired_ns).count();
        assert_eq!(during, 0, "{kind:?}: no sample while the source is lost");
    }
    (report, rig)
}

#[test]
fn a_gpu_that_does_not_answer_for_a_while_loses_no_energy() {
    for kind in [Kind::GpuLost, Kind::Timeout, Kind::NotSupported, Kind::Hotplug, Kind::FrozenCounter] {
        let (report, _) = bounded(kind, "gpu3");
        assert!(report.gaps.is_empty(), "{kind:?}: the counter counted on: {:?}", report.gaps);
    }
}

#[test]
fn a_library_that_fails_as_a_whole_loses_no_energy() {
    for kind in [Kind::LibMismatch, Kind::Unknown, Kind::IndexShift] {
        let (report, _) = bounded(kind, "");
        assert!(report.gaps.is_empty(), "{kind:?}: {:?}", report.gaps);
    }
}

#[test]
fn what_a_reload_of_the_driver_hides_is_declared() {
    let (report, _) = bounded(Kind::DriverReload, "");
    assert_eq!(report.gaps.len(), 1, "{:?}", report.gaps);
    assert_eq!(report.gaps[0].reason, GapReason::CounterReset);
}

/// Series of the users of a GPU: busy time in ns and memory in bytes by workload.
fn use_of(rig: &mut Rig, slot: usize) -> BTreeMap<String, (Option<u64>, Option<u64>)> {
    let mut found: BTreeMap<String, (Option<u64>, Option<u64>)> = BTreeMap::new();
    for (subject, report) in rig.series() {
        let value = report.points.last().map(|(_, value)| *value);
        match subject {
            Subject::DeviceTime { device, workload } if device == uuid(slot) => {
                found.entry(workload.unwrap_or_default()).or_default().0 = value;
            }
            Subject::DeviceMemory { device, workload } if device == uuid(slot) => {
                found.entry(workload).or_default().1 = value;
            }
            _ => {}
        }
    }
    found
}

#[test]
fn who_is_on_a_gpu_is_told_with_its_share_of_time_and_its_memory() {
    let mut rig = Rig::new("l40s-4gpu", Options::default()).unwrap();
    rig.node.add_workload(user("chat", 4_001, 0, 600, 20)).unwrap();
    rig.node.add_workload(user("draft", 4_002, 0, 300, 5)).unwrap();
    rig.start().unwrap();
    rig.pass(60, SECOND).unwrap();
    let used = use_of(&mut rig, 0);
    let expect = |busy: u64, gibibytes: u64| (Some(busy), Some(gibibytes << 30));
    assert_eq!(used["unit/chat.service"], expect(36 * SECOND, 20));
    assert_eq!(used["unit/draft.service"], expect(18 * SECOND, 5));
    assert_eq!(used[""].0, Some(54 * SECOND), "the device as a whole");
    assert_eq!(use_of(&mut rig, 1).keys().collect::<Vec<_>>(), [""], "nobody is on the next one, and that is known");
}

#[test]
fn a_process_that_is_not_found_on_the_host_is_unmapped_and_not_dropped() {
    let mut rig = Rig::new("gh200", Options::default()).unwrap();
    rig.node.add_workload(user("ghost", 4_003, 0, 500, 8)).unwrap();
    std::fs::remove_dir_all(rig.node.root().join("proc/4003")).unwrap();
    rig.start().unwrap();
    rig.pass(20, SECOND).unwrap();
    assert_eq!(use_of(&mut rig, 0)["unmapped"], (Some(10 * SECOND), Some(8 << 30)));
}

/// Held values of the idle floor and of the power at rest with something resident, in mW.
fn idle(rig: &mut Rig, slot: usize) -> (Vec<(IdleOrigin, u64)>, Option<u64>) {
    let (mut floor, mut resident) = (Vec::new(), None);
    for (subject, report) in rig.series() {
        let value = report.points.last().unwrap().1;
        match subject {
            Subject::IdlePower { source: id, origin } if id == source(slot) => floor.push((origin, value)),
            Subject::ResidentIdlePower { source: id } if id == source(slot) => resident = Some(value),
            _ => {}
        }
    }
    (floor, resident)
}

#[test]
fn the_idle_floor_is_learned_only_while_nothing_is_resident_and_a_loaded_models_rest_apart() {
    let mut rig = Rig::new("l40s-4gpu", Options::default()).unwrap();
    // The profile: 32 W empty, 84 W with a model in memory and nothing to do.
    rig.node.add_workload(user("chat", 4_001, 0, 0, 20)).unwrap();
    rig.node.set("gpu0", 84_000_000, 0).unwrap();
    rig.start().unwrap();
    rig.pass(90, SECOND).unwrap();
    assert_eq!(idle(&mut rig, 0), (vec![(IdleOrigin::Table, 28_000)], Some(84_000)));
    assert_eq!(idle(&mut rig, 1), (vec![(IdleOrigin::Table, 28_000), (IdleOrigin::Learned, 32_000)], None));
    rig.node.remove_workload("chat").unwrap();
    rig.node.set("gpu0", 32_000_000, 0).unwrap();
    rig.pass(90, SECOND).unwrap();
    let (floor, resident) = idle(&mut rig, 0);
    assert_eq!((floor.last(), resident), (Some(&(IdleOrigin::Learned, 32_000)), Some(84_000)));
}

#[test]
fn what_the_library_knows_of_the_gpus_is_told_of_the_node() {
    let mut rig = Rig::new("dgx-h100", Options::default()).unwrap();
    rig.start().unwrap();
    let sources: Vec<_> = rig.inventory().sources.into_iter().map(|state| state.source).collect();
    let first = sources.iter().find(|found| found.id == source(0)).unwrap();
    assert!(first.basis.contains("H100") && first.basis.contains("570.86.15"), "{}", first.basis);
    assert_eq!(first.ceiling.0, 875_000, "a quarter above the limit of 700 W");
    assert_eq!(sources.iter().filter(|found| found.collector == "nvml").count(), 16);
}
