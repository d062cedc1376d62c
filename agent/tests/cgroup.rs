//! The cgroup fixtures: what a path says, and lines of `/proc/<pid>/stat`.

#![allow(clippy::expect_used, clippy::panic, reason = "a test ends at what it did not expect")]

use joulebook_agent::process::cgroup::identify;
use joulebook_agent::process::proc::{parse_cgroup, parse_stat};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn fixtures() -> Option<PathBuf> {
    let root = std::env::var_os("JOULEBOOK_FIXTURES_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures"), PathBuf::from);
    let folder = root.join("cgroup");
    assert!(folder.is_dir() || std::env::var_os("JOULEBOOK_FIXTURES_DIR").is_some(), "{} is missing", folder.display());
    folder.is_dir().then_some(folder)
}

fn read(path: &Path) -> Value {
    match fs::read_to_string(path).map_err(serde_json::Error::io).and_then(|text| serde_json::from_str(&text)) {
        Ok(value) => value,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// Compares every key of an entry but the descriptive ones.
fn compare(entry: &Value, got: &Value) {
    for (key, wanted) in entry.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "case" | "note" | "path") {
            assert_eq!(got.get(key), Some(wanted), "{key} of {entry}");
        }
    }
}

#[test]
fn every_path_says_what_it_says() {
    let Some(folder) = fixtures() else { return };
    let paths = read(&folder.join("paths.json"));
    let mut compared = 0;
    for (kind, entries) in paths.as_object().expect("kinds") {
        for entry in entries.as_array().expect("entries") {
            let identity = identify(entry["path"].as_str().expect("a path"));
            let got = match kind.as_str() {
                "containers" => json!({
                    "container_id": identity.container_id, "runtime": identity.runtime,
                    "pod_uid": identity.pod_uid, "qos": identity.qos,
                }),
                "slurm" => json!({
                    "job": identity.slurm.as_ref().map(|(job, _)| job), "step": identity.slurm.as_ref().map(|(_, step)| step),
                }),
                "vms" => json!({ "vm": identity.vm }),
                "services" => json!({ "unit": identity.unit }),
                other => panic!("unknown kind {other}"),
            };
            compare(entry, &got);
            compared += 1;
        }
    }
    assert!(compared > 0);
}

#[test]
fn every_line_of_a_process_is_read_as_expected() {
    let Some(folder) = fixtures().filter(|folder| folder.join("proc_pid_stat.txt").is_file()) else { return };
    let expected = read(&folder.join("proc_pid_stat.expected.json"));
    let text = fs::read_to_string(folder.join("proc_pid_stat.txt")).expect("lines");
    let expected = expected.as_array().expect("a list");
    assert_eq!(text.lines().count(), expected.len());
    for (line, entry) in text.lines().zip(expected) {
        let process = parse_stat(line).expect("a process");
        compare(
            entry,
            &json!({
                "pid": process.pid, "comm": process.comm, "utime": process.utime, "stime": process.stime,
                "cutime": process.children.0, "cstime": process.children.1,
                "starttime": process.start_ticks, "kthread": process.kernel,
            }),
        );
    }
}

#[test]
fn the_hierarchy_that_counts_cpu_time_is_chosen() {
    let Some(folder) = fixtures().map(|folder| folder.join("proc_pid_cgroup")).filter(|folder| folder.is_dir()) else {
        return;
    };
    for entry in fs::read_dir(folder).expect("folder") {
        let text = fs::read_to_string(entry.expect("entry").path()).expect("text");
        let identity = identify(parse_cgroup(&text).expect("a path"));
        assert!(identity.container_id.is_some(), "{text}");
    }
}
