//! The points of one series, record after record in one column, with the places where they do not go on.
//!
//! Instants and values lie apart: series that are read together have one list of instants, and values are as they were
//! unpacked. A point before a record that is the last one of the record before is there once.

use super::row::{StampedValue, StoredColumn};
use joulebook_units::{UnixNanos, Window};
use std::ops::Range;
use std::sync::Arc;

/// What records of one stream say of a series, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Column {
    times: Arc<[UnixNanos]>,
    values: Vec<u64>,
    /// Of each record, where its points end.
    ends: Arc<[usize]>,
    starts: Vec<Start>,
}

/// The first record of a stretch, by its place among those of the column, and the point before it from which it goes on.
type Start = (usize, Option<StampedValue>);

impl Column {
    /// Points in the records.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether no record says anything.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The stretches, at least one if there is a point, each with one at least.
    pub fn stretches(&self) -> impl Iterator<Item = Stretch<'_>> {
        let ends = self.starts.iter().skip(1).map(|(record, _)| *record).chain([self.ends.len()]);
        self.starts.iter().zip(ends).map(|((first, before), end)| self.stretch(*first..end, *before))
    }

    fn stretch(&self, records: Range<usize>, before: Option<StampedValue>) -> Stretch<'_> {
        let end = |records: usize| records.checked_sub(1).and_then(|last| self.ends.get(last)).copied().unwrap_or(0);
        let start = end(records.start);
        let points = start..end(records.end);
        Stretch {
            before,
            times: self.times.get(points.clone()).unwrap_or_default(),
            values: self.values.get(points).unwrap_or_default(),
            ends: self.ends.get(records).unwrap_or_default(),
            start,
        }
    }
}

/// Records of a series of which each goes on from the last point of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch<'a> {
    /// The last point before the first record, if the stretch goes on from there.
    pub before: Option<StampedValue>,
    /// Instants of the points in the records, ascending.
    pub times: &'a [UnixNanos],
    /// The value at each of them.
    pub values: &'a [u64],
    /// Of each record, where its points end in the whole column, and where the first one's begin.
    ends: &'a [usize],
    start: usize,
}

impl<'a> Stretch<'a> {
    /// All points, that before the records among them.
    pub fn points(self) -> impl Iterator<Item = StampedValue> + use<'a> {
        self.before.into_iter().chain(self.times.iter().copied().zip(self.values.iter().copied()))
    }

    /// Its records that touch a window; `None` if there are none.
    pub fn touching(self, window: Window) -> Option<Self> {
        let point = |place: usize| Some((*self.times.get(place)?, *self.values.get(place)?));
        // Of a record: where its points begin and end here.
        let end = |record: usize| self.ends.get(record).map_or(0, |end| end - self.start);
        let start = |record: usize| record.checked_sub(1).map_or(0, end);
        let before = |record: usize| start(record).checked_sub(1).map_or(self.before, point);
        let ends_before =
            |record: usize| end(record).checked_sub(1).and_then(point).is_some_and(|(at, _)| at < window.start());
        let begins_after =
            |record: usize| before(record).or_else(|| point(start(record))).is_some_and(|(at, _)| at >= window.end());
        let first = least(0..self.ends.len(), |record| !ends_before(record));
        let last = least(first..self.ends.len(), begins_after);
        let points = start(first)..start(last);
        (first < last).then(|| Self {
            before: before(first),
            times: self.times.get(points.clone()).unwrap_or_default(),
            values: self.values.get(points).unwrap_or_default(),
            ends: self.ends.get(first..last).unwrap_or_default(),
            start: self.start + start(first),
        })
    }
}

