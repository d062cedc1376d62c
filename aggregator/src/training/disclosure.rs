//! What is disclosed of the training of one version: a JSON document (`cli/schema/training.schema.json`), checked.

use super::TrainingError;
use crate::query::{Job, JobOf};
use jiff::Timestamp;
use joulebook_sci::training::UnitsPolicy;
use joulebook_sci::training::ledger::Lifespan;
use joulebook_sci::training::lineage::{self, Descent, Parent};
use joulebook_sci::{FunctionalUnit, ServiceUse};
use joulebook_units::{GramsCo2e, UnixNanos, Window};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the document.
pub const SCHEMA: &str = "joulebook-training/1";
/// How far the parts of T may be off its total, as a share.
const PARTS_TOLERANCE: f64 = 1e-6;
const DAY_NANOS: f64 = 86_400e9;
/// Days of the final period where nothing is said.
const FINAL_DAYS: f64 = 30.0;
/// Longest period in days.
const MOST_DAYS: f64 = 40_000.0;
/// Longest document in bytes.
pub const MAX_BYTES: usize = 256 << 10;

/// A disclosure. What is not disclosed is absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disclosure {
    /// [`SCHEMA`].
    pub schema: String,
    /// The pool: one for each set of weights.
    pub pool: String,
    /// The model as it is served.
    pub model: String,
    /// Its version.
    pub version: String,
    /// Fingerprint of the weights: where it is given, versions with other weights draw nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// Who trained it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Where it is disclosed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// Whether T and N are a guess of the user: then they are labelled as one and never pass the gate.
    #[serde(default)]
    pub assumed: bool,
    /// full_development or final_run: whether search and failed runs are in T.
    pub scope: Scope,
    /// T in grams, location-based, PUE, idle and embodied of the training cluster included. Unset: the sum of its parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_g: Option<f64>,
    /// T by part: search, failed, data, checkpoints, final.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts_g: BTreeMap<Part, f64>,
    /// The job that trained it, where it ran on nodes that are measured: without T it yields it, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<MeasuredJob>,
    /// N: units that the version is expected to serve.
    pub units: f64,
    /// What they are.
    pub unit: UnitName,
    /// What a token that is read and one that is written weigh, where the unit is weighted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_weights: Option<TokenWeights>,
    /// N as it is expected by now, with the evidence: recorded as a revision of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revised: Option<Revised>,
    /// What is done where some units of the model carry no version.
    #[serde(default)]
    pub tracing: TracingName,
    /// How a changed N is applied.
    #[serde(default)]
    pub n_policy: UnitsPolicyName,
    /// Life in days, where it goes by time; unset: by use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifespan_days: Option<f64>,
    /// Who carries what remains when it retires.
    #[serde(default)]
    pub remainder: RemainderName,
    /// Days before its retirement whose users carry what remains, where the final period does. Unset: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_days: Option<f64>,
    /// What it was made from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<ParentName>,
    /// How it carries what they cost.
    #[serde(default)]
    pub lineage_policy: LineageName,
    /// When serving began, RFC 3339. Unset: with the first row of the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving_since: Option<String>,
    /// Energy of the training in kWh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_kwh: Option<f64>,
    /// Hardware: type and number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// Duration in hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_hours: Option<f64>,
    /// Iterations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iterations: Option<u64>,
    /// Where the energy came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_source: Option<String>,
    /// Cooling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooling: Option<String>,
    /// What was done for efficiency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub efficiency: Option<String>,
}

macro_rules! names {
    ($(#[$doc:meta])* $name:ident: $first:ident $(, $variant:ident)*) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[allow(missing_docs, reason = "the words are those of the methodology, section B")]
        pub enum $name {
            // The first word is the methodology's default.
            #[default]
            $first,
            $($variant),*
        }
    };
}

names! {
    /// Which runs are in T.
    Scope: FullDevelopment, FinalRun
}
names! {
    /// A part of T.
    Part: Search, Failed, Data, Checkpoints, Final
}
names! {
    /// Unit of N.
    UnitName: TotalToken, InputToken, OutputToken, Weighted, Request, Item, Image, AudioS
}
names! {
    /// How a changed N is applied.
    UnitsPolicyName: FrozenCap, DynamicProspective, DynamicRetroactive
}
names! {
    /// Who carries what remains at retirement.
    RemainderName: ProviderLedger, CarryToSuccessor, FinalPeriod
}
names! {
    /// How a descendant carries what its ancestors cost.
    LineageName: PooledBasePlusIncrement, Restart, SinglePoolIncrement
}
names! {
    /// What becomes of a figure while some units of the model carry no version.
    TracingName: TracedOnly, Strict
}

/// What tokens weigh in units that are weighted: the same for all who ask.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenWeights {
    /// Of a token that is read, at least 0.
    pub input: f64,
    /// Of a token that is written, at least 0.
    pub output: f64,
}

