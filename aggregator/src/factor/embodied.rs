//! Embodied carbon of hosts: totals by part from what is known of the hardware (methodology A.4).
//!
//! Defaults are single facts with their source here: most are Cloud Carbon Footprint's (ccf-coefficients).

use super::{EmbodiedConfig, FactorError};
use joulebook_sci::embodied::{DEFAULT_LIFESPAN_HOURS, HOST_BASE_KG};
use joulebook_units::{Accelerator, GramsCo2e, Hardware};
use std::collections::{BTreeMap, BTreeSet};

/// Changes whenever a default below does: part of the factors' revision.
pub(super) const REVISION: &str = "embodied defaults 2: ccf-coefficients, NVIDIA HGX PCF, EcoLogits 8-GPU host";

/// Each further socket (ccf-coefficients).
const CPU_KG: f64 = 100.0;
/// Each GiB of memory beyond the base's (ccf-coefficients: 533 kg for 384 GB).
const DRAM_KG_PER_GB: f64 = 533.0 / 384.0;
/// Memory that the base contains, in GiB.
const BASE_MEMORY_GIB: f64 = 16.0;
/// Each disk, solid state (ccf-coefficients).
const DISK_KG: f64 = 100.0;
/// Whole host built around eight accelerators, without them (EcoLogits: AWS p5.48xlarge by BoaviztAPI).
const GPU_HOST_KG: f64 = 5700.0;
/// Accelerators from which a host is one of those.
const GPU_HOST_ACCELERATORS: usize = 8;
/// Each accelerator of an unknown kind (ccf-coefficients).
const GPU_KG: f64 = 150.0;
/// H100 SXM (NVIDIA HGX product carbon footprint: 1312 kg for eight).
const H100_SXM_KG: f64 = 164.0;
/// Share of a virtual machine for each vCPU (ccf-coefficients: m5.24xlarge, 1610.79 kg, 96 vCPU).
const GUEST_KG_PER_VCPU: f64 = 1610.79 / 96.0;

/// Sources of the defaults, as answers name them.
const CCF: &str = "Cloud Carbon Footprint (ccf-coefficients)";
const NVIDIA: &str = "NVIDIA (HGX H100 product carbon footprint)";
const ECOLOGITS: &str = "EcoLogits (host of AWS p5.48xlarge)";

/// Half-widths of 95 % intervals (methodology C).
const STATED_UNCERTAINTY: f64 = 0.30;
const GENERIC_UNCERTAINTY: f64 = 0.50;
const GENERIC_GPU_UNCERTAINTY: f64 = 0.85;

const GRAMS_PER_KG: f64 = 1e3;
const BYTES_PER_GIB: f64 = 1_073_741_824.0;

/// Embodied carbon of one host, or of a guest's share of one.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbodiedFacts {
    /// Totals over the whole life by part: base, cpu, dram, disks, gpu, or guest_share (and gpu) for a guest. A part
    /// whose size is not known is absent and named in `notes`.
    pub parts: BTreeMap<String, GramsCo2e>,
    /// Expected life in hours, above 0.
    pub lifespan_hours: f64,
    /// Where the totals come from.
    pub te_source: String,
    /// Half-width of the 95 % interval as a share of the sum of the parts.
    pub uncertainty: f64,
    /// What was assumed or left out, and why.
    pub notes: Vec<String>,
}

impl EmbodiedFacts {
    /// Sum of the parts.
    pub fn total(&self) -> GramsCo2e {
        self.parts.values().fold(GramsCo2e(0.0), |sum, part| sum + *part)
    }
}

/// Refuses masses below 0 or not finite and a life of no time.
pub(super) fn check(config: &EmbodiedConfig) -> Result<(), FactorError> {
    let masses = [
        ("host_kg", config.host_kg),
        ("cpu_kg", config.cpu_kg),
        ("dram_kg_per_gb", config.dram_kg_per_gb),
        ("disk_kg", config.disk_kg),
        ("gpu_kg", config.gpu_kg),
        ("guest_kg_per_vcpu", config.guest_kg_per_vcpu),
    ];
    for (key, value) in masses {
        if let Some(value) = value.filter(|value| !(0.0..1e6).contains(value)) {
            let key = format!("embodied.{key}");
            return Err(FactorError::OutOfRange { key, value, rule: "0 to 1000000 kg" });
        }
    }
    match config.lifespan_hours.filter(|hours| !(1.0..1e6).contains(hours)) {
        Some(value) => {
            let key = "embodied.lifespan_hours".to_owned();
            Err(FactorError::OutOfRange { key, value, rule: "1 to 1000000 hours" })
        }
        None => Ok(()),
    }
}

/// Totals of a node by part.
pub(super) fn facts(config: &EmbodiedConfig, hardware: &Hardware) -> EmbodiedFacts {
    let mut bill = Bill::default();
    if hardware.guest == Some(true) {
        guest(config, hardware, &mut bill);
    } else {
        if hardware.guest.is_none() {
            bill.notes.push("not known whether the node is a virtual machine: taken as a whole host".to_owned());
        }
        host(config, hardware, &mut bill);
    }
    accelerators(config, &hardware.accelerators, &mut bill);
    let total: f64 = bill.parts.values().map(|grams| grams.0).sum();
    EmbodiedFacts {
        // With nothing in the bill, or parts that weigh nothing, there is nothing to be uncertain about.
        uncertainty: if total > 0.0 { bill.half_width_g / total } else { 0.0 },
        parts: bill.parts,
        lifespan_hours: config.lifespan_hours.unwrap_or(DEFAULT_LIFESPAN_HOURS),
        te_source: te_source(bill.stated, &bill.defaults),
        notes: bill.notes,
    }
}

