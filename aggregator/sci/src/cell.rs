//! A cell: what one node did in one slot of time, every account unallocated, with all that any policy asks for later.
//!
//! All quantities are integers that add: a cell of 300 s is the sum of its five of 60 s, and any window is the sum of
//! its seconds.

mod sum;

use crate::attribution::Measures;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use core::cmp::Ordering;
use joulebook_units::series::layer;
use joulebook_units::{Component, Consumption, CountKind, Layer, Method, Scope, Service, UnixNanos, Window, Workload};
use sum::{add_all, by_identity};

/// Who a part of the energy belongs to before any allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// A served model version at one counting point.
    Service(Arc<Service>),
    /// A workload that serves no known model.
    Workload(Arc<Workload>),
    /// The kernel.
    System,
    /// Powered capacity that nothing has reserved.
    PoolIdle,
    /// Difference between the node's input and its metered components: fans, regulators, power supply loss.
    Platform,
    /// Known energy that could be given to nobody.
    Unattributed,
}

impl Account {
    /// Place among the kinds of accounts.
    fn rank(&self) -> u8 {
        match self {
            Self::Service(_) => 0,
            Self::Workload(_) => 1,
            Self::System => 2,
            Self::PoolIdle => 3,
            Self::Platform => 4,
            Self::Unattributed => 5,
        }
    }
}

impl Ord for Account {
    /// By kind, then by who it is. Cells of one store share who they name, and what is shared is equal: nothing of it is
    /// compared, which a month of cells would be busy with.
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Service(one), Self::Service(other)) if !Arc::ptr_eq(one, other) => one.cmp(other),
            (Self::Workload(one), Self::Workload(other)) if !Arc::ptr_eq(one, other) => one.cmp(other),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Account {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What the energy was used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Above idle, by activity.
    Dynamic,
    /// Idle power of the reservation while it is executing.
    Base,
    /// Dynamic and base energy of a resident service while no request runs.
    DedicatedIdle,
    /// Idle power that nothing has reserved.
    PoolIdle,
    /// Not a component's energy: the platform difference.
    Residual,
}

/// Key of one entry of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryKey {
    /// Who.
    pub account: Account,
    /// Which part of the node.
    pub component: Component,
    /// What for.
    pub purpose: Purpose,
}

/// Key of an energy source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceKey {
    /// Identity within the node.
    pub id: String,
    /// The part it meters.
    pub component: Component,
    /// How its values come about.
    pub method: Method,
    /// Collector that reads it.
    pub collector: String,
    /// Half-width of the 95 % interval in thousandths.
    pub uncertainty_permille: u32,
    /// Whether another source contains it: then it is shown and never added.
    pub contained: bool,
    /// The layer that it meters, if it meters more than a part: then it is shown beside what it contains and never added.
    pub scope: Option<Scope>,
}

impl SourceKey {
    /// Whether its energy is added to that of the node's other parts.
    pub fn is_part(&self) -> bool {
        !self.contained && self.layer().is_none()
    }

    /// The layer that it meters; absent for a part of the node.
    pub fn layer(&self) -> Option<Layer> {
        layer(self.scope.as_ref(), self.component, &self.collector)
    }
}

/// What a source gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SourceUse {
    /// Energy in µJ.
    pub microjoules: u64,
    /// Nanoseconds of the slot in which the energy is known.
    pub covered_nanos: u64,
    /// Least and most energy in µJ of the declared gaps in the slot, on top of `microjoules`.
    pub gap_low_microjoules: u64,
    /// See `gap_low_microjoules`.
    pub gap_high_microjoules: u64,
}

impl SourceUse {
    /// Adds every quantity of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.microjoules = self.microjoules.saturating_add(other.microjoules);
        self.covered_nanos = self.covered_nanos.saturating_add(other.covered_nanos);
        self.gap_low_microjoules = self.gap_low_microjoules.saturating_add(other.gap_low_microjoules);
        self.gap_high_microjoules = self.gap_high_microjoules.saturating_add(other.gap_high_microjoules);
    }
}

