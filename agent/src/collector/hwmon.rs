//! Collector `hwmon`: power meters and energy counters below `<sysfs>/class/hwmon`.
//!
//! One family a file: ACPI power meters, Grace and Grace-Hopper, Ampere Altra, AMD and Intel accelerators, systems on a
//! module. Each says which channels of a chip it knows, what they meter, and what contains them; a channel that nobody
//! knows gives nothing. Powers are µW and are integrated between two readings, energies are µJ. No privilege but for
//! Intel's counters. The first energy exists at the second reading.
//!
//! A source names the source that contains it, so that the two are never added; a wall contains everything, and is never
//! added to anything. A container that has never been read contains nothing: what it would contain counts by itself.

use super::guard::{self, Guard, Outcome, Probe};
use super::{Collector, ReadFailure, Reading, Value};
use crate::config::Roots;
use channel::{Channel, Measure, Refusal, Role, Shown};
use chip::Chip;
use integral::Integral;
use joulebook_units::{Accelerator, BootNanos, Component, Layer, Method, Milliwatts, Scope, Source, SourceState};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

mod acpi_meter;
mod altra;
mod amdgpu;
pub mod channel;
pub mod chip;
pub mod grace;
mod integral;
mod intel_gpu;
mod rails;

/// The families. A new one is one file and one line here.
const FAMILIES: [fn(&Chip) -> Vec<Channel>; 6] =
    [acpi_meter::channels, grace::channels, altra::channels, amdgpu::channels, intel_gpu::channels, rails::channels];

/// Most channels that are read.
const MOST_CHANNELS: usize = 512;
/// Half-width of the 95 % interval of energy over a minute and more: makers state 5 % at best.
const UNCERTAINTY_PERMILLE: u32 = 50;
/// The same for a difference of several meters.
const DIFFERENCE_PERMILLE: u32 = 200;
/// What is gone is looked for this often, in ns: a driver that comes back gives its chip another number.
const LOOK_NANOS: u64 = 30_000_000_000;

/// The channels of a node, each with what contains it.
pub fn channels(sysfs: &Path) -> Vec<Channel> {
    let chips = Chip::list(sysfs);
    let of = |chip: &Chip| FAMILIES.iter().flat_map(|family| family(chip)).collect::<Vec<_>>();
    let mut channels: Vec<Channel> = chips.iter().flat_map(of).take(MOST_CHANNELS).collect();
    let wall = channels.iter().position(|channel| channel.role == Role::Wall);
    let containers: Vec<Option<usize>> = channels
        .iter()
        .map(|channel| {
            let mut inside = channel.inside.iter();
            let here = |role: &Role| channels.iter().position(|o| o.role == *role && o.group == channel.group);
            inside.find_map(here).or(wall.filter(|_| channel.role != Role::Wall))
        })
        .collect();
    for (channel, container) in channels.iter_mut().zip(containers) {
        channel.container = container;
    }
    channels
}

/// The collector.
#[derive(Debug)]
pub struct Hwmon {
    sysfs: PathBuf,
    meters: BTreeMap<String, Meter>,
    /// The channels of the meters.
    channels: Guard<Channel>,
    differences: Vec<Difference>,
    /// When it was looked for what is gone.
    looked: Option<BootNanos>,
}

/// One channel as it is read.
#[derive(Debug)]
struct Meter {
    channel: Channel,
    integral: Integral,
    /// It has given a value once.
    proven: bool,
    /// Why it is not read, as the discovery said: it is tried at every reading, and not told again.
    off: Option<String>,
    missing: bool,
}

/// What is the difference of several meters.
#[derive(Debug)]
struct Difference {
    source: Source,
    whole: String,
    parts: Vec<String>,
    integral: Integral,
}

impl Hwmon {
    /// A collector below the given roots; opens nothing yet.
    pub fn new(roots: &Roots) -> Self {
        let (meters, channels, differences) = (BTreeMap::new(), Guard::default(), Vec::new());
        Self { sysfs: roots.sysfs.clone(), meters, channels, differences, looked: None }
    }

