//! B64: a configuration that changes under a running daemon. What is wrong changes nothing and is counted; what is right
//! comes into force without a joule or a token lost.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "functions that tests call may fail the test")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use joulebook_tests::installation::{AGENT_READY, AgentSettings, Installation};
use joulebook_tests::powercap::Powercap;
use joulebook_tests::program::{Program, binary};
use joulebook_tests::timestamp::now;
use serde_json::Value;

const FAILURES: &str = "config_reload_failures_total";

/// Configurations that no daemon may take over, made of one that it has: the file's bytes and its mode.
fn wrong(good: &str) -> Vec<(&'static str, Vec<u8>, u32)> {
    let with = |text: &str| format!("{text}\n{good}").into_bytes();
    vec![
        ("an unknown key (B61)", with("colour = 1"), 0o600),
        ("a wrong type (B61)", with("insecure_loopback = 1"), 0o600),
        ("a key twice (B61)", with("insecure_loopback = false\ninsecure_loopback = false"), 0o600),
        ("not UTF-8 (B61)", [good.as_bytes(), b"# \xff"].concat(), 0o600),
        ("writable by others (B63)", good.as_bytes().to_vec(), 0o602),
        ("neither TLS nor plaintext", Vec::new(), 0o600),
    ]
}

fn write(path: &Path, bytes: &[u8], mode: u32) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn counter(installation: &Installation, name: &str) -> u64 {
    installation.ask(&["admin", "status"]).unwrap()["counters"][name].as_u64().unwrap_or_default()
}

