//! What every node measures: a pure function of seed, node, start of the agent and number of the record.
//!
//! A node has two energy sources and a row every 2 s of its own time; five rows are a batch. Its time began six days
//! ago and runs faster than ours, so that minutes of a rig fill hours of the ledger. No energy flows within a minute of
//! a full hour: the sum of each hour is then exact whatever share of a row an answer gives to either side.

use super::mix;
use anyhow::{Context, Result};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_units::{
    Batch, BootId, BootNanos, Column, Component, Hardware, Inventory, Method, Milliwatts, Placement, Point, Source,
    SourceState, Subject, UnixNanos,
};

/// Identities of the sources, as the aggregator names them.
pub const SOURCES: [&str; 2] = ["rig/cpu-0", "rig/dram-0"];
/// Rows of a batch.
pub const ROWS: u64 = 5;
/// Values of a batch.
pub const VALUES: u64 = ROWS * SOURCES.len() as u64;
/// Nanoseconds between rows.
pub const STEP: u64 = 2_000_000_000;
const HOUR_SECONDS: i64 = 3600;
/// Seconds before and after a full hour in which no energy flows.
const QUIET_SECONDS: i64 = 60;
/// How far the rigs' boot clock is ahead of the machine's: a machine may have booted a minute ago.
const AHEAD: u64 = 8 * 86_400 * 1_000_000_000;
/// How long ago the first row was.
const PAST: u64 = 6 * 86_400 * 1_000_000_000;

/// The clock of simulated nodes: the machine's, as if it had booted eight days earlier.
#[derive(Debug, Clone, Copy, Default)]
pub struct RigClock;

impl Clock for RigClock {
    fn boot(&self) -> BootNanos {
        BootNanos(SystemClock.boot().0 + AHEAD)
    }

    fn wall(&self) -> UnixNanos {
        SystemClock.wall()
    }
}

/// What a fleet measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Source of every value.
    pub seed: u64,
    /// Boot clock of the first row.
    pub boot: u64,
    /// Wall clock of the first row.
    pub wall: i64,
}

impl Plan {
    /// A plan whose first row was six days ago.
    pub fn new(seed: u64) -> Self {
        let past = i64::try_from(PAST).unwrap_or(0);
        Self { seed, boot: RigClock.boot().0 - PAST, wall: RigClock.wall().0 - past }
    }

    /// Reads what [`Plan::words`] wrote.
    pub fn parse(words: &str) -> Result<Self> {
        let mut parts = words.split(':');
        let mut next = || parts.next().with_context(|| format!("`{words}` is no plan"));
        Ok(Self { seed: next()?.parse()?, boot: next()?.parse()?, wall: next()?.parse()? })
    }

    /// The plan as one argument of a process.
    pub fn words(&self) -> String {
        format!("{}:{}:{}", self.seed, self.boot, self.wall)
    }

    /// Name of a node.
    pub fn node(number: u32) -> String {
        format!("rig-{number}")
    }

    /// Wall clock of a row, counted from 0.
    pub fn at(&self, row: u64) -> UnixNanos {
        UnixNanos(self.wall + i64::try_from(row * STEP).unwrap_or(i64::MAX))
    }

    /// Energy in µJ of a source between a row and the one before.
    pub fn energy(&self, node: u32, epoch: u64, row: u64, source: usize) -> u64 {
        let quiet = |at: UnixNanos| {
            let hour = at.plus_seconds(HOUR_SECONDS / 2).floor_to(HOUR_SECONDS);
            at.0.abs_diff(hour.0) <= QUIET_SECONDS.unsigned_abs() * UnixNanos::PER_SECOND.unsigned_abs()
        };
        if row == 0 || quiet(self.at(row)) || quiet(self.at(row - 1)) {
            return 0;
        }
        let place = mix(mix(self.seed ^ u64::from(node) << 40 ^ epoch << 20) ^ row << 1 ^ source as u64);
        place % if source == 0 { 400_000_000 } else { 40_000_000 }
    }

    /// Number of the record whose last row is at an instant of the boot clock.
    pub fn records(&self, at: BootNanos) -> u64 {
        (at.0.saturating_sub(self.boot) / STEP + 1) / ROWS
    }

    /// The batch with a number, from 1; `values` are the sums before it and become those after it.
    pub fn batch(&self, node: u32, epoch: u64, sequence: u64, values: &mut [u64; 2]) -> Batch {
        let first = (sequence - 1) * ROWS;
        let boot = |row: u64| BootNanos(self.boot + row * STEP);
        let column = |(source, value): (usize, &mut u64)| {
            let previous = (first > 0).then(|| Point { at: boot(first - 1), value: *value });
            let points = (first..first + ROWS).map(|row| {
                *value += self.energy(node, epoch, row, source);
                Point { at: boot(row), value: *value }
            });
            Column { series: source as u32 + 1, previous, points: points.collect() }
        };
        let columns = values.iter_mut().enumerate().map(column).collect();
        let rows = (first..first + ROWS).map(boot).collect();
        Batch { boot: self.boot_id(node), wall: self.at(first), rows, columns, gaps: Vec::new() }
    }

    /// The boot of a node.
    pub fn boot_id(&self, node: u32) -> BootId {
        let number = u128::from(mix(self.seed)) << 64 | u128::from(node);
        BootId(number.to_be_bytes())
    }

    /// What the series measure.
    pub fn dictionary() -> Vec<(u32, Subject)> {
        vec![(1, Subject::Energy(source(0).into())), (2, Subject::Energy(source(1).into()))]
    }

    /// What an agent says of its node.
    pub fn inventory(node: u32) -> Result<Inventory> {
        Ok(Inventory {
            node: Self::node(node).parse()?,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            sources: [0, 1].map(|number| SourceState { source: source(number).into(), unavailable: None }).to_vec(),
            hardware: Hardware { threads: Some(4), memory_bytes: Some(1 << 34), ..Hardware::default() },
            placement: Placement { simulated: true, ..Placement::default() },
        })
    }
}

fn source(number: usize) -> Source {
    Source {
        id: SOURCES[number].to_owned(),
        component: if number == 0 { Component::Cpu } else { Component::Dram },
        socket: None,
        device: None,
        collector: "rig".to_owned(),
        method: Method::Counter,
        unit_nanojoules: None,
        ceiling: Milliwatts(1_000_000),
        uncertainty_permille: 50,
        contained_in: None,
        scope: None,
        basis: "generated".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_follow_each_other_and_hold_what_the_plan_says() {
        let plan = Plan { seed: 7, boot: 1_000, wall: 1_790_000_000 * UnixNanos::PER_SECOND };
        let mut values = [0, 0];
        let (first, second) = (plan.batch(3, 1, 1, &mut values), plan.batch(3, 2, 2, &mut values));
        assert_eq!(first.columns[0].points.last().copied(), second.columns[0].previous);
        let sum: u64 =
            (0..5).map(|row| plan.energy(3, 1, row, 0)).chain((5..10).map(|row| plan.energy(3, 2, row, 0))).sum();
        assert_eq!(values[0], sum);
        assert_eq!(Plan::parse(&plan.words()).unwrap(), plan);
    }

    #[test]
    fn no_energy_flows_at_a_full_hour() {
        let plan = Plan { seed: 7, boot: 1_000, wall: 3_590 * UnixNanos::PER_SECOND };
        assert!((0..30).all(|row| plan.energy(1, 1, row, 0) == 0));
        assert!((60..90).any(|row| plan.energy(1, 1, row, 0) > 0));
    }
}
