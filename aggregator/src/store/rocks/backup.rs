//! Backups: copies of the database in a folder of their own, made while it is in use.
//!
//! RocksDB makes them and syncs every file: `meta/N` lists the files of backup N with their checksums (see [`listing`]),
//! `private/N` and `shared_checksum` hold them; table files are shared between backups. Beside them lie
//! - `joulebook-cluster`: identity of the database, hexadecimal. One folder holds the backups of one database only;
//! - `seals/N`: checksum of `meta/N`, written after every file of backup N was read again and found good. A backup without
//!   a seal was never finished.
//!
//! A backup is restored file by file, each held against its checksum, `CURRENT` last: a folder into which a restore was
//! not finished is no database, and is refused as one.

mod listing;

use super::check::{Checked, Progress};
use super::{Found, RocksStore, not_ours, prepare, running};
use crate::store::{StoreError, schema};
use joulebook_units::UnixNanos;
use listing::{Entry, Listing};
use rocksdb::Env;
use rocksdb::backup::{BackupEngine, BackupEngineOptions};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const CLUSTER_FILE: &str = "joulebook-cluster";
const SEALS: &str = "seals";
const META: &str = "meta";
const CHUNK_BYTES: usize = 1 << 20;

/// A backup that was finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backup {
    /// Its number: later ones have higher ones.
    pub number: u32,
    /// When it was made, to the second.
    pub made: UnixNanos,
    /// Number of its files.
    pub files: u64,
    /// Their bytes; files shared with other backups are counted in each.
    pub bytes: u64,
}

impl RocksStore {
    /// Makes a backup in `folder`, reads it again and seals it. `keep` then drops all but so many of the newest.
    ///
    /// # Errors
    /// A folder that holds something else, a disk without room, or a table file of the database that is damaged.
    pub fn back_up(
        &self,
        folder: &Path,
        cluster: [u8; 16],
        keep: Option<u32>,
        progress: &Progress<'_>,
    ) -> Result<Backup, StoreError> {
        tag(folder, cluster)?;
        let failed = |error: rocksdb::Error| running(&format!("making a backup in {}", folder.display()), &error);
        let mut options = BackupEngineOptions::new(folder).map_err(failed)?;
        options.set_sync(true);
        let environment = Env::new().map_err(failed)?;
        let mut engine = BackupEngine::open(&options, &environment).map_err(failed)?;
        // Flushed before: the log, which no other backup shares, stays short.
        engine.create_new_backup_flush(&self.db, true).map_err(failed)?;
        let newest = engine.get_backup_info().into_iter().map(|info| info.backup_id).max();
        let number = newest.ok_or_else(|| not_ours(folder, "the backup that was made is not there"))?;
        let checked = check(folder, number, progress)?;
        if let Some(damage) = checked.damages.first() {
            return Err(StoreError::Damaged { what: damage.file.clone(), reason: damage.reason.clone() });
        }
        seal(folder, number)?;
        if let Some(keep) = keep {
            engine.purge_old_backups(usize::try_from(keep.max(1)).unwrap_or(usize::MAX)).map_err(failed)?;
        }
        drop_stale_seals(folder)?;
        summary(folder, number)
    }
}

/// The finished backups of a folder, oldest first. None where there is no folder yet.
///
/// # Errors
/// A folder that cannot be read or holds something else.
pub fn list(folder: &Path) -> Result<Vec<Backup>, StoreError> {
    if matches!(look_at(folder)?, Contents::Nothing) {
        return Ok(Vec::new());
    }
    sealed(folder)?.into_iter().map(|number| summary(folder, number)).collect()
}

/// Identity of the database whose backups a folder holds; none if it holds none.
///
/// # Errors
/// A folder that cannot be read or holds something else.
pub fn cluster(folder: &Path) -> Result<Option<[u8; 16]>, StoreError> {
    match look_at(folder)? {
        Contents::Nothing => Ok(None),
        Contents::Backups(cluster) => Ok(Some(cluster)),
    }
}

/// Reads every file of a backup and holds it against its checksum.
///
/// # Errors
/// A backup that is not there, or whose list of files is damaged.
pub fn verify(folder: &Path, number: u32, progress: &Progress<'_>) -> Result<Checked, StoreError> {
    check_seal(folder, number)?;
    check(folder, number, progress)
}

