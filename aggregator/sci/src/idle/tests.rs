use super::*;
use crate::cell::{EntryKey, ServiceUse};
use crate::sample;
use crate::totals::Rate;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use joulebook_units::{CountKind, GramsCo2ePerKwh, Pue, Service, Support, Workload, WorkloadKind};
use proptest::prelude::*;

const SLOT_SECONDS: i64 = 300;

fn service(version: &str) -> Arc<Service> {
    Arc::new(sample::service(version))
}

fn version(number: &str) -> ModelVersion {
    ModelVersion::of(&service(number))
}

fn trainer() -> Arc<Workload> {
    Arc::new(Workload::bare("unit/train", WorkloadKind::Remainder, "train"))
}

/// A node whose versions execute, hold and rest: dynamic, base and dedicated idle energy of each.
fn node(name: &str, pool: &str, versions: &[(&str, [u64; 3])], idle: u64, platform: u64) -> NodeSlot {
    let slot = u64::try_from(SLOT_SECONDS).expect("positive") * 1_000_000_000;
    let mut cell = Cell { capacity_device_nanos: 4 * slot, expected_nanos: slot, ..Cell::default() };
    let mut add = |account, component, purpose, energy| cell.add(EntryKey { account, component, purpose }, energy);
    for (number, [dynamic, base, dedicated]) in versions {
        let account = || Account::Service(service(number));
        add(account(), Component::Accelerator, Purpose::Dynamic, *dynamic);
        add(account(), Component::Cpu, Purpose::Dynamic, dynamic / 7);
        add(account(), Component::Accelerator, Purpose::Base, *base);
        add(account(), Component::Accelerator, Purpose::DedicatedIdle, *dedicated);
    }
    add(Account::Workload(trainer()), Component::Accelerator, Purpose::Base, 11);
    add(Account::System, Component::Cpu, Purpose::Dynamic, 5);
    add(Account::PoolIdle, Component::Accelerator, Purpose::PoolIdle, idle);
    add(Account::Platform, Component::Other, Purpose::Residual, platform);
    for (number, _) in versions {
        let used = ServiceUse {
            reserved_device_nanos: slot,
            executing_nanos: slot / 2,
            resident_nanos: slot,
            cpu_nanos: 3,
            counts: [(CountKind::RequestsOk, 4)].into(),
            ..ServiceUse::default()
        };
        cell.services.insert(service(number), used);
    }
    NodeSlot { node: name.into(), pool: pool.into(), simulated: false, support: Vec::new(), cell, embodied_g: 8.0 }
}

fn site() -> SiteFactors {
    SiteFactors {
        intensity: Rate::Known(GramsCo2ePerKwh::new(360.0).expect("an intensity")),
        intensity_origin: 0,
        intensity_half_width: 0.1,
        intensity_source: "intensity:x".into(),
        pue: Pue::new(1.5).expect("a PUE"),
        pue_half_width: 0.05,
        pue_source: "pue:x".into(),
        embodied_half_width: 0.3,
        embodied_source: "te:x".into(),
    }
}

fn slot(number: i64) -> Window {
    let start = UnixNanos(0).plus_seconds(number * SLOT_SECONDS);
    Window::new(start, start.plus_seconds(SLOT_SECONDS)).expect("ordered")
}

fn of(slots: &[Vec<NodeSlot>], rule: impl Into<IdleRule>) -> Idle {
    let mut idle = Idle::new(rule.into());
    for (number, nodes) in (0..).zip(slots) {
        idle.add(slot(number), nodes, &vec![site(); nodes.len()]);
    }
    idle
}

fn energies(idle: &Idle, class: IdleClass) -> Vec<(String, Holder, u64, u64)> {
    let of_class = idle.capacities.iter().filter(|(key, _)| key.class == class);
    of_class.map(|(key, one)| (key.node.clone(), key.holder.clone(), one.energy(), one.charged)).collect()
}

fn drained(mut node: NodeSlot) -> NodeSlot {
    node.cell.flags.insert(Flags::OUT_OF_SERVICE);
    node
}

#[test]
fn each_class_has_its_holder_and_is_charged_as_the_classes_are() {
    let supporting = NodeSlot {
        support: vec![Support { role: "spare".into(), workload: None, pool: Some("a".into()) }],
        ..node("s", "infra", &[], 50, 0)
    };
    let nodes = [
        node("n", "a", &[("1", [1000, 100, 40]), ("2", [0, 0, 60])], 30, 0),
        drained(node("d", "a", &[("1", [0, 0, 9])], 70, 0)),
        supporting,
    ];
    let idle = of(&[nodes.to_vec()], IdlePolicy::ReservedCapacityTime);
    let held = |number: &str| Holder::Version(version(number));
    let train = || Holder::Workload("train unit/train".into());
    let base = energies(&idle, IdleClass::Base);
    assert!(
        base.contains(&("n".into(), held("1"), 100, 100)) && base.contains(&("n".into(), train(), 11, 0)),
        "{base:?}"
    );
    let dedicated = [("d".into(), held("1"), 9, 9), ("n".into(), held("1"), 40, 40), ("n".into(), held("2"), 60, 60)];
    assert_eq!(energies(&idle, IdleClass::Dedicated), dedicated, "what is held is its holder's, out of service too");
    let pool = [("n".into(), Holder::Nobody, 30, 30), ("s".into(), Holder::Support("a".into()), 50, 50)];
    assert_eq!(energies(&idle, IdleClass::Pool), pool);
    assert_eq!(energies(&idle, IdleClass::OutOfService), [("d".into(), Holder::Nobody, 70, 0)]);
    // Under every policy what is out of service is nobody's.
    for sum in idle.policies.values() {
        assert_eq!(sum.out_of_service, 70);
    }
}

