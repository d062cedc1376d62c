use super::super::column::{Column, Loose};
use super::super::row::tests::record;
use super::*;
use joulebook_units::Window;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;

const KEY: &[u8] = b"some key";
const SECOND: i64 = 1_000_000_000;

fn all(bytes: &[u8], hour: UnixNanos, first: u64) -> Result<Vec<Numbered>, Damaged> {
    decode(KEY, hour, first, bytes, &|_, _| true)
}

/// Batches of five rows of a node: counters of energy and tokens, a gauge, and one that is read every fifth second.
fn hour_of(seconds: i64) -> Vec<Numbered> {
    let mut last = [None; 4];
    let batch = |number: i64| {
        let rows: Vec<UnixNanos> = (0..5).map(|row| UnixNanos((number * 5 + row) * SECOND + row * 1_000_003)).collect();
        let at = |row: usize| (number * 5).unsigned_abs() + row as u64;
        let value = |series: usize, row: usize| match series {
            0 => at(row) * 305_175_781 / 1_000 * 3,
            1 => at(row) * 1_500 + at(row) * at(row) % 61,
            2 => 300_000 + at(row) * at(row) % 997,
            _ => 7,
        };
        let columns = (0..4usize).map(|series| {
            let told =
                |(row, instant): (usize, &UnixNanos)| (series != 3 || row == 0).then(|| (*instant, value(series, row)));
            let points: Vec<StampedValue> = rows.iter().enumerate().filter_map(told).collect();
            let previous = std::mem::replace(&mut last[series], points.last().copied());
            StoredColumn { series: series as u32 * 3, previous: previous.filter(|_| series != 2), points }
        });
        let columns = columns.collect();
        (number.unsigned_abs() + 9, RowRecord { rows, columns })
    };
    (0..seconds / 5).map(batch).collect()
}

#[test]
fn the_layout_of_chunks_never_changes() {
    let hex = include_str!("../golden/chunk.hex").trim_ascii();
    let byte = |place: usize| u8::from_str_radix(&hex[place..place + 2], 16).expect("hexadecimal");
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    // Recorded once. What is written may change with the packing; what was written must be read for ever.
    assert_eq!(all(&bytes, UnixNanos(0), 9), Ok(hour_of(30)));
}

#[test]
fn an_hour_is_small_and_comes_back_whole_or_in_part() {
    let records = hour_of(3_600);
    let bytes = encode(KEY, UnixNanos(0), &records).expect("a chunk");
    let rows: usize = records.iter().map(|(_, record)| record.encode(KEY).len()).sum();
    assert!(bytes.len() * 4 < rows, "{} of {rows} bytes", bytes.len());
    assert_eq!(all(&bytes, UnixNanos(0), 9).as_ref(), Ok(&records));
    // What is left out is followed all the same.
    let part = decode(KEY, UnixNanos(0), 9, &bytes, &|sequence, at| sequence > 12 && at < UnixNanos(60 * SECOND));
    assert_eq!(part.as_deref(), Ok(&records[4..12]));
}

#[test]
fn what_cannot_be_a_chunk_is_none() {
    let records = hour_of(30);
    let encoded = |records: &[Numbered]| encode(KEY, UnixNanos(0), records);
    assert_eq!(encoded(&[]), None);
    assert_eq!(encode(KEY, UnixNanos(1), &records), None, "it begins before the hour");
    assert_eq!(encoded(&[records[1].clone(), records[0].clone()]), None, "out of order");
    let mut twice = records.clone();
    twice[2].1.columns[1].series = twice[2].1.columns[0].series;
    assert_eq!(encoded(&twice), None, "a series twice");
    let mut empty = records;
    empty[2].1.columns[1].points.clear();
    assert_eq!(encoded(&empty), None, "a column without points");
}

/// Records of a few series: whether all instants ascend, whether a column has a value in every row and whether it follows
/// the one before is drawn too.
fn numbered() -> impl Strategy<Value = (UnixNanos, Vec<Numbered>)> {
    const SERIES: [u32; 3] = [0, 1, u32::MAX];
    let record = (record(), 1u64..4, vec(any::<(bool, bool)>(), 6));
    (vec(record, 1..12), any::<bool>()).prop_map(|(records, ascend)| {
        let mut number = 0;
        let (mut last, mut end) = (BTreeMap::new(), 0);
        let records: Vec<Numbered> = records
            .into_iter()
            .map(|(mut record, step, drawn)| {
                let shift = if ascend { end + step.cast_signed() - record.rows[0].0 } else { 0 };
                record.rows.iter_mut().for_each(|row| row.0 += shift);
                for (column, (is_plain, follows)) in record.columns.iter_mut().zip(drawn) {
                    column.series = SERIES[column.series as usize % SERIES.len()];
                    column.points.iter_mut().for_each(|(at, _)| at.0 += shift);
                    if is_plain {
                        let value = u64::from(column.series) + number;
                        column.points =
                            record.rows.iter().map(|row| (*row, value ^ (row.0.cast_unsigned() % 64))).collect();
                    }
                    if follows {
                        column.previous = last.get(&column.series).copied().or(column.previous);
                    }
                }
                record.columns.retain(|column| !column.points.is_empty());
                record.columns.sort_by_key(|column| column.series);
                record.columns.dedup_by_key(|column| column.series);
                last.extend(
                    record.columns.iter().map(|column| (column.series, column.points[column.points.len() - 1])),
                );
                end = record.span().expect("rows").1.0;
                number += step;
                (number, record)
            })
            .collect();
        let hour = records.iter().map(|(_, record)| record.rows[0]).min().expect("records");
        (hour, records)
    })
}

