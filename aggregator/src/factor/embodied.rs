//! Embodied carbon of hosts: totals by part from what is known of the hardware (methodology A.4).
//!
//! Defaults are single facts with their source here: most are Cloud Carbon Footprint's (ccf-coefficients). The source's name
//! says which stages of life a figure covers: none holds use, none holds its end.

use super::instance;
use super::label::INSTANCE_TYPE;
use super::mapping::instant;
use super::{EmbodiedConfig, FactorError, NodeEmbodiedConfig};
use joulebook_sci::embodied::{Accrual, Aged, DEFAULT_LIFESPAN_HOURS, Extension, HOST_BASE_KG, accrued};
use joulebook_units::{Accelerator, GramsCo2e, Hardware, UnixNanos, Window};
use std::collections::{BTreeMap, BTreeSet};

/// Changes whenever a default below does: part of the factors' revision.
pub(super) const REVISION: &str = "embodied defaults 5: ccf-coefficients, NVIDIA HGX PCF, EcoLogits 8-GPU host";

/// Each further socket (ccf-coefficients).
const CPU_KG: f64 = 100.0;
/// Each GiB of memory beyond the base's (ccf-coefficients: 533 kg for 384 GB).
const DRAM_KG_PER_GB: f64 = 533.0 / 384.0;
/// Memory that the base contains, in GiB.
const BASE_MEMORY_GIB: f64 = 16.0;
/// Each disk, solid state (ccf-coefficients).
const DISK_KG: f64 = 100.0;
/// Each disk that rotates (ccf-coefficients).
const HARD_DISK_KG: f64 = 50.0;
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
const CCF: &str = "Cloud Carbon Footprint (ccf-coefficients; manufacture)";
const NVIDIA: &str = "NVIDIA (HGX H100 product carbon footprint; cradle to gate)";
const ECOLOGITS: &str = "EcoLogits (host of AWS p5.48xlarge; manufacture)";

/// Half-widths of 95 % intervals (methodology C).
const STATED_UNCERTAINTY: f64 = 0.30;
const GENERIC_UNCERTAINTY: f64 = 0.50;
const GENERIC_GPU_UNCERTAINTY: f64 = 0.85;

const GRAMS_PER_KG: f64 = 1e3;
const BYTES_PER_GIB: f64 = 1_073_741_824.0;

/// Embodied carbon of one host, or of a guest's share of one.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbodiedFacts {
    /// Totals over the whole life by part: base, cpu, dram, disks, network, gpu; guest_share (and gpu) for a guest; instance
    /// for one of a cloud that a table knows; whole where the operator states one figure. A part
    /// whose size is not known is absent and named in `notes`.
    pub parts: BTreeMap<String, GramsCo2e>,
    /// Expected life in hours, above 0.
    pub lifespan_hours: f64,
    /// Where the totals come from.
    pub te_source: String,
    /// Half-width of the 95 % interval as a share of the sum of the parts.
    pub uncertainty: f64,
    /// When it came into service; absent where nobody says: then it is not past its life.
    pub since: Option<UnixNanos>,
    /// When its life was extended, and to how many hours.
    pub extended: Option<(UnixNanos, f64)>,
    /// What was assumed or left out, and why.
    pub notes: Vec<String>,
}

/// The operator's figures, checked, over the defaults.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Catalogue {
    config: EmbodiedConfig,
    since: Option<UnixNanos>,
    extended: Option<(UnixNanos, f64)>,
    nodes: BTreeMap<String, Option<UnixNanos>>,
    instances: BTreeMap<String, Option<UnixNanos>>,
    /// What is known of cloud instances, in kg.
    table: BTreeMap<String, f64>,
}

impl EmbodiedFacts {
    /// Sum of the parts.
    pub fn total(&self) -> GramsCo2e {
        self.parts.values().fold(GramsCo2e(0.0), |sum, part| sum + *part)
    }

    /// What it accrues over `nanos` of a window, by its age where that is known.
    pub fn accrue(&self, window: Window, nanos: u64) -> Accrual {
        let nothing = Accrual { grams: GramsCo2e(0.0), fully_amortised: false };
        let Some(since) = self.since else {
            return accrued(self.total(), nanos, self.lifespan_hours)
                .map_or(nothing, |grams| Accrual { grams, ..nothing });
        };
        let age = |at: UnixNanos| hours(at.nanos_since(since));
        let aged = Aged { total: self.total(), lifespan_hours: self.lifespan_hours, age_hours: age(window.start()) };
        let extension = self.extended.map(|(at, lifespan_hours)| Extension { age_hours: age(at), lifespan_hours });
        aged.accrue_extended(nanos, extension).unwrap_or(nothing)
    }

