//! How far the manifest reaches at least. A manifest that has lost its end reads like a shorter one: tables files that it
//! would name are not missed, and their rows would be gone without a word.
//!
//! The file `joulebook.manifest` says `NAME BYTES`: so much of that manifest was on the disk once. It is a lower bound and
//! nothing else: it is written after the manifest was synced, may lag behind, and where it is missing or cannot be read it
//! says nothing.

use super::backup::write_whole;
use crate::store::StoreError;
use std::fs::{self, File};
use std::io;
use std::path::Path;

const FILE: &str = "joulebook.manifest";

/// A manifest and bytes of it that are on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reach {
    name: String,
    bytes: u64,
}

impl Reach {
    /// How far the newest manifest of a folder reaches now; it is synced for that.
    pub(super) fn now(folder: &Path) -> io::Result<Self> {
        let name = fs::read_to_string(folder.join("CURRENT"))?.trim_end().to_owned();
        let file = File::open(folder.join(&name))?;
        let bytes = file.metadata()?.len();
        file.sync_all()?;
        Ok(Self { name, bytes })
    }

    /// Keeps it in the folder.
    pub(super) fn keep(&self, folder: &Path) -> Result<(), StoreError> {
        write_whole(folder, FILE, &format!("{} {}\n", self.name, self.bytes))
    }

    /// What is kept in a folder; none if there is nothing that can be read.
    fn kept(folder: &Path) -> Option<Self> {
        let text = fs::read_to_string(folder.join(FILE)).ok()?;
        let (name, bytes) = text.trim_end().split_once(' ')?;
        Some(Self { name: name.to_owned(), bytes: bytes.parse().ok()? })
    }

    fn number(name: &str) -> Option<u64> {
        name.strip_prefix("MANIFEST-")?.parse().ok()
    }
}

/// Refuses a manifest that has lost its end, or one that is older than the one that was in use.
pub(super) fn check(folder: &Path, manifest: &str) -> Result<(), StoreError> {
    let Some(kept) = Reach::kept(folder) else { return Ok(()) };
    let path = folder.join(manifest);
    let found = fs::metadata(&path).map_or(0, |data| data.len());
    let lost = kept.name == manifest && found < kept.bytes;
    if lost || Reach::number(manifest) < Reach::number(&kept.name) {
        let reason = format!("it has {found} bytes, {} had {}", kept.name, kept.bytes);
        return Err(StoreError::Damaged { what: path.display().to_string(), reason });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::rocks::RocksStore;

    #[test]
    fn a_manifest_that_lost_its_end_or_is_an_older_one_is_damage_and_the_note_alone_is_nothing() {
        let folder = tempfile::tempdir().expect("tempdir");
        let dir = folder.path();
        drop(RocksStore::open(dir).expect("create"));
        let reach = Reach::kept(dir).expect("kept at the end");
        assert_eq!(Reach::now(dir).expect("now"), reach);
        let path = dir.join(&reach.name);
        let whole = fs::read(&path).expect("read");
        fs::write(&path, &whole[..whole.len() - 1]).expect("cut");
        let refused = RocksStore::open(dir).err().expect("refused");
        assert!(matches!(&refused, StoreError::Damaged { what, .. } if what.ends_with(&reach.name)), "{refused}");
        fs::write(&path, &whole).expect("whole again");
        Reach { name: "MANIFEST-999999".to_owned(), bytes: 1 }.keep(dir).expect("keep");
        assert!(matches!(RocksStore::open(dir), Err(StoreError::Damaged { .. })));
        for nothing in ["", "MANIFEST-000001", "MANIFEST-000001 x", "\u{0}\u{1}"] {
            fs::write(dir.join(FILE), nothing).expect("write");
            drop(RocksStore::open(dir).expect("opens"));
        }
        fs::remove_file(dir.join(FILE)).expect("remove");
        drop(RocksStore::open(dir).expect("opens without"));
    }
}
