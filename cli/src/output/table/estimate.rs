//! Estimates, and what was measured beside them.

use super::sheet;
use crate::command::estimate::{Estimated, Interval, Rated};
use crate::output::quantity::{UNKNOWN, Unit, energy_unit, mass_unit, number, show};

fn ranged(interval: Option<Interval>, unit: Unit) -> [String; 2] {
    let Some(Interval { value, low, high }) = interval else { return [UNKNOWN, UNKNOWN].map(str::to_owned) };
    [show(Some(value), unit), format!("{} … {}", show(Some(low), unit), show(Some(high), unit))]
}

/// An estimate.
pub(crate) fn estimate(estimated: &Estimated) -> String {
    let measured = estimated.measured.as_ref();
    let energy = energy_unit([Some(estimated.energy_j.value), measured.and_then(|one| one.energy_j)]);
    let mass = mass_unit([estimated.carbon_g.map(|one| one.value), measured.and_then(|one| one.carbon_g)]);
    let header = ["figure", "by"].map(str::to_owned).into_iter().chain([
        format!("energy ({})", energy.symbol),
        "95 % interval".to_owned(),
        format!("carbon ({})", mass.symbol),
        "95 % interval".to_owned(),
    ]);
    let mut table = sheet(header.collect());
    let row = [estimated.label.to_owned(), estimated.method.clone()].into_iter();
    let figures = ranged(Some(estimated.energy_j), energy).into_iter().chain(ranged(estimated.carbon_g, mass));
    table.add_row(row.chain(figures).collect::<Vec<_>>());
    if let Some(one) = measured {
        let seen = [one.energy_j, one.carbon_g];
        let [joules, grams] = seen;
        let empty = || "see sci".to_owned();
        table.add_row(vec![
            "measured".to_owned(),
            one.method.clone(),
            show(joules, energy),
            empty(),
            show(grams, mass),
            empty(),
        ]);
    }
    let mut text = format!("{table}\n{} of {}\n", estimated.label, estimated.formula);
    let inputs =
        estimated.inputs.iter().map(|one| format!("  {} {} ({})\n", one.name, number(Some(one.value)), one.from));
    text.extend(inputs);
    for one in estimated.components.iter().filter(|_| estimated.components.len() > 1) {
        text +=
            &format!("  of it {} {} {} ({})\n", one.name, show(Some(one.energy_j), energy), energy.symbol, one.method);
    }
    if let Some((one, ratio)) = measured.and_then(|one| Some((one, one.energy_ratio?))) {
        let inside = if one.within_interval == Some(true) { "inside" } else { "outside" };
        text += &format!(
            "the estimate is {} × what was measured of {}, which lies {inside} its interval\n",
            number(Some(ratio)),
            one.name
        );
    }
    for (field, reason) in estimated.not_available.iter().filter(|(field, _)| **field != "measured") {
        text += &format!("{field} unknown: {reason}\n");
    }
    text
}

/// What remote models delivered.
pub(crate) fn rated(rated: &Rated) -> String {
    let mass = mass_unit(rated.delivered.iter().map(|one| one.carbon_g.map(|grams| grams.value)));
    let header = ["consumer", "model", "endpoint", "units"].map(str::to_owned).into_iter();
    let mut table = sheet(
        header.chain([format!("carbon ({})", mass.symbol), "95 % interval".to_owned(), "by".to_owned()]).collect(),
    );
    for one in &rated.delivered {
        let units = format!("{} {}", number(one.units), one.unit.unwrap_or_default());
        let by = one.method.zip(one.document.clone()).map(|(method, document)| format!("{method}: {document}"));
        let row = [one.consumer.clone(), one.model.clone(), one.endpoint.clone(), units.trim().to_owned()].into_iter();
        let tail = [by.or_else(|| one.null_reason.clone()).unwrap_or_default()];
        table.add_row(row.chain(ranged(one.carbon_g, mass)).chain(tail).collect::<Vec<_>>());
    }
    let sum = match &rated.null_reason {
        None => {
            let [value, interval] = ranged(rated.carbon_g, mass);
            format!("together {value} {} ({interval})", mass.symbol)
        }
        Some(reason) => format!("together {UNKNOWN}: {reason}"),
    };
    format!("{table}\n{}: {sum}; no part of what is measured\n", rated.label)
}
