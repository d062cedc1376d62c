//! Telemetry from agents: decode, validate, dedupe, commit, acknowledge.
//!
//! One task owns the state of ingest and commits in groups; sessions send it requests over a bounded queue and get
//! their replies only after the commit is on the disk. So an acknowledgement never comes before what it acknowledges,
//! and a slow disk slows the agents and fills no memory.

pub mod commit;
mod session;
pub mod validate;

pub use commit::{Intake, Opening, Refusal, Reject, Reply, Request};
pub use session::Telemetry;

use crate::clock::Clock;
use crate::store::StoreError;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout_at};

/// Longest time a request waits for others to be committed with it.
pub const COMMIT_DELAY: Duration = Duration::from_millis(100);
/// Most requests of one commit.
pub const COMMIT_RECORDS: usize = 256;
/// Requests that may wait; when full, sessions stop reading and the transport holds the agents back.
const QUEUE: usize = 1024;
/// Bytes of records that may wait, in all.
const QUEUE_BYTES: usize = 64 << 20;

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
    reply: Option<mpsc::UnboundedSender<Reply>>,
    /// Its share of the queue's bytes, given back after the commit.
    _bytes: Option<OwnedSemaphorePermit>,
}

/// The sessions' end of the queue.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    jobs: mpsc::Sender<Job>,
    bytes: Arc<Semaphore>,
}

/// The committer is gone: its database failed, or the aggregator stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the aggregator does not store any more")]
pub(crate) struct Gone;

impl Queue {
    /// Waits for room and sends a request; replies go to `reply`, after the commit.
    async fn send(
        &self,
        request: Request,
        bytes: usize,
        reply: Option<&mpsc::UnboundedSender<Reply>>,
    ) -> Result<(), Gone> {
        let permits = u32::try_from(bytes.min(QUEUE_BYTES)).unwrap_or(u32::MAX);
        let permit = match permits {
            0 => None,
            _ => Some(Arc::clone(&self.bytes).acquire_many_owned(permits).await.map_err(|_| Gone)?),
        };
        let job = Job { request, reply: reply.cloned(), _bytes: permit };
        self.jobs.send(job).await.map_err(|_| Gone)
    }

    /// Ends when nothing will be committed any more.
    async fn closed(&self) {
        self.jobs.closed().await;
    }
}

/// The committer's end of the queue.
#[derive(Debug)]
pub struct Committer {
    intake: Intake,
    jobs: mpsc::Receiver<Job>,
    /// Whether the runtime waits for the disk.
    on_runtime: bool,
}

/// Makes the service and the task that commits for it. `shutdown` turning true ends the sessions.
pub fn telemetry(intake: Intake, clock: Arc<dyn Clock>, shutdown: watch::Receiver<bool>) -> (Telemetry, Committer) {
    let (sender, jobs) = mpsc::channel(QUEUE);
    let queue = Queue { jobs: sender, bytes: Arc::new(Semaphore::new(QUEUE_BYTES)) };
    (Telemetry::new(queue, intake.cluster(), clock, shutdown), Committer { intake, jobs, on_runtime: false })
}

impl Committer {
    /// The same without a thread of its own for the disk. For simulations, in which everything must happen in the same
    /// order each time.
    #[must_use]
    pub fn on_runtime(self) -> Self {
        Self { on_runtime: true, ..self }
    }

    /// Commits until every session and the service are gone and the queue is empty. Fails at the first commit that
    /// fails; nothing of it was acknowledged.
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
            self = self.commit(group, clock.as_ref()).await?;
        }
        Ok(())
    }

    async fn commit(self, group: Vec<Job>, clock: &dyn Clock) -> Result<Self, StoreError> {
        let now = clock.unix();
        let Self { mut intake, jobs, on_runtime } = self;
        let (mut requests, mut waiting) = (Vec::with_capacity(group.len()), Vec::with_capacity(group.len()));
        for job in group {
            requests.push(job.request);
            waiting.push((job.reply, job._bytes));
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
        for ((sender, _), reply) in waiting.into_iter().zip(replies?) {
            if let Some(sender) = sender {
                // A session that went away asks for its marks again when it is back.
                let _ = sender.send(reply);
            }
        }
        Ok(Self { intake, jobs, on_runtime })
    }
}
