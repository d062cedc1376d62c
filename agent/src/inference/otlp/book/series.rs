//! Where each series of a process was last seen.
//!
//! The series of a run of a workflow ends with it, and there is no end of runs: of those the latest are remembered. What comes of
//! one that is not, from before the latest that was forgotten, may have been told already and is refused.

use super::super::super::told::Refusal;
use super::super::request::{Key, Point};
use super::duplicate;
use joulebook_units::CountKind;
use std::collections::{HashMap, VecDeque};

/// Series of one process.
const MOST_SERIES: usize = 1024;
/// Series of runs that are remembered.
const MOST_OF_RUNS: usize = 1024;

/// A series when it was last seen.
#[derive(Debug, Clone)]
pub struct Last {
    /// Whether its counts are since its start.
    pub cumulative: bool,
    /// Its start in ns since 1970.
    pub start: u64,
    /// When it was read.
    pub time: u64,
    /// Its counts.
    pub counts: [Option<(CountKind, u64)>; 2],
    /// The buckets of it that count.
    pub buckets: Vec<(CountKind, u64)>,
}

impl Last {
    /// What the buckets of a cumulative series grew by; nothing if they are others, or fell.
    pub fn grown(&self, now: &[(CountKind, u64)]) -> Vec<(CountKind, u64)> {
        if now.len() != self.buckets.len() {
            return Vec::new();
        }
        let pairs = now.iter().zip(&self.buckets);
        let grown = pairs.map(|((kind, now), (before, count))| {
            now.checked_sub(*count).filter(|_| kind == before).map(|grown| (*kind, grown))
        });
        grown.collect::<Option<_>>().unwrap_or_default()
    }
}

/// The series of a process.
#[derive(Debug, Default)]
pub struct SeriesBook {
    lasting: HashMap<Key, Last>,
    of_runs: HashMap<Key, Last>,
    /// The order in which those of runs came.
    order: VecDeque<Key>,
    /// The latest reading of a series that was forgotten, and what it was before this export: data points that are in one
    /// export are not in it twice.
    forgotten: u64,
    late: u64,
}

impl SeriesBook {
    /// An export begins.
    pub fn begin(&mut self) {
        self.late = self.forgotten;
    }

    /// Where a point's series was last seen.
    ///
    /// # Errors
    /// There is no room for another, or it cannot be told whether this one is another.
    pub fn last(&self, point: &Point<'_>) -> Result<Option<&Last>, Refusal> {
        if point.party.root.is_some() {
            let last = self.of_runs.get(&point.series);
            if last.is_none() && point.time <= self.late {
                return Err(duplicate("of this run, or of one after it, was told before, and it is forgotten"));
            }
            return Ok(last);
        }
        let last = self.lasting.get(&point.series);
        if last.is_none() && self.lasting.len() >= MOST_SERIES {
            return Err(Refusal::limit("the process has 1024 series already"));
        }
        Ok(last)
    }

    /// Takes note of a point.
    pub fn insert(&mut self, point: &Point<'_>, now: Last) {
        if point.party.root.is_none() {
            self.lasting.insert(point.series, now);
            return;
        }
        if self.of_runs.insert(point.series, now).is_some() {
            return;
        }
        self.order.push_back(point.series);
        if self.order.len() > MOST_OF_RUNS
            && let Some(last) = self.order.pop_front().and_then(|oldest| self.of_runs.remove(&oldest))
        {
            self.forgotten = self.forgotten.max(last.time);
        }
    }
}
