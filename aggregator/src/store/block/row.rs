//! A row record: what one batch holds, on the aggregator's clock.
//!
//! ```text
//! rows     n, then n−1 steps: the first in ns, each further one as signed difference to the step before;
//!          the first row is in the key
//! columns  n, then each: series | kind u8 | [previous] | times | values
//!   kind       bit 0: has `previous`; bits 1–2: 0 = a value in every row, 1 = row mask, 2 = times of its own
//!   previous   first row − its instant (signed ns), value
//!   times      mask: u64 · own: n, each as signed difference in ns to the one before (the first: to the first row)
//!   values     the first as signed wrapping difference to `previous` (or to 0), each further one to the one before
//! ```

use super::{Damaged, Reader, Writer};
use joulebook_units::UnixNanos;

/// A value and when it was read.
pub type StampedValue = (UnixNanos, u64);

/// A stored column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredColumn {
    /// The series in the stream's dictionary.
    pub series: u32,
    /// The series' last point before this record, if the run goes on from there.
    pub previous: Option<StampedValue>,
    /// The points, at least one, ascending.
    pub points: Vec<StampedValue>,
}

impl StoredColumn {
    /// First and last instant, `previous` included.
    pub fn span(&self) -> Option<(UnixNanos, UnixNanos)> {
        let first = self.previous.or_else(|| self.points.first().copied())?;
        Some((first.0, self.points.last()?.0))
    }
}

/// What one batch holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowRecord {
    /// Instants of the rows, at least one, ascending.
    pub rows: Vec<UnixNanos>,
    /// The columns.
    pub columns: Vec<StoredColumn>,
}

/// How the times of a column are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Times {
    /// A value in every row.
    EveryRow,
    /// A value in the rows whose bit is set.
    Mask(u64),
    /// By themselves.
    Own,
}

const HAS_PREVIOUS: u8 = 1;
const EVERY_ROW: u8 = 0;
const MASK: u8 = 1 << 1;
const OWN_TIMES: u8 = 2 << 1;

impl RowRecord {
    /// First and last instant that the record says something about; `None` if it has no row.
    pub fn span(&self) -> Option<(UnixNanos, UnixNanos)> {
        let rows = (*self.rows.first()?, *self.rows.last()?);
        let columns = self.columns.iter().filter_map(StoredColumn::span);
        Some(columns.fold(rows, |all, one| (all.0.min(one.0), all.1.max(one.1))))
    }

    /// The bytes to store under `key`.
    pub fn encode(&self, key: &[u8]) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.length(self.rows.len());
        let base = self.rows.first().copied().unwrap_or_default();
        let mut step_before = 0i64;
        for pair in self.rows.windows(2) {
            let step = pair[1].0.wrapping_sub(pair[0].0);
            writer.signed(step.wrapping_sub(step_before));
            step_before = step;
        }
        writer.length(self.columns.len());
        for column in &self.columns {
            self.encode_column(column, base, &mut writer);
        }
        writer.seal(key)
    }

    fn encode_column(&self, column: &StoredColumn, base: UnixNanos, writer: &mut Writer) {
        writer.number(u64::from(column.series));
        let times = self.times_of(column);
        let kind = match times {
            Times::EveryRow => EVERY_ROW,
            Times::Mask(_) => MASK,
            Times::Own => OWN_TIMES,
        };
        writer.byte(kind | if column.previous.is_some() { HAS_PREVIOUS } else { 0 });
        if let Some((at, value)) = column.previous {
            writer.signed(base.0.wrapping_sub(at.0));
            writer.number(value);
        }
        if let Times::Mask(mask) = times {
            writer.number(mask);
        } else if times == Times::Own {
            writer.length(column.points.len());
            let mut before = base.0;
            for (at, _) in &column.points {
                writer.signed(at.0.wrapping_sub(before));
                before = at.0;
            }
        }
        let mut before = column.previous.map_or(0, |(_, value)| value);
        for (_, value) in &column.points {
            writer.signed(value.wrapping_sub(before).cast_signed());
            before = *value;
        }
    }

    /// How the times of a column are told.
    pub(super) fn times_of(&self, column: &StoredColumn) -> Times {
        let (mut mask, mut found) = (0u64, 0usize);
        let mut points = column.points.iter().peekable();
        for (index, row) in self.rows.iter().enumerate().take(64) {
            if points.next_if(|(at, _)| at == row).is_some() {
                mask |= 1 << index;
                found += 1;
            }
        }
        if found < column.points.len() {
            Times::Own
        } else if found == self.rows.len() {
            Times::EveryRow
        } else {
            Times::Mask(mask)
        }
    }

    /// Reads the bytes stored under `key`, whose first row is `base`.
    pub fn decode(key: &[u8], base: UnixNanos, value: &[u8]) -> Result<Self, Damaged> {
        let mut reader = Reader::open(key, value)?;
        let count = reader.length()?;
        let mut rows = Vec::with_capacity(count);
        let (mut at, mut step) = (base.0, 0i64);
        for index in 0..count {
            if index > 0 {
                step = step.wrapping_add(reader.signed()?);
                at = at.wrapping_add(step);
            }
            rows.push(UnixNanos(at));
        }
        let columns = reader.list(|reader| decode_column(reader, base, &rows))?;
        reader.end()?;
        Ok(Self { rows, columns })
    }
}

