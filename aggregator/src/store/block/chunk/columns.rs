//! A chunk read series by series: what a record says by itself is never put together.

use super::parts::{self, Records, Series, Told};
use super::{BEFORE, FOLLOWS, MOST_RESERVED, PRESENT, TIMES};
use crate::store::block::Damaged;
use crate::store::block::column::{Column, Starts};
use crate::store::block::row::StampedValue;
use joulebook_units::{UnixNanos, Window};
use std::ops::Range;
use std::sync::Arc;

/// What a chunk says of each series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// Sequence numbers of all its records, ascending.
    pub sequences: Vec<u64>,
    /// First row and sequence number of the first record that was looked at, if any was.
    pub first: Option<(UnixNanos, u64)>,
    /// By number of the series, ascending; those of which no record touches the window are left out.
    pub series: Vec<(u32, Column)>,
}

/// Reads the bytes stored under `key`, whose hour begins at `hour` and whose first record has the number `first`: of those
/// records whose first row is one of `rows` what touches a window, each column by itself.
pub fn columns(
    key: &[u8],
    hour: UnixNanos,
    first: u64,
    value: &[u8],
    rows: &Range<UnixNanos>,
    window: Window,
) -> Result<Columns, Damaged> {
    let (records, mut all) = parts::open(key, hour, first, value)?;
    let zones = zones(&records, rows, window);
    let place = zones.iter().find(|(_, zone)| *zone != Zone::Out).map(|(range, _)| range.start);
    let first = place.and_then(|record| Some((*records.rows_of(record).first()?, *records.sequences.get(record)?)));
    let mut reading = Reading { records: &records, zones: &zones, window, same: None };
    let (mut values, mut series) = (Vec::new(), Vec::with_capacity(all.left.min(MOST_RESERVED)));
    while let Some(next) = all.next(&records, &mut values)? {
        series.extend(reading.column(&next, &mut values).map(|column| (next.number, column)));
    }
    Ok(Columns { sequences: records.sequences, first, series })
}

/// What can be said of a record before its columns are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Zone {
    /// It is not asked for.
    Out,
    /// What it says may touch the window.
    Edge,
    /// Its rows touch the window, and no row before it lies after it.
    In,
}

/// Records one after the other of which the same can be said: all of them, in their order.
fn zones(records: &Records, rows: &Range<UnixNanos>, window: Window) -> Vec<(Range<usize>, Zone)> {
    let ascend = records.rows.is_sorted();
    let zone = |record: usize| match records.rows_of(record) {
        [first, ..] if !rows.contains(first) => Zone::Out,
        [first, .., last] | [first @ last] if ascend && *first < window.end() && *last >= window.start() => Zone::In,
        _ => Zone::Edge,
    };
    let mut zones: Vec<(Range<usize>, Zone)> = Vec::new();
    for record in 0..records.sequences.len() {
        match (zones.last_mut(), zone(record)) {
            (Some((range, same)), zone) if *same == zone => range.end += 1,
            (_, zone) => zones.push((record..record + 1, zone)),
        }
    }
    zones
}

/// How a chunk is read.
struct Reading<'a> {
    records: &'a Records,
    zones: &'a [(Range<usize>, Zone)],
    window: Window,
    /// Records of which the column before has a value in every row, and when.
    same: Option<(Range<usize>, Instants)>,
}

/// The instants of a column, and where those of each of its records end.
type Instants = (Arc<[UnixNanos]>, Arc<[usize]>);

/// A column while it is put together.
#[derive(Default)]
struct Growing {
    starts: Starts,
    /// Records with a value in every row, one after the other: all so far.
    rows: Range<usize>,
    /// Once there are others: all instants, and where those of each record end.
    apart: Option<(Vec<UnixNanos>, Vec<usize>)>,
    /// Where its values lie among those of the series.
    values: Vec<Range<usize>>,
}

