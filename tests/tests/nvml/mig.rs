//! GPUs that are divided into instances: the whole GPU's energy, each instance's user by its slices and its memory.

use super::{BEGIN, use_of, user, uuid};
use joulebook_hwsim::node::Options;
use joulebook_hwsim::workload::Workload;
use joulebook_tests::page::serve;
use joulebook_tests::simulated::{Report, Rig, SECOND, profile};
use joulebook_units::Subject;
use std::collections::BTreeMap;

const GPU_GIB: u64 = 80;
/// What a share in millionths may round off, in ns, of a minute.
const ROUNDING: u64 = 60_000;

fn on(instance: u8, workload: Workload) -> Workload {
    Workload { gpu_instance: instance, ..workload }
}

#[test]
fn users_of_instances_have_their_slices_of_the_whole_and_hold_those_and_their_instances_memory() {
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
    let slices = |(subject, report): (Subject, Report)| match subject {
        Subject::DeviceSlices { device, workload, of: 7 } if device == uuid(1) => {
            Some((workload, report.points.last().unwrap().1))
        }
        _ => None,
    };
    let slices: BTreeMap<String, u64> = rig.series().into_iter().filter_map(slices).collect();
    let held = [("big", 3_000_000), ("left", 1_333_333), ("right", 666_667)];
    assert_eq!(slices, held.map(|(name, held)| (format!("unit/{name}.service"), held)).into());

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

#[test]
fn counters_of_activity_are_read_of_divided_gpus_alone_for_they_raise_a_gpus_idle_power() {
    let mut rig = Rig::new("dgx-h100", Options::default()).unwrap();
    rig.node.add_workload(user("one", 4_001, 0, 500, 30)).unwrap();
    rig.start().unwrap();
    rig.pass(120, SECOND).unwrap();
    assert!(!rig.node.read_activity_counters(), "no GPU is divided");
    let mut divided = Rig::new("dgx-h100", Options::default()).unwrap();
    divided.node.divide(1, &[3]).unwrap();
    divided.node.add_workload(on(1, user("big", 4_001, 1, 1_000, 30))).unwrap();
    divided.start().unwrap();
    divided.pass(5, SECOND).unwrap();
    assert!(divided.node.read_activity_counters(), "their instances tell nothing else");
}

/// URL of a page of dcgm-exporter.
fn exporter(page: String) -> String {
    format!("http://{}/metrics", serve(move || page.clone()).unwrap())
}

/// Busy time of the only unit on a GPU, in ns.
fn busy(rig: &mut Rig, slot: usize) -> u64 {
    use_of(rig, slot).get("unit/big.service").and_then(|used| used.0).unwrap_or(0)
}

#[test]
fn a_gpu_that_does_not_tell_its_instances_activity_has_it_from_the_exporters_page_or_not_at_all() {
    let mut ampere = profile("dgx-h100").unwrap();
    ampere.gpus.as_mut().unwrap().model = "NVIDIA A100-SXM4-80GB".to_owned();
    let divided = |url: Option<String>| {
        let mut rig = Rig::of(ampere.clone(), Options::default()).unwrap();
        rig.config.nvml.dcgm_url = url;
        rig.node.divide(2, &[3]).unwrap();
        rig.node.add_workload(on(1, user("big", 4_001, 2, 1_000, 30))).unwrap();
        rig.start().unwrap();
        rig.pass(3, SECOND).unwrap();
        rig
    };
    let mut without = divided(None);
    assert_eq!(busy(&mut without, 2), 0, "nothing is made up");
    let page = format!("DCGM_FI_PROF_GR_ENGINE_ACTIVE{{gpu=\"2\",UUID=\"{}\",GPU_I_ID=\"1\"}} 0.5\n", uuid(2));
    let mut with = divided(Some(exporter(page)));
    let mut rows = 0;
    while busy(&mut with, 2) == 0 {
        // The page is read by a thread of the helper.
        std::thread::sleep(std::time::Duration::from_millis(20));
        with.pass(1, SECOND).unwrap();
        rows += 1;
        assert!(rows < 3_000, "the page is never read");
    }
    let before = busy(&mut with, 2);
    with.pass(14, SECOND).unwrap();
    let shown = busy(&mut with, 2) - before;
    assert!(shown.abs_diff(14 * SECOND * 3 / 7 / 2) <= ROUNDING, "{shown} ns");
}
