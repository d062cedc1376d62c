//! The mapping language: per field of a service an expression over samples of a page, and the labels that tell services
//! apart. The same in presets and in a target's `mapping`.

use super::exposition::{MetricType, Sample};
use joulebook_units::CountKind;
use regex::Regex;
use serde::Deserialize;
use std::collections::BTreeMap;

/// What is counted from a page.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// Labels that name the service.
    #[serde(default)]
    pub labels: Labels,
    /// Names for what no label names.
    #[serde(default, rename = "static")]
    pub fixed: Fixed,
    /// A service opens only once this field was above 0, for engines whose clients can invent labels. Unset: with any
    /// series that is counted.
    pub opened_by: Option<Field>,
    /// Conditions on labels that a series must meet to be read at all: others count nothing and open no service.
    #[serde(default)]
    pub only: BTreeMap<String, Filter>,
    /// For a gateway: labels that name who a request was for, the first that a series has. Such a page counts by consumer
    /// and opens no service: its requests are counted where they are served.
    pub consumer: Option<FirstLabel>,
    /// For a gateway: labels that name what a request was sent to.
    #[serde(default)]
    pub upstream: UpstreamLabels,
    /// Words in a version label that are no version, beside those that never are one.
    #[serde(default)]
    pub no_version: Vec<String>,
    /// Series of which one on the page says that adapters are counted in their base. Empty: no adapter is told.
    #[serde(default)]
    pub adapters: Vec<Metric>,
    /// Expression per field; a field without one is not known.
    #[serde(default)]
    pub values: BTreeMap<Field, Expression>,
    /// Histograms whose buckets are kept: under which conditions it served.
    #[serde(default)]
    pub distributions: Distributions,
}

/// A histogram by its family's name; a unit or scale is that of its bounds.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "RawExpression")]
pub struct Histogram(pub Metric);

/// Histograms by what they are of; of several the first that is on the page.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distributions {
    /// Time of a request from its arrival to its end.
    #[serde(default)]
    pub latency: Vec<Histogram>,
    /// Tokens of a prompt.
    #[serde(default)]
    pub prompt_tokens: Vec<Histogram>,
}

/// Labels that name the service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Labels {
    /// Label with the model's name.
    pub model: Option<LabelNames>,
    /// Label with the version.
    pub version: Option<LabelNames>,
}

/// One label, or several whose values are joined by `/`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum LabelNames {
    /// One label.
    One(String),
    /// Several.
    Joined(Vec<String>),
}

impl LabelNames {
    /// The joined value; `None` if the sample has none of the labels.
    pub fn read(&self, sample: &Sample<'_>) -> Option<String> {
        let names = match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Joined(names) => names,
        };
        let present = names.iter().any(|name| sample.labels.iter().any(|(label, _)| label == name));
        present.then(|| names.iter().map(|name| sample.label(name)).collect::<Vec<_>>().join("/"))
    }
}

/// Labels of a gateway's series that name what it asks.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamLabels {
    /// The gateway's own name for it, which series share that name different parts of it.
    pub deployment: Option<FirstLabel>,
    /// Its address.
    pub endpoint: Option<FirstLabel>,
    /// The model that it is asked for.
    pub model: Option<FirstLabel>,
}

/// One label, or several of which the first that says something does.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum FirstLabel {
    /// One label.
    One(String),
    /// Several.
    First(Vec<String>),
}

impl FirstLabel {
    /// The first label of a sample whose value says something, and the value.
    pub fn read<'a>(&'a self, sample: &'a Sample<'_>, says: impl Fn(&str) -> bool) -> Option<(&'a str, &'a str)> {
        let names = match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::First(names) => names,
        };
        let mut found = names.iter().map(|name| (name.as_str(), sample.label(name)));
        found.find(|(_, value)| says(value))
    }
}

/// Names for what no label names.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fixed {
    /// Model name.
    pub model: Option<String>,
    /// Version.
    pub version: Option<String>,
}

