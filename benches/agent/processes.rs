//! The processes of the node: a given number of them, asleep, at work, or each ten in a control group of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// How the processes are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrangement {
    /// All asleep, in the group of the bench.
    Asleep,
    /// All asleep, ten in a container.
    Contained,
    /// Every tenth works a little, every third has four threads; in the group of the bench.
    Mixed,
}

/// Folder of the containers within a hierarchy.
const FOLDER: &str = "joulebook-bench";
const IN_A_CONTAINER: usize = 10;
/// Time in ms after which a working process works again.
const WORK_EVERY: &str = "100";

/// The processes that the bench adds.
pub struct Crowd {
    sleeper: PathBuf,
    count: usize,
    arranged: Option<Arrangement>,
    children: Vec<Child>,
    containers: Vec<PathBuf>,
}

impl Crowd {
    /// As many as are needed to have `total` on the node, one contestant included. There may be more already.
    pub fn of(total: usize, sleeper: &Path) -> Result<Self> {
        let count = total.saturating_sub(alive()? + 1);
        Ok(Self { sleeper: sleeper.into(), count, arranged: None, children: Vec::new(), containers: Vec::new() })
    }

    /// Arranges them; nothing is done if they are arranged so already.
    pub fn arrange(&mut self, arrangement: Arrangement) -> Result<()> {
        if self.arranged == Some(arrangement) {
            return Ok(());
        }
        self.end();
        let mixed = arrangement == Arrangement::Mixed;
        for index in 0..self.count {
            let threads = if mixed && index % 3 == 0 { "4" } else { "1" };
            let period = if mixed && index % 10 == 0 { WORK_EVERY } else { "0" };
            let mut command = Command::new(&self.sleeper);
            command.args([threads, period]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            self.children.push(command.spawn().context("starting a process to be watched")?);
        }
        if arrangement == Arrangement::Contained {
            self.contain()?;
        }
        self.arranged = Some(arrangement);
        Ok(())
    }

    /// Moves them into containers, as a node of Kubernetes has them.
    fn contain(&mut self) -> Result<()> {
        let hierarchies = hierarchies().context("no hierarchy of control groups counts CPU time")?;
        for (number, members) in self.children.chunks(IN_A_CONTAINER).enumerate() {
            let (pod, id) = names(number);
            for hierarchy in &hierarchies {
                let container = hierarchy.join(FOLDER).join(&pod).join(&id);
                fs::create_dir_all(&container).with_context(|| format!("making {}", container.display()))?;
                for member in members {
                    fs::write(container.join("cgroup.procs"), member.id().to_string())?;
                }
                self.containers.push(container);
            }
        }
        Ok(())
    }

    fn end(&mut self) {
        for child in &mut self.children {
            // It cannot have ended by itself, and if it has, it is gone.
            let _gone = child.kill();
        }
        for child in &mut self.children {
            let _gone = child.wait();
        }
        self.children.clear();
        for container in self.containers.drain(..) {
            // From the inside out, as far as each is empty: another run may have its own beside.
            for folder in container.ancestors().take(3) {
                let _in_use = fs::remove_dir(folder);
            }
        }
        self.arranged = None;
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.end();
    }
}

/// Names of a pod and of its container that differ from the first digit on, like real ones.
fn names(number: usize) -> (String, String) {
    // Fibonacci hashing: an odd factor gives each number digits of its own.
    let digits = |salt: u64| (number as u64 + 1 + (salt << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let id: String = (0..4).map(|salt| format!("{:016x}", digits(salt))).collect();
    let (a, b) = (digits(4), digits(5) & 0xffff_ffff_ffff);
    (format!("pod{:08x}-{:04x}-4000-8000-{b:012x}", a >> 32, a & 0xffff), id)
}

/// Processes on the node now.
pub fn alive() -> Result<usize> {
    let entries = fs::read_dir("/proc")?.filter_map(Result::ok);
    Ok(entries.filter(|entry| entry.file_name().to_string_lossy().parse::<i32>().is_ok()).count())
}

/// Folders of the hierarchies that count CPU time and memory, found as the agent finds them; `None` without one.
fn hierarchies() -> Option<Vec<PathBuf>> {
    let root = Path::new("/sys/fs/cgroup");
    let accounts = ["cpuacct", "cpu,cpuacct"].map(|name| root.join(name));
    if let Some(accounts) = accounts.into_iter().find(|folder| folder.join("cpuacct.usage").exists()) {
        let memory = root.join("memory");
        return Some([accounts].into_iter().chain(memory.is_dir().then_some(memory)).collect());
    }
    [root.to_owned(), root.join("unified")]
        .into_iter()
        .find(|folder| folder.join("cpu.stat").exists())
        .map(|one| vec![one])
}

/// Why the processes cannot be put into containers, if they cannot.
pub fn why_not_contained() -> Option<String> {
    let Some(hierarchies) = hierarchies() else { return Some("no hierarchy of control groups counts CPU time".into()) };
    hierarchies.iter().find_map(|hierarchy| {
        let folder = hierarchy.join(FOLDER);
        let made = fs::create_dir_all(&folder).err();
        made.map(|error| format!("control groups cannot be made: {}: {error}", folder.display()))
    })
}
