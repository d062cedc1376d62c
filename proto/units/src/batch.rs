//! Rows sent together. In memory a batch is held by column, since one series' values are used together.

use crate::id::BootId;
use crate::quantity::Microjoules;
use crate::time::{BootNanos, UnixNanos};
use alloc::vec::Vec;

/// One value of a series at one instant of the node's boot clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// When the value was read.
    pub at: BootNanos,
    /// The value in the unit of the series' subject.
    pub value: u64,
}

/// An unbroken run of points of one series: between neighbours the series is known. A hole makes two columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The series, as numbered in the stream's dictionary.
    pub series: u32,
    /// The series' last point before this batch, if the run goes on from there. It makes every batch complete in
    /// itself: the amount in (previous, last] is known from this batch alone.
    pub previous: Option<Point>,
    /// The points, at least one, in ascending time; a cumulative series never falls.
    pub points: Vec<Point>,
}

/// Why energy over an interval is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GapReason {
    /// The hardware counter was reset.
    CounterReset,
    /// More than one wrap was possible.
    AmbiguousWrap,
    /// The counter fell and its range is not known.
    WrapUnknownRange,
    /// The device or zone vanished.
    SourceLost,
    /// A rise above what the hardware can do.
    Implausible,
    /// The machine was rebooted while the agent was not running.
    Reboot,
    /// The counter goes backwards too often to be trusted.
    UnstableCounter,
    /// The counter stands still while the device works.
    CounterStuck,
}

/// Energy of one source that is not known over an interval, with its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnergyGap {
    /// The energy series.
    pub series: u32,
    /// Last instant at which the energy was known.
    pub from: BootNanos,
    /// First instant at which it is known again.
    pub to: BootNanos,
    /// Why.
    pub reason: GapReason,
    /// Least energy that can have passed.
    pub low: Microjoules,
    /// Most energy that can have passed.
    pub high: Microjoules,
}

/// Rows of one node, sent and stored together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The boot whose clock the times are on.
    pub boot: BootId,
    /// Wall clock of the node at the first row: used only for boots the aggregator never met, and to show skew.
    pub wall: UnixNanos,
    /// Times of the rows, ascending, at least one.
    pub rows: Vec<BootNanos>,
    /// The values.
    pub columns: Vec<Column>,
    /// Gaps declared in this batch.
    pub gaps: Vec<EnergyGap>,
}

impl Batch {
    /// Most rows of one batch.
    pub const MAX_ROWS: usize = 64;
    /// Most values of one batch.
    pub const MAX_SAMPLES: usize = 4096;
    /// Longest time between the first and the last row of one batch, in ns: a reader of a window looks back this far.
    pub const MAX_SPAN_NANOS: u64 = 60_000_000_000;

    /// Number of values.
    pub fn samples(&self) -> usize {
        self.columns.iter().map(|column| column.points.len()).sum()
    }
}
