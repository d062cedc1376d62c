//! Workloads: who used the CPU. Every nanosecond of the machine's CPU time lands in exactly one row.
//!
//! CPU time is split once over control groups (a container or unit counts whole, less what lies in it); processes only
//! split a group further, or the root group: each inference server with its descendants, kernel threads together, and
//! any process that used a second of CPU while it was watched. Processes of a server that work for one model version alone
//! have a row of their own, which says whose part it is. What is left of the machine's total is the remainder:
//! short-lived processes, ended ones, everything small. What a new process uses waits, at most 30 s, until it is known
//! whose it is: a server is found only once it listens, and its start belongs to it. Rows are increments since this accountant was made, so a
//! row never falls; where two counters that were not read at the same instant disagree, the difference is owed and
//! taken from the row's next increment.

use crate::config::Roots;
use cgroup::{Group, Hierarchy, Kind};
use joulebook_units::{BootNanos, CpuTimeMethod, Workload, WorkloadKind};
use proc::Process;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

pub mod cgroup;
mod membership;
mod meter;
mod owner;
pub mod part;
pub mod proc;

use membership::Membership;
use meter::Meters;
use part::{PartName, PartRule, Place, Trees};

/// CPU time after which a process outside inference groups gets a row of its own.
const OWN_ROW_NANOS: u64 = 1_000_000_000;
/// How long what a new process uses waits for its row.
const WAIT_NANOS: u64 = 30_000_000_000;
/// Most such rows at a time.
const MOST_PROCESS_ROWS: usize = 64;
/// Identities of workloads.
const KERNEL: &str = "kernel";
/// Identity of the rest of the machine.
pub const REMAINDER: &str = "remainder";
const MOST_ID_BYTES: usize = 480;

/// The process tree that serves one inference target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferenceGroup {
    /// The target, as the inference seam names it.
    pub target: String,
    /// Process id of the server.
    pub pid: i32,
    /// Its start time in clock ticks since boot.
    pub start_ticks: u64,
    /// CPU reservation in thousandths of a core; absent reserves nothing.
    pub reserved_millicores: Option<u64>,
    /// How its processes for one model version are recognised; absent where it has none.
    pub parts: Option<PartRule>,
}

/// One workload at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadRow {
    /// The workload.
    pub workload: Workload,
    /// CPU time in ns, counted from 0 when the row began; never falls.
    pub cpu_nanos: u64,
    /// With the first row only: the instant at which `cpu_nanos` was 0, if it was not this one.
    pub origin: Option<BootNanos>,
    /// Memory in use in bytes.
    pub memory_bytes: Option<u64>,
}

/// All workloads at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkloadSample {
    /// The rows.
    pub rows: Vec<WorkloadRow>,
    /// Workload of each inference target whose process is known.
    pub groups: BTreeMap<String, String>,
    /// Workload of each part of them, by the workload of the whole and the part's name.
    pub parts: BTreeMap<(String, PartName), String>,
    /// Memory in use on the node in bytes (total − available).
    pub node_memory_used: Option<u64>,
    /// Share of the CPUs at work since the sample before, in thousandths.
    pub busy_permille: Option<u64>,
    /// Workload of each process that was named as a user of a device and was found.
    pub device_users: BTreeMap<i32, String>,
    /// Files that should name a process's control group and do not. These processes are in no row of theirs: what they
    /// use stays where the kernel counts it, in a group or in the remainder.
    pub cgroups_refused: Vec<PathBuf>,
}

/// The accountant of a node's workloads.
#[derive(Debug)]
pub struct Workloads {
    roots: Roots,
    threads: u32,
    tick_nanos: u64,
    page_bytes: u64,
    last: Option<BootNanos>,
    machine: Option<u64>,
    cpu: Option<proc::CpuTimes>,
    seen_groups: BTreeMap<String, SeenGroup>,
    seen: HashMap<(i32, u64), Seen>,
    inference: BTreeMap<(i32, u64), InferenceGroup>,
    own_rows: BTreeSet<(i32, u64)>,
    /// Processes that hold a device.
    device_users: BTreeSet<i32>,
    cgroups_refused: Vec<PathBuf>,
    meters: Meters,
}