/// A job of workloads that trained a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasuredJob {
    /// Id, name or pod uid of its workloads. Unset: the workloads of pods that are labelled (`joulebook.io/training-of`) as
    /// training of the version (MODEL@VERSION) or of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// Nodes that it ran on. Unset: wherever it did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// When it began, RFC 3339.
    pub from: String,
    /// When it ended.
    pub to: String,
}

impl MeasuredJob {
    /// The job of what a disclosure is about, its times read.
    ///
    /// # Errors
    /// A time that is none, or an end that does not come after the start.
    pub fn job(&self, disclosure: &Disclosure) -> Result<Job, TrainingError> {
        let refused = |why: String| TrainingError::Refused(format!("measured: {why}"));
        let at = |text: &String| {
            let at: Result<Timestamp, _> = text.parse();
            let nanos = at.ok().and_then(|at| i64::try_from(at.as_nanosecond()).ok()).map(UnixNanos);
            nanos.ok_or_else(|| refused(format!("`{text}` is no time; write 2026-11-24T10:00:00Z")))
        };
        let window = Window::new(at(&self.from)?, at(&self.to)?).filter(|window| !window.is_empty());
        let window = window.ok_or_else(|| refused("it does not end after it begins".to_owned()))?;
        let of = match &self.workload {
            Some(name) if name.is_empty() => return Err(refused("name its workload, or none".to_owned())),
            Some(name) => JobOf::Workload(name.clone()),
            None => {
                let Disclosure { model, version, pool, .. } = disclosure;
                JobOf::TrainingOf(vec![format!("{model}@{version}"), pool.clone()])
            }
        };
        Ok(Job { of, nodes: self.nodes.clone(), window })
    }
}

/// N as it is expected by now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revised {
    /// N.
    pub units: f64,
    /// On what evidence.
    pub reason: String,
}

/// A parent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParentName {
    /// Its pool.
    pub pool: String,
    /// finetune, distill, merge, continued_pretrain or quantize.
    pub descent: String,
    /// Its part of a merge. Unset: 1.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

