use super::*;
use proptest::prelude::*;

fn at(second: i64) -> UnixNanos {
    UnixNanos::from_seconds(second)
}

fn window(start: i64, end: i64) -> Window {
    Window::new(at(start), at(end)).expect("ordered")
}

fn cell(start: i64, end: i64, value: f64, status: Status, revision: i64) -> SeriesCell {
    SeriesCell { window: window(start, end), value, status, revision: UnixNanos(revision) }
}

fn values(known: &[(Window, Option<SeriesCell>)]) -> Vec<(i64, Option<f64>)> {
    let seconds = |at: UnixNanos| at.0 / UnixNanos::PER_SECOND;
    known.iter().map(|(part, cell)| (seconds(part.start()), cell.map(|cell| cell.value))).collect()
}

#[test]
fn a_forecast_gives_way_to_what_was_measured_and_a_correction_to_the_one_recorded_last() {
    let forecast = cell(0, 3600, 100.0, Status::Forecast, 9);
    let measured = cell(0, 3600, 90.0, Status::Measured, 3);
    let corrected = cell(0, 3600, 95.0, Status::Measured, 5);
    let of = |cells: &[SeriesCell]| values(&best(window(0, 3600), cells));
    assert_eq!(of(&[forecast]), [(0, Some(100.0))]);
    assert_eq!(of(&[forecast, measured]), [(0, Some(90.0))], "a later forecast replaces no measurement");
    assert_eq!(of(&[corrected, forecast, measured]), [(0, Some(95.0))]);
}

#[test]
fn a_hole_in_the_hours_shows_the_day_under_it() {
    let day = cell(0, 86_400, 50.0, Status::Measured, 9);
    let hours = [cell(0, 3600, 10.0, Status::Forecast, 1), cell(7200, 10_800, 30.0, Status::Forecast, 1)];
    let known = best(window(0, 14_400), &[day, hours[0], hours[1]]);
    assert_eq!(values(&known), [(0, Some(10.0)), (3600, Some(50.0)), (7200, Some(30.0)), (10_800, Some(50.0))]);
}

#[test]
fn a_value_holds_on_over_a_short_hole_and_for_a_day_after_the_end_and_no_longer() {
    let cells = [cell(0, 3600, 1.0, Status::Measured, 0), cell(10_800, 14_400, 2.0, Status::Measured, 0)];
    let known = best(window(0, 200_000), &cells);
    let found = held(&known, false, Hold::DEFAULT);
    let ends: Vec<_> = found.iter().map(|(part, cell)| (*part, cell.value)).collect();
    assert_eq!(ends, [(window(3600, 10_800), 1.0), (window(14_400, 100_800), 2.0)]);
    assert_eq!(held(&known, true, Hold::DEFAULT).len(), 1, "what is followed is a hole, and it is too long");
    let long = [cells[0], cell(10_801, 14_400, 2.0, Status::Measured, 0)];
    assert!(held(&best(window(0, 14_400), &long), true, Hold::DEFAULT).is_empty(), "a hole of more than two hours");
    let before = [cells[1]];
    assert!(held(&best(window(0, 14_400), &before), true, Hold::DEFAULT).is_empty(), "nothing holds backwards");
}

#[test]
fn two_values_for_one_instant_are_a_conflict_and_a_repetition_is_none() {
    let hour = |start: i64, value| (window(start, start + 3600), value);
    assert_eq!(in_order(&[hour(3600, 2.0), hour(0, 1.0), hour(3600, 2.0)]), Ok(alloc::vec![1, 0]));
    assert_eq!(in_order(&[hour(0, 1.0), hour(3600, 2.0), hour(3600, 3.0)]), Err(Conflict { first: 1, second: 2 }));
    assert_eq!(in_order(&[hour(1800, 1.0), hour(0, 1.0)]), Err(Conflict { first: 1, second: 0 }), "they overlap");
}

#[test]
fn a_day_of_25_hours_is_a_day() {
    assert_eq!(Granularity::of(window(0, 90_000)), Granularity::Day);
    assert_eq!(Granularity::of(window(0, 1800)), Granularity::Hour);
    assert_eq!(Granularity::of(window(0, 31 * 86_400)), Granularity::Month);
    assert_eq!(Granularity::of(window(0, 365 * 86_400)), Granularity::Year);
}

proptest! {
    #[test]
    fn layers_cover_a_window_without_hole_or_overlap_and_each_part_has_the_highest_rank(
        cells in prop::collection::vec((0i64..50, 0i64..20, 0u8..5), 0..30),
        start in 0i64..30,
        length in 1i64..40,
    ) {
        let asked = window(start, start + length);
        let candidates: Vec<_> = cells.iter().map(|(from, long, rank)| (window(*from, from + long), *rank)).collect();
        let parts = layer(asked, &candidates);
        prop_assert_eq!(parts.first().map(|(part, _)| part.start()), Some(asked.start()));
        prop_assert_eq!(parts.last().map(|(part, _)| part.end()), Some(asked.end()));
        prop_assert!(parts.windows(2).all(|pair| pair[0].0.end() == pair[1].0.start() && pair[0].1 != pair[1].1));
        for second in start..start + length {
            let holds = |part: &Window| part.start() <= at(second) && at(second) < part.end();
            let best = candidates.iter().filter(|(part, _)| holds(part)).map(|(_, rank)| *rank).max();
            let (_, found) = parts.iter().find(|(part, _)| holds(part)).expect("covered");
            prop_assert_eq!(found.map(|index| candidates[index].1), best);
            prop_assert!(found.is_none_or(|index| holds(&candidates[index].0)));
        }
    }
}

#[test]
fn a_cell_without_an_end_lasts_until_the_next_but_not_over_a_hole() {
    let at = |hours: i64| UnixNanos(hours * 3600 * UnixNanos::PER_SECOND);
    // A day of 25 h, a hole of three days, and the last one.
    let starts = [0, 24, 49, 73, 145, 169].map(at);
    assert_eq!(ends(&starts, 1), [24, 49, 73, 97, 169, 193].map(at));
    assert_eq!(ends(&[at(5)], at(1).0), [at(6)]);
    assert!(ends(&[], 1).is_empty());
}

proptest! {
    #[test]
    fn what_overlaps_nowhere_is_found_as_anything_else_is(
        lengths in prop::collection::vec((0i64..5, 1i64..5), 0..8),
        from in 0i64..20,
        length in 0i64..20,
        backwards in any::<bool>(),
    ) {
        let mut end = 0;
        let mut candidates: Vec<(Window, u8)> = Vec::new();
        for (hole, length) in lengths {
            candidates.push((window(end + hole, end + hole + length), 0));
            end += hole + length;
        }
        if backwards {
            candidates.reverse();
        }
        let asked = window(from, from + length);
        prop_assert_eq!(apart(asked, &candidates), Some(stacked(asked, &candidates)));
        candidates.push((window(from, from + 20), 1));
        prop_assert_eq!(layer(asked, &candidates), stacked(asked, &candidates));
    }
}
