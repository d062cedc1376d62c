//! What goes wrong at a start: one clear line with what to do, the code of its kind, nothing written, nothing else hurt.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "functions that tests call may fail the test")]

use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use joulebook_tests::engine::{exposition, free_ports};
use joulebook_tests::installation::{AGENT_READY, AgentSettings, Installation};
use joulebook_tests::program::{Program, binary};
use joulebook_tests::timestamp::now;

/// Runs a program to its end.
fn run(program: &str, arguments: &[impl AsRef<OsStr>]) -> Output {
    let mut command = Command::new(binary(program).unwrap());
    command.args(arguments).env("NO_COLOR", "1").env_remove("JOULEBOOK_AGGREGATOR").output().unwrap()
}

/// A program must end with the code and say each of the words in one line, and leave the folder empty.
fn refused(program: &str, arguments: &[impl AsRef<OsStr>], code: i32, words: &[&str], untouched: &Path) {
    let Output { status, stdout, stderr } = run(program, arguments);
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(code), "{said}");
    assert!(stdout.is_empty(), "nothing on standard output: {}", String::from_utf8_lossy(&stdout));
    let line = said.lines().find(|line| words.iter().all(|word| line.contains(word)));
    assert!(line.is_some(), "no line with {words:?} in:\n{said}");
    let left: Vec<_> = std::fs::read_dir(untouched).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "written before the refusal: {left:?}");
}

/// Starts both daemons on a configuration that they must refuse.
fn refuses(agent: Option<&str>, aggregator: Option<&str>, code: i32, words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let untouched = folder.path().join("data");
    std::fs::create_dir(&untouched).unwrap();
    for (program, text) in [("joulebook-agent", agent), ("joulebook-aggregator", aggregator)] {
        let Some(text) = text else { continue };
        let config = folder.path().join("config.toml");
        std::fs::write(&config, text.replace("DATA", &untouched.display().to_string())).unwrap();
        refused(
            program,
            &["--insecure-loopback".as_ref(), "--config".as_ref(), config.as_os_str()],
            code,
            words,
            &untouched,
        );
    }
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_key() {
    refuses(Some("[spool]\ndirr = \"DATA/spool\"\n"), None, 78, &["config.toml:2", "dirr", "dir"]);
    refuses(None, Some("data_dirr = \"DATA/db\"\n"), 78, &["config.toml:1", "data_dirr", "data_dir"]);
}

#[test]
fn a_duration_without_a_unit_and_a_power_usage_below_one_are_named() {
    refuses(Some("[spool]\ndir = \"DATA/spool\"\n[sampling]\ntick = \"5\"\n"), None, 78, &["config.toml:4"]);
    refuses(Some("[spool]\ndir = \"DATA/spool\"\n[sampling]\ntick = 5\n"), None, 78, &["config.toml:4"]);
    refuses(None, Some("data_dir = \"DATA/db\"\n[site.default]\npue = 0.9\n"), 78, &["pue", "0.9"]);
    refuses(None, Some("data_dir = \"DATA/db\"\n[site.default]\nzone = \"FRX\"\n"), 78, &["FRX", "FRA"]);
}

#[test]
fn a_missing_folder_is_named_with_what_to_do() {
    refuses(Some("[spool]\ndir = \"DATA/missing/spool\"\n"), None, 78, &["missing"]);
    refuses(None, Some("data_dir = \"DATA/missing/db\"\n"), 78, &["missing"]);
}

#[test]
fn b63_a_configuration_that_others_may_write_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (config, data) = (folder.path().join("config.toml"), folder.path().join("data"));
    std::fs::create_dir(&data).unwrap();
    std::fs::write(&config, "insecure_loopback = true\n").unwrap();
    std::fs::set_permissions(&config, Permissions::from_mode(0o646)).unwrap();
    for program in ["joulebook-agent", "joulebook-aggregator"] {
        refused(program, &["--config".as_ref(), config.as_os_str()], 77, &["config.toml", "chmod o-w"], &data);
    }
}

#[test]
fn b75_a_folder_that_nobody_may_write_to_is_a_permission_error() {
    let folder = tempfile::tempdir().unwrap();
    // Not even root makes a folder there, whether sysfs is mounted read-only or not.
    for (program, flag) in [("joulebook-agent", "--spool-dir"), ("joulebook-aggregator", "--data-dir")] {
        let arguments = ["--insecure-loopback", flag, "/sys/joulebook"];
        refused(program, &arguments, 77, &["/sys/joulebook"], folder.path());
    }
}

#[test]
fn a_missing_configuration_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for program in ["joulebook-agent", "joulebook-aggregator"] {
        refused(program, &["--config", "/nowhere/at/all.toml"], 78, &["/nowhere/at/all.toml"], folder.path());
    }
}

