//! The agent's page of metrics: how sources, spool and session are, what was lost, and what the agent itself costs.
//!
//! No energy of the node is on it: a power meter that anybody can read each second shows what a machine computes. The
//! samplers are asked when the page is, so that it costs nothing while nobody reads it.

mod cost;
pub(crate) mod export;
pub mod listener;
pub mod name;

use crate::inference::{Failure, TargetState};
use crate::sampler::status::{SourceStatus, Status};
use crate::spool::Counters;
use crate::uplink::UplinkCounters;
use cost::Cost;
use joulebook_otlp::trace::queues;
use joulebook_otlp::{Queue, Signal};
use joulebook_proto::metrics::{Point, Points};
use joulebook_timex::Kept;
use joulebook_units::{BootNanos, NodeName, RejectReason, UnixNanos};
use name::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

/// Most sources of a node on the page.
const MOST_SOURCES: usize = 512;
/// Most targets on it.
const MOST_TARGETS: usize = 512;
/// A sampler that does not answer within this is left out: its row is under way.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long after the start a receiver is told first: rows are there by then.
const STEP_WAIT: Duration = Duration::from_secs(5);
/// Without a row for so long, or for three ticks, the agent is not ready.
const READY: Duration = Duration::from_secs(30);

/// What is counted for the whole process, whatever configuration is in force.
#[derive(Debug, Default)]
pub struct Process {
    reloads: AtomicU64,
    reload_failures: AtomicU64,
    pages: AtomicU64,
}

impl Process {
    /// A changed configuration is in force.
    pub fn reloaded(&self) -> u64 {
        self.reloads.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A changed configuration was refused.
    pub fn refused(&self) -> u64 {
        self.reload_failures.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Asks a sampler how it is.
pub(crate) type Asked = oneshot::Sender<Sampled>;

/// How the rows of a stream come about.
#[derive(Debug, Clone)]
pub(crate) struct Sampled {
    pub(crate) status: Status,
    pub(crate) cycles: Cycles,
}

/// Time that rows took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cycles {
    all: Duration,
    longest: Duration,
    late: u64,
    last: Option<Instant>,
}

impl Cycles {
    /// Counts a row that was begun at an instant, with `tick` between rows.
    pub(crate) fn count(&mut self, begun: Instant, tick: Duration) {
        let took = begun.elapsed();
        self.all = self.all.saturating_add(took);
        self.longest = self.longest.max(took);
        let late = |last: Instant| begun.duration_since(last) >= tick.saturating_add(tick / 2);
        self.late += u64::from(self.last.is_some_and(late));
        self.last = Some(begun);
    }
}

/// One stream of rows, of the agent's own node or of a poller's subject.
pub(crate) struct Stream {
    pub(crate) node: NodeName,
    pub(crate) tick: Duration,
    pub(crate) spool_limit: u64,
    /// Whether any certificate of the node's BMC will do; absent where none is asked over the network.
    pub(crate) any_certificate: Option<bool>,
    pub(crate) ask: mpsc::Sender<Asked>,
    pub(crate) spool: watch::Receiver<Counters>,
    pub(crate) uplink: watch::Receiver<UplinkCounters>,
    /// When every record was acknowledged last.
    behind: watch::Receiver<Instant>,
}

impl Stream {
    pub(crate) fn new(
        (node, tick): (NodeName, Duration),
        (spool, spool_limit): (watch::Receiver<Counters>, u64),
        uplink: watch::Receiver<UplinkCounters>,
        any_certificate: Option<bool>,
    ) -> (Self, mpsc::Receiver<Asked>) {
        let (ask, asked) = mpsc::channel(1);
        let (empty, behind) = watch::channel(Instant::now());
        tokio::spawn(watch_empty(spool.clone(), empty));
        (Self { node, tick, spool_limit, any_certificate, ask, spool, uplink, behind }, asked)
    }

    async fn sampled(&self) -> Option<Sampled> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.ask.send(answer).await.ok()?;
            answered.await.ok()
        };
        timeout(PATIENCE, asked).await.ok().flatten()
    }
}

