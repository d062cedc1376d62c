//! Totals of a window: allocated slots × factors, added up per model version and per node.

mod meter;

pub(crate) use meter::MeterErrors;

use crate::allocate::{IdleRule, IdleScope, Ledger, ModelVersion, NodeSlot, SlotCosts, VersionCost, allocate};
use crate::cell::{Cell, Flags};
use crate::operational::{CompensatedSum, facility, operational};
use crate::phase::Phases;
use crate::uncertainty::{Deviations, LIFESPAN};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use joulebook_units::{GramsCo2ePerKwh, Joules, Microjoules, Pue, Service};

/// Boundary level (methodology A.2); each contains the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// L0.
    Accelerator,
    /// L1.
    Host,
    /// L2.
    Idle,
    /// L3, and with embodied carbon the SCI boundary.
    Facility,
}

impl Level {
    /// All, from the inside out.
    pub const ALL: [Self; 4] = [Self::Accelerator, Self::Host, Self::Idle, Self::Facility];

    /// Its name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accelerator => "accelerator",
            Self::Host => "host",
            Self::Idle => "idle",
            Self::Facility => "facility",
        }
    }

    /// Energy of a cost at this level and the IT boundary, in µJ (facility: before PUE).
    pub fn energy(self, cost: &VersionCost) -> u64 {
        match self {
            Self::Accelerator => cost.accelerator(),
            Self::Host => cost.active(),
            Self::Idle | Self::Facility => cost.with_idle(),
        }
    }
}

/// A grid carbon intensity, or how far it may reach where none is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// It is known.
    Known(GramsCo2ePerKwh),
    /// It is missing: the least and the greatest that it may be. Its energy is in no sum of grams.
    Between(GramsCo2ePerKwh, GramsCo2ePerKwh),
}

/// Factors that hold at a node's site during a whole slot.
#[derive(Debug, Clone)]
pub struct SiteFactors {
    /// Grid carbon intensity.
    pub intensity: Rate,
    /// Which of the question's origins of intensities it is.
    pub intensity_origin: usize,
    /// Its 95 % half-width as a share of the value.
    pub intensity_half_width: f64,
    /// Its source of error.
    pub intensity_source: String,
    /// PUE.
    pub pue: Pue,
    /// Its half-width.
    pub pue_half_width: f64,
    /// Its source of error.
    pub pue_source: String,
    /// Half-width of the embodied totals.
    pub embodied_half_width: f64,
    /// Their source of error.
    pub embodied_source: String,
}

/// Grams of one model version at the asked level.
#[derive(Debug, Clone, Default)]
pub struct Carbon {
    /// Operational.
    pub operational: CompensatedSum,
    /// Embodied, idle included; only at facility level.
    pub embodied: CompensatedSum,
    /// Of both, the part over the time in which counts are known.
    pub joint: CompensatedSum,
    /// Grams of the most energy that declared gaps can hold: they widen the interval upwards.
    pub gap_high: CompensatedSum,
    /// Deviations by source of error, of the joint part.
    pub deviations: Deviations,
    /// Where the deviations of each node's meters stand.
    pub(crate) meters: MeterErrors,
    /// Energy in joules at the asked level by the origin of its intensity.
    pub rated: BTreeMap<usize, CompensatedSum>,
    /// Energy without an intensity.
    pub unrated: Unrated,
}

/// Energy at a time for which no intensity is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unrated {
    /// Energy in joules at the asked level.
    pub energy_j: CompensatedSum,
    /// Least grams that it may be.
    pub low_g: CompensatedSum,
    /// Most grams that it may be.
    pub high_g: CompensatedSum,
}

/// One model version over the window.
#[derive(Debug, Clone, Default)]
pub struct VersionTotals {
    /// Energies and use, added up.
    pub cost: VersionCost,
    /// Of them, those of nodes whose hardware is simulated.
    pub simulated: VersionCost,
    /// Facility energy in joules.
    pub facility_j: CompensatedSum,
    /// Grams.
    pub carbon: Carbon,
    /// Services that make up the version.
    pub services: BTreeSet<Arc<Service>>,
    /// Nodes that were charged for it.
    pub nodes: BTreeSet<String>,
    /// Nodes that ran it.
    pub served_on: BTreeSet<String>,
    /// Flags of their cells.
    pub flags: Flags,
    /// Scopes at which idle was allocated in its slots.
    pub scopes: BTreeSet<IdleScope>,
    /// What reading prompts and generating took.
    pub phases: Phases,
}

