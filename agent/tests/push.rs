//! Reports over the push socket: real processes, the machine's own process table, the shipped examples.

#![expect(clippy::expect_used, reason = "a test ends at what it did not expect")]

use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_agent::collector::meter::{Meters, channel};
use joulebook_agent::collector::{Collector, Value};
use joulebook_agent::config::MeterSection;
use joulebook_agent::inference::listening::ListenError;
use joulebook_agent::inference::preset::Presets;
use joulebook_agent::inference::{CountSample, Desks, Inference, MeterDesk, Names, SocketFile, start};
use joulebook_units::{BootNanos, CountKind, UnixNanos, VersionSource};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Command;

#[path = "push/bad_inputs.rs"]
mod bad_inputs;

/// Time stands still, so that a burst of reports is one of the same second.
struct Still(BootNanos);

impl Clock for Still {
    fn boot(&self) -> BootNanos {
        self.0
    }
    fn wall(&self) -> UnixNanos {
        UnixNanos(0)
    }
}

struct Rig {
    folder: tempfile::TempDir,
    inference: Inference,
    _socket: SocketFile,
}

impl Rig {
    /// `started`: since when the agent runs; every test process started after 0 and before the far future.
    fn new(clock: Arc<dyn Clock>) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let inference = start(Vec::new(), &Presets::default(), "/proc".into(), clock).expect("legal");
        let socket = inference.listen(&folder.path().join("push.sock")).expect("a socket");
        Self { folder, inference, _socket: socket }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("push.sock")
    }

    async fn client(&self) -> Client {
        let stream = UnixStream::connect(self.path()).await.expect("connected");
        Client(BufReader::new(stream))
    }

    fn failures(&self) -> BTreeMap<&'static str, u64> {
        self.inference.failures.borrow().iter().map(|(failure, times)| (failure.reason, *times)).collect()
    }

    /// The newest sample that is waiting.
    fn newest(&mut self) -> Option<CountSample> {
        let mut newest = None;
        while let Ok(sample) = self.inference.samples.try_recv() {
            newest = Some(sample);
        }
        newest
    }
}

struct Client(BufReader<UnixStream>);

impl Client {
    /// The answer; `None` if the connection was closed instead.
    async fn says(&mut self, line: &str) -> Option<serde_json::Value> {
        // The agent may have hung up already: then there is no answer either.
        let _ = self.0.write_all(format!("{line}\n").as_bytes()).await;
        let mut answer = String::new();
        let read = self.0.read_line(&mut answer).await.unwrap_or(0);
        (read > 0).then(|| serde_json::from_str(&answer).expect("JSON"))
    }
}

fn items(seq: u64, cumulative: bool, items: u64) -> String {
    format!(r#"{{"seq":{seq},"cumulative":{cumulative},"model":"m","model_version":"2","items":{items}}}"#)
}

fn count(sample: Option<CountSample>, kind: CountKind) -> Option<u64> {
    sample.and_then(|sample| sample.counts.get(&kind).copied())
}

fn still() -> Arc<dyn Clock> {
    Arc::new(Still(BootNanos(1)))
}

async fn output(command: &mut Command) -> String {
    let run = command.stdin(Stdio::null()).kill_on_drop(true).output().await.expect("it starts");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).expect("text")
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

#[tokio::test]
async fn the_python_example_is_counted_on_the_process_that_the_kernel_names() {
    let mut rig = Rig::new(Arc::new(SystemClock));
    let mut python = Command::new("python3");
    python.arg(example("report_inference.py")).arg(rig.path()).stdin(Stdio::null()).stdout(Stdio::piped());
    let child = python.kill_on_drop(true).spawn().expect("python3");
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).expect("it runs");
    let run = child.wait_with_output().await.expect("it ends");
    assert_eq!(String::from_utf8_lossy(&run.stdout).matches("'ok': True").count(), 3);
    let first = rig.inference.samples.recv().await.expect("a sample");
    let process = first.process.expect("known");
    assert_eq!((process.pid, first.service.target), (pid, format!("push/{pid}@{}", process.start_ticks)));
    // A tick is 10 ms: the process may have started in the one that the agent did.
    assert!(first.origin.is_none_or(|origin| origin < first.at));
    assert_eq!((first.service.version.as_deref(), first.service.version_source), (Some("2"), VersionSource::Pushed));
    assert_eq!(first.shown[&CountKind::InputTokens], 120);
    let last = rig.newest().expect("a sample");
    assert_eq!((last.shown[&CountKind::RequestsOk], last.shown[&CountKind::BusyNanos]), (3, 750_000_000));
    assert!(!last.counts.contains_key(&CountKind::RequestsFailed), "what was not told is not known");
    let groups = rig.inference.groups.borrow().clone();
    assert_eq!(
        groups.iter().map(|group| (group.pid, group.start_ticks)).collect::<Vec<_>>(),
        [(pid, process.start_ticks)]
    );
}

