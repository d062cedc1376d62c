//! `joulebook sci`.

use super::{window, with_alternatives};
use crate::arguments::{Connection, Form, LevelName, SciArguments};
use crate::client;
use crate::failure::Failure;
use crate::output::{csv, json, table};
use jiff::Timestamp;
use joulebook_proto::query::{GetSciRequest, Level, SciAnswer};

const LEVELS: [Level; 4] = [Level::Accelerator, Level::Host, Level::Idle, Level::Facility];

pub(crate) async fn answer(
    connection: &Connection,
    arguments: &SciArguments,
    now: Timestamp,
) -> Result<String, Failure> {
    let window = window(&arguments.period, now)?;
    let side_by_side = arguments.level == LevelName::All;
    let wire = [arguments.level.wire()];
    let levels = if side_by_side { LEVELS.as_slice() } else { wire.as_slice() };
    let questions: Vec<GetSciRequest> = levels
        .iter()
        .map(|level| GetSciRequest {
            window: Some(window),
            selector: arguments.row.of(arguments.model.as_ref()),
            functional_unit: arguments.per.map_or(0, |per| per.wire().into()),
            level: (*level).into(),
            idle_policy: arguments.idle.wire().into(),
            trust: arguments.trust.wire().into(),
            by: arguments.by.map_or(0, |by| by.wire().into()),
            intensity_kind: arguments.factors.intensity.map_or(0, |kind| kind.wire().into()),
            as_of_unix_nanos: arguments.factors.as_of,
            extended: arguments.factors.extended,
            idle_scope: arguments.idle_scope.wire().into(),
        })
        .collect();
    let asked = client::ask(connection, async |mut client| {
        let mut answers: Vec<SciAnswer> = Vec::new();
        for question in questions {
            answers.extend(client.get_sci(question).await?.into_inner().answers);
        }
        Ok(tonic::Response::new(answers))
    });
    let answers = match asked.await {
        Ok(answers) => answers,
        Err(failure) => return Err(with_alternatives(failure, connection, window).await),
    };
    match arguments.output {
        Form::Table if side_by_side => Ok(table::levels(&answers)),
        Form::Table => Ok(table::scores(&answers)),
        Form::Json => json::answers(answers),
        Form::Csv => csv::scores(&answers),
    }
}
