//! The workload table, and what procfs and control groups (v2) show of it.
//!
//! Times accrue in integer ns from shares; a control group's counter has µs, a process's has ticks of 10 ms. Numbers are
//! padded with zeros in front, so that every file keeps its length and is set by one `pwrite`.

use crate::error::{Result, SimError, at};
use crate::profile::Cpu;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

const TICK_NANOS: u64 = 10_000_000;
const LISTENERS_HEAD: &str =
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Its name: the command name, at most 15 bytes are shown.
    pub name: String,
    /// Its process; 0 for one that no listing ever shows (children that live too shortly).
    #[serde(default)]
    pub pid: u32,
    /// Path of its control group from `/`.
    pub cgroup: String,
    /// CPU in thousandths of a core.
    #[serde(default)]
    pub cpu_millicores: u64,
    /// The GPU on which it holds a context.
    pub gpu: Option<u32>,
    /// Use of that GPU in permille.
    #[serde(default)]
    pub sm_permille: u32,
    /// The instance of that GPU that it is on, from 1, where the GPU is divided; 0 for none. Its use is then of the instance.
    #[serde(default)]
    pub gpu_instance: u8,
    /// Memory on that GPU in bytes.
    #[serde(default = "gibibyte")]
    pub gpu_memory_bytes: u64,
    /// Memory in bytes.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Model that it serves.
    pub model: Option<String>,
    /// Requests completed in 1000 s.
    #[serde(default)]
    pub requests_per_kilosecond: u64,
    /// Prompt tokens of a request.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Generated tokens of a request.
    #[serde(default)]
    pub generated_tokens: u64,
    /// Port on loopback at which it shows its own counts; its process is the listener that procfs shows.
    pub port: Option<u16>,
}

fn gibibyte() -> u64 {
    1 << 30
}

/// A running workload.
#[derive(Debug)]
struct Running {
    workload: Workload,
    begin_ns: u64,
    /// CPU time at `since_ns`, of the process and of its group.
    process_ns: u64,
    since_ns: u64,
    stat: Option<File>,
}

impl Running {
    fn served(&self, now_ns: u64) -> Option<Served> {
        let line = &self.workload;
        let passed = u128::from(now_ns.saturating_sub(self.begin_ns));
        let requests = passed * u128::from(line.requests_per_kilosecond) / 1_000_000_000_000;
        let requests = u64::try_from(requests).unwrap_or(0);
        let tokens = |each: u64| requests.saturating_mul(each);
        let (prompt_tokens, generated_tokens) = (tokens(line.prompt_tokens), tokens(line.generated_tokens));
        Some(Served { model: line.model.clone()?, requests, prompt_tokens, generated_tokens })
    }
}

/// One group and its file.
#[derive(Debug)]
struct Group {
    nanos: u64,
    stat: File,
    memory: File,
}

/// Counts of a model server at an instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Served {
    /// The model.
    pub model: String,
    /// Requests completed.
    pub requests: u64,
    /// Prompt tokens.
    pub prompt_tokens: u64,
    /// Generated tokens.
    pub generated_tokens: u64,
}

/// The table and its views.
#[derive(Debug)]
pub struct Table {
    procfs: PathBuf,
    cgroup: PathBuf,
    threads: u64,
    running: BTreeMap<String, Running>,
    groups: BTreeMap<String, Group>,
    /// CPU time of everything that ran, in ns, up to `at_ns`.
    busy_ns: u64,
    at_ns: u64,
    booted_ns: u64,
    stat: File,
}

fn create(path: &Path) -> Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(at(parent))?;
    }
    OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(at(path))
}

fn put(file: &File, path: &Path, text: &str) -> Result<()> {
    file.write_all_at(text.as_bytes(), 0).map_err(at(path))
}

impl Table {
    /// Views below `root` of a machine without workloads, whose packages have so many cores and whose boot clock shows
    /// `booted_ns` at simulated 0.
    pub fn new(root: &Path, cpu: &Cpu, cores: u32, booted_ns: u64) -> Result<Self> {
        let Cpu { vendor, model, sockets, .. } = cpu;
        let (procfs, cgroup) = (root.join("proc"), root.join("sys/fs/cgroup"));
        let stat = create(&procfs.join("stat"))?;
        let threads = *sockets * cores;
        let mut cpuinfo = String::new();
        for thread in 0..threads {
            let socket = thread / cores.max(1);
            cpuinfo.push_str(&format!(
                "processor\t: {thread}\nvendor_id\t: {vendor}\nmodel name\t: {model}\nphysical id\t: {socket}\n\n"
            ));
        }
        let write = |path: PathBuf, text: &str| fs::write(&path, text).map_err(at(&path));
        write(procfs.join("cpuinfo"), &cpuinfo)?;
        write(procfs.join("meminfo"), "MemTotal:       528000000 kB\nMemAvailable:   400000000 kB\n")?;
        fs::create_dir_all(&cgroup).map_err(at(&cgroup))?;
        write(cgroup.join("cgroup.controllers"), "cpuset cpu io memory pids\n")?;
        let mut table = Self {
            procfs,
            cgroup,
            threads: u64::from(threads),
            running: BTreeMap::new(),
            groups: BTreeMap::new(),
            busy_ns: 0,
            at_ns: 0,
            booted_ns,
            stat,
        };
        table.show_listeners()?;
        table.show(0)?;
        Ok(table)
    }

