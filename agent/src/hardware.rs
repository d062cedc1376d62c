//! The node's hardware as far as procfs and sysfs tell it, for embodied carbon and for estimates.
//!
//! Reads `/proc/cpuinfo`, `/proc/meminfo`, `/proc/sys/kernel/osrelease`, `/sys/block`, `/sys/bus/pci/devices` and
//! `/proc/driver/nvidia/gpus`; no privilege. What is not found stays unknown.

use crate::config::Roots;
use crate::process::proc::{memory, open, read_text};
use joulebook_units::{Accelerator, Component, Hardware, Method, Milliwatts, Source, SourceState};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const NVIDIA_VENDOR: &str = "0x10de";
const HABANA_VENDOR: &str = "0x1da3";
/// PCI base class of display controllers, and of processing accelerators.
const DISPLAY_CLASS: &str = "0x03";
const ACCELERATOR_CLASS: &str = "0x12";
/// Highest power of one device that is known today is below this; nothing is read, so it bounds nothing.
const DEVICE_CEILING: Milliwatts = Milliwatts(1_500_000);

/// The CPUs of a node as `/proc/cpuinfo` describes them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cpu {
    /// Vendor, for example `AuthenticAMD`.
    pub vendor: Option<String>,
    /// Model name.
    pub model: Option<String>,
    /// Sockets.
    pub sockets: Option<u32>,
    /// Hardware threads online.
    pub threads: u32,
    /// Hardware threads of one socket, as the first CPU tells it.
    pub siblings: Option<u32>,
    /// Whether a hypervisor runs below; unknown where there is no flag line.
    pub guest: Option<bool>,
}

/// Reads `<procfs>/cpuinfo`.
pub fn cpu(procfs: &Path) -> Cpu {
    // Thousands of threads make megabytes: this file is read whole.
    let text = open(&procfs.join("cpuinfo")).and_then(std::io::read_to_string);
    text.map_or_else(|_| Cpu::default(), |text| parse_cpuinfo(&text))
}

fn parse_cpuinfo(text: &str) -> Cpu {
    let mut cpu = Cpu::default();
    let mut sockets = BTreeSet::new();
    for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match key.trim() {
            "processor" => cpu.threads += 1,
            "physical id" => {
                sockets.insert(value.to_owned());
            }
            "vendor_id" if cpu.vendor.is_none() => cpu.vendor = Some(value.to_owned()),
            "model name" if cpu.model.is_none() => cpu.model = Some(value.to_owned()),
            "siblings" if cpu.siblings.is_none() => cpu.siblings = value.parse().ok(),
            "flags" if cpu.guest.is_none() => {
                cpu.guest = Some(value.split_ascii_whitespace().any(|flag| flag == "hypervisor"));
            }
            _ => {}
        }
    }
    cpu.sockets = u32::try_from(sockets.len()).ok().filter(|sockets| *sockets > 0);
    cpu
}

/// Everything known of the node's hardware.
pub fn discover(roots: &Roots) -> Hardware {
    let cpu = cpu(&roots.procfs);
    let disks = disks(&roots.sysfs);
    Hardware {
        sockets: cpu.sockets,
        threads: Some(cpu.threads).filter(|threads| *threads > 0),
        cpu_model: cpu.model,
        memory_bytes: read_text(&roots.procfs.join("meminfo")).and_then(|text| memory(&text, "MemTotal")),
        disks: disks.as_ref().and_then(|disks| u32::try_from(disks.len()).ok()),
        rotating_disks: disks.and_then(|disks| rotating(&disks)),
        accelerators: nvidia(roots).into_iter().chain(gaudi(roots)).collect(),
        guest: cpu.guest,
        kernel: read_text(&roots.procfs.join("sys/kernel/osrelease")).map(|text| text.trim().to_owned()),
    }
}

