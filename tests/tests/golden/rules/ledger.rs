//! Whole ledgers: idle capacity, platform and supply, a node.

use std::collections::BTreeMap;
use std::sync::Arc;

use joulebook_sci::allocate::{SlotCosts, allocate};
use joulebook_sci::operational::{facility, operational};
use joulebook_sci::reconcile::{Efficiency, PSU_EFFICIENCY, Trust, input_from_components, psu_loss, residual};
use joulebook_sci::{
    Account, Cell, EntryKey, IdlePolicy, Level, ModelVersion, NodeSlot, Purpose, Rate, ServiceUse, SiteFactors, Totals,
    VersionCost,
};
use joulebook_units::{Component, CountKind, GramsCo2e, Microjoules, Service, VersionSource};

use super::unknown;
use crate::inputs::{Inputs, Run, Stop, aligned, keys};
use crate::outputs::Outputs;

/// The key of what nothing is resident for.
const IDLE: &str = "idle";
const NANOS: f64 = 1e9;

pub fn policy(inputs: &Inputs) -> Run<IdlePolicy> {
    Ok(match inputs.policy("idle_policy") {
        Some("reserved_capacity_time") => IdlePolicy::ReservedCapacityTime,
        Some("active_energy") => IdlePolicy::ActiveEnergy,
        Some("requests") => IdlePolicy::Requests,
        Some("usage_time") => IdlePolicy::UsageTime,
        Some("equal") => IdlePolicy::Equal,
        Some("unallocated") => IdlePolicy::Unallocated,
        _ => return Err(unknown(inputs, "idle_policy")),
    })
}

/// A workload as the product knows it: a service that serves a model of this name.
pub fn service(name: &str) -> Arc<Service> {
    Arc::new(Service {
        model: Some(name.to_owned()),
        version: None,
        version_source: VersionSource::Unresolved,
        fingerprint: None,
        adapter: None,
        engine: "golden".to_owned(),
        target: name.to_owned(),
        workload: None,
        tokenizer: None,
        serving: joulebook_units::Serving::default(),
    })
}

fn version(name: &str) -> (usize, ModelVersion) {
    (0, ModelVersion { model: Some(name.to_owned()), ..ModelVersion::default() })
}

pub fn slot(cell: Cell, embodied_g: f64) -> NodeSlot {
    NodeSlot {
        node: "node".to_owned(),
        pool: "pool".to_owned(),
        simulated: false,
        support: Vec::new(),
        cell,
        embodied_g,
    }
}

fn entry(account: Account, component: Component, purpose: Purpose) -> EntryKey {
    EntryKey { account, component, purpose }
}

pub fn cost(costs: &SlotCosts, name: &str) -> VersionCost {
    costs.versions.get(&version(name)).cloned().unwrap_or_default()
}

/// The cell's services with every weight that the case gives, and their names. A workload that only a weight names is
/// one, too, if the policy asks for that weight.
fn services(inputs: &Inputs, policy: IdlePolicy, used: &[String]) -> Run<BTreeMap<Arc<Service>, ServiceUse>> {
    let reserved = inputs.counted("reserved", "GPU*s", NANOS)?;
    let units = inputs.counted("functional_units", "unit", 1.0)?;
    let busy = inputs.counted("busy", "s", NANOS)?;
    let weights = match policy {
        IdlePolicy::ReservedCapacityTime => vec![&reserved],
        IdlePolicy::Requests => vec![&units],
        IdlePolicy::UsageTime => vec![&busy],
        IdlePolicy::Equal => vec![&reserved, &units, &busy],
        IdlePolicy::ActiveEnergy | IdlePolicy::Unallocated => Vec::new(),
    };
    let mut names = keys(&weights);
    names.extend(used.iter().cloned());
    let mut services = BTreeMap::new();
    for name in names {
        let weight = |map: &BTreeMap<String, u64>| map.get(&name).copied().unwrap_or_default();
        let mine = ServiceUse {
            reserved_device_nanos: weight(&reserved),
            cpu_nanos: weight(&busy),
            counts: [(CountKind::RequestsOk, weight(&units))].into(),
            resident_nanos: 1,
            ..ServiceUse::default()
        };
        services.insert(service(&name), mine);
    }
    Ok(services)
}

fn names(cell: &Cell) -> Vec<String> {
    cell.services.keys().filter_map(|service| service.model.clone()).collect()
}

pub fn idle(inputs: &Inputs) -> Run<Outputs> {
    let policy = policy(inputs)?;
    let active = inputs.energies("active_energy")?;
    let mut cell = Cell { services: services(inputs, policy, &keys(&[&active]))?, ..Cell::default() };
    for (name, energy) in &active {
        cell.add(entry(Account::Service(service(name)), Component::Cpu, Purpose::Dynamic), *energy);
    }
    cell.add(entry(Account::PoolIdle, Component::Cpu, Purpose::PoolIdle), inputs.energy("idle_energy")?.0);
    let (keys, total) = (names(&cell), cell.total_microjoules());
    let costs = allocate(&[slot(cell, 0.0)], policy);
    let each = |of: fn(&VersionCost) -> u64| keys.iter().map(|key| of(&cost(&costs, key))).collect::<Vec<_>>();
    let idle = costs.pool_idle(0);
    Ok(inputs
        .outputs()
        .energies("idle_allocated", &keys, &each(|cost| cost.pool_idle))
        .energy("idle_allocated_total", Microjoules(idle.charged))
        .energy("idle_unallocated", Microjoules(idle.left))
        .energies("energy_by_workload", &keys, &each(VersionCost::with_idle))
        .energy("energy_total", Microjoules(total)))
}

