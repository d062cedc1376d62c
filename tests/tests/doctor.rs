//! `joulebook doctor` on simulated nodes: what it measures is what the node draws, and what it cannot read it explains.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions that tests call may fail the test")]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use joulebook_tests::program::binary;
use joulebook_tests::simulator::Simulator;
use serde_json::Value;

/// Power of the profile l40s-4gpu with nothing to do, in W: of a package, of a GPU.
const PACKAGE_W: f64 = 75.0;
const GPU_W: f64 = 32.0;

fn config(folder: &Path, simulator: &Simulator) -> PathBuf {
    let (path, connection) = (folder.join("agent.toml"), "node = \"simulated\"\n");
    std::fs::write(&path, simulator.agent_config(connection, &folder.join("spool"), &[]).unwrap()).unwrap();
    path
}

/// A tool that shows the same watts for every GPU of the node.
fn smi(folder: &Path, gpus: &[String]) -> PathBuf {
    let path = folder.join("nvidia-smi");
    let lines: Vec<String> = gpus.iter().map(|uuid| format!("echo '{uuid}, 31.90'\n")).collect();
    std::fs::write(&path, format!("#!/bin/sh\n{}", lines.concat())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn doctor(config: &Path, rest: &[&str]) -> Output {
    let mut command = Command::new(binary("joulebook").unwrap());
    command.args(["doctor", "--config"]).arg(config).args(rest);
    command.output().unwrap()
}

fn findings(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn by_id<'a>(findings: &'a Value, id: &str) -> &'a Value {
    let sources = findings["sources"].as_array().unwrap();
    sources.iter().find(|source| source["id"] == id).unwrap_or_else(|| panic!("{id} in {findings:#}"))
}

fn about(found: &Value, watts: f64) {
    let shown = found["w"].as_f64().unwrap_or_else(|| panic!("{found:#}"));
    assert!((shown - watts).abs() <= watts / 20.0, "{shown} W of {watts}: {found:#}");
}

#[test]
fn every_source_shows_what_the_node_draws_beside_what_nvidias_tool_shows() {
    let folder = tempfile::tempdir().unwrap();
    let simulator = Simulator::start("l40s-4gpu", &folder.path().join("node")).unwrap();
    let config = config(folder.path(), &simulator);
    let plain = findings(&doctor(&config, &["-o", "json", "--seconds", "1"]));
    let is_gpu = |source: &&Value| source["component"] == "accelerator" && source["contained_in"].is_null();
    let gpus: Vec<String> = (plain["sources"].as_array().unwrap().iter().filter(is_gpu))
        .map(|source| source["id"].as_str().unwrap().trim_start_matches("nvml/").to_owned())
        .collect();
    assert_eq!(gpus.len(), 4, "{plain:#}");
    let smi = smi(folder.path(), &gpus);

    let output = doctor(&config, &["-o", "json", "--seconds", "4", "--", "--nvidia-smi", smi.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let found = findings(&output);
    for package in ["rapl/package-0", "rapl/package-1"] {
        about(by_id(&found, package), PACKAGE_W);
    }
    for gpu in &gpus {
        let gpu = by_id(&found, &format!("nvml/{gpu}"));
        about(gpu, GPU_W);
        assert_eq!(gpu["nvidia_smi_w"], 31.9);
    }
    // Memory of this node is modelled; the integrals of the GPUs' power are inside their counters.
    let dram = by_id(&found, "estimate/dram")["w"].as_f64().unwrap();
    let sum = found["components_w"].as_f64().unwrap();
    let expected = 2.0 * PACKAGE_W + 4.0 * GPU_W + dram;
    assert!((sum - expected).abs() <= expected / 20.0, "{sum} W of {expected}");
    let wall = found["absent"].as_array().unwrap().iter().find(|absent| absent["kind"] == "wall");
    assert!(wall.is_some(), "{found:#}");

    let text = String::from_utf8(doctor(&config, &["--seconds", "1"]).stdout).unwrap();
    assert!(text.contains("rapl/package-0") && text.contains("sum of the components"), "{text}");
}

#[test]
fn what_cannot_be_read_is_said_with_what_would_mend_it() {
    let folder = tempfile::tempdir().unwrap();
    let simulator = Simulator::start("l40s-4gpu", &folder.path().join("node")).unwrap();
    // A container runtime masks the devices; the library is not there.
    let zones = folder.path().join("node/sys/class/powercap");
    std::fs::remove_file(zones.join("intel-rapl:1")).unwrap();
    symlink("../../devices/virtual/masked", zones.join("intel-rapl:1")).unwrap();
    let path = config(folder.path(), &simulator);
    let text = std::fs::read_to_string(&path).unwrap();
    let library = folder.path().join("node/lib/libnvidia-ml.so.1");
    std::fs::write(&path, text.replace(library.to_str().unwrap(), "/nonexistent/libnvidia-ml.so.1")).unwrap();
    let output = doctor(&path, &["-o", "json", "--seconds", "1"]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let found = findings(&output);
    let why = |id: &str| by_id(&found, id)["why"].as_str().unwrap().to_owned();
    assert!(why("rapl/intel-rapl:1").contains("mount the host's /sys"), "{}", why("rapl/intel-rapl:1"));
    let nvml = found["absent"].as_array().unwrap().iter().find(|absent| absent["kind"] == "nvml").unwrap();
    assert!(
        nvml["why"].as_str().unwrap().contains("install NVIDIA's driver") && nvml["configured"] == true,
        "{nvml:#}"
    );

    let output = doctor(&path, &["--agent", "/nonexistent/joulebook-agent"]);
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--agent"), "{output:?}");
    let output = doctor(Path::new("/nonexistent.toml"), &[]);
    assert_eq!(output.status.code(), Some(64), "{output:?}");
}
