//! From a node's stored series to its cell: join on one-second slots, attribute each slot, add up.
//!
//! The cell of a slot depends on the series of that slot alone, so cells of any windows add up to the cell of their
//! union, whatever the order in which rows arrived. (A flag may depend on the whole minute that holds the slot.)

mod device;
mod dispute;
mod draft;
mod point;
mod wall;

pub use point::counting_for;
pub use wall::{SURROUNDINGS_SECONDS, lag};

use crate::attribution::{
    Activity, Measures, OutputWeight, among_residents, among_services, base_and_dynamic, by_activity, by_reservation,
    weights_among,
};
use crate::cell::{Cell, Flags, Purpose, SourceKey};
use crate::share::portion;
use crate::spread::{At, Grid, Held, Spread};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use device::Device;
use draft::{Draft, Who};
use joulebook_units::{
    Component, Consumption, CountKind, GapReason, Method, Microjoules, Milliwatts, Service, Source, Subject, UnixNanos,
    Window, Workload, WorkloadKind,
};
use wall::Wall;

/// An energy interval longer than this has lost its resolution in time (`coarse`).
const COARSE_NANOS: u64 = 30_000_000_000;
/// A count interval longer than this is spread over more than a few scrapes (`interpolated`).
const INTERPOLATED_NANOS: u64 = 60_000_000_000;

/// An unbroken run of a stored series.
#[derive(Debug, Clone)]
pub struct Run {
    /// What it measures.
    pub subject: Arc<Subject>,
    /// Points, ascending.
    pub points: Vec<At>,
}

/// Energy of a source that is declared unknown.
#[derive(Debug, Clone)]
pub struct Gap {
    /// The source.
    pub source: Arc<Source>,
    /// When.
    pub window: Window,
    /// Why.
    pub reason: GapReason,
    /// Least energy.
    pub low: Microjoules,
    /// Most energy.
    pub high: Microjoules,
}

/// Everything known of a node around a window.
#[derive(Debug, Clone, Default)]
pub struct NodeSeries {
    /// Hardware threads; absent if not known.
    pub threads: Option<u32>,
    /// Memory in bytes; absent if not known.
    pub memory_bytes: Option<u64>,
    /// Own memory of accelerators in bytes by identity; absent if not known.
    pub device_memory_bytes: BTreeMap<String, u64>,
    /// Ids of the sources that can be read now.
    pub expected_sources: Vec<String>,
    /// Runs that intersect the window (others do no harm).
    pub runs: Vec<Run>,
    /// Energy of the parts and of the meters at the input, [`SURROUNDINGS_SECONDS`] around the window; empty for a node
    /// without such a meter.
    pub input_runs: Vec<Run>,
    /// How late the meters at the input are, for the hours that `input_runs` touch.
    pub lags: lag::Lags,
    /// Gaps that intersect the window.
    pub gaps: Vec<Gap>,
    /// Windows of lost records.
    pub lost: Vec<Window>,
    /// What a generated token weighs where energy is shared by tokens.
    pub output_weight: OutputWeight,
}

/// The cell of `window`, whose edges should be whole seconds.
pub fn settle(node: &NodeSeries, window: Window) -> Cell {
    let joined = Joined::new(node, window);
    let mut draft = Draft::default();
    for slot in 0..joined.grid.len() {
        joined.attribute(slot, &mut draft);
    }
    let mut cell = draft.into_cell();
    joined.describe(node, &mut cell);
    cell
}

/// The series of a node on one grid.
struct Joined {
    grid: Grid,
    sources: BTreeMap<Arc<Source>, Spread>,
    idle: BTreeMap<String, Held>,
    cpu: BTreeMap<Arc<Workload>, Spread>,
    /// Parts, each with the workloads that it was a part of.
    parts: BTreeMap<String, BTreeSet<String>>,
    memory: BTreeMap<String, Held>,
    memory_used: Held,
    counts: Vec<(Arc<Service>, BTreeMap<CountKind, Spread>)>,
    /// Places in `counts` of the services of each workload, those of its parts among them.
    own: BTreeMap<String, Vec<usize>>,
    consumption: BTreeMap<Arc<Consumption>, BTreeMap<CountKind, Spread>>,
    /// Services whose requests another place counts too.
    doubled: BTreeSet<Arc<Service>>,
    devices: Vec<Device>,
    wall: Wall,
    strangers: BTreeMap<String, Arc<Workload>>,
    capacity_millicores: Option<u64>,
    memory_bytes: Option<u64>,
    output_weight: OutputWeight,
    covered: Vec<u64>,
}

