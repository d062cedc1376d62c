//! Distributions as engines tell them: how many observations were at most so large.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use joulebook_units::CountKind;

/// What a distribution is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Time of a request in nanoseconds.
    Latency,
    /// Tokens of a prompt.
    Prompt,
}

/// Observations at most so large, by bound; ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    buckets: Vec<(u64, u64)>,
}

impl Distribution {
    /// The distribution among counts; `None` if there is none, or nothing was observed.
    pub fn of(counts: &BTreeMap<CountKind, u64>, measure: Measure) -> Option<Self> {
        let bound = |kind: &CountKind| match (kind, measure) {
            (CountKind::LatencyWithin(bound), Measure::Latency) | (CountKind::PromptWithin(bound), Measure::Prompt) => {
                Some(*bound)
            }
            _ => None,
        };
        let mut buckets: Vec<(u64, u64)> =
            counts.iter().filter_map(|(kind, count)| Some((bound(kind)?, *count))).collect();
        buckets.sort_unstable();
        // Engines of several bounds in one sum, and edges that cut a scrape, may leave a bucket below the one before.
        let mut highest = 0;
        for (_, count) in &mut buckets {
            highest = highest.max(*count);
            *count = highest;
        }
        (highest > 0).then_some(Self { buckets })
    }

    /// The value that `share` (0 … 1) of the observations do not exceed, linear inside its bucket; `None` if it lies beyond
    /// the last bound.
    #[allow(clippy::cast_precision_loss, reason = "a derived value")]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let all = self.buckets.last()?.1;
        let wanted = share.clamp(0.0, 1.0) * all as f64;
        let (mut low, mut below) = (0u64, 0u64);
        for (bound, count) in self.buckets.iter().copied() {
            if count as f64 >= wanted && count > 0 {
                if bound == u64::MAX {
                    return None;
                }
                let inside = (count - below) as f64;
                let part = if inside > 0.0 { ((wanted - below as f64) / inside).max(0.0) } else { 1.0 };
                return Some(low as f64 + (bound - low) as f64 * part);
            }
            (low, below) = (bound, count);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(buckets: &[(u64, u64)]) -> BTreeMap<CountKind, u64> {
        buckets.iter().map(|(bound, count)| (CountKind::LatencyWithin(*bound), *count)).collect()
    }

    #[test]
    fn a_quantile_lies_inside_its_bucket_and_none_beyond_the_last_bound() {
        let of = |buckets: &[(u64, u64)], share| Distribution::of(&counts(buckets), Measure::Latency)?.quantile(share);
        let known = [(100, 10), (200, 30), (u64::MAX, 40)];
        for (share, value) in [(0.25, 100.0), (0.5, 150.0), (0.75, 200.0), (0.125, 50.0)] {
            assert!(of(&known, share).is_some_and(|found| (found - value).abs() < 1e-9), "{share}");
        }
        assert_eq!(of(&known, 0.95), None, "longer than the engine's last bound");
        assert_eq!(of(&[(100, 0), (u64::MAX, 0)], 0.5), None, "nothing was observed");
        assert_eq!(of(&[], 0.5), None);
        assert!(of(&[(100, 10), (200, 9), (u64::MAX, 10)], 1.0).is_some_and(|found| (found - 100.0).abs() < 1e-9));
        assert!(Distribution::of(&counts(&known), Measure::Prompt).is_none());
    }
}
