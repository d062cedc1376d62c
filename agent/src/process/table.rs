//! The processes of the node, each read only as far as it may have changed.
//!
//! Question: `/proc/<pid>/stat` costs 4 to 10 µs a process, most of it for processes that sleep. What is cheaper and
//! misses nothing? Choice, on a real procfs:
//! - the list is read again only if the node's count of forks (`processes` of `/proc/stat`) has moved: without a fork
//!   no process is new, and one that ended is noticed when it is read;
//! - of a process with one thread `/proc/<pid>/schedstat` is read first, from a descriptor that stays open: it is the
//!   run time of that thread alone. If it stands still the process did not run, so that nothing of it has changed: to
//!   make a second thread, too, it would have had to run;
//! - a process with several threads, or one that is always at work, keeps a descriptor of its `stat`: of an ended
//!   process both give an error, even if another one has its id by then;
//! - the caller may know that a process slept because its control group did; then it is not looked at.
//!
//! Memory may be taken from a sleeping process, and one may be moved to another group: each is looked at in full once
//! in [`LOOK_EVERY`] samples (in [`DOUBT_EVERY`], if it was not to be looked at), some of them in every sample. An open descriptor holds about 4.5 KB of the kernel's
//! memory, so there are at most [`MOST_KEPT`]. In a tree that is not procfs (a simulated node) every file is opened
//! anew, because a file that was removed still shows its last content. What would change this: a kernel that tells
//! the CPU time of all processes at once.

use super::proc::{self, CpuTimes, LINE_BYTES, Process};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Samples after which a process that sleeps is read all the same.
const LOOK_EVERY: u32 = 16;
/// Samples after which a process is looked at of which the caller says that it slept: it may have been moved to another
/// group since.
const DOUBT_EVERY: u32 = 64;
/// Most descriptors that stay open; half of what the process may have, if that is less.
const MOST_KEPT: usize = 4_096;
/// Samples in a row in which a process ran before its `stat` is kept open.
const BUSY_STREAK: u32 = 3;
/// Most bytes read of `/proc/stat`, which grows with the CPUs and interrupts of the machine.
const FILE_BYTES: usize = 1 << 20;
/// Room for the three numbers of `schedstat`.
const RUN_BYTES: usize = 64;

/// A process as a sample found it.
#[derive(Debug)]
pub(super) struct Found {
    /// What is known of it.
    pub(super) process: Arc<Process>,
    /// Whether it ran although the caller said that it slept: then it is in another control group than the caller thinks.
    pub(super) stray: bool,
}

/// The processes.
#[derive(Debug)]
pub(super) struct Table {
    procfs: PathBuf,
    /// The open list; none where `procfs` is not one.
    list: Option<Dir>,
    stat: Option<File>,
    meminfo: Option<File>,
    /// By process id.
    entries: Vec<Entry>,
    forks: Option<u64>,
    times: Option<CpuTimes>,
    /// Those that are not there any more since the sample before.
    ended: Vec<(i32, u64)>,
    kept: usize,
    most_kept: usize,
    sample: u32,
    line: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    pid: i32,
    process: Option<Arc<Process>>,
    watch: Watch,
    /// Samples in a row in which its kept `stat` did not change, or its `schedstat` did.
    streak: u32,
}

/// By what a process is known not to have run.
#[derive(Debug)]
enum Watch {
    /// Nothing is open.
    Nothing,
    /// What `schedstat` showed before `stat` was read.
    Run { file: File, shown: [u8; RUN_BYTES] },
    /// The kept `stat`.
    Stat(File),
}

/// The machine as `/proc/stat` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Machine {
    times: Option<CpuTimes>,
    forks: Option<u64>,
}

/// What a look at one process gave.
enum Look {
    Slept,
    Ran,
    Gone,
}