#[derive(Debug, Clone)]
struct SeenGroup {
    inode: u64,
    cpu_nanos: u64,
    reservation: Option<(u64, &'static str)>,
}

/// What is remembered of a process from sample to sample.
#[derive(Debug, Clone, Default)]
struct Seen {
    ticks: u64,
    /// CPU time in ns used while watched.
    watched_nanos: u64,
    /// What it used since its birth and is in no row yet.
    waiting: Option<Waiting>,
    /// Row it belongs to.
    owner: Option<String>,
    /// Where it stands in a server's tree.
    place: Place,
    membership: Membership,
}

/// CPU time of a new process that is in no row yet.
#[derive(Debug, Clone)]
struct Waiting {
    nanos: u64,
    until: BootNanos,
    host: Option<String>,
}

/// A process of this sample with what it used since the last one.
struct Used {
    process: Process,
    nanos: u64,
    /// Path of the workload group it runs in; `None` in the root group.
    host: Option<String>,
}

type Key = (i32, u64);

impl Workloads {
    /// An accountant for `threads` hardware threads below the given roots. Rows begin with its first sample.
    pub fn new(roots: &Roots, threads: u32) -> Self {
        let system = |variable, default| {
            let value = nix::unistd::sysconf(variable).ok().flatten();
            value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
        };
        Self {
            roots: roots.clone(),
            threads,
            tick_nanos: 1_000_000_000 / system(nix::unistd::SysconfVar::CLK_TCK, 100),
            page_bytes: system(nix::unistd::SysconfVar::PAGE_SIZE, 4_096),
            last: None,
            machine: None,
            cpu: None,
            seen_groups: BTreeMap::new(),
            seen: HashMap::new(),
            inference: BTreeMap::new(),
            own_rows: BTreeSet::new(),
            device_users: BTreeSet::new(),
            cgroups_refused: Vec::new(),
            meters: Meters::default(),
        }
    }

    /// Names the processes that hold a device now. From the next sample on each of them belongs to a row: who holds a
    /// device is somebody, however little CPU time it uses.
    pub fn name_device_users(&mut self, pids: BTreeSet<i32>) {
        self.device_users = pids;
    }

