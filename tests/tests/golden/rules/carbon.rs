//! Intensity, operational carbon, scores and their intervals.

use std::collections::BTreeMap;

use joulebook_sci::FunctionalUnit;
use joulebook_sci::intensity::{Place, mix as mixed, resolve as first};
use joulebook_sci::join::with_factors;
use joulebook_sci::operational::{MarketBased, facility, operational};
use joulebook_sci::score::{Part, System, score as scored};
use joulebook_sci::uncertainty::Deviations;
use joulebook_units::{GramsCo2e, GramsCo2ePerKwh, Joules, Microjoules, Pue, Window};

use super::first_of;
use crate::inputs::{Inputs, Run, Stop, aligned, keys};
use crate::outputs::Outputs;

/// Carbon per functional unit, whatever the unit is called.
pub fn per_unit(carbon: GramsCo2e, units: Option<f64>) -> Option<f64> {
    scored(Some(carbon), FunctionalUnit::Request, units).ok()
}

pub fn market_based(inputs: &Inputs) -> Run<Outputs> {
    let other = inputs.optional("carbon_other", "g")?.map(GramsCo2e);
    let market = MarketBased::new(inputs.joules("energy")?, inputs.intensity("intensity_market")?, other);
    Ok(inputs
        .outputs()
        .grams("operational_market_based", market.operational)
        .grams("carbon_market_based", market.carbon)
        .flag("sci_eligible", MarketBased::SCI_ELIGIBLE))
}

pub fn resolve(inputs: &Inputs) -> Run<Outputs> {
    let mut known: BTreeMap<Place, GramsCo2ePerKwh> = BTreeMap::new();
    for (place, name) in [
        (Place::Override, "intensity_override"),
        (Place::Zone, "intensity_zone"),
        (Place::Country, "intensity_country"),
        (Place::World, "intensity_world"),
    ] {
        if inputs.known(name, "g/kWh")?.is_some() {
            known.insert(place, inputs.intensity(name)?);
        }
    }
    let energy = inputs.joules("energy")?;
    let found = first(|place| known.get(&place).copied());
    Ok(inputs
        .outputs()
        .set("intensity", found.map(|(_, value)| value.get()), "g/kWh")
        .grams("operational", found.map(|(_, value)| operational(energy, value)))
        .set("world_intensity", found.map(|(place, _)| f64::from(u8::from(place == Place::World))), "bool"))
}

pub fn mix(inputs: &Inputs) -> Run<Outputs> {
    let (shares, factors) = (inputs.map("mix", "1")?, inputs.known_map("source_intensity", "g/kWh")?);
    let mut sources = Vec::new();
    for (source, share) in shares {
        let factor = factors.get(&source).copied().flatten().ok_or(Stop::Undefined)?;
        sources.push((share, GramsCo2ePerKwh::new(factor).map_err(|error| Stop::Wrong(error.to_string()))?));
    }
    let intensity = mixed(sources).map_err(|error| Stop::Wrong(error.to_string()))?;
    Ok(inputs.outputs().set("intensity", intensity.get(), "g/kWh"))
}

/// The known values of a factor's series.
fn factors<T>(
    series: Vec<(Window, Option<f64>)>,
    new: fn(f64) -> Result<T, joulebook_units::InvalidQuantity>,
) -> Run<Vec<(Window, T)>> {
    let known = series.into_iter().filter_map(|(window, value)| value.map(|value| (window, value)));
    known.map(|(window, value)| Ok((window, new(value).map_err(|error| Stop::Wrong(error.to_string()))?))).collect()
}

pub fn join(inputs: &Inputs) -> Run<Outputs> {
    let mut energy = Vec::new();
    for (window, value) in inputs.energy_series("energy")? {
        energy.push((window, Microjoules(value.ok_or(Stop::Undefined)?)));
    }
    let intensity = factors(inputs.series("intensity", "g/kWh")?, GramsCo2ePerKwh::new)?;
    let pue = factors(inputs.series("pue", "1")?, Pue::new)?;
    let joined = with_factors(&energy, &intensity, &pue);
    Ok(inputs
        .outputs()
        .counted_grams("operational", joined.carbon)
        .counted_joules("facility_energy", joined.facility)
        .set("effective_intensity", joined.effective_intensity(), "g/kWh")
        .set("effective_pue", joined.effective_pue(), "1")
        .energy_list("energy_parts", joined.parts.iter().map(|part| Some(part.0))))
}

