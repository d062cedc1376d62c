//! Who used the energy of a device.

use std::collections::BTreeMap;

use joulebook_sci::attribution::{active_and_idle, base_and_dynamic, by_activity, by_reservation, shared_device};
use joulebook_sci::dedicated::Replica;
use joulebook_sci::embodied::GPU_SLICES;
use joulebook_sci::power::{constant, per_unit};
use joulebook_sci::share::largest_remainder;
use joulebook_units::Joules;

use crate::inputs::{Inputs, Run, aligned, keys};
use crate::outputs::Outputs;

/// A ratio is counted in parts of 10⁻¹², a time in nanoseconds, a capacity in 10⁻⁹ devices.
const RATIO_PARTS: f64 = 1e12;
const NANOS: f64 = 1e9;

fn wide(values: &[u64]) -> Vec<u128> {
    values.iter().map(|value| u128::from(*value)).collect()
}

pub fn remainder(inputs: &Inputs) -> Run<Outputs> {
    let energy = inputs.whole_microjoules("energy")?;
    let weights = inputs.counted("weights", "1", RATIO_PARTS)?;
    let keys = keys(&[&weights]);
    let parts = largest_remainder(energy, &wide(&aligned(&weights, &keys)));
    #[allow(clippy::cast_precision_loss, reason = "a conversion of units")]
    let part = |index: usize| parts.as_ref().and_then(|parts| parts.get(index)).map(|part| *part as f64);
    Ok(inputs.outputs().set_map("energy_by_key", &keys, (0..keys.len()).map(part), "uJ"))
}

pub fn base_dynamic(inputs: &Inputs) -> Run<Outputs> {
    let nanos = inputs.nanos("duration")?;
    let energy = constant([inputs.power("power")?], nanos);
    let (base, dynamic) = base_and_dynamic(energy, inputs.power("power_idle")?, nanos);
    Ok(inputs.outputs().energy("energy_base", base).energy("energy_dynamic", dynamic))
}

pub fn cpu_ratio(inputs: &Inputs) -> Run<Outputs> {
    let (active, idle) = active_and_idle(inputs.power("power")?, inputs.share("usage_ratio")?);
    let used = inputs.counted("cpu_time", "s", NANOS)?;
    let keys = keys(&[&used]);
    let split = by_reservation(active.0, &wide(&aligned(&used, &keys)), u128::from(inputs.nanos("node_cpu_time")?));
    Ok(inputs
        .outputs()
        .powers("power_by_workload", &keys, &split.parts)
        .power("power_system", joulebook_units::Milliwatts(split.rest))
        .power("power_idle", idle))
}

pub fn cpu(inputs: &Inputs) -> Run<Outputs> {
    let nanos = inputs.nanos("duration")?;
    let (base, dynamic) = base_and_dynamic(inputs.energy("energy")?, inputs.power("power_idle")?, nanos);
    let (used, held) = (inputs.counted("cpu_time", "s", NANOS)?, inputs.counted("cores_reserved", "core", NANOS)?);
    let keys = keys(&[&used, &held]);
    let cores = u128::from(inputs.whole("cores_total", "core", NANOS)?);
    let by_time = by_reservation(dynamic.0, &wide(&aligned(&used, &keys)), u128::from(inputs.nanos("node_cpu_time")?));
    let by_cores = by_reservation(base.0, &wide(&aligned(&held, &keys)), cores);
    let parts = joulebook_sci::attribution::together(&by_time, &by_cores);
    Ok(inputs
        .outputs()
        .energy("energy_base", base)
        .energy("energy_dynamic", dynamic)
        .energies("energy_by_workload", &keys, &parts)
        .energy("energy_system", joulebook_units::Microjoules(by_time.rest))
        .energy("energy_unreserved", joulebook_units::Microjoules(by_cores.rest)))
}

pub fn gpu_activity(inputs: &Inputs) -> Run<Outputs> {
    const SECOND: u64 = 1_000_000_000;
    let (power, idle) = (inputs.power("power")?, inputs.power("power_idle")?);
    // Energy of one second is power: the product splits energy.
    let (base, dynamic) = base_and_dynamic(constant([power], SECOND), idle, SECOND);
    let activity = inputs.counted("activity", "1", RATIO_PARTS)?;
    let keys = keys(&[&activity]);
    let split = by_activity(dynamic.0, &aligned(&activity, &keys));
    Ok(inputs
        .outputs()
        .energy_as_power("power_dynamic", dynamic)
        .energies_as_powers("power_by_workload", &keys, &split.parts)
        .energy_as_power("power_idle", base))
}

pub fn gpu_shared(inputs: &Inputs) -> Run<Outputs> {
    let held = inputs.counted("memory_reserved", "GB", 1e9)?;
    shared(inputs, &held, inputs.whole("memory_total", "GB", 1e9)?)
}

pub fn mig(inputs: &Inputs) -> Run<Outputs> {
    let held = inputs.counted("slices", "slice", 1.0)?;
    shared(inputs, &held, u64::from(GPU_SLICES))
}

fn shared(inputs: &Inputs, held: &BTreeMap<String, u64>, capacity: u64) -> Run<Outputs> {
    let activity = inputs.counted("activity", "1", RATIO_PARTS)?;
    let keys = keys(&[held, &activity]);
    let device = shared_device(
        inputs.energy("energy")?,
        inputs.power("power_idle")?,
        inputs.nanos("duration")?,
        &wide(&aligned(held, &keys)),
        u128::from(capacity),
        &aligned(&activity, &keys),
    );
    Ok(inputs
        .outputs()
        .energy("energy_base", device.base)
        .energy("energy_dynamic", device.dynamic)
        .energies("energy_by_workload", &keys, &device.parts())
        .energy("energy_unreserved", joulebook_units::Microjoules(device.unreserved())))
}

pub fn dedicated(inputs: &Inputs) -> Run<Outputs> {
    let [busy, window] = ["busy", "window"].map(|name| inputs.nanos(name));
    let replica = Replica::new(inputs.power("power_busy")?, inputs.power("power_loaded_idle")?, busy?, window?);
    let units = inputs.known("functional_units", "unit")?;
    let each = |energy: Joules| units.and_then(|units| per_unit(energy, units)).map(Joules);
    Ok(inputs
        .outputs()
        .energy("energy_busy", replica.busy)
        .energy("energy_dedicated_idle", replica.idle)
        .energy("energy", replica.total())
        .set("idle_share", replica.idle_share(), "1")
        .counted_joules_per_unit("energy_per_unit_busy", each(replica.busy.to_joules()))
        .counted_joules_per_unit("energy_per_unit", each(replica.total().to_joules())))
}
