//! From cells to costs: levels, platform and idle capacity, by a policy that is chosen when the question is asked.
//!
//! Works on the cells of all nodes in one slot of 300 s. Everything is split exactly: for every node
//! input = Σ model versions + other workloads + system + unallocated idle + unattributed.

mod capacity;
pub(crate) mod support;

use crate::cell::{Account, Cell, EntryKey, Flags, Purpose, ServiceUse};
use crate::share::largest_remainder;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use capacity::Capacity;
use joulebook_units::{Component, Service, ServingConfiguration, Support};
use support::SupportCosts;

/// How pool idle is charged (methodology A.6, I3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum IdlePolicy {
    /// Weight: reserved capacity × time: of accelerators for the idle of nodes that have some, else of cores.
    ReservedCapacityTime,
    /// Weight: active energy (L1).
    ActiveEnergy,
    /// Weight: successful requests.
    Requests,
    /// Weight: CPU time; for the idle of nodes with accelerators the time in which a count moved × the devices held.
    UsageTime,
    /// Weight: resident units × time.
    Equal,
    /// Nothing is charged: it stays in the ledger.
    Unallocated,
}

impl IdlePolicy {
    /// All.
    pub const ALL: [Self; 6] = [
        Self::ReservedCapacityTime,
        Self::ActiveEnergy,
        Self::Requests,
        Self::UsageTime,
        Self::Equal,
        Self::Unallocated,
    ];

    /// Its name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReservedCapacityTime => "reserved_capacity_time",
            Self::ActiveEnergy => "active_energy",
            Self::Requests => "requests",
            Self::UsageTime => "usage_time",
            Self::Equal => "equal",
            Self::Unallocated => "unallocated",
        }
    }
}

/// Where idle capacity found someone to be charged to; a scope without weight passes it on to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum IdleScope {
    /// Versions on the same node.
    Node,
    /// Versions in the same pool.
    Pool,
    /// Versions anywhere.
    Cluster,
}

impl IdleScope {
    /// All, from the inside out.
    pub const ALL: [Self; 3] = [Self::Node, Self::Pool, Self::Cluster];

    /// Its name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Pool => "pool",
            Self::Cluster => "cluster",
        }
    }
}

/// How pool idle is charged, and the first scope in which it looks for someone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleRule {
    /// By what.
    pub policy: IdlePolicy,
    /// Where it begins.
    pub from: IdleScope,
}

impl From<IdlePolicy> for IdleRule {
    /// Beginning at the node.
    fn from(policy: IdlePolicy) -> Self {
        Self { policy, from: IdleScope::Node }
    }
}

/// A model version: the subject of an answer. Weights that change under one name are another version even where the name of
/// the version stays, and each set-up of a version has its own row.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelVersion {
    /// Name as served; absent if nothing names it.
    pub model: Option<String>,
    /// Version; absent if unresolved.
    pub version: Option<String>,
    /// Fingerprint of the weights; absent if none is known.
    pub weights: Option<String>,
    /// The set-up.
    pub configuration: ServingConfiguration,
}

impl ModelVersion {
    /// The version that a service serves.
    pub fn of(service: &Service) -> Self {
        Self {
            model: service.model.clone(),
            version: service.version.clone(),
            weights: service.fingerprint.clone(),
            configuration: service.serving.configuration.clone(),
        }
    }
}

/// A node's part of a slot.
#[derive(Debug, Clone)]
pub struct NodeSlot {
    /// The node.
    pub node: String,
    /// Its serving pool.
    pub pool: String,
    /// Whether its hardware is simulated. Its idle capacity is charged to versions on simulated nodes only, and theirs
    /// only is charged there.
    pub simulated: bool,
    /// What of it is there for a pool and serves no model.
    pub support: Vec<Support>,
    /// Its cell.
    pub cell: Cell,
    /// Embodied carbon that its devices accrue in the slot, in grams.
    pub embodied_g: f64,
}

/// What one model version cost on one node in one slot. Energies in µJ at the IT boundary.
#[derive(Debug, Clone, Default)]
pub struct VersionCost {
    /// Accelerator energy above idle, while executing.
    pub accelerator_dynamic: u64,
    /// Idle power of reserved accelerators, while executing.
    pub accelerator_base: u64,
    /// CPU, memory and other component energy while executing.
    pub host: u64,
    /// Of it the CPU's.
    pub cpu: u64,
    /// Platform's share of the above.
    pub platform: u64,
    /// Idle of the version's own reservation, its platform share included.
    pub dedicated_idle: u64,
    /// Allocated pool idle, its platform share included.
    pub pool_idle: u64,
    /// Share of the support services of the version's pools, its platform share included.
    pub support: u64,
    /// Embodied carbon of the reservation, in grams.
    pub embodied_g: f64,
    /// Embodied carbon of allocated pool idle, in grams.
    pub embodied_idle_g: f64,
    /// Embodied carbon of what the support services of the version's pools hold, in grams.
    pub embodied_support_g: f64,
    /// What the services of the version did.
    pub used: ServiceUse,
    /// Component energy of the version (without platform and pool idle), the base of its joint coverage.
    pub direct: u64,
}

