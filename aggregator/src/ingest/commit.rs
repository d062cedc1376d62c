//! The state of ingest: who may send, what a record changes. Owned by one task; applies groups of requests.

mod live;
mod loss;
mod record;
#[cfg(test)]
mod tests;

use super::Counters;
use super::validate::{self, Judged, Known, Times};
use crate::store::block::fact::{Fact, GapFact, HashFact, LongFact};
use crate::store::block::row::{RowRecord, StampedValue};
use crate::store::book::{CELL_SECONDS, Changes};
use crate::store::catalog::{Bridges, Catalog, Speaker};
use crate::store::key::{self, GapKey, Meta, RowKey};
use crate::store::retention::ACCEPTED_SECONDS;
use crate::store::{Book, CELL_SURROUNDINGS_SECONDS, Durability, StoreError, Table};
use joulebook_units::{
    Batch, BootId, BootNanos, EnergyGap, Inventory, Layer, PollerName, RejectReason, StreamGap, StreamId, Subject,
    UnixNanos,
};
use live::{Active, Current, Live};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Most series of a stream that have values within [`ACTIVE_SECONDS`].
pub const ACTIVE_SERIES: usize = 2_048;
/// Most of a node: one that drains an older stream beside the live one has each series twice.
const ACTIVE_OF_NODE: usize = 2 * ACTIVE_SERIES;
/// How long a series counts as active after its last value.
pub const ACTIVE_SECONDS: i64 = 600;
/// Most descriptions a stream may hold in memory that no record has used yet.
const UNUSED_SERIES: usize = 8_192;
/// Most streams of an agent, or of a poller for one node, that may still bring data.
const STREAMS: usize = 1_024;
/// A clock that moves by more than this against ours is measured anew.
const DRIFT_NANOS: u64 = 1_000_000_000;
/// A difference of clocks that is flagged.
pub const SKEW_NANOS: u64 = 2_000_000_000;
/// One that somebody has to look into.
const SKEW_EVENT_NANOS: u64 = 600_000_000_000;
/// Records moved aside in one life of the process: enough to find a fault, too few to fill a disk.
const QUARANTINED: u64 = 1_000;

/// What opens a session.
#[derive(Debug, Clone)]
pub struct Opening {
    /// The node that is spoken of.
    pub inventory: Inventory,
    /// The poller that speaks; none where it is the node's own agent.
    pub poller: Option<PollerName>,
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

/// Whether a poller may tell of it: the input of the node, or of the enclosure around it. What is inside, what other nodes
/// have and who uses it is the agents'.
fn is_seen_from_outside(subject: &Subject) -> bool {
    match subject {
        Subject::Energy(source) => matches!(source.layer(), Some(Layer::Node | Layer::Enclosure)),
        _ => false,
    }
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
    /// The stream is bound to another node or speaker.
    #[error("stream {0} belongs to another node, or to another one that speaks for it; initialise a new spool")]
    ForeignStream(StreamId),
    /// The stream was not opened in this session.
    #[error("stream {0} is not open in this session; announce it first")]
    ClosedStream(StreamId),
    /// A session of a higher epoch is open, or a newer session of the same speaker has taken over.
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
    #[error("this node has opened {STREAMS} streams within the time for which data are taken; keep its spool")]
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
    /// Not carried out for want of room on the disk; the session must end and may come again. Marks of the streams that
    /// a session was to be opened with.
    Held(Vec<(StreamId, u64)>),
}

#[derive(Debug)]
struct Session {
    speaker: Speaker,
    streams: HashSet<u32>,
}

/// The state of ingest.
#[derive(Debug)]
pub struct Intake {
    book: Arc<Book>,
    counters: Arc<Counters>,
    sessions: HashMap<u64, Session>,
    live: HashMap<u32, Live>,
    active: HashMap<u32, Active>,
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
    /// Hashes of records that are not on the disk yet: stream, number, hash.
    hashes: Vec<(u32, u64, [u8; 16])>,
    /// Records that were applied.
    applied: u64,
}

impl Intake {
    /// Ingest into a book; nothing is open yet.
    pub fn new(book: Arc<Book>, counters: Arc<Counters>) -> Self {
        Self { book, counters, sessions: HashMap::new(), live: HashMap::new(), active: HashMap::new(), quarantined: 0 }
    }

    /// Where it counts.
    pub(super) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Identity of the database.
    pub fn cluster(&self) -> [u8; 16] {
        self.book.cluster()
    }

