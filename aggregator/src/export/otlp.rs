//! OpenTelemetry: each step's figures are told to a receiver, by gRPC or HTTP.

mod convert;

pub use convert::messages;

use super::Snapshot;
use joulebook_otlp::Queue;
use std::sync::Arc;
use tokio::sync::watch;

/// Points that may wait for the receiver where the configuration says nothing.
pub const ROOM: usize = 200_000;

/// Puts each step's figures in line, until nothing more will come.
pub async fn tell(mut figures: watch::Receiver<Option<Arc<Snapshot>>>, queue: Arc<Queue>, cluster: Option<String>) {
    while figures.changed().await.is_ok() {
        let snapshot = figures.borrow_and_update().clone();
        let told = snapshot.map(|snapshot| messages(&snapshot, cluster.as_deref())).unwrap_or_default();
        told.into_iter().for_each(|message| queue.add(message));
    }
}
