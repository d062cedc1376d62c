//! ACPI power meter of a server (`power_meter` without a label of Grace): the whole node, a mean over up to 300 s.
//!
//! `power1_average` in µW over `power1_average_interval` ms; no privilege. A firmware that does not know shows ENODATA,
//! or 0xFFFFFFFF mW = 4.29 MW in older kernels. A meter of a battery is none of the node.

use super::channel::{Channel, Measure, Role};
use super::chip::Chip;
use super::grace;
use joulebook_units::{Component, Milliwatts};
use std::time::Duration;

/// No node draws more.
const CEILING: Milliwatts = Milliwatts(100_000_000);

pub(super) fn channels(chip: &Chip) -> Vec<Channel> {
    if chip.name != "power_meter" || chip.number("power1_is_battery") == Some(1) {
        return Vec::new();
    }
    let label = grace::label(chip);
    // "… Power Socket 0" of a part that is not known would be taken for the node.
    if label.as_ref().is_some_and(|label| grace::names_a_socket(label)) {
        return Vec::new();
    }
    let Some(file) = chip.file("power1_average").or_else(|| chip.file("power1_input")) else { return Vec::new() };
    vec![Channel {
        chip: chip.clone(),
        channel: "power1".to_owned(),
        label,
        role: Role::Wall,
        component: Component::Wall,
        socket: None,
        window: window(chip),
        ceiling: CEILING,
        measure: Measure::Power { file, draws: true },
        group: String::new(),
        inside: &[],
        container: None,
    }]
}

/// Time over which the meter averages.
pub(super) fn window(chip: &Chip) -> Option<Duration> {
    chip.number("power1_average_interval").filter(|millis| *millis > 0).map(Duration::from_millis)
}
