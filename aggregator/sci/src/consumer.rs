//! Whose the work of model versions was, by what gateways tell of their consumers.
//!
//! A consumer's part of a version's energy is its part of the version's tokens in the window; what no gateway knows of is
//! *direct*. Every quantity is split by largest remainder, so that Σ consumers + direct is the version, to the microjoule.
//! Counts of a gateway are never added to those of an engine. What a gateway answered from its own cache is in a consumer's
//! counts and not in its weight: no engine worked for it.

mod upstream;

use crate::allocate::{ModelVersion, VersionCost};
use crate::cell::{ConsumptionUse, ServiceUse};
use crate::operational::CompensatedSum;
use crate::share::largest_remainder;
use crate::totals::{Carbon, MeterErrors, Totals, Unrated, VersionTotals};
use crate::uncertainty::Deviations;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use joulebook_units::{Consumer, Consumption, CountKind};
use upstream::Upstreams;

/// What the name of a consumer is of that is a run of several requests, and no one who asks.
pub const WORKFLOW: &str = "workflow";

/// What the parts of a version are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entity {
    /// Who asked: team, user, key.
    Consumer,
    /// Which workflow it was asked for.
    Workflow,
}

impl Entity {
    fn takes(self, of: &Consumption) -> bool {
        (of.consumer.kind == WORKFLOW) == (self == Self::Workflow)
    }
}

/// By what a version was shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Prompt and generated tokens.
    Tokens,
    /// Successful requests: the engine does not tell its tokens.
    Requests,
    /// Nothing: the engine tells neither, or no gateway asked it; all of it is direct.
    Nothing,
}

/// A part of a version.
#[derive(Debug, Clone)]
pub struct Part {
    /// Who; absent for what no gateway knows of.
    pub consumer: Option<Consumer>,
    /// Its totals. Counts are those of its gateways; direct has what is left of the engine's.
    pub totals: VersionTotals,
}

/// What consumers had of something that is no service of this book: counts only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remote {
    /// Who.
    pub consumer: Consumer,
    /// Address, as the gateway calls it.
    pub endpoint: Option<String>,
    /// Model as it is asked for there.
    pub model: Option<String>,
}

/// The consumers of a window.
#[derive(Debug, Clone, Default)]
pub struct Consumers {
    versions: BTreeMap<ModelVersion, BTreeMap<Consumer, ConsumptionUse>>,
    /// What was had elsewhere.
    pub remote: BTreeMap<Remote, ConsumptionUse>,
}

impl Consumers {
    /// Finds the versions behind what gateways tell.
    pub fn new(totals: &Totals, entity: Entity) -> Self {
        let upstreams = Upstreams::new(&totals.nodes);
        let mut consumers = Self::default();
        for (node, of, used) in totals
            .nodes
            .iter()
            .flat_map(|(name, node)| node.cell.consumption.iter().map(move |(of, used)| (name, of, used)))
        {
            // Of gateways in a chain the last one counts, which knows the engine: both count the same requests.
            if !entity.takes(of) || upstreams.is_passed_on(node, of) {
                continue;
            }
            let versions = upstreams.versions(node, of);
            let engines: Vec<&ServiceUse> =
                versions.iter().filter_map(|version| Some(&totals.versions.get(version)?.cost.used)).collect();
            if versions.is_empty() || engines.len() < versions.len() {
                let remote =
                    Remote { consumer: of.consumer.clone(), endpoint: of.endpoint.clone(), model: of.model.clone() };
                consumers.remote.entry(remote).or_default().merge(used);
                continue;
            }
            for (version, part) in versions.into_iter().zip(among(used, &engines)) {
                let mine = consumers.versions.entry(version).or_default();
                mine.entry(of.consumer.clone()).or_default().merge(&part);
            }
        }
        consumers
    }

    /// By what a version is shared.
    pub fn measure(&self, version: &ModelVersion, engine: &ServiceUse) -> Measure {
        let Some(consumers) = self.versions.get(version) else { return Measure::Nothing };
        let all = |measure| consumers.values().all(|used| weight(&used.counts, engine, measure).is_some());
        let told = |measure| weight(&engine.counts, engine, measure).is_some() && all(measure);
        [Measure::Tokens, Measure::Requests].into_iter().find(|measure| told(*measure)).unwrap_or(Measure::Nothing)
    }

    /// Whether gateways count more than the engine did: edges of the window cut their pages at other instants, or tokens
    /// are counted otherwise.
    pub fn exceed(&self, version: &ModelVersion, engine: &ServiceUse) -> bool {
        let measure = self.measure(version, engine);
        let asked: u128 = self.weights(version, engine, measure).iter().sum();
        weight(&engine.counts, engine, measure).is_some_and(|engine| asked > engine)
    }

    fn weights(&self, version: &ModelVersion, engine: &ServiceUse, measure: Measure) -> Vec<u128> {
        let consumers = self.versions.get(version).into_iter().flat_map(BTreeMap::values);
        consumers.map(|used| weight(&used.counts, engine, measure).unwrap_or(0)).collect()
    }

