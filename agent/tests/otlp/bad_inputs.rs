//! Exports that are hostile or broken, over the real socket. Each test is named after its row of the set of bad inputs.

use super::*;
use std::time::Duration;
use tonic::Code;

/// Sends a body by plain HTTP and expects it to be refused so; nothing is counted, and the next export is.
async fn refuses(body: &[u8], headers: &str, status: u16, reason: &'static str) {
    let mut rig = Rig::new(EARLY);
    let (said, _) = post(rig.stream().await, "/v1/metrics", headers, body).await;
    assert_eq!((said, rig.failures()), (status, [(reason, 1)].into()));
    assert_eq!(rig.samples(), vec![]);
    assert_eq!(rig.exports(vec![items(7, 10)]).await, 0);
    assert_eq!(rig.count(CountKind::Items), Some(7));
}

/// The same over gRPC, as a message of OpenTelemetry.
async fn refuses_all(metrics: Vec<Metric>, code: Code, reason: &'static str, word: &str) {
    let mut rig = Rig::new(EARLY);
    let refused = rig.client().await.export(request(metrics)).await.expect_err("refused");
    assert_eq!((refused.code(), rig.failures()), (code, [(reason, 1)].into()), "{refused}");
    assert!(refused.message().contains(word), "{refused}");
    assert_eq!(rig.samples(), vec![]);
    assert_eq!(rig.exports(vec![items(7, 10)]).await, 0);
    assert_eq!(rig.count(CountKind::Items), Some(7));
}

