//! CSV (RFC 4180): one header, one row an item, empty where a value is not known.

use crate::failure::Failure;
use joulebook_proto::query::{ExplainResponse, GetAliasHistoryResponse, GetEnergyResponse, SciAnswer};
use std::collections::BTreeSet;
use std::fmt::Display;

/// One row a stretch of time.
pub(crate) fn epochs(history: &GetAliasHistoryResponse) -> Result<String, Failure> {
    let header = [
        "start_unix_nanos",
        "end_unix_nanos",
        "version",
        "version_source",
        "weights",
        "base",
        "revision",
        "serving_config",
        "serving_configuration",
        "engine",
        "target",
        "node",
    ];
    let rows = history.epochs.iter().cloned().map(|epoch| {
        vec![
            epoch.start_unix_nanos.to_string(),
            epoch.end_unix_nanos.to_string(),
            cell(epoch.version),
            epoch.version_source,
            cell(epoch.weights),
            cell(epoch.base),
            cell(epoch.revision),
            cell(epoch.serving_config),
            cell(epoch.serving_configuration),
            epoch.engine,
            epoch.target,
            epoch.node,
        ]
    });
    write(header.map(str::to_owned).to_vec(), rows)
}

/// One row a model version and level.
pub(crate) fn scores(answers: &[SciAnswer]) -> Result<String, Failure> {
    let header = [
        "model",
        "model_version",
        "start",
        "end",
        "level",
        "label",
        "r_kind",
        "r_value",
        "energy_j",
        "accelerator_j",
        "host_j",
        "platform_j",
        "dedicated_idle_j",
        "pool_idle_j",
        "overhead_j",
        "o_g",
        "m_g",
        "total_g",
        "sci",
        "sci_unit",
        "sci_low",
        "sci_high",
        "sci_null_reason",
        "joint_coverage",
        "energy_measured_fraction",
        "flags",
        "input_tokens",
        "cached_tokens",
        "output_tokens",
        "answer_id",
        "simulated",
        "simulated_share",
        "trust",
        "platform_method",
        "platform_uj",
        "platform_bound_uj",
        "overcount_uj",
        "walls",
        "model_version_digest",
        "serving_config",
        "apportioned_by",
        "entity",
    ];
    let rows = answers.iter().cloned().map(|answer| {
        let (subject, window) = (answer.subject.unwrap_or_default(), answer.window.unwrap_or_default());
        let (boundary, r) = (answer.boundary.unwrap_or_default(), answer.r.unwrap_or_default());
        let (energy, carbon) = (answer.energy.unwrap_or_default(), answer.carbon.unwrap_or_default());
        let (sci, quality) = (answer.sci.unwrap_or_default(), answer.quality.unwrap_or_default());
        let (tokens, input) = (answer.tokens.unwrap_or_default(), answer.reconciliation.unwrap_or_default());
        vec![
            cell(subject.model),
            cell(subject.model_version),
            window.start,
            window.end,
            boundary.level,
            boundary.label,
            r.kind,
            cell(r.value),
            cell(energy.total_j),
            cell(energy.accelerator_j),
            cell(energy.host_j),
            cell(energy.platform_j),
            cell(energy.dedicated_idle_j),
            cell(energy.pool_idle_j),
            cell(energy.overhead_j),
            cell(carbon.o_g),
            cell(carbon.m_g),
            cell(carbon.total_g),
            cell(sci.value),
            sci.unit,
            cell(sci.low),
            cell(sci.high),
            cell(sci.null_reason),
            cell(quality.joint_coverage),
            cell(quality.energy_measured_fraction),
            quality.flags.join(" "),
            cell(tokens.input),
            cell(tokens.cached),
            cell(tokens.output),
            answer.answer_id,
            answer.simulated.to_string(),
            cell(answer.simulated_share),
            input.trust,
            input.platform_method,
            input.platform_uj.to_string(),
            input.platform_bound_uj.to_string(),
            input.overcount_uj.to_string(),
            input.walls.join(" "),
            cell(subject.model_version_digest),
            cell(subject.serving_config),
            subject.apportioned_by.join(" "),
            cell(subject.entity),
        ]
    });
    write(header.map(str::to_owned).to_vec(), rows)
}

