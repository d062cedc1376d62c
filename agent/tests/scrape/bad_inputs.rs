//! Pages that are hostile or broken, through the real scraper. Each test is named after its row of the set of bad inputs.

use super::*;
use joulebook_agent::inference::annotation;
use std::net::{IpAddr, Ipv4Addr};

/// A page of vLLM with one series per value, told apart by the engine's number.
fn page(values: &[&str]) -> String {
    let line = |(engine, value): (usize, &&str)| {
        format!("vllm:generation_tokens_total{{engine=\"{engine}\",model_name=\"m\"}} {value}\n")
    };
    let lines: String = values.iter().enumerate().map(line).collect();
    format!("# TYPE vllm:generation_tokens_total counter\n{lines}")
}

/// A server, its process table and its scraper. The server started after the agent and has counted 100 tokens.
struct Rig {
    server: Server,
    inference: Inference,
    _table: Table,
}

impl Rig {
    async fn new() -> Self {
        let (server, table) = (Server::default(), Table::new());
        let port = server.start().await;
        table.listens(port, 41, 1_001, "1.0");
        server.says("/metrics", &page(&["100"]));
        let mut inference = run_as("vllm", &[url(port)], table.0.path());
        let first = inference.samples.recv().await.expect("a sample");
        assert_eq!(output(&first), Some(100));
        Self { server, inference, _table: table }
    }

    async fn scraped(&mut self) -> Option<u64> {
        scraped(&mut self.inference).await.as_ref().and_then(output)
    }

    fn failures(&self) -> BTreeMap<&'static str, u64> {
        self.inference.failures.borrow().iter().map(|(failure, times)| (failure.reason, *times)).collect()
    }

    /// The answer gives nothing and counts one refusal; the page after it brings everything that was counted meanwhile.
    async fn refuses(&mut self, answer: Answer, reason: &'static str) {
        let mut refused = self.failures();
        *refused.entry(reason).or_insert(0) += 1;
        self.server.answer("/metrics", answer);
        assert_eq!(self.scraped().await, None, "{reason}");
        assert_eq!(self.failures(), refused);
        self.server.says("/metrics", &page(&["150"]));
        assert_eq!(self.scraped().await, Some(150), "after {reason}");
        assert_eq!(self.failures(), refused);
    }
}

fn output(sample: &CountSample) -> Option<u64> {
    sample.counts.get(&CountKind::OutputTokens).copied()
}

pub(super) fn ok(headers: &str, body: &[u8]) -> Answer {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    Answer::Bytes([head.as_bytes(), body].concat())
}

#[tokio::test]
async fn b38_an_endless_body_is_cut_at_the_limit_and_gives_nothing() {
    let mut rig = Rig::new().await;
    let line = page(&["7"]).into_bytes();
    rig.refuses(Answer::Endless(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), line.repeat(100)), "scrape_too_large").await;
    // What lay in the two sockets' buffers comes on top of the limit of 16 MiB.
    let buffer = |name: &str| -> u64 {
        let sizes = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).expect("the kernel's limits");
        sizes.split_whitespace().last().and_then(|most| most.parse().ok()).expect("a size")
    };
    let most = (17 << 20) + buffer("tcp_rmem") + buffer("tcp_wmem");
    let sent = rig.server.sent.load(Ordering::Relaxed);
    assert!((16 << 20..most).contains(&sent), "{sent} bytes were taken");
}

#[tokio::test]
async fn b39_a_compressed_body_is_refused_before_a_byte_of_it_is_expanded() {
    let mut rig = Rig::new().await;
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    rig.refuses(ok("content-encoding: gzip\r\n", &gzip), "form").await;
    rig.refuses(ok("content-encoding: identity, gzip\r\n", &gzip), "form").await;
    rig.refuses(ok("", &gzip), "parse").await;
}

