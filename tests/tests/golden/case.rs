//! One case: read strictly, compared with its tolerance. Whatever is not understood is a failure.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::inputs::{Given, Inputs};
use crate::outputs::{Outputs, Shape};
use crate::table::{Kind, Rule};
use crate::unit::Unit;

const FIELDS: [&str; 13] = [
    "schema",
    "id",
    "rule",
    "topic",
    "kind",
    "title",
    "source",
    "inputs",
    "expected",
    "tolerance",
    "formula",
    "notes",
    "published",
];
const KINDS: [&str; 3] = ["published", "published_corrected", "derived"];
const TOPICS: [&str; 13] = [
    "embodied",
    "operational",
    "sci",
    "boundary",
    "units",
    "time_join",
    "counter",
    "attribution",
    "idle",
    "reconciliation",
    "model_estimate",
    "training",
    "uncertainty",
];

/// A case that is understood.
pub struct Case {
    pub rule: String,
    pub inputs: Inputs,
    expected: BTreeMap<String, (Kind, Value)>,
    published: Vec<Value>,
    relative: f64,
    absolute: f64,
}

impl Case {
    /// Reads a case against the table of rules.
    pub fn read(name: &str, text: &str, rules: &BTreeMap<String, Rule>) -> Result<Self, String> {
        let case: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
        let case = case.as_object().ok_or("not an object")?;
        if let Some(unknown) = case.keys().find(|key| !FIELDS.contains(&key.as_str())) {
            return Err(format!("field `{unknown}` is not understood"));
        }
        let text = |key: &str| case.get(key).and_then(Value::as_str).ok_or_else(|| format!("`{key}` is not a string"));
        if text("schema")? != "sci-golden/2" {
            return Err(format!("schema `{}` is not understood", text("schema")?));
        }
        if text("id")? != name {
            return Err(format!("id `{}` is not the file's name", text("id")?));
        }
        if !KINDS.contains(&text("kind")?) {
            return Err(format!("kind `{}` is not understood", text("kind")?));
        }
        if !TOPICS.contains(&text("topic")?) {
            return Err(format!("topic `{}` is not understood", text("topic")?));
        }
        let rule_name = text("rule")?;
        let rule = rules.get(rule_name).ok_or_else(|| format!("rule `{rule_name}` is not understood"))?;
        let object = |key: &str| case.get(key).and_then(Value::as_object).ok_or_else(|| format!("`{key}` is missing"));
        let inputs = read_inputs(object("inputs")?, rule)?;
        let mut expected = BTreeMap::new();
        for (name, value) in object("expected")? {
            let kind = rule.outputs.get(name).ok_or_else(|| format!("output `{name}` is not understood"))?;
            expected.insert(name.clone(), (kind.clone(), value.clone()));
        }
        if expected.is_empty() {
            return Err("nothing is expected".to_owned());
        }
        let tolerance = object("tolerance")?;
        let bound = |key: &str| {
            let value = tolerance.get(key).and_then(Value::as_f64).filter(|value| *value >= 0.0);
            value.ok_or_else(|| format!("tolerance `{key}` is not a number of at least 0"))
        };
        if tolerance.len() != 2 {
            return Err("tolerance has other fields than rel and abs".to_owned());
        }
        let published = match case.get("published") {
            None => Vec::new(),
            Some(list) => list.as_array().ok_or("`published` is not a list")?.clone(),
        };
        Ok(Self {
            rule: rule_name.to_owned(),
            inputs,
            expected,
            published,
            relative: bound("rel")?,
            absolute: bound("abs")?,
        })
    }

    /// Everything in which the outputs differ from what is expected and from what is published.
    pub fn differences(&self, outputs: &Outputs) -> Vec<String> {
        let expected = self.expected.iter().filter_map(|(name, (kind, value))| {
            self.compare(outputs, name, kind, value).err().map(|why| format!("{name}: {why}"))
        });
        let published = self.published.iter().filter_map(|entry| compare_published(outputs, entry).err());
        expected.chain(published).collect()
    }

