//! The groups from sample to sample: walked anew only when folders came or went.
//!
//! A walk opens and lists every folder of the hierarchy. On a real one the kernel tells of new and removed folders
//! (inotify), and the counters are read from descriptors that stay open; one of a removed group gives an error, which
//! is as good as being told. Anyway the hierarchy is walked once in [`WALK_EVERY`] samples, because files may appear in
//! a folder without notice when a controller is switched on. In a tree that is not a control group file system (a
//! simulated node), or where the kernel gives no watches, it is walked at each sample.

use super::{Group, Hierarchy};
use crate::process::proc::{LINE_BYTES, open};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Samples after which the hierarchy is walked in any case.
const WALK_EVERY: u32 = 300;
/// Samples after which the memory of a group that slept is read all the same.
const MEMORY_EVERY: usize = 5;

/// The hierarchy that counts CPU time, and its groups as of the last sample.
#[derive(Debug, Default)]
pub struct Watch {
    root: PathBuf,
    hierarchy: Option<Hierarchy>,
    groups: Vec<Group>,
    /// For each group, the nearest one around it.
    parents: Vec<Option<usize>>,
    kept: Option<Kept>,
    generation: u64,
}

#[derive(Debug)]
struct Kept {
    news: Inotify,
    machine: Option<File>,
    usage: Vec<File>,
    memory: Vec<Option<File>>,
    /// What `memory` showed; of a group that sleeps it hardly changes.
    memory_bytes: Vec<Option<u64>>,
    /// Whether nothing ran in the group since the sample before.
    slept: Vec<bool>,
    samples: u32,
}

impl Watch {
    /// A watch below the folder in which control groups are mounted; reads nothing yet.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), ..Self::default() }
    }

    /// Reads all counters of CPU time; walks if it has to.
    pub fn read(&mut self) {
        if self.read_kept().is_none() {
            self.walk();
        }
    }

    /// The hierarchy, if there is one.
    pub fn hierarchy(&self) -> Option<&Hierarchy> {
        self.hierarchy.as_ref()
    }

    /// The groups that are workloads, each after those it lies in.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// For each group the nearest one around it.
    pub fn parents(&self) -> &[Option<usize>] {
        &self.parents
    }

    /// Changes whenever the list of groups may have changed, so that places in it mean other groups.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// CPU time in ns of the whole machine, where the hierarchy's root is the machine's.
    pub fn machine_nanos(&self) -> Option<u64> {
        let hierarchy = self.hierarchy.as_ref()?;
        match self.kept.as_ref().and_then(|kept| kept.machine.as_ref()) {
            Some(file) => hierarchy.parse_usage(read(file, &mut [0; LINE_BYTES])?),
            None => hierarchy.machine_nanos(),
        }
    }

    /// Memory in use by the group at a place of the list, in bytes.
    pub fn memory_bytes(&self, index: usize) -> Option<u64> {
        match &self.kept {
            Some(kept) => *kept.memory_bytes.get(index)?,
            None => self.hierarchy.as_ref()?.memory_bytes(&self.groups.get(index)?.path),
        }
    }

    /// Whether nothing ran in the group at a place of the list since the sample before.
    pub fn slept(&self, index: usize) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.slept.get(index) == Some(&true))
    }

    /// Reads the counters of the known groups; `None` if the list of groups may be another one.
    fn read_kept(&mut self) -> Option<()> {
        let (hierarchy, kept) = (self.hierarchy.as_ref()?, self.kept.as_mut()?);
        kept.samples += 1;
        if kept.samples >= WALK_EVERY || kept.news.read_events().err() != Some(Errno::EAGAIN) {
            return None;
        }
        let mut line = [0; LINE_BYTES];
        let sample = usize::try_from(kept.samples).ok()?;
        let counters = kept.usage.iter().zip(&kept.memory).zip(kept.slept.iter_mut().zip(&mut kept.memory_bytes));
        for (index, (group, ((usage, memory), (slept, bytes)))) in self.groups.iter_mut().zip(counters).enumerate() {
            let before = std::mem::replace(&mut group.cpu_nanos, hierarchy.parse_usage(read(usage, &mut line)?)?);
            *slept = before == group.cpu_nanos;
            if !*slept || (index + sample).is_multiple_of(MEMORY_EVERY) {
                *bytes = memory.as_ref().and_then(|file| read(file, &mut line)?.trim().parse().ok());
            }
        }
        Some(())
    }

    fn walk(&mut self) {
        self.generation += 1;
        self.kept = None;
        self.hierarchy = Hierarchy::find(&self.root);
        let Some(hierarchy) = &self.hierarchy else {
            self.groups.clear();
            self.parents.clear();
            return;
        };
        let mut news = is_real(&hierarchy.base)
            .then(|| Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok())
            .flatten();
        let what = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ONLYDIR;
        self.groups = hierarchy.groups_seen(&mut |folder| {
            // Before the folder is listed, so that nothing is missed in between.
            if news.as_ref().is_some_and(|news| news.add_watch(folder, what).is_err()) {
                news = None;
            }
        });
        self.parents = parents(&self.groups);
        self.kept = news.and_then(|news| keep(news, hierarchy, &self.groups));
    }
}