/// A field of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// Requests finished successfully.
    RequestsOk,
    /// Requests that failed.
    RequestsFailed,
    /// Requests given up.
    RequestsAborted,
    /// Model evaluations.
    Items,
    /// Prompt tokens with the cached ones.
    InputTokens,
    /// Cached prompt tokens.
    InputCachedTokens,
    /// Generated tokens.
    OutputTokens,
    /// Generated tokens of hidden reasoning.
    ReasoningTokens,
    /// Time spent on inference; the page's unit times `scale` is the second.
    BusySeconds,
    /// Of it, time spent on prompts, in the same unit.
    PrefillSeconds,
    /// Of it, time spent on generating, in the same unit.
    DecodeSeconds,
    /// Images made or looked at.
    Images,
    /// Seconds of sound, in the same way as `busy_seconds`.
    AudioSeconds,
    /// Seconds of video, in the same way.
    VideoSeconds,
    /// Sessions of several requests.
    Sessions,
    /// Requests at work now: a gauge.
    Running,
    /// Requests that wait now: a gauge.
    Waiting,
    /// Memory that the model holds in its server now, in bytes: a gauge.
    ResidentBytes,
    /// Of a gateway: requests that it answered from its own cache.
    StoredRequests,
    /// Of a gateway: tokens of answers from its own cache.
    StoredTokens,
}

impl Field {
    /// Every field, in the order in which they are told.
    pub const ALL: [Self; 20] = [
        Self::RequestsOk,
        Self::RequestsFailed,
        Self::RequestsAborted,
        Self::Items,
        Self::InputTokens,
        Self::InputCachedTokens,
        Self::OutputTokens,
        Self::ReasoningTokens,
        Self::BusySeconds,
        Self::PrefillSeconds,
        Self::DecodeSeconds,
        Self::Images,
        Self::AudioSeconds,
        Self::VideoSeconds,
        Self::Sessions,
        Self::Running,
        Self::Waiting,
        Self::ResidentBytes,
        Self::StoredRequests,
        Self::StoredTokens,
    ];

    /// Its name in a mapping.
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestsOk => "requests_ok",
            Self::RequestsFailed => "requests_failed",
            Self::RequestsAborted => "requests_aborted",
            Self::Items => "items",
            Self::InputTokens => "input_tokens",
            Self::InputCachedTokens => "input_cached_tokens",
            Self::OutputTokens => "output_tokens",
            Self::ReasoningTokens => "reasoning_tokens",
            Self::BusySeconds => "busy_seconds",
            Self::PrefillSeconds => "prefill_seconds",
            Self::DecodeSeconds => "decode_seconds",
            Self::Images => "images",
            Self::AudioSeconds => "audio_seconds",
            Self::VideoSeconds => "video_seconds",
            Self::Sessions => "sessions",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::ResidentBytes => "resident_bytes",
            Self::StoredRequests => "stored_requests",
            Self::StoredTokens => "stored_tokens",
        }
    }

    /// The kind of count it becomes.
    pub fn kind(self) -> CountKind {
        match self {
            Self::RequestsOk => CountKind::RequestsOk,
            Self::RequestsFailed => CountKind::RequestsFailed,
            Self::RequestsAborted => CountKind::RequestsAborted,
            Self::Items => CountKind::Items,
            Self::InputTokens => CountKind::InputTokens,
            Self::InputCachedTokens => CountKind::CachedTokens,
            Self::OutputTokens => CountKind::OutputTokens,
            Self::ReasoningTokens => CountKind::ReasoningTokens,
            Self::BusySeconds => CountKind::BusyNanos,
            Self::PrefillSeconds => CountKind::PrefillNanos,
            Self::DecodeSeconds => CountKind::DecodeNanos,
            Self::Images => CountKind::Images,
            Self::AudioSeconds => CountKind::AudioNanos,
            Self::VideoSeconds => CountKind::VideoNanos,
            Self::Sessions => CountKind::Sessions,
            Self::Running => CountKind::RunningNanos,
            Self::Waiting => CountKind::WaitingNanos,
            Self::ResidentBytes => CountKind::ResidentByteSeconds,
            Self::StoredRequests => CountKind::StoredRequests,
            Self::StoredTokens => CountKind::StoredTokens,
        }
    }

    /// Whether it is a time, in seconds on the page and nanoseconds here.
    pub fn is_time(self) -> bool {
        self.kind().is_time() && !self.is_held()
    }

    /// Whether the page shows what holds now, whose integral over time is the count.
    pub fn is_held(self) -> bool {
        self.kind().is_held()
    }
}

