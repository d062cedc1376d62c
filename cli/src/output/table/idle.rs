//! Idle capacity: who holds it and since when, both figures of every version, and what each policy makes of it.

use super::{instant, sheet};
use crate::output::quantity::{UNKNOWN, energy_unit, mass_unit, number, show};
use comfy_table::Table;
use joulebook_proto::query::{GetIdleResponse, IdleCapacity, IdleFigure, IdleVersion};
use joulebook_units::Microjoules;

/// The three tables.
pub(crate) fn idle(answer: &GetIdleResponse) -> String {
    let window = answer.window.clone().unwrap_or_default();
    let head = format!("{} … {} · idle by {} from the {}\n", window.start, window.end, answer.policy, answer.scope);
    if answer.capacities.is_empty() {
        return format!("{head}no idle capacity is known in the window\n");
    }
    let mut text = format!("{head}{}\n", capacities(answer));
    for one in answer.capacities.iter().filter(|one| !one.null_reason.is_empty() || !one.reason.is_empty()) {
        let said = [one.reason.as_str(), one.null_reason.as_str()].into_iter().filter(|text| !text.is_empty());
        text += &format!("{} on {}: {}\n", one.class, one.node, said.collect::<Vec<_>>().join("; "));
    }
    if !answer.versions.is_empty() {
        text += &format!("\n{}\n", versions(answer));
        for one in &answer.versions {
            let reason = one.provisioned.as_ref().map(|figure| figure.null_reason.clone()).unwrap_or_default();
            if !reason.is_empty() {
                text += &format!("{}: {reason}\n", one.label);
            }
        }
    }
    text + &format!("\n{}\n", policies(answer))
}

fn joules(microjoules: u64) -> f64 {
    Microjoules(microjoules).to_joules().0
}

fn capacities(answer: &GetIdleResponse) -> Table {
    let energy = energy_unit(answer.capacities.iter().map(|one| Some(joules(one.microjoules))));
    let total = |one: &IdleCapacity| one.operational_g.map(|grams| grams + one.embodied_g.unwrap_or(0.0));
    let mass = mass_unit(answer.capacities.iter().map(total));
    let mut table = sheet(vec![
        "class".to_owned(),
        "held by".to_owned(),
        "node".to_owned(),
        "since".to_owned(),
        format!("energy ({})", energy.symbol),
        "charged".to_owned(),
        format!("carbon ({})", mass.symbol),
        "95 % interval".to_owned(),
    ]);
    for one in &answer.capacities {
        let holder = match one.holder_kind.as_str() {
            "model" => one.holder.clone(),
            "nobody" => "nobody".to_owned(),
            kind => format!("{kind} {}", one.holder),
        };
        let since = format!("{}{}", if one.since_before { "before " } else { "" }, instant(one.since_unix_nanos));
        let mark = if one.simulated { " (simulated)" } else { "" };
        let ends = one.low_g.zip(one.high_g);
        let interval = ends.map_or_else(
            || UNKNOWN.to_owned(),
            |(low, high)| format!("{} … {}", show(Some(low), mass), show(Some(high), mass)),
        );
        table.add_row(vec![
            one.class.clone(),
            holder,
            format!("{}{mark}", one.node),
            if one.ended { format!("{since}, ended") } else { since },
            show(Some(joules(one.microjoules)), energy),
            show(Some(joules(one.charged_uj)), energy),
            show(total(one), mass),
            interval,
        ]);
    }
    table
}

/// Both figures of every version, side by side.
fn versions(answer: &GetIdleResponse) -> Table {
    let figures = |one: &IdleVersion| [one.marginal.clone(), one.provisioned.clone()].map(Option::unwrap_or_default);
    let all = || answer.versions.iter().flat_map(figures);
    let energy = energy_unit(all().map(|figure| Some(joules(figure.microjoules))));
    let mass = mass_unit(all().map(|figure| figure.carbon_g));
    let per = mass_unit(all().map(|figure| figure.g_per_unit));
    let mut table = sheet(vec![
        "model version".to_owned(),
        "figure".to_owned(),
        format!("energy ({})", energy.symbol),
        format!("carbon ({})", mass.symbol),
        "J per unit".to_owned(),
        format!("{} per unit", per.symbol),
        "95 % interval".to_owned(),
        "unit".to_owned(),
    ]);
    for one in &answer.versions {
        let mark = if one.simulated { " (simulated)" } else { "" };
        for (name, figure) in ["marginal", "provisioned"].into_iter().zip(figures(one)) {
            let IdleFigure { microjoules, carbon_g, j_per_unit, g_per_unit, low, high, .. } = figure;
            let interval = low.zip(high).map_or_else(
                || UNKNOWN.to_owned(),
                |(low, high)| format!("{} … {}", show(Some(low), per), show(Some(high), per)),
            );
            table.add_row(vec![
                format!("{}{mark}", one.label),
                name.to_owned(),
                show(Some(joules(microjoules)), energy),
                show(carbon_g, mass),
                number(j_per_unit),
                show(g_per_unit, per),
                interval,
                one.r_kind.replace('_', " "),
            ]);
        }
    }
    table
}

fn policies(answer: &GetIdleResponse) -> Table {
    let energy = energy_unit(answer.policies.iter().map(|sum| Some(joules(sum.total_uj))));
    let columns = ["versions", "ledger", "of it idle", "out of service", "total"];
    let header = columns.map(|name| format!("{name} ({})", energy.symbol));
    let mut table = sheet(["policy".to_owned()].into_iter().chain(header).chain(["scopes".to_owned()]).collect());
    for sum in &answer.policies {
        let parts = [sum.versions_uj, sum.ledger_uj, sum.unallocated_uj, sum.out_of_service_uj, sum.total_uj];
        let asked = if sum.policy == answer.policy { "*" } else { "" };
        let values = parts.map(|part| show(Some(joules(part)), energy));
        let scopes = [sum.scopes.join(", ")];
        table.add_row([format!("{}{asked}", sum.policy)].into_iter().chain(values).chain(scopes).collect::<Vec<_>>());
    }
    table
}
