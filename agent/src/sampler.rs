//! The tick: one clock reading, all readings, one row.
//!
//! The sampler owns every running sum of the node: energy by source, CPU time by workload, counts by service. After a
//! restart in the same boot, sums go on from the baselines in the spool: a counter's first step then bridges the time
//! in which no agent ran, and a count does if its process is the same. CPU time and estimates of that time are not
//! known: their runs begin anew. After a reboot, counters declare a gap with bounds.

use crate::clock::Clock;
use crate::collector::{DeviceUse, ReadFailure, Reading, Sources, Value};
use crate::counter::{Baseline as RawBaseline, Step, Tracker, Unknown};
use crate::inference::CountSample;
use crate::process::part::PartName;
use crate::process::{DeviceUsers, InferenceGroup, WorkloadSample, Workloads, is_brief};
use crate::spool::{Baseline, LocalState, Recovery};
use book::{Book, Page};
use devices::{Devices, Quiet};
use idle::IdlePower;
use joulebook_units::{
    Batch, BootId, BootNanos, Component, Consumption, CountKind, EnergyGap, GapReason, IdleOrigin, Inventory,
    Microjoules, Milliwatts, Point, Service, Source, Subject, UnixNanos,
};
use refusals::Refusals;
use status::Busy;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

pub mod book;
mod count;
pub mod devices;
pub mod idle;
mod refusals;
mod snapshot;
pub mod status;

/// Held values are repeated after this many rows even if they did not change.
const HELD_ROWS: u64 = 5;
/// A held value has changed when it differs by more than one part in this many.
const HELD_PART: u64 = 100;
/// Load in thousandths above which a CPU's counter has to move.
const WORKING_PERMILLE: u64 = 50;
/// What had no value for this long is forgotten: workloads come and go, and each record holds every baseline.
const FORGET_NANOS: u64 = 600_000_000_000;
/// Marks a baseline of an earlier boot: its value counts on, its raw value means nothing.
const STALE: u64 = u64::MAX;

/// What goes to the spool together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flush {
    /// The rows.
    pub batch: Batch,
    /// What a later run of the agent needs to go on.
    pub local: LocalState,
    /// Series that this batch is the first to use, or the first after a long pause.
    pub new_series: Vec<(u32, Subject)>,
    /// Whether it begins a new stream.
    pub begins_stream: bool,
}

/// What the sampler is made of.
pub struct Parts {
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// The running boot.
    pub boot: BootId,
    /// Rows of a batch.
    pub batch_rows: usize,
    /// The sources, already discovered.
    pub sources: Sources,
    /// The workloads; none where what is read is another machine's.
    pub workloads: Option<Workloads>,
    /// Idle power of one CPU package that is metered, as configured or from a table.
    pub package_idle: Option<(Milliwatts, IdleOrigin)>,
    /// Counts of inference servers.
    pub counts: mpsc::Receiver<CountSample>,
    /// Their processes.
    pub groups: watch::Receiver<Vec<InferenceGroup>>,
    /// What is told of the node; sent anew when a source dies or comes to life.
    pub inventory: watch::Sender<Inventory>,
}

