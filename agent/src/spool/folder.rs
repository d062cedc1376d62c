//! The folder of a spool: whether it may be used, by whom, and how much space its file system has.

use super::queue::survey::MAX_SEGMENT_BYTES;
use super::{SpoolConfig, SpoolError, error::io_error};
use nix::fcntl::OFlag;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

const MIN_SEGMENT_BYTES: u64 = 4096;
const LOCK: &str = "lock";
/// Free bytes to leave on a large file system, and the part of a small one.
const MIN_FREE_BYTES: u64 = 512 << 20;
const MIN_FREE_PART: u64 = 20;

/// Makes sure that the folder is there, ours and closed to others, and takes its lock.
pub fn prepare(config: &SpoolConfig) -> Result<File, SpoolError> {
    let dir = &config.dir;
    let refuse = |why| SpoolError::Configuration { path: dir.clone(), why };
    if !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES / 2).contains(&config.segment_bytes) {
        return Err(refuse("segment_bytes must be 4 KiB to 128 MiB"));
    }
    if config.max_bytes < config.segment_bytes.saturating_mul(2) {
        return Err(refuse("max_bytes must be at least two segments"));
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Err(refuse("its parent folder does not exist: make it, or set spool.dir"));
        }
        Err(error) => return Err(io_error("making", dir)(error)),
    }
    let metadata = fs::symlink_metadata(dir).map_err(io_error("examining", dir))?;
    if !metadata.is_dir() {
        return Err(refuse("it is not a folder: set spool.dir to one"));
    }
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(SpoolError::Permission { path: dir.clone(), why: format!("it belongs to uid {}", metadata.uid()) });
    }
    if metadata.mode() & 0o077 != 0 {
        fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(io_error("closing to others", dir))?;
    }
    if system(dir)?.0 < config.max_bytes {
        return Err(refuse("max_bytes is more than its whole file system has"));
    }
    let path = dir.join(LOCK);
    let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(flags.bits());
    let file = options.open(&path).map_err(io_error("opening", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SpoolError::Locked { dir: dir.clone() }),
        Err(TryLockError::Error(error)) => Err(io_error("locking", &path)(error)),
    }
}

/// Bytes that this user may still write to the folder's file system.
pub fn free_bytes(dir: &Path) -> Result<u64, SpoolError> {
    Ok(system(dir)?.1)
}

/// The bytes to leave free where the configuration does not say: 512 MiB, or a twentieth of a smaller file system.
pub fn min_free(dir: &Path) -> Result<u64, SpoolError> {
    Ok(MIN_FREE_BYTES.min(system(dir)?.0 / MIN_FREE_PART))
}

/// All bytes of a folder's file system, and those that this user may still write.
fn system(dir: &Path) -> Result<(u64, u64), SpoolError> {
    let found =
        nix::sys::statvfs::statvfs(dir).map_err(|error| io_error("examining the file system of", dir)(error.into()))?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
    Ok((bytes(found.blocks()), bytes(found.blocks_available())))
}
