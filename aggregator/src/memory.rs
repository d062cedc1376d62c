//! The memory that the process may have: what its configuration says, at most what its control group may have, beyond which
//! the kernel kills it. The database's cache and buffers are parts of it; agents are given no credit and large questions are
//! refused while little of it is left.
//!
//! Without a limit there is nothing to keep within. Both versions of control groups are read, and the whole way up: the
//! lowest limit counts.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the kernel tells of this process and of its groups.
const PROC: &str = "/proc/self";
const GROUPS: &str = "/sys/fs/cgroup";
/// Who has no limit reads one near the end of numbers in the first version of control groups.
const UNLIMITED: u64 = 1 << 62;
const MIB: u64 = 1 << 20;
/// The least that is worth a limit: a database that is opened, and questions of one node.
pub const LEAST: u64 = 128 * MIB;
/// The database's blocks in memory: an eighth of the limit, within these; the first without a limit.
const CACHE: [u64; 2] = [64 * MIB, 1024 * MIB];
/// What the database has not written to a table yet: an eighth of the limit, within these; the second without a limit.
const BUFFERS: [u64; 2] = [16 * MIB, 64 * MIB];
/// From this share of the limit, in percent, a question gets no more: what the allocator keeps of it afterwards must not hold agents
/// back, which wait from a higher one on.
const FULL: u64 = 60;
/// A question that has not added this part of the limit is not what fills it.
const SMALL: u64 = 16;
/// The part of the limit that the terms of one answer may take as they are sent; they are held, and encoded, and held by the connection.
const ANSWER: u64 = 32;
/// Of so much of the limit one question is answered at a time.
const QUESTION: u64 = 64 * MIB;
/// Questions that are answered at a time, at most: more threads answer none of them sooner.
const MOST_QUESTIONS: u64 = 64;
/// Of so much of the limit a question may take another thread.
const THREAD: u64 = 1024 * MIB;
/// The part of the limit that holds cells which a question reads ahead, what one takes, and the most that are worth it.
const AHEAD: u64 = 64;
const CELL: u64 = 8 << 10;
const MOST_AHEAD: u64 = 8_192;
/// The part of the limit that holds sums of energy and grams, and the most bytes that are worth it, which are taken without a limit:
/// a month of 256 GPUs at two levels.
const SUMS: [u64; 2] = [32, 160 * MIB];

/// What the process may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    limit: Option<u64>,
}

/// A question needs more than is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the answer needs more memory than the aggregator may have, {} MiB: narrow the window, or ask again while it answers fewer \
     questions; or give it more (`memory_budget`, or the limit of its container)",
    limit / MIB
)]
pub struct Spent {
    /// The limit in bytes.
    pub limit: u64,
}

impl Memory {
    /// A budget in bytes, or what the control group may have, whichever is less.
    pub fn of(budget: Option<u64>) -> Self {
        Self { limit: budget.into_iter().chain(limit(Path::new(PROC), Path::new(GROUPS))).min() }
    }

    /// The limit in bytes; none without one.
    pub fn limit(self) -> Option<u64> {
        self.limit
    }

    /// Bytes of blocks that the database keeps.
    pub fn cache(self) -> u64 {
        self.limit.map_or(CACHE[0], |limit| (limit / 8).clamp(BUFFERS[0], CACHE[1]))
    }

    /// Bytes that the database holds back before it writes tables.
    pub fn buffers(self) -> u64 {
        self.limit.map_or(BUFFERS[1], |limit| (limit / 8).clamp(BUFFERS[0], BUFFERS[1]))
    }

    /// Questions that are answered at a time; the others wait for their turn.
    pub fn questions(self) -> usize {
        let questions = self.limit.map_or(MOST_QUESTIONS, |limit| (limit / QUESTION).clamp(1, MOST_QUESTIONS));
        usize::try_from(questions).unwrap_or(1)
    }

    /// Threads that questions may take beside their own: half of the processors, that the others go on with what agents tell.
    pub fn spare_threads(self) -> usize {
        let half = std::thread::available_parallelism().map_or(0, |all| all.get() / 2);
        self.limit.map_or(half, |limit| usize::try_from(limit / THREAD).map_or(half, |most| most.min(half)))
    }

    /// Cells that a question may read ahead, of all nodes together.
    pub fn ahead(self) -> u64 {
        self.limit.map_or(MOST_AHEAD, |limit| (limit / AHEAD / CELL).clamp(1, MOST_AHEAD))
    }

