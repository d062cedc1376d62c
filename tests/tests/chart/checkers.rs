//! The ecosystem's own checkers: Helm's linter, the schemas of Kubernetes, and checkov's rules, each exception with a reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use joulebook_tests::chart::render::{chart, helm, python, text, value_sets};

/// Kinds that belong to others and whose schemas Kubernetes does not have.
const FOREIGN: [&str; 5] = [
    "kind Certificate with",
    "kind SecurityContextConstraints with",
    "kind ServiceMonitor with",
    "kind PodMonitor with",
    "kind PrometheusRule with",
];

/// Rules of checkov that are broken on purpose: rule, kind and end of the name of the object, and why.
const EXCEPTIONS: [(&str, &str, &str); 12] = [
    // A limit of CPU time throttles: a reading would come late, and late readings are what this is about.
    ("CKV_K8S_11", "", ""),
    // A digest names the image, or the tag of a version that is never moved; pulling it again brings nothing.
    ("CKV_K8S_15", "", ""),
    // The chart cannot know the digest of an image that somebody builds and mirrors; `image.*.digest` sets it.
    ("CKV_K8S_43", "", ""),
    // The owner of the meters is root, and no capability replaces that: helm/README.md, "What each privilege buys".
    ("CKV_K8S_23", "DaemonSet", "-agent-cpu"),
    ("CKV_K8S_23", "DaemonSet", "-agent-gpu"),
    ("CKV_K8S_40", "DaemonSet", "-agent-cpu"),
    ("CKV_K8S_40", "DaemonSet", "-agent-gpu"),
    // NVIDIA's library speaks of process ids of the node.
    ("CKV_K8S_17", "DaemonSet", "-agent-gpu"),
    // On OpenShift the cluster chooses the user, which is high there.
    ("CKV_K8S_40", "StatefulSet", "-aggregator"),
    ("CKV_K8S_40", "Pod", "-test"),
    // Where monitoring.metrics is off, agents and poller listen nowhere: they end when they cannot go on, and the kubelet starts
    // them again. The pod of `helm test` ends by itself.
    ("CKV_K8S_8", "", ""),
    ("CKV_K8S_9", "", ""),
];

fn checker(name: &str) -> Command {
    let folder: PathBuf = python().parent().unwrap().to_owned();
    let mut command = Command::new(python());
    command.arg(folder.join(name)).env("NO_COLOR", "1");
    command
}

/// A folder with what every value set renders.
fn rendered() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for set in value_sets() {
        fs::write(folder.path().join(format!("{set}.yaml")), text(&set)).unwrap();
    }
    folder
}

#[test]
fn helm_finds_nothing_to_say_about_the_chart() {
    for set in value_sets() {
        let values = chart().join("ci").join(format!("{set}.yaml"));
        let done = helm(&["lint", "--strict"], &["--values", values.to_str().unwrap()]);
        assert!(done.status.success(), "{set}: {}", String::from_utf8_lossy(&done.stdout));
    }
}

#[test]
fn every_object_is_one_of_kubernetes() {
    let folder = rendered();
    let check = |version: &str, path: PathBuf| {
        let done = checker("kubernetes-validate").args(["-k", version, "--strict"]).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        (done.status.success(), said)
    };
    for version in ["1.31", "1.35"] {
        for set in value_sets() {
            let (well, said) = check(version, folder.path().join(format!("{set}.yaml")));
            assert!(well, "{version}: {set}: {said}");
            let strange = said.lines().filter(|line| line.contains("find schema"));
            let unknown: Vec<_> = strange.filter(|line| !FOREIGN.iter().any(|kind| line.contains(kind))).collect();
            assert!(unknown.is_empty(), "{version}: {set}: {unknown:?}");
        }
    }
    let wrong = text("default").replace("readOnlyRootFilesystem:", "readOnlyRootFileSystem:");
    let path = folder.path().join("wrong.yaml");
    fs::write(&path, wrong).unwrap();
    assert!(!check("1.35", path).0, "a key that does not exist is seen");
}

#[test]
fn checkov_finds_what_is_argued_for_and_nothing_else() {
    let folder = rendered();
    let mut command = checker("checkov");
    command.args(["--framework", "kubernetes", "--skip-download", "--quiet", "--compact", "-o", "json", "-d", "."]);
    // A folder whose name begins with a dot, as a temporary one's does, is left out, unless it is the current one.
    let done = command.current_dir(folder.path()).env("HOME", folder.path()).output().unwrap();
    let report: Value = serde_json::from_slice(&done.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&done.stderr)));
    assert!(report["summary"]["passed"].as_u64().unwrap() > 1_000, "{}", report["summary"]);
    assert_eq!(report["summary"]["parsing_errors"], 0);
    let (mut used, mut found) = (BTreeSet::new(), Vec::new());
    for failure in report["results"]["failed_checks"].as_array().unwrap() {
        let (rule, resource) = (failure["check_id"].as_str().unwrap(), failure["resource"].as_str().unwrap());
        let excepted = EXCEPTIONS
            .iter()
            .position(|(name, kind, end)| *name == rule && resource.starts_with(kind) && resource.ends_with(end));
        match excepted {
            Some(place) => {
                used.insert(place);
            }
            None => found.push(format!("{rule} {}: {resource} in {}", failure["check_name"], failure["file_path"])),
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    let unused: Vec<_> = (0..EXCEPTIONS.len()).filter(|place| !used.contains(place)).map(|at| EXCEPTIONS[at]).collect();
    assert!(unused.is_empty(), "argued for and not found: {unused:?}");
}
