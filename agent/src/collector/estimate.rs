//! Collector `estimate`: CPU and memory energy by a model, for what no sensor of the node meters.
//!
//! Reads `<procfs>/stat`, `cpuinfo` and `meminfo`; no privilege. The first value exists at the second reading.
//! CPU power = idle + (full − idle) × utilisation. Full load is configured, or the thermal design power of the table
//! row that matches the model name, or 3.5 W a hardware thread; idle is configured or 0.74 ⁄ 3.5 of full load: the
//! mean of AWS's CPUs in Cloud Carbon Footprint (0.74 W at rest and 3.5 W at full load a vCPU). Memory is 0.3725 W per
//! 10⁹ bytes (Green Algorithms, Lannelongue et al. 2021). The 95 % interval is taken as ±40 % for both.
//!
//! In a guest the part's power is scaled by vCPUs ÷ hardware threads of the part. The table does not tell those; the
//! guest's `siblings` is believed only if the part's power per thread then is one that parts have (at most 12 W), for
//! a guest usually sees a made-up topology. Otherwise the default per thread is used.

use super::{Collector, ReadFailure, Reading, Value};
use crate::config::{EstimateSection, RaplSection, Roots, milliwatts};
use crate::hardware::{self, Cpu};
use crate::process::proc::{CpuTimes, cpu_times, memory, read_text};
use joulebook_units::{
    BootNanos, Component, DRAM_TENTH_MILLIWATTS_PER_GIGABYTE, IdleOrigin, Method, Microjoules, Milliwatts, Source,
    SourceState,
};

pub mod table;

/// Id of the CPU estimate.
pub const CPU: &str = "estimate/cpu";
/// Id of the memory estimate.
pub const DRAM: &str = "estimate/dram";

/// Cloud Carbon Footprint, mean of AWS's CPUs: power of a vCPU at rest and at full load.
const VCPU_IDLE_MILLIWATTS: u64 = 740;
const VCPU_FULL_MILLIWATTS: u64 = 3_500;
/// No part has more thermal design power a hardware thread.
const THREAD_MOST_MILLIWATTS: u64 = 12_000;
const UNCERTAINTY_PERMILLE: u32 = 400;
/// mW × ns in a µJ.
const PICOJOULES: u128 = 1_000_000;

/// Idle power and where it comes from.
pub type Idle = (Milliwatts, IdleOrigin);

/// The collector. It models only what it is told to.
#[derive(Debug)]
pub struct Estimate {
    roots: Roots,
    section: EstimateSection,
    wanted: (bool, bool),
    cpu: Option<Model>,
    dram: Option<Model>,
    last: Option<(BootNanos, CpuTimes)>,
    dram_last: Option<BootNanos>,
}

/// A modelled part: its power at rest and at full load, and the energy that did not fill a µJ yet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Model {
    idle: Idle,
    full: Milliwatts,
    basis: String,
    carried_picojoules: u128,
}

impl Estimate {
    /// A model below the given roots; models nothing before [`Estimate::want`] and `discover`.
    pub fn new(roots: &Roots, section: &EstimateSection) -> Self {
        Self {
            roots: roots.clone(),
            section: section.clone(),
            wanted: (false, false),
            cpu: None,
            dram: None,
            last: None,
            dram_last: None,
        }
    }

    /// Says which parts no sensor meters.
    pub fn want(&mut self, cpu: bool, dram: bool) {
        self.wanted = (cpu, dram);
    }

    /// Idle power of each modelled source.
    pub fn idle(&self) -> Vec<(&'static str, Idle)> {
        let parts = [(CPU, &self.cpu), (DRAM, &self.dram)];
        parts.into_iter().filter_map(|(id, model)| Some((id, model.as_ref()?.idle))).collect()
    }

