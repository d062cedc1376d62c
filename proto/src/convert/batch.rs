//! Batches: rows by column, differences instead of values, one Zstandard frame.
//!
//! A frame from outside is decompressed into at most 1 MiB, then its rows, columns and values are counted on the
//! bytes, and only then are structures built: what a hostile frame can make this process take is bounded by those
//! counts (a few MiB), not by what the frame claims.

use super::{ConvertError, gap_reason_from_wire, gap_reason_to_wire, refuse};
use crate::telemetry;
use bytes::Bytes;
use joulebook_units::{Batch, BootId, BootNanos, Column, EnergyGap, Microjoules, Point, UnixNanos};
use prost::Message;
use std::cell::RefCell;
use std::io;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

/// Most bytes of a payload, compressed and decompressed.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;
/// Most columns, and most gaps, of a batch: a column holds at least one value.
const MAX_COLUMNS: usize = Batch::MAX_SAMPLES;
/// Zstandard's default: higher levels cost the agent more than they save.
const COMPRESSION_LEVEL: i32 = 3;
/// 2^20: no frame of the contract needs a window larger than what it may hold.
const MAX_WINDOW_LOG: u32 = 20;
/// How much larger a batch is than its frame, mostly.
const EXPECTED_RATIO: usize = 4;

/// A batch as it is stored and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// Zstandard frame of the serialized batch, at most 1 MiB.
    pub bytes: Bytes,
    /// First 16 bytes of BLAKE3 of `bytes`.
    pub hash: [u8; 16],
    /// Number of values in the batch.
    pub samples: usize,
}

/// First 16 bytes of BLAKE3 of a payload.
pub fn payload_hash(payload: &[u8]) -> [u8; 16] {
    let mut hash = [0; 16];
    hash.copy_from_slice(&blake3::hash(payload).as_bytes()[..16]);
    hash
}

/// Serializes a batch. Fails on a batch that breaks a rule of the contract: no row, rows or points that do not ascend,
/// more than 64 rows, 60 s or 4,096 values, more points in a column than rows, values 2⁶³ apart.
pub fn encode_batch(batch: &Batch) -> Result<Payload, ConvertError> {
    let rows = &batch.rows;
    check_rows(rows)?;
    let samples = batch.samples();
    if samples > Batch::MAX_SAMPLES {
        return Err(ConvertError::Limit { what: "values of a batch", limit: Batch::MAX_SAMPLES });
    }
    if batch.gaps.len() > MAX_COLUMNS {
        return Err(ConvertError::Limit { what: "Batch.gaps", limit: MAX_COLUMNS });
    }
    let first = rows.first().copied().unwrap_or_default();
    let wire = telemetry::Batch {
        boot_id: batch.boot.0.to_vec(),
        first_row_boot_nanos: first.0,
        row_step_nanos: rows.windows(2).map(|pair| pair[1].0 - pair[0].0).collect(),
        wall_time_unix_nanos: batch.wall.0,
        columns: batch.columns.iter().map(|column| column_to_wire(column, rows)).collect::<Result<_, _>>()?,
        gaps: batch.gaps.iter().map(gap_to_wire).collect::<Result<_, _>>()?,
    };
    let serialized = wire.encode_to_vec();
    if serialized.len() > MAX_PAYLOAD_BYTES {
        return Err(ConvertError::Limit { what: "bytes of a batch", limit: MAX_PAYLOAD_BYTES });
    }
    let bytes = zstd::bulk::compress(&serialized, COMPRESSION_LEVEL).map_err(ConvertError::Compression)?;
    if bytes.len() > MAX_PAYLOAD_BYTES {
        return Err(ConvertError::Limit { what: "bytes of a payload", limit: MAX_PAYLOAD_BYTES });
    }
    Ok(Payload { hash: payload_hash(&bytes), bytes: bytes.into(), samples })
}

