//! The seam for energy sources: one file per source, one line in the list.

use crate::config::{Config, Roots};
use estimate::Estimate;
use hwmon::Hwmon;
use ipmi::Ipmi;
use joulebook_units::{Accelerator, BootNanos, Component, Method, Microjoules, SourceState};
use nvml::Nvml;
use rapl::Rapl;
use redfish::Redfish;
use std::collections::{BTreeMap, BTreeSet};

mod attribute;
pub mod estimate;
pub mod gaudi;
pub mod guard;
mod hold;
pub mod hwmon;
pub mod ipmi;
pub mod meter;
pub mod nvml;
pub mod rapl;
pub mod redfish;

/// What a source shows at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A hardware counter in µJ, and the highest value it can show before it wraps, where it wraps and tells.
    Counter {
        /// The counter.
        raw: u64,
        /// Its range.
        range: Option<u64>,
    },
    /// A counter in µJ that never wraps: a fall is a reset.
    Total {
        /// The counter.
        raw: u64,
    },
    /// Energy since this collector's last reading of the source: models and integrated power.
    Increment {
        /// The energy; nothing at the first reading.
        energy: Microjoules,
        /// With the first reading of a source that goes on where another one ended: since when it is energy.
        since: Option<BootNanos>,
    },
    /// The source is read again after a time in which its energy is not known.
    Unknown {
        /// Last instant at which it was.
        since: BootNanos,
        /// Most energy that can have passed.
        high: Microjoules,
    },
}

impl Value {
    /// Energy since the collector's last reading.
    pub fn increment(energy: Microjoules) -> Self {
        Self::Increment { energy, since: None }
    }
}

/// Use of an accelerator over an interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceUse {
    /// Hardware identity of the device.
    pub device: String,
    /// Number of its file in `/dev`, by which it may be allocated; absent where it cannot be told.
    pub minor: Option<u32>,
    /// Begin: the instant of the list before; absent if there is none that this one follows.
    pub since: Option<BootNanos>,
    /// End: when the list was read.
    pub at: BootNanos,
    /// Busy time of the whole device in ns.
    pub busy_nanos: u64,
    /// Compute slices of the whole device where it is divided into instances.
    pub slices: Option<u32>,
    /// The processes on it.
    pub users: Vec<DeviceUser>,
    /// Parts of a divided device on which no process is, by hardware identity.
    pub free: BTreeMap<String, FreePart>,
}

/// What a part of a divided device reserves on which no process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreePart {
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Compute slices in millionths of one.
    pub slice_millionths: u32,
}

/// A process on an accelerator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceUser {
    /// Its pid on the host; −1 if it is none.
    pub pid: i32,
    /// Time of the device's multiprocessors that it used, in ns.
    pub busy_nanos: u64,
    /// Its memory on the device in bytes; absent where it cannot be told.
    pub memory_bytes: Option<u64>,
    /// Compute slices that are reserved for it, in millionths of one, where the device is divided.
    pub slice_millionths: u32,
}

/// One raw value from a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Id of the source, one of those the collector declared.
    pub source: String,
    /// When it was read.
    pub at: BootNanos,
    /// What it showed.
    pub value: Value,
}

/// Why a source gave no reading.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reading source {source_id} failed: {why}")]
pub struct ReadFailure {
    /// Id of the source.
    pub source_id: String,
    /// Reason from a fixed list, for counters: `parse`, `permission`, `masked`, `missing`, `io`,
    /// `dead`, `gpu_lost`, `not_supported`, `implausible`, `nvml`, `gaudi`, `helper`, `stuck`, `late`; of a BMC also `type`,
    /// `stale`, `connect`, `certificate`, `credentials`, `timeout`, `http`, `too_large`, `json`, `unauthorised`, `session_limit`,
    /// `busy`, `length`, `inactive`, `refused`, `group`.
    pub reason: &'static str,
    /// What was tried, why it failed, what to do.
    pub why: String,
}

/// A kind of energy source.
pub trait Collector: Send {
    /// Finds the sources, readable or not. Called at start and again when a source is lost.
    fn discover(&mut self) -> Vec<SourceState>;

    /// Reads every readable source once. A failure concerns its source only.
    fn read(&mut self, now: BootNanos) -> Vec<Result<Reading, ReadFailure>>;

    /// The accelerators that it reads.
    fn accelerators(&self) -> Vec<Accelerator> {
        Vec::new()
    }

    /// Whether a discovery has something new to tell.
    fn has_changed(&self) -> bool {
        false
    }
}

