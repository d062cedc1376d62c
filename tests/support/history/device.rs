//! Accelerators of the generated nodes: one or two, with users that come and go and lists of users that fail at times.

use super::{SECOND, Step, Written, below_ceiling, source};
use joulebook_units::{Accelerator, Component, IdleOrigin, Method, Source, SourceState, Subject};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Series of the first device; those of the second are as many further on.
const ENERGY: u32 = 20;
const POWER: u32 = 21;
const IDLE: u32 = 22;
const LISTED: u32 = 23;
/// Busy time and memory of the users, in their order.
const USERS: [(u32, u32, &str); 3] = [(24, 25, "process/1"), (26, 27, "unmapped"), (28, 29, "container/7")];
const SERIES_EACH: u32 = 20;
const MEMORY_BYTES: u64 = 80 << 30;

/// What happens on a device since the row before.
#[derive(Debug, Clone)]
pub struct DeviceStep {
    /// Energy in µJ.
    pub microjoules: u64,
    /// The same as the integral of its power tells it.
    pub integrated_microjoules: u64,
    /// Busy time.
    pub busy_nanos: u64,
    /// Memory that each user holds, more or less.
    pub held_bytes: u64,
    /// Which users are on it, one a bit.
    pub users: u8,
    /// Whether it is known who is.
    pub listed: bool,
}

impl DeviceStep {
    /// The same with energies that a device can draw in that time.
    pub(super) fn below_ceiling(self, nanos: u64) -> Self {
        let [microjoules, integrated_microjoules] =
            [self.microjoules, self.integrated_microjoules].map(|energy| below_ceiling(energy, nanos));
        Self { microjoules, integrated_microjoules, ..self }
    }
}

/// Any step of a device.
pub(super) fn step() -> impl Strategy<Value = DeviceStep> {
    (0u64..400_000_000, 0u64..400_000_000, 0u64..SECOND, 0u64..MEMORY_BYTES, 0u8..8, prop::bool::weighted(0.85))
        .prop_map(|(microjoules, integrated_microjoules, busy_nanos, held_bytes, users, listed)| DeviceStep {
            microjoules,
            integrated_microjoules,
            busy_nanos,
            held_bytes,
            users,
            listed,
        })
}

/// How many devices the node with this number has.
fn count(index: u8) -> usize {
    1 + usize::from(index % 2)
}

/// Energy of a row on the devices of a node in µJ.
pub(super) fn energy(index: u8, step: &Step) -> u64 {
    step.devices.iter().take(count(index)).map(|device| device.microjoules).sum()
}

/// Numbers of every series.
pub(super) fn series() -> impl Iterator<Item = u32> {
    ENERGY..ENERGY + 2 * SERIES_EACH
}

/// Writes one row of every device of a node.
pub(super) fn write(index: u8, steps: &[Step], number: usize, at: u64, series: &mut BTreeMap<u32, Written>) {
    for place in 0..count(index) {
        let first = u32::try_from(place).unwrap_or(0) * SERIES_EACH;
        let Some((now, before)) = steps.get(number).map(|step| (&step.devices[place], number.checked_sub(1))) else {
            continue;
        };
        let before = before.and_then(|number| steps.get(number)).map(|step| &step.devices[place]);
        let mut go_on = |id: u32, more: u64, holds: &dyn Fn(&DeviceStep) -> bool, cumulative: bool| {
            let Some(written) = series.get_mut(&(first + id)).filter(|_| holds(now)) else { return };
            let continued = before.is_some_and(holds);
            written.value = match cumulative {
                true if continued => written.value + more,
                true => written.value,
                false => more,
            };
            if continued || number == 0 { written.point(first + id, at) } else { written.cut(first + id, at) }
        };
        let busy = now.busy_nanos;
        go_on(ENERGY, now.microjoules, &|_| true, true);
        go_on(POWER, now.integrated_microjoules, &|_| true, true);
        // The second device has no idle power.
        go_on(IDLE, 60_000, &|_| place == 0, false);
        go_on(LISTED, busy, &|step| step.listed, true);
        for (bit, (time, memory, _)) in USERS.iter().enumerate() {
            let there = |step: &DeviceStep| step.listed && step.users & 1 << bit != 0;
            go_on(*time, busy >> bit, &there, true);
            // The memory of the last one is known at times only.
            go_on(*memory, now.held_bytes >> bit, &|step| there(step) && (bit < 2 || step.users != 7), false);
        }
    }
}

fn uuid(place: u32) -> String {
    format!("GPU-{place}")
}

fn meter(place: u32) -> Source {
    let id = format!("nvml/{}", uuid(place));
    Source { device: Some(uuid(place)), collector: "nvml".to_owned(), ..source(&id, Component::Accelerator) }
}

fn twin(place: u32) -> Source {
    let whole = meter(place).id;
    let id = format!("{whole}/power");
    Source { id, method: Method::IntegratedPower, contained_in: Some(whole), ..meter(place) }
}

/// What the devices' series measure.
pub(super) fn dictionary() -> Vec<(u32, Subject)> {
    let mut subjects = Vec::new();
    for place in 0..2 {
        let first = place * SERIES_EACH;
        let device = || uuid(place);
        subjects.push((first + ENERGY, Subject::Energy(meter(place).into())));
        subjects.push((first + POWER, Subject::Energy(twin(place).into())));
        subjects.push((first + IDLE, Subject::IdlePower { source: meter(place).id, origin: IdleOrigin::Learned }));
        subjects.push((first + LISTED, Subject::DeviceTime { device: device(), workload: None }));
        for (time, memory, workload) in USERS {
            let workload = || workload.to_owned();
            subjects.push((first + time, Subject::DeviceTime { device: device(), workload: Some(workload()) }));
            subjects.push((first + memory, Subject::DeviceMemory { device: device(), workload: workload() }));
        }
    }
    subjects
}

/// The devices' sources of the node with this number.
pub(super) fn sources(index: u8) -> Vec<SourceState> {
    let places = 0..u32::try_from(count(index)).unwrap_or(0);
    places
        .flat_map(|place| [meter(place), twin(place)])
        .map(|source: Source| SourceState { source: source.into(), unavailable: None })
        .collect()
}

/// The devices of the node with this number.
pub(super) fn accelerators(index: u8) -> Vec<Accelerator> {
    let one = |place| Accelerator {
        device: Some(uuid(place)),
        model: "NVIDIA H100 80GB HBM3".to_owned(),
        driver: Some("570.86.15".to_owned()),
        // The size of the second is not known.
        memory_bytes: (place == 0).then_some(MEMORY_BYTES),
    };
    (0..u32::try_from(count(index)).unwrap_or(0)).map(one).collect()
}
