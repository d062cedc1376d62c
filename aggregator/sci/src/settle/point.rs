//! One counting point (inference.md 0.10): a request that a server's page counts and that the server tells itself as well is
//! one request. The engine's page stands, then that of a server which has the engine inside it, then what is pushed, then what
//! is exported; what the better place does not count is taken from the other one. Slot by slot: where a page was not read,
//! what was told counts.

use crate::spread::Spread;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::discriminant;
use joulebook_units::{CountKind, Service};

/// Ways by which a server tells of itself, best first. All other engines are read from a page.
const TOLD: [&str; 2] = ["push", "otlp"];

/// Counts of services.
pub(super) type Counts = BTreeMap<Arc<Service>, BTreeMap<CountKind, Spread>>;

/// Place of a service's way of counting in the order of precedence.
fn rank(service: &Service) -> usize {
    let told = TOLD.iter().position(|way| *way == service.engine);
    told.map_or(usize::from(service.serving.wraps), |place| place + 2)
}

/// The services of one process, counted in a better way, that count what `told` tells: those of the same model, else its only
/// model, whatever it is called there. A server that shows several others does not show this one.
pub fn counting_for<'a>(told: &Service, of_process: impl Iterator<Item = &'a Service>) -> Vec<&'a Service> {
    let better: Vec<&Service> = of_process.filter(|service| rank(service) < rank(told)).collect();
    let named: Vec<&Service> = better.iter().copied().filter(|service| is_same(service, told)).collect();
    if !named.is_empty() {
        let exact: Vec<&Service> = named.iter().copied().filter(|service| service.version == told.version).collect();
        return if exact.is_empty() { named } else { exact };
    }
    let models: BTreeSet<&Option<String>> = better.iter().map(|service| &service.model).collect();
    if models.len() == 1 { better } else { Vec::new() }
}

/// Whether two places mean the same model: one may name it with what stands before it in its repository.
fn is_same(service: &Service, told: &Service) -> bool {
    let last = |model: &Option<String>| model.as_deref().and_then(|name| name.rsplit('/').next().map(String::from));
    service.model == told.model || (told.model.is_some() && last(&service.model) == last(&told.model))
}

/// Leaves out what is counted twice, and gives the services of which something may be.
pub(super) fn count_once(counts: &mut Counts, parts: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<Arc<Service>> {
    let whole = |service: &Service| {
        let workload = service.workload.as_ref()?;
        Some(parts.get(workload).and_then(BTreeSet::first).unwrap_or(workload).clone())
    };
    let mut told: Vec<Arc<Service>> = counts.keys().filter(|service| rank(service) > 0).cloned().collect();
    // The last in the order first: what it is completed by may itself be left out after it.
    told.sort_by_key(|service| core::cmp::Reverse(rank(service)));
    let mut doubled = BTreeSet::new();
    for service in told {
        let Some(process) = whole(&service) else { continue };
        let of_process = counts.keys().filter(|other| whole(other).as_ref() == Some(&process));
        let of_process: Vec<Arc<Service>> = of_process.cloned().collect();
        let counting = counting_for(&service, of_process.iter().map(Arc::as_ref));
        let is_counting = |other: &&Arc<Service>| counting.iter().any(|one| core::ptr::eq(*one, &***other));
        let better: Vec<Arc<Service>> = of_process.iter().filter(is_counting).cloned().collect();
        if better.is_empty() {
            continue;
        }
        let Some(mut own) = counts.remove(&service) else { continue };
        yield_to(counts, &better, &mut own);
        counts.insert(Arc::clone(&service), own);
        doubled.insert(service);
    }
    doubled
}

/// Empties the slots that better places count; the kinds that they do not know go to the only one of them.
fn yield_to(counts: &mut Counts, better: &[Arc<Service>], own: &mut BTreeMap<CountKind, Spread>) {
    let slots = own.values().map(|spread| spread.covered.len()).max().unwrap_or(0);
    for slot in 0..slots {
        let knows = |kind: Option<CountKind>| {
            let of_service = |service: &Arc<Service>| {
                let mut known = counts.get(service).into_iter().flatten();
                // Of a distribution all buckets come from one place: those of two do not add up.
                let is_meant =
                    |other: &CountKind| kind.map_or(other.is_work(), |kind| discriminant(other) == discriminant(&kind));
                known.any(|(other, spread)| is_meant(other) && spread.is_known(slot))
            };
            better.iter().any(of_service)
        };
        if !knows(None) {
            continue;
        }
        let unknown: BTreeSet<CountKind> = own.keys().copied().filter(|kind| !knows(Some(*kind))).collect();
        for (kind, spread) in own.iter_mut() {
            let completed = match better {
                [only] if unknown.contains(kind) => counts.get_mut(only),
                _ => None,
            };
            match completed {
                Some(counts) => spread.give(slot, counts.entry(*kind).or_insert_with(|| Spread::weighted(slots))),
                None => spread.forget(slot),
            }
        }
    }
}

#[cfg(test)]
mod tests;