    /// Reads everything once. `groups` are the inference servers known now; one that is missing later is remembered
    /// while its process lives.
    pub fn sample(&mut self, now: BootNanos, groups: &[InferenceGroup]) -> WorkloadSample {
        let hierarchy = Hierarchy::find(&self.roots.cgroup);
        let cgroups = hierarchy.as_ref().map(Hierarchy::groups).unwrap_or_default();
        let mut own = self.group_increments(hierarchy.as_ref(), &cgroups);
        let mut rest = self.machine_increment(hierarchy.as_ref());
        for group in cgroups.iter().filter(|group| parent_of(&cgroups, &group.path).is_none()) {
            rest -= own.get(&group.path).map_or(0, |(whole, _)| *whole);
        }
        let used = self.processes(now, &cgroups);
        self.remember(groups, &used);
        let hosts = self.split_hosts(&cgroups, &used);
        let (owners, trees) = self.owners(&used, &hosts);
        let parts = self.parts(&trees, &hosts);

        // Takes from what is left of a group, or of the machine outside groups.
        let mut take = |host: Option<&str>, nanos: i128| match host {
            Some(host) => {
                if let Some((_, left)) = own.get_mut(host) {
                    *left -= nanos;
                }
            }
            None => rest -= nanos,
        };
        let mut members: BTreeMap<String, u64> = BTreeMap::new();
        let mut apart: BTreeMap<&str, u64> = BTreeMap::new();
        let mut births: BTreeMap<&str, BootNanos> = BTreeMap::new();
        for (key, one) in &used {
            let Some(seen) = self.seen.get_mut(key) else { continue };
            let (host, nanos) = (one.host.as_deref(), i128::from(one.nanos));
            if let Some(owner) = owners.get(key) {
                take(host, nanos);
                let resident = one.process.resident_pages * self.page_bytes;
                *members.entry(owner.clone()).or_default() += resident;
                *apart.entry(host.unwrap_or_default()).or_default() += resident;
                let waited = seen.waiting.take();
                if waited.is_some() && *owner == row_id(key) {
                    births.insert(owner, BootNanos(key.1.saturating_mul(self.tick_nanos)));
                }
                self.meters.add(owner, nanos + i128::from(waited.map_or(0, |waiting| waiting.nanos)));
                continue;
            }
            match &mut seen.waiting {
                Some(waiting) if now < waiting.until && waiting.host == one.host => {
                    take(host, nanos);
                    waiting.nanos = waiting.nanos.saturating_add(one.nanos);
                }
                _ => give_up(&mut seen.waiting, &mut take),
            }
        }
        for (_, seen) in self.seen.iter_mut().filter(|(key, _)| !used.contains_key(key)) {
            give_up(&mut seen.waiting, &mut take);
        }
        let mut sample = WorkloadSample { busy_permille: self.busy(), ..WorkloadSample::default() };
        for group in &cgroups {
            let left = own.get(&group.path).map_or(0, |(_, left)| *left);
            let workload = self.group_workload(group, &hosts);
            let memory = hierarchy.as_ref().and_then(|hierarchy| hierarchy.memory_bytes(&group.path));
            // As CPU time: what has a row of its own is not the group's.
            let memory = memory.map(|all| all.saturating_sub(apart.get(group.path.as_str()).copied().unwrap_or(0)));
            self.meters.add(&workload.id, left);
            sample.rows.push(self.row(workload, memory, None));
        }
        for (id, resident) in members {
            let workload = self.process_workload(&id, &used, &parts);
            let memory = (id != KERNEL).then_some(resident);
            let born = births.get(id.as_str()).copied();
            sample.rows.extend(workload.map(|workload| self.row(workload, memory, born)));
        }
        self.meters.add(REMAINDER, rest);
        sample.rows.push(self.row(plain(REMAINDER, WorkloadKind::Remainder, "everything else"), None, None));
        sample.groups = self.targets(groups, &hosts);
        sample.device_users = self.find_device_users(&used, &owners);
        sample.cgroups_refused = std::mem::take(&mut self.cgroups_refused);
        sample.parts = parts.into_iter().map(|(row, part)| (part, row)).collect();
        let meminfo = proc::read_text(&self.roots.procfs.join("meminfo"));
        sample.node_memory_used =
            meminfo.and_then(|text| proc::memory(&text, "MemTotal")?.checked_sub(proc::memory(&text, "MemAvailable")?));
        self.forget(&used, &owners);
        self.last = Some(now);
        sample
    }

    /// For each group: its increment with everything in it, and the part that is its own.
    fn group_increments(&mut self, hierarchy: Option<&Hierarchy>, cgroups: &[Group]) -> BTreeMap<String, (i128, i128)> {
        let mut increments = BTreeMap::new();
        let mut now = BTreeMap::new();
        for group in cgroups {
            let before = self.seen_groups.get(&group.path).filter(|seen| seen.inode == group.inode);
            let increment = match before {
                Some(seen) => group.cpu_nanos.saturating_sub(seen.cpu_nanos),
                // Made since the last sample: all of it is new. At the first sample nothing is.
                None if self.last.is_some() => group.cpu_nanos,
                None => 0,
            };
            let reservation = match before {
                Some(seen) => seen.reservation,
                None if group.kind == Kind::Container => {
                    hierarchy.and_then(|hierarchy| hierarchy.reservation(&group.path, self.threads))
                }
                None => None,
            };
            // A counter read a moment earlier must not fall below what was counted already.
            let cpu_nanos = before.map_or(group.cpu_nanos, |seen| seen.cpu_nanos.max(group.cpu_nanos));
            now.insert(group.path.clone(), SeenGroup { inode: group.inode, cpu_nanos, reservation });
            increments.insert(group.path.clone(), (i128::from(increment), i128::from(increment)));
        }
        for group in cgroups {
            let whole = increments.get(&group.path).map_or(0, |(whole, _)| *whole);
            if let Some(parent) = parent_of(cgroups, &group.path)
                && let Some((_, own)) = increments.get_mut(parent)
            {
                *own -= whole;
            }
        }
        self.seen_groups = now;
        increments
    }

