//! Embodied carbon of devices, hosts, fleets and shared nodes.

use std::collections::BTreeMap;

use joulebook_sci::allocate::allocate;
use joulebook_sci::embodied::{
    AgePolicy, Aged, DEFAULT_LIFESPAN_HOURS, GPU_SLICES, Reserved, accrued, fleet as of_fleet, host_total, node_total,
    resource_share,
};
use joulebook_sci::{Cell, ServiceUse};
use joulebook_units::{GramsCo2e, Share};

use super::{first_of, ledger, unknown};
use crate::inputs::{Inputs, Run, Stop, keys};
use crate::outputs::Outputs;

/// Capacity is counted in 10⁻⁹ devices.
const PARTS: f64 = 1e9;

fn lifespan_hours(inputs: &Inputs) -> Run<f64> {
    Ok(inputs.optional("lifespan", "h")?.unwrap_or(DEFAULT_LIFESPAN_HOURS))
}

pub fn share(inputs: &Inputs) -> Run<Outputs> {
    let share = if first_of(inputs, "resource_share", "resource_reserved")? {
        inputs.number("resource_share", "1")?
    } else {
        let (reserved, total) = (inputs.number("resource_reserved", "vCPU")?, inputs.number("resource_total", "vCPU")?);
        resource_share(reserved, total).ok_or(Stop::Undefined)?
    };
    let share = Share::new(share).map_err(|error| Stop::Wrong(error.to_string()))?;
    let grams = accrued(inputs.grams("device_embodied")?, inputs.nanos("duration")?, lifespan_hours(inputs)?);
    Ok(inputs.outputs().grams("embodied", grams.map(|grams| grams * share)))
}

pub fn age(inputs: &Inputs) -> Run<Outputs> {
    let policy = match inputs.policy("age_policy") {
        Some("stop_at_el") => AgePolicy::Stop,
        Some("extend") => AgePolicy::Extend { lifespan_hours: inputs.number("lifespan_extended", "h")? },
        _ => return Err(unknown(inputs, "age_policy")),
    };
    let aged = Aged {
        total: inputs.grams("device_embodied")?,
        lifespan_hours: lifespan_hours(inputs)?,
        age_hours: inputs.number("age_at_start", "h")?,
    };
    let accrual = aged.accrue(inputs.nanos("duration")?, policy).ok_or(Stop::Undefined)?;
    Ok(inputs
        .outputs()
        .grams("embodied", accrual.grams * inputs.share("resource_share")?)
        .flag("fully_amortised", accrual.fully_amortised))
}

pub fn host(inputs: &Inputs) -> Run<Outputs> {
    let base = inputs.optional("base_embodied", "g")?.map(GramsCo2e);
    let mut additions = Vec::new();
    for name in ["memory_embodied", "storage_embodied", "cpu_embodied", "gpu_embodied"] {
        additions.push(inputs.map(name, "g")?);
    }
    let keys = keys(&additions.iter().collect::<Vec<_>>());
    let total = |key: &String| {
        let parts = additions.iter().filter_map(|addition| addition.get(key).copied().map(GramsCo2e));
        Some(host_total(base, parts).0)
    };
    Ok(inputs.outputs().set_map("host_embodied", &keys, keys.iter().map(total), "g"))
}

pub fn fleet(inputs: &Inputs) -> Run<Outputs> {
    let (count, total) = (inputs.map("count", "1")?, inputs.map("device_embodied", "g")?);
    let (reserved, whole) = (inputs.map("resource_reserved", "vCPU")?, inputs.map("resource_total", "vCPU")?);
    let mut devices = Vec::new();
    for key in keys(&[&count, &total, &reserved, &whole]) {
        let get = |map: &BTreeMap<String, f64>| map.get(&key).copied().ok_or(Stop::Undefined);
        let share = resource_share(get(&reserved)?, get(&whole)?).ok_or(Stop::Undefined)?;
        devices.push(Reserved { count: get(&count)?, total: GramsCo2e(get(&total)?), share });
    }
    let grams = of_fleet(devices, inputs.nanos("duration")?, lifespan_hours(inputs)?);
    Ok(inputs.outputs().grams("embodied", grams))
}

pub fn node(inputs: &Inputs) -> Run<Outputs> {
    let total =
        node_total(inputs.grams("host_embodied")?, inputs.grams("gpu_embodied")?, inputs.number("gpu_count", "1")?);
    let capacity = inputs.whole("gpu_count", "1", PARTS)?;
    shared(inputs, total, &inputs.counted("reserved", "GPU", PARTS)?, capacity)
}

pub fn mig(inputs: &Inputs) -> Run<Outputs> {
    let slices = inputs.counted("slices", "slice", 1.0)?;
    shared(inputs, inputs.grams("gpu_embodied")?, &slices, u64::from(GPU_SLICES))
}

/// A node whose capacity is shared by reservation, idle capacity by policy: the product's own allocation of a slot.
fn shared(inputs: &Inputs, total: GramsCo2e, reserved: &BTreeMap<String, u64>, capacity: u64) -> Run<Outputs> {
    let accrued = accrued(total, inputs.nanos("duration")?, lifespan_hours(inputs)?).ok_or(Stop::Undefined)?;
    let mut cell = Cell { capacity_core_nanos: capacity, ..Cell::default() };
    for (name, reserved) in reserved {
        let mine = ServiceUse { reserved_core_nanos: *reserved, resident_nanos: 1, ..ServiceUse::default() };
        cell.services.insert(ledger::service(name), mine);
    }
    let costs = allocate(&[ledger::slot(cell, accrued.0)], ledger::policy(inputs)?);
    let keys = keys(&[reserved]);
    let grams = keys.iter().map(|key| Some(ledger::cost(&costs, key).embodied()));
    let idle = costs.pool_idle(0);
    Ok(inputs
        .outputs()
        .grams("embodied_accrued", accrued)
        .set_map("embodied", &keys, grams, "g")
        .set("embodied_idle", idle.embodied_g(), "g")
        .set("embodied_unallocated", idle.left_g, "g"))
}
