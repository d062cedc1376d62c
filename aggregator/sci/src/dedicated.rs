//! Dedicated idle: what a resident replica draws while no request runs. It belongs to the holder (methodology A.6, I2).

use joulebook_units::{Microjoules, Milliwatts};

/// Energy of one replica over a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replica {
    /// While requests run.
    pub busy: Microjoules,
    /// While none runs.
    pub idle: Microjoules,
}

impl Replica {
    /// A replica that is busy for `busy_nanos` of `window_nanos` (at most all of it) at two known powers.
    pub fn new(power_busy: Milliwatts, power_idle: Milliwatts, busy_nanos: u64, window_nanos: u64) -> Self {
        let busy_nanos = busy_nanos.min(window_nanos);
        Self { busy: power_busy.over_nanos(busy_nanos), idle: power_idle.over_nanos(window_nanos - busy_nanos) }
    }

    /// Both: what the holder is charged with.
    pub fn total(&self) -> Microjoules {
        self.busy + self.idle
    }

    /// Idle part of the whole; `None` over no energy.
    #[allow(clippy::cast_precision_loss, reason = "a ratio")]
    pub fn idle_share(&self) -> Option<f64> {
        let total = self.total();
        (total.0 > 0).then(|| self.idle.0 as f64 / total.0 as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_never_busy_for_longer_than_the_window() {
        let replica = Replica::new(Milliwatts(2_000), Milliwatts(1_000), 3_000_000_000, 2_000_000_000);
        assert_eq!((replica.busy.0, replica.idle.0), (4_000_000, 0));
        let off = Replica::new(Milliwatts(0), Milliwatts(0), 1, 2);
        assert!(off.idle_share().is_none());
    }
}
