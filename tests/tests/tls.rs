//! Mutual TLS between the programs: who is let in, what each may ask, and certificates that change while traffic goes on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]

#[path = "tls/files.rs"]
mod files;
#[path = "tls/limits.rs"]
mod limits;
#[path = "tls/operator.rs"]
mod operator;
#[path = "tls/peers.rs"]
mod peers;
#[path = "tls/roles.rs"]
mod roles;
#[path = "tls/rotation.rs"]
mod rotation;

use std::time::Duration;

/// Far more than anything here needs on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again and again until it is so; a minute without it fails the test.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, asking).await.is_ok(), "never: {what}");
}
