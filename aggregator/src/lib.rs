//! The aggregator: stores telemetry, attributes every joule, answers what a model version costs.
//!
//! A record goes one way: [`ingest`] → [`store`] → [`ledger`] → [`query`].

pub mod admin;
pub mod certificate;
pub mod clock;
pub mod config;
pub mod dev_certs;
pub mod directory;
pub mod exit;
pub mod export;
pub mod factor;
pub mod ingest;
pub mod keeping;
pub mod ledger;
pub mod memory;
pub mod offline;
pub mod peer;
pub mod pods;
pub mod poller;
pub mod query;
pub mod reload;
pub mod run;
pub mod server;
pub mod store;
pub mod training;