/// Reads a batch. Fails on anything that breaks a rule of the contract; what can only be judged with the dictionary
/// (a cumulative value that falls, an unknown series) is left to the aggregator, and so is a value that leaves its range.
pub fn decode_batch(payload: &[u8]) -> Result<Batch, ConvertError> {
    let serialized = decompress(payload)?;
    count(&serialized)?;
    let wire = telemetry::Batch::decode(serialized.as_slice())?;

    let mut rows = vec![BootNanos(wire.first_row_boot_nanos)];
    let mut at = wire.first_row_boot_nanos;
    for step in &wire.row_step_nanos {
        at = at.checked_add(*step).ok_or_else(|| refuse("Batch.row_step_nanos", "within 64 bits"))?;
        rows.push(BootNanos(at));
    }
    check_rows(&rows)?;
    Ok(Batch {
        boot: BootId::from_slice(&wire.boot_id)?,
        wall: UnixNanos(wire.wall_time_unix_nanos),
        columns: wire.columns.iter().map(|column| column_from_wire(column, &rows)).collect::<Result<_, _>>()?,
        gaps: wire.gaps.iter().map(gap_from_wire).collect::<Result<_, _>>()?,
        rows,
    })
}

fn check_rows(rows: &[BootNanos]) -> Result<(), ConvertError> {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
        return Err(refuse("rows of a batch", "at least one"));
    };
    if rows.len() > Batch::MAX_ROWS {
        return Err(ConvertError::Limit { what: "rows of a batch", limit: Batch::MAX_ROWS });
    }
    if rows.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(refuse("Batch.row_step_nanos", "at least 1 each"));
    }
    if last.0 - first.0 > Batch::MAX_SPAN_NANOS {
        return Err(refuse("Batch.row_step_nanos", "at most 60 s in all"));
    }
    Ok(())
}

fn column_to_wire(column: &Column, rows: &[BootNanos]) -> Result<telemetry::Column, ConvertError> {
    let points = &column.points;
    check_column(column)?;
    if points.len() > rows.len() {
        return Err(refuse("points of a column", "at most one for each row"));
    }
    let first_row = rows.first().copied().unwrap_or_default();
    let previous = column.previous.map(|point| {
        let age = first_row.0.checked_sub(point.at.0);
        let age = age.ok_or_else(|| refuse("Column.previous", "not after the first row"))?;
        Ok::<_, ConvertError>(telemetry::Previous { age_nanos: age, value: point.value })
    });
    let chosen = assign_rows(points, rows);
    let mut value = column.previous.map_or(0, |point| point.value);
    let mut deltas = Vec::with_capacity(points.len());
    let mut offsets = Vec::with_capacity(points.len());
    for (point, row) in points.iter().zip(&chosen) {
        // Modulo 2^64, as it is read: whether a value is one that can be, is judged value by value behind it.
        deltas.push(point.value.wrapping_sub(value).cast_signed());
        offsets.push(difference(point.at.0, rows[*row].0)?);
        value = point.value;
    }
    if offsets.iter().all(|offset| *offset == 0) {
        offsets.clear();
    }
    let every_row = points.len() == rows.len();
    Ok(telemetry::Column {
        series_id: column.series,
        row_mask: if every_row { 0 } else { chosen.iter().fold(0, |mask, row| mask | 1 << row) },
        previous: previous.transpose()?,
        deltas,
        offset_nanos: offsets,
    })
}

fn check_column(column: &Column) -> Result<(), ConvertError> {
    if column.series == 0 {
        return Err(refuse("Column.series_id", "from 1"));
    }
    if column.points.is_empty() {
        return Err(refuse("Column.deltas", "at least one"));
    }
    let times = column.previous.iter().chain(&column.points).map(|point| point.at);
    if !times.is_sorted_by(|a, b| a < b) {
        return Err(refuse("Column.offset_nanos", "points ascend in time, after the previous one"));
    }
    Ok(())
}

/// Gives each point a row of its own, the nearest that leaves enough rows for the points after it. Which row a point
/// stands in carries no meaning (its time does), so any ascending choice reads back the same.
fn assign_rows(points: &[Point], rows: &[BootNanos]) -> Vec<usize> {
    let mut lowest = 0;
    let choose = |(index, point): (usize, &Point)| {
        let highest = rows.len() - (points.len() - index);
        let after = rows.partition_point(|row| *row < point.at);
        let distance = |row: usize| rows.get(row).map_or(u64::MAX, |at| at.0.abs_diff(point.at.0));
        let nearest = if after > 0 && distance(after - 1) < distance(after) { after - 1 } else { after };
        let row = nearest.clamp(lowest, highest);
        lowest = row + 1;
        row
    };
    points.iter().enumerate().map(choose).collect()
}

