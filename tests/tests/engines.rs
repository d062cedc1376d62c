//! Real inference servers on this machine, from their sockets and their CPU time to the answer per model version.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]
#![allow(clippy::print_stdout, reason = "the shares that were measured belong to the result")]

#[path = "engines/alias.rs"]
mod alias;
#[path = "engines/discovery.rs"]
mod discovery;
#[path = "engines/energy.rs"]
mod energy;
#[path = "engines/llamacpp.rs"]
mod llamacpp;
#[path = "engines/mlserver.rs"]
mod mlserver;
#[path = "engines/triton.rs"]
mod triton;
