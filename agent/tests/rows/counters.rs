//! What a counter shows: B01 to B07 and B10.

use super::*;

/// The whole outcome of a source of which nothing but readings was lost.
fn exact(microjoules: u64, known: &[u64], refused: &[(&'static str, u64)]) -> Outcome {
    let (known, refused) = (known.to_vec(), refused.to_vec());
    Outcome { microjoules, known, gaps: Vec::new(), refused, turns: Vec::new() }
}

fn number(raw: u64) -> String {
    format!("{raw}\n")
}

#[test]
fn b01_an_empty_file_costs_one_reading_and_the_next_one_brings_both_intervals() {
    let mut rig = Rig::new();
    rig.shows(number(BEGIN + 70_000_001));
    rig.shows("");
    rig.shows(number(BEGIN + 210_000_008));
    assert_eq!(rig.broken(), exact(210_000_008, &[0, 1, 3], &[("parse", 1)]));
    assert_eq!(said("intel-rapl:0/energy_uj shows no whole number").len(), 1);
}

#[test]
fn b02_a_torn_zero_moves_no_baseline_and_is_neither_spike_nor_reset() {
    let mut rig = Rig::new();
    rig.shows("0\n");
    // The old value again, then the counter goes on.
    rig.shows(number(BEGIN));
    rig.shows(number(BEGIN + 200_000_003));
    assert_eq!(rig.broken(), exact(200_000_003, &[0, 3], &[("backwards", 1), ("unchanged", 1)]));
}

#[test]
fn b03_a_number_beyond_64_bits_is_no_reading() {
    let mut rig = Rig::new();
    rig.shows("18446744073709551616\n");
    rig.shows("99999999999999999999999\n");
    rig.shows(number(BEGIN + 300_000_000));
    assert_eq!(rig.broken(), exact(300_000_000, &[0, 3], &[("parse", 2)]));
    // The largest number of 64 bits is one; beyond the counter's range it is refused all the same.
    rig.shows("18446744073709551615\n");
    assert_eq!(rig.broken(), exact(300_000_000, &[0, 3], &[("out_of_range", 1), ("parse", 2)]));
}

#[test]
fn b04_whatever_is_no_row_of_digits_is_refused_and_a_missing_newline_is_not() {
    let mut rig = Rig::new();
    let five_megabytes = "9".repeat(5_000_000);
    // The first 64 bytes alone would be a number.
    let (zeros, leading) = ("0".repeat(5_000_000), format!("{:0>80}\n", BEGIN));
    let refused =
        ["-5", "+5", "12 34", "0x10", "1e6", "１２", "12\r\n", "12\n\n", " 12", &five_megabytes, &zeros, &leading];
    for text in refused {
        rig.shows(text);
    }
    rig.shows((BEGIN + 12_345).to_string());
    let second = refused.len() as u64 + 1;
    assert_eq!(rig.broken(), exact(12_345, &[0, second], &[("parse", refused.len() as u64)]));
    assert_eq!(said("shows no whole number").len(), 2, "one line in ten seconds");
}

#[test]
fn b04_no_more_than_64_bytes_of_a_counter_are_read() {
    let mut rig = Rig::new();
    rig.pass(1);
    let bytes_of_a_row = |rig: &mut Rig| {
        let before = bytes_read();
        rig.pass(1);
        bytes_read() - before
    };
    let usual = bytes_of_a_row(&mut rig);
    rig.machine.shows("intel-rapl:0", "9".repeat(5_000_000));
    let long = bytes_of_a_row(&mut rig);
    let digits = number(BEGIN).len() as u64;
    assert!(long <= usual - digits + 64 + 8, "{long} bytes, {usual} in a row without it");
    assert_eq!(rig.broken().refused, [("parse", 1), ("unchanged", 2)]);
}

/// Bytes that this thread has read so far.
fn bytes_read() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/io").expect("the kernel counts");
    text.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok()).expect("rchar")
}

#[test]
fn b05_a_wrap_counts_at_once_and_to_the_microjoule() {
    let machine = Machine::new();
    machine.shows("intel-rapl:0", "262143328000\n");
    let mut rig = machine.start();
    rig.shows("150\n");
    let wrapped = Outcome { turns: vec![("wrap", 1)], ..exact(1_000, &[0, 1], &[]) };
    assert_eq!(rig.broken(), wrapped);
}

