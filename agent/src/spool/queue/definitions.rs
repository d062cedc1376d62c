//! What the series of a stream mean, as far as anything held may need it.
//!
//! A definition goes with the last record that can use it. The sampler tells a definition again when its series comes
//! back after a pause, so what it has not used for a while may be forgotten here. The highest number stays known for
//! ever: a restarted agent counts on from it, and no number gets a second meaning.

use joulebook_units::Subject;
use std::collections::BTreeMap;

/// A definition is kept for at least this many appends after its last use. The sampler tells it again after fewer.
pub const UNUSED_APPENDS: u64 = 256;

#[derive(Debug)]
struct Use {
    /// Where the definition stands in the order of becoming known.
    ordinal: u64,
    /// Highest record that uses it.
    sequence: u64,
    /// Appends of this process until then.
    appends: u64,
}

/// The definitions of a stream.
#[derive(Debug, Default)]
pub struct Definitions {
    known: BTreeMap<u32, Use>,
    /// By ordinal.
    subjects: BTreeMap<u64, (u32, Subject)>,
    next: u64,
}

impl Definitions {
    /// Adds what is not known yet, as used by record `sequence`.
    pub fn add(&mut self, new: impl IntoIterator<Item = (u32, Subject)>, sequence: u64, appends: u64) {
        for (number, subject) in new {
            if self.known.contains_key(&number) {
                continue;
            }
            self.known.insert(number, Use { ordinal: self.next, sequence, appends });
            self.subjects.insert(self.next, (number, subject));
            self.next += 1;
        }
    }

    /// Notes that record `sequence`, after so many appends, uses series.
    pub fn used(&mut self, series: &[u32], sequence: u64, appends: u64) {
        for number in series {
            if let Some(known) = self.known.get_mut(number) {
                (known.sequence, known.appends) = (sequence, appends);
            }
        }
    }

    /// Whether a number is defined.
    pub fn knows(&self, number: u32) -> bool {
        self.known.contains_key(&number)
    }

    /// All of them, in the order in which they became known.
    pub fn all(&self) -> Vec<(u32, Subject)> {
        self.from(0)
    }

    /// Those that became known at `ordinal` or later.
    pub fn from(&self, ordinal: u64) -> Vec<(u32, Subject)> {
        self.subjects.range(ordinal..).map(|(_, definition)| definition.clone()).collect()
    }

    /// The ordinal that the next one gets.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Forgets what no record from `oldest` on uses.
    pub fn prune(&mut self, oldest: u64, appends: u64) {
        let highest = self.known.keys().next_back().copied();
        self.known.retain(|number, known| {
            let kept = Some(*number) == highest
                || known.sequence >= oldest
                || appends.saturating_sub(known.appends) <= UNUSED_APPENDS;
            if !kept {
                self.subjects.remove(&known.ordinal);
            }
            kept
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(number: u32) -> (u32, Subject) {
        (number, Subject::Memory { workload: format!("process/{number}@1") })
    }

    #[test]
    fn a_definition_goes_with_the_last_record_that_uses_it_and_the_highest_number_stays() {
        let mut definitions = Definitions::default();
        definitions.add([subject(1), subject(2), subject(9)], 1, 1);
        definitions.used(&[1, 77], 40, 40);
        let long = 41 + UNUSED_APPENDS;
        definitions.prune(1, long);
        assert_eq!(definitions.all(), [subject(1), subject(2), subject(9)], "record 1 is held");
        definitions.prune(2, long);
        assert_eq!(definitions.all(), [subject(1), subject(9)], "record 40 is held");
        definitions.prune(41, 40 + UNUSED_APPENDS);
        assert!(definitions.knows(1), "used a moment ago: the sampler does not tell it again");
        definitions.prune(41, long);
        assert_eq!(definitions.all(), [subject(9)]);
        let before = definitions.next();
        definitions.add([subject(1)], 42, long);
        assert_eq!(definitions.from(before), [subject(1)], "told again, it is new for who reads on");
    }
}
