//! Rows as they lie: each record by itself, and once an hour is over and settled, all records of a stream in it as one chunk.
//!
//! Sealing changes no row. It happens in one commit, and what comes late lies beside the chunk until the hour is sealed
//! again, so a reader who looks for records first and for chunks after sees every record.

use super::{Book, Resolution, unknown};
use crate::store::block::chunk::{self, Numbered};
use crate::store::block::fact::{Fact, LongFact, SealedFact};
use crate::store::block::row::RowRecord;
use crate::store::block::{CHUNK_VERSION, Damaged};
use crate::store::key::{self, Meta, RowKey};
use crate::store::{Direction, Durability, StoreError, Table, Writes};
use joulebook_units::{UnixNanos, Window};
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::PoisonError;

/// What a chunk holds, in seconds: longer ones are smaller, and take longer to read a minute from.
pub const SEALED_SECONDS: i64 = 3600;
/// An hour is sealed so long after its end: a node that was cut off for a moment has sent the rest.
const QUIET_SECONDS: i64 = 600;
/// How far a record reaches beyond its first row without an entry in the index of long intervals, in seconds.
const REACH_SECONDS: i64 = 60;

/// What was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sealed {
    /// Chunks written.
    pub chunks: usize,
    /// Records in them.
    pub records: usize,
    /// Cells that were put together.
    pub cells: usize,
}

impl Book {
    /// Row records of a node that touch a window, by key.
    pub(crate) fn records(&self, node: u32, window: Window) -> Result<BTreeMap<RowKey, RowRecord>, StoreError> {
        let touches = |(first, last): (UnixNanos, UnixNanos)| first < window.end() && last >= window.start();
        let mut records = BTreeMap::new();
        let rows = reach(window);
        let inside = |_, first_row| rows.contains(&first_row);
        self.near(node, &rows, |key, value| {
            let found = decode(key, value, &inside)?;
            records.extend(found.into_iter().filter(|(_, record)| record.span().is_some_and(touches)));
            Ok(())
        })?;
        records.extend(self.long(node, window)?);
        Ok(records)
    }

    /// Visits what may hold records whose first row is one of these.
    pub(super) fn near(
        &self,
        node: u32,
        rows: &Range<UnixNanos>,
        mut take: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.scan(Table::Rows, &key::cell(node, rows.start), &key::cell(node, rows.end), &mut take)?;
        let hour = rows.start.floor_to(SEALED_SECONDS);
        if hour < rows.start { self.at_hour(node, hour, &mut take) } else { Ok(()) }
    }

    /// Records that may touch a window though their first row is out of its reach.
    pub(super) fn long(&self, node: u32, window: Window) -> Result<Vec<(RowKey, RowRecord)>, StoreError> {
        let rows = reach(window);
        let mut long = Vec::new();
        self.scan(Table::Long, &key::cell(node, window.start()), &key::node_end(node), |key, value| {
            let (entry, fact) = (RowKey::decode(key)?, LongFact::decode(key, value)?);
            if fact.earliest < window.end() && !rows.contains(&fact.first_row) {
                long.push(RowKey { at: fact.first_row, ..entry });
            }
            Ok(())
        })?;
        // Absent: retention took the record and will take the entry.
        let record = |row: RowKey| Ok(self.record(row)?.map(|record| (row, record)));
        long.into_iter().filter_map(|row| record(row).transpose()).collect()
    }

    /// One record, wherever it lies.
    fn record(&self, row: RowKey) -> Result<Option<RowRecord>, StoreError> {
        let key = row.encode();
        let this = |sequence, first_row| sequence == row.sequence && first_row == row.at;
        let own = self.store.get(Table::Rows, &key)?;
        let mut found = own.map(|value| decode(&key, &value, &this)).transpose()?.unwrap_or_default();
        if found.is_empty() {
            self.at_hour(row.node, row.at.floor_to(SEALED_SECONDS), |key, value| {
                if RowKey::decode(key)?.ordinal == row.ordinal {
                    found.extend(decode(key, value, &this)?);
                }
                Ok(())
            })?;
        }
        Ok(found.pop().map(|(_, record)| record))
    }

    /// Visits what lies at the instant at which an hour begins: its chunks.
    fn at_hour(
        &self,
        node: u32,
        hour: UnixNanos,
        take: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.scan(Table::Rows, &key::cell(node, hour), &key::cell(node, UnixNanos(hour.0.saturating_add(1))), take)
    }