    /// What becomes of a host that outlives its expected life, in the words of the methodology.
    pub fn age_policy(&self) -> &'static str {
        match (self.since, self.extended) {
            (Some(_), Some(_)) => "extend",
            _ => "stop_at_el",
        }
    }

    /// The life that is expected of it by now, in hours.
    pub(crate) fn expected_hours(&self) -> f64 {
        self.extended.filter(|_| self.since.is_some()).map_or(self.lifespan_hours, |(_, hours)| hours)
    }
}

#[allow(clippy::cast_precision_loss, reason = "a derived value")]
fn hours(nanos: u64) -> f64 {
    nanos as f64 / 3.6e12
}

impl Catalogue {
    /// Refuses masses below 0 or not finite, a life of no time and times that are none.
    pub(super) fn new(config: &EmbodiedConfig) -> Result<Self, FactorError> {
        check(config)?;
        let since = time("in_service_since", config.in_service_since.as_ref())?;
        let extended = time("extended_at", config.extended_at.as_ref())?;
        let life = config.lifespan_hours.unwrap_or(DEFAULT_LIFESPAN_HOURS);
        let refused = |key: &str, rule: &str| FactorError::Contradiction {
            key: format!("embodied.{key}"),
            rule: rule.to_owned(),
        };
        let extended = match (extended, config.extended_lifespan_hours) {
            (None, None) => None,
            (Some(_), Some(hours)) if hours <= life => {
                return Err(refused("extended_lifespan_hours", "it must be longer than lifespan_hours"));
            }
            (Some(at), Some(hours)) => Some((at, hours)),
            _ => return Err(refused("extended_at", "it goes with extended_lifespan_hours alone")),
        };
        let ages = |named: &BTreeMap<String, NodeEmbodiedConfig>| {
            let age = |(name, own): (&String, &NodeEmbodiedConfig)| {
                Ok((name.clone(), time("in_service_since", own.in_service_since.as_ref())?))
            };
            named.iter().map(age).collect::<Result<BTreeMap<_, _>, FactorError>>()
        };
        let (nodes, instances) = (ages(&config.node)?, ages(&config.instance)?);
        let aged = since.is_some() || nodes.values().chain(instances.values()).any(Option::is_some);
        if extended.is_some() && !aged {
            return Err(refused("extended_at", "it needs in_service_since: the age of no host is known"));
        }
        Ok(Self { config: config.clone(), since, extended, nodes, instances, table: instance::by_type()? })
    }

    /// The operator's figures as they are configured.
    pub(super) fn config(&self) -> &EmbodiedConfig {
        &self.config
    }

    /// Totals of a node by part.
    pub(super) fn facts(&self, node: &str, labels: &BTreeMap<String, String>, hardware: &Hardware) -> EmbodiedFacts {
        let instance = labels.get(INSTANCE_TYPE);
        let of_instance = instance.and_then(|name| self.config.instance.get(name));
        let named = self.config.node.get(node);
        let mut bill = Bill::default();
        let stated = [named, of_instance].into_iter().flatten().find(|own| own.total_kg.is_some());
        match stated.and_then(|own| Some((own, own.total_kg?))) {
            Some((own, kg)) => {
                bill.add("whole", 1.0, Some(kg), Assumed::ccf(kg));
                bill.named = own.source.clone();
            }
            None => match instance.and_then(|name| Some((name, *self.table.get(name)?))) {
                Some((name, kg)) if !states_parts(&self.config) => {
                    let default = Assumed { kg, uncertainty: GENERIC_UNCERTAINTY, source: instance::SOURCE };
                    bill.add("instance", 1.0, None, default);
                    bill.notes.push(format!("instance {name}: its share of its host, accelerators and storage inside"));
                    network(&self.config, &mut bill);
                }
                _ => parts(&self.config, hardware, &mut bill),
            },
        }
        let since = self.nodes.get(node).copied().flatten();
        let since = since.or_else(|| self.instances.get(instance?).copied().flatten()).or(self.since);
        let total: f64 = bill.parts.values().map(|grams| grams.0).sum();
        EmbodiedFacts {
            // With nothing in the bill, or parts that weigh nothing, there is nothing to be uncertain about.
            uncertainty: if total > 0.0 { bill.half_width_g / total } else { 0.0 },
            te_source: bill.named.take().unwrap_or_else(|| te_source(bill.stated, &bill.defaults)),
            parts: bill.parts,
            lifespan_hours: self.config.lifespan_hours.unwrap_or(DEFAULT_LIFESPAN_HOURS),
            since,
            extended: self.extended,
            notes: bill.notes,
        }
    }
}

