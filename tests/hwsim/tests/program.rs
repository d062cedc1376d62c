//! The program as others use it: its ready line, its control socket, its metrics.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "functions that tests call may fail the test")]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// A running program; killed at the end.
struct Program {
    child: Child,
    _out: BufReader<ChildStdout>,
    ready: Value,
    folder: tempfile::TempDir,
}

impl Program {
    fn start(profile: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let profile = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../fixtures/profiles/{profile}.json"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_hwsim"));
        command.arg("--profile").arg(profile).arg("--root").arg(folder.path()).args(more).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        Self { child, _out: out, ready: serde_json::from_str(&line).unwrap(), folder }
    }

    fn ask(&self, requests: &[Value]) -> Vec<Value> {
        let mut stream = UnixStream::connect(self.ready["ctl"].as_str().unwrap()).unwrap();
        let mut answers = BufReader::new(stream.try_clone().unwrap());
        let mut found = Vec::new();
        for request in requests {
            writeln!(stream, "{request}").unwrap();
            let mut line = String::new();
            answers.read_line(&mut line).unwrap();
            found.push(serde_json::from_str(&line).unwrap());
        }
        found
    }

    fn metrics(&self) -> String {
        Self::page(self.ready["front"].as_str().unwrap())
    }

    fn page(url: &str) -> String {
        let address = url.strip_prefix("http://").unwrap();
        let (address, path) = address.split_once('/').unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    fn counter(&self, zone: &str) -> String {
        std::fs::read_to_string(self.folder.path().join("sys/class/powercap").join(zone).join("energy_uj")).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn truth_is_exact_and_the_counter_shows_it_in_one_line_of_21_bytes() {
    let program = Program::start("cpu-2s", &["--clock", "manual"]);
    assert_eq!(program.ready["ready"], true);
    let before = program.counter("intel-rapl:0");
    let answers = program.ask(&[
        json!({ "op": "set", "leaf": "cpu0.pkg", "w": 100.0 }),
        json!({ "op": "step", "ns": 30_000_000_000u64 }),
        json!({ "op": "set", "leaf": "cpu0.pkg", "w": 200, "ramp_ms": 10_000 }),
        json!({ "op": "step", "ns": 20_000_000_000u64 }),
        json!({ "op": "truth", "from_ns": 0 }),
    ]);
    // 100 W × 30 s + 150 W (the mean) × 10 s + 200 W × 10 s.
    assert_eq!(answers[4]["leaves_uj"]["cpu0.pkg"], 6_500_000_000u64, "{answers:?}");
    assert_eq!(answers[4]["zones_uj"]["intel-rapl:0"], 6_500_000_000u64);
    let after = program.counter("intel-rapl:0");
    assert_eq!((before.len(), after.len()), (21, 21));
    let [before, after] = [before, after].map(|line| line.trim().parse::<u64>().unwrap());
    let range = u64::from(u32::MAX) * 61_035 / 1_000;
    let shown = if after >= before { after - before } else { range - before + after };
    assert!(shown.abs_diff(6_500_000_000) <= 200, "{shown}");
}

#[test]
fn a_request_that_is_not_understood_or_cannot_be_is_answered_with_why() {
    let program = Program::start("gh200", &["--clock", "manual"]);
    let answers = program.ask(&[
        json!({ "op": "fly" }),
        json!({ "op": "set", "leaf": "cpu9.pkg", "w": 1 }),
        json!({ "op": "set", "leaf": "gpu0", "w": -1 }),
        json!({ "op": "fault", "kind": "reset", "target": "intel-rapl:0" }),
        json!({ "op": "workload", "add": { "name": "x", "cgroup": "/../../etc" } }),
        json!({ "op": "truth", "from_ns": 5, "to_ns": 4 }),
        json!({ "op": "info" }),
    ]);
    assert!(answers[..6].iter().all(|answer| answer["error"].is_string()), "{answers:?}");
    assert_eq!(answers[6]["profile"], "gh200");
    assert_eq!(answers[6]["zones"], json!([]));
}

#[test]
fn the_front_counts_what_the_table_serves() {
    let program = Program::start("cpu-2s", &["--clock", "manual"]);
    let answers = program.ask(&[
        json!({ "op": "workload", "add": {
            "name": "vllm", "pid": 77, "cgroup": "/system.slice/vllm.service", "cpu_millicores": 4_000, "model": "m",
            "requests_per_kilosecond": 2_000, "prompt_tokens": 10, "generated_tokens": 3,
        } }),
        json!({ "op": "step", "ns": 60_000_000_000u64 }),
        json!({ "op": "info" }),
    ]);
    let served = json!([{ "model": "m", "requests": 120, "prompt_tokens": 1_200, "generated_tokens": 360 }]);
    assert_eq!(answers[2]["served"], served, "{answers:?}");
    let text = program.metrics();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.contains("vllm:prompt_tokens_total{engine=\"0\",model_name=\"m\"} 1200.0\n"), "{text}");
    assert!(text.contains("# TYPE vllm:generation_tokens_total counter\n"), "{text}");
    let success = "vllm:request_success_total{engine=\"0\",finished_reason=\"stop\",model_name=\"m\"} 120.0\n";
    assert!(text.contains(success), "{text}");
    let usage = std::fs::read_to_string(program.folder.path().join("sys/fs/cgroup/system.slice/vllm.service/cpu.stat"));
    assert!(usage.unwrap().starts_with("usage_usec 00000000000240000000\n"), "4 cores for 60 s");
}

#[test]
fn a_workload_with_a_port_has_a_page_of_its_own_and_is_its_listener() {
    let ports = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let ports = ports.map(|socket| socket.local_addr().unwrap().port());
    let workload = |name: &str, pid: u32, port: u16| {
        json!({ "op": "workload", "add": {
            "name": name, "pid": pid, "cgroup": format!("/system.slice/{name}.service"), "model": name, "port": port,
            "requests_per_kilosecond": 1_000, "prompt_tokens": 1, "generated_tokens": 1,
        } })
    };
    let program = Program::start("dgx-h100", &["--clock", "manual"]);
    let step = json!({ "op": "step", "ns": 5_000_000_000u64 });
    let later = json!({ "op": "step", "ns": 2_000_000_000u64 });
    program.ask(&[workload("a", 70, ports[0]), step, workload("b", 71, ports[1]), later]);
    let counted = |port: u16, name: &str, tokens: u64| {
        let page = Program::page(&format!("http://127.0.0.1:{port}/metrics"));
        let line = format!("vllm:generation_tokens_total{{engine=\"0\",model_name=\"{name}\"}} {tokens}.0\n");
        assert!(page.contains(&line) && page.matches("model_name").count() == 3, "{page}");
    };
    // Both are there at the next tick of the program, which this answer comes after.
    for port in ports {
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            program.ask(&[json!({ "op": "info" })]);
        }
    }
    counted(ports[0], "a", 7);
    counted(ports[1], "b", 2);
    let procfs = program.folder.path().join("proc");
    let table = std::fs::read_to_string(procfs.join("net/tcp")).unwrap();
    assert!(table.contains(&format!("0100007F:{:04X}", ports[1])), "{table}");
    let socket = std::fs::read_link(procfs.join("71/fd/3")).unwrap();
    let inode = socket.to_str().unwrap().trim_start_matches("socket:[").trim_end_matches(']').to_owned();
    let line = table.lines().find(|line| line.contains(&format!("{:04X}", ports[1]))).unwrap();
    assert_eq!(line.split_ascii_whitespace().nth(9), Some(inode.as_str()));
    program.ask(&[json!({ "op": "workload", "remove": "b" })]);
    assert!(!std::fs::read_to_string(procfs.join("net/tcp")).unwrap().contains(&format!("{:04X}", ports[1])));
}

