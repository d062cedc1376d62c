//! What is disclosed of the training of one version: a JSON document (`cli/schema/training.schema.json`), checked.

use super::TrainingError;
use jiff::Timestamp;
use joulebook_sci::FunctionalUnit;
use joulebook_sci::training::UnitsPolicy;
use joulebook_sci::training::ledger::Lifespan;
use joulebook_sci::training::lineage::{self, Descent, Parent};
use joulebook_units::{GramsCo2e, UnixNanos};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the document.
pub const SCHEMA: &str = "joulebook-training/1";
/// How far the parts of T may be off its total, as a share.
const PARTS_TOLERANCE: f64 = 1e-6;
const DAY_NANOS: f64 = 86_400e9;
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
    /// N: units that the version is expected to serve.
    pub units: f64,
    /// What they are.
    pub unit: UnitName,
    /// How a changed N is applied.
    #[serde(default)]
    pub n_policy: UnitsPolicyName,
    /// Life in days, where it goes by time; unset: by use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifespan_days: Option<f64>,
    /// Who carries what remains when it retires.
    #[serde(default)]
    pub remainder: RemainderName,
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
    UnitName: TotalToken, InputToken, OutputToken, Request, Item
}
names! {
    /// How a changed N is applied.
    UnitsPolicyName: FrozenCap, DynamicProspective, DynamicRetroactive
}
names! {
    /// Who carries what remains at retirement.
    RemainderName: ProviderLedger, CarryToSuccessor
}
names! {
    /// How a descendant carries what its ancestors cost.
    LineageName: PooledBasePlusIncrement, Restart
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
        if !self.assumed && self.document.as_deref().unwrap_or_default().is_empty() {
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
            None if self.parts_g.is_empty() => return refused("neither training_g nor parts_g is given".to_owned()),
            Some(total) if !self.parts_g.is_empty() && (parts - total).abs() > PARTS_TOLERANCE * total.max(1.0) => {
                return refused(format!("parts_g sum to {parts} g, training_g is {total} g"));
            }
            _ => {}
        }
        if self.lifespan_days.is_some_and(|days| !(days.is_finite() && days > 0.0 && days < 40_000.0)) {
            return refused("lifespan_days must be above 0".to_owned());
        }
        self.serving_since()?;
        let parents = self.parents()?;
        lineage::check(&self.pool, &parents).map_err(|error| TrainingError::Refused(error.to_string()))
    }

    /// T.
    pub fn training(&self) -> GramsCo2e {
        GramsCo2e(self.training_g.unwrap_or_else(|| self.parts_g.values().sum()))
    }

    /// The unit of N.
    pub fn functional_unit(&self) -> FunctionalUnit {
        match self.unit {
            UnitName::TotalToken => FunctionalUnit::TotalToken,
            UnitName::InputToken => FunctionalUnit::InputToken,
            UnitName::OutputToken => FunctionalUnit::OutputToken,
            UnitName::Request => FunctionalUnit::Request,
            UnitName::Item => FunctionalUnit::Item,
        }
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
