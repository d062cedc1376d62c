//! Joules: what the ledger makes of rows is what the script says, and nothing is lost or counted twice.

use super::*;
use joulebook_proto::query::{EnergyBy, EnergyRow, GetEnergyRequest};
use joulebook_tests::scripted::NODES;
use std::collections::BTreeMap;

#[test]
fn cells_out_of_rows_are_those_that_are_written_without() {
    let fleet = &*FLEET;
    let last = fleet.script.hours().last().expect("an hour");
    for (node, known) in NODES.iter().enumerate() {
        let (found, minute) = (fleet.from_rows(node), fleet.minute(node, last));
        assert_eq!(found.len(), 60);
        assert!(found.iter().all(|cell| *cell == minute), "{}: {:?}\n{minute:?}", known.name, found[30]);
    }
}

fn rows(by: EnergyBy, policy: IdlePolicy) -> (Vec<EnergyRow>, u64) {
    let fleet = &*FLEET;
    let asked = GetEnergyRequest {
        window: Some(wire(fleet.script.window())),
        by: by.into(),
        idle_policy: policy.into(),
        level: Level::Idle.into(),
        ..GetEnergyRequest::default()
    };
    let found = fleet.query().energy(&asked).expect("well-formed");
    (found.rows, found.total_microjoules)
}

#[test]
fn every_microjoule_of_thirty_days_is_on_its_node_and_in_one_account() {
    let fleet = &*FLEET;
    let truth = truth(fleet);
    let whole: u64 = truth.input_microjoules.values().sum();
    let (nodes, total) = rows(EnergyBy::Node, IdlePolicy::ReservedCapacityTime);
    assert_eq!(total, whole);
    let by_node: BTreeMap<&str, u64> =
        nodes.iter().map(|row| (row.key[0].value.as_str(), row.microjoules.expect("known"))).collect();
    assert_eq!(by_node, truth.input_microjoules);
    for policy in POLICIES {
        let (models, total) = rows(EnergyBy::Model, policy);
        assert_eq!(models.iter().filter_map(|row| row.microjoules).sum::<u64>(), total);
        assert_eq!(total, whole, "{policy:?}");
    }
}
