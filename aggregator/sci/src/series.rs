//! Series of factors: which of many overlapping values holds at an instant, and how long a value holds on (methodology A.3).
//!
//! Values are half-open cells. A series may hold several for one instant: a forecast, then an estimate, then what was
//! measured, each of them corrected later. Nothing is thrown away; the best one is found again for every question.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use joulebook_units::{UnixNanos, Window};

/// How a value came about, from the least to the best known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Said before its time.
    Forecast,
    /// Worked out after its time from what was known.
    Estimated,
    /// Settled.
    Measured,
}

impl Status {
    /// All, from the least to the best known.
    pub const ALL: [Self; 3] = [Self::Forecast, Self::Estimated, Self::Measured];

    /// Its name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forecast => "forecast",
            Self::Estimated => "estimated",
            Self::Measured => "measured",
        }
    }

    /// The status of that name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }
}

/// A value of a series over a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SeriesCell {
    /// When it holds.
    pub window: Window,
    /// The value, in the unit of the series.
    pub value: f64,
    /// How it came about.
    pub status: Status,
    /// When it was recorded: the later of two otherwise equal ones corrects the other.
    pub revision: UnixNanos,
}

/// Time resolution of a value, from the finest to the coarsest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Granularity {
    /// Up to five minutes.
    FiveMinutes,
    /// Up to an hour.
    Hour,
    /// Up to a day, one of 25 h included.
    Day,
    /// Up to 31 days.
    Month,
    /// Longer.
    Year,
}

const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3600 * SECOND;

impl Granularity {
    /// That of a value over `window`.
    pub fn of(window: Window) -> Self {
        match window.nanos() {
            nanos if nanos <= 300 * SECOND => Self::FiveMinutes,
            nanos if nanos <= HOUR => Self::Hour,
            nanos if nanos <= 25 * HOUR => Self::Day,
            nanos if nanos <= 31 * 24 * HOUR + HOUR => Self::Month,
            _ => Self::Year,
        }
    }

    /// Its name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::FiveMinutes => "5min",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
            Self::Year => "year",
        }
    }
}

/// What holds when: for every instant of `window` the candidate of the highest rank that covers it, by its place; `None`
/// where nobody does. The parts are in order, without hole or overlap; neighbours differ.
pub fn layer<R: Ord + Copy>(window: Window, candidates: &[(Window, R)]) -> Vec<(Window, Option<usize>)> {
    apart(window, candidates).unwrap_or_else(|| stacked(window, candidates))
}

/// [`layer`] where no two candidates overlap, as in most series; `None` where some do.
fn apart<R>(window: Window, candidates: &[(Window, R)]) -> Option<Vec<(Window, Option<usize>)>> {
    let inside =
        candidates.iter().enumerate().filter_map(|(index, (covered, _))| Some((covered.intersect(window)?, index)));
    let mut inside: Vec<(Window, usize)> = inside.collect();
    inside.sort_by_key(|(covered, _)| covered.start());
    let mut parts = Vec::with_capacity(inside.len() + 1);
    let part = |start, end| Window::new(start, end).filter(|part| !part.is_empty());
    let mut start = window.start();
    for (covered, index) in inside {
        if covered.start() < start {
            return None;
        }
        parts.extend(part(start, covered.start()).map(|hole| (hole, None)));
        parts.push((covered, Some(index)));
        start = covered.end();
    }
    parts.extend(part(start, window.end()).map(|hole| (hole, None)));
    Some(parts)
}

/// [`layer`] of any candidates.
fn stacked<R: Ord + Copy>(window: Window, candidates: &[(Window, R)]) -> Vec<(Window, Option<usize>)> {
    let mut edges: BTreeMap<UnixNanos, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    edges.entry(window.start()).or_default();
    for (index, (covered, _)) in candidates.iter().enumerate() {
        let Some(inside) = covered.intersect(window) else { continue };
        edges.entry(inside.start()).or_default().0.push(index);
        edges.entry(inside.end()).or_default().1.push(index);
    }
    let mut active: BTreeSet<(R, usize)> = BTreeSet::new();
    let rank = |index: &usize| candidates.get(*index).map(|(_, rank)| (*rank, *index));
    let mut parts: Vec<(Window, Option<usize>)> = Vec::new();
    let ends: Vec<UnixNanos> = edges.keys().copied().skip(1).chain([window.end()]).collect();
    for ((start, (begin, finish)), end) in edges.iter().zip(ends) {
        finish.iter().filter_map(rank).for_each(|ended| {
            active.remove(&ended);
        });
        active.extend(begin.iter().filter_map(rank));
        let Some(part) = Window::new(*start, end).filter(|part| !part.is_empty()) else { continue };
        let best = active.last().map(|(_, index)| *index);
        match parts.last_mut() {
            Some((last, same)) if *same == best => *last = Window::new(last.start(), end).unwrap_or(*last),
            _ => parts.push((part, best)),
        }
    }
    parts
}

