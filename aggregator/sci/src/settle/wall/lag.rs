//! How late a meter at the input shows what it senses (hardware, "Alignment").
//!
//! A BMC latches its sensor, averages it, and is read some seconds after that. Where the load steps, the parts show the
//! step at once and the meter later: the lag is the one at which the steps of the meter and those of Σ parts differ least,
//! Σ |Δ meter − Δ Σ parts| over the readings of an hour, of all whole seconds from 0 to twice the meter's interval. Powers
//! are whole µW and their differences exact: the same rows give the same lag, whoever asks and in whatever order they came.
//!
//! # Which hour
//! Question: readings of an hour of the clock are moved by a lag that is to be known when the first of its cells is
//! settled, and a cell is to be the same whenever it is worked out again. Options: of the same hour, at its end; of the
//! rows around each cell; of the hour before; whatever was found first, stored. Choice: the hour before, worked out from
//! its rows. At the hour's end every cell would be settled twice; around a cell there are too few steps, and a lag that
//! changes with each cell makes and loses time at each; one that was found first would depend on the order in which rows
//! came. The first hour of a node thus has none. What would change this: meters whose lag changes within hours.

use super::{LONGEST_SECONDS, intervals, meters, nanos, stretches};
use crate::settle::Run;
use crate::share::portion;
use crate::spread::{At, Grid, Spread};
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use joulebook_units::{Source, Subject, UnixNanos, Window};

/// Length of the time for which a lag holds, and of the time before it from which it is found, in seconds.
pub const HOUR_SECONDS: i64 = 3600;
/// The longest lag that is looked for: twice the longest interval at which sensors of BMCs are renewed.
pub(super) const MOST_SECONDS: i64 = 120;
/// Fewest steps, from one reading to the next, that a lag is found by.
const FEWEST: usize = 10;
const SECOND: u64 = 1_000_000_000;

/// The lags of a node's meters by the hour of the clock of a reading. A meter that has none in an hour is not known to be
/// late.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lags(BTreeMap<UnixNanos, BTreeMap<Source, u64>>);

impl Lags {
    /// Sets the lags of the readings of an hour: those that [`estimate`] finds in the hour before.
    pub fn set(&mut self, hour: UnixNanos, lags: BTreeMap<Source, u64>) {
        self.0.insert(hour.floor_to(HOUR_SECONDS), lags);
    }

    /// How late in nanoseconds a meter was when it was read.
    pub(super) fn of(&self, meter: &Source, reading: UnixNanos) -> Option<u64> {
        self.0.get(&reading.floor_to(HOUR_SECONDS))?.get(meter).copied()
    }

    /// The same for what was sensed at an instant: read in its hour, else in the next one.
    pub(super) fn of_sensed(&self, meter: &Source, instant: UnixNanos) -> Option<u64> {
        let hour = instant.floor_to(HOUR_SECONDS);
        let next = hour.plus_seconds(HOUR_SECONDS);
        match self.of(meter, hour) {
            Some(lag) if i64::try_from(lag).is_ok_and(|lag| instant.0.saturating_add(lag) >= next.0) => {
                self.of(meter, next)
            }
            lag => lag,
        }
    }
}

/// The lags in nanoseconds of the meters at a node's input, as the rows of an hour show them; nothing else of the runs
/// counts. A meter has none where fewer than ten steps can be compared, or the parts explain less than half of the
/// meter's: a constant load tells nothing.
pub fn estimate(runs: &[Run], hour: Window) -> BTreeMap<Source, u64> {
    let inside: Vec<Run> = runs.iter().flat_map(|run| within(run, hour)).collect();
    let meters = meters(&inside);
    if meters.is_empty() {
        return BTreeMap::new();
    }
    let parts = Parts::new(&inside, hour);
    let lag = |(source, runs): (&Source, Vec<&Run>)| {
        let readings = intervals(&runs).into_iter().filter(|(start, end, _)| end.nanos_since(*start) <= longest());
        Some((source.clone(), best(&stretches(readings.collect()), &parts)?))
    };
    meters.into_iter().filter_map(lag).collect()
}

fn longest() -> u64 {
    nanos(LONGEST_SECONDS)
}

/// What of a run lies in an hour.
fn within(run: &Run, hour: Window) -> Option<Run> {
    let inside = |at: &At| (hour.start()..hour.end()).contains(&at.0);
    let points: Vec<At> = run.points.iter().copied().filter(inside).collect();
    (points.len() > 1).then(|| Run { subject: run.subject.clone(), points })
}

/// Σ parts over an hour.
struct Parts {
    hour: Window,
    /// Energy in µJ up to the begin of each second, and of the last one's end.
    energy: Vec<u64>,
    /// Seconds, up to the same instants, in which some part is not known.
    unknown: Vec<u64>,
}

