//! A chunk: the records of one stream whose first rows lie in one hour, column by column.
//!
//! It lies in the table of rows under the instant at which its hour begins and the sequence number of its first record, and
//! gives back exactly the records that went in, their columns ordered by series.
//!
//! ```text
//! records  n, then sequences of numbers (see [`super::numbers`]):
//!          n−1 steps to the next sequence number less one · n counts of rows
//! rows     the first: ns after the hour begins; then a sequence of the steps to the next in ns
//! series   n, then each: difference to the one before
//!   forms     n, then each: records in a row that have this form, form u8. A record's form:
//!             bit 0: has the series; bits 1–2, what was before: 0 = nothing, 1 = the last point in this chunk, 2 = told here;
//!             bits 3–4, times: 0 = a value in every row, 1 = row mask, 2 = times of its own
//!   before    for each record that tells it: first row − its instant (signed ns), value
//!   times     for each record with a mask: u64 · with times of its own: n, each as signed difference in ns to the one
//!             before (the first: to the record's first row)
//!   values    a sequence of the values of all records
//! ```

use super::row::{RowRecord, StampedValue, StoredColumn, Times};
use super::{CHUNK_VERSION, Damaged, Reader, Writer, numbers};
use joulebook_units::UnixNanos;
use std::collections::BTreeSet;

/// Most records of a chunk.
pub const MAX_RECORDS: usize = 1 << 16;
/// Most columns of a record that room is made for before they are read.
const MOST_RESERVED: usize = 64;

const PRESENT: u8 = 1;
const FOLLOWS: u8 = 1 << 1;
const TOLD: u8 = 2 << 1;
const BEFORE: u8 = 3 << 1;
const MASK: u8 = 1 << 3;
const OWN_TIMES: u8 = 2 << 3;
const TIMES: u8 = 3 << 3;

/// A record and its sequence number.
pub type Numbered = (u64, RowRecord);

/// The bytes to store under `key` in the hour that begins at `hour`, of records of one stream in the order of their
/// sequence numbers; the first one's number is in the key. `None` if they cannot be a chunk: there are none or too many, a
/// record has no row or a series twice, or one begins before the hour.
pub fn encode(key: &[u8], hour: UnixNanos, records: &[Numbered]) -> Option<Vec<u8>> {
    let rows: usize = records.iter().map(|(_, record)| record.rows.len()).sum();
    if records.is_empty() || records.len() > MAX_RECORDS || rows > numbers::MAX_NUMBERS {
        return None;
    }
    let mut writer = Writer::of(CHUNK_VERSION);
    writer.length(records.len());
    let steps = records.windows(2).map(|pair| pair[1].0.checked_sub(pair[0].0)?.checked_sub(1));
    numbers::write(&mut writer, &steps.collect::<Option<Vec<u64>>>()?);
    let lengths: Vec<u64> = records.iter().map(|(_, record)| record.rows.len() as u64).collect();
    numbers::write(&mut writer, &lengths);
    let instants: Vec<UnixNanos> = records.iter().flat_map(|(_, record)| record.rows.iter().copied()).collect();
    let first = instants.first()?;
    writer.number(u64::try_from(first.0.checked_sub(hour.0)?).ok()?);
    let steps: Vec<u64> = instants.windows(2).map(|pair| pair[1].0.wrapping_sub(pair[0].0).cast_unsigned()).collect();
    numbers::write(&mut writer, &steps);

    if records
        .iter()
        .any(|(_, record)| record.rows.is_empty() || record.columns.iter().any(|one| one.points.is_empty()))
    {
        return None;
    }
    let series: BTreeSet<u32> =
        records.iter().flat_map(|(_, record)| record.columns.iter().map(|column| column.series)).collect();
    // Columns of each record by series, to be met in that order.
    let mut columns: Vec<Vec<&StoredColumn>> =
        records.iter().map(|(_, record)| record.columns.iter().collect()).collect();
    for of_record in &mut columns {
        of_record.sort_by_key(|column| std::cmp::Reverse(column.series));
        if of_record.windows(2).any(|pair| pair[0].series == pair[1].series) {
            return None;
        }
    }
    writer.length(series.len());
    let mut before = 0;
    for number in series {
        writer.number(u64::from(number - before));
        before = number;
        let own: Vec<Option<&StoredColumn>> =
            columns.iter_mut().map(|left| left.pop_if(|column| column.series == number)).collect();
        write_series(&mut writer, records, &own)?;
    }
    Some(writer.seal(key))
}

