use super::*;
use crate::collector::{DeviceUse, DeviceUser, FreePart};
use crate::directory::Directory;
use crate::kubelet::{Allocations, Holding};
use joulebook_proto::telemetry::{NodeDirectory, Pod, PodContainer};
use std::fs;
use std::path::Path;
use tokio::sync::watch;

const SECOND: u64 = 1_000_000_000;
const TICK: u64 = 10_000_000;

/// A machine made of files.
struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { root: tempfile::tempdir().expect("folder") };
        machine.write("proc/meminfo", "MemTotal: 100 kB\nMemAvailable: 40 kB\n");
        machine.busy(0);
        machine
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().expect("inside")).expect("folder");
        fs::write(path, text).expect("file");
    }

    fn busy(&self, ticks: u64) {
        self.write("proc/stat", &format!("cpu {ticks} 0 0 100000 0 0 0 0\n"));
    }

    fn process(&self, pid: i32, parent: i32, start: u64, ticks: u64) {
        let line = format!("{pid} (p{pid}) S {parent} 0 0 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1 0 {start} 0 2 0\n");
        self.write(&format!("proc/{pid}/stat"), &line);
    }

    fn end(&self, pid: i32) {
        fs::remove_dir_all(self.root.path().join(format!("proc/{pid}"))).expect("removed");
    }

    fn workloads(&self) -> Workloads {
        let at = |path: &str| Path::new(self.root.path()).join(path);
        Workloads::new(&Roots { sysfs: at("sys"), procfs: at("proc"), cgroup: at("cgroup") }, 2)
    }
}

fn cpu(sample: &WorkloadSample, id: &str) -> Option<u64> {
    sample.rows.iter().find(|row| row.workload.id == id).map(|row| row.cpu_nanos)
}

fn total(sample: &WorkloadSample) -> u64 {
    sample.rows.iter().map(|row| row.cpu_nanos).sum()
}

fn at(second: u64) -> BootNanos {
    BootNanos(second * SECOND)
}

fn server(pid: i32, start_ticks: u64) -> InferenceGroup {
    InferenceGroup { target: format!("t{pid}"), pid, start_ticks, reserved_millicores: Some(500), parts: None }
}

#[test]
fn without_control_groups_processes_split_the_machine_and_the_parts_sum_to_the_whole() {
    let machine = Machine::new();
    for pid in [1, 10, 20] {
        machine.process(pid, 0, 5, 50);
    }
    let mut workloads = machine.workloads();
    let groups = [server(10, 5)];
    let first = workloads.sample(at(1), &groups);
    assert_eq!(total(&first), 0);
    // The server works 2 s and its child 1 s, another process 1.5 s, init 0.1 s, ended ones 0.4 s.
    machine.process(10, 1, 5, 250);
    machine.process(11, 10, 150, 100);
    machine.process(20, 1, 5, 200);
    machine.process(1, 0, 5, 60);
    machine.busy(500);
    let second = workloads.sample(at(4), &groups);
    assert_eq!(cpu(&second, "process/10@5"), Some(3 * SECOND));
    assert_eq!(cpu(&second, "process/20@5"), Some(150 * TICK));
    assert_eq!(cpu(&second, REMAINDER), Some(50 * TICK));
    assert_eq!(total(&second), 500 * TICK);
    assert_eq!(second.groups.get("t10").map(String::as_str), Some("process/10@5"));
    assert_eq!(second.node_memory_used, Some(60 * 1024));
    let row = second.rows.iter().find(|row| row.workload.id == "process/20@5").expect("its own row");
    assert_eq!(row.origin, Some(at(1)), "the row was 0 at the sample before");
    let row = second.rows.iter().find(|row| row.workload.id == "process/10@5").expect("the server's row");
    assert_eq!((row.origin, row.workload.reserved_millicores), (None, Some(500)));
}

