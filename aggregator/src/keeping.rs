//! What happens to rows once they are settled: they are sealed hour by hour, and dropped when their time is over.

pub mod disk;

use crate::clock::Clock;
use crate::store::retention::{self, Periods};
use crate::store::space::Space;
use crate::store::{Book, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

const RETENTION_INTERVAL: Duration = Duration::from_secs(3600);
const SEAL_INTERVAL: Duration = Duration::from_secs(60);

/// Keeps a book small.
#[derive(Clone)]
pub struct Keeping {
    /// The book.
    pub book: Arc<Book>,
    /// While it is closed nothing is written.
    pub space: Arc<Space>,
    /// What is old is judged by it.
    pub clock: Arc<dyn Clock>,
}

impl Keeping {
    /// Drops what is too old, hourly, until `stopping`.
    ///
    /// # Errors
    /// The store's, but for a full disk.
    pub async fn drop_old(
        self,
        periods: watch::Receiver<Periods>,
        stopping: watch::Receiver<bool>,
    ) -> Result<(), StoreError> {
        let work = move |book: &Book, now| retention::apply(book, &periods.borrow(), now);
        self.every(RETENTION_INTERVAL, stopping, work).await
    }

    /// Seals the hours that are over, every minute, until `stopping`.
    ///
    /// # Errors
    /// The store's, but for a full disk.
    pub async fn seal(self, stopping: watch::Receiver<bool>) -> Result<(), StoreError> {
        let stop = stopping.clone();
        let work = move |book: &Book, now| {
            let _span = tracing::info_span!("store.seal").entered();
            let sealed = book.seal(now, &|| *stop.borrow())?;
            if sealed.chunks > 0 || sealed.cells > 0 {
                let (chunks, records, cells) = (sealed.chunks, sealed.records, sealed.cells);
                tracing::info!(chunks, records, cells, "rows are sealed");
            }
            Ok(())
        };
        self.every(SEAL_INTERVAL, stopping, work).await
    }

    async fn every(
        self,
        period: Duration,
        mut stopping: watch::Receiver<bool>,
        work: impl Fn(&Book, joulebook_units::UnixNanos) -> Result<(), StoreError> + Send + Sync + 'static,
    ) -> Result<(), StoreError> {
        let work = Arc::new(work);
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                // An error means that the other end is gone: time to stop, too.
                _ = stopping.wait_for(|stop| *stop) => return Ok(()),
            }
            if !self.space.is_open() {
                continue;
            }
            let (book, work, now) = (Arc::clone(&self.book), Arc::clone(&work), self.clock.unix());
            match tokio::task::spawn_blocking(move || work(&book, now)).await {
                // The committer ends the process once there is room.
                Ok(Err(StoreError::Full { .. })) => {}
                Ok(done) => done?,
                // A panic is a bug; rows stay as they are and the next round begins anew.
                Err(error) => tracing::error!(%error, "keeping the book small failed"),
            }
        }
    }
}
