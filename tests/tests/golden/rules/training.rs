//! Training amortisation.

use joulebook_sci::operational::operational;
use joulebook_sci::training::{
    Call, LineagePolicy, Pool, TracePolicy, UnitsPolicy, calls, device_energy, device_seconds, failed_gates,
    lineage as of_lineage, total as added, traced,
};
use joulebook_units::{GramsCo2e, Joules};

use super::carbon::per_unit;
use super::{first_of, unknown};
use crate::inputs::{Inputs, Run, Stop, aligned, keys};
use crate::outputs::Outputs;

pub fn total(inputs: &Inputs) -> Run<Outputs> {
    let idle = inputs.optional("idle_energy", "J")?.map(Joules).unwrap_or_default();
    let embodied = inputs.optional("embodied", "g")?.map(GramsCo2e).unwrap_or_default();
    let pue = inputs.optional_pue("pue")?;
    let total = added(inputs.joules("dynamic_energy")?, idle, embodied, pue, inputs.intensity("intensity")?);
    Ok(inputs
        .outputs()
        .grams("carbon_dynamic", total.dynamic)
        .grams("carbon_idle", total.idle)
        .grams("training_carbon", total.training))
}

pub fn bottom_up(inputs: &Inputs) -> Run<Outputs> {
    let seconds = if first_of(inputs, "device_time", "device_count")? {
        inputs.number("device_time", "GPU*s")?
    } else {
        device_seconds(inputs.number("device_count", "1")?, inputs.number("duration", "s")?)
    };
    let energy = device_energy(seconds, inputs.number("power", "W")?, inputs.optional_pue("pue")?);
    let intensity = if inputs.has("intensity") { Some(inputs.intensity("intensity")?) } else { None };
    let carbon = intensity.map(|intensity| operational(energy, intensity));
    Ok(inputs.outputs().joules("energy", energy).grams("training_carbon", carbon))
}

fn pool(inputs: &Inputs, carbon: &str, units: &str) -> Run<Pool> {
    Ok(Pool { training: inputs.grams(carbon)?, units: inputs.number(units, "unit")? })
}

fn own_pool(inputs: &Inputs) -> Run<Pool> {
    pool(inputs, "training_carbon", "units_total")
}

pub fn share(inputs: &Inputs) -> Run<Outputs> {
    let pool = own_pool(inputs)?;
    let (units, inference) = (inputs.map("units", "unit")?, inputs.map("inference_carbon", "g")?);
    let entities = keys(&[&units]);
    let (shares, allocated, remaining) = pool.shares(&aligned(&units, &entities)).ok_or(Stop::Undefined)?;
    let named = keys(&[&inference]);
    let mut extended = Vec::new();
    for entity in &named {
        let units = units.get(entity).copied().ok_or(Stop::Undefined)?;
        let call = Call { units, inference: GramsCo2e(inference[entity]), pool: Some(pool) };
        extended.push((call, calls(&[call]).ok_or(Stop::Undefined)?.extended));
    }
    Ok(inputs
        .outputs()
        .set("training_per_unit", pool.per_unit(), "g/unit")
        .set_map("training_share", &entities, shares.iter().map(|share| Some(share.0)), "g")
        .grams("allocated", allocated)
        .grams("remaining", remaining)
        .set_map("carbon_extended", &named, extended.iter().map(|(_, grams)| Some(grams.0)), "g")
        .set_map("sci", &named, extended.iter().map(|(call, _)| per_unit(call.inference, Some(call.units))), "g/unit")
        .set_map("sci_extended", &named, extended.iter().map(|(call, g)| per_unit(*g, Some(call.units))), "g/unit"))
}

fn units_policy(inputs: &Inputs) -> Run<UnitsPolicy> {
    Ok(match inputs.policy("n_policy") {
        Some("frozen_cap") => UnitsPolicy::FrozenCap,
        Some("dynamic_prospective") => UnitsPolicy::DynamicProspective,
        Some("dynamic_retroactive") => UnitsPolicy::DynamicRetroactive,
        _ => return Err(unknown(inputs, "n_policy")),
    })
}

pub fn cap(inputs: &Inputs) -> Run<Outputs> {
    units_policy(inputs)?;
    let (used, units) = (inputs.number("units_used", "unit")?, inputs.number("units", "unit")?);
    let capped = own_pool(inputs)?.capped(used, units).ok_or(Stop::Undefined)?;
    Ok(inputs
        .outputs()
        .grams("training_share", capped.share)
        .set("units_free", capped.free, "unit")
        .flag("fully_amortised", capped.fully_amortised))
}

pub fn revise(inputs: &Inputs) -> Run<Outputs> {
    let (used, units) = (inputs.number("units_used", "unit")?, inputs.number("units_total_new", "unit")?);
    let revised = own_pool(inputs)?.revise(used, units, units_policy(inputs)?).ok_or(Stop::Undefined)?;
    Ok(inputs
        .outputs()
        .grams("allocated", revised.allocated)
        .set("per_unit_before", revised.before, "g/unit")
        .set("per_unit_after", revised.after, "g/unit")
        .grams("allocated_at_end", revised.at_end))
}

