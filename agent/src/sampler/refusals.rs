//! What was not taken, by source and reason. Each is counted; of those with one reason, a line is logged now and then.

use crate::counter::{Held, Refused};
use joulebook_units::BootNanos;
use std::collections::BTreeMap;

/// Lines of the same reason are at least this far apart, whatever the source.
const LOG_NANOS: u64 = 10_000_000_000;

/// The counts.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    counts: BTreeMap<(String, &'static str), u64>,
    /// When a line was logged last, by reason, and how many were left out since.
    logged: BTreeMap<&'static str, (BootNanos, u64)>,
    /// When a read of a source was found not to return, last.
    stuck: BTreeMap<String, BootNanos>,
}

impl Refusals {
    /// The counts by source and reason.
    pub(super) fn counts(&self) -> &BTreeMap<(String, &'static str), u64> {
        &self.counts
    }

    /// When a read of a source was found not to return, last.
    pub(super) fn stuck_since(&self, source: &str) -> Option<BootNanos> {
        self.stuck.get(source).copied()
    }

    /// Counts one, and says why if that is told and no line of this reason was logged in the last 10 s.
    pub(super) fn add(&mut self, source: &str, reason: &'static str, now: BootNanos, why: Option<&str>) {
        *self.counts.entry((source.to_owned(), reason)).or_default() += 1;
        if reason == "stuck" {
            self.stuck.insert(source.to_owned(), now);
        }
        let Some(why) = why else { return };
        let left_out = match self.logged.get_mut(reason) {
            Some((last, left_out)) if now.0.saturating_sub(last.0) < LOG_NANOS => {
                *left_out += 1;
                return;
            }
            before => before.map_or(0, |(_, left_out)| *left_out),
        };
        self.logged.insert(reason, (now, 0));
        tracing::warn!(source, reason, why, left_out, "a reading was not taken");
    }
}

/// The reason of a reading that waits for the next one.
pub(super) fn held(held: Held) -> &'static str {
    match held {
        Held::Unchanged => "unchanged",
        Held::Backwards => "backwards",
        Held::Implausible => "implausible",
    }
}

/// The reason of a reading that is refused.
pub(super) fn refused(refused: Refused) -> &'static str {
    match refused {
        Refused::OutOfRange => "out_of_range",
        Refused::NotLater => "not_later",
        Refused::Unstable => "unstable_counter",
        Refused::Stuck => "counter_stuck",
    }
}