    /// The workloads.
    pub fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.running.values().map(|running| &running.workload)
    }

    /// Hardware threads of the machine.
    pub fn threads(&self) -> u64 {
        self.threads
    }

    /// Adds a workload, or replaces the one of that name.
    pub fn add(&mut self, now_ns: u64, workload: Workload) -> Result<()> {
        self.accrue(now_ns);
        let inside = workload.cgroup.starts_with('/') && !workload.cgroup.split('/').any(|part| part == "..");
        if !inside || workload.name.contains(['/', '\n']) {
            return Err(SimError::Request("a control group's path begins with / and has no ..".to_owned()));
        }
        self.remove(now_ns, &workload.name)?;
        self.group(&workload.cgroup)?;
        let stat = if workload.pid == 0 { None } else { Some(self.process(&workload)?) };
        let name = workload.name.clone();
        let running = Running { workload, begin_ns: now_ns, process_ns: 0, since_ns: now_ns, stat };
        self.running.insert(name, running);
        self.show_listeners()?;
        self.show(now_ns)
    }

    /// Ends a workload; its group stays. Whether there was one.
    pub fn remove(&mut self, now_ns: u64, name: &str) -> Result<bool> {
        self.accrue(now_ns);
        let Some(running) = self.running.remove(name) else { return Ok(false) };
        if running.stat.is_some() {
            let folder = self.procfs.join(running.workload.pid.to_string());
            fs::remove_dir_all(&folder).map_err(at(&folder))?;
        }
        self.show_listeners()?;
        Ok(true)
    }

    /// Another process takes a workload's pid: it starts at 0 and later, in the same group.
    pub fn reuse_pid(&mut self, now_ns: u64, name: &str) -> Result<()> {
        self.accrue(now_ns);
        let running = self.running.get_mut(name).ok_or_else(|| unknown(name))?;
        running.begin_ns = now_ns;
        running.process_ns = 0;
        self.show(now_ns)
    }

    /// A workload's group is removed and made again: another inode, counting from 0.
    pub fn recreate_group(&mut self, now_ns: u64, name: &str) -> Result<()> {
        self.accrue(now_ns);
        let path = self.running.get(name).ok_or_else(|| unknown(name))?.workload.cgroup.clone();
        let folder = self.folder(&path);
        // The old folder is kept until the new one stands, else the file system may give the inode number again.
        let aside = folder.with_extension("gone");
        fs::rename(&folder, &aside).map_err(at(&folder))?;
        self.groups.remove(&path);
        self.group(&path)?;
        fs::remove_dir_all(&aside).map_err(at(&aside))?;
        self.show(now_ns)
    }

    fn folder(&self, path: &str) -> PathBuf {
        self.cgroup.join(path.trim_start_matches('/'))
    }

    fn group(&mut self, path: &str) -> Result<()> {
        let folder = self.folder(path);
        // Groups on the way exist as the kernel's do, with counters that hold what lies in them.
        let mut way = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            way = format!("{way}/{part}");
            if !self.groups.contains_key(&way) {
                let folder = self.folder(&way);
                let group = Group {
                    nanos: 0,
                    stat: create(&folder.join("cpu.stat"))?,
                    memory: create(&folder.join("memory.current"))?,
                };
                fs::write(folder.join("cgroup.type"), "domain\n").map_err(at(&folder))?;
                self.groups.insert(way.clone(), group);
            }
        }
        if way.is_empty() { Err(SimError::Request(format!("{} is the root group", folder.display()))) } else { Ok(()) }
    }

    fn process(&self, workload: &Workload) -> Result<File> {
        let folder = self.procfs.join(workload.pid.to_string());
        let stat = create(&folder.join("stat"))?;
        let write = |name: &str, text: String| fs::write(folder.join(name), text).map_err(at(&folder));
        write("cgroup", format!("0::{}\n", workload.cgroup))?;
        write("comm", format!("{:.15}\n", workload.name))?;
        write("cmdline", format!("{}\0", workload.name))?;
        if workload.port.is_some() {
            let sockets = folder.join("fd");
            fs::create_dir_all(&sockets).map_err(at(&sockets))?;
            let socket = sockets.join("3");
            symlink(format!("socket:[{}]", socket_inode(workload.pid)), &socket).map_err(at(&socket))?;
        }
        Ok(stat)
    }

    /// Brings every sum up to `now_ns`.
    fn accrue(&mut self, now_ns: u64) {
        for running in self.running.values_mut() {
            let passed = now_ns.saturating_sub(running.since_ns);
            let used =
                u64::try_from(u128::from(passed) * u128::from(running.workload.cpu_millicores) / 1_000).unwrap_or(0);
            running.since_ns = now_ns.max(running.since_ns);
            running.process_ns += used;
            self.busy_ns += used;
            let path = running.workload.cgroup.as_str();
            let ends =
                path.char_indices().filter(|(index, letter)| *index > 0 && *letter == '/').map(|(index, _)| index);
            for end in ends.chain([path.len()]) {
                if let Some(group) = path.get(..end).and_then(|way| self.groups.get_mut(way)) {
                    group.nanos += used;
                }
            }
        }
        self.at_ns = now_ns;
    }

    /// CPU time of a group since it was made, in ns: the truth behind its counter.
    pub fn group_nanos(&mut self, now_ns: u64, path: &str) -> Option<u64> {
        self.accrue(now_ns);
        self.groups.get(path).map(|group| group.nanos)
    }

    /// Shows every sum as of `now_ns`.
    pub fn show(&mut self, now_ns: u64) -> Result<()> {
        self.accrue(now_ns);
        let busy = self.busy_ns / TICK_NANOS;
        let idle = (now_ns.saturating_mul(self.threads) / TICK_NANOS).saturating_sub(busy);
        let line = format!("cpu  {busy:020} 0 0 {idle:020} 0 0 0 0 0 0\nctxt 0\nbtime 1795478400\n");
        put(&self.stat, &self.procfs.join("stat"), &line)?;
        let root = self.cgroup.join("cpu.stat");
        put(&create(&root)?, &root, &cpu_stat(self.busy_ns))?;
        for (path, group) in &self.groups {
            let folder = self.folder(path);
            put(&group.stat, &folder, &cpu_stat(group.nanos))?;
            let below = |workload: &&Running| {
                let rest = workload.workload.cgroup.strip_prefix(path.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            let memory: u64 = self.running.values().filter(below).map(|running| running.workload.memory_bytes).sum();
            put(&group.memory, &folder, &format!("{memory:020}\n"))?;
        }
        for running in self.running.values() {
            let Some(file) = &running.stat else { continue };
            let Workload { pid, name, memory_bytes, .. } = &running.workload;
            let start = self.booted_ns.saturating_add(running.begin_ns) / TICK_NANOS;
            let ticks = running.process_ns / TICK_NANOS;
            let (virtual_bytes, pages) = (memory_bytes, memory_bytes / 4096);
            let line = format!(
                "{pid} ({name:.15}) S 1 {pid} {pid} 0 -1 4194304 0 0 0 0 {ticks:020} 0 0 0 20 0 1 0 {start:020} \
                 {virtual_bytes:020} {pages:020} 18446744073709551615\n"
            );
            put(file, &self.procfs, &line)?;
        }
        Ok(())
    }

    /// What every model has served by `now_ns`.
    pub fn served(&self, now_ns: u64) -> Vec<Served> {
        self.running.values().filter_map(|running| running.served(now_ns)).collect()
    }

    /// What one workload has served by `now_ns`; nothing if it serves no model or is gone.
    pub fn served_by(&self, name: &str, now_ns: u64) -> Vec<Served> {
        self.running.get(name).and_then(|running| running.served(now_ns)).into_iter().collect()
    }

    /// Workloads that show their own counts, each with its port.
    pub fn fronts(&self) -> BTreeMap<String, u16> {
        self.running
            .values()
            .filter_map(|running| Some((running.workload.name.clone(), running.workload.port?)))
            .collect()
    }

    /// Shows who listens at which port.
    fn show_listeners(&self) -> Result<()> {
        let path = self.procfs.join("net/tcp");
        let mut text = LISTENERS_HEAD.to_owned();
        for Workload { pid, port, .. } in self.workloads().filter(|workload| workload.pid > 0) {
            if let Some(port) = port {
                let inode = socket_inode(*pid);
                text.push_str(&format!(
                    "   0: 0100007F:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 {inode} 1\n"
                ));
            }
        }
        fs::create_dir_all(self.procfs.join("net")).map_err(at(&path))?;
        // A reader sees the old table or the new one.
        let new = self.procfs.join("net/tcp.new");
        fs::write(&new, text).map_err(at(&new))?;
        fs::rename(&new, &path).map_err(at(&path))
    }
}

/// Inode of a workload's listening socket.
fn socket_inode(pid: u32) -> u64 {
    1_000_000 + u64::from(pid)
}

fn unknown(name: &str) -> SimError {
    SimError::Request(format!("there is no workload {name:?}"))
}

fn cpu_stat(nanos: u64) -> String {
    let usage = nanos / 1_000;
    format!("usage_usec {usage:020}\nuser_usec {usage:020}\nsystem_usec 0\n")
}
