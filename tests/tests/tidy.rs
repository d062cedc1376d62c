//! Rules of the repository that no other tool checks. Every rule has a test on a sample that breaks it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]

#[path = "tidy/contract.rs"]
mod contract;
#[path = "tidy/dependencies.rs"]
mod dependencies;
#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/length.rs"]
mod length;
#[path = "tidy/readme.rs"]
mod readme;
#[path = "tidy/safety.rs"]
mod safety;
#[path = "tidy/sources.rs"]
mod sources;
#[path = "tidy/words.rs"]
mod words;
