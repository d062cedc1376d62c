//! Accelerators in answers: whether what a version used of them is known, and what each of them drew.

use super::amount::Amount;
use super::energy::{key, row};
use super::gather::Member;
use joulebook_proto::query::EnergyRow;
use joulebook_sci::totals::NodeTotals;
use joulebook_sci::{Account, Cell, SourceKey, Totals, VersionTotals};
use joulebook_units::{Component, SourceState};
use std::collections::{BTreeMap, BTreeSet};

/// Why a version has no accelerator energy where none is metered.
const NOT_METERED: &str = "no accelerator is metered on the nodes that served it";
/// Why it has none where nothing told who was on the accelerators.
const USERS_UNKNOWN: &str = "what ran on the accelerators of the nodes that served it is not known";

/// Whether a version's accelerator energy is known; why not.
pub fn known(totals: &Totals, version: &VersionTotals) -> Result<(), &'static str> {
    let served = totals.nodes.iter().filter(|(name, _)| version.served_on.contains(*name)).map(|(_, node)| &node.cell);
    let (mut metered, mut energy, mut nobodys) = (false, 0u64, 0u64);
    for cell in served {
        metered |= cell.sources.keys().any(is_metered);
        energy = energy.saturating_add(booked(cell, |_| true));
        nobodys = nobodys.saturating_add(unattributed(cell));
    }
    match (metered, nobodys > 0 && nobodys == energy) {
        (false, _) => Err(NOT_METERED),
        (true, true) => Err(USERS_UNKNOWN),
        (true, false) => Ok(()),
    }
}

fn is_metered(source: &SourceKey) -> bool {
    source.component == Component::Accelerator && source.is_part()
}

/// Energy of accelerators in µJ while it was not known who was on them.
pub fn unattributed(cell: &Cell) -> u64 {
    booked(cell, |account| *account == Account::Unattributed)
}

fn booked(cell: &Cell, account: impl Fn(&Account) -> bool) -> u64 {
    let mine = cell.entries.iter().filter(|(key, _)| key.component == Component::Accelerator && account(&key.account));
    mine.fold(0, |sum, (_, energy)| sum.saturating_add(*energy))
}

/// Accelerators of a node that no source belongs to, by model.
pub fn without_source(member: &Member) -> impl Iterator<Item = &str> {
    let inventory = &member.record.inventory;
    let belongs = |state: &SourceState, device: &Option<String>| {
        state.source.component == Component::Accelerator && state.source.device == *device
    };
    let bare = move |device: &Option<String>| !inventory.sources.iter().any(|state| belongs(state, device));
    inventory.hardware.accelerators.iter().filter(move |one| bare(&one.device)).map(|one| one.model.as_str())
}

/// One row an accelerator. Sources that another one contains are rows of the sources only.
pub fn rows(nodes: &BTreeMap<String, NodeTotals>, members: &[Member]) -> Vec<EnergyRow> {
    let mut rows = Vec::new();
    for (name, node) in nodes {
        let member = members.iter().find(|member| member.record.inventory.node.as_str() == name);
        for (source, used) in node.cell.sources.iter().filter(|(key, _)| is_metered(key)) {
            let unknown = || (source.id.clone(), "unknown".to_owned());
            let (device, model) = member.map_or_else(unknown, |member| names(member, &source.id));
            let columns = [("node", name.as_str()), ("gpu", &device), ("model", &model)];
            let amount = Amount::of_node(node, used.microjoules);
            rows.push(row(key(&columns), amount, BTreeMap::new(), &BTreeSet::from([source.method])));
        }
    }
    rows
}

/// Identity and model of the accelerator that a source meters, as far as they are known.
pub(super) fn names(member: &Member, source: &str) -> (String, String) {
    let device = device(member, source);
    let model = device.and_then(|device| model(member, device)).unwrap_or("unknown");
    (device.unwrap_or(source).to_owned(), model.to_owned())
}

/// Own memory in bytes of the accelerator that a source meters, if it is known.
pub(super) fn memory(member: &Member, source: &str) -> Option<u64> {
    let device = device(member, source)?;
    let mut accelerators = member.record.inventory.hardware.accelerators.iter();
    accelerators.find(|one| one.device.as_deref() == Some(device))?.memory_bytes
}

/// Identity of the accelerator that a source meters, as the node's inventory has it.
fn device<'a>(member: &'a Member, source: &str) -> Option<&'a str> {
    let state = member.record.inventory.sources.iter().find(|state| state.source.id == source)?;
    state.source.device.as_deref()
}

/// Model of an accelerator.
fn model<'a>(member: &'a Member, device: &str) -> Option<&'a str> {
    let mut accelerators = member.record.inventory.hardware.accelerators.iter();
    accelerators.find(|one| one.device.as_deref() == Some(device)).map(|one| one.model.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulebook_sci::{EntryKey, IdlePolicy, Level, Purpose};
    use joulebook_units::Method;

    /// What is known of the accelerators of the only node that served a version, given its energy by account.
    fn asked(contained: bool, entries: &[(Account, u64)]) -> Result<(), &'static str> {
        let source = SourceKey {
            id: "nvml/GPU-0".to_owned(),
            component: Component::Accelerator,
            method: Method::Counter,
            collector: "nvml".to_owned(),
            uncertainty_permille: 50,
            contained,
            scope: None,
        };
        let mut totals = Totals::new(Level::Facility, IdlePolicy::Unallocated);
        let node = totals.nodes.entry("served".to_owned()).or_default();
        node.cell.sources.entry(source).or_default();
        for (account, energy) in entries {
            let (account, component, purpose) = (account.clone(), Component::Accelerator, Purpose::Dynamic);
            node.cell.add(EntryKey { account, component, purpose }, *energy);
        }
        // A node that was only charged for it does not make its energy known.
        totals.nodes.entry("idle".to_owned()).or_default();
        known(&totals, &VersionTotals { served_on: ["served".to_owned()].into(), ..VersionTotals::default() })
    }

    #[test]
    fn accelerator_energy_is_known_where_it_is_metered_and_somebody_can_be_named() {
        assert_eq!(asked(true, &[]), Err(NOT_METERED), "what another source contains is no meter of its own");
        assert_eq!(asked(false, &[(Account::Unattributed, 7)]), Err(USERS_UNKNOWN));
        assert_eq!(asked(false, &[(Account::Unattributed, 7), (Account::PoolIdle, 1)]), Ok(()));
        assert_eq!(asked(false, &[]), Ok(()), "a device that drew nothing");
    }
}