    /// Puts what the folders show now in the place of what they showed.
    fn look(&mut self) -> Vec<Channel> {
        let found = channels(&self.sysfs);
        let ids: BTreeSet<String> = found.iter().map(id).collect();
        self.meters.retain(|id, meter| meter.proven || ids.contains(id));
        for channel in &found {
            let new = || Meter {
                channel: channel.clone(),
                integral: Integral::default(),
                proven: false,
                off: None,
                missing: false,
            };
            self.meters.entry(id(channel)).or_insert_with(new).channel = channel.clone();
            self.channels.insert(id(channel), channel.clone());
        }
        let meters = &self.meters;
        self.channels.retain(|id| meters.contains_key(id));
        found
    }

    /// Id of the source that contains a channel: the nearest container that is read and added itself.
    fn container(&self, found: &[Channel], channel: &Channel) -> Option<String> {
        let mut next = channel.container;
        // Each container stands further out, so the way is shorter than the list.
        for _ in 0..found.len() {
            let container = found.get(next?)?;
            let read = self.meters.get(&id(container)).is_some_and(|meter| meter.off.is_none());
            if read && container.component != Component::Wall {
                return Some(id(container));
            }
            next = container.container;
        }
        None
    }

    fn differ(&mut self, found: &[Channel]) {
        let before = std::mem::take(&mut self.differences);
        for difference in grace::differences(found) {
            let of = |index: &usize| found.get(*index).map(id);
            let (Some(whole), Some(parts)) =
                (of(&difference.whole), difference.parts.iter().map(of).collect::<Option<Vec<_>>>())
            else {
                continue;
            };
            let known = |id: &String| self.meters.get(id).is_some_and(|meter| meter.off.is_none());
            if !known(&whole) || !parts.iter().all(known) {
                continue;
            }
            let socket = difference.socket.map_or_else(String::new, |socket| format!("/{socket}"));
            let ceiling = found.get(difference.whole).map_or(Milliwatts(0), |whole| whole.ceiling);
            let source = Source {
                id: format!("hwmon/{}{socket}", difference.name),
                component: difference.component,
                socket: difference.socket,
                device: None,
                collector: "hwmon".to_owned(),
                method: Method::Estimated,
                unit_nanojoules: None,
                ceiling,
                uncertainty_permille: DIFFERENCE_PERMILLE,
                contained_in: Some(whole.clone()),
                scope: None,
                basis: format!("{whole} − {}", parts.join(" − ")),
            };
            let integral = before.iter().find(|other| other.source.id == source.id).map(|other| other.integral.clone());
            self.differences.push(Difference { source, whole, parts, integral: integral.unwrap_or_default() });
        }
    }
}

/// The layer of a superchip's module: within the node, and around some of its parts.
fn board() -> Scope {
    Scope { layer: Layer::Board, name: String::new(), members: Vec::new() }
}

/// Identity of a channel's source: that of its device, since the numbers of chips change.
fn id(channel: &Channel) -> String {
    format!("hwmon/{}/{}/{}", channel.chip.name, channel.chip.identity(), channel.channel)
}

fn source(channel: &Channel, contained_in: Option<String>) -> Source {
    let accelerator = channel.component == Component::Accelerator;
    let file = match &channel.measure {
        Measure::Power { file, .. } | Measure::Energy { file } | Measure::Product { amperes: file, .. } => {
            file.display()
        }
    };
    Source {
        id: id(channel),
        component: channel.component,
        socket: channel.socket,
        device: channel.chip.pci_address().filter(|_| accelerator).map(str::to_owned),
        collector: "hwmon".to_owned(),
        method: if matches!(channel.measure, Measure::Energy { .. }) {
            Method::Counter
        } else {
            Method::IntegratedPower
        },
        unit_nanojoules: None,
        ceiling: channel.ceiling,
        uncertainty_permille: UNCERTAINTY_PERMILLE,
        contained_in,
        scope: (channel.role == Role::Module).then(board),
        basis: channel.label.as_ref().map_or_else(|| file.to_string(), |label| format!("{file}, {label}")),
    }
}

impl Collector for Hwmon {
    fn discover(&mut self) -> Vec<SourceState> {
        let found = self.look();
        for (id, outcome) in self.channels.round() {
            let Some(meter) = self.meters.get_mut(&id) else { continue };
            let shown = meter.shown(outcome);
            meter.proven |= shown.is_ok();
            meter.off = shown.err().filter(|_| !meter.proven).map(|refusal| refusal.why);
        }
        self.differ(&found);
        let state = |channel: &Channel| {
            let meter = self.meters.get(&id(channel))?;
            let source = source(channel, self.container(&found, channel));
            Some(SourceState { source: source.into(), unavailable: meter.off.clone() })
        };
        let mut states: Vec<SourceState> = found.iter().filter_map(state).collect();
        let differences = self.differences.iter();
        states.extend(differences.map(|one| SourceState { source: one.source.clone().into(), unavailable: None }));
        states
    }

