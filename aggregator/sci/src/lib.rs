//! Accounting, pure: join, attribution, settlement, idle, operational and embodied carbon, score.
//!
//! No I/O, no clock, no logging; time comes in as an argument. The aggregator's answers and the golden cases run the
//! same functions.
#![no_std]

extern crate alloc;

pub mod allocate;
pub mod attribution;
pub mod boundary;
pub mod cell;
pub mod compare;
pub mod component;
pub mod consumer;
pub mod dedicated;
pub mod distribution;
pub mod embodied;
pub mod estimate;
pub mod group;
pub mod idle;
pub mod impact;
pub mod intensity;
pub mod join;
pub mod operational;
pub mod phase;
pub mod power;
pub mod quantity;
pub mod rating;
pub mod reconcile;
#[cfg(test)]
mod sample;
pub mod score;
pub mod series;
pub mod settle;
pub mod share;
pub mod spread;
pub mod tally;
pub mod totals;
pub mod training;
pub mod uncertainty;

pub use allocate::{IdlePolicy, IdleRule, IdleScope, Ledger, ModelVersion, NodeSlot, VersionCost};
pub use cell::{
    Account, Cell, ConsumptionUse, EntryKey, Flags, InputUse, LagUse, Purpose, ServiceUse, SourceKey, SourceUse,
    WorkloadUse,
};
pub use score::{FunctionalUnit, NoScore, score};
pub use settle::{Gap, NodeSeries, Run, settle};
pub use totals::{Level, Rate, SiteFactors, SlotTerm, Totals, VersionTotals};
