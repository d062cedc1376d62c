//! Cells that lie together say what they said by themselves.

use super::*;
use crate::store::book::SEALED_SECONDS;
use crate::store::{Table, Writes};
use std::fs::{self, File};
use std::path::Path;

/// Minutes of which there are cells: an hour, which is over, and a half.
const MINUTES: i64 = 90;
/// A minute without a cell.
const MISSING: i64 = 7;

type Cells = Vec<(Resolution, UnixNanos, Cell)>;

/// A cell like no other.
fn of_minute(number: i64) -> Cell {
    let (mut cell, number) = (cell(), number.unsigned_abs());
    cell.sources.values_mut().for_each(|used| used.microjoules = 1_000_000 * number * number + number);
    cell.workloads.values_mut().for_each(|used| used.cpu_nanos = 59_000_000_000 - number * 7_919);
    if number.is_multiple_of(3) {
        cell.services.clear();
    }
    cell
}

impl Rig {
    /// Cells of both lengths from the begin of the hour on, settled, the first hour over.
    fn with_cells(mut self) -> (Self, UnixNanos) {
        assert_eq!(self.record(1, steady(901..906, 1..2)), acked(1));
        let hour = self.clock().floor_to(SEALED_SECONDS);
        let minutes = (0..MINUTES).filter(|minute| *minute != MISSING);
        let minutes = minutes.map(|minute| (Resolution::Minute, hour.plus_seconds(60 * minute), of_minute(minute)));
        let settled =
            (0..MINUTES / 5).map(|slot| (Resolution::Settled, hour.plus_seconds(300 * slot), of_minute(-slot)));
        self.settle(&minutes.chain(settled).collect::<Vec<_>>());
        self.now += SEALED_SECONDS.unsigned_abs();
        (self, hour)
    }

    /// How many cells are put together.
    fn together(&self) -> usize {
        self.book.seal(self.clock(), &|| false).expect("seal").cells
    }

    fn keys(&self, resolution: Resolution) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        let visit: &mut Visit<'_> = &mut |key, _| {
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        };
        self.store.scan(resolution.table(), &[]..&[0xff; 32], Direction::Forward, visit).expect("scan");
        keys
    }

    /// Cells that begin in a window, of both lengths.
    fn told(&self, window: Window) -> Cells {
        let of = |resolution| {
            let cells = self.book.cells(0, resolution, window).expect("cells");
            cells.into_iter().map(move |(start, cell)| (resolution, start, cell))
        };
        of(Resolution::Minute).chain(of(Resolution::Settled)).collect()
    }
}

/// Windows within an hour, over its end, and between cells.
fn windows(hour: UnixNanos) -> Vec<Window> {
    let spans = [
        (-600, 9_000),
        (0, 60),
        (60, 120),
        (30, 90),
        (61, 119),
        (420, 480),
        (3_300, 3_900),
        (3_540, 7_200),
        (3_600, 3_660),
        (300, 3_600),
        (-60, 0),
    ];
    let window = |(from, to)| Window::new(hour.plus_seconds(from), hour.plus_seconds(to)).expect("ordered");
    spans.map(window).to_vec()
}

fn all(hour: UnixNanos) -> Window {
    windows(hour)[0]
}

#[test]
fn cells_of_an_hour_that_is_over_lie_together_and_say_the_same() {
    let (mut rig, hour) = Rig::open().with_cells();
    let before: Vec<Cells> = windows(hour).into_iter().map(|window| rig.told(window)).collect();
    assert_eq!(before[0].len(), 89 + 18);
    assert_eq!(rig.together(), 59 + 12);
    let (minutes, settled) = (rig.keys(Resolution::Minute), rig.keys(Resolution::Settled));
    assert_eq!((minutes.len(), settled.len()), (1 + 30, 1 + 6), "the second hour is not over");
    for _ in 0..2 {
        let after: Vec<Cells> = windows(hour).into_iter().map(|window| rig.told(window)).collect();
        assert_eq!(after, before);
        for (resolution, start, cell) in &before[0] {
            assert_eq!(rig.book.cell(0, *resolution, *start).expect("cell").as_ref(), Some(cell), "{start:?}");
        }
        for absent in [60 * MISSING, 60 * MINUTES, 30, -60] {
            let start = hour.plus_seconds(absent);
            assert_eq!(rig.book.cell(0, Resolution::Minute, start).expect("cell"), None, "{absent}");
        }
        assert_eq!(rig.together(), 0, "they lie together");
        rig.restart();
    }
}

