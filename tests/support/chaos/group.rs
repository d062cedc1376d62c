//! A control group whose memory is bounded, of either version. Needs root.

use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ROOT: &str = "/sys/fs/cgroup";
/// How long the kernel may take to empty a group whose processes have ended.
const EMPTIED: Duration = Duration::from_secs(5);

/// The group; it is removed when this is dropped, behind its processes.
#[derive(Debug)]
pub struct MemoryGroup {
    folder: PathBuf,
    second: bool,
}

impl MemoryGroup {
    /// A new one that may hold so many bytes.
    pub fn new(bytes: u64) -> Result<Self> {
        let root = Path::new(ROOT);
        let second = root.join("cgroup.controllers").exists();
        let base = if second { root.to_owned() } else { root.join("memory") };
        if second {
            // It may be there already.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
        }
        let folder = base.join(format!("joulebook-rig-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("making the control group {}", folder.display()))?;
        let group = Self { folder, second };
        let limit = if second { "memory.max" } else { "memory.limit_in_bytes" };
        fs::write(group.folder.join(limit), bytes.to_string()).context("limiting the memory of a control group")?;
        Ok(group)
    }

    /// The words that start a program in it.
    pub fn words(&self) -> Vec<OsString> {
        let enter = "echo $$ > \"$0\" && exec \"$@\"";
        vec!["sh".into(), "-c".into(), enter.into(), self.folder.join("cgroup.procs").into_os_string()]
    }

    /// How often memory ran out and something was taken back.
    pub fn failures(&self) -> Result<u64> {
        if self.second { self.line("memory.events", "max ") } else { self.line("memory.failcnt", "") }
    }

    /// How often a process was killed because none could be.
    pub fn kills(&self) -> Result<u64> {
        self.line(if self.second { "memory.events" } else { "memory.oom_control" }, "oom_kill ")
    }

    fn line(&self, file: &str, name: &str) -> Result<u64> {
        let path = self.folder.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let Some(number) = text.lines().find_map(|line| line.strip_prefix(name)) else {
            bail!("{} has no line `{name}`", path.display());
        };
        Ok(number.trim().parse()?)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let step = Duration::from_millis(20);
        let mut waited = Duration::ZERO;
        while fs::remove_dir(&self.folder).is_err() && waited < EMPTIED {
            std::thread::sleep(step);
            waited += step;
        }
    }
}
