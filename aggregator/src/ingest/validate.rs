//! The rules a column must keep, pure: what fails is refused alone, its neighbours are stored.

use crate::store::block::row::{StampedValue, StoredColumn};
use joulebook_units::{Batch, Column, RejectReason, Subject, UnixNanos};
use std::collections::BTreeMap;

/// How far in the future an instant may lie, for clocks that differ, in seconds.
pub const FUTURE_SECONDS: i64 = 120;
/// Largest value of any series: half the range, so that differences always fit.
pub const LARGEST: u64 = i64::MAX.cast_unsigned();

/// What instants data may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// The aggregator's clock.
    pub now: UnixNanos,
    /// The oldest: 7 d ago, or later where the budget of the disk took rows.
    pub oldest: UnixNanos,
}

impl Times {
    /// Whether an instant is one of them: not more than 2 min ahead, not too old.
    pub fn hold(self, at: UnixNanos) -> bool {
        at <= self.now.plus_seconds(FUTURE_SECONDS) && at >= self.oldest
    }
}

/// The instant of a boot clock's reading; `None` outside the range of time.
pub fn map(boot_nanos: u64, offset: i64) -> Option<UnixNanos> {
    i64::try_from(boot_nanos).ok().and_then(|nanos| nanos.checked_add(offset)).map(UnixNanos)
}

/// What is known of a series when a column of it arrives.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// What it measures.
    pub subject: &'a Subject,
    /// Its last stored point, if it is known.
    pub last: Option<StampedValue>,
    /// First row of the record.
    pub first_row: UnixNanos,
    /// What instants its points may have.
    pub times: Times,
    /// Where the record's boot clock lies on it, in ns.
    pub offset: i64,
}

/// What becomes of a column: what is stored of it, if anything, and how many of its values are refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Judged {
    /// The good points.
    pub column: Option<StoredColumn>,
    /// The others.
    pub refused: BTreeMap<RejectReason, u64>,
}

impl Judged {
    /// Nothing of a column is good.
    pub fn none(column: &Column, reason: RejectReason) -> Self {
        let values = u64::try_from(column.points.len()).unwrap_or(u64::MAX);
        Self { column: None, refused: BTreeMap::from([(reason, values)]) }
    }
}

/// Judges a column point by point: one that is refused does not cost its neighbours.
///
/// A run that goes on from a point other than the last stored one has lost records (or refused values) between them.
/// A cumulative series is joined to its last stored point: the amount in between is known, only its course is not. So a
/// value that is refused amid others costs no energy either.
pub fn column(column: Column, known: Known<'_>) -> Judged {
    let (previous, own) = match join(&column, known) {
        Ok(joined) => joined,
        Err(reason) => return Judged::none(&column, reason),
    };
    let mut refused = BTreeMap::new();
    let own = own.filter(|point| judge(*point, previous, known).is_ok());
    let mut kept = own.or(previous);
    // What is stored lies where what came did: a column that is whole asks for no memory.
    let points = column.points.into_iter().filter_map(|point| {
        let stamped = map(point.at.0, known.offset).ok_or(RejectReason::Time).map(|at| (at, point.value));
        match stamped.and_then(|point| judge(point, kept, known).map(|()| point)) {
            Ok(point) => {
                kept = Some(point);
                Some(point)
            }
            Err(reason) => {
                *refused.entry(reason).or_default() += 1;
                None
            }
        }
    });
    let mut points: Vec<StampedValue> = points.collect();
    if points.is_empty() {
        return Judged { column: None, refused };
    }
    if let Some(point) = own {
        points.insert(0, point);
    }
    Judged { column: Some(StoredColumn { series: column.series, previous, points }), refused }
}

/// The stored point that a column goes on from, and a point that its sender knows before its own ones and that is not
/// stored yet; or why nothing of the column can be good.
fn join(column: &Column, known: Known<'_>) -> Result<(Option<StampedValue>, Option<StampedValue>), RejectReason> {
    let is_recent = |at: UnixNanos| at >= known.times.oldest;
    let is_cumulative = known.subject.is_cumulative();
    let Some(before) = column.previous else { return Ok((None, None)) };
    let before = (map(before.at.0, known.offset).ok_or(RejectReason::Time)?, before.value);
    if before.1 > LARGEST || known.last.is_some_and(|(_, last)| is_cumulative && before.1 < last) {
        return Err(RejectReason::Value);
    }
    let first = column.points.first().and_then(|point| map(point.at.0, known.offset));
    if let Some(last) = known.last.filter(|last| is_recent(last.0)) {
        if before.1 == last.1 {
            return Ok((Some(last), None));
        }
        if is_cumulative {
            let between = last.0 < before.0 && first.is_some_and(|first| before.0 < first);
            return Ok((Some(last), between.then_some(before)));
        }
    }
    match known.last {
        // A held value says nothing about the time before it was last known.
        Some(last) if !(is_cumulative && is_recent(last.0)) && before.0 < last.0 => Ok((None, None)),
        _ if is_recent(before.0) => Ok((Some(before), None)),
        _ => Err(RejectReason::Time),
    }
}

