//! Idle capacity over a window (methodology A.6): who holds it, since when, what it costs, and what each policy makes of it.
//!
//! Classes: I1 idle power of what executes, I2 of what is held while nothing runs, I3 of capacity that nothing holds, I4 of a
//! node out of service. I1 and I2 are their holder's, I3 goes by policy, I4 stays in the ledger. Beside each other stand the
//! *marginal* figure of a version, what its work caused, and the *provisioned* one, with all that was kept for it.

use crate::allocate::{IdlePolicy, IdleRule, IdleScope, ModelVersion, NodeSlot, SlotCosts, VersionCost};
use crate::allocate::{allocate, support, with_platform};
use crate::cell::{Account, Cell, Flags, Purpose};
use crate::totals::{Level, SiteFactors, VersionTotals, joint_shares};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use joulebook_units::{Component, UnixNanos, Window};

/// Class of idle capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum IdleClass {
    /// I1: idle power of what executes.
    Base,
    /// I2: of what is held while nothing runs.
    Dedicated,
    /// I3: of capacity that nothing holds.
    Pool,
    /// I4: of a node out of service.
    OutOfService,
}

impl IdleClass {
    /// Its name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "IDLE-I1",
            Self::Dedicated => "IDLE-I2",
            Self::Pool => "IDLE-I3",
            Self::OutOfService => "IDLE-I4",
        }
    }
}

/// Who holds capacity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// A model version.
    Version(ModelVersion),
    /// A workload that serves no known model, by name and identity.
    Workload(String),
    /// The pool that the node supports.
    Support(String),
    /// Nobody.
    Nobody,
}

/// What tells capacity apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdleKey {
    /// Its class.
    pub class: IdleClass,
    /// The node.
    pub node: String,
    /// Who holds it.
    pub holder: Holder,
}

/// Idle capacity of one key.
#[derive(Debug, Clone, Default)]
pub struct Capacity {
    /// The node's pool.
    pub pool: String,
    /// Whether the node is simulated.
    pub simulated: bool,
    /// Of its energy in µJ what versions are charged with.
    pub charged: u64,
    /// What it costs, as dedicated idle of its holder or as pool idle of nobody.
    pub totals: VersionTotals,
    /// The last unbroken time in which it was there.
    stretch: Option<(UnixNanos, UnixNanos)>,
}

impl Capacity {
    /// Energy in µJ at the IT boundary, platform share included.
    pub fn energy(&self) -> u64 {
        self.totals.cost.with_idle()
    }

    /// Start and end of the last unbroken time in which it was there.
    pub fn stretch(&self) -> Option<(UnixNanos, UnixNanos)> {
        self.stretch
    }

    fn was_there(&mut self, slot: Window, known_nanos: u64) {
        let known = i64::try_from(known_nanos.min(slot.nanos())).unwrap_or(0);
        let from = UnixNanos(slot.end().0.saturating_sub(known));
        let since = self.stretch.filter(|(_, until)| *until == slot.start()).map_or(from, |(since, _)| since);
        self.stretch = Some((since, slot.end()));
    }
}

/// The two figures of a version.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// What its work caused: energy above idle, with its platform share.
    pub marginal: VersionTotals,
    /// With all that it holds and is charged with.
    pub provisioned: VersionTotals,
    /// Idle power of what it holds while it executes, in µJ, with its platform share.
    pub base: u64,
}

/// What one policy makes of the window, in µJ.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicySum {
    /// Charged to versions.
    pub versions: u64,
    /// Everything else.
    pub ledger: u64,
    /// Of it pool idle that is charged to nobody.
    pub unallocated: u64,
    /// Of it idle of nodes out of service.
    pub out_of_service: u64,
    /// Pool idle and support by version.
    pub charged: BTreeMap<ModelVersion, u64>,
    /// Scopes at which it was charged.
    pub scopes: BTreeSet<IdleScope>,
}

/// Idle capacity of a window.
#[derive(Debug, Clone)]
pub struct Idle {
    rule: IdleRule,
    /// By key.
    pub capacities: BTreeMap<IdleKey, Capacity>,
    /// By version.
    pub versions: BTreeMap<ModelVersion, Figures>,
    /// By policy; all policies, whichever is asked for.
    pub policies: BTreeMap<IdlePolicy, PolicySum>,
    /// Energy of the nodes in µJ.
    pub total: u64,
    /// Slots added.
    pub slots: u64,
}

