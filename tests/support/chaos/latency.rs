//! How long it takes from a record that is durable at a node to its acknowledgement.

use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_units::BootNanos;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The times of a fleet.
#[derive(Debug, Clone, Default)]
pub struct Latency(Arc<Mutex<Vec<Duration>>>);

/// One node's records that wait.
#[derive(Debug)]
pub struct Node {
    all: Latency,
    waiting: VecDeque<(u64, BootNanos)>,
}

/// Times in ascending order.
#[derive(Debug, Clone)]
pub struct Times(Vec<Duration>);

impl Latency {
    /// Where a node notes its own.
    pub fn node(&self) -> Node {
        Node { all: self.clone(), waiting: VecDeque::new() }
    }

    /// What was noted since the last time this was asked.
    pub fn take(&self) -> Times {
        let mut times = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        times.sort_unstable();
        Times(times)
    }
}

impl Node {
    /// A record is durable.
    pub fn made(&mut self, sequence: u64) {
        self.waiting.push_back((sequence, SystemClock.boot()));
    }

    /// Records up to a number are acknowledged.
    pub fn acked(&mut self, sequence: u64) {
        let now = SystemClock.boot();
        let mut times = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((_, made)) = self.waiting.pop_front_if(|(number, _)| *number <= sequence) {
            times.push(now.since(made));
        }
    }
}

impl Times {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time within which this percentage was done; zero without any.
    pub fn within(&self, percent: usize) -> Duration {
        let index = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(index).copied().unwrap_or_default()
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |percent| self.within(percent).as_millis();
        write!(f, "ack p50 {} ms, p99 {} ms, max {} ms of {}", millis(50), millis(99), millis(100), self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_is_timed_once_when_it_is_acknowledged() {
        let latency = Latency::default();
        let mut node = latency.node();
        (1..=3).for_each(|sequence| node.made(sequence));
        node.acked(2);
        node.acked(2);
        assert_eq!(latency.take().count(), 2);
        node.acked(9);
        assert_eq!((latency.take().count(), latency.take().count()), (1, 0));
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let times = Times((1..=200).map(Duration::from_millis).collect());
        assert_eq!((times.within(50), times.within(99)), (Duration::from_millis(100), Duration::from_millis(198)));
    }
}