/// Every source of the node: the sensors, and the model for what they leave unmetered.
pub struct Sources {
    sensors: Vec<Box<dyn Collector>>,
    /// Accelerators behind libraries of their makers.
    devices: Vec<Nvml>,
    /// None where the sources are no whole node's.
    estimate: Option<Estimate>,
    seen_only: Vec<SourceState>,
    /// Components that a sensor has metered: it bridges a time in which it cannot be read, so no model may fill it.
    sensed: BTreeSet<Component>,
    states: Vec<SourceState>,
}

impl Sources {
    /// The collectors of a configuration. A new one is one file and one line here.
    pub fn new(config: &Config, roots: &Roots) -> Self {
        let mut sensors: Vec<Box<dyn Collector>> = Vec::new();
        if config.rapl.enabled {
            sensors.push(Box::new(Rapl::new(roots, &config.rapl)));
        }
        if config.hwmon.enabled {
            sensors.push(Box::new(Hwmon::new(roots)));
        }
        if config.redfish.url.is_some() {
            sensors.push(Box::new(Redfish::new(&config.redfish)));
        }
        if config.ipmi.enabled {
            sensors.push(Box::new(Ipmi::new(&config.ipmi)));
        }
        // The collector of the devices says itself which of them it cannot read.
        let mut seen_only = Vec::new();
        let mut devices = Vec::new();
        let makers = [(&nvml::NVIDIA, config.nvml.enabled, config.nvml.clone()), gaudi::configured(&config.gaudi)];
        for (vendor, enabled, section) in makers {
            match enabled {
                true => devices.push(Nvml::of(vendor, roots, &section)),
                false => seen_only.extend((vendor.seen)(roots)),
            }
        }
        Self {
            sensors,
            devices,
            estimate: Some(Estimate::new(roots, &config.estimate)),
            seen_only,
            sensed: BTreeSet::new(),
            states: Vec::new(),
        }
    }

    /// These collectors alone: meters of a node from outside, beside whose parts nothing is to be estimated.
    pub fn of(sensors: Vec<Box<dyn Collector>>) -> Self {
        Self {
            sensors,
            devices: Vec::new(),
            estimate: None,
            seen_only: Vec::new(),
            sensed: BTreeSet::new(),
            states: Vec::new(),
        }
    }

    /// Adds a collector that needs more than the configuration. Before the first discovery.
    pub fn add(&mut self, sensor: Box<dyn Collector>) {
        self.sensors.push(sensor);
    }

    /// Looks for sources; the model takes what no readable sensor meters. Call again when one was lost or found.
    pub fn discover(&mut self) -> &[SourceState] {
        let mut states: Vec<SourceState> = self.sensors.iter_mut().flat_map(|sensor| sensor.discover()).collect();
        let readable = |state: &&SourceState| state.unavailable.is_none();
        let metered = |component| {
            let mut own = states.iter().filter(|state| state.source.component == component);
            self.sensed.contains(&component) || own.any(|state| readable(&state))
        };
        let (cpu, dram) = (!metered(Component::Cpu), !metered(Component::Dram));
        if let Some(estimate) = &mut self.estimate {
            estimate.want(cpu, dram);
            states.extend(estimate.discover());
        }
        states.extend(self.devices.iter_mut().flat_map(Nvml::discover));
        states.extend(self.seen_only.iter().cloned());
        self.states = states;
        &self.states
    }

    /// The sources as last discovered.
    pub fn states(&self) -> &[SourceState] {
        &self.states
    }

    /// Whether sensors were found and none of them can be read.
    pub fn all_refused(&self) -> bool {
        let mut sensors = self.states.iter().filter(|state| state.source.collector != "estimate");
        let any = self.states.iter().any(|state| state.source.collector == "rapl");
        any && sensors.all(|state| state.unavailable.is_some())
    }

    /// The accelerators as their own library or their driver describes them; none where it could not be asked.
    pub fn accelerators(&self) -> Vec<Accelerator> {
        let devices = self.devices.iter().flat_map(Nvml::accelerators);
        devices.chain(self.sensors.iter().flat_map(|sensor| sensor.accelerators())).collect()
    }

    /// Devices by the numbers of their files in `/dev`.
    pub fn minors(&self) -> BTreeMap<u32, String> {
        self.devices.iter().flat_map(Nvml::minors).collect()
    }

