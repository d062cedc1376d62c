//! Damage of a database (PROC-P8): whatever happens to its files, it is refused, or a question is answered with DATA_LOSS, or
//! the answer is right. Never a wrong number, never a panic; what was torn off is made good by the records that agents send
//! again. `DAMAGES=1000 SEED=…` is the long form: each seed damages other places.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions that tests call may fail the test")]
#![allow(clippy::print_stdout, reason = "a rig prints its seed first and its figures last")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use joulebook_aggregator::store::rocks::RocksStore;
use joulebook_aggregator::store::{Book, LostRecords, Resolution, Run, Store, StoreError, StoredGap};
use joulebook_sci::Cell;
use joulebook_tests::aggregator::Aggregator;
use joulebook_tests::chaos::{Random, folder_in_memory, setting};
use joulebook_tests::history::{BOOTED, History, history, step};
use joulebook_units::{StreamId, UnixNanos, Window};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use tempfile::TempDir;

const DAMAGES: u64 = 60;
/// Of a run that names none: what `make test` says must not depend on the hour.
const SEED: u64 = 1;
/// Longest time that a damaged database may take to be refused, or asked and filled again: it takes half a second.
const PATIENCE: Duration = Duration::from_secs(120);
const NODES: u8 = 2;
/// One more node, whose records are sent after the damage: storing goes on.
const MORE: u8 = 1;
const STEPS: usize = 400;
/// Seconds that one question is about.
const ASKED_SECONDS: i64 = 600;

/// What became of a damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// The database does not open.
    Refused,
    /// It opens, and some of it is answered with DATA_LOSS.
    DataLoss,
    /// It opens as it was before its last records, which are sent again.
    Rewound,
    /// Nothing is lost.
    Right,
}

/// Rows and gaps of one node in one window.
type Rows = (Vec<Run>, (Vec<StoredGap>, Vec<LostRecords>));

/// Everything that answers are made of.
#[derive(Debug, Default)]
struct Truth {
    rows: BTreeMap<(u32, UnixNanos), Rows>,
    cells: BTreeMap<(u32, Resolution, UnixNanos), Cell>,
    marks: BTreeMap<StreamId, u64>,
}

