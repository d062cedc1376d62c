//! A node profile: what hardware there is and what it draws. The numbers carry their sources in the file.

use crate::error::{Result, SimError, at};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// A profile file; what the simulator has no view for is left unread.
#[derive(Debug, Clone, Deserialize)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// The processors.
    pub cpu: Cpu,
    /// The accelerators.
    pub gpus: Option<Gpus>,
    /// An ACPI power meter at the node's input.
    pub acpi_meter: Option<AcpiMeter>,
    /// Power by group of leaves.
    pub leaves_w: BTreeMap<String, Levels>,
    /// What the supplies pass on; all of it where nothing is said.
    pub psu_efficiency: Option<Efficiency>,
    /// The BMC.
    pub bmc: Option<BmcFacts>,
}

/// Part of the input that the supplies pass on.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Efficiency {
    /// While the node rests.
    pub idle: f64,
    /// While it works.
    pub active: f64,
}

/// What is known of the BMC.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct BmcFacts {
    /// Time between two looks of its sensors, in s.
    pub refresh_s: u64,
}

/// The processors.
#[derive(Debug, Clone, Deserialize)]
pub struct Cpu {
    /// As `/proc/cpuinfo` names it.
    pub vendor: String,
    /// Name of the model.
    pub model: String,
    /// Packages.
    pub sockets: u32,
    /// Rated power of one package in W.
    pub tdp_w: u32,
    /// The powercap tree, where there is one.
    pub rapl: Option<Rapl>,
    /// Labels of power channels of hwmon.
    pub hwmon: Option<Vec<String>>,
    /// Time over which these average, in ms.
    pub hwmon_window_ms: Option<u32>,
    /// Cores of a socket that have an energy counter in hwmon.
    pub hwmon_cores: Option<u32>,
}

/// An ACPI power meter at the node's input.
#[derive(Debug, Clone, Deserialize)]
pub struct AcpiMeter {
    /// Time over which it averages, in ms.
    pub window_ms: u32,
    /// Part of the input that reaches the leaves.
    pub efficiency_permille: u32,
}

/// The powercap tree.
#[derive(Debug, Clone, Deserialize)]
pub struct Rapl {
    /// `package`, `dram`, `core`.
    pub zones: Vec<String>,
    /// Whether there is a zone for the platform.
    #[serde(default)]
    pub psys: bool,
    /// Unit of the register in nJ.
    pub unit_nj: u64,
    /// Unit of the memory's register where it differs.
    pub dram_unit_nj: Option<u64>,
    /// Unit of the platform's register where it differs.
    pub psys_unit_nj: Option<u64>,
}

/// The accelerators.
#[derive(Debug, Clone, Deserialize)]
pub struct Gpus {
    /// `nvidia` or `amd`.
    pub vendor: String,
    /// How many.
    pub count: u32,
    /// Name of the model.
    pub model: String,
    /// Power limit in W.
    pub limit_w: u32,
    /// Driver version.
    #[serde(default)]
    pub driver: String,
    /// Step of the energy counter in ms; `None` where nothing is known of one.
    pub energy_counter_ms: Option<u32>,
    /// Window of the instantaneous power in ms.
    pub power_instant_window_ms: Option<u32>,
    /// Time between values in ms.
    pub power_instant_period_ms: Option<u32>,
    /// Window of the average power in ms.
    pub power_average_ms: Option<u32>,
    /// Whether devices can be divided.
    #[serde(default)]
    pub mig_capable: bool,
    /// Whether field values tell the module's power in scope 1.
    #[serde(default)]
    pub field_scope_module: bool,
}

/// Power of one leaf at rest and at work.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Levels {
    /// At rest.
    pub idle: Watts,
    /// With a model in memory and nothing to do.
    pub loaded_idle: Option<Watts>,
    /// At work.
    pub active: Watts,
}

/// A power.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Watts {
    /// In whole W.
    pub w: u32,
}

impl Watts {
    /// In µW.
    pub fn microwatts(self) -> i64 {
        i64::from(self.w) * 1_000_000
    }
}

impl Profile {
    /// Reads a profile.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(at(path))?;
        serde_json::from_str(&text)
            .map_err(|error| SimError::Profile { name: path.display().to_string(), why: error.to_string() })
    }

    /// Leaves by name, with their levels: `…_each` is one for each package (`cpu0.pkg`) or GPU (`gpu0`).
    pub fn leaves(&self) -> BTreeMap<String, Levels> {
        let gpus = self.gpus.as_ref().map_or(0, |gpus| gpus.count);
        let mut leaves = BTreeMap::new();
        for (group, levels) in &self.leaves_w {
            match (group.strip_prefix("cpu_").and_then(|rest| rest.strip_suffix("_each")), group.as_str()) {
                (Some(part), _) => {
                    leaves.extend((0..self.cpu.sockets).map(|socket| (format!("cpu{socket}.{part}"), *levels)));
                }
                (None, "gpu_each") => leaves.extend((0..gpus).map(|gpu| (format!("gpu{gpu}"), *levels))),
                (None, other) => {
                    leaves.insert(other.strip_suffix("_total").unwrap_or(other).to_owned(), *levels);
                }
            }
        }
        leaves
    }
}
