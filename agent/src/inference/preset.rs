//! What is read from an engine's page, as data: presets are TOML files, and a target's own mapping has the same form.
//!
//! A mapping names per field of a service an expression over samples of the page, and the labels that tell services
//! apart. [`Reader`] is a mapping made ready for use: its metrics are numbered, so that values can be kept per metric.

use super::exposition::{MetricType, Page, Sample};
use joulebook_units::CountKind;
use regex::Regex;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The presets of this build. A new one is a file and a line here.
const FILES: [&str; 2] = [include_str!("presets/llamacpp.toml"), include_str!("presets/custom.toml")];

/// Presets that are described but not built: a target that asks for one is told to use a mapping of its own.
pub const NOT_BUILT: [&str; 10] = [
    "vllm",
    "sglang",
    "triton",
    "dynamo-frontend",
    "torchserve",
    "mlserver",
    "kserve",
    "rayserve",
    "bentoml",
    "litellm",
];

/// Words in a version label that are no version.
pub const NO_VERSION: [&str; 8] = ["", "None", "none", "default", "latest", "not available", "unknown", "-1"];

/// A preset or mapping that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PresetError {
    /// The embedded file is wrong.
    #[error("an embedded preset is not valid: {0}")]
    Embedded(#[from] toml::de::Error),
    /// Described, but not in this build.
    #[error("preset `{0}` is not built yet; use preset = \"custom\" with a mapping")]
    NotBuilt(String),
    /// No such preset.
    #[error("preset `{0}` does not exist; use one of: {1}")]
    Unknown(String, String),
    /// The mapping counts nothing.
    #[error("the mapping has no values, so nothing would be counted; add `values`")]
    Empty,
}

/// How one engine is read.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// Name in the configuration and in [`joulebook_units::Service::engine`].
    pub id: String,
    /// Path of the page where the target's URL has none.
    pub path: String,
    /// Families of which one must be on the page; empty = any page.
    #[serde(default)]
    pub signature: Vec<String>,
    /// Where else the identity of the model can be asked.
    #[serde(default)]
    pub identity: IdentityHooks,
    /// What is counted; absent = the target gives it.
    pub mapping: Option<Mapping>,
}

impl Preset {
    /// Every preset of this build.
    ///
    /// # Errors
    /// An embedded file is wrong, which its test rules out.
    pub fn all() -> Result<Vec<Self>, PresetError> {
        FILES.iter().map(|text| Ok(toml::from_str(text)?)).collect()
    }

    /// The preset of this name.
    ///
    /// # Errors
    /// No such preset, or one that is not built yet.
    pub fn named(id: &str) -> Result<Self, PresetError> {
        let all = Self::all()?;
        let names = all.iter().map(|preset| preset.id.as_str()).collect::<Vec<_>>().join(", ");
        match all.into_iter().find(|preset| preset.id == id) {
            Some(preset) => Ok(preset),
            None if NOT_BUILT.contains(&id) => Err(PresetError::NotBuilt(id.to_owned())),
            None => Err(PresetError::Unknown(id.to_owned(), names)),
        }
    }

    /// Whether the page is this engine's. A preset without signature is never detected.
    pub fn detects(&self, page: &Page<'_>) -> bool {
        self.signature.iter().any(|family| page.has(family))
    }
}

/// Questions to the engine about what it serves.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityHooks {
    /// The model's name.
    pub model: Option<Hook>,
    /// Path of the weights as the engine sees it.
    pub weights_path: Option<Hook>,
    /// Format of the weights file that the process maps.
    pub weights: Option<WeightsFormat>,
}

/// One question: a GET and the place of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Absolute path on the target.
    pub get: String,
    /// JSON pointer (RFC 6901) to a string.
    pub pointer: String,
}

/// Weights files whose header can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightsFormat {
    /// GGUF of llama.cpp.
    Gguf,
}

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
    /// Expression per field; a field without one is not known.
    #[serde(default)]
    pub values: BTreeMap<Field, Expression>,
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
    fn read(&self, sample: &Sample<'_>) -> Option<String> {
        let names = match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Joined(names) => names,
        };
        let present = names.iter().any(|name| sample.labels.iter().any(|(label, _)| label == name));
        present.then(|| names.iter().map(|name| sample.label(name)).collect::<Vec<_>>().join("/"))
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
}