/// The first of numbers that fulfil a condition, where all after it do; their end if none does.
fn least(numbers: Range<usize>, fulfils: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (numbers.start, numbers.end);
    while low < high {
        let middle = low + (high - low) / 2;
        if fulfils(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// Where the stretches of a column that is being put together begin.
#[derive(Debug, Default)]
pub(super) struct Starts {
    starts: Vec<Start>,
    last: Option<StampedValue>,
}

impl Starts {
    /// A record comes next, of which `record` are before it.
    pub(super) fn begin(&mut self, record: usize, previous: Option<StampedValue>) {
        if previous.is_none() || previous != self.last {
            self.starts.push((record, previous));
        }
    }

    /// The last point so far.
    pub(super) fn end(&mut self, last: Option<StampedValue>) {
        self.last = last;
    }

    /// The column of what has come.
    pub(super) fn column(self, times: Arc<[UnixNanos]>, values: Vec<u64>, ends: Arc<[usize]>) -> Column {
        Column { times, values, ends, starts: self.starts }
    }
}

/// A column of records that lie by themselves.
#[derive(Debug, Default)]
pub struct Loose {
    starts: Starts,
    times: Vec<UnixNanos>,
    values: Vec<u64>,
    ends: Vec<usize>,
}

impl Loose {
    /// Appends what the next record says.
    pub fn push(&mut self, column: &StoredColumn) {
        self.starts.begin(self.ends.len(), column.previous);
        self.times.extend(column.points.iter().map(|(at, _)| *at));
        self.values.extend(column.points.iter().map(|(_, value)| *value));
        self.ends.push(self.values.len());
        self.starts.end(column.points.last().copied());
    }
}

impl From<Loose> for Column {
    fn from(loose: Loose) -> Self {
        loose.starts.column(loose.times.into(), loose.values, loose.ends.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(previous: Option<i64>, points: &[i64]) -> StoredColumn {
        let point = |at: i64| (UnixNanos(at), at.unsigned_abs());
        let points = points.iter().map(|at| point(*at)).collect();
        StoredColumn { series: 1, previous: previous.map(point), points }
    }

    fn column(records: &[StoredColumn]) -> Column {
        let mut loose = Loose::default();
        records.iter().for_each(|record| loose.push(record));
        loose.into()
    }

    fn instants(stretch: Stretch<'_>) -> Vec<i64> {
        stretch.points().map(|(at, _)| at.0).collect()
    }

    #[test]
    fn what_goes_on_is_one_stretch_and_what_does_not_stays_apart() {
        let records = [
            told(None, &[1, 2]),
            told(Some(2), &[4, 5]),
            // The record between is lost, or lies elsewhere.
            told(Some(6), &[7]),
            // It begins anew where the one before ends.
            told(None, &[9, 10]),
            told(Some(10), &[12]),
        ];
        let column = column(&records);
        let stretches: Vec<Vec<i64>> = column.stretches().map(instants).collect();
        assert_eq!(stretches, [vec![1, 2, 4, 5], vec![6, 7], vec![9, 10, 12]]);
        assert_eq!((column.len(), Column::default().stretches().count()), (8, 0));
    }

    #[test]
    fn a_part_of_a_stretch_is_its_records_that_touch() {
        let column = column(&[told(Some(0), &[1, 2]), told(Some(2), &[4, 5]), told(Some(5), &[7, 9])]);
        let whole = column.stretches().next().expect("a stretch");
        let part = |from: i64, to: i64| {
            let window = Window::new(UnixNanos(from), UnixNanos(to)).expect("ordered");
            whole.touching(window).map(instants)
        };
        assert_eq!(part(-5, 0), None);
        assert_eq!(part(-5, 1), Some(vec![0, 1, 2]));
        assert_eq!(part(2, 3), Some(vec![0, 1, 2, 4, 5]), "the last and the first point are of both");
        assert_eq!(part(3, 4), Some(vec![2, 4, 5]));
        assert_eq!(part(3, 6), Some(vec![2, 4, 5, 7, 9]));
        assert_eq!(part(9, 20), Some(vec![5, 7, 9]));
        assert_eq!(part(10, 20), None);
        let window = |from: i64, to: i64| Window::new(UnixNanos(from), UnixNanos(to)).expect("ordered");
        let twice = whole.touching(window(3, 6)).and_then(|part| part.touching(window(6, 7)));
        assert_eq!(twice.map(instants), Some(vec![5, 7, 9]));
    }
}