fn write_series(writer: &mut Writer, records: &[Numbered], columns: &[Option<&StoredColumn>]) -> Option<()> {
    let (mut forms, mut told, mut times) = (Vec::<(usize, u8)>::new(), Writer::part(), Writer::part());
    let mut values: Vec<u64> = Vec::new();
    let mut last: Option<StampedValue> = None;
    for ((_, record), column) in records.iter().zip(columns) {
        let mut form = 0;
        if let Some(column) = column {
            let first_row = *record.rows.first()?;
            form = PRESENT;
            if column.previous.is_some() && column.previous == last {
                form |= FOLLOWS;
            } else if let Some((at, value)) = column.previous {
                form |= TOLD;
                told.signed(first_row.0.wrapping_sub(at.0));
                told.number(value);
            }
            match record.times_of(column) {
                Times::EveryRow => {}
                Times::Mask(mask) => {
                    form |= MASK;
                    times.number(mask);
                }
                Times::Own => {
                    form |= OWN_TIMES;
                    times.length(column.points.len());
                    let mut before = first_row;
                    for (at, _) in &column.points {
                        times.signed(at.0.wrapping_sub(before.0));
                        before = *at;
                    }
                }
            }
            values.extend(column.points.iter().map(|(_, value)| *value));
            last = column.points.last().copied();
        }
        match forms.last_mut() {
            Some((length, same)) if *same == form => *length += 1,
            _ => forms.push((1, form)),
        }
    }
    if values.len() > numbers::MAX_NUMBERS {
        return None;
    }
    writer.length(forms.len());
    for (length, form) in forms {
        writer.length(length);
        writer.byte(form);
    }
    writer.join(told);
    writer.join(times);
    numbers::write(writer, &values);
    Some(())
}

/// Reads the bytes stored under `key`, whose hour begins at `hour` and whose first record has the number `first`: the records
/// that are wanted by their number and first row.
pub fn decode(
    key: &[u8],
    hour: UnixNanos,
    first: u64,
    value: &[u8],
    wanted: &dyn Fn(u64, UnixNanos) -> bool,
) -> Result<Vec<Numbered>, Damaged> {
    let (version, mut reader) = Reader::open_any(key, value)?;
    if version != CHUNK_VERSION {
        return Err(Damaged("not a chunk"));
    }
    let mut records = read_records(&mut reader, hour, first)?;
    let keep: Vec<bool> = records
        .iter()
        .map(|(sequence, record)| record.rows.first().is_some_and(|first_row| wanted(*sequence, *first_row)))
        .collect();
    let mut series = 0u32;
    let count = reader.length()?;
    for place in 0..count {
        let step = reader.small()?;
        if place > 0 && step == 0 {
            return Err(Damaged("a series twice"));
        }
        series = series.checked_add(step).ok_or(Damaged("number too large"))?;
        read_series(&mut reader, series, count - place, &mut records, &keep)?;
    }
    reader.end()?;
    Ok(records.into_iter().zip(keep).filter_map(|(record, keep)| keep.then_some(record)).collect())
}

/// Sequence numbers and rows.
fn read_records(reader: &mut Reader<'_>, hour: UnixNanos, first: u64) -> Result<Vec<Numbered>, Damaged> {
    const LARGE: Damaged = Damaged("number too large");
    let count = usize::try_from(reader.number()?).map_err(|_| LARGE)?;
    if count == 0 || count > MAX_RECORDS {
        return Err(Damaged("no records, or too many"));
    }
    let steps = numbers::read(reader, count - 1)?;
    let lengths = numbers::read(reader, count)?;
    let mut rows = 0usize;
    for length in &lengths {
        let length = usize::try_from(*length).ok().filter(|length| *length > 0);
        rows = rows.saturating_add(length.ok_or(Damaged("a record without rows"))?);
    }
    if rows > numbers::MAX_NUMBERS {
        return Err(Damaged("too many rows"));
    }
    let mut at = hour.0.checked_add_unsigned(reader.number()?).ok_or(LARGE)?;
    let mut between = numbers::read(reader, rows - 1)?.into_iter();
    let mut instants = std::iter::once(UnixNanos(at)).chain(std::iter::from_fn(|| {
        at = at.wrapping_add(between.next()?.cast_signed());
        Some(UnixNanos(at))
    }));
    let mut records = Vec::with_capacity(count);
    let mut sequence = first;
    for (place, length) in lengths.iter().enumerate() {
        if place > 0 {
            let step = steps.get(place - 1).and_then(|step| step.checked_add(1));
            sequence = step.and_then(|step| sequence.checked_add(step)).ok_or(LARGE)?;
        }
        let length = usize::try_from(*length).map_err(|_| LARGE)?;
        let rows: Vec<UnixNanos> = instants.by_ref().take(length).collect();
        records.push((sequence, RowRecord { rows, columns: Vec::new() }));
    }
    Ok(records)
}