impl Field {
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
        }
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
#[derive(Debug, Clone)]
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
    fn passes(&self, value: &str) -> bool {
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
    add: Option<Vec<Expression>>,
    sub: Option<Vec<Expression>>,
    first: Option<Vec<Expression>>,
}

impl TryFrom<RawExpression> for Expression {
    type Error = &'static str;
    fn try_from(raw: RawExpression) -> Result<Self, Self::Error> {
        let plain = raw.r#type.is_none() && raw.filters.is_empty() && raw.scale.is_none();
        match (raw.metric, raw.add, raw.sub, raw.first) {
            (Some(name), None, None, None) => {
                let kind = raw.r#type.ok_or("an expression with `metric` needs `type`")?;
                let scale = raw.scale.unwrap_or(1.0);
                if !scale.is_finite() || scale <= 0.0 {
                    return Err("`scale` must be a number above 0");
                }
                Ok(Self::Metric(Metric { name, kind, filters: raw.filters.into_iter().collect(), scale }))
            }
            _ if !plain => Err("`type`, `where` and `scale` go with `metric` only"),
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

/// Names that the page gives to a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageIdentity {
    /// Model; `None` if the page names none.
    pub model: Option<String>,
    /// What the page says about the version.
    pub version: PageVersion,
}

/// What the page says about the version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageVersion {
    /// No label for it.
    Untold,
    /// A word of [`NO_VERSION`].
    Denied,
    /// The label's value.
    Label(String),
}

/// An expression over numbered metrics.
#[derive(Debug, Clone)]
enum Node {
    Metric(usize),
    Add(Vec<Node>),
    Sub(Box<[Node; 2]>),
    First(Vec<Node>),
}

/// A mapping made ready: metrics are numbered, so that sums can be kept in a list.
#[derive(Debug, Clone)]
pub struct Reader {
    labels: Labels,
    metrics: Vec<(Metric, Field)>,
    fields: Vec<(Field, Node)>,
}

impl Reader {
    /// Makes a mapping ready.
    ///
    /// # Errors
    /// The mapping counts nothing.
    pub fn new(mapping: Mapping) -> Result<Self, PresetError> {
        let mut reader = Self { labels: mapping.labels, metrics: Vec::new(), fields: Vec::new() };
        for (field, expression) in mapping.values {
            let node = reader.number(expression, field);
            reader.fields.push((field, node));
        }
        if reader.metrics.is_empty() { Err(PresetError::Empty) } else { Ok(reader) }
    }

    /// The numbered metrics, each with the field it serves.
    pub fn metrics(&self) -> &[(Metric, Field)] {
        &self.metrics
    }

    /// The fields that have an expression.
    pub fn fields(&self) -> impl Iterator<Item = Field> {
        self.fields.iter().map(|(field, _)| *field)
    }

    /// Which service a sample belongs to.
    pub fn identity(&self, sample: &Sample<'_>) -> PageIdentity {
        let version = match self.labels.version.as_ref().and_then(|names| names.read(sample)) {
            None => PageVersion::Untold,
            Some(word) if NO_VERSION.contains(&word.as_str()) => PageVersion::Denied,
            Some(word) => PageVersion::Label(word),
        };
        let model = self.labels.model.as_ref().and_then(|names| names.read(sample)).filter(|name| !name.is_empty());
        PageIdentity { model, version }
    }

    /// Per metric, whether the page has its family with the expected TYPE.
    pub fn told(&self, page: &Page<'_>) -> Vec<bool> {
        self.metrics
            .iter()
            .map(|(metric, _)| page.family_type(&metric.name, metric.kind) == Some(metric.kind))
            .collect()
    }

    /// Values of all fields from sums per metric; a field is `None` where its metrics are not told.
    pub fn evaluate(&self, told: &[bool], sums: &[u128]) -> Vec<(Field, Option<u128>)> {
        self.fields.iter().map(|(field, node)| (*field, self.value(node, told, sums))).collect()
    }

