//! The images and the chart together: a miniature of a kubelet unpacks the images, mounts what the rendered pods mount, and runs
//! their containers with what the pods allow them. Needs root. Not shown here: seccomp profiles, SELinux, a real runtime.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]

#[path = "containers/image.rs"]
mod image;
#[path = "containers/kubelet.rs"]
mod kubelet;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use joulebook_tests::chaos::netns::alone;
use joulebook_tests::chart::pod::{Pod, pods, text};
use joulebook_tests::chart::render::{chart, helm, parse, tool};
use joulebook_tests::powercap::{Powercap, Zone};
use joulebook_tests::program::Program;
use joulebook_tests::timestamp::now;
use joulebook_tests::wait::until;
use serde_json::Value;

use image::Images;
use kubelet::Kubelet;

/// A node of the value set.
const NODE: &str = "cpu-1";
/// Its power.
const WATTS: u32 = 100;

/// What the trial's value set renders, on a disk of any size.
fn rendered(folder: &Path) -> Vec<Value> {
    let more = "agent: {config: \"[spool]\\nmin_free_bytes = 0\"}\naggregator: {config: \"[disk]\\nmin_free_percent = 0.0\"}\n\
                poller: {enabled: false}\n";
    let path = folder.join("more.yaml");
    fs::write(&path, more).unwrap();
    let trial = chart().join("ci/bootstrap.yaml");
    let values = ["--values", trial.to_str().unwrap(), "--values", path.to_str().unwrap()];
    let done = helm(&["template", "joulebook"], &values);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    parse(std::str::from_utf8(&done.stdout).unwrap())
}

/// A node's sysfs as the kernel makes it: the class holds links, and a meter is its owner's alone.
fn machine(folder: &Path) -> Zone {
    let sysfs = folder.join("node/sys");
    let zone = Powercap::new(&sysfs.join("devices/virtual")).unwrap().zone("intel-rapl:0", "package-0", 1_000).unwrap();
    fs::set_permissions(zone.file(), fs::Permissions::from_mode(0o400)).unwrap();
    let class = sysfs.join("class/powercap");
    for name in ["class/powercap", "class/hwmon", "bus", "block"] {
        fs::create_dir_all(sysfs.join(name)).unwrap();
    }
    for name in ["intel-rapl", "intel-rapl:0"] {
        symlink(format!("../../devices/virtual/class/powercap/{name}"), class.join(name)).unwrap();
    }
    zone
}

/// Stores the certificates as the job does, by the real kubectl without a cluster: its secrets become folders.
fn store(kubelet: &Kubelet, job: &Pod<'_>) {
    for container in job.spec["containers"].as_array().unwrap() {
        let args: Vec<String> = container["args"].as_array().unwrap().iter().map(text).collect();
        let keys = args.iter().filter_map(|arg| arg.strip_prefix("--from-file=")?.split_once('=')).map(|(key, _)| key);
        for key in keys {
            let template = format!("go-template={{{{index .data \"{key}\" | base64decode}}}}");
            let here = |arg: &String| arg.replace("/certificates", kubelet.volume("certificates").to_str().unwrap());
            let mut kubectl = Command::new(tool("JOULEBOOK_KUBECTL"));
            kubectl.args(args.iter().map(here)).args(["--dry-run=client", "-o", &template]);
            let done = kubectl.output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            kubelet.keep_secret(&args[3], key, &done.stdout);
        }
    }
}

fn find<'a>(all: &'a [Pod<'a>], component: &str, variant: Option<&str>) -> &'a Pod<'a> {
    let mut found = all.iter().filter(|pod| pod.component == component && pod.variant.as_deref() == variant);
    found.next().unwrap_or_else(|| panic!("no pod of {component}"))
}

/// Lets energy flow until it is dropped.
struct Flow(Option<mpsc::Sender<()>>, Option<std::thread::JoinHandle<()>>);

impl Flow {
    fn of(mut zone: Zone) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let step = Duration::from_millis(50);
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(step) == Err(mpsc::RecvTimeoutError::Timeout) {
                zone.flow(WATTS, step).unwrap();
            }
        });
        Self(Some(stop), Some(thread))
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        drop(self.0.take());
        let _ended = self.1.take().map(std::thread::JoinHandle::join);
    }
}

/// What the kernel says of a process: a field of its status.
fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
    line.unwrap_or_else(|| panic!("no {field}")).to_owned()
}

/// Mount points of a process on which it may write, those that every container has apart.
fn writable(pid: u32) -> Vec<String> {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mut found: Vec<_> = fields
        .filter(|fields| !fields[5].split(',').any(|option| option == "ro"))
        .map(|fields| fields[4].to_owned())
        .collect();
    found.retain(|path| !["/proc", "/dev"].iter().any(|own| path.starts_with(own)));
    found.sort();
    found
}

