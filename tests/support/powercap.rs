//! A fake powercap tree that counts as the kernel does: a 32-bit register in units of 61.035 µJ, shown in whole µJ.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Energy unit of Intel's register, in nJ, as the kernel rounds it (2⁻¹⁴ J).
pub const UNIT_NANOJOULES: u64 = 61_035;
/// Where the counter starts again, in µJ: what the kernel shows for a 32-bit register of that unit.
pub const RANGE_MICROJOULES: u64 = shown(u32::MAX as u64);

/// What the kernel shows for a register value.
const fn shown(register: u64) -> u64 {
    register * UNIT_NANOJOULES / 1_000
}

/// One zone of the tree and the truth about it.
pub struct Zone {
    folder: PathBuf,
    register: u32,
    /// Energy that is less than a unit of the register, in nJ.
    rest: u64,
    truth_nanojoules: u128,
}

/// A tree under a temporary root.
pub struct Powercap {
    root: PathBuf,
}

impl Powercap {
    /// An empty tree below a sysfs root: `class/powercap`.
    pub fn new(sysfs: &Path) -> Result<Self> {
        let root = sysfs.join("class/powercap");
        fs::create_dir_all(root.join("intel-rapl")).context("making the fake powercap tree")?;
        fs::write(root.join("intel-rapl/enabled"), "1\n")?;
        Ok(Self { root })
    }

    /// Adds a zone, for example `intel-rapl:0` named `package-0`, or `intel-rapl:0:0` named `dram`, whose register holds
    /// `register` at first.
    pub fn zone(&self, id: &str, name: &str, register: u32) -> Result<Zone> {
        let folder = self.root.join(id);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("name"), format!("{name}\n"))?;
        fs::write(folder.join("enabled"), "1\n")?;
        fs::write(folder.join("max_energy_range_uj"), format!("{RANGE_MICROJOULES}\n"))?;
        let zone = Zone { folder, register, rest: 0, truth_nanojoules: 0 };
        zone.write()?;
        Ok(zone)
    }
}

impl Zone {
    /// Lets so many watts flow for so long; the register wraps as hardware does. Refuses more than one wrap at once.
    pub fn flow(&mut self, watts: u32, time: Duration) -> Result<()> {
        let nanojoules = u128::from(watts) * time.as_nanos();
        let units = (nanojoules + u128::from(self.rest)) / u128::from(UNIT_NANOJOULES);
        if units > u128::from(u32::MAX) {
            bail!("{watts} W for {time:?} is more than the register's range");
        }
        self.rest = u64::try_from((nanojoules + u128::from(self.rest)) % u128::from(UNIT_NANOJOULES))?;
        self.register = self.register.wrapping_add(u32::try_from(units)?);
        self.truth_nanojoules += nanojoules;
        self.write()
    }

    /// Sets the register back to 0, as firmware may; the truth does not change.
    pub fn reset(&mut self) -> Result<()> {
        self.register = 0;
        self.write()
    }

    /// Energy that has really flowed, in whole µJ.
    pub fn truth_microjoules(&self) -> u64 {
        u64::try_from(self.truth_nanojoules / 1_000).unwrap_or(u64::MAX)
    }

    /// The file that an agent reads.
    pub fn file(&self) -> PathBuf {
        self.folder.join("energy_uj")
    }

    // In place, because an agent may hold the file open: a reader sees the old value, nothing, or the new value.
    fn write(&self) -> Result<()> {
        let path = self.file();
        fs::write(&path, format!("{}\n", shown(u64::from(self.register))))
            .with_context(|| format!("writing {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(zone: &Zone) -> u64 {
        fs::read_to_string(zone.file()).unwrap().trim().parse().unwrap()
    }

    #[test]
    fn the_range_is_the_kernels() {
        assert_eq!(RANGE_MICROJOULES, 262_143_328_850);
    }

    #[test]
    fn a_wrap_loses_no_more_than_a_unit() {
        let folder = tempfile::tempdir().unwrap();
        let mut zone = Powercap::new(folder.path()).unwrap().zone("intel-rapl:0", "package-0", u32::MAX - 10).unwrap();
        let before = read(&zone);
        zone.flow(100, Duration::from_secs(1)).unwrap();
        let delta = RANGE_MICROJOULES - before + read(&zone);
        assert!(delta.abs_diff(zone.truth_microjoules()) <= 2 * UNIT_NANOJOULES / 1_000 + 2, "{delta}");
        assert_eq!(zone.truth_microjoules(), 100_000_000);
    }

    #[test]
    fn small_flows_add_up() {
        let folder = tempfile::tempdir().unwrap();
        let mut zone = Powercap::new(folder.path()).unwrap().zone("intel-rapl:0", "package-0", 0).unwrap();
        for _ in 0..10_000 {
            zone.flow(1, Duration::from_micros(10)).unwrap();
        }
        assert!(read(&zone).abs_diff(100_000) <= UNIT_NANOJOULES / 1_000 + 1);
    }
}