#[tokio::test]
async fn the_shell_example_is_counted_on_the_script_and_not_on_the_tool_that_sends() {
    let mut rig = Rig::new(still());
    // Carries lines like socat, which need not be installed where this runs.
    let socat = "#!/usr/bin/env python3\nimport socket, sys\ns = socket.socket(socket.AF_UNIX)\n\
        s.connect(sys.argv[2].split(':', 1)[1])\nf = s.makefile('rw')\nfor line in sys.stdin:\n    f.write(line)\n    \
        f.flush()\n    sys.stdout.write(f.readline())\n    sys.stdout.flush()\n";
    let tool = rig.folder.path().join("socat");
    fs::write(&tool, socat).expect("tool");
    fs::set_permissions(&tool, PermissionsExt::from_mode(0o755)).expect("tool");
    let path = format!("{}:{}", rig.folder.path().display(), std::env::var("PATH").expect("PATH"));
    let mut script = Command::new("bash");
    script.arg(example("report_inference.sh")).arg(rig.path()).env("PATH", path);
    let child = script.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("bash");
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let run = child.wait_with_output().await.expect("it ends");
    assert_eq!(String::from_utf8_lossy(&run.stdout).matches("\"ok\":true").count(), 3);
    let last = rig.newest().expect("a sample");
    assert_eq!(last.process.map(|process| process.pid), pid);
    assert_eq!(count(Some(last), CountKind::Items), Some(24));
}

#[tokio::test]
async fn a_report_that_is_sent_again_counts_once_over_any_connection() {
    let mut rig = Rig::new(still());
    for (seq, told, repeated, counted) in [(1, 5, false, Some(5)), (1, 5, true, None), (2, 3, false, Some(8))] {
        let answer = rig.client().await.says(&items(seq, false, told)).await.expect("an answer");
        assert_eq!(answer, serde_json::json!({"ok": true, "seq": seq, "repeated": repeated}));
        assert_eq!(count(rig.newest(), CountKind::Items), counted);
    }
    assert_eq!(rig.failures(), BTreeMap::new());
}

#[tokio::test]
async fn a_cumulative_count_that_fell_counts_its_new_value() {
    let mut rig = Rig::new(still());
    let mut client = rig.client().await;
    for (seq, told) in [(1, 5), (2, 2), (3, 4)] {
        client.says(&items(seq, true, told)).await.expect("an answer");
    }
    assert_eq!(count(rig.newest(), CountKind::Items), Some(9));
    assert_eq!(rig.failures(), [("counter_reset", 1)].into());
}

#[tokio::test]
async fn a_bad_line_is_refused_alone() {
    let mut rig = Rig::new(still());
    let mut client = rig.client().await;
    client.says(&items(1, true, 5)).await.expect("an answer");
    for (line, reason) in [
        ("hello".to_owned(), "form"),
        (String::new(), "form"),
        (items(2, true, 1 << 60), "value"),
        (items(2, false, 6), "value"),
    ] {
        let answer = client.says(&line).await.expect("an answer");
        assert_eq!((&answer["ok"], &answer["reason"]), (&false.into(), &reason.into()), "{line}");
    }
    client.says(&items(3, true, 7)).await.expect("an answer");
    assert_eq!(count(rig.newest(), CountKind::Items), Some(7));
    assert_eq!(rig.failures(), [("form", 2), ("value", 2)].into());
}

#[tokio::test]
async fn too_long_or_too_many_lines_cost_the_sender_alone() {
    let mut rig = Rig::new(still());
    let mut client = rig.client().await;
    for seq in 1..=20 {
        client.says(&items(seq, true, seq)).await.expect("an answer");
    }
    assert_eq!(client.says(&items(21, true, 21)).await.expect("an answer")["reason"], "rate");
    let mut long = rig.client().await;
    assert_eq!(long.says(&"x".repeat(5000)).await.map(|answer| answer["reason"].clone()), Some("form".into()));
    assert_eq!(long.says(&items(22, true, 22)).await, None, "closed: where the next line begins is not known");
    // Another connection of the process goes on.
    rig.client().await.says(&items(23, true, 23)).await.expect("an answer");
    assert_eq!(count(rig.newest(), CountKind::Items), Some(23));
    assert_eq!(rig.failures(), [("form", 1), ("rate", 1)].into());
}

#[tokio::test]
async fn the_socket_of_a_killed_agent_is_taken_over_and_that_of_a_living_one_is_not() {
    let rig = Rig::new(still());
    let listen = |path: &Path| rig.inference.listen(path).map(drop);
    assert!(matches!(listen(&rig.path()), Err(error @ ListenError::Taken { .. }) if error.exit_code() == 69));
    let stale = rig.folder.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("bound"));
    assert!(stale.exists() && listen(&stale).is_ok());
    assert!(!stale.exists(), "the file goes with the agent");
    let file = rig.folder.path().join("file");
    fs::write(&file, "kept").expect("file");
    assert!(matches!(listen(&file), Err(error @ ListenError::NoSocket { .. }) if error.exit_code() == 78));
    assert_eq!(fs::read_to_string(&file).expect("still there"), "kept");
    let nowhere = rig.folder.path().join("no/push.sock");
    assert!(matches!(listen(&nowhere), Err(error @ ListenError::Folder { .. }) if error.exit_code() == 78));
    assert!(rig.client().await.says(&items(1, true, 1)).await.is_some());
}