#[test]
fn who_tells_of_itself_inside_a_server_whose_page_is_read_is_that_server() {
    let machine = Machine::new();
    for (pid, parent) in [(10, 1), (11, 10), (20, 1)] {
        machine.process(pid, parent, 5, 0);
    }
    let mut workloads = machine.workloads();
    let tells = |way: &str, pid: i32| InferenceGroup {
        target: format!("{way}/{pid}@5"),
        reserved_millicores: None,
        ..server(pid, 5)
    };
    // Told first, and read later.
    let told = [tells("push", 10), tells("otlp", 11), tells("push", 20)];
    let rows = |sample: &WorkloadSample| told.clone().map(|group| sample.groups.get(&group.target).cloned());
    let of = |pids: [i32; 3]| pids.map(|pid| Some(format!("process/{pid}@5")));
    assert_eq!(rows(&workloads.sample(at(1), &told)), of([10, 11, 20]));
    let with_page = [vec![server(10, 5)], told.to_vec()].concat();
    machine.process(11, 10, 5, 50);
    machine.busy(50);
    let sample = workloads.sample(at(2), &with_page);
    assert_eq!(rows(&sample), of([10, 10, 20]));
    assert_eq!((cpu(&sample, "process/10@5"), cpu(&sample, "process/11@5")), (Some(50 * TICK), None));
    let row = sample.rows.iter().find(|row| row.workload.id == "process/10@5").expect("the server's row");
    assert_eq!(row.workload.reserved_millicores, Some(500), "as the page's target says");
}

#[test]
fn b14_a_reused_pid_gets_nothing_of_the_old_process() {
    let machine = Machine::new();
    machine.process(10, 1, 5, 0);
    let mut workloads = machine.workloads();
    workloads.sample(at(1), &[server(10, 5)]);
    machine.process(10, 1, 5, 300);
    machine.busy(300);
    workloads.sample(at(2), &[server(10, 5)]);
    machine.end(10);
    machine.process(10, 1, 250, 20);
    machine.busy(320);
    let sample = workloads.sample(at(3), &[]);
    assert_eq!(cpu(&sample, "process/10@5"), None);
    // What the new process used waits until it is known whose it is; when it has ended, it is nobody's.
    assert_eq!(cpu(&sample, REMAINDER), Some(0));
    assert!(sample.groups.is_empty());
    machine.end(10);
    machine.busy(320);
    assert_eq!(cpu(&workloads.sample(at(4), &[]), REMAINDER), Some(20 * TICK));
}

#[test]
fn a_server_that_is_found_late_has_its_start_too() {
    let machine = Machine::new();
    let mut workloads = machine.workloads();
    workloads.sample(at(1), &[]);
    machine.process(10, 1, 150, 60);
    machine.process(20, 1, 150, 40);
    machine.busy(100);
    let starting = workloads.sample(at(2), &[]);
    assert_eq!(total(&starting), 0);
    machine.process(10, 1, 150, 90);
    machine.busy(130);
    let found = workloads.sample(at(3), &[server(10, 150)]);
    let row = found.rows.iter().find(|row| row.workload.id == "process/10@150").expect("the server's row");
    assert_eq!((row.cpu_nanos, row.origin), (90 * TICK, Some(BootNanos(1_500_000_000))));
    // The other one stays small: after 30 s it is part of the remainder, and the parts sum to the whole.
    assert_eq!(cpu(&found, REMAINDER), Some(0));
    let later = workloads.sample(at(40), &[server(10, 150)]);
    assert_eq!(cpu(&later, REMAINDER), Some(40 * TICK));
    assert_eq!(total(&later), 130 * TICK);
}

#[test]
fn a_child_whose_parent_ended_still_counts_for_its_server() {
    let machine = Machine::new();
    machine.process(10, 1, 5, 0);
    machine.process(11, 10, 6, 0);
    machine.process(12, 11, 7, 0);
    let mut workloads = machine.workloads();
    workloads.sample(at(1), &[server(10, 5)]);
    machine.end(11);
    machine.process(12, 1, 7, 40);
    machine.busy(40);
    let sample = workloads.sample(at(2), &[]);
    assert_eq!(cpu(&sample, "process/10@5"), Some(40 * TICK));
}