    fn read(&mut self, now: BootNanos) -> Vec<Result<Reading, ReadFailure>> {
        let late = self.looked.is_none_or(|looked| now.0.saturating_sub(looked.0) >= LOOK_NANOS);
        if late && self.meters.values().any(|meter| meter.missing) {
            self.looked = Some(now);
            self.look();
        }
        let mut readings = Vec::new();
        let mut powers: BTreeMap<&str, u64> = BTreeMap::new();
        let outcomes = self.channels.round();
        for (id, outcome) in &outcomes {
            let Some(meter) = self.meters.get_mut(id) else { continue };
            let shown = meter.shown(outcome.clone());
            meter.missing = shown.as_ref().is_err_and(|refusal| refusal.reason == "missing");
            if let Ok(Shown::Microwatts(power)) = shown {
                powers.insert(id, power);
            }
            readings.extend(meter.reading(id, now, shown));
        }
        for Difference { source, whole, parts, integral } in &mut self.differences {
            let of = |id: &String| powers.get(id.as_str()).copied();
            let Some(power) = grace::left(of(whole), parts.iter().map(of)) else { continue };
            let value = integral.take(now, milliwatts(power), None, source.ceiling);
            readings.extend(value.map(|value| Ok(Reading { source: source.id.clone(), at: now, value })));
        }
        readings
    }

    fn accelerators(&self) -> Vec<Accelerator> {
        let found = self.meters.values().filter(|meter| meter.proven);
        let cards = found.filter(|meter| matches!(meter.channel.role, Role::Gpu | Role::Card));
        cards.map(|meter| accelerator(&meter.channel.chip)).collect()
    }
}

fn accelerator(chip: &Chip) -> Accelerator {
    let of_bus = |attribute| chip.text(attribute).unwrap_or_default();
    let numbers = || format!("PCI device {}:{} ({})", of_bus("vendor"), of_bus("device/device"), chip.name);
    Accelerator {
        device: chip.pci_address().map(str::to_owned),
        model: chip.text("product_name").filter(|name| !name.is_empty()).unwrap_or_else(numbers),
        driver: None,
        memory_bytes: chip.number("mem_info_vram_total").filter(|bytes| *bytes > 0),
    }
}

/// To the nearest mW.
fn milliwatts(microwatts: u64) -> Milliwatts {
    Milliwatts(microwatts.saturating_add(500) / 1_000)
}

impl Probe for Channel {
    type Shown = Result<Shown, Refusal>;

    fn read(&mut self) -> Self::Shown {
        Self::read(self)
    }
}

impl Meter {
    fn shown(&self, outcome: Outcome<Result<Shown, Refusal>>) -> Result<Shown, Refusal> {
        let (Measure::Power { file, .. } | Measure::Energy { file } | Measure::Product { amperes: file, .. }) =
            &self.channel.measure;
        match outcome {
            Outcome::Shown(shown) => shown,
            Outcome::Stuck => Err(Refusal { reason: "stuck", why: guard::stuck(file) }),
            Outcome::Late => Err(Refusal { reason: "late", why: format!("{} had no turn", file.display()) }),
        }
    }

    /// `None` for one that is off and still gives nothing.
    fn reading(
        &mut self,
        id: &str,
        now: BootNanos,
        shown: Result<Shown, Refusal>,
    ) -> Option<Result<Reading, ReadFailure>> {
        let value = match shown {
            Ok(Shown::Microwatts(power)) => {
                self.integral.take(now, milliwatts(power), self.channel.window, self.channel.ceiling)?
            }
            // A core may rest for long, an accelerator that is powered always draws something.
            Ok(Shown::Microjoules(raw)) if self.channel.role == Role::Core => Value::Counter { raw, range: None },
            Ok(Shown::Microjoules(raw)) => Value::Total { raw },
            Err(_) if self.off.is_some() => return None,
            Err(Refusal { reason, why }) => return Some(Err(ReadFailure { source_id: id.to_owned(), reason, why })),
        };
        self.proven = true;
        Some(Ok(Reading { source: id.to_owned(), at: now, value }))
    }
}

#[cfg(test)]
mod tests;
