//! Lags of meters as they were worked out: held in memory for as long as nothing comes to the hours that they stand on.

use super::Book;
use joulebook_units::{Source, UnixNanos};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Hours of a node that are remembered: the one that is settled, and some that are asked about.
const HOURS: usize = 4;

/// What was worked out of an hour, and the version of the node's hours that it was worked out in.
type Found = (u64, BTreeMap<Source, u64>);

/// Lags by node and hour.
#[derive(Debug, Default)]
pub(super) struct Remembered(Mutex<BTreeMap<(u32, UnixNanos), Found>>);

impl Remembered {
    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Book {
    /// Version of a node's hours, and the begin of the latest one in which it has a row; `None` without rows. Asked before
    /// rows are read: what is worked out from them stands while the version is this one.
    pub(crate) fn hours(&self, node: u32) -> Option<(u64, UnixNanos)> {
        self.read().hours.of(node)
    }

    /// The lags of an hour, if they were worked out in this version.
    pub(crate) fn lags(&self, node: u32, hour: UnixNanos, version: u64) -> Option<BTreeMap<Source, u64>> {
        let lags = self.lags.0.lock().unwrap_or_else(PoisonError::into_inner);
        lags.get(&(node, hour)).filter(|(own, _)| *own == version).map(|(_, lags)| lags.clone())
    }

    /// Remembers what was worked out; of too many hours of a node the one that lies farthest from this is forgotten.
    pub(crate) fn remember_lags(&self, node: u32, hour: UnixNanos, version: u64, found: BTreeMap<Source, u64>) {
        let mut lags = self.lags.0.lock().unwrap_or_else(PoisonError::into_inner);
        lags.insert((node, hour), (version, found));
        let hours: Vec<UnixNanos> =
            lags.range((node, UnixNanos(i64::MIN))..=(node, UnixNanos(i64::MAX))).map(|((_, hour), _)| *hour).collect();
        if hours.len() > HOURS
            && let Some(farthest) = hours.into_iter().max_by_key(|other| other.0.abs_diff(hour.0))
        {
            lags.remove(&(node, farthest));
        }
    }
}
