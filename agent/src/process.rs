//! Workloads of the node.

/// The process that serves a target, the root of an inference group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferenceGroup {
    /// The target's URL as configured.
    pub target: String,
    /// Process id of the listener.
    pub pid: i32,
    /// Its start time in clock ticks since boot.
    pub start_ticks: u64,
    /// CPU reservation in thousandths of a core; absent reserves nothing.
    pub reserved_millicores: Option<u64>,
}