fn decode_column(reader: &mut Reader<'_>, base: UnixNanos, rows: &[UnixNanos]) -> Result<StoredColumn, Damaged> {
    let series = reader.small()?;
    let kind = reader.byte()?;
    let previous = if kind & HAS_PREVIOUS == 0 {
        None
    } else {
        Some((UnixNanos(base.0.wrapping_sub(reader.signed()?)), reader.number()?))
    };
    let times: Vec<UnixNanos> = match kind & !HAS_PREVIOUS {
        EVERY_ROW => rows.to_vec(),
        MASK => {
            let mask = reader.number()?;
            rows.iter().enumerate().filter(|(index, _)| mask >> index & 1 == 1).map(|(_, at)| *at).collect()
        }
        OWN_TIMES => {
            let mut at = base.0;
            reader.list(|reader| {
                at = at.wrapping_add(reader.signed()?);
                Ok(UnixNanos(at))
            })?
        }
        _ => return Err(Damaged("unknown kind of column")),
    };
    let mut value = previous.map_or(0, |(_, value)| value);
    let points = times.into_iter().map(|at| {
        value = value.wrapping_add(reader.signed()?.cast_unsigned());
        Ok((at, value))
    });
    Ok(StoredColumn { series, previous, points: points.collect::<Result<_, Damaged>>()? })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const KEY: &[u8] = b"some key";

    fn sample() -> RowRecord {
        let rows: Vec<_> = (0..3).map(|second| UnixNanos(1_000 + second * 1_000_000_000)).collect();
        let points = rows.iter().zip([7u64, 9, 9]).map(|(at, value)| (*at, value)).collect();
        let every = StoredColumn { series: 1, previous: Some((UnixNanos(0), 5)), points };
        let masked = StoredColumn { series: 2, previous: None, points: vec![(rows[0], 4), (rows[2], 3)] };
        let own = StoredColumn { series: 300, previous: None, points: vec![(UnixNanos(999), u64::MAX), (rows[1], 0)] };
        RowRecord { rows, columns: vec![every, masked, own] }
    }

    #[test]
    fn the_layout_of_row_records_never_changes() {
        let bytes: String = sample().encode(KEY).iter().map(|byte| format!("{byte:02x}")).collect();
        // Recorded once; a change here is a change of the format of every database there is.
        assert_eq!(bytes, include_str!("golden/row.hex").trim_ascii());
    }

    pub(in crate::store::block) fn record() -> impl Strategy<Value = RowRecord> {
        let rows = (any::<i32>(), vec(1i64..2_000_000_000, 1..20)).prop_map(|(base, steps)| {
            let mut at = i64::from(base) * 1_000_000_000;
            steps
                .into_iter()
                .map(|step| {
                    at += step;
                    UnixNanos(at)
                })
                .collect::<Vec<_>>()
        });
        rows.prop_flat_map(|rows| {
            let length = rows.len();
            let column = (any::<u32>(), any::<Option<(i64, u64)>>(), vec(any::<(bool, Option<i16>, u64)>(), length));
            (Just(rows), vec(column, 0..6)).prop_map(|(rows, columns)| {
                let columns = columns.into_iter().map(|(series, previous, points)| {
                    let points = rows
                        .iter()
                        .zip(points)
                        .filter(|(_, (there, ..))| *there)
                        .map(|(at, (_, off, value))| (UnixNanos(at.0 + i64::from(off.unwrap_or(0))), value));
                    StoredColumn {
                        series,
                        previous: previous.map(|(at, v)| (UnixNanos(at), v)),
                        points: points.collect(),
                    }
                });
                RowRecord { columns: columns.collect(), rows: rows.clone() }
            })
        })
    }

    proptest! {
        #[test]
        fn row_records_come_back(record in record()) {
            let bytes = record.encode(KEY);
            prop_assert_eq!(RowRecord::decode(KEY, record.rows[0], &bytes), Ok(record));
        }

        #[test]
        fn a_flipped_bit_or_a_cut_is_an_error(record in record(), place: prop::sample::Index, bit in 0u8..8) {
            let bytes = record.encode(KEY);
            let mut flipped = bytes.clone();
            flipped[place.index(bytes.len())] ^= 1 << bit;
            prop_assert!(RowRecord::decode(KEY, record.rows[0], &flipped).is_err());
            prop_assert!(RowRecord::decode(KEY, record.rows[0], &bytes[..place.index(bytes.len())]).is_err());
        }

        #[test]
        fn bytes_with_a_right_checksum_never_panic(body in vec(any::<u8>(), 0..200)) {
            let mut writer = Writer::default();
            writer.raw(&body);
            let _ = RowRecord::decode(KEY, UnixNanos(0), &writer.seal(KEY));
        }
    }
}
