//! `joulebook explain`.

use super::{window, with_alternatives};
use crate::arguments::{Connection, ExplainArguments, Form, LevelName};
use crate::client;
use crate::failure::Failure;
use crate::output::{csv, json, table};
use jiff::Timestamp;
use joulebook_proto::query::{ExplainRequest, GetSciRequest};

pub(crate) async fn answer(
    connection: &Connection,
    arguments: &ExplainArguments,
    now: Timestamp,
) -> Result<String, Failure> {
    if let Some(alias) = &arguments.alias {
        return super::alias::answer(connection, arguments, alias, now).await;
    }
    if arguments.level == LevelName::All {
        return Err(Failure::Usage("explain takes one level: accelerator, host, idle or facility".to_owned()));
    }
    let window = window(&arguments.period, now)?;
    let question = GetSciRequest {
        window: Some(window),
        selector: arguments.row.of(arguments.model.as_ref()),
        functional_unit: arguments.per.map_or(0, |per| per.wire().into()),
        level: arguments.level.wire().into(),
        idle_policy: arguments.idle.wire().into(),
        trust: arguments.trust.wire().into(),
        by: 0,
        intensity_kind: arguments.factors.intensity.map_or(0, |kind| kind.wire().into()),
        as_of_unix_nanos: arguments.factors.as_of,
        extended: arguments.factors.extended,
        idle_scope: arguments.idle_scope.wire().into(),
    };
    let question = ExplainRequest { question: Some(question) };
    let asked = client::ask(connection, async |mut client| client.explain(question).await);
    let answer = match asked.await {
        Ok(answer) => answer,
        Err(failure) => return Err(with_alternatives(failure, connection, window).await),
    };
    match arguments.output {
        Form::Table => Ok(table::explanation(&answer)),
        Form::Json => json::explanation(answer),
        Form::Csv => csv::terms(&answer),
    }
}
