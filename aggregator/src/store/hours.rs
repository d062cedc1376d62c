//! The hours of the clock in which nodes have rows: what is worked out from an hour that is over stands until more of its
//! rows come.

use joulebook_units::{UnixNanos, Window};
use std::collections::HashMap;

/// Length of an hour in seconds.
pub(crate) const HOUR_SECONDS: i64 = joulebook_sci::settle::lag::HOUR_SECONDS;

/// What is known of the hours of every node.
#[derive(Debug, Default)]
pub(crate) struct Hours(HashMap<u32, Known>);

#[derive(Debug, Clone, Copy)]
struct Known {
    /// Begin of the latest hour with a row.
    latest: UnixNanos,
    /// The latest row.
    last: UnixNanos,
    /// How often rows came to an hour that was over, or a new hour began.
    version: u64,
}

/// What rows did to the hours of their node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Noted {
    /// Whether what was worked out may no longer stand, once they can be read.
    pub(crate) changes: bool,
    /// The readings that are seen otherwise: from the begin of the hour after the first that was over to the end of the one
    /// after the last, as far as there are any.
    pub(crate) after: Option<Window>,
}

impl Hours {
    /// Notes that a node has rows from `first` to `last`.
    pub(crate) fn note(&mut self, node: u32, first: UnixNanos, last: UnixNanos) -> Noted {
        let (from, to) = (first.floor_to(HOUR_SECONDS), last.floor_to(HOUR_SECONDS));
        let known = self.0.entry(node).or_insert(Known { latest: to, last, version: 0 });
        let late = to.min(known.latest.plus_seconds(-HOUR_SECONDS));
        let begins = to > known.latest;
        (known.latest, known.last) = (known.latest.max(to), known.last.max(last));
        let end = late.plus_seconds(2 * HOUR_SECONDS).min(known.last);
        let after = Window::new(from.plus_seconds(HOUR_SECONDS), end).filter(|_| from <= late);
        Noted { changes: begins || after.is_some(), after }
    }

    /// Rows that changed the hours of a node can be read now.
    pub(crate) fn change(&mut self, node: u32) {
        if let Some(known) = self.0.get_mut(&node) {
            known.version = known.version.saturating_add(1);
        }
    }

    /// The latest row of a node, of whichever stream.
    pub(crate) fn last(&self, node: u32) -> Option<UnixNanos> {
        self.0.get(&node).map(|known| known.last)
    }

    /// The version of a node's hours, and the begin of the latest one; `None` without rows.
    pub(crate) fn of(&self, node: u32) -> Option<(u64, UnixNanos)> {
        self.0.get(&node).map(|known| (known.version, known.latest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_an_hour_that_is_over_change_how_the_next_is_read() {
        let at = UnixNanos::from_seconds;
        let mut hours = Hours::default();
        let plain = Noted { changes: false, after: None };
        assert_eq!((hours.of(1), hours.note(1, at(100), at(105))), (None, plain));
        assert_eq!(hours.note(1, at(106), at(3599)), plain);
        assert_eq!(hours.note(1, at(3598), at(3601)), Noted { changes: true, ..plain }, "a new hour");
        assert_eq!(hours.note(1, at(3602), at(3607)), plain);
        let window = |from, to| Window::new(at(from), at(to));
        assert_eq!(hours.note(1, at(3590), at(3605)), Noted { changes: true, after: window(3600, 3607) });
        hours.note(1, at(9 * 3600), at(9 * 3600));
        assert_eq!(hours.note(1, at(3700), at(8 * 3600 + 9)), Noted { changes: true, after: window(7200, 9 * 3600) });
        assert_eq!(hours.note(1, at(-1), at(-1)), Noted { changes: true, after: window(0, 3600) });
        assert_eq!(hours.of(1), Some((0, at(9 * 3600))));
        hours.change(1);
        hours.change(2);
        assert_eq!((hours.of(1), hours.of(2)), (Some((1, at(9 * 3600))), None));
    }
}
