//! A receiver that is away: what waits is bounded, what is dropped is counted, and the rest arrives when it is back.

use super::{Telling, figures, points, section};
use joulebook_otlp::{OtlpSection, Protocol as OtlpProtocol};
use joulebook_tests::wait::until_async;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};

/// A receiver that answers what it is told to, and counts the messages that it takes.
#[derive(Clone, Default)]
pub(super) struct Taking {
    pub(super) taken: Arc<AtomicU64>,
    /// What it answers instead, if anything.
    pub(super) refuses: Arc<Mutex<Option<Code>>>,
    /// Points that it says it did not take of each message.
    pub(super) rejects: i64,
    /// A header that it wants to see.
    pub(super) wants: Option<(&'static str, &'static str)>,
}

#[tonic::async_trait]
impl MetricsService for Taking {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        if let Some((name, value)) = self.wants
            && request.metadata().get(name).is_none_or(|found| found != value)
        {
            return Err(Status::unauthenticated("no such header"));
        }
        if let Some(code) = *self.refuses.lock().expect("no test panics in between") {
            return Err(Status::new(code, "told to"));
        }
        self.taken.fetch_add(1, Ordering::SeqCst);
        let error_message = "some".to_owned();
        let part = ExportMetricsPartialSuccess { rejected_data_points: self.rejects, error_message };
        Ok(Response::new(ExportMetricsServiceResponse { partial_success: (self.rejects > 0).then_some(part) }))
    }
}

fn serve(listener: TcpListener, taking: Taking, tasks: &mut JoinSet<()>) {
    tasks.spawn(async move {
        let server = Server::builder().add_service(MetricsServiceServer::new(taking));
        server.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("serving");
    });
}

fn bounded(address: String, max_points: usize) -> OtlpSection {
    OtlpSection {
        timeout: Duration::from_millis(300),
        max_points: Some(max_points),
        ..section(address, OtlpProtocol::Grpc)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_away_for_long_costs_the_oldest_points_and_each_is_counted() {
    let (_exported, snapshot) = figures().await;
    let each = points(&snapshot);
    let room = usize::try_from(each * 3).expect("few");
    // It takes connections and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let telling = Telling::start(bounded(format!("http://{}", listener.local_addr().expect("bound")), room));
    let mut told = 0;
    // Twelve steps of an hour.
    for _ in 0..12 {
        telling.tell(&snapshot);
        told += each;
        let accounted = || telling.counts().waiting + telling.counts().overflow;
        until_async("it is put in line", async || accounted() == told).await;
        assert!(telling.counts().waiting <= each * 3);
    }
    assert_eq!(telling.counts().overflow, each * 9);
    until_async("it is tried again", async || telling.counts().retries > 0).await;
    let (taking, mut tasks) = (Taking::default(), JoinSet::new());
    serve(listener, taking.clone(), &mut tasks);
    until_async("what waits arrives", async || telling.counts().sent == each * 3).await;
    assert_eq!((telling.counts().waiting, telling.counts().refused), (0, 0));
    // A call that was given up may have been taken, too.
    assert!(taking.taken.load(Ordering::SeqCst) >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_dropped_and_counted_and_what_may_come_again_does() {
    let (_exported, snapshot) = figures().await;
    let each = points(&snapshot);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let (taking, mut tasks) = (Taking { rejects: 3, ..Taking::default() }, JoinSet::new());
    serve(listener, taking.clone(), &mut tasks);
    let telling = Telling::start(OtlpSection { timeout: Duration::from_secs(30), ..bounded(address, 100_000) });
    *taking.refuses.lock().expect("free") = Some(Code::Unavailable);
    telling.tell(&snapshot);
    until_async("it is tried again", async || telling.counts().retries > 0).await;
    assert_eq!(telling.counts().waiting, each);
    *taking.refuses.lock().expect("free") = None;
    until_async("it arrives", async || telling.counts().sent == each - 3).await;
    assert_eq!(telling.counts().refused, 3, "points that were not taken are told");
    *taking.refuses.lock().expect("free") = Some(Code::InvalidArgument);
    telling.tell(&snapshot);
    until_async("it is dropped", async || telling.counts().refused == 3 + each).await;
    assert_eq!(telling.counts().waiting, 0);
}
