//! Fuzz targets. Each is a function of bytes that panics where a promise is broken: what is read is what was written,
//! counts add up, nothing overflows.
//!
//! `make fuzz` runs them under libFuzzer; `cargo test` runs each over its corpus and over mutations of it from a seed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a broken promise ends the run")]

mod agent;
mod protocol;
mod spool;
mod store;

/// A name and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("spool_records", spool::records),
    ("spool_segment", spool::segment),
    ("spool_damage", spool::damage),
    ("batch", protocol::batch),
    ("wire", protocol::wire),
    ("session", protocol::session),
    ("question", protocol::question),
    ("store_keys", store::keys),
    ("store_blocks", store::blocks),
    ("exposition", agent::exposition),
    ("otlp", agent::export),
    ("counter", agent::counter),
    ("proc", agent::proc),
    ("gguf", agent::gguf),
    ("config", agent::config),
    ("certificate", agent::certificate),
];

/// The target of a name.
pub fn target(name: &str) -> Option<fn(&[u8])> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
