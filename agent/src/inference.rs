//! The seam for inference counts: every way to learn them ends in a [`CountSample`].

use joulebook_units::{BootNanos, CountKind, Service};
use std::collections::BTreeMap;

/// Counts of one service at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountSample {
    /// The service.
    pub service: Service,
    /// When the counts were read.
    pub at: BootNanos,
    /// Cumulative counts since this agent first saw the service; a kind that is absent is not known. Never falls:
    /// resets of the engine's counters are already taken out.
    pub counts: BTreeMap<CountKind, u64>,
    /// The instant at which all of them were 0, if it is known (the server started while the agent was running).
    /// Only with the first sample of a service.
    pub origin: Option<BootNanos>,
}
