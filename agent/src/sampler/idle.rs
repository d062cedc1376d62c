//! Idle power of metered sources: configured, or learned from quiet times, or what a table says. Quiet is a CPU that is
//! less than 2 % busy, and an accelerator with nothing resident.

use crate::collector::estimate::Idle;
use joulebook_units::{IdleOrigin, Milliwatts};
use std::collections::VecDeque;

/// Below this many thousandths the CPU counts as resting.
const QUIET_PERMILLE: u64 = 20;
/// Powers are means over at least this long: a counter's steps are too coarse for less.
const MEAN_NANOS: u64 = 500_000_000;
/// Quiet powers that are kept, and the least number to learn from.
const KEPT: usize = 600;
const ENOUGH: usize = 60;

/// Idle power of one source.
#[derive(Debug)]
pub struct IdlePower {
    stated: Option<Idle>,
    quiet: VecDeque<u64>,
    /// Energy and time of the quiet intervals that do not make a mean yet.
    begun: (u64, u64),
}

/// Whether a CPU that is so busy counts as resting.
pub fn is_quiet(busy_permille: u64) -> bool {
    busy_permille < QUIET_PERMILLE
}

impl IdlePower {
    /// Begins with what the configuration or a table states.
    pub fn new(stated: Option<Idle>) -> Self {
        Self { stated, quiet: VecDeque::new(), begun: (0, 0) }
    }

    /// Takes the energy of one interval, and whether the device was quiet in it.
    pub fn observe(&mut self, microjoules: u64, nanos: u64, quiet: bool) {
        if !quiet {
            self.begun = (0, 0);
            return;
        }
        let (microjoules, nanos) = (self.begun.0.saturating_add(microjoules), self.begun.1.saturating_add(nanos));
        if nanos < MEAN_NANOS {
            self.begun = (microjoules, nanos);
            return;
        }
        self.begun = (0, 0);
        // µJ × 10⁶ ÷ ns = mW.
        let power = u128::from(microjoules) * 1_000_000 / u128::from(nanos);
        if self.quiet.len() == KEPT {
            self.quiet.pop_front();
        }
        self.quiet.push_back(u64::try_from(power).unwrap_or(u64::MAX));
    }

    /// The idle power: as configured; else the 5th percentile of the quiet powers once there are enough; else as the
    /// table states it.
    pub fn get(&self) -> Option<Idle> {
        match self.stated {
            Some((_, IdleOrigin::Configured)) => self.stated,
            _ if self.quiet.len() >= ENOUGH => {
                let mut powers: Vec<u64> = self.quiet.iter().copied().collect();
                powers.sort_unstable();
                powers.get(powers.len() / 20).map(|power| (Milliwatts(*power), IdleOrigin::Learned))
            }
            stated => stated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_power_is_learned_from_a_minute_of_rest_unless_it_is_configured() {
        let table = (Milliwatts(9_000), IdleOrigin::Table);
        let mut idle = IdlePower::new(Some(table));
        for second in 0..59 {
            idle.observe(4_000_000 + second, 1_000_000_000, is_quiet(5));
            idle.observe(90_000_000, 1_000_000_000, is_quiet(800));
        }
        assert_eq!(idle.get(), Some(table));
        // Five intervals of a tenth of a second make one mean.
        (0..4).for_each(|_| idle.observe(400_000, 100_000_000, true));
        assert_eq!(idle.get(), Some(table));
        idle.observe(400_059, 100_000_000, true);
        assert_eq!(idle.get(), Some((Milliwatts(4_000), IdleOrigin::Learned)));
        let configured = (Milliwatts(1), IdleOrigin::Configured);
        let mut idle = IdlePower::new(Some(configured));
        (0..100).for_each(|_| idle.observe(4_000_000, 1_000_000_000, true));
        assert_eq!(idle.get(), Some(configured));
    }
}