    /// CPU time of the machine since the last sample: the root group's counter, else `/proc/stat`.
    fn machine_increment(&mut self, hierarchy: Option<&Hierarchy>) -> i128 {
        let total = hierarchy
            .and_then(Hierarchy::machine_nanos)
            .or_else(|| Some(proc::cpu_times(&self.roots.procfs)?.busy.saturating_mul(self.tick_nanos)));
        let before = self.machine;
        self.machine = total.or(before);
        match (before, total) {
            (Some(before), Some(total)) => i128::from(total) - i128::from(before),
            _ => 0,
        }
    }

    fn processes(&mut self, now: BootNanos, cgroups: &[Group]) -> BTreeMap<Key, Used> {
        let first = self.last.is_none();
        let mut used = BTreeMap::new();
        for process in proc::processes(&self.roots.procfs) {
            let key = (process.pid, process.start_ticks);
            let born = process.start_ticks.saturating_mul(self.tick_nanos);
            // A process that was there before but could not be read then is not new.
            let is_new = !first && self.last.is_some_and(|last| born + 2 * OWN_ROW_NANOS >= last.0);
            let known = self.seen.contains_key(&key);
            let seen = self.seen.entry(key).or_default();
            let ticks = match (known, is_new) {
                (true, _) => process.ticks.saturating_sub(seen.ticks),
                (false, true) => process.ticks,
                (false, false) => 0,
            };
            let nanos = ticks.saturating_mul(self.tick_nanos);
            seen.ticks = seen.ticks.max(process.ticks);
            seen.watched_nanos = seen.watched_nanos.saturating_add(nanos);
            // Where no group is a workload, every process is in the root group.
            let host = if cgroups.is_empty() {
                None
            } else {
                let path = seen.membership.look(&self.roots.procfs, process.pid, &mut self.cgroups_refused);
                let Some(path) = path else { continue };
                host_of(cgroups, path)
            };
            if is_new && !known {
                let until = BootNanos(now.0.saturating_add(WAIT_NANOS));
                seen.waiting = Some(Waiting { nanos: 0, until, host: host.clone() });
            }
            used.insert(key, Used { process, nanos, host });
        }
        used
    }

    /// Keeps the inference servers whose process lives.
    fn remember(&mut self, groups: &[InferenceGroup], used: &BTreeMap<Key, Used>) {
        for group in groups {
            self.inference.insert((group.pid, group.start_ticks), group.clone());
        }
        self.inference.retain(|key, _| used.contains_key(key));
    }

    /// Inference servers that stand for a whole group (path), and those that are told apart by process (`None`).
    fn split_hosts(&self, cgroups: &[Group], used: &BTreeMap<Key, Used>) -> BTreeMap<Key, Option<String>> {
        let mut in_host: BTreeMap<&str, u32> = BTreeMap::new();
        let hosts = self.inference.keys().map(|key| (*key, used.get(key).and_then(|one| one.host.as_deref())));
        for (_, host) in hosts.clone() {
            *in_host.entry(host.unwrap_or_default()).or_default() += 1;
        }
        hosts
            .map(|(key, host)| {
                let whole = host.filter(|host| {
                    // A login session or a desktop's scope holds far more than the server.
                    in_host.get(host) == Some(&1) && !(host.ends_with(".scope") && is_unit(cgroups, host))
                });
                (key, whole.map(str::to_owned))
            })
            .collect()
    }

    fn find_device_users(&self, used: &BTreeMap<Key, Used>, owners: &BTreeMap<Key, String>) -> BTreeMap<i32, String> {
        let row = |pid: i32| {
            // One process at a time has a pid.
            let (key, one) = used.range((pid, 0)..=(pid, u64::MAX)).next_back()?;
            let host = || one.host.as_deref().and_then(|host| self.path_id(host));
            Some((pid, owners.get(key).cloned().or_else(host).unwrap_or_else(|| REMAINDER.to_owned())))
        };
        self.device_users.iter().filter_map(|pid| row(*pid)).collect()
    }

