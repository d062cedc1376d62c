//! Gateways: whose the requests were, never how many an engine served. The rows of the set of bad inputs once more.

use super::bad_inputs::ok;
use super::*;
use joulebook_agent::inference::Names;
use joulebook_units::Consumption;

const SUCCESSES: &str = "litellm_deployment_success_responses_total";
const INPUT: &str = "litellm_input_tokens_metric_total";

/// A page of LiteLLM: a team with a key that asked one deployment, another key without a team, and a login that failed.
fn page(requests: &str, tokens: &str) -> String {
    let deployment =
        "model_id=\"d1\",api_base=\"http://127.0.0.1:9/v1\",litellm_model_name=\"tiny\",api_provider=\"openai\"";
    let own = "client_ip=\"10.9.8.7\",user_agent=\"curl/7\"";
    format!(
        "# TYPE litellm_deployment_success_responses counter\n\
         {SUCCESSES}{{team=\"risk\",hashed_api_key=\"k1\",{deployment},{own}}} {requests}\n\
         {SUCCESSES}{{team=\"None\",hashed_api_key=\"k2\",{deployment},{own}}} 1\n\
         # TYPE litellm_deployment_failure_responses counter\n\
         litellm_deployment_failure_responses_total{{team=\"None\",hashed_api_key=\"k3\",model_id=\"None\"}} 4\n\
         # TYPE litellm_input_tokens_metric counter\n\
         {INPUT}{{team=\"risk\",hashed_api_key=\"k1\",model_id=\"d1\",model=\"tiny\",user=\"alice\"}} {tokens}\n"
    )
}

struct Rig {
    server: Server,
    inference: Inference,
    _table: Table,
}

impl Rig {
    /// A gateway that started after the agent.
    async fn with(names: Option<Names>, more: &str) -> Self {
        let (server, table) = (Server::default(), Table::new());
        let port = server.start().await;
        table.listens(port, 41, 1_001, "1.0");
        server.says("/metrics/", &page("2", "24"));
        let config = format!("url = \"http://127.0.0.1:{port}\"\npreset = \"litellm\"\ninterval = \"1h\"\n{more}");
        let clock = Arc::new(StepClock(AtomicU64::new(1_000_000_000_000)));
        let config = toml::from_str(&config).expect("legal");
        let inference = start(vec![config], &presets(), table.0.path().to_owned(), clock).expect("legal");
        if let Some(names) = names {
            inference.name_consumers(names);
        }
        Self { server, inference, _table: table }
    }

    async fn new() -> Self {
        let mut rig = Self::with(Some(Names::Raw), "").await;
        // The scrape at the start: both consumers.
        for _ in 0..2 {
            rig.inference.samples.recv().await.expect("a sample");
        }
        assert_eq!(rig.scraped().await.get("risk").copied(), Some(24));
        rig
    }

    async fn samples(&mut self) -> Vec<CountSample> {
        self.inference.scraper().scrape_now().await;
        std::iter::from_fn(|| self.inference.samples.try_recv().ok()).collect()
    }

    /// Input tokens by consumer after one more scrape.
    async fn scraped(&mut self) -> BTreeMap<String, u64> {
        let samples = self.samples().await;
        let tokens = |sample: CountSample| Some((name(&sample), *sample.counts.get(&CountKind::InputTokens)?));
        samples.into_iter().filter_map(tokens).collect()
    }

    async fn refuses(&mut self, answer: Answer, reason: &str) {
        let count = |rig: &Self| -> u64 {
            let failures = rig.inference.failures.borrow();
            failures.iter().filter(|(failure, _)| failure.reason == reason).map(|(_, times)| times).sum()
        };
        let before = count(self);
        self.server.answer("/metrics/", answer);
        assert_eq!(self.scraped().await, BTreeMap::new(), "{reason}");
        assert_eq!(count(self), before + 1, "{reason}");
        self.server.says("/metrics/", &page("2", "36"));
        assert_eq!(self.scraped().await["risk"], 36, "after {reason}");
    }
}

fn of(sample: &CountSample) -> &Consumption {
    sample.of.as_ref().expect("a consumer, and no service")
}

fn name(sample: &CountSample) -> String {
    of(sample).consumer.name.clone()
}

