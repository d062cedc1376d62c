//! Damage in RocksDB's logs (write-ahead logs and manifests), told from a torn tail before they are opened.
//!
//! RocksDB takes a record that claims to be longer than the rest of its file for a torn tail, and a run of zeros for the
//! end of a block: one flipped bit in a length, or a lost page, and everything behind it in the block is gone without a
//! word. Whatever stands behind the first record that cannot be read tells the two cases apart: behind a torn tail there
//! is nothing, behind damage a further record begins.
//!
//! The format is RocksDB's (`db/log_format.h`), little-endian. A file is cut in blocks of 32 KiB. A record lies in one
//! block: `masked crc32c u32 | length u16 | type u8 | payload`, the sum over type and payload; longer ones are cut in
//! fragments. Fewer than 7 bytes at the end of a block are filling. Types: 1 whole, 2 first, 3 middle, 4 last fragment, 9
//! to 11 and 130, 131 settings of the log; 5 to 8, 11 and 131 are of recycled logs, which are never written here. RocksDB
//! (11.8.1, `Reader::ReadPhysicalRecord`) reads such a type behind a record of another kind again and again, for ever:
//! where it would meet one the log is damaged, not torn.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const BLOCK_BYTES: usize = 32 * 1024;
const HEADER_BYTES: usize = 7;
const WHOLE: u8 = 1;
const FIRST: u8 = 2;
/// What a log says of itself and of the one before: that it was begun, not that anything was written to it.
const SETTINGS: [u8; 3] = [9, 10, 130];
const FRAGMENTS: [u8; 2] = [3, 4];
/// Types of recycled logs: RocksDB never returns from one in a log that is none.
const RECYCLED: [u8; 6] = [5, 6, 7, 8, 11, 131];

/// A place in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The file.
    pub(super) path: PathBuf,
    /// The byte at which a record begins that cannot be read.
    pub(super) offset: u64,
}

/// How a sequence of logs ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// With the last record.
    Whole,
    /// With a record that was never finished.
    Torn(Place),
    /// It does not: behind something that cannot be read further records follow, or it is nothing that a write leaves.
    Damaged(Place),
}

/// Reads logs in the order in which they were written, as one sequence.
pub(super) fn end(paths: &[PathBuf]) -> io::Result<End> {
    let mut broken: Option<Place> = None;
    for path in paths {
        let mut file = File::open(path)?;
        let (mut block, mut start) = (Vec::with_capacity(BLOCK_BYTES), 0);
        loop {
            block.clear();
            (&mut file).take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
            let follows = match &broken {
                Some(_) => goes_on(&block),
                None => match first_broken(&block) {
                    Some(at) => {
                        broken = Some(Place { path: path.clone(), offset: start + at as u64 });
                        is_recycled(&block, at) || (at + 1..block.len()).any(|at| begins(&block, at))
                    }
                    None => false,
                },
            };
            if let (true, Some(place)) = (follows, &broken) {
                return Ok(End::Damaged(place.clone()));
            }
            // Shorter than a block: the end, even if a writer appends to it just now.
            if block.len() < BLOCK_BYTES {
                break;
            }
            start += block.len() as u64;
        }
    }
    Ok(broken.map_or(End::Whole, End::Torn))
}

/// Where the first record of a block lies that cannot be read.
fn first_broken(block: &[u8]) -> Option<usize> {
    let mut at = 0;
    while block.len() - at >= HEADER_BYTES {
        match record(block, at) {
            Some((_, next)) => at = next,
            None => return Some(at),
        }
    }
    // A block that is not full ends with its last record.
    (block.len() < BLOCK_BYTES && at < block.len()).then_some(at)
}

/// Whether a record begins among those that can be read from the start of a block, or one of a recycled log ends them.
fn goes_on(block: &[u8]) -> bool {
    let mut at = 0;
    while let Some((_, next)) = record(block, at) {
        if begins(block, at) {
            return true;
        }
        at = next;
    }
    is_recycled(block, at)
}

/// Whether a header here claims to be of a recycled log, whatever its sum says.
fn is_recycled(block: &[u8], at: usize) -> bool {
    let kind = block.get(at..).and_then(|rest| rest.get(HEADER_BYTES - 1));
    kind.is_some_and(|kind| RECYCLED.contains(kind))
}

/// Whether a record begins here; a fragment of one that began earlier does not count.
fn begins(block: &[u8], at: usize) -> bool {
    record(block, at).is_some_and(|(kind, _)| kind == WHOLE || kind == FIRST)
}

