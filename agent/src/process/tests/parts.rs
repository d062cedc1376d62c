//! A server's own processes for one model version.

use super::*;

/// A server at pid 10 whose processes are told apart as Triton's are.
fn triton() -> InferenceGroup {
    let rule = r"/(?P<model>[^/]+)/(?P<version>[0-9]+)/model\.py$".to_owned();
    InferenceGroup { parts: Some(rule.try_into().expect("valid")), ..server(10, 5) }
}

impl Machine {
    /// A child of the server that runs a version's file.
    fn stub(&self, pid: i32, start: u64, ticks: u64, version: u32) {
        self.process(pid, 10, start, ticks);
        self.write(&format!("proc/{pid}/cmdline"), &format!("/opt/stub\0/repo/scorer/{version}/model.py\0shm\0"));
    }
}

fn row<'a>(sample: &'a WorkloadSample, id: &str) -> Option<&'a WorkloadRow> {
    sample.rows.iter().find(|row| row.workload.id == id)
}

/// Row of a version of the server whose workload is `whole`.
fn part<'a>(sample: &'a WorkloadSample, whole: &str, version: &str) -> Option<&'a str> {
    let name = PartName { model: "scorer".to_owned(), version: version.to_owned() };
    sample.parts.get(&(whole.to_owned(), name)).map(String::as_str)
}

#[test]
fn processes_of_one_version_are_one_row_and_a_part_of_the_server() {
    let machine = Machine::new();
    machine.process(10, 1, 5, 0);
    machine.stub(11, 6, 0, 1);
    machine.stub(12, 6, 0, 2);
    machine.process(13, 12, 7, 0);
    machine.stub(14, 8, 0, 2);
    // Its command line is like theirs, but it is nobody's child.
    machine.stub(20, 9, 0, 1);
    machine.process(20, 1, 9, 0);
    let mut workloads = machine.workloads();
    workloads.sample(at(1), &[triton()]);
    for (pid, parent, start, ticks) in [(10, 1, 5, 100), (11, 10, 6, 30), (12, 10, 6, 50), (13, 12, 7, 5)] {
        machine.process(pid, parent, start, ticks);
    }
    machine.process(14, 10, 8, 7);
    machine.process(20, 1, 9, 150);
    machine.busy(400);
    let sample = workloads.sample(at(2), &[triton()]);
    let used = ["process/10@5", "process/11@6", "process/12@6", "process/20@9", REMAINDER].map(|id| cpu(&sample, id));
    assert_eq!(used, [100, 30, 62, 150, 58].map(|ticks| Some(ticks * TICK)));
    assert_eq!(total(&sample), 400 * TICK);
    assert_eq!((cpu(&sample, "process/13@7"), cpu(&sample, "process/14@8")), (None, None));
    let whole = row(&sample, "process/10@5").expect("the server");
    let second = row(&sample, "process/12@6").expect("the part");
    assert_eq!((&whole.workload.part_of, whole.workload.reserved_millicores), (&None, Some(500)));
    assert_eq!(second.workload.part_of.as_deref(), Some("process/10@5"));
    assert_eq!((second.workload.name.as_str(), second.workload.reserved_millicores), ("scorer@2", None));
    assert_eq!(second.memory_bytes, whole.memory_bytes.map(|one| 3 * one), "each of its processes holds as much");
    assert_eq!(part(&sample, "process/10@5", "1"), Some("process/11@6"));
    assert_eq!(part(&sample, "process/10@5", "2"), Some("process/12@6"));
    assert_eq!(sample.parts.len(), 2);
    // The oldest ends: the other instance goes on in a row of its own, and nothing is counted twice.
    machine.end(12);
    machine.process(13, 1, 7, 15);
    machine.process(14, 10, 8, 17);
    machine.busy(420);
    let sample = workloads.sample(at(3), &[triton()]);
    assert_eq!(part(&sample, "process/10@5", "2"), Some("process/14@8"));
    assert_eq!(cpu(&sample, "process/14@8"), Some(20 * TICK));
    assert_eq!(row(&sample, "process/14@8").and_then(|row| row.origin), Some(at(2)));
}

#[test]
fn without_a_rule_the_tree_stays_one_row() {
    let machine = Machine::new();
    machine.process(10, 1, 5, 0);
    machine.stub(11, 6, 0, 1);
    let mut workloads = machine.workloads();
    workloads.sample(at(1), &[server(10, 5)]);
    machine.process(11, 10, 6, 30);
    machine.busy(30);
    let sample = workloads.sample(at(2), &[server(10, 5)]);
    assert_eq!((cpu(&sample, "process/10@5"), sample.parts.len()), (Some(30 * TICK), 0));
}

