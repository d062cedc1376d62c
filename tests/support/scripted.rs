//! A scripted fleet: 30 days of four nodes in two zones on a manual clock, written into the store of an aggregator, and what
//! is true of them.
//!
//! What happens in an hour happens in each of its minutes, so that one minute is settled and stored sixty times: the store
//! holds cells alone, as it does once rows are dropped, but for the last hour, whose rows go through ingest and the ledger.
//! Every energy and count is a whole number that the script knows, and every policy's answers can be held against it.

#![allow(clippy::expect_used, reason = "functions that tests call may fail the test")]

pub mod fill;
pub mod grid;
pub mod node;
pub mod script;
pub mod training;
pub mod truth;

pub use fill::Fleet;
pub use script::{Model, NODES, Script};
pub use truth::Truth;
