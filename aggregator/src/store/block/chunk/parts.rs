//! The parts of a chunk as they lie in it, checked: what is read from them is no damage any more.

use super::{BEFORE, FOLLOWS, MASK, MAX_RECORDS, PRESENT, TIMES, TOLD};
use crate::store::block::row::StampedValue;
use crate::store::block::{CHUNK_VERSION, Damaged, Reader, numbers};
use joulebook_units::UnixNanos;
use std::ops::Range;
use std::slice;

/// What all series of a chunk share: its records and their rows.
pub(super) struct Records {
    /// Sequence numbers, ascending.
    pub(super) sequences: Vec<u64>,
    /// Instants of the rows, record after record.
    pub(super) rows: Vec<UnixNanos>,
    /// Where the rows of each record begin among them, and where all end.
    starts: Vec<usize>,
}

impl Records {
    fn read(reader: &mut Reader<'_>, hour: UnixNanos, first: u64) -> Result<Self, Damaged> {
        const LARGE: Damaged = Damaged("number too large");
        let count = usize::try_from(reader.number()?).map_err(|_| LARGE)?;
        if count == 0 || count > MAX_RECORDS {
            return Err(Damaged("no records, or too many"));
        }
        let mut sequences = Vec::with_capacity(count);
        sequences.push(first);
        let mut sequence = first;
        for step in numbers::read(reader, count - 1)? {
            sequence = step.checked_add(1).and_then(|step| sequence.checked_add(step)).ok_or(LARGE)?;
            sequences.push(sequence);
        }
        let mut starts = Vec::with_capacity(count + 1);
        let mut rows = 0usize;
        for length in numbers::read(reader, count)? {
            starts.push(rows);
            let length = usize::try_from(length).ok().filter(|length| *length > 0);
            rows = rows.saturating_add(length.ok_or(Damaged("a record without rows"))?);
        }
        starts.push(rows);
        if rows > numbers::MAX_NUMBERS {
            return Err(Damaged("too many rows"));
        }
        let mut at = hour.0.checked_add_unsigned(reader.number()?).ok_or(LARGE)?;
        let mut instants = Vec::with_capacity(rows);
        instants.push(UnixNanos(at));
        for step in numbers::read(reader, rows - 1)? {
            at = at.wrapping_add(step.cast_signed());
            instants.push(UnixNanos(at));
        }
        Ok(Self { sequences, rows: instants, starts })
    }

    /// Where the rows of some records lie among all.
    pub(super) fn places(&self, records: Range<usize>) -> Range<usize> {
        let start = |record: usize| self.starts.get(record).copied().unwrap_or(self.rows.len());
        start(records.start)..start(records.end)
    }

    /// The rows of some records.
    pub(super) fn rows(&self, records: Range<usize>) -> &[UnixNanos] {
        self.rows.get(self.places(records)).unwrap_or_default()
    }

    /// The rows of one.
    pub(super) fn rows_of(&self, record: usize) -> &[UnixNanos] {
        self.rows(record..record + 1)
    }
}

/// Opens the bytes stored under `key` of the hour that begins at `hour`, whose first record has the number `first`: records,
/// number of series, and a reader of these.
pub(super) fn open<'a>(
    key: &[u8],
    hour: UnixNanos,
    first: u64,
    value: &'a [u8],
) -> Result<(Records, AllSeries<'a>), Damaged> {
    let (version, mut reader) = Reader::open_any(key, value)?;
    if version != CHUNK_VERSION {
        return Err(Damaged("not a chunk"));
    }
    let records = Records::read(&mut reader, hour, first)?;
    let left = reader.length()?;
    Ok((records, AllSeries { reader, left, before: None }))
}

/// The series of a chunk, one after the other.
pub(super) struct AllSeries<'a> {
    reader: Reader<'a>,
    /// How many are still to be read.
    pub(super) left: usize,
    before: Option<u32>,
}

