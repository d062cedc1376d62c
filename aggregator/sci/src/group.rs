//! Service groups: servers, on whatever nodes, that work on the same requests (inference.md 5).
//!
//! Requests of a group are counted once, at its router, else where it generates, else wherever it counts; energy comes from
//! all of them. What the others did, and workloads that work for the group and count nothing, is booked on the services
//! that count: on the node where it was used, so that every node's balance stays as it is.

use crate::allocate::NodeSlot;
use crate::attribution::{Activity, Measures, OutputWeight, weights_among};
use crate::cell::{Account, Cell, EntryKey, Purpose, ServiceUse};
use crate::share::{largest_remainder, portion};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use joulebook_units::{Service, ServiceRole, Workload};

/// A group's name, and whether its hardware is simulated: the two never mix.
type GroupKey = (String, bool);

/// A service that counts for its group, over all nodes of the slot.
struct Counter {
    service: Arc<Service>,
    used: ServiceUse,
    /// Energy booked on it before, in µJ.
    direct: u64,
}

impl Counter {
    /// Part of an energy that fell into time in which its counts stood still.
    fn idle(&self, energy: u64) -> u64 {
        match self.used.counted_nanos {
            0 => 0,
            counted => portion(energy, counted.saturating_sub(self.used.executing_nanos), counted),
        }
    }

    /// Part of an energy that fell into time in which its counts are known.
    fn joint(&self, energy: u64) -> u64 {
        if self.direct > 0 { portion(energy, self.used.joint_microjoules, self.direct) } else { energy }
    }
}

/// Books what members of a group did on the services that count for it.
pub fn regroup(nodes: &mut [NodeSlot], output: OutputWeight) {
    let counters = counters(nodes);
    for node in nodes.iter_mut() {
        let simulated = node.simulated;
        let counted = |group: Option<&String>| counters.get(&(group?.clone(), simulated));
        let of_service = |service: &Service| {
            let mine = counted(service.serving.group.as_ref())?;
            (!mine.iter().any(|counter| *counter.service == *service)).then(|| same_model(mine, service))
        };
        let of_workload = |workload: &Workload| counted(workload.group.as_ref()).map(|mine| mine.iter().collect());
        rebook(&mut node.cell, &of_service, &of_workload, output);
    }
}

/// The services that count, by group.
fn counters(nodes: &[NodeSlot]) -> BTreeMap<GroupKey, Vec<Counter>> {
    let mut all: BTreeMap<GroupKey, BTreeMap<Arc<Service>, (ServiceUse, u64)>> = BTreeMap::new();
    for node in nodes {
        for (service, used) in node.cell.counted_services() {
            let Some(group) = service.serving.group.clone() else { continue };
            let mine = all.entry((group, node.simulated)).or_default().entry(Arc::clone(service)).or_default();
            mine.0.merge(used);
        }
        for (entry, energy) in &node.cell.entries {
            let Account::Service(service) = &entry.account else { continue };
            let Some(group) = service.serving.group.clone() else { continue };
            let mine = all.get_mut(&(group, node.simulated)).and_then(|services| services.get_mut(service));
            if let Some((_, direct)) = mine {
                *direct = direct.saturating_add(*energy);
            }
        }
    }
    let chosen = all.into_iter().map(|(group, services)| {
        let role = |wanted: Option<ServiceRole>| services.keys().any(|service| service.serving.role == wanted);
        let order = [Some(ServiceRole::Router), Some(ServiceRole::Decode), None, Some(ServiceRole::Prefill)];
        let counts_at = order.into_iter().find(|wanted| role(*wanted)).flatten();
        let mine = services.into_iter().filter(|(service, _)| service.serving.role == counts_at);
        (group, mine.map(|(service, (used, direct))| Counter { service, used, direct }).collect())
    });
    chosen.collect()
}

/// Those that serve the same model, or all where none does.
fn same_model<'a>(counters: &'a [Counter], service: &Service) -> Vec<&'a Counter> {
    let same: Vec<&Counter> = counters.iter().filter(|counter| counter.service.model == service.model).collect();
    if same.is_empty() { counters.iter().collect() } else { same }
}