impl Joined {
    fn new(node: &NodeSeries, window: Window) -> Self {
        let grid = Grid::new(window);
        let slots = grid.len();
        let mut joined = Self {
            sources: BTreeMap::new(),
            idle: BTreeMap::new(),
            cpu: BTreeMap::new(),
            parts: BTreeMap::new(),
            memory: BTreeMap::new(),
            memory_used: Held::new(slots),
            counts: Vec::new(),
            own: BTreeMap::new(),
            consumption: BTreeMap::new(),
            doubled: BTreeSet::new(),
            devices: Device::all(node, &grid),
            wall: Wall::new(node, &grid),
            strangers: BTreeMap::new(),
            capacity_millicores: node.threads.map(|threads| u64::from(threads) * 1000),
            memory_bytes: node.memory_bytes,
            output_weight: node.output_weight,
            covered: Vec::new(),
            grid,
        };
        let mut counts = BTreeMap::new();
        for run in &node.runs {
            joined.add(run, &mut counts);
        }
        joined.doubled = point::count_once(&mut counts, &joined.parts);
        joined.counts = counts.into_iter().collect();
        joined.own = joined.own();
        joined.strangers = device::strangers(&joined.devices, joined.cpu.keys());
        joined.covered = joined.covered_nanos(&node.expected_sources);
        joined
    }

    fn add(&mut self, run: &Run, counts: &mut point::Counts) {
        let (grid, slots) = (&self.grid, self.grid.len());
        match &*run.subject {
            Subject::Energy(source) => {
                self.sources.entry(Arc::clone(source)).or_insert_with(|| Spread::new(slots)).add(grid, &run.points);
            }
            Subject::IdlePower { source, .. } => {
                self.idle.entry(source.clone()).or_insert_with(|| Held::new(slots)).add(grid, &run.points);
            }
            Subject::CpuTime(workload) => {
                if let Some(whole) = &workload.part_of {
                    self.parts.entry(workload.id.clone()).or_default().insert(whole.clone());
                }
                let spread = self.cpu.entry(Arc::clone(workload)).or_insert_with(|| Spread::new(slots));
                spread.add(grid, &run.points);
            }
            Subject::Memory { workload } => {
                self.memory.entry(workload.clone()).or_insert_with(|| Held::new(slots)).add(grid, &run.points);
            }
            Subject::NodeMemoryUsed => self.memory_used.add(grid, &run.points),
            Subject::Count(service, kind) => {
                let counts = counts.entry(Arc::clone(service)).or_default();
                counts.entry(*kind).or_insert_with(|| Spread::weighted(slots)).add(grid, &run.points);
            }
            Subject::Consumption(of, kind) => {
                let counts = self.consumption.entry(Arc::clone(of)).or_default();
                counts.entry(*kind).or_insert_with(|| Spread::new(slots)).add(grid, &run.points);
            }
            // Joined device by device; what a device draws at rest is told for people.
            Subject::DeviceTime { .. }
            | Subject::DeviceMemory { .. }
            | Subject::DeviceSlices { .. }
            | Subject::ResidentIdlePower { .. } => {}
        }
    }

    /// The services of each workload.
    fn own(&self) -> BTreeMap<String, Vec<usize>> {
        let mut own: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (place, (service, _)) in self.counts.iter().enumerate() {
            let Some(workload) = &service.workload else { continue };
            let wholes = self.parts.get(workload).into_iter().flatten().filter(|whole| *whole != workload);
            for id in wholes.chain([workload]) {
                own.entry(id.clone()).or_default().push(place);
            }
        }
        own
    }

