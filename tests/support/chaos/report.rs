//! What a run did, in one line, and whether it counts.

use std::fmt;
use std::time::Duration;

/// Acknowledged batches in a second below which nothing was under load.
const LEAST_RATE: f64 = 200.0;
/// Part of the faults that must have hit something on its way, in percent.
const LEAST_IN_FLIGHT: u64 = 30;
/// Records that must have come twice, in all.
const LEAST_REPLAYS: u64 = 1_000;

/// The figures of a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What was faulted, and how.
    pub name: &'static str,
    /// Its seed.
    pub seed: u64,
    /// Number of faults.
    pub faults: u64,
    /// Of them, how many met a batch that was sent and not acknowledged.
    pub in_flight: u64,
    /// Batches that were acknowledged (or became durable) while the faulted process was up, and for how long it was.
    pub batches: u64,
    /// See `batches`.
    pub up: Duration,
    /// Records that came again after they were stored; none where nothing repeats itself.
    pub replays: Option<u64>,
    /// How long each start took.
    pub ready: Vec<Duration>,
}

impl Report {
    /// Batches a second.
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    pub fn rate(&self) -> f64 {
        self.batches as f64 / self.up.as_secs_f64().max(1e-9)
    }

    /// The time within which this percentage of the starts was done.
    pub fn ready_within(&self, percent: usize) -> Duration {
        let mut sorted = self.ready.clone();
        sorted.sort_unstable();
        let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(index).copied().unwrap_or_default()
    }

    /// Why the run proves nothing, if so.
    pub fn void(&self) -> Option<String> {
        let rate = self.rate();
        if rate < LEAST_RATE {
            return Some(format!("void: {rate:.0} batches/s, {LEAST_RATE} are needed"));
        }
        if self.in_flight * 100 < self.faults * LEAST_IN_FLIGHT {
            let (met, all) = (self.in_flight, self.faults);
            return Some(format!("void: {met} of {all} faults met a batch on its way, {LEAST_IN_FLIGHT} % are needed"));
        }
        match self.replays {
            Some(replays) if replays < LEAST_REPLAYS => {
                Some(format!("void: {replays} records came again, {LEAST_REPLAYS} are needed"))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = (self.in_flight * 100).checked_div(self.faults).unwrap_or(0);
        write!(f, "{:<28} | seed {} | {} faults | {:.0} batches/s", self.name, self.seed, self.faults, self.rate())?;
        write!(f, " | {share} % met a batch on its way | ")?;
        match self.replays {
            Some(replays) => write!(f, "{replays} replays")?,
            None => write!(f, "no replays by design")?,
        }
        let millis = |percent| self.ready_within(percent).as_millis();
        write!(f, " | ready p50 {} ms, p99 {} ms", millis(50), millis(99))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        Report {
            faults: 10,
            in_flight: 3,
            batches: 2_000,
            up: Duration::from_secs(10),
            replays: Some(1_000),
            ready: (1..=100).map(Duration::from_millis).collect(),
            ..Report::default()
        }
    }

    #[test]
    fn a_quiet_run_is_void() {
        assert_eq!(good().void(), None);
        for quiet in [
            Report { batches: 1_999, ..good() },
            Report { in_flight: 2, ..good() },
            Report { replays: Some(999), ..good() },
        ] {
            assert!(quiet.void().unwrap().starts_with("void"), "{quiet:?}");
        }
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        assert_eq!(good().ready_within(50), Duration::from_millis(50));
        assert_eq!(good().ready_within(99), Duration::from_millis(99));
    }
}