/// Turns readings into rows.
pub struct Sampler {
    parts: Parts,
    book: Book,
    meters: BTreeMap<String, Meter>,
    baselines: BTreeMap<u32, Baseline>,
    recovered: HashMap<u32, Baseline>,
    /// Wall clock of the last record of an earlier boot.
    other_boot: Option<UnixNanos>,
    /// What is added to a workload's or service's own sum to make the stream's.
    bases: HashMap<u32, u64>,
    cpu_points: HashMap<String, (u32, Point)>,
    count_points: HashMap<(Service, Option<Consumption>, CountKind), (u32, Point)>,
    held: HashMap<u32, (u64, u64)>,
    workload_ids: BTreeMap<String, String>,
    devices: Devices,
    /// Workloads of the processes that hold devices, as of the last sample of workloads.
    device_users: DeviceUsers,
    /// Counts that wait for the first list of those on the devices.
    waiting: Vec<CountSample>,
    part_ids: BTreeMap<(String, PartName), String>,
    busy_permille: Option<u64>,
    busy: Busy,
    refusals: Refusals,
    turns: BTreeMap<(String, &'static str), u64>,
    /// Whether the next batch begins a new stream.
    begins_stream: bool,
    rows: u64,
    /// Samples of workloads: fewer than rows where they are read less often.
    samples: u64,
    last_row: Option<BootNanos>,
}

struct Meter {
    series: u32,
    source: Arc<Source>,
    tracker: Option<Tracker>,
    value: u64,
    last: Option<BootNanos>,
    /// Stretches in which its energy is unknown.
    gaps: u64,
    idle: IdlePower,
    /// Power while something is resident and nothing runs.
    resident_idle: IdlePower,
}

impl Sampler {
    /// A sampler that goes on where the spool's last record ended.
    pub fn new(parts: Parts, recovery: &Recovery) -> Self {
        let mut book = Book::new(parts.boot, parts.batch_rows, &recovery.dictionary);
        let mut baselines = BTreeMap::new();
        let mut other_boot = None;
        if let Some(last) = &recovery.last {
            let same_boot = last.local.boot == parts.boot;
            for baseline in &last.local.baselines {
                let known = same_boot && baseline.epoch != STALE;
                let baseline =
                    if known { *baseline } else { Baseline { epoch: STALE, raw: 0, at: BootNanos(0), ..*baseline } };
                baselines.insert(baseline.series, baseline);
            }
            other_boot = (!same_boot).then_some(last.local.wall);
        }
        let recovered: HashMap<u32, Baseline> = baselines.iter().map(|(id, baseline)| (*id, *baseline)).collect();
        for (series, baseline) in recovered.iter().filter(|(_, baseline)| baseline.epoch != STALE) {
            book.resume(*series, Point { at: baseline.at, value: baseline.value });
        }
        Self {
            parts,
            book,
            meters: BTreeMap::new(),
            baselines,
            recovered,
            other_boot,
            bases: HashMap::new(),
            cpu_points: HashMap::new(),
            count_points: HashMap::new(),
            held: HashMap::new(),
            workload_ids: BTreeMap::new(),
            devices: Devices::default(),
            device_users: DeviceUsers::default(),
            waiting: Vec::new(),
            part_ids: BTreeMap::new(),
            busy_permille: None,
            busy: Busy::default(),
            refusals: Refusals::default(),
            turns: BTreeMap::new(),
            begins_stream: false,
            rows: 0,
            samples: 0,
            last_row: None,
        }
    }

    /// Readings refused or held since the start, by source and reason.
    pub fn refused(&self) -> &BTreeMap<(String, &'static str), u64> {
        self.refusals.counts()
    }

    /// What counters did since the start that is no plain rise, by source and kind: `wrap`, or `reset` to a new baseline.
    pub fn turns(&self) -> &BTreeMap<(String, &'static str), u64> {
        &self.turns
    }

    /// The sources.
    pub fn sources(&self) -> &Sources {
        &self.parts.sources
    }

    /// Takes one row. Gives the batches that it completes, in order.
    pub fn tick(&mut self) -> Vec<Flush> {
        let (now, wall) = (self.parts.clock.boot(), self.parts.clock.wall());
        if self.last_row.is_some_and(|last| now <= last) {
            return Vec::new();
        }
        let mut flushes = Vec::new();
        if let Some(page) = self.book.begin_row(now, wall) {
            flushes.push(self.flush(page, now, wall));
        }
        let (readings, changed) = self.parts.sources.read(now);
        let used = self.parts.sources.device_use();
        if changed {
            self.tell_sources();
        }
        // Before the processes: those that belong to these counts are published already.
        let counts: Vec<_> = std::iter::from_fn(|| self.parts.counts.try_recv().ok()).collect();
        let groups = self.parts.groups.borrow_and_update().clone();
        if let Some(workloads) = &mut self.parts.workloads {
            workloads.see_devices(&used);
        }
        let due = self.parts.workloads.as_mut().filter(|workloads| workloads.is_due(now));
        let sample = due.map(|workloads| workloads.sample(now, &groups));
        if let Some(sample) = &sample {
            self.device_users.clone_from(&sample.device_users);
        }
        // Who is on a device is known before its energy: its idle power is learned from both.
        self.device_use(&used);
        for reading in readings {
            match reading {
                Ok(reading) => self.energy(&reading, wall),
                Err(failure) => self.failed(&failure, now),
            }
        }
        if let Some(sample) = sample {
            self.workloads(now, sample);
        }
        self.counts(counts);
        self.idle(now);
        self.rows += 1;
        self.last_row = Some(now);
        if let Some(page) = self.book.end_row() {
            flushes.push(self.flush(page, now, wall));
        }
        flushes
    }

