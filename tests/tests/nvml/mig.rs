//! GPUs that are divided into instances: the whole GPU's energy, each instance's user by its slices and its memory.

use super::{BEGIN, use_of, user, uuid};
use joulebook_hwsim::node::Options;
use joulebook_hwsim::workload::Workload;
use joulebook_tests::simulated::{Rig, SECOND};

const GPU_GIB: u64 = 80;
/// What a share in millionths may round off, in ns, of a minute.
const ROUNDING: u64 = 60_000;

fn on(instance: u8, workload: Workload) -> Workload {
    Workload { gpu_instance: instance, ..workload }
}

#[test]
fn users_of_instances_have_their_slices_of_the_whole_and_hold_their_instances_memory() {
    let mut rig = Rig::new("dgx-h100", Options::default()).unwrap();
    rig.node.divide(1, &[3, 2, 1]).unwrap();
    // Alone on three slices, all the time; two on two slices, by their memory; nobody on the last one, nobody's the seventh.
    rig.node.add_workload(on(1, user("big", 4_001, 1, 1_000, 30))).unwrap();
    rig.node.add_workload(on(2, user("left", 4_002, 1, 300, 6))).unwrap();
    rig.node.add_workload(on(2, user("right", 4_003, 1, 200, 3))).unwrap();
    rig.start().unwrap();
    rig.pass(60, SECOND).unwrap();
    let used = use_of(&mut rig, 1);
    let minute = 60 * SECOND;
    let is = |name: &str, nanos: u64, bytes: u64| {
        let (shown, held) = used[&format!("unit/{name}.service")];
        assert!(shown.unwrap().abs_diff(nanos) <= ROUNDING, "{name}: {shown:?} ns of {nanos}");
        assert!(held.unwrap().abs_diff(bytes) <= 1, "{name}: {held:?} bytes of {bytes}");
    };
    is("big", minute * 3 / 7, (GPU_GIB / 2) << 30);
    // The instance is busy half of the time, which is a seventh of the whole.
    is("left", minute / 7 * 2 / 3, ((GPU_GIB / 4) << 30) * 2 / 3);
    is("right", minute / 7 / 3, ((GPU_GIB / 4) << 30) / 3);

    // Energy is the whole GPU's, counted once: no instance has a source.
    let sources: Vec<String> = rig.energy("nvml").into_keys().filter(|id| id.contains(&uuid(1))).collect();
    assert_eq!(sources, [format!("nvml/{}", uuid(1)), format!("nvml/{}/power", uuid(1))]);
    let (source, report) = rig.energy("nvml").remove(&sources[0]).unwrap();
    assert!(source.basis.contains("MIG"), "{}", source.basis);
    let (first, last) = (report.points[0].0 - BEGIN, report.points.last().unwrap().0 - BEGIN);
    assert!(report.agrees(rig.leaf_truth("gpu1", first, last)), "{report:?}");
}

#[test]
fn a_gpu_that_is_divided_while_the_agent_runs_is_refused_nothing_until_the_next_look() {
    let mut rig = Rig::new("dgx-h100", Options::default()).unwrap();
    rig.node.add_workload(user("one", 4_001, 0, 500, 30)).unwrap();
    rig.start().unwrap();
    rig.pass(2, SECOND).unwrap();
    assert!(!rig.inventory().sources.iter().any(|state| state.source.basis.contains("MIG")));
    rig.node.remove_workload("one").unwrap();
    rig.node.divide(0, &[7]).unwrap();
    rig.pass(2, SECOND).unwrap();
    assert!(rig.sampler().refused().is_empty(), "{:?}", rig.sampler().refused());
}