impl Idle {
    /// Nothing yet.
    pub fn new(rule: IdleRule) -> Self {
        let policies = IdlePolicy::ALL.into_iter().map(|policy| (policy, PolicySum::default())).collect();
        Self { rule, capacities: BTreeMap::new(), versions: BTreeMap::new(), policies, total: 0, slots: 0 }
    }

    /// Adds a slot. `factors` has one entry a node, in the order of `nodes`; slots come in the order of time.
    pub fn add(&mut self, slot: Window, nodes: &[NodeSlot], factors: &[SiteFactors]) {
        self.slots += 1;
        for (policy, sum) in &mut self.policies {
            let costs = allocate(nodes, IdleRule { policy: *policy, ..self.rule });
            sum.add(&costs);
        }
        let costs = allocate(nodes, self.rule);
        for (index, (node, site)) in nodes.iter().zip(factors).enumerate() {
            self.total = self.total.saturating_add(node.cell.total_microjoules());
            self.add_capacities(slot, (index, node, site), &costs);
        }
        self.add_versions(nodes, factors, &costs);
    }

    /// Adds a slot of which only matters what capacity was there.
    pub fn look(&mut self, slot: Window, nodes: &[NodeSlot], factors: &[SiteFactors]) {
        let costs = allocate(nodes, self.rule);
        for part in nodes.iter().zip(factors).enumerate().map(|(index, (node, site))| (index, node, site)) {
            self.add_capacities(slot, part, &costs);
        }
    }

    fn add_capacities(
        &mut self,
        slot: Window,
        (index, node, site): (usize, &NodeSlot, &SiteFactors),
        costs: &SlotCosts,
    ) {
        let mut found: BTreeMap<(IdleClass, Holder), u64> = BTreeMap::new();
        for (key, energy, share) in with_platform(&node.cell).0 {
            let Some(kind) = class(node, &key.account, key.purpose) else { continue };
            let sum = found.entry(kind).or_default();
            *sum = sum.saturating_add(energy).saturating_add(share);
        }
        let free_g = costs.embodied_idle_g.get(index).copied().unwrap_or(0.0);
        if free_g > 0.0
            && let Some(kind) = class(node, &Account::PoolIdle, Purpose::PoolIdle)
        {
            found.entry(kind).or_default();
        }
        for ((class, holder), energy) in found {
            let free = matches!(class, IdleClass::Pool | IdleClass::OutOfService);
            let grams = if free { free_g } else { 0.0 };
            if energy == 0 && grams <= 0.0 {
                continue;
            }
            let charged = charged(class, &holder, energy, index, costs);
            let known = known_nanos(&node.cell, &holder);
            let key = IdleKey { class, node: node.node.clone(), holder };
            let capacity = self.capacities.entry(key).or_default();
            (capacity.pool, capacity.simulated) = (node.pool.clone(), node.simulated);
            capacity.charged = capacity.charged.saturating_add(charged);
            capacity.was_there(slot, known);
            let cost = match free {
                true => VersionCost { pool_idle: energy, embodied_idle_g: grams, ..VersionCost::default() },
                false => VersionCost { dedicated_idle: energy, ..VersionCost::default() },
            };
            capacity.totals.add(index, node, site, &cost, Level::Facility, 1.0);
        }
    }