    /// Nanoseconds of each slot in which every expected component source is known.
    fn covered_nanos(&self, expected_sources: &[String]) -> Vec<u64> {
        let components: Vec<Option<&Spread>> = expected_sources
            .iter()
            .filter(|id| self.sources.keys().all(|source| source.id != **id || source.is_part()))
            .map(|id| self.sources.iter().find(|(source, _)| source.id == *id).map(|(_, spread)| spread))
            .collect();
        let covered = |slot: usize| {
            let known = components.iter().map(|spread| spread.and_then(|s| s.covered.get(slot)).copied().unwrap_or(0));
            known.min().unwrap_or(0).min(self.length(slot))
        };
        (0..self.grid.len()).map(covered).collect()
    }

    /// Nanoseconds of a slot.
    fn length(&self, slot: usize) -> u64 {
        self.grid.slots().get(slot).map_or(0, |slot| slot.nanos())
    }

    /// Gives every microjoule of one slot to an account.
    fn attribute<'a>(&'a self, slot: usize, draft: &mut Draft<'a>) {
        let holders = self.holders(slot);
        let mut components: u64 = 0;
        let (mut base, mut dynamic, mut dram) = (0u64, 0u64, 0u64);
        for (source, spread) in self.sources.iter().filter(|(source, _)| source.is_part()) {
            let (energy, nanos) = (at(&spread.amounts, slot), at(&spread.covered, slot));
            components = components.saturating_add(energy);
            match source.component {
                Component::Cpu => {
                    let idle = self.idle.get(&source.id).and_then(|held| held.mean(slot)).unwrap_or(0);
                    let (low, high) = base_and_dynamic(Microjoules(energy), Milliwatts(idle), nanos);
                    base = base.saturating_add(low.0);
                    dynamic = dynamic.saturating_add(high.0);
                }
                Component::Dram => dram = dram.saturating_add(energy),
                Component::Accelerator if source.device.is_some() => {}
                // Energy of which nothing tells whose it is: it is known and nobody's.
                Component::Accelerator | Component::Other | Component::Wall => {
                    draft.add(Who::Unattributed, source.component, Purpose::Dynamic, energy);
                }
            }
        }
        self.attribute_cpu(slot, &holders, base, dynamic, draft);
        self.attribute_dram(slot, &holders, dram, draft);
        self.attribute_devices(slot, &holders, draft);
        for holder in &holders {
            holder.describe(draft);
        }
        let platform = self.wall.platform(slot, components, &mut draft.cell);
        draft.add(Who::Platform, Component::Other, Purpose::Residual, platform);
    }

    /// The workloads of a slot with the services that they run.
    fn holders(&self, slot: usize) -> Vec<Rc<Holder<'_>>> {
        let resident = self.cpu.iter().filter(|(_, spread)| at(&spread.covered, slot) > 0);
        resident.map(|(workload, spread)| Rc::new(self.holder(workload, Some(spread), slot))).collect()
    }

    /// A workload in a slot with the services that it runs.
    fn holder<'a>(&'a self, workload: &'a Arc<Workload>, cpu: Option<&Spread>, slot: usize) -> Holder<'a> {
        Holder {
            workload,
            nanos: self.length(slot),
            cpu_nanos: cpu.map_or(0, |spread| at(&spread.amounts, slot)),
            resident_nanos: cpu.map_or(0, |spread| at(&spread.covered, slot)),
            services: self.served(workload, slot),
            output_weight: self.output_weight,
        }
    }

    /// The services of a workload, those of its parts among them: those whose counts are known in the slot, else all that
    /// the workload runs nearby (a server that was not scraped yet, or not any more). A part that nobody counts for is used
    /// by whoever uses the whole.
    fn served(&self, workload: &Workload, slot: usize) -> Vec<Served<'_>> {
        let mut all = self.services(&workload.id, &workload.id, slot);
        if let (true, Some(whole)) = (all.is_empty(), &workload.part_of) {
            all = self.services(whole, &workload.id, slot);
        }
        if all.iter().any(|served| served.counted > 0) {
            return all.into_iter().filter(|served| served.counted > 0).collect();
        }
        all
    }

    /// The services of the workload `whole` and of its parts, as users of the workload `used`.
    fn services(&self, whole: &str, used: &str, slot: usize) -> Vec<Served<'_>> {
        let own = self.own.get(whole).into_iter().flatten().filter_map(|place| self.counts.get(*place));
        let served = own.map(|(service, counts)| Served::new(service, used, counts, slot));
        served.filter(|served| served.counted > 0 || !self.doubled.contains(served.service)).collect()
    }

    fn attribute_cpu<'a>(
        &'a self,
        slot: usize,
        holders: &[Rc<Holder<'a>>],
        base: u64,
        dynamic: u64,
        draft: &mut Draft<'a>,
    ) {
        let cpu: Vec<u64> = holders.iter().map(|holder| holder.cpu_nanos).collect();
        let reserved: Vec<u128> = holders.iter().map(|holder| holder.reserved_millicore_nanos()).collect();
        let length = self.length(slot);
        let capacity = self.capacity_millicores.map_or(0, |millicores| u128::from(millicores) * u128::from(length));
        let by_time = by_activity(dynamic, &cpu);
        let by_holding = by_reservation(base, &reserved, capacity);
        draft.add(Who::Unattributed, Component::Cpu, Purpose::Dynamic, by_time.rest);
        draft.add(Who::PoolIdle, Component::Cpu, Purpose::PoolIdle, by_holding.rest);
        for ((holder, dynamic), base) in holders.iter().zip(by_time.parts).zip(by_holding.parts) {
            holder.charge(Component::Cpu, Purpose::Dynamic, dynamic, draft);
            holder.charge(Component::Cpu, Purpose::Base, base, draft);
        }
    }

    /// Memory in use belongs to whoever holds it, free memory to nobody: it is idle capacity.
    fn attribute_dram<'a>(&'a self, slot: usize, holders: &[Rc<Holder<'a>>], dram: u64, draft: &mut Draft<'a>) {
        let resident = |holder: &Rc<Holder<'_>>| self.memory.get(&holder.workload.id).and_then(|held| held.mean(slot));
        let held: Vec<u128> = holders.iter().map(|holder| u128::from(resident(holder).unwrap_or(0))).collect();
        let listed: u128 = held.iter().sum();
        let Some(used) = self.memory_used.mean(slot).map(u128::from).or((listed > 0).then_some(listed)) else {
            draft.add(Who::Unattributed, Component::Dram, Purpose::Base, dram);
            return;
        };
        // Shared pages are counted once a process, so Σ listed may exceed what is in use: then it is the whole.
        let used = used.max(listed);
        let capacity = self.memory_bytes.map_or(used, u128::from).max(used);
        let in_use = by_reservation(dram, &[used], capacity);
        draft.add(Who::PoolIdle, Component::Dram, Purpose::PoolIdle, in_use.rest);
        let split = by_reservation(in_use.parts.first().copied().unwrap_or(0), &held, used);
        match holders.iter().find(|holder| holder.workload.kind == WorkloadKind::Remainder) {
            Some(holder) => holder.charge(Component::Dram, Purpose::Base, split.rest, draft),
            None => draft.add(Who::Unattributed, Component::Dram, Purpose::Base, split.rest),
        }
        for (holder, energy) in holders.iter().zip(split.parts) {
            holder.charge(Component::Dram, Purpose::Base, energy, draft);
        }
    }

    /// What is known of the window besides energy by account.
    fn describe(&self, node: &NodeSeries, cell: &mut Cell) {
        for (source, spread) in &self.sources {
            let mine = cell.sources.entry(source_key(source)).or_default();
            mine.microjoules = mine.microjoules.saturating_add(spread.amounts.iter().sum());
            mine.covered_nanos = mine.covered_nanos.saturating_add(spread.covered.iter().sum());
            if source.is_part() && spread.longest.iter().any(|nanos| *nanos > COARSE_NANOS) {
                cell.flags.insert(Flags::COARSE);
            }
            if source.is_part() && source.method == Method::Estimated {
                cell.flags.insert(Flags::ESTIMATED);
            }
        }
        for (service, counts) in &self.counts {
            let mine = cell.services.entry(Arc::clone(service)).or_default();
            if self.doubled.contains(service) {
                mine.measures.insert(Measures::LEFT_OUT);
            }
            for (kind, spread) in counts.iter().filter(|(_, spread)| spread.covered.iter().any(|nanos| *nanos > 0)) {
                let count = mine.counts.entry(*kind).or_default();
                *count = count.saturating_add(spread.amounts.iter().sum());
                if spread.longest.iter().any(|nanos| *nanos > INTERPOLATED_NANOS) {
                    cell.flags.insert(Flags::INTERPOLATED);
                }
            }
        }
        for (of, counts) in &self.consumption {
            let mine = cell.consumption.entry(Arc::clone(of)).or_default();
            for (kind, spread) in counts.iter().filter(|(_, spread)| spread.covered.iter().any(|nanos| *nanos > 0)) {
                let count = mine.counts.entry(*kind).or_default();
                *count = count.saturating_add(spread.amounts.iter().sum());
            }
            let counted = counts.values().map(|spread| spread.covered.iter().sum()).max().unwrap_or(0);
            mine.counted_nanos = mine.counted_nanos.saturating_add(counted);
        }
        self.wall.describe(cell);
        for gap in &node.gaps {
            self.describe_gap(gap, cell);
        }
        let window = self.grid.slots().first().zip(self.grid.slots().last());
        let window = window.and_then(|(first, last)| Window::new(first.start(), last.end()));
        if window.is_some_and(|window| dispute::is_disputed(node, window)) {
            cell.flags.insert(Flags::DISPUTED);
        }
        if node.lost.iter().any(|lost| window.is_some_and(|window| window.intersect(*lost).is_some())) {
            cell.flags.insert(Flags::RECORDS_LOST);
        }
        cell.covered_nanos = self.covered.iter().sum();
    }

    fn describe_gap(&self, gap: &Gap, cell: &mut Cell) {
        let mut touched = false;
        let mine = cell.sources.entry(source_key(&gap.source)).or_default();
        for part in self.grid.slots().iter().filter_map(|slot| slot.intersect(gap.window)) {
            touched = true;
            let bound = |energy: Microjoules, edge: UnixNanos| {
                portion(energy.0, edge.nanos_since(gap.window.start()), gap.window.nanos())
            };
            mine.gap_low_microjoules += bound(gap.low, part.end()) - bound(gap.low, part.start());
            mine.gap_high_microjoules += bound(gap.high, part.end()) - bound(gap.high, part.start());
        }
        // Where a layer is not known its content still is.
        if touched && gap.source.is_part() {
            cell.flags.insert(match gap.reason {
                GapReason::CounterReset | GapReason::Reboot => Flags::RESET,
                GapReason::AmbiguousWrap => Flags::WRAP_AMBIGUOUS,
                GapReason::WrapUnknownRange
                | GapReason::SourceLost
                | GapReason::Implausible
                | GapReason::UnstableCounter
                | GapReason::CounterStuck => Flags::GAP,
            });
        }
    }
}

