//! The hwmon view: chips under `sys/class/hwmon` with links to their devices, and what each of their channels shows.
//!
//! A power is the mean over the channel's window, or that of the instant, in µW; an energy counts in µJ. Values are
//! constant lines of 21 bytes that are overwritten in place, as those of powercap.

use crate::error::{Result, at};
use crate::powercap::Obstacle;
use crate::profile::Profile;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

/// What a channel shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    /// Mean power over so many ns; that of the instant for 0.
    Power {
        /// The window.
        window_ns: u64,
    },
    /// Energy since the node began.
    Energy,
}

/// What makes a channel.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Number of its chip.
    pub chip: u32,
    /// Name of the driver.
    pub driver: &'static str,
    /// Name of the device.
    pub device: String,
    /// Whether the attributes lie with the device, as old drivers have them.
    pub on_device: bool,
    /// Name and number, for example `power1`.
    pub channel: String,
    /// Ending of its value's file.
    pub ending: &'static str,
    /// Other attributes.
    pub constants: Vec<(String, String)>,
    /// Leaves whose energy it meters.
    pub leaves: Vec<String>,
    /// It shows so many of …
    pub numerator: u32,
    /// … so many parts of them.
    pub denominator: u32,
    /// What it shows.
    pub shows: Shows,
}

/// One channel.
#[derive(Debug)]
pub struct Meter {
    plan: Plan,
    folder: PathBuf,
    devices: PathBuf,
    file: Option<File>,
    frozen: bool,
}

/// Name of a chip's folder and of the file in it.
fn place(plan: &Plan, root: &Path) -> (PathBuf, PathBuf) {
    let folder = root.join(format!("sys/class/hwmon/hwmon{}", plan.chip));
    (folder, root.join("sys/devices").join(&plan.device))
}

impl Meter {
    /// Makes the channel's files below `root`.
    pub fn new(root: &Path, plan: Plan) -> Result<Self> {
        let (folder, devices) = place(&plan, root);
        let mut meter = Self { plan, folder, devices, file: None, frozen: false };
        meter.restore(0)?;
        Ok(meter)
    }

    /// Its name: chip and channel, for example `hwmon0/power1`.
    pub fn id(&self) -> String {
        format!("hwmon{}/{}", self.plan.chip, self.plan.channel)
    }

    /// What a reader that names sources by their devices may call it.
    pub fn of_device(&self) -> String {
        format!("{}/{}/{}", self.plan.driver, self.plan.device, self.plan.channel)
    }

    /// Leaves whose energy it meters.
    pub fn leaves(&self) -> &[String] {
        &self.plan.leaves
    }

    /// What it shows of an energy of its leaves.
    pub fn share(&self, energy: i128) -> i128 {
        energy * i128::from(self.plan.numerator) / i128::from(self.plan.denominator.max(1))
    }

    /// Time over which it averages, in ns.
    pub fn window_ns(&self) -> Option<u64> {
        match self.plan.shows {
            Shows::Power { window_ns } => Some(window_ns),
            Shows::Energy => None,
        }
    }

    /// Shows a value in µW or µJ, unless it is frozen or gone.
    pub fn show(&self, value: i128) -> Result<()> {
        let Some(file) = self.file.as_ref().filter(|_| !self.frozen) else { return Ok(()) };
        file.write_all_at(format!("{:020}\n", value.max(0)).as_bytes(), 0).map_err(at(&self.folder))
    }

    /// Lets the value stand still, or go on.
    pub fn freeze(&mut self, frozen: bool) {
        self.frozen = frozen;
    }

    fn attributes(&self) -> &Path {
        if self.plan.on_device { &self.devices } else { &self.folder }
    }

    fn value_file(&self) -> PathBuf {
        self.attributes().join(format!("{}_{}", self.plan.channel, self.plan.ending))
    }

    /// Puts something in the way of readers.
    pub fn obstruct(&mut self, obstacle: Obstacle) -> Result<()> {
        self.file = None;
        if obstacle == Obstacle::Gone {
            return fs::remove_dir_all(&self.folder).map_err(at(&self.folder));
        }
        let path = self.value_file();
        let _ = fs::remove_file(&path);
        if obstacle == Obstacle::Folder || nix::unistd::geteuid().is_root() {
            return fs::create_dir(&path).map_err(at(&path));
        }
        OpenOptions::new().write(true).create_new(true).mode(0o0).open(&path).map_err(at(&path))?;
        Ok(())
    }

    /// Makes every file of the channel anew.
    pub fn restore(&mut self, value: i128) -> Result<()> {
        fs::create_dir_all(&self.devices).map_err(at(&self.devices))?;
        fs::create_dir_all(&self.folder).map_err(at(&self.folder))?;
        let link = self.folder.join("device");
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("../../../devices").join(&self.plan.device), &link).map_err(at(&link))?;
        }
        let write = |path: PathBuf, text: &str| fs::write(&path, format!("{text}\n")).map_err(at(&path));
        write(self.folder.join("name"), self.plan.driver)?;
        for (name, text) in &self.plan.constants {
            write(self.attributes().join(name), text)?;
        }
        let path = self.value_file();
        if path.is_dir() {
            fs::remove_dir(&path).map_err(at(&path))?;
        }
        let _ = fs::remove_file(&path);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o444).open(&path).map_err(at(&path))?;
        self.file = Some(file);
        self.show(value)
    }
}