    /// Numbers that the sums of energy and grams may hold, of all ways to ask together.
    pub fn sums(self) -> usize {
        let bytes = self.limit.map_or(SUMS[1], |limit| (limit / SUMS[0]).min(SUMS[1]));
        usize::try_from(bytes / 8).unwrap_or(usize::MAX)
    }

    /// Bytes that the terms of one answer may take as they are sent; none without a limit.
    pub fn answer(self) -> Option<u64> {
        self.limit.map(|limit| limit / ANSWER)
    }

    /// What a question begins with.
    pub fn begin(self) -> Question {
        Question { memory: self, before: self.limit.and_then(|_| used()) }
    }
}

/// What a question may still take.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    memory: Memory,
    before: Option<u64>,
}

impl Question {
    /// What the process may have.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Whether there is room for more.
    ///
    /// # Errors
    /// The process has nearly all that it may have, and this question is part of why.
    pub fn check(&self) -> Result<(), Spent> {
        let (Some(limit), Some(before)) = (self.memory.limit, self.before) else { return Ok(()) };
        match used() {
            Some(now) if is_spent(before, now, limit) => Err(Spent { limit }),
            _ => Ok(()),
        }
    }
}

/// Whether a question that began at `before` bytes may not go on at `now`. What the allocator keeps of questions that have ended
/// counts as used, and is used again: a question that adds nothing to it is let through.
fn is_spent(before: u64, now: u64, limit: u64) -> bool {
    let added = now.saturating_sub(before);
    u128::from(now) * 100 >= u128::from(limit) * u128::from(FULL) && added > limit / SMALL
}

/// Memory in bytes that is the process's: its own, and the parts of its program that it has used.
pub fn used() -> Option<u64> {
    used_of(Path::new(PROC))
}

fn used_of(proc: &Path) -> Option<u64> {
    let status = fs::read_to_string(proc.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// The lowest limit in bytes of the groups that `proc` (the folder of a process) is in, below `groups`; none without one.
fn limit(proc: &Path, groups: &Path) -> Option<u64> {
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
    folders.filter_map(read).filter(|limit| *limit < UNLIMITED).min()
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
        let without =
            [("proc/cgroup", "7:memory:/\n"), ("groups/memory/memory.limit_in_bytes", "9223372036854771712\n")];
        assert_eq!(limit_in(&without), None);
        assert_eq!(limit_in(&[("proc/cgroup", "0::/not/seen\n"), ("groups/memory.max", "7\n")]), Some(7));
        assert_eq!(limit_in(&[]), None);
    }

    #[test]
    fn resident_memory_is_read() {
        let folder = tree(&[("status", "VmRSS:\t  900 kB\nRssAnon:\t     512 kB\nRssFile:\t 388 kB\n")]);
        assert_eq!(used_of(folder.path()), Some(900 * 1024));
        assert!(used().is_some_and(|used| used > 0));
    }

    #[test]
    fn a_budget_counts_where_it_is_less_than_the_group_s_limit() {
        assert_eq!(Memory::of(Some(1)).limit(), Some(1));
        let own = Memory::of(None).limit();
        assert_eq!(Memory::of(Some(u64::MAX)).limit(), own.or(Some(u64::MAX)));
    }

    #[test]
    fn the_database_has_a_quarter_at_most() {
        for limit in [LEAST, 512 * MIB, 8 << 30, u64::MAX] {
            let memory = Memory { limit: Some(limit) };
            assert!(memory.cache() + memory.buffers() <= limit / 4, "{limit}");
        }
        let none = Memory::default();
        assert_eq!((none.cache(), none.buffers()), (64 * MIB, 64 * MIB));
    }

    #[test]
    fn a_question_ends_where_it_fills_what_there_is_and_not_where_others_did() {
        assert!(is_spent(200, 600, 1_000), "it took 40 percent");
        assert!(!is_spent(200, 599, 1_000), "there is room");
        assert!(!is_spent(890, 910, 1_000), "others have it, or nobody any more");
        assert!(Memory { limit: None }.begin().check().is_ok());
    }

    #[test]
    fn the_less_there_is_the_fewer_questions_are_answered_at_a_time_and_the_less_is_read_ahead() {
        let of = |mib: u64| Memory { limit: Some(mib * MIB) };
        assert_eq!([of(1).questions(), of(128).questions(), of(2_048).questions()], [1, 2, 32]);
        assert_eq!([of(128).ahead(), of(2_048).ahead(), of(8_192).ahead()], [256, 4_096, 8_192]);
        let none = Memory::default();
        assert_eq!((none.questions(), none.ahead()), (64, 8_192));
        assert_eq!([of(128).sums(), of(8_192).sums(), none.sums()].map(|numbers| numbers >> 17), [4, 160, 160]);
    }
}