impl Table {
    /// A table of the processes below `procfs`; reads nothing yet.
    pub(super) fn new(procfs: &Path) -> Self {
        let is_real = statfs(procfs).is_ok_and(|found| found.filesystem_type() == PROC_SUPER_MAGIC);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft / 2);
        Self {
            procfs: procfs.to_owned(),
            list: if is_real { Dir::open(procfs, flags, Mode::empty()).ok() } else { None },
            stat: None,
            meminfo: None,
            entries: Vec::new(),
            forks: None,
            times: None,
            ended: Vec::new(),
            kept: 0,
            most_kept: usize::try_from(limit).unwrap_or(MOST_KEPT).min(MOST_KEPT),
            sample: 0,
            line: vec![0; LINE_BYTES],
        }
    }

    /// CPU times of the machine at the beginning of the last sample.
    pub(super) fn cpu_times(&self) -> Option<CpuTimes> {
        self.times
    }

    /// Reads the machine's CPU times. Comes first in a sample.
    pub(super) fn begin(&mut self) {
        self.sample = self.sample.wrapping_add(1);
        self.ended.clear();
        let Machine { times, forks } = self.machine();
        self.times = times;
        if forks.is_none() || forks != self.forks {
            self.relist();
        }
        self.forks = forks;
    }

    /// The processes, but for those of which `sleeps` says that they did not run and are of no use now. `sleeps` is
    /// asked only of processes that were seen before.
    pub(super) fn read(&mut self, mut sleeps: impl FnMut(&(i32, u64)) -> bool) -> Vec<Found> {
        if self.list.is_none() {
            return self.read_anew();
        }
        let mut found = Vec::with_capacity(self.entries.len());
        let mut entries = std::mem::take(&mut self.entries);
        entries.retain_mut(|entry| {
            // An ended process vanishes when its parent takes note, and a new one may have its id without its group having
            // worked.
            let watched = !matches!(entry.watch, Watch::Nothing) || self.kept >= self.most_kept;
            let passed = entry.process.as_deref().filter(|known| watched && !known.zombie && !known.kernel);
            let passed = passed.is_some_and(|known| sleeps(&known.key()));
            let every = if passed { DOUBT_EVERY } else { LOOK_EVERY };
            let due = self.sample.wrapping_add(entry.pid.unsigned_abs()).is_multiple_of(every);
            if passed && !due {
                return true;
            }
            match self.look(entry, due && !passed) {
                Look::Gone => {
                    self.end(entry);
                    return false;
                }
                Look::Slept if passed => {}
                Look::Slept | Look::Ran => {
                    found.extend(entry.process.clone().map(|process| Found { process, stray: passed }));
                }
            }
            true
        });
        self.entries = entries;
        found
    }

    /// Reads all files of a tree that is not procfs.
    fn read_anew(&mut self) -> Vec<Found> {
        let mut known = std::mem::take(&mut self.entries);
        let all = proc::processes(&self.procfs).into_iter();
        let found: Vec<_> = all.map(|process| Found { process: Arc::new(process), stray: false }).collect();
        let entry = |process: &Arc<Process>| Entry { process: Some(Arc::clone(process)), ..Entry::new(process.pid) };
        self.entries = found.iter().map(|found| entry(&found.process)).collect();
        self.entries.sort_by_key(|entry| entry.pid);
        known.retain(|entry| entry.process.as_deref().is_some_and(|process| !self.lives(&process.key())));
        known.iter_mut().for_each(|entry| self.end(entry));
        found
    }

    /// The processes that were there in the sample before and are not now.
    pub(super) fn ended(&self) -> &[(i32, u64)] {
        &self.ended
    }

    /// Whether the process was there in this sample, read or not.
    pub(super) fn lives(&self, key: &(i32, u64)) -> bool {
        let found = self.entries.binary_search_by_key(&key.0, |entry| entry.pid).ok();
        let known = found.and_then(|index| self.entries.get(index)?.process.as_deref());
        known.is_some_and(|process| process.start_ticks == key.1)
    }

    /// Memory in use on the node in bytes (total − available).
    pub(super) fn memory_used(&mut self) -> Option<u64> {
        let file = self.meminfo.take().or_else(|| proc::open(&self.procfs.join("meminfo")).ok())?;
        let text = std::str::from_utf8(read_whole(&file, &mut self.line)?).ok()?;
        let used = proc::memory(text, "MemTotal")?.checked_sub(proc::memory(text, "MemAvailable")?);
        // Kept open only where an open file shows what is, not what was.
        self.meminfo = self.list.is_some().then_some(file);
        used
    }

    fn machine(&mut self) -> Machine {
        let unknown = Machine { times: None, forks: None };
        let file = self.stat.take().or_else(|| proc::open(&self.procfs.join("stat")).ok());
        let Some(file) = file else { return unknown };
        let machine = read_whole(&file, &mut self.line).map_or(unknown, parse_machine);
        self.stat = self.list.is_some().then_some(file);
        machine
    }

    /// Takes in who is new and drops who is gone.
    fn relist(&mut self) {
        let Some(list) = &mut self.list else { return };
        let number = |entry: nix::dir::Entry| entry.file_name().to_str().ok()?.parse::<i32>().ok();
        let mut pids: Vec<i32> = list.iter().filter_map(|entry| number(entry.ok()?)).collect();
        pids.sort_unstable();
        pids.dedup();
        let mut known = std::mem::take(&mut self.entries).into_iter().peekable();
        for pid in pids {
            while let Some(mut gone) = known.next_if(|entry| entry.pid < pid) {
                self.end(&mut gone);
            }
            let entry = known.next_if(|entry| entry.pid == pid);
            self.entries.push(entry.unwrap_or_else(|| Entry::new(pid)));
        }
        for mut gone in known {
            self.end(&mut gone);
        }
    }

    /// Reads one process as far as it may have changed; `whole` even if it slept.
    fn look(&mut self, entry: &mut Entry, whole: bool) -> Look {
        let now = match &entry.watch {
            Watch::Run { file, shown } => match read_run(file) {
                Ok(now) if now == *shown && !whole => return Look::Slept,
                Ok(now) => Some(now),
                // Ended; somebody else may have its id.
                Err(_) => None,
            },
            Watch::Nothing | Watch::Stat(_) => None,
        };
        let moved = matches!((&entry.watch, &now), (Watch::Run { shown, .. }, Some(now)) if now != shown);
        let before = entry.process.clone();
        let Some(read) = self.read_stat(entry) else { return Look::Gone };
        let same = before.as_deref() == Some(&read);
        let reborn = before.as_deref().is_some_and(|before| before.start_ticks != read.start_ticks);
        if reborn {
            self.end(entry);
        }
        let ran = moved || !same;
        let goes_on = match (&mut entry.watch, now) {
            (Watch::Run { shown, .. }, Some(now)) => {
                *shown = now;
                ran
            }
            _ => !ran,
        };
        entry.streak = if goes_on { entry.streak.saturating_add(1) } else { 0 };
        if !same {
            entry.process = Some(Arc::new(read));
        }
        if before.is_some() && !reborn {
            self.choose(entry);
        }
        if ran { Look::Ran } else { Look::Slept }
    }

    /// Reads `stat`, kept open or not. A descriptor that shows an error is closed and the file opened again.
    fn read_stat(&mut self, entry: &mut Entry) -> Option<Process> {
        if let Watch::Stat(file) = &entry.watch {
            if let Some(process) = parse(file, &mut self.line) {
                return Some(process);
            }
            self.close(entry);
        }
        match proc::open(&self.path(entry.pid, "stat")) {
            Ok(file) => parse(&file, &mut self.line),
            Err(error) => {
                if ![Some(Errno::ENOENT as i32), Some(Errno::ESRCH as i32)].contains(&error.raw_os_error()) {
                    // Not gone, only not readable now: it is looked for again.
                    self.forks = None;
                }
                None
            }
        }
    }

    /// Opens what tells most cheaply from now on whether the process runs. Not at first sight: most new processes end
    /// soon.
    fn choose(&mut self, entry: &mut Entry) {
        let alone = entry.process.as_deref().is_some_and(|process| process.threads == 1 && !process.zombie);
        let wanted = match &entry.watch {
            Watch::Nothing if self.kept >= self.most_kept => return,
            Watch::Nothing if alone => Wanted::Run,
            Watch::Nothing => Wanted::Stat,
            Watch::Run { .. } if !alone || entry.streak >= BUSY_STREAK => Wanted::Stat,
            Watch::Stat(_) if alone && entry.streak >= LOOK_EVERY => Wanted::Run,
            Watch::Run { .. } | Watch::Stat(_) => return,
        };
        self.close(entry);
        entry.watch = match wanted {
            Wanted::Stat => proc::open(&self.path(entry.pid, "stat")).map_or(Watch::Nothing, Watch::Stat),
            Wanted::Run => self.watch_run(entry).unwrap_or(Watch::Nothing),
        };
        if !matches!(entry.watch, Watch::Nothing) {
            self.kept += 1;
        }
    }

    /// Opens `schedstat` and reads `stat` once more behind it; a kernel that does not count shows zeros there.
    fn watch_run(&mut self, entry: &mut Entry) -> Option<Watch> {
        let file = proc::open(&self.path(entry.pid, "schedstat")).ok();
        let shown = file.as_ref().and_then(|file| read_run(file).ok()).filter(|shown| !shown.starts_with(b"0 "));
        let stat = proc::open(&self.path(entry.pid, "stat")).ok()?;
        let process = parse(&stat, &mut self.line)?;
        let known = entry.process.as_deref()?;
        let (Some(file), Some(shown)) = (file, shown) else { return Some(Watch::Stat(stat)) };
        // Whatever has changed meanwhile is read with the next sample.
        (process == *known && process.threads == 1).then_some(Watch::Run { file, shown })
    }

    /// Notes that the process of an entry has ended.
    fn end(&mut self, entry: &mut Entry) {
        self.ended.extend(entry.process.as_deref().map(Process::key));
        self.close(entry);
    }

    fn close(&mut self, entry: &mut Entry) {
        if !matches!(std::mem::replace(&mut entry.watch, Watch::Nothing), Watch::Nothing) {
            self.kept -= 1;
        }
        entry.streak = 0;
    }

    fn path(&self, pid: i32, file: &str) -> PathBuf {
        self.procfs.join(format!("{pid}/{file}"))
    }
}

