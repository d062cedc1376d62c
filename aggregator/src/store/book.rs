//! The typed face of a store: what ledger, query, ingest and administration use.
//!
//! One lock orders commits, another guards the facts in memory, so that readers never wait for the disk. A dirty mark
//! becomes visible only after the rows that made it are: whoever reads the rows of a marked cell sees them all, and a
//! mark is cleared only in the generation that was read.

use super::block::cell as cell_block;
use super::block::descriptor::Entity;
use super::block::fact::{Fact, GapFact, MarkFact};
use super::catalog::{Catalog, Node, NodePods, Poller, Speaker};
use super::cut::Cut;
use super::key::{self, GapKey, RowKey};
use super::{Direction, Durability, Store, StoreError, Table, Writes, schema};
use joulebook_sci::Cell;
use joulebook_sci::attribution::OutputWeight;
use joulebook_units::{Microjoules, NodeName, PollerName, StreamId, UnixNanos, Window};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

mod cells;
mod changed;
mod lags;
mod records;
mod series;
mod shown;

pub use changed::ChangedCells;
pub use records::SEALED_SECONDS;
pub use series::Series;
pub use shown::{LostRecords, NodeRecord, PollerRecord, Run, Status, StoredGap, StreamStatus};

/// Length of a cell of the finest resolution in seconds: the grid of dirty marks.
pub const CELL_SECONDS: i64 = 60;
/// How far around a cell the rows reach that decide about it: a change marks every cell within.
pub const CELL_SURROUNDINGS_SECONDS: i64 = 60;
/// The same for a node with a meter at its input, whose readings span minutes.
pub const WALL_SURROUNDINGS_SECONDS: i64 = joulebook_sci::settle::SURROUNDINGS_SECONDS;

/// Length of stored cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resolution {
    /// 60 s: components, counts and shares.
    Minute,
    /// 300 s: settled, every account unallocated, all weights.
    Settled,
    /// 1 h: sums of settled cells.
    Hour,
}

impl Resolution {
    /// Length in seconds.
    pub fn seconds(self) -> i64 {
        match self {
            Self::Minute => CELL_SECONDS,
            Self::Settled => 300,
            Self::Hour => 3600,
        }
    }

    /// The table that holds the cells.
    pub fn table(self) -> Table {
        match self {
            Self::Minute => Table::Cells,
            Self::Settled => Table::Settled,
            Self::Hour => Table::Hours,
        }
    }
}

/// What a commit changes.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) writes: Writes,
    /// Cells of 60 s (node, start) whose rows change.
    pub(crate) marks: BTreeSet<(u32, UnixNanos)>,
    /// Nodes of which rows came to an hour that was over, or began a new one.
    pub(crate) hours: BTreeSet<u32>,
    /// Before what settled cells go.
    pub(crate) forgotten: Option<UnixNanos>,
}

/// The database.
pub struct Book {
    store: Arc<dyn Store>,
    commit: Mutex<Option<StoreError>>,
    catalog: RwLock<Catalog>,
    output_weight: OutputWeight,
    lags: lags::Remembered,
    changed: Mutex<changed::Changed>,
}

impl fmt::Debug for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Book").finish_non_exhaustive()
    }
}

impl Book {
    /// Reads the facts of a database; an empty one gets a schema and a random identity first.
    pub fn open(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let catalog = match Catalog::load(store.as_ref())? {
            Some(catalog) => catalog,
            None => {
                let mut cluster = [0; 16];
                getrandom::fill(&mut cluster).map_err(|error| StoreError::Io {
                    what: "making the identity of a new database".to_owned(),
                    reason: error.to_string(),
                })?;
                let mut writes = Writes::default();
                let catalog = Catalog::create(cluster, &mut writes);
                store.commit(writes, Durability::Synced)?;
                catalog
            }
        };
        let output_weight = OutputWeight::default();
        Ok(Self {
            store,
            commit: Mutex::new(None),
            catalog: RwLock::new(catalog),
            lags: lags::Remembered::default(),
            changed: Mutex::default(),
            output_weight,
        })
    }

    /// The same, where a generated token weighs this when cells are worked out.
    #[must_use]
    pub fn weighing(self, output_weight: OutputWeight) -> Self {
        Self { output_weight, ..self }
    }

    /// What a generated token weighs where energy is shared by tokens.
    pub fn output_weight(&self) -> OutputWeight {
        self.output_weight
    }

    /// The tables, for retention and tests.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Random identity of the database.
    pub fn cluster(&self) -> [u8; 16] {
        self.read().cluster
    }

