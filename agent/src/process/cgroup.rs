//! Control groups: which hierarchy counts CPU time, which groups are workloads, and what a path says about one.
//!
//! Reads `cpuacct.usage` (v1, ns) or `cpu.stat` (v2, µs), memory use, quota and cpuset; no privilege on the host's own
//! file system. On a hybrid host the v1 accounting hierarchy decides.

use super::proc::{read_number, read_text};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

mod path;
mod watch;

pub use path::{Identity, identify};
pub use watch::Watch;

/// Deepest nesting that is walked, and most groups.
const DEEPEST: usize = 16;
const MOST_GROUPS: usize = 1_024;

/// The hierarchy that counts CPU time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    root: PathBuf,
    base: PathBuf,
    unified: bool,
    /// Whether its root is the machine's: in a container it is only the container's own group.
    whole_machine: bool,
}

/// What kind of workload a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A container.
    Container,
    /// A systemd unit (service or scope).
    Unit,
    /// Neither, without groups below it.
    Plain,
}

/// A group that is a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Path within the hierarchy, from `/`.
    pub path: String,
    /// Inode of its folder: another one at the same path is another group.
    pub inode: u64,
    /// What it is.
    pub kind: Kind,
    /// What its path says.
    pub identity: Identity,
    /// CPU time in ns since it was made, groups below it included.
    pub cpu_nanos: u64,
}

impl Hierarchy {
    /// Finds the hierarchy below the folder in which control groups are mounted; `None` where there is none.
    pub fn find(root: &Path) -> Option<Self> {
        let v1 = ["cpuacct", "cpu,cpuacct"].iter().map(|name| root.join(name));
        if let Some(base) = v1.into_iter().find(|base| base.join("cpuacct.usage").exists()) {
            // The root group alone has a release agent.
            let whole_machine = base.join("release_agent").exists() || !base.join("notify_on_release").exists();
            return Some(Self { root: root.to_path_buf(), base, unified: false, whole_machine });
        }
        let base =
            [root.to_path_buf(), root.join("unified")].into_iter().find(|base| base.join("cpu.stat").exists())?;
        let whole_machine = !base.join("cgroup.type").exists();
        Some(Self { root: root.to_path_buf(), base, unified: true, whole_machine })
    }

    /// CPU time in ns of the whole machine, where the hierarchy's root is the machine's.
    pub fn machine_nanos(&self) -> Option<u64> {
        if self.whole_machine { self.usage(&self.base) } else { None }
    }

    /// The groups that are workloads, each after those it lies in. Inside a container only containers are looked for.
    pub fn groups(&self) -> Vec<Group> {
        self.groups_seen(&mut |_| {})
    }

    /// The groups; `seen` is told each folder before it is listed.
    fn groups_seen(&self, seen: &mut dyn FnMut(&Path)) -> Vec<Group> {
        let mut groups = Vec::new();
        self.walk(&self.base, ("", 0), &Identity::default(), &mut groups, seen);
        groups
    }

    fn walk(
        &self,
        folder: &Path,
        (path, depth): (&str, usize),
        parent: &Identity,
        groups: &mut Vec<Group>,
        seen: &mut dyn FnMut(&Path),
    ) {
        if depth >= DEEPEST || groups.len() >= MOST_GROUPS {
            return;
        }
        seen(folder);
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        let mut below: Vec<_> = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        below.sort();
        for name in below {
            let (folder, path) = (folder.join(&name), format!("{path}/{name}"));
            let identity = identify(&path);
            let is_container = identity.container_id.is_some() && identity.container_id != parent.container_id;
            let in_container = parent.container_id.is_some();
            let kind = if is_container {
                Some(Kind::Container)
            } else if !in_container && (name.ends_with(".service") || name.ends_with(".scope")) {
                Some(Kind::Unit)
            } else if !in_container && parent.unit.is_none() && !has_folders(&folder) && !name.ends_with(".slice") {
                Some(Kind::Plain)
            } else {
                None
            };
            if let (Some(kind), Some(cpu_nanos), Ok(metadata)) = (kind, self.usage(&folder), folder.metadata()) {
                let (path, identity) = (path.clone(), identity.clone());
                groups.push(Group { path, inode: metadata.ino(), kind, identity, cpu_nanos });
            }
            self.walk(&folder, (&path, depth + 1), &identity, groups, seen);
        }
    }

    fn usage(&self, folder: &Path) -> Option<u64> {
        self.parse_usage(&read_text(&folder.join(self.usage_name()))?)
    }

