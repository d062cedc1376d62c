//! Rows B16 to B23 of the bad inputs.

use super::{Rig, bounded, hurried, load, source};
use joulebook_hwsim::fault::Kind;
use joulebook_hwsim::node::Options;
use joulebook_tests::simulated::SECOND;
use joulebook_units::{GapReason, Method};
use std::time::Duration;

/// Rows until `done`, with time for the helper's pauses in between.
fn pass_until(rig: &mut Rig, done: impl Fn(&Rig) -> bool) {
    for _ in 0..2_000 {
        if done(rig) {
            return;
        }
        rig.pass(1, SECOND).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("not done after 2000 rows: {:?}", rig.sampler().refused());
}

fn reads_gpus(rig: &Rig) -> bool {
    rig.inventory().sources.iter().any(|state| state.source.id == source(0) && state.unavailable.is_none())
}

#[test]
fn b16_a_library_that_cannot_start_turns_gpus_off_and_is_tried_again() {
    let mut rig = hurried("dgx-h100", Options::default());
    rig.fault("", Kind::LibMismatch, None, None).unwrap();
    rig.start().unwrap();
    rig.pass(30, SECOND).unwrap();
    assert!(!reads_gpus(&rig));
    let rapl = &rig.energy("rapl")["rapl/package-0"].1;
    assert!(rapl.agrees(rig.zone_truth("intel-rapl:0")), "CPU telemetry goes on");
    rig.node.repair(Kind::LibMismatch, "").unwrap();
    pass_until(&mut rig, reads_gpus);
    rig.pass(10, SECOND).unwrap();
    assert_eq!(rig.energy("nvml").len(), 16);
}

#[test]
fn b17_a_gpu_without_an_energy_counter_is_integrated_and_says_so() {
    let mut rig = Rig::new("l40s-4gpu", Options::default()).unwrap();
    rig.fault("gpu1", Kind::NotSupported, None, None).unwrap();
    load(&mut rig, 4, 100);
    rig.pass(10, SECOND).unwrap();
    rig.start().unwrap();
    rig.pass(60, SECOND).unwrap();
    let energy = rig.energy("nvml");
    let methods = [0, 1].map(|slot| energy[&source(slot)].0.method);
    assert_eq!(methods, [Method::Counter, Method::IntegratedPower]);
    assert!(!energy.contains_key(&format!("{}/power", source(1))), "there is nothing to hold it against");
    let report = &energy[&source(1)].1;
    assert!(report.agrees(super::truth(&rig, 1, report)), "{}", report.value);
}

#[test]
fn b18_a_gpu_that_is_lost_for_ever_is_a_gap_and_the_other_seven_go_on() {
    let mut rig = Rig::new("dgx-h100", Options::default()).unwrap();
    load(&mut rig, 8, 200);
    rig.start().unwrap();
    rig.pass(30, SECOND).unwrap();
    rig.fault("gpu3", Kind::GpuLost, None, None).unwrap();
    rig.pass(150, SECOND).unwrap();
    let told = rig.sampler().refused().clone();
    assert_eq!(told.get(&(source(3), "gpu_lost")), Some(&1), "the event is raised once: {told:?}");
    let energy = rig.energy("nvml");
    for slot in 0..8 {
        let (_, report) = &energy[&source(slot)];
        if slot != 3 {
            assert!(report.agrees(super::truth(&rig, slot, report)) && report.gaps.is_empty());
            continue;
        }
        let lost = report.gaps.iter().all(|gap| gap.reason == GapReason::SourceLost);
        assert!(lost && report.gaps.len() == 2, "a minute each: {:?}", report.gaps);
        assert_eq!(report.gaps[0].from.0, report.points.last().unwrap().0, "from the last good reading on");
        assert_eq!(report.gaps[1].from, report.gaps[0].to);
        let declared = rig.leaf_truth("gpu3", rig.first_ns(), rig.first_ns() + 150 * SECOND);
        assert!(declared <= report.value + report.high);
    }
}

#[test]
fn b19_a_library_of_which_every_call_fails_is_started_again_and_then_given_up() {
    let mut rig = hurried("dgx-h100", Options::default());
    load(&mut rig, 8, 200);
    rig.start().unwrap();
    rig.pass(10, SECOND).unwrap();
    let first = rig.sampler().sources().helper_pid();
    rig.fault("", Kind::Unknown, None, None).unwrap();
    pass_until(&mut rig, |rig| !reads_gpus(rig));
    pass_until(&mut rig, |rig| rig.sampler().sources().helper_pid().is_some_and(|pid| Some(pid) != first));
    rig.node.repair(Kind::Unknown, "").unwrap();
    pass_until(&mut rig, reads_gpus);
    rig.pass(10, SECOND).unwrap();
    let report = &rig.energy("nvml")[&source(0)].1;
    let truth = super::truth(&rig, 0, report);
    assert!(report.value <= truth && truth <= report.value + report.high, "{truth} µJ: {report:?}");
}

#[test]
fn b20_a_counter_that_starts_again_is_a_gap_and_never_negative() {
    let (report, _) = bounded(Kind::DriverReload, "");
    assert_eq!(report.gaps.iter().map(|gap| gap.reason).collect::<Vec<_>>(), [GapReason::CounterReset]);
}

#[test]
fn b21_a_call_that_never_returns_stops_its_gpu_alone() {
    let (report, rig) = bounded(Kind::Hang, "gpu3");
    assert!(report.gaps.iter().all(|gap| gap.reason == GapReason::SourceLost), "{:?}", report.gaps);
    let package = rig.zone_truth("intel-rapl:0");
    let mut rig = rig;
    assert!(rig.energy("rapl")["rapl/package-0"].1.agrees(package));
}

#[test]
fn b22_a_library_that_crashes_in_its_start_is_tried_again() {
    let mut rig = hurried("dgx-h100", Options::default());
    rig.fault("", Kind::InitCrash, None, None).unwrap();
    rig.start().unwrap();
    rig.pass(20, SECOND).unwrap();
    assert!(!reads_gpus(&rig));
    assert!(rig.energy("rapl")["rapl/package-0"].1.agrees(rig.zone_truth("intel-rapl:0")));
    rig.node.repair(Kind::InitCrash, "").unwrap();
    pass_until(&mut rig, reads_gpus);
}

#[test]
fn b23_a_power_and_a_rise_that_no_gpu_can_have_are_left_out() {
    let mut rig = Rig::new("l40s-4gpu", Options::default()).unwrap();
    load(&mut rig, 4, 100);
    rig.start().unwrap();
    rig.pass(10, SECOND).unwrap();
    rig.node.set("gpu2", 50_000_000_000, 0).unwrap();
    rig.pass(2, SECOND).unwrap();
    rig.node.set("gpu2", 100_000_000, 0).unwrap();
    rig.pass(10, SECOND).unwrap();
    let refused = rig.sampler().refused().clone();
    assert!(refused.contains_key(&(source(2), "implausible")), "{refused:?}");
    let (_, report) = &rig.energy("nvml")[&source(2)];
    assert!(report.value < 30 * 875 * 1_000_000, "50 kW are not booked: {}", report.value);
}
