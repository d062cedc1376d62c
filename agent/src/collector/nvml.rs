//! Collector `nvml`: energy, power and use of NVIDIA GPUs through NVIDIA's management library.
//!
//! Reads, for each GPU, the energy counter (mJ since the driver was loaded; Volta and later), power in mW (a mean over
//! 1 s or the power now, by generation), and who is on the GPU with how much memory and what share of the
//! multiprocessors' time. Needs access to `/dev/nvidiactl` and `/dev/nvidia*`, no root. The first energy exists at the
//! second reading.
//!
//! The library runs in a [`child`] process. A round is asked for at each row and its answer is taken at the next one,
//! so the agent never waits for the library: a reading carries the instant at which the helper made it. A GPU is named
//! by its UUID, since indices change when one is lost. One that is lost gives no readings, never zeros; after a hang, the
//! others are read on without it.
//!
//! A GPU with a counter has two sources: the counter, and the integral of its power, which the first one contains: the
//! two are compared by whoever reads them, and never added. One without a counter has the integral alone.

use super::estimate::Idle;
use super::{Collector, DeviceUse, ReadFailure, Reading};
use crate::config::{NvmlSection, Roots, milliwatts};
use crate::hardware;
use child::{Event, Helper, Launch, Limits, later};
use gpu::Gpu;
use joulebook_units::{Accelerator, BootNanos, IdleOrigin, Milliwatts, SourceState};
use message::{Line, Request, Shown};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub mod child;
pub mod dcgm;
pub mod edge;
pub mod gpu;
pub mod library;
pub mod message;
mod mig;
pub mod serve;
pub mod table;

/// How long the last row waits for its readings.
const LAST_PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait for one line.
const WAIT_SLICE: Duration = Duration::from_millis(50);
/// Longest time for which a start of the agent waits to know which GPUs there are.
const START_WAIT: Duration = Duration::from_secs(5);
/// Time between two readings of the processes on the GPUs, in ns: a row of 1 s always has one.
const PROCESSES_NANOS: u64 = 900_000_000;
/// Longest time for which a GPU on which calls hang is left alone.
const LONGEST_SKIP: Duration = Duration::from_secs(3_600);
/// Rows that may meet a round which is not complete before it is called stuck, and its least age.
const OVERDUE_ROWS: u32 = 2;
const OVERDUE: Duration = Duration::from_millis(500);
/// Looking for NVIDIA's hardware where none was found takes place this often, in ns.
const LOOK_NANOS: u64 = 60_000_000_000;

/// A maker whose devices are read in this way, through its library in a process of its own.
#[derive(Debug)]
pub struct Vendor {
    /// Name of the collector, with which the ids of its sources begin.
    pub collector: &'static str,
    /// The library, in words.
    pub library: &'static str,
    /// The first argument that makes a program the helper.
    pub helper: &'static str,
    /// What the system shows of the maker's hardware, as sources that are not read.
    pub seen: fn(&Roots) -> Vec<SourceState>,
}

/// NVIDIA.
pub static NVIDIA: Vendor = Vendor {
    collector: "nvml",
    library: "NVIDIA's library",
    helper: serve::HELPER,
    seen: |roots| hardware::unread_sources(&hardware::nvidia(roots), "nvml"),
};

/// The collector.
#[derive(Debug)]
pub struct Nvml {
    vendor: &'static Vendor,
    helper: Helper,
    /// How long a reading waits for its own round.
    patience: Duration,
    limits: Limits,
    /// Idle power of one GPU, if it is configured.
    idle: Option<Milliwatts>,
    /// What the system shows of NVIDIA's hardware, for saying what is not read.
    seen: Vec<SourceState>,
    /// Whether the library is to be tried although nothing is seen.
    insist: bool,
    started: bool,
    looked: Option<BootNanos>,
    roots: Roots,
    gpus: BTreeMap<String, Gpu>,
    /// GPUs that the library lists now.
    listed: BTreeSet<String>,
    driver: Option<String>,
    /// Why no GPU is read.
    why: Option<String>,
    /// GPUs that are left alone: until when, and for how long the next time.
    skipped: BTreeMap<String, (u64, Duration)>,
    /// When the round was asked for, on the helper's clock.
    asked: u64,
    /// How far the agent's clock is ahead of the helper's: not at all, unless it is moved by hand.
    ahead: i128,
    /// Whether it is: then time stands still between rows, and nothing is read after the row that takes it.
    by_hand: bool,
    asked_processes: Option<BootNanos>,
    failing_since: Option<u64>,
    /// Rows in a row that met a round which is not complete.
    overdue: u32,
    /// The round that tells which GPUs there are is not complete: what it reads belongs to no row.
    priming: bool,
    /// GPUs that this reading heard of.
    heard: BTreeSet<String>,
    used: Vec<DeviceUse>,
    /// The row that is being read: no reading is later.
    row: BootNanos,
    /// Something about the sources changed that a discovery has to tell.
    changed: bool,
}

