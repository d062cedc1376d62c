//! Exports of OpenTelemetry metrics over the real socket and a real port: the messages are OpenTelemetry's own.

#![expect(clippy::expect_used, reason = "a test ends at what it did not expect")]

use joulebook_agent::clock::Clock;
use joulebook_agent::inference::otlp::Receiver;
use joulebook_agent::inference::preset::Presets;
use joulebook_agent::inference::{CountSample, Inference, start};
use joulebook_units::{BootNanos, CountKind, UnixNanos, VersionSource};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::Channel;

#[path = "otlp/bad_inputs.rs"]
mod bad_inputs;
#[path = "otlp/distributions.rs"]
mod distributions;
#[path = "otlp/parties.rs"]
mod parties;

const DELTA: i32 = 1;
const CUMULATIVE: i32 = 2;
/// Where the clock on the wall stands, in s.
const NOW: u64 = 1_700_000_000;

/// Time stands still.
struct Still(BootNanos);

impl Clock for Still {
    fn boot(&self) -> BootNanos {
        self.0
    }
    fn wall(&self) -> UnixNanos {
        UnixNanos(1_700_000_000_000_000_000)
    }
}

/// The agent runs since before every process of this machine.
const EARLY: BootNanos = BootNanos(1);
/// It runs since after.
const LATE: BootNanos = BootNanos(1 << 60);

struct Rig {
    folder: tempfile::TempDir,
    inference: Inference,
    _receiver: Receiver,
}

impl Rig {
    fn new(started: BootNanos) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let clock = Arc::new(Still(started));
        let inference = start(Vec::new(), &Presets::default(), "/proc".into(), clock).expect("legal");
        let receiver = inference.receive_at(&folder.path().join("otlp.sock")).expect("a socket");
        Self { folder, inference, _receiver: receiver }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("otlp.sock")
    }

    async fn client(&self) -> MetricsServiceClient<Channel> {
        MetricsServiceClient::connect(format!("unix://{}", self.path().display())).await.expect("connected")
    }

    async fn stream(&self) -> UnixStream {
        UnixStream::connect(self.path()).await.expect("connected")
    }

    /// Exports and gives how many data points were refused.
    async fn exports(&self, metrics: Vec<Metric>) -> i64 {
        let answer = self.client().await.export(request(metrics)).await.expect("taken").into_inner();
        answer.partial_success.map_or(0, |partial| partial.rejected_data_points)
    }

    fn failures(&self) -> BTreeMap<&'static str, u64> {
        self.inference.failures.borrow().iter().map(|(failure, times)| (failure.reason, *times)).collect()
    }

    fn samples(&mut self) -> Vec<CountSample> {
        std::iter::from_fn(|| self.inference.samples.try_recv().ok()).collect()
    }

    /// A count of the newest sample that is waiting.
    fn count(&mut self, kind: CountKind) -> Option<u64> {
        self.samples().pop().and_then(|sample| sample.counts.get(&kind).copied())
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

fn of_resource(attributes: Vec<KeyValue>, metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    let resource = Resource { attributes, ..Resource::default() };
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    let one = ResourceMetrics { resource: Some(resource), scope_metrics, ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![one] }
}

fn request(metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    of_resource(vec![text("service.name", "test")], metrics)
}

/// A monotonic sum.
fn sum(name: &str, temporality: i32, data_points: Vec<NumberDataPoint>) -> Metric {
    let data = Sum { data_points, aggregation_temporality: temporality, is_monotonic: true };
    Metric { name: name.to_owned(), data: Some(Data::Sum(data)), ..Metric::default() }
}

/// A data point of our own metrics, from one second to another.
fn point(value: Value, from: u64, to: u64) -> NumberDataPoint {
    NumberDataPoint {
        attributes: vec![text("inference.model", "m"), text("inference.model_version", "2")],
        start_time_unix_nano: (NOW + from) * 1_000_000_000,
        time_unix_nano: (NOW + to) * 1_000_000_000,
        value: Some(value),
        ..NumberDataPoint::default()
    }
}

/// `inference.items` of one model since second 1, read at another.
fn items(count: i64, at: u64) -> Metric {
    sum("inference.items", CUMULATIVE, vec![point(Value::AsInt(count), 1, at)])
}

fn histogram(name: &str, unit: &str, points: Vec<(Vec<KeyValue>, u64, f64)>, at: u64) -> Metric {
    let point = |(attributes, count, sum)| HistogramDataPoint {
        attributes,
        count,
        sum: Some(sum),
        start_time_unix_nano: (NOW + 1) * 1_000_000_000,
        time_unix_nano: (NOW + at) * 1_000_000_000,
        ..HistogramDataPoint::default()
    };
    let data_points = points.into_iter().map(point).collect();
    let data = Histogram { data_points, aggregation_temporality: CUMULATIVE };
    Metric { name: name.to_owned(), unit: unit.to_owned(), data: Some(Data::Histogram(data)), ..Metric::default() }
}

/// Sends a message by HTTP/1.1; gives status and body.
async fn post(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    headers: &str,
    body: &[u8],
) -> (u16, Vec<u8>) {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    // The agent may answer, and hang up, before it has all.
    let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
    answer(stream).await
}

async fn answer(mut stream: impl AsyncRead + Unpin) -> (u16, Vec<u8>) {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").map_or(all.len(), |end| end + 4);
    let status = String::from_utf8_lossy(&all).split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, all.split_off(end))
}

