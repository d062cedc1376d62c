//! `joulebook-agent doctor`: what this node can measure, what it cannot and why, and what would mend it.
//!
//! Reads every source for a few seconds exactly as the agent does, changes nothing and speaks to nobody but the node's own
//! kubelet. Where NVIDIA's `nvidia-smi` is installed, its watts stand beside ours.

pub mod counting;
mod kubelet;
pub mod smi;
mod text;

use crate::clock::Clock;
use crate::collector::{Reading, Sources, Value};
use crate::config::{Config, Role, Roots};
use crate::counter::{Step, Tracker};
use crate::hardware;
use crate::poller;
use joulebook_units::{BootNanos, Component, Hardware, Method, Source, SourceState};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

pub use kubelet::Held;
pub use text::write;

/// What was found on a node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Findings {
    /// The node's name.
    pub node: String,
    /// Version of the agent that looked.
    pub agent_version: String,
    /// For how long it measured, in seconds.
    pub measured_s: f64,
    /// Every source, readable or not.
    pub sources: Vec<Finding>,
    /// Sum of the power of what is read, contained sources and whole-node meters left out, in W; null if nothing was.
    pub components_w: Option<f64>,
    /// What is not there at all, and what would bring it.
    pub absent: Vec<Absent>,
    /// Devices that containers hold by allocation; null if no kubelet tells it.
    pub held: Option<Vec<Held>>,
    /// Names of such devices that stand for none that is known: who holds it is not known.
    pub unresolved: Vec<Held>,
    /// GPUs as `nvidia-smi` shows them; null if it is not installed or fails.
    pub nvidia_smi: Option<Vec<smi::Gpu>>,
    /// Where the requests of the configured servers are counted.
    pub targets: Vec<counting::Counting>,
}

/// One source.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// Its identity.
    pub id: String,
    /// The part that it meters: `cpu`, `dram`, `accelerator`, `wall` or `other`.
    pub component: &'static str,
    /// `counter`, `integrated_power` or `estimated`.
    pub method: &'static str,
    /// The source that contains it: the two are never added.
    pub contained_in: Option<String>,
    /// Mean power while it was measured, in W; null if it gave none.
    pub w: Option<f64>,
    /// Half-width of the 95 % interval in per cent.
    pub uncertainty_percent: f64,
    /// What it stands on: file, table row, model.
    pub basis: String,
    /// Why it is not read, or why a reading failed, and what would mend it; null if all is well.
    pub why: Option<String>,
    /// What `nvidia-smi` shows for its device, in W.
    pub nvidia_smi_w: Option<f64>,
}

/// A kind of source of which this node has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Absent {
    /// The kind.
    pub kind: &'static str,
    /// Why, and what would bring it.
    pub why: String,
    /// Whether the configuration names it: then it should be there.
    pub configured: bool,
}

impl Findings {
    /// Whether everything that is there, or should be, is read.
    pub fn is_all_read(&self) -> bool {
        self.sources.iter().all(|source| source.w.is_some()) && !self.absent.iter().any(|absent| absent.configured)
    }
}

/// How long to measure, and how often to look.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Time from the first reading to the last one.
    pub time: Duration,
    /// Readings in it.
    pub readings: u32,
}

impl Default for Look {
    fn default() -> Self {
        Self { time: Duration::from_secs(3), readings: 6 }
    }
}

/// Energy of one source while it is measured.
struct Meter {
    tracker: Option<Tracker>,
    first: Option<BootNanos>,
    last: Option<BootNanos>,
    microjoules: u64,
    why: Option<String>,
}

