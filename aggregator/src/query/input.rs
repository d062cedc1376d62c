//! Inputs of nodes against their metered parts: which meter was the wall, the platform and how well it is known, and what
//! goes beyond the meter.

use super::question::trust_name;
use joulebook_proto::query::{MeterLag, Reconciliation};
use joulebook_sci::reconcile::Trust;
use joulebook_sci::totals::NodeTotals;
use joulebook_sci::{Cell, Flags, LagUse, SourceKey};
use std::time::Duration;

/// Whether some of a cell's input is estimated.
pub(super) fn is_estimated(cell: &Cell) -> bool {
    cell.flags.contains(Flags::PSU_ESTIMATED) || cell.flags.contains(Flags::RESIDUAL_MODELLED)
}

/// Where the platform of cells comes from.
pub(super) fn platform_method<'a>(cells: impl Iterator<Item = &'a Cell>) -> &'static str {
    let (mut measured, mut modelled, mut supply) = (false, false, false);
    for cell in cells {
        measured |= !cell.input.meters.is_empty();
        modelled |= cell.flags.contains(Flags::RESIDUAL_MODELLED);
        supply |= cell.flags.contains(Flags::PSU_ESTIMATED);
    }
    match (measured, modelled, supply) {
        (false, false, false) => "none",
        (true, false, false) => "measured",
        (false, true, false) => "modelled",
        (false, false, true) => "psu_efficiency",
        _ => "mixed",
    }
}

/// How late a meter of a cell is; `None` where it was not the wall.
pub(super) fn meter_lag(cell: &Cell, meter: &SourceKey) -> Option<MeterLag> {
    let nanos = *cell.input.meters.get(meter)?;
    Some(told(nanos, &cell.input.lags.get(meter).copied().unwrap_or_default()))
}

/// The lag of a meter that was the wall for so many nanoseconds.
#[allow(clippy::cast_precision_loss, reason = "a ratio")]
pub(super) fn told(nanos: u64, lag: &LagUse) -> MeterLag {
    let seconds = |nanos| (lag.nanos > 0).then(|| Duration::from_nanos(nanos).as_secs_f64());
    MeterLag {
        method: if lag.nanos > 0 { "cross_correlation" } else { "unknown" }.to_owned(),
        least_seconds: seconds(lag.least_nanos),
        most_seconds: seconds(lag.most_nanos),
        known_fraction: lag.nanos as f64 / nanos.max(1) as f64,
    }
}

/// The inputs of nodes, given with their names.
#[allow(clippy::cast_precision_loss, reason = "ratios")]
pub(super) fn reconciliation(nodes: &[(&str, &NodeTotals)], trust: Trust) -> Reconciliation {
    let sum = |part: fn(&Cell) -> u64| nodes.iter().map(|(_, node)| part(&node.cell)).fold(0u64, u64::saturating_add);
    let ratio = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
    let walls = nodes
        .iter()
        .flat_map(|(name, node)| node.cell.input.meters.keys().map(move |meter| format!("{name}: {}", meter.id)));
    let input = sum(Cell::measured_input_microjoules);
    let overcount = sum(|cell| cell.overcount_microjoules.saturating_add(cell.input.scaled_microjoules));
    Reconciliation {
        trust: trust_name(trust).to_owned(),
        platform_method: platform_method(nodes.iter().map(|(_, node)| &node.cell)).to_owned(),
        walls: walls.collect(),
        measured_fraction: ratio(sum(|cell| cell.input.component_microjoules), sum(Cell::component_microjoules)),
        measured_input_uj: input,
        platform_uj: sum(Cell::platform_microjoules),
        platform_bound_uj: sum(|cell| cell.input.bound_microjoules),
        overcount_uj: overcount,
        overcount_fraction: ratio(overcount, input),
    }
}
