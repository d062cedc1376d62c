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
use crate::inference::discovery::engine_of_name;
use cgroup::{Group, Kind, Watch};
pub use holding::DeviceUsers;
use holding::Vacant;
pub(crate) use holding::is_brief;
use joulebook_units::{BootNanos, CpuTimeMethod, Workload, WorkloadKind};
use proc::Process;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub mod cgroup;
mod holding;
mod id;
mod membership;
mod meter;
mod owner;
pub mod part;
pub mod proc;
mod service;
mod table;
mod told;

use id::{group_id, id_of_path, key_of, row_id};
use membership::Membership;
use meter::Meters;
use part::{PartName, PartRule, Place, Trees};
pub use service::Member;
use service::Together;
use table::{Found, Table};

/// CPU time after which a process outside inference groups gets a row of its own.
const OWN_ROW_NANOS: u64 = 1_000_000_000;
/// How long what a new process uses waits for its row.
const WAIT_NANOS: u64 = 30_000_000_000;
/// How early a sample may come: half the shortest tick.
const EARLY: Duration = Duration::from_millis(50);
/// Most such rows at a time.
const MOST_PROCESS_ROWS: usize = 64;
/// Identities of workloads.
const KERNEL: &str = "kernel";
/// Identity of the rest of the machine.
pub const REMAINDER: &str = "remainder";

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
    /// Who is on the devices.
    pub device_users: DeviceUsers,
    /// Files that should name a process's control group and do not. These processes are in no row of theirs: what they
    /// use stays where the kernel counts it, in a group or in the remainder.
    pub cgroups_refused: Vec<PathBuf>,
}