/// One node over the window.
#[derive(Debug, Clone, Default)]
pub struct NodeTotals {
    /// Whether its hardware is simulated.
    pub simulated: bool,
    /// Its cells, added up.
    pub cell: Cell,
    /// Its ledger.
    pub ledger: Ledger,
    /// Charged to versions in µJ.
    pub allocated: u64,
    /// Embodied grams of idle capacity charged to no version.
    pub embodied_unallocated_g: CompensatedSum,
}

impl NodeTotals {
    /// Input in µJ: metered, or estimated from the components.
    pub fn input(&self) -> u64 {
        self.cell.total_microjoules().saturating_sub(self.cell.overcount_microjoules)
    }

    /// input + overcount − charged − ledger in µJ: 0, or the book is wrong.
    pub fn residual(&self) -> i128 {
        i128::from(self.input()) + i128::from(self.cell.overcount_microjoules)
            - i128::from(self.allocated)
            - i128::from(self.ledger.total())
    }
}

/// One slot's contribution to one version: a term of its sum.
#[derive(Debug, Clone)]
pub struct SlotTerm {
    /// Index of the node in the slot.
    pub node: usize,
    /// Energy at the asked level and the IT boundary.
    pub energy: Microjoules,
    /// Operational grams.
    pub operational_g: f64,
    /// Embodied grams.
    pub embodied_g: f64,
    /// Part of them over time in which counts are known.
    pub joint_share: f64,
    /// Of the energy, idle of the version's own reservation; 0 below the level that has it.
    pub dedicated_idle: Microjoules,
    /// Of the energy, pool idle that the version is charged with; 0 below the level that has it.
    pub pool_idle: Microjoules,
}

/// Totals of a window at one level under one policy.
#[derive(Debug, Clone)]
pub struct Totals {
    level: Level,
    rule: IdleRule,
    /// By version.
    pub versions: BTreeMap<ModelVersion, VersionTotals>,
    /// By node.
    pub nodes: BTreeMap<String, NodeTotals>,
    /// Slots added.
    pub slots: u64,
}

impl Totals {
    /// Nothing yet.
    pub fn new(level: Level, rule: impl Into<IdleRule>) -> Self {
        Self { level, rule: rule.into(), versions: BTreeMap::new(), nodes: BTreeMap::new(), slots: 0 }
    }

    /// Adds a slot. `factors` has one entry a node, in the order of `nodes`. Returns each version's terms.
    pub fn add(&mut self, nodes: &[NodeSlot], factors: &[SiteFactors]) -> BTreeMap<ModelVersion, Vec<SlotTerm>> {
        let costs = allocate(nodes, self.rule);
        self.slots += 1;
        self.add_nodes(nodes, &costs);
        let joint = joint_shares(&costs);
        let mut terms: BTreeMap<ModelVersion, Vec<SlotTerm>> = BTreeMap::new();
        for ((index, version), cost) in &costs.versions {
            let (Some(node), Some(site)) = (nodes.get(*index), factors.get(*index)) else { continue };
            let share = joint.get(version).copied().unwrap_or(1.0);
            let level = self.level;
            let Some(totals) = self.version(version) else { continue };
            let term = totals.add(*index, node, site, cost, level, share);
            match terms.get_mut(version) {
                Some(known) => known.push(term),
                None => drop(terms.insert(version.clone(), alloc::vec![term])),
            }
            totals.scopes.extend(costs.scopes.iter().copied());
        }
        terms
    }

    /// Adds a slot without any factor: energies, use and coverage as [`Totals::add`] has them, and no grams.
    pub fn add_energy(&mut self, nodes: &[NodeSlot]) {
        let costs = allocate(nodes, self.rule);
        self.slots += 1;
        self.add_nodes(nodes, &costs);
        for ((index, version), cost) in &costs.versions {
            let Some(node) = nodes.get(*index) else { continue };
            let Some(totals) = self.version(version) else { continue };
            totals.count(node, cost);
            totals.scopes.extend(costs.scopes.iter().copied());
        }
    }