    fn add_versions(&mut self, nodes: &[NodeSlot], factors: &[SiteFactors], costs: &SlotCosts) {
        let joint = joint_shares(costs);
        let mut worked: BTreeMap<(usize, ModelVersion), (VersionCost, u64)> = BTreeMap::new();
        for (index, node) in nodes.iter().enumerate() {
            for (key, energy, share) in with_platform(&node.cell).0 {
                let Account::Service(service) = &key.account else { continue };
                let (cost, base) = worked.entry((index, ModelVersion::of(service))).or_default();
                match key.purpose {
                    Purpose::Dynamic => {
                        let part = match key.component {
                            Component::Accelerator => &mut cost.accelerator_dynamic,
                            _ => &mut cost.host,
                        };
                        *part = part.saturating_add(energy);
                        cost.platform = cost.platform.saturating_add(share);
                    }
                    Purpose::Base => *base = base.saturating_add(energy).saturating_add(share),
                    _ => {}
                }
            }
        }
        for ((index, version), cost) in &costs.versions {
            let (Some(node), Some(site)) = (nodes.get(*index), factors.get(*index)) else { continue };
            let share = joint.get(version).copied().unwrap_or(1.0);
            let figures = self.versions.entry(version.clone()).or_default();
            figures.provisioned.add(*index, node, site, cost, Level::Facility, share);
            figures.provisioned.scopes.extend(costs.scopes.iter().copied());
            let (mut cost, base) = worked.remove(&(*index, version.clone())).unwrap_or_default();
            cost.used =
                costs.versions.get(&(*index, version.clone())).map(|cost| cost.used.clone()).unwrap_or_default();
            figures.base = figures.base.saturating_add(base);
            figures.marginal.add(*index, node, site, &cost, Level::Facility, share);
        }
    }
}

impl PolicySum {
    fn add(&mut self, costs: &SlotCosts) {
        for ((_, version), cost) in &costs.versions {
            self.versions = self.versions.saturating_add(cost.with_idle());
            let charged = self.charged.entry(version.clone()).or_default();
            *charged = charged.saturating_add(cost.pool_idle).saturating_add(cost.support);
        }
        for ledger in &costs.ledgers {
            self.ledger = self.ledger.saturating_add(ledger.total());
            self.unallocated = self.unallocated.saturating_add(ledger.unallocated_idle);
            self.out_of_service = self.out_of_service.saturating_add(ledger.out_of_service);
        }
        self.scopes.extend(costs.scopes.iter().copied());
    }

    /// All energy: the same under every policy.
    pub fn total(&self) -> u64 {
        self.versions.saturating_add(self.ledger)
    }
}

/// Class and holder of an entry, if it is idle power.
fn class(node: &NodeSlot, account: &Account, purpose: Purpose) -> Option<(IdleClass, Holder)> {
    let class = match purpose {
        Purpose::Base => IdleClass::Base,
        Purpose::DedicatedIdle => IdleClass::Dedicated,
        Purpose::PoolIdle if node.cell.flags.contains(Flags::OUT_OF_SERVICE) => IdleClass::OutOfService,
        Purpose::PoolIdle => IdleClass::Pool,
        Purpose::Dynamic | Purpose::Residual => return None,
    };
    let holder = match account {
        Account::Service(service) => Holder::Version(ModelVersion::of(service)),
        Account::Workload(workload) => Holder::Workload(format!("{} {}", workload.name, workload.id)),
        Account::PoolIdle => match support::pool_of_whole(node).filter(|_| class == IdleClass::Pool) {
            Some(pool) => Holder::Support(pool.into()),
            None => Holder::Nobody,
        },
        Account::System | Account::Platform | Account::Unattributed => Holder::Nobody,
    };
    Some((class, holder))
}

/// What versions are charged with of an energy.
fn charged(class: IdleClass, holder: &Holder, energy: u64, index: usize, costs: &SlotCosts) -> u64 {
    match (class, holder) {
        (IdleClass::OutOfService, _) | (_, Holder::Workload(_)) => 0,
        (_, Holder::Version(_)) => energy,
        (IdleClass::Pool, Holder::Nobody) => costs.pool_idle(index).charged,
        // All of it went the same way.
        (_, Holder::Support(_)) => {
            let mut here = costs.versions.iter().filter(|((other, _), _)| *other == index);
            if here.any(|(_, cost)| cost.support > 0) { energy } else { 0 }
        }
        _ => 0,
    }
}

/// For how much of a slot, up to its end, its holder was there: a version as long as it is resident, else the node since its
/// first row.
fn known_nanos(cell: &Cell, holder: &Holder) -> u64 {
    let Holder::Version(version) = holder else { return cell.expected_nanos };
    let of_version = cell.services.iter().filter(|(service, _)| ModelVersion::of(service) == *version);
    of_version.map(|(_, used)| used.resident_nanos).max().unwrap_or(cell.expected_nanos)
}

#[cfg(test)]
mod tests;
