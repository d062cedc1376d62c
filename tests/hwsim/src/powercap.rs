//! The powercap view: zones under `sys/devices/virtual/powercap`, links in `sys/class/powercap`, and the kernel's
//! arithmetic: `energy_uj = register × unit_nJ ÷ 1000` of a 32-bit register.
//!
//! A counter is one constant line of 21 bytes: 20 digits, zeros first, and a line feed. One `pwrite` at offset 0 sets it,
//! so that no reader sees half of two values and no descriptor goes stale. Zeros instead of spaces behind the number,
//! because strict readers (the agent is one) take nothing but digits for a number.

use crate::error::{Result, at};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

/// What lies where the counter should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// A folder: reading gives EISDIR. A file system of our own would be needed for EIO.
    Folder,
    /// A file of mode 0, which only root can read; for root, who may read all, a folder too.
    Forbidden,
    /// The zone is gone.
    Gone,
}

/// One zone.
#[derive(Debug)]
pub struct Zone {
    /// Its folder's name, for example `intel-rapl:0:0`.
    pub id: String,
    /// What it calls itself.
    pub name: String,
    /// Leaves whose energy it counts.
    pub leaves: Vec<String>,
    /// It counts one part in so many of them.
    pub part: u32,
    /// Unit of its register in nJ.
    pub unit_nj: u64,
    offset: u64,
    limit_uw: Option<u64>,
    devices: PathBuf,
    class: PathBuf,
    file: Option<File>,
    frozen: bool,
}

/// What makes a zone.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Folder name.
    pub id: String,
    /// Name.
    pub name: String,
    /// Leaves.
    pub leaves: Vec<String>,
    /// One part in so many.
    pub part: u32,
    /// Unit in nJ.
    pub unit_nj: u64,
    /// What the register shows at simulated 0.
    pub register: u32,
    /// Power limit that it tells, in µW.
    pub limit_uw: Option<u64>,
}

/// Makes a link that is not there yet.
fn link(path: &Path, target: &Path) -> Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(at(folder))?;
    symlink(target, path).map_err(at(path))
}

impl Zone {
    /// Makes the zone's files below `root` (`DIR`), its link included.
    pub fn new(root: &Path, plan: Plan) -> Result<Self> {
        let control = plan.id.split(':').next().unwrap_or_default().to_owned();
        let base = root.join("sys/devices/virtual/powercap").join(&control);
        let parent = plan.id.match_indices(':').nth(1).and_then(|(end, _)| plan.id.get(..end));
        let devices = parent.map_or_else(|| base.clone(), |parent| base.join(parent)).join(&plan.id);
        let class = root.join("sys/class/powercap").join(&plan.id);
        let mut zone = Self {
            id: plan.id,
            name: plan.name,
            leaves: plan.leaves,
            part: plan.part.max(1),
            unit_nj: plan.unit_nj,
            offset: u64::from(plan.register),
            limit_uw: plan.limit_uw,
            devices,
            class,
            file: None,
            frozen: false,
        };
        fs::create_dir_all(&base).map_err(at(&base))?;
        fs::write(base.join("enabled"), "1\n").map_err(at(&base))?;
        // As in the kernel's tree: some readers look for the control type by its links.
        let class = root.join("sys/class/powercap");
        link(&class.join(&control), &Path::new("../../devices/virtual/powercap").join(&control))?;
        link(&base.join("subsystem"), Path::new("../../../../class/powercap"))?;
        zone.restore(0)?;
        Ok(zone)
    }

    /// Highest value that it shows, in µJ.
    pub fn range_uj(&self) -> u64 {
        u64::from(u32::MAX) * self.unit_nj / 1_000
    }

    /// Energy of the zone's whole range in pJ.
    pub fn range_pj(&self) -> i128 {
        (i128::from(u32::MAX) + 1) * i128::from(self.unit_nj) * 1_000
    }

    /// The folder that readers see.
    pub fn folder(&self) -> &Path {
        &self.class
    }

    fn counts(&self, energy_pj: i128) -> u64 {
        let counts = energy_pj / i128::from(self.part) / (i128::from(self.unit_nj) * 1_000);
        u64::try_from(counts.rem_euclid(1 << 32)).unwrap_or(0)
    }

    /// What the register shows after that much energy.
    pub fn register(&self, energy_pj: i128) -> u32 {
        u32::try_from((self.counts(energy_pj) + self.offset) % (1 << 32)).unwrap_or(0)
    }

    /// Shows the counter after that much energy in pJ, unless it is frozen or gone.
    pub fn show(&self, energy_pj: i128) -> Result<()> {
        let Some(file) = self.file.as_ref().filter(|_| !self.frozen) else { return Ok(()) };
        let shown = u64::from(self.register(energy_pj)) * self.unit_nj / 1_000;
        file.write_all_at(format!("{shown:020}\n").as_bytes(), 0).map_err(at(&self.class))
    }

    /// Sets the register back to 0, as firmware may.
    pub fn reset(&mut self, energy_pj: i128) {
        self.offset = (1 << 32) - self.counts(energy_pj);
    }

    /// Lets the counter stand still, or go on.
    pub fn freeze(&mut self, frozen: bool) {
        self.frozen = frozen;
    }

    /// Puts something in the way of readers. The inode is replaced, so that a descriptor held open is no way around it.
    pub fn obstruct(&mut self, obstacle: Obstacle) -> Result<()> {
        self.file = None;
        if obstacle == Obstacle::Gone {
            let _ = fs::remove_file(&self.class);
            return fs::remove_dir_all(&self.devices).map_err(at(&self.devices));
        }
        let path = self.devices.join("energy_uj");
        self.clear(&path)?;
        if obstacle == Obstacle::Folder || nix::unistd::geteuid().is_root() {
            return fs::create_dir(&path).map_err(at(&path));
        }
        OpenOptions::new().write(true).create_new(true).mode(0o0).open(&path).map_err(at(&path))?;
        Ok(())
    }

    fn clear(&self, path: &Path) -> Result<()> {
        match fs::symlink_metadata(path) {
            Err(_) => Ok(()),
            Ok(found) if found.is_dir() => fs::remove_dir(path).map_err(at(path)),
            Ok(_) => fs::remove_file(path).map_err(at(path)),
        }
    }

    /// Makes every file of the zone anew, with the counter after that much energy.
    pub fn restore(&mut self, energy_pj: i128) -> Result<()> {
        fs::create_dir_all(&self.devices).map_err(at(&self.devices))?;
        let write = |name: &str, text: String| {
            let path = self.devices.join(name);
            fs::write(&path, text).map_err(at(&path))
        };
        write("name", format!("{}\n", self.name))?;
        write("enabled", "1\n".to_owned())?;
        write("max_energy_range_uj", format!("{}\n", self.range_uj()))?;
        if let Some(limit) = self.limit_uw {
            write("constraint_0_name", "long_term\n".to_owned())?;
            write("constraint_0_max_power_uw", format!("{limit}\n"))?;
            write("constraint_0_power_limit_uw", format!("{limit}\n"))?;
        }
        let path = self.devices.join("energy_uj");
        self.clear(&path)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&path).map_err(at(&path))?;
        self.file = Some(file);
        let below = self.devices.components().skip_while(|part| part.as_os_str() != "devices");
        link(&self.class, &Path::new("../..").join(below.collect::<PathBuf>()))?;
        self.show(energy_pj)
    }
}
