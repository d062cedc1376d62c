//! What the engine's own endpoints tell: model, version and tokenizer, where the page tells none.

use super::*;

/// Model, version, its source and the tokenizer of every newest sample after one more scrape.
async fn told(inference: &mut Inference) -> Vec<(String, Option<String>, VersionSource)> {
    inference.scraper().scrape_now().await;
    let mut told = BTreeMap::new();
    while let Ok(sample) = inference.samples.try_recv() {
        let service = sample.service;
        told.insert((service.model.expect("a model"), service.version), service.version_source);
    }
    told.into_iter().map(|((model, version), source)| (model, version, source)).collect()
}

fn service(model: &str, version: Option<&str>, source: VersionSource) -> (String, Option<String>, VersionSource) {
    (model.to_owned(), version.map(str::to_owned), source)
}

/// A target whose engine's endpoints are on another server, as TorchServe's and MLServer's are on another port.
fn with_info(preset: &str, page: u16, info: u16, procfs: &Path) -> Inference {
    let text =
        format!("url = \"{}\"\npreset = \"{preset}\"\ninfo_url = \"{}\"\ninterval = \"1h\"", url(page), url(info));
    let clock = Arc::new(StepClock(AtomicU64::new(1_000_000_000_000)));
    start(vec![toml::from_str(&text).expect("valid")], &presets(), procfs.to_owned(), clock).expect("valid")
}

fn torchserve(series: &[(&str, &str, u64)]) -> String {
    let line = |(model, version, count): &(&str, &str, u64)| {
        format!("ts_inference_requests_total{{model_name=\"{model}\",model_version=\"{version}\",}} {count}\n")
    };
    format!("# TYPE ts_inference_requests_total counter\n{}", series.iter().map(line).collect::<String>())
}