/// What a page of the pods' network answers, as a kubelet asks it.
fn page(port: u16, path: &str) -> String {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
    connection.write_all(format!("GET {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

/// A server's counts, told at the socket that the node's folder holds.
const TELL: &str = "
import sys
sys.path.insert(0, sys.argv[1])
from report_inference import Reporter
reporter = Reporter(sys.argv[2], model='scorer', version='2')
reporter.add(requests=3, input_tokens=300, output_tokens=30)
print('told', reporter.send()['ok'], flush=True)
sys.stdin.read()
";

#[test]
fn root_without_a_capability_meters_a_node_keeps_and_delivers_what_it_measures_and_takes_what_servers_tell() {
    alone(|| {
        let folder = tempfile::tempdir().unwrap();
        let objects = rendered(folder.path());
        let all = pods(&objects);
        let images = Images::unpacked(folder.path());
        let kubelet = Kubelet::new(folder.path(), NODE, &objects, &images);
        let zone = machine(folder.path());
        let meter = zone.file();
        let begin = now().unwrap();
        let flow = Flow::of(zone);

        let job = find(&all, "bootstrap", None);
        let mut make = kubelet.start(job, &job.spec["initContainers"][0], &[]).unwrap();
        assert!(make.wait().unwrap().success(), "{}", make.said());
        store(&kubelet, job);

        // Nobody is there yet who would take it: what is measured stays on the node's disk.
        let pod = find(&all, "agent", Some("cpu"));
        let mut agent = kubelet.start(pod, pod.container(), &[]).unwrap();
        agent.wait_for("sampling every").unwrap();
        let pid = kubelet.process_of(&agent);
        assert_eq!(status(pid, "Uid"), "0\t0\t0\t0");
        for set in ["CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"] {
            assert_eq!(status(pid, set), "0000000000000000", "{set}");
        }
        assert_eq!(status(pid, "NoNewPrivs"), "1");
        assert_eq!(writable(pid), ["/run/joulebook", "/tmp", "/var/lib/joulebook"]);
        assert_eq!(fs::metadata(&meter).unwrap().permissions().mode() & 0o777, 0o400);
        let spool = folder.path().join("node/var/lib/joulebook/spool");
        until("the agent keeps what it measures", || {
            fs::read_dir(&spool)
                .is_ok_and(|files| files.flatten().any(|file| file.metadata().is_ok_and(|file| file.len() > 0)))
        });
        assert_eq!(fs::metadata(&spool).unwrap().permissions().mode() & 0o777, 0o700);

        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/examples");
        let socket = folder.path().join("node/run/joulebook/push.sock");
        let words = ["-c".as_ref(), TELL.as_ref(), examples.as_os_str(), socket.as_os_str()];
        let server = Program::start("python3", &words).unwrap();
        server.wait_for("told True").unwrap();

        let served = find(&all, "aggregator", None);
        let mut aggregator = kubelet.start(served, served.container(), &[]).unwrap();
        aggregator.wait_for("listening on").unwrap();
        let pid = kubelet.process_of(&aggregator);
        assert_eq!((status(pid, "Uid"), status(pid, "CapEff")), ("65532\t65532\t65532\t65532".into(), "0".repeat(16)));
        assert_eq!(writable(pid), ["/var/lib/joulebook"]);

        // `helm test`, and other questions of an operator in the same pod.
        let test = find(&all, "test", None);
        let ask = |words: &[&str]| {
            let mut asked = kubelet.start(test, test.container(), words).unwrap();
            let ended = asked.wait().unwrap();
            assert!(ended.success(), "{}", asked.said());
            asked.said()
        };
        until("the node delivers", || ask(&[]).contains(NODE));
        let measured = || -> u64 {
            let end = now().unwrap();
            let window = ["energy", "--from", &begin, "--to", &end, "--by", "component", "-o", "json"];
            let answer: Value = serde_json::from_str(&ask(&window)).unwrap();
            energy(&answer)
        };
        until("ten seconds of the meter's energy are delivered", || measured() >= u64::from(WATTS) * 10 * 1_000_000);
        for (port, path) in [(7465, "/healthz"), (7465, "/readyz"), (7464, "/healthz"), (7464, "/readyz")] {
            let answer = page(port, path);
            assert!(answer.starts_with("HTTP/1.1 200"), "{port}{path}: {answer}");
        }
        let end = now().unwrap();
        let window =
            ["explain", "--from", &begin, "--to", &end, "--per", "request", "--model", "scorer@2", "-o", "json"];
        assert!(ask(&window).contains("scorer@2"), "what the server told is there");
        assert!(agent.stop().unwrap().success(), "{}", agent.said());
        assert!(aggregator.stop().unwrap().success(), "{}", aggregator.said());
        drop((flow, server));
    });
}

/// Energy of the CPU in an answer, which was measured.
fn energy(answer: &Value) -> u64 {
    let rows = answer["rows"].as_array().unwrap_or_else(|| panic!("{answer}"));
    // Memory has no meter here, so its estimate is part of the mixture; without a meter at all the word is "estimated".
    let metered = |row: &&Value| row["method"] == "counter" || row["method"] == "mixed";
    let cpu = rows.iter().filter(metered).filter(|row| row["key"][0]["value"] == "cpu");
    cpu.filter_map(|row| row["microjoules"].as_u64()).sum()
}