impl Entry {
    fn new(pid: i32) -> Self {
        Self { pid, process: None, watch: Watch::Nothing, streak: 0 }
    }
}

enum Wanted {
    Run,
    Stat,
}

fn parse(file: &File, line: &mut [u8]) -> Option<Process> {
    let read = file.read_at(line, 0).ok()?;
    proc::parse_stat(&String::from_utf8_lossy(line.get(..read)?))
}

fn read_run(file: &File) -> io::Result<[u8; RUN_BYTES]> {
    let mut shown = [0; RUN_BYTES];
    file.read_at(&mut shown, 0)?;
    Ok(shown)
}

/// Reads a file into the buffer, which grows as it has to.
fn read_whole<'a>(file: &File, buffer: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    let mut length = 0;
    while length < FILE_BYTES {
        let read = file.read_at(buffer.get_mut(length..)?, u64::try_from(length).ok()?).ok()?;
        length += read;
        if read == 0 {
            break;
        }
        if length == buffer.len() {
            buffer.resize(length * 2, 0);
        }
    }
    buffer.get(..length)
}

fn parse_machine(text: &[u8]) -> Machine {
    let mut lines = text.split(|byte| *byte == b'\n');
    let times = lines.next().and_then(|line| proc::parse_cpu_times(&String::from_utf8_lossy(line)));
    let forks = lines.rev().find_map(|line| line.strip_prefix(b"processes "));
    Machine { times, forks: forks.and_then(|number| std::str::from_utf8(number).ok()?.trim().parse().ok()) }
}

#[cfg(test)]
mod tests;
