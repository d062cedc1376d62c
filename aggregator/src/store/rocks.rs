//! RocksDB in a folder of its own.
//!
//! What is acknowledged must survive a power cut, and damage must be seen and never papered over:
//! - every acknowledged write is synced, and none bypasses the write-ahead log;
//! - recovery tolerates a torn tail (a write that never returned) and refuses damage anywhere else. RocksDB's default
//!   would stop quietly at the damage and drop what was acknowledged after it;
//! - a database is created only in a folder that is missing or empty; anything else that is no whole database of ours
//!   is refused and left as it is;
//! - RocksDB latches a failed write until it is opened again, so after one nothing is acknowledged any more.

pub mod backup;
pub mod check;
mod log;
mod manifest;
pub mod repair;
mod settings;

use super::space::bytes_of;
use super::{Change, Direction, Durability, Store, StoreError, Table, Visit, Writes};
use crate::memory::Memory;
use log::{End, Place};
use manifest::Reach;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{ColumnFamily, ColumnFamilyDescriptor, DB, ErrorKind, Options, ReadOptions, WriteBatch, WriteOptions};
use settings::options;
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The table every RocksDB has; ours is empty.
const DEFAULT_FAMILY: &str = "default";

const NOT_TORN: &str = "and it is no write that was cut short";
const REPAIR: &str = "`joulebook-aggregator repair` drops what cannot be read";

/// Locked before RocksDB is asked: RocksDB rotates the running process's log before it looks at its own lock.
const LOCK_FILE: &str = "joulebook.lock";

/// A RocksDB database.
pub struct RocksStore {
    db: DB,
    dir: PathBuf,
    /// How far the manifest is known to reach; none if the database is only read.
    reach: Option<Mutex<Reach>>,
    /// Held until the database is closed; fields are dropped in their order.
    _lock: File,
}

/// What lies in a folder that is to hold a database.
enum Found {
    /// Nothing.
    Empty,
    /// A database whose newest manifest has this name.
    Database(String),
}

