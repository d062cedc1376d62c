//! The settings of RocksDB, each with its reason. The test at the end holds what RocksDB says it runs with against them.
//!
//! Left as they are, on purpose: `use_fsync` (fdatasync keeps what is needed to read a file), `best_efforts_recovery` (it
//! opens whatever it finds), `track_and_verify_wals` (after a write that met a full disk it takes the torn log for damage;
//! what it is for, [`super::log`] and [`super::manifest`] see). `DB::Resume` is not bound by rust-rocksdb, and is not needed:
//! after a failed write the process ends and opens the database again.

use crate::memory::Memory;
use crate::store::StoreError;
use nix::sys::resource::{Resource, getrlimit};
use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Options};

const MIB: usize = 1 << 20;
/// Most table files that are open. Well below the usual limit of 1,024 descriptors, most of which are for connections.
const OPEN_FILES: u64 = 256;
/// Fewer RocksDB does not take.
const LEAST_OPEN_FILES: u64 = 20;
/// The largest write buffer of a table; all together are a part of the memory.
const WRITE_BUFFER_BYTES: usize = 16 * MIB;
/// Recovery after a kill reads at most this much.
const WAL_BYTES: u64 = 256 << 20;
const INFO_LOGS: usize = 5;
const INFO_LOG_BYTES: usize = 4 * MIB;
/// What has no function in rust-rocksdb. A resumed database would acknowledge what it had failed to write. The others are
/// checksums: of what waits in memory, and of whole table files, which a backup compares.
const BY_NAME: &str = "max_bgerror_resume_count=0;memtable_protection_bytes_per_key=8;block_protection_bytes_per_key=8;\
                       file_checksum_gen_factory=FileChecksumGenCrc32cFactory";
/// The settings of the database and of every table.
pub(super) fn options(memory: Memory) -> Result<Options, StoreError> {
    with_logs(true, memory)
}

/// The same for a database whose logs were cut by a repair: that they are not whole is known.
pub(super) fn after_a_cut() -> Result<Options, StoreError> {
    with_logs(false, Memory::default())
}

fn with_logs(verified: bool, memory: Memory) -> Result<Options, StoreError> {
    let mut options = Options::default()
        .get_options_from_string(BY_NAME)
        .map_err(|error| StoreError::Io { what: "setting RocksDB up".to_owned(), reason: error.as_ref().to_owned() })?;
    let mut blocks = BlockBasedOptions::default();
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    // Of all tables, decompressed, with their indexes: what lies outside of it would grow with the files.
    blocks.set_block_cache(&Cache::new_lru_cache(bytes(memory.cache())));
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_block_size(16 * 1024);
    options.set_block_based_table_factory(&blocks);
    // A torn tail is a write that never returned. The default mode would stop at any damage and drop the rest quietly.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_paranoid_checks(true);
    // Tables leave the log together: a log that is cut by a repair takes the same commits from all of them.
    options.set_atomic_flush(true);
    options.set_track_and_verify_wals_in_manifest(verified);
    // A recycled log would make a torn tail look like old data.
    options.set_recycle_log_file_num(0);
    options.set_max_open_files(open_files());
    options.set_keep_log_file_num(INFO_LOGS);
    options.set_max_log_file_size(INFO_LOG_BYTES);
    // A table of statistics every ten minutes, which nobody reads, filled five logs with 20 MiB in two days.
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_max_total_wal_size(WAL_BYTES);
    let buffers = bytes(memory.buffers());
    options.set_write_buffer_size(WRITE_BUFFER_BYTES.min(buffers));
    options.set_db_write_buffer_size(buffers);
    options.set_max_background_jobs(2);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    Ok(options)
}

