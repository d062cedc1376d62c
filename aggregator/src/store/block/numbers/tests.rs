use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

const KEY: &[u8] = b"some key";

fn written(numbers: &[u64]) -> Vec<u8> {
    let mut writer = Writer::default();
    write(&mut writer, numbers);
    writer.seal(KEY)
}

fn back(bytes: &[u8], count: usize) -> Result<Vec<u64>, Damaged> {
    let mut reader = Reader::open(KEY, bytes)?;
    let numbers = read(&mut reader, count)?;
    reader.end()?;
    Ok(numbers)
}

/// Numbers without a pattern.
fn noise(place: u64) -> u64 {
    let mixed = place.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20
}

/// Readings of a register at some hundred watts with some noise, in whole microjoules as the kernel tells them.
fn energies(bits: u8, from: u64, count: u64) -> Vec<u64> {
    let step = |second: u64| 150 * (1 << bits) + noise(second) % 50_000;
    let readings = (0..count).scan(from, |reading, second| {
        *reading += step(second);
        Some(*reading)
    });
    readings.map(|reading| microjoules(bits, reading).expect("small")).collect()
}

#[test]
fn a_register_is_found_again_whatever_was_added_and_over_its_wraps() {
    for bits in REGISTERS {
        let told = energies(bits, 123_456_789_012, 3_600);
        // As an agent adds up: from its first reading on, and shifted by a part of a step after a wrap.
        let summed = told.iter().zip(0u64..).map(|(energy, place)| energy - told[0] + 7 * (place / 1_500) + 3);
        let summed: Vec<u64> = summed.collect();
        let (unit, spans, _) = register(bits, &summed).expect("a register");
        assert_eq!((unit, spans.len()), (bits, 3), "{spans:?}");
        assert_eq!(back(&written(&summed), summed.len()), Ok(summed.clone()));
        // Without the register it takes the bits of a step more.
        let each = {
            let mut writer = Writer::default();
            write_each(&mut writer, &summed);
            writer.length_so_far()
        };
        let saved = (each - written(&summed).len()) * 8 / summed.len();
        assert_eq!(saved, if bits == 14 { 5 } else { 3 }, "bits that a number is shorter");
    }
}

#[test]
fn what_is_no_register_is_taken_for_none() {
    let counts: Vec<u64> = (0..3_600u64).map(|second| second * 1_500 + noise(second) % 61).collect();
    assert!(REGISTERS.iter().all(|bits| register(*bits, &counts).is_none()));
}

#[test]
fn kinds_are_chosen_by_what_is_there() {
    let kind = |numbers: &[u64]| written(numbers)[1];
    assert_eq!(kind(&[7; 3_600]), SAME);
    assert_eq!(written(&[7; 3_600]).len(), 1 + 2 + 4);
    assert_eq!(kind(&[1, 5, 2]), PLAIN);
    let counts: Vec<u64> = (0..3_600u64).map(|second| second * 1_500 + noise(second) % 61).collect();
    assert_eq!(kind(&counts), PACKED);
    let millijoules: Vec<u64> = counts.iter().map(|count| count * 1_000 + 17).collect();
    assert_eq!(kind(&millijoules), MULTIPLE);
    assert!(written(&millijoules).len() <= written(&counts).len() + 6);
    assert_eq!(kind(&energies(14, 5, 3_600)), REGISTER);
}

#[test]
fn more_numbers_than_there_may_be_are_damage() {
    assert_eq!(back(&written(&[1; 3]), MAX_NUMBERS).map(|numbers| numbers.len()), Ok(MAX_NUMBERS));
    assert!(back(&written(&[1; 3]), MAX_NUMBERS + 1).is_err());
}

proptest! {
    #[test]
    fn numbers_come_back(numbers in vec(any::<u64>(), 1..400)) {
        prop_assert_eq!(back(&written(&numbers), numbers.len()), Ok(numbers));
    }

    #[test]
    fn counters_come_back(start: u64, steps in vec(0u64..100_000, 1..400), factor in 1u64..2_000) {
        let mut at = start / 2;
        let numbers: Vec<u64> = steps.iter().map(|step| { at += step * factor; at }).collect();
        prop_assert_eq!(back(&written(&numbers), numbers.len()), Ok(numbers));
    }

    #[test]
    fn bytes_with_a_right_checksum_never_panic(kind in 0u8..6, body in vec(any::<u8>(), 0..200), count in 0usize..500) {
        let mut writer = Writer::default();
        writer.byte(kind);
        writer.raw(&body);
        let _ = back(&writer.seal(KEY), count);
    }

    #[test]
    fn altered_packed_bytes_with_a_right_checksum_never_panic(place: prop::sample::Index, bit in 0u8..8) {
        let counts: Vec<u64> = (0..600u64).map(|second| second * 1_500 + noise(second) % 61).collect();
        let whole = written(&counts);
        let mut body = whole[1..whole.len() - 4].to_vec();
        let place = place.index(body.len());
        body[place] ^= 1 << bit;
        let mut writer = Writer::default();
        writer.raw(&body);
        let _ = back(&writer.seal(KEY), 600);
    }
}
