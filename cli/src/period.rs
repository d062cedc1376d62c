//! Which time is asked for.

use jiff::civil::{Date, DateTime};
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};
use joulebook_units::{UnixNanos, Window};
use std::time::Duration;

/// A window that cannot be asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPeriod {
    /// Not a time.
    #[error("`{0}` is not a time: write RFC 3339 (2026-11-24T10:00:00Z), `2026-11-24` or `2026-11-24 10:00` in UTC")]
    Time(String),
    /// An end without a start.
    #[error("--to needs --from")]
    NoStart,
    /// Nothing inside.
    #[error("the window from {0} to {1} is empty: --from must be before --to")]
    Empty(Timestamp, Timestamp),
    /// Past what nanoseconds since 1970 can hold.
    #[error("the window lies outside 1678 to 2262")]
    Range,
}

/// The window of `--last`, or of `--from` and `--to` (unset: `now`); the last hour when nothing is asked.
pub fn window(
    last: Option<Duration>,
    from: Option<&str>,
    to: Option<&str>,
    now: Timestamp,
) -> Result<Window, InvalidPeriod> {
    let (start, end) = match (from, to) {
        (None, None) => {
            let last = SignedDuration::try_from(last.unwrap_or(Duration::from_secs(3600)));
            let last = last.map_err(|_| InvalidPeriod::Range)?;
            (now.checked_sub(last).map_err(|_| InvalidPeriod::Range)?, now)
        }
        (None, Some(_)) => return Err(InvalidPeriod::NoStart),
        (Some(from), to) => (instant(from)?, to.map_or(Ok(now), instant)?),
    };
    if start >= end {
        return Err(InvalidPeriod::Empty(start, end));
    }
    let nanos = |time: Timestamp| i64::try_from(time.as_nanosecond()).map(UnixNanos).map_err(|_| InvalidPeriod::Range);
    Window::new(nanos(start)?, nanos(end)?).ok_or(InvalidPeriod::Empty(start, end))
}

/// A time as it is written in `--from`, `--to` and `--as-of`.
///
/// # Errors
/// [`InvalidPeriod::Time`].
pub fn instant(text: &str) -> Result<Timestamp, InvalidPeriod> {
    let invalid = || InvalidPeriod::Time(text.to_owned());
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    // An offset that did not read above must not be dropped by the civil parsers: only digits and separators go on.
    if !text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b':' | b'.' | b' ' | b'T')) {
        return Err(invalid());
    }
    let civil = if text.len() == 10 {
        text.parse::<Date>().map(|date| date.at(0, 0, 0, 0))
    } else if text.matches('-').count() == 2 {
        text.parse::<DateTime>()
    } else {
        return Err(invalid());
    };
    civil.ok().and_then(|civil| Offset::UTC.to_timestamp(civil).ok()).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-24T10:00:00Z".parse().expect("a time")
    }

    #[test]
    fn dates_and_minutes_are_read_as_utc_and_offsets_are_kept() {
        let same = ["2026-11-24T09:00:00Z", "2026-11-24 09:00", "2026-11-24T10:00:00+01:00", "2026-11-24 09:00:00"];
        for text in same {
            assert_eq!(instant(text), Ok("2026-11-24T09:00:00Z".parse().expect("a time")), "{text}");
        }
        assert_eq!(instant("2026-11-24"), Ok("2026-11-24T00:00:00Z".parse().expect("a time")));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["2026-13-40", "yesterday", "", "2026-11-24 25:00", "2026-11-24T10:00+99:00"] {
            assert_eq!(instant(text), Err(InvalidPeriod::Time(text.to_owned())));
        }
    }

    #[test]
    fn a_window_that_holds_nothing_is_refused() {
        assert!(matches!(window(None, Some("2026-11-24"), Some("2026-11-24"), now()), Err(InvalidPeriod::Empty(..))));
        assert!(matches!(window(None, Some("2027-01-01"), None, now()), Err(InvalidPeriod::Empty(..))));
        assert!(matches!(window(Some(Duration::ZERO), None, None, now()), Err(InvalidPeriod::Empty(..))));
        assert_eq!(window(None, None, Some("2026-11-24"), now()), Err(InvalidPeriod::NoStart));
        assert_eq!(window(Some(Duration::MAX), None, None, now()), Err(InvalidPeriod::Range));
    }

    #[test]
    fn the_last_ten_minutes_end_now() {
        let window = window(Some(Duration::from_secs(600)), None, None, now()).expect("a window");
        assert_eq!(window.nanos(), 600_000_000_000);
        assert_eq!(i128::from(window.end().0), now().as_nanosecond());
    }
}
