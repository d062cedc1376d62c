//! A folder of `<sysfs>/class/hwmon`: its driver's name, the device behind it, and its attributes.
//!
//! Attributes lie in the folder itself, or in `device/` where the driver registers itself in the old way, as
//! `acpi_power_meter` does.

use crate::collector::attribute;
use std::path::{Path, PathBuf};

/// Most folders that are looked at.
const MOST_CHIPS: usize = 256;
/// Highest number of an attribute that is looked for: drivers number from 1 on, and leave out what they lack.
const MOST_NUMBERS: u32 = 512;

/// One monitoring chip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chip {
    /// Folder name, for example `hwmon3`: it may change from boot to boot.
    pub folder: String,
    /// Name of the driver, for example `amdgpu`.
    pub name: String,
    /// Name of the device on its bus, for example `0000:c1:00.0`; absent where the folder does not lead to one.
    pub device: Option<String>,
    /// How many chips of the same name stand before it.
    pub ordinal: usize,
    path: PathBuf,
}

impl Chip {
    /// All chips, in the order of their numbers.
    pub fn list(sysfs: &Path) -> Vec<Self> {
        let folder = sysfs.join("class/hwmon");
        let Ok(entries) = std::fs::read_dir(&folder) else { return Vec::new() };
        let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort_by_key(|name| {
            (name.strip_prefix("hwmon").and_then(|number| number.parse::<u32>().ok()), name.clone())
        });
        names.truncate(MOST_CHIPS);
        let mut chips: Vec<Self> = Vec::new();
        for name in names {
            let path = folder.join(&name);
            // Old drivers have their name beside the device.
            let Some(driver) = attribute_of(&path, "name").and_then(|file| attribute::text(&file)) else { continue };
            let driver = driver.trim().to_owned();
            let device = std::fs::read_link(path.join("device")).ok();
            let device = device.and_then(|target| Some(target.file_name()?.to_str()?.to_owned()));
            let ordinal = chips.iter().filter(|chip| chip.name == driver).count();
            chips.push(Self { folder: name, name: driver, device, ordinal, path });
        }
        chips
    }

    /// The device's name, or the folder's where it is not known: what the readings of a chip are named after.
    pub fn identity(&self) -> &str {
        self.device.as_deref().unwrap_or(&self.folder)
    }

    /// The device's address on the PCI bus.
    pub fn pci_address(&self) -> Option<&str> {
        self.device.as_deref().filter(|device| is_pci_address(device))
    }

    /// Where an attribute is, if it is there.
    pub fn file(&self, attribute: &str) -> Option<PathBuf> {
        attribute_of(&self.path, attribute)
    }

    /// Text of an attribute, without the space around it; at most 64 bytes are read.
    pub fn text(&self, attribute: &str) -> Option<String> {
        Some(attribute::text(&self.file(attribute)?)?.trim().to_owned())
    }

    /// Number that an attribute holds now.
    pub fn number(&self, attribute: &str) -> Option<u64> {
        attribute::number(&self.file(attribute)?).ok().flatten()
    }

    /// Numbers n for which the chip has `<kind>n_<ending>`, ascending.
    pub fn numbers(&self, kind: &str, ending: &str) -> Vec<u32> {
        let in_folder = |path: &Path| -> Vec<u32> {
            let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
            let number = |name: &str| name.strip_prefix(kind)?.strip_suffix(ending)?.strip_suffix('_')?.parse().ok();
            entries.filter_map(|entry| number(entry.file_name().to_str()?)).collect()
        };
        let mut numbers = in_folder(&self.path);
        numbers.extend(in_folder(&self.path.join("device")));
        numbers.retain(|number| *number <= MOST_NUMBERS);
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}

fn attribute_of(folder: &Path, attribute: &str) -> Option<PathBuf> {
    [folder.join(attribute), folder.join("device").join(attribute)].into_iter().find(|path| path.exists())
}

/// `domain:bus:device.function`, for example `0000:c1:00.0`.
fn is_pci_address(name: &str) -> bool {
    let parts: Vec<&str> = name.split([':', '.']).collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let digits = parts.iter().all(|part| part.chars().all(|digit| digit.is_ascii_hexdigit()));
    digits && matches!(lengths.as_slice(), [4..=8, 2, 2, 1]) && name.matches('.').count() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_pci_bus_are_some() {
        let is = ["0000:c1:00.0", "10000:01:00.1", "ACPI000D:00", "1-0040", "0000:c1:00", "0000.c1.00.0"];
        assert_eq!(is.map(is_pci_address), [true, true, false, false, false, false]);
    }
}