    /// Carries out requests in their order in one synced commit at `now`, and says what became of each. When it
    /// returns, everything it acknowledges is durable; when it fails, nothing is, and it never succeeds again.
    #[tracing::instrument(name = "ingest.commit", skip_all, fields(requests = requests.len()))]
    pub fn apply(&mut self, now: UnixNanos, requests: Vec<Request>) -> Result<Vec<Reply>, StoreError> {
        let book = Arc::clone(&self.book);
        book.transact(Durability::Synced, |catalog, changes| {
            let (streams, nodes, bridges) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            let book = Arc::clone(&self.book);
            let (hashes, applied) = (Vec::with_capacity(requests.len()), 0);
            let mut group =
                Group { intake: self, catalog, changes, now, book, streams, nodes, bridges, hashes, applied };
            let replies = requests.into_iter().map(|request| group.apply(request)).collect::<Result<_, _>>()?;
            group.end();
            Ok(replies)
        })
    }
}

impl Intake {
    /// What is said to a request while nothing may be written.
    pub fn hold(&mut self, request: &Request) -> Reply {
        match request {
            Request::Open(_, opening) => {
                let marks = self.book.marks(&opening.inventory.node, opening.poller.as_ref(), &opening.streams);
                let foreign = || opening.streams.first().map_or(Refusal::Fenced, |id| Refusal::ForeignStream(*id));
                marks.map_or_else(|| Reply::Refused(foreign()), Reply::Held)
            }
            Request::Close(session) => {
                if let Some(closed) = self.sessions.remove(session) {
                    self.book.end_session(closed.speaker, *session);
                }
                Reply::Done
            }
            _ => Reply::Held(Vec::new()),
        }
    }

    /// The state of ingest as the disk has it, after a commit that failed.
    ///
    /// # Errors
    /// The store's.
    pub fn anew(self) -> Result<Self, StoreError> {
        self.book.reload()?;
        Ok(Self::new(self.book, self.counters))
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
            Request::Record { session, stream, sequence, hash, payload, batch } => match self.place(session, stream) {
                Ok(ordinal) => return self.record(ordinal, stream, sequence, hash, &payload, batch),
                Err(refusal) => Err(refusal),
            },
            Request::Lost(session, stream, gap) => match self.place(session, stream) {
                Ok(ordinal) => return self.lost(ordinal, stream, &gap),
                Err(refusal) => Err(refusal),
            },
        };
        Ok(refused.unwrap_or_else(Reply::Refused))
    }

    fn open(&mut self, session: u64, opening: Opening) -> Result<Reply, Refusal> {
        let known = self.catalog.speaker(&opening.inventory.node, opening.poller.as_ref());
        if let Some(speaker) = known
            && self.catalog.session(speaker).is_some_and(|open| open.is_some())
            && self.catalog.epoch(speaker) > opening.epoch
        {
            return Err(Refusal::Fenced);
        }
        for stream in &opening.streams {
            self.may_open(known, *stream)?;
        }
        let skew = opening.wall.0.saturating_sub(opening.received.0);
        self.flag_skew(opening.inventory.node.as_str(), skew);
        let boot_time = i64::try_from(opening.boot_time.0).unwrap_or(i64::MAX);
        let offset = opening.received.0.saturating_sub(boot_time);
        let (epoch, writes) = (opening.epoch, &mut self.changes.writes);
        let speaker = match &opening.poller {
            Some(poller) => self.catalog.put_poller(poller, opening.inventory, epoch, skew, writes),
            None => Speaker { node: self.catalog.put_node(opening.inventory, epoch, skew, writes), poller: None },
        };
        if let Some(older) = self.catalog.session(speaker).and_then(|open| open.replace(session)) {
            self.intake.sessions.remove(&older);
        }
        let number = speaker.node;
        let before = self.catalog.boots.get(&(number, opening.boot)).copied();
        if before.is_none_or(|before| before.abs_diff(offset) > DRIFT_NANOS) {
            if let Some(before) = before {
                tracing::warn!(node = number, moved_nanos = offset.saturating_sub(before), "a clock was measured anew");
            }
            self.catalog.put_boot(number, opening.boot, offset, &mut self.changes.writes);
        }
        let ordinals: Vec<u32> = opening.streams.iter().map(|stream| self.bind(speaker, *stream)).collect();
        let mark = |(stream, ordinal): (&StreamId, &u32)| (*stream, self.acked(*ordinal));
        let marks = opening.streams.iter().zip(&ordinals).map(mark).collect();
        self.intake.sessions.insert(session, Session { speaker, streams: ordinals.into_iter().collect() });
        self.intake.counters.add("sessions_total", 1);
        Ok(Reply::Opened(marks))
    }

