//! What goes first when the database outgrows its budget of the disk: rows, then cells of 60 s, then settled cells of 300 s, and of
//! each the oldest. What agents may still be short of after a day without a network, a week of minutes and a month of settled cells
//! stay whatever the budget is: less than that is a budget to raise. Nothing else is ever dropped for it: sums of hours, training,
//! factors, gaps, and what is known of nodes and streams.

use super::book::SEALED_SECONDS;
use super::retention::{ACCEPTED_SECONDS, BEYOND_SECONDS, Periods, before};
use super::{Resolution, Table};
use joulebook_units::UnixNanos;

const DAY_SECONDS: i64 = 86_400;

/// What may be dropped, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Rows of 1 s, sealed and not.
    Rows,
    /// Cells of 60 s.
    Minutes,
    /// Settled cells of 300 s.
    Settled,
}

impl Level {
    /// Every one, in the order in which they go.
    pub const ALL: [Self; 3] = [Self::Rows, Self::Minutes, Self::Settled];

    /// Its name in logs and on the page.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Minutes => "minutes",
            Self::Settled => "settled",
        }
    }

    /// The tables that hold it.
    pub fn tables(self) -> &'static [Table] {
        match self {
            Self::Rows => &[Table::Rows, Table::Long],
            Self::Minutes => &[Table::Cells],
            Self::Settled => &[Table::Settled],
        }
    }

    /// Age in seconds up to which it stays.
    fn stays(self) -> i64 {
        match self {
            Self::Rows => DAY_SECONDS + BEYOND_SECONDS,
            Self::Minutes => 7 * DAY_SECONDS,
            Self::Settled => 30 * DAY_SECONDS,
        }
    }
}

/// Before what instants the budget took what there was; the earliest instant where it took nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Rows.
    pub rows: UnixNanos,
    /// Cells of 60 s.
    pub minutes: UnixNanos,
    /// Settled cells of 300 s.
    pub settled: UnixNanos,
}

impl Default for Cut {
    fn default() -> Self {
        let nothing = UnixNanos(i64::MIN);
        Self { rows: nothing, minutes: nothing, settled: nothing }
    }
}

impl Cut {
    /// Of one level.
    pub fn of(&self, level: Level) -> UnixNanos {
        match level {
            Level::Rows => self.rows,
            Level::Minutes => self.minutes,
            Level::Settled => self.settled,
        }
    }

    /// The same where everything of a level before an instant goes; what went before stays gone.
    #[must_use]
    pub fn with(self, level: Level, before: UnixNanos) -> Self {
        let before = before.max(self.of(level));
        match level {
            Level::Rows => Self { rows: before, ..self },
            Level::Minutes => Self { minutes: before, ..self },
            Level::Settled => Self { settled: before, ..self },
        }
    }

    /// The oldest instant at `now` that data are accepted for, and that can be answered from rows: around it they are whole.
    pub fn oldest_row(&self, now: UnixNanos) -> UnixNanos {
        now.plus_seconds(-ACCEPTED_SECONDS).max(self.rows.plus_seconds(BEYOND_SECONDS))
    }

    /// Length in seconds of the finest cells that a window from `start` on is whole of, as far as the budget goes.
    pub fn finest(&self, start: UnixNanos) -> i64 {
        match () {
            () if start < self.minutes => Resolution::Settled.seconds(),
            () if start < self.rows.plus_seconds(BEYOND_SECONDS) => Resolution::Minute.seconds(),
            () => 1,
        }
    }

    /// The levels of which something went that was in a window from `start` on, and until when.
    pub fn missing(&self, start: UnixNanos) -> impl Iterator<Item = (Level, UnixNanos)> + use<> {
        let cut = *self;
        Level::ALL.into_iter().map(move |level| (level, cut.of(level))).filter(move |(_, before)| start < *before)
    }
}

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Bytes of each level, in their order.
    pub bytes: [u64; Level::ALL.len()],
    /// The first row ever.
    pub first: UnixNanos,
}

