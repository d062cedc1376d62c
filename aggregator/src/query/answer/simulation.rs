//! How much of an answer stands on simulated hardware.

use super::*;

/// Simulated hardware in one answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Simulation {
    /// Whether a node that was charged is simulated.
    pub(super) any: bool,
    /// Part of the energy at the asked level that is its; absent if there is no energy.
    pub(super) share: Option<f64>,
    whole: bool,
}

impl Simulation {
    #[allow(clippy::cast_precision_loss, reason = "a ratio")]
    pub(super) fn of(nodes: &[&NodeTotals], totals: &VersionTotals, level: Level) -> Self {
        let (all, simulated) = (level.energy(&totals.cost), level.energy(&totals.simulated));
        Self {
            any: nodes.iter().any(|node| node.simulated),
            share: (all > 0).then(|| simulated as f64 / all as f64),
            whole: nodes.iter().all(|node| node.simulated),
        }
    }

    /// What the answer's label is followed by.
    pub(super) fn label(self) -> &'static str {
        match (self.any, self.whole) {
            (false, _) => "",
            (true, true) => " (simulated)",
            (true, false) => " (partly simulated)",
        }
    }
}