/// What a service did, and every weight an idle policy can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceUse {
    /// Counts; a kind that is absent is not known.
    pub counts: BTreeMap<CountKind, u64>,
    /// Nanoseconds in which at least one count is known.
    pub counted_nanos: u64,
    /// Nanoseconds in which the service was resident (its workload existed).
    pub resident_nanos: u64,
    /// Nanoseconds in which it was executing (a count moved).
    pub executing_nanos: u64,
    /// Reserved CPU capacity × time in core-nanoseconds.
    pub reserved_core_nanos: u64,
    /// Held accelerator capacity × time in device-nanoseconds.
    pub reserved_device_nanos: u64,
    /// CPU time in nanoseconds.
    pub cpu_nanos: u64,
    /// Energy in µJ of this service in the time in which its counts are known (for joint coverage).
    pub joint_microjoules: u64,
    /// How its part of what several services use together was found, where it had to be.
    pub measures: Measures,
}

/// How late a meter at the input was, over time in which that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LagUse {
    /// Nanoseconds of that time; 0 where nothing is known, and then there is no least and most either.
    pub nanos: u64,
    /// Least lag in nanoseconds.
    pub least_nanos: u64,
    /// Most lag in nanoseconds.
    pub most_nanos: u64,
}

impl LagUse {
    /// A lag over some time, both in nanoseconds.
    pub fn new(nanos: u64, lag: u64) -> Self {
        Self { nanos, least_nanos: lag, most_nanos: lag }
    }

    /// Adds the time of `other` and what was known in it.
    pub fn merge(&mut self, other: &Self) {
        match (self.nanos, other.nanos) {
            (_, 0) => {}
            (0, _) => *self = *other,
            _ => {
                self.nanos = self.nanos.saturating_add(other.nanos);
                self.least_nanos = self.least_nanos.min(other.least_nanos);
                self.most_nanos = self.most_nanos.max(other.most_nanos);
            }
        }
    }
}

/// What is known of a node's input, over the time in which a wall meter was there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InputUse {
    /// Nanoseconds in which each source was the wall.
    pub meters: BTreeMap<SourceKey, u64>,
    /// How late it was, over those of them in which that is known.
    pub lags: BTreeMap<SourceKey, LagUse>,
    /// Energy of the components in that time in µJ.
    pub component_microjoules: u64,
    /// Measured platform in µJ: the part of the account that is no estimate.
    pub platform_microjoules: u64,
    /// Half-width of its interval in µJ. Of an estimate, too, once one was made ([`crate::reconcile::Model`]).
    pub bound_microjoules: u64,
    /// Overcount in µJ that the entries were scaled down by, where the wall is trusted. Not part of a stored cell.
    pub scaled_microjoules: u64,
}

impl InputUse {
    /// Nanoseconds with a wall.
    pub fn nanos(&self) -> u64 {
        self.meters.values().fold(0, |sum, nanos| sum.saturating_add(*nanos))
    }

    /// Adds every quantity of `other`.
    pub fn merge(&mut self, other: &Self) {
        add_all(&mut self.meters, &other.meters, Ord::cmp, |mine, other| *mine = mine.saturating_add(*other));
        add_all(&mut self.lags, &other.lags, Ord::cmp, LagUse::merge);
        self.component_microjoules = self.component_microjoules.saturating_add(other.component_microjoules);
        self.platform_microjoules = self.platform_microjoules.saturating_add(other.platform_microjoules);
        self.bound_microjoules = self.bound_microjoules.saturating_add(other.bound_microjoules);
        self.scaled_microjoules = self.scaled_microjoules.saturating_add(other.scaled_microjoules);
    }
}

/// CPU time of a workload that serves no known model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WorkloadUse {
    /// CPU time in nanoseconds.
    pub cpu_nanos: u64,
}

impl WorkloadUse {
    /// Adds every quantity of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.cpu_nanos = self.cpu_nanos.saturating_add(other.cpu_nanos);
    }
}

/// What a consumer had from an upstream of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConsumptionUse {
    /// Counts; a kind that is absent is not known.
    pub counts: BTreeMap<CountKind, u64>,
    /// Nanoseconds in which at least one count is known.
    pub counted_nanos: u64,
}

impl ConsumptionUse {
    /// Adds every quantity of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (kind, count) in &other.counts {
            let mine = self.counts.entry(*kind).or_default();
            *mine = mine.saturating_add(*count);
        }
        self.counted_nanos = self.counted_nanos.saturating_add(other.counted_nanos);
    }
}

/// Facts about a cell that its numbers do not show. Each is a bit; bits add by OR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u32);

