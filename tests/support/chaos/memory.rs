//! Memory and open files of a process, looked at while it runs.

use anyhow::{Context, Result};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The most that was seen.
#[derive(Debug, Default)]
struct Most {
    resident: AtomicU64,
    files: AtomicU64,
    stop: AtomicBool,
}

/// Looks at a process until it is asked for what it saw.
#[derive(Debug)]
pub struct Observer {
    most: Arc<Most>,
    thread: JoinHandle<()>,
}

impl Observer {
    /// Looks at the process with this number.
    pub fn start(pid: u32) -> Result<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let most = Arc::new(Most::default());
        resident(&folder).context("reading the memory of a process")?;
        let seen = Arc::clone(&most);
        let thread = std::thread::spawn(move || {
            while !seen.stop.load(Ordering::Relaxed) {
                let files = std::fs::read_dir(folder.join("fd")).map_or(0, |files| files.count() as u64);
                seen.files.fetch_max(files, Ordering::Relaxed);
                seen.resident.fetch_max(resident(&folder).unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(LOOK_EVERY);
            }
        });
        Ok(Self { most, thread })
    }

    /// The most bytes of memory and the most open files.
    pub fn most(self) -> (u64, u64) {
        self.most.stop.store(true, Ordering::Relaxed);
        // It only reads.
        let _ = self.thread.join();
        (self.most.resident.load(Ordering::Relaxed), self.most.files.load(Ordering::Relaxed))
    }
}

/// Resident memory in bytes; none if the process is gone.
fn resident(folder: &std::path::Path) -> Option<u64> {
    let status = std::fs::read_to_string(folder.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}
