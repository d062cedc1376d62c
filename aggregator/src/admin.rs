//! Administration: state, stored rows for audit, backups and looks at everything stored.

mod care;
mod factors;
mod training;

pub use factors::FeedState;

use crate::clock::Clock;
use crate::factor::Factors;
use crate::ingest::Counters;
use crate::ingest::commit::SKEW_NANOS;
use crate::query::Query;
use crate::store::retention::{self, Periods};
use crate::store::rocks::RocksStore;
use crate::store::{Book, NodeRecord, PollerRecord, Run, StoreError};
use care::{Care, Steps};
use joulebook_proto::admin::admin_service_server::AdminService;
use joulebook_proto::admin::{
    BackupRequest, BackupResponse, DumpPoint, DumpRequest, DumpResponse, GetStatusRequest, GetStatusResponse,
    ListBackupsRequest, ListBackupsResponse, ListFactorsRequest, ListFactorsResponse, ListTrainingRequest,
    ListTrainingResponse, NodeStatus, PollerStatus, PushFactorsRequest, PushFactorsResponse, RecordTrainingRequest,
    RecordTrainingResponse, SourceStatus, StreamStatus, VerifyRequest, VerifyResponse,
};
use joulebook_units::{CountKind, NodeName, Service, SourceState, Subject, UnixNanos, Window};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Rows read at once: a part of the window, so that a long dump takes little memory.
const DUMP_SECONDS: i64 = 600;
const DUMP_AHEAD: usize = 64;

/// `joulebook.admin.v1.AdminService`.
#[derive(Clone)]
pub struct Admin {
    book: Arc<Book>,
    counters: Arc<Counters>,
    periods: watch::Receiver<Periods>,
    care: Care,
    series: Series,
}

/// Sources of factors by the name of their series: how each of them is.
pub type FeedStates = Arc<Mutex<BTreeMap<String, FeedState>>>;

/// What administration of factors needs.
#[derive(Clone)]
pub struct Series {
    /// The configured series.
    pub factors: watch::Receiver<Arc<Factors>>,
    /// How their sources are.
    pub states: FeedStates,
    /// For revisions.
    pub clock: Arc<dyn Clock>,
}