impl VersionCost {
    /// L0 in µJ: accelerators while executing.
    pub fn accelerator(&self) -> u64 {
        self.accelerator_dynamic.saturating_add(self.accelerator_base)
    }

    /// L1 in µJ: with host and platform.
    pub fn active(&self) -> u64 {
        self.accelerator().saturating_add(self.host).saturating_add(self.platform)
    }

    /// L2 in µJ: with dedicated and allocated pool idle and support.
    pub fn with_idle(&self) -> u64 {
        let idle = self.dedicated_idle.saturating_add(self.pool_idle);
        self.active().saturating_add(idle).saturating_add(self.support)
    }

    /// Adds an entry of one of its services.
    fn add_own(&mut self, (key, energy, share): EntryShare<'_>) {
        self.direct = self.direct.saturating_add(energy);
        if key.purpose == Purpose::DedicatedIdle {
            self.dedicated_idle = self.dedicated_idle.saturating_add(energy.saturating_add(share));
            return;
        }
        self.platform = self.platform.saturating_add(share);
        let part = match (key.component, key.purpose) {
            (Component::Accelerator, Purpose::Base) => &mut self.accelerator_base,
            (Component::Accelerator, _) => &mut self.accelerator_dynamic,
            _ => &mut self.host,
        };
        *part = part.saturating_add(energy);
        if key.component == Component::Cpu {
            self.cpu = self.cpu.saturating_add(energy);
        }
    }

    /// Embodied carbon in grams, that of allocated pool idle and of support included.
    pub fn embodied(&self) -> f64 {
        self.embodied_g + self.embodied_idle_g + self.embodied_support_g
    }

    /// What is made of its energy, such as grams; absent where nothing of its energy is known, because no process of its
    /// servers was seen.
    pub fn measured<T>(&self, made: T) -> Option<T> {
        (self.direct > 0).then_some(made)
    }

    /// Part of the version's own energy for which counts are known, 0 … 1; `None` if it used none.
    #[allow(clippy::cast_precision_loss, reason = "a ratio")]
    pub fn joint_share(&self) -> Option<f64> {
        (self.direct > 0).then(|| (self.used.joint_microjoules as f64 / self.direct as f64).min(1.0))
    }
}

/// What is charged to no version, on one node in one slot. Energies in µJ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ledger {
    /// Workloads that serve no known model, their platform share included.
    pub workloads: u64,
    /// Workloads that hold an inference engine's processes, while no counts tell what they serve; their platform share
    /// included.
    pub unattributed_inference: u64,
    /// The kernel, its platform share included.
    pub system: u64,
    /// Pool idle that no version is charged with, its platform share included.
    pub unallocated_idle: u64,
    /// Idle of a node that is out of service, its platform share included: no policy charges it.
    pub out_of_service: u64,
    /// Known energy of nobody, its platform share included.
    pub unattributed: u64,
}

impl Ledger {
    /// Everything in µJ.
    pub fn total(&self) -> u64 {
        let idle = [self.unallocated_idle, self.out_of_service];
        let parts = [self.workloads, self.unattributed_inference, self.system, self.unattributed];
        parts.iter().chain(&idle).fold(0, |a, b| a.saturating_add(*b))
    }
}

/// A slot after allocation.
#[derive(Debug, Clone, Default)]
pub struct SlotCosts {
    /// Costs by node (index into the slot's nodes) and version. A version may be charged on nodes it never ran on.
    pub versions: BTreeMap<(usize, ModelVersion), VersionCost>,
    /// Ledger of each node.
    pub ledgers: Vec<Ledger>,
    /// Embodied grams of each node that no version is charged with: of other workloads' capacity and of idle capacity.
    pub embodied_unallocated_g: Vec<f64>,
    /// Embodied grams of each node's capacity that nothing holds, whoever is charged with them.
    pub embodied_idle_g: Vec<f64>,
    /// Scopes at which idle was allocated.
    pub scopes: BTreeSet<IdleScope>,
}

/// Pool idle of one node.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PoolIdle {
    /// Energy in µJ charged to versions, platform share included.
    pub charged: u64,
    /// Energy in µJ left in the ledger, platform share included.
    pub left: u64,
    /// Embodied grams charged to versions.
    pub charged_g: f64,
    /// Embodied grams left in the ledger, those of other workloads' capacity included.
    pub left_g: f64,
}

impl PoolIdle {
    /// All energy in µJ.
    pub fn energy(&self) -> u64 {
        self.charged.saturating_add(self.left)
    }

