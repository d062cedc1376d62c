//! One session of one agent: messages in, requests to the committer, replies out.

use super::commit::{Opening, Refusal, Reject, Reply, Request};
use super::pressure::Watch;
use super::{Counter, Counters, Gone, Intake, Queue};
use crate::clock::Clock;
use crate::directory::Directories;
use crate::peer::{Caller, Ending, Peer, Role};
use crate::poller::Pollers;
use futures_util::StreamExt;
use futures_util::stream::Map;
use joulebook_proto::SCHEMA_VERSION;
use joulebook_proto::convert::{
    ConvertError, decode_batch, hello_to_inventory, payload_hash, reject_reason_to_wire, series_from_wire,
    stream_gap_from_wire,
};
use joulebook_proto::telemetry::stream_request::Message as Up;
use joulebook_proto::telemetry::stream_response::Message as Down;
use joulebook_proto::telemetry::telemetry_service_server::{TelemetryService, TelemetryServiceServer};
use joulebook_proto::telemetry::{
    Ack, Credit, Dictionary, Hello, HelloReply, NodeDirectory, Record, Rejection, StreamMark, StreamRequest,
    StreamResponse,
};
use joulebook_units::{Batch, BootId, BootNanos, InvalidId, NodeName, StreamId, UnixNanos};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::vec::Drain;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

/// Records that may be unacknowledged.
pub const WINDOW: u32 = 64;
/// Largest message.
pub const MESSAGE_BYTES: usize = 1 << 20;
/// How long a peer may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// When an agent may come again after the disk had no room: this and up to ten seconds more, so that not all come at once.
const HELD_MILLISECONDS: u32 = 5_000;
const STREAMS: usize = 8;
const SERIES: usize = 4_096;
/// Requests of one session that may be under way, whatever they are; it reads no further ones meanwhile.
pub(super) const REQUESTS: u64 = 128;
/// What a value and a column of a decoded record take in memory, about.
const VALUE_BYTES: usize = 32;
const COLUMN_BYTES: usize = 96;

/// `joulebook.telemetry.v1.TelemetryService`.
#[derive(Clone)]
pub struct Telemetry {
    queue: Queue,
    cluster: [u8; 16],
    clock: Arc<dyn Clock>,
    shutdown: watch::Receiver<bool>,
    sessions: Arc<AtomicU64>,
    counters: Arc<Counters>,
    pollers: Arc<Pollers>,
    directories: watch::Receiver<Arc<Directories>>,
}

impl Telemetry {
    pub(super) fn new(queue: Queue, intake: &Intake, clock: Arc<dyn Clock>, shutdown: watch::Receiver<bool>) -> Self {
        let (cluster, counters) = (intake.cluster(), intake.counters());
        let (sessions, pollers) = (Arc::new(AtomicU64::new(1)), Arc::default());
        let directories = watch::channel(Arc::default()).1;
        Self { queue, cluster, clock, shutdown, sessions, counters, pollers, directories }
    }

    /// The same with pollers, which may speak for nodes from outside.
    #[must_use]
    pub fn with_pollers(self, pollers: Pollers) -> Self {
        Self { pollers: Arc::new(pollers), ..self }
    }

    /// The same, and tells each agent what runs on its node.
    #[must_use]
    pub fn telling(self, directories: watch::Receiver<Arc<Directories>>) -> Self {
        Self { directories, ..self }
    }

