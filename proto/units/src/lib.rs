//! Quantities, identifiers and the descriptors of series: the words every Joulebook crate shares.
//!
//! Pure: no I/O, no clock, no logging. Only operators that mean something exist: joules divided by a duration are
//! watts, joules times an intensity are grams, and nothing adds joules to watts.
#![no_std]

extern crate alloc;

pub mod batch;
pub mod count;
pub mod endpoint;
pub mod id;
pub mod loss;
pub mod node;
pub mod quantity;
pub mod series;
pub mod serving;
pub mod time;

pub use batch::{Batch, Column, EnergyGap, GapReason, Point};
pub use count::{Consumer, Consumption, CountKind};
pub use endpoint::Endpoint;
pub use id::{BootId, InvalidId, NodeName, PollerName, StreamId};
pub use loss::{LossReason, LostSpan, RejectReason, StreamGap};
pub use node::{Accelerator, Hardware, Inventory, Placement, SourceState, Support};
pub use quantity::{
    DRAM_TENTH_MILLIWATTS_PER_GIGABYTE, GramsCo2e, GramsCo2ePerKwh, InvalidQuantity, Joules, Microjoules, Milliwatts,
    Pue, Share,
};
pub use series::{
    Component, CpuTimeMethod, IdleOrigin, Layer, Method, OwnProgram, PodIdentity, Scope, Service, Source, Subject,
    VersionSource, Workload, WorkloadKind,
};
pub use serving::{ServiceRole, Serving, ServingConfiguration};
pub use time::{BootNanos, UnixNanos, Window};
