//! The subcommands: arguments → question → answer → text.

pub(crate) mod admin;
pub(crate) mod alias;
pub(crate) mod compare;
pub(crate) mod doctor;
pub(crate) mod energy;
pub(crate) mod estimate;
pub(crate) mod explain;
pub(crate) mod factors;
pub(crate) mod idle;
pub(crate) mod sci;
pub(crate) mod training;

use crate::arguments::{Connection, PeriodArguments};
use crate::client;
use crate::failure::Failure;
use crate::period;
use jiff::Timestamp;
use joulebook_proto::query::{GetSciRequest, SciAnswer, TimeWindow};

fn window(arguments: &PeriodArguments, now: Timestamp) -> Result<TimeWindow, Failure> {
    period::window(arguments.last, arguments.from.as_deref(), arguments.to.as_deref(), now)
        .map(crate::arguments::wire_window)
        .map_err(|error| Failure::Usage(error.to_string()))
}

/// The name of an answer: its label, else `NAME@VERSION` with `unknown` for what is, and the part that the answer is about.
pub(crate) fn version_name(answer: &SciAnswer) -> String {
    let unknown = || "unknown".to_owned();
    let subject = answer.subject.clone().unwrap_or_default();
    let part = subject.entity.map_or_else(String::new, |entity| format!(" for {entity}"));
    if !subject.label.is_empty() {
        return subject.label + &part;
    }
    format!("{}@{}{part}", subject.model.unwrap_or_else(unknown), subject.model_version.unwrap_or_else(unknown))
}

/// Completes "no such model version" by those that the window does have.
async fn with_alternatives(failure: Failure, connection: &Connection, window: TimeWindow) -> Failure {
    let Failure::NotFound(message) = failure else { return failure };
    let question = GetSciRequest { window: Some(window), ..GetSciRequest::default() };
    let there = client::ask(connection, async |mut client| client.get_sci(question).await).await;
    let names: Vec<String> = there.map(|answer| answer.answers.iter().map(version_name).collect()).unwrap_or_default();
    Failure::NotFound(match names.as_slice() {
        [] => format!("{message}; no model version was served in the window"),
        names => format!("{message}; the window has {}", names.join(", ")),
    })
}