impl Reading<'_> {
    /// The column of a series, whose values may be taken.
    fn column(&mut self, series: &Series, values: &mut Vec<u64>) -> Option<Column> {
        let mut walk = series.walk(self.records, values);
        let mut column = Growing::default();
        for (range, form) in series.forms.iter().filter(|(_, form)| form & PRESENT != 0) {
            let is_plain = form & TIMES == 0;
            for (zone, part) in self.zones.iter().filter_map(|(zoned, zone)| Some((*zone, common(range, zoned)?))) {
                // Rows before the window's end come before all but the first one, which itself may be preceded by anything.
                let before = walk.last().filter(|(at, _)| *at < self.window.end());
                let follows = form & BEFORE == FOLLOWS && before.is_some();
                match zone {
                    Zone::Out if is_plain => walk.pass_by(part, *form),
                    Zone::In if is_plain && follows => {
                        let own = walk.every_row(part.clone());
                        column.every_row(self.records, part, before, own);
                        column.starts.end(walk.last());
                    }
                    _ => {
                        for record in part {
                            let told = walk.one(record, *form);
                            if zone != Zone::Out && touches(&told, self.window) {
                                column.one(self.records, record, is_plain, told);
                                column.starts.end(walk.last());
                            }
                        }
                    }
                }
            }
        }
        self.whole(column, values)
    }

    fn whole(&mut self, column: Growing, values: &mut Vec<u64>) -> Option<Column> {
        let values = match column.values.as_slice() {
            [] => return None,
            [all] if *all == (0..values.len()) => std::mem::take(values),
            parts => {
                let mut own = Vec::with_capacity(parts.iter().map(Range::len).sum());
                parts.iter().for_each(|part| own.extend_from_slice(values.get(part.clone()).unwrap_or_default()));
                own
            }
        };
        let (times, ends) = match column.apart {
            None => self.rows(column.rows),
            Some((times, ends)) => (times.into(), ends.into()),
        };
        Some(column.starts.column(times, values, ends))
    }

    /// The rows of some records, and where those of each end: one list for all series that are the same in this.
    fn rows(&mut self, records: Range<usize>) -> Instants {
        if let Some((_, instants)) = self.same.as_ref().filter(|(same, _)| *same == records) {
            return instants.clone();
        }
        let instants: Instants =
            (self.records.rows(records.clone()).into(), ends(self.records, records.clone()).collect());
        self.same = Some((records, instants.clone()));
        instants
    }
}

impl Growing {
    fn records(&self) -> usize {
        self.apart.as_ref().map_or(self.rows.len(), |(_, ends)| ends.len())
    }

    /// Records that have a value in every row: the first one goes on from this point, each other one from the one before it.
    fn every_row(&mut self, all: &Records, records: Range<usize>, before: Option<StampedValue>, values: Range<usize>) {
        self.starts.begin(self.records(), before);
        self.take(values);
        if self.apart.is_none() && (self.rows.is_empty() || self.rows.end == records.start) {
            let start = if self.rows.is_empty() { records.start } else { self.rows.start };
            self.rows = start..records.end;
            return;
        }
        let (times, ends) = self.apart(all);
        for record in records {
            times.extend_from_slice(all.rows_of(record));
            ends.push(times.len());
        }
    }

    fn one(&mut self, all: &Records, record: usize, is_plain: bool, told: Told<'_>) {
        if is_plain {
            return self.every_row(all, record..record + 1, told.previous, told.values);
        }
        self.starts.begin(self.records(), told.previous);
        self.take(told.values);
        let (times, ends) = self.apart(all);
        times.extend(told.times.iter());
        ends.push(times.len());
    }

    /// What it has so far, as instants of its own.
    fn apart(&mut self, all: &Records) -> &mut (Vec<UnixNanos>, Vec<usize>) {
        let rows = self.rows.clone();
        self.apart.get_or_insert_with(|| (all.rows(rows.clone()).to_vec(), ends(all, rows).collect()))
    }

    fn take(&mut self, values: Range<usize>) {
        match self.values.last_mut() {
            Some(before) if before.end == values.start => before.end = values.end,
            _ => self.values.push(values),
        }
    }
}

/// Where the rows of each of some records end among them.
fn ends(all: &Records, records: Range<usize>) -> impl Iterator<Item = usize> {
    let start = all.places(records.clone()).start;
    records.map(move |record| all.places(record..record + 1).end - start)
}

/// Whether what a record says of a series, the point before included, touches a window.
fn touches(told: &Told<'_>, window: Window) -> bool {
    let first = told.previous.map(|(at, _)| at).or_else(|| told.times.iter().next());
    let last = told.times.iter().next_back();
    first.is_some_and(|first| first < window.end()) && last.is_some_and(|last| last >= window.start())
}

fn common(one: &Range<usize>, other: &Range<usize>) -> Option<Range<usize>> {
    let both = one.start.max(other.start)..one.end.min(other.end);
    (!both.is_empty()).then_some(both)
}
