//! `joulebook energy`.

use super::{window, with_alternatives};
use crate::arguments::{By, Connection, EnergyArguments, Form, LevelName};
use crate::client;
use crate::failure::Failure;
use crate::output::{csv, json, table};
use jiff::Timestamp;
use joulebook_proto::query::GetEnergyRequest;

pub(crate) async fn answer(
    connection: &Connection,
    arguments: &EnergyArguments,
    now: Timestamp,
) -> Result<String, Failure> {
    if matches!(arguments.level, LevelName::Facility | LevelName::All) {
        let message = "energy has the levels accelerator, host and idle; ask `joulebook sci` for facility and all";
        return Err(Failure::Usage(message.to_owned()));
    }
    let of_versions = matches!(arguments.by, By::Model | By::Consumer | By::Workflow);
    if !of_versions && (arguments.model.is_some() || arguments.per.is_some()) {
        return Err(Failure::Usage("--model and --per go with --by model, consumer or workflow only".to_owned()));
    }
    let window = window(&arguments.period, now)?;
    let question = GetEnergyRequest {
        window: Some(window),
        selector: arguments.model.clone(),
        by: arguments.by.wire().into(),
        idle_policy: arguments.idle.wire().into(),
        trust: arguments.trust.wire().into(),
        functional_unit: arguments.per.map(|per| per.wire().into()),
        level: arguments.level.wire().into(),
    };
    let asked = client::ask(connection, async |mut client| client.get_energy(question).await);
    let answer = match asked.await {
        Ok(answer) => answer,
        Err(failure) => return Err(with_alternatives(failure, connection, window).await),
    };
    match arguments.output {
        Form::Table => Ok(table::energy_rows(&answer)),
        Form::Json => json::plain(&answer),
        Form::Csv => csv::energy(&answer),
    }
}