const PROTOBUF: &str = "content-type: application/x-protobuf\r\n";

#[tokio::test]
async fn gen_ai_metrics_are_counted_on_the_process_that_the_kernel_names() {
    let mut rig = Rig::new(EARLY);
    let model = || text("gen_ai.response.model", "org/chat");
    let asked = || text("gen_ai.request.model", "chat-latest");
    let failed = || text("error.type", "timeout");
    let tokens = |kind: &str| vec![model(), asked(), text("gen_ai.token.type", kind)];
    let metrics = vec![
        histogram(
            "gen_ai.server.request.duration",
            "s",
            vec![(vec![model(), asked()], 4, 2.5), (vec![model(), failed()], 1, 0.25)],
            10,
        ),
        histogram(
            "gen_ai.client.token.usage",
            "{token}",
            vec![(tokens("input"), 4, 400.0), (tokens("output"), 4, 80.0)],
            10,
        ),
        // The client's durations are the same requests once more, and others' metrics are nobody's business.
        histogram("gen_ai.client.operation.duration", "s", vec![(vec![model()], 4, 3.0)], 10),
        histogram("http.server.request.duration", "s", vec![(vec![], 9, 9.0)], 10),
    ];
    let told = of_resource(vec![text("inference.model_version", "7"), text("service.version", "0.1")], metrics);
    let answer = rig.client().await.export(told).await.expect("taken").into_inner();
    assert_eq!(answer.partial_success, None);
    let samples = rig.samples();
    let [sample] = &samples[..] else { panic!("one service: {samples:?}") };
    let counted: Vec<_> = sample.counts.iter().map(|(kind, count)| (*kind, *count)).collect();
    let truth = [
        (CountKind::RequestsOk, 4),
        (CountKind::RequestsFailed, 1),
        (CountKind::InputTokens, 400),
        (CountKind::OutputTokens, 80),
        (CountKind::BusyNanos, 2_750_000_000),
    ];
    assert_eq!(counted, truth);
    assert_eq!(sample.shown, sample.counts);
    let service = &sample.service;
    assert_eq!(
        (service.model.as_deref(), service.version.as_deref(), service.version_source),
        (Some("org/chat"), Some("7"), VersionSource::Pushed)
    );
    let own = i32::try_from(std::process::id()).expect("a pid");
    let process = sample.process.expect("known");
    assert_eq!((process.pid, service.target.clone()), (own, format!("otlp/{own}@{}", process.start_ticks)));
    let groups = rig.inference.groups.borrow().clone();
    assert_eq!(groups.iter().map(|group| &group.target).collect::<Vec<_>>(), [&service.target]);
    assert_eq!(rig.failures(), BTreeMap::new());
}

