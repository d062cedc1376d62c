use super::*;
use crate::cell::{Cell, LagUse};
use crate::settle::tests::{SECOND, run, source, window};
use crate::settle::{NodeSeries, settle};
use joulebook_units::{Component, Method};
use proptest::prelude::*;

const WATT: u64 = 1_000_000;
const HOUR: i64 = HOUR_SECONDS * SECOND;

fn bmc() -> Source {
    Source { method: Method::IntegratedPower, collector: "redfish".into(), ..source("bmc", Component::Wall) }
}

/// A load that steps between 200 and 900 W at uneven times.
fn stepping(second: i64) -> u64 {
    let phase = second.rem_euclid(211);
    if phase < 67 || (120..163).contains(&phase) { 200 } else { 900 }
}

/// Two parts each second, and a meter that shows each `every` seconds the mean of so many that ended `late` ago, with 150 W
/// and a tenth more than the parts.
fn runs(load: fn(i64) -> u64, hours: i64, every: i64, late: i64) -> Vec<Run> {
    let sum = |power: &dyn Fn(i64) -> u64, seconds: i64, step: i64| -> Vec<(i64, u64)> {
        let mut points = vec![(0, 0)];
        for end in (1..=seconds / step).map(|count| count * step) {
            let energy: u64 = (end - step..end).map(|second| power(second) * WATT).sum();
            points.push((end * SECOND, points.last().expect("a first").1 + energy));
        }
        points
    };
    let seconds = hours * HOUR_SECONDS;
    let wall = |second: i64| 150 + load(second - late) * 11 / 10;
    vec![
        run(Subject::Energy(source("cpu", Component::Cpu).into()), &sum(&|second| load(second) / 4, seconds, 1)),
        run(Subject::Energy(source("gpu", Component::Other).into()), &sum(&|second| load(second) / 4 * 3, seconds, 1)),
        run(Subject::Energy(bmc().into()), &sum(&wall, seconds, every)),
    ]
}

fn found(runs: &[Run]) -> Option<u64> {
    estimate(runs, window(0, HOUR)).get(&bmc()).map(|nanos| nanos / SECOND.unsigned_abs())
}

#[test]
fn the_lag_of_a_meter_is_found_by_its_steps() {
    for late in [0, 3, 7, 9] {
        let found = found(&runs(stepping, 1, 5, late)).expect("steps enough");
        assert!(found.abs_diff(late.unsigned_abs()) <= 1, "{found} s instead of {late} s");
    }
    // No further than twice the interval.
    assert_ne!(found(&runs(stepping, 1, 5, 40)), Some(40));
    assert_eq!(found(&runs(stepping, 1, 30, 40)), Some(40));
}

#[test]
fn a_load_without_steps_tells_nothing() {
    assert_eq!(found(&runs(|_| 400, 1, 5, 7)), None);
    let silent = runs(stepping, 1, 5, 7).split_off(2);
    assert_eq!(found(&silent), None, "without parts there is nothing to compare");
    let mut strange = runs(stepping, 1, 5, 7);
    strange.truncate(2);
    // What the parts do not do.
    strange.extend(runs(|second| 300 + second.rem_euclid(7).unsigned_abs() * 40, 1, 5, 7).split_off(2));
    assert_eq!(found(&strange), None);
    let brief: Vec<Run> = runs(stepping, 1, 5, 7).into_iter().map(|run| Run { points: cut(&run, 60), ..run }).collect();
    assert_eq!(found(&brief), None, "a minute has too few steps");
}

/// The points of the first so many seconds.
fn cut(run: &Run, seconds: i64) -> Vec<At> {
    run.points.iter().copied().filter(|(at, _)| at.0 <= seconds * SECOND).collect()
}

#[test]
fn a_part_that_is_silent_for_a_while_is_left_out_with_what_it_would_be_compared_with() {
    let mut runs = runs(stepping, 1, 5, 7);
    let gpu = runs.remove(1);
    let (before, after): (Vec<At>, Vec<At>) = gpu.points.into_iter().partition(|(at, _)| at.0 < 900 * SECOND);
    let after = after.into_iter().filter(|(at, _)| at.0 > 1500 * SECOND).collect();
    runs.extend([before, after].map(|points| Run { subject: gpu.subject.clone(), points }));
    assert_eq!(found(&runs), Some(7));
}

/// Sum over the minutes of the second hour of how far the measured platform is from the truth in µJ.
fn error(node: &NodeSeries) -> (u64, Cell) {
    let mut whole = Cell::default();
    let mut error = 0;
    for minute in (60..120).map(|minute| window(minute * 60 * SECOND, (minute + 1) * 60 * SECOND)) {
        let cell = settle(node, minute);
        let platform = cell.input.platform_microjoules as i64 - cell.overcount_microjoules as i64;
        let truth: u64 =
            (0..60).map(|second| 150 + stepping(minute.start().0 / SECOND + second) / 10).sum::<u64>() * WATT;
        error += platform.abs_diff(truth as i64);
        whole.merge(&cell);
    }
    (error, whole)
}

#[test]
fn a_meter_whose_lag_is_known_leaves_less_on_the_wrong_side() {
    let runs = runs(stepping, 3, 5, 7);
    let late = NodeSeries { input_runs: runs.clone(), ..NodeSeries::default() };
    let mut known = late.clone();
    for hour in 1..3 {
        let before = window((hour - 1) * HOUR, hour * HOUR);
        known.lags.set(UnixNanos(hour * HOUR), estimate(&runs, before));
    }
    let ((error_before, before), (error_after, after)) = (error(&late), error(&known));
    assert!(error_after * 5 < error_before, "{error_after} of {error_before} µJ");
    let lag = after.input.lags.values().copied().collect::<Vec<_>>();
    assert_eq!(lag, [LagUse::new(lag[0].nanos, 7 * SECOND.unsigned_abs())]);
    assert!((3590..=3600).contains(&(lag[0].nanos / SECOND.unsigned_abs())), "but for the first readings of the hour");
    assert!(before.input.lags.is_empty(), "nothing is said where nothing is known");
    assert_eq!(before.input.nanos(), after.input.nanos());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Rows come in any order and in records of any length, and more of them than the hour's.
    #[test]
    fn the_same_rows_give_the_same_lag(cuts in prop::collection::vec(1usize..400, 1..40), turn in 0usize..100) {
        let whole = runs(stepping, 2, 5, 7);
        let mut pieces: Vec<Run> = Vec::new();
        for run in &whole {
            let mut from = 0;
            for cut in cuts.iter().cycle() {
                let to = (from + cut).min(run.points.len() - 1);
                pieces.push(Run { subject: run.subject.clone(), points: run.points[from..=to].to_vec() });
                from = to;
                if to + 1 == run.points.len() {
                    break;
                }
            }
        }
        let turn = turn % pieces.len();
        pieces.rotate_left(turn);
        let hour = window(0, HOUR);
        let first: Vec<Run> = whole.iter().filter_map(|run| within(run, hour)).collect();
        prop_assert_eq!(estimate(&pieces, hour), estimate(&first, hour));
        prop_assert_eq!(estimate(&pieces, hour).len(), 1);
    }
}