/// A quarter of the descriptors that the process may have.
fn open_files() -> i32 {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(soft, _)| soft);
    i32::try_from((limit / 4).clamp(LEAST_OPEN_FILES, OPEN_FILES)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Table;
    use crate::store::rocks::RocksStore;
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    /// The newest file of settings that RocksDB wrote: section → key → value.
    fn effective(folder: &Path) -> BTreeMap<String, BTreeMap<String, String>> {
        let names = fs::read_dir(folder).expect("list").map(|entry| entry.expect("entry").file_name());
        let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
        names.retain(|name| name.starts_with("OPTIONS-"));
        names.sort();
        let text = fs::read_to_string(folder.join(names.last().expect("a file of settings"))).expect("read");
        let (mut sections, mut section) = (BTreeMap::<_, BTreeMap<_, _>>::new(), String::new());
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line.trim_matches(['[', ']']).to_owned();
            } else if let Some((key, value)) = line.split_once('=') {
                sections.entry(section.clone()).or_default().insert(key.to_owned(), value.to_owned());
            }
        }
        sections
    }

    #[test]
    fn rocksdb_runs_with_every_setting_that_keeps_data_safe() {
        let folder = tempfile::tempdir().expect("tempdir");
        drop(RocksStore::open(folder.path()).expect("create"));
        // Opened again: the settings hold for a database that was there, too.
        let _store = RocksStore::open(folder.path()).expect("open");
        let sections = effective(folder.path());
        let expect = |section: &str, expected: &[(&str, &str)]| {
            for (key, value) in expected {
                let found = sections.get(section).and_then(|section| section.get(*key));
                assert_eq!(found.map(String::as_str), Some(*value), "[{section}] {key}");
            }
        };
        let (files, wal) = (open_files().to_string(), WAL_BYTES.to_string());
        let database = [
            ("wal_recovery_mode", "kTolerateCorruptedTailRecords"),
            ("paranoid_checks", "true"),
            ("track_and_verify_wals_in_manifest", "true"),
            ("track_and_verify_wals", "false"),
            ("recycle_log_file_num", "0"),
            ("best_efforts_recovery", "false"),
            ("atomic_flush", "true"),
            ("manual_wal_flush", "false"),
            ("max_bgerror_resume_count", "0"),
            ("file_checksum_gen_factory", "FileChecksumGenCrc32cFactory"),
            ("max_open_files", &files),
            ("keep_log_file_num", "5"),
            ("max_log_file_size", "4194304"),
            ("stats_dump_period_sec", "0"),
            ("stats_persist_period_sec", "0"),
            ("max_total_wal_size", &wal),
            ("db_write_buffer_size", "67108864"),
            ("verify_sst_unique_id_in_manifest", "true"),
            ("flush_verify_memtable_count", "true"),
            ("compaction_verify_record_count", "true"),
        ];
        expect("DBOptions", &database);
        for table in Table::ALL {
            let section = format!("CFOptions \"{}\"", table.name());
            let own = [("memtable_protection_bytes_per_key", "8"), ("block_protection_bytes_per_key", "8")];
            expect(&section, &own);
            // Checksums that depend on where a block lies: two swapped blocks are damage.
            let section = format!("TableOptions/BlockBasedTable \"{}\"", table.name());
            expect(&section, &[("checksum", "kXXH3")]);
            let format = &sections[&section]["format_version"];
            assert!(format.parse::<u32>().expect("a number") >= 6, "format_version={format}");
        }
    }

    #[test]
    fn a_database_within_a_memory_has_its_parts_of_it() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = RocksStore::open_within(folder.path(), Memory::of(Some(256 << 20))).expect("create");
        let sections = effective(folder.path());
        assert_eq!(sections["DBOptions"]["db_write_buffer_size"], (32 << 20).to_string());
        assert_eq!(store.cache_bytes(), Some(32 << 20));
    }

    #[test]
    fn open_files_stay_below_what_the_process_may_have() {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit").0;
        let files = u64::try_from(open_files()).expect("a count");
        assert!((LEAST_OPEN_FILES..=OPEN_FILES).contains(&files));
        assert!(files < limit, "{files} of {limit}");
    }
}
