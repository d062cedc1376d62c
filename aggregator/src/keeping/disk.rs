//! Keeps the database within its budget of the disk. What goes is written down with its going, in one commit; its files are
//! rewritten after it. A process that was killed between the two finds them larger than the budget again, and rewrites them
//! before it drops more.

use super::Keeping;
use crate::ingest::Counters;
use crate::store::cut::{self, Held, Level};
use crate::store::retention::{self, Periods};
use crate::store::rocks::RocksStore;
use crate::store::{Book, StoreError};
use joulebook_units::UnixNanos;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

const LOOK_EVERY: Duration = Duration::from_secs(60);
/// After it was exceeded an eighth of the budget is freed: files are rewritten for it as a whole.
const FREED: u64 = 8;
/// How often that is gone on with: estimates are of data that are written evenly.
const ROUNDS: usize = 8;
/// When it is tried again where nothing more may go.
const AGAIN_SECONDS: i64 = 3_600;

/// What keeping within a budget needs.
pub struct Disk {
    /// The database, whose files are measured and rewritten.
    pub store: Arc<RocksStore>,
    /// For what went.
    pub counters: Arc<Counters>,
    /// The budget, and how long data are kept anyway.
    pub periods: watch::Receiver<Periods>,
}

impl Keeping {
    /// Drops the oldest of the finest until the database is within its budget, each minute, until `stopping`.
    ///
    /// # Errors
    /// The store's, but for a full disk.
    pub async fn keep_within(self, disk: Disk, stopping: watch::Receiver<bool>) -> Result<(), StoreError> {
        let (store, mut stops, stop) = (Arc::clone(&disk.store), stopping.clone(), stopping.clone());
        let spent = Mutex::new(None);
        let work = move |book: &Book, now| disk.look(book, now, &spent, &|| *stop.borrow());
        let end = async move {
            // An error means that the other end is gone: time to stop, too.
            let _ = stops.wait_for(|stop| *stop).await;
            store.stop_compacting();
        };
        tokio::join!(self.every(LOOK_EVERY, stopping, work), end).0
    }
}

impl Disk {
    /// `spent` is when nothing more was to go.
    fn look(
        &self,
        book: &Book,
        now: UnixNanos,
        spent: &Mutex<Option<UnixNanos>>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), StoreError> {
        let periods = *self.periods.borrow();
        let mut spent = spent.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(budget) = periods.disk_budget.filter(|budget| self.store.file_bytes() > *budget) else {
            *spent = None;
            return Ok(());
        };
        if spent.is_some_and(|since| now < since.plus_seconds(AGAIN_SECONDS)) {
            return Ok(());
        }
        // What is gone already may still lie in the files.
        self.store.compact()?;
        for _ in 0..ROUNDS {
            let bytes = self.store.file_bytes();
            if bytes <= budget || stop() {
                return Ok(());
            }
            let excess = bytes - (budget - budget / FREED);
            let next = self.held(book)?.and_then(|held| cut::next(&book.cut(), &held, excess, &periods, now));
            let Some((level, before)) = next else {
                self.counters.add("disk_budget_missed_total", 1);
                tracing::error!(
                    bytes,
                    budget,
                    "the database exceeds retention.disk_budget and what is left of it stays: raise it"
                );
                *spent = Some(now);
                return Ok(());
            };
            retention::drop_before(book, &periods, level, before, now)?;
            self.counters.add(counter(level), 1);
            let (level, before) = (level.name(), crate::query::rfc3339(before));
            tracing::warn!(target: "audit", level, before, bytes, budget, "what is older went, for retention.disk_budget");
            self.store.compact()?;
        }
        Ok(())
    }

    fn held(&self, book: &Book) -> Result<Option<Held>, StoreError> {
        let sizes = self.store.table_bytes()?;
        let of = |level: Level| {
            sizes.iter().filter(|(table, _)| level.tables().contains(table)).map(|(_, bytes)| bytes).sum()
        };
        let first = book.nodes().iter().filter_map(|node| node.first_row).min();
        Ok(first.map(|first| Held { bytes: Level::ALL.map(of), first }))
    }
}

/// Counts how often something of a level went.
fn counter(level: Level) -> &'static str {
    match level {
        Level::Rows => "disk_budget_rows_total",
        Level::Minutes => "disk_budget_minutes_total",
        Level::Settled => "disk_budget_settled_total",
    }
}