    /// Takes the last row, with all that is known by then, and closes the open batch.
    pub fn finish(&mut self) -> Vec<Flush> {
        self.devices.wait_no_more();
        self.parts.sources.read_last();
        let mut flushes = self.tick();
        flushes.extend(self.close());
        flushes
    }

    /// Closes the open batch.
    pub fn close(&mut self) -> Option<Flush> {
        let (now, wall) = (self.parts.clock.boot(), self.parts.clock.wall());
        let page = self.book.close()?;
        Some(self.flush(page, now, wall))
    }

    /// Puts the rows from now on into a new stream: cumulative values begin at 0, and their origin is the last row of the
    /// stream before. Gives the batch that belongs to that one.
    pub fn begin_stream(&mut self) -> Option<Flush> {
        let flush = self.close();
        self.book.begin_stream();
        self.begins_stream = true;
        flush
    }

    fn flush(&mut self, mut page: Page, at: BootNanos, wall: UnixNanos) -> Flush {
        self.forget_ended(at);
        // A later run of the agent finds its baselines by number: each is defined in the stream that it stands in.
        page.new_series.extend(self.book.define(self.baselines.keys().copied()));
        let in_stream = |baseline: &Baseline| {
            let value = self.book.in_stream(baseline.series, baseline.value);
            Baseline { value, ..*baseline }
        };
        let baselines = self.baselines.values().map(in_stream).collect();
        let local = LocalState { boot: self.parts.boot, at, wall, baselines };
        let begins_stream = std::mem::take(&mut self.begins_stream);
        Flush { batch: page.batch, local, new_series: page.new_series, begins_stream }
    }

    /// Forgets workloads that ended. No batch is open when this is called.
    fn forget_ended(&mut self, now: BootNanos) {
        let may_end = |subject: &Subject| {
            matches!(
                subject,
                Subject::CpuTime(_)
                    | Subject::Memory { .. }
                    | Subject::DeviceTime { workload: Some(_), .. }
                    | Subject::DeviceMemory { .. }
                    | Subject::DeviceSlices { .. }
            )
        };
        for series in self.book.unused(now, FORGET_NANOS, may_end) {
            self.book.forget(series);
            self.baselines.remove(&series);
            self.bases.remove(&series);
            self.recovered.remove(&series);
            self.held.remove(&series);
            self.devices.forget(series);
            self.cpu_points.retain(|_, (other, _)| *other != series);
        }
    }