impl Nvml {
    /// A collector of what the roots show; starts nothing yet.
    pub fn new(roots: &Roots, section: &NvmlSection) -> Self {
        Self::of(&NVIDIA, roots, section)
    }

    /// The same of another maker.
    pub fn of(vendor: &'static Vendor, roots: &Roots, section: &NvmlSection) -> Self {
        let program = section.helper.clone().or_else(|| std::env::current_exe().ok()).unwrap_or_default();
        let launch = Launch {
            vendor,
            program,
            library: section.library.clone(),
            dcgm: section.dcgm_url.clone(),
            limits: section.limits,
        };
        Self {
            vendor,
            helper: Helper::new(launch),
            patience: section.patience,
            limits: section.limits,
            idle: section.idle_watts.map(milliwatts),
            seen: (vendor.seen)(roots),
            insist: section.library.is_some(),
            started: false,
            looked: None,
            roots: roots.clone(),
            gpus: BTreeMap::new(),
            listed: BTreeSet::new(),
            driver: None,
            why: None,
            skipped: BTreeMap::new(),
            asked: 0,
            ahead: i128::MIN,
            by_hand: !section.patience.is_zero(),
            asked_processes: None,
            failing_since: None,
            overdue: 0,
            priming: false,
            heard: BTreeSet::new(),
            used: Vec::new(),
            row: BootNanos(0),
            changed: false,
        }
    }

