//! Meters of hwmon over the simulated node: within 0.1 % of the truth at either rate, and honest through faults.

use joulebook_hwsim::fault::Kind;
use joulebook_hwsim::node::Options;
use joulebook_tests::simulated::{BEGIN, Report, Rig, SECOND};
use joulebook_units::{Component, Method};

/// Profiles with meters, and how many there are.
const PROFILES: [(&str, usize); 3] = [("gh200", 4), ("epyc-mi300x", 8), ("altra", 13)];

/// A rig of which hwmon alone is read.
fn rig(name: &str, options: Options) -> Rig {
    let mut rig = Rig::new(name, options).unwrap();
    rig.config.nvml.enabled = false;
    rig.node.step(10 * SECOND).unwrap();
    rig.start().unwrap();
    rig
}

/// Each meter with what was reported of it and its true energy in µJ over the same time.
fn compared(rig: &mut Rig) -> Vec<(String, Report, i128)> {
    let mut energy = rig.energy("hwmon");
    let meters: Vec<_> = rig.node.meters().iter().map(|meter| (meter.id(), meter.of_device())).collect();
    let mut compared = Vec::new();
    for (id, of_device) in meters {
        let (_, report) = energy.remove(&format!("hwmon/{of_device}")).unwrap_or_else(|| panic!("{id} is read"));
        let (first, last) = (report.points[0].0 - BEGIN, report.points.last().unwrap().0 - BEGIN);
        let truth = rig.node.truth(first, last).meters[&id];
        compared.push((id, report, truth));
    }
    assert!(energy.keys().all(|id| id.contains("_of_") || id.contains("_and_")), "differences alone: {energy:?}");
    compared
}

/// Up, and down again to where it began: what a mean lags behind, it makes up for.
fn ramps(rig: &mut Rig, rows_of_a_second: u64) {
    let step = SECOND / rows_of_a_second;
    let leaves = rig.node.leaf_names();
    rig.pass(5 * rows_of_a_second, step).unwrap();
    let before: Vec<i64> = leaves.iter().map(|leaf| rig.node.power_uw(leaf).unwrap()).collect();
    for change in [130_000_000, 0] {
        for (number, (leaf, power)) in leaves.iter().zip(&before).enumerate() {
            rig.node.set(leaf, power + change + change / 10 * number as i64, 8 * SECOND).unwrap();
        }
        rig.pass(15 * rows_of_a_second, step).unwrap();
    }
}

fn every_meter_is_the_truth(rows_of_a_second: u64) {
    for (name, count) in PROFILES {
        let mut rig = rig(name, Options::default());
        ramps(&mut rig, rows_of_a_second);
        let compared = compared(&mut rig);
        assert_eq!(compared.len(), count, "{name}");
        let mut worst = 0.0f64;
        for (id, report, truth) in compared {
            let seconds = (report.points.last().unwrap().0 - report.points[0].0) / SECOND;
            assert!(seconds >= 30, "{name} {id}: {seconds} s");
            assert!(report.agrees(truth), "{name} {id}: {} of {truth} µJ", report.value);
            assert!(report.gaps.is_empty(), "{:?}", report.gaps);
            worst = worst.max((report.value - truth).abs() as f64 / truth as f64);
        }
        println!("{name}: {count} meters over 35 s at {rows_of_a_second} Hz, worst {:.4} %", worst * 100.0);
    }
}

#[test]
fn energy_of_every_meter_is_the_truth_at_1_hz() {
    every_meter_is_the_truth(1);
}

#[test]
fn energy_of_every_meter_is_the_truth_at_10_hz() {
    every_meter_is_the_truth(10);
}

#[test]
fn what_is_added_of_a_node_is_what_its_parts_draw_and_nothing_twice() {
    for (name, parts) in [("gh200", &["grace"][..]), ("epyc-mi300x", &["gpu"]), ("altra", &["cpu"])] {
        let mut rig = rig(name, Options::default());
        rig.pass(40, SECOND).unwrap();
        let added: i128 = rig
            .energy("hwmon")
            .into_values()
            .filter(|(source, _)| source.contained_in.is_none() && source.component != Component::Wall)
            .map(|(_, report)| report.value)
            .sum();
        let leaves = rig.node.leaf_names().into_iter().filter(|leaf| parts.iter().any(|part| leaf.starts_with(part)));
        let (from, to) = (rig.first_ns(), rig.node.shown_ns());
        let truth: i128 = leaves.map(|leaf| rig.leaf_truth(&leaf, from, to)).sum();
        assert!((added - truth).abs() * 1_000 <= truth, "{name}: {added} of {truth} µJ");
    }
}

#[test]
fn the_difference_of_meters_is_what_nothing_meters() {
    let mut rig = rig("gh200", Options::default());
    rig.pass(40, SECOND).unwrap();
    let energy = rig.energy("hwmon");
    for (id, leaf) in [("hwmon/dram_and_regulator/0", "grace_dram_reg"), ("hwmon/gpu_part_of_module/0", "gpu0")] {
        let (source, report) = &energy[id];
        let truth = rig.leaf_truth(leaf, rig.first_ns(), rig.node.shown_ns());
        assert!(report.agrees(truth), "{id}: {} of {truth} µJ", report.value);
        assert_eq!(source.method, Method::Estimated);
        assert!(source.contained_in.is_some(), "never added beside a meter");
    }
}

/// Breaks one meter for a while, and holds what was reported against the truth.
fn bounded(kind: Kind, seconds: u64) -> Report {
    let mut rig = rig("epyc-mi300x", Options::default());
    rig.pass(20, SECOND).unwrap();
    let broken_ns = BEGIN + rig.node.boot_ns();
    rig.fault("hwmon3/power1", kind, None, Some(seconds * 1_000)).unwrap();
    rig.pass(seconds - 1, SECOND).unwrap();
    let repaired_ns = BEGIN + rig.node.boot_ns();
    rig.pass(60, SECOND).unwrap();
    let compared = compared(&mut rig);
    for (id, report, truth) in &compared {
        let (value, high) = (report.value, report.high);
        assert!(value <= truth + 1_000, "{kind:?} {id}: {value} µJ reported of {truth}");
        assert!(*truth <= value + high + 1_000, "{kind:?} {id}: {truth} µJ, {value} reported, {high} missing at most");
        let broken = id == "hwmon3/power1";
        let during = report.points.iter().filter(|(at, _)| *at > broken_ns && *at <= repaired_ns).count() as u64;
        let expected = if broken && kind != Kind::Freeze { 0 } else { seconds - 1 };
        assert_eq!(during, expected, "{kind:?} {id}: rows with a value while it is broken");
    }
    compared.into_iter().find(|(id, ..)| id == "hwmon3/power1").unwrap().1
}

#[test]
fn a_meter_that_cannot_be_read_for_a_short_while_loses_nothing() {
    for kind in [Kind::Eio, Kind::Eacces, Kind::RemoveZone, Kind::Freeze] {
        let report = bounded(kind, 20);
        assert!(report.gaps.is_empty(), "{kind:?}: {:?}", report.gaps);
    }
}

#[test]
fn a_meter_that_cannot_be_read_for_long_leaves_a_gap_with_bounds() {
    for kind in [Kind::Eio, Kind::Eacces, Kind::RemoveZone] {
        let report = bounded(kind, 50);
        assert_eq!(report.gaps.len(), 1, "{kind:?}: {:?}", report.gaps);
        let gap = &report.gaps[0];
        assert!(gap.to.0 - gap.from.0 >= 50 * SECOND, "{gap:?}");
    }
}
