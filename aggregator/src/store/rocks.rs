//! RocksDB in a folder of its own.
//!
//! What is acknowledged must survive a power cut, and damage must be seen and never papered over:
//! - every acknowledged write is synced, and none bypasses the write-ahead log;
//! - recovery tolerates a torn tail (a write that never returned) and refuses damage anywhere else. RocksDB's default
//!   would stop quietly at the damage and drop what was acknowledged after it;
//! - a database is created only in a folder that is missing or empty; anything else that is no whole database of ours
//!   is refused and left as it is;
//! - RocksDB latches a failed write until it is opened again, so after one nothing is acknowledged any more.

use super::{Change, Direction, Durability, Store, StoreError, Table, Visit, Writes};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, ErrorKind,
    Options, ReadOptions, WriteBatch, WriteOptions,
};
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const MIB: usize = 1 << 20;
/// Open table files. Well below the usual limit of 1,024 descriptors, most of which are for connections.
const OPEN_FILES: i32 = 256;
/// Blocks kept decompressed, for all tables together.
const CACHE_BYTES: usize = 64 * MIB;
const WRITE_BUFFER_BYTES: usize = 16 * MIB;
/// All write buffers together.
const WRITE_BUFFERS_BYTES: usize = 64 * MIB;
/// Recovery after a kill reads at most this much.
const WAL_BYTES: u64 = 256 * 1024 * 1024;
const INFO_LOGS: usize = 5;
const INFO_LOG_BYTES: usize = 4 * MIB;
/// The table every RocksDB has; ours is empty.
const DEFAULT_FAMILY: &str = "default";

/// A RocksDB database.
pub struct RocksStore {
    db: DB,
    dir: PathBuf,
}

impl RocksStore {
    /// Opens the database in `dir`; creates one if `dir` is missing (its parent must be there) or empty.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let fresh = prepare(dir)?;
        let mut options = options();
        options.create_if_missing(fresh);
        options.create_missing_column_families(fresh);
        if !fresh {
            check_families(&options, dir)?;
        }
        let families = Table::ALL.map(|table| ColumnFamilyDescriptor::new(table.name(), options.clone()));
        let db = DB::open_cf_descriptors(&options, dir, families).map_err(|error| opening(dir, &error))?;
        Ok(Self { db, dir: dir.to_owned() })
    }

    fn family(&self, table: Table) -> Result<&ColumnFamily, StoreError> {
        self.db
            .cf_handle(table.name())
            .ok_or_else(|| not_ours(&self.dir, &format!("table {} is missing", table.name())))
    }
}

impl Drop for RocksStore {
    fn drop(&mut self) {
        // Closing while a compaction runs can crash the process.
        self.db.cancel_all_background_work(true);
    }
}

impl Store for RocksStore {
    fn commit(&self, writes: Writes, durability: Durability) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for change in writes.changes {
            match change {
                Change::Put(table, key, value) => batch.put_cf(self.family(table)?, key, value),
                Change::Delete(table, key) => batch.delete_cf(self.family(table)?, key),
                Change::DeleteRange(table, range) => {
                    batch.delete_range_cf(self.family(table)?, range.start, range.end);
                }
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        self.db.write_opt(batch, &options).map_err(|error| running("writing to the database", &error))
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get_cf(self.family(table)?, key).map_err(|error| running("reading from the database", &error))
    }

    fn scan(
        &self,
        table: Table,
        range: Range<&[u8]>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        if range.start >= range.end {
            return Ok(());
        }
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(range.start);
        options.set_iterate_upper_bound(range.end);
        let mut cursor = self.db.raw_iterator_cf_opt(self.family(table)?, options);
        match direction {
            Direction::Forward => cursor.seek_to_first(),
            Direction::Backward => cursor.seek_to_last(),
        }
        while let Some((key, value)) = cursor.item() {
            if visit(key, value).is_break() {
                return Ok(());
            }
            match direction {
                Direction::Forward => cursor.next(),
                Direction::Backward => cursor.prev(),
            }
        }
        // An iterator that meets damage ends like one that meets the end.
        cursor.status().map_err(|error| running("reading from the database", &error))
    }
}

fn options() -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES));
    blocks.set_block_size(16 * 1024);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_paranoid_checks(true);
    options.set_track_and_verify_wals_in_manifest(true);
    // A recycled log would make a torn tail look like old data.
    options.set_recycle_log_file_num(0);
    options.set_max_open_files(OPEN_FILES);
    options.set_keep_log_file_num(INFO_LOGS);
    options.set_max_log_file_size(INFO_LOG_BYTES);
    options.set_max_total_wal_size(WAL_BYTES);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_db_write_buffer_size(WRITE_BUFFERS_BYTES);
    options.set_max_background_jobs(2);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options
}

