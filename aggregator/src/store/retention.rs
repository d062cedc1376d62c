//! What is kept for how long. Defaults: rows 7 d + 2 h (never dropped under a dirty cell), cells of 60 s 90 d, settled
//! cells and declared gaps 400 d, each of these but gaps in whole hours; sums of 1 h for ever. Quarantined records are never
//! dropped.

use super::book::{Book, CELL_SECONDS, Changes, SEALED_SECONDS};
use super::catalog::Catalog;
use super::cut::Level;
use super::key;
use super::{Durability, Resolution, StoreError, Table};
use joulebook_units::UnixNanos;
use std::time::Duration;

/// Age in seconds after which data are refused: 7 d.
pub const ACCEPTED_SECONDS: i64 = 7 * DAY_SECONDS;
/// How much longer rows are kept than data are accepted: a cell that a late record marks is settled from whole rows.
pub(crate) const BEYOND_SECONDS: i64 = 7_200;
const DAY_SECONDS: i64 = 86_400;
/// Less than what the logs of a moment take is exceeded all the time.
const LEAST_BUDGET: u64 = 1 << 20;

/// Ages up to which stored data are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Periods {
    /// Rows.
    pub rows: Duration,
    /// Cells of 60 s.
    pub minutes: Duration,
    /// Settled cells of 300 s, and declared gaps.
    pub settled: Duration,
    /// Bytes that the database may have on the disk; no limit without one.
    pub disk_budget: Option<u64>,
}

impl Default for Periods {
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * DAY_SECONDS.unsigned_abs());
        Self {
            rows: days(7) + Duration::from_secs(BEYOND_SECONDS.unsigned_abs()),
            minutes: days(90),
            settled: days(400),
            disk_budget: None,
        }
    }
}

impl Periods {
    /// Of a level.
    pub fn of(&self, level: Level) -> Duration {
        match level {
            Level::Rows => self.rows,
            Level::Minutes => self.minutes,
            Level::Settled => self.settled,
        }
    }

    /// Why these periods cannot be kept, if so: rows go no sooner than late data may come, coarser cells no sooner than
    /// the finer ones that they are made of.
    pub fn refusal(&self) -> Option<&'static str> {
        if self.rows < Self::default().rows {
            return Some("retention.rows must be at least 7d 2h: data are accepted for 7 d");
        }
        if self.minutes < self.rows {
            return Some("retention.minutes must not be shorter than retention.rows");
        }
        if self.settled < self.minutes {
            return Some("retention.settled must not be shorter than retention.minutes");
        }
        self.disk_budget
            .is_some_and(|budget| budget < LEAST_BUDGET)
            .then_some("retention.disk_budget must be at least 1048576: a database without data takes some of it")
    }
}

/// The instant that lies a period before another.
pub fn before(now: UnixNanos, period: Duration) -> UnixNanos {
    now.plus_seconds(-i64::try_from(period.as_secs()).unwrap_or(i64::MAX))
}

/// Drops what is older than its period at `now`, and what the budget of the disk took and something still needed then.
pub fn apply(book: &Book, periods: &Periods, now: UnixNanos) -> Result<(), StoreError> {
    book.transact(Durability::Buffered, |catalog, changes| {
        drop_old(catalog, changes, periods, now);
        Ok(())
    })
}

/// Drops everything of a level before an instant, for the budget of the disk, and writes down that it is gone, in one commit.
pub fn drop_before(
    book: &Book,
    periods: &Periods,
    level: Level,
    from: UnixNanos,
    now: UnixNanos,
) -> Result<(), StoreError> {
    book.transact(Durability::Buffered, |catalog, changes| {
        catalog.put_cut(catalog.cut.with(level, from), &mut changes.writes);
        drop_old(catalog, changes, periods, now);
        Ok(())
    })
}

fn drop_old(catalog: &Catalog, changes: &mut Changes, periods: &Periods, now: UnixNanos) {
    changes.forgotten = Some(before(now, periods.settled).max(catalog.cut.settled));
    let first_kept = |level: Level| before(now, periods.of(level)).floor_to(CELL_SECONDS).max(catalog.cut.of(level));
    for node in (0..u32::MAX).zip(&catalog.nodes).map(|(number, _)| number) {
        let mut rows = first_kept(Level::Rows);
        let marks = catalog.dirty.range((node, UnixNanos(i64::MIN))..=(node, UnixNanos(i64::MAX)));
        if let Some(((_, start), _)) = marks.into_iter().next() {
            // A record reaches a cell's length beyond its first row, on either side.
            rows = rows.min(start.plus_seconds(-catalog.reach(node) - CELL_SECONDS));
        }
        // Whole hours: what is sealed lies at the beginning of its hour.
        let hours = |from: UnixNanos| from.floor_to(SEALED_SECONDS);
        let rows = hours(rows);
        let kept = [
            (Table::Rows, rows),
            (Table::Long, rows),
            (Resolution::Minute.table(), hours(first_kept(Level::Minutes))),
            (Resolution::Settled.table(), hours(first_kept(Level::Settled))),
            (Table::Gaps, before(now, periods.settled).floor_to(CELL_SECONDS)),
        ];
        for (table, from) in kept {
            let first = key::cell(node, UnixNanos(i64::MIN)).to_vec();
            changes.writes.delete_range(table, first..key::cell(node, from).to_vec());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_that_would_drop_what_is_still_needed_are_refused() {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        let default = Periods::default();
        assert_eq!(default.refusal(), None);
        for wrong in [
            Periods { rows: days(7), ..default },
            Periods { minutes: days(7), ..default },
            Periods { settled: days(89), ..default },
            Periods { disk_budget: Some(1), ..default },
        ] {
            assert!(wrong.refusal().is_some_and(|why| why.starts_with("retention.")), "{wrong:?}");
        }
        assert_eq!(Periods { rows: days(30), ..default }.refusal(), None);
    }
}
