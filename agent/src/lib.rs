//! The agent: reads power and inference counts of one node and delivers them durably.
//!
//! A reading goes one way: [`collector`] → [`sampler`] → [`spool`] → [`uplink`].

pub mod clock;
pub mod collector;
pub mod config;
pub mod counter;
pub mod directory;
pub mod doctor;
pub mod exit;
pub mod hardware;
pub mod inference;
pub mod kubelet;
pub mod measure;
pub mod metrics;
pub mod poller;
pub mod presets;
pub mod process;
pub mod reload;
pub mod run;
pub mod sampler;
pub mod span;
pub mod spool;
pub mod uplink;