#[tokio::test]
async fn a_page_without_names_has_those_of_the_info_endpoint() {
    let (server, table) = (Server::default(), Table::new());
    let port = server.start().await;
    table.listens(port, 41, 1_001, "1.0");
    server.says("/metrics", "# TYPE tgi_request_count counter\ntgi_request_count 3\n# TYPE tgi_request_success counter\ntgi_request_success 3\n");
    server.says("/info", r#"{"model_id":"org/chat","model_sha":"0123abcd","version":"3.3.4"}"#);
    let mut inference = run_as("tgi", &[url(port)], table.0.path());
    assert_eq!(told(&mut inference).await, [service("org/chat", Some("0123abcd"), VersionSource::EngineApi)]);
    // Two questions, one request.
    assert_eq!(server.asked.lock().expect("lock").iter().filter(|path| *path == "/info").count(), 1);
}

#[tokio::test]
async fn weights_that_are_swapped_in_a_running_engine_are_another_version_from_the_next_look_on() {
    let (server, table) = (Server::default(), Table::new());
    let port = server.start().await;
    table.listens(port, 41, 1_001, "1.0");
    let page = |count: u64| {
        format!(
            "# TYPE sglang:generation_tokens_total counter\n# TYPE sglang:num_requests_total counter\nsglang:generation_tokens_total{{model_name=\"q\"}} {count}\n"
        )
    };
    let info = |version: &str| format!(r#"{{"model_path":"/w","tokenizer_path":"/t","weight_version":"{version}"}}"#);
    server.says("/metrics", &page(10));
    // "default" is what a server says that was given no version. This one knows the older path only.
    server.says("/get_model_info", &info("default"));
    let mut inference = run_as("sglang", &[url(port)], table.0.path());
    let first = inference.samples.recv().await.expect("a sample");
    assert_eq!((first.service.version, first.service.version_source), (None, VersionSource::Unresolved));
    assert_eq!(first.service.tokenizer.as_deref(), Some("/t"));
    server.says("/get_model_info", &info("step-2000"));
    let mut looks = 0;
    loop {
        looks += 1;
        server.says("/metrics", &page(10 + looks));
        let sample = scraped(&mut inference).await.expect("a sample");
        if sample.service.version.as_deref() == Some("step-2000") {
            // Only what the new weights made: the rest stays where it was counted.
            assert_eq!(sample.counts[&CountKind::OutputTokens], 1);
            break;
        }
        assert!(looks < 40, "the identity is looked at every 30 scrapes");
    }
}

#[tokio::test]
async fn what_a_label_does_not_tell_is_asked_model_by_model_and_at_once_for_a_new_one() {
    let (server, info, table) = (Server::default(), Server::default(), Table::new());
    let (port, management) = (server.start().await, info.start().await);
    table.listens(port, 41, 1_001, "1.0");
    server.says("/metrics", &torchserve(&[("scorer", "1.0", 6), ("scorer", "default", 3)]));
    info.says("/models/scorer", r#"[{"modelName":"scorer","modelVersion":"2.0"}]"#);
    info.says("/models/a%2Fb%3Fx", r#"[{"modelName":"a/b?x","modelVersion":"7"}]"#);
    let mut inference = with_info("torchserve", port, management, table.0.path());
    assert_eq!(
        told(&mut inference).await,
        [
            service("scorer", Some("1.0"), VersionSource::Label),
            service("scorer", Some("2.0"), VersionSource::EngineApi)
        ]
    );
    server.says("/metrics", &torchserve(&[("a/b?x", "default", 1), ("other", "default", 1)]));
    assert_eq!(
        told(&mut inference).await,
        [service("a/b?x", Some("7"), VersionSource::EngineApi), service("other", None, VersionSource::DenyList)]
    );
    told(&mut inference).await;
    let asked = info.asked.lock().expect("lock").clone();
    assert_eq!(asked.iter().filter(|path| *path == "/models/other").count(), 1, "not at every scrape: {asked:?}");
    assert!(!server.asked.lock().expect("lock").iter().any(|path| path.starts_with("/models")));
}

#[tokio::test]
async fn of_several_ready_versions_none_is_guessed() {
    let (server, info, table) = (Server::default(), Server::default(), Table::new());
    let (port, api) = (server.start().await, info.start().await);
    table.listens(port, 41, 1_001, "1.0");
    let line = |model: &str| format!("model_infer_request_success_total{{model=\"{model}\",version=\"None\"}} 1\n");
    let page = format!("# TYPE model_infer_request_success_total counter\n{}{}", line("fraud"), line("iris"));
    server.says("/metrics", &page);
    let entry = |name: &str, version: &str, state: &str| {
        format!(r#"{{"name":"{name}","version":"{version}","state":"{state}","reason":""}}"#)
    };
    let entries = [
        entry("fraud", "3", "READY"),
        entry("fraud", "4", "UNAVAILABLE"),
        entry("iris", "1", "READY"),
        entry("iris", "2", "READY"),
    ];
    info.says("/v2/repository/index", &format!("[{}]", entries.join(",")));
    let mut inference = with_info("mlserver", port, api, table.0.path());
    assert_eq!(
        told(&mut inference).await,
        [service("fraud", Some("3"), VersionSource::EngineApi), service("iris", None, VersionSource::DenyList)]
    );
}

#[tokio::test]
async fn an_engine_whose_other_port_is_closed_is_counted_without_what_it_would_tell() {
    let (server, table) = (Server::default(), Table::new());
    let port = server.start().await;
    table.listens(port, 41, 1_001, "1.0");
    server.says("/metrics", &torchserve(&[("scorer", "default", 3)]));
    let closed = TcpSocket::new_v4().expect("a socket");
    closed.bind("127.0.0.1:0".parse().expect("address")).expect("a port");
    let closed_port = closed.local_addr().expect("bound").port();
    let mut inference = with_info("torchserve", port, closed_port, table.0.path());
    assert_eq!(told(&mut inference).await, [service("scorer", None, VersionSource::DenyList)]);
    assert_eq!(failures(&inference), Vec::<&str>::new());
}

#[tokio::test]
async fn an_answer_without_end_is_cut_and_the_next_rule_applies() {
    let (server, info, table) = (Server::default(), Server::default(), Table::new());
    let (port, management) = (server.start().await, info.start().await);
    table.listens(port, 41, 1_001, "1.0");
    server.says("/metrics", &torchserve(&[("scorer", "default", 3)]));
    info.answer("/models/scorer", Answer::Endless(b"HTTP/1.1 200 OK\r\n\r\n[".to_vec(), vec![b' '; 4096]));
    let mut inference = with_info("torchserve", port, management, table.0.path());
    assert_eq!(told(&mut inference).await, [service("scorer", None, VersionSource::DenyList)]);
    // The first scrape asked; the second one has its answer: that there is none.
    assert_eq!(info.asked.lock().expect("lock").len(), 1);
    // It was cut: the connection is closed, so that nothing more is sent.
    let sent = info.sent.load(Ordering::Relaxed);
    told(&mut inference).await;
    assert_eq!(info.sent.load(Ordering::Relaxed), sent);
}