/// A workload in one slot.
struct Holder<'a> {
    workload: &'a Arc<Workload>,
    nanos: u64,
    cpu_nanos: u64,
    resident_nanos: u64,
    services: Vec<Served<'a>>,
    output_weight: OutputWeight,
}

/// A service in one slot.
struct Served<'a> {
    service: &'a Arc<Service>,
    counts: &'a BTreeMap<CountKind, Spread>,
    slot: usize,
    counted: u64,
    moving: u64,
    /// Whether this workload is the service's own: time is counted there, once.
    is_own: bool,
}

impl<'a> Served<'a> {
    fn new(service: &'a Arc<Service>, used: &str, counts: &'a BTreeMap<CountKind, Spread>, slot: usize) -> Self {
        let works = || counts.iter().filter(|(kind, _)| kind.is_work());
        let longest = |values: fn(&Spread) -> &Vec<u64>| works().map(|(_, s)| at(values(s), slot)).max().unwrap_or(0);
        Self {
            service,
            counts,
            slot,
            counted: longest(|spread| &spread.covered),
            moving: longest(|spread| &spread.moving),
            is_own: service.workload.as_deref() == Some(used),
        }
    }

    /// What it did.
    fn activity(&self) -> Activity {
        let weight = |spread: &Spread| spread.weights.get(self.slot).copied().unwrap_or(0);
        Activity { weights: self.counts.iter().map(|(kind, spread)| (*kind, weight(spread))).collect() }
    }
}

