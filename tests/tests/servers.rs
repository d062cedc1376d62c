//! Real servers and gateways that take long to install, from their sockets to the answer: `make test-engines`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]
#![allow(clippy::print_stdout, reason = "the shares that were measured belong to the result")]

#[path = "servers/kserve.rs"]
mod kserve;
#[path = "servers/litellm.rs"]
mod litellm;
