//! The open batch: values by series, linked to the ones before, until enough rows are together.
//!
//! Pure. A series' run goes on from batch to batch by its last point; a hole starts a new run, which says from where
//! it is known, if it is. A new stream goes on with the same runs, but its cumulative values begin at 0: what a series had
//! reached is taken off when a batch is closed, and nowhere else.

use joulebook_units::{Batch, BootId, BootNanos, Column, EnergyGap, Point, Subject, UnixNanos};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A series that was not used in so many batches is defined again: the spool may have forgotten what it means.
const DEFINED_BATCHES: u64 = 128;

/// Values kept free in a batch beyond those of its last row, for series that begin.
const SPARE_SAMPLES: usize = 256;

/// A batch that is complete, and the series it is the first to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The batch.
    pub batch: Batch,
    /// New series.
    pub new_series: Vec<(u32, Subject)>,
}

/// Numbers the series of a stream and collects their points.
#[derive(Debug)]
pub struct Book {
    boot: BootId,
    batch_rows: usize,
    ids: BTreeMap<Arc<Subject>, u32>,
    subjects: HashMap<u32, Arc<Subject>>,
    next: u32,
    /// Batches closed, and the one in which each series was last used in this stream.
    batches: u64,
    used: HashMap<u32, u64>,
    /// What cumulative series had reached when the stream began.
    origins: HashMap<u32, u64>,
    last: HashMap<u32, Point>,
    wall: UnixNanos,
    rows: Vec<BootNanos>,
    columns: BTreeMap<u32, Vec<Column>>,
    gaps: Vec<EnergyGap>,
    samples: usize,
    samples_of_row: usize,
    dropped: u64,
}

impl Book {
    /// A book whose batches close after `batch_rows` rows (1 to 64). `dictionary` holds the series of the stream so far.
    pub fn new(boot: BootId, batch_rows: usize, dictionary: &BTreeMap<u32, Subject>) -> Self {
        Self {
            boot,
            batch_rows: batch_rows.clamp(1, Batch::MAX_ROWS),
            ids: dictionary.iter().map(|(id, subject)| (Arc::new(subject.clone()), *id)).collect(),
            subjects: dictionary.iter().map(|(id, subject)| (*id, Arc::new(subject.clone()))).collect(),
            next: dictionary.keys().next_back().map_or(1, |last| last.saturating_add(1)),
            batches: 0,
            used: dictionary.keys().map(|id| (*id, 0)).collect(),
            origins: HashMap::new(),
            last: HashMap::new(),
            wall: UnixNanos(0),
            rows: Vec::new(),
            columns: BTreeMap::new(),
            gaps: Vec::new(),
            samples: 0,
            samples_of_row: 0,
            dropped: 0,
        }
    }

    /// Number of a series: one for each subject for the life of the stream.
    pub fn series(&mut self, subject: &Subject) -> u32 {
        if let Some(id) = self.ids.get(subject) {
            return *id;
        }
        let id = self.next;
        self.next = self.next.saturating_add(1);
        let subject = Arc::new(subject.clone());
        self.subjects.insert(id, Arc::clone(&subject));
        self.ids.insert(subject, id);
        id
    }

    /// Begins a new stream; the open batch must be closed. Values of cumulative series count from here on.
    pub fn begin_stream(&mut self) {
        self.used.clear();
        let cumulative = |series: &u32| self.subjects.get(series).is_some_and(|subject| subject.is_cumulative());
        let reached = self.last.iter().filter(|(series, _)| cumulative(series));
        self.origins = reached.map(|(series, point)| (*series, point.value)).collect();
    }

    /// A cumulative value as the stream has it.
    pub fn in_stream(&self, series: u32, value: u64) -> u64 {
        value.saturating_sub(self.origins.get(&series).copied().unwrap_or(0))
    }

    /// The definitions of those series that the stream does not have, or may have forgotten. They count as used now.
    pub fn define(&mut self, series: impl IntoIterator<Item = u32>) -> Vec<(u32, Subject)> {
        let (now, mut new) = (self.batches, Vec::new());
        for id in series {
            let before = self.used.insert(id, now);
            if before.is_none_or(|before| now - before > DEFINED_BATCHES) {
                new.extend(self.subjects.get(&id).map(|subject| (id, Subject::clone(subject))));
            }
        }
        new
    }

    /// Series of subjects that may end, which had no value for more than `nanos` before `now`.
    pub fn unused(&self, now: BootNanos, nanos: u64, may_end: impl Fn(&Subject) -> bool) -> Vec<u32> {
        let last = |id: &u32| self.last.get(id).map_or(0, |point| point.at.0);
        let old =
            self.subjects.iter().filter(|(id, subject)| now.0.saturating_sub(last(id)) > nanos && may_end(subject));
        old.map(|(id, _)| *id).collect()
    }