/// Folders of local disks: block devices with hardware behind them (`device` is there), optical drives and floppies apart.
fn disks(sysfs: &Path) -> Option<Vec<PathBuf>> {
    let names = std::fs::read_dir(sysfs.join("block")).ok()?;
    let disks = names.filter_map(Result::ok).filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_virtual =
            ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"].iter().any(|kind| name.starts_with(kind));
        !is_virtual && entry.path().join("device").exists()
    });
    Some(disks.map(|entry| entry.path()).collect())
}

/// How many of them rotate, if all of them tell.
fn rotating(disks: &[PathBuf]) -> Option<u32> {
    disks.iter().try_fold(0u32, |sum, disk| match read_text(&disk.join("queue/rotational"))?.trim() {
        "0" => Some(sum),
        "1" => Some(sum.saturating_add(1)),
        _ => None,
    })
}

/// NVIDIA devices: from the driver where it is loaded, else from the PCI bus.
pub fn nvidia(roots: &Roots) -> Vec<Accelerator> {
    let driver = read_text(&roots.procfs.join("driver/nvidia/version")).and_then(|text| driver_version(&text));
    let mut from_driver: Vec<_> = entries(&roots.procfs.join("driver/nvidia/gpus"))
        .into_iter()
        .filter_map(|(_, path)| {
            let text = read_text(&path.join("information"))?;
            let field =
                |key| text.lines().find_map(|line| Some(line.split_once(':')?).filter(|(name, _)| name.trim() == key));
            let model = field("Model").map_or("NVIDIA device", |(_, value)| value.trim()).to_owned();
            let device = field("GPU UUID").map(|(_, value)| value.trim().to_owned());
            Some(Accelerator { device, model, driver: driver.clone(), memory_bytes: None })
        })
        .collect();
    if from_driver.is_empty() {
        let seen = on_pci(roots, NVIDIA_VENDOR, DISPLAY_CLASS).into_iter();
        from_driver = seen
            .map(|address| Accelerator {
                device: None,
                model: format!("NVIDIA PCI device {address}"),
                driver: driver.clone(),
                memory_bytes: None,
            })
            .collect();
    }
    from_driver
}

/// Gaudi accelerators, from the PCI bus.
pub fn gaudi(roots: &Roots) -> Vec<Accelerator> {
    let driver = read_text(&roots.sysfs.join("module/habanalabs/version")).map(|text| text.trim().to_owned());
    let seen = on_pci(roots, HABANA_VENDOR, ACCELERATOR_CLASS).into_iter();
    seen.map(|address| Accelerator {
        device: None,
        model: format!("Gaudi PCI device {address}"),
        driver: driver.clone(),
        memory_bytes: None,
    })
    .collect()
}

/// Addresses of the PCI devices of a vendor and a class.
fn on_pci(roots: &Roots, vendor: &str, class: &str) -> Vec<String> {
    let is_one = |path: &Path| {
        let read = |file: &str| read_text(&path.join(file)).unwrap_or_default();
        read("vendor").trim() == vendor && read("class").starts_with(class)
    };
    let devices = entries(&roots.sysfs.join("bus/pci/devices")).into_iter();
    devices.filter(|(_, path)| is_one(path)).map(|(address, _)| address).collect()
}