impl RocksStore {
    /// Opens the database in `dir`; creates one if `dir` is missing (its parent must be there) or empty.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_within(dir, Memory::default())
    }

    /// The same, with cache and buffers that are parts of a memory.
    pub fn open_within(dir: &Path, memory: Memory) -> Result<Self, StoreError> {
        let found = prepare(dir)?;
        let lock = lock(dir)?;
        let mut options = options(memory)?;
        let fresh = matches!(found, Found::Empty);
        options.create_if_missing(fresh);
        options.create_missing_column_families(fresh);
        let mut torn = None;
        if let Found::Database(manifest) = found {
            torn = check_logs(dir, &manifest)?;
            check_families(&options, dir)?;
        }
        let db = DB::open_cf_descriptors(&options, dir, families(&options));
        let db = db.map_err(|error| naming(torn, opening(dir, &error)))?;
        let reach = Reach::now(dir).map_err(|error| folder(dir, &error))?;
        reach.keep(dir)?;
        Ok(Self { db, dir: dir.to_owned(), reach: Some(Mutex::new(reach)), _lock: lock })
    }

    /// Notes how far the manifest reaches, if it has grown: from then on it is missed if it has lost that.
    pub fn note_manifest(&self) -> Result<(), StoreError> {
        let Some(known) = &self.reach else { return Ok(()) };
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let reach = Reach::now(&self.dir).map_err(|error| folder(&self.dir, &error))?;
        if reach != *known {
            reach.keep(&self.dir)?;
            *known = reach;
        }
        Ok(())
    }

    /// Opens the database in `dir` for reading: not one of its files changes. Nothing is created.
    pub fn read(dir: &Path) -> Result<Self, StoreError> {
        let Found::Database(manifest) = look(dir)? else {
            return Err(not_ours(dir, "there is no database in it"));
        };
        let (lock, options) = (lock(dir)?, options(Memory::default())?);
        let torn = check_logs(dir, &manifest)?;
        check_families(&options, dir)?;
        let db = DB::open_cf_descriptors_read_only(&options, dir, families(&options), false)
            .map_err(|error| naming(torn, opening(dir, &error)))?;
        Ok(Self { db, dir: dir.to_owned(), reach: None, _lock: lock })
    }

    /// Keeps the database as it is now in a new folder `name` inside its own: hard links, on the disk when it returns.
    pub fn checkpoint(&self, name: &str) -> Result<PathBuf, StoreError> {
        let path = self.dir.join(name);
        let failed = |error| running("making a checkpoint of the database", &error);
        Checkpoint::new(&self.db).map_err(failed)?.create_checkpoint(&path).map_err(failed)?;
        Ok(path)
    }

    /// Keeps the database before it is brought to another version; what an attempt before kept stays as it is.
    pub fn keep_before_migration(&self, version: u32) -> Result<(), StoreError> {
        let name = format!("before-migration-from-{version}");
        if self.dir.join(&name).exists() {
            return Ok(());
        }
        self.checkpoint(&name).map(|path| tracing::info!(path = %path.display(), "the database is kept as it was"))
    }

    /// Rewrites every table as tightly as its settings allow, which otherwise happens bit by bit: what is measured then does
    /// not hang on how far that has come. Bytes of each table.
    pub fn compact(&self) -> Result<Vec<(Table, u64)>, StoreError> {
        for table in Table::ALL {
            self.db.compact_range_cf::<&[u8], &[u8]>(self.family(table)?, None, None);
        }
        self.table_bytes()
    }

    /// Ends rewriting of tables at once: for who is about to close the database, and needs none of it any more.
    pub fn stop_compacting(&self) {
        self.db.cancel_all_background_work(false);
    }

    /// Bytes of the files in the folder, with logs.
    pub fn file_bytes(&self) -> u64 {
        bytes_of(&self.dir).unwrap_or_default()
    }

    /// Bytes of each table's files.
    pub fn table_bytes(&self) -> Result<Vec<(Table, u64)>, StoreError> {
        let files = self.db.live_files().map_err(|error| running("listing the files of the database", &error))?;
        let bytes = |table: Table| {
            let own = files.iter().filter(|file| file.column_family_name == table.name());
            own.map(|file| file.size as u64).sum()
        };
        Ok(Table::ALL.map(|table| (table, bytes(table))).to_vec())
    }

    /// Most bytes of blocks that are kept in memory; none if RocksDB does not say.
    pub fn cache_bytes(&self) -> Option<u64> {
        let family = self.family(Table::ALL[0]).ok()?;
        self.db.property_int_value_cf(family, "rocksdb.block-cache-capacity").ok()?
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.dir
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
        if let Err(error) = self.note_manifest() {
            // What was noted before is a lower bound as well.
            tracing::warn!(%error, "how far the manifest reaches is not noted");
        }
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

fn families(options: &Options) -> [ColumnFamilyDescriptor; Table::ALL.len()] {
    Table::ALL.map(|table| ColumnFamilyDescriptor::new(table.name(), options.clone()))
}

/// What the folder of a database holds. Touches nothing but a missing folder, which it makes.
fn prepare(dir: &Path) -> Result<Found, StoreError> {
    match look(dir) {
        Err(StoreError::Missing { .. }) => {
            DirBuilder::new().mode(0o700).create(dir).map(|()| Found::Empty).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => StoreError::MissingParent { dir: dir.to_owned() },
                _ => folder(dir, &error),
            })
        }
        found => found,
    }
}

/// What a folder holds; nothing is touched.
fn look(dir: &Path) -> Result<Found, StoreError> {
    let mut empty = true;
    for entry in fs::read_dir(dir).map_err(|error| folder(dir, &error))? {
        let entry = entry.map_err(|error| folder(dir, &error))?;
        empty &= entry.file_name() == LOCK_FILE;
    }
    if empty {
        return Ok(Found::Empty);
    }
    let current = match fs::read(dir.join("CURRENT")) {
        Ok(current) => String::from_utf8_lossy(&current).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(not_ours(dir, "the folder is not empty and its file CURRENT is missing"));
        }
        Err(error) => return Err(folder(dir, &error)),
    };
    let manifest = current.trim_end();
    if !manifest.strip_prefix("MANIFEST-").is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit())) {
        return Err(not_ours(dir, "its file CURRENT is empty or damaged"));
    }
    if !dir.join(manifest).is_file() {
        return Err(not_ours(dir, &format!("its file {manifest} is missing")));
    }
    Ok(Found::Database(manifest.to_owned()))
}

