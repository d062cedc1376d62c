//! The buckets of a histogram's data point, as counts of what lies within a bound.
//!
//! Protocol: `bucket_counts` has one number more than `explicit_bounds`, and they add up to the count. Exponential buckets are
//! not taken: their bounds move as values come.

use super::super::distribution::is_kept;
use super::super::told::Refusal;
use super::names::Bucket;
use super::wire::{Malformed, Value};
use bytes::Buf;
use joulebook_units::CountKind;

/// Bounds of one data point.
const MOST_BOUNDS: usize = 512;
/// The highest bound in our units.
const HIGHEST: f64 = 1e18;

/// What a data point tells of its buckets.
#[derive(Debug, Default)]
pub struct Buckets {
    counts: Vec<u64>,
    bounds: Vec<f64>,
}

impl Buckets {
    /// Adds to the counts, packed or one by one.
    ///
    /// # Errors
    /// The bytes are no such numbers, or too many.
    pub fn add_counts(&mut self, value: Value<'_>) -> Result<(), Refusal> {
        add(&mut self.counts, value, |bits| bits)
    }

    /// Adds to the bounds.
    ///
    /// # Errors
    /// As above.
    pub fn add_bounds(&mut self, value: Value<'_>) -> Result<(), Refusal> {
        add(&mut self.bounds, value, f64::from_bits)
    }

    /// How many lie within each bound that is kept, and how many there are at all (`u64::MAX`). Nothing if there are no bounds.
    /// `factor` makes the point's unit ours, `times` is its count.
    ///
    /// # Errors
    /// Bounds that do not rise, or counts that are not those of the bounds or of the data point.
    pub(super) fn within(&self, kind: Bucket, factor: f64, times: u64) -> Result<Vec<(CountKind, u64)>, Refusal> {
        if self.bounds.is_empty() {
            return Ok(Vec::new());
        }
        let rises = self.bounds.iter().all(|bound| bound.is_finite()) && self.bounds.is_sorted_by(|a, b| a < b);
        let all = self.counts.iter().try_fold(0_u64, |sum, count| sum.checked_add(*count));
        if !rises || self.counts.len() != self.bounds.len() + 1 || all != Some(times) {
            return Err(Refusal::value(
                "a histogram's bounds rise, and its buckets are one more and add up to its count",
            ));
        }
        let mut sum = 0;
        let within = self.bounds.iter().zip(&self.counts).filter_map(|(bound, count)| {
            sum += count;
            Some((ours(*bound * factor)?, sum))
        });
        let within: Vec<(u64, u64)> = within.collect();
        let kept = within.iter().enumerate().filter(|(place, _)| is_kept(*place, within.len()));
        let kept = kept.map(|(_, (bound, count))| (kind(*bound), *count));
        Ok(kept.chain([(kind(u64::MAX), times)]).collect())
    }
}

/// A bound in whole units of ours.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked: 0 to 10^18")]
fn ours(bound: f64) -> Option<u64> {
    let bound = bound.round();
    (0.0..=HIGHEST).contains(&bound).then_some(bound as u64)
}

fn add<T>(all: &mut Vec<T>, value: Value<'_>, of: impl Fn(u64) -> T) -> Result<(), Refusal> {
    match value {
        Value::Fixed64(one) => all.push(of(one)),
        Value::Bytes(mut packed) if packed.len().is_multiple_of(8) && packed.len() / 8 <= MOST_BOUNDS + 1 => {
            while let Ok(one) = packed.try_get_u64_le() {
                all.push(of(one));
            }
        }
        Value::Bytes(packed) if packed.len().is_multiple_of(8) => {
            return Err(Refusal::limit("a histogram has at most 512 bounds"));
        }
        _ => return Err(Refusal::form(Malformed.to_string())),
    }
    if all.len() > MOST_BOUNDS + 1 {
        return Err(Refusal::limit("a histogram has at most 512 bounds"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(counts: &[u64], bounds: &[f64], factor: f64, times: u64) -> Result<Vec<(CountKind, u64)>, &'static str> {
        let buckets = Buckets { counts: counts.to_vec(), bounds: bounds.to_vec() };
        buckets.within(CountKind::LatencyWithin, factor, times).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn buckets_add_up_to_counts_within_bounds_of_our_unit() {
        let at = CountKind::LatencyWithin;
        let told = within(&[1, 2, 0, 4], &[0.01, 0.5, 1.0], 1e9, 7);
        assert_eq!(
            told,
            Ok(vec![(at(10_000_000), 1), (at(500_000_000), 3), (at(1_000_000_000), 3), (at(u64::MAX), 7)])
        );
        assert_eq!(within(&[3, 4], &[-1.0], 1.0, 7), Ok(vec![(at(u64::MAX), 7)]), "no time is below 0");
        assert_eq!(within(&[], &[], 1.0, 7), Ok(vec![]));
    }

    #[test]
    fn buckets_that_are_none_are_refused() {
        for (counts, bounds, times) in [
            (&[1, 2][..], &[1.0, 2.0][..], 3),
            (&[1, 2, 3], &[2.0, 1.0], 6),
            (&[1, 2, 3], &[1.0, 1.0], 6),
            (&[1, 2, 3], &[1.0, f64::NAN], 6),
            (&[1, 2, 3], &[1.0, f64::INFINITY], 6),
            (&[1, 2, 3], &[1.0, 2.0], 7),
            (&[1, u64::MAX, 1], &[1.0, 2.0], 1),
            (&[], &[1.0], 0),
        ] {
            assert_eq!(within(counts, bounds, 1.0, times), Err("value"), "{counts:?} {bounds:?}");
        }
    }
}