impl AllSeries<'_> {
    /// The next one, its values in `values` alone; `None` after the last.
    pub(super) fn next(&mut self, records: &Records, values: &mut Vec<u64>) -> Result<Option<Series>, Damaged> {
        if self.left == 0 {
            return self.reader.end().map(|()| None);
        }
        self.left -= 1;
        let step = self.reader.small()?;
        if self.before.is_some() && step == 0 {
            return Err(Damaged("a series twice"));
        }
        let number = self.before.unwrap_or(0).checked_add(step).ok_or(Damaged("number too large"))?;
        self.before = Some(number);
        Series::read(&mut self.reader, number, records, values).map(Some)
    }
}

/// A series but for its values.
pub(super) struct Series {
    /// Its number in the stream's dictionary.
    pub(super) number: u32,
    /// Records that have one form, and the form: all of them, in their order.
    pub(super) forms: Vec<(Range<usize>, u8)>,
    told: Vec<StampedValue>,
    placed: Vec<Placed>,
    own: Vec<UnixNanos>,
}

/// How the points lie of a record that has not one in every row.
enum Placed {
    /// In the rows whose bit is set.
    Mask(u64),
    /// By themselves: these of the series' own instants.
    Own(Range<usize>),
}

impl Series {
    fn read(reader: &mut Reader<'_>, number: u32, records: &Records, values: &mut Vec<u64>) -> Result<Self, Damaged> {
        let forms = read_forms(reader, records.sequences.len())?;
        let first_row = |record: usize| records.rows_of(record).first().copied().unwrap_or_default();
        let mut told = Vec::new();
        for (range, _) in forms.iter().filter(|(_, form)| form & BEFORE == TOLD) {
            for record in range.clone() {
                told.push((UnixNanos(first_row(record).0.wrapping_sub(reader.signed()?)), reader.number()?));
            }
        }
        let (mut placed, mut own, mut count) = (Vec::new(), Vec::new(), 0usize);
        for (range, form) in forms.iter().filter(|(_, form)| form & PRESENT != 0) {
            if form & TIMES == 0 {
                count = count.saturating_add(records.places(range.clone()).len());
                continue;
            }
            for record in range.clone() {
                let points = if form & TIMES == MASK {
                    let mask = reader.number()?;
                    placed.push(Placed::Mask(mask));
                    in_mask(records.rows_of(record), mask).count()
                } else {
                    let (start, mut at) = (own.len(), first_row(record).0);
                    for _ in 0..reader.length()? {
                        at = at.wrapping_add(reader.signed()?);
                        own.push(UnixNanos(at));
                    }
                    placed.push(Placed::Own(start..own.len()));
                    own.len() - start
                };
                if points == 0 {
                    return Err(Damaged("a column without points"));
                }
                count = count.saturating_add(points);
            }
        }
        numbers::read_into(reader, count, values)?;
        Ok(Self { number, forms, told, placed, own })
    }

    /// Goes through its records, whose values are these.
    pub(super) fn walk<'a>(&'a self, records: &'a Records, values: &'a [u64]) -> Walk<'a> {
        let (told, placed) = (self.told.iter(), self.placed.iter());
        Walk { records, values, told, placed, own: &self.own, place: 0, last: None }
    }
}

fn read_forms(reader: &mut Reader<'_>, records: usize) -> Result<Vec<(Range<usize>, u8)>, Damaged> {
    let (mut end, mut seen) = (0usize, false);
    let forms = reader.list(|reader| {
        let length = usize::try_from(reader.number()?).map_err(|_| Damaged("length too large"))?;
        let form = reader.byte()?;
        let known = form & !(PRESENT | BEFORE | TIMES) == 0 && form & BEFORE != BEFORE && form & TIMES != TIMES;
        if !known || (form != 0 && form & PRESENT == 0) {
            return Err(Damaged("unknown form of a column"));
        }
        if length > records - end {
            return Err(Damaged("more forms than records"));
        }
        if length > 0 && form & PRESENT != 0 {
            if !seen && form & BEFORE == FOLLOWS {
                return Err(Damaged("nothing to follow"));
            }
            seen = true;
        }
        let start = end;
        end += length;
        Ok((start..end, form))
    })?;
    if end == records { Ok(forms) } else { Err(Damaged("fewer forms than records")) }
}

