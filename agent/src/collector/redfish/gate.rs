//! When a BMC may be asked, and when it may be shown a password: accounts lock out, session tables are small.
//!
//! Pure: instants are given, in nanoseconds of any one clock.

use std::collections::VecDeque;
use std::time::Duration;

/// How often and how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Pause after a refusal; each further one in a row is twice as long.
    pub pause: Duration,
    /// Longest pause.
    pub longest_pause: Duration,
    /// Most logins within `window`.
    pub logins: usize,
    /// Time over which logins are counted.
    pub window: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pause: Duration::from_secs(60),
            longest_pause: Duration::from_secs(600),
            logins: 5,
            window: Duration::from_secs(600),
        }
    }
}

/// The state of one BMC.
#[derive(Debug)]
pub struct Gate {
    limits: Limits,
    logins: VecDeque<u64>,
    closed_until: u64,
    next_pause: Duration,
}

impl Gate {
    /// An open gate.
    pub fn new(limits: Limits) -> Self {
        Self { limits, logins: VecDeque::new(), closed_until: 0, next_pause: limits.pause }
    }

    /// Whether the BMC may be asked anything.
    pub fn is_open(&self, now: u64) -> bool {
        now >= self.closed_until
    }

    /// Counts a login, if one is allowed now. If it is not, nothing is asked until the oldest one is forgotten.
    pub fn login(&mut self, now: u64) -> bool {
        let window = nanos(self.limits.window);
        self.logins.retain(|at| now.saturating_sub(*at) < window);
        if let Some(oldest) = self.logins.front().filter(|_| self.logins.len() >= self.limits.logins) {
            self.closed_until = self.closed_until.max(oldest.saturating_add(window));
            return false;
        }
        self.logins.push_back(now);
        true
    }

    /// The BMC refused name and password, or a further session.
    pub fn refused(&mut self, now: u64) {
        self.closed_until = now.saturating_add(nanos(self.next_pause));
        self.next_pause = (self.next_pause * 2).min(self.limits.longest_pause);
    }

    /// The BMC asks for time.
    pub fn close_for(&mut self, now: u64, pause: Duration) {
        self.closed_until = self.closed_until.max(now.saturating_add(nanos(pause)));
    }

    /// The BMC gave what was asked for: pauses begin anew.
    pub fn accepted(&mut self) {
        self.next_pause = self.limits.pause;
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_refusal_closes_for_a_minute_and_each_further_one_for_twice_as_long() {
        let mut gate = Gate::new(Limits::default());
        gate.refused(0);
        assert!(!gate.is_open(60 * SECOND - 1) && gate.is_open(60 * SECOND));
        gate.refused(60 * SECOND);
        assert!(!gate.is_open(180 * SECOND - 1) && gate.is_open(180 * SECOND));
        gate.accepted();
        gate.refused(200 * SECOND);
        assert!(gate.is_open(260 * SECOND));
    }

    #[test]
    fn no_ten_minutes_hold_more_than_five_logins() {
        let mut gate = Gate::new(Limits::default());
        let mut logins: Vec<u64> = Vec::new();
        // A BMC that takes every login and forgets it at once, asked each second for an hour.
        for second in 0..3_600 {
            let now = second * SECOND;
            if gate.is_open(now) && gate.login(now) {
                logins.push(now);
            }
        }
        assert!(logins.len() >= 25, "{} logins", logins.len());
        for window in logins.windows(6) {
            assert!(window[5] - window[0] >= 600 * SECOND);
        }
    }
}