#[tokio::test]
async fn a_gateway_tells_consumers_by_upstream_and_opens_no_service() {
    let mut rig = Rig::with(Some(Names::Raw), "").await;
    let samples = rig.samples().await;
    let seen: Vec<_> = samples
        .iter()
        .map(|sample| {
            let of = of(sample);
            let count = |kind| sample.counts.get(&kind).copied();
            assert_eq!((of.endpoint.as_deref(), of.model.as_deref()), (Some("http://127.0.0.1:9/v1"), Some("tiny")));
            assert_eq!((of.engine.as_str(), sample.service.model.as_deref()), ("litellm", None));
            (of.consumer.kind.as_str(), name(sample), count(CountKind::RequestsOk), count(CountKind::InputTokens))
        })
        .collect();
    let both = [("hashed_api_key", "k2".to_owned(), Some(1), Some(0)), ("team", "risk".to_owned(), Some(2), Some(24))];
    assert_eq!(seen, both, "the failed login is nobody's");
    assert!(samples.iter().all(|sample| sample.origin == Some(BootNanos(1_001_000_000_000))));
    let text = format!("{samples:?}");
    assert!(!text.contains("10.9.8.7") && !text.contains("curl"), "addresses and agents stay on the page: {text}");
}

#[tokio::test]
async fn names_are_hashed_under_the_secret_and_labels_can_be_chosen() {
    let secret = Names::Hashed([7; 32]);
    let hash = secret.of("user", "alice");
    let mut rig = Rig::with(Some(secret), "consumer = [\"user\", \"team\"]").await;
    let samples = rig.samples().await;
    let tokens = samples.iter().find(|sample| sample.counts.get(&CountKind::InputTokens) == Some(&24));
    assert_eq!(tokens.map(name), Some(hash));
    let text = format!("{samples:?}");
    assert!(!text.contains("alice") && !text.contains("risk"), "{text}");
}

#[tokio::test]
async fn nothing_is_read_before_it_is_known_how_names_are_told() {
    let mut rig = Rig::with(None, "").await;
    let waiting = rig.inference.scraper();
    let scrape = tokio::spawn(async move { waiting.scrape_now().await });
    tokio::task::yield_now().await;
    assert!(rig.server.asked.lock().expect("lock").is_empty() && !scrape.is_finished());
    rig.inference.name_consumers(Names::Raw);
    scrape.await.expect("answered");
    assert_eq!(rig.inference.samples.recv().await.map(|sample| name(&sample)), Some("k2".to_owned()));
}

#[test]
fn consumers_can_be_chosen_of_a_gateway_only() {
    let config = "url = \"http://127.0.0.1:1\"\npreset = \"llamacpp\"\nconsumer = \"team\"";
    let clock = Arc::new(StepClock(AtomicU64::new(0)));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let _inside = runtime.enter();
    let error = start(vec![toml::from_str(config).expect("legal")], &presets(), "/proc".into(), clock);
    assert!(error.expect_err("refused").to_string().contains("target[0].consumer"));
}

#[tokio::test]
async fn b38_b41_b42_a_gateways_page_beyond_a_limit_gives_nothing() {
    let mut rig = Rig::new().await;
    let endless = page("7", "7").into_bytes().repeat(100);
    rig.refuses(Answer::Endless(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), endless), "scrape_too_large").await;
    let series: String = (0..1_000_000).map(|n| format!("a{{n=\"{n}\"}} 1\n")).collect();
    rig.refuses(ok("", (page("7", "7") + &series).as_bytes()), "scrape_too_large").await;
    let long = format!("a{{l=\"{}\"}} 1\n", "v".repeat(1 << 20));
    rig.refuses(ok("", (page("7", "7") + &long).as_bytes()), "scrape_too_large").await;
}

#[tokio::test]
async fn b39_a_gateways_compressed_page_is_refused() {
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    Rig::new().await.refuses(ok("content-encoding: gzip\r\n", &gzip), "form").await;
}

#[tokio::test(start_paused = true)]
async fn b40_a_gateways_page_byte_by_byte_fails_after_five_seconds() {
    let mut rig = Rig::new().await;
    let began = tokio::time::Instant::now();
    rig.refuses(Answer::Drip(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()), "timeout").await;
    assert!(began.elapsed() < Duration::from_secs(11), "{:?}", began.elapsed());
}

