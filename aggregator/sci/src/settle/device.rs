//! Accelerators in one slot: whose the base and the dynamic energy of a device is (methodology A.6).
//!
//! A slot is cut wherever a workload comes to a device or leaves it, and where the list of those on it begins or ends to
//! be known: all through a piece the same workloads hold the device, or it is not known which.

use super::draft::{Draft, Who};
use super::{Holder, Joined, NodeSeries, Run, at};
use crate::attribution::{SharedDevice, active_and_idle, among_residents, by_reservation, shared_device};
use crate::cell::{Flags, Purpose};
use crate::spread::{At, Grid, Held, Spread};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use joulebook_units::{Component, Microjoules, Milliwatts, Share, Subject, UnixNanos, Window, Workload, WorkloadKind};

/// Id of the workload that stands for processes on a device that could not be identified.
const UNMAPPED: &str = "unmapped";
/// What is told of slices for each.
const PER_SLICE: u128 = 1_000_000;
/// Its name for people.
const UNMAPPED_NAME: &str = "processes that could not be identified";

/// What is known of one device, on the node's grid cut further.
pub(super) struct Device {
    grid: Grid,
    meters: Vec<Meter>,
    /// Busy time of the whole device: covered where the list of those on it is known.
    listed: Spread,
    users: BTreeMap<String, User>,
    memory_bytes: Option<u64>,
    /// Compute slices of the whole, where it is ever divided.
    slices: u32,
}

/// A source of the device's energy.
struct Meter {
    energy: Spread,
    idle: Idle,
}

/// Idle power in mW. A held series is told now and then: before its first and after its last point nearby, those count.
struct Idle {
    held: Held,
    points: Vec<At>,
}

impl Idle {
    fn new(grid: &Grid, runs: &[&Run]) -> Self {
        let mut points: Vec<At> = runs.iter().flat_map(|run| run.points.iter().copied()).collect();
        points.sort_unstable();
        Self { held: held(grid, runs), points }
    }

    /// Idle power in a piece; `None` if none is known nearby.
    fn power(&self, piece: usize, window: Window) -> Option<Milliwatts> {
        let later = self.points.partition_point(|(at, _)| *at <= window.start());
        let nearest = || later.checked_sub(1).and_then(|last| self.points.get(last)).or(self.points.first());
        self.held.mean(piece).or_else(|| nearest().map(|(_, power)| *power)).map(Milliwatts)
    }
}

/// A workload on the device.
struct User {
    time: Spread,
    memory: Held,
    /// Of a divided device: millionths of a compute slice.
    slices: Held,
}

/// Runs of one device.
#[derive(Default)]
struct Runs<'a> {
    energy: BTreeMap<&'a str, Vec<&'a Run>>,
    listed: Vec<&'a Run>,
    users: BTreeMap<&'a str, Use<'a>>,
    slices: u32,
}

/// Runs of one workload on one device.
#[derive(Default)]
struct Use<'a> {
    time: Vec<&'a Run>,
    memory: Vec<&'a Run>,
    slices: Vec<&'a Run>,
}

impl Device {
    /// Every device of a node of which energy or users are known.
    pub(super) fn all(node: &NodeSeries, grid: &Grid) -> Vec<Self> {
        let mut devices: BTreeMap<&str, Runs<'_>> = BTreeMap::new();
        let mut idle: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
        for run in &node.runs {
            match &*run.subject {
                Subject::Energy(source) if source.is_part() && source.component == Component::Accelerator => {
                    // Energy of an accelerator without identity stays with the node's other sources.
                    let Some(device) = &source.device else { continue };
                    devices.entry(device).or_default().energy.entry(&source.id).or_default().push(run);
                }
                Subject::IdlePower { source, .. } => idle.entry(source).or_default().push(run),
                Subject::DeviceTime { device, workload: None } => devices.entry(device).or_default().listed.push(run),
                Subject::DeviceTime { device, workload: Some(workload) } => {
                    devices.entry(device).or_default().users.entry(workload).or_default().time.push(run);
                }
                Subject::DeviceMemory { device, workload } => {
                    devices.entry(device).or_default().users.entry(workload).or_default().memory.push(run);
                }
                Subject::DeviceSlices { device, workload, of } => {
                    let device = devices.entry(device).or_default();
                    device.slices = device.slices.max(*of);
                    device.users.entry(workload).or_default().slices.push(run);
                }
                _ => {}
            }
        }
        let memory = |device: &str| node.device_memory_bytes.get(device).copied();
        devices.into_iter().map(|(device, runs)| Self::new(&runs, &idle, memory(device), grid)).collect()
    }

