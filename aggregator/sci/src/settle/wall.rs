//! The meter at a node's input against the node's parts (methodology A.6), on the slots of a cell.
//!
//! A wall meter is coarse and late: its power is that of some seconds ago, held for 5 to 300 s. Subtracting it second by
//! second would show an overcount at one side of every step and too much platform at the other, so the two are compared
//! over *periods*: from the first reading of the meter in a minute of the clock to the first one in a later minute, a
//! minute or longer. What a period leaves over is spread in time over the slots that it touches, to the microjoule, so
//! that the cells under it add up to it. Readings that are further apart than [`LONGEST_SECONDS`] (a counter that bridges
//! an outage) are taken as steady between and cut at every minute: what a cell depends on lies within
//! [`SURROUNDINGS_SECONDS`] around it, whoever asks. Before that every reading is moved to when it was sensed, as far as
//! that is known ([`lag`]).
//!
//! # Which meter is the wall
//! Question: a node may have several (a distribution unit's outlet, a BMC over Redfish or IPMI, the ACPI meter, psys). One
//! of them is its input at any instant, the others are shown beside it. Options: one by configuration, the mean, the
//! first of a declared order that is known at the instant. Choice: the order, since it needs nobody and is the same
//! whenever it is asked. Energy counters of fine steps come before integrated power (nothing is missed between two
//! readings), then the fresher (by powers of two of the interval), then the one of the smaller declared error, then the
//! name. A counter in steps above [`FINE_NANOJOULES`] stands behind power: a minute holds too few of its steps. psys never
//! is the wall: it lies behind the power supply, and boards differ in whether it holds the accelerators. What would change
//! this: a board whose psys is known to stand at the input.

pub mod lag;

use super::{NodeSeries, Run, at, source_key};
use crate::cell::{Cell, Flags, LagUse};
use crate::reconcile::{PSU_EFFICIENCY, psu_loss, residual};
use crate::share::portion;
use crate::spread::{At, Grid, Spread};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;
use joulebook_units::{Layer, Method, Source, Subject, UnixNanos, Window};
use lag::{Lags, MOST_SECONDS};

/// How far around a cell the rows reach that decide about it where the node has a meter at its input. What its lag is
/// depends on the hour of the clock before, too: [`lag::estimate`].
pub const SURROUNDINGS_SECONDS: i64 = LONGEST_SECONDS + 2 * PERIOD_SECONDS + MOST_SECONDS;
/// Length of a period that readings close together make.
const PERIOD_SECONDS: i64 = 60;
/// Readings further apart are cut at minutes: the longest averaging interval of an ACPI meter.
const LONGEST_SECONDS: i64 = 300;
/// Largest step of a counter that comes before power: 100 J.
const FINE_NANOJOULES: u64 = 100_000_000_000;

/// What the input and the parts of a slot came to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Input {
    /// Platform that was measured.
    measured: u64,
    /// Half-width of its interval.
    bound: u64,
    overcount: u64,
    /// Energy of the parts in the time with a wall.
    components: u64,
}

/// The wall of a node on the slots of a grid.
pub(super) struct Wall {
    slots: Vec<Input>,
    /// Nanoseconds in which each source was the wall.
    meters: BTreeMap<Source, u64>,
    /// Those of them in which its lag is known.
    lags: BTreeMap<Source, LagUse>,
    flags: Flags,
}

/// Time over which one meter and the parts are compared.
struct Period<'a> {
    meter: &'a Source,
    window: Window,
    /// Energy of the meter.
    wall: u64,
    /// Energy that may lie on the wrong side of the period's edges, since the meter is late.
    shifted: u64,
    /// How late the meter is, where that is known.
    lag: Option<u64>,
}

impl Wall {
    /// The wall of a node; without a meter at the input nothing is measured.
    pub(super) fn new(node: &NodeSeries, grid: &Grid) -> Self {
        let mut wall = Self {
            slots: vec![Input::default(); grid.len()],
            meters: BTreeMap::new(),
            lags: BTreeMap::new(),
            flags: Flags::default(),
        };
        let span = grid.slots().first().zip(grid.slots().last());
        let Some(window) = span.and_then(|(first, last)| Window::new(first.start(), last.end())) else { return wall };
        let periods: Vec<Period<'_>> =
            periods(node).into_iter().filter(|period| period.window.intersect(window).is_some()).collect();
        if periods.is_empty() {
            return wall;
        }
        let edges = grid.slots().iter().flat_map(|slot| [slot.start(), slot.end()]);
        let edges: BTreeSet<UnixNanos> =
            edges.chain(periods.iter().flat_map(|period| [period.window.start(), period.window.end()])).collect();
        let Some(pieces) = Grid::between(&edges) else { return wall };
        let parts = parts(node, &pieces);
        for period in &periods {
            wall.compare(period, &pieces, &parts, grid);
        }
        wall
    }

