//! The state of ingest: who may send, what a record changes. Owned by one task; applies groups of requests.

use super::Counters;
use super::validate::{self, Known};
use crate::store::block::fact::{Fact, GapFact, HashFact, LongFact};
use crate::store::block::row::{RowRecord, StampedValue};
use crate::store::book::{CELL_SECONDS, Changes};
use crate::store::catalog::Catalog;
use crate::store::key::{self, GapKey, Meta, RowKey};
use crate::store::retention::ACCEPTED_SECONDS;
use crate::store::{Book, Durability, StoreError, Table};
use joulebook_units::{
    Batch, BootId, BootNanos, EnergyGap, Inventory, RejectReason, StreamGap, StreamId, Subject, UnixNanos,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Most series of a node that have values within [`ACTIVE_SECONDS`].
pub const ACTIVE_SERIES: usize = 2_048;
/// How long a series counts as active after its last value.
pub const ACTIVE_SECONDS: i64 = 600;
/// Most descriptions a stream may hold in memory that no record has used yet.
const UNUSED_SERIES: usize = 8_192;
/// Most streams of a node: each is a spool's whole life.
const STREAMS: usize = 1_024;
/// A clock that moves by more than this against ours is measured anew.
const DRIFT_NANOS: u64 = 1_000_000_000;
/// A difference of clocks that is worth a warning.
const SKEW_NANOS: u64 = 2_000_000_000;
/// Records moved aside in one life of the process: enough to find a fault, too few to fill a disk.
const QUARANTINED: u64 = 1_000;

/// What opens a session.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Who speaks.
    pub inventory: Inventory,
    /// Counts the agent's starts; a higher one fences lower ones.
    pub epoch: u64,
    /// The boot the agent runs in.
    pub boot: BootId,
    /// The agent's boot clock when it spoke.
    pub boot_time: BootNanos,
    /// The agent's wall clock when it spoke.
    pub wall: UnixNanos,
    /// Our clock when it was heard.
    pub received: UnixNanos,
    /// The streams it may send records of.
    pub streams: Vec<StreamId>,
}

/// A request of a session.
#[derive(Debug, Clone)]
pub enum Request {
    /// Opens a session under a number that no other session has had.
    Open(u64, Box<Opening>),
    /// Announces a further stream.
    OpenStream(u64, StreamId),
    /// Describes series of a stream.
    Define(u64, StreamId, Vec<(u32, Subject)>),
    /// A record.
    Record {
        /// The session.
        session: u64,
        /// The stream.
        stream: StreamId,
        /// The number, 1 … 2⁶³−1.
        sequence: u64,
        /// BLAKE3 of the payload, first 16 bytes.
        hash: [u8; 16],
        /// The payload as it came.
        payload: Vec<u8>,
        /// What it holds; `None` if it cannot be decoded.
        batch: Option<Box<Batch>>,
    },
    /// Declares records lost.
    Lost(u64, StreamId, StreamGap),
    /// The session has ended.
    Close(u64),
}

/// Values of one record that are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reject {
    /// The record.
    pub sequence: u64,
    /// Why.
    pub reason: RejectReason,
    /// How many values.
    pub count: u64,
}

/// Why a request is not carried out. Nothing is stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The stream is bound to another node.
    #[error("stream {0} belongs to another node; initialise a new spool")]
    ForeignStream(StreamId),
    /// The stream was not opened in this session.
    #[error("stream {0} is not open in this session; announce it first")]
    ClosedStream(StreamId),
    /// A session of a higher epoch is open, or a newer session of the node has taken over.
    #[error("a newer session of this node is open")]
    Fenced,
    /// The number is not the next one.
    #[error("stream {stream}: sequence {sequence} is not the next one, expected {expected}")]
    OutOfOrder {
        /// The stream.
        stream: StreamId,
        /// What came.
        sequence: u64,
        /// What would have been right.
        expected: u64,
    },
    /// The node has opened too many streams.
    #[error("this node has opened {STREAMS} streams; remove it or keep its spool")]
    TooManyStreams,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The session is open; marks of its streams, in their order.
    Opened(Vec<(StreamId, u64)>),
    /// Everything of the stream up to a number is durable or refused.
    Ack {
        /// The stream.
        stream: StreamId,
        /// High-water mark.
        sequence: u64,
        /// Values of this record that are refused.
        rejects: Vec<Reject>,
        /// Whether a record is acknowledged (and not a gap).
        record: bool,
    },
    /// Carried out; nothing to say.
    Done,
    /// Not carried out; the session must end.
    Refused(Refusal),
}