/// Refuses logs that are damaged and not torn: RocksDB would not always. Says where they are torn, if they are.
fn check_logs(dir: &Path, manifest: &str) -> Result<Option<Place>, StoreError> {
    manifest::check(dir, manifest)?;
    let (logs, manifest) = log::files(dir, manifest).map_err(|error| folder(dir, &error))?;
    let failed = |error: io::Error| folder(dir, &error);
    if let End::Damaged(place) = log::end(&[manifest]).map_err(failed)? {
        return Err(damaged_at(&place, NOT_TORN));
    }
    match log::end(&logs).map_err(failed)? {
        End::Damaged(place) => Err(damaged_at(&place, &format!("{NOT_TORN}; {REPAIR}"))),
        End::Torn(place) => Ok(Some(place)),
        End::Whole => Ok(None),
    }
}

fn damaged_at(place: &Place, rest: &str) -> StoreError {
    let reason = format!("the record at byte {} cannot be read, {rest}", place.offset);
    StoreError::Damaged { what: place.path.display().to_string(), reason }
}

/// Names the log whose last record cannot be read, where RocksDB refuses the database and names nothing.
fn naming(torn: Option<Place>, error: StoreError) -> StoreError {
    match (torn, error) {
        (Some(place), StoreError::Damaged { reason, .. }) if !reason.contains(".sst") => {
            damaged_at(&place, &format!("{reason}; {REPAIR}"))
        }
        (_, error) => error,
    }
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let file = File::options().create(true).truncate(false).write(true).open(dir.join(LOCK_FILE));
    let file = file.map_err(|error| folder(dir, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(folder(dir, &error)),
    }
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
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StoreError::Permission { dir: dir.to_owned() }
        }
        io::ErrorKind::NotADirectory => not_ours(dir, "it is not a folder"),
        io::ErrorKind::NotFound => StoreError::Missing { dir: dir.to_owned() },
        io::ErrorKind::StorageFull => StoreError::Full { what: format!("opening the folder {}", dir.display()) },
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
    if is_full(text) {
        return StoreError::Full { what: format!("opening the database in {}", dir.display()) };
    }
    match error.kind() {
        ErrorKind::Corruption => {
            StoreError::Damaged { what: format!("the database in {}", dir.display()), reason: text.to_owned() }
        }
        ErrorKind::InvalidArgument | ErrorKind::NotFound => not_ours(dir, text),
        _ => StoreError::Io { what: format!("opening the database in {}", dir.display()), reason: text.to_owned() },
    }
}

/// Why reading or writing failed. RocksDB answers every write after a failed one with that one's message.
fn running(what: &str, error: &rocksdb::Error) -> StoreError {
    let (what, reason) = (what.to_owned(), error.as_ref().to_owned());
    match error.kind() {
        ErrorKind::Corruption => StoreError::Damaged { what: "the database".to_owned(), reason },
        // A full disk empties again; a failed fsync may have lost what it was asked to keep.
        ErrorKind::IOError if is_full(&reason) => StoreError::Full { what },
        ErrorKind::IOError => StoreError::Io { what, reason },
        _ => StoreError::Latched { reason },
    }
}

/// Whether a message speaks of a full disk or quota (ENOSPC, EDQUOT).
fn is_full(text: &str) -> bool {
    text.contains("No space left") || text.contains("Disk quota exceeded")
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
        let files = || fs::read_dir(dir.path()).expect("list").count();
        let before = files();
        let refused = RocksStore::open(dir.path()).err().expect("locked");
        assert_eq!(refused, StoreError::Locked { dir: dir.path().to_owned() });
        assert_eq!(files(), before, "the first one's files are left alone");
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