#[test]
fn a_cell_that_is_settled_anew_is_taken_out_of_its_hour_until_that_is_put_together_again() {
    let (mut rig, hour) = Rig::open().with_cells();
    assert_eq!(rig.together(), 59 + 12);
    let mut expected = rig.told(all(hour));
    rig.now -= SEALED_SECONDS.unsigned_abs();
    assert_eq!(rig.record(2, steady(906..911, 1..2)), acked(2));
    rig.now += SEALED_SECONDS.unsigned_abs();
    assert_eq!(rig.together(), 0, "the hour has changed cells");
    // The first of the hour, whose key was that of all of them, one that was missing, and one in between.
    for minute in [0, MISSING, 29] {
        let (start, new) = (hour.plus_seconds(60 * minute), of_minute(1_000 + minute));
        expected.retain(|(resolution, known, _)| (*resolution, *known) != (Resolution::Minute, start));
        expected.push((Resolution::Minute, start, new.clone()));
        rig.settle(&[(Resolution::Minute, start, new)]);
        expected.sort_by_key(|(resolution, start, _)| (*resolution, *start));
        assert_eq!(rig.told(all(hour)), expected, "minute {minute}");
    }
    assert_eq!((rig.keys(Resolution::Minute).len(), rig.keys(Resolution::Settled).len()), (60 + 30, 1 + 6));
    assert_eq!(rig.together(), 60);
    assert_eq!((rig.told(all(hour)), rig.keys(Resolution::Minute).len()), (expected, 1 + 30));
}

#[test]
fn hours_whose_first_minute_is_missing_are_taken_apart_as_well() {
    let (mut rig, hour) = Rig::open().with_cells();
    let first = key::cell(0, hour);
    let mut writes = Writes::default();
    writes.delete(Table::Cells, first);
    rig.store.commit(writes, Durability::Buffered).expect("commit");
    assert_eq!(rig.together(), 58 + 12);
    let mut expected = rig.told(all(hour));
    assert_eq!(expected[0].1, hour.plus_seconds(60));
    expected[9].2 = of_minute(1_000);
    rig.settle(&expected[9..10]);
    rig.restart();
    assert_eq!(rig.told(all(hour)), expected);
    assert!(!rig.keys(Resolution::Minute).contains(&first.to_vec()));
}

fn copy_files(from: &Path, to: &Path) -> (std::path::PathBuf, u64) {
    let mut logs = Vec::new();
    for entry in fs::read_dir(from).expect("list").map(|entry| entry.expect("entry").path()) {
        let copy = to.join(entry.file_name().expect("named"));
        fs::copy(&entry, &copy).expect("copied");
        if copy.extension().is_some_and(|end| end == "log") {
            logs.push(copy);
        }
    }
    logs.sort();
    let last = logs.pop().expect("a log");
    let length = fs::metadata(&last).expect("length").len();
    (last, length)
}