/// What a record says of a series.
pub(super) struct Told<'a> {
    /// The series' last point before the record, if it goes on from there.
    pub(super) previous: Option<StampedValue>,
    /// When its points were read.
    pub(super) times: Times<'a>,
    /// Where their values lie among those of the series.
    pub(super) values: Range<usize>,
}

/// When the points of a record were read.
#[derive(Clone, Copy)]
pub(super) enum Times<'a> {
    /// At these rows or by themselves.
    At(&'a [UnixNanos]),
    /// At those of the rows whose bit is set.
    Mask(&'a [UnixNanos], u64),
}

impl<'a> Times<'a> {
    /// The instants.
    pub(super) fn iter(self) -> impl DoubleEndedIterator<Item = UnixNanos> + use<'a> {
        let (all, in_mask) = match self {
            Self::At(times) => (times, None),
            Self::Mask(rows, mask) => (&[][..], Some(in_mask(rows, mask))),
        };
        all.iter().copied().chain(in_mask.into_iter().flatten())
    }
}

/// Goes through the records of a series, each once.
pub(super) struct Walk<'a> {
    records: &'a Records,
    values: &'a [u64],
    told: slice::Iter<'a, StampedValue>,
    placed: slice::Iter<'a, Placed>,
    own: &'a [UnixNanos],
    place: usize,
    last: Option<StampedValue>,
}

impl<'a> Walk<'a> {
    /// The last point so far.
    pub(super) fn last(&self) -> Option<StampedValue> {
        self.last
    }

    /// The next record that has the series, and its form.
    pub(super) fn one(&mut self, record: usize, form: u8) -> Told<'a> {
        let previous = match form & BEFORE {
            0 => None,
            FOLLOWS => self.last,
            _ => self.told.next().copied(),
        };
        let rows = self.records.rows_of(record);
        let (times, points) = match (form & TIMES, self.placed.as_slice().first()) {
            (0, _) => (Times::At(rows), rows.len()),
            (_, Some(Placed::Mask(mask))) => (Times::Mask(rows, *mask), in_mask(rows, *mask).count()),
            (_, Some(Placed::Own(places))) => {
                (Times::At(self.own.get(places.clone()).unwrap_or_default()), places.len())
            }
            (_, None) => (Times::At(&[]), 0),
        };
        if form & TIMES != 0 {
            self.placed.next();
        }
        let values = self.pass(points, times.iter().next_back());
        Told { previous, times, values }
    }

    /// The next records, which have a value in every row and do not tell what was before: where their values lie.
    pub(super) fn every_row(&mut self, records: Range<usize>) -> Range<usize> {
        let rows = self.records.rows(records);
        self.pass(rows.len(), rows.last().copied())
    }

    /// Leaves out the next records, which have a value in every row.
    pub(super) fn pass_by(&mut self, records: Range<usize>, form: u8) {
        if form & BEFORE == TOLD {
            for _ in records.clone() {
                self.told.next();
            }
        }
        let _values = self.every_row(records);
    }

    fn pass(&mut self, points: usize, last: Option<UnixNanos>) -> Range<usize> {
        let start = self.place;
        self.place += points;
        let value = self.place.checked_sub(1).and_then(|place| self.values.get(place)).copied();
        if points > 0 {
            self.last = last.zip(value);
        }
        start..self.place
    }
}

/// Instants of the rows whose bit is set.
fn in_mask(rows: &[UnixNanos], mask: u64) -> impl DoubleEndedIterator<Item = UnixNanos> + '_ {
    let rows = rows.get(..64).unwrap_or(rows);
    rows.iter().enumerate().filter(move |(place, _)| mask >> place & 1 == 1).map(|(_, at)| *at)
}
