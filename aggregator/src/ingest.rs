//! Telemetry from agents: decode, validate, dedupe, commit, acknowledge.
//!
//! One task owns the state of ingest and commits in groups; sessions send it requests over a bounded queue and get
//! their replies only after the commit is on the disk. So an acknowledgement never comes before what it acknowledges,
//! and a slow disk slows the agents and fills no memory.

pub mod commit;
pub mod pressure;
mod session;
#[cfg(test)]
mod tests;
pub mod validate;

pub use commit::{Intake, Opening, Refusal, Reject, Reply, Request};
pub use session::Telemetry;

use crate::clock::Clock;
use crate::memory::Memory;
use crate::store::StoreError;
use crate::store::space::Space;
use pressure::{Cause, Pressure};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

/// Longest time a request waits for others to be committed with it.
pub const COMMIT_DELAY: Duration = Duration::from_millis(100);
/// Most requests of one commit.
pub const COMMIT_RECORDS: usize = 256;
/// Requests that may wait; when full, sessions stop reading and the transport holds the agents back.
const QUEUE: usize = 1024;
/// How often the disk is looked at while nothing may be written.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bytes of records that may wait, in all and of one session.
const QUEUE_BYTES: usize = 64 << 20;
const SESSION_BYTES: usize = 1 << 20;
/// From one half of the queue on, by number or bytes, no credit is granted, until less than a quarter waits.
const PRESSING_PART: usize = 2;
const EASY_PART: usize = 4;