    /// Forgets a series, which the open batch must not use. The same subject gets a new number if it comes back.
    pub fn forget(&mut self, series: u32) {
        if let Some(subject) = self.subjects.remove(&series) {
            self.ids.remove(&subject);
        }
        self.used.remove(&series);
        self.last.remove(&series);
        self.origins.remove(&series);
    }

    /// The last point of a series in this boot.
    pub fn last(&self, series: u32) -> Option<Point> {
        self.last.get(&series).copied()
    }

    /// Says that a series is known up to `point`, from an earlier run of the agent in the same boot.
    pub fn resume(&mut self, series: u32, point: Point) {
        self.last.insert(series, point);
    }

    /// Values that found no place because a batch holds at most 4,096.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Begins a row. Gives the batch that must close before it, if one must.
    pub fn begin_row(&mut self, at: BootNanos, wall: UnixNanos) -> Option<Page> {
        let first = self.rows.first().copied().unwrap_or(at);
        let long = at.0.saturating_sub(first.0) > Batch::MAX_SPAN_NANOS;
        let full = self.samples + self.samples_of_row + SPARE_SAMPLES > Batch::MAX_SAMPLES && !self.rows.is_empty();
        let page = if long || full { self.close() } else { None };
        if self.rows.is_empty() {
            self.wall = wall;
        }
        self.samples_of_row = 0;
        self.rows.push(at);
        page
    }

    /// Ends a row. Gives the batch if it is complete.
    pub fn end_row(&mut self) -> Option<Page> {
        if self.rows.len() >= self.batch_rows { self.close() } else { None }
    }

    /// Adds a point to a series' run. A point that is not later than the last one is left out.
    pub fn extend(&mut self, series: u32, point: Point) {
        match self.last(series) {
            Some(last) if last.at >= point.at => {}
            Some(last) if self.columns.contains_key(&series) => self.push(series, Some(last), point, false),
            before => self.push(series, before, point, true),
        }
    }

    /// Begins a new run, behind a hole or for a new series; it is known from `from` on, if that is told.
    pub fn start(&mut self, series: u32, from: Option<Point>, point: Point) {
        let from = from.filter(|from| from.at < point.at && from.value <= point.value);
        if self.last(series).is_none_or(|last| last.at < point.at) {
            self.push(series, from, point, true);
        }
    }

    fn push(&mut self, series: u32, before: Option<Point>, point: Point, new_run: bool) {
        let Some(first) = self.rows.first().copied() else { return };
        if self.samples + 2 > Batch::MAX_SAMPLES {
            self.dropped += 1;
            return;
        }
        let runs = self.columns.entry(series).or_default();
        if new_run {
            // A run that begins inside the batch begins with a point; one that goes on from before it, with a link.
            let inside = before.filter(|before| before.at > first);
            let previous = before.filter(|before| before.at <= first);
            self.samples += inside.iter().count();
            runs.push(Column { series, previous, points: inside.into_iter().collect() });
        }
        let Some(run) = runs.last_mut() else { return };
        if run.points.len() >= self.rows.len() {
            // One value a row: the later one stands for both.
            run.points.pop();
            self.samples -= 1;
        }
        run.points.push(point);
        self.samples += 1;
        self.samples_of_row += 1;
        self.last.insert(series, point);
    }

    /// Declares energy unknown.
    pub fn gap(&mut self, gap: EnergyGap) {
        self.gaps.push(gap);
    }

