//! Energy from a power that is told now and then: each value holds until the next one, and no longer than is said.
//!
//! What a slow meter showed last is not what is drawn now: past the longest time the energy is unknown, with a bound, until
//! the next value.

use super::Value;
use joulebook_units::{BootNanos, Microjoules, Milliwatts};
use std::time::Duration;

/// The state of one source.
#[derive(Debug, Clone)]
pub struct Hold {
    longest: u64,
    ceiling: Milliwatts,
    last: Option<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: BootNanos,
    power: Milliwatts,
    /// Whether it held for as long as it may.
    expired: bool,
}

impl Hold {
    /// Values hold for `longest`; `ceiling` bounds what is not known.
    pub fn new(longest: Duration, ceiling: Milliwatts) -> Self {
        Self { longest: u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX), ceiling, last: None }
    }

    /// Takes a new value; gives what is known by it, with instants. One that is not later than the last is left out.
    pub fn sample(&mut self, at: BootNanos, power: Milliwatts) -> Vec<(BootNanos, Value)> {
        let known = self.tick(at);
        let mut values: Vec<_> = known.into_iter().collect();
        match self.last {
            None => values.push((at, Value::increment(Microjoules::ZERO))),
            Some(last) if at <= last.at => return values,
            Some(last) if last.expired => {
                let since = self.end(last);
                let high = self.ceiling.over_nanos(at.0.saturating_sub(since.0));
                values.push((at, Value::Unknown { since, high }));
            }
            Some(last) => {
                let energy = last.power.over_nanos(at.0.saturating_sub(last.at.0));
                values.push((at, Value::increment(energy)));
            }
        }
        self.last = Some(Sample { at, power, expired: false });
        values
    }

    /// Gives the last energy that is known once the value has held for as long as it may.
    pub fn tick(&mut self, now: BootNanos) -> Option<(BootNanos, Value)> {
        let last = self.last.filter(|last| !last.expired)?;
        let end = self.end(last);
        if now <= end {
            return None;
        }
        self.last = Some(Sample { expired: true, ..last });
        Some((end, Value::increment(last.power.over_nanos(self.longest))))
    }

    /// Whether there was no value yet.
    pub fn is_new(&self) -> bool {
        self.last.is_none()
    }

    fn end(&self, last: Sample) -> BootNanos {
        BootNanos(last.at.0.saturating_add(self.longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn hold() -> Hold {
        Hold::new(Duration::from_secs(30), Milliwatts(1_000_000))
    }

    fn joules(joules: u64) -> Value {
        Value::increment(Microjoules(joules * 1_000_000))
    }

    #[test]
    fn a_value_holds_until_the_next_one() {
        let mut hold = hold();
        let at = |second: u64| BootNanos(second * SECOND);
        assert_eq!(hold.sample(at(10), Milliwatts(300_000)), [(at(10), joules(0))]);
        assert_eq!(hold.tick(at(20)), None);
        assert_eq!(hold.sample(at(20), Milliwatts(500_000)), [(at(20), joules(3_000))]);
        assert_eq!(hold.sample(at(25), Milliwatts(1)), [(at(25), joules(2_500))]);
        assert_eq!(hold.sample(at(24), Milliwatts(900_000)), [], "one that comes too late says nothing");
    }

    #[test]
    fn past_the_longest_time_nothing_is_known_and_bounded() {
        let mut hold = hold();
        let at = |second: u64| BootNanos(second * SECOND);
        hold.sample(at(10), Milliwatts(300_000));
        assert_eq!(hold.tick(at(40)), None);
        assert_eq!(hold.tick(at(41)), Some((at(40), joules(9_000))), "never the last value for ever");
        assert_eq!(hold.tick(at(42)), None);
        let unknown = Value::Unknown { since: at(40), high: Microjoules(60_000_000_000) };
        assert_eq!(hold.sample(at(100), Milliwatts(300_000)), [(at(100), unknown.clone())]);
        // The same where nobody looked in between.
        let late = hold.sample(at(190), Milliwatts(300_000));
        let unknown = Value::Unknown { since: at(130), high: Microjoules(60_000_000_000) };
        assert_eq!(late, [(at(130), joules(9_000)), (at(190), unknown)]);
    }
}
