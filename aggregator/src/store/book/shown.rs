//! What a book tells of nodes, streams and what is stored of them.

use crate::store::block::row::StampedValue;
use joulebook_units::{
    GapReason, Inventory, LossReason, Microjoules, PollerName, SourceState, StreamId, Subject, UnixNanos, Window,
};
use std::sync::Arc;

/// A node that ever opened a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its number in keys.
    pub number: u32,
    /// What its agent said last.
    pub inventory: Inventory,
    /// First row ever; coverage counts from here.
    pub first_row: Option<UnixNanos>,
    /// Last instant stored.
    pub last_row: Option<UnixNanos>,
    /// The node's wall clock − the aggregator's at the last meeting, in ns.
    pub clock_skew_nanos: i64,
    /// Whether a session is open.
    pub connected: bool,
    /// Highest session epoch.
    pub session_epoch: u64,
    /// The pollers that speak for it too, by name.
    pub pollers: Vec<PollerRecord>,
}

impl NodeRecord {
    /// What meters the node and its parts, as its agent and its pollers say.
    pub fn sources(&self) -> impl Iterator<Item = &SourceState> {
        self.inventory.sources.iter().chain(self.pollers.iter().flat_map(|poller| &poller.inventory.sources))
    }
}

/// A poller that ever spoke for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollerRecord {
    /// Its name.
    pub name: PollerName,
    /// What it said last.
    pub inventory: Inventory,
    /// Its wall clock − the aggregator's at the last meeting, in ns.
    pub clock_skew_nanos: i64,
    /// Whether a session for the node is open.
    pub connected: bool,
}

/// An unbroken run of one series in one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What it measures, and in which unit.
    pub subject: Arc<Subject>,
    /// The stream.
    pub stream: StreamId,
    /// The record.
    pub sequence: u64,
    /// The points, ascending, at least one. If `continued`, the first one is the last point of the record before.
    pub points: Vec<StampedValue>,
    /// Whether the run goes on from before the record. For a cumulative series the runs of a stream then tile time:
    /// the amount between two neighbouring points is counted in exactly one run.
    pub continued: bool,
}

/// Energy of one source that is not known over a window, as the agent declared it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredGap {
    /// The energy series.
    pub subject: Arc<Subject>,
    /// The stream.
    pub stream: StreamId,
    /// From the last known instant to the next one.
    pub window: Window,
    /// Why.
    pub reason: GapReason,
    /// Least energy that can have passed.
    pub low: Microjoules,
    /// Most energy that can have passed.
    pub high: Microjoules,
}

/// Records that will never come. Cumulative series are bridged over it: no energy is lost, resolution is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostRecords {
    /// The stream.
    pub stream: StreamId,
    /// When.
    pub window: Window,
    /// First lost record.
    pub first_sequence: u64,
    /// Last lost record.
    pub last_sequence: u64,
    /// Values in them.
    pub samples: u64,
    /// Why.
    pub reason: LossReason,
}

/// State of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamStatus {
    /// Its identity.
    pub id: StreamId,
    /// The node it is bound to.
    pub node: u32,
    /// The poller it is bound to; none for the node's agent.
    pub poller: Option<PollerName>,
    /// High-water mark.
    pub acked: u64,
    /// Records declared lost.
    pub lost_records: u64,
    /// Values refused.
    pub rejected_values: u64,
}

/// State of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its random identity.
    pub cluster: [u8; 16],
    /// Version of the schema.
    pub schema_version: u32,
    /// Nodes ever seen, by number.
    pub nodes: Vec<NodeRecord>,
    /// Streams ever opened.
    pub streams: Vec<StreamStatus>,
    /// Cells that wait to be worked out again.
    pub dirty_cells: u64,
}
