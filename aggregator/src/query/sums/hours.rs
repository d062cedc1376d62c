//! Sums of whole hours: in each stretch without a hole the sum of all hours before each, so that the sum of any of them is a
//! difference of two.

use joulebook_sci::tally::Tally;
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

/// The stretches, by their first hour. No two of them touch.
#[derive(Default)]
pub(super) struct Hours {
    stretches: BTreeMap<i64, Stretch>,
}

/// Of each hour, in order, the sum of all from the first to it.
#[derive(Default)]
struct Stretch(Vec<Tally>);

fn place(hour: i64, first: i64) -> usize {
    usize::try_from(hour - first).unwrap_or(usize::MAX)
}

impl Stretch {
    /// The hour after its last.
    fn end(&self, first: i64) -> i64 {
        first.saturating_add(i64::try_from(self.0.len()).unwrap_or(i64::MAX))
    }

    /// Sum of the hours before one, if there are any.
    fn before(&self, hour: i64, first: i64) -> Option<&Tally> {
        self.0.get(place(hour, first).checked_sub(1)?)
    }
}

impl Hours {
    /// The stretch that holds an hour, and its first one.
    fn around(&self, hour: i64) -> Option<(i64, &Stretch)> {
        let (first, stretch) = self.stretches.range(..=hour).next_back()?;
        (hour < stretch.end(*first)).then_some((*first, stretch))
    }

    /// Those of some hours that are not there.
    pub(super) fn missing(&self, hours: Range<i64>) -> Vec<i64> {
        let (mut missing, mut hour) = (Vec::new(), hours.start);
        while hour < hours.end {
            match self.around(hour) {
                Some((first, stretch)) => hour = stretch.end(first),
                None => {
                    missing.push(hour);
                    hour += 1;
                }
            }
        }
        missing
    }

    /// Puts in an hour that is missing.
    pub(super) fn insert(&mut self, hour: i64, tally: Tally) {
        if self.around(hour).is_some() {
            return;
        }
        let left = self.stretches.range(..hour).next_back();
        let left = left.filter(|(first, stretch)| stretch.end(**first) == hour).map(|(first, _)| *first);
        let right = self.stretches.remove(&hour.saturating_add(1));
        let stretch = self.stretches.entry(left.unwrap_or(hour)).or_default();
        let mut until = stretch.0.last().cloned().unwrap_or_default();
        until.plus(&tally);
        stretch.0.push(until.clone());
        stretch.0.extend(right.into_iter().flat_map(|right| right.0).map(|mut sum| {
            sum.plus(&until);
            sum
        }));
    }

    /// Takes hours out.
    pub(super) fn remove(&mut self, hours: RangeInclusive<i64>) {
        let inside = self.stretches.range(..=*hours.end()).filter(|(first, of)| of.end(**first) > *hours.start());
        let firsts: Vec<i64> = inside.map(|(first, _)| *first).collect();
        for first in firsts {
            let Some(mut stretch) = self.stretches.remove(&first) else { continue };
            let after = hours.end().saturating_add(1);
            if stretch.end(first) > after {
                let before = stretch.before(after, first).cloned().unwrap_or_default();
                let right = stretch.0.split_off(place(after, first)).into_iter().map(|mut sum| {
                    sum.minus(&before);
                    sum
                });
                self.stretches.insert(after, Stretch(right.collect()));
            }
            if first < *hours.start() {
                stretch.0.truncate(place(*hours.start(), first));
                self.stretches.insert(first, stretch);
            }
        }
    }

    /// The sum of some hours, of which some are given; `None` if one is neither there nor given.
    pub(super) fn sum(&self, hours: Range<i64>, given: &BTreeMap<i64, Tally>) -> Option<Tally> {
        let (mut sum, mut hour) = (Tally::default(), hours.start);
        while hour < hours.end {
            if let Some(tally) = given.get(&hour) {
                sum.plus(tally);
                hour += 1;
                continue;
            }
            let (first, stretch) = self.around(hour)?;
            let next = given.range(hour..).next().map_or(hours.end, |(given, _)| *given);
            let end = stretch.end(first).min(hours.end).min(next);
            stretch.before(end, first).into_iter().for_each(|until| sum.plus(until));
            stretch.before(hour, first).into_iter().for_each(|until| sum.minus(until));
            hour = end;
        }
        Some(sum)
    }

    /// How many numbers there are.
    pub(super) fn numbers(&self) -> usize {
        self.stretches.values().flat_map(|stretch| &stretch.0).map(Tally::numbers).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulebook_sci::tally::Places;
    use joulebook_sci::{IdlePolicy, Level, Totals};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_hours_add_up_to_what_was_put_in_and_not_taken_out(
            actions in prop::collection::vec((0u8..3, -20i64..20, 0i64..12, 1u64..1000), 0..80),
        ) {
            let mut places = Places::default();
            let mut tally = |slots: u64| {
                let mut totals = Totals::new(Level::Idle, IdlePolicy::Unallocated);
                totals.slots = slots;
                places.tally(&totals)
            };
            let (mut hours, mut model) = (Hours::default(), BTreeMap::new());
            for (what, first, length, slots) in actions {
                let end = first + length;
                match what {
                    0 => {
                        hours.insert(first, tally(slots));
                        model.entry(first).or_insert(slots);
                    }
                    1 => {
                        hours.remove(first..=end);
                        model.retain(|hour, _| !(first..=end).contains(hour));
                    }
                    _ => {
                        let missing: Vec<i64> = (first..end).filter(|hour| !model.contains_key(hour)).collect();
                        prop_assert_eq!(hours.missing(first..end), missing.clone());
                        prop_assert_eq!(hours.sum(first..end, &BTreeMap::new()).is_some(), missing.is_empty());
                        // What is given goes before what is there.
                        let mut given: BTreeMap<i64, Tally> = missing.iter().map(|hour| (*hour, tally(7))).collect();
                        given.insert(first, tally(1));
                        let mut expected = Tally::default();
                        for hour in first..end {
                            let slots = if hour == first { 1 } else { model.get(&hour).copied().unwrap_or(7) };
                            expected.plus(&tally(slots));
                        }
                        prop_assert_eq!(hours.sum(first..end, &given), Some(expected));
                    }
                }
            }
            let numbers = model.len() * tally(1).numbers();
            prop_assert_eq!(hours.numbers(), numbers);
        }
    }
}
