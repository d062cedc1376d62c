//! Stored events of training, by pool, each under the instant at which it was recorded. Nothing is ever overwritten.

use super::block::fact::{Fact, TrainingFact};
use super::factors::check_name;
use super::key::{self, TrainingKey};
use super::{Book, Direction, Durability, StoreError, Table};
use joulebook_units::UnixNanos;
use std::ops::ControlFlow;

/// An event as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainingRecord {
    /// The pool.
    pub pool: String,
    /// When.
    pub revision: UnixNanos,
    /// What, as JSON.
    pub text: String,
}

impl Book {
    /// Every event of every pool, by pool, oldest first.
    ///
    /// # Errors
    /// The store's.
    pub fn training(&self) -> Result<Vec<TrainingRecord>, StoreError> {
        let (mut records, mut failed) = (Vec::new(), None);
        let (first, end) = key::training_range();
        self.store().scan(
            Table::Meta,
            &first..&end,
            Direction::Forward,
            &mut |key, value| match TrainingKey::decode(key).and_then(|at| Ok((at, TrainingFact::decode(key, value)?)))
            {
                Ok((TrainingKey { pool, revision }, TrainingFact(text))) => {
                    records.push(TrainingRecord { pool, revision, text });
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            },
        )?;
        failed.map_or(Ok(records), Err)
    }

    /// Records an event of a pool at `now`, or just after the pool's last one, and says when. On the disk when it returns.
    ///
    /// # Errors
    /// The store's, and a name that no pool may have.
    pub fn record_training(&self, pool: &str, text: &str, now: UnixNanos) -> Result<UnixNanos, StoreError> {
        check_name(pool)
            .map_err(|error| StoreError::Io { what: "recording training".to_owned(), reason: error.to_string() })?;
        let last =
            self.training()?.into_iter().filter(|record| record.pool == pool).map(|record| record.revision).max();
        let revision = last.map_or(now, |last| now.max(UnixNanos(last.0.saturating_add(1))));
        self.transact(Durability::Synced, |_, changes| {
            let key = TrainingKey { pool: pool.to_owned(), revision }.encode();
            changes.writes.put(Table::Meta, key.clone(), TrainingFact(text.to_owned()).encode(&key));
            Ok(())
        })?;
        Ok(revision)
    }
}
