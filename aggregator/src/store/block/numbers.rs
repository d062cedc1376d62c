//! A sequence of whole numbers, as small as it gets without loss.
//!
//! ```text
//! kind u8, then
//!   0 same      the number
//!   1 plain     each as signed wrapping difference to the one before (the first: to 0)
//!   2 packed    bytes of a wrapped pco file of one chunk of one page
//!   3 multiple  factor, rest, then a sequence of kind 1 or 2: the number is factor · element + rest
//!   4 register  bits u8, spans: n, then each: first place (difference to the one before), shift; then a sequence of kind 1
//!               or 2 of readings: the number is ⌊reading · 10⁶ / 2^bits⌋ − shift
//! ```
//!
//! The count is not part of it: whoever writes a sequence knows it. Packing is by [`pco`], whose format is stable.
//!
//! A power meter of a processor (RAPL) counts in 2⁻¹⁴ J or 2⁻¹⁶ J and is read in whole microjoules: 61 or 15 of them a
//! step. Its readings are found again exactly, and are 6 or 4 bits shorter. What has been added up since may be shifted
//! against the register, by another amount after each of its wraps.

use super::{Damaged, Reader, Writer};
use pco::wrapped::{FileCompressor, FileDecompressor};
use pco::{ChunkConfig, DeltaSpec, ModeSpec, PagingSpec};

/// Most numbers of a sequence.
pub const MAX_NUMBERS: usize = 1 << 20;

const SAME: u8 = 0;
const PLAIN: u8 = 1;
const PACKED: u8 = 2;
const MULTIPLE: u8 = 3;
const REGISTER: u8 = 4;

const LARGE: Damaged = Damaged("number too large");

/// Fewer numbers than this are never smaller packed.
const LEAST_PACKED: usize = 24;
/// An order of differences that is expected to be so much larger than the best is not tried.
const CLOSE: f64 = 1.2;
/// Highest order of differences.
const ORDERS: usize = 3;
/// Units of energy registers: 2⁻¹⁴ J and 2⁻¹⁶ J.
const REGISTERS: [u8; 2] = [14, 16];
/// After so many microjoules the readings of a register of either unit repeat: 10⁶ = 2⁶ · 15,625.
const PERIOD: u64 = 15_625;
/// Of so many steps of a register at most one is no difference of readings: over a wrap something is added.
const MOST_OFF: usize = 8;
/// Numbers of a register between two of its wraps, on average at least.
const LEAST_SPAN: usize = 64;

/// Appends a sequence.
pub fn write(writer: &mut Writer, numbers: &[u64]) {
    let Some(first) = numbers.first() else { return };
    if numbers.iter().all(|number| number == first) {
        writer.byte(SAME);
        writer.number(*first);
        return;
    }
    let factor = numbers.iter().fold(0, |factor, number| greatest_common_divisor(factor, number.abs_diff(*first)));
    if factor > 1 {
        let rest = first % factor;
        writer.byte(MULTIPLE);
        writer.number(factor);
        writer.number(rest);
        let parts: Vec<u64> = numbers.iter().map(|number| (number - rest) / factor).collect();
        return write_each(writer, &parts);
    }
    if let Some((bits, spans, readings)) = REGISTERS.iter().find_map(|bits| register(*bits, numbers)) {
        writer.byte(REGISTER);
        writer.byte(bits);
        writer.length(spans.len());
        let mut before = 0;
        for (place, shift) in spans {
            writer.length(place - before);
            writer.number(shift);
            before = place;
        }
        return write_each(writer, &readings);
    }
    write_each(writer, numbers);
}

/// Reads a sequence of `count` numbers.
pub fn read(reader: &mut Reader<'_>, count: usize) -> Result<Vec<u64>, Damaged> {
    let mut numbers = Vec::new();
    read_into(reader, count, &mut numbers)?;
    Ok(numbers)
}

/// The same in place of what is in `numbers`, whatever is there if it fails.
pub fn read_into(reader: &mut Reader<'_>, count: usize, numbers: &mut Vec<u64>) -> Result<(), Damaged> {
    numbers.clear();
    if count > MAX_NUMBERS {
        return Err(Damaged("too many numbers"));
    }
    if count == 0 {
        return Ok(());
    }
    match reader.byte()? {
        SAME => {
            numbers.resize(count, reader.number()?);
            Ok(())
        }
        MULTIPLE => {
            let (factor, rest) = (reader.number()?, reader.number()?);
            read_each(reader, count, numbers)?;
            // The largest one fits, and so do all.
            let most = numbers.iter().copied().max().unwrap_or(0);
            let largest = most.checked_mul(factor).and_then(|product| product.checked_add(rest));
            largest.ok_or(LARGE)?;
            numbers.iter_mut().for_each(|number| *number = number.wrapping_mul(factor).wrapping_add(rest));
            Ok(())
        }
        REGISTER => read_register(reader, count, numbers),
        kind => read_of(kind, reader, count, numbers),
    }
}