    fn value(&self, node: &Node, told: &[bool], sums: &[u128]) -> Option<u128> {
        match node {
            Node::Metric(index) => {
                let sum = told.get(*index)?.then(|| sums.get(*index).copied().unwrap_or(0))?;
                Some(scaled(sum, self.metrics.get(*index)?.0.scale))
            }
            Node::Add(parts) => {
                parts.iter().try_fold(0_u128, |sum, part| Some(sum.saturating_add(self.value(part, told, sums)?)))
            }
            Node::Sub(parts) => {
                Some(self.value(&parts[0], told, sums)?.saturating_sub(self.value(&parts[1], told, sums)?))
            }
            Node::First(parts) => parts.iter().find_map(|part| self.value(part, told, sums)),
        }
    }

    fn number(&mut self, expression: Expression, field: Field) -> Node {
        match expression {
            Expression::Metric(metric) => {
                self.metrics.push((metric, field));
                Node::Metric(self.metrics.len() - 1)
            }
            Expression::Add(parts) => Node::Add(parts.into_iter().map(|part| self.number(part, field)).collect()),
            Expression::First(parts) => Node::First(parts.into_iter().map(|part| self.number(part, field)).collect()),
            Expression::Sub(parts) => Node::Sub(Box::new(parts.map(|part| self.number(part, field)))),
        }
    }
}

/// A sum times its unit's factor. Exact without one; with one it rounds, and it never falls while the sum grows.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a positive product of a positive sum; the cast saturates"
)]
fn scaled(sum: u128, scale: f64) -> u128 {
    if scale.to_bits() == 1.0_f64.to_bits() { sum } else { (sum as f64 * scale).round() as u128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_preset_is_valid_and_named_once() {
        let presets = Preset::all().expect("valid");
        let mut names: Vec<_> = presets.iter().map(|preset| preset.id.clone()).collect();
        names.extend(NOT_BUILT.map(str::to_owned));
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        for preset in presets.into_iter().filter_map(|preset| preset.mapping) {
            Reader::new(preset).expect("counts something");
        }
    }

    #[test]
    fn wrong_mappings_are_refused_with_the_reason() {
        for (text, word) in [
            ("values.items = { metric = \"a\" }", "needs `type`"),
            ("values.items = { metric = \"a\", type = \"counter\", add = [] }", "go with `metric` only"),
            ("values.items = { metric = \"a\", type = \"counter\", scale = 0.0 }", "above 0"),
            ("values.items = { sub = [{ metric = \"a\", type = \"counter\" }] }", "exactly two"),
            ("values.items = { }", "exactly one of"),
            ("values.tokens = { metric = \"a\", type = \"counter\" }", "unknown variant"),
            (
                "values.items = { metric = \"a\", type = \"counter\", where.l = { match = \"(\" } }",
                "regular expression",
            ),
            ("values.items = { metric = \"a\", type = \"counter\", where.l = { } }", "exactly one of"),
            ("lables.model = \"m\"", "unknown field"),
        ] {
            let error = toml::from_str::<Mapping>(text).expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        assert!(matches!(Reader::new(Mapping::default()), Err(PresetError::Empty)));
    }

    #[test]
    fn labels_are_joined_and_words_that_are_no_version_are_denied() {
        let mapping = "labels = { model = [\"app\", \"part\"], version = \"v\" }\nvalues.items = { metric = \"a\", type = \"counter\" }";
        let reader = Reader::new(toml::from_str(mapping).expect("valid")).expect("counts");
        let page =
            Page::parse(b"a{app=\"x\",part=\"y\",v=\"latest\"} 1\na{app=\"x\",v=\"2\"} 1\na 1\n").expect("legal");
        let seen: Vec<_> = page.samples().iter().map(|sample| reader.identity(sample)).collect();
        assert_eq!(seen[0], PageIdentity { model: Some("x/y".into()), version: PageVersion::Denied });
        assert_eq!(seen[1], PageIdentity { model: Some("x/".into()), version: PageVersion::Label("2".into()) });
        assert_eq!(seen[2], PageIdentity { model: None, version: PageVersion::Untold });
    }
}
