//! The bounded queue on disk between the sampler and the uplink.
//!
//! A record is durable here before it is first sent, and stays until it is acknowledged. One thread owns the files
//! ([`queue`]); everyone else holds a [`SpoolHandle`]. At the size cap the oldest segment is dropped, counted, and
//! declared to the aggregator as a gap: nothing disappears silently.

mod cursor;
mod queue;
pub mod record;
mod segment;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use joulebook_proto::convert::ConvertError;
use joulebook_units::{Batch, BootId, BootNanos, StreamGap, StreamId, Subject, UnixNanos};
use queue::Queue;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

pub use queue::read_all;

/// Requests that may wait for the spool's thread.
const WAITING_REQUESTS: usize = 64;

/// Where and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolConfig {
    /// The folder; made (mode 0700) if its parent exists.
    pub dir: PathBuf,
    /// Most bytes of all segments, at least twice `segment_bytes`.
    pub max_bytes: u64,
    /// Bytes of the file system to leave free: below, the spool shrinks to its newest segments.
    pub min_free_bytes: u64,
    /// Size at which a new segment is begun, at least 4 KiB.
    pub segment_bytes: u64,
    /// Keep acknowledged segments up to `max_bytes`, for audits.
    pub keep_acked: bool,
}

impl SpoolConfig {
    /// The defaults for a folder: 1 GiB in segments of 16 MiB, 512 MiB left free.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, max_bytes: 1 << 30, min_free_bytes: 512 << 20, segment_bytes: 16 << 20, keep_acked: false }
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
        /// How many definitions (of [`SpoolHandle::definitions_from`]) it may need.
        dictionary_upto: usize,
    },
    /// The next numbers are lost.
    Gap(StreamGap),
    /// Nothing yet.
    None,
}

/// The spool's state and counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Highest number assigned.
    pub highest: u64,
    /// Highest number acknowledged.
    pub acked: u64,
    /// Records appended since the start of this agent.
    pub appended: u64,
    /// Records lost since the stream began.
    pub lost_records: u64,
    /// Values lost since the stream began, as far as they are known.
    pub lost_samples: u64,
    /// Damaged places found at start or when reading.
    pub damaged: u64,
    /// Files under a segment's name that are left alone: not ours, of another stream or a later format.
    pub foreign: u64,
    /// Segments of a later format among them.
    pub newer: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Number of segments.
    pub segments: u64,
}

/// Why the spool cannot do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another agent uses the folder.
    #[error("another agent uses the spool {}: stop it, or give this one a folder of its own", dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder may not be used.
    #[error("the spool needs {} to be writable and owned by this user: {why}", path.display())]
    Permission {
        /// The folder or file.
        path: PathBuf,
        /// What was tried.
        why: String,
    },
    /// The folder cannot be as configured.
    #[error("spool {}: {why}", path.display())]
    Configuration {
        /// The folder.
        path: PathBuf,
        /// What to change.
        why: &'static str,
    },
    /// A file operation failed.
    #[error("{what} {} failed", path.display())]
    Io {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it was.
    #[error("spool file {} cannot be used: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// The file system takes no more and nothing older is left to drop. The record was not taken.
    #[error("no space for {}: free some, or lower spool.max_bytes", path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
    },
    /// A batch that breaks a rule of the contract. It was not taken.
    #[error("the batch cannot be recorded")]
    Refused(#[from] ConvertError),
    /// A record over 1 MiB. It was not taken.
    #[error("the record is larger than 1 MiB")]
    TooLarge,
    /// The spool stopped after an earlier error, or was closed.
    #[error("the spool is closed")]
    Closed,
}

impl SpoolError {
    /// The exit code of an agent that cannot go on because of this.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Locked { .. } | Self::NoSpace { .. } => 75,
            Self::Permission { .. } => 77,
            Self::Configuration { .. } => 78,
            Self::Io { .. } | Self::Damaged { .. } | Self::Refused(_) | Self::TooLarge | Self::Closed => 74,
        }
    }

    /// Whether the spool can take nothing more after this.
    fn is_fatal(&self) -> bool {
        !matches!(self, Self::NoSpace { .. } | Self::Refused(_) | Self::TooLarge)
    }
}

fn io_error(what: &'static str, path: &Path) -> impl Fn(std::io::Error) -> SpoolError {
    move |source| match source.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            SpoolError::Permission { path: path.into(), why: format!("{what} it failed: {source}") }
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => SpoolError::NoSpace { path: path.into() },
        _ => SpoolError::Io { what, path: path.into(), source },
    }
}

type Reply<T> = oneshot::Sender<Result<T, SpoolError>>;

