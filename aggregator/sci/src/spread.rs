//! Joining series that were read at different instants: onto one grid of slots.
//!
//! A cumulative series is a function of time that is known at its points and linear between them. What falls into a slot
//! is the difference of that function, rounded down, at the slot's edges: neighbouring slots telescope, so whatever the
//! slots, their sum is the difference of the end points exactly.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use joulebook_units::{UnixNanos, Window};

/// A point of a series: when, and the value.
pub type At = (UnixNanos, u64);

/// Consecutive slots, aligned to 1970 (the first and last may be shorter) or cut further.
#[derive(Debug, Clone)]
pub struct Grid {
    window: Window,
    slots: Vec<Window>,
}

impl Grid {
    /// The grid of a window, in slots of one second.
    pub fn new(window: Window) -> Self {
        Self { window, slots: window.slots(1).collect() }
    }

    /// The same slots, each cut at the edges inside it.
    pub fn cut(&self, edges: &BTreeSet<UnixNanos>) -> Self {
        let pieces = |slot: &Window| {
            let inside = edges.range(slot.start()..slot.end()).copied().filter(|edge| *edge > slot.start());
            let ends: Vec<UnixNanos> = inside.chain([slot.end()]).collect();
            let starts: Vec<UnixNanos> = core::iter::once(slot.start()).chain(ends.iter().copied()).collect();
            starts.into_iter().zip(ends).filter_map(|(start, end)| Window::new(start, end)).collect::<Vec<_>>()
        };
        Self { window: self.window, slots: self.slots.iter().flat_map(pieces).collect() }
    }

    /// Whole slots of `slot_nanos` nanoseconds that cover a window; `None` for slots of no length, and where time ends.
    pub fn aligned(window: Window, slot_nanos: u64) -> Option<Self> {
        let step = i64::try_from(slot_nanos).ok().filter(|step| *step > 0)?;
        let start = window.start().0.div_euclid(step).checked_mul(step)?;
        let count = window.end().0.checked_sub(start)?.div_euclid(step);
        let count = if start.checked_add(count.checked_mul(step)?)? < window.end().0 { count + 1 } else { count };
        let end = start.checked_add(count.checked_mul(step)?)?;
        let slot = |index: i64| Window::new(UnixNanos(start + index * step), UnixNanos(start + (index + 1) * step));
        let slots: Option<Vec<Window>> = (0..count).map(slot).collect();
        Some(Self { window: Window::new(UnixNanos(start), UnixNanos(end))?, slots: slots? })
    }

    /// The slots between neighbouring edges; `None` without any edge.
    pub fn between(edges: &BTreeSet<UnixNanos>) -> Option<Self> {
        let window = Window::new(*edges.first()?, *edges.last()?)?;
        let ends = edges.iter().skip(1);
        let slots = edges.iter().zip(ends).filter_map(|(start, end)| Window::new(*start, *end)).collect();
        Some(Self { window, slots })
    }

    /// The slots.
    pub fn slots(&self) -> &[Window] {
        &self.slots
    }

    /// Number of slots.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether the window is empty.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Places of the slots that begin inside a window.
    pub fn within(&self, window: Window) -> Range<usize> {
        let place = |at: UnixNanos| self.slots.partition_point(|slot| slot.start() < at);
        place(window.start())..place(window.end())
    }

    /// Whether an interval has nothing to do with any slot.
    fn is_beside(&self, start: UnixNanos, end: UnixNanos) -> bool {
        end <= self.window.start() || start >= self.window.end()
    }

    /// Slots that intersect `[start, end)`, each with its index and the part in common. They are looked for from the slot
    /// `near`, which those of the interval before it ended in.
    fn touched(
        &self,
        start: UnixNanos,
        end: UnixNanos,
        near: usize,
    ) -> impl Iterator<Item = (usize, Window)> + use<'_> {
        let span = Window::new(start, end).and_then(|span| span.intersect(self.window));
        let first = span.map_or(0, |span| {
            let is_before = |slot: &Window| slot.end() <= span.start();
            match self.slots.get(near) {
                Some(slot) if slot.start() <= span.start() && !is_before(slot) => near,
                Some(slot) if slot.end() == span.start() => near + 1,
                _ => self.slots.partition_point(is_before),
            }
        });
        self.slots
            .iter()
            .enumerate()
            .skip(first)
            .map_while(move |(index, slot)| span.and_then(|span| slot.intersect(span)).map(|part| (index, part)))
    }
}