/// Type of the record at a place and the place behind it, if one is there.
fn record(block: &[u8], at: usize) -> Option<(u8, usize)> {
    let (header, rest) = block.get(at..)?.split_first_chunk::<HEADER_BYTES>()?;
    let [a, b, c, d, low, high, kind] = *header;
    if !(kind == WHOLE || kind == FIRST || FRAGMENTS.contains(&kind) || SETTINGS.contains(&kind)) {
        return None;
    }
    let length = usize::from(u16::from_le_bytes([low, high]));
    let payload = rest.get(..length)?;
    let sum = crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload);
    (masked(sum) == u32::from_le_bytes([a, b, c, d])).then_some((kind, at + HEADER_BYTES + length))
}

/// RocksDB stores sums masked, so that a sum over data that hold sums stays a good one.
fn masked(sum: u32) -> u32 {
    sum.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The write-ahead logs of a folder, oldest first, and its manifest.
pub(super) fn files(folder: &Path, manifest: &str) -> io::Result<(Vec<PathBuf>, PathBuf)> {
    let mut logs = Vec::new();
    for entry in folder.read_dir()? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let (Some(number), true) = (number, path.extension().is_some_and(|end| end == "log")) {
            logs.push((number, path));
        }
    }
    logs.sort();
    Ok((logs.into_iter().map(|(_, path)| path).collect(), folder.join(manifest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::rocks::RocksStore;
    use crate::store::rocks::repair::repair;
    use crate::store::{Durability, Store, StoreError, Table, Writes};
    use std::fs;

    fn append(log: &mut Vec<u8>, kind: u8, payload: &[u8]) {
        let room = BLOCK_BYTES - log.len() % BLOCK_BYTES;
        if room < HEADER_BYTES {
            log.resize(log.len() + room, 0);
        }
        let sum = masked(crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload));
        log.extend(sum.to_le_bytes());
        log.extend(u16::try_from(payload.len()).expect("short").to_le_bytes());
        log.push(kind);
        log.extend(payload);
    }

    fn of(logs: &[&[u8]]) -> End {
        let folder = tempfile::tempdir().expect("tempdir");
        let paths: Vec<PathBuf> =
            (1..).zip(logs).map(|(number, _)| folder.path().join(format!("{number:06}.log"))).collect();
        for (path, log) in paths.iter().zip(logs) {
            fs::write(path, log).expect("write");
        }
        end(&paths).expect("readable")
    }

    /// Three records in the first block, a long one over three blocks, one behind it; and where each begins.
    fn sample() -> (Vec<u8>, Vec<usize>) {
        let (mut log, mut starts) = (Vec::new(), Vec::new());
        for payload in [&[1; 100][..], &[0; 200], &[3; 300]] {
            starts.push(log.len());
            append(&mut log, WHOLE, payload);
        }
        starts.push(log.len());
        let room = BLOCK_BYTES - log.len() - HEADER_BYTES;
        append(&mut log, FIRST, &vec![4; room]);
        append(&mut log, 3, &vec![5; BLOCK_BYTES - HEADER_BYTES]);
        append(&mut log, 4, &[6; 50]);
        starts.push(log.len());
        append(&mut log, WHOLE, &[7; 10]);
        (log, starts)
    }

    #[test]
    fn whole_logs_and_every_torn_tail_of_the_last_record_are_told() {
        let (log, starts) = sample();
        assert_eq!(of(&[]), End::Whole);
        assert_eq!(of(&[&[]]), End::Whole);
        assert_eq!(of(&[&log]), End::Whole);
        assert_eq!(of(&[&log, &log]), End::Whole);
        let last = starts[4];
        for cut in last + 1..log.len() {
            assert!(matches!(of(&[&log[..cut]]), End::Torn(place) if place.offset == last as u64), "cut at {cut}");
        }
        let mut zeros = log.clone();
        zeros.resize(log.len() + 100_000, 0);
        assert!(matches!(of(&[&zeros]), End::Torn(place) if place.offset == log.len() as u64));
    }

    #[test]
    fn a_long_record_of_which_only_later_pages_reached_the_disk_is_a_torn_tail() {
        let (log, starts) = sample();
        let mut torn = log[..starts[4]].to_vec();
        torn[starts[3]..BLOCK_BYTES].fill(0);
        assert!(matches!(of(&[&torn]), End::Torn(place) if place.offset == starts[3] as u64));
    }

    #[test]
    fn a_tail_on_which_rocksdb_would_never_end_is_damage() {
        let (log, starts) = sample();
        let type_of_last = starts[4] + HEADER_BYTES - 1;
        for kind in RECYCLED {
            let mut flipped = log.clone();
            flipped[type_of_last] = kind;
            assert!(matches!(of(&[&flipped]), End::Damaged(place) if place.offset == starts[4] as u64), "{kind}");
            // In a block behind the one that is torn, and behind fragments there.
            let mut torn = log[..starts[4]].to_vec();
            torn[starts[3]..BLOCK_BYTES].fill(0);
            torn[BLOCK_BYTES + HEADER_BYTES - 1] = kind;
            assert!(matches!(of(&[&torn]), End::Damaged(place) if place.offset == starts[3] as u64), "{kind}");
            let mut torn = log.clone();
            torn[starts[3]..BLOCK_BYTES].fill(0);
            torn[type_of_last] = kind;
            assert!(matches!(of(&[&torn]), End::Damaged(_)), "{kind}");
        }
    }

    /// Without the check RocksDB reads the record for ever: found by random damage, one in three thousand.
    #[test]
    fn a_database_on_whose_log_rocksdb_would_never_end_is_refused_and_repaired() {
        let (live, copy) = (tempfile::tempdir().expect("tempdir"), tempfile::tempdir().expect("tempdir"));
        let store = RocksStore::open(live.path()).expect("create");
        for number in 0..3u8 {
            let mut writes = Writes::default();
            writes.put(Table::Meta, vec![number], vec![number; 50]);
            store.commit(writes, Durability::Synced).expect("commit");
        }
        // Copied while it is open: what was committed stands in the log only.
        for entry in fs::read_dir(live.path()).expect("list").map(|entry| entry.expect("entry").path()) {
            fs::copy(&entry, copy.path().join(entry.file_name().expect("named"))).expect("copied");
        }
        let logs = files(copy.path(), "none").expect("list").0;
        let path = logs.last().expect("a log");
        let mut bytes = fs::read(path).expect("read");
        let (mut at, mut last) = (0, 0);
        while let Some((_, next)) = record(&bytes, at) {
            (last, at) = (at, next);
        }
        bytes[last + HEADER_BYTES - 1] = RECYCLED[0];
        fs::write(path, bytes).expect("written");
        let refused = RocksStore::open(copy.path()).err().expect("refused");
        assert!(matches!(&refused, StoreError::Damaged { reason, .. } if reason.contains("repair")), "{refused}");
        let cut = repair(copy.path()).expect("repaired").expect("something is cut off");
        assert_eq!(cut.offset, last as u64);
        let store = RocksStore::open(copy.path()).expect("opens");
        assert_eq!(store.get(Table::Meta, &[1]).expect("get"), Some(vec![1; 50]));
        assert_eq!(store.get(Table::Meta, &[2]).expect("get"), None, "sent again by its agent");
    }

    #[test]
    fn b81_a_flipped_bit_anywhere_before_the_last_record_is_damage() {
        let (log, starts) = sample();
        let headers = |at: &usize| {
            starts[..4].iter().chain(&[BLOCK_BYTES, 2 * BLOCK_BYTES]).any(|start| (*start..start + 8).contains(at))
        };
        for at in (0..starts[4]).filter(|at| headers(at) || at % 4_099 == 0) {
            let mut flipped = log.clone();
            flipped[at] ^= 1 << (at % 8);
            let begin = starts.iter().rev().find(|start| **start <= at).copied().expect("a record");
            match of(&[&flipped]) {
                End::Damaged(place) => assert!(place.offset >= begin as u64 && place.offset <= at as u64),
                other => panic!("byte {at}: {other:?}"),
            }
        }
        let mut zeroed = log.clone();
        zeroed[starts[1]..starts[1] + 512].fill(0);
        assert!(matches!(of(&[&zeroed]), End::Damaged(_)));
    }

    #[test]
    fn a_log_that_is_cut_before_a_later_one_is_damage() {
        let (log, _) = sample();
        assert!(matches!(of(&[&log[..50], &log]), End::Damaged(place) if place.path.ends_with("000001.log")));
        assert!(matches!(of(&[&log[..50], &[]]), End::Torn(_)));
        let mut begun = Vec::new();
        append(&mut begun, 130, &[1; 24]);
        assert!(matches!(of(&[&log[..50], &begun]), End::Torn(_)), "one that was only begun says nothing");
    }

    #[test]
    fn logs_are_found_in_the_order_of_their_numbers() {
        let folder = tempfile::tempdir().expect("tempdir");
        for name in ["000009.log", "1000010.log", "000011.sst", "LOG", "x.log", "MANIFEST-000004"] {
            fs::write(folder.path().join(name), "").expect("write");
        }
        let (logs, manifest) = files(folder.path(), "MANIFEST-000004").expect("list");
        assert_eq!(logs, ["000009.log", "1000010.log"].map(|name| folder.path().join(name)));
        assert!(manifest.ends_with("MANIFEST-000004"));
    }
}