    fn energy(&mut self, reading: &Reading, wall: UnixNanos) {
        if !self.meters.contains_key(&reading.source) && !self.begin_meter(reading, wall) {
            return;
        }
        let Some(meter) = self.meters.get_mut(&reading.source) else { return };
        let before = (meter.value, meter.last);
        let (series, at) = (meter.series, reading.at);
        let step = match (&reading.value, &mut meter.tracker) {
            (Value::Counter { raw, range }, Some(tracker)) => {
                let works = meter.source.component == Component::Cpu;
                tracker.set_working(works && self.busy_permille.is_some_and(|busy| busy > WORKING_PERMILLE));
                tracker.observe(at, *raw, *range)
            }
            (Value::Total { raw }, Some(tracker)) => {
                // A powered device always draws something: a counter that stands still is stuck.
                tracker.set_working(true);
                tracker.observe(at, *raw, None)
            }
            (Value::Increment { energy, since: Some(since) }, _) if meter.last.is_none() => {
                let known = Point { at: *since, value: meter.value };
                meter.value = meter.value.saturating_add(energy.0);
                self.book.start(series, Some(known), Point { at, value: meter.value });
                meter.last = Some(at);
                self.baselines.insert(series, Baseline { series, raw: 0, value: meter.value, at, epoch: 0 });
                return;
            }
            (Value::Increment { .. }, _) if meter.last.is_none() => Step::First,
            (Value::Increment { energy, .. }, _) => Step::Delta { microjoules: energy.0, wrapped: false },
            (Value::Unknown { since, high }, _) => Step::Gap(Unknown {
                from: *since,
                to: at,
                reason: GapReason::SourceLost,
                low: Microjoules::ZERO,
                high: *high,
                after: 0,
            }),
            (Value::Counter { .. } | Value::Total { .. }, None) => return,
        };
        let known_from = match step {
            Step::First => None,
            Step::Delta { microjoules, wrapped } => {
                if wrapped {
                    *self.turns.entry((reading.source.clone(), "wrap")).or_default() += 1;
                }
                meter.value = meter.value.saturating_add(microjoules);
                self.book.extend(series, Point { at, value: meter.value });
                None
            }
            Step::Gap(gap) => {
                let from = (gap.to < at).then_some(Point { at: gap.to, value: meter.value });
                meter.value = meter.value.saturating_add(gap.after);
                meter.gaps += 1;
                let (low, high) = (gap.low, gap.high);
                self.book.gap(EnergyGap { series, from: gap.from, to: gap.to, reason: gap.reason, low, high });
                from
            }
            Step::Hold(held) => return self.refusals.add(&reading.source, refusals::held(held), at, None),
            Step::Skip(refused) => return self.refusals.add(&reading.source, refusals::refused(refused), at, None),
        };
        if !matches!(step, Step::Delta { .. }) {
            self.book.start(series, known_from, Point { at, value: meter.value });
        }
        if let ((value, Some(last)), Step::Delta { .. }) = (before, step) {
            let quiet = match meter.source.device.as_deref() {
                Some(device) => self.devices.quiet(device),
                None if self.busy_permille.is_some_and(idle::is_quiet) => Quiet::Empty,
                None => Quiet::No,
            };
            let (energy, nanos) = (meter.value - value, at.0.saturating_sub(last.0));
            meter.idle.observe(energy, nanos, quiet == Quiet::Empty);
            meter.resident_idle.observe(energy, nanos, quiet == Quiet::Resident);
        }
        meter.last = Some(at);
        let raw = meter.tracker.as_ref().and_then(Tracker::baseline);
        let (raw, at) = raw.map_or((0, at), |raw| (raw.raw, raw.at));
        self.baselines.insert(series, Baseline { series, raw, value: meter.value, at, epoch: 0 });
        if let Step::Gap(gap) = step {
            let counts = !matches!(reading.value, Value::Unknown { .. });
            if counts && matches!(gap.reason, GapReason::CounterReset | GapReason::SourceLost) {
                *self.turns.entry((reading.source.clone(), "reset")).or_default() += 1;
            }
            let why = format!(
                "energy between {} s and {} s after boot is unknown: {:?}",
                gap.from.0 / 1_000_000_000,
                gap.to.0 / 1_000_000_000,
                gap.reason
            );
            self.refusals.add(&reading.source, "gap", reading.at, Some(&why));
        }
    }

