//! A table by the numbers that a sender gives its series. They may be any, so it is sorted and as long as what it holds; and
//! they come in ascending order as a rule, so the place after the one that was looked at before is tried first.

/// What is known of each series of a stream, by its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dictionary<T> {
    /// Ascending, each once.
    numbers: Vec<u32>,
    /// Of each number, in the same order.
    values: Vec<T>,
}

impl<T> Default for Dictionary<T> {
    fn default() -> Self {
        Self { numbers: Vec::new(), values: Vec::new() }
    }
}

impl<T> Dictionary<T> {
    /// Fewest places by which it grows: half a row of a small node. Later by an eighth, for what is reserved is never given
    /// back and there is one of these for every stream.
    const STEP: usize = 8;

    /// The place of a series, or where it would be. `guess` is tried first.
    pub(crate) fn find(&self, series: u32, guess: usize) -> Result<usize, usize> {
        if self.numbers.get(guess) == Some(&series) { Ok(guess) } else { self.numbers.binary_search(&series) }
    }

    /// What is known of a series.
    pub(crate) fn get(&self, series: u32) -> Option<&T> {
        self.values.get(self.find(series, 0).ok()?)
    }

    /// What lies at a place.
    pub(crate) fn at(&mut self, place: usize) -> Option<(u32, &mut T)> {
        self.numbers.get(place).copied().zip(self.values.get_mut(place))
    }

    /// Sets what is known of a series. Its place.
    pub(crate) fn insert(&mut self, series: u32, value: T) -> usize {
        match self.numbers.binary_search(&series) {
            Ok(place) => {
                self.values[place] = value;
                place
            }
            Err(place) => {
                if self.numbers.len() == self.numbers.capacity() {
                    let further = Self::STEP.max(self.numbers.len() / 8);
                    self.numbers.reserve_exact(further);
                    self.values.reserve_exact(further);
                }
                self.numbers.insert(place, series);
                self.values.insert(place, value);
                place
            }
        }
    }

    /// Numbers in ascending order, and what is known of each.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.numbers.iter().copied().zip(&self.values)
    }

    /// All that is known, in the order of the numbers.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.values.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Few numbers, so that they come again, and the ends of their range.
    fn number() -> impl Strategy<Value = u32> {
        prop_oneof![6 => 0u32..40, 1 => Just(u32::MAX), 1 => any::<u32>()]
    }

    proptest! {
        #[test]
        fn it_holds_what_an_ordered_map_would_in_whatever_order_it_comes(
            given in proptest::collection::vec((number(), any::<u16>()), 0..120),
            asked in proptest::collection::vec((number(), 0usize..200), 0..40),
        ) {
            let (mut table, mut model) = (Dictionary::default(), BTreeMap::new());
            for (series, value) in given {
                let place = table.insert(series, value);
                prop_assert_eq!(table.at(place), Some((series, &mut value.clone())));
                model.insert(series, value);
            }
            prop_assert!(table.iter().eq(model.iter().map(|(series, value)| (*series, value))));
            for (series, guess) in asked {
                prop_assert_eq!(table.get(series), model.get(&series));
                let before = model.range(..series).count();
                let expected = if model.contains_key(&series) { Ok(before) } else { Err(before) };
                prop_assert_eq!(table.find(series, guess), expected, "whatever is guessed");
            }
        }
    }

    #[test]
    fn little_more_is_reserved_than_is_held() {
        let mut table = Dictionary::default();
        for count in 1u32..=10_000 {
            table.insert(count, ());
            let count = count as usize;
            assert!(table.numbers.capacity() <= count + (count / 8).max(Dictionary::<()>::STEP), "{count}");
        }
    }
}