#[test]
fn b06_a_fall_of_a_counter_whose_range_cannot_be_read_is_a_gap_with_bounds() {
    for range in [None, Some(""), Some("0\n"), Some("-1\n"), Some("18446744073709551616\n")] {
        let machine = Machine::new();
        let file = machine.zone_path("intel-rapl:0").join("max_energy_range_uj");
        match range {
            Some(text) => fs::write(file, text).expect("file"),
            None => fs::remove_file(file).expect("removed"),
        }
        let mut rig = machine.start();
        rig.shows(number(BEGIN + 100));
        rig.shows(number(5_000));
        rig.shows(number(6_500));
        let outcome = Outcome {
            gaps: vec![(GapReason::WrapUnknownRange, 1, 2)],
            ..exact(100 + 1_500, &[0, 1, 2, 3], &[("backwards", 1), ("gap", 1)])
        };
        assert_eq!(rig.broken(), outcome, "{range:?}");
        // A quarter above 1,500 W, for one second.
        assert_eq!(rig.bounds(), (0, 1_875_000_000));
    }
}

#[test]
fn b07_a_pause_in_which_the_counter_may_have_wrapped_twice_is_a_gap_whatever_it_shows() {
    // 1,500 W need 174.8 s for one round of the counter. The last one shows its old value: it may have come around.
    for shown in [BEGIN + 7_000_000_000, 1_000, BEGIN + 100] {
        let mut rig = Rig::new();
        rig.shows(number(BEGIN + 100));
        rig.machine.shows("intel-rapl:0", number(shown));
        rig.pass(400);
        rig.shows(number(shown + 50_000_000));
        let outcome = Outcome {
            gaps: vec![(GapReason::AmbiguousWrap, 1, 401)],
            ..exact(100 + 50_000_000, &[0, 1, 401, 402], &[("gap", 1)])
        };
        assert_eq!(rig.broken(), outcome, "{shown}");
        assert_eq!(rig.bounds(), (0, 400 * 1_875_000_000));
    }
}

#[test]
fn b07_a_pause_too_short_for_two_wraps_loses_nothing() {
    let mut rig = Rig::new();
    rig.machine.shows("intel-rapl:0", number(BEGIN + 7_000_000_000));
    rig.pass(174);
    assert_eq!(rig.broken(), exact(7_000_000_000, &[0, 174], &[]));
}

#[test]
fn b10_a_zone_that_comes_back_lower_is_a_gap_and_a_new_baseline() {
    // The last value is so near the end of the range that a wrap would be believed of a zone that had stayed.
    for last in [BEGIN, RANGE - 1_000] {
        let machine = Machine::new();
        machine.shows("intel-rapl:0", number(last - 500));
        let mut rig = machine.start();
        rig.shows(number(last));
        fs::remove_dir_all(rig.machine.zone_path("intel-rapl:0")).expect("removed");
        rig.pass(1);
        rig.pass(1);
        rig.machine.zone("intel-rapl:0", "package-0", 700);
        rig.pass(1);
        rig.shows(number(40_000_700));
        rig.shows(number(90_000_700));
        let outcome = Outcome {
            gaps: vec![(GapReason::SourceLost, 1, 4)],
            turns: vec![("reset", 1)],
            ..exact(500 + 90_000_000, &[0, 1, 4, 5, 6], &[("backwards", 1), ("gap", 1), ("missing", 2)])
        };
        assert_eq!(rig.broken(), outcome, "{last}");
        assert_eq!(rig.bounds(), (0, 3 * 1_875_000_000));
        assert_eq!(said("energy_uj is gone; it is looked for at every reading").len(), 1, "one line in ten seconds");
    }
}

#[test]
fn b10_a_zone_that_comes_back_higher_has_counted_on() {
    let mut rig = Rig::new();
    let folder = rig.machine.zone_path("intel-rapl:0");
    fs::remove_dir_all(&folder).expect("removed");
    rig.pass(1);
    rig.machine.zone("intel-rapl:0", "package-0", BEGIN + 200_000_000);
    rig.pass(1);
    assert_eq!(rig.broken(), exact(200_000_000, &[0, 2], &[("missing", 1)]));
}