/// What is known of a series at each instant: the finest value, then the best known, then the one recorded last.
pub fn best(window: Window, cells: &[SeriesCell]) -> Vec<(Window, Option<SeriesCell>)> {
    let ranked: Vec<_> = cells
        .iter()
        .map(|cell| (cell.window, (core::cmp::Reverse(Granularity::of(cell.window)), cell.status, cell.revision)))
        .collect();
    let place = |index: usize| cells.get(index).copied();
    layer(window, &ranked).into_iter().map(|(part, index)| (part, index.and_then(place))).collect()
}

/// How long a value holds on where the next is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// Over a hole of at most this length, in nanoseconds; a longer one is not filled at all.
    pub hole_nanos: u64,
    /// After the last value of the series, in nanoseconds.
    pub tail_nanos: u64,
}

impl Hold {
    /// Two hours of a hole, a day after the end (bad inputs B69, B70).
    pub const DEFAULT: Self = Self { hole_nanos: 2 * HOUR, tail_nanos: 24 * HOUR };
}

/// What holds on: each stretch without a value that follows one closely enough, and that value. `known` is what [`best`]
/// says of a window that begins `tail_nanos` before and ends `hole_nanos` after the one that is asked about; `later` is
/// whether the series has a value after it.
pub fn held(known: &[(Window, Option<SeriesCell>)], later: bool, hold: Hold) -> Vec<(Window, SeriesCell)> {
    let mut found = Vec::new();
    for (index, pair) in known.windows(2).enumerate() {
        let [(_, Some(value)), (hole, None)] = pair else { continue };
        let tail = index + 2 == known.len() && !later;
        let reach = match tail {
            true => hole.nanos().min(hold.tail_nanos),
            false if hole.nanos() <= hold.hole_nanos => hole.nanos(),
            false => continue,
        };
        let end = UnixNanos(hole.start().0.saturating_add(i64::try_from(reach).unwrap_or(i64::MAX)));
        found.extend(Window::new(hole.start(), end).map(|part| (part, *value)));
    }
    found
}

/// A cell without an end reaches to the next one if that begins within this many hundredths of a usual cell: days of 25 h,
/// months of 31 days among those of 28, and no hole.
const MOST_USUAL_PERCENT: i64 = 115;

/// Ends of cells that state none and begin at `starts`, ascending: each lasts until the next one begins, but not over a hole:
/// then it is as long as a usual one. A single one lasts `single_nanos`.
pub fn ends(starts: &[UnixNanos], single_nanos: i64) -> Vec<UnixNanos> {
    let steps = starts.windows(2).filter_map(|pair| match pair {
        [one, next] => Some(next.0.saturating_sub(one.0)).filter(|step| *step > 0),
        _ => None,
    });
    let mut steps: Vec<i64> = steps.collect();
    steps.sort_unstable();
    let usual = steps.get(steps.len() / 2).copied().unwrap_or(single_nanos);
    let end = |start: &UnixNanos| {
        let next = starts.get(starts.partition_point(|other| other <= start)).copied();
        let most = UnixNanos(start.0.saturating_add(usual / 100 * MOST_USUAL_PERCENT));
        next.filter(|next| *next <= most).unwrap_or(UnixNanos(start.0.saturating_add(usual)))
    };
    starts.iter().map(end).collect()
}

/// Two cells of one delivery that overlap with different values, by their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    /// The one that begins first.
    pub first: usize,
    /// The other.
    pub second: usize,
}

/// Puts the cells of one delivery in order and drops exact repetitions, each with its place in the delivery. Refuses two
/// different values for one instant: which one is right is not known.
pub fn in_order(cells: &[(Window, f64)]) -> Result<Vec<usize>, Conflict> {
    let mut order: Vec<usize> = (0..cells.len()).collect();
    let key = |index: &usize| cells.get(*index).map(|(window, _)| (window.start(), window.end(), *index));
    order.sort_by_key(key);
    let mut kept: Vec<usize> = Vec::with_capacity(order.len());
    for second in order {
        let before = kept.last().and_then(|first| cells.get(*first).map(|cell| (*first, cell)));
        let (Some((first, (before, value))), Some((window, other))) = (before, cells.get(second)) else {
            kept.push(second);
            continue;
        };
        if window.start() >= before.end() {
            kept.push(second);
        } else if before != window || value.to_bits() != other.to_bits() {
            return Err(Conflict { first, second });
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests;