/// A mass for what is not stated.
#[derive(Clone, Copy)]
struct Assumed {
    kg: f64,
    uncertainty: f64,
    source: &'static str,
}

impl Assumed {
    const fn ccf(kg: f64) -> Self {
        Self { kg, uncertainty: GENERIC_UNCERTAINTY, source: CCF }
    }
}

/// Where totals come from, by name.
fn te_source(stated: bool, defaults: &BTreeSet<&'static str>) -> String {
    let names: Vec<&str> = defaults.iter().copied().collect();
    let defaults = format!("defaults of {}", names.join(", "));
    match (stated, names.is_empty()) {
        (true, true) => "configuration".to_owned(),
        (true, false) => format!("configuration, and {defaults}"),
        (false, false) => defaults,
        (false, true) => "nothing is known of the hardware".to_owned(),
    }
}

#[derive(Default)]
struct Bill {
    parts: BTreeMap<String, GramsCo2e>,
    half_width_g: f64,
    stated: bool,
    defaults: BTreeSet<&'static str>,
    notes: Vec<String>,
}

impl Bill {
    /// Adds `count` times the stated or default mass to a part; half-widths add linearly: one table, one error.
    fn add(&mut self, part: &str, count: f64, stated_kg: Option<f64>, default: Assumed) {
        let grams = count * stated_kg.unwrap_or(default.kg) * GRAMS_PER_KG;
        let uncertainty = if stated_kg.is_some() { STATED_UNCERTAINTY } else { default.uncertainty };
        self.stated |= stated_kg.is_some();
        if stated_kg.is_none() {
            self.defaults.insert(default.source);
        }
        self.half_width_g += grams * uncertainty;
        let entry = self.parts.entry(part.to_owned()).or_default();
        *entry = *entry + GramsCo2e(grams);
    }
}

fn guest(config: &EmbodiedConfig, hardware: &Hardware, bill: &mut Bill) {
    match hardware.threads {
        Some(vcpus) => {
            let kg = config.guest_kg_per_vcpu;
            bill.add("guest_share", f64::from(vcpus), kg, Assumed::ccf(GUEST_KG_PER_VCPU));
            bill.notes.push(format!("virtual machine: share of its host by {vcpus} vCPUs, memory and disks inside"));
        }
        None => bill.notes.push("virtual machine of unknown size: no guest_share".to_owned()),
    }
}

fn host(config: &EmbodiedConfig, hardware: &Hardware, bill: &mut Bill) {
    let stated = [config.host_kg, config.cpu_kg, config.dram_kg_per_gb, config.disk_kg];
    if hardware.accelerators.len() >= GPU_HOST_ACCELERATORS && stated.iter().all(Option::is_none) {
        let default = Assumed { kg: GPU_HOST_KG, uncertainty: GENERIC_UNCERTAINTY, source: ECOLOGITS };
        bill.add("base", 1.0, None, default);
        bill.notes.push("host of eight accelerators or more: cpu, dram and disks are in its base".to_owned());
        return;
    }
    bill.add("base", 1.0, config.host_kg, Assumed::ccf(HOST_BASE_KG));
    match hardware.sockets {
        Some(sockets) => {
            let further = f64::from(sockets.saturating_sub(1));
            bill.add("cpu", further, config.cpu_kg, Assumed::ccf(CPU_KG));
        }
        None => bill.notes.push("number of sockets not known: cpu left out beyond the base's one".to_owned()),
    }
    match hardware.memory_bytes {
        Some(bytes) => {
            #[allow(clippy::cast_precision_loss, reason = "a derived value")]
            let beyond = (bytes as f64 / BYTES_PER_GIB - BASE_MEMORY_GIB).max(0.0);
            bill.add("dram", beyond, config.dram_kg_per_gb, Assumed::ccf(DRAM_KG_PER_GB));
        }
        None => bill.notes.push("memory size not known: dram left out beyond the base's 16 GiB".to_owned()),
    }
    match hardware.disks {
        Some(disks) => bill.add("disks", f64::from(disks), config.disk_kg, Assumed::ccf(DISK_KG)),
        None => bill.notes.push("number of disks not known: disks left out".to_owned()),
    }
}

fn accelerators(config: &EmbodiedConfig, accelerators: &[Accelerator], bill: &mut Bill) {
    for accelerator in accelerators {
        // NVML names the SXM board by its memory; the PCIe one carries HBM2e.
        let sxm = accelerator.model.contains("H100")
            && (accelerator.model.contains("HBM3") || accelerator.model.contains("SXM"));
        let default = match sxm {
            true => Assumed { kg: H100_SXM_KG, uncertainty: STATED_UNCERTAINTY, source: NVIDIA },
            false => Assumed { uncertainty: GENERIC_GPU_UNCERTAINTY, ..Assumed::ccf(GPU_KG) },
        };
        bill.add("gpu", 1.0, config.gpu_kg, default);
    }
}
