//! What a node has to give, and who holds how much of it.

use super::{IdlePolicy, VersionCost};
use crate::cell::{Account, Cell, Purpose, ServiceUse};
use crate::share::portion;
use joulebook_units::{Component, CountKind};

/// What a node's capacity is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Capacity {
    /// Accelerators.
    Devices,
    /// Hardware threads.
    Cores,
}

impl Capacity {
    /// The node's own: the whole host follows its accelerators where it has some (methodology A.4).
    pub(super) fn of(cell: &Cell) -> Self {
        if cell.capacity_device_nanos > 0 { Self::Devices } else { Self::Cores }
    }

    /// The kind that this is not.
    pub(super) fn other(self) -> Self {
        match self {
            Self::Devices => Self::Cores,
            Self::Cores => Self::Devices,
        }
    }

    /// What a service holds of it, × time.
    pub(super) fn reserved(self, used: &ServiceUse) -> u64 {
        match self {
            Self::Devices => used.reserved_device_nanos,
            Self::Cores => used.reserved_core_nanos,
        }
    }

    /// What a node has of it, × time.
    pub(super) fn whole(self, cell: &Cell) -> u64 {
        match self {
            Self::Devices => cell.capacity_device_nanos,
            Self::Cores => cell.capacity_core_nanos,
        }
    }

    /// The part of a node that it is.
    pub(super) fn component(self) -> Component {
        match self {
            Self::Devices => Component::Accelerator,
            Self::Cores => Component::Cpu,
        }
    }

    /// The part of the capacity that no service has reserved which other workloads hold: base energy goes by reservation,
    /// so it is the part that theirs is of it.
    #[allow(clippy::cast_precision_loss, reason = "a ratio")]
    pub(super) fn held_by_others(self, cell: &Cell) -> f64 {
        let component = self.component();
        let (mut others, mut nobodys) = (0u64, 0u64);
        for (key, energy) in cell.entries.iter().filter(|(key, _)| key.component == component) {
            match (&key.account, key.purpose) {
                (Account::Workload(_) | Account::System, Purpose::Base) => others = others.saturating_add(*energy),
                (Account::PoolIdle, _) => nobodys = nobodys.saturating_add(*energy),
                _ => {}
            }
        }
        if others == 0 { 0.0 } else { others as f64 / others.saturating_add(nobodys) as f64 }
    }

    /// A version's weight under a policy. Energy that was charged as idle is no weight for further idle.
    pub(super) fn weight(self, cost: &VersionCost, policy: IdlePolicy) -> u128 {
        let used = &cost.used;
        u128::from(match (policy, self) {
            (IdlePolicy::ReservedCapacityTime, _) => self.reserved(used),
            (IdlePolicy::ActiveEnergy, _) => cost.active(),
            (IdlePolicy::Requests, _) => used.counts.get(&CountKind::RequestsOk).copied().unwrap_or(0),
            (IdlePolicy::UsageTime, Self::Devices) => {
                portion(used.reserved_device_nanos, used.executing_nanos, used.resident_nanos.max(1))
            }
            (IdlePolicy::UsageTime, Self::Cores) => used.cpu_nanos,
            (IdlePolicy::Equal, _) => used.resident_nanos,
            (IdlePolicy::Unallocated, _) => 0,
        })
    }
}