/// Whether a database is to be created. Touches nothing but a missing folder, which it makes.
fn prepare(dir: &Path) -> Result<bool, StoreError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return DirBuilder::new().mode(0o700).create(dir).map(|()| true).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => StoreError::MissingParent { dir: dir.to_owned() },
                _ => folder(dir, &error),
            });
        }
        Err(error) => return Err(folder(dir, &error)),
    };
    if entries.count() == 0 {
        return Ok(true);
    }
    let current = match fs::read_to_string(dir.join("CURRENT")) {
        Ok(current) => current,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(not_ours(dir, "the folder is not empty and its file CURRENT is missing"));
        }
        Err(error) => return Err(folder(dir, &error)),
    };
    let manifest = current.trim_end();
    if !manifest.starts_with("MANIFEST-") {
        return Err(not_ours(dir, "its file CURRENT is empty or damaged"));
    }
    if !dir.join(manifest).is_file() {
        return Err(not_ours(dir, &format!("its file {manifest} is missing")));
    }
    Ok(false)
}

fn check_families(options: &Options, dir: &Path) -> Result<(), StoreError> {
    let there: BTreeSet<String> =
        DB::list_cf(options, dir).map_err(|error| opening(dir, &error))?.into_iter().collect();
    let ours = Table::ALL.map(Table::name).into_iter().chain([DEFAULT_FAMILY]).map(str::to_owned).collect();
    if there == ours { Ok(()) } else { Err(not_ours(dir, "it is a database of another program")) }
}

fn not_ours(dir: &Path, reason: &str) -> StoreError {
    StoreError::NotOurs { dir: dir.to_owned(), reason: reason.to_owned() }
}

fn folder(dir: &Path, error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => StoreError::Permission { dir: dir.to_owned() },
        io::ErrorKind::NotADirectory => not_ours(dir, "it is not a folder"),
        _ => StoreError::Io { what: format!("opening the folder {}", dir.display()), reason: error.to_string() },
    }
}

/// Why opening failed. RocksDB tells kinds by the beginning of its message, the lock by its text.
fn opening(dir: &Path, error: &rocksdb::Error) -> StoreError {
    let text = error.as_ref();
    if text.contains("lock hold by current process") || text.contains("While lock file") && !text.contains("denied") {
        return StoreError::Locked { dir: dir.to_owned() };
    }
    if text.contains("Permission denied") {
        return StoreError::Permission { dir: dir.to_owned() };
    }
    match error.kind() {
        ErrorKind::Corruption => {
            StoreError::Damaged { what: format!("the database in {}", dir.display()), reason: text.to_owned() }
        }
        ErrorKind::InvalidArgument | ErrorKind::NotFound => not_ours(dir, text),
        _ => StoreError::Io { what: format!("opening the database in {}", dir.display()), reason: text.to_owned() },
    }
}

