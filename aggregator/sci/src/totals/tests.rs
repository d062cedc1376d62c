mod calibration;

use super::*;
use crate::allocate::IdlePolicy;
use crate::cell::{Account, EntryKey, Purpose, ServiceUse, SourceKey};
use crate::sample;
use alloc::string::ToString;
use joulebook_units::{Component, CountKind, Method};

fn service(version: &str) -> Arc<Service> {
    Arc::new(Service { workload: Some(version.to_string()), ..sample::service(version) })
}

fn site() -> SiteFactors {
    SiteFactors {
        intensity: Rate::Known(GramsCo2ePerKwh::new(360.0).expect("an intensity")),
        intensity_origin: 3,
        intensity_half_width: 0.3,
        intensity_source: "intensity:yearly".to_string(),
        pue: Pue::new(1.5).expect("a PUE"),
        pue_half_width: 0.2,
        pue_source: "pue:default".to_string(),
        embodied_half_width: 0.5,
        embodied_source: "te:generic".to_string(),
    }
}

/// 600 J of a version, 200 J of pool idle, 200 J of platform; half of the version's energy is counted.
fn slot() -> NodeSlot {
    let mut cell = Cell { capacity_core_nanos: 100, ..Cell::default() };
    let mut add = |account, component, purpose, joules: u64| {
        cell.add(EntryKey { account, component, purpose }, joules * 1_000_000);
    };
    add(Account::Service(service("1")), Component::Cpu, Purpose::Dynamic, 600);
    add(Account::PoolIdle, Component::Cpu, Purpose::PoolIdle, 200);
    add(Account::Platform, Component::Other, Purpose::Residual, 200);
    let used = ServiceUse {
        counts: [(CountKind::OutputTokens, 1000)].into(),
        reserved_core_nanos: 50,
        joint_microjoules: 300_000_000,
        ..ServiceUse::default()
    };
    cell.services.insert(service("1"), used);
    let key = SourceKey {
        id: "cpu".to_string(),
        component: Component::Cpu,
        method: Method::Counter,
        collector: "rapl".to_string(),
        uncertainty_permille: 50,
        contained: false,
        scope: None,
    };
    cell.sources.entry(key).or_default().microjoules = 800_000_000;
    cell.flags.insert(Flags::PSU_ESTIMATED);
    // 40 J of 1,000.
    cell.input.bound_microjoules = 40_000_000;
    NodeSlot {
        node: "n".to_string(),
        pool: "p".to_string(),
        simulated: false,
        support: Vec::new(),
        cell,
        embodied_g: 2.0,
    }
}

fn total(level: Level) -> VersionTotals {
    let mut totals = Totals::new(level, IdlePolicy::ReservedCapacityTime);
    totals.add(&[slot()], &[site()]);
    assert_eq!(totals.nodes["n"].residual(), 0);
    totals.versions.into_values().next().expect("one version")
}

#[test]
fn facility_carbon_is_all_energy_times_pue_times_intensity_plus_embodied() {
    let version = total(Level::Facility);
    assert_eq!(version.cost.with_idle(), 1_000_000_000);
    assert!((version.facility_j.get() - 1500.0).abs() < 1e-9);
    assert!((version.carbon.operational.get() - 0.15).abs() < 1e-12);
    assert!((version.carbon.embodied.get() - 2.0).abs() < 1e-12);
    assert!((version.carbon.joint.get() - 2.15 / 2.0).abs() < 1e-12);
}

#[test]
fn a_lower_level_has_neither_pue_nor_embodied_carbon() {
    let version = total(Level::Host);
    // 600 J and 150 J of platform at 360 g/kWh.
    assert!((version.carbon.operational.get() - 0.075).abs() < 1e-12);
    assert!(version.carbon.embodied.get().abs() < 1e-12);
}

#[test]
fn the_interval_holds_every_source_of_error_once() {
    let version = total(Level::Facility);
    let names: Vec<_> = version.carbon.deviations.by_source().map(|(name, _)| name.to_string()).collect();
    let expected = [
        "intensity:yearly",
        "lifespan",
        "psu_efficiency",
        "pue:default",
        "sensor-kind:rapl",
        "sensor:n:cpu",
        "te:generic",
    ];
    assert_eq!(names, expected);
    let sensor: f64 =
        version.carbon.deviations.by_source().filter(|(n, _)| n.starts_with("sensor")).map(|(_, d)| d * d).sum();
    assert!((libm::sqrt(sensor) - 0.075 * 0.05).abs() < 1e-12);
}

#[test]
fn energy_without_an_intensity_weighs_nothing_and_is_set_aside_with_its_bounds() {
    let grams = |value| GramsCo2ePerKwh::new(value).expect("an intensity");
    let unknown = SiteFactors { intensity: Rate::Between(grams(36.0), grams(720.0)), ..site() };
    let mut totals = Totals::new(Level::Facility, IdlePolicy::ReservedCapacityTime);
    totals.add(&[slot()], &[site()]);
    totals.add(&[slot()], &[unknown]);
    let carbon = &totals.versions.values().next().expect("a version").carbon;
    let rated = carbon.rated.get(&3).copied().expect("an origin").get();
    let unrated = &carbon.unrated;
    assert!((rated - unrated.energy_j.get()).abs() < 1e-9, "the same energy twice: {rated}");
    assert!((carbon.operational.get() - rated / 3.6e6 * 360.0).abs() < 1e-9, "only what is rated has grams");
    assert!((unrated.low_g.get() * 20.0 - unrated.high_g.get()).abs() < 1e-9);
    assert!((unrated.high_g.get() - 2.0 * carbon.operational.get()).abs() < 1e-9);
}
