//! Ingest from outside: a whole aggregator on a free port, its database in a folder, agents played by the test.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says what it needs and stops where it is not so")]

use joulebook_aggregator::clock::SystemClock;
use joulebook_aggregator::config::{Config, DiskSection};
use joulebook_aggregator::exit;
use joulebook_aggregator::run::{RunError, run};
use joulebook_proto::SCHEMA_VERSION;
use joulebook_proto::admin::admin_service_client::AdminServiceClient;
use joulebook_proto::admin::{DumpRequest, GetStatusRequest};
use joulebook_proto::convert::{encode_batch, inventory_to_hello, series_to_wire};
use joulebook_proto::telemetry::stream_request::Message as Up;
use joulebook_proto::telemetry::stream_response::Message as Down;
use joulebook_proto::telemetry::telemetry_service_client::TelemetryServiceClient;
use joulebook_proto::telemetry::{Dictionary, Hello, OpenStream, Record, StreamRequest, StreamResponse};
use joulebook_units::{
    Batch, BootId, BootNanos, Column, Component, Hardware, Inventory, Method, Milliwatts, Placement, Point, Source,
    Subject, UnixNanos,
};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const STREAM: [u8; 16] = [5; 16];
const BOOT: BootId = BootId([6; 16]);

struct Aggregator {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    done: JoinHandle<Result<(), RunError>>,
}

impl Aggregator {
    async fn start(dir: &Path) -> Self {
        // How full the disk of the machine is that runs a test is no matter of the test.
        Self::start_with(dir, DiskSection { min_free_percent: 0.0, ..DiskSection::default() }).await
    }

    async fn start_with(dir: &Path, disk: DiskSection) -> Self {
        let config = Config {
            listen: "127.0.0.1:0".parse().expect("address"),
            data_dir: dir.join("db"),
            disk,
            insecure_loopback: true,
            ..Config::default()
        };
        let (ready, address) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let done = tokio::spawn(run(config, Arc::new(SystemClock), ready, shutdown));
        Self { address: address.await.expect("listening"), stop, done }
    }

