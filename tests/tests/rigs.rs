//! What needs root: programs as another user of the machine, and control groups. `make test-rigs` runs these; without root they fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]

#[path = "rigs/groups.rs"]
mod groups;
#[path = "rigs/peers.rs"]
mod peers;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use joulebook_tests::installation::{AGENT_READY, AgentSettings, Installation};
use joulebook_tests::powercap::Powercap;
use joulebook_tests::program::{Program, binary};

/// Nobody: a user that owns nothing.
const OTHER: u32 = 65_534;

/// Everything that an agent of another user needs: programs and folders that this user can reach.
struct Rig {
    _aggregator: Program,
    agent: PathBuf,
    config: PathBuf,
    meter: PathBuf,
    /// Goes when nothing writes into it any more.
    installation: Installation,
}

impl Rig {
    /// A machine with one power meter that only root may read, as the kernel makes it since CVE-2020-8694.
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root: it runs programs as another user");
        let (installation, aggregator) = Installation::start().unwrap();
        let folder = installation.folder().to_owned();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let sysfs = folder.join("sys");
        let mut zone = Powercap::new(&sysfs).unwrap().zone("intel-rapl:0", "package-0", 1_000).unwrap();
        zone.flow(10, Duration::from_secs(1)).unwrap();
        fs::set_permissions(zone.file(), fs::Permissions::from_mode(0o400)).unwrap();
        // cargo's folder may be closed to others.
        let agent = folder.join("joulebook-agent");
        fs::copy(binary("joulebook-agent").unwrap(), &agent).unwrap();
        let config =
            installation.agent_config(&AgentSettings { sysfs: Some(sysfs), ..AgentSettings::default() }).unwrap();
        let spool = folder.join("spool");
        fs::create_dir(&spool).unwrap();
        chown(&spool, Some(OTHER), Some(OTHER)).unwrap();
        // The agent's own; root, who runs the aggregator, may read them all the same.
        for name in ["", "ca.crt", "node-under-test.crt", "node-under-test.key"] {
            chown(installation.certificate(name), Some(OTHER), Some(OTHER)).unwrap();
        }
        Self { installation, _aggregator: aggregator, agent, config, meter: zone.file() }
    }

    /// Starts the agent as the other user, with further options for setpriv.
    fn start_as_other(&self, options: &[&str]) -> Program {
        let mut command = Command::new("setpriv");
        command
            .args([format!("--reuid={OTHER}"), format!("--regid={OTHER}"), "--clear-groups".to_owned()])
            .args(options);
        command.arg(&self.agent).arg("--config").arg(&self.config).current_dir("/");
        Program::spawn(command).unwrap()
    }

    fn has_records(&self) -> bool {
        let files = |folder: &Path| fs::read_dir(folder).unwrap().flatten().count();
        files(&self.installation.folder().join("spool")) > 0
    }
}

#[test]
fn b08_a_meter_that_may_not_be_read_is_named_and_the_agent_exits_with_77() {
    let rig = Rig::new();
    let mut agent = rig.start_as_other(&[]);
    let status = agent.wait().unwrap();
    assert_eq!(status.code(), Some(77), "{}", agent.said());
    let why = format!("{} may not be read: needs uid 0 (or owner), see CVE-2020-8694", rig.meter.display());
    assert!(agent.said().contains(&why), "the file is named: {}", agent.said());
    assert!(!rig.has_records(), "nothing is written");
}

#[test]
fn the_capability_to_read_lets_another_user_read_the_meter() {
    let rig = Rig::new();
    let mut agent = rig.start_as_other(&["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]);
    agent.wait_for(AGENT_READY).unwrap();
    let status = agent.stop().unwrap();
    assert!(status.success(), "{}", agent.said());
    assert!(rig.has_records(), "{}", agent.said());
}

#[test]
fn root_reads_the_meter() {
    let rig = Rig::new();
    // A spool is its owner's alone: root makes its own.
    fs::remove_dir(rig.installation.folder().join("spool")).unwrap();
    let mut agent = Program::start(&rig.agent, &["--config".into(), rig.config.clone().into_os_string()]).unwrap();
    agent.wait_for(AGENT_READY).unwrap();
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    assert!(rig.has_records(), "{}", agent.said());
}