impl Admin {
    /// The service over a database (`book` is its typed face) and the counters of its ingest, with the folder of its
    /// backups if there is one.
    pub fn new(
        store: Arc<RocksStore>,
        book: Arc<Book>,
        counters: Arc<Counters>,
        periods: watch::Receiver<Periods>,
        backups: Option<PathBuf>,
        series: Series,
    ) -> Self {
        Self { book, counters, periods, care: Care::new(store, backups), series }
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    type DumpStream = ReceiverStream<Result<DumpResponse, Status>>;
    type BackupStream = Steps<BackupResponse>;
    type VerifyStream = Steps<VerifyResponse>;

    async fn backup(&self, request: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        tracing::info!(target: "audit", "a backup is made");
        self.care.back_up(&self.book, request.into_inner().keep).map(Response::new)
    }

    async fn list_backups(&self, _: Request<ListBackupsRequest>) -> Result<Response<ListBackupsResponse>, Status> {
        let care = self.care.clone();
        let listed = tokio::task::spawn_blocking(move || care.list()).await;
        let backups = listed.map_err(|_| Status::internal("listing failed; see the aggregator's log"))??;
        Ok(Response::new(ListBackupsResponse { backups }))
    }

    async fn verify(&self, request: Request<VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        self.care.verify(request.into_inner().backup).map(Response::new)
    }

    async fn push_factors(
        &self,
        request: Request<PushFactorsRequest>,
    ) -> Result<Response<PushFactorsResponse>, Status> {
        let (book, now) = (Arc::clone(&self.book), self.series.clock.unix());
        let request = request.into_inner();
        let pushed = tokio::task::spawn_blocking(move || factors::push(&book, &request, now)).await;
        pushed.map_err(|_| Status::internal("recording failed; see the aggregator's log"))?.map(Response::new)
    }

    async fn list_factors(&self, _: Request<ListFactorsRequest>) -> Result<Response<ListFactorsResponse>, Status> {
        let states = self.series.states.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let factors = Arc::clone(&self.series.factors.borrow());
        Ok(Response::new(factors::list(&self.book, factors.feeds(), &states)))
    }

    async fn record_training(
        &self,
        request: Request<RecordTrainingRequest>,
    ) -> Result<Response<RecordTrainingResponse>, Status> {
        let (book, now) = (Arc::clone(&self.book), self.series.clock.unix());
        let query = Query::new(Arc::clone(&book), self.series.factors.clone(), Arc::clone(&self.series.clock));
        let work = move || training::record(&book, &query, request.into_inner(), now);
        let recorded = tokio::task::spawn_blocking(work).await;
        recorded.map_err(|_| Status::internal("recording failed; see the aggregator's log"))?.map(Response::new)
    }

    async fn list_training(
        &self,
        request: Request<ListTrainingRequest>,
    ) -> Result<Response<ListTrainingResponse>, Status> {
        let (book, now) = (Arc::clone(&self.book), self.series.clock.unix());
        let listed = tokio::task::spawn_blocking(move || training::list(&book, request.get_ref(), now)).await;
        listed.map_err(|_| Status::internal("listing failed; see the aggregator's log"))?.map(Response::new)
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        let status = self.book.status();
        let streams = |node: u32| {
            let own = status.streams.iter().filter(move |stream| stream.node == node);
            own.map(|stream| StreamStatus {
                stream_id: stream.id.to_string(),
                acked_sequence: stream.acked,
                lost_records: stream.lost_records,
                rejected_samples: stream.rejected_values,
                poller: stream.poller.as_ref().map(ToString::to_string).unwrap_or_default(),
            })
        };
        let mut nodes: Vec<NodeStatus> =
            status.nodes.iter().map(|node| node_status(node, streams(node.number).collect())).collect();
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(Response::new(GetStatusResponse {
            cluster_id: status.cluster.iter().map(|byte| format!("{byte:02x}")).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            schema_version: status.schema_version,
            nodes,
            counters: self.counters.all().into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
            dirty_cells: status.dirty_cells,
        }))
    }

    async fn dump(&self, request: Request<DumpRequest>) -> Result<Response<Self::DumpStream>, Status> {
        let request = request.into_inner();
        let name: NodeName = request.node.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        let unknown = || Status::not_found(format!("no node named {name}"));
        let number = self.book.node(&name).ok_or_else(unknown)?;
        let node = self.book.nodes().into_iter().find(|node| node.number == number).ok_or_else(unknown)?;
        let (out, responses) = mpsc::channel(DUMP_AHEAD);
        // Without any row there is nothing to read.
        if let (Some(first), Some(last)) = (node.first_row, node.last_row) {
            let kept = first.max(retention::before(last, self.periods.borrow().rows));
            let start = request.start_unix_nanos.map_or(kept, UnixNanos);
            let end = request.end_unix_nanos.map_or(UnixNanos(last.0.saturating_add(1)), UnixNanos);
            let window = Window::new(start, end).ok_or_else(|| Status::invalid_argument("end before start"))?;
            // What lies beyond both ends holds no row: a window of centuries is not walked through.
            let edge = Window::new(first.min(start), UnixNanos(last.0.saturating_add(1))).unwrap_or(window);
            let inside = window.intersect(edge).and_then(|inside| inside.intersect(Window::new(kept, inside.end())?));
            if let Some(inside) = inside {
                let book = Arc::clone(&self.book);
                tokio::task::spawn_blocking(move || {
                    if let Err(error) = dump(&book, number, inside, &out) {
                        let _ = out.blocking_send(Err(Status::data_loss(error.to_string())));
                    }
                });
            }
        }
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

/// Sends every run that touches the window once, in parts of the window; ends when nobody listens.
fn dump(
    book: &Book,
    node: u32,
    window: Window,
    out: &mpsc::Sender<Result<DumpResponse, Status>>,
) -> Result<(), StoreError> {
    for part in window.slots(DUMP_SECONDS) {
        let last_part = part.end() == window.end();
        for run in book.runs(node, part)? {
            // A run belongs to the part in which it ends.
            let ends_later = run.points.last().is_some_and(|(at, _)| *at >= part.end());
            if ends_later && !last_part {
                continue;
            }
            if out.blocking_send(Ok(response(&run))).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn response(run: &Run) -> DumpResponse {
    DumpResponse {
        series: name(&run.subject),
        unit: unit(&run.subject).to_owned(),
        cumulative: run.subject.is_cumulative(),
        stream_id: run.stream.to_string(),
        sequence: run.sequence,
        points: run.points.iter().map(|(at, value)| DumpPoint { unix_nanos: at.0, value: *value }).collect(),
    }
}

fn node_status(node: &NodeRecord, streams: Vec<StreamStatus>) -> NodeStatus {
    NodeStatus {
        node: node.inventory.node.to_string(),
        site: node.inventory.placement.site.clone().unwrap_or_default(),
        pool: node.inventory.placement.pool.clone().unwrap_or_default(),
        streams,
        first_row_unix_nanos: node.first_row.map(|at| at.0),
        last_row_unix_nanos: node.last_row.map(|at| at.0),
        connected: node.connected,
        agent_version: node.inventory.agent_version.clone(),
        sources: node.inventory.sources.iter().map(source_status).collect(),
        clock_skew_nanos: node.clock_skew_nanos,
        clock_skewed: node.clock_skew_nanos.unsigned_abs() > SKEW_NANOS,
        pollers: node.pollers.iter().map(poller_status).collect(),
    }
}

fn poller_status(poller: &PollerRecord) -> PollerStatus {
    PollerStatus {
        name: poller.name.to_string(),
        connected: poller.connected,
        agent_version: poller.inventory.agent_version.clone(),
        clock_skew_nanos: poller.clock_skew_nanos,
        sources: poller.inventory.sources.iter().map(source_status).collect(),
    }
}

fn source_status(state: &SourceState) -> SourceStatus {
    SourceStatus {
        source_id: state.source.id.clone(),
        unavailable_reason: state.unavailable.clone().unwrap_or_default(),
    }
}

fn unit(subject: &Subject) -> &'static str {
    match subject {
        Subject::Energy(_) => "uJ",
        Subject::IdlePower { .. } | Subject::ResidentIdlePower { .. } => "mW",
        Subject::CpuTime(_) | Subject::DeviceTime { .. } => "ns",
        Subject::Count(_, kind) | Subject::Consumption(_, kind) if kind.is_time() => "ns",
        Subject::Memory { .. } | Subject::NodeMemoryUsed | Subject::DeviceMemory { .. } => "bytes",
        Subject::DeviceSlices { .. } => "1e-6",
        Subject::Count(..) | Subject::Consumption(..) => "1",
    }
}

fn name(subject: &Subject) -> String {
    match subject {
        Subject::Energy(source) => format!("energy {}", source.id),
        Subject::IdlePower { source, .. } => format!("idle_power {source}"),
        Subject::CpuTime(workload) => format!("cpu_time {}", workload.id),
        Subject::Memory { workload } => format!("memory {workload}"),
        Subject::NodeMemoryUsed => "node_memory_used".to_owned(),
        Subject::ResidentIdlePower { source } => format!("resident_idle_power {source}"),
        Subject::DeviceTime { device, workload: None } => format!("device_time {device}"),
        Subject::DeviceTime { device, workload: Some(workload) } => format!("device_time {device} {workload}"),
        Subject::DeviceMemory { device, workload } => format!("device_memory {device} {workload}"),
        Subject::DeviceSlices { device, workload, of } => format!("device_slices of {of} {device} {workload}"),
        Subject::Count(service, kind) => format!("{} {}", count(*kind), model(service)),
        Subject::Consumption(of, kind) => {
            format!("{} of {} {} at {}", count(*kind), of.consumer.kind, of.consumer.name, of.gateway)
        }
    }
}

fn model(service: &Service) -> String {
    let model = service.model.as_deref().unwrap_or("unknown");
    let version = service.version.as_deref().unwrap_or("unresolved");
    format!("{model}@{version} at {}", service.target)
}

fn count(kind: CountKind) -> String {
    let name = match kind {
        CountKind::RequestsOk => "requests_ok",
        CountKind::RequestsFailed => "requests_failed",
        CountKind::RequestsAborted => "requests_aborted",
        CountKind::Items => "items",
        CountKind::InputTokens => "input_tokens",
        CountKind::CachedTokens => "cached_tokens",
        CountKind::OutputTokens => "output_tokens",
        CountKind::ReasoningTokens => "reasoning_tokens",
        CountKind::BusyNanos => "busy_nanos",
        CountKind::PrefillNanos => "prefill_nanos",
        CountKind::DecodeNanos => "decode_nanos",
        CountKind::Images => "images",
        CountKind::AudioNanos => "audio_nanos",
        CountKind::VideoNanos => "video_nanos",
        CountKind::Sessions => "sessions",
        CountKind::RunningNanos => "running_nanos",
        CountKind::WaitingNanos => "waiting_nanos",
        CountKind::Workflows => "workflows",
        CountKind::StoredRequests => "stored_requests",
        CountKind::StoredTokens => "stored_tokens",
        CountKind::ResidentByteSeconds => "resident_byte_seconds",
        CountKind::LatencyWithin(u64::MAX) => "latency_known",
        CountKind::LatencyWithin(nanos) => return format!("latency_within_{nanos}_ns"),
        CountKind::PromptWithin(u64::MAX) => "prompt_known",
        CountKind::PromptWithin(tokens) => return format!("prompt_within_{tokens}_tokens"),
    };
    name.to_owned()
}