    /// The parts of a version: its consumers by name, and direct last. They add up to it.
    pub fn split(&self, version: &ModelVersion, whole: &VersionTotals) -> Vec<Part> {
        let engine = &whole.cost.used;
        let measure = self.measure(version, engine);
        let mut weights = self.weights(version, engine, measure);
        let asked: u128 = weights.iter().sum();
        let served = weight(&engine.counts, engine, measure).unwrap_or(0);
        // Nothing was served and nothing asked: what it cost all the same is nobody's.
        let direct = if asked == 0 && served == 0 { 1 } else { served.saturating_sub(asked) };
        weights.push(direct);
        let named = self.versions.get(version);
        let mut left = engine.counts.clone();
        left.retain(|kind, _| !kind.is_bucket());
        let mut uses: Vec<(Option<Consumer>, BTreeMap<CountKind, u64>)> = Vec::new();
        for (consumer, used) in named.into_iter().flatten() {
            let stored = stored(&used.counts);
            for (kind, count) in &used.counts {
                if let Some(left) = left.get_mut(kind) {
                    *left = left.saturating_sub(count.saturating_sub(stored.get(kind).copied().unwrap_or(0)));
                }
            }
            uses.push((Some(consumer.clone()), used.counts.clone()));
        }
        uses.push((None, left));
        let split = Splitter::new(&weights);
        let costs = split.costs(&whole.cost);
        let simulated = split.costs(&whole.simulated);
        let parts = uses.into_iter().zip(costs).zip(simulated).enumerate();
        let parts = parts.map(|(index, (((consumer, counts), mut cost), simulated))| {
            let share = split.share(index);
            complete(&mut cost.used, engine, counts, consumer.is_none());
            Part { consumer, totals: portion(whole, cost, simulated, share) }
        });
        parts.collect()
    }
}

/// What of a consumer's counts came from the gateway's own cache, by kind. Which of its tokens were the prompt's is not
/// told: they are taken off both kinds in proportion.
fn stored(counts: &BTreeMap<CountKind, u64>) -> BTreeMap<CountKind, u64> {
    let get = |kind| counts.get(&kind).copied();
    let mut stored = BTreeMap::new();
    stored.extend(get(CountKind::StoredRequests).map(|requests| (CountKind::RequestsOk, requests)));
    let kinds = [CountKind::InputTokens, CountKind::OutputTokens];
    let had = kinds.map(|kind| get(kind).unwrap_or(0));
    let tokens = get(CountKind::StoredTokens).unwrap_or(0).min(had[0].saturating_add(had[1]));
    let parts = largest_remainder(tokens, &had.map(u128::from)).unwrap_or_default();
    stored.extend(kinds.into_iter().zip(parts));
    stored
}

/// What of these counts made an engine work that tells `engine`; `None` if it is not known.
fn weight(counts: &BTreeMap<CountKind, u64>, engine: &ServiceUse, measure: Measure) -> Option<u128> {
    let get = |kind| counts.get(&kind).copied().map(u128::from);
    match measure {
        Measure::Nothing => None,
        Measure::Tokens => {
            let told = [CountKind::InputTokens, CountKind::OutputTokens];
            let told = told.into_iter().filter(|kind| engine.counts.contains_key(kind));
            let sum =
                told.map(get).try_fold(None, |sum: Option<u128>, count| Some(Some(sum.unwrap_or(0) + count?)))??;
            Some(sum.saturating_sub(get(CountKind::StoredTokens).unwrap_or(0)))
        }
        Measure::Requests => {
            get(CountKind::RequestsOk).map(|ok| ok.saturating_sub(get(CountKind::StoredRequests).unwrap_or(0)))
        }
    }
}

/// Splits what a consumer had among the versions that may have served it, by what they served.
fn among(used: &ConsumptionUse, engines: &[&ServiceUse]) -> Vec<ConsumptionUse> {
    let served = |engine: &&ServiceUse| {
        let kinds = [CountKind::InputTokens, CountKind::OutputTokens, CountKind::RequestsOk, CountKind::Items];
        let known = |kinds: &[CountKind]| -> u128 {
            kinds.iter().filter_map(|kind| engine.counts.get(kind)).map(|count| u128::from(*count)).sum()
        };
        (known(&kinds[..2]), known(&kinds[2..]))
    };
    let all: Vec<(u128, u128)> = engines.iter().map(served).collect();
    let tokens: Vec<u128> = all.iter().map(|(tokens, _)| *tokens).collect();
    let others: Vec<u128> = all.iter().map(|(_, others)| *others).collect();
    let mut parts = vec![ConsumptionUse::default(); engines.len()];
    for (kind, count) in &used.counts {
        let split = largest_remainder(*count, &tokens).or_else(|| largest_remainder(*count, &others));
        let split = split.or_else(|| largest_remainder(*count, &vec![1; engines.len()])).unwrap_or_default();
        for (part, count) in parts.iter_mut().zip(split) {
            part.counts.insert(*kind, count);
            part.counted_nanos = used.counted_nanos;
        }
    }
    parts
}

