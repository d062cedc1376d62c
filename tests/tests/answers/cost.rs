//! What a meter at the input costs: its readings decide about minutes around them, so that a row marks more cells.

#![allow(clippy::print_stdout, reason = "it says what it measured")]

use super::walls::steps;
use super::*;
use joulebook_tests::wait::Moment;
use joulebook_units::Batch;
use std::time::Duration;

/// Rows of 5 s of an hour.
const HOUR: usize = 720;
/// Minutes of the hour whose cells are closed by its end, and those after it that its last rows mark.
const CELLS: std::ops::RangeInclusive<usize> = 45..=65;

/// What an hour of one node cost.
struct Cost {
    /// Cells that were settled while it went by.
    settled: usize,
    settling: Duration,
    /// Storing its records.
    storing: Duration,
    records: usize,
    /// Ten minutes at its end, asked the first time and then again.
    asked: [Duration; 2],
}

fn end(batch: &Batch) -> UnixNanos {
    let last = batch.rows.last().expect("a row").0;
    UnixNanos(BOOTED + i64::try_from(last).expect("a time of this century"))
}

fn an_hour(told: usize) -> Cost {
    let mut steps = steps(told, HOUR - told, 100);
    // A record for each row: as often as an agent sends.
    steps.iter_mut().for_each(|step| step.ends_batch = true);
    let history = history(0, &steps);
    let mut aggregator = Aggregator::new(std::slice::from_ref(&history));
    let mut cost = Cost {
        settled: 0,
        settling: Duration::ZERO,
        storing: Duration::ZERO,
        records: history.batches.len(),
        asked: [Duration::ZERO; 2],
    };
    for record in 0..history.batches.len() {
        let begin = Moment::now();
        aggregator.send(0, &history, record);
        cost.storing += begin.elapsed();
        let begin = Moment::now();
        cost.settled += aggregator.pass(end(&history.batches[record]));
        cost.settling += begin.elapsed();
    }
    let last = aggregator.now.floor_to(1);
    let window = TimeWindow { start_unix_nanos: last.plus_seconds(-600).0, end_unix_nanos: last.0 };
    let question = GetEnergyRequest { window: Some(window), by: EnergyBy::Node.into(), ..GetEnergyRequest::default() };
    let query = query(&aggregator);
    for asked in &mut cost.asked {
        let begin = Moment::now();
        let rows = query.energy(&question).expect("well-formed").rows;
        *asked = begin.elapsed();
        assert_eq!(rows.len(), 1);
    }
    cost
}

#[test]
fn a_cell_is_settled_once_while_time_goes_by_with_a_wall_or_without_one() {
    for (what, told) in [("without a wall", 0), ("with a wall", HOUR), ("with one that fell silent", HOUR - 120)] {
        let Cost { settled, settling, storing, records, asked } = an_hour(told);
        println!(
            "an hour of one node {what}: {records} records, {:?} each to store; {settled} cells settled, {:?} each; ten \
             minutes asked in {:?} and again in {:?}",
            storing / u32::try_from(records).expect("few"),
            settling / u32::try_from(settled.max(1)).expect("few"),
            asked[0],
            asked[1],
        );
        assert!(CELLS.contains(&settled), "{what}: {settled} cells of an hour were settled");
    }
}
