//! An amount of energy that knows how much of it is simulated hardware's.

use joulebook_sci::totals::NodeTotals;

/// Energy, and how much of it is simulated hardware's.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Amount {
    /// All of it in µJ.
    pub(super) microjoules: u64,
    /// The part of simulated hardware in µJ.
    pub(super) simulated_microjoules: u64,
    /// Whether what it is about is simulated, wholly or in part.
    pub(super) simulated: bool,
}

impl Amount {
    /// Energy of one node.
    pub(super) fn of_node(node: &NodeTotals, microjoules: u64) -> Self {
        let simulated = node.simulated;
        Self { microjoules, simulated_microjoules: if simulated { microjoules } else { 0 }, simulated }
    }

    /// Energy of a model version of which a part is simulated.
    pub(super) fn of_version(microjoules: u64, simulated_microjoules: u64) -> Self {
        Self { microjoules, simulated_microjoules, simulated: simulated_microjoules > 0 }
    }

    /// Adds another one.
    pub(super) fn add(&mut self, other: Self) {
        self.microjoules = self.microjoules.saturating_add(other.microjoules);
        self.simulated_microjoules = self.simulated_microjoules.saturating_add(other.simulated_microjoules);
        self.simulated |= other.simulated_microjoules > 0;
    }
}

impl FromIterator<Self> for Amount {
    fn from_iter<I: IntoIterator<Item = Self>>(parts: I) -> Self {
        parts.into_iter().fold(Self::default(), |mut sum, part| {
            sum.add(part);
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_knows_its_simulated_part() {
        let real = NodeTotals::default();
        let simulated = NodeTotals { simulated: true, ..NodeTotals::default() };
        let sum: Amount = [Amount::of_node(&real, 5), Amount::of_node(&simulated, 7)].into_iter().collect();
        assert_eq!((sum.microjoules, sum.simulated_microjoules, sum.simulated), (12, 7, true));
        let sum: Amount = [Amount::of_node(&real, 5), Amount::of_node(&simulated, 0)].into_iter().collect();
        assert!(!sum.simulated, "a simulated node that drew nothing is in no sum");
    }
}
