use super::*;
use crate::cell::{EntryKey, ServiceUse};
use alloc::string::ToString;
use alloc::sync::Arc;
use joulebook_units::{CpuTimeMethod, VersionSource, Workload, WorkloadKind};
use proptest::prelude::*;

fn service(version: &str) -> Arc<Service> {
    Arc::new(Service {
        model: Some("tiny".to_string()),
        version: Some(version.to_string()),
        version_source: VersionSource::Config,
        fingerprint: None,
        adapter: None,
        engine: "custom".to_string(),
        target: alloc::format!("http://{version}/"),
        workload: Some(alloc::format!("process/{version}")),
        tokenizer: None,
    })
}

fn workload() -> Arc<Workload> {
    Arc::new(Workload {
        id: "remainder".to_string(),
        kind: WorkloadKind::Remainder,
        name: "other".to_string(),
        cgroup: None,
        container_id: None,
        pod_uid: None,
        cpu_time_method: CpuTimeMethod::ProcessTime,
        reserved_millicores: None,
        reservation_origin: None,
        part_of: None,
    })
}

/// A node on which `versions` use energy and reserve capacity.
fn node(pool: &str, versions: &[(&str, u64, u64)], idle: u64, platform: u64) -> NodeSlot {
    let mut cell = Cell { capacity_core_nanos: 1000, ..Cell::default() };
    let mut add = |account, component, purpose, energy| cell.add(EntryKey { account, component, purpose }, energy);
    for (version, energy, _) in versions {
        add(Account::Service(service(version)), Component::Cpu, Purpose::Dynamic, *energy);
        add(Account::Service(service(version)), Component::Dram, Purpose::DedicatedIdle, energy / 3);
    }
    add(Account::Workload(workload()), Component::Cpu, Purpose::Dynamic, 77);
    add(Account::System, Component::Cpu, Purpose::Dynamic, 5);
    add(Account::Unattributed, Component::Cpu, Purpose::Dynamic, 3);
    add(Account::PoolIdle, Component::Cpu, Purpose::PoolIdle, idle);
    add(Account::Platform, Component::Other, Purpose::Residual, platform);
    for (version, _, reserved) in versions {
        let used = ServiceUse {
            reserved_core_nanos: *reserved,
            cpu_nanos: *reserved,
            resident_nanos: 10,
            counts: [(CountKind::RequestsOk, 2)].into(),
            ..ServiceUse::default()
        };
        cell.services.insert(service(version), used);
    }
    NodeSlot { node: "n".to_string(), pool: pool.to_string(), cell, embodied_g: 12.0 }
}

const POLICIES: [IdlePolicy; 6] = [
    IdlePolicy::ReservedCapacityTime,
    IdlePolicy::ActiveEnergy,
    IdlePolicy::Requests,
    IdlePolicy::UsageTime,
    IdlePolicy::Equal,
    IdlePolicy::Unallocated,
];

proptest! {
    #[test]
    fn every_joule_and_gram_of_every_node_is_charged_once_under_every_policy(
        energies in prop::collection::vec((0u64..1 << 40, 0u64..500), 0..3),
        idle in 0u64..1 << 40,
        platform in 0u64..1 << 40,
    ) {
        let names = ["1", "2", "3"];
        let versions: Vec<_> = names.iter().zip(&energies).map(|(name, (energy, held))| (*name, *energy, *held)).collect();
        let nodes = [node("a", &versions, idle, platform), node("a", &[], idle / 2, 9), node("b", &[], 17, 1)];
        for policy in POLICIES {
            let costs = allocate(&nodes, policy);
            for (index, node) in nodes.iter().enumerate() {
                let mine = costs.versions.iter().filter(|((other, _), _)| *other == index);
                let charged: u64 = mine.clone().map(|(_, cost)| cost.with_idle()).sum();
                prop_assert_eq!(charged + costs.ledgers[index].total(), node.cell.total_microjoules());
                let grams: f64 = mine.map(|(_, cost)| cost.embodied_g + cost.embodied_idle_g).sum();
                prop_assert!((grams + costs.embodied_unallocated_g[index] - 12.0).abs() < 1e-9);
            }
        }
    }
}

#[test]
fn idle_of_a_node_without_holders_goes_to_the_pool_then_the_cluster_then_the_ledger() {
    let nodes = [node("a", &[("1", 100, 500)], 0, 0), node("a", &[], 40, 0), node("b", &[], 60, 0)];
    let costs = allocate(&nodes, IdlePolicy::ReservedCapacityTime);
    let key = ModelVersion::of(&service("1"));
    assert_eq!(costs.versions[&(1, key.clone())].pool_idle, 40);
    assert_eq!(costs.versions[&(2, key)].pool_idle, 60);
    assert_eq!(costs.scopes.len(), 3);
    let costs = allocate(&nodes, IdlePolicy::Unallocated);
    assert_eq!(costs.ledgers[1].unallocated_idle, 40);
    assert!(costs.scopes.is_empty());
}

#[test]
fn platform_enters_at_host_level_by_component_energy() {
    let nodes = [node("a", &[("1", 300, 1000)], 0, 97)];
    let costs = allocate(&nodes, IdlePolicy::ReservedCapacityTime);
    let cost = &costs.versions[&(0, ModelVersion::of(&service("1")))];
    // 300 of 485 µJ of components are its dynamic energy, 100 its dedicated idle.
    assert_eq!((cost.host, cost.platform, cost.dedicated_idle), (300, 60, 120));
}
