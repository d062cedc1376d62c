//! `joulebook explain --alias`: what a name stood for.

use super::window;
use crate::arguments::{Connection, ExplainArguments, Form, wire_window};
use crate::client;
use crate::failure::Failure;
use crate::output::{csv, json, table};
use crate::period;
use jiff::{SignedDuration, Timestamp};
use joulebook_proto::query::{AliasEpoch, GetAliasHistoryRequest, GetAliasHistoryResponse, TimeWindow};

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
    let question = GetAliasHistoryRequest { alias: alias.to_owned(), window: Some(shown) };
    let asked = client::ask(connection, async |mut client| client.get_alias_history(question).await);
    let history = asked.await?;
    let moment = at.map(|at| standing(&history, at));
    match arguments.output {
        Form::Table => Ok(table::alias(alias, arguments.at.as_deref(), moment.as_deref(), &history)),
        Form::Json => json::plain(&serde_json::json!({ "alias": alias, "at": moment, "history": history })),
        Form::Csv => csv::epochs(&history),
    }
}

/// What the name stood for at an instant: at each counting point what it came to stand for last. What was counted last
/// before the instant is believed until something else is counted.
fn standing(history: &GetAliasHistoryResponse, at: i64) -> Vec<AliasEpoch> {
    let begun = || history.epochs.iter().filter(|epoch| epoch.start_unix_nanos <= at);
    let same_point = |one: &AliasEpoch, other: &AliasEpoch| (&one.node, &one.target) == (&other.node, &other.target);
    let is_last = |epoch: &&AliasEpoch| {
        let over = epoch.end_unix_nanos <= at;
        let latest = begun().filter(|other| same_point(other, epoch)).map(|other| other.start_unix_nanos).max();
        !over || latest == Some(epoch.start_unix_nanos)
    };
    begun().filter(is_last).cloned().collect()
}

/// An instant, and the time around it up to now.
fn around(at: &str, now: Timestamp) -> Result<(i64, TimeWindow), Failure> {
    let usage = |error: period::InvalidPeriod| Failure::Usage(error.to_string());
    let instant = period::instant(at).map_err(usage)?;
    let shifted = |by: SignedDuration| {
        instant.checked_add(by).map_err(|_| usage(period::InvalidPeriod::Range)).map(|time| time.to_string())
    };
    let hours = SignedDuration::from_hours;
    let cut = |from: &str, to: &str| period::window(None, Some(from), Some(to), now).map(wire_window).map_err(usage);
    let nanos = i64::try_from(instant.as_nanosecond()).map_err(|_| usage(period::InvalidPeriod::Range))?;
    let end = instant.checked_add(hours(AROUND_HOURS)).unwrap_or(now).min(now).max(instant);
    let end = end.checked_add(SignedDuration::from_secs(1)).unwrap_or(end);
    Ok((nanos, cut(&shifted(-hours(AROUND_HOURS))?, &end.to_string())?))
}
