//! One GPU as the agent knows it: what is read of it becomes readings of its sources.
//!
//! Pure: instants and answers come in, readings go out. Energy comes from the counter where there is one; beside it the
//! power is integrated, a mean as the rectangle back to the sample before, a power of the instant as the trapezoid. A
//! GPU that lost its counter for good goes on with the integral from the last instant at which the counter was read.

use super::message::{Facts, Fault, Instance, Sampled, Shown, Use, by_index};
use crate::collector::{DeviceUse, DeviceUser, FreePart, ReadFailure, Reading, Value};
use crate::counter::power;
use joulebook_units::{
    Accelerator, BootNanos, Component, Layer, Method, Microjoules, Milliwatts, Scope, Source, SourceState,
};

/// Samples of power further apart than this leave the energy between them unknown.
const LONGEST_SAMPLE_NANOS: u64 = 30_000_000_000;
/// Highest power of a superchip's module.
const MODULE_CEILING: Milliwatts = Milliwatts(5_000_000);
/// Highest power of a GPU that does not tell its limit.
const DEFAULT_CEILING: Milliwatts = Milliwatts(1_500_000);
/// Half-width of the 95 % interval of energy over a minute and more.
const UNCERTAINTY_PERMILLE: u32 = 50;
/// Looks at the devices (each 30 s) that find no energy counter before it is given up.
const GIVEN_UP_LOOKS: u32 = 2;
/// Value of the power call that means that there is none.
const NO_POWER: u32 = u32::MAX;

/// A GPU.
#[derive(Debug)]
pub struct Gpu {
    /// Name of the collector.
    collector: &'static str,
    facts: Facts,
    /// Power limit in mW that holds now; the facts have the highest so far, which no power may exceed by much.
    limit_milliwatts: Option<u32>,
    /// Whether energy comes from the counter.
    counts: bool,
    /// Looks in a row that found no counter on a GPU that had one.
    without: u32,
    /// Last reading of the counter, and the energy integrated since.
    counted: Option<BootNanos>,
    since_counted: Microjoules,
    /// The integral goes on from this instant of the counter.
    takes_over: bool,
    power: Option<(BootNanos, Milliwatts)>,
    module_power: Option<(BootNanos, Milliwatts)>,
    used: Option<BootNanos>,
    off: Option<String>,
    failing: bool,
}

impl Gpu {
    /// A GPU that was just found.
    pub fn new(facts: Facts, collector: &'static str) -> Self {
        Self {
            collector,
            counts: facts.counts,
            limit_milliwatts: facts.limit_milliwatts,
            facts,
            without: 0,
            counted: None,
            since_counted: Microjoules::ZERO,
            takes_over: false,
            power: None,
            module_power: None,
            used: None,
            off: None,
            failing: false,
        }
    }

    /// Whether it is not read, as far as is known.
    pub fn is_off(&self) -> bool {
        self.off.is_some()
    }

    /// Whether its last calls failed for a reason that may pass.
    pub fn is_failing(&self) -> bool {
        self.failing
    }

    /// What it says in each round in which it is not read.
    pub fn absent(&mut self) -> ReadFailure {
        self.fail(&Fault::Lost)
    }

    /// Says that it is not read any more.
    pub fn stop(&mut self, why: String) {
        self.off = Some(why);
        self.lose_sight();
    }

    /// Who uses it is not known from here to the next list.
    pub fn lose_sight(&mut self) {
        self.used = None;
    }

    /// Its names in requests.
    pub fn names(&self) -> [String; 2] {
        [self.facts.uuid.clone(), by_index(self.facts.index)]
    }

    /// Whether a line of the helper names it so.
    pub fn is_named(&self, name: &str) -> bool {
        self.names().iter().any(|own| own == name)
    }

    /// Takes what a later look found. Whether the sources change.
    pub fn learn(&mut self, facts: &Facts) -> bool {
        (self.facts.index, self.facts.minor) = (facts.index, facts.minor);
        let is_divided_anew = std::mem::replace(&mut self.facts.divided, facts.divided) != facts.divided;
        self.limit_milliwatts = facts.limit_milliwatts;
        let is_raised = facts.limit_milliwatts.is_some() && facts.limit_milliwatts > self.facts.limit_milliwatts;
        if is_raised {
            self.facts.limit_milliwatts = facts.limit_milliwatts;
        }
        if facts.counts || !self.counts {
            self.without = 0;
            return is_divided_anew || is_raised;
        }
        self.without += 1;
        if self.without < GIVEN_UP_LOOKS {
            return is_divided_anew || is_raised;
        }
        self.counts = false;
        self.takes_over = true;
        true
    }

    /// Model as the hardware names it.
    pub fn model(&self) -> &str {
        &self.facts.model
    }

    /// Number of its file in `/dev`.
    pub fn minor(&self) -> Option<u32> {
        self.facts.minor
    }

    /// Power limit in mW that holds now.
    pub fn power_limit(&self) -> Option<u64> {
        self.limit_milliwatts.map(u64::from)
    }

    fn id(&self) -> String {
        format!("{}/{}", self.collector, self.facts.uuid)
    }

