use super::*;
use crate::allocate::{IdlePolicy, ModelVersion, allocate};
use crate::cell::WorkloadUse;
use alloc::string::ToString;
use alloc::vec;
use joulebook_units::{Component, CountKind, Serving, VersionSource, WorkloadKind};
use proptest::prelude::*;

fn service(target: &str, model: &str, role: Option<ServiceRole>, group: Option<&str>) -> Arc<Service> {
    Arc::new(Service {
        model: Some(model.to_string()),
        version: Some("1".to_string()),
        version_source: VersionSource::Config,
        fingerprint: None,
        adapter: None,
        engine: "vllm".to_string(),
        target: target.to_string(),
        workload: Some(target.to_string()),
        tokenizer: None,
        serving: Serving { role, group: group.map(ToString::to_string), ..Serving::default() },
    })
}

fn worker(group: Option<&str>, engine: Option<&str>) -> Arc<Workload> {
    let bare = Workload::bare("w", WorkloadKind::Container, "worker");
    Arc::new(Workload { group: group.map(ToString::to_string), engine: engine.map(ToString::to_string), ..bare })
}

fn counted(requests: u64) -> ServiceUse {
    ServiceUse {
        counts: [(CountKind::RequestsOk, requests)].into(),
        counted_nanos: 100,
        executing_nanos: 75,
        resident_nanos: 100,
        ..ServiceUse::default()
    }
}

fn node(name: &str) -> NodeSlot {
    NodeSlot {
        node: name.to_string(),
        pool: "p".to_string(),
        simulated: false,
        support: Vec::new(),
        cell: Cell::default(),
        embodied_g: 0.0,
    }
}

fn serving(name: &str, service: &Arc<Service>, used: ServiceUse, energy: u64) -> NodeSlot {
    let mut node = node(name);
    let account = Account::Service(Arc::clone(service));
    node.cell.add(EntryKey { account, component: Component::Accelerator, purpose: Purpose::Dynamic }, energy);
    let used = ServiceUse { joint_microjoules: energy, ..used };
    node.cell.services.insert(Arc::clone(service), used);
    node
}

fn working(name: &str, workload: &Arc<Workload>, energy: u64) -> NodeSlot {
    let mut node = node(name);
    let account = Account::Workload(Arc::clone(workload));
    node.cell.add(EntryKey { account, component: Component::Cpu, purpose: Purpose::Base }, energy);
    node.cell.workloads.insert(Arc::clone(workload), WorkloadUse { cpu_nanos: 9 });
    node
}

fn charged(nodes: &[NodeSlot], target: &Arc<Service>) -> u64 {
    let costs = allocate(nodes, IdlePolicy::Unallocated);
    let mine = costs.versions.iter().filter(|((_, version), _)| *version == ModelVersion::of(target));
    mine.map(|(_, cost)| cost.with_idle()).sum()
}

#[test]
fn energy_of_nodes_without_counts_goes_to_their_group() {
    let head = service("head", "m", None, Some("g"));
    let mut nodes = [serving("a", &head, counted(8), 1_000), working("b", &worker(Some("g"), Some("vllm")), 4_001)];
    regroup(&mut nodes, OutputWeight::default());
    assert_eq!(charged(&nodes, &head), 5_001);
    let idle: u64 =
        nodes[1].cell.entries.iter().filter(|(key, _)| key.purpose == Purpose::DedicatedIdle).map(|(_, e)| *e).sum();
    assert_eq!(idle, 1_000, "a quarter of the time the head's counts stood still");
    let used = nodes[1].cell.services.get(&head).expect("the head's row on the other node");
    assert_eq!((used.cpu_nanos, used.measures, used.joint_microjoules), (9, Measures::GROUP, 4_001));
    assert!(nodes[1].cell.workloads.is_empty());
}

#[test]
fn without_a_group_it_is_unattributed_inference_energy_and_stays_in_the_book() {
    let head = service("head", "m", None, Some("g"));
    for group in [None, Some("another")] {
        let mut nodes = [serving("a", &head, counted(8), 1_000), working("b", &worker(group, Some("vllm")), 4_001)];
        regroup(&mut nodes, OutputWeight::default());
        let costs = allocate(&nodes, IdlePolicy::Unallocated);
        assert_eq!((charged(&nodes, &head), costs.ledgers[1].unattributed_inference), (1_000, 4_001));
        assert_eq!((costs.ledgers[1].workloads, costs.ledgers[1].total()), (0, 4_001));
    }
}

#[test]
fn requests_are_counted_at_the_router_else_where_they_are_generated() {
    use ServiceRole::{Decode, Prefill, Router};
    for (roles, counts_at) in [
        (vec![Some(Router), Some(Prefill), Some(Decode)], 0),
        (vec![Some(Prefill), Some(Decode)], 1),
        (vec![Some(Prefill), None], 1),
    ] {
        let services: Vec<_> =
            roles.iter().enumerate().map(|(place, role)| service(&place.to_string(), "m", *role, Some("g"))).collect();
        let mut nodes: Vec<_> =
            services.iter().map(|service| serving(&service.target, service, counted(8), 1_000)).collect();
        regroup(&mut nodes, OutputWeight::default());
        let uses: Vec<_> = nodes.iter().flat_map(|node| &node.cell.services).collect();
        assert!(uses.iter().all(|(service, _)| **service == services[counts_at]), "{roles:?}");
        let requests: u64 = uses.iter().filter_map(|(_, used)| used.counts.get(&CountKind::RequestsOk)).sum();
        assert_eq!(requests, 8, "{roles:?}");
        assert_eq!(charged(&nodes, &services[counts_at]), 1_000 * roles.len() as u64);
    }
}

#[test]
fn simulated_and_real_hardware_of_one_group_do_not_mix() {
    let head = service("head", "m", None, Some("g"));
    let simulated = NodeSlot { simulated: true, ..working("b", &worker(Some("g"), Some("vllm")), 4_001) };
    let mut nodes = [serving("a", &head, counted(8), 1_000), simulated];
    regroup(&mut nodes, OutputWeight::default());
    assert_eq!(charged(&nodes, &head), 1_000);
}

proptest! {
    #[test]
    fn regrouping_keeps_every_nodes_balance(
        energies in prop::collection::vec(0u64..1 << 40, 4),
        requests in prop::collection::vec(0u64..50, 2),
    ) {
        let one = service("one", "m", None, Some("g"));
        let two = service("two", "n", None, Some("g"));
        let helper = service("three", "m", Some(ServiceRole::Prefill), Some("g"));
        let mut nodes = [
            serving("a", &one, counted(requests[0]), energies[0]),
            serving("b", &two, counted(requests[1]), energies[1]),
            serving("c", &helper, counted(5), energies[2]),
            working("d", &worker(Some("g"), None), energies[3]),
        ];
        let before: Vec<u64> = nodes.iter().map(|node| node.cell.total_microjoules()).collect();
        regroup(&mut nodes, OutputWeight::default());
        let after: Vec<u64> = nodes.iter().map(|node| node.cell.total_microjoules()).collect();
        prop_assert_eq!(before, after);
        prop_assert_eq!(charged(&nodes, &one) + charged(&nodes, &two), energies.iter().sum::<u64>());
        prop_assert!(charged(&nodes, &one) >= energies[0] + energies[2], "a helper of the same model");
    }
}
