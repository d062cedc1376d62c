//! Idle capacity: who holds it, since when, what it costs; the marginal and the provisioned figure of every version.

use super::gather::{Gathered, Present};
use super::name::Names;
use super::question::Question;
use super::{QueryError, rfc3339};
use crate::factor::{Asked, Factors};
use crate::store::Book;
use joulebook_proto::query as wire;
use joulebook_sci::idle::{Capacity, Figures, Holder, Idle, IdleClass, IdleKey, PolicySum};
use joulebook_sci::uncertainty::PROFILE;
use joulebook_sci::{FunctionalUnit, IdlePolicy, IdleScope, VersionTotals, score};
use joulebook_units::{GramsCo2e, UnixNanos, Window};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How far before the window it is looked for when capacity that was there at its start came to be there, at most.
const LOOK_BACK_SECONDS: i64 = 86_400;
/// Cells that are looked at for it, at most: what a large fleet costs.
const LOOK_BACK_CELLS: i64 = 10_000;
const SLOT_SECONDS: i64 = 300;

/// Answers a question about idle capacity.
///
/// # Errors
/// The store's, and what makes a factor missing.
pub fn answer(
    book: &Book,
    factors: &Arc<Factors>,
    question: &Question,
    now: Present<'_>,
) -> Result<wire::GetIdleResponse, QueryError> {
    let gathered = Gathered::new(book, factors, question.window, question.factors, now)?;
    let mut idle = Idle::new(question.rule);
    for window in gathered.windows() {
        let slot = gathered.slot(window, question.trust)?;
        if slot.nodes.is_empty() {
            continue;
        }
        idle.add(window, &slot.nodes, &slot.factors);
    }
    let before = before(book, factors, question, &gathered, &idle, now)?;
    let names = Names::of(idle.versions.keys());
    let printed = Printed { gathered: &gathered, question, names, before: &before };
    let scopes = |sum: Option<&PolicySum>| -> Vec<String> {
        sum.into_iter().flat_map(|sum| &sum.scopes).map(|scope: &IdleScope| scope.name().to_owned()).collect()
    };
    Ok(wire::GetIdleResponse {
        window: Some(wire::AnswerWindow {
            start: rfc3339(gathered.window.start()),
            end: rfc3339(gathered.window.end()),
            cells: idle.slots,
            resolution_seconds: u64::try_from(gathered.resolution_seconds).unwrap_or(1),
        }),
        policy: question.rule.policy.name().to_owned(),
        scope: question.rule.from.name().to_owned(),
        scopes: scopes(idle.policies.get(&question.rule.policy)),
        capacities: idle.capacities.iter().map(|(key, capacity)| printed.capacity(key, capacity)).collect(),
        versions: idle.versions.iter().map(|(version, figures)| printed.version(version, figures)).collect(),
        policies: idle.policies.iter().map(|(policy, sum)| printed.policy(*policy, sum, scopes(Some(sum)))).collect(),
        total_uj: idle.total,
        simulated: idle.capacities.values().any(|capacity| capacity.simulated),
        uncertainty_profile: PROFILE.to_owned(),
    })
}

/// What was seen of the time before a window.
struct Before {
    /// Since when capacity is there that was there at its start.
    since: BTreeMap<IdleKey, UnixNanos>,
    /// How far back was looked.
    from: UnixNanos,
}

/// Looks back from the start of the window, slot by slot, for as long as any capacity was there that is there at the start.
fn before(
    book: &Book,
    factors: &Arc<Factors>,
    question: &Question,
    gathered: &Gathered<'_>,
    idle: &Idle,
    now: Present<'_>,
) -> Result<Before, QueryError> {
    let start = gathered.window.start();
    let nodes = i64::try_from(gathered.members.len()).unwrap_or(i64::MAX).max(1);
    let seconds = (LOOK_BACK_CELLS / nodes).saturating_mul(SLOT_SECONDS).min(LOOK_BACK_SECONDS);
    let mut seen = Before { since: BTreeMap::new(), from: start };
    let was_there = |capacity: &Capacity| capacity.stretch().is_some_and(|(since, _)| since <= start);
    let mut open: BTreeSet<&IdleKey> =
        idle.capacities.iter().filter(|(_, capacity)| was_there(capacity)).map(|(key, _)| key).collect();
    let earlier = Window::new(start.plus_seconds(-seconds), start).filter(|earlier| !earlier.is_empty());
    let Some(earlier) = earlier.filter(|_| !open.is_empty()) else { return Ok(seen) };
    let gathered = Gathered::new(book, factors, earlier, Asked::default(), now)?;
    for window in gathered.windows().into_iter().rev() {
        if open.is_empty() {
            break;
        }
        let slot = gathered.slot(window, question.trust)?;
        let mut here = Idle::new(question.rule);
        here.look(window, &slot.nodes, &slot.factors);
        seen.from = window.start();
        open.retain(|key| {
            let found = here.capacities.get(*key).and_then(Capacity::stretch);
            if let Some((since, _)) = found {
                seen.since.insert((*key).clone(), since);
            }
            found.is_some_and(|(since, _)| since <= window.start())
        });
    }
    Ok(seen)
}

/// What every line of an answer needs.
struct Printed<'a> {
    gathered: &'a Gathered<'a>,
    question: &'a Question,
    names: Names<'a>,
    before: &'a Before,
}

