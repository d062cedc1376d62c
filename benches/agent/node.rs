//! The made-up sysfs of a node with two sockets: packages and memory whose counters move, and one power meter.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use joulebook_agent::clock::{Clock, SystemClock};
use nix::mount::{MsFlags, mount};

/// Zone, name, and constant power in watts.
const ZONES: [(&str, &str, u64); 4] = [
    ("intel-rapl:0", "package-0", 150),
    ("intel-rapl:0:0", "dram", 22),
    ("intel-rapl:1", "package-1", 160),
    ("intel-rapl:1:0", "dram", 21),
];
/// What the counters begin with, in µJ. They reach no wrap within an hour, so that a value is never shorter than the one
/// it is written over.
const FIRST_MICROJOULES: u64 = 1_000_000_000;
const RANGE_MICROJOULES: u64 = 999_999_999_999;
const REFRESH: Duration = Duration::from_millis(50);

/// The tree, and the thread that lets energy flow.
pub struct Node {
    sysfs: PathBuf,
    stop: Arc<AtomicBool>,
    feeder: Option<JoinHandle<()>>,
}

impl Node {
    /// Makes the tree below `folder` and lets its counters run.
    pub fn start(folder: &Path) -> Result<Self> {
        let sysfs = folder.join("sys");
        let write = |path: &str, text: &str| -> Result<()> {
            let path = sysfs.join(path);
            fs::create_dir_all(path.parent().context("a file in the tree")?)?;
            Ok(fs::write(path, format!("{text}\n"))?)
        };
        write("class/powercap/intel-rapl/enabled", "1")?;
        for (zone, name, _) in ZONES {
            let zone = format!("class/powercap/{zone}");
            write(&format!("{zone}/name"), name)?;
            write(&format!("{zone}/enabled"), "1")?;
            write(&format!("{zone}/max_energy_range_uj"), &RANGE_MICROJOULES.to_string())?;
            write(&format!("{zone}/energy_uj"), &FIRST_MICROJOULES.to_string())?;
        }
        write("class/hwmon/hwmon0/name", "power_meter")?;
        write("class/hwmon/hwmon0/power1_average", "512000000")?;
        fs::create_dir_all(sysfs.join("devices"))?;
        // The CPUs' own folder, for peers that look for frequencies.
        symlink("/sys/devices/system", sysfs.join("devices/system"))?;

        let files = ZONES.map(|(zone, _, watts)| {
            let path = sysfs.join("class/powercap").join(zone).join("energy_uj");
            File::options().write(true).open(path).map(|file| (file, watts))
        });
        let files = files.into_iter().collect::<Result<Vec<_>, _>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let feeder = std::thread::spawn(move || feed(&files, &stopped));
        Ok(Self { sysfs, stop, feeder: Some(feeder) })
    }

    /// Root of the tree.
    pub fn sysfs(&self) -> &Path {
        &self.sysfs
    }

    /// Puts the tree over /sys; only in a mount namespace of one's own. Control groups and CPUs stay the machine's.
    pub fn show_at_sys(&self) -> Result<()> {
        let nothing = None::<&str>;
        fs::remove_file(self.sysfs.join("devices/system"))?;
        for real in ["devices/system", "fs/cgroup"] {
            let (from, to) = (Path::new("/sys").join(real), self.sysfs.join(real));
            fs::create_dir_all(&to)?;
            mount(Some(&from), &to, nothing, MsFlags::MS_BIND | MsFlags::MS_REC, nothing)
                .with_context(|| format!("mounting {}", to.display()))?;
        }
        mount(Some(&self.sysfs), "/sys", nothing, MsFlags::MS_BIND | MsFlags::MS_REC, nothing).context("mounting /sys")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(feeder) = self.feeder.take() {
            let _ended = feeder.join();
        }
    }
}

/// Writes what a meter of constant power would show, in place: a reader sees the old value or the new one.
fn feed(files: &[(File, u64)], stop: &AtomicBool) {
    let began = SystemClock.boot();
    while !stop.load(Ordering::Relaxed) {
        let nanos = SystemClock.boot().0.saturating_sub(began.0);
        for (file, watts) in files {
            let shown = FIRST_MICROJOULES + watts * (nanos / 1_000);
            // The next value says the same and more.
            let _missed = file.write_at(format!("{shown}\n").as_bytes(), 0);
        }
        std::thread::sleep(REFRESH);
    }
}
