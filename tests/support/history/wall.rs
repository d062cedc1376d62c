//! Meters at the inputs of the generated nodes: coarse, silent at times, above or below what the parts draw.

use super::{Step, Written, below_ceiling, source};
use joulebook_units::{Component, Layer, Method, Scope, Source, SourceState, Subject};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Series of the meters.
const BMC: u32 = 60;
const ACPI: u32 = 61;
const PSYS: u32 = 62;
const MAIN: u32 = 63;
/// The site of the nodes that read its main meter.
pub const SITE: &str = "hall";

/// What the meters do at a row.
#[derive(Debug, Clone)]
pub struct WallStep {
    /// Energy at the input since the row before in µJ.
    pub microjoules: u64,
    /// Which of the meters have a new value, one a bit.
    pub told: u8,
    /// Which of them have one that is not joined to the one before, one a bit.
    pub broken: u8,
}

impl WallStep {
    /// The same with an energy that a node can draw in that time.
    pub(super) fn below_ceiling(self, nanos: u64) -> Self {
        Self { microjoules: below_ceiling(self.microjoules, nanos), ..self }
    }
}

/// Any step of the meters.
pub(super) fn step() -> impl Strategy<Value = WallStep> {
    let mostly_joined = prop_oneof![12 => Just(0u8), 1 => 1u8..4];
    (0u64..900_000_000, 0u8..4, mostly_joined).prop_map(|(microjoules, told, broken)| WallStep {
        microjoules,
        told,
        broken,
    })
}

/// The meters of the node with this number, with the bit that moves them: every third has none at its own input but reads
/// the main meter of its site, every third has two.
fn meters(index: u8) -> &'static [(u32, u8)] {
    match index % 3 {
        0 => &[(BMC, 0), (PSYS, 1)],
        1 => &[(MAIN, 0)],
        _ => &[(BMC, 0), (ACPI, 1)],
    }
}

/// Whether the node with this number has one meter at its input.
pub fn has_one(index: u8) -> bool {
    index.is_multiple_of(3)
}

/// The site that the node with this number is placed in.
pub(super) fn site(index: u8) -> Option<String> {
    (index % 3 == 1).then(|| SITE.to_owned())
}

/// Numbers of every series.
pub(super) fn series() -> [u32; 4] {
    [BMC, ACPI, PSYS, MAIN]
}

/// Writes one row of every meter of a node, and returns the energy that the first one tells of.
pub(super) fn write(index: u8, steps: &[Step], number: usize, at: u64, series: &mut BTreeMap<u32, Written>) -> u64 {
    let mut first_told = 0;
    for (id, bit) in meters(index) {
        let speaks = |number: usize| number == 0 || steps[number].wall.told & 1 << bit != 0;
        let Some(written) = series.get_mut(id).filter(|_| speaks(number)) else { continue };
        let before = (0..number).rev().find(|earlier| speaks(*earlier));
        let since: u64 =
            before.map_or(0, |before| steps[before + 1..=number].iter().map(|step| step.wall.microjoules).sum());
        if steps[number].wall.broken & 1 << bit != 0 || before.is_none() {
            written.cut(*id, at);
            continue;
        }
        written.value += since;
        written.point(*id, at);
        first_told += if *id == BMC { since } else { 0 };
    }
    first_told
}

fn meter(id: u32) -> Source {
    match id {
        BMC => Source {
            method: Method::IntegratedPower,
            collector: "redfish".to_owned(),
            ..source("redfish/wall", Component::Wall)
        },
        ACPI => Source {
            method: Method::IntegratedPower,
            collector: "hwmon".to_owned(),
            uncertainty_permille: 20,
            ..source("hwmon/acpi", Component::Wall)
        },
        PSYS => source("rapl/psys", Component::Wall),
        _ => Source {
            collector: "meter".to_owned(),
            uncertainty_permille: 10,
            scope: Some(Scope { layer: Layer::Site, name: SITE.to_owned(), members: Vec::new() }),
            ..source("meter/main", Component::Wall)
        },
    }
}

/// What the meters' series measure.
pub(super) fn dictionary() -> impl Iterator<Item = (u32, Subject)> {
    series().into_iter().map(|id| (id, Subject::Energy(meter(id).into())))
}

/// The meters of the node with this number.
pub(super) fn sources(index: u8) -> impl Iterator<Item = SourceState> {
    meters(index).iter().map(|(id, _)| SourceState { source: meter(*id).into(), unavailable: None })
}