/// Notes when nothing waits, until nobody wants to know or the spool ends.
async fn watch_empty(mut spool: watch::Receiver<Counters>, empty: watch::Sender<Instant>) {
    loop {
        if is_empty(&spool.borrow_and_update()) {
            empty.send_replace(Instant::now());
        }
        tokio::select! {
            changed = spool.changed() => if changed.is_err() { return },
            () = empty.closed() => return,
        }
    }
}

fn is_empty(counters: &Counters) -> bool {
    counters.waiting == 0 && counters.in_memory == 0
}

/// The inference servers.
pub(crate) struct Targets {
    pub(crate) states: watch::Receiver<BTreeMap<String, TargetState>>,
    pub(crate) failures: watch::Receiver<BTreeMap<Failure, u64>>,
}

/// Everything that the page is made of.
pub(crate) struct Board {
    process: Arc<Process>,
    streams: Vec<Stream>,
    targets: Option<Targets>,
    cost: Mutex<Cost>,
    /// What the wall clock was ahead of the boot clock at the first page of each stream.
    clocks: Mutex<BTreeMap<NodeName, i64>>,
    /// What waits for a receiver of OpenTelemetry, if there is one.
    told: Option<Arc<Queue>>,
}

impl Board {
    pub(crate) fn new(process: Arc<Process>, streams: Vec<Stream>, targets: Option<Targets>) -> Self {
        Self { process, streams, targets, cost: Mutex::default(), clocks: Mutex::default(), told: None }
    }

    /// The same with what waits for a receiver of OpenTelemetry.
    pub(crate) fn telling(self, told: Option<Arc<Queue>>) -> Self {
        Self { told, ..self }
    }

    /// Why the agent does not do its work; `None` if it does.
    async fn unready(&self) -> Option<String> {
        for stream in &self.streams {
            let Some(sampled) = stream.sampled().await else {
                return Some(format!("the row of {} takes long", stream.node));
            };
            let (now, _) = sampled.status.now;
            let longest = READY.max(stream.tick.saturating_mul(3));
            let recent = |last: BootNanos| u128::from(now.0.saturating_sub(last.0)) <= longest.as_nanos();
            if !sampled.status.last_row.is_some_and(recent) {
                return Some(format!("no row of {} was taken lately", stream.node));
            }
            if stream.spool.borrow().in_memory > 0 {
                return Some("the disk takes no records".to_owned());
            }
        }
        None
    }

    /// Everything, as of now.
    async fn points(&self) -> Vec<Point> {
        self.process.pages.fetch_add(1, Ordering::Relaxed);
        self.look().await.0
    }

    /// Everything, and how the sampler of each node is; none where its row takes long.
    async fn look(&self) -> (Vec<Point>, Vec<(NodeName, Option<Status>)>) {
        let (mut points, mut nodes) = (Points::default(), Vec::new());
        let process = &self.process;
        points.add(&BUILD, &[env!("CARGO_PKG_VERSION")], 1.0);
        points.count(&PAGES, &[], process.pages.load(Ordering::Relaxed));
        points.count(&RELOADS, &[], process.reloads.load(Ordering::Relaxed));
        points.count(&RELOAD_FAILURES, &[], process.reload_failures.load(Ordering::Relaxed));
        add_clock(&mut points);
        let (mut cpu, mut helper) = (None, None);
        for stream in &self.streams {
            let sampled = stream.sampled().await;
            if let Some(Sampled { status, cycles }) = &sampled {
                self.add_rows(&mut points, stream, status, cycles);
                add_sources(&mut points, stream.node.as_str(), status);
                // A poller has no CPU that it meters.
                (cpu, helper) = (status.cpu, status.helper);
            }
            let status = sampled.map(|sampled| sampled.status);
            add_delivery(&mut points, stream, status.as_ref().map(|status| status.now.1));
            nodes.push((stream.node.clone(), status));
        }
        self.cost.lock().unwrap_or_else(PoisonError::into_inner).add_to(&mut points, cpu, helper);
        if let Some(targets) = &self.targets {
            add_targets(&mut points, targets);
        }
        for (signal, queue) in self.told.iter().map(|queue| (Signal::Metrics, queue)).chain(own_queues()) {
            add_told(&mut points, signal, queue);
        }
        (points.into_vec(), nodes)
    }

