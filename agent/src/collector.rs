//! The seam for energy sources: one file per source, one line in the list.

use joulebook_units::{BootNanos, Microjoules, SourceState};

/// What a source shows at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A hardware counter in µJ, and the highest value it can show before it wraps, where it wraps and tells.
    Counter {
        /// The counter.
        raw: u64,
        /// Its range.
        range: Option<u64>,
    },
    /// Energy since this collector's last reading of the source: models and integrated power.
    Increment(Microjoules),
}

/// One raw value from a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Id of the source, one of those the collector declared.
    pub source: String,
    /// When it was read.
    pub at: BootNanos,
    /// What it showed.
    pub value: Value,
}

/// Why a source gave no reading.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reading source {source_id} failed: {why}")]
pub struct ReadFailure {
    /// Id of the source.
    pub source_id: String,
    /// Reason from a fixed list, for counters: `parse`, `permission`, `masked`, `missing`, `io`.
    pub reason: &'static str,
    /// What was tried, why it failed, what to do.
    pub why: String,
}

/// A kind of energy source.
pub trait Collector: Send {
    /// Finds the sources, readable or not. Called at start and again when a source is lost.
    fn discover(&mut self) -> Vec<SourceState>;

    /// Reads every readable source once. A failure concerns its source only.
    fn read(&mut self, now: BootNanos) -> Vec<Result<Reading, ReadFailure>>;
}
