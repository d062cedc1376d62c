//! BMCs: what their documents and replies mean, and how the agent behaves towards one that is slow, wrong or closed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]

#[path = "bmc/clients.rs"]
mod clients;
#[path = "bmc/inband.rs"]
mod inband;
#[path = "bmc/manners.rs"]
mod manners;
#[path = "bmc/program.rs"]
mod program;
#[path = "bmc/rig.rs"]
mod rig;
#[path = "bmc/values.rs"]
mod values;