impl Flags {
    /// More than one wrap of a counter was possible.
    pub const WRAP_AMBIGUOUS: Self = Self(1);
    /// A counter was reset.
    pub const RESET: Self = Self(1 << 1);
    /// Energy bridges more than 30 s between two readings.
    pub const COARSE: Self = Self(1 << 2);
    /// Components exceed the wall meter by more than 2 % of it.
    pub const OVERCOUNT: Self = Self(1 << 3);
    /// The input is Σ components ÷ power supply efficiency.
    pub const PSU_ESTIMATED: Self = Self(1 << 4);
    /// Counts bridge more than three scrape intervals.
    pub const INTERPOLATED: Self = Self(1 << 5);
    /// Energy comes from a model.
    pub const ESTIMATED: Self = Self(1 << 6);
    /// Records of the node are lost in this time.
    pub const RECORDS_LOST: Self = Self(1 << 7);
    /// Energy is unknown for another reason that a gap declares.
    pub const GAP: Self = Self(1 << 8);
    /// No idle power of an accelerator in use is known: its base energy is taken from its utilisation.
    pub const IDLE_RATIO: Self = Self(1 << 9);
    /// An energy counter and the integral of the power beside it differ by more than 10 % over a minute.
    pub const DISPUTED: Self = Self(1 << 10);
    /// Components exceed the wall meter by more than the errors of the meters and of their alignment explain.
    pub const LAYER_CONFLICT: Self = Self(1 << 11);
    /// Platform is what it was for such components while there was a wall meter. Not part of a stored cell.
    pub const RESIDUAL_MODELLED: Self = Self(1 << 12);
    /// The node's hosts are past their expected life: nothing of their making accrues. Not part of a stored cell.
    pub const FULLY_AMORTISED: Self = Self(1 << 14);
    /// The node is declared out of service: its idle capacity is kept for nobody. Not part of a stored cell.
    pub const OUT_OF_SERVICE: Self = Self(1 << 13);

    /// Sets the bits of `other`.
    pub fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Clears the bits of `other`.
    pub fn remove(&mut self, other: Self) {
        self.0 &= !other.0;
    }

    /// Whether every bit of `other` is set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// One node in one slot (or in a sum of slots).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cell {
    /// Energy by source.
    pub sources: BTreeMap<SourceKey, SourceUse>,
    /// Energy by account in µJ: Σ = Σ of uncontained component sources + platform.
    pub entries: BTreeMap<EntryKey, u64>,
    /// Services.
    pub services: BTreeMap<Arc<Service>, ServiceUse>,
    /// Workloads that serve no known model.
    pub workloads: BTreeMap<Arc<Workload>, WorkloadUse>,
    /// What consumers had, as the node's gateways and servers tell.
    pub consumption: BTreeMap<Arc<Consumption>, ConsumptionUse>,
    /// Components beyond the wall meter in µJ.
    pub overcount_microjoules: u64,
    /// What is known of the input.
    pub input: InputUse,
    /// Capacity of the node: CPU threads × expected time in core-nanoseconds; 0 if the number of threads is not known.
    /// Not part of a stored cell, as `expected_nanos`.
    pub capacity_core_nanos: u64,
    /// Capacity of its accelerators × expected time in device-nanoseconds; 0 where none is metered. Not part of a stored
    /// cell, as `expected_nanos`.
    pub capacity_device_nanos: u64,
    /// Nanoseconds of the slot since the node's first row. Not part of a stored cell, since older rows may yet come: set
    /// by [`Cell::set_expected`] when a question is answered.
    pub expected_nanos: u64,
    /// Nanoseconds of them in which every uncontained component source is known.
    pub covered_nanos: u64,
    /// Facts.
    pub flags: Flags,
}

impl Cell {
    /// Adds every quantity of `other`.
    pub fn merge(&mut self, other: &Self) {
        add_all(&mut self.sources, &other.sources, Ord::cmp, SourceUse::merge);
        add_all(&mut self.entries, &other.entries, Ord::cmp, |mine, other| *mine = mine.saturating_add(*other));
        add_all(&mut self.services, &other.services, by_identity, ServiceUse::merge);
        add_all(&mut self.workloads, &other.workloads, by_identity, WorkloadUse::merge);
        add_all(&mut self.consumption, &other.consumption, by_identity, ConsumptionUse::merge);
        self.overcount_microjoules = self.overcount_microjoules.saturating_add(other.overcount_microjoules);
        self.input.merge(&other.input);
        self.capacity_core_nanos = self.capacity_core_nanos.saturating_add(other.capacity_core_nanos);
        self.capacity_device_nanos = self.capacity_device_nanos.saturating_add(other.capacity_device_nanos);
        self.expected_nanos = self.expected_nanos.saturating_add(other.expected_nanos);
        self.covered_nanos = self.covered_nanos.saturating_add(other.covered_nanos);
        self.flags.insert(other.flags);
    }