    /// All embodied grams.
    pub fn embodied_g(&self) -> f64 {
        self.charged_g + self.left_g
    }
}

impl SlotCosts {
    /// What a node's pool idle came to.
    pub fn pool_idle(&self, node: usize) -> PoolIdle {
        let mut idle = PoolIdle {
            left: self.ledgers.get(node).map_or(0, |ledger| ledger.unallocated_idle),
            left_g: self.embodied_unallocated_g.get(node).copied().unwrap_or(0.0),
            ..PoolIdle::default()
        };
        for (_, cost) in self.versions.iter().filter(|((index, _), _)| *index == node) {
            idle.charged = idle.charged.saturating_add(cost.pool_idle);
            idle.charged_g += cost.embodied_idle_g;
        }
        idle
    }
}

/// Allocates one slot.
pub fn allocate(nodes: &[NodeSlot], rule: impl Into<IdleRule>) -> SlotCosts {
    let rule = rule.into();
    let mut costs = SlotCosts {
        ledgers: vec![Ledger::default(); nodes.len()],
        embodied_unallocated_g: vec![0.0; nodes.len()],
        ..SlotCosts::default()
    };
    let mut direct: Vec<(u64, SupportCosts)> =
        nodes.iter().enumerate().map(|(index, node)| book_direct(index, node, &mut costs)).collect();
    let with_support = nodes.iter().zip(&mut direct).enumerate();
    let idle_g: Vec<f64> =
        with_support.map(|(index, (node, (_, support)))| book_embodied(index, node, support, &mut costs)).collect();
    for (index, ((idle, mut support), idle_g)) in direct.into_iter().zip(&idle_g).enumerate() {
        let whole = nodes.get(index).and_then(support::pool_of_whole);
        if let Some(pool) = whole {
            support.entry(pool.into()).or_default().embodied_g += idle_g;
        }
        book_idle(index, nodes, (idle, if whole.is_some() { 0.0 } else { *idle_g }), rule, &mut costs);
        support::book(index, nodes, support, rule.policy, &mut costs);
    }
    costs.embodied_idle_g = idle_g;
    costs
}

/// An entry's key, its energy and its share of the platform.
pub(crate) type EntryShare<'a> = (&'a EntryKey, u64, u64);

/// The entries of a cell but the platform's, each with its share of the platform, and what of the platform is left: all of it
/// where there is no component.
pub(crate) fn with_platform(cell: &Cell) -> (Vec<EntryShare<'_>>, u64) {
    let components: Vec<_> = cell.entries.iter().filter(|(key, _)| key.account != Account::Platform).collect();
    let platform: u64 = cell.entries.iter().filter(|(key, _)| key.account == Account::Platform).map(|(_, e)| *e).sum();
    let weights: Vec<u128> = components.iter().map(|(_, energy)| u128::from(**energy)).collect();
    let shares = largest_remainder(platform, &weights).unwrap_or_else(|| vec![0; components.len()]);
    let left = platform - shares.iter().sum::<u64>();
    (components.into_iter().zip(shares).map(|((key, energy), share)| (key, *energy, share)).collect(), left)
}

/// Books a node's own entries with their platform shares, and returns its pool idle in µJ and what its support used.
fn book_direct(index: usize, node: &NodeSlot, costs: &mut SlotCosts) -> (u64, SupportCosts) {
    let (entries, left) = with_platform(&node.cell);
    let mut idle: u64 = 0;
    let mut support = SupportCosts::new();
    // Entries of a service stand together: its version is looked for once.
    let of_one = |one: &EntryShare<'_>, next: &EntryShare<'_>| match (&one.0.account, &next.0.account) {
        (Account::Service(one), Account::Service(next)) => one == next,
        _ => false,
    };
    for together in entries.chunk_by(of_one) {
        let Some((EntryKey { account: Account::Service(service), .. }, ..)) = together.first() else { continue };
        let cost = costs.versions.entry((index, ModelVersion::of(service))).or_default();
        together.iter().for_each(|entry| cost.add_own(*entry));
    }
    for (key, energy, share) in entries {
        let whole = energy.saturating_add(share);
        let Some(ledger) = costs.ledgers.get_mut(index) else { continue };
        match &key.account {
            Account::Service(_) => {}
            Account::Workload(workload) if workload.engine.is_some() => {
                ledger.unattributed_inference = ledger.unattributed_inference.saturating_add(whole);
            }
            Account::Workload(workload) => match support::pool_of(node, workload) {
                Some(pool) => support.entry(pool.into()).or_default().microjoules += whole,
                None => ledger.workloads = ledger.workloads.saturating_add(whole),
            },
            Account::System => ledger.system = ledger.system.saturating_add(whole),
            Account::PoolIdle => match support::pool_of_whole(node) {
                Some(pool) => support.entry(pool.into()).or_default().microjoules += whole,
                None => idle = idle.saturating_add(whole),
            },
            Account::Unattributed | Account::Platform => {
                ledger.unattributed = ledger.unattributed.saturating_add(whole)
            }
        }
    }
    // A platform without any component: known energy of nobody.
    if let Some(ledger) = costs.ledgers.get_mut(index) {
        ledger.unattributed = ledger.unattributed.saturating_add(left);
    }
    for (service, used) in node.cell.counted_services() {
        costs.versions.entry((index, ModelVersion::of(service))).or_default().used.merge(used);
    }
    (idle, support)
}

