//! Energy of what is there for others: routers, vector stores, a control plane, whole nodes of them.

use super::capacity::Capacity;
use super::{IdlePolicy, ModelVersion, NodeSlot, SlotCosts};
use crate::cell::{Account, Purpose};
use crate::share::largest_remainder;
use alloc::collections::BTreeMap;
use alloc::string::String;
use joulebook_units::{Support, Workload};

/// What support services cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct SupportCost {
    /// Energy in µJ.
    pub microjoules: u64,
    /// Embodied carbon of what they hold, in grams.
    pub embodied_g: f64,
}

/// Cost of a node's support services, by the pool that they are there for.
pub type SupportCosts = BTreeMap<String, SupportCost>;

/// Of the grams of what other workloads than services hold of a node, sets aside those of its support, and returns how many
/// they are. What is held is told by its base energy.
#[allow(clippy::cast_precision_loss, reason = "a ratio")]
pub(super) fn set_aside(node: &NodeSlot, kind: Capacity, others_g: f64, support: &mut SupportCosts) -> f64 {
    let mut all: u64 = 0;
    let mut of_pools: BTreeMap<&str, u64> = BTreeMap::new();
    for (key, energy) in &node.cell.entries {
        if key.component != kind.component() || key.purpose != Purpose::Base {
            continue;
        }
        let pool = match &key.account {
            Account::Workload(workload) if workload.engine.is_some() => None,
            Account::Workload(workload) => pool_of(node, workload),
            Account::System => None,
            _ => continue,
        };
        all = all.saturating_add(*energy);
        if let Some(pool) = pool {
            let sum = of_pools.entry(pool).or_default();
            *sum = sum.saturating_add(*energy);
        }
    }
    let mut sum_g = 0.0;
    for (pool, energy) in of_pools {
        let grams = others_g * (energy as f64 / all.max(1) as f64);
        support.entry(pool.into()).or_default().embodied_g += grams;
        sum_g += grams;
    }
    sum_g
}

/// The pool that a node's workload is there for, if its pod's label or the node's configuration declares it as support. The
/// label says it of one pod, so it goes first.
pub fn pool_of<'a>(node: &'a NodeSlot, workload: &'a Workload) -> Option<&'a str> {
    if let Some(pool) = workload.pod.as_ref().and_then(|pod| pod.support_of.as_deref()) {
        return Some(pool);
    }
    let named =
        |one: &&Support| one.workload.as_ref().is_some_and(|name| *name == workload.id || *name == workload.name);
    let one = node.support.iter().find(named).or_else(|| node.support.iter().find(|one| one.workload.is_none()))?;
    Some(one.pool.as_deref().unwrap_or(&node.pool))
}

/// The pool that all of a node is there for, its idle capacity included, if that is declared.
pub fn pool_of_whole(node: &NodeSlot) -> Option<&str> {
    let whole = node.support.iter().find(|one| one.workload.is_none())?;
    Some(whole.pool.as_deref().unwrap_or(&node.pool))
}

/// Charges a node's support to the versions of its pools, by the weights of the idle policy there; what finds nobody stays
/// with the node's other workloads.
#[allow(clippy::cast_precision_loss, reason = "shares of grams are ratios")]
pub fn book(index: usize, nodes: &[NodeSlot], support: SupportCosts, policy: IdlePolicy, costs: &mut SlotCosts) {
    let Some(node) = nodes.get(index) else { return };
    let own = Capacity::of(&node.cell);
    for (pool, SupportCost { microjoules: energy, embodied_g }) in support {
        let inside = |other: usize| {
            nodes.get(other).is_some_and(|other| other.simulated == node.simulated && other.pool == pool)
        };
        let shared = [own, own.other()].into_iter().find_map(|kind| {
            let mut weights: BTreeMap<ModelVersion, u128> = BTreeMap::new();
            for ((other, version), cost) in &costs.versions {
                if inside(*other) {
                    *weights.entry(version.clone()).or_default() += kind.weight(cost, policy);
                }
            }
            let values: alloc::vec::Vec<u128> = weights.values().copied().collect();
            Some((weights, largest_remainder(energy, &values)?))
        });
        match shared {
            Some((weights, parts)) => {
                let sum: u128 = weights.values().sum();
                for ((version, weight), part) in weights.into_iter().zip(parts) {
                    let cost = costs.versions.entry((index, version)).or_default();
                    cost.support = cost.support.saturating_add(part);
                    cost.embodied_support_g += embodied_g * (weight as f64 / sum as f64);
                }
            }
            None => {
                if let Some(grams) = costs.embodied_unallocated_g.get_mut(index) {
                    *grams += embodied_g;
                }
                if let Some(ledger) = costs.ledgers.get_mut(index) {
                    ledger.workloads = ledger.workloads.saturating_add(energy);
                }
            }
        }
    }
}