    /// The maker.
    pub fn vendor(&self) -> &'static Vendor {
        self.vendor
    }

    /// Process id of the helper while it runs.
    pub fn helper_pid(&self) -> Option<u32> {
        self.helper.pid()
    }

    /// Says that the next reading is the last one: it waits for its own round, unless calls hang anyway.
    pub fn read_last(&mut self) {
        if self.overdue < OVERDUE_ROWS {
            self.patience = self.patience.max(LAST_PATIENCE);
        }
    }

    /// Use of the GPUs since the last call.
    pub fn device_use(&mut self) -> Vec<DeviceUse> {
        std::mem::take(&mut self.used)
    }

    /// Whether a discovery has something new to tell.
    pub fn has_changed(&self) -> bool {
        self.changed
    }

    /// Why no GPU is read, where none is.
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// The GPUs as the library describes them; none where it could not be asked.
    pub fn accelerators(&self) -> Vec<Accelerator> {
        self.gpus.values().map(|gpu| gpu.accelerator(self.driver.as_deref())).collect()
    }

    /// GPUs by the numbers of their files in `/dev`.
    pub fn minors(&self) -> impl Iterator<Item = (u32, String)> {
        self.gpus.iter().filter_map(|(uuid, gpu)| Some((gpu.minor()?, uuid.clone())))
    }

    /// Whether a device is one of these.
    pub fn has(&self, device: &str) -> bool {
        self.gpus.contains_key(device)
    }

    /// Power limit of a GPU in mW that holds now.
    pub fn power_limit(&self, device: &str) -> Option<u64> {
        self.gpus.get(device)?.power_limit()
    }

    /// Power of a GPU with nothing resident, as configured or from a table.
    pub fn stated_idle(&self, device: &str) -> Option<Idle> {
        let configured = self.idle.map(|power| (power, IdleOrigin::Configured));
        let of_model = || table::idle(self.gpus.get(device)?.model()).map(|power| (power, IdleOrigin::Table));
        configured.or_else(of_model)
    }

    fn ensure(&mut self) {
        if !self.insist && self.seen.is_empty() {
            return;
        }
        if let Err(why) = self.helper.ensure() {
            self.give_up(why);
        }
    }

    /// No GPU is read from now on, and why.
    fn give_up(&mut self, why: String) {
        for gpu in self.gpus.values_mut() {
            gpu.stop(why.clone());
        }
        self.why = Some(why);
        self.changed = true;
    }

    fn take(&mut self, events: Vec<Event>, readings: &mut Vec<Result<Reading, ReadFailure>>) {
        for event in events {
            match event {
                Event::Line(Line::Devices { driver, devices }) => {
                    self.driver = driver;
                    self.why = devices.is_empty().then(|| format!("{} finds no device", self.vendor.library));
                    self.listed = devices.iter().map(|facts| facts.uuid.clone()).collect();
                    for facts in devices {
                        let known = self.gpus.get_mut(&facts.uuid).map(|gpu| gpu.learn(&facts));
                        self.changed |= known.unwrap_or(true);
                        if known.is_none() {
                            self.gpus.insert(facts.uuid.clone(), Gpu::new(facts, self.vendor.collector));
                        }
                    }
                }
                Event::Line(Line::Device(_)) if self.priming => {}
                Event::Line(Line::Device(shown)) => self.shown(&shown, readings),
                Event::Line(Line::Failed { why }) => self.give_up(why),
                Event::Line(Line::End) => self.priming = false,
                Event::Line(Line::Begin { .. }) => {}
                Event::Gone { why, hung_on, failed } => self.gone(&why, hung_on, failed),
            }
        }
    }

    fn shown(&mut self, shown: &Shown, readings: &mut Vec<Result<Reading, ReadFailure>>) {
        let (ahead, latest) = (self.ahead, self.by_hand.then_some(self.row));
        let at = |helper: u64| {
            let at = i128::from(helper).saturating_add(ahead).clamp(0, i128::from(u64::MAX));
            let at = BootNanos(u64::try_from(at).unwrap_or(u64::MAX));
            latest.map_or(at, |latest| at.min(latest))
        };
        let Some(gpu) = self.gpus.get_mut(&shown.uuid) else { return };
        self.heard.insert(shown.uuid.clone());
        let was_off = gpu.is_off();
        gpu.take(shown, &at, readings, &mut self.used);
        self.changed |= was_off != gpu.is_off();
        if shown.energy.is_ok() || shown.power.is_ok() {
            for name in gpu.names() {
                self.skipped.remove(&name);
            }
            self.failing_since = None;
        } else if self.gpus.values().all(Gpu::is_failing) {
            self.failing_since.get_or_insert(library::now());
        }
    }

    fn gone(&mut self, why: &str, hung_on: Option<String>, failed: bool) {
        (self.overdue, self.priming) = (0, false);
        if let Some(device) = hung_on {
            let now = library::now();
            let pause = self.skipped.get(&device).map_or(self.limits.skip, |(_, next)| *next);
            let entry = (later(now, pause), (pause * 2).min(LONGEST_SKIP));
            if let Some(gpu) = self.gpus.values_mut().find(|gpu| gpu.is_named(&device)) {
                gpu.stop(why.to_owned());
                self.changed = true;
                // Where one call hangs, the next may: it is not even opened.
                self.skipped.extend(gpu.names().map(|name| (name, entry)));
            }
            self.skipped.insert(device, entry);
        }
        if !failed {
            tracing::warn!(why, "{} is started again in a new process", self.vendor.library);
            self.why = Some(why.to_owned());
        }
        for gpu in self.gpus.values_mut() {
            gpu.lose_sight();
        }
    }

    /// What the GPUs say that gave no reading.
    fn tell_silent(&mut self, readings: &mut Vec<Result<Reading, ReadFailure>>) {
        let (listed, heard) = (&self.listed, &self.heard);
        let stuck = self.overdue >= OVERDUE_ROWS;
        let runs = self.helper.pid().is_some();
        for (uuid, gpu) in self.gpus.iter_mut().filter(|(uuid, _)| !heard.contains(*uuid)) {
            let was_off = gpu.is_off();
            if !listed.contains(uuid) {
                readings.push(Err(gpu.absent()));
                self.changed |= !was_off;
            } else if was_off {
                readings.push(Err(gpu.failure("unavailable", "it is not read")));
            } else if stuck || !runs {
                readings.push(Err(gpu.failure(if stuck { "stuck" } else { "helper" }, "no answer")));
            }
        }
    }

    fn skipped_now(&self) -> BTreeSet<String> {
        let now = library::now();
        self.skipped.iter().filter(|(_, (until, _))| *until > now).map(|(uuid, _)| uuid.clone()).collect()
    }

    /// Waits for the end of the round, as long as patience lasts.
    fn wait(&mut self, readings: &mut Vec<Result<Reading, ReadFailure>>) {
        let begin = library::now();
        while self.helper.is_outstanding() {
            let left = self.patience.saturating_sub(Duration::from_nanos(library::now().saturating_sub(begin)));
            if left.is_zero() {
                return;
            }
            // In slices: a hang shows at a poll.
            let events = self.helper.poll(left.min(WAIT_SLICE));
            self.take(events, readings);
        }
    }

    fn ask(&mut self, now: BootNanos) -> bool {
        let processes = self.asked_processes.is_none_or(|last| now.0.saturating_sub(last.0) >= PROCESSES_NANOS);
        let request = Request { skip: self.skipped_now().into_iter().collect(), processes };
        let helper_now = library::now();
        if !self.helper.ask(&request) {
            return false;
        }
        self.asked = helper_now;
        // A row that is held up after it looked at its clock seems to lag: the largest difference is the right one.
        self.ahead = self.ahead.max(i128::from(now.0) - i128::from(helper_now));
        if processes {
            self.asked_processes = Some(now);
        }
        true
    }
}