    fn group_workload(&self, group: &Group, hosts: &BTreeMap<Key, Option<String>>) -> Workload {
        let server = hosts.iter().find(|(_, host)| host.as_deref() == Some(&group.path)).map(|(key, _)| key);
        let configured = server.and_then(|key| self.inference.get(key)?.reserved_millicores);
        let reservation = configured
            .map(|millicores| (millicores, "config"))
            .or_else(|| self.seen_groups.get(&group.path)?.reservation);
        let unit = group.path.rsplit('/').next().unwrap_or_default();
        let (kind, name) = match group.kind {
            Kind::Container => {
                let id = group.identity.container_id.as_deref().unwrap_or(unit);
                (WorkloadKind::Container, id.chars().take(12).collect())
            }
            Kind::Unit => (WorkloadKind::Unit, unit.to_owned()),
            Kind::Plain => (WorkloadKind::Cgroup, group.path.clone()),
        };
        Workload {
            id: group_id(group),
            kind,
            name,
            cgroup: Some(group.path.clone()),
            container_id: group.identity.container_id.clone(),
            pod_uid: group.identity.pod_uid.clone(),
            cpu_time_method: CpuTimeMethod::Cgroup,
            reserved_millicores: reservation.map(|(millicores, _)| millicores),
            reservation_origin: reservation.map(|(_, origin)| origin.to_owned()),
            part_of: None,
        }
    }

    fn process_workload(
        &self,
        id: &str,
        used: &BTreeMap<Key, Used>,
        parts: &BTreeMap<String, (String, PartName)>,
    ) -> Option<Workload> {
        if id == KERNEL {
            return Some(plain(KERNEL, WorkloadKind::Kernel, "kernel threads"));
        }
        let key = key_of(id)?;
        let one = used.get(&key)?;
        if let Some((whole, part)) = parts.get(id) {
            let identity = one.host.as_deref().map(cgroup::identify).unwrap_or_default();
            return Some(Workload {
                container_id: identity.container_id,
                pod_uid: identity.pod_uid,
                part_of: Some(whole.clone()),
                ..plain(id, WorkloadKind::ProcessTree, &format!("{}@{}", part.model, part.version))
            });
        }
        let name: String = one.process.comm.chars().filter(|c| !c.is_control()).collect();
        let reserved = self.inference.get(&key).and_then(|group| group.reserved_millicores);
        Some(Workload {
            reserved_millicores: reserved,
            reservation_origin: reserved.map(|_| "config".to_owned()),
            ..plain(id, WorkloadKind::ProcessTree, &name)
        })
    }

    fn row(&mut self, workload: Workload, memory_bytes: Option<u64>, born: Option<BootNanos>) -> WorkloadRow {
        let (cpu_nanos, began) = self.meters.show(&workload.id);
        WorkloadRow { origin: if began { born.or(self.last) } else { None }, workload, cpu_nanos, memory_bytes }
    }

    fn targets(&self, groups: &[InferenceGroup], hosts: &BTreeMap<Key, Option<String>>) -> BTreeMap<String, String> {
        let remembered = self.inference.values();
        remembered
            .chain(groups)
            .filter_map(|group| {
                let whole = self.whole(&(group.pid, group.start_ticks), hosts)?;
                Some((group.target.clone(), whole))
            })
            .collect()
    }

    /// The workload of a server.
    fn whole(&self, server: &Key, hosts: &BTreeMap<Key, Option<String>>) -> Option<String> {
        match hosts.get(server)? {
            Some(path) => self.path_id(path),
            None => Some(row_id(server)),
        }
    }

    /// The parts of the servers by their rows, each with the workload of its whole.
    fn parts(&self, trees: &Trees, hosts: &BTreeMap<Key, Option<String>>) -> BTreeMap<String, (String, PartName)> {
        let parts = trees.parts();
        parts
            .filter_map(|((server, name), row)| Some((row_id(row), (self.whole(server, hosts)?, name.clone()))))
            .collect()
    }