/// Why reading or writing failed.
fn running(what: &str, error: &rocksdb::Error) -> StoreError {
    let (what, reason) = (what.to_owned(), error.as_ref().to_owned());
    match error.kind() {
        ErrorKind::Corruption => StoreError::Damaged { what, reason },
        // A full disk empties again; a failed fsync may have lost what it was asked to keep.
        ErrorKind::IOError if !reason.contains("No space left") => StoreError::Io { what, reason },
        _ => StoreError::Latched { reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::ops::ControlFlow;

    #[derive(Debug, Clone)]
    enum Action {
        Commit(Vec<Change>, bool),
        Scan(Table, Vec<u8>, Vec<u8>, bool),
        Reopen,
    }

    fn action() -> impl Strategy<Value = Action> {
        let table = || prop::sample::select(Table::ALL.to_vec());
        let bytes = || vec(0u8..4, 0..3);
        let change = prop_oneof![
            4 => (table(), bytes(), bytes()).prop_map(|(table, key, value)| Change::Put(table, key, value)),
            1 => (table(), bytes()).prop_map(|(table, key)| Change::Delete(table, key)),
            1 => (table(), bytes(), bytes()).prop_filter("a range", |(_, a, b)| a < b).prop_map(|(table, a, b)| {
                Change::DeleteRange(table, a..b)
            }),
        ];
        prop_oneof![
            6 => (vec(change, 1..6), any::<bool>()).prop_map(|(changes, synced)| Action::Commit(changes, synced)),
            4 => (table(), bytes(), bytes(), any::<bool>()).prop_map(|(t, a, b, back)| Action::Scan(t, a, b, back)),
            1 => Just(Action::Reopen),
        ]
    }

    fn all(store: &dyn Store, table: Table, from: &[u8], to: &[u8], direction: Direction) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        store
            .scan(table, from..to, direction, &mut |key, value| {
                found.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            })
            .expect("scan");
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn rocksdb_does_what_the_model_does(actions in vec(action(), 1..30)) {
            let dir = tempfile::tempdir().expect("tempdir");
            let model = MemoryStore::new();
            let mut store = RocksStore::open(dir.path()).expect("open");
            for action in actions {
                match action {
                    Action::Commit(changes, synced) => {
                        let durability = if synced { Durability::Synced } else { Durability::Buffered };
                        model.commit(Writes { changes: changes.clone() }, durability).expect("model");
                        store.commit(Writes { changes }, durability).expect("commit");
                    }
                    Action::Scan(table, from, to, back) => {
                        let direction = if back { Direction::Backward } else { Direction::Forward };
                        let expected = all(&model, table, &from, &to, direction);
                        prop_assert_eq!(all(&store, table, &from, &to, direction), expected);
                        prop_assert_eq!(store.get(table, &from).expect("get"), model.get(table, &from).expect("get"));
                    }
                    Action::Reopen => {
                        drop(store);
                        store = RocksStore::open(dir.path()).expect("reopen");
                    }
                }
            }
            for table in Table::ALL {
                let found = all(&store, table, &[], &[0xff], Direction::Forward);
                prop_assert_eq!(found, all(&model, table, &[], &[0xff], Direction::Forward));
            }
        }
    }

    #[test]
    fn b79_a_held_lock_is_refused_naming_the_folder() {
        let dir = tempfile::tempdir().expect("tempdir");
        let _held = RocksStore::open(dir.path()).expect("open");
        let refused = RocksStore::open(dir.path()).err().expect("locked");
        assert_eq!(refused, StoreError::Locked { dir: dir.path().to_owned() });
    }

    #[test]
    fn b83_a_folder_that_is_no_whole_database_of_ours_is_left_as_it_is() {
        let dir = tempfile::tempdir().expect("tempdir");
        let listing = |at: &Path| {
            let names = fs::read_dir(at).expect("list").map(|entry| entry.expect("entry").file_name());
            names.collect::<BTreeSet<_>>()
        };
        let foreign = dir.path().join("foreign");
        fs::create_dir(&foreign).expect("dir");
        fs::write(foreign.join("letter.txt"), "hello").expect("write");
        assert!(matches!(RocksStore::open(&foreign), Err(StoreError::NotOurs { .. })));
        assert_eq!(listing(&foreign).len(), 1);

        for damage in ["missing CURRENT", "empty CURRENT", "missing MANIFEST"] {
            let ours = dir.path().join(damage);
            drop(RocksStore::open(&ours).expect("create"));
            let manifest = fs::read_to_string(ours.join("CURRENT")).expect("CURRENT").trim_end().to_owned();
            match damage {
                "missing CURRENT" => fs::remove_file(ours.join("CURRENT")).expect("remove"),
                "empty CURRENT" => fs::write(ours.join("CURRENT"), "").expect("empty"),
                _ => fs::remove_file(ours.join(manifest)).expect("remove"),
            }
            let before = listing(&ours);
            assert!(matches!(RocksStore::open(&ours), Err(StoreError::NotOurs { .. })), "{damage}");
            assert_eq!(listing(&ours), before, "{damage}");
        }
        let missing = dir.path().join("no/such");
        assert_eq!(RocksStore::open(&missing).err(), Some(StoreError::MissingParent { dir: missing.clone() }));
    }

    #[test]
    fn a_database_of_another_program_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        drop(DB::open_default(dir.path()).expect("another program's"));
        assert!(matches!(RocksStore::open(dir.path()), Err(StoreError::NotOurs { .. })));
    }
}
