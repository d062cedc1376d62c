//! What is installed without a registry: container images as OCI layouts, and units of systemd.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]

#[path = "packages/images.rs"]
mod images;
#[path = "packages/units.rs"]
mod units;
