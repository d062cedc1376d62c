//! `joulebook explain --alias`: what a name stood for.

use super::window;
use crate::arguments::{Connection, ExplainArguments, Form, wire_window};
use crate::client;
use crate::failure::Failure;
use crate::output::{csv, json, table};
use crate::period;
use jiff::{SignedDuration, Timestamp};
use joulebook_proto::query::{GetAliasHistoryRequest, GetAliasHistoryResponse, TimeWindow};

/// How much of the history is shown around an instant, in hours.
const AROUND_HOURS: i64 = 24;

/// The history of a name; around an instant, what it stood for at that instant comes first.
pub(crate) async fn answer(
    connection: &Connection,
    arguments: &ExplainArguments,
    alias: &str,
    now: Timestamp,
) -> Result<String, Failure> {
    let (shown, at) = match &arguments.at {
        None => (window(&arguments.period, now)?, None),
        Some(at) => {
            let (instant, around) = around(at, now)?;
            (around, Some(instant))
        }
    };
    let ask = |window: TimeWindow| GetAliasHistoryRequest { alias: alias.to_owned(), window: Some(window) };
    let (history, moment) = (ask(shown), at.map(ask));
    let asked = client::ask(connection, async |mut client| {
        let history = client.get_alias_history(history).await?.into_inner();
        let moment = match moment {
            Some(moment) => Some(client.get_alias_history(moment).await?.into_inner()),
            None => None,
        };
        Ok(tonic::Response::new((history, moment)))
    });
    let (history, moment): (GetAliasHistoryResponse, Option<GetAliasHistoryResponse>) = asked.await?;
    match arguments.output {
        Form::Table => Ok(table::alias(alias, arguments.at.as_deref(), moment.as_ref(), &history)),
        Form::Json => json::plain(&serde_json::json!({ "alias": alias, "at": moment, "history": history })),
        Form::Csv => csv::epochs(&history),
    }
}

/// The second of an instant, and the time around it up to now.
fn around(at: &str, now: Timestamp) -> Result<(TimeWindow, TimeWindow), Failure> {
    let usage = |error: period::InvalidPeriod| Failure::Usage(error.to_string());
    let instant = period::instant(at).map_err(usage)?;
    let shifted = |by: SignedDuration| {
        instant.checked_add(by).map_err(|_| usage(period::InvalidPeriod::Range)).map(|time| time.to_string())
    };
    let hours = SignedDuration::from_hours;
    let cut = |from: &str, to: &str| period::window(None, Some(from), Some(to), now).map(wire_window).map_err(usage);
    let second = cut(&instant.to_string(), &shifted(SignedDuration::from_secs(1))?)?;
    let end = instant.checked_add(hours(AROUND_HOURS)).unwrap_or(now).min(now).max(instant);
    let end = end.checked_add(SignedDuration::from_secs(1)).unwrap_or(end);
    Ok((second, cut(&shifted(-hours(AROUND_HOURS))?, &end.to_string())?))
}