#[tokio::test]
async fn b43_labels_of_a_gateway_claim_no_place_and_no_version() {
    let mut rig = Rig::new().await;
    let claims = "tenant=\"b\",node=\"n\",pod=\"p\",model_version=\"9\",version=\"9\",workload=\"w\",gateway=\"g\"";
    rig.server.says("/metrics/", &page("2", "24").replace("team=\"risk\"", &format!("team=\"risk\",{claims}")));
    let samples = rig.samples().await;
    let risk = samples.iter().find(|sample| name(sample) == "risk").expect("told");
    assert_eq!((of(risk).version.as_deref(), risk.service.workload.as_deref()), (None, None));
    assert_eq!(of(risk).gateway, risk.service.target);
    assert!(of(risk).gateway.starts_with("http://127.0.0.1:"), "the gateway is where it was read");
}

#[tokio::test]
async fn b44_b45_b46_values_of_a_gateway_are_judged_like_any_others() {
    let mut rig = Rig::new().await;
    for wrong in ["NaN", "+Inf", "-1", "1e300"] {
        rig.server.says("/metrics/", &page("2", wrong));
        assert_eq!(rig.scraped().await["risk"], 24, "{wrong}: no value is 24 as before");
    }
    rig.server.says("/metrics/", &page("2", "5"));
    assert_eq!(rig.scraped().await["risk"], 29, "it restarted");
    let twice = format!("{INPUT}{{team=\"risk\",model_id=\"d1\"}} 8\n{INPUT}{{model_id=\"d1\",team=\"risk\"}} 9\n");
    rig.server.says("/metrics/", &(page("2", "6") + &twice));
    assert_eq!(rig.scraped().await["risk"], 30);
    let failures: BTreeMap<_, _> =
        rig.inference.failures.borrow().iter().map(|(failure, times)| (failure.reason, *times)).collect();
    assert_eq!(failures, [("value", 4), ("counter_reset", 1), ("duplicate", 2)].into());
}

#[tokio::test]
async fn b47_b48_a_gateways_page_that_is_damaged_or_elsewhere_gives_nothing() {
    let mut rig = Rig::new().await;
    let good = page("2", "24");
    rig.refuses(ok("", &[good.as_bytes(), b"a{l=\"\xff\"} 1\n"].concat()), "parse").await;
    rig.refuses(ok("content-type: text/html\r\n", b"<html>Log in</html>"), "form").await;
    rig.server.says("/elsewhere", &page("9", "9000"));
    for status in [301, 302, 307, 308] {
        let head = format!("HTTP/1.1 {status} Elsewhere\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n");
        rig.refuses(Answer::Bytes(head.into_bytes()), "redirect").await;
    }
    assert!(!rig.server.asked.lock().expect("lock").iter().any(|path| path == "/elsewhere"));
}

#[tokio::test]
async fn an_upstream_that_is_called_by_a_name_is_told_by_its_address() {
    let named = page("2", "24").replace("http://127.0.0.1:9/v1", "http://localhost.:9000/v1");
    for (more, address) in [
        ("", "http://localhost.:9000/v1"),
        ("resolve_upstreams = \"1m\"", "http://127.0.0.1:9000/v1"),
        ("upstreams = { \"LocalHost:9000\" = \"10.0.0.7:9\" }\nresolve_upstreams = \"1m\"", "http://10.0.0.7:9/v1"),
    ] {
        let mut rig = Rig::with(Some(Names::Raw), more).await;
        rig.samples().await;
        rig.server.says("/metrics/", &named);
        let samples = rig.samples().await;
        assert!(samples.iter().any(|sample| of(sample).endpoint.as_deref() == Some(address)), "{more}: {samples:?}");
    }
}

#[tokio::test]
async fn b49_an_upstreams_address_is_a_name_and_is_never_asked() {
    let upstream = Server::default();
    let port = upstream.start().await;
    let mut rig = Rig::new().await;
    for address in [format!("http://127.0.0.1:{port}/v1"), "../../etc/passwd".to_owned(), "http://h:70000".to_owned()] {
        rig.server.says("/metrics/", &page("2", "24").replace("http://127.0.0.1:9/v1", &address));
        let samples = rig.samples().await;
        assert!(samples.iter().any(|sample| of(sample).endpoint.as_deref() == Some(&address)), "{address}");
    }
    assert_eq!(upstream.asked.lock().expect("lock").len(), 0);
}