fn read_register(reader: &mut Reader<'_>, count: usize, numbers: &mut Vec<u64>) -> Result<(), Damaged> {
    let bits = reader.byte()?;
    if !REGISTERS.contains(&bits) {
        return Err(Damaged("unknown unit of a register"));
    }
    let mut place = 0usize;
    let spans = reader.list(|reader| {
        place = place.saturating_add(usize::try_from(reader.number()?).map_err(|_| Damaged("place too large"))?);
        Ok((place, reader.number()?))
    })?;
    read_each(reader, count, numbers)?;
    let ends = spans.iter().skip(1).map(|(place, _)| *place).chain([count]);
    for ((start, shift), end) in spans.iter().zip(ends) {
        for number in numbers.get_mut(*start..end).ok_or(Damaged("spans out of order"))? {
            let whole = microjoules(bits, *number).and_then(|energy| energy.checked_sub(*shift));
            *number = whole.ok_or(LARGE)?;
        }
    }
    if spans.first().is_none_or(|(place, _)| *place != 0) {
        return Err(Damaged("spans do not begin at the first number"));
    }
    Ok(())
}

/// Appends a sequence as it is or packed.
fn write_each(writer: &mut Writer, numbers: &[u64]) {
    let plain = plain(numbers);
    let packed = if numbers.len() < LEAST_PACKED { None } else { pack(numbers) };
    match packed.filter(|packed| packed.len() < plain.length_so_far()) {
        Some(packed) => {
            writer.byte(PACKED);
            writer.block(&packed);
        }
        None => {
            writer.byte(PLAIN);
            writer.join(plain);
        }
    }
}

fn plain(numbers: &[u64]) -> Writer {
    let mut plain = Writer::part();
    let mut before = 0u64;
    for number in numbers {
        plain.signed(number.wrapping_sub(before).cast_signed());
        before = *number;
    }
    plain
}

fn read_each(reader: &mut Reader<'_>, count: usize, numbers: &mut Vec<u64>) -> Result<(), Damaged> {
    let kind = reader.byte()?;
    read_of(kind, reader, count, numbers)
}

fn read_of(kind: u8, reader: &mut Reader<'_>, count: usize, numbers: &mut Vec<u64>) -> Result<(), Damaged> {
    match kind {
        PLAIN => {
            let mut number = 0u64;
            for _ in 0..count {
                number = number.wrapping_add(reader.signed()?.cast_unsigned());
                numbers.push(number);
            }
            Ok(())
        }
        PACKED => unpack(reader.block()?, count, numbers),
        _ => Err(Damaged("unknown kind of sequence")),
    }
}

/// Packs by the order of differences that is smallest. `pco` itself judges by samples, and is 2 % larger on counters of
/// energy and tokens.
fn pack(numbers: &[u64]) -> Option<Vec<u8>> {
    let costs = costs(numbers);
    let best = costs.iter().copied().fold(f64::INFINITY, f64::min);
    let close = (0..ORDERS).zip(costs).filter(|(_, cost)| *cost <= best * CLOSE);
    close.filter_map(|(order, _)| pack_as(numbers, order)).min_by_key(Vec::len)
}

fn pack_as(numbers: &[u64], order: usize) -> Option<Vec<u8>> {
    let delta = if order == 0 { DeltaSpec::NoOp } else { DeltaSpec::TryConsecutive(order) };
    let config = ChunkConfig::default()
        .with_mode_spec(ModeSpec::Classic)
        .with_delta_spec(delta)
        .with_paging_spec(PagingSpec::Exact(vec![numbers.len()]));
    let file = FileCompressor::default();
    let mut chunk = file.chunk_compressor(numbers, &config).ok()?;
    let mut bytes = Vec::with_capacity(64 + chunk.meta_size_hint() + chunk.page_size_hint(0));
    file.write_header(&mut bytes).ok()?;
    chunk.write_meta(&mut bytes).ok()?;
    chunk.write_page(0, &mut bytes).ok()?;
    Some(bytes)
}

fn unpack(bytes: &[u8], count: usize, numbers: &mut Vec<u64>) -> Result<(), Damaged> {
    const WRONG: Damaged = Damaged("packed numbers cannot be read");
    let (file, rest) = FileDecompressor::new(bytes).map_err(|_| WRONG)?;
    let (mut chunk, rest) = file.chunk_decompressor::<u64, _>(rest).map_err(|_| WRONG)?;
    let mut page = chunk.page_decompressor(rest, count).map_err(|_| WRONG)?;
    numbers.resize(count, 0);
    let progress = page.read(numbers).map_err(|_| WRONG)?;
    if progress.n_processed != count || !progress.finished || !page.into_src().is_empty() {
        return Err(WRONG);
    }
    Ok(())
}