/// A value from samples of the page.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "RawExpression")]
pub enum Expression {
    /// Sum of matching samples.
    Metric(Metric),
    /// Sum; null if a part is null.
    Add(Vec<Expression>),
    /// First minus second, never below 0; null if one is null.
    Sub(Box<[Expression; 2]>),
    /// The first that is not null.
    First(Vec<Expression>),
}

/// Samples of one name.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "RawExpression")]
pub struct Metric {
    /// Name of the sample.
    pub name: String,
    /// TYPE its family must have.
    pub kind: MetricType,
    /// Conditions on labels, all of which must hold.
    pub filters: Vec<(String, Filter)>,
    /// Factor from the page's unit to ours.
    pub scale: f64,
}

impl Metric {
    /// Whether a sample belongs to the sum.
    pub fn takes(&self, sample: &Sample<'_>) -> bool {
        sample.name == self.name && self.filters.iter().all(|(label, filter)| filter.passes(sample.label(label)))
    }
}

/// A condition on a label's value; a missing label reads as "".
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "RawFilter")]
pub enum Filter {
    /// One of these.
    In(Vec<String>),
    /// None of these.
    NotIn(Vec<String>),
    /// The whole value matches.
    Match(Regex),
}

impl Filter {
    /// Whether a value meets it.
    pub fn passes(&self, value: &str) -> bool {
        match self {
            Self::In(values) => values.iter().any(|wanted| wanted == value),
            Self::NotIn(values) => values.iter().all(|unwanted| unwanted != value),
            Self::Match(regex) => regex.is_match(value),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExpression {
    metric: Option<String>,
    r#type: Option<MetricType>,
    #[serde(default, rename = "where")]
    filters: BTreeMap<String, Filter>,
    scale: Option<f64>,
    unit: Option<Unit>,
    add: Option<Vec<Expression>>,
    sub: Option<Vec<Expression>>,
    first: Option<Vec<Expression>>,
}

/// Unit of a time on a page.
#[derive(Debug, Clone, Copy, Deserialize)]
enum Unit {
    #[serde(rename = "s")]
    Seconds,
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "us")]
    Microseconds,
    #[serde(rename = "ns")]
    Nanoseconds,
}

impl Unit {
    fn seconds(self) -> f64 {
        match self {
            Self::Seconds => 1.0,
            Self::Milliseconds => 1e-3,
            Self::Microseconds => 1e-6,
            Self::Nanoseconds => 1e-9,
        }
    }
}

impl TryFrom<RawExpression> for Expression {
    type Error = &'static str;
    fn try_from(raw: RawExpression) -> Result<Self, Self::Error> {
        let plain = raw.r#type.is_none() && raw.filters.is_empty() && raw.scale.is_none() && raw.unit.is_none();
        match (raw.metric, raw.add, raw.sub, raw.first) {
            (Some(name), None, None, None) => {
                let kind = raw.r#type.ok_or("an expression with `metric` needs `type`")?;
                let scale = match (raw.scale, raw.unit) {
                    (Some(_), Some(_)) => return Err("`scale` and `unit` say the same; use one of them"),
                    (scale, unit) => scale.or(unit.map(Unit::seconds)).unwrap_or(1.0),
                };
                if !scale.is_finite() || scale <= 0.0 {
                    return Err("`scale` must be a number above 0");
                }
                Ok(Self::Metric(Metric { name, kind, filters: raw.filters.into_iter().collect(), scale }))
            }
            _ if !plain => Err("`type`, `where`, `scale` and `unit` go with `metric` only"),
            (None, Some(parts), None, None) if !parts.is_empty() => Ok(Self::Add(parts)),
            (None, None, Some(parts), None) => {
                let parts = <[Self; 2]>::try_from(parts).map_err(|_| "`sub` needs exactly two expressions")?;
                Ok(Self::Sub(Box::new(parts)))
            }
            (None, None, None, Some(parts)) if !parts.is_empty() => Ok(Self::First(parts)),
            _ => Err("an expression is exactly one of `metric`, `add`, `sub` and `first`, with something in it"),
        }
    }
}

impl TryFrom<RawExpression> for Metric {
    type Error = &'static str;
    fn try_from(raw: RawExpression) -> Result<Self, Self::Error> {
        let scaled = raw.scale.is_some() || raw.unit.is_some();
        match (scaled, Expression::try_from(raw)?) {
            (false, Expression::Metric(metric)) => Ok(metric),
            _ => Err("only `metric`, `type` and `where` go here"),
        }
    }
}

impl TryFrom<RawExpression> for Histogram {
    type Error = &'static str;
    fn try_from(raw: RawExpression) -> Result<Self, Self::Error> {
        match Expression::try_from(raw)? {
            Expression::Metric(metric) if metric.kind == MetricType::Histogram => Ok(Self(metric)),
            _ => Err("a distribution is `metric` with type histogram"),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFilter {
    r#in: Option<Vec<String>>,
    not_in: Option<Vec<String>>,
    r#match: Option<String>,
}

impl TryFrom<RawFilter> for Filter {
    type Error = String;
    fn try_from(raw: RawFilter) -> Result<Self, Self::Error> {
        match (raw.r#in, raw.not_in, raw.r#match) {
            (Some(values), None, None) => Ok(Self::In(values)),
            (None, Some(values), None) => Ok(Self::NotIn(values)),
            (None, None, Some(text)) => {
                let regex = Regex::new(&format!("^(?:{text})$"));
                regex.map(Self::Match).map_err(|error| format!("`match` is not a regular expression: {error}"))
            }
            _ => Err("a condition is exactly one of `in`, `not_in` and `match`".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_mappings_are_refused_with_the_reason() {
        for (text, word) in [
            ("values.items = { metric = \"a\" }", "needs `type`"),
            ("values.items = { metric = \"a\", type = \"counter\", add = [] }", "go with `metric` only"),
            ("values.items = { metric = \"a\", type = \"counter\", scale = 0.0 }", "above 0"),
            ("values.items = { metric = \"a\", type = \"counter\", unit = \"min\" }", "unknown variant"),
            ("values.items = { metric = \"a\", type = \"counter\", unit = \"us\", scale = 2.0 }", "say the same"),
            (
                "values.items = { add = [{ metric = \"a\", type = \"counter\" }], unit = \"s\" }",
                "go with `metric` only",
            ),
            ("only.l = { }", "exactly one of"),
            ("values.items = { sub = [{ metric = \"a\", type = \"counter\" }] }", "exactly two"),
            ("values.items = { }", "exactly one of"),
            ("values.tokens = { metric = \"a\", type = \"counter\" }", "unknown variant"),
            (
                "values.items = { metric = \"a\", type = \"counter\", where.l = { match = \"(\" } }",
                "regular expression",
            ),
            ("values.items = { metric = \"a\", type = \"counter\", where.l = { } }", "exactly one of"),
            ("lables.model = \"m\"", "unknown field"),
            ("opened_by = \"tokens\"", "unknown variant"),
            ("adapters = [{ add = [{ metric = \"a\", type = \"gauge\" }] }]", "go here"),
            ("adapters = [{ metric = \"a\", type = \"gauge\", scale = 2.0 }]", "go here"),
        ] {
            let error = toml::from_str::<Mapping>(text).expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
