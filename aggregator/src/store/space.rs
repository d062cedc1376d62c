//! Room on the disk: writing stops before the database meets a full disk, and starts again by itself.
//!
//! RocksDB latches a write that failed for want of space until it is opened again, and a full disk cannot even be opened.
//! So nothing is written while less is free than a limit; questions are answered all the time. The limit leaves room for
//! what is still to be flushed and compacted. Question: why not only react to a failed write? Because compactions, which
//! free space, need some first.

use nix::sys::statvfs::statvfs;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// How much must be free: the larger of both.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Least {
    /// Share of the file system in percent, 0 to 50.
    pub percent: f64,
    /// Bytes.
    pub bytes: u64,
}

impl Default for Least {
    /// 5 %, and what all write buffers and one compaction of them take.
    fn default() -> Self {
        Self { percent: 5.0, bytes: 128 << 20 }
    }
}

impl Least {
    /// Bytes that must be free of `total`.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a disk, to the byte or not"
    )]
    fn of(&self, total: u64) -> u64 {
        self.bytes.max((total as f64 * self.percent / 100.0) as u64)
    }
}

/// The disk of the database. Shared by all that write.
#[derive(Debug)]
pub struct Space {
    folder: PathBuf,
    least: Mutex<Least>,
    closed: AtomicBool,
}

impl Space {
    /// The disk that holds `folder`.
    pub fn new(folder: &Path, least: Least) -> Self {
        Self { folder: folder.to_owned(), least: Mutex::new(least), closed: AtomicBool::new(false) }
    }

    /// The folder of the database.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes that are free on the disk, and its size; none if it cannot be looked at.
    pub fn free_and_size(&self) -> Option<(u64, u64)> {
        let disk = statvfs(&self.folder).ok()?;
        Some((disk.blocks_available() * disk.fragment_size(), disk.blocks() * disk.fragment_size()))
    }

    /// Leaves this much free from now on.
    pub fn leave(&self, least: Least) {
        *self.least.lock().unwrap_or_else(PoisonError::into_inner) = least;
    }

    /// Looks at the disk: whether there is room to write. Once there was none, a fifth more must be free again, so that
    /// what is written next does not close it at once.
    pub fn is_open(&self) -> bool {
        let Some((free, total)) = self.free_and_size() else {
            // Whoever writes will say what is wrong.
            return true;
        };
        let least = *self.least.lock().unwrap_or_else(PoisonError::into_inner);
        let open = has_room(free, least.of(total), self.closed.load(Ordering::Relaxed));
        self.closed.store(!open, Ordering::Relaxed);
        open
    }
}

/// Size of the files of a folder; none if it cannot be read. Files that go meanwhile count nothing.
pub(crate) fn bytes_of(folder: &Path) -> Option<u64> {
    let entries = fs::read_dir(folder).ok()?;
    let files = entries.filter_map(|entry| entry.ok()?.metadata().ok()).filter(fs::Metadata::is_file);
    Some(files.fold(0, |sum, file| sum.saturating_add(file.len())))
}

fn has_room(free: u64, least: u64, was_closed: bool) -> bool {
    free >= if was_closed { least.saturating_add(least / 5) } else { least }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_limit_counts_and_a_closed_disk_opens_with_a_fifth_more() {
        let least = Least { percent: 5.0, bytes: 100 };
        assert_eq!((least.of(1_000), least.of(10_000)), (100, 500));
        assert!(has_room(500, 500, false) && !has_room(499, 500, false));
        assert!(has_room(600, 500, true) && !has_room(599, 500, true));
    }

    #[test]
    fn a_disk_is_looked_at_each_time() {
        let folder = tempfile::tempdir().expect("tempdir");
        assert!(Space::new(folder.path(), Least { percent: 0.0, bytes: 0 }).is_open());
        assert!(!Space::new(folder.path(), Least { percent: 0.0, bytes: u64::MAX }).is_open());
        assert!(Space::new(&folder.path().join("gone"), Least { percent: 0.0, bytes: u64::MAX }).is_open());
    }
}
