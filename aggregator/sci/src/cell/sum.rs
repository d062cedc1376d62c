//! Adding maps whose keys are mostly the same.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Ordering;

/// Order of what cells share: what is shared is equal, and nothing of it is compared.
pub(super) fn by_identity<T: Ord>(one: &Arc<T>, other: &Arc<T>) -> Ordering {
    if Arc::ptr_eq(one, other) { Ordering::Equal } else { one.cmp(other) }
}

/// Adds the values of `other`, key by key. The keys of a sum over many cells are mostly those of each of them: both maps are
/// walked once side by side, and nothing but a new key is looked for or copied.
pub(super) fn add_all<K: Clone + Ord, V: Clone>(
    mine: &mut BTreeMap<K, V>,
    other: &BTreeMap<K, V>,
    order: impl Fn(&K, &K) -> Ordering,
    add: impl Fn(&mut V, &V),
) {
    let mut new = Vec::new();
    let mut own = mine.iter_mut();
    let mut next = own.next();
    for (key, value) in other {
        loop {
            match next.take().map(|(own, sum)| (order(own, key), own, sum)) {
                Some((Ordering::Less, ..)) => next = own.next(),
                Some((Ordering::Equal, _, sum)) => {
                    add(sum, value);
                    next = own.next();
                    break;
                }
                Some((Ordering::Greater, own, sum)) => {
                    next = Some((own, sum));
                    new.push((key, value));
                    break;
                }
                None => {
                    new.push((key, value));
                    break;
                }
            }
        }
    }
    mine.extend(new.into_iter().map(|(key, value)| (key.clone(), value.clone())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_key_of_either_has_the_sum_of_both(
            mine in prop::collection::btree_map(0u8..24, 0u64..1000, 0..20),
            other in prop::collection::btree_map(0u8..24, 0u64..1000, 0..20),
        ) {
            let mut expected = mine.clone();
            other.iter().for_each(|(key, value)| *expected.entry(*key).or_default() += value);
            let mut sum = mine;
            add_all(&mut sum, &other, Ord::cmp, |mine, other| *mine += other);
            prop_assert_eq!(sum, expected);
        }
    }

    #[test]
    fn equal_keys_need_not_be_one() {
        let mut sum = BTreeMap::from([(Arc::new(1), 1), (Arc::new(3), 1)]);
        add_all(&mut sum, &BTreeMap::from([(Arc::new(2), 5), (Arc::new(3), 5)]), by_identity, |mine, other| {
            *mine += other
        });
        assert_eq!(sum.into_values().collect::<Vec<_>>(), [1, 5, 6]);
    }
}