    /// Every node ever seen, by number.
    pub fn nodes(&self) -> Vec<NodeRecord> {
        let catalog = self.read();
        let mut pollers: BTreeMap<u32, Vec<PollerRecord>> = BTreeMap::new();
        for poller in &catalog.pollers {
            pollers.entry(poller.node).or_default().push(poller_record(poller));
        }
        let numbered = (0u32..).zip(&catalog.nodes);
        numbered
            .map(|(number, node)| node_record(&catalog, number, node, pollers.remove(&number).unwrap_or_default()))
            .collect()
    }

    /// One of them.
    pub fn node_record(&self, number: u32) -> Option<NodeRecord> {
        let catalog = self.read();
        let node = catalog.nodes.get(number as usize)?;
        let pollers = catalog.pollers.iter().filter(|poller| poller.node == number).map(poller_record);
        Some(node_record(&catalog, number, node, pollers.collect()))
    }

    /// What the budget of the disk took.
    pub fn cut(&self) -> Cut {
        self.read().cut
    }

    /// How far around a cell of a node the rows reach that decide about it, in seconds.
    pub fn surroundings(&self, node: u32) -> i64 {
        self.read().surroundings(node)
    }

    /// Whether a node ever told counts of a model of this name.
    pub fn has_served(&self, node: u32, model: &str) -> bool {
        self.read().has_served(node, model)
    }

    /// The pods of each node's workloads, by number of the node.
    pub fn pods(&self) -> BTreeMap<u32, Arc<NodePods>> {
        self.read().pods().clone()
    }

    /// Number of a node.
    pub fn node(&self, name: &NodeName) -> Option<u32> {
        self.read().node(name)
    }

    /// State, for administration.
    pub fn status(&self) -> Status {
        let nodes = self.nodes();
        let catalog = self.read();
        let streams = catalog.streams.iter().map(|stream| StreamStatus {
            id: stream.id,
            node: stream.node,
            poller: stream.poller.and_then(|number| Some(catalog.pollers.get(number as usize)?.fact.name.clone())),
            acked: stream.acked,
            lost_records: stream.lost,
            rejected_values: stream.rejected,
        });
        Status {
            cluster: catalog.cluster,
            schema_version: schema::VERSION,
            nodes,
            streams: streams.collect(),
            dirty_cells: u64::try_from(catalog.dirty.len()).unwrap_or(u64::MAX),
        }
    }

    /// How many records were ever applied, of all streams together.
    pub fn applied(&self) -> u64 {
        self.read().streams.iter().fold(0, |sum, stream| sum.saturating_add(stream.acked))
    }

    /// Every stored run of a node that touches a window, in the order of its records. Runs are whole, not cut at the
    /// window. Fails if a record is damaged: a number is never made from the rest.
    pub fn runs(&self, node: u32, window: Window) -> Result<Vec<Run>, StoreError> {
        let records = self.records(node, window)?;
        let catalog = self.read();
        let mut runs = Vec::new();
        for (row, record) in records {
            let stream = catalog.streams.get(row.ordinal as usize).ok_or_else(|| unknown("stream", row))?.id;
            for column in record.columns {
                let touches = |(first, last)| first < window.end() && last >= window.start();
                if !column.span().is_some_and(touches) {
                    continue;
                }
                let subject = catalog.subject(row.ordinal, column.series).ok_or_else(|| unknown("series", row))?;
                let continued = column.previous.is_some();
                let mut points = column.points;
                if let Some(previous) = column.previous {
                    points.insert(0, previous);
                }
                runs.push(Run { subject, stream, sequence: row.sequence, points, continued });
            }
        }
        Ok(runs)
    }

    /// Instants of the rows of a node in a window, ascending.
    pub fn rows(&self, node: u32, window: Window) -> Result<Vec<UnixNanos>, StoreError> {
        let records = self.records(node, window)?;
        let inside = |at: &UnixNanos| (window.start()..window.end()).contains(at);
        let mut rows: Vec<_> = records.into_values().flat_map(|record| record.rows).filter(inside).collect();
        rows.sort_unstable();
        Ok(rows)
    }

