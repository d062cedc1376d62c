//! The bounded queue on disk between the sampler and the uplink.
//!
//! A record is durable here before it is first sent, and stays until it is acknowledged. One thread owns the files
//! ([`worker`]); everyone else holds a [`SpoolHandle`]. There is a [`queue`] for each stream: after an outage live data
//! goes to a new one ([`lanes`]). At the size cap the oldest segment is dropped, counted, and declared to the aggregator
//! as a gap, and while the disk is full batches wait in memory: nothing disappears silently.

mod cursor;
mod entry;
mod error;
mod folder;
mod lanes;
mod loss;
mod queue;
pub mod record;
mod segment;
#[cfg(test)]
mod tests;
mod worker;

use bytes::Bytes;
use joulebook_units::{Batch, BootId, BootNanos, LossReason, StreamGap, StreamId, Subject, UnixNanos};
use lanes::Lanes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use worker::{Reply, Request, Worker};

pub use error::SpoolError;
pub use lanes::{MAX_LANES, read_all};

/// Requests that may wait for the spool's thread.
const WAITING_REQUESTS: usize = 64;

/// Where and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolConfig {
    /// The folder; made (mode 0700) if its parent exists.
    pub dir: PathBuf,
    /// Most bytes of all segments and of the files of losses, at least twice `segment_bytes`.
    pub max_bytes: u64,
    /// Bytes of the file system to leave free: below, the spool does not grow, it drops a segment for each new one.
    pub min_free_bytes: u64,
    /// Size at which a new segment is begun, at least 4 KiB.
    pub segment_bytes: u64,
    /// Most bytes of acknowledged segments that are kept, for an aggregator that lost what it had acknowledged.
    pub rewind_bytes: u64,
    /// Keep acknowledged segments up to `max_bytes`, for audits.
    pub keep_acked: bool,
}

impl SpoolConfig {
    /// The defaults for a folder: 1 GiB in segments of 16 MiB, of which a quarter may be acknowledged, 512 MiB left free.
    pub fn new(dir: PathBuf) -> Self {
        let (max_bytes, segment_bytes) = (1 << 30, 16 << 20);
        Self {
            dir,
            max_bytes,
            min_free_bytes: 512 << 20,
            segment_bytes,
            rewind_bytes: max_bytes / 4,
            keep_acked: false,
        }
    }

    /// The bytes to leave free where nothing else is wanted: 512 MiB, or a twentieth of a smaller file system.
    pub fn default_min_free(dir: &Path) -> u64 {
        // A folder that is not there yet comes to be on the file system of its parent; what cannot be looked at now is
        // refused when it is opened.
        let looked = folder::min_free(dir).or_else(|error| dir.parent().map_or(Err(error), folder::min_free));
        looked.unwrap_or(512 << 20)
    }
}

/// The raw side of one cumulative series: what its next value is worked out from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Baseline {
    /// The series.
    pub series: u32,
    /// The hardware's or kernel's own counter.
    pub raw: u64,
    /// The cumulative value that belongs to it.
    pub value: u64,
    /// When both were read.
    pub at: BootNanos,
    /// Epoch of the driver or process that counts: another one means another counter.
    pub epoch: u64,
}

/// What the agent needs to go on after a restart. Stored with each record, never sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalState {
    /// The boot the times are on.
    pub boot: BootId,
    /// Boot clock when this was taken.
    pub at: BootNanos,
    /// Wall clock when this was taken.
    pub wall: UnixNanos,
    /// One for each cumulative series.
    pub baselines: Vec<Baseline>,
}

/// The newest record of a spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastRecord {
    /// Its number.
    pub sequence: u64,
    /// Its rows.
    pub batch: Batch,
    /// Its local part.
    pub local: LocalState,
}

/// What a spool held when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The stream.
    pub stream: StreamId,
    /// Number of this start, from 1; durable.
    pub session_epoch: u64,
    /// Every definition held. A new series takes a number above all of these.
    pub dictionary: BTreeMap<u32, Subject>,
    /// The newest record, if there is one.
    pub last: Option<LastRecord>,
    /// Highest number ever assigned; 0 if none.
    pub highest_sequence: u64,
}

/// A record as it lies in a spool, for tests and audits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its number.
    pub sequence: u64,
    /// Its rows.
    pub batch: Batch,
    /// Its local part.
    pub local: LocalState,
}

