//! Logs of a database that were torn or damaged (B80, B81): a torn tail costs nothing, damage before it is refused, and a
//! repair drops what it says, no more; agents send it again and every figure is as it was.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions that tests call may fail the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use joulebook_aggregator::store::rocks::RocksStore;
use joulebook_aggregator::store::rocks::repair::repair;
use joulebook_aggregator::store::{Resolution, Store, StoreError};
use joulebook_sci::Cell;
use joulebook_tests::aggregator::Aggregator;
use joulebook_tests::history::{History, history, step};
use joulebook_units::UnixNanos;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

const NODES: u8 = 2;

type Cells = BTreeMap<(usize, Resolution, UnixNanos), Cell>;

fn histories(steps: usize) -> Vec<History> {
    let mut runner = TestRunner::deterministic();
    let mut steps = || proptest::collection::vec(step(), steps).new_tree(&mut runner).unwrap().current();
    (0..NODES).map(|index| history(index, &steps())).collect()
}

fn cells(aggregator: &Aggregator) -> Cells {
    let of =
        |node| aggregator.cells(node).into_iter().map(move |((length, start), cell)| ((node, length, start), cell));
    (0..usize::from(NODES)).flat_map(of).collect()
}

/// Sends every record above the marks, as agents do, and returns how many.
fn send_the_rest(aggregator: &mut Aggregator, histories: &[History]) -> u64 {
    let marks: BTreeMap<_, _> = aggregator.book.status().streams.iter().map(|one| (one.id, one.acked)).collect();
    let mut sent = 0;
    for (index, history) in histories.iter().enumerate() {
        for record in 0..history.batches.len() {
            let (stream, sequence) = history.place(record);
            if sequence > marks.get(&stream).copied().unwrap_or(0) {
                aggregator.send(index, history, record);
                sent += 1;
            }
        }
    }
    aggregator.settle();
    sent
}

fn on(folder: &Path, histories: &[History]) -> Aggregator {
    Aggregator::on(Arc::new(RocksStore::open(folder).unwrap()) as Arc<dyn Store>, histories).unwrap()
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
    }
    to
}

/// The write-ahead log, of which there is one.
fn log(folder: &Path) -> PathBuf {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let logs: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
    assert_eq!(logs.len(), 1, "{logs:?}");
    logs[0].clone()
}

#[test]
fn b80_a_log_torn_at_any_byte_of_its_last_record_opens_and_only_that_record_comes_again() {
    let (histories, folder) = (histories(30), tempfile::tempdir().unwrap());
    let mut aggregator = on(folder.path(), &histories);
    let last = histories[0].batches.len() - 1;
    send_the_rest_but(&mut aggregator, &histories, last);
    let before = log(folder.path()).metadata().unwrap().len();
    aggregator.send(0, &histories[0], last);
    let after = log(folder.path()).metadata().unwrap().len();
    drop(aggregator);
    let whole = {
        let copied = copy(folder.path());
        let aggregator = on(copied.path(), &histories);
        aggregator.settle();
        cells(&aggregator)
    };
    for cut in (before..after).step_by(7).chain([before + 1, after - 1]) {
        let torn = copy(folder.path());
        std::fs::File::options().write(true).open(log(torn.path())).unwrap().set_len(cut).unwrap();
        let mut aggregator = on(torn.path(), &histories);
        assert_eq!(send_the_rest(&mut aggregator, &histories), 1, "cut at {cut} of {after}");
        assert_eq!(cells(&aggregator), whole, "cut at {cut} of {after}");
    }
}

/// Sends everything but one record of the first node.
fn send_the_rest_but(aggregator: &mut Aggregator, histories: &[History], left_out: usize) {
    for (index, history) in histories.iter().enumerate() {
        let records = (0..history.batches.len()).filter(|record| index > 0 || *record != left_out);
        records.for_each(|record| aggregator.send(index, history, record));
    }
}

#[test]
fn b81_a_log_damaged_in_the_middle_is_refused_by_name_and_a_repair_says_what_it_drops() {
    let (histories, folder) = (histories(120), tempfile::tempdir().unwrap());
    let mut aggregator = on(folder.path(), &histories);
    for (index, history) in histories.iter().enumerate() {
        (0..history.batches.len() / 2).for_each(|record| aggregator.send(index, history, record));
    }
    aggregator.settle();
    drop(aggregator);
    // Opened again: what is stored so far leaves the log.
    let mut aggregator = on(folder.path(), &histories);
    send_the_rest(&mut aggregator, &histories);
    let whole = cells(&aggregator);
    drop(aggregator);
    let path = log(folder.path());
    let length = path.metadata().unwrap().len();
    let mut came_again = 0;
    for part in 1..10 {
        let damaged = copy(folder.path());
        let path = damaged.path().join(path.file_name().unwrap());
        let mut bytes = std::fs::read(&path).unwrap();
        // A byte among many, and the high byte of a length: RocksDB alone would take that for the end.
        let at = usize::try_from(length * part / 10).unwrap();
        bytes[at] ^= 0x40;
        std::fs::write(&path, &bytes).unwrap();
        let refused = RocksStore::open(damaged.path()).err().unwrap();
        assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
        assert!(refused.to_string().contains(&*path.to_string_lossy()), "the file is named: {refused}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "and left as it is");

        let cut = repair(damaged.path()).unwrap().unwrap();
        assert_eq!((&cut.file, cut.offset + cut.bytes), (&path, length));
        assert!(cut.offset <= at as u64 && cut.bytes > 0, "{cut:?}");
        assert_eq!(std::fs::read(cut.kept.join(path.file_name().unwrap())).unwrap(), bytes, "what is dropped is kept");
        let mut aggregator = on(damaged.path(), &histories);
        came_again += send_the_rest(&mut aggregator, &histories);
        assert_eq!(cells(&aggregator), whole, "damage at byte {at}");
    }
    assert!(came_again > 0, "void: no record was behind the damage");
    assert_eq!(repair(folder.path()).unwrap(), None, "of a log that is whole nothing is cut");
}