    /// Makes the meter of a source at its first reading; false if the source is not declared.
    fn begin_meter(&mut self, reading: &Reading, wall: UnixNanos) -> bool {
        let found = self.parts.sources.states().iter().find(|state| state.source.id == reading.source);
        let Some(source) = found.map(|state| state.source.clone()) else { return false };
        let series = self.book.series(&Subject::Energy(Arc::clone(&source)));
        let recovered = self.recovered.get(&series).copied();
        let is_counter = matches!(reading.value, Value::Counter { .. } | Value::Total { .. });
        let tracker = is_counter.then(|| match recovered {
            Some(baseline) if baseline.epoch != STALE => {
                Tracker::resume(source.ceiling, RawBaseline { at: baseline.at, raw: baseline.raw })
            }
            _ => Tracker::new(source.ceiling),
        });
        let tracker = match reading.value {
            Value::Total { .. } => tracker.map(Tracker::endless),
            _ => tracker,
        };
        if let (true, Some(_), Some(then)) = (is_counter, recovered, self.other_boot) {
            let most = source.ceiling.over_nanos(wall.nanos_since(then));
            let high = Microjoules(most.0.saturating_add(most.0 / 4));
            let (from, to, reason) = (BootNanos(0), reading.at, GapReason::Reboot);
            self.book.gap(EnergyGap { series, from, to, reason, low: Microjoules::ZERO, high });
        }
        let stated = match (source.component, source.device.as_deref()) {
            (_, Some(device)) => self.parts.sources.device_idle(device),
            (Component::Cpu, None) if source.collector == "rapl" => self.parts.package_idle,
            _ => None,
        };
        let value = recovered.map_or(0, |baseline| baseline.value);
        let meter = Meter {
            series,
            tracker,
            value,
            last: None,
            gaps: 0,
            // What is inside another source has no floor of its own.
            idle: IdlePower::new(stated.filter(|_| source.contained_in.is_none())),
            resident_idle: IdlePower::new(None),
            source,
        };
        self.meters.insert(meter.source.id.clone(), meter);
        true
    }

    fn device_use(&mut self, used: &[DeviceUse]) {
        let (recovered, users) = (&self.recovered, &self.device_users);
        for used in used {
            let booked = self.devices.take(
                used,
                |pid| users.processes.get(&pid).cloned(),
                &users.holders,
                |series| recovered.get(&series).map_or(0, |baseline| baseline.value),
                &mut self.book,
            );
            for (series, Point { at, value }) in booked.points {
                self.baselines.insert(series, Baseline { series, raw: 0, value, at, epoch: 0 });
            }
            for series in booked.ended {
                self.baselines.remove(&series);
            }
        }
    }

    fn failed(&mut self, failure: &ReadFailure, now: BootNanos) {
        if matches!(failure.reason, "missing" | "gpu_lost" | "unavailable")
            && let Some(meter) = self.meters.get_mut(&failure.source_id)
            && let Some(tracker) = &mut meter.tracker
        {
            tracker.lose();
            if let Some(gap) = tracker.declare_lost(now) {
                meter.gaps += 1;
                let series = meter.series;
                let Unknown { from, to, reason, low, high, .. } = gap;
                self.book.gap(EnergyGap { series, from, to, reason, low, high });
                // Another run of the agent must not bridge what is declared unknown.
                let stale = Baseline { series, raw: 0, value: meter.value, at: BootNanos(0), epoch: STALE };
                self.baselines.insert(series, stale);
            }
        }
        // A source that is off was told when it went, and its collector told of its helper.
        let told = matches!(failure.reason, "unavailable" | "helper" | "stuck" | "late");
        let why = (!told).then_some(failure.why.as_str());
        self.refusals.add(&failure.source_id, failure.reason, now, why);
    }

    fn tell_sources(&mut self) {
        let states = self.parts.sources.states().to_vec();
        let before = self.parts.inventory.borrow().sources.clone();
        for state in states.iter().filter(|state| !before.contains(state)) {
            tell(state);
        }
        // A source that goes on in another way is another series; a later run must not bridge from the old one.
        for state in &states {
            let changed = |meter: &&Meter| meter.source != state.source;
            let Some(series) = self.meters.get(&state.source.id).filter(changed).map(|meter| meter.series) else {
                continue;
            };
            self.meters.remove(&state.source.id);
            if let Some(baseline) = self.baselines.get_mut(&series) {
                *baseline = Baseline { raw: 0, at: BootNanos(0), epoch: STALE, ..*baseline };
            }
        }
        let accelerators = self.parts.sources.accelerators();
        self.parts.inventory.send_modify(|inventory| {
            inventory.sources = states;
            if !accelerators.is_empty() {
                inventory.hardware.accelerators = accelerators;
            }
        });
    }