/// One row a row, components in columns of their own.
pub(crate) fn energy(answer: &GetEnergyResponse) -> Result<String, Failure> {
    let keys = key_names(answer);
    let components: BTreeSet<&String> = answer.rows.iter().flat_map(|row| row.component_microjoules.keys()).collect();
    let mut header = keys.clone();
    let columns = [
        "microjoules",
        "method",
        "cpu_seconds",
        "units",
        "joules_per_unit",
        "per_unit_null_reason",
        "simulated",
        "simulated_microjoules",
        "content_microjoules",
        "layer_residual_microjoules",
        "pue",
        "lag_method",
        "lag_least_seconds",
        "lag_most_seconds",
    ];
    header.extend(columns.map(str::to_owned));
    header.extend(components.iter().map(|component| format!("{component}_microjoules")));
    let rows = answer.rows.iter().map(|row| {
        let part = |name: &String| row.key.iter().find(|part| part.name == *name).map(|part| part.value.clone());
        let mut cells: Vec<String> = keys.iter().map(|name| cell(part(name))).collect();
        cells.extend([
            cell(row.microjoules),
            row.method.clone(),
            cell(row.cpu_seconds),
            cell(row.units),
            cell(row.joules_per_unit),
            cell(row.per_unit_null_reason.clone()),
            row.simulated.to_string(),
            row.simulated_microjoules.to_string(),
            cell(row.content_microjoules),
            cell(row.layer_residual_microjoules),
            cell(row.pue),
            cell(row.lag.as_ref().map(|lag| lag.method.clone())),
            cell(row.lag.as_ref().and_then(|lag| lag.least_seconds)),
            cell(row.lag.as_ref().and_then(|lag| lag.most_seconds)),
        ]);
        cells.extend(components.iter().map(|component| cell(row.component_microjoules.get(*component).copied())));
        cells
    });
    write(header, rows)
}

/// One row a term, then one row an account of every node.
pub(crate) fn terms(explained: &ExplainResponse) -> Result<String, Failure> {
    let header = ["kind", "node", "name", "formula", "value", "unit", "microjoules", "source", "simulated"];
    let terms = explained.terms.iter().map(|term| {
        vec![
            "term".to_owned(),
            String::new(),
            term.name.clone(),
            term.formula.clone(),
            cell(term.value),
            term.unit.clone(),
            cell(term.microjoules),
            term.source.clone(),
            term.simulated.to_string(),
        ]
    });
    let accounts = explained.balances.iter().flat_map(|balance| {
        let row = |kind: &str, name: String, microjoules: Option<u64>| {
            vec![
                kind.to_owned(),
                balance.node.clone(),
                name,
                String::new(),
                String::new(),
                "µJ".to_owned(),
                cell(microjoules),
                String::new(),
                balance.simulated.to_string(),
            ]
        };
        let residual = || {
            let mut cells = row("residual", String::new(), None);
            if let Some(value) = cells.get_mut(6) {
                *value = balance.residual_microjoules.to_string();
            }
            cells
        };
        let ends = [
            row("input", String::new(), Some(balance.input_microjoules)),
            row("overcount", String::new(), Some(balance.overcount_microjoules)),
        ];
        let accounts = balance.accounts.iter().map(move |account| {
            let name = if account.name.is_empty() {
                account.account.clone()
            } else {
                format!("{} {}", account.account, account.name)
            };
            row("account", name, Some(account.microjoules))
        });
        ends.into_iter().chain(accounts).chain([residual()]).collect::<Vec<_>>()
    });
    write(header.map(str::to_owned).to_vec(), terms.chain(accounts))
}

/// Names of the key's columns, in the order in which rows bring them.
pub(crate) fn key_names(answer: &GetEnergyResponse) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for part in answer.rows.iter().flat_map(|row| &row.key) {
        if !names.contains(&part.name) {
            names.push(part.name.clone());
        }
    }
    names
}

fn cell(value: Option<impl Display>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn write(header: Vec<String>, rows: impl Iterator<Item = Vec<String>>) -> Result<String, Failure> {
    let failed = |error: csv::Error| Failure::Damaged(format!("printing the answer as CSV failed: {error}"));
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    writer.write_record(header).map_err(failed)?;
    for row in rows {
        writer.write_record(row).map_err(failed)?;
    }
    let bytes = writer.into_inner().map_err(|error| Failure::Output(error.into_error()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
