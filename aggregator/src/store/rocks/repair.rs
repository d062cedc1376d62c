//! Repair of a database whose log is damaged in the middle: only when asked for, and it says what it drops.
//!
//! RocksDB's own repair goes on behind the damage and so leaves holes in what was acknowledged. This one cuts the log where
//! the damage begins: the database is then as it was before that commit, with the marks of all streams, since tables leave
//! the log for their files together (`atomic_flush`). Agents send what they still hold behind the marks. Nothing is deleted:
//! what is cut off is kept in a folder inside the database's. Damaged table files and manifests are not repaired: a backup
//! is restored.

use super::log::{self, End, Place};
use super::settings::after_a_cut;
use super::{Found, RocksStore, families, folder, lock, look, not_ours, opening};
use crate::store::StoreError;
use rocksdb::DB;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// What was cut off the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The damaged file.
    pub file: PathBuf,
    /// Where it was cut.
    pub offset: u64,
    /// Bytes of it behind that.
    pub bytes: u64,
    /// Later logs, with all their bytes.
    pub later: Vec<(PathBuf, u64)>,
    /// Folder in which all of that is kept.
    pub kept: PathBuf,
}

/// Repairs the database in `dir`, which nothing may have open. Says what was cut off; none if its log is whole.
///
/// # Errors
/// A folder without a database, damage that is not in the write-ahead log, or the disk's.
pub fn repair(dir: &Path) -> Result<Option<Cut>, StoreError> {
    let Found::Database(name) = look(dir)? else {
        return Err(not_ours(dir, "there is no database in it"));
    };
    let lock = lock(dir)?;
    let failed = |error: io::Error| folder(dir, &error);
    let (logs, manifest) = log::files(dir, &name).map_err(failed)?;
    super::manifest::check(dir, &name)?;
    if let End::Damaged(Place { path, offset }) = log::end(&[manifest]).map_err(failed)? {
        let reason = format!("the record at byte {offset} cannot be read: this file is not repaired");
        return Err(StoreError::Damaged { what: path.display().to_string(), reason });
    }
    let cut = match log::end(&logs).map_err(failed)? {
        // What looks torn may be damage to the very last record, which RocksDB refuses as well.
        End::Damaged(place) | End::Torn(place) => Some(cut(dir, &logs, place).map_err(failed)?),
        End::Whole => None,
    };
    if cut.is_some() {
        // Opened once without the rule that logs are whole: what is left of them goes to table files.
        let options = after_a_cut()?;
        let db = DB::open_cf_descriptors(&options, dir, families(&options)).map_err(|error| opening(dir, &error))?;
        drop(RocksStore { db, dir: dir.to_owned(), reach: None, _lock: lock });
    }
    Ok(cut)
}

/// Cuts the logs at a place. Later ones go first, the newest before the others: whenever this ends early, what is left is
/// still seen as damaged, or ends where it should.
fn cut(dir: &Path, logs: &[PathBuf], place: Place) -> io::Result<Cut> {
    let name = |number: u32| dir.join(format!("dropped-by-repair-{number}"));
    let kept = (1..u32::MAX).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(0));
    fs::create_dir(&kept)?;
    let into = |path: &Path| path.file_name().map_or_else(|| kept.clone(), |name| kept.join(name));
    let mut later = Vec::new();
    for path in logs.iter().rev().take_while(|path| **path != place.path) {
        later.push((path.clone(), fs::metadata(path)?.len()));
        fs::rename(path, into(path))?;
        File::open(&kept)?.sync_all()?;
        File::open(dir)?.sync_all()?;
    }
    fs::copy(&place.path, into(&place.path))?;
    File::open(into(&place.path))?.sync_all()?;
    let file = File::options().write(true).open(&place.path)?;
    let bytes = file.metadata()?.len().saturating_sub(place.offset);
    file.set_len(place.offset)?;
    file.sync_all()?;
    Ok(Cut { file: place.path, offset: place.offset, bytes, later, kept })
}
