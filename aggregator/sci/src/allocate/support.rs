//! Energy of what is there for others: routers, vector stores, a control plane, whole nodes of them.

use super::capacity::Capacity;
use super::{IdlePolicy, ModelVersion, NodeSlot, SlotCosts};
use crate::share::largest_remainder;
use alloc::collections::BTreeMap;
use alloc::string::String;
use joulebook_units::{Support, Workload};

/// Energy in µJ of a node's support services, by the pool that they are there for.
pub type SupportEnergy = BTreeMap<String, u64>;

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
pub fn book(index: usize, nodes: &[NodeSlot], support: SupportEnergy, policy: IdlePolicy, costs: &mut SlotCosts) {
    let Some(node) = nodes.get(index) else { return };
    let own = Capacity::of(&node.cell);
    for (pool, energy) in support {
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
                for (version, part) in weights.into_keys().zip(parts) {
                    let cost = costs.versions.entry((index, version)).or_default();
                    cost.support = cost.support.saturating_add(part);
                }
            }
            None => {
                if let Some(ledger) = costs.ledgers.get_mut(index) {
                    ledger.workloads = ledger.workloads.saturating_add(energy);
                }
            }
        }
    }
}