    /// Visits the records of a stream of a node, latest first, until `visit` breaks.
    pub(crate) fn records_backward(
        &self,
        node: u32,
        ordinal: u32,
        mut visit: impl FnMut(RowRecord) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut result = Ok(());
        let range = (key::cell(node, UnixNanos(i64::MIN)), key::node_end(node));
        // A chunk lies before what is left of its hour, and a stream never goes back: what is left came after it.
        self.store.scan(Table::Rows, &range.0..&range.1, Direction::Backward, &mut |key, value| {
            let step = RowKey::decode(key).and_then(|row| {
                if row.ordinal != ordinal {
                    return Ok(ControlFlow::Continue(()));
                }
                let mut records = decode(key, value, &|_, _| true)?;
                while let Some((_, record)) = records.pop() {
                    if visit(record).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            });
            step.unwrap_or_else(|error| {
                result = Err(error);
                ControlFlow::Break(())
            })
        })?;
        result
    }

    /// Seals what is over and settled of every node, and notes how far; `stop` is asked before each hour.
    ///
    /// # Errors
    /// The store's. An hour with damage stays as it is.
    pub fn seal(&self, now: UnixNanos, stop: &dyn Fn() -> bool) -> Result<Sealed, StoreError> {
        let last = now.plus_seconds(-QUIET_SECONDS).floor_to(SEALED_SECONDS);
        let nodes: Vec<(u32, UnixNanos)> = {
            let catalog = self.read();
            let numbered = (0..u32::MAX).zip(&catalog.nodes);
            let from = numbered.filter_map(|(number, node)| {
                let known = catalog.sealed.get(&number).copied();
                Some((number, known.or_else(|| node.fact.first_row.map(|first| first.floor_to(SEALED_SECONDS)))?))
            });
            from.collect()
        };
        let mut all = Sealed::default();
        for (node, from) in nodes {
            let mut hour = from;
            // All before this is sealed.
            let mut until = None;
            while hour < last {
                if stop() {
                    break;
                }
                let next = hour.plus_seconds(SEALED_SECONDS);
                let settled = Window::new(hour, next).is_some_and(|span| self.is_dirty(node, span).is_empty());
                let sealed = if settled { self.seal_hour(node, hour).map(Some) } else { Ok(None) };
                match sealed {
                    Ok(Some(sealed)) => {
                        all.chunks += sealed.chunks;
                        all.records += sealed.records;
                        all.cells += sealed.cells;
                    }
                    Ok(None) => until = until.or(Some(hour)),
                    // Whoever asks about the hour is told; the others are sealed all the same.
                    Err(damaged @ StoreError::Damaged { .. }) => {
                        tracing::error!(error = %damaged, "an hour cannot be sealed");
                        until = until.or(Some(hour));
                    }
                    Err(error) => return Err(error),
                }
                hour = next;
            }
            let until = until.unwrap_or(hour);
            if until != from {
                self.note_sealed(node, from, until)?;
            }
        }
        Ok(all)
    }

    /// Makes a chunk of each stream's records in an hour, and one value of its cells of each length.
    fn seal_hour(&self, node: u32, hour: UnixNanos) -> Result<Sealed, StoreError> {
        let mut sealed = self.seal_rows(node, hour)?;
        for resolution in [Resolution::Minute, Resolution::Settled] {
            sealed.cells += self.seal_cells(node, resolution, hour)?;
        }
        Ok(sealed)
    }

    fn seal_rows(&self, node: u32, hour: UnixNanos) -> Result<Sealed, StoreError> {
        let (first, end) = (key::cell(node, hour), key::cell(node, hour.plus_seconds(SEALED_SECONDS)));
        // Of each stream: the keys of records that lie by themselves. The beginning of the hour may hold its chunk.
        let mut loose: BTreeMap<u32, Vec<Vec<u8>>> = BTreeMap::new();
        let mut chunks: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let mut records: BTreeMap<u32, Vec<(RowKey, RowRecord)>> = BTreeMap::new();
        let after = key::cell(node, UnixNanos(hour.0.saturating_add(1)));
        let mut some = false;
        self.store.scan(Table::Rows, &after[..]..&end[..], Direction::Forward, &mut |_, _| {
            some = true;
            ControlFlow::Break(())
        })?;
        if !some {
            return Ok(Sealed::default());
        }
        self.scan(Table::Rows, &first, &end, |key, value| {
            let ordinal = RowKey::decode(key)?.ordinal;
            records.entry(ordinal).or_default().extend(decode(key, value, &|_, _| true)?);
            if is_chunk(value) {
                chunks.insert(ordinal, key.to_vec());
            } else {
                loose.entry(ordinal).or_default().push(key.to_vec());
            }
            Ok(())
        })?;
        let mut sealed = Sealed::default();
        for (ordinal, keys) in loose {
            let mut of_stream: Vec<Numbered> = Vec::new();
            for (row, mut record) in records.remove(&ordinal).unwrap_or_default() {
                record.columns.sort_by_key(|column| column.series);
                of_stream.push((row.sequence, record));
            }
            of_stream.sort_by_key(|(sequence, _)| *sequence);
            let Some((sequence, _)) = of_stream.first() else { continue };
            let row = RowKey { node, at: hour, ordinal, sequence: *sequence };
            let key = row.encode();
            let Some(value) = chunk::encode(&key, hour, &of_stream) else {
                tracing::debug!(node, hour = hour.0, "rows that cannot be sealed stay as they are");
                continue;
            };
            // Rows are given up only for a chunk that gives them back.
            if chunk::decode(&key, hour, *sequence, &value, &|_, _| true).as_deref() != Ok(of_stream.as_slice()) {
                tracing::error!(node, hour = hour.0, "a chunk is not what went into it; the rows stay as they are");
                continue;
            }
            sealed.chunks += 1;
            sealed.records += of_stream.len();
            let mut writes = Writes::default();
            for key in keys.into_iter().chain(chunks.remove(&ordinal)) {
                writes.delete(Table::Rows, key);
            }
            writes.put(Table::Rows, key, value);
            let mut latch = self.begin()?;
            // What a power cut takes of it are rows as they were.
            self.finish(&mut latch, writes, Durability::Buffered)?;
        }
        Ok(sealed)
    }

    /// Notes that all before `until` is sealed, unless something came in before `from` meanwhile.
    fn note_sealed(&self, node: u32, from: UnixNanos, until: UnixNanos) -> Result<(), StoreError> {
        let mut latch = self.begin()?;
        let mut writes = Writes::default();
        {
            let mut catalog = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
            if catalog.sealed.get(&node).is_some_and(|known| *known < from) {
                return Ok(());
            }
            // What was changed since it was sealed is marked, and not settled yet or in this moment.
            let marks = catalog.dirty.range((node, UnixNanos(i64::MIN))..(node, until)).next();
            let until = marks.map_or(until, |((_, start), _)| until.min(start.floor_to(SEALED_SECONDS)));
            catalog.sealed.insert(node, until);
            let key = Meta::Sealed(node).encode();
            writes.put(Table::Meta, key.clone(), SealedFact(until).encode(&key));
        }
        self.finish(&mut latch, writes, Durability::Buffered)
    }
}

/// First rows of the records that touch a window, but for those in the index of long intervals.
pub(super) fn reach(window: Window) -> Range<UnixNanos> {
    window.start().plus_seconds(-REACH_SECONDS)..window.end().plus_seconds(REACH_SECONDS)
}

pub(super) fn is_chunk(value: &[u8]) -> bool {
    value.first() == Some(&CHUNK_VERSION)
}

/// The error of reading what lies under a key of the table of rows.
pub(super) fn damaged(row: RowKey) -> impl Fn(Damaged) -> StoreError {
    move |damaged| damaged.of(format!("the rows of node {} at {}", row.node, row.at.0))
}

/// The wanted records under a key of the table of rows, ascending.
fn decode(
    key: &[u8],
    value: &[u8],
    wanted: &dyn Fn(u64, UnixNanos) -> bool,
) -> Result<Vec<(RowKey, RowRecord)>, StoreError> {
    let row = RowKey::decode(key)?;
    let damaged = damaged(row);
    if !is_chunk(value) {
        if !wanted(row.sequence, row.at) {
            return Ok(Vec::new());
        }
        return RowRecord::decode(key, row.at, value).map(|record| vec![(row, record)]).map_err(&damaged);
    }
    let records = chunk::decode(key, row.at, row.sequence, value, wanted).map_err(damaged)?;
    let keyed = records.into_iter().map(|(sequence, record)| {
        let at = record.rows.first().copied().ok_or_else(|| unknown("row", row))?;
        Ok((RowKey { at, sequence, ..row }, record))
    });
    keyed.collect()
}
