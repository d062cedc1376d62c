//! CodeCarbon beside the agent's own sensors on one simulated powercap tree, which a mount namespace shows as `/sys`.
//!
//! `JOULEBOOK_CODECARBON` is a Python that has the package (`.ci/setup codecarbon`). Needs root, for the mount. On a plain
//! tree both must be within 1 % of the truth; where counters are shown twice ours must, and what the other says is printed.

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

use joulebook_hwsim::fault::Kind;
use joulebook_hwsim::node::Options;
use joulebook_tests::program::Program;
use joulebook_tests::simulated::{BEGIN, Rig, SECOND};
use joulebook_units::Component;
use serde_json::Value;

/// How long the two measure.
const MEASURED: Duration = Duration::from_secs(40);
/// How long the other may take to start and to end around that.
const PATIENCE: Duration = Duration::from_secs(180);
/// Time between two updates of the tree.
const TICK: Duration = Duration::from_millis(5);

/// What was measured of one tree, in µJ.
struct Measured {
    /// By CodeCarbon, with the truth of the same time.
    theirs: (i128, i128),
    /// The same of ours.
    ours: (i128, i128),
    /// Counters that CodeCarbon used.
    files: usize,
}

/// CodeCarbon in namespaces of its own: the tree is its `/sys`, and it has no network.
fn codecarbon(root: &Path) -> Command {
    let python = std::env::var_os("JOULEBOOK_CODECARBON").expect("set by `make test-rigs`: python with codecarbon");
    let mut command = Command::new("unshare");
    // What is mounted goes with the namespace, and the namespace with its last process.
    command.args(["--mount", "--net", "sh", "-c", "mount --bind \"$0\" /sys && exec \"$@\""]);
    command.arg(root.join("sys")).arg(python);
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/codecarbon/measure.py"))
        .arg(MEASURED.as_secs().to_string());
    command
}

fn within(measured: (i128, i128), permille: i128) -> bool {
    (measured.0 - measured.1).abs() * 1_000 <= measured.1 * permille
}

/// Packages of the node as it was made: what is shown beside them shows one of them again.
fn packages(rig: &Rig) -> Vec<String> {
    let named = |name: &str| name.strip_prefix("package-").is_some_and(|rest| rest.parse::<u32>().is_ok());
    let zones = rig.node.zones().iter();
    zones.filter(|zone| named(&zone.name) && !zone.id.contains("mmio")).map(|zone| zone.id.clone()).collect()
}

fn measure(profile: &str, fault: Option<Kind>) -> Measured {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: it mounts the tree in place of /sys");
    let mut rig = Rig::new(profile, Options { manual: false, ..Options::default() }).unwrap();
    rig.config.nvml.enabled = false;
    let packages = packages(&rig);
    if let Some(kind) = fault {
        rig.fault("", kind, None, None).unwrap();
    }
    for (number, leaf) in rig.node.leaf_names().iter().enumerate() {
        rig.node.set(leaf, (150 + 40 * number as i64) * 1_000_000, 20 * SECOND).unwrap();
    }
    rig.start().unwrap();
    let mut child = Program::spawn(codecarbon(rig.node.root())).unwrap();
    let mut next = rig.node.now_ns() + SECOND;
    let deadline = rig.node.now_ns() + u64::try_from((MEASURED + PATIENCE).as_nanos()).unwrap();
    while !child.has_ended() {
        assert!(rig.node.now_ns() < deadline, "it has not ended: {}", child.said());
        std::thread::sleep(TICK);
        rig.node.publish().unwrap();
        if rig.node.now_ns() >= next {
            rig.row();
            next += SECOND;
        }
    }
    let status = child.wait().unwrap();
    let said = child.said();
    assert!(status.success(), "{status}: {said}");
    let line = said.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("no answer: {said}"));
    let said: Value = serde_json::from_str(line).expect("JSON");
    let truth = |from: u64, to: u64| -> i128 {
        let truth = rig.node.truth(from, to);
        packages.iter().map(|zone| truth.zones[zone]).sum()
    };
    let instant = |key: &str| said[key].as_u64().expect("an instant") - rig.node.t0_ns();
    let theirs = (i128::from(said["microjoules"].as_u64().unwrap()), truth(instant("first"), instant("last")));
    let files = said["files"].as_array().unwrap().len();
    let reports = rig.energy("rapl");
    let counted: Vec<_> = reports.values().filter(|(source, _)| source.component == Component::Cpu).collect();
    let all: Vec<u64> = counted.iter().flat_map(|(_, report)| report.points.iter().map(|point| point.0)).collect();
    let (first, last) = (all.iter().min().unwrap() - BEGIN, all.iter().max().unwrap() - BEGIN);
    let zones = rig.node.truth(first, last).zones;
    let ours =
        (counted.iter().map(|(_, report)| report.value).sum(), packages.iter().map(|zone| zones[zone]).sum::<i128>());
    let percent = |(measured, truth): (i128, i128)| (measured - truth) as f64 / truth as f64 * 100.0;
    println!(
        "{profile} {}: ours {:.1} J ({:+.3} %), CodeCarbon {:.1} J of {:.1} J ({:+.3} %) from {files} counters",
        fault.map_or_else(|| "plain".to_owned(), |kind| format!("{kind:?}")),
        ours.0 as f64 / 1e6,
        percent(ours),
        theirs.0 as f64 / 1e6,
        theirs.1 as f64 / 1e6,
        percent(theirs),
    );
    Measured { theirs, ours, files }
}

#[test]
fn both_are_within_one_percent_of_the_truth_on_a_plain_tree() {
    let measured = measure("cpu-2s", None);
    assert!(within(measured.ours, 10), "{:?}", measured.ours);
    assert!(within(measured.theirs, 10), "{:?} from {} counters", measured.theirs, measured.files);
}

#[test]
fn ours_is_right_where_dies_mirror_their_package() {
    let measured = measure("l40s-4gpu", Some(Kind::MirrorDies));
    assert!(within(measured.ours, 10), "{:?}", measured.ours);
}

#[test]
fn ours_is_right_where_a_second_door_shows_the_same_counters() {
    let measured = measure("cpu-2s", Some(Kind::DupMmio));
    assert!(within(measured.ours, 10), "{:?}", measured.ours);
}
