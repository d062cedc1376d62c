//! Whose the work was: versions broken down by consumer or workflow.

use super::QueryError;
use super::amount::Amount;
use super::energy::{Columns, key, left_over, row, version_row};
use super::name::Names;
use super::question::Question;
use super::{Computed, energy};
use joulebook_proto::query::EnergyRow;
use joulebook_sci::consumer::{Consumers, Entity, Measure, Part, Remote};
use joulebook_sci::{ConsumptionUse, FunctionalUnit, ModelVersion, ServiceUse, VersionTotals};
use std::collections::{BTreeMap, BTreeSet};

/// What stands for what no gateway knows of.
pub const DIRECT: &str = "direct";
/// Flag of a version of which gateways count more than its engine.
pub const EXCEEDED: &str = "consumers_exceed_engine";
const REMOTE: &str = "remote: only what was delivered is known, and no energy";

/// A part of a version in an answer of its own.
pub struct Share<'a> {
    /// The whole.
    pub whole: &'a VersionTotals,
    /// `kind name` of the consumer, or [`DIRECT`].
    pub entity: String,
    /// By what it was shared, for people.
    pub rule: String,
    /// Whether gateways count more than the engine.
    pub exceeded: bool,
}

/// The parts of a version, each with what its answer says of it.
pub fn parts<'a>(
    consumers: &Consumers,
    version: &ModelVersion,
    whole: &'a VersionTotals,
) -> impl Iterator<Item = (Part, Share<'a>)> {
    let exceeded = consumers.exceed(version, &whole.cost.used);
    let rule = match consumers.measure(version, &whole.cost.used) {
        Measure::Tokens => "the entity's part by tokens",
        Measure::Requests => "the entity's part by requests: the engine does not tell its tokens",
        Measure::Nothing => {
            "all of it is direct: no gateway tells of it, or the engine tells neither tokens nor requests"
        }
    };
    consumers.split(version, whole).into_iter().map(move |part| {
        let share = Share { whole, entity: name(&part), rule: rule.to_owned(), exceeded };
        (part, share)
    })
}

fn name(part: &Part) -> String {
    part.consumer.as_ref().map_or_else(|| DIRECT.to_owned(), |one| format!("{} {}", one.kind, one.name))
}

/// Consumers of every selected version and what is direct, the accounts beside them, and what was had elsewhere.
pub fn rows(computed: &Computed<'_>, question: &Question, entity: Entity) -> Result<Vec<EnergyRow>, QueryError> {
    let totals = &computed.totals;
    let consumers = Consumers::new(totals, entity);
    let selected: BTreeSet<&ModelVersion> = question.select(totals)?.into_iter().map(|(version, _)| version).collect();
    let columns = Columns::of(totals);
    let names = Names::of(totals.versions.keys());
    let (mut rows, mut outside, mut others) = (Vec::new(), Amount::default(), Amount::default());
    for (version, whole) in &totals.versions {
        let all = Amount::of_version(whole.cost.with_idle(), whole.simulated.with_idle());
        if !selected.contains(version) {
            others.add(all);
            continue;
        }
        let inside = Amount::of_version(question.level.energy(&whole.cost), question.level.energy(&whole.simulated));
        outside.add(Amount::of_version(
            all.microjoules - inside.microjoules,
            all.simulated_microjoules - inside.simulated_microjoules,
        ));
        let unit = question.unit_for(whole);
        for part in consumers.split(version, whole) {
            let account = if part.consumer.is_some() { "consumer" } else { DIRECT };
            let (kind, name) = part.consumer.map_or_else(Default::default, |one| (one.kind, one.name));
            let known = |name: &Option<String>| name.clone().unwrap_or_else(|| "unresolved".to_owned());
            let key = row_key(account, [&kind, &name, &known(&version.model), &names.version(version), ""]);
            let mut row = version_row(computed, question, &columns, (key, whole, &part.totals));
            row.units = unit.count(&part.totals.cost.used);
            rows.push(row);
        }
    }
    for (account, amount) in left_over(totals, outside, others) {
        let mut row = row(row_key(account, [""; 5]), amount, BTreeMap::new(), &columns.methods);
        row.per_unit_null_reason = question.unit.map(|_| "not a model version".to_owned());
        rows.push(row);
    }
    rows.extend(consumers.remote.iter().map(|(of, used)| remote(of, used, question.unit)));
    Ok(rows)
}

fn remote(of: &Remote, used: &ConsumptionUse, unit: Option<FunctionalUnit>) -> EnergyRow {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (model, endpoint) = (text(&of.model), text(&of.endpoint));
    let used = ServiceUse { counts: used.counts.clone(), ..ServiceUse::default() };
    let default = [FunctionalUnit::TotalToken, FunctionalUnit::Request];
    let unit = unit.or_else(|| default.into_iter().find(|unit| unit.count(&used).is_some()));
    EnergyRow {
        key: row_key("remote", [&of.consumer.kind, &of.consumer.name, &model, "", &endpoint]),
        method: energy::method_name(&BTreeSet::new()),
        units: unit.and_then(|unit| unit.count(&used)),
        per_unit_null_reason: Some(REMOTE.to_owned()),
        ..EnergyRow::default()
    }
}

fn row_key(account: &str, [kind, name, model, version, endpoint]: [&str; 5]) -> Vec<joulebook_proto::query::KeyPart> {
    key(&[
        ("account", account),
        ("kind", kind),
        ("consumer", name),
        ("model", model),
        ("version", version),
        ("endpoint", endpoint),
    ])
}