#[tokio::test]
async fn a_sender_may_tell_for_the_process_above_it() {
    let rig = Rig::new(still());
    let line = items(1, true, 1).replace("\"items\"", "\"parents\":1,\"items\"");
    let script = format!(
        "import socket;s=socket.socket(socket.AF_UNIX);s.connect('{}');s.sendall(b'''{line}\\n''');print(s.recv(999).decode())",
        rig.path().display()
    );
    let told = output(Command::new("python3").args(["-c", &script])).await;
    assert!(told.contains("\"ok\":true"), "its parent is this test: {told}");
    let groups = rig.inference.groups.borrow().clone();
    assert_eq!(
        groups.iter().map(|group| group.pid).collect::<Vec<_>>(),
        [i32::try_from(std::process::id()).expect("a pid")]
    );
}

#[tokio::test]
async fn what_a_meter_shows_reaches_its_collector_and_no_other_user_may_tell() {
    let own = nix::unistd::getuid().as_raw();
    let section = |name: &str, uid| MeterSection { name: name.to_owned(), uid, ..MeterSection::default() };
    let sections = [section("own", own), section("another", own + 1)];
    let (tell, told) = channel();
    let folder = tempfile::tempdir().expect("folder");
    let inference = start(Vec::new(), &Presets::default(), "/proc".into(), Arc::new(SystemClock)).expect("legal");
    let path = folder.path().join("push.sock");
    let _socket = inference
        .listen_beside(&path, Desks { meters: Some(MeterDesk::new(&sections, tell)), spans: None })
        .expect("a socket");
    let mut client = Client(BufReader::new(UnixStream::connect(&path).await.expect("connected")));
    for (line, ok) in [
        (r#"{"meter": "own", "seq": 1, "energy_microjoules": 5000000}"#, true),
        (r#"{"meter": "another", "seq": 1, "energy_microjoules": 5000000}"#, false),
        (r#"{"meter": "own", "seq": 2, "energy_microjoules": 9000000}"#, true),
        (r#"{"meter": "own", "seq": 2, "energy_microjoules": 9900000}"#, true),
    ] {
        let answer = client.says(line).await.expect("an answer");
        assert_eq!(answer["ok"], ok, "{line}: {answer}");
    }
    let mut meters = Meters::new(&sections, told);
    let values: Vec<_> = meters.read(SystemClock.boot()).into_iter().map(|one| one.expect("good").value).collect();
    assert_eq!(values, [Value::Total { raw: 5_000_000 }, Value::Total { raw: 9_000_000 }]);
    let refused: BTreeMap<_, _> = inference.failures.borrow().iter().map(|(one, times)| (one.reason, *times)).collect();
    assert_eq!(refused, BTreeMap::from([("peer", 1)]));
    // Reports of servers go on beside it.
    let answer =
        client.says(r#"{"seq": 1, "cumulative": true, "model": "m", "requests": 1}"#).await.expect("an answer");
    assert_eq!(answer["ok"], true, "{answer}");
}

#[tokio::test]
async fn a_report_for_a_consumer_and_a_workflow_counts_for_the_version_and_for_both() {
    let mut rig = Rig::new(still());
    rig.inference.name_consumers(Names::Hashed([3; 32]));
    let hashed = Names::Hashed([3; 32]).of("consumer", "alice");
    let mut client = rig.client().await;
    for (seq, root) in [(1, "r1"), (2, "r1"), (3, "r2")] {
        let line = format!(
            r#"{{"seq":{seq},"cumulative":false,"model":"m","output_tokens":10,"consumer":"alice","workflow":"triage","root":"{root}"}}"#
        );
        assert_eq!(client.says(&line).await.expect("an answer")["ok"], true);
    }
    let samples: Vec<CountSample> = std::iter::from_fn(|| rig.inference.samples.try_recv().ok()).collect();
    let last = |kind: Option<&str>| {
        let of_kind = |sample: &&CountSample| sample.of.as_ref().map(|of| of.consumer.kind.as_str()) == kind;
        let sample = samples.iter().rev().find(of_kind).expect("told");
        let name = sample.of.as_ref().map(|of| of.consumer.name.clone());
        let count = |kind| sample.counts.get(&kind).copied();
        (name, count(CountKind::OutputTokens), count(CountKind::Workflows))
    };
    assert_eq!(last(None), (None, Some(30), Some(2)));
    assert_eq!(last(Some("consumer")), (Some(hashed), Some(30), Some(2)));
    assert_eq!(last(Some("workflow")), (Some("triage".to_owned()), Some(30), Some(2)));
    let text = format!("{samples:?}");
    assert!(!text.contains("alice") && !text.contains("r1"), "neither names nor roots leave the node: {text}");
    let target = &samples[0].service.target;
    let of = samples[1].of.as_ref().expect("a consumer");
    assert_eq!((of.endpoint.as_ref(), &of.gateway), (Some(target), target), "the server is its own gateway");
}