/// What goes next so that about `excess` bytes are free: of the first level that has any to give, everything before an instant at
/// which an hour begins. `None` where all that is left stays.
pub fn next(cut: &Cut, held: &Held, excess: u64, periods: &Periods, now: UnixNanos) -> Option<(Level, UnixNanos)> {
    Level::ALL.into_iter().zip(held.bytes).find_map(|(level, bytes)| {
        let last = now.plus_seconds(-level.stays()).floor_to(SEALED_SECONDS);
        let oldest = held.first.max(cut.of(level)).max(before(now, periods.of(level)));
        if oldest >= last || bytes == 0 {
            return None;
        }
        // As if it had been written evenly: what turns out to be too little is followed by more.
        let part = u128::from(now.nanos_since(oldest)) * u128::from(excess) / u128::from(bytes);
        let part = i64::try_from(part / 1_000_000_000).unwrap_or(i64::MAX);
        let before = oldest.plus_seconds(part).floor_to(SEALED_SECONDS).plus_seconds(SEALED_SECONDS);
        Some((level, before.min(last)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: UnixNanos = UnixNanos(1_790_000_000 * UnixNanos::PER_SECOND);

    fn ago(days: i64) -> UnixNanos {
        NOW.plus_seconds(-days * DAY_SECONDS)
    }

    #[test]
    fn the_oldest_rows_go_first_then_minutes_then_settled_cells_and_then_nothing() {
        let (periods, held) = (Periods::default(), Held { bytes: [800, 150, 50], first: ago(400) });
        let next = |cut: &Cut, excess| next(cut, &held, excess, &periods, NOW);
        let (level, before) = next(&Cut::default(), 400).expect("rows");
        // Half of seven days and two hours, and no hour in parts.
        assert_eq!(level, Level::Rows);
        let half = NOW.plus_seconds(-(7 * DAY_SECONDS + BEYOND_SECONDS) / 2);
        assert!(before > half && before <= half.plus_seconds(SEALED_SECONDS), "{before:?}");
        assert_eq!(before.floor_to(SEALED_SECONDS), before);
        let mut cut = Cut::default();
        let mut order = Vec::new();
        while let Some((level, before)) = next(&cut, u64::MAX) {
            assert!(before > cut.of(level), "it goes on");
            cut = cut.with(level, before);
            order.push(level);
        }
        assert_eq!(order, Level::ALL);
        let hour = |seconds: i64| NOW.plus_seconds(-seconds).floor_to(SEALED_SECONDS);
        let stays = [DAY_SECONDS + BEYOND_SECONDS, 7 * DAY_SECONDS, 30 * DAY_SECONDS].map(hour);
        assert_eq!([cut.rows, cut.minutes, cut.settled], stays);
    }

    #[test]
    fn what_went_is_named_and_makes_windows_coarser_and_data_late() {
        let cut = Cut::default().with(Level::Rows, ago(2)).with(Level::Minutes, ago(10)).with(Level::Minutes, ago(20));
        assert_eq!((cut.rows, cut.minutes), (ago(2), ago(10)), "what went stays gone");
        assert_eq!([20, 9, 2].map(|days| cut.finest(ago(days))), [300, 60, 60]);
        assert_eq!(cut.finest(ago(2).plus_seconds(BEYOND_SECONDS)), 1);
        let missing = |days| cut.missing(ago(days)).map(|(level, _)| level).collect::<Vec<_>>();
        assert_eq!(missing(11), [Level::Rows, Level::Minutes]);
        assert_eq!(missing(3), [Level::Rows]);
        assert_eq!(missing(2), []);
        assert_eq!(cut.oldest_row(NOW), ago(2).plus_seconds(BEYOND_SECONDS));
        assert_eq!(Cut::default().oldest_row(NOW), ago(7));
        assert_eq!((Cut::default().finest(ago(400)), Cut::default().missing(ago(400)).count()), (1, 0));
    }

    proptest! {
        #[test]
        fn whatever_there_is_it_goes_in_order_by_whole_hours_and_ends(
            bytes in prop::array::uniform3(0u64..1 << 40),
            days in 0i64..500,
            excess in 1u64..1 << 40,
        ) {
            let (held, periods) = (Held { bytes, first: ago(days) }, Periods::default());
            let mut cut = Cut::default();
            let mut last = Level::Rows;
            let mut rounds = 0;
            while let Some((level, before)) = next(&cut, &held, excess, &periods, NOW) {
                prop_assert!(level >= last, "a finer level goes before a coarser one");
                prop_assert!(before > cut.of(level) && before.floor_to(SEALED_SECONDS) == before);
                prop_assert!(before <= NOW.plus_seconds(-level.stays()));
                (cut, last, rounds) = (cut.with(level, before), level, rounds + 1);
                prop_assert!(rounds <= 24 * 500);
            }
        }
    }
}