    fn source(id: &str, component: Component, model: &Model) -> SourceState {
        let source = Source {
            id: id.to_owned(),
            component,
            socket: None,
            device: None,
            collector: "estimate".to_owned(),
            method: Method::Estimated,
            unit_nanojoules: None,
            ceiling: Milliwatts(model.full.0.max(1)),
            uncertainty_permille: UNCERTAINTY_PERMILLE,
            contained_in: None,
            scope: None,
            basis: model.basis.clone(),
        };
        SourceState { source: source.into(), unavailable: None }
    }
}

impl Collector for Estimate {
    fn discover(&mut self) -> Vec<SourceState> {
        let mut found = Vec::new();
        if self.wanted.0 {
            let cpu = hardware::cpu(&self.roots.procfs);
            let model = self.cpu.take().unwrap_or_else(|| cpu_model(&cpu, &self.section));
            found.push(Self::source(CPU, Component::Cpu, &model));
            self.cpu = Some(model);
        } else {
            self.cpu = None;
            self.last = None;
        }
        let bytes = read_text(&self.roots.procfs.join("meminfo")).and_then(|text| memory(&text, "MemTotal"));
        self.dram = match (self.wanted.1, bytes) {
            (true, Some(bytes)) => {
                let model = self.dram.take().unwrap_or_else(|| dram_model(bytes, &self.section));
                found.push(Self::source(DRAM, Component::Dram, &model));
                Some(model)
            }
            _ => {
                self.dram_last = None;
                None
            }
        };
        found
    }

    fn read(&mut self, now: BootNanos) -> Vec<Result<Reading, ReadFailure>> {
        let mut readings = Vec::new();
        if let Some(model) = &mut self.cpu {
            match cpu_times(&self.roots.procfs) {
                Some(times) => {
                    let (at, then) = *self.last.get_or_insert((now, times));
                    let total = times.total.saturating_sub(then.total);
                    // The kernel counts in ticks of 10 ms: too short an interval is joined to the next one.
                    if total > 0 && now > at {
                        let busy = times.busy.saturating_sub(then.busy).min(total);
                        self.last = Some((now, times));
                        readings.push(Ok(model.reading(CPU, at, now, busy, total)));
                    } else if now == at {
                        readings.push(Ok(model.reading(CPU, at, now, 0, 1)));
                    }
                }
                None => readings.push(Err(ReadFailure {
                    source_id: CPU.to_owned(),
                    reason: "missing",
                    why: format!(
                        "{} could not be read; name the host's procfs with --procfs-root",
                        self.roots.procfs.join("stat").display()
                    ),
                })),
            }
        }
        if let Some(model) = &mut self.dram {
            let at = self.dram_last.replace(now).unwrap_or(now);
            readings.push(Ok(model.reading(DRAM, at, now, 0, 1)));
        }
        readings
    }
}

impl Model {
    /// Energy from `from` to `now` at `busy` of `total` parts of full load.
    fn reading(&mut self, id: &str, from: BootNanos, now: BootNanos, busy: u64, total: u64) -> Reading {
        let (idle, full) = (u128::from(self.idle.0.0), u128::from(self.full.0));
        let total = u128::from(total.max(1));
        let weighted = idle * total + full.saturating_sub(idle) * u128::from(busy);
        let nanos = u128::from(now.0.saturating_sub(from.0));
        let picojoules = weighted * nanos / total + self.carried_picojoules;
        self.carried_picojoules = picojoules % PICOJOULES;
        let microjoules = u64::try_from(picojoules / PICOJOULES).unwrap_or(u64::MAX);
        Reading { source: id.to_owned(), at: now, value: Value::increment(Microjoules(microjoules)) }
    }
}

