//! The powercap fixtures: every tree is classified and every sequence counted as its expectation says.

#![allow(clippy::expect_used, reason = "a test ends at what it did not expect")]

use joulebook_agent::collector::rapl::zone::{Role, Zone, classify};
use joulebook_agent::collector::{Collector, rapl::Rapl};
use joulebook_agent::config::{RaplSection, Roots};
use joulebook_agent::counter::{Step, Tracker};
use joulebook_units::{BootNanos, Milliwatts};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const KEYS: [&str; 11] = [
    "case",
    "note",
    "vendor_id",
    "cpu_energy_zones",
    "dram",
    "psys",
    "mirrors",
    "dead",
    "ignore",
    "sockets",
    "socket_of",
];
const PLAUSIBLE: Milliwatts = Milliwatts(1_500_000);

fn fixtures() -> Option<PathBuf> {
    let root = std::env::var_os("JOULEBOOK_FIXTURES_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures"), PathBuf::from);
    // A folder of fixtures may leave kinds out; the project's own may not.
    let folder = root.join("powercap");
    assert!(folder.is_dir() || std::env::var_os("JOULEBOOK_FIXTURES_DIR").is_some(), "{} is missing", folder.display());
    folder.is_dir().then_some(folder)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").path()).collect();
    paths.sort();
    paths
}

fn strings(value: &Value) -> BTreeSet<String> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|text| text.as_str().expect("a zone's name").to_owned()).collect()
}

fn with_role(zones: &[Zone], wanted: impl Fn(&Role) -> bool) -> BTreeSet<String> {
    zones.iter().filter(|zone| wanted(&zone.role)).map(|zone| zone.folder.clone()).collect()
}

/// Zones whose counter does not move in two readings 11 s apart while the CPU is busy.
fn dead(case: &Path, vendor: &str) -> BTreeSet<String> {
    let procfs = tempfile::tempdir().expect("folder");
    fs::write(procfs.path().join("cpuinfo"), format!("vendor_id : {vendor}\n")).expect("cpuinfo");
    let roots =
        Roots { sysfs: case.join("sys"), procfs: procfs.path().to_path_buf(), cgroup: procfs.path().join("none") };
    let mut rapl = Rapl::new(&roots, &RaplSection::default());
    rapl.discover();
    for (second, busy) in [(1, 0), (12, 500)] {
        fs::write(procfs.path().join("stat"), format!("cpu {busy} 0 0 {busy} 0 0 0 0\n")).expect("stat");
        rapl.read(BootNanos(second * 1_000_000_000));
    }
    let states = rapl.discover();
    let unavailable =
        states.iter().filter(|state| state.unavailable.as_deref().is_some_and(|why| why.contains("does not move")));
    unavailable
        .map(|state| {
            let file = Path::new(&state.source.basis);
            file.parent().and_then(Path::file_name).expect("a zone's folder").to_string_lossy().into_owned()
        })
        .collect()
}