/// "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.82.07  …" → the first word that looks like a version.
fn driver_version(text: &str) -> Option<String> {
    let word = text
        .lines()
        .next()?
        .split_ascii_whitespace()
        .find(|word| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.'))?;
    Some(word.to_owned())
}

/// Names and paths of a folder's entries in order; none if it is not there.
fn entries(folder: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .filter_map(Result::ok)
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect();
    found.sort();
    found
}

/// Sources for devices that are seen but that their collector does not read: they stand in every answer's exclusions.
pub fn unread_sources(accelerators: &[Accelerator], collector: &str) -> Vec<SourceState> {
    let maker = if collector == "nvml" { "nvidia" } else { collector };
    accelerators
        .iter()
        .enumerate()
        .map(|(index, accelerator)| SourceState {
            source: Source {
                id: format!("{maker}/{}", accelerator.device.clone().unwrap_or_else(|| index.to_string())),
                component: Component::Accelerator,
                socket: None,
                device: accelerator.device.clone(),
                collector: collector.to_owned(),
                method: Method::Counter,
                unit_nanojoules: None,
                ceiling: DEVICE_CEILING,
                uncertainty_permille: 1_000,
                contained_in: None,
                scope: None,
                basis: accelerator.model.clone(),
            }
            .into(),
            // Where its collector runs it says something better.
            unavailable: Some(format!("{} is seen and not read: {collector}.enabled is false", accelerator.model)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("inside the root")).expect("folder");
        fs::write(path, text).expect("file");
    }

    #[test]
    fn a_guest_with_a_virtual_disk_and_an_nvidia_device_is_described() {
        let root = tempfile::tempdir().expect("folder");
        let cpuinfo = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 9654 96-Core Processor\nphysical id\t: 0\nsiblings\t: 2\nflags\t\t: fpu hypervisor\n\nprocessor\t: 1\nphysical id\t: 1\n";
        write(root.path(), "proc/cpuinfo", cpuinfo);
        write(root.path(), "proc/meminfo", "MemTotal:       1024 kB\nMemAvailable: 512 kB\n");
        write(root.path(), "proc/sys/kernel/osrelease", "6.1.0\n");
        write(root.path(), "sys/block/vda/device/x", "");
        write(root.path(), "sys/block/vda/queue/rotational", "1\n");
        write(root.path(), "sys/block/nvme0n1/device/x", "");
        write(root.path(), "sys/block/loop0/size", "0");
        write(root.path(), "sys/block/zram0/device/x", "");
        write(root.path(), "sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n");
        write(root.path(), "sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n");
        write(root.path(), "sys/bus/pci/devices/0000:01:00.1/vendor", "0x10de\n");
        write(root.path(), "sys/bus/pci/devices/0000:01:00.1/class", "0x040300\n");
        let roots = Roots {
            sysfs: root.path().join("sys"),
            procfs: root.path().join("proc"),
            cgroup: root.path().join("sys/fs/cgroup"),
        };
        let hardware = discover(&roots);
        assert_eq!((hardware.sockets, hardware.threads, hardware.disks), (Some(2), Some(2), Some(2)));
        assert_eq!(hardware.rotating_disks, None, "one does not tell");
        write(root.path(), "sys/block/nvme0n1/queue/rotational", "0\n");
        assert_eq!(discover(&roots).rotating_disks, Some(1));
        assert_eq!((hardware.memory_bytes, hardware.guest), (Some(1024 * 1024), Some(true)));
        assert_eq!(hardware.kernel.as_deref(), Some("6.1.0"));
        assert_eq!(hardware.accelerators.len(), 1);
        let unread = unread_sources(&hardware.accelerators, "nvml");
        assert_eq!(unread[0].source.component, Component::Accelerator);
        assert!(unread[0].unavailable.as_deref().is_some_and(|why| why.contains("nvml.enabled is false")));
        write(root.path(), "sys/bus/pci/devices/0000:33:00.0/vendor", "0x1da3\n");
        write(root.path(), "sys/bus/pci/devices/0000:33:00.0/class", "0x120000\n");
        let unread = unread_sources(&gaudi(&roots), "gaudi");
        assert_eq!((unread.len(), unread[0].source.id.as_str()), (1, "gaudi/0"));
    }

    #[test]
    fn what_cannot_be_read_stays_unknown() {
        let roots =
            Roots { sysfs: "/nonexistent".into(), procfs: "/nonexistent".into(), cgroup: "/nonexistent".into() };
        assert_eq!(discover(&roots), Hardware::default());
    }

    #[test]
    fn the_driver_version_is_found_in_its_line() {
        let text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.82.07  Thu Aug 28\nGCC version: 12.2.0\n";
        assert_eq!(driver_version(text).as_deref(), Some("580.82.07"));
    }
}