/// What comes after a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The next record.
    Record {
        /// Its number.
        sequence: u64,
        /// The payload exactly as it is sent.
        payload: Bytes,
        /// First 16 bytes of BLAKE3 of the payload.
        hash: [u8; 16],
        /// Number of values in it.
        samples: u32,
        /// It may need every definition of [`SpoolHandle::definitions_from`] below this ordinal.
        dictionary_upto: u64,
    },
    /// The next numbers are lost.
    Gap(StreamGap),
    /// Nothing yet.
    None,
}

/// A stream that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamState {
    /// Its identity.
    pub stream: StreamId,
    /// Highest number assigned in it; that of an older stream does not change any more.
    pub highest: u64,
    /// Highest number acknowledged.
    pub acked: u64,
}

/// Records that this run of the agent declared lost, by reason. What only the aggregator misses is none of them: it was
/// acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LostByReason {
    /// The spool reached its size: the oldest went.
    pub spool_full: u64,
    /// They were damaged.
    pub corrupt: u64,
    /// The disk took no more, nor did the memory.
    pub no_space: u64,
}

impl LostByReason {
    fn add(&mut self, reason: LossReason, records: u64) {
        match reason {
            LossReason::SpoolFull => self.spool_full += records,
            LossReason::Corrupt => self.corrupt += records,
            LossReason::NoSpace => self.no_space += records,
            LossReason::Rewind => {}
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            spool_full: self.spool_full + other.spool_full,
            corrupt: self.corrupt + other.corrupt,
            no_space: self.no_space + other.no_space,
        }
    }
}

/// The spool's state and counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// The live stream.
    pub stream: StreamId,
    /// Highest number assigned in it.
    pub highest: u64,
    /// Highest number acknowledged in it.
    pub acked: u64,
    /// Records of all streams that are not acknowledged.
    pub waiting: u64,
    /// Batches that wait in memory because the disk takes nothing.
    pub in_memory: u64,
    /// Streams held.
    pub streams: u64,
    /// Records appended since the start of this agent.
    pub appended: u64,
    /// Records lost since the spool was initialised.
    pub lost_records: u64,
    /// Values lost since the spool was initialised, as far as they are known.
    pub lost_samples: u64,
    /// Of the lost records those of this run, by reason.
    pub lost_by_reason: LostByReason,
    /// Damaged places found at start or when reading.
    pub damaged: u64,
    /// Files under a segment's name that are left alone: not ours, of another stream or a later format.
    pub foreign: u64,
    /// Segments of a later format among them.
    pub newer: u64,
    /// Bytes of all segments and of the files of losses.
    pub bytes: u64,
    /// Number of segments.
    pub segments: u64,
}

/// Opens spools.
#[derive(Debug)]
pub struct Spool;

impl Spool {
    /// Opens the spool of a folder, or initialises one, and starts its thread. The thread ends, and the folder's lock
    /// is released, when every handle is gone or [`SpoolHandle::close`] was called.
    ///
    /// # Errors
    /// Nothing is started: see [`SpoolError`].
    pub fn open(config: &SpoolConfig) -> Result<(SpoolHandle, Recovery), SpoolError> {
        let (worker, handle, recovery) = Self::prepare(config)?;
        let thread = std::thread::Builder::new().name("spool".into());
        thread.spawn(move || worker.serve_on_thread()).map_err(|source| SpoolError::Io {
            what: "starting the thread of",
            path: config.dir.clone(),
            source,
        })?;
        Ok((handle, recovery))
    }

    /// As [`Spool::open`], with a task of the current runtime in place of the thread: it holds the runtime up while it
    /// writes. For simulations, in which everything must happen in the same order each time.
    ///
    /// # Errors
    /// See [`Spool::open`].
    pub fn open_on_runtime(config: &SpoolConfig) -> Result<(SpoolHandle, Recovery), SpoolError> {
        let (worker, handle, recovery) = Self::prepare(config)?;
        tokio::spawn(worker.serve_on_runtime());
        Ok((handle, recovery))
    }

    fn prepare(config: &SpoolConfig) -> Result<(Worker, SpoolHandle, Recovery), SpoolError> {
        let (lanes, recovery) = Lanes::open(config)?;
        let (requests, waiting) = mpsc::channel(WAITING_REQUESTS);
        let (counters, shown) = watch::channel(lanes.counters());
        let handle = SpoolHandle { requests, counters: shown, session_epoch: recovery.session_epoch };
        Ok((Worker { lanes, waiting, counters }, handle, recovery))
    }
}