/// Bits that a number is expected to take with differences of each order: the entropy of lengths around the middle, and
/// what follows the first bit.
fn costs(numbers: &[u64]) -> [f64; ORDERS] {
    let mut differences: Vec<i64> = numbers.iter().map(|number| number.cast_signed()).collect();
    let mut costs = [f64::INFINITY; ORDERS];
    let mut ordered = Vec::with_capacity(differences.len());
    for (order, cost) in costs.iter_mut().enumerate() {
        let Some(known) = differences.get(order..).filter(|known| !known.is_empty()) else { break };
        ordered.clear();
        ordered.extend_from_slice(known);
        let half = ordered.len() / 2;
        let (_, middle, _) = ordered.select_nth_unstable(half);
        *cost = expected_bits(known, *middle);
        for place in (order + 1..differences.len()).rev() {
            differences[place] = differences[place].wrapping_sub(differences[place - 1]);
        }
    }
    costs
}

fn expected_bits(numbers: &[i64], middle: i64) -> f64 {
    let mut lengths = [0u32; 130];
    let mut after_first = 0u64;
    for number in numbers {
        let off = number.wrapping_sub(middle);
        let length = u64::BITS - off.unsigned_abs().leading_zeros();
        lengths[2 * length as usize + usize::from(off < 0)] += 1;
        after_first += u64::from(length.saturating_sub(1));
    }
    let count = numbers.len() as f64;
    let entropy = lengths.iter().filter(|found| **found > 0).map(|found| {
        let share = f64::from(*found) / count;
        -share * share.log2()
    });
    entropy.sum::<f64>() + after_first as f64 / count
}

pub(super) fn greatest_common_divisor(mut one: u64, mut other: u64) -> u64 {
    while other != 0 {
        (one, other) = (other, one % other);
    }
    one
}

/// What a reading of a register is in whole microjoules.
fn microjoules(bits: u8, reading: u64) -> Option<u64> {
    u64::try_from((u128::from(reading) * 1_000_000) >> bits).ok()
}

/// The least reading that is at least so many microjoules.
fn reading(bits: u8, microjoules: u64) -> Option<u64> {
    u64::try_from((u128::from(microjoules) << bits).div_ceil(1_000_000)).ok()
}

/// The register's unit, its spans with their shifts, and its readings, if it was one of this unit.
type Register = (u8, Vec<(usize, u64)>, Vec<u64>);

fn register(bits: u8, numbers: &[u64]) -> Option<Register> {
    if numbers.len() < LEAST_PACKED || !may_be_register(bits, numbers) {
        return None;
    }
    let mut spans: Vec<(usize, u64)> = Vec::new();
    let mut start = 0;
    while start < numbers.len() {
        if spans.len() > 1 + start / LEAST_SPAN {
            return None;
        }
        let (shift, length) = longest(bits, &numbers[start..])?;
        spans.push((start, shift));
        start += length;
    }
    let ends = spans.iter().skip(1).map(|(place, _)| *place).chain([numbers.len()]);
    let mut readings = Vec::with_capacity(numbers.len());
    for ((start, shift), end) in spans.iter().zip(ends) {
        for number in &numbers[*start..end] {
            let energy = number.checked_add(*shift)?;
            let count = reading(bits, energy)?;
            if microjoules(bits, count) != Some(energy) {
                return None;
            }
            readings.push(count);
        }
    }
    Some((bits, spans, readings))
}

/// Whether most of the first steps are such as between two readings: a microjoule or less from a whole number of the unit,
/// whatever the shift. Looking for the shift takes long, and nearly every sequence is of something else. What stands still
/// says nothing: a counter of requests that do not come is no register.
fn may_be_register(bits: u8, numbers: &[u64]) -> bool {
    let steps = numbers.windows(2).map(|pair| pair[1].abs_diff(pair[0])).filter(|step| *step > 0).take(LEAST_SPAN);
    let (mut moved, mut off) = (0, 0);
    for step in steps {
        let part = (u128::from(step) << bits) % 1_000_000;
        moved += 1;
        off += usize::from(part.min(1_000_000 - part) > 1 << bits);
    }
    moved >= LEAST_PACKED / 2 && off <= moved / MOST_OFF
}

/// The shift that makes most of the first numbers readings of the register, and how many.
fn longest(bits: u8, numbers: &[u64]) -> Option<(u64, usize)> {
    let first = *numbers.first()?;
    let steps = 1u64 << (bits - 6);
    let is_reading = |energy: u64| microjoules(bits, energy.saturating_mul(steps).div_ceil(PERIOD)) == Some(energy);
    // Within one period, where readings repeat.
    let own = (0..steps).filter_map(|step| microjoules(bits, step));
    let mut shifts: Vec<u64> = own.map(|energy| (energy + PERIOD - first % PERIOD) % PERIOD).collect();
    for (place, number) in numbers.iter().enumerate().skip(1) {
        if *number == numbers[place - 1] {
            continue;
        }
        let fits = |shift: &u64| is_reading((number % PERIOD + shift) % PERIOD);
        if !shifts.iter().any(fits) {
            return shifts.first().map(|shift| (*shift, place));
        }
        shifts.retain(fits);
    }
    shifts.first().map(|shift| (*shift, numbers.len()))
}

#[cfg(test)]
mod tests;