#[test]
fn a_version_that_is_loaded_later_has_its_start_too_and_a_reloaded_one_another_row() {
    let machine = Machine::new();
    machine.process(10, 1, 5, 0);
    let mut workloads = machine.workloads();
    workloads.sample(at(1), &[triton()]);
    // Just forked: it still looks like the server.
    machine.process(11, 10, 150, 10);
    machine.write("proc/11/cmdline", "/opt/server\0--model-repository=/repo\0");
    machine.busy(10);
    let forked = workloads.sample(at(2), &[triton()]);
    assert_eq!((cpu(&forked, "process/10@5"), forked.parts.len()), (Some(10 * TICK), 0));
    machine.stub(11, 150, 40, 1);
    machine.busy(40);
    let loaded = workloads.sample(at(3), &[triton()]);
    assert_eq!((cpu(&loaded, "process/10@5"), cpu(&loaded, "process/11@150")), (Some(10 * TICK), Some(30 * TICK)));
    assert_eq!(row(&loaded, "process/11@150").and_then(|row| row.origin), Some(at(2)));
    assert_eq!(part(&loaded, "process/10@5", "1"), Some("process/11@150"), "no count of it is needed");
    machine.end(11);
    machine.busy(40);
    let unloaded = workloads.sample(at(4), &[triton()]);
    assert_eq!((unloaded.parts.len(), cpu(&unloaded, "process/11@150")), (0, None));
    machine.stub(12, 450, 25, 1);
    machine.busy(65);
    let reloaded = workloads.sample(at(5), &[triton()]);
    assert_eq!(part(&reloaded, "process/10@5", "1"), Some("process/12@450"));
    let again = row(&reloaded, "process/12@450").expect("its row");
    assert_eq!((again.cpu_nanos, again.origin), (25 * TICK, Some(BootNanos(4_500_000_000))));
    // What the ended one used is in the sum of its own row, which is not shown any more.
    assert_eq!(total(&reloaded), 35 * TICK);
}

#[test]
fn a_reused_pid_is_another_part_or_none() {
    let machine = Machine::new();
    machine.process(10, 1, 5, 0);
    machine.stub(11, 6, 0, 1);
    machine.stub(12, 6, 0, 2);
    let mut workloads = machine.workloads();
    workloads.sample(at(1), &[triton()]);
    machine.process(11, 10, 6, 20);
    machine.process(12, 10, 6, 30);
    machine.busy(50);
    workloads.sample(at(2), &[triton()]);
    for pid in [11, 12] {
        machine.end(pid);
    }
    machine.stub(11, 250, 4, 2);
    machine.process(12, 1, 250, 3);
    machine.busy(57);
    let sample = workloads.sample(at(3), &[triton()]);
    assert_eq!(
        (part(&sample, "process/10@5", "1"), part(&sample, "process/10@5", "2")),
        (None, Some("process/11@250"))
    );
    assert_eq!(cpu(&sample, "process/11@250"), Some(4 * TICK));
    assert_eq!((cpu(&sample, "process/11@6"), cpu(&sample, "process/12@250")), (None, None));
}

#[test]
fn what_an_ended_part_started_is_the_servers() {
    let machine = Machine::new();
    machine.process(10, 1, 5, 0);
    machine.stub(11, 6, 0, 1);
    machine.process(12, 11, 7, 0);
    let mut workloads = machine.workloads();
    workloads.sample(at(1), &[triton()]);
    machine.process(12, 11, 7, 10);
    machine.busy(10);
    assert_eq!(cpu(&workloads.sample(at(2), &[triton()]), "process/11@6"), Some(10 * TICK));
    machine.end(11);
    machine.process(12, 1, 7, 30);
    machine.busy(30);
    let sample = workloads.sample(at(3), &[triton()]);
    assert_eq!((cpu(&sample, "process/10@5"), sample.parts.len()), (Some(20 * TICK), 0));
    // Another process for that version: the orphan works for it again.
    machine.stub(13, 250, 0, 1);
    machine.process(12, 1, 7, 35);
    machine.busy(35);
    assert_eq!(cpu(&workloads.sample(at(4), &[triton()]), "process/13@250"), Some(5 * TICK));
}

#[test]
fn parts_are_split_out_of_the_container_that_stands_for_the_server() {
    let machine = Machine::new();
    let id = "c".repeat(64);
    let scope = format!("system.slice/docker-{id}.scope");
    let usage = |path: &str, ticks: u64| {
        machine.write(&format!("cgroup/cpuacct/{path}/cpuacct.usage"), &(ticks * TICK).to_string());
    };
    usage("", 0);
    usage(&scope, 0);
    let page = u64::try_from(nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).expect("known").expect("set"))
        .expect("positive");
    machine.write(&format!("cgroup/memory/{scope}/memory.usage_in_bytes"), &(10 * page).to_string());
    machine.process(10, 1, 5, 0);
    machine.stub(11, 6, 0, 1);
    // The path is the version's, the group is not the server's: it is counted where it runs.
    machine.stub(12, 6, 0, 2);
    for pid in [10, 11] {
        machine.write(&format!("proc/{pid}/cgroup"), &format!("2:cpuacct:/{scope}\n"));
    }
    machine.write("proc/12/cgroup", "2:cpuacct:/\n");
    let mut workloads = machine.workloads();
    workloads.sample(at(1), &[triton()]);
    usage("", 100);
    usage(&scope, 90);
    machine.process(10, 1, 5, 20);
    machine.process(11, 10, 6, 60);
    machine.process(12, 10, 6, 10);
    let sample = workloads.sample(at(2), &[triton()]);
    let container = format!("container/{id}");
    assert_eq!(sample.groups.get("t10"), Some(&container));
    assert_eq!((cpu(&sample, &container), cpu(&sample, "process/11@6")), (Some(30 * TICK), Some(60 * TICK)));
    assert_eq!(total(&sample), 100 * TICK);
    assert_eq!((part(&sample, &container, "1"), sample.parts.len()), (Some("process/11@6"), 1));
    let own = row(&sample, "process/11@6").expect("the part");
    assert_eq!(own.workload.part_of.as_ref(), Some(&container));
    assert_eq!(own.workload.container_id.as_ref(), Some(&id));
    assert_eq!((own.workload.cgroup.as_ref(), own.memory_bytes), (None, Some(2 * page)));
    assert_eq!(row(&sample, &container).and_then(|row| row.memory_bytes), Some(8 * page));
}
