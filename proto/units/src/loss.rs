//! What was lost on the way or refused at the end. Every loss is a counter *and* one of these.

use crate::id::BootId;
use crate::time::BootNanos;

/// Why records of a stream are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LossReason {
    /// The spool reached its size cap: oldest dropped.
    SpoolFull,
    /// A record in the spool was damaged.
    Corrupt,
    /// The disk took no more.
    NoSpace,
    /// The aggregator lost data and asked for records that were already deleted.
    Rewind,
}

/// The time that lost rows covered, where it is still known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostSpan {
    /// The boot the times are on.
    pub boot: BootId,
    /// First instant of the lost rows.
    pub first: BootNanos,
    /// Last instant of the lost rows.
    pub last: BootNanos,
}

/// Records of one stream that will never be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamGap {
    /// First missing number, from 1.
    pub from: u64,
    /// Last missing number, at least `from`, less than 2³² above it.
    pub to: u64,
    /// Why they are missing.
    pub reason: LossReason,
    /// Number of values in the missing records, as far as it is known.
    pub samples: u64,
    /// When they were read; absent if it is not known any more.
    pub span: Option<LostSpan>,
}

/// Why the aggregator refuses values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectReason {
    /// A value that cannot be.
    Value,
    /// Time in the future, before retention, or out of order.
    Time,
    /// Too many series.
    Cardinality,
    /// A series that the dictionary does not describe, or describes otherwise.
    UnknownSeries,
    /// A payload that cannot be decoded.
    Malformed,
    /// The number was used before with other content.
    SequenceConflict,
}
