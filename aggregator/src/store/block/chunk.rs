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

mod columns;
mod parts;

pub use columns::{Columns, columns};

use super::row::{RowRecord, StampedValue, StoredColumn, Times};
use super::{CHUNK_VERSION, Damaged, Writer, numbers};
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
    let (records, mut all) = parts::open(key, hour, first, value)?;
    let numbered = (0..).zip(&records.sequences).map(|(record, sequence)| {
        let rows = records.rows_of(record);
        let is_wanted = rows.first().is_some_and(|first_row| wanted(*sequence, *first_row));
        is_wanted.then(|| (*sequence, RowRecord { rows: rows.to_vec(), columns: Vec::new() }))
    });
    // Those that are not wanted are gone through all the same: what follows may say that it was before.
    let mut kept: Vec<Option<Numbered>> = numbered.collect();
    let (mut values, mut left) = (Vec::new(), all.left);
    while let Some(series) = all.next(&records, &mut values)? {
        let mut walk = series.walk(&records, &values);
        for (range, form) in series.forms.iter().filter(|(_, form)| form & PRESENT != 0) {
            for record in range.clone() {
                let told = walk.one(record, *form);
                let Some(Some((_, row))) = kept.get_mut(record) else { continue };
                // With room for the point before: whoever reads a run puts it in front.
                let mut points: Vec<StampedValue> = Vec::with_capacity(told.values.len() + 1);
                points.extend(told.times.iter().zip(values.get(told.values).unwrap_or_default().iter().copied()));
                if row.columns.is_empty() {
                    row.columns.reserve(left.min(MOST_RESERVED));
                }
                row.columns.push(StoredColumn { series: series.number, previous: told.previous, points });
            }
        }
        left = all.left;
    }
    Ok(kept.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests;