/// Looks at this node, or at the meters of a poller's subjects. `smi` is the program whose watts stand beside ours.
pub fn look(config: &Config, node: String, clock: &dyn Clock, look: Look, smi: &Path) -> Findings {
    let (hardware, mut sources) = match config.role {
        Role::Node => (hardware::discover(&config.roots), Sources::new(config, &config.roots)),
        Role::BmcPoller => (Hardware::default(), poller::meters(config)),
    };
    sources.discover();
    let mut meters: BTreeMap<String, Meter> = BTreeMap::new();
    let (begin, pause) = (clock.boot(), look.time / look.readings.max(1));
    let mut smi_gpus = None;
    for reading in 0..=look.readings {
        if reading > 0 {
            thread::sleep(pause);
        }
        if reading == look.readings {
            sources.read_last();
        }
        let (shown, _) = sources.read(clock.boot());
        for one in shown {
            let id = one.as_ref().map_or_else(|failure| &failure.source_id, |reading| &reading.source).clone();
            let state = sources.states().iter().find(|state| state.source.id == id);
            let Some(source) = state.map(|state| state.source.clone()) else { continue };
            let meter = meters.entry(id).or_insert_with(|| Meter::of(&source));
            match one {
                Ok(reading) => meter.take(&source, &reading),
                Err(failure) => meter.why = Some(failure.why),
            }
        }
        // In the middle of it, so that both see the same load.
        if reading == look.readings / 2 && sources.accelerators().iter().any(|gpu| gpu.device.is_some()) {
            smi_gpus = smi::gpus(smi);
        }
    }
    let measured_s = Duration::from_nanos(clock.boot().0.saturating_sub(begin.0)).as_secs_f64();
    let found: Vec<Finding> = sources
        .states()
        .iter()
        .map(|state| finding(state, meters.get(&state.source.id), smi_gpus.as_deref()))
        .collect();
    let added = |state: &&SourceState| state.source.contained_in.is_none() && state.source.component != Component::Wall;
    let watts: Vec<f64> = (sources.states().iter().zip(&found))
        .filter(|(state, _)| added(state))
        .filter_map(|(_, finding)| finding.w)
        .collect();
    let (mut absent, mut held, mut unresolved) = (Vec::new(), None, Vec::new());
    if config.role == Role::Node {
        absent = absent_sources(config, &hardware, &sources);
        match kubelet::held(&config.kubelet, &sources.minors()) {
            Ok(found) => (held, unresolved) = (Some(found.held), found.unresolved),
            Err(none) => absent.push(none),
        }
    }
    Findings {
        node,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        measured_s,
        absent,
        held,
        unresolved,
        sources: found,
        components_w: (!watts.is_empty()).then(|| watts.iter().sum()),
        nvidia_smi: smi_gpus,
        targets: if config.role == Role::Node { counting::targets(config) } else { Vec::new() },
    }
}

impl Meter {
    fn of(source: &Source) -> Self {
        let tracker = (source.method == Method::Counter).then(|| Tracker::new(source.ceiling));
        Self { tracker, first: None, last: None, microjoules: 0, why: None }
    }

    fn take(&mut self, source: &Source, reading: &Reading) {
        let step = match (&reading.value, &mut self.tracker) {
            (Value::Counter { raw, range }, Some(tracker)) => tracker.observe(reading.at, *raw, *range),
            (Value::Total { raw }, Some(tracker)) => tracker.observe(reading.at, *raw, None),
            (Value::Increment { .. }, _) if self.first.is_none() => Step::First,
            (Value::Increment { energy, .. }, _) => Step::Delta { microjoules: energy.0, wrapped: false },
            (Value::Unknown { .. }, _) => Step::First,
            (Value::Counter { .. } | Value::Total { .. }, None) => return,
        };
        match step {
            Step::First | Step::Gap(_) => {
                (self.first, self.last, self.microjoules) = (Some(reading.at), Some(reading.at), 0);
            }
            Step::Delta { microjoules, .. } => {
                self.microjoules = self.microjoules.saturating_add(microjoules);
                self.last = Some(reading.at);
            }
            Step::Hold(_) => {}
            Step::Skip(refused) => self.why = Some(format!("{}: a reading was refused: {refused:?}", source.id)),
        }
    }

