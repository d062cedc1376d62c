//! The agent as a program: configured as users do, with a BMC that it must leave as it found it.

use joulebook_tests::program::{Program, binary};
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use crate::rig::{Rig, boot};

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
