//! Energy from power: constant power, and what fills a gap of a power-only stream (methodology A.1, A.7).

use joulebook_units::{Joules, Microjoules, Milliwatts};

/// How a gap of a power-only stream is filled. Zero is not offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GapPolicy {
    /// At the last power before it.
    HoldLast,
    /// At the mean of the powers before and after it.
    Linear,
    /// At the mean power of the rest of the window.
    WindowMean,
    /// Not at all: the energy is not known.
    Unknown,
}

/// A window of a power-only stream with a gap in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gapped {
    /// Energy outside the gap.
    pub measured: Microjoules,
    /// Length of the gap in nanoseconds.
    pub gap_nanos: u64,
    /// Length of the window, gap included.
    pub window_nanos: u64,
    /// Last power before the gap.
    pub before: Option<Milliwatts>,
    /// First power after it.
    pub after: Option<Milliwatts>,
}

impl Gapped {
    /// Energy of the window under `policy`; `None` where the policy lacks what it needs, and always under `Unknown`.
    pub fn energy(&self, policy: GapPolicy) -> Option<Microjoules> {
        let fill = match policy {
            GapPolicy::HoldLast => self.before?.over_nanos(self.gap_nanos),
            GapPolicy::Linear => {
                let both = Milliwatts(self.before?.0.checked_add(self.after?.0)?);
                Microjoules(both.over_nanos(self.gap_nanos).0 / 2)
            }
            GapPolicy::WindowMean => {
                let rest = u128::from(self.window_nanos.checked_sub(self.gap_nanos)?);
                let filled = (u128::from(self.measured.0) * u128::from(self.gap_nanos)).checked_div(rest)?;
                Microjoules(u64::try_from(filled).ok()?)
            }
            GapPolicy::Unknown => return None,
        };
        self.measured.checked_add(fill)
    }

    /// Energy of the window if the device drew `power` throughout the gap: a bound, for its least or greatest power.
    pub fn bound(&self, power: Milliwatts) -> Microjoules {
        self.measured + power.over_nanos(self.gap_nanos)
    }

    /// Part of the window that is measured; `None` for an empty window.
    #[allow(clippy::cast_precision_loss, reason = "a ratio")]
    pub fn coverage(&self) -> Option<f64> {
        let measured = self.window_nanos.saturating_sub(self.gap_nanos);
        (self.window_nanos > 0).then(|| measured as f64 / self.window_nanos as f64)
    }
}

/// Energy of parts that each draw a constant power for `nanos` nanoseconds.
pub fn constant(powers: impl IntoIterator<Item = Milliwatts>, nanos: u64) -> Microjoules {
    powers.into_iter().map(|power| power.over_nanos(nanos)).sum()
}

/// Energy per functional unit in joules: a ratio of sums, never a mean of ratios. `None` for no unit.
pub fn per_unit(energy: Joules, units: f64) -> Option<f64> {
    (units > 0.0).then(|| energy.0 / units)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_lacks_what_it_needs_gives_nothing() {
        let gapped = Gapped {
            measured: Microjoules(90),
            gap_nanos: 1_000,
            window_nanos: 1_000,
            before: Some(Milliwatts(7)),
            after: None,
        };
        assert_eq!(gapped.energy(GapPolicy::Linear), None);
        assert_eq!(gapped.energy(GapPolicy::WindowMean), None, "all of the window is gap");
        assert_eq!(gapped.energy(GapPolicy::Unknown), None);
        assert_eq!(gapped.coverage(), Some(0.0));
        assert!(per_unit(Joules(1.0), 0.0).is_none());
    }
}
