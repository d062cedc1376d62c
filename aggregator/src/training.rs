//! Training of model versions: what is disclosed, and the ledger of each pool. Nothing of it is in a default answer.
//!
//! Everything that was recorded stays, in its order: a disclosure, its revisions, its retirement. The ledger is worked out
//! from them and from the units that the versions served, for every question anew.

pub mod disclosure;
mod pool;

pub use disclosure::Disclosure;
use disclosure::{LineageName, Part};
pub use pool::{Family, Served, Share};

use crate::query::{Query, QueryError};
use crate::store::training::TrainingRecord;
use crate::store::{Book, StoreError};
use joulebook_sci::training::lineage::{self, LineageError, Parent};
use joulebook_units::UnixNanos;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Why training is not recorded, or has no ledger.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TrainingError {
    /// It is refused as it is.
    #[error("{0}")]
    Refused(String),
    /// There is no pool of that name.
    #[error("there is no pool `{0}`")]
    NoPool(String),
    /// The family makes no sense.
    #[error(transparent)]
    Lineage(#[from] LineageError),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Something that happened to a pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// It is disclosed, or an error in its disclosure is corrected.
    Disclose(Box<Disclosure>),
    /// Its N is expected to be another.
    Revise {
        /// N from now on.
        units: f64,
        /// On what evidence.
        reason: String,
    },
    /// It is served no more.
    Retire {
        /// Pool that takes over what remains, where the policy says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        successor: Option<String>,
        /// Why.
        reason: String,
    },
}

/// A pool: its events in their order, each with the instant at which it was recorded.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pool {
    /// Each of them.
    pub events: Vec<(UnixNanos, Event)>,
}

impl Pool {
    /// The disclosure that holds now.
    pub fn disclosure(&self) -> Option<&Disclosure> {
        self.events.iter().rev().find_map(|(_, event)| match event {
            Event::Disclose(disclosure) => Some(disclosure.as_ref()),
            _ => None,
        })
    }

    /// Whether it is retired.
    pub fn retired(&self) -> bool {
        self.retired_at().is_some()
    }

    /// The pool that it joined, if it did: it has no ledger of its own then.
    pub fn joined(&self) -> Option<&str> {
        let joins = |disclosure: &&Disclosure| disclosure.lineage_policy == LineageName::SinglePoolIncrement;
        let disclosure = self.disclosure().filter(joins)?;
        disclosure.parents.first().map(|parent| parent.pool.as_str())
    }

    /// N as it is expected at an instant.
    pub(crate) fn units_at(&self, at: UnixNanos) -> Option<f64> {
        let disclosed = self.disclosure()?.units;
        let revised = self.events.iter().rev().filter(|(when, _)| *when <= at).find_map(|(_, event)| match event {
            Event::Revise { units, .. } => Some(*units),
            _ => None,
        });
        Some(revised.unwrap_or(disclosed))
    }

    /// When it was retired, if it was.
    pub fn retired_at(&self) -> Option<UnixNanos> {
        self.events.iter().find_map(|(at, event)| matches!(event, Event::Retire { .. }).then_some(*at))
    }

    /// The disclosure as another Joulebook imports it: with N as it is expected by now.
    pub fn exported(&self) -> Option<Disclosure> {
        let revised = self.events.iter().rev().find_map(|(_, event)| match event {
            Event::Revise { units, reason } => Some(disclosure::Revised { units: *units, reason: reason.clone() }),
            _ => None,
        });
        Some(Disclosure { revised, ..self.disclosure()?.clone() })
    }

    /// When something last happened to it.
    pub fn revision(&self) -> Option<UnixNanos> {
        self.events.last().map(|(at, _)| *at)
    }
}

/// Every pool, by name, as it was known at `as_of`, or now.
///
/// # Errors
/// The store's.
pub fn pools(book: &Book, as_of: Option<UnixNanos>) -> Result<BTreeMap<String, Pool>, StoreError> {
    let mut pools: BTreeMap<String, Pool> = BTreeMap::new();
    for TrainingRecord { pool, revision, text } in book.training()? {
        if as_of.is_some_and(|as_of| revision > as_of) {
            continue;
        }
        let event = serde_json::from_str(&text).map_err(|error| StoreError::Damaged {
            what: format!("training of pool {pool}"),
            reason: error.to_string(),
        })?;
        pools.entry(pool).or_default().events.push((revision, event));
    }
    Ok(pools)
}