    /// The totals of a version, whose name is copied only where it is new.
    fn version(&mut self, version: &ModelVersion) -> Option<&mut VersionTotals> {
        if !self.versions.contains_key(version) {
            self.versions.insert(version.clone(), VersionTotals::default());
        }
        self.versions.get_mut(version)
    }

    fn add_nodes(&mut self, nodes: &[NodeSlot], costs: &SlotCosts) {
        for (index, node) in nodes.iter().enumerate() {
            let totals = self.nodes.entry(node.node.clone()).or_default();
            totals.simulated = node.simulated;
            totals.cell.merge(&node.cell);
            totals.embodied_unallocated_g.add(costs.embodied_unallocated_g.get(index).copied().unwrap_or(0.0));
            if let Some(ledger) = costs.ledgers.get(index) {
                totals.ledger.workloads = totals.ledger.workloads.saturating_add(ledger.workloads);
                totals.ledger.unattributed_inference =
                    totals.ledger.unattributed_inference.saturating_add(ledger.unattributed_inference);
                totals.ledger.system = totals.ledger.system.saturating_add(ledger.system);
                totals.ledger.unallocated_idle = totals.ledger.unallocated_idle.saturating_add(ledger.unallocated_idle);
                totals.ledger.out_of_service = totals.ledger.out_of_service.saturating_add(ledger.out_of_service);
                totals.ledger.unattributed = totals.ledger.unattributed.saturating_add(ledger.unattributed);
            }
            let charged = costs.versions.iter().filter(|((other, _), _)| *other == index);
            for (service, _) in node.cell.counted_services() {
                let version = self.versions.entry(ModelVersion::of(service)).or_default();
                version.services.insert(Arc::clone(service));
                insert(&mut version.served_on, &node.node);
            }
            let totals = self.nodes.entry(node.node.clone()).or_default();
            totals.allocated = charged.fold(totals.allocated, |sum, (_, cost)| sum.saturating_add(cost.with_idle()));
        }
    }
}

/// Inserts a name, which is copied only where it is new.
fn insert(names: &mut BTreeSet<String>, name: &String) {
    if !names.contains(name) {
        names.insert(name.clone());
    }
}

impl VersionTotals {
    /// Adds the energies and the use of a part of a slot.
    fn count(&mut self, node: &NodeSlot, cost: &VersionCost) {
        self.cost.merge(cost);
        self.phases.add(cost);
        if node.simulated {
            self.simulated.merge(cost);
        }
        insert(&mut self.nodes, &node.node);
        self.flags.insert(node.cell.flags);
    }

    /// Adds a part of a slot.
    pub(crate) fn add(
        &mut self,
        index: usize,
        node: &NodeSlot,
        site: &SiteFactors,
        cost: &VersionCost,
        level: Level,
        joint: f64,
    ) -> SlotTerm {
        self.count(node, cost);
        let energy = Microjoules(level.energy(cost));
        let whole = facility(Microjoules(cost.with_idle()).to_joules(), site.pue);
        self.facility_j.add(whole.0);
        let charged = if level == Level::Facility { whole } else { energy.to_joules() };
        let grams = self.carbon.rate(charged, site);
        let embodied = if level == Level::Facility { cost.embodied() } else { 0.0 };
        self.carbon.operational.add(grams);
        self.carbon.embodied.add(embodied);
        self.carbon.joint.add((grams + embodied) * joint);
        self.carbon.deviate(node, site, level, grams * joint, embodied * joint);
        self.carbon.widen(&node.cell, cost, site, level);
        let idle = |part: u64| Microjoules(if level >= Level::Idle { part } else { 0 });
        SlotTerm {
            node: index,
            energy,
            operational_g: grams,
            embodied_g: embodied,
            joint_share: joint,
            dedicated_idle: idle(cost.dedicated_idle),
            pool_idle: idle(cost.pool_idle),
        }
    }
}

