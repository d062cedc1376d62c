//! NVIDIA Grace and Grace-Hopper: ACPI power meters whose `power1_oem_info` says what they meter.
//!
//! `device/power1_average` in µW, a mean over 50 ms unless `power1_average_interval` says otherwise; no privilege, but the
//! kernel needs CONFIG_SENSORS_ACPI_POWER and `acpi_power_meter.force_cap_on=y`. Labels: `Module Power Socket 0` (Grace,
//! GPU, HBM and regulators), `Grace …` (CPU, SysIO and memory), `CPU …`, `SysIO …`. There is no energy counter.
//!
//! Determination: what is added is Grace (as CPU) beside the GPU that NVIDIA's library reads. The module contains both,
//! and is a layer as the wall is one: added to nothing, and there to hold the sum against.

use super::acpi_meter::window;
use super::channel::{Channel, Measure, Role};
use super::chip::Chip;
use joulebook_units::{Component, Milliwatts};

/// No superchip draws more.
const CEILING: Milliwatts = Milliwatts(10_000_000);

/// What the meter's maker says that it is, where it says so.
pub(super) fn label(chip: &Chip) -> Option<String> {
    chip.text("power1_oem_info").filter(|label| !label.is_empty())
}

/// Whether a label speaks of a part and not of the node.
pub(super) fn names_a_socket(label: &str) -> bool {
    part_and_socket(label).is_some()
}

/// `CPU Power Socket 1` is the part `CPU` of socket 1.
fn part_and_socket(label: &str) -> Option<(&str, u32)> {
    let (part, socket) = label.split_once(" Power Socket ")?;
    Some((part, socket.trim().parse().ok()?))
}

pub(super) fn channels(chip: &Chip) -> Vec<Channel> {
    let Some(label) = label(chip).filter(|_| chip.name == "power_meter") else { return Vec::new() };
    let Some((part, socket)) = part_and_socket(&label) else { return Vec::new() };
    let (role, component, inside): (_, _, &[Role]) = match part {
        "Module" => (Role::Module, Component::Wall, &[]),
        "Grace" => (Role::Grace, Component::Cpu, &[Role::Module]),
        "CPU" => (Role::Cpu, Component::Cpu, &[Role::Grace, Role::Module]),
        "SysIO" => (Role::Sysio, Component::Other, &[Role::Grace, Role::Module]),
        _ => return Vec::new(),
    };
    let Some(file) = chip.file("power1_average") else { return Vec::new() };
    vec![Channel {
        chip: chip.clone(),
        channel: "power1".to_owned(),
        role,
        component,
        socket: Some(socket),
        window: window(chip),
        ceiling: CEILING,
        measure: Measure::Power { file, draws: true },
        group: format!("superchip {socket}"),
        inside,
        container: None,
        label: Some(label),
    }]
}

/// What nothing meters by itself, as the difference of what is metered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What it is.
    pub name: &'static str,
    /// CPU socket.
    pub socket: Option<u32>,
    /// The part of the node that it belongs to.
    pub component: Component,
    /// Index of the channel from which the others are taken.
    pub whole: usize,
    /// Indices of those that are taken from it.
    pub parts: Vec<usize>,
}

/// The differences that the channels of a node allow.
pub fn differences(channels: &[Channel]) -> Vec<Difference> {
    let in_group =
        |group: &str, role: Role| channels.iter().position(|other| other.group == group && other.role == role);
    let mut found = Vec::new();
    for (whole, channel) in channels.iter().enumerate() {
        let (name, component, parts): (_, _, &[Role]) = match channel.role {
            Role::Module => ("gpu_part_of_module", Component::Accelerator, &[Role::Grace]),
            Role::Grace => ("dram_and_regulator", Component::Dram, &[Role::Cpu, Role::Sysio]),
            _ => continue,
        };
        let parts: Option<Vec<usize>> = parts.iter().map(|role| in_group(&channel.group, *role)).collect();
        if let Some(parts) = parts {
            found.push(Difference { name, socket: channel.socket, component, whole, parts });
        }
    }
    found
}

impl Difference {
    /// Its power in µW from those of the channels; `None` where one is not known, or the parts exceed the whole.
    pub fn microwatts(&self, of: impl Fn(usize) -> Option<u64>) -> Option<u64> {
        left(of(self.whole), self.parts.iter().map(|part| of(*part)))
    }
}

/// What the parts leave of the whole.
pub(super) fn left(whole: Option<u64>, mut parts: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    parts.try_fold(whole?, |left, part| left.checked_sub(part?))
}