/// The accountant of a node's workloads.
#[derive(Debug)]
pub struct Workloads {
    roots: Roots,
    table: Table,
    watch: Watch,
    threads: u32,
    tick_nanos: u64,
    page_bytes: u64,
    last: Option<BootNanos>,
    machine: Option<u64>,
    cpu: Option<proc::CpuTimes>,
    seen_groups: BTreeMap<String, SeenGroup>,
    seen: BTreeMap<(i32, u64), Seen>,
    inference: BTreeMap<(i32, u64), InferenceGroup>,
    /// The servers that were known at the last sample.
    asked: Vec<InferenceGroup>,
    own_rows: BTreeSet<(i32, u64)>,
    /// Processes that have a row however little they use: those that hold a device, and the agent itself, whose own cost
    /// stands in the book like everybody's.
    named: BTreeSet<i32>,
    /// Devices without processes, and who holds them.
    vacant: Vacant,
    /// The agent's process in the given procfs.
    own: Option<i32>,
    /// Least time between two samples.
    every: Duration,
    cgroups_refused: Vec<PathBuf>,
    meters: Meters,
    together: Together,
    /// Processes that tell of themselves inside a server whose page is read, and that server.
    within: BTreeMap<Key, Key>,
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
    /// Place of its workload group in the list of this generation.
    host: (u64, Option<usize>),
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
    process: Arc<Process>,
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
        // Of a procfs of another namespace this gives the number that is valid there.
        let own = std::fs::read_link(roots.procfs.join("self")).ok();
        let own = own.and_then(|own| own.to_str()?.parse().ok());
        Self {
            roots: roots.clone(),
            table: Table::new(&roots.procfs),
            watch: Watch::new(&roots.cgroup),
            threads,
            tick_nanos: 1_000_000_000 / system(nix::unistd::SysconfVar::CLK_TCK, 100),
            page_bytes: system(nix::unistd::SysconfVar::PAGE_SIZE, 4_096),
            last: None,
            machine: None,
            cpu: None,
            seen_groups: BTreeMap::new(),
            seen: BTreeMap::new(),
            inference: BTreeMap::new(),
            asked: Vec::new(),
            own_rows: BTreeSet::new(),
            named: own.into_iter().collect(),
            vacant: Vacant::default(),
            own,
            every: Duration::ZERO,
            cgroups_refused: Vec::new(),
            meters: Meters::default(),
            together: Together::default(),
            within: BTreeMap::new(),
        }
    }

    /// Samples come at least this far apart.
    #[must_use]
    pub fn every(self, every: Duration) -> Self {
        Self { every, ..self }
    }

    /// Whether a sample is due; a tick may come a little early.
    pub fn is_due(&self, now: BootNanos) -> bool {
        self.last.is_none_or(|last| now.since(last) + EARLY >= self.every)
    }

    /// Reads everything once. `groups` are the inference servers known now; one that is missing later is remembered
    /// while its process lives.
    pub fn sample(&mut self, now: BootNanos, groups: &[InferenceGroup]) -> WorkloadSample {
        let mut watch = std::mem::take(&mut self.watch);
        watch.read();
        let cgroups = watch.groups();
        let mut own = self.group_increments(&watch);
        self.table.begin();
        let mut rest = self.machine_increment(&watch);
        for (group, _) in cgroups.iter().zip(watch.parents()).filter(|(_, parent)| parent.is_none()) {
            rest -= own.get(group.path.as_str()).map_or(0, |(whole, _)| *whole);
        }
        let used = self.processes(now, &watch, groups);
        self.remember(groups, &used);
        let hosts = self.split_hosts(cgroups, &used);
        let (owners, trees) = self.owners(&used, &hosts);
        let engines = Self::engines(used.values());
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
        for key in self.table.ended() {
            if let Some(mut seen) = self.seen.remove(key) {
                give_up(&mut seen.waiting, &mut take);
            }
        }
        let mut sample = WorkloadSample { busy_permille: self.busy(), ..WorkloadSample::default() };
        for (index, group) in cgroups.iter().enumerate() {
            let left = own.get(group.path.as_str()).map_or(0, |(_, left)| *left);
            let engine = engines.get(&group.path).copied();
            let workload = self.together(self.group_workload(group, &hosts), Some(group), engine);
            let memory = watch.memory_bytes(index);
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
        sample.rows.push(self.row(Workload::bare(REMAINDER, WorkloadKind::Remainder, "everything else"), None, None));
        sample.groups = self.targets(groups, &hosts);
        sample.device_users.processes = self.find_device_users(&used, &owners);
        self.add_holders(&mut sample);
        sample.cgroups_refused = std::mem::take(&mut self.cgroups_refused);
        sample.parts = parts.into_iter().map(|(row, part)| (part, row)).collect();
        sample.node_memory_used = self.table.memory_used();
        self.forget(&used, &owners);
        self.last = Some(now);
        self.watch = watch;
        sample
    }

    /// For each group: its increment with everything in it, and the part that is its own.
    fn group_increments<'a>(&mut self, watch: &'a Watch) -> BTreeMap<&'a str, (i128, i128)> {
        let cgroups = watch.groups();
        let mut increments = BTreeMap::new();
        for group in cgroups {
            let before = self.seen_groups.get_mut(&group.path).filter(|seen| seen.inode == group.inode);
            let increment = match (before, self.last) {
                (Some(seen), _) => {
                    let increment = group.cpu_nanos.saturating_sub(seen.cpu_nanos);
                    // A counter read a moment earlier must not fall below what was counted already.
                    seen.cpu_nanos = seen.cpu_nanos.max(group.cpu_nanos);
                    increment
                }
                (None, last) => {
                    let hierarchy = watch.hierarchy().filter(|_| group.kind == Kind::Container);
                    let reservation = hierarchy.and_then(|found| found.reservation(&group.path, self.threads));
                    let seen = SeenGroup { inode: group.inode, cpu_nanos: group.cpu_nanos, reservation };
                    self.seen_groups.insert(group.path.clone(), seen);
                    // Made since the last sample: all of it is new. At the first sample nothing is.
                    last.map_or(0, |_| group.cpu_nanos)
                }
            };
            increments.insert(group.path.as_str(), (i128::from(increment), i128::from(increment)));
        }
        for (group, parent) in cgroups.iter().zip(watch.parents()) {
            let whole = increments.get(group.path.as_str()).map_or(0, |(whole, _)| *whole);
            let parent = parent.and_then(|parent| cgroups.get(parent));
            if let Some((_, own)) = parent.and_then(|parent| increments.get_mut(parent.path.as_str())) {
                *own -= whole;
            }
        }
        if self.seen_groups.len() > increments.len() {
            self.seen_groups.retain(|path, _| increments.contains_key(path.as_str()));
        }
        increments
    }

    /// CPU time of the machine since the last sample: the root group's counter, else `/proc/stat`.
    fn machine_increment(&mut self, watch: &Watch) -> i128 {
        let total =
            watch.machine_nanos().or_else(|| Some(self.table.cpu_times()?.busy.saturating_mul(self.tick_nanos)));
        let before = self.machine;
        self.machine = total.or(before);
        match (before, total) {
            (Some(before), Some(total)) => i128::from(total) - i128::from(before),
            _ => 0,
        }
    }

    /// What each process used since the last sample. One that slept with its whole group may be left out if it is of no
    /// account: in no row, in no server's tree, waiting for neither, and holding no device.
    fn processes(&mut self, now: BootNanos, watch: &Watch, groups: &[InferenceGroup]) -> BTreeMap<Key, Used> {
        let first = self.last.is_none();
        let (cgroups, generation) = (watch.groups(), watch.generation());
        // Servers that come or go may give rows to processes that have none.
        let settled = self.asked == groups;
        let found = self.table.read(|key| {
            let seen = self.seen.get(key).filter(|seen| settled && seen.host.0 == generation);
            let slept = seen.filter(|seen| seen.host.1.is_some_and(|host| watch.slept(host)));
            let of_no_account =
                |seen: &Seen| seen.owner.is_none() && seen.waiting.is_none() && !seen.place.has_server();
            slept.is_some_and(of_no_account) && !self.named.contains(&key.0)
        });
        if !settled {
            self.asked = groups.to_vec();
        }
        let mut used = BTreeMap::new();
        for Found { process, stray } in found {
            let key = process.key();
            let born = process.start_ticks.saturating_mul(self.tick_nanos);
            // A process that was there before but could not be read then is not new.
            let is_new = !first && self.last.is_some_and(|last| born + 2 * OWN_ROW_NANOS >= last.0);
            let entry = self.seen.entry(key);
            let known = matches!(entry, Entry::Occupied(_));
            let seen = entry.or_default();
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
                if stray {
                    seen.membership.doubt();
                }
                let path = seen.membership.look(&self.roots.procfs, process.pid, &mut self.cgroups_refused);
                let Some((path, news)) = path else { continue };
                if news || seen.host.0 != generation {
                    seen.host = (generation, cgroup::around(cgroups, path));
                }
                seen.host.1.and_then(|host| cgroups.get(host)).map(|group| group.path.clone())
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
        self.within = self.within_pages(groups, used);
        let is_within = |group: &InferenceGroup| told::tells(group) && self.within.contains_key(&told::key(group));
        for group in groups.iter().filter(|group| !is_within(group)) {
            self.inference.insert(told::key(group), group.clone());
        }
        self.inference.retain(|key, group| used.contains_key(key) && !is_within(group));
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
        self.named.iter().filter_map(|pid| row(*pid)).collect()
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
            cgroup: Some(group.path.clone()),
            container_id: group.identity.container_id.clone(),
            pod_uid: group.identity.pod_uid.clone(),
            cpu_time_method: CpuTimeMethod::Cgroup,
            reserved_millicores: reservation.map(|(millicores, _)| millicores),
            reservation_origin: reservation.map(|(_, origin)| origin.to_owned()),
            ..Workload::bare(group_id(group), kind, name)
        }
    }

    fn process_workload(
        &self,
        id: &str,
        used: &BTreeMap<Key, Used>,
        parts: &BTreeMap<String, (String, PartName)>,
    ) -> Option<Workload> {
        if id == KERNEL {
            return Some(Workload::bare(KERNEL, WorkloadKind::Kernel, "kernel threads"));
        }
        let key = key_of(id)?;
        let one = used.get(&key)?;
        if let Some((whole, part)) = parts.get(id) {
            let identity = one.host.as_deref().map(cgroup::identify).unwrap_or_default();
            return Some(Workload {
                container_id: identity.container_id,
                pod_uid: identity.pod_uid,
                part_of: Some(whole.clone()),
                ..Workload::bare(id, WorkloadKind::ProcessTree, format!("{}@{}", part.model, part.version))
            });
        }
        if let Some(program) = self.own_program(&one.process) {
            let identity = one.host.as_deref().map(cgroup::identify).unwrap_or_default();
            let own = Workload {
                container_id: identity.container_id,
                pod_uid: identity.pod_uid,
                ..Workload::bare(id, WorkloadKind::ProcessTree, program.name())
            };
            return Some(self.together(own, None, None));
        }
        let name: String = one.process.comm.chars().filter(|c| !c.is_control()).collect();
        let reserved = self.inference.get(&key).and_then(|group| group.reserved_millicores);
        Some(Workload {
            reserved_millicores: reserved,
            reservation_origin: reserved.map(|_| "config".to_owned()),
            engine: engine_of_name(&one.process.comm).map(str::to_owned),
            ..Workload::bare(id, WorkloadKind::ProcessTree, name)
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
                let key = told::key(group);
                let server = self.within.get(&key).filter(|_| told::tells(group)).unwrap_or(&key);
                let whole = self.whole(server, hosts)?;
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
        let now = self.table.cpu_times()?;
        let before = self.cpu.replace(now)?;
        let total = now.total.checked_sub(before.total).filter(|total| *total > 0)?;
        Some(now.busy.saturating_sub(before.busy) * 1_000 / total)
    }

    /// Drops what has ended and keeps each process's row for the next sample.
    fn forget(&mut self, used: &BTreeMap<Key, Used>, owners: &BTreeMap<Key, String>) {
        for key in used.keys() {
            if let Some(seen) = self.seen.get_mut(key) {
                seen.owner = owners.get(key).filter(|owner| *owner != KERNEL).cloned();
            }
        }
        self.meters.retain(|id| key_of(id).is_none_or(|key| self.table.lives(&key)));
    }
}

/// What waited in vain goes back to what is left of where it was used.
fn give_up(waiting: &mut Option<Waiting>, take: &mut impl FnMut(Option<&str>, i128)) {
    if let Some(waiting) = waiting.take() {
        take(waiting.host.as_deref(), -i128::from(waiting.nanos));
    }
}

fn is_unit(cgroups: &[Group], path: &str) -> bool {
    cgroups.iter().any(|group| group.path == path && group.kind == Kind::Unit)
}

#[cfg(test)]
mod tests;