    /// Compares one period and gives each slot its part of the outcome.
    fn compare(&mut self, period: &Period<'_>, pieces: &Grid, parts: &[(&Source, Spread)], grid: &Grid) {
        let inside = pieces.within(period.window);
        let energy = |piece: usize| -> u64 { parts.iter().map(|(_, spread)| at(&spread.amounts, piece)).sum() };
        let components: u64 = inside.clone().map(energy).sum();
        // A meter that shows nothing while the parts draw something is dead. One that repeats an old value is told apart by
        // the agent alone, which ends its series.
        if period.wall == 0 && components > 0 {
            return;
        }
        let difference = residual(period.wall, components);
        let own = |spread: &Spread| -> u64 { inside.clone().map(|piece| at(&spread.amounts, piece)).sum() };
        let meters = parts.iter().map(|(source, spread)| (*source, own(spread)));
        let bound = error(meters.chain([(period.meter, period.wall)])).saturating_add(period.shifted);
        let mut known: u64 = 0;
        for piece in inside {
            let Some(part) = pieces.slots().get(piece).copied() else { continue };
            let before = known;
            known = known.saturating_add(energy(piece));
            // A piece lies in one slot whole, or outside of all.
            let place = grid.slots().partition_point(|slot| slot.end() <= part.start());
            if grid.slots().get(place).is_none_or(|slot| part.start() < slot.start()) {
                continue;
            }
            let Some(input) = self.slots.get_mut(place) else { continue };
            let spread = |total: u64| {
                let until =
                    |edge: UnixNanos| portion(total, edge.nanos_since(period.window.start()), period.window.nanos());
                until(part.end()) - until(part.start())
            };
            input.measured = input.measured.saturating_add(spread(difference.platform));
            input.bound = input.bound.saturating_add(spread(bound));
            // By the energy of the parts, so that no slot is to give more than it has.
            let over = |until: u64| if components == 0 { 0 } else { portion(difference.overcount, until, components) };
            input.overcount = input.overcount.saturating_add(over(known) - over(before));
            input.components = input.components.saturating_add(energy(piece));
            let nanos = self.meters.entry(period.meter.clone()).or_default();
            *nanos = nanos.saturating_add(part.nanos());
            if let Some(lag) = period.lag {
                self.lags.entry(period.meter.clone()).or_default().merge(&LagUse::new(part.nanos(), lag));
            }
            if difference.is_flagged() {
                self.flags.insert(Flags::OVERCOUNT);
            }
            if difference.overcount > bound {
                self.flags.insert(Flags::LAYER_CONFLICT);
            }
        }
    }

    /// Platform of a slot whose parts gave `components`: measured, and where no wall is known what a power supply of
    /// the assumed efficiency loses. Books beside it what the comparison came to.
    pub(super) fn platform(&self, slot: usize, components: u64, cell: &mut Cell) -> u64 {
        let input = self.slots.get(slot).copied().unwrap_or_default();
        let unmeasured = components.saturating_sub(input.components);
        if unmeasured > 0 {
            cell.flags.insert(Flags::PSU_ESTIMATED);
        }
        cell.overcount_microjoules = cell.overcount_microjoules.saturating_add(input.overcount);
        let mine = &mut cell.input;
        mine.component_microjoules = mine.component_microjoules.saturating_add(input.components);
        mine.platform_microjoules = mine.platform_microjoules.saturating_add(input.measured);
        mine.bound_microjoules = mine.bound_microjoules.saturating_add(input.bound);
        input.measured.saturating_add(psu_loss(unmeasured, PSU_EFFICIENCY))
    }

    /// Which meters were the wall, and what they disagreed with.
    pub(super) fn describe(&self, cell: &mut Cell) {
        for (source, nanos) in &self.meters {
            let mine = cell.input.meters.entry(source_key(source)).or_default();
            *mine = mine.saturating_add(*nanos);
        }
        for (source, lag) in &self.lags {
            cell.input.lags.entry(source_key(source)).or_default().merge(lag);
        }
        cell.flags.insert(self.flags);
    }
}

/// Root of the squares of the meters' errors in µJ: each is independent of the others.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a bound, and no negative square"
)]
fn error<'a>(meters: impl Iterator<Item = (&'a Source, u64)>) -> u64 {
    let squares = meters.map(|(source, energy)| {
        let half_width = energy as f64 * f64::from(source.uncertainty_permille) / 1e3;
        half_width * half_width
    });
    libm::ceil(libm::sqrt(squares.sum())) as u64
}

