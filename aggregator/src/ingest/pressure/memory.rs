//! How near the process is to the memory its control group may have: beyond that the kernel kills it.
//!
//! Without a limit there is nothing to be near to. Both versions of control groups are read, and the whole way up: the
//! lowest limit counts.

use super::{Cause, Pressure};
use crate::ingest::Waiting;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Shares of the limit, in percent, from which it is pressing and below which it is no more.
const PRESSING: u64 = 80;
const EASY: u64 = 70;
/// Where the kernel tells of this process and of its groups.
const PROC: &str = "/proc/self";
const GROUPS: &str = "/sys/fs/cgroup";

/// The lowest limit in bytes of the groups that `proc` (the folder of a process) is in, below `groups`; none without one.
pub fn limit(proc: &Path, groups: &Path) -> Option<u64> {
    let own = fs::read_to_string(proc.join("cgroup")).ok()?;
    own.lines().filter_map(|line| limit_of(line, groups)).min()
}

/// The lowest limit on the way from one group to the root of its hierarchy.
fn limit_of(line: &str, groups: &Path) -> Option<u64> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let (root, file) = match controllers {
        "" => (groups.to_owned(), "memory.max"),
        _ if controllers.split(',').any(|one| one == "memory") => (groups.join("memory"), "memory.limit_in_bytes"),
        _ => return None,
    };
    // A container may see its own group as the root of what is mounted: then the path beyond it is not there.
    let folder: PathBuf = root.join(path.trim_start_matches('/'));
    let folders = folder.ancestors().take_while(|folder| folder.starts_with(&root));
    let read = |folder: &Path| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
    folders.filter_map(read).min()
}

/// Memory in bytes that is the process's own and cannot be taken back: what a group's limit is used up by.
pub fn used(proc: &Path) -> Option<u64> {
    let status = fs::read_to_string(proc.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// Whether it is pressing. What takes the memory while no record waits is nothing that waiting agents would give back.
fn is_pressing(was: bool, used: u64, limit: u64, waits: bool) -> bool {
    let share = if was { EASY } else { PRESSING };
    waits && u128::from(used) * 100 >= u128::from(limit) * u128::from(share)
}

/// Looks for ever.
pub(in crate::ingest) async fn watch(pressure: Pressure, waiting: Waiting) {
    let (proc, groups) = (Path::new(PROC), Path::new(GROUPS));
    let Some(limit) = limit(proc, groups) else { return std::future::pending().await };
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (was, waits) = (pressure.is(Cause::Memory), waiting.any());
        // The kernel takes longer to tell than a live agent's record takes: it is asked only where that decides something.
        if !was && !waits {
            continue;
        }
        let Some(used) = used(proc) else { continue };
        pressure.set(Cause::Memory, is_pressing(was, used, limit, waits));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("inside")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        folder
    }

    fn limit_in(files: &[(&str, &str)]) -> Option<u64> {
        let folder = tree(files);
        limit(&folder.path().join("proc"), &folder.path().join("groups"))
    }

    #[test]
    fn the_lowest_limit_on_the_way_up_counts_in_both_versions() {
        let second =
            [("proc/cgroup", "0::/a/b\n"), ("groups/a/b/memory.max", "max\n"), ("groups/a/memory.max", "1000\n")];
        assert_eq!(limit_in(&second), Some(1_000));
        let first = [
            ("proc/cgroup", "9:cpu,cpuacct:/z\n7:memory:/a/b\n1:name=systemd:/a\n"),
            ("groups/memory/a/b/memory.limit_in_bytes", "500\n"),
            ("groups/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("groups/cpu/z/memory.limit_in_bytes", "1\n"),
        ];
        assert_eq!(limit_in(&first), Some(500));
        assert_eq!(limit_in(&[("proc/cgroup", "0::/a\n"), ("groups/a/memory.max", "max\n")]), None);
        assert_eq!(limit_in(&[("proc/cgroup", "0::/not/seen\n"), ("groups/memory.max", "7\n")]), Some(7));
        assert_eq!(limit_in(&[]), None);
    }

    #[test]
    fn memory_that_cannot_be_taken_back_is_read() {
        let folder = tree(&[("status", "VmRSS:\t  900 kB\nRssAnon:\t     512 kB\nRssFile:\t 388 kB\n")]);
        assert_eq!(used(folder.path()), Some(512 * 1024));
        assert!(used(Path::new(PROC)).is_some_and(|used| used > 0));
    }

    #[test]
    fn pressure_begins_late_ends_later_and_not_without_records() {
        assert!(is_pressing(false, 80, 100, true) && !is_pressing(false, 79, 100, true));
        assert!(is_pressing(true, 70, 100, true) && !is_pressing(true, 69, 100, true));
        assert!(!is_pressing(true, 100, 100, false), "agents have nothing to do with it");
    }
}
