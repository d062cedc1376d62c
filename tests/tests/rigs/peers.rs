//! Who is at the other end of the push socket where the two are in different namespaces of processes.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use joulebook_agent::clock::SystemClock;
use joulebook_agent::inference::preset::Presets;
use joulebook_agent::inference::start;
use joulebook_tests::installation::{AGENT_READY, AgentSettings, Installation};
use joulebook_tests::program::{Program, binary};

const REPORT: &str = r#"{"seq":1,"cumulative":true,"model":"m","items":5}"#;

/// Tells once and stays until its input ends.
const SENDER: &str = "
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(sys.argv[2].encode() + b'\\n')
print(os.getpid(), s.recv(999).decode().strip(), flush=True)
sys.stdin.read()
";

fn says(socket: &Path) -> serde_json::Value {
    let mut stream = BufReader::new(UnixStream::connect(socket).unwrap());
    writeln!(stream.get_mut(), "{REPORT}").unwrap();
    let mut answer = String::new();
    stream.read_line(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[tokio::test]
async fn trap_a_sender_in_a_namespace_of_its_own_is_known_by_its_pid_here() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: it makes a namespace of processes");
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("push.sock");
    let inference = start(Vec::new(), &Presets::default(), "/proc".into(), Arc::new(SystemClock)).unwrap();
    let _file = inference.listen(&socket).unwrap();
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--kill-child", "python3", "-c", SENDER]).arg(&socket).arg(REPORT);
    let mut sender = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let output = sender.stdout.take().unwrap();
    let line = tokio::task::spawn_blocking(move || BufReader::new(output).lines().next()).await.unwrap();
    let line = line.unwrap().unwrap();
    assert!(line.starts_with("1 ") && line.contains("\"ok\":true"), "it thinks that it is process 1: {line}");
    let groups = inference.groups.borrow().clone();
    let [group] = &groups[..] else { panic!("one sender: {groups:?}") };
    let status = std::fs::read_to_string(format!("/proc/{}/status", group.pid)).unwrap();
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    assert_eq!(pids.split_whitespace().collect::<Vec<_>>(), [group.pid.to_string().as_str(), "1"], "{status}");
    drop(sender.stdin.take());
    assert!(sender.wait().unwrap().success());
}

#[test]
fn trap_an_agent_that_cannot_see_the_senders_process_counts_nothing_of_it_and_says_so() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: it makes namespaces of processes");
    let (installation, _aggregator) = Installation::start().unwrap();
    // With a process table of its own it sees pid 0; with the host's, whatever its namespace, it sees who it is.
    for (name, own_table) in [("own", true), ("host", false)] {
        let socket = installation.folder().join(name);
        let settings =
            AgentSettings { more: format!("[push]\nsocket = \"{}\"\n", socket.display()), ..AgentSettings::default() };
        let config = installation.agent_config(&settings).unwrap();
        // Each has a spool of its own: how soon the other one is gone is the kernel's affair.
        let spool = installation.spool().display().to_string();
        let text = std::fs::read_to_string(&config).unwrap().replace(&spool, &format!("{spool}-{name}"));
        std::fs::write(&config, text).unwrap();
        let mut arguments: Vec<OsString> = ["--pid", "--fork", "--kill-child"].map(OsString::from).to_vec();
        arguments.extend(own_table.then(|| "--mount-proc".into()));
        arguments.extend([binary("joulebook-agent").unwrap().into(), "--config".into(), config.into()]);
        let agent = Program::start("unshare", &arguments).unwrap();
        agent.wait_for(AGENT_READY).unwrap();
        let answer = says(&socket);
        assert_eq!(answer["ok"], !own_table, "{answer}");
        if own_table {
            assert_eq!(answer["reason"], "peer", "{answer}");
            assert!(answer["why"].as_str().unwrap().contains("pid namespace"), "{answer}");
        }
    }
}