/// The parts of a node on a grid.
fn parts<'a>(node: &'a NodeSeries, grid: &Grid) -> Vec<(&'a Source, Spread)> {
    let mut parts: BTreeMap<&Source, Spread> = BTreeMap::new();
    for run in &node.input_runs {
        if let Subject::Energy(source) = &*run.subject
            && source.is_part()
        {
            parts.entry(source).or_insert_with(|| Spread::new(grid.len())).add(grid, &run.points);
        }
    }
    parts.into_iter().collect()
}

/// The runs of every meter at the node's input.
fn meters(runs: &[Run]) -> BTreeMap<&Source, Vec<&Run>> {
    let mut meters: BTreeMap<&Source, Vec<&Run>> = BTreeMap::new();
    for run in runs {
        if let Subject::Energy(source) = &*run.subject
            && source.layer() == Some(Layer::Node)
            && source.contained_in.is_none()
        {
            meters.entry(source).or_default().push(run);
        }
    }
    meters
}

/// Periods of every meter at the node's input, each instant in one at most: the best meter that is known there.
fn periods(node: &NodeSeries) -> Vec<Period<'_>> {
    let mut ordered: Vec<_> = meters(&node.input_runs)
        .into_iter()
        .map(|(source, runs)| {
            let sensed = sensed(intervals(&runs), source, &node.lags);
            let stretches = stretches(sensed);
            (rank(source, &stretches), source, stretches)
        })
        .collect();
    ordered.sort();
    let mut taken: Vec<Window> = Vec::new();
    let mut periods = Vec::new();
    for (_, meter, stretches) in ordered {
        let free: Vec<Vec<At>> = stretches.iter().flat_map(|stretch| outside(stretch, &taken)).collect();
        for stretch in &free {
            taken.extend(window(stretch));
            periods.extend(periods_of(meter, stretch, &node.lags));
        }
        taken.sort_by_key(|window| window.start());
    }
    periods
}

/// Place in the order of meters, lowest first.
fn rank(source: &Source, stretches: &[Vec<At>]) -> (u8, u32, u32) {
    let kind = match source.method {
        Method::Counter if source.unit_nanojoules.is_none_or(|unit| unit <= FINE_NANOJOULES) => 0,
        Method::IntegratedPower => 1,
        Method::Counter => 2,
        Method::Estimated => 3,
    };
    let known: u64 = stretches.iter().filter_map(|stretch| window(stretch)).map(Window::nanos).sum();
    let intervals: usize = stretches.iter().map(|stretch| stretch.len().saturating_sub(1)).sum();
    let seconds = known / 1_000_000_000 / u64::try_from(intervals).unwrap_or(u64::MAX).max(1);
    (kind, u64::BITS - seconds.leading_zeros(), source.uncertainty_permille)
}

/// A meter's energy between two readings.
type Interval = (UnixNanos, UnixNanos, u64);

/// What lies between the readings of a meter.
fn intervals(runs: &[&Run]) -> Vec<Interval> {
    let mut intervals = Vec::new();
    for pair in runs.iter().flat_map(|run| run.points.windows(2)) {
        let [(start, before), (end, after)] = pair else { continue };
        if let (true, Some(energy)) = (start < end, after.checked_sub(*before)) {
            intervals.push((*start, *end, energy));
        }
    }
    intervals
}

/// Intervals moved to when they were sensed. One over whose course the lag changes becomes longer or shorter at the same
/// power: what the meter showed is a power that it held.
fn sensed(intervals: Vec<Interval>, meter: &Source, lags: &Lags) -> Vec<Interval> {
    let moved = |(start, end, energy): Interval| {
        let back = |reading: UnixNanos| {
            let nanos = lags.of(meter, reading).and_then(|lag| i64::try_from(lag).ok());
            UnixNanos(reading.0.saturating_sub(nanos.unwrap_or(0)))
        };
        let (from, to) = (back(start), back(end));
        (from < to).then(|| (from, to, portion(energy, to.nanos_since(from), end.nanos_since(start))))
    };
    intervals.into_iter().filter_map(moved).collect()
}