    /// Declared gaps of a node's sources that touch a window, and its lost records.
    pub fn gaps(&self, node: u32, window: Window) -> Result<(Vec<StoredGap>, Vec<LostRecords>), StoreError> {
        let mut found = Vec::new();
        // A gap may be as long as the node was off: every gap that begins before the end is looked at.
        let range = key::cell(node, UnixNanos(i64::MIN))..key::cell(node, window.end());
        self.scan(Table::Gaps, &range.start, &range.end, |key, value| {
            found.push((GapKey::decode(key)?, GapFact::decode(key, value)?));
            Ok(())
        })?;
        let catalog = self.read();
        let (mut gaps, mut lost) = (Vec::new(), Vec::new());
        for (gap, fact) in found {
            let row = RowKey { node, at: gap.from, ordinal: gap.ordinal, sequence: gap.sequence };
            let stream = catalog.streams.get(gap.ordinal as usize).ok_or_else(|| unknown("stream", row))?.id;
            let to = match fact {
                GapFact::Energy { to, .. } | GapFact::Lost { to, .. } => to,
            };
            let Some(span) = Window::new(gap.from, to).filter(|span| span.end() > window.start()) else { continue };
            match fact {
                GapFact::Energy { series, reason, low, high, .. } => {
                    let subject = catalog.subject(gap.ordinal, series).ok_or_else(|| unknown("series", row))?;
                    let (low, high) = (Microjoules(low), Microjoules(high));
                    gaps.push(StoredGap { subject, stream, window: span, reason, low, high });
                }
                GapFact::Lost { reason, last_sequence, samples, .. } => {
                    let first_sequence = gap.sequence;
                    lost.push(LostRecords { stream, window: span, first_sequence, last_sequence, samples, reason });
                }
            }
        }
        Ok((gaps, lost))
    }

    /// At most `limit` cells of 60 s that must be worked out again: node, start, generation.
    pub fn dirty(&self, limit: usize) -> Vec<(u32, UnixNanos, u64)> {
        self.read().dirty.iter().take(limit).map(|((node, start), generation)| (*node, *start, *generation)).collect()
    }

    /// Starts of the dirty cells of 60 s of a node that touch a window.
    pub fn is_dirty(&self, node: u32, window: Window) -> BTreeSet<UnixNanos> {
        let first = window.start().floor_to(CELL_SECONDS);
        let catalog = self.read();
        catalog.dirty.range((node, first)..(node, window.end())).map(|((_, start), _)| *start).collect()
    }

