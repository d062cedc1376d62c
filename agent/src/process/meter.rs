//! Sums of CPU time that never fall.

use std::collections::BTreeMap;

/// One sum for each workload.
#[derive(Debug, Default)]
pub(super) struct Meters {
    meters: BTreeMap<String, Meter>,
}

#[derive(Debug, Default)]
struct Meter {
    nanos: u64,
    /// Increments of differences between counters that were read one after the other may be negative: they are owed
    /// and taken from what comes next, so that the sum is right in the long run and never falls.
    owed: i128,
    shown: bool,
}

impl Meters {
    /// Adds to a workload's sum.
    pub(super) fn add(&mut self, id: &str, nanos: i128) {
        if !self.meters.contains_key(id) {
            self.meters.insert(id.to_owned(), Meter::default());
        }
        let Some(meter) = self.meters.get_mut(id) else { return };
        let due = nanos - meter.owed;
        meter.owed = (-due).max(0);
        meter.nanos = meter.nanos.saturating_add(u64::try_from(due.max(0)).unwrap_or(u64::MAX));
    }

    /// The sum in ns, and whether it is shown for the first time.
    pub(super) fn show(&mut self, id: &str) -> (u64, bool) {
        match self.meters.get_mut(id) {
            Some(meter) => (meter.nanos, !std::mem::replace(&mut meter.shown, true)),
            None => (0, true),
        }
    }

    /// Keeps only the workloads that may come back.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.meters.retain(|id, _| keep(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_owed_is_taken_from_the_next_increment() {
        let mut meters = Meters::default();
        meters.add("x", 10);
        meters.add("x", -4);
        assert_eq!(meters.show("x"), (10, true));
        meters.add("x", 1);
        assert_eq!(meters.show("x"), (10, false));
        meters.add("x", 5);
        assert_eq!(meters.show("x"), (12, false));
    }
}