#[test]
fn kernel_threads_are_one_row() {
    let machine = Machine::new();
    machine.process(2, 0, 0, 5);
    machine.process(3, 2, 0, 5);
    let mut workloads = machine.workloads();
    workloads.sample(at(1), &[]);
    machine.process(3, 2, 0, 8);
    machine.busy(3);
    let sample = workloads.sample(at(2), &[]);
    assert_eq!(cpu(&sample, KERNEL), Some(3 * TICK));
    assert_eq!(cpu(&sample, REMAINDER), Some(0));
}

#[test]
fn a_process_inside_a_control_group_is_not_counted_twice() {
    let machine = Machine::new();
    let id = "c".repeat(64);
    let scope = format!("system.slice/docker-{id}.scope");
    let usage =
        |path: &str, nanos: u64| machine.write(&format!("cgroup/cpuacct/{path}/cpuacct.usage"), &nanos.to_string());
    usage("", 0);
    usage(&scope, 0);
    for pid in [10, 20, 30] {
        machine.process(pid, 1, 5, 0);
        let path = if pid == 30 { "/".to_owned() } else { format!("/{scope}") };
        machine.write(&format!("proc/{pid}/cgroup"), &format!("2:cpuacct:{path}\n"));
    }
    let mut workloads = machine.workloads();
    workloads.sample(at(1), &[server(10, 5)]);
    usage("", 5 * SECOND);
    usage(&scope, 3 * SECOND);
    machine.process(10, 1, 5, 200);
    machine.process(30, 1, 5, 150);
    let one = workloads.sample(at(2), &[server(10, 5)]);
    let container = format!("container/{id}");
    assert_eq!(one.groups.get("t10"), Some(&container));
    assert_eq!((cpu(&one, &container), cpu(&one, "process/30@5")), (Some(3 * SECOND), Some(150 * TICK)));
    assert_eq!(total(&one), 5 * SECOND);
    // A second server in the same container: now processes split it, with a rest.
    usage("", 9 * SECOND);
    usage(&scope, 7 * SECOND);
    machine.process(10, 1, 5, 400);
    machine.process(20, 1, 5, 100);
    let two = workloads.sample(at(3), &[server(10, 5), server(20, 5)]);
    assert_eq!(two.groups.get("t10").map(String::as_str), Some("process/10@5"));
    assert_eq!((cpu(&two, "process/10@5"), cpu(&two, "process/20@5")), (Some(2 * SECOND), Some(SECOND)));
    assert_eq!(cpu(&two, &container), Some(4 * SECOND));
    assert_eq!(total(&two), 9 * SECOND);
    // Whoever works beside them gets a row of its own, as in the root group.
    usage("", 12 * SECOND);
    usage(&scope, 10 * SECOND);
    machine.process(40, 1, 800, 0);
    machine.write("proc/40/cgroup", &format!("2:cpuacct:/{scope}\n"));
    workloads.sample(at(9), &[]);
    usage("", 14 * SECOND);
    usage(&scope, 12 * SECOND);
    machine.process(40, 1, 800, 150);
    let three = workloads.sample(at(11), &[]);
    assert_eq!(cpu(&three, "process/40@800"), Some(150 * TICK));
    assert_eq!(total(&three), 14 * SECOND);
}