    fn add_rows(&self, points: &mut Points, stream: &Stream, status: &Status, cycles: &Cycles) {
        let node = [stream.node.as_str()];
        let (boot, wall) = status.now;
        points.count(&ROWS, &node, status.rows);
        points.add(&ROW_AGE, &node, status.last_row.map(|last| since(boot, last)));
        points.add(&CYCLE, &node, cycles.all.as_secs_f64());
        points.add(&LONGEST_CYCLE, &node, cycles.longest.as_secs_f64());
        points.count(&LATE, &node, cycles.late);
        points.count(&UNRESOLVED, &node, status.unresolved);
        let ahead = wall.0.saturating_sub(i64::try_from(boot.0).unwrap_or(i64::MAX));
        let mut clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        let first = *clocks.entry(stream.node.clone()).or_insert(ahead);
        points.add(&CLOCK_STEP, &node, seconds(ahead.saturating_sub(first)));
    }
}

/// How well the machine's wall clock is kept; nothing where the kernel may not be asked.
fn add_clock(points: &mut Points) {
    let Ok(kept) = Kept::now() else { return };
    points.add(&CLOCK_SYNCHRONISED, &[], f64::from(u8::from(kept.synchronised)));
    points.add(&CLOCK_ERROR, &[], kept.most_error.as_secs_f64());
}

fn add_sources(points: &mut Points, node: &str, status: &Status) {
    let left_out = status.sources.len().saturating_sub(MOST_SOURCES);
    points.count(&LEFT_OUT, &[node], u64::try_from(left_out).unwrap_or(u64::MAX));
    for source in status.sources.iter().take(MOST_SOURCES) {
        add_source(points, node, status, source);
    }
}

fn add_source(points: &mut Points, node: &str, status: &Status, source: &SourceStatus) {
    let of = &source.state.source;
    let labels = [node, of.id.as_str()];
    let is_read = source.state.unavailable.is_none() && !source.stuck;
    let up = if is_read { 1.0 } else { 0.0 };
    points.add(&SOURCE_UP, &[node, &of.id, of.component.name(), &of.collector], up);
    points.add(&SOURCE_STUCK, &labels, if source.stuck { 1.0 } else { 0.0 });
    points.add(&SOURCE_AGE, &labels, source.last.map(|last| since(status.now.0, last)));
    points.count(&GAPS, &labels, source.gaps);
    for (metric, kind) in [(&WRAPS, "wrap"), (&RESETS, "reset")] {
        points.count(metric, &labels, status.turns.get(&(of.id.clone(), kind)).copied().unwrap_or(0));
    }
    let first = (of.id.clone(), "");
    let own = status.refused.range(first..).take_while(|((id, _), _)| *id == of.id);
    own.for_each(|((_, reason), count)| points.count(&REFUSED, &[node, &of.id, reason], *count));
}