/// Columns of those records whose first row is asked for.
fn of_records(records: &[Numbered], rows: &Range<UnixNanos>, window: Window) -> Vec<(u32, Column)> {
    let mut columns: BTreeMap<u32, Loose> = BTreeMap::new();
    let touches = |(first, last): (UnixNanos, UnixNanos)| first < window.end() && last >= window.start();
    for (_, record) in records.iter().filter(|(_, record)| rows.contains(&record.rows[0])) {
        for column in record.columns.iter().filter(|column| column.span().is_some_and(touches)) {
            columns.entry(column.series).or_default().push(column);
        }
    }
    columns.into_iter().map(|(series, loose)| (series, loose.into())).collect()
}

/// Some instants among those of records: where a window and first rows begin and end.
fn cuts() -> impl Strategy<Value = [(prop::sample::Index, bool); 4]> {
    prop::array::uniform4(any::<(prop::sample::Index, bool)>())
}

fn cut(records: &[Numbered], cuts: [(prop::sample::Index, bool); 4]) -> (Range<UnixNanos>, Window) {
    let mut known: Vec<UnixNanos> = Vec::new();
    for (_, record) in records {
        known.extend(&record.rows);
        known.extend(record.columns.iter().flat_map(|column| column.points.iter().map(|(at, _)| *at)));
    }
    known.sort();
    let at = |(index, after): (prop::sample::Index, bool)| match known.len() {
        // A damaged chunk may have none.
        0 => UnixNanos(0),
        length => UnixNanos(known[index.index(length)].0.saturating_add(i64::from(after))),
    };
    let [first, second, start, end] = cuts.map(at);
    let window = Window::new(start.min(end), start.max(end)).expect("ordered");
    (first.min(second)..first.max(second), window)
}

proptest! {
    #[test]
    fn records_come_back((hour, records) in numbered()) {
        let bytes = encode(KEY, hour, &records).expect("a chunk");
        prop_assert_eq!(all(&bytes, hour, records[0].0), Ok(records));
    }

    #[test]
    fn columns_are_those_of_the_records((hour, records) in numbered(), cuts in cuts()) {
        let bytes = encode(KEY, hour, &records).expect("a chunk");
        let whole = Window::new(UnixNanos(i64::MIN), UnixNanos(i64::MAX)).expect("ordered");
        let (rows, window) = cut(&records, cuts);
        for (rows, window) in [(rows, window), (UnixNanos(i64::MIN)..UnixNanos(i64::MAX), whole)] {
            let columns = columns(KEY, hour, records[0].0, &bytes, &rows, window).expect("columns");
            prop_assert_eq!(columns.series, of_records(&records, &rows, window));
            let numbers: Vec<u64> = records.iter().map(|(number, _)| *number).collect();
            prop_assert_eq!(columns.sequences, numbers);
            let first = records.iter().find(|(_, record)| rows.contains(&record.rows[0]));
            prop_assert_eq!(columns.first, first.map(|(number, record)| (record.rows[0], *number)));
        }
    }

    #[test]
    fn a_flipped_bit_or_a_cut_is_an_error((hour, records) in numbered(), place: prop::sample::Index, bit in 0u8..8) {
        let bytes = encode(KEY, hour, &records).expect("a chunk");
        let mut flipped = bytes.clone();
        flipped[place.index(bytes.len())] ^= 1 << bit;
        for damaged in [&flipped[..], &bytes[..place.index(bytes.len())]] {
            prop_assert!(all(damaged, hour, records[0].0).is_err());
            let rows = UnixNanos(0)..UnixNanos(0);
            let window = Window::new(rows.start, rows.end).expect("ordered");
            prop_assert!(columns(KEY, hour, records[0].0, damaged, &rows, window).is_err());
        }
    }

    #[test]
    fn altered_bytes_with_a_right_checksum_never_panic_and_are_read_alike(
        (hour, records) in numbered(), place: prop::sample::Index, byte: u8, cuts in cuts()
    ) {
        let bytes = encode(KEY, hour, &records).expect("a chunk");
        let mut body = bytes[1..bytes.len() - 4].to_vec();
        let place = place.index(body.len());
        body[place] = byte;
        let mut writer = Writer::of(CHUNK_VERSION);
        writer.raw(&body);
        alike(&writer.seal(KEY), hour, records[0].0, cuts)?;
    }

    #[test]
    fn bytes_with_a_right_checksum_never_panic(body in vec(any::<u8>(), 0..200), cuts in cuts()) {
        let mut writer = Writer::of(CHUNK_VERSION);
        writer.raw(&body);
        alike(&writer.seal(KEY), UnixNanos(0), 1, cuts)?;
    }
}

/// Whatever bytes say, records and columns say the same.
fn alike(
    bytes: &[u8],
    hour: UnixNanos,
    first: u64,
    cuts: [(prop::sample::Index, bool); 4],
) -> Result<(), TestCaseError> {
    let records = all(bytes, hour, first);
    let (rows, window) = cut(records.as_deref().unwrap_or_default(), cuts);
    let columns = columns(KEY, hour, first, bytes, &rows, window).map(|columns| columns.series);
    prop_assert_eq!(columns, records.map(|records| of_records(&records, &rows, window)));
    Ok(())
}
