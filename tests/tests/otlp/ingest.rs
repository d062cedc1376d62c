//! A whole aggregator whose receiver takes connections and never answers, for an hour of its clock: what agents send is stored
//! to the last value and acknowledged as soon as ever, what waits is bounded, and every point that is dropped is counted. When
//! the receiver answers, what waited and what is new arrive.

#![allow(clippy::print_stdout, reason = "it says what it counted")]

use joulebook_agent::clock::Clock;
use joulebook_agent::uplink::Security;
use joulebook_aggregator::config::Config;
use joulebook_aggregator::run;
use joulebook_tests::chaos::agent::{Agent, spool_config};
use joulebook_tests::chaos::checker::Checker;
use joulebook_tests::chaos::folder_in_memory;
use joulebook_tests::chaos::oracle::Oracle;
use joulebook_tests::chaos::plan::{Plan, ROWS, RigClock, STEP};
use joulebook_tests::chaos::server::ANY_DISK;
use joulebook_tests::export::Hand;
use joulebook_tests::prometheus::get;
use joulebook_tests::wait::{Moment, until_async};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

const NODES: u32 = 16;
/// Records of a node that hold a minute of its clock.
const MINUTE_OF_RECORDS: u64 = 60_000_000_000 / (ROWS * STEP);
/// Points of a node in a step: energy and power of the host and of its two sources.
const POINTS_OF_A_NODE: u64 = 6;
/// What each step tells.
const STEP_POINTS: u64 = NODES as u64 * POINTS_OF_A_NODE;
/// The least room that may be set: ten steps.
const ROOM: u64 = 1_000;
/// Steps without the receiver, and those after it is back.
const AWAY: u64 = 60;
const BACK: u64 = 10;

/// A point by its host, its name, what it is of and its time.
type Told = (String, String, String, u64);

/// A receiver that keeps which points it took.
#[derive(Clone, Default)]
struct Taking(Arc<Mutex<BTreeSet<Told>>>);

#[tonic::async_trait]
impl MetricsService for Taking {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let mut all = self.0.lock().expect("no test panics in between");
        for resource in &request.get_ref().resource_metrics {
            let host = format!("{:?}", resource.resource);
            for metric in resource.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
                let points = match &metric.data {
                    Some(Data::Gauge(gauge)) => &gauge.data_points,
                    Some(Data::Sum(sum)) => &sum.data_points,
                    other => return Err(Status::invalid_argument(format!("{other:?}"))),
                };
                for point in points {
                    let of = format!("{:?}", point.attributes);
                    all.insert((host.clone(), metric.name.clone(), of, point.time_unix_nano));
                }
            }
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

/// What became of the points of figures, as the page tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    sent: u64,
    overflow: u64,
    waiting: u64,
}

impl Counts {
    async fn read(page: &str) -> Self {
        let text = get(page, "/metrics", "*/*").await.expect("a page").1;
        let value = |name: &str, labels: &str| -> u64 {
            let series = format!("joulebook_otlp_{name}{{signal=\"metrics\"{labels}}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&series));
            line.unwrap_or_else(|| panic!("{series}is not on the page: {text}")).parse::<f64>().expect("a number")
                as u64
        };
        assert_eq!(value("lost_points_total", ",reason=\"refused\""), 0);
        Self {
            sent: value("sent_points_total", ""),
            overflow: value("lost_points_total", ",reason=\"overflow\""),
            waiting: value("waiting_points", ""),
        }
    }

    fn all(self) -> u64 {
        self.sent + self.overflow + self.waiting
    }
}

/// A fleet whose clock a test moves minute by minute, and the aggregator's with it.
struct Cluster {
    agents: Vec<Agent>,
    oracle: Oracle,
    clock: Arc<Hand>,
    page: String,
}

impl Cluster {
    /// Makes a minute of every node, waits until it is acknowledged and returns how long that took; then lets the aggregator's
    /// minute pass.
    async fn minute(&mut self) -> Duration {
        let began = Moment::now();
        for (node, agent) in (0u32..).zip(&mut self.agents) {
            for _ in 0..MINUTE_OF_RECORDS {
                self.oracle.durable(node, agent.produce().await.expect("a spool"));
            }
        }
        for (node, agent) in (0u32..).zip(&self.agents) {
            let mut state = agent.spool().watch();
            let kept = state.wait_for(|state| state.acked >= state.highest).await.expect("a spool");
            self.oracle.acked(node, kept.acked);
        }
        let took = began.elapsed();
        self.clock.pass(Duration::from_secs(60));
        took
    }