impl<'a> Holder<'a> {
    /// Reserved thousandths of a core × nanoseconds of residence.
    fn reserved_millicore_nanos(&self) -> u128 {
        u128::from(self.workload.reserved_millicores.unwrap_or(0)) * u128::from(self.resident_nanos)
    }

    /// What its services did.
    fn activities(&self) -> Vec<Activity> {
        self.services.iter().map(Served::activity).collect()
    }

    /// Books energy of this workload on its services, or on the account of its kind.
    fn charge(&self, component: Component, purpose: Purpose, energy: u64, draft: &mut Draft<'a>) {
        if self.services.is_empty() {
            let who = match self.workload.kind {
                WorkloadKind::Kernel => Who::System,
                _ => Who::Workload(self.workload),
            };
            draft.add(who, component, purpose, energy);
            return;
        }
        if let [only] = self.services.as_slice() {
            self.charge_service(only, (component, purpose), energy, Measures::default(), draft);
            return;
        }
        // Base energy is that of what is held: a model that is loaded and not asked holds it too.
        let (parts, measure) = match purpose {
            Purpose::Base => among_residents(energy, &self.activities()),
            _ => (among_services(energy, &self.activities(), self.output_weight), Measures::default()),
        };
        let measure = if energy > 0 { measure } else { Measures::default() };
        for (served, energy) in self.services.iter().zip(parts) {
            self.charge_service(served, (component, purpose), energy, measure, draft);
        }
    }