/// Books embodied carbon by reserved capacity, sets that of support aside, and returns the grams of idle capacity. A node
/// whose capacity is not known, or where nothing is reserved, has nothing but idle grams.
#[allow(clippy::cast_precision_loss, reason = "shares of capacity are ratios")]
fn book_embodied(index: usize, node: &NodeSlot, support: &mut SupportCosts, costs: &mut SlotCosts) -> f64 {
    let kind = Capacity::of(&node.cell);
    let reserved: u64 = node.cell.services.values().map(|used| kind.reserved(used)).sum();
    let capacity = kind.whole(&node.cell).max(reserved);
    if capacity == 0 {
        return node.embodied_g;
    }
    for (service, used) in node.cell.counted_services() {
        let share = kind.reserved(used) as f64 / capacity as f64;
        costs.versions.entry((index, ModelVersion::of(service))).or_default().embodied_g += node.embodied_g * share;
    }
    let free_g = node.embodied_g * ((capacity - reserved) as f64 / capacity as f64);
    let others_g = free_g * kind.held_by_others(&node.cell);
    let set_aside_g = support::set_aside(node, kind, others_g, support);
    if let Some(grams) = costs.embodied_unallocated_g.get_mut(index) {
        *grams += others_g - set_aside_g;
    }
    free_g - others_g
}

/// Charges a node's pool idle to the first scope that has a weight; else it stays in the ledger. In each scope those count
/// first who hold capacity of the node's own kind: idle accelerators are kept for who holds accelerators. Where nobody
/// does, those with capacity of the other kind do: a node without accelerators in a pool of others is there for them.
/// What is out of service is kept for nobody.
#[allow(clippy::cast_precision_loss, reason = "shares of grams are ratios")]
fn book_idle(index: usize, nodes: &[NodeSlot], (idle, idle_g): (u64, f64), rule: IdleRule, costs: &mut SlotCosts) {
    let Some(node) = nodes.get(index) else { return };
    if node.cell.flags.contains(Flags::OUT_OF_SERVICE) {
        if let Some(ledger) = costs.ledgers.get_mut(index) {
            ledger.out_of_service = ledger.out_of_service.saturating_add(idle);
        }
        if let Some(grams) = costs.embodied_unallocated_g.get_mut(index) {
            *grams += idle_g;
        }
        return;
    }
    let like = |other: usize| nodes.get(other).filter(|other| other.simulated == node.simulated);
    let own = Capacity::of(&node.cell);
    let scopes = IdleScope::ALL.into_iter().filter(|scope| *scope >= rule.from);
    for (scope, kind) in scopes.flat_map(|scope| [(scope, own), (scope, own.other())]) {
        let inside = |other: usize| match scope {
            IdleScope::Node => other == index,
            IdleScope::Pool => like(other).is_some_and(|other| other.pool == node.pool),
            IdleScope::Cluster => like(other).is_some(),
        };
        let mut weights: BTreeMap<ModelVersion, u128> = BTreeMap::new();
        for ((other, version), cost) in &costs.versions {
            if inside(*other) {
                *weights.entry(version.clone()).or_default() += kind.weight(cost, rule.policy);
            }
        }
        // Whoever has no weight has no part, and no entry on a node that is nothing to it.
        weights.retain(|_, weight| *weight > 0);
        let values: Vec<u128> = weights.values().copied().collect();
        let Some(parts) = largest_remainder(idle, &values) else { continue };
        let sum: u128 = values.iter().sum();
        for ((version, weight), part) in weights.into_iter().zip(parts) {
            let cost = costs.versions.entry((index, version)).or_default();
            cost.pool_idle = cost.pool_idle.saturating_add(part);
            cost.embodied_idle_g += idle_g * (weight as f64 / sum as f64);
        }
        costs.scopes.insert(scope);
        return;
    }
    if let Some(ledger) = costs.ledgers.get_mut(index) {
        ledger.unallocated_idle = ledger.unallocated_idle.saturating_add(idle);
    }
    if let Some(grams) = costs.embodied_unallocated_g.get_mut(index) {
        *grams += idle_g;
    }
}

#[cfg(test)]
mod tests;