/// Whether a point may follow those that are kept.
fn judge(point: StampedValue, kept: Option<StampedValue>, known: Known<'_>) -> Result<(), RejectReason> {
    let (at, value) = point;
    let reach = i64::try_from(Batch::MAX_SPAN_NANOS).unwrap_or(i64::MAX);
    let near = at.0.saturating_sub(known.first_row.0) <= reach && known.times.hold(at);
    let is_later = |before: Option<StampedValue>| before.is_none_or(|(before, _)| before < at);
    if !near || !is_later(kept) || !is_later(known.last) {
        return Err(RejectReason::Time);
    }
    if value > LARGEST {
        return Err(RejectReason::Value);
    }
    if !known.subject.is_cumulative() {
        return Ok(());
    }
    // Without a point of its own run, it still may not fall below what is stored.
    if let Some((_, lowest)) = known.last
        && value < lowest
    {
        return Err(RejectReason::Value);
    }
    let Some((earlier, lower)) = kept else { return Ok(()) };
    let rise = value.checked_sub(lower).ok_or(RejectReason::Value)?;
    let Subject::Energy(source) = known.subject else { return Ok(()) };
    // mW · ns = pJ; 1.25 times the ceiling, without fractions: 4 · rise ≤ 5 · ceiling · dt.
    let most = 5 * u128::from(source.ceiling.0) * u128::from(at.nanos_since(earlier));
    if 4 * u128::from(rise) * 1_000_000 > most {
        return Err(RejectReason::Value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::cut::Cut;
    use joulebook_units::{BootNanos, Component, IdleOrigin, Method, Milliwatts, Point, Source};

    fn energy() -> Subject {
        Subject::Energy(
            Source {
                id: "rapl/package-0".to_owned(),
                component: Component::Cpu,
                socket: Some(0),
                device: None,
                collector: "rapl".to_owned(),
                method: Method::Counter,
                unit_nanojoules: None,
                ceiling: Milliwatts(100_000),
                uncertainty_permille: 20,
                contained_in: None,
                scope: None,
                basis: String::new(),
            }
            .into(),
        )
    }

    fn at(seconds: u64, value: u64) -> Point {
        Point { at: BootNanos(seconds * 1_000_000_000), value }
    }

    /// What is accepted while no budget took anything.
    fn week(now: UnixNanos) -> Times {
        Times { now, oldest: Cut::default().oldest_row(now) }
    }

    fn judged(subject: &Subject, last: Option<StampedValue>, given: Column) -> Judged {
        let now = UnixNanos::from_seconds(1_000_000);
        let first_row = UnixNanos::from_seconds(1_000_000 - 100);
        let known = Known { subject, last, first_row, times: week(now), offset: first_row.0 - 1_000_000_000_000 };
        column(given, known)
    }

    /// The column, of which nothing may be refused, or why all of it is.
    fn whole(judged: Judged) -> Result<StoredColumn, RejectReason> {
        match (judged.column, judged.refused.into_iter().next()) {
            (Some(column), None) => Ok(column),
            (None, Some((reason, _))) => Err(reason),
            (column, refused) => panic!("in parts: {column:?}, {refused:?}"),
        }
    }

    fn judge(subject: &Subject, last: Option<StampedValue>, given: Column) -> Result<StoredColumn, RejectReason> {
        whole(judged(subject, last, given))
    }

    fn stamp(seconds: i64, value: u64) -> StampedValue {
        (UnixNanos::from_seconds(1_000_000 - 100 + seconds - 1_000), value)
    }

    #[test]
    fn a_rise_of_a_quarter_above_the_ceiling_is_the_most_that_is_believed() {
        let given = |rise| Column { series: 1, previous: Some(at(999, 0)), points: vec![at(1_000, rise)] };
        assert!(judge(&energy(), None, given(125_000_000)).is_ok());
        assert_eq!(judge(&energy(), None, given(125_000_001)), Err(RejectReason::Value));
    }

    #[test]
    fn b55_values_that_fall_or_overflow_are_refused() {
        let falls = Column { series: 1, previous: None, points: vec![at(1_000, 5), at(1_001, 4)] };
        let alone = judged(&energy(), None, falls.clone());
        assert_eq!(alone.refused, BTreeMap::from([(RejectReason::Value, 1)]));
        assert_eq!(alone.column.expect("the other").points, [stamp(1_000, 5)]);
        let held = Subject::IdlePower { source: String::new(), origin: IdleOrigin::Table };
        assert!(judge(&held, None, falls).is_ok());
        let huge = Column { series: 1, previous: None, points: vec![at(1_000, u64::MAX)] };
        assert_eq!(judge(&energy(), None, huge), Err(RejectReason::Value));
        let below_last = Column { series: 1, previous: None, points: vec![at(1_000, 5)] };
        assert_eq!(judge(&energy(), Some(stamp(999, 6)), below_last), Err(RejectReason::Value));
    }

    #[test]
    fn b56_an_interval_of_ten_days_or_a_point_in_the_future_is_refused() {
        let now = UnixNanos::from_seconds(1_000_000);
        let (times, week_ago) = (week(now), now.plus_seconds(-7 * 86_400));
        assert!(times.hold(now.plus_seconds(120)) && !times.hold(now.plus_seconds(121)));
        assert!(times.hold(week_ago) && !times.hold(week_ago.plus_seconds(-1)));
        for at in [0, i64::MIN, i64::MAX] {
            assert!(!times.hold(UnixNanos(at)));
        }
        let long = Column { series: 1, previous: Some(at(0, 0)), points: vec![at(1_000, 1)] };
        let known = Known { subject: &energy(), last: None, first_row: now, times, offset: now.0 - 1_000_000_000_000 };
        assert!(whole(column(long, known)).is_ok());
        let days = |days: u64| Column { series: 1, previous: Some(at(0, 0)), points: vec![at(days * 86_400, 1)] };
        let known = |days: i64| Known { offset: now.0 - days * 86_400 * 1_000_000_000, ..known };
        assert!(whole(column(days(6), known(6))).is_ok());
        assert_eq!(whole(column(days(10), known(10))), Err(RejectReason::Time));
    }

    #[test]
    fn b55_one_bad_value_of_a_column_is_refused_alone_wherever_it_stands() {
        for (bad, value, reason) in [
            (0, u64::MAX, RejectReason::Value),
            (2, u64::MAX, RejectReason::Value),
            // As a negative one arrives.
            (2, 0_u64.wrapping_sub(5), RejectReason::Value),
            (2, 10_u64.pow(12), RejectReason::Value),
            (4, 0, RejectReason::Value),
        ] {
            let mut points: Vec<Point> = (0..5).map(|n| at(1_000 + n, 100 + n)).collect();
            points[bad].value = value;
            let given = Column { series: 1, previous: Some(at(999, 99)), points };
            for last in [None, Some(stamp(999, 99)), Some(stamp(990, 90))] {
                let judged = judged(&energy(), last, given.clone());
                assert_eq!(judged.refused, BTreeMap::from([(reason, 1)]), "{value} as number {bad}");
                let stored = judged.column.expect("the others").points;
                let good = (0..5).filter(|n| *n != bad as i64).map(|n| stamp(1_000 + n, 100 + n.unsigned_abs()));
                assert!(stored.ends_with(&good.collect::<Vec<_>>()), "{stored:?}");
            }
        }
    }

    #[test]
    fn a_run_that_skips_points_is_joined_to_the_last_stored_one() {
        let given = Column { series: 1, previous: Some(at(999, 50)), points: vec![at(1_000, 60)] };
        let joined = judge(&energy(), Some(stamp(900, 10)), given.clone()).expect("joined");
        assert_eq!(joined.previous, Some(stamp(900, 10)));
        assert_eq!(joined.points, [stamp(999, 50), stamp(1_000, 60)]);
        let unbroken = judge(&energy(), Some(stamp(999, 50)), given).expect("unbroken");
        assert_eq!((unbroken.previous, unbroken.points), (Some(stamp(999, 50)), vec![stamp(1_000, 60)]));
    }
}
