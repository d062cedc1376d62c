//! Time. Durations are differences of [`BootNanos`]; places in history are [`UnixNanos`].

use core::time::Duration;

/// Nanoseconds since the machine's boot (CLOCK_BOOTTIME): never steps, counts through suspend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct BootNanos(pub u64);

impl BootNanos {
    /// Time since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Nanoseconds since 1970-01-01T00:00:00Z, on the aggregator's clock once mapped. Before 1970 is negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct UnixNanos(pub i64);

impl UnixNanos {
    /// Nanoseconds in a second.
    pub const PER_SECOND: i64 = 1_000_000_000;

    /// The instant `seconds` after 1970, saturating.
    pub fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(Self::PER_SECOND))
    }

    /// The start of the slot of `seconds` (at least 1) that holds this instant, slots being aligned to 1970.
    pub fn floor_to(self, seconds: i64) -> Self {
        let step = seconds.max(1).saturating_mul(Self::PER_SECOND);
        Self(self.0.div_euclid(step).saturating_mul(step))
    }

    /// The first slot start of `seconds` at or after this instant.
    pub fn ceil_to(self, seconds: i64) -> Self {
        let floor = self.floor_to(seconds);
        if floor == self { floor } else { floor.plus_seconds(seconds.max(1)) }
    }

    /// This instant moved by `seconds`, saturating.
    pub fn plus_seconds(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(Self::PER_SECOND)))
    }

    /// Nanoseconds from `earlier` to this instant; 0 if it is not earlier.
    pub fn nanos_since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

/// Half-open interval of time `[start, end)`; `start ≤ end` always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    start: UnixNanos,
    end: UnixNanos,
}

impl Window {
    /// The window from `start` to `end`; `None` if it would end before it starts.
    pub fn new(start: UnixNanos, end: UnixNanos) -> Option<Self> {
        (start <= end).then_some(Self { start, end })
    }

    /// First instant inside.
    pub fn start(self) -> UnixNanos {
        self.start
    }

    /// First instant after.
    pub fn end(self) -> UnixNanos {
        self.end
    }

    /// Length in nanoseconds.
    pub fn nanos(self) -> u64 {
        self.end.nanos_since(self.start)
    }

    /// Whether nothing is inside.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The part that lies in both windows; `None` if there is none.
    pub fn intersect(self, other: Self) -> Option<Self> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(Self { start, end })
    }

    /// Cuts the window at every slot edge of `seconds` (aligned to 1970), in order.
    pub fn slots(self, seconds: i64) -> impl Iterator<Item = Self> {
        let mut at = self.start;
        core::iter::from_fn(move || {
            if at >= self.end {
                return None;
            }
            let start = at;
            at = at.floor_to(seconds).plus_seconds(seconds.max(1)).min(self.end);
            Some(Self { start, end: at })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn slots_cover_a_window_without_overlap_or_hole() {
        let window = Window::new(UnixNanos(-1_500_000_000), UnixNanos(2_000_000_001)).expect("ordered");
        let slots: Vec<_> = window.slots(1).collect();
        assert_eq!(slots.first().map(|s| s.start()), Some(window.start()));
        assert_eq!(slots.last().map(|s| s.end()), Some(window.end()));
        assert!(slots.windows(2).all(|pair| pair[0].end() == pair[1].start()));
        assert_eq!(slots.len(), 5);
    }

    #[test]
    fn a_window_that_ends_before_it_starts_does_not_exist() {
        assert!(Window::new(UnixNanos(2), UnixNanos(1)).is_none());
    }
}
