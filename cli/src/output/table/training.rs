//! Training of model versions: disclosures and ledgers.

use super::care::instant;
use super::sheet;
use crate::command::version_name;
use crate::output::quantity::number;
use joulebook_proto::admin::TrainingPool;
use joulebook_proto::query::SciAnswer;
use serde_json::Value;

/// What a disclosure may hold beside T and N, as people read it.
const DISCLOSED: [(&str, &str); 13] = [
    ("document", "document"),
    ("date", "date"),
    ("provider", "provider"),
    ("scope", "scope of T"),
    ("parts_g", "parts of T (g)"),
    ("measured", "measured job"),
    ("energy_kwh", "energy (kWh)"),
    ("hardware", "hardware"),
    ("duration_hours", "duration (h)"),
    ("iterations", "iterations"),
    ("energy_source", "energy source"),
    ("cooling", "cooling"),
    ("efficiency", "efficiency"),
];

/// One row a pool.
pub(crate) fn pools(pools: &[TrainingPool]) -> String {
    if pools.is_empty() {
        return "no training is disclosed\nnext: joulebook training set FILE\n".to_owned();
    }
    let header = ["pool", "version", "T (g)", "N", "used", "allocated (g)", "remaining (g)", "state"];
    let mut table = sheet(header.map(str::to_owned).to_vec());
    for pool in pools {
        let document = document(pool);
        let text = |field: &str| document.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        table.add_row(vec![
            pool.pool.clone(),
            format!("{}@{}", text("model"), text("version")),
            pool.training_g.to_string(),
            pool.expected_units.to_string(),
            pool.used_units.to_string(),
            pool.allocated_g.to_string(),
            pool.remaining_g.to_string(),
            state(pool).to_owned(),
        ]);
    }
    format!("{table}\n")
}

/// One pool: its ledger, each thing that is or is not disclosed, and what happened to it.
pub(crate) fn pool(pool: &TrainingPool) -> String {
    let mut text = format!(
        "pool {}: {}\nT {} g = allocated {} + written off {} + remaining {}\nN {}, used {}\n",
        pool.pool,
        state(pool),
        pool.training_g,
        pool.allocated_g,
        pool.written_off_g,
        pool.remaining_g,
        pool.expected_units,
        pool.used_units,
    );
    let document = document(pool);
    for (field, name) in DISCLOSED {
        let value = document.get(field).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        text += &format!("{name}: {}\n", value.unwrap_or_else(|| "not disclosed".to_owned()));
    }
    for event in &pool.events {
        let what = serde_json::from_str::<Value>(&event.event).unwrap_or_default();
        let (name, of) =
            what.as_object().and_then(|fields| fields.iter().next()).map_or(("", None), |(k, v)| (k, Some(v)));
        let detail = of.filter(|_| name != "disclose").map(Value::to_string).unwrap_or_default();
        text += format!("{} {name} {detail}", instant(event.unix_nanos)).trim_end();
        text.push('\n');
    }
    text
}

fn state(pool: &TrainingPool) -> &'static str {
    match (pool.retired, pool.fully_amortised) {
        (true, _) => "retired",
        (_, true) => "fully amortised",
        _ => "in service",
    }
}

fn document(pool: &TrainingPool) -> Value {
    serde_json::from_str(&pool.document).unwrap_or_default()
}

/// The extended boundary of an answer, where it was asked for: both numbers, the label, and the gates.
pub(crate) fn extended(answer: &SciAnswer) -> String {
    let block = answer.extended.clone().unwrap_or_default();
    if !block.available && block.failed_gates.is_empty() {
        return String::new();
    }
    let mut text = format!("{}, {}, not SCI:\n", version_name(answer), block.label);
    if !block.failed_gates.is_empty() {
        text += &format!("  gates not met: {}\n", block.failed_gates.join(", "));
    }
    if let (Some(per_unit), Some(training)) = (block.per_unit_g, block.training_g) {
        let sci = answer.sci.as_ref().and_then(|sci| sci.value);
        let (low, high) = (number(block.low), number(block.high));
        let with = number(block.sci);
        text += &format!("  with training {with} {} ({low} to {high}), without {}\n", block.unit, number(sci));
        let per_unit = number(Some(per_unit));
        text += &format!(
            "  training {} g in the window, {per_unit} g per {}\n",
            number(Some(training)),
            block.allocation_unit
        );
    }
    for ledger in &block.ledgers {
        text += &format!(
            "  pool {} × {}: T {} g = allocated {} + written off {} + remaining {}\n",
            ledger.pool_id,
            ledger.weight,
            ledger.training_g,
            ledger.allocated_g,
            ledger.written_off_g,
            ledger.remaining_g
        );
    }
    block.notes.iter().for_each(|note| text += &format!("  {note}\n"));
    text
}
