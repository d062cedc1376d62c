//! A node: its hardware, where it belongs and what it can measure.

use crate::id::NodeName;
use crate::series::Source;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Hardware of a node. A field is absent where it could not be found out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hardware {
    /// CPU sockets.
    pub sockets: Option<u32>,
    /// Hardware threads (logical CPUs) online.
    pub threads: Option<u32>,
    /// CPU model as the hardware names it.
    pub cpu_model: Option<String>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Local disks.
    pub disks: Option<u32>,
    /// Those of them that rotate.
    pub rotating_disks: Option<u32>,
    /// Accelerators, read or only seen.
    pub accelerators: Vec<Accelerator>,
    /// Whether the node is a virtual machine.
    pub guest: Option<bool>,
    /// Kernel release.
    pub kernel: Option<String>,
}

/// An accelerator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accelerator {
    /// Hardware identity, where it could be read.
    pub device: Option<String>,
    /// Model, or what is known of it.
    pub model: String,
    /// Driver version, where it could be read.
    pub driver: Option<String>,
    /// Its own memory in bytes, where it could be read.
    pub memory_bytes: Option<u64>,
}

/// Where a node belongs, as its agent's configuration says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    /// Site: PUE and grid zone are looked up by it.
    pub site: Option<String>,
    /// Serving pool: nodes whose idle capacity is shared.
    pub pool: Option<String>,
    /// Whether the node's hardware is simulated: its joules are real to no one, and every row that holds them says so.
    pub simulated: bool,
    /// Workloads of the node that are there for a pool and serve no model themselves.
    pub support: Vec<Support>,
}

/// Workloads that others need: routers, vector stores, a control plane. Their energy is allocated to the model versions of
/// a pool as its idle capacity is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Support {
    /// What it is, for people: `router`, `vector store`, …
    pub role: String,
    /// Id or name of the workload; absent: whatever runs on the node, its idle capacity included.
    pub workload: Option<String>,
    /// The pool it is for; absent: the node's own.
    pub pool: Option<String>,
}

/// A source and whether it can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceState {
    /// The source.
    pub source: Arc<Source>,
    /// Why it is not read; absent when it is. Such a source stands in an answer's exclusions.
    pub unavailable: Option<String>,
}

/// What an agent says of itself and its node when it opens a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// The node.
    pub node: NodeName,
    /// The agent's version.
    pub agent_version: String,
    /// Every source found, readable or not.
    pub sources: Vec<SourceState>,
    /// The hardware.
    pub hardware: Hardware,
    /// The placement.
    pub placement: Placement,
}