#[tokio::test]
async fn our_own_sums_are_counted_whole_and_by_their_words() {
    let mut rig = Rig::new(EARLY);
    let of = |name: &str, value: Value, more: Option<(&str, &str)>| {
        let mut one = point(value, 1, 10);
        one.attributes.extend(more.map(|(key, word)| text(key, word)));
        sum(name, CUMULATIVE, vec![one])
    };
    let milliseconds = Metric { unit: "ms".to_owned(), ..of("inference.busy_time", Value::AsDouble(1500.5), None) };
    let metrics = vec![
        of("inference.requests", Value::AsInt(3), None),
        of("inference.requests", Value::AsInt(2), Some(("inference.outcome", "aborted"))),
        of("inference.tokens", Value::AsInt(50), Some(("inference.token.type", "input"))),
        of("inference.tokens", Value::AsInt(20), Some(("inference.token.type", "cached"))),
        of("inference.tokens", Value::AsInt(9), Some(("inference.token.type", "output"))),
        of("inference.tokens", Value::AsInt(4), Some(("inference.token.type", "reasoning"))),
        of("inference.images", Value::AsInt(1), None),
        milliseconds,
    ];
    assert_eq!(rig.exports(metrics).await, 0);
    let sample = rig.samples().pop().expect("a sample");
    let truth = [
        (CountKind::RequestsOk, 3),
        (CountKind::RequestsAborted, 2),
        (CountKind::InputTokens, 50),
        (CountKind::CachedTokens, 20),
        (CountKind::OutputTokens, 9),
        (CountKind::ReasoningTokens, 4),
        (CountKind::BusyNanos, 1_500_500_000),
        (CountKind::Images, 1),
    ];
    assert_eq!(sample.counts, truth.into());
}

#[tokio::test]
async fn an_export_that_is_sent_again_counts_once_cumulative_or_delta() {
    for (temporality, told) in [(CUMULATIVE, [5, 8]), (DELTA, [5, 3])] {
        let mut rig = Rig::new(EARLY);
        let mut client = rig.client().await;
        for (index, count) in (0..).zip(told) {
            let from = if temporality == DELTA { 10 * index + 1 } else { 1 };
            let one = point(Value::AsInt(count), from, 10 * index + 11);
            let message = request(vec![sum("inference.items", temporality, vec![one])]);
            for _ in 0..2 {
                let answer = client.export(message.clone()).await.expect("taken").into_inner();
                assert_eq!(answer.partial_success, None, "a repetition is none of the sender's faults");
            }
        }
        assert_eq!((rig.count(CountKind::Items), rig.failures()), (Some(8), BTreeMap::new()), "{temporality}");
    }
}

#[tokio::test]
async fn a_series_that_says_that_it_began_again_counts_its_new_value_even_if_it_is_higher() {
    let mut rig = Rig::new(EARLY);
    rig.exports(vec![items(5, 10)]).await;
    rig.exports(vec![sum("inference.items", CUMULATIVE, vec![point(Value::AsInt(7), 15, 20)])]).await;
    assert_eq!((rig.count(CountKind::Items), rig.failures()), (Some(12), [("counter_reset", 1)].into()));
    // What comes late was held by what came before it.
    rig.exports(vec![items(6, 12)]).await;
    rig.exports(vec![sum("inference.items", CUMULATIVE, vec![point(Value::AsInt(8), 15, 30)])]).await;
    assert_eq!((rig.count(CountKind::Items), rig.failures()), (Some(13), [("counter_reset", 1)].into()));
}