#[tokio::test]
async fn b38_a_body_without_end_is_cut_at_the_limit_and_the_sender_let_go() {
    let rig = Rig::new(EARLY);
    let mut stream = rig.stream().await;
    let head = format!("POST /v1/metrics HTTP/1.1\r\nhost: x\r\n{PROTOBUF}transfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let chunk = [b"10000\r\n", &[0x0a; 0x10000][..], b"\r\n"].concat();
    let mut sent = 0;
    // Until the agent hangs up; what lies in buffers comes on top of the limit.
    while sent < 64 << 20 && stream.write_all(&chunk).await.is_ok() {
        sent += chunk.len();
    }
    assert!((2 << 20..4 << 20).contains(&sent), "{sent} bytes were taken");
    assert_eq!(rig.failures(), [("limit", 1)].into());
    // A length that is told is believed before a byte of it has come.
    let mut stream = rig.stream().await;
    let head = format!("POST /v1/metrics HTTP/1.1\r\nhost: x\r\n{PROTOBUF}content-length: 4294967296\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut said = [0; 12];
    stream.read_exact(&mut said).await.expect("an answer");
    assert_eq!(&said, b"HTTP/1.1 413");
}

#[tokio::test]
async fn b39_a_message_that_unpacks_beyond_the_limit_is_refused() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..1024 {
        std::io::Write::write_all(&mut gzip, &[0x0a; 1 << 16]).expect("packed");
    }
    let bomb = gzip.finish().expect("packed");
    assert!(bomb.len() < 1 << 18, "64 MiB of {} bytes", bomb.len());
    refuses(&bomb, &format!("{PROTOBUF}content-encoding: gzip\r\n"), 413, "limit").await;
    refuses(b"\x1f\x8bnothing", &format!("{PROTOBUF}content-encoding: gzip\r\n"), 400, "form").await;
    refuses(b"", &format!("{PROTOBUF}content-encoding: zstd\r\n"), 415, "form").await;
    let packed = Metric { name: "x".repeat(3 << 20), ..items(1, 10) };
    let mut rig = Rig::new(EARLY);
    let mut client = rig.client().await.send_compressed(tonic::codec::CompressionEncoding::Gzip);
    let refused = client.export(request(vec![packed])).await.expect_err("refused");
    assert_eq!((refused.code(), rig.failures()), (Code::ResourceExhausted, [("limit", 1)].into()));
    assert_eq!(rig.samples(), vec![]);
}

#[tokio::test(start_paused = true)]
async fn b40_an_export_that_comes_byte_by_byte_is_given_up_after_five_seconds_in_all() {
    let mut rig = Rig::new(EARLY);
    // HTTP/2's preface, settings, and the beginning of a frame of a head.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let second = [&preface[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0], &[0, 8, 0, 1, 4, 0, 0, 0, 1]].concat();
    for (head, failures) in [
        // A body, and heads that never end.
        (format!("POST /v1/metrics HTTP/1.1\r\nhost: x\r\n{PROTOBUF}content-length: 999\r\n\r\n").into_bytes(), 1),
        (b"POST /v1/metrics HTTP/1.1\r\nx: ".to_vec(), 2),
        (second, 3),
    ] {
        let mut slow = rig.stream().await;
        let began = tokio::time::Instant::now();
        slow.write_all(&head).await.expect("sent");
        let mut said = [0; 1];
        loop {
            tokio::select! {
                // An answer, or the end; in HTTP/2 there are settings before it.
                read = slow.read(&mut said) => if failures < 3 || !matches!(read, Ok(1)) {
                    break;
                },
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            if slow.write_all(b"x").await.is_err() {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "still taken after {:?}", began.elapsed());
        }
        assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
        assert_eq!((rig.samples(), rig.failures().values().sum::<u64>()), (vec![], failures));
    }
}

#[tokio::test]
async fn b41_more_data_points_series_or_versions_than_a_process_may_have_are_refused() {
    let many = |count: u64, label: &str| {
        let one = |number: u64| {
            let mut one = point(Value::AsInt(1), 1, 10);
            if label == "inference.model" {
                one.attributes.clear();
            }
            one.attributes.push(text(label, &number.to_string()));
            one
        };
        vec![sum("inference.items", CUMULATIVE, (0..count).map(one).collect())]
    };
    refuses_all(many(10_001, "x"), Code::InvalidArgument, "limit", "10000").await;
    for (count, label, refused) in [(1_024, "x", 0), (1_030, "x", 6), (40, "inference.model", 8)] {
        let mut rig = Rig::new(EARLY);
        assert_eq!(rig.exports(many(count, label)).await, refused, "{count} by {label}");
        assert_eq!(rig.failures().get("limit").copied().unwrap_or(0), refused.unsigned_abs());
        let counted: u64 = rig.samples().iter().map(|sample| sample.counts[&CountKind::Items]).sum();
        assert_eq!(counted, count - refused.unsigned_abs());
    }
}

#[tokio::test]
async fn b42_labels_beyond_a_limit_refuse_the_whole_export() {
    let with = |attributes: Vec<KeyValue>| {
        let mut one = point(Value::AsInt(1), 1, 10);
        one.attributes.extend(attributes);
        // Of a metric that is counted, and of one that is not.
        ["inference.items", "another"].map(|name| vec![items(1, 9), sum(name, CUMULATIVE, vec![one.clone()])])
    };
    let long = text("x", &"v".repeat(1 << 20));
    let name = text(&"n".repeat(10 << 10), "v");
    let many = (0..500).map(|number| text(&format!("l{number}"), "v")).collect();
    for attributes in [vec![long], vec![name], many] {
        for metrics in with(attributes) {
            refuses_all(metrics, Code::InvalidArgument, "limit", "at most").await;
        }
    }
    let name = Metric { name: "n".repeat(257), ..items(1, 10) };
    refuses_all(vec![name], Code::InvalidArgument, "limit", "256").await;
    // A name of a model that is too long is one data point's.
    let mut rig = Rig::new(EARLY);
    let mut long = point(Value::AsInt(1), 1, 10);
    long.attributes = vec![text("inference.model", &"m".repeat(257))];
    let metrics = vec![items(5, 10), sum("inference.images", CUMULATIVE, vec![long])];
    assert_eq!((rig.exports(metrics).await, rig.count(CountKind::Items)), (1, Some(5)));
}

#[tokio::test]
async fn b43_an_exporter_cannot_say_that_it_is_another_process_pod_or_node() {
    let mut rig = Rig::new(EARLY);
    let claims = ["process.pid", "k8s.pod.uid", "k8s.node.name", "host.name", "container.id", "service.instance.id"];
    let claims = |value: &str| claims.map(|key| text(key, value)).to_vec();
    let mut one = point(Value::AsInt(5), 1, 10);
    one.attributes.extend(claims("1"));
    let told = of_resource(claims("1"), vec![sum("inference.items", CUMULATIVE, vec![one])]);
    rig.client().await.export(told).await.expect("taken");
    let sample = rig.samples().pop().expect("a sample");
    let own = i32::try_from(std::process::id()).expect("a pid");
    assert_eq!(sample.process.map(|process| process.pid), Some(own), "as the kernel says");
    assert!(sample.service.target.starts_with(&format!("otlp/{own}@")));
    assert_eq!((sample.service.workload, sample.of), (None, None));
}

#[tokio::test]
async fn b44_a_value_that_is_no_count_refuses_its_data_point_alone() {
    let mut rig = Rig::new(EARLY);
    let bad = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 1e300, 1.5].map(Value::AsDouble);
    let bad = bad.into_iter().chain([Value::AsInt(-1), Value::AsInt((1 << 53) + 1)]);
    let mut metrics: Vec<Metric> = bad
        .zip(0..)
        .map(|(value, number)| {
            let mut one = point(value, 1, 10);
            one.attributes.push(text("x", &format!("{number}")));
            sum("inference.items", CUMULATIVE, vec![one])
        })
        .collect();
    metrics.push(items(5, 10));
    let seconds = |seconds| {
        let point = (vec![text("gen_ai.response.model", "m")], 1, seconds);
        histogram("gen_ai.server.request.duration", "s", vec![point], 10)
    };
    metrics.extend([seconds(f64::NAN), seconds(-1.0), seconds(1e300)]);
    assert_eq!(rig.exports(metrics).await, 11);
    let sample = rig.samples().pop().expect("a sample");
    assert_eq!((sample.counts, rig.failures()), ([(CountKind::Items, 5)].into(), [("value", 11)].into()));
    // One that says that it has no value is not there.
    let mut gone = point(Value::AsInt(0), 1, 20);
    (gone.flags, gone.value) = (1, None);
    assert_eq!(rig.exports(vec![sum("inference.items", CUMULATIVE, vec![gone])]).await, 0);
    rig.exports(vec![items(6, 30)]).await;
    assert_eq!((rig.count(CountKind::Items), rig.failures()), (Some(6), [("value", 11)].into()));
}

#[tokio::test]
async fn b45_a_cumulative_count_that_fell_counts_its_new_value_and_is_flagged_once() {
    let mut rig = Rig::new(EARLY);
    let mut client = rig.client().await;
    for (told, at, counted) in [(100, 10, 100), (30, 20, 130), (31, 30, 131)] {
        client.export(request(vec![items(told, at)])).await.expect("taken");
        assert_eq!(rig.count(CountKind::Items), Some(counted));
    }
    assert_eq!(rig.failures(), [("counter_reset", 1)].into());
}

#[tokio::test]
async fn b46_a_data_point_that_is_there_twice_is_refused_both_times_and_one_told_otherwise_is_too() {
    let mut rig = Rig::new(EARLY);
    let mut other = point(Value::AsInt(3), 1, 10);
    other.attributes.push(text("x", "1"));
    let metrics = vec![items(5, 10), sum("inference.items", CUMULATIVE, vec![other]), items(6, 10)];
    assert_eq!((rig.exports(metrics).await, rig.count(CountKind::Items)), (2, Some(3)), "the other series is counted");
    assert_eq!((rig.exports(vec![items(5, 20)]).await, rig.count(CountKind::Items)), (0, Some(8)));
    assert_eq!((rig.exports(vec![items(9, 20)]).await, rig.count(CountKind::Items)), (1, None), "of the same time");
    let mut twice = point(Value::AsInt(3), 1, 10);
    twice.attributes.extend([text("y", "1"), text("y", "2")]);
    assert_eq!(rig.exports(vec![sum("inference.items", CUMULATIVE, vec![twice])]).await, 1);
    // Deltas of times that were told already.
    let delta = |from, to| vec![sum("inference.images", DELTA, vec![point(Value::AsInt(4), from, to)])];
    for (from, to, refused, counted) in
        [(1, 10, 0, Some(4)), (10, 20, 0, Some(8)), (15, 30, 1, None), (25, 30, 0, Some(12))]
    {
        assert_eq!((rig.exports(delta(from, to)).await, rig.count(CountKind::Images)), (refused, counted), "{from}");
    }
    assert_eq!(rig.failures(), [("duplicate", 5)].into());
}

#[tokio::test]
async fn b47_a_message_that_is_damaged_or_something_else_counts_nothing() {
    let good = request(vec![items(5, 10)]).encode_to_vec();
    let mut utf8 = good.clone();
    let at = utf8.windows(5).position(|five| five == b"model").expect("there");
    utf8[at] = 0xff;
    for body in [&good[..good.len() - 4], &utf8, b"<!DOCTYPE html><html>Log in</html>", b"\xff\xff\xff"] {
        refuses(body, PROTOBUF, 400, "form").await;
    }
    refuses(b"{\"resourceMetrics\":[]}", "content-type: application/json\r\n", 415, "form").await;
    refuses(&good, "content-type: text/html\r\n", 415, "form").await;
    // Frames of a call that hold no message, or more than one.
    let framed = |body: &[u8]| [&[0, 0, 0, 0, 9][..], body].concat();
    let mut rig = Rig::new(EARLY);
    let path = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
    for body in [vec![], vec![0, 0], framed(b"short"), [framed(b"123456789"), framed(b"123456789")].concat()] {
        post(rig.stream().await, path, "content-type: application/grpc\r\n", &body).await;
    }
    assert_eq!((rig.samples(), rig.failures()), (vec![], [("form", 4)].into()));
}

#[tokio::test]
async fn b48_nobody_is_sent_elsewhere() {
    let mut rig = Rig::new(EARLY);
    let message = request(vec![items(5, 10)]).encode_to_vec();
    let paths = ["/", "/v1/metrics/", "/v1/traces", "//other/v1/metrics", "http://other/v1/traces"];
    for path in paths {
        let (status, _) = post(rig.stream().await, path, PROTOBUF, &message).await;
        assert_eq!(status, 404, "{path}");
    }
    let mut stream = rig.stream().await;
    stream.write_all(b"GET /v1/metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("sent");
    assert_eq!(answer(stream).await.0, 405);
    assert_eq!((rig.samples(), rig.failures()), (vec![], [("form", 6)].into()));
}