    fn compare(&self, outputs: &Outputs, name: &str, kind: &Kind, expected: &Value) -> Result<(), String> {
        let fields = expected.as_object().ok_or("not an object")?;
        let unit = unit_of(fields, kind)?;
        let got = outputs.get(name);
        let number = |got: Option<f64>, expected: &Value| self.close(got, optional_number(expected)?);
        match kind {
            Kind::Scalar(_) => {
                only(fields, &["value", "unit"])?;
                number(outputs.scalar(name, &unit)?, fields.get("value").ok_or("no value")?)
            }
            Kind::Map(_) => {
                only(fields, &["map", "unit"])?;
                let expected = fields.get("map").and_then(Value::as_object).ok_or("no map")?;
                let got = outputs.map(name, &unit)?;
                if let Some(got) = &got
                    && !got.keys().eq(sorted(expected).keys().copied())
                {
                    return Err(format!("keys {:?}, expected {:?}", got.keys(), sorted(expected).keys()));
                }
                for (key, expected) in expected {
                    let got = got.as_ref().and_then(|got| got.get(key).copied().flatten());
                    number(got, expected).map_err(|why| format!("{key}: {why}"))?;
                }
                Ok(())
            }
            Kind::List(_) => {
                only(fields, &["values", "unit"])?;
                let expected = fields.get("values").and_then(Value::as_array).ok_or("no values")?;
                if let Some(Shape::Names(names)) = got {
                    let same = names.iter().map(String::as_str).eq(expected.iter().filter_map(Value::as_str));
                    let strings = expected.iter().all(Value::is_string);
                    return if same && strings { Ok(()) } else { Err(format!("{names:?}, expected {expected:?}")) };
                }
                let got = outputs.list(name, &unit)?.ok_or("null, expected a list")?;
                if got.len() != expected.len() {
                    return Err(format!("{} values, expected {}", got.len(), expected.len()));
                }
                for (index, (got, expected)) in got.into_iter().zip(expected).enumerate() {
                    number(got, expected).map_err(|why| format!("[{index}]: {why}"))?;
                }
                Ok(())
            }
            Kind::Nested(_) | Kind::Series(_) | Kind::Points(_) | Kind::Policy(_) => {
                Err("no output has this kind".to_owned())
            }
        }
    }

    fn close(&self, got: Option<f64>, expected: Option<f64>) -> Result<(), String> {
        match (got, expected) {
            (None, None) => Ok(()),
            (Some(got), Some(expected)) if (got - expected).abs() <= self.absolute + self.relative * expected.abs() => {
                Ok(())
            }
            (got, expected) => Err(format!("{}, expected {}", shown(got), shown(expected))),
        }
    }
}

fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "null".to_owned(), |value| format!("{value}"))
}

fn sorted(map: &Map<String, Value>) -> BTreeMap<&String, &Value> {
    map.iter().collect()
}

/// A printed number is met within its own tolerance, unless it contradicts its inputs: then it is not.
fn compare_published(outputs: &Outputs, entry: &Value) -> Result<(), String> {
    let fields = entry.as_object().ok_or("`published` holds no object")?;
    only(fields, &["output", "key", "value", "unit", "tol", "agrees"])?;
    let name = fields.get("output").and_then(Value::as_str).ok_or("`published` names no output")?;
    let unit = Unit::parse(fields.get("unit").and_then(Value::as_str).ok_or("`published` has no unit")?)?;
    let number = |key: &str| fields.get(key).and_then(Value::as_f64).ok_or_else(|| format!("`published` has no {key}"));
    let got = match fields.get("key").and_then(Value::as_str) {
        None => outputs.scalar(name, &unit)?,
        Some(key) => outputs.map(name, &unit)?.and_then(|map| map.get(key).copied().flatten()),
    };
    let agrees = fields.get("agrees").and_then(Value::as_bool).unwrap_or(true);
    let met = got.is_some_and(|got| {
        number("value").is_ok_and(|value| number("tol").is_ok_and(|tol| (got - value).abs() <= tol))
    });
    if met == agrees { Ok(()) } else { Err(format!("{name}: published {}: agrees is {met}", number("value")?)) }
}

fn only(fields: &Map<String, Value>, known: &[&str]) -> Result<(), String> {
    match fields.keys().find(|key| !known.contains(&key.as_str())) {
        Some(unknown) => Err(format!("field `{unknown}` is not understood")),
        None => Ok(()),
    }
}

fn optional_number(value: &Value) -> Result<Option<f64>, String> {
    if value.is_null() {
        return Ok(None);
    }
    value.as_f64().map(Some).ok_or_else(|| format!("{value} is not a number"))
}

fn unit_of(fields: &Map<String, Value>, kind: &Kind) -> Result<Unit, String> {
    let unit = Unit::parse(fields.get("unit").and_then(Value::as_str).ok_or("no unit")?)?;
    let wanted = match kind {
        Kind::Scalar(unit) | Kind::Map(unit) | Kind::Nested(unit) => unit,
        Kind::List(unit) | Kind::Series(unit) | Kind::Points(unit) => unit,
        Kind::Policy(_) => return Err("a policy has no unit".to_owned()),
    };
    if unit.fits(wanted) { Ok(unit) } else { Err(format!("{unit} is no unit of {wanted}")) }
}

