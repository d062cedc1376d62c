//! The agent as a program: configured as users do, with a BMC that it must leave as it found it.

use joulebook_agent::collector::Collector;
use joulebook_agent::config::RedfishSection;
use joulebook_tests::program::{Program, binary};
use joulebook_tests::tls::{Ca, write};
use serde_json::{Value, json};
use std::fmt::Write;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::rig::{Heard, Rig, boot, fingerprint, until};

fn configuration(rig: &Rig, folder: &Path) -> String {
    let section = &rig.section;
    let mut text = String::from("insecure_loopback = true\naggregator = \"http://127.0.0.1:1\"\nnode = \"n\"\n");
    let _ = write!(
        text,
        "[spool]\ndir = \"{}\"\n[rapl]\nenabled = false\n[nvml]\nenabled = false\n[redfish]\nurl = \"{}\"\ncredentials = \"{}\"\n\
         fingerprint = \"{}\"\ninterval = \"1s\"\n",
        folder.join("spool").display(),
        section.url.as_deref().unwrap_or_default(),
        rig.path("bmc.toml").display(),
        section.fingerprint.as_deref().unwrap_or_default(),
    );
    text
}

#[test]
fn b29_an_agent_that_is_told_to_end_ends_its_session() {
    let rig = Rig::new();
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, configuration(&rig, folder.path())).expect("written");
    let agent = binary("joulebook-agent").expect("built");
    let mut agent = Program::start(agent, &["--config".as_ref(), file.as_os_str()]).expect("it starts");
    agent.wait_for("the BMC shows the node's power").expect("it finds the power");
    assert_eq!(rig.bmc.sessions().0, 1);
    let begin = boot();
    let status = agent.stop().expect("it ends");
    assert!(status.success(), "{status}: {}", agent.said());
    assert!(boot() - begin < Duration::from_secs(30), "{:?}", boot() - begin);
    assert_eq!(rig.bmc.sessions(), (0, 1), "DELETE at the end: {:?}", rig.bmc.asked());
    assert!(!agent.said().contains("first"), "no password in a log: {}", agent.said());
}

/// Asks the simulator's control socket.
fn ask(socket: &str, request: &Value) -> Value {
    let mut stream = UnixStream::connect(socket).expect("it listens");
    writeln!(stream, "{request}").expect("sent");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("answered");
    serde_json::from_str(&line).expect("JSON")
}

#[test]
fn the_simulator_s_bmc_shows_the_truth_of_its_node() {
    let folder = tempfile::tempdir().expect("folder");
    let pair = Ca::new().server();
    let files = write(folder.path(), "bmc", &pair, "");
    let profile = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/profiles/gh200.json");
    let root = folder.path().join("node");
    let arguments = [
        ("--profile", profile.as_path()),
        ("--root", &root),
        ("--redfish", Path::new("127.0.0.1:0")),
        ("--redfish-cert", &files.certificate),
        ("--redfish-key", &files.key),
    ];
    let arguments: Vec<_> = arguments.iter().flat_map(|(flag, value)| [flag.as_ref(), value.as_os_str()]).collect();
    let simulator = Program::start(binary("hwsim").expect("built"), &arguments).expect("it starts");
    let ready = simulator.wait_for(r#"(\{.*"ready":true.*\})"#).expect("it is ready");
    let ready: Value = serde_json::from_str(&ready).expect("JSON");
    let rig = Rig::new();
    rig.write_password("power");
    let section = RedfishSection {
        url: ready["redfish"].as_str().map(str::to_owned),
        fingerprint: Some(fingerprint(&pair)),
        refresh: Some(Duration::from_secs(60)),
        ..rig.section.clone()
    };
    let mut collector = joulebook_agent::collector::redfish::Redfish::new(&section);
    collector.discover();
    let mut heard = Heard::default();
    // The values of gh200's BMC are renewed each second: 296 W at rest, of 272 W and supplies that pass on 92 %.
    until(&mut collector, &mut heard, |heard| heard.readings.len() > 3);
    let watts = |heard: &Heard| {
        let [before, last] = &heard.readings[heard.readings.len() - 2..] else { panic!("too few readings") };
        let joulebook_agent::collector::Value::Increment { energy, .. } = last.value else { panic!("{last:?}") };
        energy.0 * 1_000 / (last.at.0 - before.at.0)
    };
    let shown = std::fs::read_to_string(root.join("run/dcmi.val")).expect("it is shown in band too");
    let in_band: u64 = shown.split(' ').next().and_then(|word| word.parse().ok()).expect("watts");
    assert!(watts(&heard).abs_diff(in_band) <= 1, "{} W and {shown}", watts(&heard));
    assert!((290..=302).contains(&in_band), "{shown}");
    let socket = ready["ctl"].as_str().expect("a path");
    let answer = ask(socket, &json!({"op": "set", "leaf": "gpu0", "w": 600.0}));
    assert!(answer["error"].is_null(), "{answer}");
    until(&mut collector, &mut heard, |heard| watts(heard) > 600);
    let answer = ask(socket, &json!({"op": "bmc", "fault": {"503": 1}}));
    assert!(answer["error"].is_null(), "{answer}");
    until(&mut collector, &mut heard, |heard| heard.reasons().contains(&"busy"));
}