#[tokio::test]
async fn what_was_counted_before_the_agent_watched_is_a_baseline_and_a_later_series_of_the_reader_is_not() {
    let mut rig = Rig::new(LATE);
    // Since before the agent runs: its clock stands at second 0.
    let old = |value, at| sum("inference.items", CUMULATIVE, vec![point(Value::AsInt(value), 0, at)]);
    let of = |metric: Metric| {
        let mut metric = metric;
        if let Some(Data::Sum(sum)) = &mut metric.data {
            sum.data_points[0].start_time_unix_nano = (NOW - 100) * 1_000_000_000;
        }
        metric
    };
    rig.exports(vec![of(old(100, 10))]).await;
    let first = rig.samples().pop().expect("a sample");
    assert_eq!((first.counts[&CountKind::Items], first.shown[&CountKind::Items], first.origin), (0, 100, None));
    let mut another = of(old(30, 20));
    another.name = "inference.images".to_owned();
    rig.exports(vec![of(old(104, 20)), another]).await;
    let second = rig.samples().pop().expect("a sample");
    assert_eq!((second.counts[&CountKind::Items], second.counts[&CountKind::Images]), (4, 30));
    // One that says that it began while the agent watched counts from 0.
    let mut rig = Rig::new(LATE);
    rig.exports(vec![items(9, 10)]).await;
    assert_eq!(rig.count(CountKind::Items), Some(9));
}

#[tokio::test]
async fn data_points_that_are_refused_are_answered_exactly_and_cost_no_neighbour() {
    let mut rig = Rig::new(EARLY);
    let mut nameless = point(Value::AsInt(1), 1, 10);
    nameless.attributes.clear();
    let mut backwards = point(Value::AsInt(1), 1, 10);
    backwards.start_time_unix_nano = backwards.time_unix_nano + 1;
    let gauge = Metric {
        name: "inference.images".to_owned(),
        data: Some(Data::Gauge(opentelemetry_proto::tonic::metrics::v1::Gauge {
            data_points: vec![point(Value::AsInt(1), 1, 10)],
        })),
        ..Metric::default()
    };
    let mut falls = sum("inference.sessions", CUMULATIVE, vec![point(Value::AsInt(1), 1, 10)]);
    if let Some(Data::Sum(sum)) = &mut falls.data {
        sum.is_monotonic = false;
    }
    let untold = sum("inference.sessions", 0, vec![point(Value::AsInt(1), 1, 10)]);
    let mut word = point(Value::AsInt(1), 1, 10);
    word.attributes.push(text("inference.outcome", "maybe"));
    let hours = Metric {
        unit: "h".to_owned(),
        ..sum("inference.busy_time", CUMULATIVE, vec![point(Value::AsDouble(1.0), 1, 10)])
    };
    let metrics = vec![
        sum("inference.requests", CUMULATIVE, vec![nameless, backwards, word]),
        gauge,
        items(5, 10),
        falls,
        untold,
        hours,
    ];
    let answer = rig.client().await.export(request(metrics)).await.expect("taken").into_inner();
    let partial = answer.partial_success.expect("some were refused");
    assert_eq!(partial.rejected_data_points, 7, "{partial:?}");
    assert!(partial.error_message.contains("inference.model"), "{partial:?}");
    assert_eq!((rig.count(CountKind::Items), rig.failures()), (Some(5), [("form", 4), ("value", 3)].into()));
}

#[tokio::test]
async fn plain_http_and_gzip_say_the_same_as_grpc() {
    let mut rig = Rig::new(EARLY);
    let packed = |message: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut gzip, message).expect("packed");
        gzip.finish().expect("packed")
    };
    let message = request(vec![items(5, 10)]).encode_to_vec();
    let (status, body) = post(rig.stream().await, "/v1/metrics", PROTOBUF, &message).await;
    assert_eq!((status, body.len(), rig.count(CountKind::Items)), (200, 0, Some(5)));
    let gzip = format!("{PROTOBUF}content-encoding: gzip\r\n");
    let bad = request(vec![items(7, 20), items(8, 20)]).encode_to_vec();
    let (status, body) = post(rig.stream().await, "/v1/metrics", &gzip, &packed(&bad)).await;
    let partial = ExportMetricsServiceResponse::decode(&body[..]).expect("a response").partial_success;
    assert_eq!((status, partial.map(|partial| partial.rejected_data_points)), (200, Some(2)));
    let mut client = rig.client().await.send_compressed(tonic::codec::CompressionEncoding::Gzip);
    client.export(request(vec![items(9, 30)])).await.expect("taken");
    assert_eq!((rig.count(CountKind::Items), rig.failures()), (Some(9), [("duplicate", 2)].into()));
}