/// Fills in the T of a disclosure whose job was measured: what the job used, as it is known now. What has a T keeps it.
///
/// # Errors
/// The question's: a job that used nothing, or an intensity that is missing.
pub fn measure(query: &Query, disclosure: &mut Disclosure) -> Result<(), TrainingError> {
    let Some(job) = disclosure.measured.as_ref().filter(|_| disclosure.is_unmeasured()) else { return Ok(()) };
    let used = query.job(&job.job(disclosure)?).map_err(|error| match error {
        QueryError::Store(error) => TrainingError::Store(error),
        other => TrainingError::Refused(format!("measured: {other}")),
    })?;
    disclosure.parts_g.insert(Part::Final, used.operational.0 + used.embodied.0);
    disclosure.energy_kwh = disclosure.energy_kwh.or(Some(used.energy.to_joules().to_kwh()));
    Ok(())
}

/// Records an event of a pool at `now`, and says when it holds.
///
/// # Errors
/// [`TrainingError`]; nothing is recorded then.
pub fn record(book: &Book, pool: &str, event: &Event, now: UnixNanos) -> Result<UnixNanos, TrainingError> {
    let mut known = pools(book, None)?;
    let refused = |why: &str| TrainingError::Refused(why.to_owned());
    let retired = known.get(pool).is_some_and(Pool::retired);
    match event {
        _ if retired => return Err(refused("the pool is retired: what it charged stands")),
        Event::Disclose(disclosure) => {
            if disclosure.is_unmeasured() {
                return Err(refused("its T is not measured yet"));
            }
            if disclosure.pool != pool {
                return Err(refused("the document names another pool"));
            }
            let before = known.get(pool).and_then(Pool::disclosure);
            if before.is_some_and(|before| !before.counts_as(disclosure)) {
                return Err(refused("the unit is fixed for the life of a pool: one allocation for all"));
            }
        }
        Event::Revise { units, .. } => {
            known.get(pool).and_then(Pool::disclosure).ok_or_else(|| TrainingError::NoPool(pool.to_owned()))?;
            if !(units.is_finite() && *units > 0.0) {
                return Err(TrainingError::Refused(format!("units = {units}: N must be above 0")));
            }
        }
        Event::Retire { successor, .. } => {
            let held = known.get(pool).and_then(Pool::disclosure);
            let held = held.ok_or_else(|| TrainingError::NoPool(pool.to_owned()))?;
            let carries = held.remainder == disclosure::RemainderName::CarryToSuccessor;
            match successor {
                Some(_) if !carries => {
                    return Err(refused("its remainder goes to no successor, by its policy"));
                }
                None if carries => return Err(refused("its remainder goes to a successor: name its pool")),
                Some(next) if next == pool || !known.contains_key(next) => {
                    return Err(TrainingError::NoPool(next.clone()));
                }
                _ => {}
            }
        }
    }
    known.entry(pool.to_owned()).or_default().events.push((now, event.clone()));
    lineage::draws_on(pool, &parents(&known)?)?;
    let text = serde_json::to_string(event).map_err(|error| TrainingError::Refused(error.to_string()))?;
    Ok(book.record_training(pool, &text, now)?)
}

/// The parents of every pool that has a disclosure.
pub(crate) fn parents(pools: &BTreeMap<String, Pool>) -> Result<BTreeMap<String, Vec<Parent>>, TrainingError> {
    let mut parents = BTreeMap::new();
    for (name, pool) in pools {
        let Some(disclosure) = pool.disclosure() else { continue };
        let above = match disclosure.lineage_policy {
            LineageName::PooledBasePlusIncrement | LineageName::SinglePoolIncrement => disclosure.parents()?,
            LineageName::Restart => Vec::new(),
        };
        parents.insert(name.clone(), above);
    }
    Ok(parents)
}

#[cfg(test)]
mod tests;
