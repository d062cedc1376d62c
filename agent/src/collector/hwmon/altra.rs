//! Ampere Altra: power of the CPU and of its input and output, and an energy counter for each core.
//!
//! `apm_xgene` shows `CPU power` and `IO power` in µW, `altra_hwmon` the energy of each core in µJ; no privilege. The
//! memory is in none of them. Cores lie inside the CPU, and count by themselves where its power is not shown.

use super::channel::{Channel, Measure, Role};
use super::chip::Chip;
use joulebook_units::{Component, Milliwatts};

/// No socket, and no core, draws more.
const SOCKET_CEILING: Milliwatts = Milliwatts(1_000_000);
const CORE_CEILING: Milliwatts = Milliwatts(50_000);

pub(super) fn channels(chip: &Chip) -> Vec<Channel> {
    if !matches!(chip.name.as_str(), "apm_xgene" | "altra_hwmon") {
        return Vec::new();
    }
    let power = chip.numbers("power", "input").into_iter().filter_map(|number| {
        let channel = format!("power{number}");
        let label = chip.text(&format!("{channel}_label"))?;
        let (role, component) = match label.to_ascii_lowercase().as_str() {
            "cpu power" => (Role::Cpu, Component::Cpu),
            "io power" => (Role::Io, Component::Other),
            _ => return None,
        };
        let measure = Measure::Power { file: chip.file(&format!("{channel}_input"))?, draws: true };
        Some(socket_channel(chip, channel, label, role, component, measure))
    });
    let energy = chip.numbers("energy", "input").into_iter().filter_map(|number| {
        let channel = format!("energy{number}");
        let label = chip.text(&format!("{channel}_label"))?;
        label.to_ascii_lowercase().starts_with("core energy").then_some(())?;
        let measure = Measure::Energy { file: chip.file(&format!("{channel}_input"))? };
        let channel = socket_channel(chip, channel, label, Role::Core, Component::Cpu, measure);
        Some(Channel { ceiling: CORE_CEILING, inside: &[Role::Cpu], ..channel })
    });
    power.chain(energy).collect()
}

fn socket_channel(
    chip: &Chip,
    channel: String,
    label: String,
    role: Role,
    component: Component,
    measure: Measure,
) -> Channel {
    Channel {
        chip: chip.clone(),
        channel,
        label: Some(label),
        role,
        component,
        socket: None,
        window: None,
        ceiling: SOCKET_CEILING,
        measure,
        // Each socket has one chip of either driver.
        group: format!("altra {}", chip.ordinal),
        inside: &[],
        container: None,
    }
}