/// How the points of a record lie in its rows.
enum Placed {
    EveryRow,
    Mask(u64),
    Own(Vec<UnixNanos>),
}

/// Reads the next series, of which `left` are left with it.
fn read_series(
    reader: &mut Reader<'_>,
    series: u32,
    left: usize,
    records: &mut [Numbered],
    keep: &[bool],
) -> Result<(), Damaged> {
    let runs = reader.list(|reader| Ok((reader.number()?, reader.byte()?)))?;
    let mut forms = Vec::with_capacity(records.len());
    for (length, form) in runs {
        let length = usize::try_from(length).map_err(|_| Damaged("length too large"))?;
        let known = form & !(PRESENT | BEFORE | TIMES) == 0 && form & BEFORE != BEFORE && form & TIMES != TIMES;
        if !known || (form != 0 && form & PRESENT == 0) {
            return Err(Damaged("unknown form of a column"));
        }
        if length > records.len() - forms.len() {
            return Err(Damaged("more forms than records"));
        }
        forms.extend(std::iter::repeat_n(form, length));
    }
    if forms.len() != records.len() {
        return Err(Damaged("fewer forms than records"));
    }
    let first_row = |record: &RowRecord| record.rows.first().copied().unwrap_or_default();
    let mut told = Vec::new();
    for ((_, record), _) in records.iter().zip(&forms).filter(|(_, form)| **form & BEFORE == TOLD) {
        told.push((UnixNanos(first_row(record).0.wrapping_sub(reader.signed()?)), reader.number()?));
    }
    let (mut placed, mut count) = (Vec::with_capacity(records.len()), 0usize);
    for ((_, record), form) in records.iter().zip(&forms).filter(|(_, form)| **form & PRESENT != 0) {
        let (one, points) = match form & TIMES {
            0 => (Placed::EveryRow, record.rows.len()),
            MASK => {
                let mask = reader.number()?;
                (Placed::Mask(mask), in_mask(record, mask).count())
            }
            _ => {
                let mut at = first_row(record).0;
                let own = reader.list(|reader| {
                    at = at.wrapping_add(reader.signed()?);
                    Ok(UnixNanos(at))
                })?;
                let points = own.len();
                (Placed::Own(own), points)
            }
        };
        if points == 0 {
            return Err(Damaged("a column without points"));
        }
        count = count.saturating_add(points);
        placed.push((one, points));
    }
    let values = numbers::read(reader, count)?;
    let (mut told, mut placed, mut values) = (told.into_iter(), placed.into_iter(), values.as_slice());
    let mut last = None;
    for (((_, record), form), keep) in records.iter_mut().zip(forms).zip(keep) {
        if form & PRESENT == 0 {
            continue;
        }
        let previous = match form & BEFORE {
            0 => None,
            FOLLOWS => Some(last.ok_or(Damaged("nothing to follow"))?),
            _ => told.next(),
        };
        let Some((placed, points)) = placed.next() else { return Err(Damaged("too short")) };
        let (own, rest) = values.split_at_checked(points).ok_or(Damaged("too short"))?;
        values = rest;
        if !keep {
            // Only the last point is needed: what follows may say that it was before.
            last = last_instant(record, &placed).zip(own.last().copied());
            continue;
        }
        // With room for the point before: whoever reads a run puts it in front.
        let mut points: Vec<StampedValue> = Vec::with_capacity(own.len() + 1);
        let values = own.iter().copied();
        match placed {
            Placed::EveryRow => points.extend(record.rows.iter().copied().zip(values)),
            Placed::Mask(mask) => points.extend(in_mask(record, mask).zip(values)),
            Placed::Own(own) => points.extend(own.into_iter().zip(values)),
        }
        last = points.last().copied();
        if record.columns.is_empty() {
            record.columns.reserve(left.min(MOST_RESERVED));
        }
        record.columns.push(StoredColumn { series, previous, points });
    }
    Ok(())
}

/// Instants of the rows whose bit is set.
fn in_mask(record: &RowRecord, mask: u64) -> impl DoubleEndedIterator<Item = UnixNanos> + '_ {
    let rows = record.rows.get(..64).unwrap_or(&record.rows);
    rows.iter().enumerate().filter(move |(place, _)| mask >> place & 1 == 1).map(|(_, at)| *at)
}

fn last_instant(record: &RowRecord, placed: &Placed) -> Option<UnixNanos> {
    match placed {
        Placed::EveryRow => record.rows.last().copied(),
        Placed::Mask(mask) => in_mask(record, *mask).next_back(),
        Placed::Own(own) => own.last().copied(),
    }
}

#[cfg(test)]
mod tests;
