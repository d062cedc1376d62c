//! A cell while it is made: slot after slot nearly the same accounts are charged in the same order, so each is looked for after
//! the one before it, and told from others by where it lies in memory.

use crate::cell::{Account, Cell, EntryKey, Purpose, ServiceUse, WorkloadUse};
use alloc::sync::Arc;
use alloc::vec::Vec;
use joulebook_units::{Component, Service, Workload};

/// An account that is charged.
#[derive(Clone, Copy)]
pub(super) enum Who<'a> {
    Service(&'a Arc<Service>),
    Workload(&'a Arc<Workload>),
    System,
    PoolIdle,
    Platform,
    Unattributed,
}

/// What is known so far.
#[derive(Default)]
pub(super) struct Draft<'a> {
    /// What is not looked for again and again.
    pub(super) cell: Cell,
    entries: Met<(Who<'a>, Component, Purpose), u64>,
    services: Met<&'a Arc<Service>, ServiceUse>,
    workloads: Met<&'a Arc<Workload>, WorkloadUse>,
}

impl<'a> Draft<'a> {
    /// Adds energy to an entry. Entries of no energy are not kept.
    pub(super) fn add(&mut self, who: Who<'a>, component: Component, purpose: Purpose, microjoules: u64) {
        if microjoules > 0 {
            let entry = self.entries.find((who, component, purpose));
            *entry = entry.saturating_add(microjoules);
        }
    }

    /// What is known of a service.
    pub(super) fn service(&mut self, service: &'a Arc<Service>) -> &mut ServiceUse {
        self.services.find(service)
    }

    /// What is known of a workload that runs no service.
    pub(super) fn workload(&mut self, workload: &'a Arc<Workload>) -> &mut WorkloadUse {
        self.workloads.find(workload)
    }

    /// The cell.
    pub(super) fn into_cell(self) -> Cell {
        let mut cell = self.cell;
        for ((who, component, purpose), microjoules) in self.entries.all {
            cell.add(EntryKey { account: who.account(), component, purpose }, microjoules);
        }
        for (service, used) in self.services.all {
            cell.services.entry(Arc::clone(service)).or_default().merge(&used);
        }
        for (workload, used) in self.workloads.all {
            cell.workloads.entry(Arc::clone(workload)).or_default().merge(&used);
        }
        cell
    }
}

impl Who<'_> {
    fn account(self) -> Account {
        match self {
            Self::Service(service) => Account::Service(Arc::clone(service)),
            Self::Workload(workload) => Account::Workload(Arc::clone(workload)),
            Self::System => Account::System,
            Self::PoolIdle => Account::PoolIdle,
            Self::Platform => Account::Platform,
            Self::Unattributed => Account::Unattributed,
        }
    }
}

/// Whether two are one and the same. Of two that are only equal each has a place of its own, until the cell is made.
trait Same {
    fn is_same(&self, other: &Self) -> bool;
}

impl<T> Same for &Arc<T> {
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(self, other)
    }
}

impl Same for (Who<'_>, Component, Purpose) {
    fn is_same(&self, other: &Self) -> bool {
        let who = match (&self.0, &other.0) {
            (Who::Service(one), Who::Service(other)) => one.is_same(other),
            (Who::Workload(one), Who::Workload(other)) => one.is_same(other),
            (one, other) => core::mem::discriminant(one) == core::mem::discriminant(other),
        };
        who && (self.1, self.2) == (other.1, other.2)
    }
}

/// Those that were met, in their order.
struct Met<K, V> {
    all: Vec<(K, V)>,
    /// The place after the one that was found last.
    next: usize,
}

impl<K, V> Default for Met<K, V> {
    fn default() -> Self {
        Self { all: Vec::new(), next: 0 }
    }
}

impl<K: Same, V: Default> Met<K, V> {
    /// What belongs to a key.
    fn find(&mut self, key: K) -> &mut V {
        let is_it = |at: usize| self.all.get(at).is_some_and(|(known, _)| known.is_same(&key));
        let count = self.all.len();
        let at = (self.next..count).chain(0..self.next.min(count)).find(|at| is_it(*at)).unwrap_or(count);
        self.next = at + 1;
        if at == count {
            self.all.push((key, V::default()));
        }
        &mut self.all[at].1
    }
}