    /// The service with its limits.
    pub fn server(self) -> TelemetryServiceServer<Self> {
        TelemetryServiceServer::new(self).max_decoding_message_size(MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl TelemetryService for Telemetry {
    type StreamStream = Map<ReceiverStream<Said>, fn(Said) -> Result<StreamResponse, Status>>;

    async fn stream(
        &self,
        request: tonic::Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (peer, ending) = (Caller::of(&request)?.0.clone(), Ending::of(&request)?);
        let (out, responses) = mpsc::channel(WINDOW as usize);
        let (counter, replies) = Counter::new(REQUESTS as usize);
        let session = Session {
            number: self.sessions.fetch_add(1, Ordering::Relaxed),
            telemetry: self.clone(),
            peer,
            counter,
            pressure: self.queue.pressure.watch(),
            out,
            credit: 0,
            owed: 0,
            waiting: 0,
        };
        tokio::spawn(session.run(request.into_inner(), replies, ending));
        let plain: fn(Said) -> _ = |said| said.map(|response| *response);
        Ok(Response::new(ReceiverStream::new(responses).map(plain)))
    }
}

/// What is said to an agent, or why the session ends. A channel keeps room for 32 of them.
type Said = Result<Box<StreamResponse>, Status>;

struct Session {
    number: u64,
    telemetry: Telemetry,
    /// Whom the certificate names; nobody is known on plaintext.
    peer: Option<Arc<Peer>>,
    counter: Counter,
    pressure: Watch,
    out: mpsc::Sender<Said>,
    /// Records the agent may still send.
    credit: u32,
    /// Records that are done and for which no credit was granted yet.
    owed: u32,
    /// Requests whose replies have not come.
    waiting: u64,
}

/// What is sent for one stream after a commit.
#[derive(Default)]
struct Merged {
    sequence: u64,
    rejects: Vec<Reject>,
    /// Whether it is one of a record, and not of a stream that was opened.
    of_record: bool,
}

impl Session {
    async fn run(mut self, incoming: Streaming<StreamRequest>, replies: mpsc::Receiver<Box<Reply>>, ending: Ending) {
        if let Err(status) = self.serve(incoming, replies, ending.0).await {
            tracing::info!(session = self.number, code = ?status.code(), reason = status.message(), "session ended");
            let _ = self.out.send(Err(status)).await;
        }
        let _ = self.telemetry.queue.send(Request::Close(self.number), 0, None).await;
    }

    async fn serve(
        &mut self,
        mut incoming: Streaming<StreamRequest>,
        mut replies: mpsc::Receiver<Box<Reply>>,
        mut ending: watch::Receiver<bool>,
    ) -> Result<(), Status> {
        let first = timeout(HELLO_TIMEOUT, incoming.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no Hello within 10 s"))??;
        let Some(Up::Hello(hello)) = first.and_then(|request| request.message) else {
            return Err(Status::invalid_argument("the first message must be Hello"));
        };
        // A poller has nothing to do with what runs there.
        let mut listens = hello.poller.is_none();
        // What these hold while they wait is given back after them; the session is there for an hour.
        let node = Box::pin(self.open(hello, &mut replies)).await?;
        let mut directories = self.telemetry.directories.clone();
        let mut told = None;
        if listens {
            let all = directories.borrow_and_update().clone();
            Box::pin(self.tell(&node, &all, &mut told)).await?;
        }

        let (mut shutdown, queue) = (self.telemetry.shutdown.clone(), self.telemetry.queue.clone());
        let (mut stopping, mut ended, mut batch) = (*shutdown.borrow_and_update(), false, Vec::new());
        let mut over = *ending.borrow_and_update();
        loop {
            // What is under way is committed and acknowledged before the end.
            if self.waiting == 0 && ended {
                return Ok(());
            }
            if self.waiting == 0 && stopping {
                return Err(Status::unavailable("the aggregator stops; try again"));
            }
            if self.waiting == 0 && over {
                return Err(Status::unavailable("the connection's time is over; connect again"));
            }
            let reads = !stopping && !over && !ended && self.waiting < REQUESTS;
            tokio::select! {
                // In this order, so that a simulation repeats: what is acknowledged makes room for what comes.
                biased;
                count = replies.recv_many(&mut batch, WINDOW as usize) => {
                    debug_assert!(count > 0, "this session holds a sender");
                    Box::pin(self.answer(batch.drain(..))).await?;
                }
                message = incoming.message(), if reads => match message? {
                    Some(request) => Box::pin(self.request(request)).await?,
                    None => ended = true,
                },
                () = queue.closed() => return Err(gone(Gone)),
                changed = shutdown.changed(), if !stopping => stopping = changed.is_err() || *shutdown.borrow(),
                changed = ending.changed(), if !over => over = changed.is_err() || *ending.borrow(),
                () = self.pressure.changed() => self.grant().await?,
                changed = directories.changed(), if listens => {
                    listens = changed.is_ok();
                    let all = directories.borrow_and_update().clone();
                    Box::pin(self.tell(&node, &all, &mut told)).await?;
                }
            }
        }
    }

    /// Tells the agent what runs on its node, if that is another than what it was told. A node that is named no more has
    /// no pods.
    async fn tell(
        &self,
        node: &NodeName,
        all: &Directories,
        told: &mut Option<Arc<NodeDirectory>>,
    ) -> Result<(), Status> {
        let gone = || {
            let before = told.as_ref()?;
            let revision = before.revision.saturating_add(1);
            (!before.pods.is_empty() || !before.node_labels.is_empty())
                .then(|| Arc::new(NodeDirectory { revision, ..NodeDirectory::default() }))
        };
        let Some(now) = all.of(node).cloned().or_else(gone) else { return Ok(()) };
        let same = |before: &Arc<NodeDirectory>| {
            Arc::ptr_eq(before, &now) || (before.pods == now.pods && before.node_labels == now.node_labels)
        };
        if told.as_ref().is_some_and(same) {
            return Ok(());
        }
        *told = Some(Arc::clone(&now));
        self.down(Down::NodeDirectory(Arc::unwrap_or_clone(now))).await
    }

    /// Opens the session and gives the node that it is about. What was said of the node is not held longer.
    async fn open(&mut self, hello: Hello, replies: &mut mpsc::Receiver<Box<Reply>>) -> Result<NodeName, Status> {
        let received = self.telemetry.clock.unix();
        let opening = opening(&hello, received)?;
        self.admit(&opening)?;
        let subject = opening.inventory.node.clone();
        self.send(Request::Open(self.number, Box::new(opening)), 0).await?;
        let (marks, held) = match self.wait(replies).await? {
            Reply::Opened(marks) => (marks, false),
            // The commit that was to open it failed: nothing is known of the marks.
            Reply::Held(marks) if marks.is_empty() => return Err(self.held()),
            Reply::Held(marks) => (marks, true),
            Reply::Refused(refusal) => return Err(refuse(&refusal)),
            Reply::Ack { .. } | Reply::Done => return Err(Status::internal("the session was not opened")),
        };
        let behind = hello.streams.iter().zip(&marks).filter(|(told, (_, mark))| told.acked_sequence > *mark).count();
        if behind > 0 {
            // What is missing the agent sends again as far as it holds it, and declares the rest.
            tracing::error!(session = self.number, streams = behind, "this database lost what it had acknowledged");
            self.telemetry.counters.add("ack_regression_total", behind as u64);
        }
        let mark = |(stream, acked): (StreamId, u64)| StreamMark { stream_id: stream.0.into(), acked_sequence: acked };
        let credit = if held {
            self.no_credit()
        } else {
            let away = self.pressure.away();
            let records = if away.is_some() || self.pressure.is_on() { 0 } else { WINDOW };
            self.owed = WINDOW - records;
            let milliseconds = |away: Duration| u32::try_from(away.as_millis()).unwrap_or(u32::MAX);
            Credit { records, retry_after_milliseconds: away.map(milliseconds) }
        };
        self.credit = credit.records;
        self.down(Down::HelloReply(HelloReply {
            marks: marks.into_iter().map(mark).collect(),
            cluster_id: self.telemetry.cluster.to_vec(),
            received_unix_nanos: received.0,
            aggregator_version: env!("CARGO_PKG_VERSION").to_owned(),
            credit: Some(credit),
        }))
        .await?;
        if held { Err(self.held()) } else { Ok(subject) }
    }

    /// Whether the peer may speak as it says for the node that it names.
    fn admit(&self, opening: &Opening) -> Result<(), Status> {
        let (node, poller) = (&opening.inventory.node, opening.poller.as_ref());
        let text = match (self.peer.as_ref().map(|peer| peer.role()), poller) {
            (None, None) => return Ok(()),
            (Some(Role::Agent(own)), None) if own == node => return Ok(()),
            (Some(Role::Agent(own)), None) => format!(
                "Hello.node is `{node}`, the certificate is that of `{own}`: set the agent's node or show the node's certificate"
            ),
            (None, Some(poller)) if self.telemetry.pollers.may_speak(poller, node) => return Ok(()),
            (Some(Role::Poller(own)), Some(poller))
                if own == poller && self.telemetry.pollers.may_speak(poller, node) =>
            {
                return Ok(());
            }
            (Some(Role::Poller(own)), Some(poller)) if own != poller => {
                format!("Hello.poller is `{poller}`, the certificate is that of the poller `{own}`")
            }
            (None | Some(Role::Poller(_)), Some(poller)) => format!(
                "the poller `{poller}` may not speak for the node `{node}`: add it to nodes of its [[poller]] at the aggregator"
            ),
            (Some(Role::Poller(own)), None) => {
                format!("the certificate is that of the poller `{own}`: Hello.poller must name it")
            }
            (Some(Role::Agent(_) | Role::Operator(_)), Some(_)) | (Some(Role::Operator(_)), None) => {
                "the certificate is not a poller's, or not an agent's: show the one of who speaks".to_owned()
            }
        };
        let shown = self.peer.as_ref().map(ToString::to_string).unwrap_or_default();
        let poller = poller.map(ToString::to_string).unwrap_or_default();
        tracing::warn!(target: "audit", said = %node, poller, shown, "a peer spoke for a node that it may not speak for");
        self.telemetry.counters.add("speakers_refused_total", 1);
        Err(Status::permission_denied(text))
    }

    /// No record may be sent now, and when to ask again.
    fn no_credit(&self) -> Credit {
        let spread = u32::try_from(self.number % 10).unwrap_or(0) * 1_000;
        Credit { records: 0, retry_after_milliseconds: Some(HELD_MILLISECONDS + spread) }
    }

    /// How a session ends while the disk has no room.
    fn held(&self) -> Status {
        let mut status = Status::unavailable("the aggregator's disk is full: nothing is stored until there is room");
        let seconds = self.no_credit().retry_after_milliseconds.unwrap_or_default() / 1_000;
        status.metadata_mut().insert("retry-after", seconds.into());
        status
    }

    /// The reply to the only request under way.
    async fn wait(&mut self, replies: &mut mpsc::Receiver<Box<Reply>>) -> Result<Reply, Status> {
        // The committer drops what it cannot commit; this session holds a sender of its own, so ask the queue too.
        tokio::select! {
            biased;
            reply = replies.recv() => {
                self.waiting = self.waiting.saturating_sub(1);
                reply.map(|reply| *reply).ok_or_else(|| gone(Gone))
            }
            () = self.telemetry.queue.closed() => Err(gone(Gone)),
        }
    }

    async fn request(&mut self, request: StreamRequest) -> Result<(), Status> {
        match request.message {
            Some(Up::Record(record)) => self.record(record).await,
            Some(Up::Dictionary(dictionary)) => self.dictionary(dictionary).await,
            Some(Up::Gap(gap)) => {
                let (stream, gap) = stream_gap_from_wire(&gap).map_err(malformed)?;
                self.send(Request::Lost(self.number, stream, gap), 0).await
            }
            Some(Up::OpenStream(open)) => {
                let stream = StreamId::from_slice(&open.stream_id).map_err(invalid)?;
                self.send(Request::OpenStream(self.number, stream), 0).await
            }
            Some(Up::Hello(_)) => Err(Status::invalid_argument("Hello comes once")),
            None => Err(Status::invalid_argument("a message without content, or of a newer contract")),
        }
    }

    async fn record(&mut self, record: Record) -> Result<(), Status> {
        self.credit = self.credit.checked_sub(1).ok_or_else(|| {
            Status::resource_exhausted(format!("more than {WINDOW} records without acknowledgement; wait for Credit"))
        })?;
        let stream = StreamId::from_slice(&record.stream_id).map_err(invalid)?;
        let sequence = record.sequence;
        if sequence == 0 || sequence >= 1 << 63 {
            return Err(Status::invalid_argument("Record.sequence must be 1 to 2^63 - 1"));
        }
        let hash = payload_hash(&record.payload);
        if record.payload_hash != hash.as_slice() {
            return Err(Status::invalid_argument(format!("record {sequence}: payload_hash does not match payload")));
        }
        let batch = decode_batch(&record.payload)
            .inspect_err(|error| tracing::warn!(%stream, sequence, %error, "a record cannot be decoded"));
        let (batch, payload) = (batch.ok().map(Box::new), record.payload.to_vec());
        let bytes = payload.len() + batch.as_deref().map_or(0, memory);
        self.send(Request::Record { session: self.number, stream, sequence, hash, payload, batch }, bytes).await
    }

    async fn dictionary(&mut self, dictionary: Dictionary) -> Result<(), Status> {
        if dictionary.series.len() > SERIES {
            return Err(Status::invalid_argument(format!("Dictionary.series holds more than {SERIES}")));
        }
        let stream = StreamId::from_slice(&dictionary.stream_id).map_err(invalid)?;
        // A description that breaks a rule leaves its series unknown: its values are refused, its neighbours' are not.
        let series = dictionary.series.into_iter().filter_map(|series| {
            series_from_wire(series)
                .inspect_err(|error| tracing::warn!(%stream, %error, "a series cannot be read"))
                .ok()
        });
        let series = series.collect();
        self.send(Request::Define(self.number, stream, series), 0).await
    }

    async fn send(&mut self, request: Request, bytes: usize) -> Result<(), Status> {
        self.telemetry.queue.send(request, bytes, Some(&self.counter)).await.map_err(gone)?;
        self.waiting += 1;
        Ok(())
    }

    /// Sends one acknowledgement a stream, and as much credit as records are done.
    async fn answer(&mut self, replies: Drain<'_, Box<Reply>>) -> Result<(), Status> {
        let mut merged: BTreeMap<StreamId, Merged> = BTreeMap::new();
        let (mut records, mut held) = (0, false);
        for reply in replies {
            self.waiting = self.waiting.saturating_sub(1);
            match *reply {
                Reply::Ack { stream, sequence, rejects, record } => {
                    let ack = merged.entry(stream).or_default();
                    ack.sequence = ack.sequence.max(sequence);
                    ack.rejects.extend(rejects);
                    ack.of_record |= record;
                    records += u32::from(record);
                }
                Reply::Refused(refusal) => return Err(refuse(&refusal)),
                Reply::Held(_) => held = true,
                Reply::Opened(_) | Reply::Done => {}
            }
        }
        let acks = merged.values().filter(|ack| ack.of_record).count();
        self.telemetry.counters.add("acknowledgements_total", u64::try_from(acks).unwrap_or(u64::MAX));
        for (stream, ack) in merged {
            let rejection = |reject: Reject| Rejection {
                sequence: reject.sequence,
                reason: reject_reason_to_wire(reject.reason),
                count: reject.count,
            };
            self.down(Down::Ack(Ack {
                stream_id: stream.0.into(),
                acked_sequence: ack.sequence,
                rejections: ack.rejects.into_iter().map(rejection).collect(),
            }))
            .await?;
        }
        if held {
            self.down(Down::Credit(self.no_credit())).await?;
            return Err(self.held());
        }
        self.owed += records;
        self.grant().await
    }

    /// Grants what is owed, unless agents are to wait.
    async fn grant(&mut self) -> Result<(), Status> {
        if self.owed == 0 || self.pressure.is_on() {
            return Ok(());
        }
        let records = std::mem::take(&mut self.owed);
        self.credit += records;
        self.down(Down::Credit(Credit { records, retry_after_milliseconds: None })).await
    }

    async fn down(&self, message: Down) -> Result<(), Status> {
        let response = StreamResponse { message: Some(message) };
        self.out.send(Ok(Box::new(response))).await.map_err(|_| Status::cancelled("the agent went away"))
    }
}

/// What a decoded record takes in memory, about.
fn memory(batch: &Batch) -> usize {
    batch.samples().saturating_mul(VALUE_BYTES) + (batch.columns.len() + batch.gaps.len()) * COLUMN_BYTES
}

fn opening(hello: &Hello, received: UnixNanos) -> Result<Opening, Status> {
    if hello.schema_version != SCHEMA_VERSION {
        let found = hello.schema_version;
        return Err(Status::failed_precondition(format!(
            "data model {found}: this aggregator speaks {SCHEMA_VERSION}"
        )));
    }
    if hello.streams.is_empty() || hello.streams.len() > STREAMS {
        return Err(Status::invalid_argument(format!("Hello.streams must hold 1 to {STREAMS}")));
    }
    let streams: Result<_, _> = hello.streams.iter().map(|open| StreamId::from_slice(&open.stream_id)).collect();
    let poller = hello.poller.as_deref().map(str::parse).transpose().map_err(invalid)?;
    Ok(Opening {
        inventory: hello_to_inventory(hello).map_err(malformed)?,
        poller,
        epoch: hello.session_epoch,
        boot: BootId::from_slice(&hello.boot_id).map_err(invalid)?,
        boot_time: BootNanos(hello.boot_time_nanos),
        wall: UnixNanos(hello.wall_time_unix_nanos),
        received,
        streams: streams.map_err(invalid)?,
    })
}

fn refuse(refusal: &Refusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        Refusal::ForeignStream(_) => Status::permission_denied(text),
        Refusal::Fenced => Status::aborted(text),
        Refusal::ClosedStream(_) | Refusal::OutOfOrder { .. } => Status::failed_precondition(text),
        Refusal::TooManyStreams => Status::resource_exhausted(text),
    }
}

// By value: these are given to `map_err`.
#[allow(clippy::needless_pass_by_value, reason = "signature of map_err")]
fn malformed(error: ConvertError) -> Status {
    Status::invalid_argument(error.to_string())
}

#[allow(clippy::needless_pass_by_value, reason = "signature of map_err")]
fn invalid(error: InvalidId) -> Status {
    Status::invalid_argument(error.to_string())
}

fn gone(gone: Gone) -> Status {
    Status::unavailable(gone.to_string())
}