#[test]
fn without_certificates_or_the_loopback_flag_the_daemons_refuse() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("spool");
    refused(
        "joulebook-agent",
        &["--spool-dir".as_ref(), inside.as_os_str()],
        78,
        &["TLS", "--insecure-loopback"],
        folder.path(),
    );
    let inside = folder.path().join("db");
    refused(
        "joulebook-aggregator",
        &["--data-dir".as_ref(), inside.as_os_str()],
        78,
        &["TLS", "--insecure-loopback"],
        folder.path(),
    );
}

#[test]
fn plaintext_beyond_this_machine_is_refused() {
    refuses(Some("aggregator = \"http://192.0.2.1:7443\"\n[spool]\ndir = \"DATA/spool\"\n"), None, 78, &["TLS"]);
    refuses(None, Some("listen = \"0.0.0.0:0\"\ndata_dir = \"DATA/db\"\n"), 78, &["0.0.0.0"]);
}

#[test]
fn a_taken_port_is_unavailable() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    refuses(None, Some(&format!("listen = \"127.0.0.1:{port}\"\ndata_dir = \"DATA/db\"\n")), 69, &[&port]);
}

#[test]
fn no_server_is_unavailable_and_a_bad_question_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    let [port] = free_ports().unwrap();
    let url = format!("http://127.0.0.1:{port}");
    refused("joulebook", &["--aggregator", &url, "sci", "--last", "10m"], 69, &[&url], folder.path());
    for question in [&["sci", "--from", "2026-13-40"][..], &["energy", "--last", "10"], &["sci", "--colour"]] {
        refused("joulebook", question, 64, &[], folder.path());
    }
    let Output { status, stderr, .. } = run("joulebook", &["sci", "--from", "2026-13-40", "-o", "json"]);
    assert_eq!(status.code(), Some(64));
    assert!(serde_json::from_slice::<serde_json::Value>(&stderr).is_ok(), "{}", String::from_utf8_lossy(&stderr));
}

#[test]
fn a_target_that_nobody_serves_stops_no_other_source() {
    let (installation, _aggregator) = Installation::start().unwrap();
    let begin = now().unwrap();
    let [port] = free_ports().unwrap();
    let settings = AgentSettings { targets: vec![exposition(port)], ..AgentSettings::default() };
    let mut agent = installation.start_agent(&settings).unwrap();
    let line = agent.wait_for(&format!("(.*{port}.*)")).unwrap();
    assert!(line.contains("WARN") || line.contains("ERROR"), "{line}");
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let energy = installation.ask(&["energy", "--by", "node", "--from", &begin, "--to", &now().unwrap()]).unwrap();
    assert!(energy["total_microjoules"].as_u64().is_some_and(|total| total > 0), "{energy}");
}

/// A sysfs below a folder in which a container runtime hides the counters.
fn masked(folder: &Path) -> PathBuf {
    let zones = folder.join("sys/class/powercap");
    std::fs::create_dir_all(&zones).unwrap();
    symlink("../../devices/virtual/powercap/intel-rapl/intel-rapl:0", zones.join("intel-rapl:0")).unwrap();
    folder.join("sys")
}

#[test]
fn b09_masked_counters_alone_are_a_permission_error_and_name_the_mount_that_shows_them() {
    let folder = tempfile::tempdir().unwrap();
    let untouched = folder.path().join("data");
    std::fs::create_dir(&untouched).unwrap();
    let (sysfs, spool) = (masked(folder.path()), untouched.join("spool"));
    let arguments = [
        "--insecure-loopback".as_ref(),
        "--sysfs-root".as_ref(),
        sysfs.as_os_str(),
        "--spool-dir".as_ref(),
        spool.as_os_str(),
    ];
    let zone = sysfs.join("class/powercap/intel-rapl:0").display().to_string();
    let words = [zone.as_str(), "masked", "mount the host's /sys read-only", "--sysfs-root", "allow_no_sources"];
    refused("joulebook-agent", &arguments, 77, &words, &untouched);
}

#[test]
fn b09_masked_counters_that_the_configuration_allows_are_replaced_by_estimates() {
    let (installation, _aggregator) = Installation::start().unwrap();
    let begin = now().unwrap();
    let settings = AgentSettings { sysfs: Some(masked(installation.folder())), ..AgentSettings::default() };
    let config = installation.agent_config(&settings).unwrap();
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("allow_no_sources = true\n{text}")).unwrap();
    let arguments = ["--config".into(), config.into_os_string()];
    let mut agent = Program::start(binary("joulebook-agent").unwrap(), &arguments).unwrap();
    agent.wait_for("source is not read .*masked").unwrap();
    agent.wait_for("all energy of this node is estimated").unwrap();
    agent.wait_for(AGENT_READY).unwrap();
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let energy = installation.ask(&["energy", "--by", "node", "--from", &begin, "--to", &now().unwrap()]).unwrap();
    assert!(energy["total_microjoules"].as_u64().is_some_and(|total| total > 0), "{energy}");
}
