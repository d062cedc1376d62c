//! What procfs says of processes: B13 to B15.

use super::*;
use joulebook_agent::process::cgroup::identify;
use joulebook_agent::process::proc::parse_cgroup;
use std::time::Duration;

const POD: &str = "2fc932ce-fdcc-454b-97bd-aadfdeb4c340";

/// The id of a container.
fn id() -> String {
    "b".repeat(64)
}

impl Machine {
    /// Control groups: the machine's, and those of the container, which have used so much CPU time in all.
    fn groups(&self, (machine, container): (u64, u64)) {
        let pod = "kubepods.slice/kubepods-burstable.slice";
        let slice = format!("kubepods-burstable-pod{}.slice", POD.replace('-', "_"));
        for (path, microseconds) in
            [("", machine), (&format!("/{pod}/{slice}/cri-containerd-{}.scope", id()), container)]
        {
            self.write(&format!("sys/fs/cgroup{path}/cpu.stat"), format!("usage_usec {microseconds}\n"));
        }
    }
}

fn seconds(nanos: &BTreeMap<String, u64>) -> BTreeMap<&str, f64> {
    nanos.iter().map(|(id, nanos)| (id.as_str(), Duration::from_nanos(*nanos).as_secs_f64())).collect()
}

#[test]
fn b13_a_hostile_command_name_moves_no_field_of_its_process() {
    let machine = Machine::new();
    let comm = "a b) R) x\n) S";
    machine.process(77, comm, 5, (50, 25));
    let mut rig = machine.start();
    rig.machine.process(77, comm, 5, (120, 80));
    rig.pass(2);
    let (used, described) = rig.workloads();
    // Of two seconds of work, 1.25 were its own: 0.7 as user and 0.55 in the kernel.
    assert_eq!(seconds(&used), [("process/77@5", 1.25), ("remainder", 0.75)].into());
    let names: Vec<_> = described.iter().map(|workload| workload.name.as_str()).collect();
    assert_eq!(names, ["everything else", "a b) R) x) S"], "without the control character");
    assert_eq!(rig.sampler.refused(), &[((BROKEN.to_owned(), "unchanged"), 1)].into());
}

#[test]
fn b14_a_process_that_vanishes_while_it_is_read_is_no_error() {
    for with_groups in [false, true] {
        let machine = Machine::new();
        let lists = |machine: &Machine| {
            // One is gone before its line is read, the other one before its control group is.
            fs::create_dir_all(machine.path("proc/88")).expect("folder");
            machine.process(89, "gone", 5, (0, 0));
        };
        if with_groups {
            machine.groups((0, 0));
        }
        lists(&machine);
        let mut rig = machine.start();
        let logged = said("").len();
        if with_groups {
            rig.machine.groups((2_000_000, 500_000));
            rig.machine.process(89, "gone", 5, (150, 0));
        }
        rig.pass(2);
        let (used, _) = rig.workloads();
        let container = format!("container/{}", id());
        let expected = if with_groups {
            [(container.as_str(), 0.5), ("remainder", 1.5)].into()
        } else {
            BTreeMap::from([("remainder", 2.0)])
        };
        assert_eq!(seconds(&used), expected);
        assert_eq!(rig.sampler.refused(), &[((BROKEN.to_owned(), "unchanged"), 1)].into());
        assert_eq!(said("").len(), logged, "silently");
    }
}

#[test]
fn b15_a_path_from_another_cgroup_namespace_finds_its_container_and_pod() {
    let machine = Machine::new();
    machine.groups((0, 0));
    machine.process(10, "server", 5, (0, 0));
    for uid in [POD.to_owned(), POD.replace('-', "_")] {
        let path = format!("0::/../../kubepods-burstable-pod{uid}.slice/cri-containerd-{}.scope\n", id());
        let named = parse_cgroup(&path).map(identify).expect("a path");
        assert_eq!((named.pod_uid.as_deref(), named.container_id), (Some(POD), Some(id())));
        machine.write("proc/10/cgroup", path);
    }
    let mut rig = machine.start();
    rig.machine.groups((2_000_000, 1_500_000));
    rig.machine.process(10, "server", 5, (150, 0));
    rig.pass(2);
    let (used, described) = rig.workloads();
    let container = format!("container/{}", id());
    // The process works in the container: it has no row beside it, which would count its time twice.
    assert_eq!(seconds(&used), [(container.as_str(), 1.5), ("remainder", 0.5)].into());
    let pods: Vec<_> = described.iter().filter_map(|workload| workload.pod_uid.as_deref()).collect();
    assert_eq!(pods, [POD]);
    assert_eq!(rig.sampler.refused(), &[((BROKEN.to_owned(), "unchanged"), 1)].into());
}

#[test]
fn b15_a_process_whose_path_is_garbage_is_given_nothing_and_the_parts_sum_to_the_whole() {
    let long = format!("0::/{}\n", "x".repeat(64 * 1024));
    for garbage in [long.as_bytes(), b"", b"0::\n", b"0::garbage", b"0::/\xff\xfe\n", &[0; 1_000]] {
        let machine = Machine::new();
        machine.groups((0, 0));
        // One works in the container, which counts its time; the other one in no group.
        for pid in [10, 20] {
            machine.process(pid, "x", 5, (0, 0));
            machine.write(&format!("proc/{pid}/cgroup"), garbage);
        }
        machine.process(30, "good", 5, (0, 0));
        machine.write("proc/30/cgroup", "0::/\n");
        let mut rig = machine.start();
        rig.machine.groups((6_000_000, 2_000_000));
        for pid in [10, 20] {
            rig.machine.process(pid, "x", 5, (150, 0));
        }
        rig.machine.process(30, "good", 5, (100, 10));
        rig.pass(3);
        let (used, _) = rig.workloads();
        let container = format!("container/{}", id());
        let expected = [(container.as_str(), 2.0), ("process/30@5", 1.1), ("remainder", 2.9)];
        assert_eq!(seconds(&used), expected.into());
        let refused = rig.sampler.refused();
        assert_eq!(refused.get(&("process".to_owned(), "cgroup_parse")), Some(&4), "two files in each of two rows");
        assert_eq!(said("proc/10/cgroup names no control group").len() + said("proc/20/cgroup names").len(), 1);
        assert!(said("").iter().all(|line| line.len() <= 1_024));
    }
}
