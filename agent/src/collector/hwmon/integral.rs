//! Energy of a channel that shows power only.
//!
//! Between two readings the trapezoid; where the reading is a mean over at least that time, the rectangle. Readings that
//! fail leave no hole as long as the next one comes within 30 s or three intervals; after a longer time the energy in
//! between is not known.

use crate::collector::Value;
use crate::counter::power::{Sampled, integrate};
use joulebook_units::{BootNanos, Microjoules, Milliwatts};
use std::time::Duration;

/// Readings further apart than this leave the energy between them unknown, unless they usually are.
const LONGEST_NANOS: u64 = 30_000_000_000;
/// How many usual intervals may pass.
const LONGEST_INTERVALS: u64 = 3;

/// The sum of one channel.
#[derive(Debug, Clone, Default)]
pub(super) struct Integral {
    last: Option<(BootNanos, Milliwatts)>,
    /// Time between the last two readings.
    usual: u64,
}

impl Integral {
    /// Takes a reading; gives the energy since the one before. `None` for one that is not later.
    pub(super) fn take(
        &mut self,
        at: BootNanos,
        power: Milliwatts,
        window: Option<Duration>,
        ceiling: Milliwatts,
    ) -> Option<Value> {
        let Some((since, before)) = self.last else {
            self.last = Some((at, power));
            return Some(Value::increment(Microjoules::ZERO));
        };
        let nanos = at.0.checked_sub(since.0).filter(|nanos| *nanos > 0)?;
        let longest = LONGEST_NANOS.max(self.usual.saturating_mul(LONGEST_INTERVALS));
        self.last = Some((at, power));
        self.usual = nanos;
        if nanos > longest {
            return Some(Value::Unknown { since, high: ceiling.over_nanos(nanos) });
        }
        let mean = window.is_some_and(|window| window.as_nanos() >= u128::from(nanos));
        let sampled = if mean { Sampled::Average } else { Sampled::Point };
        integrate(&[(since, before), (at, power)], sampled).map(Value::increment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn energy(window: Option<Duration>, readings: &[(u64, u64)]) -> Vec<Option<Value>> {
        let mut integral = Integral::default();
        let take = |(second, watts): &(u64, u64)| {
            integral.take(BootNanos(second * SECOND), Milliwatts(watts * 1_000), window, Milliwatts(1_000_000))
        };
        readings.iter().map(take).collect()
    }

    #[test]
    fn power_of_the_instant_is_a_trapezoid_and_a_mean_a_rectangle() {
        let joules = |joules: u64| Some(Value::increment(Microjoules(joules * 1_000_000)));
        let readings = [(1, 100), (2, 200), (12, 400)];
        assert_eq!(energy(None, &readings), [joules(0), joules(150), joules(3_000)]);
        assert_eq!(energy(Some(Duration::from_millis(50)), &readings), [joules(0), joules(150), joules(3_000)]);
        assert_eq!(energy(Some(Duration::from_secs(300)), &readings), [joules(0), joules(200), joules(4_000)]);
    }

    #[test]
    fn after_too_long_a_pause_the_energy_is_unknown_and_bounded() {
        let unknown = |second: u64, kilojoules: u64| {
            Some(Value::Unknown { since: BootNanos(second * SECOND), high: Microjoules(kilojoules * 1_000_000_000) })
        };
        let short = energy(None, &[(1, 100), (31, 100), (32, 100)]);
        assert!(short.iter().all(|value| matches!(value, Some(Value::Increment { .. }))), "{short:?}");
        assert_eq!(energy(None, &[(1, 100), (32, 100)])[1], unknown(1, 31));
        // Readings that are usually a minute apart are not late after two.
        let slow = energy(None, &[(1, 100), (21, 100), (81, 100), (82, 100)]);
        assert!(matches!(slow[2], Some(Value::Increment { .. })), "{slow:?}");
        assert_eq!(energy(None, &[(1, 100), (1, 100)])[1], None, "not later");
    }
}