fn rebook<'a>(
    cell: &mut Cell,
    of_service: &dyn Fn(&Service) -> Option<Vec<&'a Counter>>,
    of_workload: &dyn Fn(&Workload) -> Option<Vec<&'a Counter>>,
    output: OutputWeight,
) {
    let entries = core::mem::take(&mut cell.entries);
    for (key, energy) in entries {
        let (counters, is_workload) = match &key.account {
            Account::Service(service) => (of_service(service), false),
            Account::Workload(workload) => (of_workload(workload), true),
            _ => (None, false),
        };
        let Some(counters) = counters else {
            cell.add(key, energy);
            continue;
        };
        for (counter, part) in counters.iter().zip(parts(energy, &counters, output)) {
            let idle = if is_workload { counter.idle(part) } else { 0 };
            let mut add = |purpose, energy| {
                let account = Account::Service(Arc::clone(&counter.service));
                cell.add(EntryKey { account, component: key.component, purpose }, energy);
            };
            add(key.purpose, part - idle);
            add(Purpose::DedicatedIdle, idle);
            if is_workload {
                let mine = cell.services.entry(Arc::clone(&counter.service)).or_default();
                mine.joint_microjoules = mine.joint_microjoules.saturating_add(counter.joint(part));
            }
        }
    }
    rebook_services(cell, of_service, output);
    rebook_workloads(cell, of_workload, output);
}

/// CPU time and capacity of services that count nothing for their group. Their counts are those of the same requests, and
/// residence is a service's own, so that it stays comparable with the time in which its counts are known.
fn rebook_services<'a>(
    cell: &mut Cell,
    of_service: &dyn Fn(&Service) -> Option<Vec<&'a Counter>>,
    output: OutputWeight,
) {
    for (service, used) in core::mem::take(&mut cell.services) {
        let Some(counters) = of_service(&service) else {
            cell.services.entry(service).or_default().merge(&used);
            continue;
        };
        let split = |amount: u64| parts(amount, &counters, output);
        let (cores, devices) = (split(used.reserved_core_nanos), split(used.reserved_device_nanos));
        let (cpu, joint) = (split(used.cpu_nanos), split(used.joint_microjoules));
        let at = |parts: &[u64], place: usize| parts.get(place).copied().unwrap_or(0);
        for (place, counter) in counters.iter().enumerate() {
            let part = ServiceUse {
                reserved_core_nanos: at(&cores, place),
                reserved_device_nanos: at(&devices, place),
                cpu_nanos: at(&cpu, place),
                joint_microjoules: at(&joint, place),
                measures: Measures::GROUP,
                ..ServiceUse::default()
            };
            cell.services.entry(Arc::clone(&counter.service)).or_default().merge(&part);
        }
    }
}

fn rebook_workloads<'a>(
    cell: &mut Cell,
    of_workload: &dyn Fn(&Workload) -> Option<Vec<&'a Counter>>,
    output: OutputWeight,
) {
    for (workload, used) in core::mem::take(&mut cell.workloads) {
        let Some(counters) = of_workload(&workload) else {
            cell.workloads.insert(workload, used);
            continue;
        };
        for (counter, cpu_nanos) in counters.iter().zip(parts(used.cpu_nanos, &counters, output)) {
            let part = ServiceUse { cpu_nanos, measures: Measures::GROUP, ..ServiceUse::default() };
            cell.services.entry(Arc::clone(&counter.service)).or_default().merge(&part);
        }
    }
}

/// Parts of an amount, by what the services did over all nodes.
fn parts(amount: u64, counters: &[&Counter], output: OutputWeight) -> Vec<u64> {
    let activity = |counter: &&Counter| Activity {
        weights: counter.used.counts.iter().map(|(kind, count)| (*kind, u128::from(*count))).collect(),
    };
    let (weights, _) = weights_among(&counters.iter().map(activity).collect::<Vec<_>>(), output);
    largest_remainder(amount, &weights).unwrap_or_default()
}

#[cfg(test)]
mod tests;