/// The channels that a profile says its node has; `leaves` are the names of all of its leaves.
pub fn plans(profile: &Profile, leaves: &[String]) -> Vec<Plan> {
    let mut plans = Vec::new();
    let with = |prefixes: &[&str]| -> Vec<String> {
        let wanted = |leaf: &&String| prefixes.iter().any(|prefix| leaf.starts_with(prefix));
        leaves.iter().filter(wanted).cloned().collect()
    };
    let labels = profile.cpu.hwmon.iter().flatten();
    for (index, label) in labels.filter(|label| label.contains(" Power Socket ")).enumerate() {
        let leaves = match label.split(' ').next() {
            Some("Module") => with(&["grace", "gpu"]),
            Some("Grace") => with(&["grace"]),
            Some("CPU") => with(&["grace_cpu"]),
            _ => with(&["grace_sysio"]),
        };
        let millis = profile.cpu.hwmon_window_ms.unwrap_or(50);
        let constants = vec![
            ("power1_oem_info".to_owned(), label.clone()),
            ("power1_average_interval".to_owned(), millis.to_string()),
        ];
        let device = format!("ACPI000D:{index:02}");
        plans.push(Plan { leaves, constants, ..meter(plans.len(), device, millis) });
    }
    if let Some(acpi) = &profile.acpi_meter {
        let constants = vec![
            ("power1_average_interval".to_owned(), acpi.window_ms.to_string()),
            ("power1_is_battery".to_owned(), "0".to_owned()),
        ];
        let all = leaves.to_vec();
        let (numerator, denominator) = (1_000, acpi.efficiency_permille);
        let plan = meter(plans.len(), "ACPI000D:ff".to_owned(), acpi.window_ms);
        plans.push(Plan { leaves: all, constants, numerator, denominator, ..plan });
    }
    altra(profile, &mut plans);
    amd(profile, &mut plans);
    plans
}

/// An ACPI power meter, of which nothing is said yet.
fn meter(chip: usize, device: String, window_ms: u32) -> Plan {
    Plan {
        chip: u32::try_from(chip).unwrap_or(0),
        driver: "power_meter",
        device,
        on_device: true,
        channel: "power1".to_owned(),
        ending: "average",
        constants: Vec::new(),
        leaves: Vec::new(),
        numerator: 1,
        denominator: 1,
        shows: Shows::Power { window_ns: u64::from(window_ms) * 1_000_000 },
    }
}

/// Chips of a driver for each socket of an Altra: two powers, and an energy for each core.
fn altra(profile: &Profile, plans: &mut Vec<Plan>) {
    let has = |label: &str| profile.cpu.hwmon.iter().flatten().any(|other| other == label);
    let first = u32::try_from(plans.len()).unwrap_or(0);
    for socket in 0..profile.cpu.sockets {
        let chip = first + 2 * socket;
        for (number, label, leaf) in [(1, "CPU power", "pkg"), (2, "IO power", "io")] {
            if !has(label) {
                continue;
            }
            let channel = format!("power{number}");
            plans.push(Plan {
                chip,
                driver: "apm_xgene",
                on_device: false,
                ending: "input",
                constants: vec![(format!("{channel}_label"), label.to_owned())],
                leaves: vec![format!("cpu{socket}.{leaf}")],
                shows: Shows::Power { window_ns: 0 },
                channel,
                ..meter(0, format!("APMC0D29:{socket:02}"), 0)
            });
        }
        let cores = profile.cpu.hwmon_cores.unwrap_or(0);
        for core in 0..cores {
            let channel = format!("energy{}", core + 1);
            plans.push(Plan {
                chip: chip + 1,
                driver: "altra_hwmon",
                on_device: false,
                ending: "input",
                constants: vec![(format!("{channel}_label"), format!("Core Energy {core:03}"))],
                leaves: vec![format!("cpu{socket}.pkg")],
                // Caches and the mesh between the cores draw as well.
                denominator: cores + 1,
                shows: Shows::Energy,
                channel,
                ..meter(0, format!("APMC0D51:{socket:02}"), 0)
            });
        }
    }
}

/// A chip for each AMD accelerator.
fn amd(profile: &Profile, plans: &mut Vec<Plan>) {
    let Some(gpus) = profile.gpus.as_ref().filter(|gpus| gpus.vendor == "amd") else { return };
    let first = plans.last().map_or(0, |plan| plan.chip + 1);
    for slot in 0..gpus.count {
        plans.push(Plan {
            chip: first + slot,
            driver: "amdgpu",
            on_device: false,
            ending: "input",
            constants: vec![
                ("power1_label".to_owned(), "PPT".to_owned()),
                ("power1_cap".to_owned(), (u64::from(gpus.limit_w) * 1_000_000).to_string()),
                ("device/product_name".to_owned(), gpus.model.clone()),
                ("device/mem_info_vram_total".to_owned(), (192u64 << 30).to_string()),
            ],
            leaves: vec![format!("gpu{slot}")],
            shows: Shows::Power { window_ns: 0 },
            ..meter(0, format!("0000:{:02x}:00.0", 0x19 + slot * 0x11), 0)
        });
    }
}