/// An answer, or none where the data are damaged. No other failure is one of the data.
fn unless_damaged<T>(answer: Result<T, StoreError>, losses: &mut u64) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(StoreError::Damaged { .. } | StoreError::Io { .. } | StoreError::Latched { .. }) => {
            *losses += 1;
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

fn histories() -> Vec<History> {
    let mut runner = TestRunner::deterministic();
    let mut steps = || proptest::collection::vec(step(), STEPS).new_tree(&mut runner).unwrap().current();
    (0..NODES + MORE).map(|index| history(index, &steps())).collect()
}

fn windows(aggregator: &Aggregator) -> Vec<Window> {
    let all = Window::new(UnixNanos(BOOTED), aggregator.now.plus_seconds(60)).unwrap();
    all.slots(ASKED_SECONDS).collect()
}

fn rows(book: &Book, node: u32, window: Window) -> Result<Rows, StoreError> {
    Ok((book.runs(node, window)?, book.gaps(node, window)?))
}

fn marks(book: &Book) -> BTreeMap<StreamId, u64> {
    book.status().streams.iter().map(|stream| (stream.id, stream.acked)).collect()
}

fn on(folder: &Path, histories: &[History]) -> Result<(Arc<RocksStore>, Aggregator), StoreError> {
    let store = Arc::new(RocksStore::open(folder)?);
    let aggregator = Aggregator::on(Arc::clone(&store) as Arc<dyn Store>, histories)?;
    Ok((store, aggregator))
}

/// A database that is only asked.
fn asked(folder: &Path) -> Result<(Arc<RocksStore>, Book), StoreError> {
    let store = Arc::new(RocksStore::open(folder)?);
    let book = Book::open(Arc::clone(&store) as Arc<dyn Store>)?;
    Ok((store, book))
}

/// A database as it is on an ordinary day: some of it in table files, some only in the log.
fn golden(folder: &Path, histories: &[History]) -> Truth {
    for part in [0, 40, 70, 85, 100].windows(2) {
        let (_, mut aggregator) = on(folder, histories).unwrap();
        for (index, history) in histories.iter().enumerate().take(NODES.into()) {
            let place = |percent: usize| history.batches.len() * percent / 100;
            (place(part[0])..place(part[1])).for_each(|record| aggregator.send(index, history, record));
        }
        aggregator.settle();
    }
    // Opening it again would write what is in the log to table files: a copy is read.
    let copy = folder_in_memory().unwrap();
    copy_files(folder, copy.path());
    let (_, aggregator) = on(copy.path(), histories).unwrap();
    let mut truth = Truth { marks: marks(&aggregator.book), ..Truth::default() };
    for node in 0..u32::from(NODES) {
        for window in windows(&aggregator) {
            truth.rows.insert((node, window.start()), rows(&aggregator.book, node, window).unwrap());
        }
        for ((resolution, start), cell) in aggregator.cells(node as usize) {
            truth.cells.insert((node, resolution, start), cell);
        }
    }
    truth
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
    files.sort();
    files
}

fn copy_files(from: &Path, to: &Path) {
    for file in files(from) {
        std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

/// Whether a file is RocksDB's log of events, which nobody reads.
fn is_event_log(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("LOG"))
}

/// Changes one file at random and says how.
fn damage(folder: &Path, random: &mut Random) -> String {
    let files: Vec<PathBuf> = files(folder)
        .into_iter()
        .filter(|path| !is_event_log(path) && path.metadata().is_ok_and(|data| data.len() > 0))
        .collect();
    let path = &files[random.below(files.len() as u64) as usize];
    let mut bytes = std::fs::read(path).unwrap();
    let (length, at) = (bytes.len() as u64, random.below(bytes.len() as u64) as usize);
    let what = match random.below(5) {
        0 => {
            bytes[at] ^= 1 << random.below(8);
            format!("bit of byte {at} flipped")
        }
        1 => {
            let end = bytes.len().min(at + 512);
            bytes[at..end].fill(0);
            format!("bytes {at} to {end} zeroed")
        }
        2 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        3 => {
            let many = 1 + random.below(4_096);
            bytes.extend((0..many).map(|_| random.next().to_le_bytes()[0]));
            format!("{many} bytes of garbage at the end")
        }
        _ => {
            let size = (1 + random.below(4_096)).min(length / 2).max(1) as usize;
            let (a, b) = (random.below(length - 2 * size as u64 + 1) as usize, bytes.len() - size);
            for offset in 0..size {
                bytes.swap(a + offset, b + offset);
            }
            format!("{size} bytes at {a} and {b} swapped")
        }
    };
    std::fs::write(path, bytes).unwrap();
    format!("{}: {what}", path.file_name().unwrap().to_string_lossy())
}

/// Holds what a damaged database says against the truth.
fn judge(folder: &Path, histories: &[History], truth: &Truth) -> Outcome {
    let mut losses = 0;
    let Some((store, book)) = unless_damaged_or_refused(asked(folder)) else {
        return Outcome::Refused;
    };
    let found = marks(&book);
    let stored = |run: &&Run| found.get(&run.stream).is_some_and(|mark| run.sequence <= *mark);
    for ((node, start), (runs, gaps)) in &truth.rows {
        let window = Window::new(*start, start.plus_seconds(ASKED_SECONDS)).unwrap();
        let known = runs.iter().filter(stored).cloned().collect::<Vec<_>>();
        let Some((told, told_gaps)) = unless_damaged(rows(&book, *node, window), &mut losses) else { continue };
        assert_eq!(told, known, "rows of node {node} at {start:?}");
        assert!(found != truth.marks || told_gaps == *gaps, "gaps of node {node} at {start:?}");
    }
    for (id, mark) in &truth.marks {
        assert!(found.get(id).unwrap_or(&0) <= mark, "a mark that was never given");
    }
    let rewound = found != truth.marks;

    // Agents send what they still hold behind the mark; then everything is as it was.
    let sent = || -> Result<Aggregator, StoreError> {
        let mut aggregator = Aggregator::on(Arc::clone(&store) as Arc<dyn Store>, histories)?;
        for (index, history) in histories.iter().enumerate() {
            for record in 0..history.batches.len() {
                let (stream, sequence) = history.place(record);
                if sequence > found.get(&stream).copied().unwrap_or(0) {
                    aggregator.try_send(index, history, record)?;
                }
            }
        }
        aggregator.try_settle()?;
        Ok(aggregator)
    };
    if let Some(aggregator) = unless_damaged(sent(), &mut losses) {
        for ((node, start), (runs, gaps)) in &truth.rows {
            let window = Window::new(*start, start.plus_seconds(ASKED_SECONDS)).unwrap();
            let Some(told) = unless_damaged(rows(&aggregator.book, *node, window), &mut losses) else { continue };
            assert_eq!(told, (runs.clone(), gaps.clone()), "rows of node {node} at {start:?} at the end");
        }
        for ((node, resolution, start), cell) in &truth.cells {
            let told = unless_damaged(aggregator.book.cell(*node, *resolution, *start), &mut losses);
            assert!(told.is_none_or(|told| told.as_ref() == Some(cell)), "{resolution:?} of node {node} at {start:?}");
        }
    }
    let checked = store.check(&|_, _| ControlFlow::Continue(())).unwrap();
    assert!(
        losses == 0 || !checked.damages.is_empty(),
        "an answer was DATA_LOSS and a look at everything finds nothing"
    );
    match (losses, rewound) {
        (0, false) => Outcome::Right,
        (0, true) => Outcome::Rewound,
        _ => Outcome::DataLoss,
    }
}

fn unless_damaged_or_refused<T>(opened: Result<T, StoreError>) -> Option<T> {
    match opened {
        Err(StoreError::NotOurs { .. }) => None,
        opened => unless_damaged(opened, &mut 0),
    }
}

/// What a test holds damaged databases against.
struct Sound {
    histories: Vec<History>,
    folder: TempDir,
    truth: Truth,
}

impl Sound {
    fn new() -> Arc<Self> {
        let (histories, folder) = (histories(), folder_in_memory().unwrap());
        let truth = golden(folder.path(), &histories);
        Arc::new(Self { histories, folder, truth })
    }

    /// Judges a copy that is damaged by `damage`, which says how. A database that is neither refused nor answers is a
    /// failure like a wrong answer.
    fn judged(self: &Arc<Self>, damage: impl FnOnce(&Path) -> String) -> Outcome {
        let folder = folder_in_memory().unwrap();
        copy_files(self.folder.path(), folder.path());
        let what = damage(folder.path());
        let (sound, path, (said, answer)) = (Arc::clone(self), folder.path().to_owned(), mpsc::channel());
        let judge = thread::spawn(move || said.send(judge(&path, &sound.histories, &sound.truth)));
        match answer.recv_timeout(PATIENCE) {
            Ok(outcome) => outcome,
            Err(mpsc::RecvTimeoutError::Disconnected) => panic!("{what}: {:?}", judge.join()),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                // Kept, to be looked at.
                panic!("{what}: neither refused nor answered after {PATIENCE:?}, see {}", folder.keep().display())
            }
        }
    }
}

#[test]
fn b82_a_damaged_database_is_refused_or_says_data_loss_or_is_right() {
    let (seed, damages) = (setting("SEED", SEED).unwrap(), setting("DAMAGES", DAMAGES).unwrap());
    println!("\nP8: {damages} damages of a database, SEED={seed}");
    let sound = Sound::new();
    assert!(
        sound.truth.cells.len() > 100
            && files(sound.folder.path()).iter().any(|file| file.extension().is_some_and(|e| e == "sst"))
    );
    let mut outcomes: BTreeMap<Outcome, u64> = BTreeMap::new();
    for number in 0..damages {
        let mut random = Random::new(seed.wrapping_mul(1 << 20).wrapping_add(number));
        let outcome = sound.judged(|folder| format!("SEED={seed}, damage {number}: {}", damage(folder, &mut random)));
        *outcomes.entry(outcome).or_default() += 1;
    }
    println!("P8 database | seed {seed} | {damages} damages | {outcomes:?}");
    assert!(
        outcomes.contains_key(&Outcome::Refused) && outcomes.contains_key(&Outcome::DataLoss),
        "void: {outcomes:?}"
    );
}

/// Ends of the records of RocksDB's log format in a file: blocks of 32 KiB, records of checksum, length, kind and data.
fn record_ends(bytes: &[u8]) -> Vec<usize> {
    const BLOCK: usize = 32 << 10;
    const HEADER: usize = 7;
    let (mut ends, mut at) = (Vec::new(), 0);
    while let Some(header) = bytes.get(at..at + HEADER) {
        if BLOCK - at % BLOCK < HEADER {
            at = at.next_multiple_of(BLOCK);
            continue;
        }
        at += HEADER + usize::from(u16::from_le_bytes([header[4], header[5]]));
        ends.push(at);
    }
    ends
}

#[test]
fn a_list_of_files_that_ends_after_any_of_its_records_is_refused_or_right() {
    let sound = Sound::new();
    let is_list = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("MANIFEST"));
    let list = files(sound.folder.path()).into_iter().find(|path| is_list(path)).unwrap();
    let bytes = std::fs::read(&list).unwrap();
    let ends = record_ends(&bytes);
    assert!(ends.len() > 10 && ends.last() == Some(&bytes.len()), "{ends:?} of {}", bytes.len());
    for end in ends {
        let outcome = sound.judged(|folder| {
            std::fs::write(folder.join(list.file_name().unwrap()), &bytes[..end]).unwrap();
            format!("the list of files cut at {end} of {}", bytes.len())
        });
        let expected = if end == bytes.len() { Outcome::Right } else { Outcome::Refused };
        assert_eq!(outcome, expected, "cut at {end} of {}", bytes.len());
    }
}
