use super::super::row::tests::record;
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

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

fn numbered() -> impl Strategy<Value = (UnixNanos, Vec<Numbered>)> {
    vec((record(), 1u64..4), 1..8).prop_map(|records| {
        let mut number = 0;
        let records: Vec<Numbered> = records
            .into_iter()
            .map(|(mut record, step)| {
                record.columns.retain(|column| !column.points.is_empty());
                record.columns.sort_by_key(|column| column.series);
                record.columns.dedup_by_key(|column| column.series);
                number += step;
                (number, record)
            })
            .collect();
        let hour = records.iter().map(|(_, record)| record.rows[0]).min().expect("records");
        (hour, records)
    })
}

proptest! {
    #[test]
    fn records_come_back((hour, records) in numbered()) {
        let bytes = encode(KEY, hour, &records).expect("a chunk");
        prop_assert_eq!(all(&bytes, hour, records[0].0), Ok(records));
    }

    #[test]
    fn a_flipped_bit_or_a_cut_is_an_error((hour, records) in numbered(), place: prop::sample::Index, bit in 0u8..8) {
        let bytes = encode(KEY, hour, &records).expect("a chunk");
        let mut flipped = bytes.clone();
        flipped[place.index(bytes.len())] ^= 1 << bit;
        prop_assert!(all(&flipped, hour, records[0].0).is_err());
        prop_assert!(all(&bytes[..place.index(bytes.len())], hour, records[0].0).is_err());
    }

    #[test]
    fn altered_bytes_with_a_right_checksum_never_panic(
        (hour, records) in numbered(), place: prop::sample::Index, byte: u8
    ) {
        let bytes = encode(KEY, hour, &records).expect("a chunk");
        let mut body = bytes[1..bytes.len() - 4].to_vec();
        let place = place.index(body.len());
        body[place] = byte;
        let mut writer = Writer::of(CHUNK_VERSION);
        writer.raw(&body);
        let _ = all(&writer.seal(KEY), hour, records[0].0);
    }

    #[test]
    fn bytes_with_a_right_checksum_never_panic(body in vec(any::<u8>(), 0..200)) {
        let mut writer = Writer::of(CHUNK_VERSION);
        writer.raw(&body);
        let _ = all(&writer.seal(KEY), UnixNanos(0), 1);
    }
}