pub fn ratio(inputs: &Inputs) -> Run<Outputs> {
    let carbon = if first_of(inputs, "carbon", "operational")? {
        inputs.grams("carbon")?
    } else {
        inputs.grams("operational")? + inputs.optional("embodied", "g")?.map(GramsCo2e).unwrap_or_default()
    };
    let units = inputs.known("functional_units", "unit")?;
    Ok(inputs.outputs().set("sci", per_unit(carbon, units), "g/unit").grams("carbon", carbon))
}

pub fn score(inputs: &Inputs) -> Run<Outputs> {
    let (energy, embodied) = (inputs.map("energy", "J")?, inputs.map("embodied", "g")?);
    let keys = keys(&[&energy, &embodied]);
    let parts: Vec<Part> = aligned(&energy, &keys)
        .into_iter()
        .zip(aligned(&embodied, &keys))
        .map(|(energy, embodied)| Part { energy: Joules(energy), embodied: GramsCo2e(embodied) })
        .collect();
    let system = System::new(&parts, inputs.optional_pue("pue")?, inputs.intensity("intensity")?);
    let units = inputs.known("functional_units", "unit")?;
    Ok(inputs
        .outputs()
        .grams("operational", system.operational)
        .grams("carbon", system.carbon)
        .set_map("carbon_by_component", &keys, system.parts.iter().map(|part| Some(part.0)), "g")
        .set("sci", per_unit(system.carbon, units), "g/unit")
        .set_map("sci_by_component", &keys, system.parts.iter().map(|part| per_unit(*part, units)), "g/unit"))
}

pub fn product(inputs: &Inputs) -> Run<Outputs> {
    let carbon = operational(facility(inputs.joules("energy")?, inputs.pue("pue")?), inputs.intensity("intensity")?);
    let (mut whole, mut relative) = (Deviations::default(), Deviations::default());
    for (source, half_width) in inputs.map("relative_uncertainty", "1")? {
        whole.add(&source, carbon.0, half_width);
        relative.add(&source, 1.0, half_width);
    }
    let (low, high) = whole.interval(carbon.0, 0.0, 0.0);
    Ok(inputs
        .outputs()
        .grams("operational", carbon)
        .set("relative_half_width", relative.half_width(), "1")
        .set("low", low, "g")
        .set("high", high, "g"))
}

pub fn combine(inputs: &Inputs) -> Run<Outputs> {
    let carbon = inputs.map("carbon", "g")?;
    let mut deviations = Deviations::default();
    for (source, terms) in inputs.nested("relative_uncertainty", "1")? {
        for (term, half_width) in terms {
            let value = carbon.get(&term).ok_or_else(|| Stop::Wrong(format!("term `{term}` has no carbon")))?;
            deviations.add(&source, *value, half_width);
        }
    }
    let total = carbon.values().fold(GramsCo2e::default(), |sum, grams| sum + GramsCo2e(*grams));
    let gap = |name| inputs.optional(name, "g").map(Option::unwrap_or_default);
    let (low, high) = deviations.interval(total.0, gap("gap_low")?, gap("gap_high")?);
    let half_width = deviations.half_width();
    let units = inputs.known("functional_units", "unit")?;
    let each = |grams: f64| per_unit(GramsCo2e(grams), units);
    Ok(inputs
        .outputs()
        .grams("carbon_total", total)
        .set("half_width", half_width, "g")
        .set("low", low, "g")
        .set("high", high, "g")
        .set("sci", each(total.0), "g/unit")
        .set("sci_half_width", each(half_width), "g/unit")
        .set("sci_low", each(low), "g/unit")
        .set("sci_high", each(high), "g/unit"))
}
