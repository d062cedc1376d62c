//! What procfs says: CPU times of the machine and of each process.
//!
//! Reads `/proc/stat`, `/proc/meminfo`, `/proc/<pid>/stat` and `/proc/<pid>/cgroup`; no privilege. Times are in clock
//! ticks (10 ms). A process that vanishes between listing and reading is no error.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Kernel thread flag of the `flags` field of `/proc/<pid>/stat`.
const PF_KTHREAD: u64 = 0x0020_0000;
/// The process that starts all kernel threads.
const KTHREADD: i32 = 2;
/// Most bytes read of one file of procfs.
const FILE_BYTES: u64 = 64 * 1024;

/// Room for a line of a process's or a group's counters: 52 numbers and a name at most.
pub(super) const LINE_BYTES: usize = 2_048;

/// CPU times of the whole machine since boot, in clock ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuTimes {
    /// Time at work: user, nice, system, interrupts. Guests of this machine are inside user.
    pub busy: u64,
    /// All time, idle, waiting for disks and stolen by the hypervisor included.
    pub total: u64,
}

/// One process at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: i32,
    /// Parent's id.
    pub parent: i32,
    /// Command name, at most 15 bytes, whatever they are.
    pub comm: String,
    /// User and system time used by itself, in clock ticks.
    pub ticks: u64,
    /// User time of itself in clock ticks.
    pub utime: u64,
    /// System time of itself in clock ticks.
    pub stime: u64,
    /// Time of its ended and awaited children in clock ticks: user, system.
    pub children: (u64, u64),
    /// Start, in clock ticks after boot. With the pid it names the process for ever.
    pub start_ticks: u64,
    /// Resident memory in pages.
    pub resident_pages: u64,
    /// Whether it is a kernel thread.
    pub kernel: bool,
    /// Number of its threads.
    pub threads: u64,
    /// Whether it has ended and its parent has not taken note yet.
    pub zombie: bool,
}

impl Process {
    /// What names it for ever: process id and start.
    pub(super) fn key(&self) -> (i32, u64) {
        (self.pid, self.start_ticks)
    }
}

/// Opens a file of procfs, sysfs or a control group. A pipe in its place is empty, and never waited for.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(path)
}

/// Reads a small file of procfs or a control group; `None` if it is gone, unreadable, or not text.
pub fn read_text(path: &Path) -> Option<String> {
    String::from_utf8(read_bytes(path)?).ok()
}

/// Reads a whole number that fills a small file.
pub fn read_number(path: &Path) -> Option<u64> {
    read_text(path)?.trim().parse().ok()
}

/// CPU times of the machine from `<procfs>/stat`.
pub fn cpu_times(procfs: &Path) -> Option<CpuTimes> {
    // The first line is all that is needed; the rest grows with the number of interrupts.
    let mut start = [0u8; 512];
    let mut file = open(&procfs.join("stat")).ok()?;
    let mut length = 0;
    while length < start.len() {
        match file.read(start.get_mut(length..)?) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    let text = String::from_utf8_lossy(start.get(..length)?);
    parse_cpu_times(text.lines().next()?)
}

/// Reads the `cpu` line of `/proc/stat`.
pub fn parse_cpu_times(line: &str) -> Option<CpuTimes> {
    let mut words = line.split_ascii_whitespace();
    if words.next()? != "cpu" {
        return None;
    }
    let fields: Vec<u64> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
    // user nice system idle iowait irq softirq steal; guest times after them are inside user and nice.
    let field = |index: usize| fields.get(index).copied().unwrap_or(0);
    let busy = field(0) + field(1) + field(2) + field(5) + field(6);
    fields.get(3).map(|idle| CpuTimes { busy, total: busy + idle + field(4) + field(7) })
}

/// A field of `/proc/meminfo` in bytes.
pub fn memory(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Reads a line of `/proc/<pid>/stat`. The command name may hold anything, so what follows is found from the last `)`.
pub fn parse_stat(line: &str) -> Option<Process> {
    let (head, tail) = line.rsplit_once(')')?;
    let (pid, comm) = head.split_once('(')?;
    // Field numbers of proc_pid_stat(5) less 3: the first field here is `state`.
    let mut fields = [""; 22];
    for (field, word) in fields.iter_mut().zip(tail.split_ascii_whitespace()) {
        *field = word;
    }
    let number = |index: usize| fields.get(index).and_then(|word| word.parse::<u64>().ok());
    let pid = pid.trim().parse().ok()?;
    let parent = fields.get(1)?.parse().ok()?;
    let (utime, stime) = (number(11)?, number(12)?);
    Some(Process {
        pid,
        parent,
        comm: comm.to_owned(),
        ticks: utime.checked_add(stime)?,
        utime,
        stime,
        children: (number(13)?, number(14)?),
        start_ticks: number(19)?,
        resident_pages: number(21).unwrap_or(0),
        kernel: number(6)? & PF_KTHREAD != 0 || parent == KTHREADD,
        threads: number(17).unwrap_or(0),
        zombie: fields.first().is_some_and(|state| matches!(*state, "Z" | "X")),
    })
}

/// Every process that can be read, in no order.
pub fn processes(procfs: &Path) -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir(procfs) else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            entry.file_name().to_str()?.parse::<i32>().ok()?;
            let bytes = read_bytes(&entry.path().join("stat"))?;
            parse_stat(&String::from_utf8_lossy(&bytes))
        })
        .collect()
}

/// Reads a small file of procfs as it is.
pub(super) fn read_bytes(path: &Path) -> Option<Vec<u8>> {
    // Room for most of these files, so that one call reads them.
    let mut bytes = Vec::with_capacity(LINE_BYTES);
    open(path).ok()?.take(FILE_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Path of a process's control group in the hierarchy that counts CPU time: the line of the `cpuacct` controller where
/// there is one (also on hybrid hosts), else the unified line `0::`. `None` if neither is there or the path is longer
/// than the kernel makes them.
pub fn parse_cgroup(text: &str) -> Option<&str> {
    let lines = || text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let path = lines()
        .find(|(controllers, _)| controllers.split(',').any(|controller| controller == "cpuacct"))
        .or_else(|| lines().find(|(controllers, _)| controllers.is_empty()))?
        .1;
    (path.starts_with('/') && path.len() <= 4096).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_command_name_does_not_move_the_fields() {
        let line = "7 (a b) R) x\n) S) S 1 7 7 0 -1 4194560 1 0 0 0 11 22 5 2 20 0 1 0 987 1 345 18446744073709551615";
        let process = parse_stat(line).expect("parsed");
        assert_eq!(process.comm, "a b) R) x\n) S");
        assert_eq!((process.utime, process.stime, process.start_ticks), (11, 22, 987));
    }

    #[test]
    fn waiting_and_stolen_time_are_not_work() {
        let times = parse_cpu_times("cpu  10 1 5 100 7 2 3 50 4 0").expect("parsed");
        assert_eq!(times, CpuTimes { busy: 21, total: 178 });
    }

    #[test]
    fn the_accounting_hierarchy_decides_on_a_hybrid_host() {
        let text = "9:name=systemd:/x\n4:memory:/m\n2:cpu,cpuacct:/a\n0::/b\n";
        assert_eq!(parse_cgroup(text), Some("/a"));
        assert_eq!(parse_cgroup("1:name=systemd:/x\n0::/b:c\n"), Some("/b:c"));
        assert_eq!(parse_cgroup(&format!("0::/{}", "x".repeat(64 * 1024))), None);
    }
}