#[test]
fn a_real_clock_moves_by_itself_and_refuses_to_be_moved() {
    let program = Program::start("cpu-2s", &[]);
    let answers = program.ask(&[json!({ "op": "step", "ns": 1 }), json!({ "op": "info" }), json!({ "op": "info" })]);
    assert!(answers[0]["error"].as_str().unwrap().contains("manual"));
    let now = |answer: &Value| answer["now_ns"].as_u64().unwrap();
    assert!(now(&answers[2]) > now(&answers[1]));
}

#[test]
fn faults_come_over_the_socket_and_from_a_scenario() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = folder.path().join("scenario.toml");
    let text = "[[at]]\nms = 0\nop = \"fault\"\nkind = \"reset\"\ntarget = \"intel-rapl:1\"\n";
    std::fs::write(&scenario, text).unwrap();
    let program = Program::start("cpu-2s", &["--clock", "manual", "--scenario", scenario.to_str().unwrap()]);
    assert_eq!(program.counter("intel-rapl:1"), format!("{:020}\n", 0));
    let remove = json!({ "op": "fault", "kind": "remove_zone", "target": "intel-rapl:0:0", "for_ms": 1_000 });
    program.ask(&[remove]);
    let zone = program.folder.path().join("sys/class/powercap/intel-rapl:0:0");
    assert!(!zone.exists());
    program.ask(&[json!({ "op": "step", "ns": 1_000_000_000 })]);
    assert!(zone.join("energy_uj").is_file());
}