    /// Closes the open batch; nothing if it has no row.
    pub fn close(&mut self) -> Option<Page> {
        if self.rows.is_empty() {
            return None;
        }
        self.samples = 0;
        self.batches += 1;
        let mut columns: Vec<_> = std::mem::take(&mut self.columns).into_values().flatten().collect();
        let gaps = std::mem::take(&mut self.gaps);
        let new_series =
            self.define(columns.iter().map(|column| column.series).chain(gaps.iter().map(|gap| gap.series)));
        for column in &mut columns {
            if let Some(origin) = self.origins.get(&column.series) {
                let points = column.previous.iter_mut().chain(&mut column.points);
                points.for_each(|point| point.value = point.value.saturating_sub(*origin));
            }
        }
        let (boot, wall, rows) = (self.boot, self.wall, std::mem::take(&mut self.rows));
        Some(Page { batch: Batch { boot, wall, rows, columns, gaps }, new_series })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn point(second: u64, value: u64) -> Point {
        Point { at: BootNanos(second * SECOND), value }
    }

    fn book(rows: usize) -> Book {
        Book::new(BootId([1; 16]), rows, &BTreeMap::new())
    }

    fn row(book: &mut Book, second: u64, value: u64) -> Option<Page> {
        let before = book.begin_row(BootNanos(second * SECOND), UnixNanos(0));
        let series = book.series(&Subject::NodeMemoryUsed);
        book.extend(series, point(second, value));
        before.or(book.end_row())
    }

    #[test]
    fn a_run_goes_on_from_batch_to_batch() {
        let mut book = book(2);
        assert!(row(&mut book, 1, 10).is_none());
        let first = row(&mut book, 2, 20).expect("complete");
        assert_eq!(first.new_series, [(1, Subject::NodeMemoryUsed)]);
        assert_eq!(
            first.batch.columns,
            [Column { series: 1, previous: None, points: vec![point(1, 10), point(2, 20)] }]
        );
        row(&mut book, 3, 30);
        let second = row(&mut book, 4, 40).expect("complete");
        assert_eq!(second.batch.columns[0].previous, Some(point(2, 20)));
        assert!(second.new_series.is_empty());
    }

    #[test]
    fn a_hole_makes_two_columns() {
        let mut book = book(3);
        row(&mut book, 1, 10);
        book.begin_row(BootNanos(3 * SECOND), UnixNanos(0));
        book.start(1, Some(point(2, 10)), point(3, 15));
        book.end_row();
        let page = row(&mut book, 4, 20).expect("complete");
        let points: Vec<_> = page.batch.columns.iter().map(|column| column.points.clone()).collect();
        assert_eq!(points, [vec![point(1, 10)], vec![point(2, 10), point(3, 15), point(4, 20)]]);
        assert!(page.batch.columns.iter().all(|column| column.points.len() <= page.batch.rows.len()));
    }

    #[test]
    fn no_batch_is_longer_than_a_minute_or_larger_than_its_limit() {
        let mut book = book(64);
        assert!(row(&mut book, 1, 1).is_none());
        assert!(row(&mut book, 61, 2).is_none());
        let page = row(&mut book, 62, 3).expect("closed before the row");
        assert_eq!(page.batch.rows.len(), 2);
        let mut wide = self::book(64);
        let mut pages = Vec::new();
        for second in 1..=10 {
            pages.extend(wide.begin_row(BootNanos(second * SECOND), UnixNanos(0)));
            for series in 1..=1_000 {
                wide.extend(series, point(second, second));
            }
            pages.extend(wide.end_row());
        }
        assert!(pages.iter().all(|page| page.batch.samples() <= Batch::MAX_SAMPLES));
        assert_eq!(wide.dropped(), 0);
        assert!(pages.len() >= 3);
    }

    #[test]
    fn numbers_of_a_recovered_stream_stay() {
        let dictionary = BTreeMap::from([(7, Subject::NodeMemoryUsed)]);
        let mut book = Book::new(BootId([1; 16]), 5, &dictionary);
        assert_eq!(book.series(&Subject::NodeMemoryUsed), 7);
        assert_eq!(book.series(&Subject::Memory { workload: "x".to_owned() }), 8);
    }

    #[test]
    fn a_series_is_defined_again_after_a_pause_and_in_a_new_stream() {
        let mut book = book(1);
        let defined = |book: &mut Book, second: u64, use_it: bool| {
            book.begin_row(BootNanos(second * SECOND), UnixNanos(0));
            if use_it {
                let series = book.series(&Subject::NodeMemoryUsed);
                book.extend(series, point(second, second));
            }
            book.end_row().expect("complete").new_series.len()
        };
        assert_eq!(defined(&mut book, 1, true), 1);
        assert_eq!(defined(&mut book, 2, true), 0);
        (3..=DEFINED_BATCHES + 1).for_each(|second| assert_eq!(defined(&mut book, second, false), 0));
        assert_eq!(defined(&mut book, DEFINED_BATCHES + 2, true), 0, "the spool knows it yet");
        (0..DEFINED_BATCHES).for_each(|n| assert_eq!(defined(&mut book, DEFINED_BATCHES + 3 + n, false), 0));
        assert_eq!(defined(&mut book, 1000, true), 1);
        book.begin_stream();
        assert_eq!(defined(&mut book, 1001, true), 1);
    }

    #[test]
    fn held_values_keep_theirs_in_a_new_stream() {
        let mut book = book(1);
        row(&mut book, 1, 10);
        book.begin_stream();
        let page = row(&mut book, 2, 12).expect("complete");
        assert_eq!(
            page.batch.columns,
            [Column { series: 1, previous: Some(point(1, 10)), points: vec![point(2, 12)] }]
        );
    }
}
