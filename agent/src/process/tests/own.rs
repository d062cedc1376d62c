//! What Joulebook's own processes use.

use super::*;
use joulebook_units::OwnProgram;

/// A process with a command name, in a control group.
fn command(machine: &Machine, (pid, name): (i32, &str), ticks: u64, path: &str) {
    let line = format!("{pid} ({name}) S 1 0 0 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1 0 5 0 2 0\n");
    machine.write(&format!("proc/{pid}/stat"), &line);
    machine.write(&format!("proc/{pid}/cgroup"), &format!("2:cpuacct:{path}\n"));
}

#[test]
fn programs_of_joulebook_have_rows_of_their_own_in_whatever_group_they_run() {
    let machine = Machine::new();
    let (id, uid) = ("c".repeat(64), "8c4b0b0f-1f7a-4b9a-9d2a-0a1b2c3d4e5f");
    let pod = format!("kubepods.slice/kubepods-pod{}.slice/cri-containerd-{id}.scope", uid.replace('-', "_"));
    let unit = "system.slice/joulebook.service";
    let usage =
        |path: &str, nanos: u64| machine.write(&format!("cgroup/cpuacct/{path}/cpuacct.usage"), &nanos.to_string());
    let written = |aggregator: u64, agent: u64, root: u64| {
        command(&machine, (10, "joulebook-aggre"), aggregator, &format!("/{pod}"));
        command(&machine, (20, "joulebook-agent"), agent, &format!("/{unit}"));
        command(&machine, (30, "joulebook-aggre"), root, "/");
        command(&machine, (40, "joulebook-agen"), aggregator, &format!("/{unit}"));
    };
    for path in ["", &pod, unit] {
        usage(path, 0);
    }
    written(0, 0, 0);
    let mut workloads = machine.workloads();
    workloads.sample(at(1), &[]);
    usage("", 9 * SECOND);
    usage(&pod, 3 * SECOND);
    usage(unit, 5 * SECOND);
    written(100, 7, 2);
    let sample = workloads.sample(at(2), &[]);
    let row = |id: &str| sample.rows.iter().find(|row| row.workload.id == id).expect("a row");
    let program = |id: &str| row(id).workload.own_program();
    assert_eq!(program("process/10@5"), Some(OwnProgram::Aggregator));
    assert_eq!((row("process/10@5").cpu_nanos, row("process/20@5").cpu_nanos), (100 * TICK, 7 * TICK));
    assert_eq!((program("process/20@5"), program("process/30@5")), (Some(OwnProgram::Agent), program("process/10@5")));
    // What else is in their groups stays there, and nothing is counted twice.
    let (container, service) = (format!("container/{id}"), "unit/joulebook.service");
    assert_eq!((cpu(&sample, &container), cpu(&sample, "process/40@5")), (Some(2 * SECOND), None));
    assert_eq!(cpu(&sample, service), Some(5 * SECOND - 7 * TICK));
    assert_eq!((program(&container), program(service)), (None, None));
    assert_eq!(total(&sample), 9 * SECOND);
    // They stay in their container and pod.
    let workload = &row("process/10@5").workload;
    assert_eq!((workload.container_id.as_deref(), workload.pod_uid.as_deref()), (Some(id.as_str()), Some(uid)));
}
