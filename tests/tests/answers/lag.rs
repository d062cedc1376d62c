//! A meter at the input that is late: its lag is found by the steps of the load, told, and the same whenever it is asked for.

use super::walls::asked;
use super::*;
use joulebook_aggregator::store::Resolution;
use joulebook_proto::query::MeterLag;
use joulebook_sci::Cell;
use joulebook_tests::history::{DeviceStep, Step, WallStep};
use std::collections::BTreeMap;

/// Rows of 5 s of a load in watts; the BMC tells each 10 s what was drawn so many rows before, 80 W and a quarter more than
/// the parts.
fn steps(count: usize, late: usize, load: fn(usize) -> u64) -> Vec<Step> {
    let nothing =
        DeviceStep { microjoules: 0, integrated_microjoules: 0, busy_nanos: 0, held_bytes: 0, users: 0, listed: true };
    let cpu = |number: usize| load(number) * 5_000_000;
    let step = |number: usize| Step {
        nanos: 5 * SECOND,
        microjoules: cpu(number),
        cpu_nanos: SECOND,
        tokens: 10,
        scraped: true,
        gap: false,
        ends_batch: false,
        running: 0,
        devices: [nothing.clone(), nothing.clone()],
        wall: WallStep {
            microjoules: 400_000_000 + (cpu(number.saturating_sub(late)) * 10 / 9) * 5 / 4,
            told: u8::from(number.is_multiple_of(2)),
            broken: 0,
        },
    };
    (0..count).map(step).collect()
}

/// Two requests of uneven length and pauses between them, over and over.
fn uneven(row: usize) -> u64 {
    match row % 43 {
        0..13 | 24..33 => 120,
        _ => 640,
    }
}

/// What is told of the wall's lag over the last ten minutes, by its layer and by an explanation of its node.
fn told(steps: &[Step]) -> (MeterLag, Vec<SciAnswer>) {
    let (before, after, layers) = asked(steps, 600, Trust::Components);
    let wall = layers.iter().find(|row| row.key[3].value == "redfish/wall").expect("the wall is a layer");
    let others = layers.iter().filter(|row| row.key[3].value != "redfish/wall");
    assert!(others.into_iter().all(|row| row.lag.is_none()), "only what was the wall has a lag");
    (wall.lag.clone().expect("it was the wall"), vec![before, after])
}

#[test]
fn the_lag_of_a_bmc_is_found_and_told_and_a_constant_load_leaves_it_unknown() {
    let (lag, answers) = told(&steps(1800, 3, uneven));
    assert_eq!(lag.method, "cross_correlation");
    let (least, most) = (lag.least_seconds.expect("known"), lag.most_seconds.expect("known"));
    assert!((least - 15.0).abs() <= 10.0 && (most - 15.0).abs() <= 10.0, "{lag:?}: within one sample of 10 s");
    assert!(lag.known_fraction > 0.99, "{lag:?}");
    assert_eq!(answers[0].reconciliation, answers[1].reconciliation, "the same from rows and from cells");

    let (unknown, _) = told(&steps(1800, 3, |_| 400));
    let nothing = MeterLag { method: "unknown".to_owned(), ..MeterLag::default() };
    assert_eq!(unknown, nothing, "a constant load shows no lag");
}

#[test]
fn the_platform_of_a_late_meter_is_nearer_to_the_truth_once_its_lag_is_known() {
    // The first hour has no hour before it, the second one has.
    let steps = steps(1800, 3, uneven);
    let history = history(0, &steps);
    let mut aggregator = Aggregator::new(std::slice::from_ref(&history));
    (0..history.batches.len()).for_each(|record| aggregator.send(0, &history, record));
    aggregator.settle();
    let first = UnixNanos(BOOTED + i64::try_from(1000 * SECOND).expect("small"));
    let (mut errors, mut minutes) = ([0u64; 2], [0u64; 2]);
    for ((resolution, start), cell) in aggregator.cells(0) {
        let since = start.nanos_since(first) / SECOND;
        if resolution != Resolution::Minute || cell.input.nanos() < 60 * SECOND || !(300..8400).contains(&since) {
            continue;
        }
        // Whole rows, nearly: rows stand each 5 s from the first on.
        let rows = (since / 5)..(since / 5 + 12);
        let truth: u64 = rows.map(|row| 400_000_000 + uneven(row as usize) * 5_000_000 * 10 / 9 / 4).sum();
        let platform = cell.input.platform_microjoules.abs_diff(cell.overcount_microjoules);
        let known = usize::from(!cell.input.lags.is_empty());
        errors[known] += platform.abs_diff(truth) / 1_000_000;
        minutes[known] += 1;
    }
    let [unknown, known] = [0, 1].map(|place| errors[place] as f64 / minutes[place] as f64);
    println!(
        "platform per minute off by {unknown:.0} J without the lag, by {known:.0} J with it ({minutes:?} minutes)"
    );
    assert!(minutes.iter().all(|minutes| *minutes > 20) && known * 2.0 < unknown, "{known} J and {unknown} J");
}

#[test]
fn rows_that_come_late_to_the_hour_before_change_how_the_next_is_read() {
    let steps = steps(2600, 3, uneven);
    let history = history(0, &steps);
    let count = history.batches.len();
    let mut early = Aggregator::new(std::slice::from_ref(&history));
    (0..count).for_each(|record| early.send(0, &history, record));
    early.settle();

    // The live stream first, settled as it comes, and then what the outage held up: the hour that the first live rows are
    // read by among it.
    let mut late = Aggregator::new(std::slice::from_ref(&history));
    for record in history.outage()..count {
        late.send(0, &history, record);
        if record % 40 == 0 {
            late.settle();
        }
    }
    late.settle();
    let before = late.cells(0);
    for record in 0..history.outage() {
        late.send(0, &history, record);
        if record % 40 == 0 {
            late.settle();
        }
    }
    late.settle();
    let told = |cells: BTreeMap<(Resolution, UnixNanos), Cell>| -> BTreeMap<_, _> {
        cells.into_iter().filter(|(_, cell)| *cell != Cell::default()).collect()
    };
    let (early, late) = (told(early.cells(0)), told(late.cells(0)));
    let differing: Vec<_> = early.iter().filter(|(at, cell)| late.get(at) != Some(cell)).map(|(at, _)| at).collect();
    assert!(differing.is_empty() && early.len() == late.len(), "{differing:?}");
    let live = early.iter().filter(|(at, cell)| {
        at.0 == Resolution::Minute && before.get(at).is_some_and(|b| b.covered_nanos == cell.covered_nanos)
    });
    let changed = live.filter(|(at, cell)| before.get(at).is_some_and(|b| b.input.lags != cell.input.lags)).count();
    assert!(changed > 5, "late rows changed the lag of {changed} minutes whose own rows were all there");
}