/// The word of a name, as documents have it.
pub fn word(name: &impl Serialize) -> String {
    serde_json::to_value(name).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

impl Disclosure {
    /// Reads and checks a document.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TrainingError> {
        let refused = TrainingError::Refused;
        if text.len() > MAX_BYTES {
            return Err(refused(format!("the document has more than {MAX_BYTES} bytes")));
        }
        let read: Self = serde_json::from_str(text).map_err(|error| refused(format!("the document: {error}")))?;
        read.check()?;
        Ok(read)
    }

    fn check(&self) -> Result<(), TrainingError> {
        let refused = |why: String| Err(TrainingError::Refused(why));
        if self.schema != SCHEMA {
            return refused(format!("schema is `{}`, not {SCHEMA}", self.schema));
        }
        if self.pool.is_empty() || self.model.is_empty() || self.version.is_empty() {
            return refused(
                "pool, model and version must be named: what is not traced to a version has no share".to_owned(),
            );
        }
        if let Some(measured) = &self.measured {
            measured.job(self)?;
        }
        let told = self.measured.is_some() || !self.document.as_deref().unwrap_or_default().is_empty();
        if !self.assumed && !told {
            return refused("no document is named: name it, or say \"assumed\": true".to_owned());
        }
        if !(self.units.is_finite() && self.units > 0.0) {
            return refused(format!("units = {}: N must be above 0", self.units));
        }
        let parts: f64 = self.parts_g.values().sum();
        let proper = |grams: f64| grams.is_finite() && grams >= 0.0;
        if !self.parts_g.values().copied().chain(self.training_g).all(proper) {
            return refused("grams must be finite and at least 0".to_owned());
        }
        match self.training_g {
            None if self.parts_g.is_empty() && self.measured.is_none() => {
                return refused("neither training_g nor parts_g nor a measured job is given".to_owned());
            }
            Some(total) if !self.parts_g.is_empty() && (parts - total).abs() > PARTS_TOLERANCE * total.max(1.0) => {
                return refused(format!("parts_g sum to {parts} g, training_g is {total} g"));
            }
            _ => {}
        }
        let improper = |days: &f64| !(days.is_finite() && *days > 0.0 && *days < MOST_DAYS);
        if self.lifespan_days.iter().chain(&self.final_days).any(improper) {
            return refused("lifespan_days and final_days must be above 0".to_owned());
        }
        if self.final_days.is_some() && self.remainder != RemainderName::FinalPeriod {
            return refused("final_days is of the remainder final_period only".to_owned());
        }
        match (self.unit, self.token_weights) {
            (UnitName::Weighted, Some(TokenWeights { input, output }))
                if ![input, output].into_iter().all(proper) || input + output <= 0.0 =>
            {
                return refused(format!("token_weights {input} and {output}: at least 0, and not both 0"));
            }
            (UnitName::Weighted, None) => return refused("weighted units need token_weights".to_owned()),
            (unit, Some(_)) if unit != UnitName::Weighted => {
                return refused("token_weights are of weighted units only".to_owned());
            }
            _ => {}
        }
        if self.revised.as_ref().is_some_and(|revised| !(revised.units.is_finite() && revised.units > 0.0)) {
            return refused("revised.units: N must be above 0".to_owned());
        }
        self.serving_since()?;
        let parents = self.parents()?;
        let joins = self.lineage_policy == LineageName::SinglePoolIncrement;
        if joins && !matches!(parents.as_slice(), [one] if one.descent != Descent::Merge) {
            return refused("single_pool_increment takes one parent, whose pool it joins".to_owned());
        }
        lineage::check(&self.pool, &parents).map_err(|error| TrainingError::Refused(error.to_string()))
    }

    /// Whether T is still to be measured.
    pub fn is_unmeasured(&self) -> bool {
        self.training_g.is_none() && self.parts_g.is_empty()
    }

    /// T.
    pub fn training(&self) -> GramsCo2e {
        GramsCo2e(self.training_g.unwrap_or_else(|| self.parts_g.values().sum()))
    }

    /// How many units of N a service delivered; `None` if its engine does not tell them.
    pub(crate) fn count(&self, used: &ServiceUse) -> Option<f64> {
        let unit = match self.unit {
            UnitName::TotalToken => FunctionalUnit::TotalToken,
            UnitName::InputToken => FunctionalUnit::InputToken,
            UnitName::OutputToken => FunctionalUnit::OutputToken,
            UnitName::Request => FunctionalUnit::Request,
            UnitName::Item => FunctionalUnit::Item,
            UnitName::Image => FunctionalUnit::Image,
            UnitName::AudioS => FunctionalUnit::AudioSecond,
            UnitName::Weighted => {
                let weights = self.token_weights?;
                let (input, output) =
                    (FunctionalUnit::InputToken.count(used)?, FunctionalUnit::OutputToken.count(used)?);
                return Some(input * weights.input + output * weights.output);
            }
        };
        unit.count(used)
    }

    /// The unit of N in words.
    pub fn unit_name(&self) -> String {
        match self.token_weights {
            Some(TokenWeights { input, output }) => format!("token ({input} × input + {output} × output)"),
            None => word(&self.unit),
        }
    }

    /// Whether N is counted as that of another is.
    pub fn counts_as(&self, other: &Self) -> bool {
        (self.unit, self.token_weights) == (other.unit, other.token_weights)
    }

    /// The final period in nanoseconds, where its users carry what remains.
    #[allow(clippy::cast_possible_truncation, reason = "checked: below 40,000 days")]
    pub fn final_nanos(&self) -> Option<i64> {
        let carries = self.remainder == RemainderName::FinalPeriod;
        carries.then(|| (self.final_days.unwrap_or(FINAL_DAYS) * DAY_NANOS) as i64)
    }

    /// How a changed N is applied.
    pub fn units_policy(&self) -> UnitsPolicy {
        match self.n_policy {
            UnitsPolicyName::FrozenCap => UnitsPolicy::FrozenCap,
            UnitsPolicyName::DynamicProspective => UnitsPolicy::DynamicProspective,
            UnitsPolicyName::DynamicRetroactive => UnitsPolicy::DynamicRetroactive,
        }
    }

    /// What its life is measured by.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked: below 40,000 days")]
    pub fn lifespan(&self) -> Lifespan {
        self.lifespan_days.map_or(Lifespan::Usage, |days| Lifespan::Time((days * DAY_NANOS) as u64))
    }

    /// The parents, whose descents are known.
    pub fn parents(&self) -> Result<Vec<Parent>, TrainingError> {
        let parent = |named: &ParentName| {
            let descent = Descent::of(&named.descent);
            let descent =
                descent.ok_or_else(|| TrainingError::Refused(format!("`{}` is no descent", named.descent)))?;
            Ok(Parent { pool: named.pool.clone(), descent, weight: named.weight })
        };
        self.parents.iter().map(parent).collect()
    }

    /// When serving began, where it is said.
    pub fn serving_since(&self) -> Result<Option<UnixNanos>, TrainingError> {
        let Some(text) = &self.serving_since else { return Ok(None) };
        let at: Option<Timestamp> = text.parse().ok();
        let nanos = at.and_then(|at| i64::try_from(at.as_nanosecond()).ok());
        nanos.map(|nanos| Some(UnixNanos(nanos))).ok_or_else(|| {
            TrainingError::Refused(format!("serving_since = `{text}` is no time; write 2026-11-24T10:00:00Z"))
        })
    }
}