fn cpu_model(cpu: &Cpu, section: &EstimateSection) -> Model {
    let (full, described, origin) = full_load(cpu, section);
    let share = |full: u64| {
        let idle = u128::from(full) * u128::from(VCPU_IDLE_MILLIWATTS) / u128::from(VCPU_FULL_MILLIWATTS);
        Milliwatts(u64::try_from(idle).unwrap_or(full))
    };
    let (idle, basis) = match section.idle_watts {
        Some(watts) => ((milliwatts(watts), IdleOrigin::Configured), format!("{described}; idle as configured")),
        None => {
            ((share(full.0), origin), format!("{described}; idle 0.74/3.5 of it (Cloud Carbon Footprint, AWS mean)"))
        }
    };
    Model { idle, full: full.max(idle.0), basis, carried_picojoules: 0 }
}

/// Power at full load, what it stands on in words, and what an idle power derived from it is.
fn full_load(cpu: &Cpu, section: &EstimateSection) -> (Milliwatts, String, IdleOrigin) {
    if let Some(watts) = section.tdp_watts {
        return (milliwatts(watts), format!("configured TDP {watts} W"), IdleOrigin::Configured);
    }
    let threads = u64::from(cpu.threads.max(1));
    let name = cpu.model.as_deref().unwrap_or("unknown");
    let default = |why: &str| {
        let full = Milliwatts(threads.saturating_mul(VCPU_FULL_MILLIWATTS));
        let basis = format!("3.5 W for each of {threads} threads (Cloud Carbon Footprint, AWS mean): {why}");
        (full, basis, IdleOrigin::Default)
    };
    let Some(row) = table::find(name) else {
        return default(&format!("no table row matches `{name}`"));
    };
    let part = row.tdp;
    let matched = format!("`{}` TDP {} W (CodeCarbon {}) for `{name}`", row.name, part.to_watts(), table::VERSION);
    if cpu.guest != Some(true) {
        let sockets = u64::from(cpu.sockets.unwrap_or(1));
        return (
            Milliwatts(part.0.saturating_mul(sockets)),
            format!("{matched}, {sockets} socket(s)"),
            IdleOrigin::Table,
        );
    }
    match cpu.siblings.map(u64::from).filter(|siblings| part.0 <= siblings.saturating_mul(THREAD_MOST_MILLIWATTS)) {
        Some(siblings) => {
            let full = u128::from(part.0) * u128::from(threads) / u128::from(siblings);
            let full = Milliwatts(u64::try_from(full).unwrap_or(u64::MAX));
            (full, format!("{matched}, {threads} of its {siblings} threads"), IdleOrigin::Table)
        }
        None => default(&format!("matched `{}`, whose threads the guest does not tell", row.name)),
    }
}

/// Idle power of one of `packages` metered CPU packages: configured, or that of the matching table row, or of the
/// default per thread.
pub fn package_idle(cpu: &Cpu, rapl: &RaplSection, packages: u64) -> Option<Idle> {
    if let Some(watts) = rapl.idle_watts {
        return Some((milliwatts(watts), IdleOrigin::Configured));
    }
    let (whole, origin) = cpu_model(cpu, &EstimateSection::default()).idle;
    Some((Milliwatts(whole.0.checked_div(packages)?), origin))
}

fn dram_model(bytes: u64, section: &EstimateSection) -> Model {
    let per_byte = |tenth_milliwatts: u128| {
        Milliwatts(u64::try_from(u128::from(bytes) * tenth_milliwatts / 10_000_000_000).unwrap_or(u64::MAX))
    };
    let (power, origin, rate) = match section.dram_watts_per_gigabyte {
        Some(watts) => {
            let rate = u128::from(milliwatts(watts).0).saturating_mul(10);
            (per_byte(rate), IdleOrigin::Configured, format!("configured {watts} W/GB"))
        }
        None => {
            let rate = "0.3725 W/GB (Green Algorithms)".to_owned();
            (per_byte(u128::from(DRAM_TENTH_MILLIWATTS_PER_GIGABYTE)), IdleOrigin::Default, rate)
        }
    };
    Model { idle: (power, origin), full: power, basis: format!("{bytes} bytes at {rate}"), carried_picojoules: 0 }
}

#[cfg(test)]
mod tests;