    /// Services but for those that another place counts.
    pub fn counted_services(&self) -> impl Iterator<Item = (&Arc<Service>, &ServiceUse)> {
        self.services.iter().filter(|(_, used)| !used.is_left_out())
    }

    /// Adds energy to an entry. Entries of no energy are not kept.
    pub fn add(&mut self, key: EntryKey, microjoules: u64) {
        if microjoules > 0 {
            let entry = self.entries.entry(key).or_default();
            *entry = entry.saturating_add(microjoules);
        }
    }

    /// Σ entries in µJ.
    pub fn total_microjoules(&self) -> u64 {
        self.entries.values().fold(0, |sum, microjoules| sum.saturating_add(*microjoules))
    }

    /// Platform in µJ, measured or estimated.
    pub fn platform_microjoules(&self) -> u64 {
        let platform = self.entries.iter().filter(|(key, _)| key.account == Account::Platform);
        platform.fold(0, |sum, (_, microjoules)| sum.saturating_add(*microjoules))
    }

    /// Input in µJ over the time with a wall meter: components + platform − overcount.
    pub fn measured_input_microjoules(&self) -> u64 {
        let over = self.overcount_microjoules.saturating_add(self.input.scaled_microjoules);
        self.input.component_microjoules.saturating_add(self.input.platform_microjoules).saturating_sub(over)
    }

    /// Σ of the component sources in µJ: those that no other contains, the wall left out.
    pub fn component_microjoules(&self) -> u64 {
        let components = self.sources.iter().filter(|(key, _)| key.is_part());
        components.fold(0, |sum, (_, source)| sum.saturating_add(source.microjoules))
    }

    /// Sets what of the cell's `window` was to be covered, time since the node's first row, and the node's capacity in
    /// that time; `threads` are its hardware threads, if known, `accelerators` those that it has. They are capacity only
    /// where one is metered: else nothing tells who holds them.
    pub fn set_expected(
        &mut self,
        window: Window,
        first_row: Option<UnixNanos>,
        threads: Option<u32>,
        accelerators: usize,
    ) {
        self.expected_nanos = first_row.map_or(0, |first| window.end().nanos_since(window.start().max(first)));
        self.capacity_core_nanos = u64::from(threads.unwrap_or(0)).saturating_mul(self.expected_nanos);
        let metered =
            self.sources.keys().filter(|key| key.is_part() && key.component == Component::Accelerator).count();
        let devices = if metered > 0 { metered.max(accelerators) } else { 0 };
        self.capacity_device_nanos = u64::try_from(devices).unwrap_or(0).saturating_mul(self.expected_nanos);
    }

    /// Whether nothing is known of the slot and nothing was to be.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
            && self.services.is_empty()
            && self.workloads.is_empty()
            && self.consumption.is_empty()
            && self.expected_nanos == 0
    }
}

impl ServiceUse {
    /// All that adds up over time but its counts, in the order of declaration: ns, ns, ns, core ns, device ns, ns, µJ. Stored
    /// layouts keep that order.
    pub fn amounts(&self) -> [u64; 7] {
        [
            self.counted_nanos,
            self.resident_nanos,
            self.executing_nanos,
            self.reserved_core_nanos,
            self.reserved_device_nanos,
            self.cpu_nanos,
            self.joint_microjoules,
        ]
    }

    /// Whether nothing is known of it but that another place counts its requests: then it is no version's.
    pub fn is_left_out(&self) -> bool {
        *self == Self { measures: Measures::LEFT_OUT, ..Self::default() }
    }

    /// Adds every quantity of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (kind, count) in &other.counts {
            let mine = self.counts.entry(*kind).or_default();
            *mine = mine.saturating_add(*count);
        }
        self.counted_nanos = self.counted_nanos.saturating_add(other.counted_nanos);
        self.resident_nanos = self.resident_nanos.saturating_add(other.resident_nanos);
        self.executing_nanos = self.executing_nanos.saturating_add(other.executing_nanos);
        self.reserved_core_nanos = self.reserved_core_nanos.saturating_add(other.reserved_core_nanos);
        self.reserved_device_nanos = self.reserved_device_nanos.saturating_add(other.reserved_device_nanos);
        self.cpu_nanos = self.cpu_nanos.saturating_add(other.cpu_nanos);
        self.joint_microjoules = self.joint_microjoules.saturating_add(other.joint_microjoules);
        self.measures.insert(other.measures);
    }
}