/// Opens what is read at each sample; `None` if a group is gone already or there are too many.
fn keep(news: Inotify, hierarchy: &Hierarchy, groups: &[Group]) -> Option<Kept> {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft / 4);
    if groups.len() * 2 > usize::try_from(limit).unwrap_or(usize::MAX) {
        return None;
    }
    let usage: Vec<File> = groups.iter().map_while(|group| open(&hierarchy.usage_file(&group.path)).ok()).collect();
    let memory: Vec<_> = groups.iter().map(|group| open(&hierarchy.memory_file(&group.path)).ok()).collect();
    let memory_bytes = groups.iter().map(|group| hierarchy.memory_bytes(&group.path)).collect();
    let machine = hierarchy.whole_machine.then(|| open(&hierarchy.usage_file("/")).ok()).flatten();
    let slept = vec![false; groups.len()];
    (usage.len() == groups.len()).then_some(Kept { news, machine, usage, memory, memory_bytes, slept, samples: 0 })
}

fn is_real(base: &Path) -> bool {
    statfs(base).is_ok_and(|found| [CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC].contains(&found.filesystem_type()))
}

fn read<'a>(file: &File, line: &'a mut [u8]) -> Option<&'a str> {
    let read = file.read_at(line, 0).ok()?;
    std::str::from_utf8(line.get(..read)?).ok()
}

/// The nearest group around each, in a list in which groups stand right before those that lie in them.
fn parents(groups: &[Group]) -> Vec<Option<usize>> {
    let mut around: Vec<usize> = Vec::new();
    let mut parents = Vec::with_capacity(groups.len());
    for (index, group) in groups.iter().enumerate() {
        let holds = |outer: &usize| {
            let outer = groups.get(*outer).map_or("", |outer| outer.path.as_str());
            group.path.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'))
        };
        while around.last().is_some_and(|outer| !holds(outer)) {
            around.pop();
        }
        parents.push(around.last().copied());
        around.push(index);
    }
    parents
}

#[cfg(test)]
mod tests {
    use super::super::{Identity, Kind};
    use super::*;

    #[test]
    fn the_nearest_group_around_is_found_past_siblings_of_like_names() {
        let group = |path: &str| Group {
            path: path.to_owned(),
            inode: 1,
            kind: Kind::Plain,
            identity: Identity::default(),
            cpu_nanos: 0,
        };
        let groups = ["/a", "/a/b", "/a/b/c", "/a/d", "/ab", "/b/c"].map(group);
        assert_eq!(parents(&groups), [None, Some(0), Some(1), Some(0), None, None]);
    }

    #[test]
    fn a_tree_that_is_no_control_group_file_system_is_walked_at_each_sample() {
        let root = tempfile::tempdir().expect("folder");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("inside")).expect("folder");
            std::fs::write(path, text).expect("file");
        };
        write("cpu.stat", "usage_usec 9\n");
        write("x.service/cpu.stat", "usage_usec 4\n");
        let mut watch = Watch::new(root.path());
        watch.read();
        assert_eq!((watch.groups().len(), watch.machine_nanos()), (1, Some(9_000)));
        write("y.service/cpu.stat", "usage_usec 5\n");
        write("y.service/memory.current", "77\n");
        watch.read();
        let seen: Vec<_> = watch.groups().iter().map(|group| (group.path.as_str(), group.cpu_nanos)).collect();
        assert_eq!(seen, [("/x.service", 4_000), ("/y.service", 5_000)]);
        assert_eq!((watch.memory_bytes(0), watch.memory_bytes(1)), (None, Some(77)));
        assert!(!watch.slept(0), "who is not kept open may have run");
    }
}