/// `to − from` of two instants as the wire holds it.
fn difference(to: u64, from: u64) -> Result<i64, ConvertError> {
    to.checked_signed_diff(from).ok_or_else(|| refuse("Column.offset_nanos", "less than 2^63 apart"))
}

fn column_from_wire(column: &telemetry::Column, rows: &[BootNanos]) -> Result<Column, ConvertError> {
    let every_row = u64::MAX >> (Batch::MAX_ROWS - rows.len());
    let mask = if column.row_mask == 0 { every_row } else { column.row_mask };
    if mask & !every_row != 0 {
        return Err(refuse("Column.row_mask", "only rows of the batch"));
    }
    if usize::try_from(mask.count_ones()) != Ok(column.deltas.len()) {
        return Err(refuse("Column.deltas", "one for each bit of the mask"));
    }
    if !column.offset_nanos.is_empty() && column.offset_nanos.len() != column.deltas.len() {
        return Err(refuse("Column.offset_nanos", "none, or one for each value"));
    }
    let first_row = rows.first().copied().unwrap_or_default();
    let previous = column.previous.as_ref().map(|previous| {
        let at = first_row.0.checked_sub(previous.age_nanos);
        let at = at.ok_or_else(|| refuse("Previous.age_nanos", "not before the boot"))?;
        Ok::<_, ConvertError>(Point { at: BootNanos(at), value: previous.value })
    });
    let previous = previous.transpose()?;
    let mut value = previous.map_or(0, |point| point.value);
    let mut points = Vec::with_capacity(column.deltas.len());
    let chosen = rows.iter().enumerate().filter(|(row, _)| mask >> row & 1 == 1);
    for (index, ((_, row), delta)) in chosen.zip(&column.deltas).enumerate() {
        let offset = column.offset_nanos.get(index).copied().unwrap_or(0);
        let at = row.0.checked_add_signed(offset);
        // What leaves the range comes back with the next difference: one bad value costs no other one. The aggregator
        // refuses what cannot be.
        value = value.wrapping_add_signed(*delta);
        let at = at.ok_or_else(|| refuse("Column.offset_nanos", "within 64 bits"))?;
        points.push(Point { at: BootNanos(at), value });
    }
    let column = Column { series: column.series_id, previous, points };
    check_column(&column)?;
    Ok(column)
}

fn check_gap(gap: &EnergyGap) -> Result<(), ConvertError> {
    if gap.series == 0 {
        return Err(refuse("EnergyGap.series_id", "from 1"));
    }
    if gap.from > gap.to || gap.low > gap.high {
        return Err(refuse("EnergyGap", "times and bounds in order"));
    }
    Ok(())
}

fn gap_to_wire(gap: &EnergyGap) -> Result<telemetry::EnergyGap, ConvertError> {
    check_gap(gap)?;
    Ok(telemetry::EnergyGap {
        series_id: gap.series,
        from_boot_nanos: gap.from.0,
        to_boot_nanos: gap.to.0,
        reason: gap_reason_to_wire(gap.reason),
        low_microjoules: gap.low.0,
        high_microjoules: gap.high.0,
    })
}

fn gap_from_wire(gap: &telemetry::EnergyGap) -> Result<EnergyGap, ConvertError> {
    let gap = EnergyGap {
        series: gap.series_id,
        from: BootNanos(gap.from_boot_nanos),
        to: BootNanos(gap.to_boot_nanos),
        reason: gap_reason_from_wire(gap.reason)?,
        low: Microjoules(gap.low_microjoules),
        high: Microjoules(gap.high_microjoules),
    };
    check_gap(&gap)?;
    Ok(gap)
}

thread_local! {
    /// Makes the frames of a thread whole again, one after the other: to make a decoder takes longer than a batch, and as much
    /// memory as a window at most.
    static DECODER: RefCell<Option<Decoder<'static>>> = const { RefCell::new(None) };
}

/// Decompresses exactly one frame of at most 1 MiB.
fn decompress(payload: &[u8]) -> Result<Vec<u8>, ConvertError> {
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(ConvertError::Limit { what: "bytes of a payload", limit: MAX_PAYLOAD_BYTES });
    }
    DECODER.with_borrow_mut(|kept| {
        // What a frame that failed left behind is forgotten.
        let decoder = match kept {
            Some(decoder) => {
                decoder.reinit().map_err(ConvertError::Compression)?;
                decoder
            }
            None => {
                let mut decoder = Decoder::new().map_err(ConvertError::Compression)?;
                decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG)).map_err(ConvertError::Compression)?;
                kept.insert(decoder)
            }
        };
        frame(decoder, payload)
    })
}