/// A cumulative series on a grid.
#[derive(Debug, Clone)]
pub struct Spread {
    /// Amount in each slot.
    pub amounts: Vec<u64>,
    /// Nanoseconds of each slot in which the series is known.
    pub covered: Vec<u64>,
    /// Nanoseconds of each slot inside an interval in which the series moved.
    pub moving: Vec<u64>,
    /// Amount in each slot without rounding, in units of 2⁻²⁰: a weight for shares. Empty where nothing is shared by it.
    pub weights: Vec<u128>,
    /// Longest interval that touches each slot, in nanoseconds.
    pub longest: Vec<u64>,
}

impl Spread {
    /// Nothing known on any of `slots` slots, without weights.
    pub fn new(slots: usize) -> Self {
        Self {
            amounts: vec![0; slots],
            covered: vec![0; slots],
            moving: vec![0; slots],
            weights: Vec::new(),
            longest: vec![0; slots],
        }
    }

    /// The same with weights.
    pub fn weighted(slots: usize) -> Self {
        Self { weights: vec![0; slots], ..Self::new(slots) }
    }

    /// Adds an unbroken run of points, ascending in time and not falling in value. A fall or a step back in time adds
    /// nothing between its two points.
    pub fn add(&mut self, grid: &Grid, points: &[At]) {
        let mut near = 0;
        for pair in points.windows(2) {
            let [(start, before), (end, after)] = pair else { continue };
            if grid.is_beside(*start, *end) {
                continue;
            }
            let Some(amount) = after.checked_sub(*before) else { continue };
            let length = end.nanos_since(*start);
            let reached = |at: UnixNanos| match at {
                at if at == *start => 0,
                at if at == *end => amount,
                at => proportion(amount, at.nanos_since(*start), length),
            };
            let mut until = (*start, 0);
            for (index, part) in grid.touched(*start, *end, near) {
                let from = if part.start() == until.0 { until.1 } else { reached(part.start()) };
                until = (part.end(), reached(part.end()));
                add_at(&mut self.amounts, index, until.1.saturating_sub(from));
                add_at(&mut self.covered, index, part.nanos());
                add_at(&mut self.moving, index, if amount > 0 { part.nanos() } else { 0 });
                if let Some(weight) = self.weights.get_mut(index) {
                    *weight +=
                        (u128::from(amount) << 20).saturating_mul(u128::from(part.nanos())) / u128::from(length.max(1));
                }
                if let Some(longest) = self.longest.get_mut(index) {
                    *longest = length.max(*longest);
                }
                near = index;
            }
        }
    }

    /// Whether anything is known of a slot.
    pub fn is_known(&self, slot: usize) -> bool {
        self.covered.get(slot).is_some_and(|nanos| *nanos > 0)
    }

    /// Forgets what is known of a slot.
    pub fn forget(&mut self, slot: usize) {
        self.give(slot, &mut Self::new(0));
    }

    /// Gives what is known of a slot to another series on the same grid.
    pub fn give(&mut self, slot: usize, other: &mut Self) {
        let numbers = [
            (&mut self.amounts, &mut other.amounts),
            (&mut self.covered, &mut other.covered),
            (&mut self.moving, &mut other.moving),
        ];
        for (own, other) in numbers {
            add_at(other, slot, own.get_mut(slot).map(core::mem::take).unwrap_or(0));
        }
        let weight = self.weights.get_mut(slot).map(core::mem::take).unwrap_or(0);
        if let Some(sum) = other.weights.get_mut(slot) {
            *sum = sum.saturating_add(weight);
        }
        let longest = self.longest.get_mut(slot).map(core::mem::take).unwrap_or(0);
        if let Some(most) = other.longest.get_mut(slot) {
            *most = longest.max(*most);
        }
    }
}

/// A held series on a grid: value × time in each slot, and the time in which it is known.
#[derive(Debug, Clone)]
pub struct Held {
    /// Value × nanoseconds in each slot.
    pub value_nanos: Vec<u128>,
    /// Nanoseconds of each slot in which the value is known.
    pub covered: Vec<u64>,
}

impl Held {
    /// Nothing known on any of `slots` slots.
    pub fn new(slots: usize) -> Self {
        Self { value_nanos: vec![0; slots], covered: vec![0; slots] }
    }

