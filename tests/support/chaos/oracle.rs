//! What was promised: every record that became durable at a node, and how far it was acknowledged. Never faulted.

use super::plan::{Plan, ROWS, SOURCES};
use joulebook_units::UnixNanos;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is known of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// For each record from number 1 on: the start of the agent that made it.
    pub epochs: Vec<u64>,
    /// The newest start of the agent.
    pub epoch: u64,
    /// Highest acknowledged number.
    pub acked: u64,
    /// Promises that were broken, in words.
    pub broken: Vec<String>,
}

impl Known {
    /// Number of records.
    pub fn durable(&self) -> u64 {
        self.epochs.len() as u64
    }
}

/// Shared by everything that reports.
#[derive(Debug, Clone, Default)]
pub struct Oracle(Arc<Mutex<BTreeMap<u32, Known>>>);

impl Oracle {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An agent started on its spool and found records up to `highest`: those it had not told of are of the start
    /// before, and none that it told of may be missing.
    pub fn opened(&self, node: u32, epoch: u64, highest: u64) {
        let mut nodes = self.lock();
        let known = nodes.entry(node).or_default();
        let before = known.epoch;
        if highest < known.durable() {
            known.broken.push(format!("node {node}: {} records were durable, {highest} are found", known.durable()));
        }
        while known.durable() < highest {
            known.epochs.push(before);
        }
        known.epoch = epoch;
    }

    /// A record is durable in the spool.
    pub fn durable(&self, node: u32, sequence: u64) {
        let mut nodes = self.lock();
        let known = nodes.entry(node).or_default();
        if sequence != known.durable() + 1 {
            known.broken.push(format!("node {node}: record {sequence} follows record {}", known.durable()));
        }
        known.epochs.push(known.epoch);
    }

    /// Records up to a number are acknowledged.
    pub fn acked(&self, node: u32, sequence: u64) {
        let mut nodes = self.lock();
        let known = nodes.entry(node).or_default();
        known.acked = known.acked.max(sequence);
    }

    /// Everything known, now.
    pub fn all(&self) -> BTreeMap<u32, Known> {
        self.lock().clone()
    }

    /// How far every node is acknowledged.
    pub fn acknowledged(&self) -> BTreeMap<u32, u64> {
        self.lock().iter().map(|(node, known)| (*node, known.acked)).collect()
    }

    /// Number of records that are acknowledged.
    pub fn count_acked(&self) -> u64 {
        self.lock().values().map(|known| known.acked).sum()
    }

    /// Number of records that are durable and not acknowledged.
    pub fn count_waiting(&self) -> u64 {
        self.lock().values().map(|known| known.durable().saturating_sub(known.acked)).sum()
    }
}

/// Energy in µJ by hour (its first instant) and source.
pub type Hours = BTreeMap<(i64, &'static str), u64>;

/// What the first records of a node hold, by hour.
pub fn hours(plan: &Plan, node: u32, epochs: &[u64]) -> Hours {
    let mut hours = Hours::new();
    for (first, epoch) in (0u64..).step_by(ROWS as usize).zip(epochs) {
        for row in first..first + ROWS {
            for (number, source) in SOURCES.iter().enumerate() {
                let hour = plan.at(row).floor_to(3600);
                *hours.entry((hour.0, *source)).or_default() += plan.energy(node, *epoch, row, number);
            }
        }
    }
    hours.retain(|_, energy| *energy > 0);
    hours
}

/// The first instants of the hours that rows touch.
pub fn touched(plan: &Plan, records: u64) -> Vec<UnixNanos> {
    let end = plan.at(records * ROWS);
    let first = plan.at(0).floor_to(3600);
    std::iter::successors(Some(first), |hour| Some(hour.plus_seconds(3600))).take_while(|hour| *hour < end).collect()
}
