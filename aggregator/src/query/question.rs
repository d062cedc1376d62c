//! A question, checked.

use super::QueryError;
use super::name::{self, Names};
use crate::factor::Asked;
use joulebook_proto::query as wire;
use joulebook_sci::consumer::Entity;
use joulebook_sci::quantity::Kind;
use joulebook_sci::reconcile::Trust;
use joulebook_sci::{FunctionalUnit, IdlePolicy, IdleRule, IdleScope, Level, ModelVersion, Totals, VersionTotals};
use joulebook_units::{UnixNanos, Window};

/// Longest window of one question: the retention of settled cells.
const MAX_DAYS: i64 = 400;

/// What is asked.
pub struct Question {
    /// When.
    pub window: Window,
    /// Model name, if one is selected.
    pub model: Option<String>,
    /// Version, if one is selected.
    pub version: Option<String>,
    /// First characters of the fingerprint of the weights, if they are selected.
    pub weights: Option<String>,
    /// First characters of a serving configuration's digest, if one is selected.
    pub serving_config: Option<String>,
    /// Functional unit; absent chooses per version.
    pub unit: Option<FunctionalUnit>,
    /// Boundary.
    pub level: Level,
    /// How pool idle is charged, and where that begins.
    pub rule: IdleRule,
    /// Which side is believed where components exceed the wall.
    pub trust: Trust,
    /// Which intensities, and as of when.
    pub factors: Asked,
    /// What versions are broken down by; absent: not at all.
    pub entity: Option<Entity>,
    /// Whether the extended boundary is asked for too.
    pub extended: bool,
}

impl Question {
    /// Checks a question about SCI.
    pub fn parse(request: &wire::GetSciRequest) -> Result<Self, QueryError> {
        let selector = request.selector.clone().unwrap_or_default();
        Ok(Self {
            window: window(request.window.as_ref())?,
            unit: unit(request.functional_unit)?,
            level: level(request.level, Level::Facility)?,
            rule: rule(request.idle_policy, request.idle_scope)?,
            trust: trust(request.trust)?,
            factors: Asked {
                kind: intensity_kind(request.intensity_kind)?,
                as_of: request.as_of_unix_nanos.map(UnixNanos),
            },
            entity: entity(request.by)?,
            extended: request.extended,
            ..Self::selecting(selector)?
        })
    }

    /// Checks a question about energy; its default level is `idle`, the IT boundary.
    pub fn parse_energy(request: &wire::GetEnergyRequest) -> Result<Self, QueryError> {
        let selector = request.selector.clone().unwrap_or_default();
        let level = level(request.level, Level::Idle)?;
        if level == Level::Facility {
            return Err(QueryError::Invalid(
                "energy is answered at the IT boundary; ask sci for the facility level".to_owned(),
            ));
        }
        Ok(Self {
            window: window(request.window.as_ref())?,
            unit: request.functional_unit.map_or(Ok(None), unit)?,
            level,
            rule: rule(request.idle_policy, request.idle_scope)?,
            trust: trust(request.trust)?,
            ..Self::selecting(selector)?
        })
    }

    /// Checks a question about idle capacity, which is answered of every version.
    pub fn parse_idle(request: &wire::GetIdleRequest) -> Result<Self, QueryError> {
        Ok(Self {
            window: window(request.window.as_ref())?,
            unit: unit(request.functional_unit)?,
            rule: rule(request.idle_policy, request.idle_scope)?,
            trust: trust(request.trust)?,
            factors: Asked {
                kind: intensity_kind(request.intensity_kind)?,
                as_of: request.as_of_unix_nanos.map(UnixNanos),
            },
            ..Self::selecting(wire::ModelSelector::default())?
        })
    }

    fn selecting(selector: wire::ModelSelector) -> Result<Self, QueryError> {
        if selector.version.is_some() && selector.model.is_none() {
            return Err(QueryError::Invalid("a version is selected without a model".to_owned()));
        }
        let nowhere = Window::new(UnixNanos(0), UnixNanos(0));
        Ok(Self {
            window: nowhere.ok_or_else(|| QueryError::Invalid("the window ends before it starts".to_owned()))?,
            model: selector.model,
            version: selector.version,
            weights: selector.weights,
            serving_config: selector.serving_config,
            unit: None,
            level: Level::Facility,
            rule: IdlePolicy::ReservedCapacityTime.into(),
            trust: Trust::Components,
            factors: Asked::default(),
            entity: None,
            extended: false,
        })
    }

    /// The versions that are selected, by name.
    ///
    /// # Errors
    /// [`QueryError::NotFound`] when a selected one was not seen, naming those that were.
    pub fn select<'t>(&self, totals: &'t Totals) -> Result<Vec<(&'t ModelVersion, &'t VersionTotals)>, QueryError> {
        let selected: Vec<_> = totals.versions.iter().filter(|(version, _)| self.selects(version)).collect();
        let selects = self.model.is_some() || self.weights.is_some() || self.serving_config.is_some();
        if selected.is_empty() && selects {
            let names = Names::of(totals.versions.keys());
            let seen: Vec<String> = totals.versions.keys().map(|version| names.full(version)).collect();
            let seen = if seen.is_empty() { "none was seen".to_owned() } else { format!("seen: {}", seen.join(", ")) };
            return Err(QueryError::NotFound(format!("no such model version in the window; {seen}")));
        }
        Ok(selected)
    }

    /// Whether a version is one of those that are selected.
    pub fn selects(&self, version: &ModelVersion) -> bool {
        self.model.as_ref().is_none_or(|model| version.model.as_ref() == Some(model))
            && self.version.as_ref().is_none_or(|number| version.version.as_ref() == Some(number))
            && starts(self.weights.as_ref(), version.weights.as_deref())
            && starts(self.serving_config.as_ref(), name::digest(&version.configuration).as_deref())
    }

    /// The functional unit for a version: the one asked for, else total tokens where known, else requests.
    pub fn unit_for(&self, totals: &VersionTotals) -> FunctionalUnit {
        self.unit.unwrap_or_else(|| match FunctionalUnit::TotalToken.count(&totals.cost.used) {
            Some(_) => FunctionalUnit::TotalToken,
            None => FunctionalUnit::Request,
        })
    }
}