    fn watts(&self) -> Option<f64> {
        let nanos = self.last?.0.checked_sub(self.first?.0).filter(|nanos| *nanos > 0)?;
        // µJ ÷ ns = 10³ W; far below 2⁵³ in a few seconds.
        Some(self.microjoules as f64 * 1e3 / nanos as f64)
    }
}

fn finding(state: &SourceState, meter: Option<&Meter>, gpus: Option<&[smi::Gpu]>) -> Finding {
    let source = &state.source;
    let smi = source.device.as_deref().filter(|_| source.contained_in.is_none());
    let smi = smi.and_then(|device| gpus?.iter().find(|gpu| gpu.uuid == device)?.w);
    let w = meter.and_then(Meter::watts);
    let silent = || (w.is_none()).then(|| "it moved in no reading: measure for longer with --seconds".to_owned());
    Finding {
        id: source.id.clone(),
        component: source.component.name(),
        method: method(source.method),
        contained_in: source.contained_in.clone(),
        w,
        uncertainty_percent: f64::from(source.uncertainty_permille) / 10.0,
        basis: source.basis.clone(),
        why: state.unavailable.clone().or_else(|| meter.and_then(|meter| meter.why.clone())).or_else(silent),
        nvidia_smi_w: smi,
    }
}

fn method(method: Method) -> &'static str {
    match method {
        Method::Counter => "counter",
        Method::IntegratedPower => "integrated_power",
        Method::Estimated => "estimated",
    }
}

/// Kinds of sources that this node does not have, in words.
fn absent_sources(config: &Config, hardware: &Hardware, sources: &Sources) -> Vec<Absent> {
    let states = sources.states();
    let any = |collector: &str| states.iter().any(|state| state.source.collector == collector);
    let is_guest = hardware.guest == Some(true);
    let off = |kind: &str| format!("it is switched off in the configuration ([{kind}] enabled)");
    let mut absent = Vec::new();
    let mut add = |kind, why, configured| absent.push(Absent { kind, why, configured });
    if !config.rapl.enabled {
        add("rapl", off("rapl"), false);
    } else if !any("rapl") {
        add("rapl", no_zones(&config.roots.sysfs.join("class/powercap"), is_guest), false);
    }
    if !config.nvml.enabled {
        add("nvml", off("nvml"), false);
    } else if !any("nvml") {
        let none = "no NVIDIA device is on the PCI bus, and no library is named with --nvml-lib";
        add("nvml", sources.no_device("nvml").unwrap_or(none).to_owned(), config.nvml.library.is_some());
    }
    if !config.gaudi.enabled {
        add("gaudi", off("gaudi"), false);
    } else if !any("gaudi") {
        let none = "no Gaudi accelerator is on the PCI bus, and gaudi.library names no library";
        add("gaudi", sources.no_device("gaudi").unwrap_or(none).to_owned(), config.gaudi.library.is_some());
    }
    if !states.iter().any(|state| state.source.component == Component::Wall) {
        add("wall", no_wall(&config.roots, is_guest), false);
    }
    absent
}

fn no_zones(folder: &Path, is_guest: bool) -> String {
    let folder = folder.display();
    if is_guest {
        return format!("{folder} has no zone: this is a virtual machine, and its host does not show the counters");
    }
    format!(
        "{folder} has no zone: load the kernel module intel_rapl_msr (Intel and AMD), or name the host's sysfs with \
         --sysfs-root"
    )
}

fn no_wall(roots: &Roots, is_guest: bool) -> String {
    if is_guest {
        return "nothing meters the whole node: a virtual machine has no board of its own".to_owned();
    }
    let hwmon = roots.sysfs.join("class/hwmon");
    format!(
        "nothing meters the whole node: no ACPI power meter is in {}, and no board controller is configured; without one \
         the loss of the power supply and fans are estimated",
        hwmon.display()
    )
}
