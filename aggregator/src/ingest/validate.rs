//! The rules a column must keep, pure: what fails is refused alone, its neighbours are stored.

use crate::store::block::row::{StampedValue, StoredColumn};
use crate::store::retention::ACCEPTED_SECONDS;
use joulebook_units::{Batch, Column, RejectReason, Subject, UnixNanos};

/// How far in the future an instant may lie, for clocks that differ, in seconds.
pub const FUTURE_SECONDS: i64 = 120;
/// Largest value of any series: half the range, so that differences always fit.
pub const LARGEST: u64 = i64::MAX.cast_unsigned();

/// Whether an instant is one that data may have at `now`: not more than 2 min ahead, not older than 7 d.
pub fn in_time(at: UnixNanos, now: UnixNanos) -> bool {
    at <= now.plus_seconds(FUTURE_SECONDS) && at >= now.plus_seconds(-ACCEPTED_SECONDS)
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
    /// The aggregator's clock.
    pub now: UnixNanos,
    /// Where the record's boot clock lies on it, in ns.
    pub offset: i64,
}

/// The column as it is stored, or why it is refused.
///
/// A run that goes on from a point other than the last stored one has lost records (or refused values) between them.
/// A cumulative series is joined to its last stored point: the amount in between is known, only its course is not.
pub fn column(column: &Column, known: Known<'_>) -> Result<StoredColumn, RejectReason> {
    let time = |at: u64| map(at, known.offset).ok_or(RejectReason::Time);
    let mut points = Vec::with_capacity(column.points.len() + 1);
    for point in &column.points {
        points.push((time(point.at.0)?, point.value));
    }
    let mut previous = match column.previous {
        Some(point) => Some((time(point.at.0)?, point.value)),
        None => None,
    };
    if let (true, Some((_, last))) = (known.subject.is_cumulative(), known.last)
        && previous.or(points.first().copied()).is_some_and(|(_, value)| value < last) {
            return Err(RejectReason::Value);
        }
    if let (Some(before), Some(last)) = (previous, known.last) {
        let recent = last.0 >= known.now.plus_seconds(-ACCEPTED_SECONDS);
        let first = points.first().map_or(before.0, |(at, _)| *at);
        if before.1 == last.1 && recent {
            previous = Some(last);
        } else if known.subject.is_cumulative() && recent {
            if last.0 < before.0 && before.0 < first {
                points.insert(0, before);
            }
            previous = Some(last);
        } else if before.0 < last.0 {
            // A held value says nothing about the time before it was last known.
            previous = None;
        }
    }
    check_times(previous, &points, known)?;
    check_values(previous, &points, known.subject)?;
    Ok(StoredColumn { series: column.series, previous, points })
}

fn check_times(previous: Option<StampedValue>, points: &[StampedValue], known: Known<'_>) -> Result<(), RejectReason> {
    let reach = i64::try_from(Batch::MAX_SPAN_NANOS).unwrap_or(i64::MAX);
    let near = |at: UnixNanos| at.0.saturating_sub(known.first_row.0) <= reach && in_time(at, known.now);
    let ascending = previous.iter().chain(points).map(|(at, _)| *at).is_sorted_by(|a, b| a < b);
    let after_last = match (known.last, points.first()) {
        (Some((last, _)), Some((first, _))) => last < *first,
        _ => true,
    };
    let recent = previous.is_none_or(|(at, _)| at >= known.now.plus_seconds(-ACCEPTED_SECONDS));
    if ascending && after_last && recent && !points.is_empty() && points.iter().all(|(at, _)| near(*at)) {
        return Ok(());
    }
    Err(RejectReason::Time)
}

fn check_values(
    previous: Option<StampedValue>,
    points: &[StampedValue],
    subject: &Subject,
) -> Result<(), RejectReason> {
    let ceiling = match subject {
        Subject::Energy(source) => Some(u128::from(source.ceiling.0)),
        _ => None,
    };
    let mut before: Option<StampedValue> = None;
    for (at, value) in previous.iter().chain(points) {
        if *value > LARGEST {
            return Err(RejectReason::Value);
        }
        if let (true, Some((earlier, lower))) = (subject.is_cumulative(), before) {
            let rise = value.checked_sub(lower).ok_or(RejectReason::Value)?;
            // mW · ns = pJ; 1.25 times the ceiling, without fractions: 4 · rise ≤ 5 · ceiling · dt.
            let most = ceiling.map(|ceiling| 5 * ceiling * u128::from(at.nanos_since(earlier)));
            if most.is_some_and(|most| 4 * u128::from(rise) * 1_000_000 > most) {
                return Err(RejectReason::Value);
            }
        }
        before = Some((*at, *value));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulebook_units::{BootNanos, Component, IdleOrigin, Method, Milliwatts, Point, Source};

    fn energy() -> Subject {
        Subject::Energy(Source {
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
            basis: String::new(),
        })
    }

    fn at(seconds: u64, value: u64) -> Point {
        Point { at: BootNanos(seconds * 1_000_000_000), value }
    }

    fn judge(subject: &Subject, last: Option<StampedValue>, given: Column) -> Result<StoredColumn, RejectReason> {
        let now = UnixNanos::from_seconds(1_000_000);
        let first_row = UnixNanos::from_seconds(1_000_000 - 100);
        column(&given, Known { subject, last, first_row, now, offset: first_row.0 - 1_000_000_000_000 })
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
        assert_eq!(judge(&energy(), None, falls.clone()), Err(RejectReason::Value));
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
        assert!(in_time(now.plus_seconds(120), now) && !in_time(now.plus_seconds(121), now));
        assert!(in_time(now.plus_seconds(-7 * 86_400), now) && !in_time(now.plus_seconds(-7 * 86_400 - 1), now));
        for at in [0, i64::MIN, i64::MAX] {
            assert!(!in_time(UnixNanos(at), now));
        }
        let long = Column { series: 1, previous: Some(at(0, 0)), points: vec![at(1_000, 1)] };
        let known = Known { subject: &energy(), last: None, first_row: now, now, offset: now.0 - 1_000_000_000_000 };
        assert!(column(&long, known).is_ok());
        let days = |days: u64| Column { series: 1, previous: Some(at(0, 0)), points: vec![at(days * 86_400, 1)] };
        let known = |days: i64| Known { offset: now.0 - days * 86_400 * 1_000_000_000, ..known };
        assert!(column(&days(6), known(6)).is_ok());
        assert_eq!(column(&days(10), known(10)), Err(RejectReason::Time));
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
