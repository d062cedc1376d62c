//! Recorded and composed hardware, run through the product's own code and held against what each case expects.
//!
//! `JOULEBOOK_FIXTURES_DIR` names a folder of cases, the project's own (`tests/fixtures`) if it is unset. A kind whose
//! folder is absent is skipped. Each case prints a line; one that fails fails the test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "functions that tests call may fail the test and print what they found"
)]

use std::path::{Path, PathBuf};

use anyhow::Result;

#[path = "fixtures/cgroup.rs"]
mod cgroup;
#[path = "fixtures/dcmi.rs"]
mod dcmi;
#[path = "fixtures/expectation.rs"]
mod expectation;
#[path = "fixtures/hwmon.rs"]
mod hwmon;
#[path = "fixtures/nvml.rs"]
mod nvml;
#[path = "fixtures/powercap.rs"]
mod powercap;
#[path = "fixtures/redfish.rs"]
mod redfish;
#[path = "fixtures/sequence.rs"]
mod sequence;

/// One case: its name within its kind, and what is wrong with it.
#[derive(Debug)]
pub struct Case {
    /// Name.
    pub name: String,
    /// Objections; none if it is as expected.
    pub wrong: Vec<String>,
}

impl Case {
    /// A case that was run; one that could not be run to its end is wrong too.
    pub fn new(name: impl Into<String>, run: Result<Vec<String>>) -> Self {
        Self { name: name.into(), wrong: run.unwrap_or_else(|error| vec![format!("{error:#}")]) }
    }
}

/// A kind of case: its name, the folder that it lies in, and how all cases of that folder are run.
type Kind = (&'static str, &'static str, fn(&Path) -> Vec<Case>);

/// The kinds. A new one is one file and one line here.
const KINDS: [Kind; 7] = [
    ("powercap", "powercap", powercap::run),
    ("sequence", "powercap/sequences", sequence::run),
    ("hwmon", "hwmon", hwmon::run),
    ("cgroup", "cgroup", cgroup::run),
    ("nvml", "nvml/sequences", nvml::run),
    ("redfish", "redfish", redfish::run),
    ("dcmi", "ipmi", dcmi::run),
];

/// The project's own cases.
fn own() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// Entries of a folder, by name.
pub fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Last part of a path.
pub fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Runs every kind that the folder has; gives each case with its kind.
fn run(folder: &Path) -> Vec<(&'static str, Case)> {
    let there = KINDS.iter().filter(|(_, place, _)| folder.join(place).is_dir());
    there.flat_map(|(kind, place, run)| run(&folder.join(place)).into_iter().map(|case| (*kind, case))).collect()
}

#[test]
fn every_case_of_the_folder_is_what_it_expects() {
    let folder = std::env::var_os("JOULEBOOK_FIXTURES_DIR").map_or_else(own, PathBuf::from);
    assert!(folder.is_dir(), "{} is no folder", folder.display());
    let cases = run(&folder);
    for (kind, place, _) in KINDS.iter().filter(|(_, place, _)| !folder.join(place).is_dir()) {
        println!("skipped {kind}: no folder {place}");
    }
    for (kind, Case { name, wrong }) in &cases {
        if wrong.is_empty() {
            println!("ok {kind}/{name}");
        }
        wrong.iter().for_each(|objection| println!("FAIL {kind}/{name}: {objection}"));
    }
    let failed = cases.iter().filter(|(_, case)| !case.wrong.is_empty()).count();
    println!("{} cases, {failed} failed", cases.len());
    assert!(!cases.is_empty(), "{} has no case of any kind", folder.display());
    assert_eq!(failed, 0, "cases fail, see the lines above");
}

#[test]
fn the_projects_own_folder_has_cases_of_every_kind() {
    for (kind, place, run) in KINDS {
        assert!(!run(&own().join(place)).is_empty(), "no case of {kind}");
    }
}