fn sum(energies: &BTreeMap<String, u64>) -> u64 {
    energies.values().map(|energy| Microjoules(*energy)).sum::<Microjoules>().0
}

pub fn platform(inputs: &Inputs) -> Run<Outputs> {
    let trust = match inputs.policy("trust") {
        None | Some("components") => Trust::Components,
        Some("wall") => Trust::Wall,
        _ => return Err(unknown(inputs, "trust")),
    };
    let residual = residual(inputs.energy("wall_energy")?.0, sum(&inputs.energies("component_energy")?));
    let workloads = inputs.energies("workload_energy")?;
    let keys = keys(&[&workloads]);
    let spread = residual.spread(&aligned(&workloads, &keys), trust);
    let total: Microjoules = spread.iter().map(|energy| Microjoules(*energy)).sum();
    let has_workloads = inputs.has("workload_energy");
    let outputs = inputs
        .outputs()
        .energy("platform_energy", Microjoules(residual.platform))
        .set("platform_fraction", residual.platform_fraction(), "1")
        .energy("overcount", Microjoules(residual.overcount))
        .set("overcount_fraction", residual.overcount_fraction(), "1")
        .flag("overcount_flag", residual.is_flagged())
        .energy("energy_total", if has_workloads { total } else { Microjoules(residual.total(trust)) });
    Ok(if has_workloads {
        outputs.energies("energy_by_workload", &keys, &spread)
    } else {
        outputs.energy("energy_by_workload", None)
    })
}

pub fn psu(inputs: &Inputs) -> Run<Outputs> {
    let efficiency = match inputs.optional("psu_efficiency", "1")? {
        None => PSU_EFFICIENCY,
        Some(share) => Efficiency::new(share).ok_or_else(|| Stop::Wrong(format!("efficiency {share} is refused")))?,
    };
    let components = sum(&inputs.energies("component_energy")?);
    Ok(inputs
        .outputs()
        .energy("energy_ac", Microjoules(input_from_components(components, efficiency)))
        .energy("psu_loss", Microjoules(psu_loss(components, efficiency)))
        .flag("psu_estimated", true))
}

pub fn node(inputs: &Inputs) -> Run<Outputs> {
    let policy = policy(inputs)?;
    let (accelerator, host) = (inputs.energies("accelerator_energy")?, inputs.energies("host_energy")?);
    let workloads: Vec<String> = keys(&[&accelerator, &host]).into_iter().filter(|key| key != IDLE).collect();
    let mut cell = Cell { services: services(inputs, policy, &workloads)?, ..Cell::default() };
    for (component, energies) in [(Component::Accelerator, &accelerator), (Component::Cpu, &host)] {
        for (name, energy) in energies {
            let key = match name.as_str() {
                IDLE => entry(Account::PoolIdle, component, Purpose::PoolIdle),
                name => entry(Account::Service(service(name)), component, Purpose::Dynamic),
            };
            cell.add(key, *energy);
        }
    }
    let residual = residual(inputs.energy("wall_energy")?.0, cell.total_microjoules());
    cell.add(entry(Account::Platform, Component::Other, Purpose::Residual), residual.platform);
    cell.overcount_microjoules = residual.overcount;
    let (keys, total) = (names(&cell), Microjoules(cell.total_microjoules()).to_joules());
    let (pue, intensity) = (inputs.pue("pue")?, inputs.intensity("intensity")?);
    let factors = SiteFactors {
        intensity: Rate::Known(intensity),
        intensity_origin: 0,
        intensity_half_width: 0.0,
        intensity_source: "intensity".to_owned(),
        pue,
        pue_half_width: 0.0,
        pue_source: "pue".to_owned(),
        embodied_half_width: 0.0,
        embodied_source: "embodied".to_owned(),
    };
    let slots = [slot(cell, 0.0)];
    let costs = allocate(&slots, policy);
    let mut totals = Totals::new(Level::Facility, policy);
    totals.add(&slots, &[factors]);
    let each = |of: fn(&VersionCost) -> u64| keys.iter().map(|key| of(&cost(&costs, key))).collect::<Vec<_>>();
    let grams = |key: &String| totals.versions.get(&version(key).1).map(|totals| totals.carbon.operational.get());
    let idle = costs.pool_idle(0);
    let drawn = facility(total, pue);
    Ok(inputs
        .outputs()
        .energy("platform_energy", Microjoules(residual.platform))
        .energies("energy_l1", &keys, &each(VersionCost::active))
        .energy("idle_energy", Microjoules(idle.energy()))
        .energies("energy_l2", &keys, &each(VersionCost::with_idle))
        .energy("idle_unallocated", Microjoules(idle.left))
        .counted_joules("facility_energy", drawn)
        .counted_grams_map("operational", &keys, keys.iter().map(|key| grams(key).map(GramsCo2e)))
        .counted_grams("operational_total", operational(drawn, intensity)))
}
