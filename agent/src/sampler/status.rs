//! How a sampler is: what stands on the page of metrics.

use super::Sampler;
use crate::collector::guard::says_stuck;
use joulebook_units::{BootNanos, Component, Microjoules, Milliwatts, SourceState, UnixNanos};
use std::collections::BTreeMap;

/// A sampler as of its last row.
#[derive(Debug, Clone)]
pub struct Status {
    /// Rows since the start.
    pub rows: u64,
    /// The last row, boot clock; absent before the first one.
    pub last_row: Option<BootNanos>,
    /// Now, both clocks.
    pub now: (BootNanos, UnixNanos),
    /// Sources, whether or not they are read.
    pub sources: Vec<SourceStatus>,
    /// Readings refused or held, by source and reason.
    pub refused: BTreeMap<(String, &'static str), u64>,
    /// Wraps and resets by source and kind.
    pub turns: BTreeMap<(String, &'static str), u64>,
    /// What is known of the CPUs; absent where no source meters them.
    pub cpu: Option<CpuEnergy>,
    /// The process that holds a maker's library, while it runs.
    pub helper: Option<u32>,
    /// Accelerators whose use is known.
    pub devices: Vec<DeviceStatus>,
    /// Names of allocated devices that stand for none that is known.
    pub unresolved: u64,
}

/// An accelerator as of its last list of processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceStatus {
    /// Its identity.
    pub device: String,
    /// Its model, where it is known.
    pub model: Option<String>,
    /// When the list was read.
    pub at: BootNanos,
    /// Time at work since the agent's start, in ns.
    pub busy_nanos: u64,
    /// Memory that processes hold, in bytes; absent where it cannot be told of each.
    pub memory_bytes: Option<u64>,
    /// Its memory in bytes.
    pub memory_limit_bytes: Option<u64>,
}

/// A source.
#[derive(Debug, Clone)]
pub struct SourceStatus {
    /// What it is, and why it is not read.
    pub state: SourceState,
    /// Its last reading that was taken.
    pub last: Option<BootNanos>,
    /// Stretches in which its energy is not known.
    pub gaps: u64,
    /// Its energy so far; 0 before the first reading.
    pub energy: Microjoules,
    /// Whether a read of it does not return.
    pub stuck: bool,
}

/// Energy and time of the node's CPUs since the start.
#[derive(Debug, Clone, Copy)]
pub struct CpuEnergy {
    /// As of this row.
    pub at: BootNanos,
    /// Energy of all CPUs.
    pub energy: Microjoules,
    /// What they draw at rest; absent while it is not known of each.
    pub idle: Option<Milliwatts>,
    /// Time of all their threads at work, in ns.
    pub busy_nanos: u64,
}

/// Time of the CPUs' threads at work.
#[derive(Debug, Default)]
pub(super) struct Busy {
    nanos: u64,
    until: Option<BootNanos>,
}

impl Busy {
    /// Adds what a share, in thousandths, of so many threads is since the sample before.
    pub(super) fn add(&mut self, now: BootNanos, permille: Option<u64>, threads: Option<u32>) {
        if let (Some(since), Some(permille)) = (self.until.replace(now), permille) {
            let nanos = now.0.saturating_sub(since.0).saturating_mul(u64::from(threads.unwrap_or(1)));
            self.nanos = self.nanos.saturating_add(nanos / 1000 * permille);
        }
    }
}

impl CpuEnergy {
    /// What was drawn above rest since an earlier state; `None` where it is not known what rest is.
    pub fn above_rest_since(&self, earlier: &Self) -> Option<Microjoules> {
        let nanos = self.at.0.saturating_sub(earlier.at.0);
        let drawn = self.energy.0.saturating_sub(earlier.energy.0);
        Some(Microjoules(drawn.saturating_sub(self.idle?.over_nanos(nanos).0)))
    }
}

impl Sampler {
    /// How the sampler is.
    pub fn status(&self) -> Status {
        let source = |state: &SourceState| {
            let meter = self.meters.get(&state.source.id);
            let last = meter.and_then(|meter| meter.last);
            let at_a_reading = self.refusals.stuck_since(&state.source.id);
            let stuck = at_a_reading.is_some_and(|since| last.is_none_or(|at| at <= since))
                || state.unavailable.as_deref().is_some_and(says_stuck);
            SourceStatus {
                state: state.clone(),
                last,
                gaps: meter.map_or(0, |meter| meter.gaps),
                energy: Microjoules(meter.map_or(0, |meter| meter.value)),
                stuck,
            }
        };
        Status {
            rows: self.rows,
            last_row: self.last_row,
            now: (self.parts.clock.boot(), self.parts.clock.wall()),
            sources: self.parts.sources.states().iter().map(source).collect(),
            refused: self.refusals.counts().clone(),
            turns: self.turns.clone(),
            cpu: self.cpu_energy(),
            helper: self.parts.sources.helper_pid(),
            devices: self.device_states(),
            unresolved: self.device_users.unresolved,
        }
    }

    fn device_states(&self) -> Vec<DeviceStatus> {
        let inventory = self.parts.inventory.borrow();
        let known =
            |device: &str| inventory.hardware.accelerators.iter().find(|known| known.device.as_deref() == Some(device));
        let state = |(device, at, busy_nanos, memory_bytes): (&str, BootNanos, u64, Option<u64>)| DeviceStatus {
            device: device.to_owned(),
            model: known(device).map(|known| known.model.clone()),
            at,
            busy_nanos,
            memory_bytes,
            memory_limit_bytes: known(device).and_then(|known| known.memory_bytes),
        };
        self.devices.used().map(state).collect()
    }

    fn cpu_energy(&self) -> Option<CpuEnergy> {
        let is_cpu = |meter: &&super::Meter| meter.source.component == Component::Cpu && meter.source.is_part();
        let meters: Vec<_> = self.meters.values().filter(is_cpu).collect();
        let energy = meters.iter().fold(0u64, |sum, meter| sum.saturating_add(meter.value));
        let idle: Option<u64> = meters.iter().map(|meter| meter.idle.get().map(|(idle, _)| idle.0)).sum();
        let at = self.last_row.filter(|_| !meters.is_empty())?;
        Some(CpuEnergy { at, energy: Microjoules(energy), idle: idle.map(Milliwatts), busy_nanos: self.busy.nanos })
    }
}