#[derive(Debug)]
struct Session {
    node: u32,
    streams: HashSet<u32>,
}

/// What is known of a stream in this life of the process.
#[derive(Debug, Default)]
struct Live {
    /// Last stored point of each series.
    tails: HashMap<u32, StampedValue>,
    /// Whether `tails` holds every series the stream ever stored.
    complete: bool,
    /// Descriptions that no stored record has used yet.
    defined: HashMap<u32, Arc<Subject>>,
    /// Series that were described in two ways.
    conflicting: HashSet<u32>,
    /// Hashes of records that may not be on the disk yet.
    hashes: BTreeMap<u64, [u8; 16]>,
}

/// The state of ingest.
#[derive(Debug)]
pub struct Intake {
    book: Arc<Book>,
    counters: Arc<Counters>,
    sessions: HashMap<u64, Session>,
    live: HashMap<u32, Live>,
    active: HashMap<u32, HashMap<(u32, u32), UnixNanos>>,
    quarantined: u64,
}

/// One group under way.
struct Group<'a> {
    intake: &'a mut Intake,
    catalog: &'a mut Catalog,
    changes: &'a mut Changes,
    now: UnixNanos,
    book: Arc<Book>,
    /// Streams and nodes whose records are written at the end, once.
    streams: BTreeSet<u32>,
    nodes: BTreeSet<u32>,
    bridges: BTreeSet<u32>,
}

impl Intake {
    /// Ingest into a book; nothing is open yet.
    pub fn new(book: Arc<Book>, counters: Arc<Counters>) -> Self {
        Self { book, counters, sessions: HashMap::new(), live: HashMap::new(), active: HashMap::new(), quarantined: 0 }
    }

    /// Identity of the database.
    pub fn cluster(&self) -> [u8; 16] {
        self.book.cluster()
    }

    /// Carries out requests in their order in one synced commit at `now`, and says what became of each. When it
    /// returns, everything it acknowledges is durable; when it fails, nothing is, and it never succeeds again.
    pub fn apply(&mut self, now: UnixNanos, requests: Vec<Request>) -> Result<Vec<Reply>, StoreError> {
        let book = Arc::clone(&self.book);
        book.transact(Durability::Synced, |catalog, changes| {
            let (streams, nodes, bridges) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            let book = Arc::clone(&self.book);
            let mut group = Group { intake: self, catalog, changes, now, book, streams, nodes, bridges };
            let replies = requests.into_iter().map(|request| group.apply(request)).collect::<Result<_, _>>()?;
            group.end();
            Ok(replies)
        })
    }
}