#[test]
fn b64_an_agent_keeps_its_configuration_when_a_changed_one_is_wrong_and_loses_no_joule_by_a_right_one() {
    let (installation, _aggregator) = Installation::start().unwrap();
    let sysfs = installation.folder().join("sys");
    let mut zone = Powercap::new(&sysfs).unwrap().zone("intel-rapl:0", "package-0", 7).unwrap();
    let settings = AgentSettings { sysfs: Some(sysfs.clone()), keep_spool: true, ..AgentSettings::default() };
    let begin = now().unwrap();
    let path = installation.agent_config(&settings).unwrap();
    let good = fs::read_to_string(&path).unwrap();
    let arguments = ["--config".into(), path.clone().into_os_string()];
    let mut agent = Program::start(binary("joulebook-agent").unwrap(), &arguments).unwrap();
    agent.wait_for(AGENT_READY).unwrap();

    let key = installation.certificate("node-under-test.key");
    let spool = |text: &str| good.replace("[spool]\n", &format!("[spool]\n{text}\n")).into_bytes();
    let mut refused = wrong(&good);
    refused.push(("a spool below two segments (B62)", spool("max_bytes = 1000"), 0o600));
    refused.push(("a duration without a unit (B62)", good.replace("\"1s\"", "\"1\"").into_bytes(), 0o600));
    refused.push(("an interval of 0 (B62)", good.replace("\"1s\"", "\"0s\"").into_bytes(), 0o600));
    refused.push(("another node", good.replace("under-test\"", "another\"").into_bytes(), 0o600));
    refused.push(("another spool", good.replace("spool\"", "elsewhere\"").into_bytes(), 0o600));
    refused.push(("a target that is none", format!("{good}\n[[target]]\nurl = \"x\"\n").into_bytes(), 0o600));
    let socket = installation.folder().join("missing/push.sock");
    refused.push(("a folder that is missing", format!("{good}\n[push]\nsocket = {socket:?}\n").into_bytes(), 0o600));
    let mut count = 0;
    for (what, bytes, mode) in refused {
        // Little enough to be power in the time that this takes.
        zone.flow(1, Duration::from_secs(1)).unwrap();
        write(&path, &bytes, mode);
        agent.hang_up();
        count += 1;
        agent.wait_for(&format!("{FAILURES} {count}\\)")).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    write(&path, good.as_bytes(), 0o600);
    agent.hang_up();
    count += 1;
    agent.wait_for(&format!("{FAILURES} {count}\\)")).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    // Found only when it starts: the one before starts again.
    let masked = installation.folder().join("masked");
    fs::create_dir_all(masked.join("class/powercap")).unwrap();
    let zone_of = masked.join("class/powercap/intel-rapl:0");
    symlink("../../devices/virtual/powercap/intel-rapl/intel-rapl:0", zone_of).unwrap();
    write(&path, good.replace(&sysfs.display().to_string(), &masked.display().to_string()).as_bytes(), 0o600);
    agent.hang_up();
    count += 1;
    agent.wait_for(&format!("{FAILURES} {count}\\).*masked")).unwrap();
    assert!(!agent.said().contains("is in force"), "{}", agent.said());

    write(&path, good.replace("\"1s\"", "\"500ms\"").as_bytes(), 0o600);
    agent.hang_up();
    agent.wait_for("config_reloads_total 1").unwrap();
    agent.wait_for("sampling every 500ms").unwrap();
    zone.flow(1, Duration::from_secs(1)).unwrap();
    assert!(agent.stop().unwrap().success(), "{}", agent.said());

    let by_source = installation.ask(&["energy", "--by", "source", "--from", &begin, "--to", &now().unwrap()]).unwrap();
    let rows = by_source["rows"].as_array().unwrap();
    let of_zone = |row: &&Value| row["key"].to_string().contains("rapl/package-0");
    let stored = rows.iter().find(of_zone).and_then(|row| row["microjoules"].as_u64()).unwrap();
    // Both ends of one register's unit.
    assert!(stored.abs_diff(zone.truth_microjoules()) <= 124, "{stored} of {}", zone.truth_microjoules());
}

/// Tells the agent of a request, and works for 2 s of CPU time, which is energy.
const REPORT: &str = "
import sys, time
sys.path.insert(0, sys.argv[1])
from report_inference import Reporter
reporter = Reporter(sys.argv[2], model='scorer', version='2')
reporter.add(requests=1, input_tokens=1, output_tokens=1)
assert reporter.send()['ok']
while time.process_time() < 2:
    pass
print('done', flush=True)
time.sleep(3600)
";

#[test]
fn b64_an_aggregator_keeps_its_configuration_when_a_changed_one_is_wrong_and_answers_with_a_right_one() {
    let (installation, mut aggregator) = Installation::start().unwrap();
    let begin = now().unwrap();
    let socket = installation.folder().join("push.sock");
    let config = installation.agent_config(&AgentSettings::default()).unwrap();
    let text = fs::read_to_string(&config).unwrap() + &format!("\n[push]\nsocket = {socket:?}\n");
    fs::write(&config, text).unwrap();
    let arguments = ["--config".into(), config.into_os_string()];
    let mut agent = Program::start(binary("joulebook-agent").unwrap(), &arguments).unwrap();
    agent.wait_for(AGENT_READY).unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/examples");
    let script = ["-c".as_ref(), REPORT.as_ref(), examples.as_os_str(), socket.as_os_str()];
    let server = Program::start("python3", &script).unwrap();
    server.wait_for("done").unwrap();
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let end = now().unwrap();
    let pue = || {
        let words =
            ["sci", "--per", "request", "--level", "facility", "--model", "scorer@2", "--from", &begin, "--to", &end];
        installation.ask(&words).unwrap()["answers"][0]["pue"]["effective"].as_f64().map(|pue| format!("{pue:.4}"))
    };
    let default = pue();

    let path = installation.folder().join("aggregator.toml");
    let good = fs::read_to_string(&path).unwrap();
    let with = |text: &str| format!("{good}\n{text}\n");
    let mut refused = wrong(&good);
    for (what, text) in [
        ("a PUE below 1", with("[site.default]\npue = 0.9")),
        ("no such zone", with("[site.default]\nzone = \"FRX\"")),
        ("rows dropped too soon", with("[retention]\nrows = \"1d\"")),
        ("another address", good.replace("listen = \"", "listen = \"127.0.0.1:1\"\n#")),
        ("another database", good.replace("/aggregator\"", "/elsewhere\"")),
    ] {
        assert_ne!(text, good, "{what}");
        refused.push((what, text.into_bytes(), 0o600));
    }
    let last = refused.len() as u64;
    for (count, (what, bytes, mode)) in (1..).zip(refused) {
        write(&path, &bytes, mode);
        aggregator.hang_up();
        let grown = (0..2_000).any(|_| counter(&installation, FAILURES) == count);
        assert!(grown, "{what}: {}", aggregator.said());
        assert_eq!(pue(), default, "{what}");
    }
    assert_eq!(counter(&installation, "config_reloads_total"), 0);

    write(&path, with("[site.default]\npue = 1.5").as_bytes(), 0o600);
    aggregator.hang_up();
    aggregator.wait_for("is in force").unwrap();
    assert_eq!(pue().as_deref(), Some("1.5000"));
    // Nobody asks this time: the file is looked at.
    write(&path, with("[site.default]\npue = 1.75").as_bytes(), 0o600);
    let seen = (0..2_000).any(|_| pue().as_deref() == Some("1.7500"));
    assert!(seen, "{}", aggregator.said());
    assert_eq!((counter(&installation, FAILURES), counter(&installation, "config_reloads_total")), (last, 2));
    assert!(aggregator.stop().unwrap().success(), "{}", aggregator.said());
}
