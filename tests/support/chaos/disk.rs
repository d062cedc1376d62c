//! A disk whose power can be cut: an ext4 image on a loop-mounted btrfs.
//!
//! The live file system is an image file on btrfs. A reflink copy of that file, taken while it is mounted, holds exactly
//! what the kernel had written to the "disk" at that instant: pages that were not synced are absent, and mounting the
//! copy replays the journal as after a power cut. Needs root, loop devices, btrfs-progs and e2fsprogs.

use super::folder_in_memory;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const OUTER_BYTES: u64 = 3 << 30;
const IMAGE_BYTES: u64 = 1 << 30;

/// A mounted file system, unmounted when dropped.
pub(super) struct Mount(pub(super) PathBuf);

impl Mount {
    pub(super) fn new(image: &Path, at: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&at)?;
        run("mount", &["-o", "loop", &image.to_string_lossy(), &at.to_string_lossy()])?;
        Ok(Self(at))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let at = self.0.to_string_lossy();
        // A process that is being killed may hold it a little longer: then it goes when that process does.
        let _unmounted = run("umount", &[&at]).or_else(|_| run("umount", &["--lazy", &at]));
    }
}

/// The disk. Fields are dropped in their order: inner before outer.
pub struct Disk {
    live: Mount,
    outer: Mount,
    folder: TempDir,
}

/// The disk as it was when the power was cut.
pub struct Cut {
    mount: Mount,
    image: PathBuf,
}

impl Disk {
    /// Makes and mounts the disk.
    pub fn new() -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "this rig needs root: it mounts file systems");
        let folder = folder_in_memory()?;
        let image = folder.path().join("outer.img");
        allocate(&image, OUTER_BYTES)?;
        run("mkfs.btrfs", &["--quiet", &image.to_string_lossy()])?;
        let outer = Mount::new(&image, folder.path().join("outer"))?;
        // The loop device holds it: its space is free when that goes, even if this process is killed.
        std::fs::remove_file(&image)?;
        let image = outer.0.join("live.img");
        allocate(&image, IMAGE_BYTES)?;
        run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", &image.to_string_lossy()])?;
        let live = Mount::new(&image, folder.path().join("live"))?;
        Ok(Self { live, outer, folder })
    }

    /// Where the file system that goes on is mounted.
    pub fn live(&self) -> &Path {
        &self.live.0
    }

    /// Copies what is on the disk at this instant. Nothing of it is mounted yet.
    pub fn snapshot(&self) -> Result<PathBuf> {
        let (live, image) = (self.outer.0.join("live.img"), self.outer.0.join("cut.img"));
        run("cp", &["--reflink=always", &live.to_string_lossy(), &image.to_string_lossy()])?;
        Ok(image)
    }

    /// Mounts a snapshot as after a power cut; it is deleted when the result is dropped.
    pub fn mount(&self, image: PathBuf) -> Result<Cut> {
        let mount = Mount::new(&image, self.folder.path().join("cut"))?;
        Ok(Cut { mount, image })
    }
}

impl Cut {
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount.0
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        // The file's blocks are free once it is unmounted, just behind this.
        let _gone = std::fs::remove_file(&self.image);
    }
}

pub(super) fn allocate(file: &Path, bytes: u64) -> Result<()> {
    Ok(std::fs::File::create(file)?.set_len(bytes)?)
}

pub(super) fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("running {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {} ended with {}: {}", arguments.join(" "), output.status, said.trim());
    }
    Ok(())
}