/// Completes what a part did with its counts. Of the times that an engine tells of all its consumers together it has its
/// part, unless a gateway tells its own; that the version was resident or executing holds for each of them.
fn complete(used: &mut ServiceUse, engine: &ServiceUse, counts: BTreeMap<CountKind, u64>, is_direct: bool) {
    let times = core::mem::replace(&mut used.counts, counts);
    for (kind, time) in times {
        if is_direct {
            used.counts.insert(kind, time);
        } else {
            used.counts.entry(kind).or_insert(time);
        }
    }
    used.counted_nanos = engine.counted_nanos;
    used.resident_nanos = engine.resident_nanos;
    used.executing_nanos = engine.executing_nanos;
}

/// A part of a version's totals: its grams go by its part of the energy.
fn portion(whole: &VersionTotals, cost: VersionCost, simulated: VersionCost, weight: f64) -> VersionTotals {
    let energy = whole.cost.with_idle();
    #[allow(clippy::cast_precision_loss, reason = "a ratio")]
    let share = if energy > 0 { cost.with_idle() as f64 / energy as f64 } else { weight };
    let scaled = |sum: CompensatedSum| {
        let mut part = CompensatedSum::default();
        part.add(sum.get() * share);
        part
    };
    let mut deviations = Deviations::default();
    for (source, deviation) in whole.carbon.deviations.by_source() {
        deviations.add(source, deviation, share);
    }
    let carbon = Carbon {
        meters: MeterErrors::default(),
        operational: scaled(whole.carbon.operational),
        embodied: scaled(whole.carbon.embodied),
        joint: scaled(whole.carbon.joint),
        gap_high: scaled(whole.carbon.gap_high),
        deviations,
        rated: whole.carbon.rated.iter().map(|(origin, energy)| (*origin, scaled(*energy))).collect(),
        unrated: Unrated {
            energy_j: scaled(whole.carbon.unrated.energy_j),
            low_g: scaled(whole.carbon.unrated.low_g),
            high_g: scaled(whole.carbon.unrated.high_g),
        },
    };
    VersionTotals { cost, simulated, facility_j: scaled(whole.facility_j), carbon, ..whole.clone() }
}

/// A quantity of a structure.
type FieldOf<T> = fn(&mut T) -> &mut u64;

/// Splits quantities by fixed weights.
struct Splitter<'a> {
    weights: &'a [u128],
    sum: u128,
}

impl<'a> Splitter<'a> {
    fn new(weights: &'a [u128]) -> Self {
        Self { weights, sum: weights.iter().sum() }
    }

    #[allow(clippy::cast_precision_loss, reason = "a ratio")]
    fn share(&self, index: usize) -> f64 {
        let weight = self.weights.get(index).copied().unwrap_or(0);
        if self.sum > 0 { weight as f64 / self.sum as f64 } else { 0.0 }
    }

    fn split(&self, total: u64, mut give: impl FnMut(usize, u64)) {
        let parts = largest_remainder(total, self.weights).unwrap_or_default();
        parts.into_iter().enumerate().for_each(|(index, part)| give(index, part));
    }

    fn costs(&self, whole: &VersionCost) -> Vec<VersionCost> {
        let mut parts = vec![VersionCost::default(); self.weights.len()];
        let fields: [(u64, FieldOf<VersionCost>); 10] = [
            (whole.accelerator_dynamic, |cost| &mut cost.accelerator_dynamic),
            (whole.accelerator_base, |cost| &mut cost.accelerator_base),
            (whole.host, |cost| &mut cost.host),
            (whole.cpu, |cost| &mut cost.cpu),
            (whole.platform, |cost| &mut cost.platform),
            (whole.dedicated_idle, |cost| &mut cost.dedicated_idle),
            (whole.pool_idle, |cost| &mut cost.pool_idle),
            (whole.support, |cost| &mut cost.support),
            (whole.direct, |cost| &mut cost.direct),
            (whole.used.joint_microjoules, |cost| &mut cost.used.joint_microjoules),
        ];
        for (total, field) in fields {
            self.split(total, |index, part| {
                if let Some(cost) = parts.get_mut(index) {
                    *field(cost) = part;
                }
            });
        }
        let times: [(u64, FieldOf<ServiceUse>); 3] = [
            (whole.used.reserved_core_nanos, |used| &mut used.reserved_core_nanos),
            (whole.used.reserved_device_nanos, |used| &mut used.reserved_device_nanos),
            (whole.used.cpu_nanos, |used| &mut used.cpu_nanos),
        ];
        for (total, field) in times {
            self.split(total, |index, part| {
                if let Some(cost) = parts.get_mut(index) {
                    *field(&mut cost.used) = part;
                }
            });
        }
        for (kind, count) in whole.used.counts.iter().filter(|(kind, _)| kind.is_time()) {
            self.split(*count, |index, part| {
                if let Some(cost) = parts.get_mut(index) {
                    cost.used.counts.insert(*kind, part);
                }
            });
        }
        for (index, cost) in parts.iter_mut().enumerate() {
            cost.embodied_g = whole.embodied_g * self.share(index);
            cost.embodied_idle_g = whole.embodied_idle_g * self.share(index);
        }
        parts
    }
}

#[cfg(test)]
mod tests;