impl Parts {
    fn new(runs: &[Run], hour: Window) -> Self {
        let grid = Grid::new(hour);
        let mut parts: BTreeMap<&Source, Spread> = BTreeMap::new();
        for run in runs {
            if let Subject::Energy(source) = &*run.subject
                && source.is_part()
            {
                parts.entry(source).or_insert_with(|| Spread::new(grid.len())).add(&grid, &run.points);
            }
        }
        let (mut energy, mut unknown): (Vec<u64>, Vec<u64>) = (vec![0], vec![0]);
        for (slot, second) in grid.slots().iter().enumerate() {
            let known = |spread: &Spread| spread.covered.get(slot).copied() == Some(second.nanos());
            let is_known = !parts.is_empty() && parts.values().all(known);
            let own: u64 = parts.values().filter_map(|spread| spread.amounts.get(slot)).sum();
            energy.push(energy.last().copied().unwrap_or(0).saturating_add(own));
            unknown.push(unknown.last().copied().unwrap_or(0) + u64::from(!is_known));
        }
        Self { hour, energy, unknown }
    }

    /// Place of the second that holds an instant, and nanoseconds since its begin; `None` outside of the hour.
    fn place(&self, at: UnixNanos) -> Option<(usize, u64)> {
        let since = u64::try_from(at.0.checked_sub(self.hour.start().0)?).ok()?;
        Some((usize::try_from(since / SECOND).ok()?, since % SECOND))
    }

    /// Energy up to an instant.
    fn until(&self, at: UnixNanos) -> Option<u64> {
        let (second, nanos) = self.place(at)?;
        let before = *self.energy.get(second)?;
        let after = self.energy.get(second + 1).copied().unwrap_or(before);
        Some(before + portion(after - before, nanos, SECOND))
    }

    fn is_known(&self, from: UnixNanos, to: UnixNanos) -> bool {
        let (Some((first, _)), Some((last, rest))) = (self.place(from), self.place(to)) else { return false };
        let end = last + usize::from(rest > 0);
        self.unknown.get(first).zip(self.unknown.get(end)).is_some_and(|(before, after)| before == after)
    }
}

/// The lag at which a meter's steps and those of the parts differ least: of several the least.
fn best(stretches: &[Vec<At>], parts: &Parts) -> Option<u64> {
    let refresh = stretches.iter().flat_map(|stretch| stretch.windows(2)).map(|pair| match pair {
        [(start, _), (end, _)] => end.nanos_since(*start),
        _ => 0,
    });
    let (count, known) = refresh.fold((0u64, 0u64), |(count, sum), nanos| (count + 1, sum.saturating_add(nanos)));
    let seconds = (2 * known.checked_div(count)?).div_ceil(SECOND).min(nanos(MOST_SECONDS) / SECOND);
    let lags: Vec<u64> = (0..=seconds).map(|second| second * SECOND).collect();
    let mut costs = vec![0u128; lags.len()];
    let (mut steps, mut height) = (0usize, 0u128);
    for stretch in stretches {
        let mut before: Option<(i128, Vec<i128>)> = None;
        for pair in stretch.windows(2) {
            let now = powers(pair, &lags, parts);
            if let (Some((wall, sums)), Some((next, nexts))) = (&before, &now) {
                let step = next - wall;
                (steps, height) = (steps + 1, height + step.unsigned_abs());
                for ((cost, sum), next) in costs.iter_mut().zip(sums).zip(nexts) {
                    *cost += (step - (next - sum)).unsigned_abs();
                }
            }
            before = now;
        }
    }
    let (cost, lag) = costs.into_iter().zip(lags).min()?;
    (steps >= FEWEST && height > 0 && cost * 2 <= height).then_some(lag)
}

/// Power in µW of a meter between two readings, and of Σ parts so long before; `None` where a part is not known.
fn powers(pair: &[At], lags: &[u64], parts: &Parts) -> Option<(i128, Vec<i128>)> {
    let [(start, before), (end, after)] = pair else { return None };
    let nanos = end.nanos_since(*start);
    let power = |energy: u64| (i128::from(energy) * i128::from(SECOND)).checked_div(i128::from(nanos));
    let earlier = |at: UnixNanos, lag: u64| Some(UnixNanos(at.0.checked_sub(i64::try_from(lag).ok()?)?));
    let farthest = lags.last().copied().unwrap_or(0);
    if !parts.is_known(earlier(*start, farthest)?, *end) {
        return None;
    }
    let sum = |lag: &u64| power(parts.until(earlier(*end, *lag)?)?.checked_sub(parts.until(earlier(*start, *lag)?)?)?);
    Some((power(after.checked_sub(*before)?)?, lags.iter().map(sum).collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests;