    async fn stop(self) {
        self.stop.send(()).expect("running");
        self.done.await.expect("no panic").expect("a clean end");
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

struct Agent {
    up: mpsc::Sender<StreamRequest>,
    down: Streaming<StreamResponse>,
}

impl Agent {
    async fn connect(aggregator: &Aggregator, first: StreamRequest) -> Self {
        let mut client = TelemetryServiceClient::connect(aggregator.url()).await.expect("connect");
        let (up, requests) = mpsc::channel(200);
        up.send(first).await.expect("room");
        let down = client.stream(ReceiverStream::new(requests)).await.expect("stream").into_inner();
        Self { up, down }
    }

    async fn send(&self, message: Up) {
        self.up.send(StreamRequest { message: Some(message) }).await.expect("room");
    }

    async fn next(&mut self) -> Result<Down, Status> {
        let response = self.down.message().await?.expect("not the end");
        Ok(response.message.expect("a message"))
    }

    /// The next acknowledged number.
    async fn acked(&mut self) -> u64 {
        loop {
            if let Down::Ack(ack) = self.next().await.expect("an ack") {
                assert_eq!(ack.rejections, []);
                return ack.acked_sequence;
            }
        }
    }

    async fn refusal(mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

fn now_nanos() -> i64 {
    use joulebook_aggregator::clock::Clock;
    SystemClock.unix().0
}

fn hello(node: &str) -> StreamRequest {
    let inventory = Inventory {
        node: node.parse().expect("name"),
        agent_version: "1.0.0".to_owned(),
        sources: Vec::new(),
        hardware: Hardware::default(),
        placement: Placement::default(),
    };
    let hello = Hello {
        streams: vec![OpenStream { stream_id: STREAM.to_vec(), highest_sequence: 0, acked_sequence: 0 }],
        session_epoch: 1,
        boot_id: BOOT.0.to_vec(),
        boot_time_nanos: 1_000_000_000_000,
        wall_time_unix_nanos: now_nanos(),
        schema_version: SCHEMA_VERSION,
        ..inventory_to_hello(&inventory)
    };
    StreamRequest { message: Some(Up::Hello(hello)) }
}

fn dictionary() -> Up {
    let source = Source {
        id: "rapl/package-0".to_owned(),
        component: Component::Cpu,
        socket: None,
        device: None,
        collector: "rapl".to_owned(),
        method: Method::Counter,
        unit_nanojoules: None,
        ceiling: Milliwatts(100_000),
        uncertainty_permille: 20,
        contained_in: None,
        scope: None,
        basis: String::new(),
    };
    Up::Dictionary(Dictionary {
        stream_id: STREAM.to_vec(),
        series: vec![series_to_wire(1, &Subject::Energy(source.into()))],
    })
}

/// Record `sequence` holds the second after it: 1 J. Always the same bytes: its boot is known by Hello, so its wall clock
/// is of no use.
fn record(sequence: u64) -> Up {
    let point = |second: u64| Point { at: BootNanos((900 + second) * 1_000_000_000), value: second * 1_000_000 };
    let batch = Batch {
        boot: BOOT,
        wall: UnixNanos(0),
        rows: vec![point(sequence).at],
        columns: vec![Column { series: 1, previous: Some(point(sequence - 1)), points: vec![point(sequence)] }],
        gaps: Vec::new(),
    };
    let payload = encode_batch(&batch).expect("valid");
    let (payload_hash, payload) = (payload.hash.to_vec(), payload.bytes);
    Up::Record(Record { stream_id: STREAM.to_vec(), sequence, payload_hash, payload })
}

async fn stored_microjoules(aggregator: &Aggregator) -> u64 {
    let mut client = AdminServiceClient::connect(aggregator.url()).await.expect("connect");
    let request = DumpRequest { node: "gpu-1".to_owned(), start_unix_nanos: None, end_unix_nanos: None };
    let mut runs = client.dump(request).await.expect("dump").into_inner();
    let mut sum = 0;
    while let Some(run) = runs.message().await.expect("run") {
        assert_eq!((run.series.as_str(), run.unit.as_str()), ("energy rapl/package-0", "uJ"));
        sum += run.points.last().expect("point").value - run.points[0].value;
    }
    sum
}

#[tokio::test]
async fn records_are_acknowledged_stored_and_known_after_a_restart() {
    let dir = tempfile::tempdir().expect("tempdir");
    let aggregator = Aggregator::start(dir.path()).await;
    let mut agent = Agent::connect(&aggregator, hello("gpu-1")).await;
    let Down::HelloReply(reply) = agent.next().await.expect("reply") else { panic!("not a reply") };
    assert_eq!(reply.marks[0].acked_sequence, 0);
    assert_eq!(reply.credit.expect("credit").records, 64);
    agent.send(dictionary()).await;
    for sequence in 1..=20 {
        agent.send(record(sequence)).await;
    }
    while agent.acked().await < 20 {}
    assert_eq!(stored_microjoules(&aggregator).await, 20_000_000);
    // The session is still open: stopping ends it, and quickly.
    aggregator.stop().await;

    let aggregator = Aggregator::start(dir.path()).await;
    let mut agent = Agent::connect(&aggregator, hello("gpu-1")).await;
    let Down::HelloReply(again) = agent.next().await.expect("reply") else { panic!("not a reply") };
    assert_eq!(again.marks[0].acked_sequence, 20);
    assert_eq!(again.cluster_id, reply.cluster_id);
    agent.send(record(20)).await;
    agent.send(record(21)).await;
    while agent.acked().await < 21 {}
    assert_eq!(stored_microjoules(&aggregator).await, 21_000_000);
    let mut client = AdminServiceClient::connect(aggregator.url()).await.expect("connect");
    let status = client.get_status(GetStatusRequest {}).await.expect("status").into_inner();
    assert_eq!(status.counters["duplicates_total"], 1);
    assert_eq!(status.nodes[0].streams[0].acked_sequence, 21);
    assert!(status.nodes[0].connected);
    aggregator.stop().await;
}

#[tokio::test]
async fn credit_comes_back_with_acknowledgements_and_more_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let aggregator = Aggregator::start(dir.path()).await;
    let mut agent = Agent::connect(&aggregator, hello("gpu-1")).await;
    agent.send(dictionary()).await;
    for sequence in 1..=64 {
        agent.send(record(sequence)).await;
    }
    let mut credit = 0;
    while credit < 64 {
        if let Down::Credit(grant) = agent.next().await.expect("credit") {
            credit += grant.records;
        }
    }
    // 100 at once are more than 64: whatever is acknowledged first, the session ends.
    for sequence in 65..=165 {
        agent.send(record(sequence)).await;
    }
    assert_eq!(agent.refusal().await.code(), Code::ResourceExhausted);
    aggregator.stop().await;
}

#[tokio::test]
async fn b52_a_message_over_a_mebibyte_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let aggregator = Aggregator::start(dir.path()).await;
    let agent = Agent::connect(&aggregator, hello("gpu-1")).await;
    let payload = vec![0; (1 << 20) + 1].into();
    agent
        .send(Up::Record(Record { stream_id: STREAM.to_vec(), sequence: 1, payload_hash: vec![0; 16], payload }))
        .await;
    let status = agent.refusal().await;
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
    aggregator.stop().await;
}

#[tokio::test]
async fn malformed_sessions_are_refused_with_the_codes_of_the_contract() {
    let dir = tempfile::tempdir().expect("tempdir");
    let aggregator = Aggregator::start(dir.path()).await;
    let first = StreamRequest { message: Some(record(1)) };
    assert_eq!(Agent::connect(&aggregator, first).await.refusal().await.code(), Code::InvalidArgument);

    let agent = Agent::connect(&aggregator, hello("gpu-1")).await;
    agent.send(record(2)).await;
    let status = agent.refusal().await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().ends_with("expected 1"), "{status:?}");

    let foreign = Agent::connect(&aggregator, hello("gpu-2")).await;
    assert_eq!(foreign.refusal().await.code(), Code::PermissionDenied);

    let Up::Record(mut torn) = record(1) else { unreachable!() };
    torn.payload_hash[0] ^= 1;
    let agent = Agent::connect(&aggregator, hello("gpu-1")).await;
    agent.send(Up::Record(torn)).await;
    assert_eq!(agent.refusal().await.code(), Code::InvalidArgument);

    let Up::Record(mut zero) = record(1) else { unreachable!() };
    zero.sequence = 0;
    let agent = Agent::connect(&aggregator, hello("gpu-1")).await;
    agent.send(Up::Record(zero)).await;
    assert_eq!(agent.refusal().await.code(), Code::InvalidArgument);
    aggregator.stop().await;
}

#[tokio::test]
async fn a_taken_port_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().expect("tempdir");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let data_dir = dir.path().join("db");
    let listen = taken.local_addr().expect("address");
    let config = Config { listen, data_dir: data_dir.clone(), insecure_loopback: true, ..Config::default() };
    let refused = run(config, Arc::new(SystemClock), oneshot::channel().0, std::future::pending()).await;
    assert_eq!(exit::code(&refused.expect_err("taken")), exit::UNAVAILABLE);
    assert!(!data_dir.exists());
}