    fn ceiling(&self) -> Milliwatts {
        // The counter is judged with a margin of its own.
        self.facts.limit_milliwatts.map_or(DEFAULT_CEILING, |limit| Milliwatts(u64::from(limit) * 5 / 4))
    }

    /// Its sources.
    pub fn states(&self, driver: Option<&str>) -> Vec<SourceState> {
        let driver = driver.unwrap_or("unknown");
        let mut basis = format!("{}, driver {driver}", self.facts.model);
        if let Some(bus) = &self.facts.bus {
            basis = format!("{basis}, {bus}");
        }
        if self.facts.divided {
            basis.push_str(", divided into instances (MIG): energy is the whole GPU's");
        }
        let main = Source {
            id: self.id(),
            component: Component::Accelerator,
            socket: None,
            device: Some(self.facts.uuid.clone()),
            collector: self.collector.to_owned(),
            method: if self.counts { Method::Counter } else { Method::IntegratedPower },
            unit_nanojoules: self.counts.then_some(1_000_000),
            ceiling: self.ceiling(),
            uncertainty_permille: UNCERTAINTY_PERMILLE,
            contained_in: None,
            scope: None,
            basis,
        };
        let integral = self.counts.then(|| Source {
            id: self.integral_id(),
            method: Method::IntegratedPower,
            unit_nanojoules: None,
            contained_in: Some(main.id.clone()),
            scope: None,
            ..main.clone()
        });
        // A layer within the node, around this GPU, its processor and what feeds them: shown, and added to nothing.
        let module = self.facts.module.then(|| Source {
            id: self.module_id(),
            component: Component::Wall,
            device: None,
            method: Method::IntegratedPower,
            unit_nanojoules: None,
            ceiling: MODULE_CEILING,
            scope: Some(Scope { layer: Layer::Board, name: String::new(), members: vec![main.id.clone()] }),
            ..main.clone()
        });
        let state = |source: Source| SourceState { source: source.into(), unavailable: self.off.clone() };
        [Some(main), integral, module].into_iter().flatten().map(state).collect()
    }

    fn module_id(&self) -> String {
        format!("{}/module", self.id())
    }

    fn module(&mut self, shown: &Shown, at: &impl Fn(u64) -> BootNanos) -> Option<Reading> {
        let (milliwatts, when) = shown.module.filter(|(milliwatts, _)| *milliwatts != NO_POWER)?;
        let (at, power) = (at(when), Milliwatts(u64::from(milliwatts)));
        let source = self.module_id();
        let Some((since, before)) = self.module_power.replace((at, power)) else {
            return Some(Reading { source, at, value: Value::increment(Microjoules::ZERO) });
        };
        let nanos = at.0.checked_sub(since.0).filter(|nanos| *nanos > 0)?;
        if nanos > LONGEST_SAMPLE_NANOS {
            let high = MODULE_CEILING.over_nanos(nanos);
            return Some(Reading { source, at, value: Value::Unknown { since, high } });
        }
        let energy = power::integrate(&[(since, before), (at, power)], power::Sampled::Point)?;
        Some(Reading { source, at, value: Value::increment(energy) })
    }

    fn integral_id(&self) -> String {
        if self.counts { format!("{}/power", self.id()) } else { self.id() }
    }

    /// It as a part of the node's hardware.
    pub fn accelerator(&self, driver: Option<&str>) -> Accelerator {
        Accelerator {
            device: Some(self.facts.uuid.clone()),
            model: self.facts.model.clone(),
            driver: driver.map(str::to_owned),
            memory_bytes: self.facts.memory_bytes,
        }
    }

    /// A failure of its source.
    pub fn failure(&self, reason: &'static str, why: &str) -> ReadFailure {
        ReadFailure { source_id: self.id(), reason, why: format!("{}: {why}", self.facts.uuid) }
    }

    /// Takes what was read; `at` gives the agent's instant for one of the helper's.
    pub fn take(
        &mut self,
        shown: &Shown,
        at: &impl Fn(u64) -> BootNanos,
        readings: &mut Vec<Result<Reading, ReadFailure>>,
        used: &mut Vec<DeviceUse>,
    ) {
        self.failing = false;
        match &shown.processes {
            Some(Ok(list)) => used.extend(self.use_of(list, at(list.at))),
            // Who is on it is not known now.
            Some(Err(_)) => self.used = None,
            None => {}
        }
        // Who is on a GPU is known before its energy: idle power is learned from both.
        if let Some(reading) = self.power(shown, at) {
            readings.push(reading);
        }
        readings.extend(self.module(shown, at).map(Ok));
        if !self.counts {
            return;
        }
        match &shown.energy {
            Ok((millijoules, when)) => {
                let at = at(*when);
                self.counted = Some(at);
                self.since_counted = Microjoules::ZERO;
                self.off = None;
                let value = Value::Total { raw: millijoules.saturating_mul(1_000) };
                readings.push(Ok(Reading { source: self.id(), at, value }));
            }
            Err(fault) => readings.push(Err(self.fail(fault))),
        }
    }

