//! What `meta/N` says of backup N. The format is RocksDB's (`backup_engine.cc`), version 1: lines of text.
//!
//! ```text
//! seconds since 1970
//! sequence number
//! number of files
//! PATH crc32 CHECKSUM         (for each; the path from the folder of backups, the CRC32C as a decimal number)
//! ```

use super::meta;
use crate::store::StoreError;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The files of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listing {
    /// When it was made, in seconds since 1970.
    pub(super) seconds: i64,
    /// The files.
    pub(super) entries: Vec<Entry>,
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where it lies, from the folder of backups.
    pub(super) path: PathBuf,
    /// Its name in the database.
    pub(super) name: String,
    /// CRC32C of the whole file.
    pub(super) checksum: u32,
}

impl Listing {
    /// Reads the list of a backup.
    pub(super) fn read(folder: &Path, number: u32) -> Result<Self, StoreError> {
        let path = meta(folder, number);
        let damaged = |reason: &str| {
            let what = path.display().to_string();
            StoreError::Damaged { what, reason: reason.to_owned() }
        };
        let text = fs::read_to_string(&path).map_err(|error| damaged(&error.to_string()))?;
        Self::parse(&text).ok_or_else(|| damaged("it is no list of files"))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let seconds = lines.next()?.parse().ok()?;
        let _sequence: u64 = lines.next()?.parse().ok()?;
        let count: usize = lines.next()?.parse().ok()?;
        let entries: Vec<Entry> = lines.map(Entry::parse).collect::<Option<_>>()?;
        (entries.len() == count).then_some(Self { seconds, entries })
    }
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (path, kind, checksum) = (PathBuf::from(words.next()?), words.next()?, words.next()?);
        // A path that leads out of the folder is none of ours.
        let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
        if !inside || kind != "crc32" || words.next().is_some() {
            return None;
        }
        let stored = path.file_name()?.to_str()?;
        // Shared files have more in their names: 000012_sSESSION_SIZE.sst.
        let name = match (stored.split_once('_'), stored.rsplit_once('.')) {
            (Some((number, _)), Some((_, end))) if path.starts_with("shared_checksum") => format!("{number}.{end}"),
            _ => stored.to_owned(),
        };
        Some(Self { name, path, checksum: checksum.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str =
        "1790000000\n42\n2\nprivate/1/MANIFEST-000005 crc32 7\nshared_checksum/000012_sABC_99.sst crc32 8\n";

    #[test]
    fn a_list_names_each_file_and_what_it_is_called_in_the_database() {
        let listing = Listing::parse(SAMPLE).expect("a list");
        let names: Vec<&str> = listing.entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!((listing.seconds, names), (1_790_000_000, vec!["MANIFEST-000005", "000012.sst"]));
        assert_eq!(listing.entries[1].path, Path::new("shared_checksum/000012_sABC_99.sst"));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for wrong in [
            "".to_owned(),
            SAMPLE.replace("\n2\n", "\n3\n"),
            SAMPLE.replace("crc32 7", "md5 7"),
            SAMPLE.replace("crc32 7", "crc32 7 8"),
            SAMPLE.replace("crc32 7", "crc32 4294967296"),
            SAMPLE.replace("private/1", "../1"),
            SAMPLE.replace("private/1", "/private"),
            SAMPLE.replace("1790000000", "soon"),
        ] {
            assert_eq!(Listing::parse(&wrong), None, "{wrong}");
        }
    }
}