#[tokio::test]
async fn failed_requests_of_names_that_clients_invent_open_no_service() {
    let mut rig = Rig::new(EARLY);
    let asked = |model: &str| vec![text("gen_ai.request.model", model), text("error.type", "not_found")];
    let answered = |model: &str| vec![text("gen_ai.response.model", model), text("error.type", "500")];
    let duration = |points, at| histogram("gen_ai.server.request.duration", "s", points, at);
    let invented = (0..100).map(|number| (asked(&format!("v{number}")), 1, 0.5)).collect();
    assert_eq!(rig.exports(vec![duration(invented, 10)]).await, 0);
    assert_eq!(rig.exports(vec![duration(vec![(answered("m"), 2, 1.0)], 10)]).await, 0);
    assert_eq!((rig.samples(), rig.failures()), (vec![], BTreeMap::new()));
    // The first success brings what failed before it.
    let ok = vec![text("gen_ai.response.model", "m")];
    rig.exports(vec![duration(vec![(answered("m"), 3, 1.5), (ok, 1, 0.5)], 20)]).await;
    let sample = rig.samples().pop().expect("a sample");
    assert_eq!((sample.counts[&CountKind::RequestsFailed], sample.counts[&CountKind::RequestsOk]), (3, 1));
}

#[tokio::test]
async fn at_a_port_of_loopback_the_kernels_table_says_whose_a_connection_is() {
    let folder = tempfile::tempdir().expect("folder");
    let clock = || Arc::new(Still(EARLY));
    let mut inference = start(Vec::new(), &Presets::default(), "/proc".into(), clock()).expect("legal");
    let receiver = inference.receive_on("127.0.0.1:0".parse().expect("an address")).await.expect("a port");
    let address = receiver.address().expect("a port");
    let message = request(vec![items(5, 10)]).encode_to_vec();
    let stream = TcpStream::connect(address).await.expect("connected");
    assert_eq!(post(stream, "/v1/metrics", PROTOBUF, &message).await.0, 200);
    let sample = inference.samples.recv().await.expect("a sample");
    assert_eq!(sample.process.map(|process| process.pid), i32::try_from(std::process::id()).ok());
    // Another agent finds it taken, and when it is closed it is free.
    let error = inference.receive_on(address).await.expect_err("taken");
    assert_eq!(error.exit_code(), 69, "{error}");
    receiver.close().await;
    drop(inference.receive_on(address).await.expect("free again"));
    // A process table that does not hold the connection names nobody: nothing is taken.
    std::fs::create_dir(folder.path().join("net")).expect("folder");
    let inference = start(Vec::new(), &Presets::default(), folder.path().to_owned(), clock()).expect("legal");
    let receiver = inference.receive_on("127.0.0.1:0".parse().expect("an address")).await.expect("a port");
    let stream = TcpStream::connect(receiver.address().expect("a port")).await.expect("connected");
    assert_eq!(post(stream, "/v1/metrics", PROTOBUF, &message).await.0, 403);
    let refused: Vec<_> = inference.failures.borrow().iter().map(|(one, times)| (one.reason, *times)).collect();
    assert_eq!(refused, [("peer", 1)]);
}

#[tokio::test]
async fn a_process_has_two_connections_and_more_are_closed_alone() {
    let mut rig = Rig::new(EARLY);
    let (mut one, mut two) = (rig.client().await, rig.client().await);
    one.export(request(vec![items(1, 10)])).await.expect("taken");
    two.export(request(vec![items(2, 20)])).await.expect("taken");
    let (status, _) = post(rig.stream().await, "/v1/metrics", PROTOBUF, b"").await;
    assert_eq!((status, rig.failures()), (0, [("limit", 1)].into()));
    one.export(request(vec![items(3, 30)])).await.expect("taken");
    assert_eq!(rig.count(CountKind::Items), Some(3));
}