#[test]
fn a_power_cut_while_cells_are_put_together_or_taken_apart_leaves_none_twice_and_loses_none() {
    let folder = tempfile::tempdir().expect("tempdir");
    let mut rig = Rig::new(Arc::new(RocksStore::open(folder.path()).expect("open")));
    rig.hello();
    let (rig, hour) = rig.with_cells();
    let length = || {
        let copy = tempfile::tempdir().expect("tempdir");
        copy_files(folder.path(), copy.path()).1
    };
    let before = (length(), rig.told(all(hour)));
    assert_eq!(rig.together(), 59 + 12);
    let together = length();
    let mut after = before.1.clone();
    after[3].2 = of_minute(1_000);
    rig.settle(&after[3..4]);
    let apart = length();
    assert!(before.0 < together && together < apart);
    for step in 0..=24 {
        let end = before.0 + (apart - before.0) * step / 24;
        let copy = tempfile::tempdir().expect("tempdir");
        let (log, _) = copy_files(folder.path(), copy.path());
        File::options().write(true).open(log).and_then(|log| log.set_len(end)).expect("cut");
        let left = Rig::new(Arc::new(RocksStore::open(copy.path()).expect("opens")));
        let told = left.told(all(hour));
        assert_eq!(told, if end == apart { after.clone() } else { before.1.clone() }, "cut at {end}");
        let keys = left.keys(Resolution::Minute).len();
        assert!(keys == 89 || keys == 31, "{keys} keys, cut at {end}");
        let missing = hour.plus_seconds(60 * MISSING);
        assert_eq!(left.book.cell(0, Resolution::Minute, missing).expect("cell"), None);
    }
}

#[test]
fn cells_that_lie_together_go_with_their_hour() {
    let (rig, hour) = Rig::open().with_cells();
    assert_eq!(rig.together(), 59 + 12);
    let periods = retention::Periods::default();
    for (resolution, period, together) in
        [(Resolution::Minute, periods.minutes, 31), (Resolution::Settled, periods.settled, 7)]
    {
        let age = i64::try_from(period.as_secs()).expect("small");
        retention::apply(&rig.book, &periods, hour.plus_seconds(age + SEALED_SECONDS - 1)).expect("retention");
        assert_eq!(rig.keys(resolution).len(), together, "a part of an hour does not go by itself");
        retention::apply(&rig.book, &periods, hour.plus_seconds(age + SEALED_SECONDS)).expect("retention");
        assert_eq!(rig.keys(resolution).len(), together - 1);
        let left = rig.book.cells(0, resolution, all(hour)).expect("cells");
        assert_eq!(left[0].0, hour.plus_seconds(SEALED_SECONDS));
    }
}

#[test]
fn a_damaged_hour_of_cells_is_damage_in_all_of_it_and_nowhere_else() {
    let (rig, hour) = Rig::open().with_cells();
    assert_eq!(rig.together(), 59 + 12);
    let key = key::cell(0, hour);
    let whole = rig.store.get(Table::Cells, &key).expect("get").expect("an hour");
    let later = Window::new(hour.plus_seconds(SEALED_SECONDS), rig.clock()).expect("ordered");
    let elsewhere = rig.told(later);
    for place in [0, 1, 9, whole.len() / 2, whole.len() - 1] {
        let (mut value, mut writes) = (whole.clone(), Writes::default());
        value[place] ^= 1;
        writes.put(Table::Cells, key, value);
        rig.store.commit(writes, Durability::Buffered).expect("commit");
        let damaged = |result: Result<(), StoreError>, what: &str| {
            assert!(matches!(result, Err(StoreError::Damaged { .. })), "byte {place}, {what}: {result:?}");
        };
        for minute in [0, MISSING, 30] {
            let start = hour.plus_seconds(60 * minute);
            damaged(rig.book.cell(0, Resolution::Minute, start).map(drop), "a cell");
            let window = Window::new(start, start.plus_seconds(60)).expect("ordered");
            damaged(rig.book.cells(0, Resolution::Minute, window).map(drop), "a window");
            let settled = rig.book.settle(0, &[(Resolution::Minute, start, cell())], &[]);
            damaged(settled, "settled anew");
        }
        assert_eq!(rig.told(later), elsewhere);
        assert_eq!(rig.book.cells(0, Resolution::Settled, all(hour)).expect("others").len(), 18);
    }
}