    fn fail(&mut self, fault: &Fault) -> ReadFailure {
        let (reason, why) = match fault {
            Fault::Lost => ("gpu_lost", "the GPU has fallen off the bus; it is looked for every 30 s".to_owned()),
            Fault::Permission => ("permission", "the driver does not let this user read it; run as root".to_owned()),
            Fault::NotSupported => ("not_supported", "it has no energy counter now".to_owned()),
            Fault::Failed(why) => (self.collector, format!("the library says: {why}")),
        };
        self.failing = matches!(fault, Fault::Failed(_));
        if !matches!(fault, Fault::Lost | Fault::Permission) {
            return self.failure(reason, &why);
        }
        self.used = None;
        // Told once; after that it is simply not there.
        let known = self.off.replace(why.clone());
        self.failure(if known.is_some() { "unavailable" } else { reason }, &why)
    }

    fn power(&mut self, shown: &Shown, at: &impl Fn(u64) -> BootNanos) -> Option<Result<Reading, ReadFailure>> {
        let (milliwatts, sampled, when) = match &shown.power {
            Ok(power) => *power,
            // The counter's failure says it already.
            Err(_) if self.counts => return None,
            Err(fault) => return Some(Err(self.fail(fault))),
        };
        let (at, power) = (at(when), Milliwatts(u64::from(milliwatts)));
        if milliwatts == NO_POWER || power > self.ceiling() {
            let why = format!("a power of {milliwatts} mW is none that this GPU can draw");
            return Some(Err(self.failure("implausible", &why)));
        }
        let source = self.integral_id();
        if !self.counts {
            self.off = None;
        }
        let Some((since, before)) = self.power.replace((at, power)) else {
            return Some(Ok(Reading { source, at, value: Value::increment(Microjoules::ZERO) }));
        };
        let nanos = at.0.checked_sub(since.0).filter(|nanos| *nanos > 0)?;
        let sampled = match sampled {
            Sampled::Instant => power::Sampled::Point,
            Sampled::Average => power::Sampled::Average,
        };
        let energy = power::integrate(&[(since, before), (at, power)], sampled)?;
        if nanos > LONGEST_SAMPLE_NANOS {
            self.takes_over = false;
            let high = self.ceiling().over_nanos(nanos);
            return Some(Ok(Reading { source, at, value: Value::Unknown { since, high } }));
        }
        self.since_counted = self.since_counted.checked_add(energy).unwrap_or(self.since_counted);
        let value = match self.counted.filter(|_| std::mem::take(&mut self.takes_over)) {
            Some(since) => Value::Increment { energy: self.since_counted, since: Some(since) },
            None => Value::increment(energy),
        };
        Some(Ok(Reading { source, at, value }))
    }

    fn use_of(&mut self, list: &Use, at: BootNanos) -> Option<DeviceUse> {
        let since = self.used.replace(at);
        let nanos = since.map_or(0, |since| at.0.saturating_sub(since.0));
        let part = |ppm: u32| {
            let part = u128::from(nanos) * u128::from(ppm.min(1_000_000)) / 1_000_000;
            u64::try_from(part).unwrap_or(nanos)
        };
        let users: Vec<DeviceUser> = list
            .processes
            .iter()
            .map(|process| DeviceUser {
                pid: i32::try_from(process.pid).unwrap_or(-1),
                busy_nanos: part(process.busy_ppm),
                memory_bytes: process.memory_bytes,
                slice_millionths: process.slice_millionths,
            })
            .collect();
        let busy = list.busy_ppm.map(part);
        let of_users = users.iter().fold(0u64, |sum, user| sum.saturating_add(user.busy_nanos)).min(nanos);
        let busy_nanos = busy.unwrap_or(of_users);
        let part = |instance: &Instance| FreePart {
            memory_bytes: instance.memory_bytes,
            slice_millionths: instance.slice_millionths,
        };
        let free = list.free.iter().map(|instance| (instance.uuid.clone(), part(instance))).collect();
        let (device, minor) = (self.facts.uuid.clone(), self.facts.minor);
        Some(DeviceUse { device, minor, since, at, busy_nanos, slices: list.slices, users, free })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_limit_that_changes_is_told_and_only_a_higher_one_raises_what_is_plausible() {
        let with = |limit: Option<u32>| Facts {
            uuid: "GPU-1".to_owned(),
            index: 0,
            model: "m".to_owned(),
            minor: None,
            bus: None,
            limit_milliwatts: limit,
            memory_bytes: None,
            divided: false,
            counts: true,
            module: false,
            power_usage: Sampled::Instant,
        };
        let mut gpu = Gpu::new(with(Some(400_000)), "nvml");
        let mut after = |limit| (gpu.learn(&with(limit)), gpu.power_limit(), gpu.ceiling());
        assert_eq!(after(Some(300_000)), (false, Some(300_000), Milliwatts(500_000)));
        assert_eq!(after(Some(600_000)), (true, Some(600_000), Milliwatts(750_000)));
        assert_eq!(after(None), (false, None, Milliwatts(750_000)));
    }
}