#[tokio::test]
async fn a_second_aggregator_on_a_folder_is_refused_and_the_first_goes_on() {
    let dir = tempfile::tempdir().expect("tempdir");
    let aggregator = Aggregator::start(dir.path()).await;
    let config = Config {
        listen: "127.0.0.1:0".parse().expect("address"),
        data_dir: dir.path().join("db"),
        insecure_loopback: true,
        ..Config::default()
    };
    let refused = run(config, Arc::new(SystemClock), oneshot::channel().0, std::future::pending()).await;
    assert_eq!(exit::code(&refused.expect_err("locked")), exit::TEMPORARY);
    assert_eq!(stored_status(&aggregator).await, 0);
    aggregator.stop().await;
}

async fn stored_status(aggregator: &Aggregator) -> usize {
    let mut client = AdminServiceClient::connect(aggregator.url()).await.expect("connect");
    client.get_status(GetStatusRequest {}).await.expect("status").into_inner().nodes.len()
}

#[tokio::test]
async fn health_and_reflection_answer_for_every_service() {
    let dir = tempfile::tempdir().expect("a folder");
    let aggregator = Aggregator::start(dir.path()).await;
    let channel =
        tonic::transport::Endpoint::from_shared(aggregator.url()).expect("a URL").connect().await.expect("connect");
    let mut health = HealthClient::new(channel.clone());
    let services = ["telemetry.v1.TelemetryService", "query.v1.QueryService", "admin.v1.AdminService"];
    for service in services {
        let asked = HealthCheckRequest { service: format!("joulebook.{service}") };
        let status = health.check(asked).await.expect("known").into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service}");
    }
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let list = tonic_reflection::pb::v1::ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let mut answers = reflection.server_reflection_info(tokio_stream::once(list)).await.expect("a stream").into_inner();
    let answer = answers.message().await.expect("no error").expect("an answer").message_response;
    let Some(MessageResponse::ListServicesResponse(listed)) = answer else { panic!("not a list: {answer:?}") };
    let names: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
    assert!(services.iter().all(|service| names.contains(&format!("joulebook.{service}"))), "{names:?}");
    aggregator.stop().await;
}

#[tokio::test]
async fn b85_without_room_on_the_disk_nothing_is_taken_and_questions_are_answered() {
    let dir = tempfile::tempdir().expect("tempdir");
    let full = DiskSection { min_free_bytes: u64::MAX / 4, ..DiskSection::default() };
    let aggregator = Aggregator::start_with(dir.path(), full).await;
    let mut agent = Agent::connect(&aggregator, hello("n1")).await;
    let Down::HelloReply(reply) = agent.next().await.expect("a reply") else { panic!("not HelloReply") };
    let credit = reply.credit.expect("credit");
    assert_eq!((credit.records, reply.marks[0].acked_sequence), (0, 0));
    assert!(credit.retry_after_milliseconds.is_some_and(|wait| (5_000..15_000).contains(&wait)), "{credit:?}");
    let status = agent.refusal().await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.metadata().get("retry-after").is_some(), "{status:?}");

    let channel =
        tonic::transport::Channel::from_shared(aggregator.url()).expect("url").connect().await.expect("connect");
    let mut health = HealthClient::new(channel.clone());
    let mut watched = health
        .watch(HealthCheckRequest { service: "joulebook.telemetry.v1.TelemetryService".to_owned() })
        .await
        .expect("watch")
        .into_inner();
    while watched.message().await.expect("health").expect("not the end").status() != ServingStatus::NotServing {}
    let state = AdminServiceClient::new(channel).get_status(GetStatusRequest {}).await.expect("status").into_inner();
    assert_eq!((state.nodes, state.counters["intake_open"], state.counters["intake_stops_total"]), (vec![], 0, 1));
    aggregator.stop().await;
}
