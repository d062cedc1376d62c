use super::*;

fn raw(rows: &[(&str, &str)]) -> Vec<RawCell> {
    let row = |((start, value), line): (&(&str, &str), u64)| RawCell {
        line,
        start: (*start).to_owned(),
        value: (*value).to_owned(),
        ..RawCell::default()
    };
    rows.iter().zip(2..).map(row).collect()
}

fn hours(count: usize) -> Vec<RawCell> {
    let start = |hour: usize| format!("2026-01-{:02}T{:02}:00:00Z", hour / 24 + 1, hour % 24);
    let rows: Vec<(String, String)> = (0..count).map(|hour| (start(hour), format!("{}", 100 + hour % 7))).collect();
    raw(&rows.iter().map(|(start, value)| (start.as_str(), value.as_str())).collect::<Vec<_>>())
}

fn cells(mapping: &Mapping, raw: &[RawCell]) -> Result<Cells, MappingError> {
    mapping.cells(raw, Quantity::Intensity)
}

fn zoned(zone: &str) -> Mapping {
    Mapping { time_zone: Some(zone.to_owned()), ..Mapping::default() }
}

#[test]
fn b68_a_value_that_is_none_is_refused_with_its_line_and_more_than_one_in_a_hundred_refuse_all() {
    let mut table = hours(200);
    for (line, wrong) in [(3, "-1"), (5, "n/a")] {
        table[line].value = wrong.to_owned();
    }
    let read = cells(&Mapping::default(), &table).expect("1 in 100");
    assert_eq!(read.cells.len(), 198);
    assert!(read.refused[0].starts_with("line 5: -1 is no intensity"), "{:?}", read.refused);
    assert!(read.refused[1].starts_with("line 7: `n/a` is no number"));
    table[7].value = "50000".to_owned();
    let refused = cells(&Mapping::default(), &table).expect_err("3 of 200");
    assert!(
        matches!(&refused, MappingError::Refused { count: 3, of: 200, first } if first.starts_with("line 5")),
        "{refused}"
    );
    assert_eq!(cells(&Mapping::default(), &[]), Err(MappingError::Empty));
}

#[test]
fn b68_kilograms_are_seen_and_taken_where_they_are_said() {
    let table = raw(&[("2026-01-01T00:00:00Z", "0.056"), ("2026-01-01T01:00:00Z", "0.061")]);
    assert_eq!(cells(&Mapping::default(), &table), Err(MappingError::Kilograms));
    let said = Mapping { unit: Some("kg/kWh".to_owned()), ..Mapping::default() };
    let read = cells(&said, &table).expect("said");
    assert!((read.cells[0].1 - 56.0).abs() < 1e-9);
    let zero = raw(&[("2026-01-01T00:00:00Z", "0"), ("2026-01-01T01:00:00Z", "0")]);
    assert!(cells(&Mapping::default(), &zero).is_ok(), "a plant's own water power");
    let pounds = Mapping { unit: Some("lb/MWh".to_owned()), ..Mapping::default() };
    let read = cells(&pounds, &raw(&[("2026-01-01T00:00:00Z", "1000")])).expect("pounds");
    assert!((read.cells[0].1 - 453.592_37).abs() < 1e-9);
}

#[test]
fn b69_what_is_not_sorted_is_sorted_and_a_repetition_is_one_cell() {
    let table = raw(&[
        ("2026-01-01T01:00:00Z", "20"),
        ("2026-01-01T00:00:00Z", "10"),
        ("2026-01-01T01:00:00Z", "20"),
        ("2026-01-01T02:00:00Z", "30"),
    ]);
    let read = cells(&Mapping::default(), &table).expect("sorted");
    assert_eq!(read.cells.iter().map(|cell| cell.1).collect::<Vec<_>>(), [10.0, 20.0, 30.0]);
}

#[test]
fn b69_two_values_for_the_hour_that_a_clock_passed_twice_are_refused_by_their_lines() {
    // On 25 October 2026 Berlin's clocks go from 03:00 back to 02:00.
    let table = raw(&[
        ("2026-10-25T01:00:00", "10"),
        ("2026-10-25T02:00:00", "20"),
        ("2026-10-25T02:00:00", "30"),
        ("2026-10-25T03:00:00", "40"),
    ]);
    assert_eq!(cells(&zoned("Europe/Berlin"), &table), Err(MappingError::Conflict { first: 3, second: 4 }));
    let stated = raw(&[
        ("2026-10-25T02:00:00+02:00", "20"),
        ("2026-10-25T02:00:00+01:00", "30"),
        ("2026-10-25T03:00:00+01:00", "40"),
    ]);
    let read = cells(&zoned("Europe/Berlin"), &stated).expect("offsets tell them apart");
    assert_eq!(read.cells.iter().map(|cell| cell.0.nanos() / 3_600_000_000_000).collect::<Vec<_>>(), [1, 1, 1]);
}

#[test]
fn a_local_time_is_placed_by_its_zone_and_refused_without_one_or_where_the_clock_skipped_it() {
    let read = cells(&zoned("Europe/Berlin"), &raw(&[("2026-07-01T12:00:00", "10")])).expect("placed");
    assert_eq!(read.cells[0].0.start(), instant("2026-07-01T10:00:00Z", None).expect("an instant"));
    let refused =
        |mapping: &Mapping, start: &str| cells(mapping, &raw(&[(start, "10")])).expect_err("refused").to_string();
    assert!(refused(&Mapping::default(), "2026-07-01T12:00:00").contains("states no offset"));
    assert!(refused(&zoned("Europe/Berlin"), "2026-03-29T02:30:00").contains("set forward"));
    assert!(refused(&Mapping::default(), "yesterday").contains("is no time"));
    assert_eq!(instant("2026-07-01T12:00Z", None), instant("2026-07-01T12:00:00+00:00", None));
    assert_eq!(instant("86400", None), Ok(UnixNanos::from_seconds(86_400)));
}

#[test]
fn b69_a_cell_without_an_end_reaches_to_the_next_but_not_over_a_hole() {
    let mut table = hours(10);
    table.drain(3..8);
    let read = cells(&Mapping::default(), &table).expect("with a hole");
    let lengths: Vec<u64> = read.cells.iter().map(|cell| cell.0.nanos() / 3_600_000_000_000).collect();
    assert_eq!(lengths, [1, 1, 1, 1, 1], "five hours are not filled");
}

#[test]
fn words_that_nobody_knows_are_refused_with_their_key() {
    let key = |mapping: Mapping, quantity| mapping.check(quantity).expect_err("refused").0;
    let unit = |unit: &str| Mapping { unit: Some(unit.to_owned()), ..Mapping::default() };
    assert_eq!(key(unit("g"), Quantity::Intensity), "unit");
    assert_eq!(key(unit("kg/kWh"), Quantity::Pue), "unit");
    assert_eq!(key(zoned("Mars/Olympus"), Quantity::Intensity), "time_zone");
    assert_eq!(key(Mapping { all_are: Some("so so".into()), ..Mapping::default() }, Quantity::Pue), "all_are");
}