    fn path_id(&self, path: &str) -> Option<String> {
        self.seen_groups.contains_key(path).then(|| id_of_path(path, &cgroup::identify(path)))
    }

    fn busy(&mut self) -> Option<u64> {
        let now = proc::cpu_times(&self.roots.procfs)?;
        let before = self.cpu.replace(now)?;
        let total = now.total.checked_sub(before.total).filter(|total| *total > 0)?;
        Some(now.busy.saturating_sub(before.busy) * 1_000 / total)
    }

    /// Drops what has ended and keeps each process's row for the next sample.
    fn forget(&mut self, used: &BTreeMap<Key, Used>, owners: &BTreeMap<Key, String>) {
        self.seen.retain(|key, _| used.contains_key(key));
        for (key, seen) in &mut self.seen {
            seen.owner = owners.get(key).filter(|owner| *owner != KERNEL).cloned();
        }
        self.meters.retain(|id| key_of(id).is_none_or(|key| used.contains_key(&key)));
    }
}

/// What waited in vain goes back to what is left of where it was used.
fn give_up(waiting: &mut Option<Waiting>, take: &mut impl FnMut(Option<&str>, i128)) {
    if let Some(waiting) = waiting.take() {
        take(waiting.host.as_deref(), -i128::from(waiting.nanos));
    }
}

fn plain(id: &str, kind: WorkloadKind, name: &str) -> Workload {
    Workload {
        id: id.to_owned(),
        kind,
        name: name.to_owned(),
        cgroup: None,
        container_id: None,
        pod_uid: None,
        cpu_time_method: CpuTimeMethod::ProcessTime,
        reserved_millicores: None,
        reservation_origin: None,
        part_of: None,
    }
}

/// `process/<pid>@<start time in clock ticks>`.
fn row_id(key: &Key) -> String {
    format!("process/{}@{}", key.0, key.1)
}

fn key_of(id: &str) -> Option<Key> {
    let (pid, start) = id.strip_prefix("process/")?.split_once('@')?;
    Some((pid.parse().ok()?, start.parse().ok()?))
}

fn group_id(group: &Group) -> String {
    id_of_path(&group.path, &group.identity)
}

fn id_of_path(path: &str, identity: &cgroup::Identity) -> String {
    let last = path.rsplit('/').next().unwrap_or_default();
    if let Some(container) = &identity.container_id {
        return format!("container/{container}");
    }
    let is_unit = identity.unit.as_deref() == Some(last);
    // A unit of the system needs no path; those of users' managers exist once for each user.
    let name = match path.strip_prefix("/system.slice/").or_else(|| path.strip_prefix('/')) {
        Some(short) if !short.contains('/') && is_unit => short,
        _ => path.trim_start_matches('/'),
    };
    let mut cut = name.len().saturating_sub(MOST_ID_BYTES);
    while !name.is_char_boundary(cut) {
        cut += 1;
    }
    format!("{}/{}", if is_unit { "unit" } else { "cgroup" }, &name[cut..])
}

/// The nearest workload group around a path.
fn parent_of<'a>(cgroups: &'a [Group], path: &str) -> Option<&'a str> {
    let around =
        cgroups.iter().filter(|group| path.strip_prefix(&group.path).is_some_and(|rest| rest.starts_with('/')));
    around.map(|group| group.path.as_str()).max_by_key(|path| path.len())
}

/// The workload group that a process's path lies in. A path from another namespace is matched by its container.
fn host_of(cgroups: &[Group], path: &str) -> Option<String> {
    if path.starts_with("/..") {
        let container = cgroup::identify(path).container_id?;
        let found = cgroups.iter().find(|group| group.identity.container_id.as_ref() == Some(&container));
        return found.map(|group| group.path.clone());
    }
    let exact = cgroups.iter().find(|group| group.path == path).map(|group| group.path.as_str());
    exact.or_else(|| parent_of(cgroups, path)).map(str::to_owned)
}

fn is_unit(cgroups: &[Group], path: &str) -> bool {
    cgroups.iter().any(|group| group.path == path && group.kind == Kind::Unit)
}

#[cfg(test)]
mod tests;