fn add_delivery(points: &mut Points, stream: &Stream, now: Option<UnixNanos>) {
    let node = [stream.node.as_str()];
    points.add(&ANY_CERTIFICATE, &node, stream.any_certificate.map(|any| if any { 1.0 } else { 0.0 }));
    let spool = *stream.spool.borrow();
    for (metric, count) in [
        (&SPOOL_BYTES, spool.bytes),
        (&SPOOL_LIMIT, stream.spool_limit),
        (&SPOOL_SEGMENTS, spool.segments),
        (&SPOOL_STREAMS, spool.streams),
        (&SPOOL_WAITING, spool.waiting),
        (&IN_MEMORY, spool.in_memory),
        (&APPENDED, spool.appended),
        (&LOST_RECORDS, spool.lost_records),
        (&LOST_VALUES, spool.lost_samples),
        (&DAMAGED, spool.damaged),
        (&FOREIGN, spool.foreign),
        (&ACKED, spool.acked),
    ] {
        points.count(metric, &node, count);
    }
    let lost = spool.lost_by_reason;
    for (reason, count) in [("spool_full", lost.spool_full), ("no_space", lost.no_space), ("corrupt", lost.corrupt)] {
        points.count(&LOST_BY_REASON, &[node[0], reason], count);
    }
    let behind = if is_empty(&spool) { Duration::ZERO } else { stream.behind.borrow().elapsed() };
    points.add(&SPOOL_BEHIND, &node, behind.as_secs_f64());
    let uplink = stream.uplink.borrow().clone();
    points.add(&SESSION, &node, if uplink.connected { 1.0 } else { 0.0 });
    points.count(&SESSIONS, &node, uplink.sessions);
    points.count(&ACK_REGRESSIONS, &node, uplink.ack_regressions);
    for (reason, count) in &uplink.rejected {
        points.count(&REJECTED, &[node[0], reason.map_or("unknown", name_of)], *count);
    }
    let ends = uplink.certificate_ends.zip(now);
    points.add(&CERTIFICATE, &node, ends.map(|(ends, now)| seconds(ends.0.saturating_sub(now.0))));
}

/// Queues of the agent's own spans and log.
fn own_queues<'a>() -> impl Iterator<Item = (Signal, &'a Arc<Queue>)> {
    queues().iter().map(|(signal, queue)| (*signal, queue))
}

fn add_told(points: &mut Points, signal: Signal, queue: &Queue) {
    let (counts, name) = (queue.counts(), signal.name());
    points.count(&OTLP_SENT, &[name], counts.sent);
    points.count(&OTLP_LOST, &[name, "overflow"], counts.overflow);
    points.count(&OTLP_LOST, &[name, "refused"], counts.refused);
    points.count(&OTLP_RETRIES, &[name], counts.retries);
    points.count(&OTLP_WAITING, &[name], counts.waiting);
}

fn add_targets(points: &mut Points, targets: &Targets) {
    let states = targets.states.borrow().clone();
    for (target, state) in states.iter().take(MOST_TARGETS) {
        let up = state.is_up.map(|up| if up { 1.0 } else { 0.0 });
        points.add(&TARGET_UP, &[target], up);
        points.count(&TARGET_SCRAPES, &[target], state.scrapes);
        points.count(&TARGET_SAMPLES, &[target], state.samples);
    }
    // Of servers that came and went there may be any number.
    let known = |failure: &&Failure| failure.target == "push" || states.contains_key(&failure.target);
    let failures = targets.failures.borrow();
    for (failure, count) in failures.iter().filter(|(failure, _)| known(failure)).take(8 * MOST_TARGETS) {
        points.count(&TARGET_FAILURES, &[&failure.target, failure.reason], *count);
    }
}

fn name_of(reason: RejectReason) -> &'static str {
    match reason {
        RejectReason::Value => "value",
        RejectReason::Time => "time",
        RejectReason::Cardinality => "cardinality",
        RejectReason::UnknownSeries => "unknown_series",
        RejectReason::Malformed => "malformed",
        RejectReason::SequenceConflict => "sequence_conflict",
    }
}

fn since(now: BootNanos, then: BootNanos) -> f64 {
    Duration::from_nanos(now.0.saturating_sub(then.0)).as_secs_f64()
}

#[allow(clippy::cast_precision_loss, reason = "microseconds are enough")]
fn seconds(nanos: i64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests;
