//! Real servers and gateways that take long to install, from their sockets to the answer: `make test-engines`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]
#![allow(clippy::print_stdout, reason = "the shares that were measured belong to the result")]

#[path = "servers/bentoml.rs"]
mod bentoml;
#[path = "servers/dynamo.rs"]
mod dynamo;
#[path = "servers/kserve.rs"]
mod kserve;
#[path = "servers/litellm.rs"]
mod litellm;
#[path = "servers/rayserve.rs"]
mod rayserve;
#[path = "servers/torchserve.rs"]
mod torchserve;