#[test]
fn the_ladder_begins_where_it_is_told_to() {
    let nodes = [
        node("n", "a", &[("1", [10, 0, 0])], 30, 0),
        node("m", "a", &[("2", [10, 0, 0])], 0, 0),
        node("o", "b", &[("3", [10, 0, 0])], 0, 0),
    ];
    let charged = |from| {
        let idle = of(&[nodes.to_vec()], IdleRule { policy: IdlePolicy::Equal, from });
        ["1", "2", "3"].map(|number| idle.versions[&version(number)].provisioned.cost.pool_idle)
    };
    assert_eq!(charged(IdleScope::Node), [30, 0, 0]);
    assert_eq!(charged(IdleScope::Pool), [15, 15, 0]);
    assert_eq!(charged(IdleScope::Cluster), [10, 10, 10]);
}

#[test]
fn marginal_is_what_the_work_caused_and_provisioned_all_that_was_kept_for_it() {
    let mut one = node("n", "a", &[("1", [7_000, 500, 300])], 200, 0);
    one.cell
        .add(EntryKey { account: Account::Platform, component: Component::Other, purpose: Purpose::Residual }, 9_016);
    let total = one.cell.total_microjoules();
    let idle = of(&[vec![one]], IdlePolicy::ReservedCapacityTime);
    let figures = &idle.versions[&version("1")];
    let (marginal, provisioned) = (&figures.marginal.cost, &figures.provisioned.cost);
    // As much platform as components: each has as much again.
    assert_eq!((marginal.accelerator_dynamic, marginal.host, marginal.platform), (7_000, 1_000, 8_000));
    assert_eq!((figures.base, provisioned.dedicated_idle, provisioned.pool_idle), (1_000, 600, 400));
    assert_eq!(
        provisioned.with_idle(),
        marginal.with_idle() + figures.base + provisioned.dedicated_idle + provisioned.pool_idle
    );
    assert!(provisioned.with_idle() < total);
    let grams = |of: &VersionTotals| of.carbon.operational.get() / of.facility_j.get() * 3.6e6;
    assert!((grams(&figures.marginal) - 360.0).abs() < 1e-9 && (grams(&figures.provisioned) - 360.0).abs() < 1e-9);
    assert!(figures.marginal.carbon.embodied.get().abs() < 1e-15, "making the hardware is no part of the margin");
}

#[test]
fn capacity_is_there_since_the_last_break_and_a_version_since_it_is_resident() {
    let resting = |seconds: u64| {
        let mut one = node("n", "a", &[("1", [0, 0, 40])], 10, 0);
        for used in one.cell.services.values_mut() {
            used.resident_nanos = seconds * 1_000_000_000;
        }
        vec![one]
    };
    let without = vec![node("n", "a", &[], 10, 0)];
    let idle = of(&[resting(300), without, resting(120), resting(300)], IdlePolicy::Equal);
    let since = |class, holder| {
        let (from, until) = idle.capacities[&IdleKey { class, node: "n".into(), holder }].stretch().expect("there");
        (from.0 / 1_000_000_000, until.0 / 1_000_000_000)
    };
    assert_eq!(since(IdleClass::Dedicated, Holder::Version(version("1"))), (780, 1200));
    assert_eq!(since(IdleClass::Pool, Holder::Nobody), (0, 1200));
}

proptest! {
    #[test]
    fn every_policy_and_scope_makes_the_same_total_of_the_same_slots(
        versions in prop::collection::vec((0u64..1 << 40, 0u64..1 << 30, 0u64..1 << 30), 0..4),
        (idle, platform, out) in (0u64..1 << 40, 0u64..1 << 40, any::<bool>()),
    ) {
        let names = ["1", "2", "3", "4"];
        let held: Vec<_> = names.iter().zip(&versions).map(|(name, (a, b, c))| (*name, [*a, *b, *c])).collect();
        let middle = held.len() / 2;
        let spare = node("spare", "b", &[], idle / 3, 2);
        let spare = if out { drained(spare) } else { spare };
        let nodes = vec![
            node("n", "a", &held[..middle], idle, platform),
            node("m", "b", &held[middle..], idle / 5, 1),
            spare,
            NodeSlot { simulated: true, ..node("sim", "a", &held[..middle], 17, platform / 3) },
        ];
        let total: u64 = nodes.iter().map(|node| node.cell.total_microjoules()).sum();
        for from in IdleScope::ALL {
            let idle = of(&[nodes.clone(), nodes.clone()], IdleRule { policy: IdlePolicy::ReservedCapacityTime, from });
            prop_assert_eq!(idle.total, 2 * total);
            for (policy, sum) in &idle.policies {
                prop_assert_eq!(sum.total(), 2 * total, "{:?} from {:?}", policy, from);
            }
            // What is charged with the asked policy is what its capacities say, and the rest of them is in the ledger.
            let sum = &idle.policies[&IdlePolicy::ReservedCapacityTime];
            let free = |class| idle.capacities.iter().filter(move |(key, _)| key.class == class).map(|(_, one)| one);
            let charged: u64 = free(IdleClass::Pool).map(|one| one.charged).sum();
            prop_assert_eq!(charged, sum.charged.values().sum::<u64>());
            let left: u64 = free(IdleClass::Pool).map(|one| one.energy() - one.charged).sum();
            prop_assert_eq!(left, sum.unallocated);
            prop_assert_eq!(free(IdleClass::OutOfService).map(Capacity::energy).sum::<u64>(), sum.out_of_service);
            let provisioned: u64 = idle.versions.values().map(|one| one.provisioned.cost.with_idle()).sum();
            prop_assert_eq!(provisioned, sum.versions);
        }
    }
}