    /// Books energy of one of its services.
    fn charge_service(
        &self,
        served: &Served<'a>,
        (component, purpose): (Component, Purpose),
        energy: u64,
        measure: Measures,
        draft: &mut Draft<'a>,
    ) {
        // Counts that stand still prove idleness; counts that are not known prove nothing.
        let idle = portion(energy, served.counted.saturating_sub(served.moving), self.nanos.max(1));
        draft.add(Who::Service(served.service), component, purpose, energy - idle);
        draft.add(Who::Service(served.service), component, Purpose::DedicatedIdle, idle);
        let mine = draft.service(served.service);
        mine.measures.insert(measure);
        mine.joint_microjoules =
            mine.joint_microjoules.saturating_add(portion(energy, served.counted, self.nanos.max(1)));
    }

    /// Books time: CPU, residence, execution, reservation.
    fn describe(&self, draft: &mut Draft<'a>) {
        if self.services.is_empty() {
            let mine = draft.workload(self.workload);
            mine.cpu_nanos = mine.cpu_nanos.saturating_add(self.cpu_nanos);
            return;
        }
        let reserved = u64::try_from(self.reserved_millicore_nanos() / 1000).unwrap_or(u64::MAX);
        if let [only] = self.services.as_slice() {
            self.describe_service(only, (self.cpu_nanos, reserved), Measures::default(), draft);
            return;
        }
        let (activities, output) = (self.activities(), self.output_weight);
        let (_, measure) = weights_among(&activities, output);
        let cpu = among_services(self.cpu_nanos, &activities, output);
        let reserved = among_residents(reserved, &activities).0;
        for ((served, cpu), reserved) in self.services.iter().zip(cpu).zip(reserved) {
            self.describe_service(served, (cpu, reserved), measure, draft);
        }
    }

    /// Books time of one of its services.
    fn describe_service(
        &self,
        served: &Served<'a>,
        (cpu, reserved): (u64, u64),
        measure: Measures,
        draft: &mut Draft<'a>,
    ) {
        let mine = draft.service(served.service);
        mine.cpu_nanos = mine.cpu_nanos.saturating_add(cpu);
        mine.reserved_core_nanos = mine.reserved_core_nanos.saturating_add(reserved);
        mine.measures.insert(measure);
        if !served.is_own {
            return;
        }
        mine.resident_nanos = mine.resident_nanos.saturating_add(self.resident_nanos);
        mine.counted_nanos = mine.counted_nanos.saturating_add(served.counted.min(self.nanos));
        mine.executing_nanos = mine.executing_nanos.saturating_add(served.moving.min(self.nanos));
        if self.workload.part_of.is_some() {
            mine.measures.insert(Measures::PROCESS);
        }
    }
}

fn source_key(source: &Source) -> SourceKey {
    SourceKey {
        id: source.id.clone(),
        component: source.component,
        method: source.method,
        collector: source.collector.clone(),
        uncertainty_permille: source.uncertainty_permille,
        contained: source.contained_in.is_some(),
        scope: source.scope.clone(),
    }
}

fn at(values: &[u64], index: usize) -> u64 {
    values.get(index).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests;