    /// Why the library behind a collector gives no device, where it gives none.
    pub fn no_device(&self, collector: &str) -> Option<&str> {
        self.devices.iter().find(|devices| devices.vendor().collector == collector)?.why()
    }

    /// Says that the next reading is the last one: what is asked for elsewhere is waited for.
    pub fn read_last(&mut self) {
        self.devices.iter_mut().for_each(Nvml::read_last);
    }

    /// Power limit of a device in mW that holds now; `None` where it is not known.
    pub fn power_limit(&self, device: &str) -> Option<u64> {
        self.devices.iter().find_map(|devices| devices.power_limit(device))
    }

    /// Use of the accelerators since the last call.
    pub fn device_use(&mut self) -> Vec<DeviceUse> {
        self.devices.iter_mut().flat_map(Nvml::device_use).collect()
    }

    /// Power of a device with nothing resident, as configured or from a table.
    pub fn device_idle(&self, device: &str) -> Option<estimate::Idle> {
        self.devices.iter().find(|devices| devices.has(device))?.stated_idle(device)
    }

    /// Process id of the first helper that holds a maker's library, while it runs.
    pub fn helper_pid(&self) -> Option<u32> {
        self.devices.iter().find_map(Nvml::helper_pid)
    }

    /// Idle power of the modelled sources.
    pub fn estimated_idle(&self) -> Vec<(&'static str, estimate::Idle)> {
        self.estimate.as_ref().map(Estimate::idle).unwrap_or_default()
    }

    /// Reads every source once. If a source died or came to life, the sources are discovered again before the next
    /// reading, and the second value says so.
    pub fn read(&mut self, now: BootNanos) -> (Vec<Result<Reading, ReadFailure>>, bool) {
        // Asked first, so that the devices are read as near the row as the rest.
        let devices: Vec<_> = self.devices.iter_mut().flat_map(|devices| devices.read(now)).collect();
        let mut readings: Vec<_> = self.sensors.iter_mut().flat_map(|sensor| sensor.read(now)).collect();
        readings.extend(self.estimate.as_mut().map(|estimate| estimate.read(now)).unwrap_or_default());
        let unavailable =
            |id: &str| self.states.iter().any(|state| state.source.id == id && state.unavailable.is_some());
        for reading in &readings {
            let id = reading.as_ref().map_or_else(|failure| &failure.source_id, |reading| &reading.source);
            let Some(state) = self.states.iter().find(|state| state.source.id == *id) else { continue };
            match reading {
                Ok(_) if state.source.method == Method::Counter => self.sensed.insert(state.source.component),
                Err(failure) if failure.reason == "dead" => self.sensed.remove(&state.source.component),
                _ => continue,
            };
        }
        let changed = readings.iter().any(|reading| match reading {
            Ok(reading) => unavailable(&reading.source),
            Err(failure) => failure.reason == "dead",
        });
        let changed = changed || self.devices.iter().any(Nvml::has_changed);
        let changed = changed || self.sensors.iter().any(|sensor| sensor.has_changed());
        readings.extend(devices);
        if changed {
            self.discover();
        }
        (readings, changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn no_model_fills_the_time_in_which_a_counter_cannot_be_read() {
        let root = tempfile::tempdir().expect("folder");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("inside")).expect("folder");
            fs::write(path, text).expect("file");
        };
        write("proc/cpuinfo", "processor : 0\nvendor_id : GenuineIntel\n");
        write("proc/stat", "cpu 1 0 0 1 0 0 0 0\n");
        write("sys/class/powercap/intel-rapl:0/name", "package-0\n");
        write("sys/class/powercap/intel-rapl:0/max_energy_range_uj", "262143328850\n");
        write("sys/class/powercap/intel-rapl:0/energy_uj", "5\n");
        let at = |path: &str| root.path().join(path);
        let roots = Roots { sysfs: at("sys"), procfs: at("proc"), cgroup: at("cgroup") };
        let mut sources = Sources::new(&Config::default(), &roots);
        let modelled = |states: &[SourceState]| states.iter().any(|state| state.source.id == "estimate/cpu");
        assert!(!modelled(sources.discover()));
        sources.read(BootNanos(1_000_000_000));
        // The counter counts on unseen: what it shows when it is back is the energy of this time too.
        fs::remove_file(at("sys/class/powercap/intel-rapl:0/energy_uj")).expect("removed");
        assert!(!modelled(sources.discover()));
        // A machine on which it could never be read is modelled.
        let mut others = Sources::new(&Config::default(), &roots);
        assert!(modelled(others.discover()));
    }
}