/// Counters since start, by name.
#[derive(Debug, Default)]
pub struct Counters(Mutex<BTreeMap<&'static str, u64>>);

impl Counters {
    /// Adds to a counter.
    pub fn add(&self, name: &'static str, count: u64) {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counter = counters.entry(name).or_default();
        *counter = counter.saturating_add(count);
    }

    /// Sets one that is a state, not a count.
    pub fn set(&self, name: &'static str, value: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name, value);
    }

    /// All of them.
    pub fn all(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A request and where its reply goes.
#[derive(Debug)]
pub(crate) struct Job {
    request: Request,
    reply: Option<mpsc::Sender<Box<Reply>>>,
    /// Its shares of the queue's and of its session's bytes, given back after the commit.
    _bytes: [Option<OwnedSemaphorePermit>; 2],
}

/// The sessions' end of the queue.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    jobs: mpsc::Sender<Job>,
    bytes: Arc<Semaphore>,
    pressure: Pressure,
}

/// A session's place at the queue: where its replies go, and what may wait of it. Replies are boxed, since a channel keeps
/// room for 32 of them as long as its session lasts.
#[derive(Debug)]
pub(crate) struct Counter {
    replies: mpsc::Sender<Box<Reply>>,
    bytes: Arc<Semaphore>,
}

impl Counter {
    /// A place, and the replies to what is sent from there. The caller has at most `requests` under way.
    fn new(requests: usize) -> (Self, mpsc::Receiver<Box<Reply>>) {
        let (replies, received) = mpsc::channel(requests);
        (Self { replies, bytes: Arc::new(Semaphore::new(SESSION_BYTES)) }, received)
    }
}

/// How full the queue is, for those who look from outside.
#[derive(Debug, Clone)]
pub(crate) struct Waiting(mpsc::WeakSender<Job>);

impl Waiting {
    /// Whether anything waits.
    fn any(&self) -> bool {
        self.0.upgrade().is_some_and(|jobs| jobs.capacity() < QUEUE)
    }
}

/// The committer is gone: its database failed, or the aggregator stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the aggregator does not store any more")]
pub(crate) struct Gone;

impl Queue {
    /// Waits for room and sends a request that takes so many bytes; its reply comes after the commit.
    async fn send(&self, request: Request, bytes: usize, from: Option<&Counter>) -> Result<(), Gone> {
        let own = match from {
            Some(from) => take(&from.bytes, bytes.min(SESSION_BYTES)).await?,
            None => None,
        };
        let shared = take(&self.bytes, bytes.min(QUEUE_BYTES)).await?;
        let job = Job { request, reply: from.map(|from| from.replies.clone()), _bytes: [own, shared] };
        let sent = self.jobs.send(job).await.map_err(|_| Gone);
        if self.waits(PRESSING_PART) {
            self.pressure.set(Cause::Queue, true);
        }
        sent
    }

    /// Whether at least one part in so many of the queue waits.
    fn waits(&self, part: usize) -> bool {
        waits(self.jobs.capacity(), &self.bytes, part)
    }

    /// Ends when nothing will be committed any more.
    async fn closed(&self) {
        self.jobs.closed().await;
    }
}

async fn take(bytes: &Arc<Semaphore>, count: usize) -> Result<Option<OwnedSemaphorePermit>, Gone> {
    match u32::try_from(count).unwrap_or(u32::MAX) {
        0 => Ok(None),
        count => Ok(Some(Arc::clone(bytes).acquire_many_owned(count).await.map_err(|_| Gone)?)),
    }
}

fn waits(free: usize, bytes: &Semaphore, part: usize) -> bool {
    QUEUE - free >= QUEUE / part || QUEUE_BYTES - bytes.available_permits() >= QUEUE_BYTES / part
}

/// The committer's end of the queue.
#[derive(Debug)]
pub struct Committer {
    intake: Intake,
    jobs: mpsc::Receiver<Job>,
    bytes: Arc<Semaphore>,
    pressure: Pressure,
    waiting: Waiting,
    space: Arc<Space>,
    /// Whether the runtime waits for the disk.
    on_runtime: bool,
}

/// Makes the service and the task that commits for it while `space` has room. `shutdown` turning true ends the sessions.
pub fn telemetry(
    intake: Intake,
    space: Arc<Space>,
    clock: Arc<dyn Clock>,
    shutdown: watch::Receiver<bool>,
) -> (Telemetry, Committer) {
    let (sender, jobs) = mpsc::channel(QUEUE);
    let (bytes, pressure) = (Arc::new(Semaphore::new(QUEUE_BYTES)), Pressure::new(intake.counters()));
    let waiting = Waiting(sender.downgrade());
    let queue = Queue { jobs: sender, bytes: Arc::clone(&bytes), pressure: pressure.clone() };
    let telemetry = Telemetry::new(queue, &intake, clock, shutdown);
    (telemetry, Committer { intake, jobs, bytes, pressure, waiting, space, on_runtime: false })
}

impl Committer {
    /// The same without a thread of its own for the disk. For simulations, in which everything must happen in the same
    /// order each time.
    #[must_use]
    pub fn on_runtime(self) -> Self {
        Self { on_runtime: true, ..self }
    }

    /// What makes agents wait; whoever knows of a cause sets it.
    pub fn pressure(&self) -> Pressure {
        self.pressure.clone()
    }

    /// Watches that the process keeps within its memory, for ever.
    pub fn watch_memory(&self, memory: Memory) -> impl Future<Output = ()> + use<> {
        pressure::memory::watch(memory, self.pressure.clone(), self.waiting.clone())
    }

    /// Commits until every session and the service are gone and the queue is empty. Fails at the first commit that
    /// fails; nothing of it was acknowledged. Without room on the disk it commits nothing, and tells the sessions to come
    /// again; after a commit that met a full disk it fails once there is room, since the engine must be opened anew.
    pub async fn run(mut self, clock: Arc<dyn Clock>) -> Result<(), StoreError> {
        while let Some(first) = self.jobs.recv().await {
            let until = Instant::now() + COMMIT_DELAY;
            let mut group = vec![first];
            while group.len() < COMMIT_RECORDS {
                match timeout_at(until, self.jobs.recv()).await {
                    Ok(Some(job)) => group.push(job),
                    Ok(None) | Err(_) => break,
                }
            }
            if !self.space.is_open() {
                self.hold(group);
                continue;
            }
            match self.commit(group, clock.as_ref()).await? {
                (this, Ok(())) => self = this,
                (this, Err(full)) => return this.wait_for_space(full).await,
            }
        }
        Ok(())
    }

    /// Commits a group and replies to it. A full disk is told apart from other failures: the group is held then.
    async fn commit(self, group: Vec<Job>, clock: &dyn Clock) -> Result<(Self, Result<(), StoreError>), StoreError> {
        let now = clock.unix();
        let Self { mut intake, jobs, bytes, pressure, waiting, space, on_runtime } = self;
        let counters = intake.counters();
        let (mut requests, mut senders) = (Vec::with_capacity(group.len()), Vec::with_capacity(group.len()));
        let mut payloads = 0u64;
        for job in group {
            if let Request::Record { payload, .. } = &job.request {
                payloads = payloads.saturating_add(u64::try_from(payload.len()).unwrap_or(u64::MAX));
            }
            requests.push(job.request);
            senders.push((job.reply, job._bytes));
        }
        let apply = move || {
            let replies = intake.apply(now, requests);
            (intake, replies)
        };
        let (intake, replies) = if on_runtime {
            apply()
        } else {
            // The disk may take long; the runtime's threads go on with other sessions.
            let applied = tokio::task::spawn_blocking(apply).await;
            applied.map_err(|error| StoreError::Latched { reason: error.to_string() })?
        };
        let (replies, outcome) = match replies {
            Ok(replies) => {
                if payloads > 0 {
                    counters.add("record_commits_total", 1);
                    counters.add("record_bytes_total", payloads);
                }
                (replies, Ok(()))
            }
            // Marks in memory are those of the commit that failed: nobody is told one.
            Err(full @ StoreError::Full { .. }) => (vec![Reply::Held(Vec::new()); senders.len()], Err(full)),
            Err(error) => return Err(error),
        };
        for ((sender, _), reply) in senders.into_iter().zip(replies) {
            if let Some(sender) = sender {
                // There is room for every reply that a session waits for. One that went away asks for its marks again
                // when it is back.
                let _ = sender.try_send(Box::new(reply));
            }
        }
        if !waits(QUEUE - jobs.len(), &bytes, EASY_PART) {
            pressure.set(Cause::Queue, false);
        }
        Ok((Self { intake, jobs, bytes, pressure, waiting, space, on_runtime }, outcome))
    }

    /// Writes nothing of a group; every session is told its marks and to come again.
    fn hold(&mut self, group: Vec<Job>) {
        for job in group {
            let reply = self.intake.hold(&job.request);
            if let Some(sender) = job.reply {
                // As for the reply of a commit.
                let _ = sender.try_send(Box::new(reply));
            }
        }
    }

    /// Holds whatever comes until there is room, and then fails: the database latched the error.
    async fn wait_for_space(mut self, full: StoreError) -> Result<(), StoreError> {
        tracing::error!(error = %full, "nothing is stored until there is room; then the aggregator starts again");
        self.intake = self.intake.anew()?;
        while !self.space.is_open() {
            match timeout(LOOK_EVERY, self.jobs.recv()).await {
                Ok(Some(job)) => self.hold(vec![job]),
                Ok(None) => break,
                Err(_) => {}
            }
        }
        Err(full)
    }
}
