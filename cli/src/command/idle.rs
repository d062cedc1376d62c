//! `joulebook idle`.

use super::window;
use crate::arguments::{AdminForm, Connection, IdleArguments};
use crate::client;
use crate::failure::Failure;
use crate::output::{json, table};
use jiff::Timestamp;
use joulebook_proto::query::GetIdleRequest;

pub(crate) async fn answer(
    connection: &Connection,
    arguments: &IdleArguments,
    now: Timestamp,
) -> Result<String, Failure> {
    let question = GetIdleRequest {
        window: Some(window(&arguments.period, now)?),
        idle_policy: arguments.idle.wire().into(),
        idle_scope: arguments.idle_scope.wire().into(),
        trust: arguments.trust.wire().into(),
        intensity_kind: arguments.intensity.map_or(0, |kind| kind.wire().into()),
        as_of_unix_nanos: arguments.as_of,
        functional_unit: arguments.per.map_or(0, |per| per.wire().into()),
    };
    let answer = client::ask(connection, async |mut client| client.get_idle(question).await).await?;
    match arguments.output {
        AdminForm::Table => Ok(table::idle(&answer)),
        AdminForm::Json => json::plain(&answer),
    }
}
