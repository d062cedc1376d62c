//! JSON: the contract's messages by their field names, every field present; in an SCI answer every null has its reason.

use crate::failure::Failure;
use joulebook_proto::query::{ExplainResponse, SciAnswer};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// `{"answers":[…]}`, each as `schema/answer.schema.json` has it.
pub(crate) fn answers(answers: Vec<SciAnswer>) -> Result<String, Failure> {
    let answers: Vec<Value> = answers.into_iter().map(complete).collect::<Result<_, _>>()?;
    plain(&json!({ "answers": answers }))
}

/// An explanation, its answer completed like any other.
pub(crate) fn explanation(mut explained: ExplainResponse) -> Result<String, Failure> {
    let answer = complete(explained.answer.take().unwrap_or_default())?;
    let mut value = serde_json::to_value(&explained).map_err(unprintable)?;
    if let Some(object) = value.as_object_mut() {
        object.insert("answer".to_owned(), answer);
    }
    plain(&value)
}

/// A message as it is.
pub(crate) fn plain(message: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(message).map(|text| text + "\n").map_err(unprintable)
}

fn unprintable(error: serde_json::Error) -> Failure {
    Failure::Damaged(format!("printing the answer as JSON failed: {error}"))
}

/// Makes every part present and gives each null that the aggregator left unexplained a reason.
fn complete(mut answer: SciAnswer) -> Result<Value, Failure> {
    answer.subject.get_or_insert_default();
    answer.window.get_or_insert_default();
    answer.r.get_or_insert_default();
    answer.boundary.get_or_insert_default();
    answer.energy.get_or_insert_default();
    answer.idle.get_or_insert_default();
    answer.intensity.get_or_insert_default();
    answer.pue.get_or_insert_default();
    answer.embodied.get_or_insert_default();
    answer.carbon.get_or_insert_default();
    answer.sci.get_or_insert_default();
    answer.extended.get_or_insert_default();
    answer.quality.get_or_insert_default();
    answer.conformance.get_or_insert_default();
    answer.conservation.get_or_insert_default();
    answer.reconciliation.get_or_insert_default();
    answer.provenance.get_or_insert_default();
    answer.tokens.get_or_insert_default();
    answer.operating.get_or_insert_default();
    answer.delivered.get_or_insert_default();
    answer.phases.get_or_insert_default();
    let impacts = answer.impacts.get_or_insert_default();
    impacts.water.get_or_insert_default();
    impacts.abiotic_depletion.get_or_insert_default();
    impacts.primary_energy.get_or_insert_default();
    let null_reason = answer.sci.as_ref().and_then(|sci| sci.null_reason.clone());
    let mut value = serde_json::to_value(&answer).map_err(unprintable)?;
    let mut nulls = Vec::new();
    find_nulls(&value, "", &mut nulls);
    if let Some(reasons) = value.get_mut("not_available").and_then(Value::as_object_mut) {
        for path in nulls {
            give_reason(reasons, path, null_reason.as_deref());
        }
    }
    Ok(value)
}

fn give_reason(reasons: &mut Map<String, Value>, path: String, null_reason: Option<&str>) {
    let reason = match (path.as_str(), null_reason) {
        ("sci.null_reason", _) => "the score has a value",
        ("sci.value" | "sci.low" | "sci.high", Some(reason)) => reason,
        _ => "the aggregator gave neither a value nor a reason",
    };
    reasons.entry(path).or_insert_with(|| Value::from(reason));
}

/// Paths of all nulls below `value`, parts joined by dots, list places by number.
fn find_nulls(value: &Value, path: &str, nulls: &mut Vec<String>) {
    let below = |part: &str| if path.is_empty() { part.to_owned() } else { format!("{path}.{part}") };
    match value {
        Value::Null => nulls.push(path.to_owned()),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| find_nulls(value, &below(name), nulls)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, value)| find_nulls(value, &below(&at.to_string()), nulls));
        }
        _ => {}
    }
}