/// The unbroken stretches of a meter, each as energy since its begin. Intervals too long to be one reading are cut.
fn stretches(mut intervals: Vec<Interval>) -> Vec<Vec<At>> {
    intervals.sort_unstable();
    let mut stretches: Vec<Vec<At>> = Vec::new();
    for (start, end, energy) in intervals {
        let last = stretches.last().and_then(|stretch| stretch.last()).copied();
        if last.is_some_and(|(until, _)| start < until) {
            continue;
        }
        if last.is_none_or(|(until, _)| until < start) {
            stretches.push(vec![(start, 0)]);
        }
        let Some(stretch) = stretches.last_mut() else { continue };
        let base = stretch.last().map_or(0, |(_, sum)| *sum);
        let whole = Window::new(start, end).filter(|whole| whole.nanos() > nanos(LONGEST_SECONDS));
        for part in whole.into_iter().flat_map(|whole| whole.slots(PERIOD_SECONDS)) {
            let until = portion(energy, part.end().nanos_since(start), end.nanos_since(start));
            stretch.push((part.end(), base.saturating_add(until)));
        }
        if whole.is_none() {
            stretch.push((end, base.saturating_add(energy)));
        }
    }
    stretches
}

/// What of a stretch lies in none of the windows, which are in order; cut where one begins or ends.
fn outside(stretch: &[At], taken: &[Window]) -> Vec<Vec<At>> {
    let Some(whole) = window(stretch) else { return Vec::new() };
    let mut free = Vec::new();
    let mut start = whole.start();
    let ends = taken.iter().filter_map(|window| window.intersect(whole)).map(|window| (window.start(), window.end()));
    for (until, next) in ends.chain([(whole.end(), whole.end())]) {
        if start < until {
            let between = stretch.iter().filter(|(at, _)| (start..until).contains(at) && *at > start);
            let mut part = vec![(start, reached(stretch, start))];
            part.extend(between.copied());
            part.push((until, reached(stretch, until)));
            free.push(part);
        }
        start = start.max(next);
    }
    free
}

/// Energy of a stretch up to an instant in it.
fn reached(stretch: &[At], instant: UnixNanos) -> u64 {
    let place = stretch.partition_point(|(at, _)| *at <= instant);
    let before = place.checked_sub(1).and_then(|place| stretch.get(place)).copied();
    match (before, stretch.get(place)) {
        (Some((start, from)), Some((end, to))) => {
            from + portion(to.saturating_sub(from), instant.nanos_since(start), end.nanos_since(start))
        }
        (Some((_, from)), None) => from,
        (None, _) => 0,
    }
}

/// The periods of a stretch: between the first readings of minutes. What is left at its end joins the last one.
fn periods_of<'a>(meter: &'a Source, stretch: &[At], lags: &Lags) -> Vec<Period<'a>> {
    let Some(last) = stretch.len().checked_sub(1) else { return Vec::new() };
    let at = |place: usize| stretch.get(place).map(|(at, _)| *at);
    // The first reading at or after the begin of a minute.
    let first_of_minute = |place: &usize| at(*place).map(|at| at.floor_to(PERIOD_SECONDS)) > at(place - 1);
    let mut edges: Vec<usize> = [0].into_iter().chain((1..last).filter(first_of_minute)).collect();
    let left = edges.last().and_then(|edge| at(last)?.nanos_since(at(*edge)?).into());
    if edges.len() > 1 && left < Some(nanos(PERIOD_SECONDS)) {
        edges.pop();
    }
    edges.push(last);
    let period = |pair: &[usize]| {
        let [from, to] = pair else { return None };
        let ((start, before), (end, after)) = (stretch.get(*from)?, stretch.get(*to)?);
        let shifted = shifted(stretch, *from).saturating_add(shifted(stretch, *to));
        let (wall, lag) = (after.saturating_sub(*before), lags.of_sensed(meter, *start));
        Some(Period { meter, window: Window::new(*start, *end)?, wall, shifted, lag })
    };
    edges.windows(2).filter_map(period).filter(|period| !period.window.is_empty()).collect()
}

/// Energy that may belong to the other side of a reading: half of the change of power there over the longer interval.
fn shifted(stretch: &[At], place: usize) -> u64 {
    let interval = |place: usize| -> Option<(u128, u128)> {
        let ((start, from), (end, to)) = (stretch.get(place.checked_sub(1)?)?, stretch.get(place)?);
        Some((u128::from(to.saturating_sub(*from)), u128::from(end.nanos_since(*start).max(1))))
    };
    let (Some((before, nanos_before)), Some((after, nanos_after))) = (interval(place), interval(place + 1)) else {
        return 0;
    };
    let longer = nanos_before.max(nanos_after);
    let scaled = |energy: u128, nanos: u128| energy.saturating_mul(longer) / nanos;
    u64::try_from(scaled(before, nanos_before).abs_diff(scaled(after, nanos_after)) / 2).unwrap_or(u64::MAX)
}

fn window(stretch: &[At]) -> Option<Window> {
    Window::new(stretch.first()?.0, stretch.last()?.0)
}

fn nanos(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000_000)
}

#[cfg(test)]
mod tests;