impl VersionCost {
    /// Adds every quantity of `other`.
    pub fn merge(&mut self, other: &Self) {
        let pairs = [
            (&mut self.accelerator_dynamic, other.accelerator_dynamic),
            (&mut self.accelerator_base, other.accelerator_base),
            (&mut self.host, other.host),
            (&mut self.cpu, other.cpu),
            (&mut self.platform, other.platform),
            (&mut self.dedicated_idle, other.dedicated_idle),
            (&mut self.pool_idle, other.pool_idle),
            (&mut self.support, other.support),
            (&mut self.direct, other.direct),
        ];
        for (mine, other) in pairs {
            *mine = mine.saturating_add(other);
        }
        self.embodied_g += other.embodied_g;
        self.embodied_idle_g += other.embodied_idle_g;
        self.embodied_support_g += other.embodied_support_g;
        self.used.merge(&other.used);
    }
}

impl Carbon {
    /// Grams of energy; where no intensity is known it is set aside and weighs nothing in the sums.
    fn rate(&mut self, energy: Joules, site: &SiteFactors) -> f64 {
        match site.intensity {
            Rate::Known(intensity) => {
                self.rated.entry(site.intensity_origin).or_default().add(energy.0);
                operational(energy, intensity).0
            }
            Rate::Between(least, most) => {
                self.unrated.energy_j.add(energy.0);
                self.unrated.low_g.add(operational(energy, least).0);
                self.unrated.high_g.add(operational(energy, most).0);
                0.0
            }
        }
    }

    /// Books the deviations of one term.
    fn deviate(&mut self, node: &NodeSlot, site: &SiteFactors, level: Level, operational: f64, embodied: f64) {
        let Self { deviations, meters, .. } = self;
        meters.deviate(deviations, node, level, operational);
        if level == Level::Facility {
            self.deviations.add(&site.pue_source, operational, site.pue_half_width);
            self.deviations.add(&site.embodied_source, embodied, site.embodied_half_width);
            self.deviations.add("lifespan", embodied, LIFESPAN);
        }
        self.deviations.add(&site.intensity_source, operational, site.intensity_half_width);
    }

    /// Widens the interval by the node's declared gaps, in proportion to the version's part of the node.
    fn widen(&mut self, cell: &Cell, cost: &VersionCost, site: &SiteFactors, level: Level) {
        let gap = gap_energy(cell, level.energy(cost));
        if gap <= 0.0 {
            return;
        }
        let pue = if level == Level::Facility { site.pue.get() } else { 1.0 };
        let (Rate::Known(intensity) | Rate::Between(_, intensity)) = site.intensity;
        // None of the unknown energy is in the figure, so that only the upper end moves.
        self.gap_high.add(operational(Joules(gap), intensity).0 * pue);
    }
}

/// Most energy in joules that the node's declared gaps hold, in proportion to `energy` µJ of the node's.
#[allow(clippy::cast_precision_loss, reason = "a ratio")]
pub(crate) fn gap_energy(cell: &Cell, energy: u64) -> f64 {
    let total = cell.total_microjoules();
    let parts = cell.sources.iter().filter(|(key, _)| key.is_part());
    let high: u64 = parts.map(|(_, source)| source.gap_high_microjoules).sum();
    if total == 0 || high == 0 {
        return 0.0;
    }
    Microjoules(high).to_joules().0 * (energy as f64 / total as f64)
}

/// Part of each version's own energy in a slot for which its counts are known. A version that used none has no entry.
#[allow(clippy::cast_precision_loss, reason = "a ratio")]
pub(crate) fn joint_shares(costs: &SlotCosts) -> BTreeMap<ModelVersion, f64> {
    let mut sums: BTreeMap<&ModelVersion, (u64, u64)> = BTreeMap::new();
    for ((_, version), cost) in &costs.versions {
        let sum = sums.entry(version).or_default();
        *sum = (sum.0.saturating_add(cost.used.joint_microjoules), sum.1.saturating_add(cost.direct));
    }
    let known = sums.into_iter().filter(|(_, (_, direct))| *direct > 0);
    known.map(|(version, (joint, direct))| (version.clone(), (joint as f64 / direct as f64).min(1.0))).collect()
}

impl VersionTotals {
    /// IT energy at L2 in joules.
    pub fn it_j(&self) -> Joules {
        Microjoules(self.cost.with_idle()).to_joules()
    }
}

#[cfg(test)]
mod tests;
