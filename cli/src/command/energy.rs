//! `joulebook energy`.

use super::{window, with_alternatives};
use crate::arguments::{By, Connection, EnergyArguments, Form, LevelName};
use crate::client;
use crate::failure::Failure;
use crate::output::{csv, json, table};
use crate::series;
use jiff::Timestamp;
use joulebook_proto::query::{GetEnergyRequest, GetEnergyResponse, TimeWindow};
use tonic::{Code, Response, Status};

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
    let windows = match arguments.step {
        Some(step) => series::windows(window, step)?,
        None => vec![window],
    };
    let question = |window: TimeWindow| GetEnergyRequest {
        window: Some(window),
        selector: arguments.row.of(arguments.model.as_ref()),
        by: arguments.by.wire().into(),
        idle_policy: arguments.idle.wire().into(),
        trust: arguments.trust.wire().into(),
        functional_unit: arguments.per.map(|per| per.wire().into()),
        level: arguments.level.wire().into(),
        idle_scope: arguments.idle_scope.wire().into(),
    };
    let asked = client::ask(connection, async |mut client| {
        let mut answers: Vec<GetEnergyResponse> = Vec::with_capacity(windows.len());
        for window in windows {
            answers.push(match client.get_energy(question(window)).await {
                Ok(answer) => answer.into_inner(),
                // A part of a series may have nothing of what is asked for.
                Err(status) if arguments.step.is_some() && status.code() == Code::NotFound => {
                    GetEnergyResponse { window: Some(window), ..GetEnergyResponse::default() }
                }
                Err(status) => return Err(status),
            });
        }
        Ok::<_, Status>(Response::new(answers))
    });
    let answer = match asked.await {
        Ok(mut answers) if arguments.step.is_none() => answers.pop().unwrap_or_default(),
        Ok(answers) => series::joined(answers),
        Err(failure) => return Err(with_alternatives(failure, connection, window).await),
    };
    match arguments.output {
        Form::Table => Ok(table::energy_rows(&answer)),
        Form::Json => json::plain(&answer),
        Form::Csv => csv::energy(&answer),
    }
}
