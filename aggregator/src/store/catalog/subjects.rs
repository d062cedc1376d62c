//! Descriptions that are held, each once: agents that start again describe the same series to another stream, and nodes of one
//! kind have parts of the same names.

use joulebook_units::Subject;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// Descriptions by their hash. One that nobody holds any more goes when there are twice as many as were held last time.
#[derive(Debug)]
pub(super) struct Subjects {
    hasher: RandomState,
    held: HashMap<u64, Arc<Subject>>,
    /// How many there may be before it is looked who still holds them.
    limit: usize,
}

impl Default for Subjects {
    fn default() -> Self {
        Self { hasher: RandomState::new(), held: HashMap::new(), limit: Self::FEWEST }
    }
}

impl Subjects {
    /// Fewer are not looked through.
    const FEWEST: usize = 1_024;

    /// The one that is equal to this, if it is held already.
    pub(super) fn share(&mut self, subject: Subject) -> Arc<Subject> {
        let hash = self.hasher.hash_one(&subject);
        match self.held.get(&hash) {
            Some(held) if **held == subject => return Arc::clone(held),
            // Two that differ have one hash of 64 bits: the second is held by those who use it alone.
            Some(_) => return Arc::new(subject),
            None => {}
        }
        if self.held.len() >= self.limit {
            self.held.retain(|_, held| Arc::strong_count(held) > 1);
            self.limit = (2 * self.held.len()).max(Self::FEWEST);
            self.held.shrink_to(self.limit);
        }
        let subject = Arc::new(subject);
        self.held.insert(hash, Arc::clone(&subject));
        subject
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(number: usize) -> Subject {
        Subject::Memory { workload: format!("container/{number}") }
    }

    #[test]
    fn equal_descriptions_are_one_and_different_ones_are_not() {
        let mut subjects = Subjects::default();
        let (first, other) = (subjects.share(subject(1)), subjects.share(subject(2)));
        assert!(Arc::ptr_eq(&first, &subjects.share(subject(1))));
        assert!(!Arc::ptr_eq(&first, &other));
        assert_eq!((&*first, &*other), (&subject(1), &subject(2)));
    }

    #[test]
    fn descriptions_that_nobody_uses_do_not_pile_up() {
        let mut subjects = Subjects::default();
        let used: Vec<_> = (0..3 * Subjects::FEWEST).map(|number| subjects.share(subject(number))).collect();
        for number in 0..100 * Subjects::FEWEST {
            subjects.share(subject(used.len() + number));
            assert!(subjects.held.len() <= 2 * used.len(), "{}", subjects.held.len());
        }
        for (number, used) in used.iter().enumerate() {
            assert!(Arc::ptr_eq(used, &subjects.share(subject(number))), "what is used stays");
        }
        drop(used);
        (0..7 * Subjects::FEWEST).for_each(|number| drop(subjects.share(subject(1_000_000 + number))));
        assert!(subjects.held.len() <= Subjects::FEWEST && subjects.held.capacity() < 4 * Subjects::FEWEST);
    }
}