/// Writes a backup (the newest finished one unless a number is given) to `dir`, which must be missing or empty, opens it and
/// returns its number.
///
/// # Errors
/// A folder that is not empty, a backup that is not there, damaged or of another database than the folder is tagged with.
pub fn restore(folder: &Path, number: Option<u32>, dir: &Path, progress: &Progress<'_>) -> Result<Backup, StoreError> {
    let tagged = cluster(folder)?.ok_or_else(|| not_ours(folder, "there are no backups in it"))?;
    let newest = sealed(folder)?.last().copied();
    let number = number.or(newest).ok_or_else(|| not_ours(folder, "none of its backups was finished"))?;
    check_seal(folder, number)?;
    if !matches!(prepare(dir)?, Found::Empty) {
        return Err(not_ours(dir, "it holds a database already"));
    }
    let mut entries = Listing::read(folder, number)?.entries;
    entries.sort_by_key(|entry| entry.name == "CURRENT");
    let total = entries.iter().map(|entry| size(folder, entry)).sum::<io::Result<u64>>();
    let total = total.map_err(|error| io_error("reading the backup", folder, &error))?;
    let mut done = 0;
    for entry in &entries {
        copy(folder, entry, dir, &mut |bytes| {
            done += bytes;
            progress(done, total)
        })?;
    }
    sync_folder(dir)?;
    let store = RocksStore::open(dir)?;
    match schema::stored(&store)? {
        Some(schema) if schema.cluster == tagged => {}
        _ => return Err(not_ours(dir, "what was restored is not the database that the backups are tagged with")),
    }
    summary(folder, number)
}

/// What lies in a folder of backups.
enum Contents {
    Nothing,
    Backups([u8; 16]),
}

fn look_at(folder: &Path) -> Result<Contents, StoreError> {
    let text = match fs::read_to_string(folder.join(CLUSTER_FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut inside = match fs::read_dir(folder) {
                Ok(inside) => inside,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contents::Nothing),
                Err(error) => return Err(io_error("reading the folder of backups", folder, &error)),
            };
            return match inside.next() {
                None => Ok(Contents::Nothing),
                Some(_) => Err(not_ours(folder, "it is not empty and holds no backups")),
            };
        }
        Err(error) => return Err(io_error("reading the folder of backups", folder, &error)),
    };
    let digits = text.trim_end().as_bytes();
    let mut cluster = [0; 16];
    let parsed = digits.len() == 32
        && cluster.iter_mut().zip(digits.chunks(2)).all(|(byte, pair)| {
            let read = std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
            read.is_some_and(|read| {
                *byte = read;
                true
            })
        });
    if parsed { Ok(Contents::Backups(cluster)) } else { Err(not_ours(folder, "its file joulebook-cluster is damaged")) }
}

/// Makes the folder that of a database; refuses one of another.
fn tag(folder: &Path, cluster: [u8; 16]) -> Result<(), StoreError> {
    match look_at(folder)? {
        Contents::Backups(found) if found == cluster => Ok(()),
        Contents::Backups(_) => Err(not_ours(folder, "it holds the backups of another database")),
        Contents::Nothing => {
            if !folder.exists() {
                let made = DirBuilder::new().mode(0o700).create(folder);
                made.map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => StoreError::MissingParent { dir: folder.to_owned() },
                    _ => io_error("making the folder of backups", folder, &error),
                })?;
            }
            let text: String = cluster.iter().map(|byte| format!("{byte:02x}")).collect();
            write_whole(folder, CLUSTER_FILE, &format!("{text}\n"))
        }
    }
}

/// Numbers of the finished backups, ascending.
fn sealed(folder: &Path) -> Result<Vec<u32>, StoreError> {
    let number = |name: &Path| name.file_name()?.to_str()?.parse::<u32>().ok();
    let names = match fs::read_dir(folder.join(SEALS)) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("reading the seals of backups", folder, &error)),
    };
    let mut numbers = Vec::new();
    for name in names {
        let path = name.map_err(|error| io_error("reading the seals of backups", folder, &error))?.path();
        numbers.extend(number(&path).filter(|number| meta(folder, *number).is_file()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn meta(folder: &Path, number: u32) -> PathBuf {
    folder.join(META).join(number.to_string())
}

fn seal_of(folder: &Path, number: u32) -> Result<String, StoreError> {
    let path = meta(folder, number);
    let bytes = fs::read(&path).map_err(|error| io_error("reading the list of a backup", &path, &error))?;
    Ok(format!("{}\n", crc32c::crc32c(&bytes)))
}

fn seal(folder: &Path, number: u32) -> Result<(), StoreError> {
    let seals = folder.join(SEALS);
    match DirBuilder::new().mode(0o700).create(&seals) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io_error("making the folder of seals", &seals, &error));
        }
        _ => sync_folder(folder)?,
    }
    write_whole(&seals, &number.to_string(), &seal_of(folder, number)?)
}

fn check_seal(folder: &Path, number: u32) -> Result<(), StoreError> {
    if !meta(folder, number).is_file() {
        return Err(not_ours(folder, &format!("it holds no backup {number}")));
    }
    let path = folder.join(SEALS).join(number.to_string());
    let seal = match fs::read(&path) {
        Ok(seal) => seal,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(not_ours(folder, &format!("its backup {number} was never finished")));
        }
        Err(error) => return Err(io_error("reading the seal of a backup", &path, &error)),
    };
    if seal == seal_of(folder, number)?.as_bytes() {
        return Ok(());
    }
    let what = meta(folder, number).display().to_string();
    Err(StoreError::Damaged { what, reason: "its checksum does not match".to_owned() })
}