    /// Tells of a node whose wall clock differs from ours. Its data are placed by our clock all the same.
    fn flag_skew(&self, node: &str, skew: i64) {
        if skew.unsigned_abs() > SKEW_EVENT_NANOS {
            self.intake.counters.add("clock_skew_events_total", 1);
            let what = "the node's wall clock is wrong by more than 10 min: set it; our time is used meanwhile";
            tracing::error!(target: "audit", node, skew_nanos = skew, "{what}");
        } else if skew.unsigned_abs() > SKEW_NANOS {
            tracing::warn!(node, skew_nanos = skew, "the node's wall clock differs from ours; our time is used");
        }
    }

    fn open_stream(&mut self, session: u64, stream: StreamId) -> Result<Reply, Refusal> {
        let speaker = self.intake.sessions.get(&session).map(|open| open.speaker).ok_or(Refusal::Fenced)?;
        self.may_open(Some(speaker), stream)?;
        let ordinal = self.bind(speaker, stream);
        if let Some(open) = self.intake.sessions.get_mut(&session) {
            open.streams.insert(ordinal);
        }
        Ok(Reply::Ack { stream, sequence: self.acked(ordinal), rejects: Vec::new(), record: false })
    }

    fn may_open(&self, speaker: Option<Speaker>, stream: StreamId) -> Result<(), Refusal> {
        match self.catalog.stream(stream).and_then(|ordinal| self.catalog.streams.get(ordinal as usize)) {
            Some(bound) if Some(Speaker::of(bound)) == speaker => Ok(()),
            Some(_) => Err(Refusal::ForeignStream(stream)),
            None if self.streams_of_late(speaker) < STREAMS => Ok(()),
            None => Err(Refusal::TooManyStreams),
        }
    }

    /// Streams of a speaker that may still bring data: an agent begins one after each long outage, for years.
    fn streams_of_late(&self, speaker: Option<Speaker>) -> usize {
        let oldest = self.now.plus_seconds(-ACCEPTED_SECONDS);
        let of_late = |last: Option<UnixNanos>| last.is_none_or(|last| last >= oldest);
        self.catalog.streams.iter().filter(|one| Some(Speaker::of(one)) == speaker && of_late(one.last)).count()
    }

    fn bind(&mut self, speaker: Speaker, stream: StreamId) -> u32 {
        let ordinal = match self.catalog.stream(stream) {
            Some(ordinal) => ordinal,
            None => self.catalog.add_stream(stream, speaker, &mut self.changes.writes),
        };
        let fresh = self.acked(ordinal) == 0;
        self.intake.live.entry(ordinal).or_insert_with(|| Live::begun(fresh));
        ordinal
    }

    fn acked(&self, ordinal: u32) -> u64 {
        self.catalog.streams.get(ordinal as usize).map_or(0, |stream| stream.acked)
    }

    fn close(&mut self, session: u64) {
        let Some(closed) = self.intake.sessions.remove(&session) else { return };
        self.catalog.end_session(closed.speaker, session);
    }

    /// Ordinal of a stream that the session may send for.
    fn place(&self, session: u64, stream: StreamId) -> Result<u32, Refusal> {
        let open = self.intake.sessions.get(&session).ok_or(Refusal::Fenced)?;
        let ordinal = self.catalog.stream(stream).ok_or(Refusal::ClosedStream(stream))?;
        if open.streams.contains(&ordinal) {
            return Ok(ordinal);
        }
        let bound = self.catalog.streams.get(ordinal as usize).map(Speaker::of);
        Err(if bound == Some(open.speaker) { Refusal::ClosedStream(stream) } else { Refusal::ForeignStream(stream) })
    }

    fn define(&mut self, session: u64, stream: StreamId, series: Vec<(u32, Subject)>) -> Result<Reply, Refusal> {
        let ordinal = self.place(session, stream)?;
        let outside = self.catalog.streams.get(ordinal as usize).is_some_and(|one| one.poller.is_some());
        let live = self.intake.live.entry(ordinal).or_default();
        self.intake.counters.add("series_described_total", u64::try_from(series.len()).unwrap_or(u64::MAX));
        for (number, subject) in series {
            if outside && !is_seen_from_outside(&subject) {
                self.intake.counters.add("poller_series_refused_total", 1);
                continue;
            }
            live.describe(ordinal, number, subject, self.catalog);
        }
        Ok(Reply::Done)
    }

    fn end(self) {
        if self.applied > 0 {
            self.intake.counters.add("records_applied_total", self.applied);
        }
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
