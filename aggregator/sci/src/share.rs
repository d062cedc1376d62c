//! Splitting an integer so that the parts add up to it exactly.

use alloc::vec;
use alloc::vec::Vec;

/// Splits `total` in proportion to `weights` by the largest remainder: every part is the exact proportional value
/// rounded down or up, and Σ parts = `total`. Equal remainders go to the earlier part, so that the result depends on
/// nothing but the arguments. `None` if the weights are all 0 (or none is given): there is nobody to give it to.
///
/// ```
/// assert_eq!(joulebook_sci::share::largest_remainder(10, &[1, 1, 1]), Some(vec![4, 3, 3]));
/// assert_eq!(joulebook_sci::share::largest_remainder(10, &[0, 0]), None);
/// ```
pub fn largest_remainder(total: u64, weights: &[u128]) -> Option<Vec<u64>> {
    let weights = scaled(weights);
    let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    if sum == 0 {
        return None;
    }
    let mut parts = vec![0u64; weights.len()];
    let mut remainders: Vec<(u128, usize)> = Vec::with_capacity(weights.len());
    let mut given: u64 = 0;
    for (index, (weight, part)) in weights.iter().zip(parts.iter_mut()).enumerate() {
        let (quotient, remainder) = divided(u128::from(total) * u128::from(*weight), sum);
        // At most `total`, since a weight is at most the sum.
        *part = u64::try_from(quotient).unwrap_or(total);
        given += *part;
        remainders.push((remainder, index));
    }
    remainders.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    // Fewer units are left over than there are parts with a remainder.
    let left = usize::try_from(total - given).unwrap_or(usize::MAX);
    for (_, index) in remainders.iter().take(left) {
        if let Some(part) = parts.get_mut(*index) {
            *part += 1;
        }
    }
    Some(parts)
}

/// Quotient and remainder. Most numbers here are short, and dividing long ones takes many times as long.
fn divided(product: u128, sum: u128) -> (u128, u128) {
    match (u64::try_from(product), u64::try_from(sum)) {
        (Ok(product), Ok(sum)) => (u128::from(product / sum), u128::from(product % sum)),
        _ => (product / sum, product % sum),
    }
}

/// Weights cut to 63 bits together, so that products with 64-bit totals and sums of many stay inside 128 bits.
fn scaled(weights: &[u128]) -> Vec<u64> {
    let bits = weights.iter().map(|weight| 128 - weight.leading_zeros()).max().unwrap_or(0);
    let shift = bits.saturating_sub(56);
    weights.iter().map(|weight| u64::try_from(weight >> shift).unwrap_or(u64::MAX)).collect()
}

/// The part of `total` that belongs to `part` of `whole`, rounded down; all of it when `whole` is 0 or not larger.
pub fn portion(total: u64, part: u64, whole: u64) -> u64 {
    if part >= whole {
        return total;
    }
    match total.checked_mul(part) {
        Some(product) => product / whole,
        None => u64::try_from(u128::from(total) * u128::from(part) / u128::from(whole)).unwrap_or(total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_add_up_and_are_within_one_of_their_proportion(
            total in any::<u64>(),
            weights in prop::collection::vec(0u128..1 << 70, 1..40),
        ) {
            let Some(parts) = largest_remainder(total, &weights) else {
                prop_assert!(weights.iter().all(|weight| *weight == 0));
                return Ok(());
            };
            prop_assert_eq!(parts.iter().map(|part| u128::from(*part)).sum::<u128>(), u128::from(total));
            for (part, weight) in parts.iter().zip(&weights) {
                prop_assert!(*weight > 0 || *part == 0);
            }
        }
    }

    #[test]
    fn nobody_to_give_to_is_not_zero() {
        assert_eq!(largest_remainder(5, &[]), None);
        assert_eq!(largest_remainder(0, &[0]), None);
        assert_eq!(largest_remainder(0, &[3]), Some(vec![0]));
    }

    #[test]
    fn the_sum_of_huge_weights_does_not_overflow() {
        let parts = largest_remainder(u64::MAX, &[u128::MAX, u128::MAX, 0]).expect("weights");
        assert_eq!(parts.iter().map(|part| u128::from(*part)).sum::<u128>(), u128::from(u64::MAX));
        assert_eq!(parts[2], 0);
    }
}
