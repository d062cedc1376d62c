//! `joulebook compare`: two scores side by side, if they may be.

use super::{version_name, window};
use crate::arguments::{AdminForm, CompareArguments, Connection};
use crate::client;
use crate::failure::Failure;
use crate::output::{json, table};
use jiff::Timestamp;
use joulebook_proto::query::{FunctionalUnit, GetSciRequest, IntensityKind, ModelSelector, SciAnswer, TimeWindow};
use joulebook_sci::compare::{Basis, Comparison, Difference, Scored, compare, differences};
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
    /// In what they differed as they were asked: both were then asked in another unit, or by one kind of intensity.
    pub(crate) normalised: Vec<String>,
}

pub(crate) async fn answer(
    connection: &Connection,
    arguments: &CompareArguments,
    now: Timestamp,
) -> Result<String, Failure> {
    let mut question = question(arguments, window(&arguments.period, now)?);
    let mut both = ask_both(connection, arguments, &question).await?;
    let mut against = against(&both);
    let mut normalised = Vec::new();
    if arguments.normalise && !against.is_empty() {
        for difference in &against {
            match difference.what {
                "tokenizer" => question.functional_unit = FunctionalUnit::Request.into(),
                "kind of intensity" => question.intensity_kind = kind(&difference.first)?.into(),
                _ => continue,
            }
            normalised.push(difference.describe());
        }
        both = ask_both(connection, arguments, &question).await?;
        against = self::against(&both);
    }
    if !against.is_empty() {
        let named: Vec<String> = against.iter().map(Difference::describe).collect();
        let help = match against.iter().all(|one| ["tokenizer", "kind of intensity"].contains(&one.what)) {
            true if !arguments.normalise => "; --normalise compares per request, or by the kind of the first",
            _ => "",
        };
        return Err(Failure::Usage(format!("the two are not comparable; they differ in {}{help}", named.join("; "))));
    }
    let compared = compared(&both, normalised)?;
    match arguments.output {
        AdminForm::Table => Ok(table::comparison(&compared)),
        AdminForm::Json => json::plain(&compared),
    }
}

fn question(arguments: &CompareArguments, window: TimeWindow) -> GetSciRequest {
    GetSciRequest {
        window: Some(window),
        functional_unit: arguments.per.map_or(0, |per| per.wire().into()),
        level: arguments.level.wire().into(),
        idle_policy: arguments.idle.wire().into(),
        idle_scope: arguments.idle_scope.wire().into(),
        ..GetSciRequest::default()
    }
}

/// The contract's value of a kind of intensity by its word.
fn kind(word: &str) -> Result<IntensityKind, Failure> {
    let name = format!("INTENSITY_KIND_{}", word.to_uppercase());
    IntensityKind::from_str_name(&name).ok_or_else(|| Failure::Usage(format!("`{word}` is no one kind of intensity")))
}

async fn ask_both(
    connection: &Connection,
    arguments: &CompareArguments,
    question: &GetSciRequest,
) -> Result<[SciAnswer; 2], Failure> {
    Ok([ask(connection, question, &arguments.first).await?, ask(connection, question, &arguments.second).await?])
}

async fn ask(connection: &Connection, question: &GetSciRequest, of: &ModelSelector) -> Result<SciAnswer, Failure> {
    let question = GetSciRequest { selector: Some(of.clone()), ..question.clone() };
    let answered = client::ask(connection, async |mut client| client.get_sci(question).await).await?;
    let mut answers = answered.answers;
    match (answers.pop(), answers.as_slice()) {
        (Some(answer), []) => Ok(answer),
        (None, _) => Err(Failure::NotFound(format!("nothing was served of {}", of.model()))),
        (Some(_), _) => Err(Failure::Usage(format!("{} is several rows; name one version of it", of.model()))),
    }
}

fn against([first, second]: &[SciAnswer; 2]) -> Vec<Difference> {
    differences(&basis(first), &basis(second))
}

fn compared([first, second]: &[SciAnswer; 2], normalised: Vec<String>) -> Result<Compared, Failure> {
    let (one, other) = (scored(first)?, scored(second)?);
    let Comparison { ratio, within_intervals } =
        compare(one, other).ok_or_else(|| Failure::Usage(format!("{} scores 0", version_name(first))))?;
    Ok(Compared {
        names: [version_name(first), version_name(second)],
        scores: [one, other].map(|score| [score.value, score.low, score.high]),
        unit: first.sci.clone().unwrap_or_default().unit,
        ratio,
        within_intervals,
        normalised,
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