enum Request {
    Append { batch: Box<Batch>, local: LocalState, new_series: Vec<(u32, Subject)>, reply: Reply<u64> },
    NextAfter { sequence: u64, reply: Reply<Item> },
    Acked { sequence: u64, reply: Reply<()> },
    DefinitionsFrom { index: usize, reply: Reply<Vec<(u32, Subject)>> },
    Close { reply: Reply<()> },
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
        let (owner, handle, recovery) = Owner::open(config)?;
        let thread = std::thread::Builder::new().name("spool".into());
        thread.spawn(move || owner.serve_on_thread()).map_err(|source| SpoolError::Io {
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
        let (owner, handle, recovery) = Owner::open(config)?;
        tokio::spawn(owner.serve_on_runtime());
        Ok((handle, recovery))
    }
}

/// Owns the files, and answers requests until the channel closes or the files can no longer be trusted.
struct Owner {
    queue: Queue,
    waiting: mpsc::Receiver<Request>,
    counters: watch::Sender<Counters>,
}

impl Owner {
    fn open(config: &SpoolConfig) -> Result<(Self, SpoolHandle, Recovery), SpoolError> {
        let (queue, recovery) = Queue::open(config)?;
        let (requests, waiting) = mpsc::channel(WAITING_REQUESTS);
        let (counters, shown) = watch::channel(queue.counters());
        let (stream, session_epoch) = (recovery.stream, recovery.session_epoch);
        let handle = SpoolHandle { requests, counters: shown, stream, session_epoch };
        Ok((Self { queue, waiting, counters }, handle, recovery))
    }

    fn serve_on_thread(mut self) {
        while let Some(request) = self.waiting.blocking_recv() {
            match self.handle(request) {
                Some(owner) => self = owner,
                None => return,
            }
        }
        self.end();
    }

    async fn serve_on_runtime(mut self) {
        while let Some(request) = self.waiting.recv().await {
            match self.handle(request) {
                Some(owner) => self = owner,
                None => return,
            }
        }
        self.end();
    }

    /// Carries a request out; none if the spool must stop.
    fn handle(mut self, request: Request) -> Option<Self> {
        let alive = match request {
            Request::Append { batch, local, new_series, reply } => {
                let result = self.queue.append(&batch, &local, &new_series);
                self.answer(reply, result)
            }
            Request::NextAfter { sequence, reply } => {
                let result = self.queue.next_after(sequence);
                self.answer(reply, result)
            }
            Request::Acked { sequence, reply } => {
                let result = self.queue.acked(sequence);
                self.answer(reply, result)
            }
            Request::DefinitionsFrom { index, reply } => {
                let result = Ok(self.queue.definitions_from(index));
                self.answer(reply, result)
            }
            Request::Close { reply } => {
                let result = self.queue.save_cursor();
                drop(self);
                let _ = reply.send(result);
                return None;
            }
        };
        alive.then_some(self)
    }

    /// Shows the counters if they changed (who watches them would else wake for its own questions), then sends the
    /// result; false if the spool must stop.
    fn answer<T>(&self, reply: Reply<T>, result: Result<T, SpoolError>) -> bool {
        let counters = self.queue.counters();
        self.counters.send_if_modified(|shown| std::mem::replace(shown, counters) != counters);
        let alive = !result.as_ref().is_err_and(SpoolError::is_fatal);
        // An asker that went away does not need the answer; the work is done.
        let _ = reply.send(result);
        alive
    }

    /// Nobody asks any more.
    fn end(mut self) {
        if let Err(error) = self.queue.save_cursor() {
            tracing::warn!(%error, "the spool's cursor was not saved: some records will be sent again");
        }
    }
}

/// Access to an open spool.
#[derive(Debug, Clone)]
pub struct SpoolHandle {
    requests: mpsc::Sender<Request>,
    counters: watch::Receiver<Counters>,
    stream: StreamId,
    session_epoch: u64,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Request")
    }
}

impl SpoolHandle {
    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, SpoolError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| SpoolError::Closed)?;
        answer.await.map_err(|_| SpoolError::Closed)?
    }

    /// The stream of this spool.
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// Number of this start of the agent on this spool, from 1.
    pub fn session_epoch(&self) -> u64 {
        self.session_epoch
    }

    /// Appends a batch with its local part and the definitions that it is the first to use. Returns its number; it is
    /// durable then.
    ///
    /// # Errors
    /// After `NoSpace`, `Refused` and `TooLarge` the record was not taken and the spool goes on; after any other error
    /// the spool is closed.
    pub async fn append(
        &self,
        batch: Batch,
        local: LocalState,
        new_series: Vec<(u32, Subject)>,
    ) -> Result<u64, SpoolError> {
        self.ask(|reply| Request::Append { batch: Box::new(batch), local, new_series, reply }).await
    }

    /// What comes after `sequence`: a record, a declared loss, or nothing yet.
    pub async fn next_after(&self, sequence: u64) -> Result<Item, SpoolError> {
        self.ask(|reply| Request::NextAfter { sequence, reply }).await
    }

    /// Every record up to `sequence` is stored at the aggregator and may go. A number above the highest assigned one
    /// raises that: the aggregator knows of records that this spool lost.
    pub async fn acked(&self, sequence: u64) -> Result<(), SpoolError> {
        self.ask(|reply| Request::Acked { sequence, reply }).await
    }

    /// All definitions, to send after Hello.
    pub async fn dictionary(&self) -> Result<Vec<(u32, Subject)>, SpoolError> {
        self.definitions_from(0).await
    }

    /// The definitions from the `index`th on, in the order in which they became known.
    pub async fn definitions_from(&self, index: usize) -> Result<Vec<(u32, Subject)>, SpoolError> {
        self.ask(|reply| Request::DefinitionsFrom { index, reply }).await
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
        let all = counters.wait_for(|counters| counters.acked >= counters.highest);
        matches!(tokio::time::timeout(timeout, all).await, Ok(Ok(_)))
    }

    /// Saves the cursor and closes the files. The folder may be opened again afterwards.
    pub async fn close(&self) -> Result<(), SpoolError> {
        self.ask(|reply| Request::Close { reply }).await
    }
}