/// Name of the side that is believed in answers.
pub fn trust_name(trust: Trust) -> &'static str {
    match trust {
        Trust::Components => "components",
        Trust::Wall => "wall",
    }
}

/// Whether a digest starts with what is asked for, with the kind before its colon or without.
fn starts(asked: Option<&String>, digest: Option<&str>) -> bool {
    let Some(asked) = asked else { return true };
    let hex = digest.and_then(|digest| digest.rsplit(':').next());
    [digest, hex].into_iter().flatten().any(|digest| digest.starts_with(asked.as_str()))
}

/// A window, checked.
pub fn window(window: Option<&wire::TimeWindow>) -> Result<Window, QueryError> {
    let window = window.ok_or_else(|| QueryError::Invalid("the question has no window".to_owned()))?;
    let (start, end) = (UnixNanos(window.start_unix_nanos), UnixNanos(window.end_unix_nanos));
    let checked = Window::new(start, end).filter(|window| !window.is_empty());
    let checked = checked.ok_or_else(|| QueryError::Invalid("the window does not end after it starts".to_owned()))?;
    if end > start.plus_seconds(MAX_DAYS * 86_400) {
        return Err(QueryError::Invalid(format!("the window is longer than {MAX_DAYS} days; ask for parts of it")));
    }
    Ok(checked)
}

fn unit(value: i32) -> Result<Option<FunctionalUnit>, QueryError> {
    use wire::FunctionalUnit as Wire;
    Ok(match known(Wire::try_from(value), "functional unit")? {
        Wire::Unspecified => None,
        Wire::Request => Some(FunctionalUnit::Request),
        Wire::InputToken => Some(FunctionalUnit::InputToken),
        Wire::OutputToken => Some(FunctionalUnit::OutputToken),
        Wire::TotalToken => Some(FunctionalUnit::TotalToken),
        Wire::Item => Some(FunctionalUnit::Item),
        Wire::InferenceSecond => Some(FunctionalUnit::InferenceSecond),
        Wire::Image => Some(FunctionalUnit::Image),
        Wire::AudioSecond => Some(FunctionalUnit::AudioSecond),
        Wire::Workflow => Some(FunctionalUnit::Workflow),
        Wire::GpuSecond => Some(FunctionalUnit::GpuSecond),
        Wire::Prompt => Some(FunctionalUnit::Prompt),
    })
}

fn level(value: i32, unstated: Level) -> Result<Level, QueryError> {
    Ok(match known(wire::Level::try_from(value), "level")? {
        wire::Level::Unspecified => unstated,
        wire::Level::Accelerator => Level::Accelerator,
        wire::Level::Host => Level::Host,
        wire::Level::Idle => Level::Idle,
        wire::Level::Facility => Level::Facility,
    })
}

fn policy(value: i32) -> Result<IdlePolicy, QueryError> {
    use wire::IdlePolicy as Wire;
    Ok(match known(Wire::try_from(value), "idle policy")? {
        Wire::Unspecified | Wire::ReservedCapacityTime => IdlePolicy::ReservedCapacityTime,
        Wire::ActiveEnergy => IdlePolicy::ActiveEnergy,
        Wire::Requests => IdlePolicy::Requests,
        Wire::UsageTime => IdlePolicy::UsageTime,
        Wire::Equal => IdlePolicy::Equal,
        Wire::Unallocated => IdlePolicy::Unallocated,
    })
}

fn rule(policy_value: i32, scope: i32) -> Result<IdleRule, QueryError> {
    let from = match known(wire::IdleScope::try_from(scope), "idle scope")? {
        wire::IdleScope::Unspecified | wire::IdleScope::Node => IdleScope::Node,
        wire::IdleScope::Pool => IdleScope::Pool,
        wire::IdleScope::Cluster => IdleScope::Cluster,
    };
    Ok(IdleRule { policy: policy(policy_value)?, from })
}

fn trust(value: i32) -> Result<Trust, QueryError> {
    Ok(match known(wire::Trust::try_from(value), "trust")? {
        wire::Trust::Unspecified | wire::Trust::Components => Trust::Components,
        wire::Trust::Wall => Trust::Wall,
    })
}

fn intensity_kind(value: i32) -> Result<Option<Kind>, QueryError> {
    use wire::IntensityKind as Wire;
    Ok(match known(Wire::try_from(value), "kind of intensity")? {
        Wire::Unspecified => None,
        Wire::AverageConsumption => Some(Kind::AverageConsumption),
        Wire::AverageProduction => Some(Kind::AverageProduction),
        Wire::MarginalShortRun => Some(Kind::MarginalShortRun),
        Wire::MarginalLongRun => Some(Kind::MarginalLongRun),
    })
}

fn entity(value: i32) -> Result<Option<Entity>, QueryError> {
    Ok(match known(wire::EntityKind::try_from(value), "breakdown")? {
        wire::EntityKind::Unspecified => None,
        wire::EntityKind::Consumer => Some(Entity::Consumer),
        wire::EntityKind::Workflow => Some(Entity::Workflow),
    })
}

fn known<T, E>(value: Result<T, E>, what: &str) -> Result<T, QueryError> {
    value.map_err(|_| QueryError::Invalid(format!("the question has a {what} that this aggregator does not know")))
}
