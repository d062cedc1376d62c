//! Sensors of a chassis: which of them is the whole, which are inputs of one supply each, and what they show.

use super::chassis::last_segment;
use super::document::{Documents, Need};
use super::route::Shown;
use super::value::{Energy, Skip, is_unset, joules, kilowatt_hours, text, watts};
use joulebook_units::Milliwatts;
use serde_json::Value;

/// Most sensors that are looked at: a BMC answers some in a second, and nothing else is asked meanwhile.
const MOST_SENSORS: usize = 256;
/// Words of parts, and of what is no consumption at all.
const NOT_WHOLE: [&str; 30] = [
    "cpu",
    "gpu",
    "dram",
    "dimm",
    "mem",
    "fan",
    "hdd",
    "ssd",
    "nvme",
    "drive",
    "storage",
    "pcie",
    "nic",
    "soc",
    "rail",
    "vr",
    "output",
    "pout",
    "limit",
    "budget",
    "capacity",
    "average",
    "avg",
    "peak",
    "minimum",
    "maximum",
    "allocated",
    "available",
    "headroom",
    "accelerator",
];

/// The sensors of a chassis that matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sensors {
    /// Those of the whole, the surest first.
    pub totals: Vec<String>,
    /// The input of one supply each.
    pub inputs: Vec<String>,
    /// Cumulative energy of the whole.
    pub energy: Vec<String>,
}

/// Looks through a collection of sensors.
///
/// # Errors
/// A document that was not fetched yet.
pub fn find(collection: &str, documents: &Documents) -> Result<Sensors, Need> {
    let mut members = documents.members(collection)?;
    // The likely ones first, so that few are asked for where there are very many.
    members.sort_by_key(|uri| !is_likely(&last_segment(uri).to_ascii_lowercase()));
    let (mut totals, mut inputs, mut energy) = (Vec::new(), Vec::new(), Vec::new());
    for uri in members.into_iter().take(MOST_SENSORS) {
        let Some(sensor) = documents.get(&uri)? else { continue };
        let name = name(sensor, &uri);
        match text(sensor, "ReadingType") {
            Some("EnergyJoules" | "EnergykWh") => {
                energy.extend(is_whole(&name).then_some(uri));
                continue;
            }
            Some("Power") => {}
            None if text(sensor, "ReadingUnits") == Some("W") => {}
            _ => continue,
        }
        if is_supply_input(&name) {
            inputs.push(uri);
        } else if let Some(rank) = rank(sensor, &name) {
            totals.push((rank, uri));
        }
    }
    totals.sort_by_key(|(rank, _)| *rank);
    Ok(Sensors { totals: totals.into_iter().map(|(_, uri)| uri).collect(), inputs, energy })
}

/// What a sensor shows of power.
pub fn power(sensor: &Value, ceiling: Milliwatts) -> Result<Shown, Skip> {
    let time = text(sensor, "ReadingTime");
    let state = sensor.get("Status").and_then(|status| text(status, "State"));
    let power = watts(sensor.get("Reading"), ceiling)?;
    if time.is_some_and(is_unset) {
        return Err(Skip::Stale);
    }
    if matches!(state, Some("Absent" | "Disabled" | "UnavailableOffline")) {
        return Err(Skip::Missing);
    }
    let stamp = time.or_else(|| text(sensor, "@odata.etag")).map(str::to_owned);
    Ok(Shown { power, window: None, stamp, energy: None })
}

/// What a sensor shows of cumulative energy.
pub fn energy(sensor: &Value) -> Option<Energy> {
    match text(sensor, "ReadingType")? {
        "EnergyJoules" => joules(sensor.get("Reading")),
        "EnergykWh" => kilowatt_hours(sensor.get("Reading")),
        _ => None,
    }
}

fn is_likely(id: &str) -> bool {
    ["power", "pwr", "watt", "energy", "psu", "hsc"].iter().any(|word| id.contains(word))
}

/// Id and name in one, in small letters.
fn name(sensor: &Value, uri: &str) -> String {
    let id = text(sensor, "Id").unwrap_or_else(|| last_segment(uri));
    format!("{id} {}", text(sensor, "Name").unwrap_or_default()).to_ascii_lowercase()
}

fn is_whole(name: &str) -> bool {
    !NOT_WHOLE.iter().any(|word| name.contains(word)) && !is_one_supply(name)
}

/// Whether a name is that of one supply: `psu0`, `ps1`, `power supply 2`.
fn is_one_supply(name: &str) -> bool {
    ["psu", "ps", "supply"].iter().any(|word| {
        name.match_indices(word).any(|(at, _)| {
            let rest = name[at + word.len()..].trim_start_matches([' ', '_', '-', '.', '#']);
            rest.starts_with(|next: char| next.is_ascii_digit())
        })
    })
}

fn is_supply_input(name: &str) -> bool {
    is_one_supply(name)
        && ["input", "pin", "_in", " in"].iter().any(|word| name.contains(word))
        && !["output", "pout"].iter().any(|word| name.contains(word))
}

/// How surely a sensor is that of the whole; none if it is not.
fn rank(sensor: &Value, name: &str) -> Option<u8> {
    if !is_whole(name) {
        return None;
    }
    let context = text(sensor, "PhysicalContext");
    if matches!(context, Some(context) if !["Chassis", "PowerSubsystem", "PowerSupply", "SystemBoard", "Room"].contains(&context))
    {
        return None;
    }
    if text(sensor, "ElectricalContext") == Some("Total") && context != Some("PowerSupply") {
        return Some(0);
    }
    match context {
        _ if name.contains("total") => Some(1),
        Some("Chassis") => Some(2),
        _ if ["input power", "power input", "input_power", "power_input"].iter().any(|word| name.contains(word)) => {
            Some(3)
        }
        // The board behind the supplies: their loss is not in it, and nothing better may be there.
        _ if ["pwrconsumption", "pwr consumption", "power consumption", "sys_power", "system power"]
            .iter()
            .any(|word| name.contains(word)) =>
        {
            Some(4)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rank_of(id: &str) -> Option<u8> {
        let sensor = json!({"Id": id, "ReadingType": "Power"});
        rank(&sensor, &name(&sensor, ""))
    }

    #[test]
    fn the_whole_is_told_from_parts_and_single_supplies() {
        for whole in ["power_total_power", "PWR_PSU_TOTAL", "SystemBoardPwrConsumption", "TotalPower", "Input_Power"] {
            assert!(rank_of(whole).is_some(), "{whole}");
        }
        for part in
            ["CPU_Total_Power", "Total_GPU_Power", "psu0_input_power", "PS1 Output Power", "Total_Output", "P12V"]
        {
            assert_eq!(rank_of(part), None, "{part}");
        }
        assert!(is_supply_input("power_psu0_input_power psu0") && !is_supply_input("psu0_output_power"));
    }
}
