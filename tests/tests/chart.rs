//! The Helm chart, rendered by Helm: what it asks of a cluster is held to lists, and the real programs take what it renders.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]

#[path = "chart/admission.rs"]
mod admission;
#[path = "chart/checkers.rs"]
mod checkers;
#[path = "chart/dashboards.rs"]
mod dashboards;
#[path = "chart/golden.rs"]
mod golden;
#[path = "chart/privileges.rs"]
mod privileges;
#[path = "chart/programs.rs"]
mod programs;
#[path = "chart/refusals.rs"]
mod refusals;
#[path = "chart/traffic.rs"]
mod traffic;