#[tokio::test(start_paused = true)]
async fn b40_a_byte_a_second_fails_after_five_seconds_in_all() {
    let page = page(&["1"]);
    for start in ["HTTP/1.1 200 OK\r\nx-padding:", &format!("HTTP/1.1 200 OK\r\n\r\n{page}")] {
        let server = Server::default();
        let port = server.start().await;
        server.answer("/metrics", Answer::Drip(start.into()));
        let began = tokio::time::Instant::now();
        let mut inference = run_as("vllm", &[url(port)], Table::new().0.path());
        assert_eq!(scraped(&mut inference).await, None);
        assert!(failures(&inference).contains(&"timeout"));
        // The scrape at the start and the one that was asked for, one after the other.
        assert!(began.elapsed() < Duration::from_secs(11), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn b41_a_million_series_give_nothing() {
    let series: String = (0..1_000_000).map(|n| format!("a{{n=\"{n}\"}} 1\n")).collect();
    let page = page(&["7"]) + &series;
    assert!(page.len() < 16 << 20, "the limit of bytes must not be what refuses it");
    Rig::new().await.refuses(ok("", page.as_bytes()), "scrape_too_large").await;
}

#[tokio::test]
async fn b42_one_label_beyond_a_limit_refuses_the_whole_page() {
    let mut rig = Rig::new().await;
    let labels: String = (0..500).map(|n| format!("l{n}=\"\",")).collect();
    let (value, name) = ("v".repeat(1 << 20), "n".repeat(10 << 10));
    for line in [format!("a{{l=\"{value}\"}} 1\n"), format!("a{{{name}=\"\"}} 1\n"), format!("a{{{labels}}} 1\n")] {
        rig.refuses(ok("", (page(&["7"]) + &line).as_bytes()), "scrape_too_large").await;
    }
}

#[tokio::test]
async fn b43_labels_that_claim_another_place_or_version_are_ignored() {
    let (server, table) = (Server::default(), Table::new());
    let port = server.start().await;
    table.listens(port, 41, 1_001, "1.0");
    let labels = "model_name=\"m\",tenant=\"b\",node=\"n\",pod=\"p\",namespace=\"s\",container=\"c\",\
        model_version=\"9\",workload=\"w\",target=\"t\",adapter=\"a\"";
    server.says(
        "/metrics",
        &format!("# TYPE vllm:generation_tokens_total counter\nvllm:generation_tokens_total{{{labels}}} 5\n"),
    );
    let mut inference = run_as("vllm", &[url(port)], table.0.path());
    let sample = inference.samples.recv().await.expect("a sample");
    let service = &sample.service;
    assert_eq!((service.model.as_deref(), output(&sample)), (Some("m"), Some(5)));
    assert_eq!((service.version.as_deref(), service.version_source), (None, VersionSource::Unresolved));
    assert_eq!((service.workload.as_deref(), service.adapter.as_deref()), (None, None));
    assert_eq!((service.target.clone(), sample.process.map(|process| process.pid)), (url(port), Some(41)));
}

#[tokio::test]
async fn b43_presets_without_a_version_label_take_no_identity_from_the_page() {
    let claims = "tenant=\"b\",node=\"n\",pod=\"p\",namespace=\"s\",workload=\"w\",target=\"t\",engine_id=\"e\"";
    for (preset, family, labels) in [
        ("vllm", "vllm:generation_tokens_total", "model_name=\"m\",model_version=\"9\",version=\"9\""),
        ("sglang", "sglang:generation_tokens_total", "model_name=\"m\",model_version=\"9\",version=\"9\""),
        ("trtllm", "trtllm_generation_tokens_total", "model_name=\"m\",model_version=\"9\",version=\"9\""),
        ("lmdeploy", "lmdeploy:generation_tokens_total", "model_name=\"m\",model_version=\"9\",version=\"9\""),
        ("dynamo-frontend", "dynamo_frontend_output_tokens_total", "model=\"m\",model_version=\"9\",version=\"9\""),
    ] {
        let (server, table) = (Server::default(), Table::new());
        let port = server.start().await;
        table.listens(port, 41, 1_001, "1.0");
        let signature = presets().named(preset).expect("built").signature.first().expect("one").clone();
        let page = format!("# TYPE {signature} counter\n# TYPE {family} counter\n{family}{{{labels},{claims}}} 5\n");
        server.says("/metrics", &page);
        let path = if preset == "trtllm" { "/metrics" } else { "" };
        let mut inference = run_as(preset, &[url(port) + path], table.0.path());
        let sample = inference.samples.recv().await.expect(preset);
        let service = &sample.service;
        assert_eq!((service.model.as_deref(), output(&sample)), (Some("m"), Some(5)), "{preset}");
        assert_eq!((service.version.as_deref(), service.version_source), (None, VersionSource::Unresolved), "{preset}");
        assert_eq!((service.workload.as_deref(), service.adapter.as_deref()), (None, None), "{preset}");
        assert_eq!((service.engine.as_str(), sample.process.map(|process| process.pid)), (preset, Some(41)));
        assert_eq!(service.target, url(port) + path);
    }
}

#[tokio::test]
async fn b44_a_value_that_is_no_count_leaves_out_its_series_alone() {
    let mut rig = Rig::new().await;
    rig.server.says("/metrics", &page(&["101", "NaN", "+Inf", "-1", "1e300"]));
    assert_eq!(rig.scraped().await, Some(101));
    assert_eq!(rig.failures(), [("value", 4)].into());
    rig.server.says("/metrics", &page(&["NaN", "5"]));
    assert_eq!(rig.scraped().await, Some(106), "a series without a value takes nothing away");
}

#[tokio::test]
async fn b45_a_counter_that_fell_counts_its_new_value_and_is_flagged_once() {
    let mut rig = Rig::new().await;
    for (shown, counted) in [("30", 130), ("31", 131)] {
        rig.server.says("/metrics", &page(&[shown]));
        assert_eq!(rig.scraped().await, Some(counted));
        assert_eq!(rig.failures(), [("counter_reset", 1)].into());
    }
}

#[tokio::test]
async fn b46_a_series_that_occurs_twice_is_refused_both_times_and_no_other() {
    let mut rig = Rig::new().await;
    let twice = "vllm:generation_tokens_total{model_name=\"m\",engine=\"7\"} 8\n\
        vllm:generation_tokens_total{engine=\"7\",model_name=\"m\"} 9\n";
    rig.server.says("/metrics", &(page(&["101"]) + twice));
    assert_eq!(rig.scraped().await, Some(101));
    assert_eq!(rig.failures(), [("duplicate", 2)].into());
}

#[tokio::test]
async fn b47_a_page_that_is_damaged_or_no_metric_page_gives_nothing() {
    let mut rig = Rig::new().await;
    let good = page(&["7"]);
    let login = b"<!DOCTYPE html>\n<html><body>Log in</body></html>\n";
    for body in [
        [good.as_bytes(), b"a{l=\"\xff\"} 1\n"].concat(),
        good.as_bytes()[..good.len() - 3].to_vec(),
        [good.as_bytes(), b"# TYPE vllm:generation_tokens_total gauge\n"].concat(),
        login.to_vec(),
    ] {
        rig.refuses(ok("", &body), "parse").await;
    }
    rig.refuses(ok("content-type: text/html; charset=utf-8\r\n", login), "form").await;
    let short = [&b"HTTP/1.1 200 OK\r\ncontent-length: 4000\r\n\r\n"[..], good.as_bytes()].concat();
    rig.refuses(Answer::Bytes(short), "http").await;
}

#[tokio::test]
async fn b48_no_redirect_is_followed_anywhere() {
    let redirect = |status: u16| {
        let head = format!("HTTP/1.1 {status} Elsewhere\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n");
        Answer::Bytes(head.into_bytes())
    };
    let mut rig = Rig::new().await;
    rig.server.says("/elsewhere", &page(&["7000"]));
    for status in [301, 302, 307, 308] {
        rig.refuses(redirect(status), "redirect").await;
    }
    assert!(!rig.server.asked.lock().expect("lock").iter().any(|path| path == "/elsewhere"));
    // Questions about the identity: the next rule applies.
    let (server, table) = (Server::default(), Table::new());
    let port = server.start().await;
    table.listens(port, 41, 1_001, "1.0");
    server.llamacpp(1, 2, 3);
    server.says("/elsewhere", r#"{"data":[{"id":"another"}]}"#);
    server.answer("/v1/models", redirect(307));
    server.answer("/props", redirect(302));
    let sample = run(&[url(port)], table.0.path()).samples.recv().await.expect("a sample");
    assert_eq!((sample.service.model.as_deref(), sample.service.version.as_deref()), (None, Some("1.0")));
    assert!(!server.asked.lock().expect("lock").iter().any(|path| path == "/elsewhere"));
}

#[tokio::test]
async fn b49_annotations_choose_a_port_and_a_path_of_their_own_pod_and_nothing_else() {
    let pod = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let annotations = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (format!("prometheus.io/{key}"), (*value).to_owned())).collect()
    };
    let with = |key: &str, value: &str| {
        let mut told = annotations(&[("scrape", "true"), ("port", "8000"), ("path", "/metrics")]);
        told.insert(format!("prometheus.io/{key}"), value.to_owned());
        annotation::target(pod, &told, "vllm")
    };
    for (key, value) in [
        ("path", "http://other:9100/metrics"),
        ("path", "other:9100/metrics"),
        ("path", "//other/metrics"),
        ("path", "metrics"),
        ("path", "@other/metrics"),
        ("path", "/metrics HTTP/1.1\r\nHost: other"),
        ("path", "/\\other/metrics"),
        ("path", "/metrics#x"),
        ("port", "0"),
        ("port", "70000"),
        ("port", "-1"),
        ("port", "+80"),
        ("port", "80@other"),
        ("port", "other:80"),
        ("port", ""),
        ("scheme", "https"),
        ("scheme", "unix"),
    ] {
        let error = with(key, value).expect_err(value);
        assert_eq!((error.key, error.value.as_str()), (key, value), "{error}");
    }
    assert!(annotation::target(pod, &annotations(&[("scrape", "true")]), "vllm").is_err(), "no port");
    // What is left is asked of the pod and of nobody else.
    let (server, table) = (Server::default(), Table::new());
    let port = server.start().await;
    table.listens(port, 41, 1_001, "1.0");
    server.says("/own/metrics", &page(&["100"]));
    let told =
        annotations(&[("scrape", "true"), ("port", &port.to_string()), ("path", "/own/metrics"), ("host", "other")]);
    let target = annotation::target(pod, &told, "vllm").expect("usable").expect("wanted");
    let clock = Arc::new(StepClock(AtomicU64::new(1_000_000_000_000)));
    let mut inference = start(vec![target], &presets(), table.0.path().to_owned(), clock).expect("valid");
    let sample = inference.samples.recv().await.expect("a sample");
    assert_eq!((output(&sample), sample.service.target), (Some(100), format!("http://127.0.0.1:{port}/own/metrics")));
    assert_eq!(server.asked.lock().expect("lock")[0], "/own/metrics");
}