    fn new(runs: &Runs<'_>, idle: &BTreeMap<&str, Vec<&Run>>, memory_bytes: Option<u64>, grid: &Grid) -> Self {
        let mut edges = BTreeSet::new();
        edges_of(&runs.listed, &mut edges);
        runs.users.values().for_each(|user| edges_of(&user.time, &mut edges));
        let grid = grid.cut(&edges);
        let meter = |(source, energy): (&&str, &Vec<&Run>)| Meter {
            energy: spread(&grid, energy),
            idle: Idle::new(&grid, idle.get(*source).map_or(&[], Vec::as_slice)),
        };
        let user = |(workload, user): (&&str, &Use<'_>)| {
            let (memory, slices) = (held(&grid, &user.memory), held(&grid, &user.slices));
            (workload.to_string(), User { time: spread(&grid, &user.time), memory, slices })
        };
        Self {
            meters: runs.energy.iter().map(meter).collect(),
            listed: spread(&grid, &runs.listed),
            users: runs.users.iter().map(user).collect(),
            memory_bytes,
            slices: runs.slices,
            grid,
        }
    }

    /// Ids of the workloads that are ever seen on it.
    pub(super) fn users(&self) -> impl Iterator<Item = &String> {
        self.users.keys()
    }

    /// Those on the device all through a piece, in order.
    fn resident(&self, piece: usize) -> impl Iterator<Item = (&String, &User)> {
        self.users.iter().filter(move |(_, user)| at(&user.time.covered, piece) > 0)
    }

    /// Whether nobody does anything on the device in a piece, nor has memory there: it is held by allocation alone.
    fn is_unused(&self, piece: usize) -> bool {
        self.resident(piece).all(|(_, user)| at(&user.time.amounts, piece) == 0 && user.memory.mean(piece).is_none())
    }

    /// What each of the residents holds of the device in a piece, and what there is of it. Of a device that is divided they
    /// hold their compute slices, and the rest is nobody's. Of another, one alone holds it whole; several hold by memory, or
    /// equal parts where it is not known of all how much they hold.
    fn holding(&self, piece: usize) -> (Vec<u128>, u128) {
        let slices = self.resident(piece).map(|(_, user)| user.slices.mean(piece));
        if let Some(held) = slices.map(|held| held.map(u128::from)).collect::<Option<Vec<u128>>>()
            && held.iter().any(|held| *held > 0)
        {
            return (held, u128::from(self.slices) * PER_SLICE);
        }
        let memory: Vec<Option<u64>> = self.resident(piece).map(|(_, user)| user.memory.mean(piece)).collect();
        let known: Option<Vec<u128>> = memory.iter().map(|held| held.map(u128::from)).collect();
        let sum = known.iter().flatten().fold(0u128, |sum, held| sum.saturating_add(*held));
        match known.filter(|_| memory.len() > 1 && sum > 0) {
            // Without a known size the device is what is held of it.
            Some(held) => (held, self.memory_bytes.map_or(sum, u128::from).max(sum)),
            None => (vec![1; memory.len()], memory.len() as u128),
        }
    }

    /// Part of a piece in which the device was busy.
    #[allow(clippy::cast_precision_loss, reason = "a ratio")]
    fn utilisation(&self, piece: usize) -> Option<Share> {
        let (busy, known) = (at(&self.listed.amounts, piece), at(&self.listed.covered, piece));
        Share::new((busy as f64 / known.max(1) as f64).min(1.0)).ok()
    }

    /// Shares a meter's energy in a piece among the residents; whether their base had to be taken from the utilisation,
    /// since no idle power is known.
    fn share(&self, meter: &Meter, piece: usize) -> (SharedDevice, bool) {
        let (energy, nanos) = (at(&meter.energy.amounts, piece), at(&meter.energy.covered, piece));
        let known = self.grid.slots().get(piece).and_then(|window| meter.idle.power(piece, *window));
        let idle = known.unwrap_or_else(|| {
            let milliwatts = u128::from(energy) * 1_000_000 / u128::from(nanos.max(1));
            let power = Milliwatts(u64::try_from(milliwatts).unwrap_or(u64::MAX));
            self.utilisation(piece).map_or(power, |usage| active_and_idle(power, usage).1)
        });
        let (held, capacity) = self.holding(piece);
        let activity: Vec<u64> = self.resident(piece).map(|(_, user)| at(&user.time.amounts, piece)).collect();
        (shared_device(Microjoules(energy), idle, nanos, &held, capacity, &activity), known.is_none())
    }
}

impl Joined {
    /// Gives the energy of every device in a slot to an account, and books what services hold of it.
    pub(super) fn attribute_devices<'a>(&'a self, slot: usize, holders: &[Rc<Holder<'a>>], draft: &mut Draft<'a>) {
        let Some(window) = self.grid.slots().get(slot).copied() else { return };
        for device in &self.devices {
            let pieces = device.grid.within(window);
            let on_device = self.on_device(device, slot, pieces.clone(), holders);
            pieces.for_each(|piece| attribute_piece(device, piece, &on_device, draft));
        }
    }

    /// Those on a device in any piece of a slot, by id: as they are described in the slot, else as they are nearby.
    fn on_device<'a>(
        &'a self,
        device: &'a Device,
        slot: usize,
        pieces: Range<usize>,
        holders: &[Rc<Holder<'a>>],
    ) -> BTreeMap<&'a str, Rc<Holder<'a>>> {
        let ids: BTreeSet<&str> = pieces.flat_map(|piece| device.resident(piece).map(|(id, _)| id.as_str())).collect();
        let holder = |id: &str| {
            let now = holders.iter().find(|holder| holder.workload.id == id).cloned();
            now.or_else(|| {
                let workload = self.nearby(id)?;
                Some(Rc::new(self.holder(workload, self.cpu.get(workload), slot)))
            })
        };
        ids.into_iter().filter_map(|id| Some((id, holder(id)?))).collect()
    }