pub fn retire(inputs: &Inputs) -> Run<Outputs> {
    let pool = own_pool(inputs)?;
    let (allocated, remainder) = pool.retire(inputs.number("units_used", "unit")?).ok_or(Stop::Undefined)?;
    let (mut successor, mut last) = (None, None);
    match inputs.policy("remainder_policy") {
        Some("provider_ledger") => {}
        Some("carry_to_successor") => {
            let next = inputs.known("successor_training_carbon", "g")?.map(GramsCo2e);
            let units = inputs.known("successor_units_total", "unit")?;
            // Without its units the pool still has a mass; no unit carries any of it.
            successor =
                next.map(|training| Pool { training, units: units.unwrap_or_default() }.with_remainder(remainder));
        }
        Some("final_period") => {
            let units = inputs.known("final_units", "unit")?;
            last = units.and_then(|units| pool.final_per_unit(remainder, units));
        }
        _ => return Err(unknown(inputs, "remainder_policy")),
    }
    Ok(inputs
        .outputs()
        .set("training_per_unit", pool.per_unit(), "g/unit")
        .grams("allocated", allocated)
        .grams("remainder", remainder)
        .grams("successor_pool", successor.map(|pool| pool.training))
        .set("successor_per_unit", successor.and_then(|pool| pool.per_unit()), "g/unit")
        .set("final_per_unit", last, "g/unit"))
}

pub fn lineage(inputs: &Inputs) -> Run<Outputs> {
    let policy = match inputs.policy("lineage_policy") {
        Some("pooled_base_plus_increment") => LineagePolicy::PooledBasePlusIncrement,
        Some("restart") => LineagePolicy::Restart,
        Some("single_pool_increment") => LineagePolicy::SinglePoolIncrement,
        _ => return Err(unknown(inputs, "lineage_policy")),
    };
    let base = pool(inputs, "base_training_carbon", "family_units_total")?;
    let increment = pool(inputs, "increment_carbon", "child_units_total")?;
    let child = of_lineage(base, increment, policy).ok_or(Stop::Undefined)?;
    Ok(inputs
        .outputs()
        .set("training_per_unit", child.per_unit(), "g/unit")
        .grams("training_share", child.share(inputs.number("units", "unit")?)))
}

pub fn gate(inputs: &Inputs) -> Run<Outputs> {
    let training = inputs.known("training_carbon", "g")?.map(GramsCo2e);
    let total = inputs.known("units_total", "unit")?;
    let (consistent, traceable) = (inputs.flag("allocation_consistent")?, inputs.flag("version_traceable")?);
    let failed = failed_gates(training, total, consistent, traceable);
    let units = inputs.known("functional_units", "unit")?;
    let inference = inputs.grams("inference_carbon")?;
    let pool = training.zip(total).map(|(training, units)| Pool { training, units }).filter(|_| failed.is_empty());
    let extended = pool.zip(units).and_then(|(pool, units)| calls(&[Call { units, inference, pool: Some(pool) }]));
    Ok(inputs
        .outputs()
        .flag("extended_available", failed.is_empty())
        .names("failed_gates", failed.iter().map(|gate| gate.name().to_owned()).collect())
        .set("sci", per_unit(inference, units), "g/unit")
        .set("sci_extended", extended.and_then(|calls| per_unit(calls.extended, units)), "g/unit"))
}

pub fn trace(inputs: &Inputs) -> Run<Outputs> {
    let policy = match inputs.policy("trace_policy") {
        Some("traced_only") => TracePolicy::TracedOnly,
        Some("strict") => TracePolicy::Strict,
        _ => return Err(unknown(inputs, "trace_policy")),
    };
    let (some, rest) = (inputs.number("units_traced", "unit")?, inputs.number("units_untraced", "unit")?);
    let traced = traced(own_pool(inputs)?, some, rest, policy);
    Ok(inputs
        .outputs()
        .grams("training_share", traced.share)
        .set("traced_fraction", traced.fraction, "1")
        .flag("extended_partial", traced.partial)
        .flag("extended_available", traced.share.is_some()))
}

pub fn pools(inputs: &Inputs) -> Run<Outputs> {
    let training = inputs.known_map("pool_training_carbon", "g")?;
    let expected = inputs.known_map("pool_units_total", "unit")?;
    let (units, inference) = (inputs.map("units", "unit")?, inputs.map("inference_carbon", "g")?);
    let disclosed = inputs.names("pool")?;
    let mut all = Vec::new();
    for call in keys(&[&units, &inference]) {
        let pool = match disclosed.get(&call).and_then(Option::as_ref) {
            None => None,
            Some(pool) => {
                let get = |map: &std::collections::BTreeMap<String, Option<f64>>| map.get(pool).copied().flatten();
                let known =
                    get(&training).zip(get(&expected)).ok_or_else(|| Stop::Wrong(format!("no pool `{pool}`")))?;
                Some(Pool { training: GramsCo2e(known.0), units: known.1 })
            }
        };
        let get = |map: &std::collections::BTreeMap<String, f64>| map.get(&call).copied().ok_or(Stop::Undefined);
        all.push(Call { units: get(&units)?, inference: GramsCo2e(get(&inference)?), pool });
    }
    let calls = calls(&all).ok_or(Stop::Undefined)?;
    Ok(inputs
        .outputs()
        .grams("carbon_default", calls.default)
        .grams("training_total", calls.training)
        .grams("carbon_extended", calls.extended)
        .set("extended_coverage", calls.coverage, "1")
        .flag("extended_partial", calls.partial))
}
