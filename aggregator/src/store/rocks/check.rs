//! Reads a whole database, running or not, and names the files that are damaged.
//!
//! Every key of every table is read from its table file with checksums and not from the cache, and every value is held
//! against its own checksum, which covers its key; so are all records of the logs. What lies in a table file and cannot be
//! read any more, because it was overwritten or dropped, is not looked at: no answer can come from it.

use super::log::{self, End};
use super::{RocksStore, folder, running};
use crate::store::block::Reader;
use crate::store::{StoreError, Table};
use rocksdb::{LiveFile, ReadOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

/// Told bytes that are read and all there are to read, now and then; a break ends the reading.
pub type Progress<'a> = dyn Fn(u64, u64) -> ControlFlow<()> + 'a;

/// How many values are read between two reports of progress.
const REPORT_EVERY: u64 = 4_096;

/// What was read, and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Files.
    pub files: u64,
    /// Bytes: of keys and values in a database, of files in a backup.
    pub bytes: u64,
    /// Damage, in the order in which it was met.
    pub damages: Vec<Damage>,
}

/// A damaged file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Its path, or the table where the file is not known.
    pub file: String,
    /// What is wrong.
    pub reason: String,
}

impl Checked {
    pub(super) fn damage(&mut self, path: &Path, reason: &str) {
        self.damages.push(Damage { file: path.display().to_string(), reason: reason.to_owned() });
    }
}

impl RocksStore {
    /// Reads everything. The database may be in use.
    ///
    /// # Errors
    /// Files that cannot be listed; damage is no error.
    pub fn check(&self, progress: &Progress<'_>) -> Result<Checked, StoreError> {
        let mut files = self.db.live_files().map_err(|error| running("listing the files of the database", &error))?;
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let mut checked = Checked::default();
        for file in &files {
            self.check_size(file, &mut checked);
        }
        let total = files.iter().map(|file| file.size as u64).sum();
        for table in Table::ALL {
            let own: Vec<&LiveFile> = files.iter().filter(|file| file.column_family_name == table.name()).collect();
            if self.check_table(table, &own, total, progress, &mut checked)?.is_break() {
                return Ok(checked);
            }
        }
        self.check_logs(&mut checked)?;
        Ok(checked)
    }

    fn check_size(&self, file: &LiveFile, checked: &mut Checked) {
        checked.files += 1;
        let path = self.dir.join(file.name.trim_start_matches('/'));
        match fs::metadata(&path) {
            Ok(found) if found.len() == file.size as u64 => {}
            Ok(found) => checked.damage(&path, &format!("it has {} bytes and should have {}", found.len(), file.size)),
            // A file that a compaction has dropped since it was listed.
            Err(_) if !self.is_live(&file.name) => {}
            Err(error) => checked.damage(&path, &error.to_string()),
        }
    }

    fn is_live(&self, name: &str) -> bool {
        self.db.live_files().is_ok_and(|files| files.iter().any(|file| file.name == name))
    }

    /// Reads a table in the parts that the ends of its files make: damage in one hides nothing in the others.
    fn check_table(
        &self,
        table: Table,
        files: &[&LiveFile],
        total: u64,
        progress: &Progress<'_>,
        checked: &mut Checked,
    ) -> Result<ControlFlow<()>, StoreError> {
        let edges = files.iter().flat_map(|file| [file.start_key.clone(), file.end_key.clone()]).flatten();
        let edges: BTreeSet<Vec<u8>> = edges.collect();
        let starts = std::iter::once(Vec::new()).chain(edges.iter().cloned());
        let ends = edges.iter().cloned().map(Some).chain([None]);
        let mut found: BTreeMap<String, String> = BTreeMap::new();
        for (start, end) in starts.zip(ends) {
            let mut options = ReadOptions::default();
            options.set_verify_checksums(true);
            options.fill_cache(false);
            options.set_iterate_lower_bound(start);
            if let Some(end) = end {
                options.set_iterate_upper_bound(end);
            }
            let mut cursor = self.db.raw_iterator_cf_opt(self.family(table)?, options);
            cursor.seek_to_first();
            let mut read = 0;
            while let Some((key, value)) = cursor.item() {
                checked.bytes += (key.len() + value.len()) as u64;
                // Quarantined payloads are as they came.
                if table != Table::Quarantine
                    && let Err(damaged) = Reader::open_any(key, value)
                {
                    found.entry(format!("table {}", table.name())).or_insert_with(|| damaged.to_string());
                }
                read += 1;
                if read % REPORT_EVERY == 0 && progress(checked.bytes, total).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                cursor.next();
            }
            if let Err(error) = cursor.status() {
                let text = error.as_ref();
                let file = named_in(text).unwrap_or_else(|| format!("table {}", table.name()));
                found.entry(file).or_insert_with(|| text.to_owned());
            }
        }
        for (file, reason) in found {
            let path = if file.ends_with(".sst") { self.dir.join(&file) } else { file.into() };
            if !checked.damages.iter().any(|known| known.file == path.display().to_string()) {
                checked.damage(&path, &reason);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn check_logs(&self, checked: &mut Checked) -> Result<(), StoreError> {
        let current = fs::read_to_string(self.dir.join("CURRENT")).map_err(|error| folder(&self.dir, &error))?;
        let (logs, manifest) = log::files(&self.dir, current.trim_end()).map_err(|error| folder(&self.dir, &error))?;
        for files in [&logs[..], &[manifest]] {
            checked.files += files.len() as u64;
            match log::end(files) {
                Ok(End::Damaged(place)) => {
                    let reason = format!(
                        "the record at byte {} cannot be read and is no write that was cut short",
                        place.offset
                    );
                    checked.damage(&place.path, &reason);
                }
                // The one that is being written ends anywhere; one that is gone was dropped after it was listed.
                Ok(End::Whole | End::Torn(_)) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(folder(&self.dir, &error)),
            }
        }
        Ok(())
    }
}

/// The table file that a message of RocksDB names.
fn named_in(text: &str) -> Option<String> {
    let end = text.find(".sst")?;
    let start = text.get(..end)?.rfind(|letter: char| !letter.is_ascii_digit()).map_or(0, |at| at + 1);
    text.get(start..end + ".sst".len()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_a_message_names_is_found() {
        let text =
            "Corruption: block checksum mismatch: stored = 1, computed = 2, type = 4  in /data/db/000012.sst offset 3";
        assert_eq!(named_in(text).as_deref(), Some("000012.sst"));
        assert_eq!(named_in("Corruption: bad"), None);
    }
}