impl Collector for Nvml {
    fn discover(&mut self) -> Vec<SourceState> {
        if !std::mem::replace(&mut self.started, true) {
            self.ensure();
            // Which GPUs there are belongs to what the agent says of its node at first; nothing is read yet.
            self.priming =
                self.helper.ask(&Request { skip: self.skipped_now().into_iter().collect(), processes: false });
            let begin = library::now();
            let mut none = Vec::new();
            while self.helper.pid().is_some() && self.gpus.is_empty() && self.why.is_none() {
                let left = START_WAIT.saturating_sub(Duration::from_nanos(library::now().saturating_sub(begin)));
                if left.is_zero() {
                    break;
                }
                let events = self.helper.poll(left.min(WAIT_SLICE));
                self.take(events, &mut none);
            }
        }
        self.changed = false;
        if self.gpus.is_empty() {
            let why = self.why.clone().unwrap_or_else(|| format!("{} has not answered yet", self.vendor.library));
            return self
                .seen
                .iter()
                .map(|seen| SourceState { unavailable: Some(why.clone()), ..seen.clone() })
                .collect();
        }
        self.gpus.values().flat_map(|gpu| gpu.states(self.driver.as_deref())).collect()
    }

    fn read(&mut self, now: BootNanos) -> Vec<Result<Reading, ReadFailure>> {
        let mut readings = Vec::new();
        self.row = now;
        self.heard.clear();
        if self.seen.is_empty() && !self.insist && self.looked.is_none_or(|at| now.0.saturating_sub(at.0) >= LOOK_NANOS)
        {
            self.looked = Some(now);
            self.seen = (self.vendor.seen)(&self.roots);
        }
        self.ensure();
        let events = self.helper.poll(Duration::ZERO);
        self.take(events, &mut readings);
        self.wait(&mut readings);
        if self.ask(now) {
            self.overdue = 0;
            self.wait(&mut readings);
        } else if self.helper.is_outstanding() && library::now() >= later(self.asked, OVERDUE) {
            self.overdue += 1;
            if self.overdue == OVERDUE_ROWS {
                tracing::warn!("a call of {} has not returned; the other sources go on", self.vendor.library);
            }
        }
        self.tell_silent(&mut readings);
        if self.failing_since.is_some_and(|since| library::now() >= later(since, self.limits.all_fail)) {
            self.failing_since = None;
            self.helper.restart();
            let time = humantime::format_duration(self.limits.all_fail);
            self.give_up(format!("every call of {} has failed for {time}", self.vendor.library));
        }
        readings
    }
}