impl Group<'_> {
    fn apply(&mut self, request: Request) -> Result<Reply, StoreError> {
        let refused = match request {
            Request::Open(session, opening) => self.open(session, *opening),
            Request::OpenStream(session, stream) => self.open_stream(session, stream),
            Request::Define(session, stream, series) => self.define(session, stream, series),
            Request::Close(session) => {
                self.close(session);
                Ok(Reply::Done)
            }
            Request::Record { session, stream, sequence, hash, payload, batch } => {
                match self.place(session, stream) {
                    Ok(ordinal) => return self.record(ordinal, stream, sequence, hash, &payload, batch),
                    Err(refusal) => Err(refusal),
                }
            }
            Request::Lost(session, stream, gap) => match self.place(session, stream) {
                Ok(ordinal) => return self.lost(ordinal, stream, &gap),
                Err(refusal) => Err(refusal),
            },
        };
        Ok(refused.unwrap_or_else(Reply::Refused))
    }

    fn open(&mut self, session: u64, opening: Opening) -> Result<Reply, Refusal> {
        let known = self.catalog.node(&opening.inventory.node);
        if let Some(node) = known.and_then(|number| self.catalog.nodes.get(number as usize)) {
            if node.session.is_some() && node.fact.epoch > opening.epoch {
                return Err(Refusal::Fenced);
            }
        }
        for stream in &opening.streams {
            self.may_open(known, *stream)?;
        }
        let skew = opening.wall.0.saturating_sub(opening.received.0);
        if skew.unsigned_abs() > SKEW_NANOS {
            let node = opening.inventory.node.as_str();
            tracing::warn!(node, skew_nanos = skew, "the node's wall clock differs from ours; our time is used");
        }
        let boot_time = i64::try_from(opening.boot_time.0).unwrap_or(i64::MAX);
        let offset = opening.received.0.saturating_sub(boot_time);
        let number = self.catalog.put_node(opening.inventory, opening.epoch, skew, &mut self.changes.writes);
        if let Some(node) = self.catalog.nodes.get_mut(number as usize) {
            if let Some(older) = node.session.replace(session) {
                self.intake.sessions.remove(&older);
            }
        }
        let before = self.catalog.boots.get(&(number, opening.boot)).copied();
        if before.is_none_or(|before| before.abs_diff(offset) > DRIFT_NANOS) {
            if let Some(before) = before {
                tracing::warn!(node = number, moved_nanos = offset.saturating_sub(before), "a clock was measured anew");
            }
            self.catalog.put_boot(number, opening.boot, offset, &mut self.changes.writes);
        }
        let ordinals: Vec<u32> = opening.streams.iter().map(|stream| self.bind(number, *stream)).collect();
        let mark = |(stream, ordinal): (&StreamId, &u32)| (*stream, self.acked(*ordinal));
        let marks = opening.streams.iter().zip(&ordinals).map(mark).collect();
        self.intake.sessions.insert(session, Session { node: number, streams: ordinals.into_iter().collect() });
        self.intake.counters.add("sessions_total", 1);
        Ok(Reply::Opened(marks))
    }

    fn open_stream(&mut self, session: u64, stream: StreamId) -> Result<Reply, Refusal> {
        let node = self.intake.sessions.get(&session).map(|open| open.node).ok_or(Refusal::Fenced)?;
        self.may_open(Some(node), stream)?;
        let ordinal = self.bind(node, stream);
        if let Some(open) = self.intake.sessions.get_mut(&session) {
            open.streams.insert(ordinal);
        }
        Ok(Reply::Ack { stream, sequence: self.acked(ordinal), rejects: Vec::new(), record: false })
    }

    fn may_open(&self, node: Option<u32>, stream: StreamId) -> Result<(), Refusal> {
        match self.catalog.stream(stream).and_then(|ordinal| self.catalog.streams.get(ordinal as usize)) {
            Some(bound) if Some(bound.node) == node => Ok(()),
            Some(_) => Err(Refusal::ForeignStream(stream)),
            None if self.catalog.streams.iter().filter(|one| Some(one.node) == node).count() < STREAMS => Ok(()),
            None => Err(Refusal::TooManyStreams),
        }
    }

    fn bind(&mut self, node: u32, stream: StreamId) -> u32 {
        let ordinal = match self.catalog.stream(stream) {
            Some(ordinal) => ordinal,
            None => self.catalog.add_stream(stream, node, &mut self.changes.writes),
        };
        let fresh = self.acked(ordinal) == 0;
        self.intake.live.entry(ordinal).or_insert_with(|| Live { complete: fresh, ..Live::default() });
        ordinal
    }

    fn acked(&self, ordinal: u32) -> u64 {
        self.catalog.streams.get(ordinal as usize).map_or(0, |stream| stream.acked)
    }

    fn close(&mut self, session: u64) {
        let Some(closed) = self.intake.sessions.remove(&session) else { return };
        if let Some(node) = self.catalog.nodes.get_mut(closed.node as usize) {
            node.session = node.session.filter(|open| *open != session);
        }
    }

    /// Ordinal of a stream that the session may send for.
    fn place(&self, session: u64, stream: StreamId) -> Result<u32, Refusal> {
        let open = self.intake.sessions.get(&session).ok_or(Refusal::Fenced)?;
        let ordinal = self.catalog.stream(stream).ok_or(Refusal::ClosedStream(stream))?;
        if open.streams.contains(&ordinal) {
            return Ok(ordinal);
        }
        let bound = self.catalog.streams.get(ordinal as usize).map(|one| one.node);
        Err(if bound == Some(open.node) { Refusal::ClosedStream(stream) } else { Refusal::ForeignStream(stream) })
    }

    fn define(&mut self, session: u64, stream: StreamId, series: Vec<(u32, Subject)>) -> Result<Reply, Refusal> {
        let ordinal = self.place(session, stream)?;
        let live = self.intake.live.entry(ordinal).or_default();
        for (number, subject) in series {
            match self.catalog.subject(ordinal, number).or_else(|| live.defined.get(&number).cloned()) {
                Some(known) if *known == subject => {
                    live.conflicting.remove(&number);
                }
                Some(_) => {
                    live.conflicting.insert(number);
                }
                // Further ones are unknown when a record uses them.
                None if live.defined.len() >= UNUSED_SERIES => {}
                None => {
                    live.defined.insert(number, Arc::new(subject));
                }
            }
        }
        Ok(Reply::Done)
    }

    fn record(
        &mut self,
        ordinal: u32,
        stream: StreamId,
        sequence: u64,
        hash: [u8; 16],
        payload: &[u8],
        batch: Option<Box<Batch>>,
    ) -> Result<Reply, StoreError> {
        let acked = self.acked(ordinal);
        let values = batch.as_ref().map_or(1, |batch| u64::try_from(batch.samples()).unwrap_or(u64::MAX));
        if sequence <= acked {
            let rejects = self.again(ordinal, sequence, hash, payload, values)?;
            return Ok(Reply::Ack { stream, sequence: acked, rejects, record: true });
        }
        if sequence > acked + 1 {
            return Ok(Reply::Refused(Refusal::OutOfOrder { stream, sequence, expected: acked + 1 }));
        }
        let rejects = match batch {
            Some(batch) => self.batch(ordinal, sequence, &batch)?,
            None => BTreeMap::from([(RejectReason::Malformed, 1)]),
        };
        let key = Meta::Hash(ordinal, key::hash_slot(sequence)).encode();
        self.changes.writes.put(Table::Meta, key.clone(), HashFact { sequence, hash }.encode(&key));
        if let Some(live) = self.intake.live.get_mut(&ordinal) {
            live.hashes.insert(sequence, hash);
            live.hashes.retain(|old, _| old.saturating_add(Meta::HASHES) > sequence);
        }
        if let Some(fact) = self.catalog.streams.get_mut(ordinal as usize) {
            fact.acked = sequence;
        }
        self.streams.insert(ordinal);
        self.intake.counters.add("records_applied_total", 1);
        let refused = |(reason, count): (RejectReason, u64)| Reject { sequence, reason, count };
        let rejects: Vec<Reject> = rejects.into_iter().map(refused).collect();
        self.count(ordinal, &rejects);
        Ok(Reply::Ack { stream, sequence, rejects, record: true })
    }

    /// A record whose number is stored already.
    fn again(
        &mut self,
        ordinal: u32,
        sequence: u64,
        hash: [u8; 16],
        payload: &[u8],
        values: u64,
    ) -> Result<Vec<Reject>, StoreError> {
        let stored = match self.intake.live.get(&ordinal).and_then(|live| live.hashes.get(&sequence)) {
            Some(hash) => Some(*hash),
            None => {
                let key = Meta::Hash(ordinal, key::hash_slot(sequence)).encode();
                let value = self.book.store().get(Table::Meta, &key)?;
                let fact = value.map(|value| HashFact::decode(&key, &value)).transpose()?;
                fact.filter(|fact| fact.sequence == sequence).map(|fact| fact.hash)
            }
        };
        if stored.is_none_or(|stored| stored == hash) {
            self.intake.counters.add("duplicates_total", 1);
            return Ok(Vec::new());
        }
        tracing::error!(stream = ordinal, sequence, "a record's number was used before with other content");
        if self.intake.quarantined < QUARANTINED {
            self.intake.quarantined += 1;
            let key = key::quarantine(ordinal, sequence, self.now);
            self.changes.writes.put(Table::Quarantine, key, payload);
        }
        let rejects = vec![Reject { sequence, reason: RejectReason::SequenceConflict, count: values }];
        self.count(ordinal, &rejects);
        self.streams.insert(ordinal);
        Ok(rejects)
    }

    fn count(&mut self, ordinal: u32, rejects: &[Reject]) {
        for reject in rejects {
            let name = match reject.reason {
                RejectReason::Value => "rejected_value_total",
                RejectReason::Time => "rejected_time_total",
                RejectReason::Cardinality => "rejected_cardinality_total",
                RejectReason::UnknownSeries => "rejected_unknown_series_total",
                RejectReason::Malformed => "rejected_malformed_total",
                RejectReason::SequenceConflict => "seq_conflict_total",
            };
            let count = if reject.reason == RejectReason::SequenceConflict { 1 } else { reject.count };
            self.intake.counters.add(name, count);
            if let Some(fact) = self.catalog.streams.get_mut(ordinal as usize) {
                fact.rejected = fact.rejected.saturating_add(reject.count);
            }
        }
    }

    /// Stores what is good of a batch; says what is not.
    fn batch(
        &mut self,
        ordinal: u32,
        sequence: u64,
        batch: &Batch,
    ) -> Result<BTreeMap<RejectReason, u64>, StoreError> {
        let values = u64::try_from(batch.samples()).unwrap_or(u64::MAX);
        let Some((offset, rows)) = self.times(ordinal, batch) else {
            return Ok(BTreeMap::from([(RejectReason::Time, values)]));
        };
        let Some(stream) = self.catalog.streams.get(ordinal as usize).copied() else { return Ok(BTreeMap::new()) };
        let first_row = rows.first().copied().unwrap_or_default();
        let mut rejects = BTreeMap::new();
        let mut record = RowRecord { rows, columns: Vec::with_capacity(batch.columns.len()) };
        for column in &batch.columns {
            let judged = self.subject(stream.node, ordinal, column.series).and_then(|subject| {
                let last = self.last_point(ordinal, column.series);
                let known = Known { subject: &subject, last, first_row, now: self.now, offset };
                validate::column(column, known).map(|column| (subject, column))
            });
            match judged {
                Ok((subject, stored)) => {
                    self.keep(stream.node, ordinal, column.series, subject, stored.points.last().copied());
                    record.columns.push(stored);
                }
                Err(reason) => {
                    *rejects.entry(reason).or_default() += u64::try_from(column.points.len()).unwrap_or(u64::MAX);
                }
            }
        }
        for (gap, index) in batch.gaps.iter().zip(0u32..) {
            if let Err(reason) = self.gap(ordinal, sequence, index, gap, offset) {
                *rejects.entry(reason).or_default() += 1;
            }
        }
        self.store(ordinal, sequence, batch.boot, offset, &record);
        Ok(rejects)
    }

    /// Where the batch's boot clock lies on ours, and its rows there; `None` if that is out of time.
    fn times(&mut self, ordinal: u32, batch: &Batch) -> Option<(i64, Vec<UnixNanos>)> {
        let stream = self.catalog.streams.get(ordinal as usize).copied()?;
        let first = i64::try_from(batch.rows.first()?.0).ok()?;
        let mut offset = match self.catalog.boots.get(&(stream.node, batch.boot)) {
            Some(offset) => *offset,
            // A boot that was over before we met the node: its own wall clock is all there is.
            None if validate::in_time(batch.wall, self.now) => batch.wall.0.checked_sub(first)?,
            None => return None,
        };
        // A clock that was measured anew never moves a stream backwards: the old measure holds until the new one has
        // passed it, and a new boot begins where the old one ended.
        if let Some(last) = stream.last.filter(|last| first.saturating_add(offset) <= last.0) {
            offset = match stream.clock {
                Some((boot, before)) if boot == batch.boot => before,
                _ => last.0.checked_add(1)?.checked_sub(first)?,
            };
        }
        let rows: Option<Vec<_>> = batch.rows.iter().map(|row| validate::map(row.0, offset)).collect();
        let rows = rows?;
        if !rows.iter().all(|row| validate::in_time(*row, self.now)) {
            return None;
        }
        if !self.catalog.boots.contains_key(&(stream.node, batch.boot)) {
            self.catalog.put_boot(stream.node, batch.boot, offset, &mut self.changes.writes);
        }
        Some((offset, rows))
    }

    fn subject(&mut self, node: u32, ordinal: u32, series: u32) -> Result<Arc<Subject>, RejectReason> {
        let live = self.intake.live.entry(ordinal).or_default();
        if live.conflicting.contains(&series) {
            return Err(RejectReason::UnknownSeries);
        }
        let subject = self.catalog.subject(ordinal, series).or_else(|| live.defined.get(&series).cloned());
        let subject = subject.ok_or(RejectReason::UnknownSeries)?;
        let active = self.intake.active.entry(node).or_default();
        if !active.contains_key(&(ordinal, series)) && active.len() >= ACTIVE_SERIES {
            let oldest = self.now.plus_seconds(-ACTIVE_SECONDS);
            active.retain(|_, seen| *seen >= oldest);
            if active.len() >= ACTIVE_SERIES {
                return Err(RejectReason::Cardinality);
            }
        }
        Ok(subject)
    }

    fn last_point(&self, ordinal: u32, series: u32) -> Option<StampedValue> {
        let live = self.intake.live.get(&ordinal)?.tails.get(&series);
        live.or_else(|| self.catalog.bridges.get(&ordinal)?.get(&series)).copied()
    }

    /// Notes that a column of the series is stored.
    fn keep(&mut self, node: u32, ordinal: u32, series: u32, subject: Arc<Subject>, last: Option<StampedValue>) {
        let live = self.intake.live.entry(ordinal).or_default();
        if live.defined.remove(&series).is_some() {
            self.catalog.put_series(ordinal, series, subject, &mut self.changes.writes);
        }
        live.tails.extend(last.map(|last| (series, last)));
        self.intake.active.entry(node).or_default().insert((ordinal, series), self.now);
        if let Some(bridges) = self.catalog.bridges.get_mut(&ordinal) {
            if bridges.remove(&series).is_some() {
                self.bridges.insert(ordinal);
            }
        }
    }

    fn gap(
        &mut self,
        ordinal: u32,
        sequence: u64,
        index: u32,
        gap: &EnergyGap,
        offset: i64,
    ) -> Result<(), RejectReason> {
        let node = self.catalog.streams.get(ordinal as usize).map(|stream| stream.node).unwrap_or_default();
        let subject = self.subject(node, ordinal, gap.series)?;
        if !matches!(*subject, Subject::Energy(_)) || gap.low > gap.high {
            return Err(RejectReason::Value);
        }
        let from = validate::map(gap.from.0, offset).ok_or(RejectReason::Time)?;
        let to = validate::map(gap.to.0, offset).ok_or(RejectReason::Time)?;
        if from > to || !validate::in_time(to, self.now) {
            return Err(RejectReason::Time);
        }
        self.keep(node, ordinal, gap.series, subject, None);
        let key = GapKey { node, from, ordinal, sequence, index }.encode();
        let (low, high) = (gap.low.0, gap.high.0);
        let fact = GapFact::Energy { series: gap.series, to, reason: gap.reason, low, high };
        self.changes.writes.put(Table::Gaps, key, fact.encode(&key));
        self.mark(node, from, to);
        Ok(())
    }

    fn store(&mut self, ordinal: u32, sequence: u64, boot: BootId, offset: i64, record: &RowRecord) {
        let (Some(first_row), Some(span)) = (record.rows.first().copied(), record.span()) else { return };
        let Some(stream) = self.catalog.streams.get_mut(ordinal as usize) else { return };
        stream.last = stream.last.max(Some(span.1));
        stream.clock = Some((boot, offset));
        let number = stream.node;
        let row = RowKey { node: number, at: first_row, ordinal, sequence };
        let key = row.encode();
        self.changes.writes.put(Table::Rows, key, record.encode(&key));
        if span.0 < first_row.plus_seconds(-CELL_SECONDS) {
            let key = RowKey { at: span.1, ..row }.encode();
            self.changes.writes.put(Table::Long, key, LongFact { earliest: span.0, first_row }.encode(&key));
        }
        if let Some(node) = self.catalog.nodes.get_mut(number as usize) {
            if node.fact.first_row.is_none_or(|first| first_row < first) {
                node.fact.first_row = Some(first_row);
                self.nodes.insert(number);
            }
        }
        self.mark(number, span.0, span.1);
    }

    /// Marks every cell from `from` to `to`, at most those that data are accepted for.
    fn mark(&mut self, node: u32, from: UnixNanos, to: UnixNanos) {
        let mut start = from.max(self.now.plus_seconds(-ACCEPTED_SECONDS)).floor_to(CELL_SECONDS);
        while start <= to {
            self.changes.marks.insert((node, start));
            start = start.plus_seconds(CELL_SECONDS);
        }
    }

    fn lost(&mut self, ordinal: u32, stream: StreamId, gap: &StreamGap) -> Result<Reply, StoreError> {
        let acked = self.acked(ordinal);
        if gap.to > acked {
            if gap.from != acked + 1 {
                let refusal = Refusal::OutOfOrder { stream, sequence: gap.from, expected: acked + 1 };
                return Ok(Reply::Refused(refusal));
            }
            self.lose(ordinal, gap)?;
        }
        Ok(Reply::Ack { stream, sequence: self.acked(ordinal), rejects: Vec::new(), record: false })
    }

    fn lose(&mut self, ordinal: u32, gap: &StreamGap) -> Result<(), StoreError> {
        self.recall(ordinal)?;
        let tails = self.intake.live.get(&ordinal).map(|live| &live.tails);
        let bridges = tails.into_iter().flatten().map(|(series, last)| (*series, *last)).collect();
        self.catalog.bridges.insert(ordinal, bridges);
        self.bridges.insert(ordinal);
        let Some(fact) = self.catalog.streams.get(ordinal as usize).copied() else { return Ok(()) };
        let offset = gap.span.and_then(|span| self.catalog.boots.get(&(fact.node, span.boot)));
        let known = gap.span.zip(offset).and_then(|(span, offset)| {
            validate::map(span.first.0, *offset).zip(validate::map(span.last.0, *offset))
        });
        // Not known when: from the last stored instant until now, and from now on if there is none.
        let (from, to) = known.unwrap_or((fact.last.unwrap_or(self.now), self.now));
        let from = fact.last.map_or(from, |last| last.min(from));
        let to = to.min(self.now.plus_seconds(validate::FUTURE_SECONDS)).max(from);
        let key = GapKey { node: fact.node, from, ordinal, sequence: gap.from, index: 0 }.encode();
        let loss = GapFact::Lost { to, reason: gap.reason, last_sequence: gap.to, samples: gap.samples };
        self.changes.writes.put(Table::Gaps, key, loss.encode(&key));
        self.mark(fact.node, from, to);
        let count = gap.to - gap.from + 1;
        if let Some(fact) = self.catalog.streams.get_mut(ordinal as usize) {
            fact.acked = gap.to;
            fact.lost = fact.lost.saturating_add(count);
        }
        self.streams.insert(ordinal);
        self.intake.counters.add("records_lost_total", count);
        tracing::error!(stream = ordinal, records = count, values = gap.samples, "an agent lost records");
        Ok(())
    }

    /// Makes the last points of a stream complete: after a restart they are read back, latest record first.
    fn recall(&mut self, ordinal: u32) -> Result<(), StoreError> {
        let Some(stream) = self.catalog.streams.get(ordinal as usize).copied() else { return Ok(()) };
        let live = self.intake.live.entry(ordinal).or_default();
        if live.complete {
            return Ok(());
        }
        // Records of this group are not on the disk yet; their points are in `tails` and newer.
        let mut missing: HashSet<u32> = self.catalog.series.keys().filter(|key| key.0 == ordinal).map(|key| key.1).collect();
        missing.retain(|series| !live.tails.contains_key(series));
        if !missing.is_empty() {
            self.book.records_backward(stream.node, ordinal, |record| {
                let mut found: HashMap<u32, StampedValue> = HashMap::new();
                for column in record.columns.iter().filter(|column| missing.contains(&column.series)) {
                    let last = column.points.last().copied();
                    let newer = |last: &StampedValue| found.get(&column.series).is_none_or(|one| one.0 < last.0);
                    if let Some(last) = last.filter(newer) {
                        found.insert(column.series, last);
                    }
                }
                missing.retain(|series| !found.contains_key(series));
                live.tails.extend(found);
                if missing.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
        }
        for (series, last) in self.catalog.bridges.get(&ordinal).into_iter().flatten() {
            live.tails.entry(*series).or_insert(*last);
        }
        live.complete = true;
        Ok(())
    }

    fn end(self) {
        for ordinal in self.streams {
            self.catalog.write_stream(ordinal, &mut self.changes.writes);
        }
        for node in self.nodes {
            self.catalog.write_node(node, &mut self.changes.writes);
        }
        for ordinal in self.bridges {
            let bridges = self.catalog.bridges.remove(&ordinal).unwrap_or_default();
            self.catalog.put_bridges(ordinal, bridges, &mut self.changes.writes);
        }
    }
}
