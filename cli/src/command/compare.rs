//! `joulebook compare`: two scores side by side, if they may be.

use super::{version_name, window};
use crate::arguments::{AdminForm, CompareArguments, Connection};
use crate::client;
use crate::failure::Failure;
use crate::output::{json, table};
use jiff::Timestamp;
use joulebook_proto::query::{GetSciRequest, ModelSelector, SciAnswer, TimeWindow};
use joulebook_sci::compare::{Basis, Comparison, Scored, compare, differences};
use serde::Serialize;

/// Two scores that may be compared.
#[derive(Debug, Serialize)]
pub(crate) struct Compared {
    /// Names of both.
    pub(crate) names: [String; 2],
    /// Their scores, with the ends of their 95 % intervals.
    pub(crate) scores: [[f64; 3]; 2],
    /// Of both.
    pub(crate) unit: String,
    /// Second ÷ first.
    pub(crate) ratio: f64,
    /// Whether the intervals have a value in common.
    pub(crate) within_intervals: bool,
}

pub(crate) async fn answer(
    connection: &Connection,
    arguments: &CompareArguments,
    now: Timestamp,
) -> Result<String, Failure> {
    let window = window(&arguments.period, now)?;
    let first = ask(connection, arguments, window, &arguments.first).await?;
    let second = ask(connection, arguments, window, &arguments.second).await?;
    let compared = compared(&first, &second)?;
    match arguments.output {
        AdminForm::Table => Ok(table::comparison(&compared)),
        AdminForm::Json => json::plain(&compared),
    }
}

async fn ask(
    connection: &Connection,
    arguments: &CompareArguments,
    window: TimeWindow,
    of: &ModelSelector,
) -> Result<SciAnswer, Failure> {
    let question = GetSciRequest {
        window: Some(window),
        selector: Some(of.clone()),
        functional_unit: arguments.per.map_or(0, |per| per.wire().into()),
        level: arguments.level.wire().into(),
        idle_policy: arguments.idle.wire().into(),
        idle_scope: arguments.idle_scope.wire().into(),
        ..GetSciRequest::default()
    };
    let answered = client::ask(connection, async |mut client| client.get_sci(question).await).await?;
    let mut answers = answered.answers;
    match (answers.pop(), answers.as_slice()) {
        (Some(answer), []) => Ok(answer),
        (None, _) => Err(Failure::NotFound(format!("nothing was served of {}", of.model()))),
        (Some(_), _) => Err(Failure::Usage(format!("{} is several rows; name one version of it", of.model()))),
    }
}

fn compared(first: &SciAnswer, second: &SciAnswer) -> Result<Compared, Failure> {
    let against = differences(&basis(first), &basis(second));
    if !against.is_empty() {
        let named: Vec<String> = against.iter().map(joulebook_sci::compare::Difference::describe).collect();
        return Err(Failure::Usage(format!("the two are not comparable; they differ in {}", named.join("; "))));
    }
    let (one, other) = (scored(first)?, scored(second)?);
    let Comparison { ratio, within_intervals } =
        compare(one, other).ok_or_else(|| Failure::Usage(format!("{} scores 0", version_name(first))))?;
    Ok(Compared {
        names: [version_name(first), version_name(second)],
        scores: [one, other].map(|score| [score.value, score.low, score.high]),
        unit: first.sci.clone().unwrap_or_default().unit,
        ratio,
        within_intervals,
    })
}

fn scored(answer: &SciAnswer) -> Result<Scored, Failure> {
    let sci = answer.sci.clone().unwrap_or_default();
    match (sci.value, sci.low, sci.high) {
        (Some(value), Some(low), Some(high)) => Ok(Scored { value, low, high }),
        _ => {
            let why = sci.null_reason.unwrap_or_default();
            Err(Failure::Usage(format!("{} has no score: {why}", version_name(answer))))
        }
    }
}

fn basis(answer: &SciAnswer) -> Basis {
    let (r, intensity) = (answer.r.clone().unwrap_or_default(), answer.intensity.clone().unwrap_or_default());
    Basis {
        model: answer.subject.clone().unwrap_or_default().model,
        level: answer.boundary.clone().unwrap_or_default().level,
        unit: r.kind,
        filter: r.filter,
        tokenizer: r.tokenizer_id,
        intensity_kind: intensity.kind,
        intensity_basis: intensity.basis,
        idle_policy: answer.idle.clone().unwrap_or_default().policy,
        idle_scope: answer.idle.clone().unwrap_or_default().scope,
        idle_excluded: answer.quality.iter().flat_map(|quality| &quality.flags).any(|flag| flag == "idle_excluded"),
        trust: answer.reconciliation.clone().unwrap_or_default().trust,
        task: answer.task.clone(),
        simulated: answer.simulated,
    }
}