#[test]
fn a_group_that_is_made_again_goes_on_from_its_sum() {
    let machine = Machine::new();
    let path = "cgroup/system.slice/x.service";
    machine.write("cgroup/cpu.stat", "usage_usec 1000\n");
    machine.write(&format!("{path}/cpu.stat"), "usage_usec 500\n");
    let mut workloads = machine.workloads();
    workloads.sample(at(1), &[]);
    machine.write(&format!("{path}/cpu.stat"), "usage_usec 800\n");
    machine.write("cgroup/cpu.stat", "usage_usec 1300\n");
    assert_eq!(cpu(&workloads.sample(at(2), &[]), "unit/x.service"), Some(300_000));
    // Another folder takes the place while the old one still holds its inode.
    let root = machine.root.path();
    fs::rename(root.join(path), root.join("old")).expect("moved");
    machine.write(&format!("{path}/cpu.stat"), "usage_usec 50\n");
    machine.write("cgroup/cpu.stat", "usage_usec 1350\n");
    let sample = workloads.sample(at(3), &[]);
    assert_eq!(cpu(&sample, "unit/x.service"), Some(350_000));
    assert_eq!(total(&sample), 350_000);
}

mod own;
mod parts;

#[test]
fn the_agent_itself_has_a_row_however_little_it_uses() {
    let machine = Machine::new();
    machine.process(300, 1, 50, 5);
    machine.process(301, 1, 50, 5);
    std::os::unix::fs::symlink("300", machine.root.path().join("proc/self")).expect("link");
    let mut workloads = machine.workloads();
    workloads.sample(at(1), &[]);
    machine.process(300, 1, 50, 6);
    machine.process(301, 1, 50, 6);
    machine.busy(2);
    workloads.see_devices(&[list("GPU-a", 2, &[])]);
    let sample = workloads.sample(at(2), &[]);
    assert_eq!((cpu(&sample, "process/300@50"), cpu(&sample, "process/301@50")), (Some(TICK), None));
    let row = sample.rows.iter().find(|row| row.workload.id == "process/300@50").expect("a row");
    assert_eq!((row.workload.name.as_str(), row.memory_bytes.is_some()), ("joulebook-agent", true));
    assert_eq!(total(&sample), 2 * TICK);
}

#[test]
fn processes_of_engines_say_so_and_pods_and_members_say_whom_they_work_for() {
    let machine = Machine::new();
    let uid = "8c4b0b0f-1f7a-4b9a-9d2a-0a1b2c3d4e5f";
    let pod =
        format!("/kubepods.slice/kubepods-pod{}.slice/cri-containerd-{}.scope", uid.replace('-', "_"), "a".repeat(64));
    let unit = "/system.slice/worker.service";
    machine.write("cgroup/cpu.stat", "usage_usec 1000\n");
    for (pid, path) in [(10, pod.as_str()), (20, unit)] {
        machine.write(&format!("cgroup{path}/cpu.stat"), "usage_usec 5\n");
        let line = format!("{pid} (VLLM::Worker_TP) S 1 0 0 0 -1 0 0 0 0 0 1 0 0 0 20 0 1 0 5 0 2 0\n");
        machine.write(&format!("proc/{pid}/stat"), &line);
        machine.write(&format!("proc/{pid}/cgroup"), &format!("0::{path}\n"));
    }
    let labels = [("ray.io/cluster".to_owned(), "r".to_owned())].into();
    let wire = Pod { pod_uid: uid.to_owned(), namespace: "chat".to_owned(), labels, ..Pod::default() };
    let directory = Directory::from_wire(NodeDirectory { pods: vec![wire], ..NodeDirectory::default() });
    let (_told, directory) = watch::channel(Arc::new(directory));
    let member = Member { service_group: "g".to_owned(), cgroup: unit.to_owned() };
    let mut workloads = machine.workloads().among(directory, vec![member]);
    let sample = workloads.sample(at(1), &[]);
    let known = |cgroup: &str| {
        let row = sample.rows.iter().find(|row| row.workload.cgroup.as_deref() == Some(cgroup)).expect("a row");
        (row.workload.group.as_deref(), row.workload.engine.as_deref())
    };
    assert_eq!(known(&pod), (Some("ray/chat/r"), Some("vllm")));
    assert_eq!(known(unit), (Some("g"), Some("vllm")));
}