impl Printed<'_> {
    fn capacity(&self, key: &IdleKey, capacity: &Capacity) -> wire::IdleCapacity {
        let window = self.gathered.window;
        let (holder_kind, holder) = match &key.holder {
            Holder::Version(version) => ("model", self.names.full(version)),
            Holder::Workload(name) => ("workload", name.clone()),
            Holder::Support(pool) => ("support", pool.clone()),
            Holder::Nobody => ("nobody", String::new()),
        };
        let (from, until) = capacity.stretch().unwrap_or((window.start(), window.end()));
        let earlier = (from <= window.start()).then(|| self.before.since.get(key)).flatten();
        let since = earlier.copied().unwrap_or(from);
        let free = matches!(key.class, IdleClass::Pool | IdleClass::OutOfService);
        let carbon = &capacity.totals.carbon;
        let unrated = unrated(&capacity.totals);
        let known = unrated.is_none();
        let whole = carbon.operational.get() + carbon.embodied.get();
        let (low, high) = carbon.deviations.interval(whole, 0.0, carbon.gap_high.get());
        wire::IdleCapacity {
            class: key.class.name().to_owned(),
            node: key.node.clone(),
            pool: capacity.pool.clone(),
            holder_kind: holder_kind.to_owned(),
            holder,
            microjoules: capacity.energy(),
            charged_uj: capacity.charged,
            facility_j: capacity.totals.facility_j.get(),
            operational_g: known.then(|| carbon.operational.get()),
            embodied_g: free.then(|| carbon.embodied.get()),
            low_g: known.then_some(low),
            high_g: known.then_some(high),
            since_unix_nanos: since.0,
            since_before: since <= self.before.from,
            ended: until < window.end(),
            reason: self.reason(key).unwrap_or_default(),
            simulated: capacity.simulated,
            null_reason: unrated.unwrap_or_default(),
        }
    }

    /// Why a node was out of service.
    fn reason(&self, key: &IdleKey) -> Option<String> {
        let member =
            self.gathered.members.iter().find(|member| member.record.inventory.node.as_str() == key.node.as_str())?;
        let reasons = member.out_of_service.iter().map(|out| out.reason.clone());
        (key.class == IdleClass::OutOfService).then(|| reasons.collect::<Vec<_>>().join("; "))
    }

    fn version(&self, version: &joulebook_sci::ModelVersion, figures: &Figures) -> wire::IdleVersion {
        let whole = &figures.provisioned;
        let unit = self.question.unit_for(whole);
        let figure = |totals: &VersionTotals| figure(totals, whole, unit);
        wire::IdleVersion {
            label: self.names.full(version),
            r_kind: unit.name().to_owned(),
            r: unit.count(&whole.cost.used),
            marginal: Some(figure(&figures.marginal)),
            provisioned: Some(figure(whole)),
            base_uj: figures.base,
            dedicated_uj: whole.cost.dedicated_idle,
            pool_uj: whole.cost.pool_idle,
            support_uj: whole.cost.support,
            simulated: whole.simulated.with_idle() > 0,
        }
    }

    fn policy(&self, policy: IdlePolicy, sum: &PolicySum, scopes: Vec<String>) -> wire::IdlePolicySum {
        let mut charged_uj: BTreeMap<String, u64> = BTreeMap::new();
        for (version, energy) in sum.charged.iter().filter(|(_, energy)| **energy > 0) {
            *charged_uj.entry(self.names.full(version)).or_default() += energy;
        }
        wire::IdlePolicySum {
            policy: policy.name().to_owned(),
            versions_uj: sum.versions,
            ledger_uj: sum.ledger,
            total_uj: sum.total(),
            unallocated_uj: sum.unallocated,
            out_of_service_uj: sum.out_of_service,
            charged_uj,
            scopes,
        }
    }
}

/// One figure of a whole version: its units and grams are over the time in which counts are known, as those of the score.
fn figure(totals: &VersionTotals, whole: &VersionTotals, unit: FunctionalUnit) -> wire::IdleFigure {
    let carbon = &totals.carbon;
    let (units, joint) = (unit.count(&whole.cost.used), whole.cost.joint_share().unwrap_or(1.0));
    let unrated = unrated(totals);
    let facility_j = totals.facility_j.get();
    let per_unit = score(whole.cost.measured(GramsCo2e(carbon.joint.get())), unit, units);
    let (low, high) = carbon.deviations.interval(carbon.joint.get(), 0.0, carbon.gap_high.get());
    let known = per_unit.is_ok() && unrated.is_none();
    let ends = units.filter(|_| known).map(|units| (low / units, high / units));
    wire::IdleFigure {
        microjoules: totals.cost.with_idle(),
        facility_j,
        carbon_g: unrated.is_none().then(|| carbon.operational.get() + carbon.embodied.get()),
        // The ratio's arithmetic is that of the score: joules in the place of grams.
        j_per_unit: score(whole.cost.measured(GramsCo2e(facility_j * joint)), unit, units).ok(),
        g_per_unit: per_unit.as_ref().ok().copied().filter(|_| known),
        low: ends.map(|(low, _)| low),
        high: ends.map(|(_, high)| high),
        null_reason: unrated.or_else(|| per_unit.err().map(|reason| reason.to_string())).unwrap_or_default(),
    }
}

/// Why there are no grams, where an intensity is missing.
fn unrated(totals: &VersionTotals) -> Option<String> {
    let unrated = &totals.carbon.unrated;
    (unrated.energy_j.get() > 0.0).then(|| {
        format!(
            "for {} J of its energy the grid's intensity is missing: they make {} to {} g",
            unrated.energy_j.get(),
            unrated.low_g.get(),
            unrated.high_g.get()
        )
    })
}
