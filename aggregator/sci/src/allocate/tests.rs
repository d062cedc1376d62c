use super::*;
use crate::cell::{EntryKey, ServiceUse};
use crate::sample;
use alloc::string::ToString;
use alloc::sync::Arc;
use joulebook_units::{CountKind, PodIdentity, Support, Workload, WorkloadKind};
use proptest::prelude::*;

fn service(version: &str) -> Arc<Service> {
    Arc::new(Service { workload: Some(alloc::format!("process/{version}")), ..sample::service(version) })
}

fn workload() -> Arc<Workload> {
    Arc::new(Workload::bare("remainder", WorkloadKind::Remainder, "other"))
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
    NodeSlot {
        node: "n".to_string(),
        pool: pool.to_string(),
        simulated: false,
        support: Vec::new(),
        cell,
        embodied_g: 12.0,
    }
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
        let held: Vec<_> = versions.iter().map(|(name, _, held)| (*name, *held)).collect();
        let nodes = [
            node("a", &versions, idle, platform),
            node("a", &[], idle / 2, 9),
            node("b", &[], 17, 1),
            with_accelerators("b", 2, &held, idle / 3),
            NodeSlot { simulated: true, ..with_accelerators("a", 1, &held, idle) },
            NodeSlot { simulated: true, ..node("c", &[], 5, platform) },
        ];
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
fn a_version_without_a_weight_has_no_entry_on_a_node_whose_idle_it_does_not_carry() {
    let nodes = [node("a", &[("1", 100, 500), ("2", 100, 0)], 0, 0), node("a", &[], 40, 0)];
    let costs = allocate(&nodes, IdlePolicy::ReservedCapacityTime);
    assert_eq!(costs.versions[&(1, ModelVersion::of(&service("1")))].pool_idle, 40);
    assert!(!costs.versions.contains_key(&(1, ModelVersion::of(&service("2")))), "it is not charged there");
}

#[test]
fn platform_enters_at_host_level_by_component_energy() {
    let nodes = [node("a", &[("1", 300, 1000)], 0, 97)];
    let costs = allocate(&nodes, IdlePolicy::ReservedCapacityTime);
    let cost = &costs.versions[&(0, ModelVersion::of(&service("1")))];
    // 300 of 485 µJ of components are its dynamic energy, 100 its dedicated idle.
    assert_eq!((cost.host, cost.platform, cost.dedicated_idle), (300, 60, 120));
}

/// A node with `devices` accelerators, of which versions hold so many thousandths.
fn with_accelerators(pool: &str, devices: u64, held: &[(&str, u64)], idle: u64) -> NodeSlot {
    let mut node = node(pool, &[], idle, 0);
    node.cell.capacity_device_nanos = devices * 1000;
    for (version, held) in held {
        let used = ServiceUse { reserved_device_nanos: *held, ..ServiceUse::default() };
        node.cell.services.insert(service(version), used);
    }
    node
}

fn charged(costs: &SlotCosts, node: usize, version: &str) -> VersionCost {
    costs.versions.get(&(node, ModelVersion::of(&service(version)))).cloned().unwrap_or_default()
}

#[test]
fn a_host_with_accelerators_follows_the_share_of_them_that_is_held() {
    let mut node = with_accelerators("a", 8, &[("1", 1000), ("2", 500)], 70);
    // Cores reserved beside accelerators are no second share of the same host.
    node.cell.services.insert(service("3"), ServiceUse { reserved_core_nanos: 900, ..ServiceUse::default() });
    let costs = allocate(&[node.clone()], IdlePolicy::Unallocated);
    let grams = ["1", "2", "3"].map(|version| charged(&costs, 0, version).embodied_g);
    assert!((grams[0] - 1.5).abs() < 1e-12 && (grams[1] - 0.75).abs() < 1e-12 && grams[2].abs() < 1e-12, "{grams:?}");
    let costs = allocate(&[node], IdlePolicy::ReservedCapacityTime);
    let idle = ["1", "2", "3"].map(|version| charged(&costs, 0, version).pool_idle);
    assert_eq!(idle, [47, 23, 0], "idle goes by the accelerators held, two to one");
}

#[test]
fn capacity_that_other_workloads_hold_is_in_nobodys_embodied_carbon() {
    let mut node = with_accelerators("a", 8, &[("1", 1000)], 0);
    let mut add = |account, purpose, energy| {
        node.cell.add(EntryKey { account, component: Component::Accelerator, purpose }, energy);
    };
    // Of the seven accelerators without a model, training holds six at the idle power of each, and one is free.
    add(Account::Workload(workload()), Purpose::Base, 420);
    add(Account::Workload(workload()), Purpose::Dynamic, 9_999);
    add(Account::PoolIdle, Purpose::PoolIdle, 70);
    let costs = allocate(&[node], IdlePolicy::ReservedCapacityTime);
    let cost = charged(&costs, 0, "1");
    assert!((cost.embodied_g - 1.5).abs() < 1e-12 && (cost.embodied_idle_g - 1.5).abs() < 1e-12, "{cost:?}");
    assert!((costs.embodied_unallocated_g[0] - 9.0).abs() < 1e-12);
}

#[test]
fn what_support_holds_has_its_embodied_carbon_charged_with_its_energy() {
    let of = |workload: Option<String>, pool: &str| Support {
        role: "router".to_string(),
        workload,
        pool: Some(pool.to_string()),
    };
    let mut node = with_accelerators("a", 8, &[("1", 1000)], 0);
    let mut add = |account, purpose, energy| {
        node.cell.add(EntryKey { account, component: Component::Accelerator, purpose }, energy);
    };
    // Of the seven accelerators without a model, support holds six, and one is free.
    add(Account::Workload(workload()), Purpose::Base, 420);
    add(Account::PoolIdle, Purpose::PoolIdle, 70);
    let policy = IdlePolicy::ReservedCapacityTime;
    for (support, policy, charged_g, left_g) in [
        (of(Some(workload().id.clone()), "a"), policy, 9.0, 0.0),
        (of(Some(workload().id.clone()), "nobody serves there"), policy, 0.0, 9.0),
        (of(Some(workload().id.clone()), "a"), IdlePolicy::Unallocated, 0.0, 10.5),
        // A node that is there for others is so with what is idle of it.
        (of(None, "a"), policy, 10.5, 0.0),
    ] {
        let costs = allocate(&[NodeSlot { support: vec![support.clone()], ..node.clone() }], policy);
        let cost = charged(&costs, 0, "1");
        assert!((cost.embodied_support_g - charged_g).abs() < 1e-12, "{support:?} {cost:?}");
        assert!((costs.embodied_unallocated_g[0] - left_g).abs() < 1e-12, "{support:?} {costs:?}");
        assert!((cost.embodied() + left_g - 12.0).abs() < 1e-12, "every gram is somewhere: {support:?}");
    }
}

#[test]
fn idle_of_each_kind_of_node_goes_first_to_those_who_hold_that_kind() {
    let nodes = [
        with_accelerators("a", 1, &[("gpu", 1000)], 10),
        node("a", &[("cpu", 100, 500)], 20, 0),
        with_accelerators("a", 1, &[], 40),
        node("a", &[], 80, 0),
        node("b", &[("other", 100, 500)], 0, 0),
        with_accelerators("b", 1, &[], 160),
    ];
    let costs = allocate(&nodes, IdlePolicy::ReservedCapacityTime);
    let idle = |node| ["gpu", "cpu", "other"].map(|version| charged(&costs, node, version).pool_idle);
    assert_eq!(idle(0), [10, 0, 0]);
    assert_eq!(idle(1), [0, 20, 0]);
    assert_eq!(idle(2), [40, 0, 0], "an idle accelerator is kept for who holds accelerators");
    assert_eq!(idle(3), [0, 80, 0], "an idle host is kept for who reserves cores");
    assert_eq!(idle(5), [0, 0, 160], "nobody in its pool holds accelerators");
    let support = [with_accelerators("a", 1, &[("gpu", 1000)], 0), node("a", &[], 7, 0)];
    let costs = allocate(&support, IdlePolicy::ReservedCapacityTime);
    assert_eq!(charged(&costs, 1, "gpu").pool_idle, 7, "a host without accelerators supports those who hold some");
}

#[test]
fn idle_capacity_of_simulated_nodes_is_charged_to_versions_on_simulated_nodes_only() {
    let real = [node("a", &[("1", 100, 500)], 5, 0), node("a", &[], 7, 0)];
    let simulated = [node("a", &[("2", 100, 500)], 9, 0), node("a", &[], 11, 0)];
    let simulated = simulated.map(|node| NodeSlot { simulated: true, ..node });
    let nodes: Vec<NodeSlot> = real.into_iter().chain(simulated).collect();
    for policy in POLICIES.into_iter().filter(|policy| *policy != IdlePolicy::Unallocated) {
        let costs = allocate(&nodes, policy);
        let idle = |version| (0..4).map(|node| charged(&costs, node, version).pool_idle).collect::<Vec<_>>();
        assert_eq!((idle("1"), idle("2")), (vec![5, 7, 0, 0], vec![0, 0, 9, 11]), "{policy:?}");
    }
    let alone = [node("a", &[("1", 100, 500)], 5, 0), NodeSlot { simulated: true, ..node("a", &[], 7, 0) }];
    assert_eq!(allocate(&alone, IdlePolicy::ReservedCapacityTime).ledgers[1].unallocated_idle, 7);
}

#[test]
fn accelerators_are_used_for_the_part_of_their_time_in_which_counts_move() {
    let mut node = with_accelerators("a", 2, &[], 90);
    let used = |executing_nanos| ServiceUse {
        reserved_device_nanos: 1000,
        executing_nanos,
        resident_nanos: 1000,
        cpu_nanos: 1,
        ..ServiceUse::default()
    };
    node.cell.services.insert(service("1"), used(200));
    node.cell.services.insert(service("2"), used(100));
    let costs = allocate(&[node], IdlePolicy::UsageTime);
    assert_eq!(["1", "2"].map(|version| charged(&costs, 0, version).pool_idle), [60, 30]);
}

#[test]
fn support_is_charged_to_the_versions_of_its_pool_by_the_policys_weights_and_stays_where_nobody_is() {
    let declared = |workload: Option<&str>, pool: &str| Support {
        role: "router".to_string(),
        workload: workload.map(str::to_string),
        pool: Some(pool.to_string()),
    };
    let serving = node("chat", &[("1", 300, 500), ("2", 100, 1_500)], 0, 0);
    let router = |support| {
        let mut cell = Cell::default();
        let account = Account::Workload(workload());
        cell.add(EntryKey { account, component: Component::Cpu, purpose: Purpose::Dynamic }, 1_001);
        let account = Account::PoolIdle;
        cell.add(EntryKey { account, component: Component::Cpu, purpose: Purpose::PoolIdle }, 200);
        let (node, pool) = ("r".to_string(), "infra".to_string());
        NodeSlot { node, pool, simulated: false, support: vec![support], cell, embodied_g: 0.0 }
    };
    let version = |number: &str| ModelVersion::of(&service(number));
    let policy = IdlePolicy::ReservedCapacityTime;
    for (support, charged, left) in [
        (declared(Some(&workload().id), "chat"), 1_001, 0),
        (declared(None, "chat"), 1_201, 0),
        (declared(Some("another"), "chat"), 0, 1_001),
        (declared(Some(&workload().id), "nobody serves there"), 0, 1_001),
    ] {
        let costs = allocate(&[serving.clone(), router(support.clone())], policy);
        let of = |number: &str| costs.versions.get(&(1, version(number))).map_or(0, |cost| cost.support);
        assert_eq!((of("1") + of("2"), costs.ledgers[1].workloads), (charged, left), "{support:?}");
        assert!(charged == 0 || of("2").abs_diff(3 * of("1")) <= 3, "three quarters are reserved by 2: {support:?}");
        let booked: u64 =
            costs.versions.iter().filter(|((index, _), _)| *index == 1).map(|(_, cost)| cost.with_idle()).sum();
        assert_eq!(booked + costs.ledgers[1].total(), 1_201, "every microjoule is somewhere: {support:?}");
        let costs = allocate(&[serving.clone(), router(support)], IdlePolicy::Unallocated);
        assert!(costs.versions.values().all(|cost| cost.support == 0));
    }
    // A pod's label says it of that pod, whatever is declared for the node.
    let pod = PodIdentity { support_of: Some("chat".to_string()), ..PodIdentity::default() };
    let account = Account::Workload(Workload { pod: Some(pod), ..(*workload()).clone() }.into());
    let mut node = router(declared(None, "nobody serves there"));
    node.cell = Cell::default();
    node.cell.add(EntryKey { account, component: Component::Cpu, purpose: Purpose::Dynamic }, 1_001);
    let costs = allocate(&[serving, node], policy);
    let of = |number: &str| costs.versions.get(&(1, version(number))).map_or(0, |cost| cost.support);
    assert_eq!((of("1") + of("2"), costs.ledgers[1].workloads), (1_001, 0));
}
