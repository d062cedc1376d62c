//! The module of a superchip: its power is a layer around the GPU, told and never added.

use joulebook_hwsim::node::Options;
use joulebook_tests::simulated::{BEGIN, Rig, SECOND};
use joulebook_units::{Component, Layer};

#[test]
fn the_module_of_a_superchip_is_a_layer_around_its_gpu() {
    let mut rig = Rig::new("gh200", Options::default()).unwrap();
    rig.start().unwrap();
    rig.pass(60, SECOND).unwrap();
    let sources = rig.energy("nvml");
    let (module, report) = sources.iter().find(|(id, _)| id.ends_with("/module")).map(|(_, found)| found).unwrap();
    let scope = module.scope.as_ref().unwrap();
    let gpu = &scope.members[0];
    assert_eq!((module.component, scope.layer, scope.members.len()), (Component::Wall, Layer::Board, 1));
    assert!(sources[gpu].0.is_part() && !module.is_part(), "the GPU is added, its module is not");
    let (first, last) = (report.points[0].0 - BEGIN, report.points.last().unwrap().0 - BEGIN);
    let truth = rig.node.truth(first, last).leaves;
    let inside = truth.iter().filter(|(leaf, _)| leaf.starts_with("grace") || leaf.starts_with("gpu"));
    let whole: i128 = inside.map(|(_, microjoules)| microjoules).sum();
    assert!(report.agrees(whole), "{} of {whole}", report.value);
    assert!(report.value > sources[gpu].1.value, "it is more than its GPU");

    // Another GPU is part of no module.
    let mut rig = Rig::new("l40s-4gpu", Options::default()).unwrap();
    rig.start().unwrap();
    rig.pass(2, SECOND).unwrap();
    assert!(!rig.energy("nvml").keys().any(|id| id.ends_with("/module")));
}