fn list(device: &str, second: u64, pids: &[i32]) -> DeviceUse {
    let user = |pid: &i32| DeviceUser { pid: *pid, busy_nanos: 0, memory_bytes: None, slice_millionths: 0 };
    let users = pids.iter().map(user).collect();
    let free = BTreeMap::from([(format!("MIG-of-{device}"), FreePart { memory_bytes: 1, slice_millionths: 1 })]);
    let (device, at) = (device.to_owned(), at(second));
    DeviceUse { device, minor: None, since: None, at, busy_nanos: 0, slices: None, users, free }
}

#[test]
fn who_holds_a_device_on_which_no_process_is_is_its_container_or_has_a_row_of_its_own() {
    let machine = Machine::new();
    let (uid, id) = ("8c4b0b0f-1f7a-4b9a-9d2a-0a1b2c3d4e5f", "a".repeat(64));
    machine.write("cgroup/cpu.stat", "usage_usec 1000\n");
    let scope = format!("kubepods.slice/kubepods-pod{}.slice/cri-containerd-{id}.scope", uid.replace('-', "_"));
    machine.write(&format!("cgroup/{scope}/cpu.stat"), "usage_usec 10\n");
    let container = PodContainer { name: "server".into(), container_id: Some(id), ..PodContainer::default() };
    let pod = Pod {
        pod_uid: uid.into(),
        namespace: "chat".into(),
        name: "one".into(),
        containers: vec![container],
        ..Pod::default()
    };
    let told = NodeDirectory { pods: vec![pod], ..NodeDirectory::default() };
    let (_directory, directory) = watch::channel(Arc::new(Directory::from_wire(told)));
    let holds = |device: &str, pod: &str, container: &str| {
        (device.to_owned(), Holding { namespace: "chat".into(), pod: pod.into(), container: container.into() })
    };
    let held = [holds("GPU-a", "one", "server"), holds("GPU-b", "one", "other"), holds("GPU-b", "two", "server")];
    let busy = [holds("GPU-c", "three", "server"), holds("GPU-d", "four", "server")];
    let busy = busy.into_iter().chain([holds("MIG-of-GPU-c", "two", "server")]);
    let (_holding, holding) = watch::channel(Arc::new(Allocations::from_iter(held.into_iter().chain(busy))));
    let mut workloads = machine.workloads().among(directory, Vec::new()).holding(holding);
    // Of the last device nothing is known.
    workloads.see_devices(&[list("GPU-a", 1, &[]), list("GPU-b", 1, &[]), list("GPU-c", 1, &[7])]);
    let sample = workloads.sample(at(1), &[]);
    let rows = |sample: &WorkloadSample| {
        let held = sample.rows.iter().filter(|row| row.workload.id.starts_with("allocation/"));
        let pod = |row: &WorkloadRow| row.workload.pod.clone().map(|pod| format!("{}/{}", pod.namespace, pod.name));
        held.map(|row| (row.workload.id.clone(), pod(row), row.workload.pod_uid.clone())).collect::<Vec<_>>()
    };
    let (other, two) = ("allocation/chat/one/other".to_owned(), "allocation/chat/two/server".to_owned());
    let expected = [
        (other.clone(), Some("chat/one".to_owned()), Some(uid.to_owned())),
        (two.clone(), Some("chat/two".to_owned()), None),
    ];
    assert_eq!(rows(&sample), expected);
    let container = sample.rows.iter().find(|row| row.workload.pod_uid.as_deref() == Some(uid)).expect("a row");
    let holders = BTreeMap::from([
        ("GPU-a".to_owned(), BTreeSet::from([container.workload.id.clone()])),
        ("GPU-b".to_owned(), BTreeSet::from([other, two.clone()])),
        ("MIG-of-GPU-c".to_owned(), BTreeSet::from([two])),
    ]);
    assert_eq!(sample.device_users.holders, holders);
    // A process comes: it is on the device, whoever holds it.
    workloads.see_devices(&[list("GPU-b", 2, &[9])]);
    let sample = workloads.sample(at(2), &[]);
    assert_eq!((rows(&sample).len(), sample.device_users.holders.len()), (1, 2), "the instance is still free");
}