/// Access to an open spool.
#[derive(Debug, Clone)]
pub struct SpoolHandle {
    requests: mpsc::Sender<Request>,
    counters: watch::Receiver<Counters>,
    session_epoch: u64,
}

impl SpoolHandle {
    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, SpoolError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| SpoolError::Closed)?;
        answer.await.map_err(|_| SpoolError::Closed)?
    }

    /// The live stream.
    pub fn stream(&self) -> StreamId {
        self.counters.borrow().stream
    }

    /// Number of this start of the agent on this spool, from 1.
    pub fn session_epoch(&self) -> u64 {
        self.session_epoch
    }

    /// Appends a batch with its local part and the definitions that it is the first to use. Returns its number in the live
    /// stream; it is durable then.
    ///
    /// # Errors
    /// `NoSpace`: it waits in memory, 8 MiB at most, and is written by the next append, or [`Self::write_waiting`], that
    /// finds space; then the oldest that waits is declared lost. `Refused`, `TooLarge`: it cannot be recorded and is
    /// declared lost. After any other error the spool is closed.
    pub async fn append(
        &self,
        batch: Batch,
        local: LocalState,
        new_series: Vec<(u32, Subject)>,
    ) -> Result<u64, SpoolError> {
        let (batch, begins_stream) = (Box::new(batch), false);
        self.ask(|reply| Request::Append { batch, local, new_series, begins_stream, reply }).await
    }

    /// Appends the first batch of a new stream, which is the live one from then on; see [`Self::append`]. Its cumulative
    /// values begin at 0, with the last row of the stream before it as their origin.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub async fn begin_stream(
        &self,
        batch: Batch,
        local: LocalState,
        new_series: Vec<(u32, Subject)>,
    ) -> Result<u64, SpoolError> {
        let (batch, begins_stream) = (Box::new(batch), true);
        self.ask(|reply| Request::Append { batch, local, new_series, begins_stream, reply }).await
    }

    /// Writes what waits in memory, if the disk takes it.
    ///
    /// # Errors
    /// `NoSpace` if some waits on.
    pub async fn write_waiting(&self) -> Result<(), SpoolError> {
        self.ask(|reply| Request::WriteWaiting { reply }).await.map(drop)
    }

    /// The streams that a session is to open, oldest first, the live one last: at most [`MAX_LANES`].
    pub async fn streams(&self) -> Result<Vec<StreamState>, SpoolError> {
        self.ask(|reply| Request::Streams { reply }).await
    }

    /// What comes after `sequence` in a stream: a record, a declared loss, or nothing yet.
    pub async fn next_after(&self, stream: StreamId, sequence: u64) -> Result<Item, SpoolError> {
        self.ask(|reply| Request::NextAfter { stream, sequence, reply }).await
    }

    /// Every record of a stream up to `sequence` is stored at the aggregator and may go. A number above the highest
    /// assigned one raises that: the aggregator knows of records that this spool lost.
    pub async fn acked(&self, stream: StreamId, sequence: u64) -> Result<(), SpoolError> {
        self.ask(|reply| Request::Acked { stream, sequence, reply }).await
    }

    /// The definitions of a stream from an ordinal on, in the order in which they became known.
    pub async fn definitions_from(&self, stream: StreamId, ordinal: u64) -> Result<Vec<(u32, Subject)>, SpoolError> {
        self.ask(|reply| Request::DefinitionsFrom { stream, ordinal, reply }).await
    }

    /// State and counters, now.
    pub fn counters(&self) -> Counters {
        *self.counters.borrow()
    }

    /// State and counters, whenever they change. Closes when the spool does.
    pub fn watch(&self) -> watch::Receiver<Counters> {
        self.counters.clone()
    }

    /// Waits until every record is acknowledged; false if that has not come within `timeout`.
    pub async fn drained(&self, timeout: Duration) -> bool {
        let mut counters = self.counters.clone();
        let all = counters.wait_for(|counters| counters.waiting == 0 && counters.in_memory == 0);
        matches!(tokio::time::timeout(timeout, all).await, Ok(Ok(_)))
    }

    /// Saves the cursor and closes the files. The folder may be opened again afterwards.
    pub async fn close(&self) -> Result<(), SpoolError> {
        self.ask(|reply| Request::Close { reply }).await
    }
}