/// Seals of backups that were dropped.
fn drop_stale_seals(folder: &Path) -> Result<(), StoreError> {
    let seals = folder.join(SEALS);
    let failed = |error: io::Error| io_error("reading the seals of backups", &seals, &error);
    for name in fs::read_dir(&seals).map_err(failed)? {
        let path = name.map_err(failed)?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
        if number.is_none_or(|number| !meta(folder, number).is_file()) {
            fs::remove_file(&path).map_err(failed)?;
        }
    }
    Ok(())
}

fn summary(folder: &Path, number: u32) -> Result<Backup, StoreError> {
    let Listing { seconds, entries } = Listing::read(folder, number)?;
    // A file that is gone is damage, which `verify` names; the list still has a backup of that number.
    let bytes = entries.iter().filter_map(|entry| size(folder, entry).ok()).sum();
    let made = UnixNanos(seconds.saturating_mul(UnixNanos::PER_SECOND));
    Ok(Backup { number, made, files: u64::try_from(entries.len()).unwrap_or(u64::MAX), bytes })
}

fn size(folder: &Path, entry: &Entry) -> io::Result<u64> {
    Ok(fs::metadata(folder.join(&entry.path))?.len())
}

fn check(folder: &Path, number: u32, progress: &Progress<'_>) -> Result<Checked, StoreError> {
    let entries = Listing::read(folder, number)?.entries;
    let total = entries.iter().filter_map(|entry| size(folder, entry).ok()).sum();
    let mut checked = Checked::default();
    for entry in &entries {
        let path = folder.join(&entry.path);
        let mut stopped = false;
        let read = File::open(&path).and_then(|file| {
            read_all(file, |chunk| {
                checked.bytes += chunk.len() as u64;
                stopped = progress(checked.bytes, total).is_break();
                Ok(!stopped)
            })
        });
        if stopped {
            break;
        }
        checked.files += 1;
        match read {
            Ok(sum) if sum == entry.checksum => {}
            Ok(_) => checked.damage(&path, "its checksum does not match"),
            Err(error) => checked.damage(&path, &error.to_string()),
        }
    }
    Ok(checked)
}

/// Copies a file of a backup to where it belongs, synced, if it is what its checksum says.
fn copy(
    folder: &Path,
    entry: &Entry,
    dir: &Path,
    done: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    // Under its name only once it is known to be good: a damaged CURRENT would make the folder a database.
    let (from, to) = (folder.join(&entry.path), dir.join(format!("{}.restoring", entry.name)));
    let failed = |error: io::Error| io_error("restoring", &to, &error);
    let source = File::open(&from).map_err(|error| io_error("reading the backup", &from, &error))?;
    let mut target = File::options().write(true).create_new(true).open(&to).map_err(failed)?;
    let mut stopped = false;
    let sum = read_all(source, |chunk| {
        target.write_all(chunk)?;
        stopped = done(chunk.len() as u64).is_break();
        Ok(!stopped)
    });
    let sum = sum.map_err(failed)?;
    if stopped {
        return Err(io_error("restoring", &to, &io::ErrorKind::Interrupted.into()));
    }
    if sum != entry.checksum {
        let reason = "its checksum does not match: nothing was restored from it".to_owned();
        return Err(StoreError::Damaged { what: from.display().to_string(), reason });
    }
    target.sync_all().and_then(|()| fs::rename(&to, dir.join(&entry.name))).map_err(failed)
}

/// Checksum of a file, read in pieces until `take` has enough.
fn read_all(mut file: File, mut take: impl FnMut(&[u8]) -> io::Result<bool>) -> io::Result<u32> {
    let (mut chunk, mut sum) = (vec![0; CHUNK_BYTES], 0);
    loop {
        let length = file.read(&mut chunk)?;
        let read = chunk.get(..length).unwrap_or_default();
        sum = crc32c::crc32c_append(sum, read);
        if length == 0 || !take(read)? {
            return Ok(sum);
        }
    }
}

/// Writes a small file so that it is there whole or not at all, also after a power cut.
pub(super) fn write_whole(folder: &Path, name: &str, text: &str) -> Result<(), StoreError> {
    let (path, new) = (folder.join(name), folder.join(format!("{name}.new")));
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().map_err(|error| io_error("writing", &path, &error))?;
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| io_error("syncing the folder", folder, &error))
}

fn io_error(what: &str, path: &Path, error: &io::Error) -> StoreError {
    let what = format!("{what} {}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { what },
        io::ErrorKind::PermissionDenied => StoreError::Permission { dir: path.to_owned() },
        _ => StoreError::Io { what, reason: error.to_string() },
    }
}

#[cfg(test)]
mod tests;