fn read_inputs(given: &Map<String, Value>, rule: &Rule) -> Result<Inputs, String> {
    if let Some(missing) = rule.required.keys().find(|name| !given.contains_key(*name)) {
        return Err(format!("input `{missing}` is missing"));
    }
    let mut inputs = BTreeMap::new();
    for (name, value) in given {
        let kind = rule.required.get(name).or_else(|| rule.optional.get(name));
        let kind = kind.ok_or_else(|| format!("input `{name}` is not understood"))?;
        inputs.insert(name.clone(), read_input(value, kind).map_err(|why| format!("input `{name}`: {why}"))?);
    }
    Inputs::new(inputs)
}

fn read_input(value: &Value, kind: &Kind) -> Result<Given, String> {
    if let Kind::Policy(words) = kind {
        let word = value.as_str().ok_or("a policy is a string")?;
        let known = words.iter().any(|known| known == word);
        return if known { Ok(Given::Policy(word.to_owned())) } else { Err(format!("`{word}` is not understood")) };
    }
    let fields = value.as_object().ok_or("not an object")?;
    let unit = unit_of(fields, kind)?;
    let map = |value: &Value| -> Result<BTreeMap<String, Option<f64>>, String> {
        let entries = value.as_object().ok_or("no map")?.iter();
        entries.map(|(key, value)| Ok((key.clone(), optional_number(value)?))).collect()
    };
    let get = |key: &str| fields.get(key).ok_or_else(|| format!("no {key}"));
    let named = |key: &'static str| only(fields, &[key, "unit"]).and_then(|()| get(key));
    let row = |value: &Value, key: &str| -> Result<i64, String> { instant(value.get(key).unwrap_or(&Value::Null)) };
    match kind {
        Kind::Scalar(wanted) => {
            let number = optional_number(named("value")?)?;
            let truth = Unit::parse("bool")?;
            if wanted.fits(&truth)
                && number.is_some_and(|number| number.to_bits() != 0 && number.to_bits() != 1f64.to_bits())
            {
                return Err("neither 0 nor 1".to_owned());
            }
            Ok(Given::Scalar(number, unit))
        }
        Kind::Map(wanted) if wanted.fits(&Unit::parse("name")?) => {
            let entries = named("map")?.as_object().ok_or("no map")?.iter();
            let name = |value: &Value| match value {
                Value::Null => Ok(None),
                Value::String(name) => Ok(Some(name.clone())),
                other => Err(format!("{other} is not a name")),
            };
            Ok(Given::Names(
                entries.map(|(key, value)| Ok((key.clone(), name(value)?))).collect::<Result<_, String>>()?,
            ))
        }
        Kind::Map(_) => Ok(Given::Map(map(named("map")?)?, unit)),
        Kind::Nested(_) => {
            let entries = named("map")?.as_object().ok_or("no map")?.iter();
            let nested = entries.map(|(key, value)| Ok((key.clone(), map(value)?))).collect::<Result<_, String>>()?;
            Ok(Given::Nested(nested, unit))
        }
        Kind::Series(_) => {
            let mut series = Vec::new();
            for entry in named("series")?.as_array().ok_or("no series")? {
                only(entry.as_object().ok_or("an interval is an object")?, &["start", "end", "value"])?;
                let value = optional_number(entry.get("value").ok_or("an interval without value")?)?;
                series.push((row(entry, "start")?, row(entry, "end")?, value));
            }
            Ok(Given::Series(series, unit))
        }
        Kind::Points(_) => {
            let mut points = Vec::new();
            for entry in named("points")?.as_array().ok_or("no points")? {
                let [at, value] = entry.as_array().map(Vec::as_slice).unwrap_or_default() else {
                    return Err("a point is a time and a value".to_owned());
                };
                points.push((instant(at)?, optional_number(value)?));
            }
            if points.windows(2).any(|pair| pair[1].0 < pair[0].0) {
                return Err("points are not ascending".to_owned());
            }
            Ok(Given::Points(points, unit))
        }
        Kind::List(_) | Kind::Policy(_) => Err("no input has this kind".to_owned()),
    }
}

/// Nanoseconds since 1970.
fn instant(value: &Value) -> Result<i64, String> {
    let text = value.as_str().ok_or("a time is a string")?;
    let at: jiff::Timestamp = text.parse().map_err(|error| format!("time `{text}`: {error}"))?;
    i64::try_from(at.as_nanosecond()).map_err(|_| format!("time `{text}` is out of range"))
}