/// What the only frame of a payload holds.
fn frame(decoder: &mut Decoder<'static>, payload: &[u8]) -> Result<Vec<u8>, ConvertError> {
    let mut serialized = Vec::with_capacity(payload.len().saturating_mul(EXPECTED_RATIO).clamp(64, MAX_PAYLOAD_BYTES));
    let mut input = InBuffer::around(payload);
    loop {
        let (read, written) = (input.pos(), serialized.len());
        let mut output = OutBuffer::around_pos(&mut serialized, written);
        let left = decoder.run(&mut input, &mut output).map_err(ConvertError::Compression)?;
        if serialized.len() > MAX_PAYLOAD_BYTES {
            return Err(ConvertError::Limit { what: "bytes of a payload", limit: MAX_PAYLOAD_BYTES });
        }
        if left == 0 {
            break;
        }
        if serialized.len() == serialized.capacity() {
            serialized.reserve(serialized.len());
        } else if (input.pos(), serialized.len()) == (read, written) {
            return Err(ConvertError::Compression(io::ErrorKind::UnexpectedEof.into()));
        }
    }
    if input.pos() < payload.len() {
        return Err(refuse("Record.payload", "one Zstandard frame and nothing after it"));
    }
    Ok(serialized)
}

/// Counts what a serialized batch holds before anything is built from it.
fn count(serialized: &[u8]) -> Result<(), ConvertError> {
    let (mut steps, mut columns, mut gaps, mut deltas, mut offsets) = (0, 0, 0, 0, 0);
    walk(serialized, |field, value| {
        match field {
            3 => steps += value.varints(),
            5 => {
                columns += 1;
                walk(value.bytes(), |field, value| {
                    match field {
                        4 => deltas += value.varints(),
                        5 => offsets += value.varints(),
                        _ => {}
                    }
                    Ok(())
                })?;
            }
            6 => gaps += 1,
            _ => {}
        }
        Ok(())
    })?;
    for (what, found, limit) in [
        ("rows of a batch", steps, Batch::MAX_ROWS - 1),
        ("Batch.columns", columns, MAX_COLUMNS),
        ("Batch.gaps", gaps, MAX_COLUMNS),
        ("values of a batch", deltas, Batch::MAX_SAMPLES),
        ("offsets of a batch", offsets, Batch::MAX_SAMPLES),
    ] {
        if found > limit {
            return Err(ConvertError::Limit { what, limit });
        }
    }
    Ok(())
}

/// A field's value as it lies in the bytes.
enum Raw<'a> {
    Number,
    Bytes(&'a [u8]),
}

impl<'a> Raw<'a> {
    /// How many numbers a repeated field holds here, packed or single.
    fn varints(&self) -> usize {
        match self {
            Self::Number => 1,
            Self::Bytes(bytes) => bytes.iter().filter(|byte| **byte < 0x80).count(),
        }
    }

    fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Number => &[],
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// Visits every field of a serialized message. Groups, which the contract does not have, are refused.
fn walk<'a>(
    mut rest: &'a [u8],
    mut visit: impl FnMut(u64, Raw<'a>) -> Result<(), ConvertError>,
) -> Result<(), ConvertError> {
    let broken = || refuse("Batch", "a serialized message of the contract");
    while !rest.is_empty() {
        let key = varint(&mut rest).ok_or_else(broken)?;
        let value = match key & 7 {
            0 => {
                varint(&mut rest).ok_or_else(broken)?;
                Raw::Number
            }
            kind @ (1 | 5) => {
                rest = rest.get(if kind == 1 { 8 } else { 4 }..).ok_or_else(broken)?;
                Raw::Number
            }
            2 => {
                let length = varint(&mut rest).and_then(|length| usize::try_from(length).ok());
                let (bytes, after) = length.and_then(|length| rest.split_at_checked(length)).ok_or_else(broken)?;
                rest = after;
                Raw::Bytes(bytes)
            }
            _ => return Err(broken()),
        };
        visit(key >> 3, value)?;
    }
    Ok(())
}

/// Reads one variable-length number of at most 10 bytes.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests;
