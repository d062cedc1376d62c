//! The aggregator's clock: the only place that reads it.

use joulebook_units::UnixNanos;
use nix::time::{ClockId, clock_gettime};

/// Source of time. Tests give their own.
pub trait Clock: Send + Sync {
    /// CLOCK_REALTIME.
    fn unix(&self) -> UnixNanos;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn unix(&self) -> UnixNanos {
        // CLOCK_REALTIME exists on every Linux; the epoch makes every record look like one of the future: refused.
        clock_gettime(ClockId::CLOCK_REALTIME).map_or(UnixNanos(0), |time| {
            UnixNanos(time.tv_sec().saturating_mul(UnixNanos::PER_SECOND).saturating_add(time.tv_nsec()))
        })
    }
}
