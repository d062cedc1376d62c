//! Energy row by row: exact joules, and their sum.

use super::super::csv::key_names;
use super::super::quantity::{UNKNOWN, exact_joules, number, percent};
use super::super::simulated::{mark, share};
use super::{input, lag, sheet};
use joulebook_proto::query::{EnergyRow, GetEnergyResponse};
use joulebook_units::Microjoules;
use std::collections::BTreeMap;

/// Key column of nodes.
const NODE: &str = "node";
/// Column of the mark.
const SIMULATED: &str = "simulated";
/// What stands where a column does not apply to a row.
const NONE: &str = "–";

/// A column beside the key, shown where a row has something for it.
struct Column {
    name: &'static str,
    shown: fn(&EnergyRow) -> bool,
    cell: fn(&EnergyRow) -> String,
}

const COLUMNS: [Column; 9] = [
    Column {
        name: "accelerator (J)",
        shown: |row| row.component_microjoules.contains_key("accelerator"),
        cell: |row| {
            let own = row.component_microjoules.get("accelerator").copied();
            own.map_or(NONE.to_owned(), |own| number(Some(Microjoules(own).to_joules().0)))
        },
    },
    Column {
        name: "CPU time (s)",
        shown: |row| row.cpu_seconds.is_some(),
        cell: |row| row.cpu_seconds.map_or(NONE.to_owned(), |seconds| number(Some(seconds))),
    },
    Column {
        name: "content (J)",
        shown: |row| row.content_microjoules.is_some(),
        cell: |row| row.content_microjoules.map_or(UNKNOWN.to_owned(), exact_joules),
    },
    Column {
        name: "residual (J)",
        shown: |row| row.layer_residual_microjoules.is_some(),
        cell: |row| match row.layer_residual_microjoules {
            None => UNKNOWN.to_owned(),
            Some(residual) if residual < 0 => format!("-{}", exact_joules(residual.unsigned_abs())),
            Some(residual) => exact_joules(residual.unsigned_abs()),
        },
    },
    Column {
        name: "PUE",
        shown: |row| row.pue.is_some(),
        cell: |row| row.pue.map_or(NONE.to_owned(), |pue| number(Some(pue))),
    },
    Column {
        name: "late by",
        shown: |row| row.lag.is_some(),
        cell: |row| row.lag.as_ref().map_or(NONE.to_owned(), lag),
    },
    Column { name: "method", shown: |_| true, cell: |row| row.method.clone() },
    Column {
        name: "J per unit",
        shown: |row| row.joules_per_unit.is_some() || row.per_unit_null_reason.is_some(),
        cell: |row| {
            let reason = row.per_unit_null_reason.clone().unwrap_or_else(|| "no reason given".to_owned());
            row.joules_per_unit.map_or_else(|| format!("unknown: {reason}"), |value| number(Some(value)))
        },
    },
    Column {
        name: SIMULATED,
        shown: |row| row.simulated,
        cell: |row| match (row.simulated, share(row.simulated_microjoules, row.microjoules)) {
            (false, _) => String::new(),
            (true, Some(part)) if part < 1.0 => percent(Some(part)),
            (true, _) => "yes".to_owned(),
        },
    },
];

/// One row a row, and their sum.
pub(crate) fn energy_rows(answer: &GetEnergyResponse) -> String {
    let keys = key_names(answer);
    // Where rows name nodes, these are marked; else the mark has a column.
    let marks_nodes = keys.iter().any(|name| name == NODE);
    let columns = COLUMNS.iter().filter(|column| answer.rows.iter().any(|row| (column.shown)(row)));
    let columns: Vec<&Column> = columns.filter(|column| !(marks_nodes && column.name == SIMULATED)).collect();
    let mut header = keys.clone();
    header.extend(["energy (J)", "share"].map(str::to_owned));
    header.extend(columns.iter().map(|column| column.name.to_owned()));
    let mut table = sheet(header);
    for row in &answer.rows {
        let own = |name: &String| {
            let part =
                row.key.iter().find(|part| part.name == *name).map(|part| part.value.clone()).unwrap_or_default();
            if name == NODE { part + &mark(row.simulated, None) } else { part }
        };
        let mut cells: Vec<String> = keys.iter().map(own).collect();
        #[allow(clippy::cast_precision_loss, reason = "a percentage for reading")]
        let of_all = row.microjoules.map(|own| own as f64 / answer.total_microjoules.max(1) as f64);
        cells.push(row.microjoules.map_or_else(|| UNKNOWN.to_owned(), exact_joules));
        cells.push(percent(of_all));
        cells.extend(columns.iter().map(|column| (column.cell)(row)));
        table.add_row(cells);
    }
    let input = answer.reconciliation.as_ref().map_or_else(String::new, input);
    let own = own(answer);
    format!(
        "{table}\ntotal {} J{} · energy known for {} of the window · cut at {} s\n{own}{input}next: joulebook sci --level all\n",
        exact_joules(answer.total_microjoules),
        mark(answer.simulated, share(answer.simulated_microjoules, Some(answer.total_microjoules))),
        percent(answer.energy_measured_fraction),
        answer.resolution_seconds,
    )
}

/// What Joulebook itself used, where an agent measures it.
#[allow(clippy::cast_precision_loss, reason = "a percentage for reading")]
fn own(answer: &GetEnergyResponse) -> String {
    let programs: BTreeMap<&String, &u64> = answer.own_microjoules.iter().collect();
    if programs.is_empty() {
        return String::new();
    }
    let sum: u64 = programs.values().copied().sum();
    let parts: Vec<String> =
        programs.iter().map(|(program, energy)| format!("{program} {} J", exact_joules(**energy))).collect();
    let part = (answer.total_microjoules > 0).then(|| sum as f64 / answer.total_microjoules as f64);
    format!("of it Joulebook itself: {} ({})\n", parts.join(", "), percent(part))
}
