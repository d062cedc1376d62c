//! Accounting, pure: join, attribution, settlement, idle, operational and embodied carbon, score.
//!
//! No I/O, no clock, no logging; time comes in as an argument. The aggregator's answers and the golden cases run the
//! same functions.
#![no_std]

extern crate alloc;

pub mod cell;

pub use cell::{Account, Cell, EntryKey, Flags, Purpose, ServiceUse, SourceKey, SourceUse, WorkloadUse};
