//! What Joulebook itself uses: the energy of its agents' and aggregators' processes, as the agents of their nodes measure it.
//!
//! Nobody measures itself better than its node does: an aggregator on a node without an agent is not there, and neither is a
//! program whose energy is not known. The idle of what it reserves is the reservation's, whether something runs in it or not, and
//! stands in the row of its container or unit.

use joulebook_sci::Account;
use joulebook_sci::totals::NodeTotals;
use std::collections::BTreeMap;

/// Energy in µJ by program, of one node.
pub(super) fn of_node(node: &NodeTotals) -> BTreeMap<&'static str, u64> {
    let mut sums = BTreeMap::new();
    for (entry, energy) in &node.cell.entries {
        if let Account::Workload(workload) = &entry.account
            && let Some(program) = workload.own_program()
        {
            let sum: &mut u64 = sums.entry(program.part()).or_default();
            *sum = sum.saturating_add(*energy);
        }
    }
    sums
}

/// The same of several nodes.
pub(super) fn of<'a>(nodes: impl IntoIterator<Item = &'a NodeTotals>) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (part, energy) in nodes.into_iter().flat_map(of_node) {
        let sum: &mut u64 = sums.entry(part.to_owned()).or_default();
        *sum = sum.saturating_add(energy);
    }
    sums
}
