//! A small disk that can be filled: an ext4 image in memory. Needs root, loop devices and e2fsprogs.

use super::disk::{Mount, allocate, run};
use super::folder_in_memory;
use anyhow::{Context, Result, ensure};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use std::fs::File;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The disk. Fields are dropped in their order.
pub struct SmallDisk {
    mount: Mount,
    _folder: TempDir,
}

/// What takes the disk's room, until it is dropped.
pub struct Filler(PathBuf);

impl Drop for Filler {
    fn drop(&mut self) {
        // A disk that is unmounted already took it along.
        let _gone = std::fs::remove_file(&self.0);
    }
}

impl SmallDisk {
    /// Makes and mounts a disk of so many bytes.
    pub fn new(bytes: u64) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "this rig needs root: it mounts file systems");
        let folder = folder_in_memory()?;
        let image = folder.path().join("disk.img");
        allocate(&image, bytes)?;
        // No room that only root may take: the programs run as root here.
        run("mkfs.ext4", &["-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", &image.to_string_lossy()])?;
        let mount = Mount::new(&image, folder.path().join("disk"))?;
        // The loop device holds it: its memory is free when that goes, even if this process is killed.
        std::fs::remove_file(&image)?;
        Ok(Self { mount, _folder: folder })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount.0
    }

    /// Bytes that are free.
    pub fn free(&self) -> Result<u64> {
        let disk = statvfs(self.path())?;
        Ok(disk.blocks_available() * disk.fragment_size())
    }

    /// Takes all room but `left` bytes.
    pub fn fill(&self, left: u64) -> Result<Filler> {
        let filler = Filler(self.path().join("filler"));
        let file = File::create(&filler.0)?;
        let mut end = 0;
        // What a file takes beside its bytes is not known beforehand: smaller and smaller pieces, until none fits.
        for size in [64 << 20, 8 << 20, 1 << 20, 64 << 10, 4 << 10] {
            while self.free()?.saturating_sub(left) >= size {
                let piece = i64::try_from(size).context("a size")?;
                if fallocate(&file, FallocateFlags::empty(), end, piece).is_err() {
                    break;
                }
                end += piece;
            }
        }
        file.sync_all()?;
        Ok(filler)
    }
}