/// A copy of a part of the project's own cases, with one text replaced by another in one file.
fn changed(part: &str, file: &str, from: &str, to: &str) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        if from.is_dir() {
            std::fs::create_dir_all(to).unwrap();
            entries(from).iter().for_each(|path| copy(path, &to.join(name_of(path))));
        } else {
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(from, to).unwrap();
        }
    }
    let folder = tempfile::tempdir().unwrap();
    copy(&own().join(part), &folder.path().join(part));
    let path = folder.path().join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has no {from:?}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    folder
}

#[test]
fn a_case_that_expects_something_else_fails_and_names_it() {
    let spr = "powercap/intel-2s-spr";
    let grace = "hwmon/grace-hopper-1";
    for (part, file, from, to, named) in [
        (spr, "expected.json", "\"sockets\": 2", "\"sockets\": 3", "sockets"),
        (spr, "expected.json", "\"intel-rapl:2\"", "\"intel-rapl:3\"", "psys"),
        (spr, "expected.json", "\"dram\"", "\"memory\"", "unknown key memory"),
        (spr, "sys/class/powercap/intel-rapl:1/name", "package-1", "package-2", "socket"),
        ("powercap/sequences", "wrap-once-350W.csv", "expected_total_uj=", "expected_total_uj=9", "total"),
        ("powercap/sequences", "reset-not-wrap.csv", "1000..2000", "1000..3000", "gaps"),
        (grace, "expected.json", "\"node_w\": 612", "\"node_w\": 613", "node_w"),
        (grace, "expected.json", "\"within\": \"grace\"", "\"within\": \"module\"", "within"),
        (grace, "expected.json", "\"socket\": 0", "\"socket\": 1", "socket"),
        (grace, "expected.json", "\"gpu_part_of_module\": 464", "\"gpu_part_of_module\": 465", "gpu_part_of_module"),
        (grace, "sys/class/hwmon/hwmon2/device/power1_average", "97000000", "98000000", "w"),
        ("hwmon/acpi-power-meter", "expected.json", "\"window_s\": 300", "\"window_s\": 30", "window_s"),
        ("hwmon/amdgpu-neg-errno", "sys/class/hwmon/hwmon2/power1_average", "4294967274", "80000000", "should be null"),
        ("cgroup", "paths.json", "\"burstable\"", "\"besteffort\"", "qos"),
        ("cgroup", "proc_pid_stat.expected.json", "\"kthread\"", "\"kernel\"", "unknown key kernel"),
        ("nvml/sequences", "driver-reload.csv", "135000", "135001", "total"),
        ("nvml/sequences", "gpu-lost-index-shift.csv", "GPU-bb:0..", "GPU-bb:0..9", "gaps"),
        ("redfish", "supermicro-x13/expected.json", "612", "613", "wall_w"),
        ("redfish", "supermicro-x13/expected.json", "18231.402", "18231.403", "energy_kwh"),
        ("redfish", "supermicro-x13/expected.json", "\"psu_input_sum_w\"", "\"psu_sum\"", "unknown key psu_sum"),
        ("redfish", "hgx-h100-telemetry/expected.json", "null", "68.9", "3"),
        ("redfish", "faults/expected.json", "\"retry_after_s\": 30", "\"retry_after_s\": 31", "retry_after_s"),
        ("redfish", "third-party/expected.json", "539", "416", "wrong sums"),
        ("ipmi", "dcmi_get_power_reading.json", "6421", "6422", "w: expected"),
        ("ipmi", "dcmi_get_power_reading.json", "\"busy\"", "\"state\"", "error: expected"),
    ] {
        let folder = changed(part, &format!("{part}/{file}"), from, to);
        let wrong: Vec<String> = run(folder.path()).into_iter().flat_map(|(_, case)| case.wrong).collect();
        assert!(wrong.iter().any(|line| line.contains(named)), "{part}/{file} {to}: {wrong:?}");
    }
}
