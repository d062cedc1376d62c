//! Supplies of systems on a module, as NVIDIA Jetson shows them (`ina3221`).
//!
//! `in<n>_label` names a supply, `in<n>_input` is its voltage in mV, `curr<n>_input` its current in mA; some drivers show
//! `power<n>_input` in µW too. No privilege. `VDD_IN` is the whole module, and the other supplies lie behind it. A
//! supply that feeds CPU and GPU together is nobody's in particular.

use super::channel::{Channel, Measure, Role};
use super::chip::Chip;
use joulebook_units::{Component, Milliwatts};

/// Names of the supply of the whole module.
const TOTALS: [&str; 3] = ["VDD_IN", "POM_5V_IN", "VDD_5V_IN"];
/// How names of the others begin.
const SUPPLIES: [&str; 11] = ["VDD_", "VDDQ", "VDDR", "VIN_", "POM_", "SYS5V", "GPU", "CPU", "SOC", "CV", "DDR"];
/// No module draws more.
const CEILING: Milliwatts = Milliwatts(1_000_000);

pub(super) fn channels(chip: &Chip) -> Vec<Channel> {
    if chip.name != "ina3221" {
        return Vec::new();
    }
    chip.numbers("in", "label").into_iter().filter_map(|number| supply(chip, number)).collect()
}

fn supply(chip: &Chip, number: u32) -> Option<Channel> {
    let label = chip.text(&format!("in{number}_label"))?;
    let total = TOTALS.contains(&label.as_str());
    if !total && !SUPPLIES.iter().any(|name| label.starts_with(name)) {
        return None;
    }
    let (channel, measure) = match chip.file(&format!("power{number}_input")) {
        Some(file) => (format!("power{number}"), Measure::Power { file, draws: total }),
        None => {
            let [volts, amperes] = ["in", "curr"].map(|kind| chip.file(&format!("{kind}{number}_input")));
            (format!("curr{number}"), Measure::Product { volts: volts?, amperes: amperes? })
        }
    };
    Some(Channel {
        chip: chip.clone(),
        channel,
        role: if total { Role::Wall } else { Role::Rail },
        component: if total { Component::Wall } else { fed(&label) },
        socket: None,
        window: None,
        ceiling: CEILING,
        measure,
        group: String::new(),
        inside: &[],
        container: None,
        label: Some(label),
    })
}

/// What a supply feeds, by its name.
fn fed(label: &str) -> Component {
    let feeds = |part: &str| label.contains(part);
    match (feeds("CPU"), feeds("GPU"), feeds("DDR") || feeds("VDDQ") || feeds("VDDRQ")) {
        (true, false, false) => Component::Cpu,
        (false, true, false) if !feeds("SOC") => Component::Accelerator,
        (false, false, true) => Component::Dram,
        _ => Component::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supply_of_several_parts_is_nobodys() {
        let labels = ["VDD_CPU_CV", "VDD_GPU_SOC", "VDD_CPU_GPU_CV", "GPU", "VDDQ_VDD2_1V8AO", "VDD_SOC"];
        let (cpu, other) = (Component::Cpu, Component::Other);
        assert_eq!(labels.map(fed), [cpu, other, other, Component::Accelerator, Component::Dram, other]);
    }
}