#[test]
fn every_tree_is_classified_as_expected() {
    let Some(folder) = fixtures() else { return };
    let cases: Vec<_> = entries(&folder).into_iter().filter(|case| case.join("expected.json").is_file()).collect();
    assert!(!cases.is_empty());
    for case in cases {
        let text = fs::read_to_string(case.join("expected.json")).expect("expectation");
        let expected: BTreeMap<String, Value> = serde_json::from_str(&text).expect("JSON");
        for key in expected.keys() {
            assert!(
                KEYS.contains(&key.as_str()) || key == "max_energy_range_uj",
                "{}: unknown key {key}",
                case.display()
            );
        }
        let vendor = expected.get("vendor_id").and_then(Value::as_str).unwrap_or("GenuineIntel");
        let (zones, _) = classify(&case.join("sys"), Some(vendor));
        let name = case.display();
        let want = |key: &str| expected.get(key).map(strings).unwrap_or_default();
        let dead = if want("dead").is_empty() { BTreeSet::new() } else { dead(&case, vendor) };
        assert_eq!(dead, want("dead"), "{name}: dead");
        let living = |zones: BTreeSet<String>| zones.difference(&dead).cloned().collect::<BTreeSet<_>>();
        assert_eq!(living(with_role(&zones, |role| *role == Role::Cpu)), want("cpu_energy_zones"), "{name}: cpu");
        assert_eq!(living(with_role(&zones, |role| *role == Role::Dram)), want("dram"), "{name}: dram");
        assert_eq!(with_role(&zones, |role| *role == Role::Psys), want("psys"), "{name}: psys");
        assert_eq!(with_role(&zones, |role| *role == Role::Ignored), want("ignore"), "{name}: ignore");
        let mirrors: BTreeMap<String, Value> = zones
            .iter()
            .filter_map(|zone| match &zone.role {
                Role::Mirror { of } => Some((zone.folder.clone(), Value::from(of.clone()))),
                _ => None,
            })
            .collect();
        let wanted = expected.get("mirrors").and_then(Value::as_object).cloned().unwrap_or_default();
        assert_eq!(mirrors, wanted.into_iter().collect(), "{name}: mirrors");
        let cpu = zones.iter().filter(|zone| zone.role == Role::Cpu && !dead.contains(&zone.folder));
        let sockets: BTreeSet<_> = cpu.filter_map(|zone| zone.socket).collect();
        if let Some(number) = expected.get("sockets").and_then(Value::as_u64) {
            assert_eq!(sockets.len() as u64, number, "{name}: sockets");
        }
        let find = |folder: &str| zones.iter().find(|zone| zone.folder == folder).expect("the zone");
        for (zone, socket) in expected.get("socket_of").and_then(Value::as_object).into_iter().flatten() {
            assert_eq!(find(zone).socket.map(u64::from), socket.as_u64(), "{name}: socket of {zone}");
        }
        for (zone, range) in expected.get("max_energy_range_uj").and_then(Value::as_object).into_iter().flatten() {
            assert_eq!(find(zone).range, range.as_u64(), "{name}: range of {zone}");
        }
    }
}

#[derive(Default)]
struct Sequence {
    range: Option<u64>,
    total: u64,
    gaps: Vec<(u64, u64)>,
    readings: Vec<(u64, Option<u64>)>,
}

fn sequence(path: &Path) -> Sequence {
    let mut sequence = Sequence::default();
    for line in fs::read_to_string(path).expect("sequence").lines() {
        if let Some(comment) = line.strip_prefix('#') {
            for (key, value) in comment.split_whitespace().filter_map(|word| word.split_once('=')) {
                match key {
                    "max_energy_range_uj" => sequence.range = value.parse().ok(),
                    "expected_total_uj" => sequence.total = value.parse().expect("a total"),
                    "expected_gaps_ms" => {
                        let gaps = value.split(',').filter_map(|gap| gap.split_once(".."));
                        sequence.gaps = gaps.map(|(a, b)| (a.parse().expect("ms"), b.parse().expect("ms"))).collect();
                    }
                    _ => {}
                }
            }
        } else if let Some((at, value)) = line.split_once(',').filter(|(at, _)| *at != "t_ms") {
            sequence.readings.push((at.parse().expect("ms"), value.trim().parse().ok()));
        }
    }
    sequence
}

#[test]
fn every_sequence_sums_to_its_truth_and_declares_its_gaps() {
    let Some(folder) = fixtures().map(|folder| folder.join("sequences")).filter(|folder| folder.is_dir()) else {
        return;
    };
    let paths = entries(&folder);
    assert!(!paths.is_empty());
    for path in paths {
        let sequence = sequence(&path);
        let mut tracker = Tracker::new(PLAUSIBLE);
        let (mut total, mut gaps) = (0u64, Vec::new());
        for (at, raw) in &sequence.readings {
            let Some(raw) = raw else { continue };
            // Times begin at 0, which no boot clock shows.
            match tracker.observe(BootNanos((at + 1) * 1_000_000), *raw, sequence.range) {
                Step::Delta { microjoules, .. } => total += microjoules,
                Step::Gap(gap) => {
                    total += gap.after;
                    gaps.push((gap.from.0 / 1_000_000 - 1, gap.to.0 / 1_000_000 - 1));
                }
                Step::First | Step::Hold(_) | Step::Skip(_) => {}
            }
        }
        let tolerance = 200.max(sequence.total / 1_000_000);
        assert!(total.abs_diff(sequence.total) <= tolerance, "{}: {total} for {}", path.display(), sequence.total);
        assert_eq!(gaps, sequence.gaps, "{}", path.display());
    }
}
