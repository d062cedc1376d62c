//! The agent's clocks: boot time for durations, wall time for people. The only place that reads them.

use joulebook_units::{BootNanos, UnixNanos};
use nix::time::{ClockId, clock_gettime};

/// Source of time. Tests give their own.
pub trait Clock: Send + Sync {
    /// CLOCK_BOOTTIME.
    fn boot(&self) -> BootNanos;
    /// CLOCK_REALTIME.
    fn wall(&self) -> UnixNanos;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn boot(&self) -> BootNanos {
        BootNanos(u64::try_from(nanos(ClockId::CLOCK_BOOTTIME)).unwrap_or(0))
    }

    fn wall(&self) -> UnixNanos {
        UnixNanos(nanos(ClockId::CLOCK_REALTIME))
    }
}

/// Nanoseconds of a clock; 0 if the kernel does not have it, which Linux 2.6.39 and later always do.
fn nanos(clock: ClockId) -> i64 {
    clock_gettime(clock)
        .map_or(0, |time| time.tv_sec().saturating_mul(UnixNanos::PER_SECOND).saturating_add(time.tv_nsec()))
}