    /// Waits until so many points were made, by what became of them.
    async fn made(&self, points: u64) -> Counts {
        let mut counts = Counts::read(&self.page).await;
        until_async("the step is told", async || {
            counts = Counts::read(&self.page).await;
            counts.all() >= points
        })
        .await;
        assert_eq!(counts.all(), points, "{counts:?}");
        counts
    }
}

/// An address of this machine that nobody else uses, with a port that is free there.
fn free_address() -> String {
    let [.., high, low] = std::process::id().to_be_bytes();
    let listener = std::net::TcpListener::bind((format!("127.77.{high}.{low}"), 0)).expect("a port");
    listener.local_addr().expect("bound").to_string()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_without_the_receiver_costs_counted_points_and_neither_a_value_nor_time() {
    let (folder, memory) = (tempfile::tempdir().expect("a folder"), folder_in_memory().expect("a folder"));
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    // In the past, so that all that is made lies there, and half a minute after a step.
    let start = RigClock.wall().plus_seconds(-3 * 3600).floor_to(60).plus_seconds(30);
    let clock = Arc::new(Hand::at(start));
    let page = free_address();
    let text = format!(
        "listen = \"127.0.0.1:0\"\ndata_dir = \"{}\"\ninsecure_loopback = true\n{ANY_DISK}\n\
         [metrics]\nlisten = \"{page}\"\n[export]\nstep = \"1m\"\ndelay = \"0s\"\nwindows = []\n\
         [otlp]\nendpoint = \"http://{}\"\ntimeout = \"1s\"\nmax_points = {ROOM}\n",
        folder.path().join("db").display(),
        silent.local_addr().expect("bound"),
    );
    let config = Config::parse(&text, Path::new("test.toml")).expect("a configuration");
    let (ready, address) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(run::run(config, clock.clone(), ready, async {
        let _ = stopped.await;
    }));
    let endpoint = format!("http://{}", address.await.expect("an aggregator"));
    let plan = Plan { seed: 12, boot: RigClock.boot().0, wall: start.0 };
    let oracle = Oracle::default();
    let agents = (0..NODES).map(|node| {
        let spool = spool_config(&memory.path().join(Plan::node(node)), false);
        let agent = Agent::over(plan, node, &spool, &endpoint, Security::PlaintextOnLoopback).expect("an agent");
        oracle.opened(node, agent.spool().session_epoch(), agent.state().highest);
        agent
    });
    let agents: Vec<Agent> = agents.collect();
    let mut cluster = Cluster { agents, oracle, clock, page };

    // With the first step that closes the sums begin; each one after it tells of every node.
    cluster.minute().await;
    until_async("the first step is closed", async || {
        let page = get(&cluster.page, "/metrics", "*/*").await.expect("a page").1;
        page.contains("\njoulebook_export_duration_seconds ")
    })
    .await;
    let began = Moment::now();
    let mut away = Vec::new();
    for step in 1..=AWAY {
        away.push(cluster.minute().await);
        let counts = cluster.made(step * STEP_POINTS).await;
        assert!(counts.waiting <= ROOM && counts.sent == 0, "{counts:?}");
    }
    let hour = Counts::read(&cluster.page).await;
    // The message on the way is not dropped, so the room is used but for less than a step.
    assert!(hour.waiting > ROOM - STEP_POINTS && hour.overflow == AWAY * STEP_POINTS - hour.waiting, "{hour:?}");

    let taking = Taking::default();
    let service = MetricsServiceServer::new(taking.clone());
    let receiver =
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(silent)));
    until_async("what waited arrives", async || Counts::read(&cluster.page).await.sent == hour.waiting).await;
    let mut back = Vec::new();
    for step in AWAY + 1..=AWAY + BACK {
        back.push(cluster.minute().await);
        cluster.made(step * STEP_POINTS).await;
    }
    until_async("what is new arrives", async || Counts::read(&cluster.page).await.waiting == 0).await;
    let end = Counts::read(&cluster.page).await;
    assert_eq!(end, Counts { sent: hour.waiting + BACK * STEP_POINTS, overflow: hour.overflow, waiting: 0 });
    let taken = taking.0.lock().expect("free").clone();
    assert_eq!(taken.len() as u64, end.sent, "each point that was sent was taken, and no other");
    let newest: BTreeSet<u64> = taken.iter().map(|(.., at)| *at).collect();
    let last =
        u64::try_from(plan.at(0).floor_to(60).plus_seconds(60 * (1 + AWAY + BACK) as i64).0).expect("after 1970");
    assert!(newest.contains(&last) && newest.len() as u64 >= BACK, "{newest:?}");

    let (away, back) = (median(&mut away), median(&mut back));
    println!(
        "{AWAY} steps of {STEP_POINTS} points without the receiver in {:?}: {} waited, {} dropped; then {} sent in all; \
         a minute of {NODES} nodes was acknowledged in {away:?} without it, in {back:?} with it (medians)",
        began.elapsed(),
        hour.waiting,
        hour.overflow,
        end.sent,
    );
    // Both are some milliseconds of syncs; a call that is waited for would be a second.
    assert!(away < back * 3 + Duration::from_millis(300), "{away:?} {back:?}");
    let sum = |of: fn(&Agent) -> u64| cluster.agents.iter().map(of).sum::<u64>();
    assert_eq!(sum(|agent| agent.uplink().rejected.values().sum()), 0, "nothing was refused");
    assert_eq!((sum(|agent| agent.state().lost_records), sum(|agent| agent.uplink().sessions)), (0, u64::from(NODES)));
    let all = cluster.oracle.all();
    let mut checker = Checker::connect(plan, &endpoint).await.expect("connected");
    let stored: u64 =
        checker.check(&all).await.expect("each record once, and every sum").values().map(|it| it.stored).sum();
    assert_eq!(stored, u64::from(NODES) * MINUTE_OF_RECORDS * (1 + AWAY + BACK));
    drop((checker, cluster));
    receiver.abort();
    stop.send(()).expect("it runs");
    serving.await.expect("it ends").expect("in order");
}
