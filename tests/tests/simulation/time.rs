//! Time of the simulation: one clock that the driver moves, and wall clocks of nodes that are wrong by what it says.

use joulebook_agent::clock::Clock;
use joulebook_tests::chaos::plan::Plan;
use joulebook_units::{BootNanos, UnixNanos};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Between the first row of a plan and the beginning of the simulation.
const PAST: u64 = 6 * 86_400 * 1_000_000_000;

/// How far the simulation is.
#[derive(Debug, Clone, Default)]
pub struct Time(Arc<AtomicU64>);

impl Time {
    /// Moves every clock.
    pub fn set(&self, elapsed: Duration) {
        self.0.store(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn since(&self) -> u64 {
        PAST + self.0.load(Ordering::Relaxed)
    }
}

/// Clocks of a machine.
#[derive(Debug, Clone)]
pub struct SimulatedClock {
    plan: Plan,
    time: Time,
    wrong: Arc<AtomicI64>,
}

impl SimulatedClock {
    /// Clocks that are right.
    pub fn new(plan: Plan, time: &Time) -> Self {
        Self { plan, time: time.clone(), wrong: Arc::default() }
    }

    /// Sets the wall clock wrong by nanoseconds.
    pub fn set_wrong(&self, by: i64) {
        self.wrong.store(by, Ordering::Relaxed);
    }
}

impl Clock for SimulatedClock {
    fn boot(&self) -> BootNanos {
        BootNanos(self.plan.boot + self.time.since())
    }

    fn wall(&self) -> UnixNanos {
        let right = self.plan.wall + i64::try_from(self.time.since()).unwrap_or(i64::MAX);
        UnixNanos(right.saturating_add(self.wrong.load(Ordering::Relaxed)))
    }
}

impl joulebook_aggregator::clock::Clock for SimulatedClock {
    fn unix(&self) -> UnixNanos {
        self.wall()
    }
}