fn time(key: &str, text: Option<&String>) -> Result<Option<UnixNanos>, FactorError> {
    let read = text.map(|text| instant(text, None)).transpose();
    read.map_err(|rule| FactorError::Contradiction { key: format!("embodied.{key}"), rule })
}

fn check(config: &EmbodiedConfig) -> Result<(), FactorError> {
    let masses = [
        ("host_kg", config.host_kg),
        ("cpu_kg", config.cpu_kg),
        ("dram_kg_per_gb", config.dram_kg_per_gb),
        ("disk_kg", config.disk_kg),
        ("hard_disk_kg", config.hard_disk_kg),
        ("gpu_kg", config.gpu_kg),
        ("guest_kg_per_vcpu", config.guest_kg_per_vcpu),
        ("network_kg", config.network_kg),
    ];
    let masses = masses.into_iter().map(|(key, value)| (key.to_owned(), value));
    let by_model = config.gpu_kg_by_model.iter().map(|(name, kg)| (format!("gpu_kg_by_model.{name}"), Some(*kg)));
    let named = [("node", &config.node), ("instance", &config.instance)];
    let named = named
        .into_iter()
        .flat_map(|(kind, all)| all.iter().map(move |(name, own)| (format!("{kind}.{name}.total_kg"), own.total_kg)));
    for (key, value) in masses.chain(by_model).chain(named) {
        if let Some(value) = value.filter(|value| !(0.0..1e6).contains(value)) {
            let key = format!("embodied.{key}");
            return Err(FactorError::OutOfRange { key, value, rule: "0 to 1000000 kg" });
        }
    }
    let lives =
        [("lifespan_hours", config.lifespan_hours), ("extended_lifespan_hours", config.extended_lifespan_hours)];
    for (key, hours) in lives {
        if let Some(value) = hours.filter(|hours| !(1.0..1e6).contains(hours)) {
            let key = format!("embodied.{key}");
            return Err(FactorError::OutOfRange { key, value, rule: "1 to 1000000 hours" });
        }
    }
    Ok(())
}

/// The parts of a node, one by one.
fn parts(config: &EmbodiedConfig, hardware: &Hardware, bill: &mut Bill) {
    if hardware.guest == Some(true) {
        guest(config, hardware, bill);
    } else {
        if hardware.guest.is_none() {
            bill.notes.push("not known whether the node is a virtual machine: taken as a whole host".to_owned());
        }
        host(config, hardware, bill);
    }
    network(config, bill);
    accelerators(config, &hardware.accelerators, bill);
}

fn network(config: &EmbodiedConfig, bill: &mut Bill) {
    match config.network_kg {
        Some(kg) => bill.add("network", 1.0, Some(kg), Assumed::ccf(kg)),
        None => bill.notes.push("network gear left out: no figure is stated".to_owned()),
    }
}

/// Whether the operator states what parts weigh: then no table of whole instances takes their place.
fn states_parts(config: &EmbodiedConfig) -> bool {
    let disks = config.disk_kg.or(config.hard_disk_kg);
    let parts = [config.host_kg, config.cpu_kg, config.dram_kg_per_gb, disks, config.gpu_kg, config.guest_kg_per_vcpu];
    parts.iter().any(Option::is_some) || !config.gpu_kg_by_model.is_empty()
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
    /// The one source of a figure for the whole.
    named: Option<String>,
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
    let stated = [config.host_kg, config.cpu_kg, config.dram_kg_per_gb, config.disk_kg, config.hard_disk_kg];
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
        Some(disks) => {
            // Where it is not told which rotate, all are taken for what has the larger figure.
            let rotating = hardware.rotating_disks.unwrap_or(0).min(disks);
            bill.add("disks", f64::from(disks - rotating), config.disk_kg, Assumed::ccf(DISK_KG));
            if rotating > 0 {
                let kg = config.hard_disk_kg.or(config.disk_kg);
                bill.add("disks", f64::from(rotating), kg, Assumed::ccf(HARD_DISK_KG));
            }
        }
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
        let named = config.gpu_kg_by_model.iter().filter(|(name, _)| accelerator.model.contains(name.as_str()));
        let named = named.max_by_key(|(name, _)| name.len()).map(|(_, kg)| *kg);
        bill.add("gpu", 1.0, named.or(config.gpu_kg), default);
    }
}