    fn workloads(&mut self, now: BootNanos, sample: WorkloadSample) {
        for file in &sample.cgroups_refused {
            let why = format!("{} names no control group: nothing is given to its process", file.display());
            self.refusals.add("process", "cgroup_parse", now, Some(&why));
        }
        self.busy_permille = sample.busy_permille.or(self.busy_permille);
        self.busy.add(now, sample.busy_permille, self.parts.inventory.borrow().hardware.threads);
        self.workload_ids = sample.groups;
        self.part_ids = sample.parts;
        self.samples += 1;
        let mut alive = BTreeSet::new();
        for row in sample.rows {
            let id = row.workload.id.clone();
            let series = self.book.series(&Subject::CpuTime(row.workload.into()));
            let begun = self.bases.contains_key(&series);
            let recovered = self.recovered.get(&series).map_or(0, |baseline| baseline.value);
            let base = *self.bases.entry(series).or_insert(recovered);
            let point = Point { at: now, value: base.saturating_add(row.cpu_nanos) };
            let own = Point { at: now, value: row.cpu_nanos };
            let before = self.cpu_points.insert(id.clone(), (series, own));
            match before {
                Some((before, _)) if begun && before == series => self.book.extend(series, point),
                // The workload is described anew (a reservation was found): the new series goes on from the old one's
                // last instant.
                Some((_, last)) => {
                    let from = Point { at: last.at, value: base.saturating_add(last.value) };
                    self.book.start(series, Some(from), point);
                }
                None => {
                    let from = row.origin.map(|at| Point { at, value: base });
                    self.book.start(series, from, point);
                }
            }
            self.baselines.insert(series, Baseline { series, raw: 0, value: point.value, at: now, epoch: 0 });
            if let Some(bytes) = row.memory_bytes {
                self.hold(Subject::Memory { workload: id.clone() }, (now, self.samples), bytes);
            }
            alive.insert(id);
        }
        // A process that ended never comes back; a group may.
        let ended: Vec<String> =
            self.cpu_points.keys().filter(|id| is_brief(id) && !alive.contains(*id)).cloned().collect();
        for id in ended {
            if let Some((series, _)) = self.cpu_points.remove(&id) {
                self.baselines.remove(&series);
                self.bases.remove(&series);
            }
        }
        if let Some(bytes) = sample.node_memory_used {
            self.hold(Subject::NodeMemoryUsed, (now, self.samples), bytes);
        }
    }

    /// Writes a held value: when it changed by more than 1 %, and every fifth row.
    fn hold(&mut self, subject: Subject, (now, turn): (BootNanos, u64), value: u64) {
        let series = self.book.series(&subject);
        let point = Point { at: now, value };
        match self.held.get(&series) {
            Some((_, then)) if turn - then > HELD_ROWS => self.book.start(series, None, point),
            Some((last, then)) => {
                if last.abs_diff(value) <= last / HELD_PART && turn - then < HELD_ROWS {
                    return;
                }
                self.book.extend(series, point);
            }
            None => self.book.start(series, None, point),
        }
        self.held.insert(series, (value, turn));
    }

    fn idle(&mut self, now: BootNanos) {
        let mut idle: Vec<(String, (Milliwatts, IdleOrigin))> = Vec::new();
        idle.extend(self.meters.iter().filter_map(|(id, meter)| Some((id.clone(), meter.idle.get()?))));
        idle.extend(self.parts.sources.estimated_idle().into_iter().map(|(id, power)| (id.to_owned(), power)));
        // A model states its own, which replaces what could be learned from it.
        let told: BTreeMap<_, _> = idle.into_iter().collect();
        for (source, (power, origin)) in told {
            self.hold(Subject::IdlePower { source, origin }, (now, self.rows), power.0);
        }
        let resident: Vec<_> =
            self.meters.iter().filter_map(|(id, meter)| Some((id.clone(), meter.resident_idle.get()?.0))).collect();
        for (source, power) in resident {
            self.hold(Subject::ResidentIdlePower { source }, (now, self.rows), power.0);
        }
    }
}

/// Logs what a source is and whether it is read.
pub fn tell(state: &joulebook_units::SourceState) {
    let source = &state.source;
    match &state.unavailable {
        None => tracing::info!(source = source.id, method = ?source.method, basis = source.basis, "source is read"),
        Some(why) => tracing::warn!(source = source.id, why, "source is not read"),
    }
}

#[cfg(test)]
mod tests;