    /// The workload with this id as it is described nearby.
    fn nearby(&self, id: &str) -> Option<&Arc<Workload>> {
        self.cpu.keys().find(|workload| workload.id == id).or_else(|| self.strangers.get(id))
    }
}

/// Workloads on devices that nothing else describes.
pub(super) fn strangers<'a>(
    devices: &[Device],
    described: impl Iterator<Item = &'a Arc<Workload>>,
) -> BTreeMap<String, Arc<Workload>> {
    let described: BTreeSet<&str> = described.map(|workload| workload.id.as_str()).collect();
    let unknown = devices.iter().flat_map(Device::users).filter(|id| !described.contains(id.as_str()));
    unknown.map(|id| (id.clone(), Arc::new(stranger(id)))).collect()
}

fn stranger(id: &str) -> Workload {
    Workload::bare(id, WorkloadKind::Remainder, if id == UNMAPPED { UNMAPPED_NAME } else { id })
}

fn attribute_piece<'a>(device: &Device, piece: usize, holders: &BTreeMap<&str, Rc<Holder<'a>>>, draft: &mut Draft<'a>) {
    const PART: Component = Component::Accelerator;
    let listed = at(&device.listed.covered, piece);
    let residents: Vec<&Rc<Holder<'a>>> =
        device.resident(piece).filter_map(|(id, _)| holders.get(id.as_str())).collect();
    if listed > 0 {
        let (held, capacity) = device.holding(piece);
        let reserved = by_reservation(listed, &held, capacity).parts;
        residents.iter().zip(reserved).for_each(|(holder, nanos)| holder.reserve_devices(nanos, draft));
    }
    for meter in &device.meters {
        let energy = at(&meter.energy.amounts, piece);
        if energy == 0 {
            continue;
        }
        if listed == 0 {
            draft.add(Who::Unattributed, PART, Purpose::Dynamic, energy);
            continue;
        }
        if residents.is_empty() {
            draft.add(Who::PoolIdle, PART, Purpose::PoolIdle, energy);
            continue;
        }
        let (shared, by_ratio) = device.share(meter, piece);
        if by_ratio {
            draft.cell.flags.insert(Flags::IDLE_RATIO);
        }
        draft.add(Who::PoolIdle, PART, Purpose::PoolIdle, shared.by_holding.rest);
        draft.add(Who::Unattributed, PART, Purpose::Dynamic, shared.by_use.rest);
        let unused = device.is_unused(piece);
        for ((holder, base), dynamic) in residents.iter().zip(&shared.by_holding.parts).zip(&shared.by_use.parts) {
            if unused && holder.services.is_empty() {
                // Nothing executes: all of it is idle power of what is held.
                holder.charge(PART, Purpose::DedicatedIdle, base.saturating_add(*dynamic), draft);
                continue;
            }
            holder.charge(PART, Purpose::Base, *base, draft);
            holder.charge(PART, Purpose::Dynamic, *dynamic, draft);
        }
    }
}

impl<'a> Holder<'a> {
    /// Books reserved accelerator capacity × time on this workload's services.
    fn reserve_devices(&self, nanos: u64, draft: &mut Draft<'a>) {
        for (served, nanos) in self.services.iter().zip(among_residents(nanos, &self.activities()).0) {
            let mine = draft.service(served.service);
            mine.reserved_device_nanos = mine.reserved_device_nanos.saturating_add(nanos);
        }
    }
}

/// Adds the instants at which a series begins or ends to be known: runs that touch are one.
fn edges_of(runs: &[&Run], edges: &mut BTreeSet<UnixNanos>) {
    let mut spans: Vec<(UnixNanos, UnixNanos)> =
        runs.iter().filter_map(|run| Some((run.points.first()?.0, run.points.last()?.0))).collect();
    spans.sort_unstable();
    let mut open: Option<Window> = None;
    for (start, end) in spans {
        match open.filter(|open| start <= open.end()) {
            Some(span) => open = Window::new(span.start(), end.max(span.end())),
            None => {
                edges.extend(open.into_iter().flat_map(|span| [span.start(), span.end()]));
                open = Window::new(start, end);
            }
        }
    }
    edges.extend(open.into_iter().flat_map(|span| [span.start(), span.end()]));
}

fn spread(grid: &Grid, runs: &[&Run]) -> Spread {
    let mut spread = Spread::new(grid.len());
    runs.iter().for_each(|run| spread.add(grid, &run.points));
    spread
}

fn held(grid: &Grid, runs: &[&Run]) -> Held {
    let mut held = Held::new(grid.len());
    runs.iter().for_each(|run| held.add(grid, &run.points));
    held
}

#[cfg(test)]
mod tests;
