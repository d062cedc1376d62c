//! The units of systemd: systemd takes them, what they leave open is little, and the programs take their arguments.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use joulebook_tests::chart::render::root;
use joulebook_tests::program::binary;

/// Program, and how exposed systemd may find its unit in tenths, 0 to 100. The agent is root and sees the node.
const UNITS: [(&str, &str, u32); 2] = [("agent", "joulebook-agent", 27), ("aggregator", "joulebook-aggregator", 14)];

/// A unit's text with the program where it is here.
fn unit(folder: &str, program: &str) -> String {
    let text = fs::read_to_string(root().join(folder).join("systemd").join(format!("{program}.service"))).unwrap();
    text.replace(&format!("/usr/local/bin/{program} "), &format!("{} ", binary(program).unwrap().display()))
}

fn written(folder: &tempfile::TempDir, program: &str, text: &str) -> PathBuf {
    let path = folder.path().join(format!("{program}.service"));
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn systemd_takes_the_units_without_a_word() {
    for (folder, program, _) in UNITS {
        let place = tempfile::tempdir().unwrap();
        let verify = |text: &str| {
            let path = written(&place, program, text);
            let done = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(path).output().unwrap();
            (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
        };
        let text = unit(folder, program);
        assert_eq!(verify(&text), (true, String::new()), "{program}");
        let (_, said) = verify(&text.replace("ProtectSystem=", "ProtectSytem="));
        assert!(said.contains("ProtectSytem"), "a key that does not exist is seen: {said}");
    }
}

#[test]
fn units_leave_open_no_more_than_they_did() {
    for (folder, program, most) in UNITS {
        let place = tempfile::tempdir().unwrap();
        let path = written(&place, program, &unit(folder, program));
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=true", "--no-pager", &format!("--threshold={most}")]).arg(path);
        let done = command.output().unwrap();
        assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stdout));
    }
}

#[test]
fn programs_take_the_arguments_of_their_units() {
    for (folder, program, _) in UNITS {
        let place = tempfile::tempdir().unwrap();
        let config = place.path().join("config.toml");
        let ca = if program == "joulebook-agent" { "ca" } else { "client_ca" };
        let tls = format!("[tls]\ncertificate = \"/x/a.crt\"\nkey = \"/x/a.key\"\n{ca} = \"/x/ca.crt\"\n");
        fs::write(&config, tls).unwrap();
        let text = unit(folder, program);
        let line = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap().to_owned();
        let (before, start) = (line("ExecStartPre="), line("ExecStart="));
        assert_eq!(before, format!("{start} --check-config"));
        let mut words = before.split(' ').map(|word| match word.starts_with("/etc/joulebook/") {
            true => config.to_str().unwrap(),
            false => word,
        });
        let done = Command::new(words.next().unwrap()).args(words).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        // What only a person can mend is not tried again, by the programs' own exit codes.
        let given_up = line("RestartPreventExitStatus=");
        for code in ["64", "77", "78"] {
            assert!(given_up.split(' ').any(|given| given == code), "{program}: {given_up}");
        }
    }
}