    fn usage_name(&self) -> &'static str {
        if self.unified { "cpu.stat" } else { "cpuacct.usage" }
    }

    fn usage_file(&self, path: &str) -> PathBuf {
        self.base.join(path.trim_start_matches('/')).join(self.usage_name())
    }

    fn parse_usage(&self, text: &str) -> Option<u64> {
        if !self.unified {
            return text.trim().parse().ok();
        }
        let microseconds = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
        microseconds.trim().parse::<u64>().ok()?.checked_mul(1_000)
    }

    /// Memory in use by a group in bytes.
    pub fn memory_bytes(&self, path: &str) -> Option<u64> {
        read_number(&self.memory_file(path))
    }

    fn memory_file(&self, path: &str) -> PathBuf {
        if self.unified {
            return self.folder("", path).join("memory.current");
        }
        self.folder("memory", path).join("memory.usage_in_bytes")
    }

    /// CPU reservation of a group in thousandths of a core, and its origin: the smaller of quota and cpuset.
    pub fn reservation(&self, path: &str, threads: u32) -> Option<(u64, &'static str)> {
        let quota = self.quota(path).map(|millicores| (millicores, "quota"));
        let cpuset = self.cpuset(path).filter(|cpus| *cpus < threads);
        let cpuset = cpuset.map(|cpus| (u64::from(cpus) * 1_000, "cpuset"));
        [quota, cpuset].into_iter().flatten().min()
    }

    fn quota(&self, path: &str) -> Option<u64> {
        let (quota, period) = if self.unified {
            let text = read_text(&self.folder("", path).join("cpu.max"))?;
            let (quota, period) = text.trim().split_once(' ')?;
            (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?)
        } else {
            let folder = self.folder("cpu", path);
            // A quota of −1 is none, and is no u64.
            (read_number(&folder.join("cpu.cfs_quota_us"))?, read_number(&folder.join("cpu.cfs_period_us"))?)
        };
        quota.checked_mul(1_000)?.checked_div(period)
    }

    fn cpuset(&self, path: &str) -> Option<u32> {
        let folder = self.folder(if self.unified { "" } else { "cpuset" }, path);
        count_cpus(read_text(&folder.join("cpuset.cpus"))?.trim())
    }

    fn folder(&self, controller: &str, path: &str) -> PathBuf {
        let base = if self.unified {
            self.base.clone()
        } else {
            let joint = self.root.join("cpu,cpuacct");
            if controller == "cpu" && joint.is_dir() { joint } else { self.root.join(controller) }
        };
        base.join(path.trim_start_matches('/'))
    }
}

/// Place of the nearest group of the list that holds a process's path, or is it. A path from another namespace is
/// matched by its container.
pub(super) fn around(groups: &[Group], path: &str) -> Option<usize> {
    if path.starts_with("/..") {
        let container = identify(path).container_id?;
        return groups.iter().position(|group| group.identity.container_id.as_ref() == Some(&container));
    }
    let holds =
        |group: &Group| path.strip_prefix(&group.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let around = groups.iter().enumerate().filter(|(_, group)| holds(group));
    around.max_by_key(|(_, group)| group.path.len()).map(|(index, _)| index)
}

fn has_folders(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|entries| {
        entries.filter_map(Result::ok).any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    })
}

/// `0-3,8` is 5 CPUs; an empty set means no restriction.
fn count_cpus(list: &str) -> Option<u32> {
    let mut cpus = 0u32;
    for range in list.split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        cpus = cpus.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    (cpus > 0).then_some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("inside")).expect("folder");
        fs::write(path, text).expect("file");
    }

    #[test]
    fn the_accounting_hierarchy_is_preferred_on_a_hybrid_host() {
        let root = tempfile::tempdir().expect("folder");
        write(root.path(), "unified/cpu.stat", "usage_usec 5\n");
        assert_eq!(Hierarchy::find(root.path()).and_then(|found| found.machine_nanos()), Some(5_000));
        write(root.path(), "cpuacct/cpuacct.usage", "7\n");
        assert_eq!(Hierarchy::find(root.path()).and_then(|found| found.machine_nanos()), Some(7));
    }

    #[test]
    fn a_root_that_is_only_a_containers_own_does_not_speak_for_the_machine() {
        let root = tempfile::tempdir().expect("folder");
        write(root.path(), "cpu.stat", "usage_usec 5\n");
        write(root.path(), "cgroup.type", "domain\n");
        assert_eq!(Hierarchy::find(root.path()).and_then(|found| found.machine_nanos()), None);
    }

    #[test]
    fn the_container_counts_and_never_its_children() {
        let root = tempfile::tempdir().expect("folder");
        let id = "a".repeat(64);
        let scope = format!("system.slice/docker-{id}.scope");
        for (path, usage) in [("", 100), (scope.as_str(), 50), (&format!("{scope}/init"), 20), ("system.slice", 70)] {
            write(root.path(), format!("{path}/cpu.stat").trim_start_matches('/'), &format!("usage_usec {usage}\n"));
        }
        write(root.path(), "system.slice/ssh.service/cpu.stat", "usage_usec 9\n");
        write(root.path(), "batch/cpu.stat", "usage_usec 3\n");
        write(root.path(), &format!("{scope}/cpu.max"), "150000 100000\n");
        write(root.path(), &format!("{scope}/cpuset.cpus"), "0-3\n");
        let hierarchy = Hierarchy::find(root.path()).expect("found");
        let found: Vec<_> =
            hierarchy.groups().into_iter().map(|group| (group.path, group.kind, group.cpu_nanos)).collect();
        assert_eq!(
            found,
            [
                ("/batch".to_owned(), Kind::Plain, 3_000),
                (format!("/{scope}"), Kind::Container, 50_000),
                ("/system.slice/ssh.service".to_owned(), Kind::Unit, 9_000)
            ]
        );
        assert_eq!(hierarchy.reservation(&format!("/{scope}"), 8), Some((1_500, "quota")));
        assert_eq!(hierarchy.reservation("/batch", 8), None);
    }

    #[test]
    fn lists_of_cpus_are_counted() {
        assert_eq!(count_cpus("0-3,8"), Some(5));
        assert_eq!(count_cpus(""), None);
        assert_eq!(count_cpus("3-1"), None);
    }
}