    /// Stores cells of a node and clears dirty marks, together. A mark whose generation has changed since it was read
    /// stays: rows came after. The commit is buffered: a cell that a power cut takes is still marked.
    pub fn settle(
        &self,
        node: u32,
        cells: &[(Resolution, UnixNanos, Cell)],
        cleared: &[(UnixNanos, u64)],
    ) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        let mut latch = self.begin()?;
        let together = self.together(node, cells)?;
        let mut writes = Writes::default();
        {
            let mut catalog = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
            // Where an hour begins may be none of its cells.
            together.iter().for_each(|apart| writes.delete(apart.resolution.table(), key::cell(node, apart.hour)));
            let of_hours = together
                .iter()
                .flat_map(|apart| apart.cells.iter().map(|(start, cell)| (apart.resolution, *start, cell)));
            // Last what is new: it takes the place of what was together.
            let new = cells.iter().map(|(resolution, start, cell)| (*resolution, *start, cell));
            for (resolution, start, cell) in of_hours.chain(new) {
                let key = key::cell(node, start);
                let mut intern = |entity: Entity| catalog.intern(entity, &mut writes);
                let value = cell_block::encode(&key, cell, &mut intern);
                writes.put(resolution.table(), key, value);
            }
            for (start, generation) in cleared {
                if catalog.dirty.get(&(node, *start)) == Some(generation) {
                    writes.delete(Table::Dirty, key::cell(node, *start));
                    gone.push((node, *start));
                }
            }
        }
        self.finish(&mut latch, writes, Durability::Buffered)?;
        let mut catalog = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
        for mark in gone {
            catalog.dirty.remove(&mark);
        }
        self.changed().note(cells.iter().map(|(_, start, _)| *start));
        Ok(())
    }

    /// How often cells of any node were changed. Whoever notes it before it looks for dirty marks misses no change after.
    pub fn version(&self) -> u64 {
        self.changed().version()
    }

    /// What was changed after a version; `None` where that is no longer known, and may be anything.
    pub fn changed_since(&self, version: u64) -> Option<ChangedCells> {
        self.changed().since(version)
    }

    fn changed(&self) -> MutexGuard<'_, changed::Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works out changes under the lock of commits and makes them durable together. The facts in memory are changed
    /// first, so a failure latches: nothing is committed or acknowledged after it.
    pub(crate) fn transact<T>(
        &self,
        durability: Durability,
        work: impl FnOnce(&mut Catalog, &mut Changes) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut latch = self.begin()?;
        let mut changes = Changes::default();
        let worked = {
            let mut catalog = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
            let worked = work(&mut catalog, &mut changes);
            if !changes.marks.is_empty() {
                catalog.generation = catalog.generation.saturating_add(1);
                for (node, start) in &changes.marks {
                    let key = key::cell(*node, *start);
                    changes.writes.put(Table::Dirty, key, MarkFact(catalog.generation).encode(&key));
                    catalog.unseal(*node, *start);
                }
            }
            worked.map(|done| (done, catalog.generation))
        };
        let (done, generation) = worked.inspect_err(|error| *latch = Some(error.clone()))?;
        self.finish(&mut latch, changes.writes, durability)?;
        let mut catalog = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
        self.changed().note(changes.marks.iter().map(|(_, start)| *start));
        self.changed().forget(changes.forgotten);
        catalog.dirty.extend(changes.marks.into_iter().map(|mark| (mark, generation)));
        changes.hours.into_iter().for_each(|node| catalog.hours.change(node));
        Ok(done)
    }

    /// High-water marks of streams of a node's agent or poller, in their order: those on the disk. `None` if one belongs to
    /// another speaker.
    pub(crate) fn marks(
        &self,
        node: &NodeName,
        poller: Option<&PollerName>,
        streams: &[StreamId],
    ) -> Option<Vec<(StreamId, u64)>> {
        let catalog = self.read();
        let speaker = catalog.speaker(node, poller);
        let mark = |id: &StreamId| {
            let known = catalog.stream(*id).and_then(|ordinal| catalog.streams.get(ordinal as usize));
            match known {
                Some(stream) => (Some(Speaker::of(stream)) == speaker).then_some((*id, stream.acked)),
                None => Some((*id, 0)),
            }
        };
        streams.iter().map(mark).collect()
    }

    /// Forgets what a commit that failed had changed in memory: the facts are those on the disk again. Nothing is
    /// committed after it all the same.
    pub(crate) fn reload(&self) -> Result<(), StoreError> {
        let _latch = self.commit.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = Catalog::load(self.store.as_ref())?.ok_or_else(|| StoreError::Damaged {
            what: "the schema record".to_owned(),
            reason: "it is gone".to_owned(),
        })?;
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        self.lags.clear();
        self.changed().everything();
        Ok(())
    }

    /// A session has ended, of whichever speaker.
    pub(crate) fn end_session(&self, speaker: Speaker, session: u64) {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner).end_session(speaker, session);
    }

    fn begin(&self) -> Result<MutexGuard<'_, Option<StoreError>>, StoreError> {
        let latch = self.commit.lock().unwrap_or_else(PoisonError::into_inner);
        match latch.as_ref() {
            None => Ok(latch),
            // There may be room again; the engine still has to be opened anew.
            Some(full @ StoreError::Full { .. }) => Err(full.clone()),
            Some(first) => Err(StoreError::Latched { reason: format!("an earlier write failed: {first}") }),
        }
    }

    fn finish(&self, latch: &mut Option<StoreError>, writes: Writes, durability: Durability) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        self.store.commit(writes, durability).inspect_err(|error| *latch = Some(error.clone()))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn scan(
        &self,
        table: Table,
        first: &[u8],
        end: &[u8],
        mut take: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut result = Ok(());
        self.store.scan(table, first..end, Direction::Forward, &mut |key, value| {
            result = take(key, value);
            if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        result
    }
}

fn poller_record(poller: &Poller) -> PollerRecord {
    PollerRecord {
        name: poller.fact.name.clone(),
        inventory: poller.fact.inventory.clone(),
        clock_skew_nanos: poller.fact.skew_nanos,
        connected: poller.session.is_some(),
    }
}

fn node_record(catalog: &Catalog, number: u32, node: &Node, mut pollers: Vec<PollerRecord>) -> NodeRecord {
    pollers.sort_by(|a, b| a.name.cmp(&b.name));
    let (first_row, last_row) = catalog.span(number);
    NodeRecord {
        number,
        inventory: node.fact.inventory.clone(),
        first_row,
        last_row,
        clock_skew_nanos: node.fact.skew_nanos,
        connected: node.session.is_some(),
        session_epoch: node.fact.epoch,
        pollers,
    }
}

fn unknown(what: &str, row: RowKey) -> StoreError {
    StoreError::Damaged {
        what: format!("the rows of node {} at {}", row.node, row.at.0),
        reason: format!("they name a {what} that is not there"),
    }
}