    /// Adds an unbroken run: each value held since the point before it.
    pub fn add(&mut self, grid: &Grid, points: &[At]) {
        let mut near = 0;
        for pair in points.windows(2) {
            let [(start, _), (end, value)] = pair else { continue };
            if grid.is_beside(*start, *end) {
                continue;
            }
            for (index, part) in grid.touched(*start, *end, near) {
                near = index;
                if let Some(sum) = self.value_nanos.get_mut(index) {
                    *sum += u128::from(*value) * u128::from(part.nanos());
                }
                add_at(&mut self.covered, index, part.nanos());
            }
        }
    }

    /// Mean value in a slot while it is known, rounded down; `None` where it is not.
    pub fn mean(&self, slot: usize) -> Option<u64> {
        let covered = *self.covered.get(slot)?;
        let sum = *self.value_nanos.get(slot)?;
        sum.checked_div(u128::from(covered)).and_then(|mean| u64::try_from(mean).ok())
    }
}

/// The part of an amount that is reached `nanos` after the begin of an interval that is `length` long, rounded down.
fn proportion(amount: u64, nanos: u64, length: u64) -> u64 {
    let length = length.max(1);
    match amount.checked_mul(nanos) {
        Some(product) => product / length,
        // At most `amount`, since it is reached at the end of the interval.
        None => u64::try_from(u128::from(amount) * u128::from(nanos) / u128::from(length)).unwrap_or(amount),
    }
}

fn add_at(values: &mut [u64], index: usize, amount: u64) {
    if let Some(value) = values.get_mut(index) {
        *value = value.saturating_add(amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grid(start: i64, end: i64) -> Grid {
        Grid::new(Window::new(UnixNanos(start), UnixNanos(end)).expect("ordered"))
    }

    proptest! {
        #[test]
        fn slots_telescope_to_the_difference_of_the_end_points(
            start in -5_000_000_000i64..5_000_000_000,
            steps in prop::collection::vec((1i64..20_000_000_000, 0u64..1 << 50), 1..20),
            cut in 0i64..40_000_000_000,
        ) {
            let mut points = vec![(UnixNanos(start), 7u64)];
            for (time, amount) in &steps {
                let (at, value) = *points.last().expect("one at least");
                points.push((UnixNanos(at.0 + time), value + amount));
            }
            let end = points.last().expect("one at least").0.0;
            let middle = (start + cut).min(end);
            let total: u64 = steps.iter().map(|step| step.1).sum();
            let sum = |from: i64, to: i64| {
                let grid = grid(from, to);
                let mut spread = Spread::new(grid.len());
                spread.add(&grid, &points);
                spread.amounts.iter().sum::<u64>()
            };
            prop_assert_eq!(sum(start, middle) + sum(middle, end), total);
            prop_assert_eq!(sum(start - 3_000_000_000, end + 3_000_000_000), total);
        }
    }

    #[test]
    fn pieces_of_a_cut_slot_add_up_to_it() {
        let whole = grid(0, 3_000_000_000);
        let edges = [-5, 0, 1_250_000_000, 1_500_000_000, 2_000_000_000, 9_000_000_000].map(UnixNanos).into();
        let cut = whole.cut(&edges);
        assert_eq!((cut.len(), cut.within(whole.slots()[1])), (5, 1..4));
        let points = [(UnixNanos(-1), 0), (UnixNanos(1_300_000_000), 77), (UnixNanos(2_600_000_000), 101)];
        let amounts = |grid: &Grid| {
            let mut spread = Spread::new(grid.len());
            spread.add(grid, &points);
            spread.amounts
        };
        assert_eq!(amounts(&cut)[1..4].iter().sum::<u64>(), amounts(&whole)[1]);
    }

    #[test]
    fn a_slot_that_no_interval_covers_is_not_covered() {
        let grid = grid(0, 4_000_000_000);
        let mut spread = Spread::new(grid.len());
        spread.add(&grid, &[(UnixNanos(500_000_000), 0), (UnixNanos(2_000_000_000), 30)]);
        assert_eq!(spread.amounts, [10, 20, 0, 0]);
        assert_eq!(spread.covered, [500_000_000, 1_000_000_000, 0, 0]);
    }

    #[test]
    fn a_held_value_counts_from_the_point_before() {
        let grid = grid(0, 2_000_000_000);
        let mut held = Held::new(grid.len());
        held.add(&grid, &[(UnixNanos(-1), 9), (UnixNanos(500_000_000), 4), (UnixNanos(1_000_000_000), 8)]);
        assert_eq!(held.mean(0), Some(6));
        assert_eq!(held.mean(1), None);
    }
}
