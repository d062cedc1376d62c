//! Whom what a server tells itself is for: names of what they are of, and the runs of a workflow. Pure.

use std::collections::{BTreeSet, VecDeque};

/// Runs of a workflow that are remembered.
const MOST_RUNS: usize = 4096;
/// What the names of consumers are of.
pub const CONSUMER: &str = "consumer";
/// What the names of workflows are of.
pub const WORKFLOW: &str = "workflow";

/// The runs of a workflow that were seen last: one that is told of again is no other one.
#[derive(Debug, Default)]
pub struct Runs {
    order: VecDeque<String>,
    known: BTreeSet<String>,
}

impl Runs {
    /// Whether this root was not seen before.
    pub fn is_new(&mut self, root: &str) -> bool {
        if !self.known.insert(root.to_owned()) {
            return false;
        }
        self.order.push_back(root.to_owned());
        if self.order.len() > MOST_RUNS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_new_once_and_the_oldest_are_forgotten() {
        let mut runs = Runs::default();
        assert!(runs.is_new("a") && !runs.is_new("a"));
        assert!((0..5000).all(|root| runs.is_new(&root.to_string())));
        assert_eq!((runs.known.len(), runs.order.len()), (MOST_RUNS, MOST_RUNS));
    }
}
