//! A server around an engine, read with a preset of one's own: both pages are of one process and count the same requests, which
//! are counted once, as the engine's.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "functions that tests call may fail the test")]

use joulebook_tests::installation::{AgentSettings, Installation, Target};
use joulebook_tests::page::serve;
use joulebook_tests::powercap::Powercap;
use joulebook_tests::timestamp::now;
use joulebook_tests::wait::until;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Two presets that differ in their role alone.
const PRESETS: &str = r#"
[[preset]]
id = "our-engine"
path = "/metrics"
signature = ["engine_requests"]
[preset.mapping]
static = { model = "chat", version = "7" }
[preset.mapping.values]
requests_ok = { metric = "engine_requests_total", type = "counter" }

[[preset]]
id = "our-wrapper"
role = "wrapper"
path = "/metrics"
signature = ["app_requests"]
[preset.mapping]
static = { model = "app" }
[preset.mapping.values]
requests_ok = { metric = "app_requests_total", type = "counter" }
"#;

#[test]
fn a_wrapper_of_ones_own_making_and_the_engine_inside_it_count_a_request_once() {
    let (installation, _aggregator) = Installation::start().unwrap();
    let sysfs = installation.folder().join("sys");
    let _zone = Powercap::new(&sysfs).unwrap().zone("intel-rapl:0", "package-0", 7).unwrap();
    let served = Arc::new(AtomicU64::new(0));
    let page = |family: &'static str| {
        let (served, asked) = (Arc::clone(&served), Arc::new(AtomicU64::new(0)));
        let told = Arc::clone(&asked);
        let address = serve(move || {
            asked.fetch_add(1, Ordering::Relaxed);
            format!("# TYPE {family} counter\n{family}_total {}\n", served.load(Ordering::Relaxed))
        });
        (format!("http://{}", address.unwrap()), told)
    };
    let (engine, engine_asked) = page("engine_requests");
    let (wrapper, wrapper_asked) = page("app_requests");
    let target = |url, preset| Target { url, preset, reserved_cores: None };
    let settings = AgentSettings {
        sysfs: Some(sysfs),
        targets: vec![target(wrapper, "our-wrapper"), target(engine, "our-engine")],
        more: PRESETS.to_owned(),
        ..AgentSettings::default()
    };
    let begin = now().unwrap();
    let mut agent = installation.start_agent(&settings).unwrap();
    // The first pages are where counting begins.
    let read = || [&engine_asked, &wrapper_asked].map(|asked| asked.load(Ordering::Relaxed));
    until("both pages were read", || read().iter().all(|times| *times >= 2));
    served.store(40, Ordering::Relaxed);
    let before = read();
    until("both pages were read with all that was served", || {
        read().iter().zip(before).all(|(times, before)| *times >= before + 2)
    });
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let end = now().unwrap();

    let window = ["--from", begin.as_str(), "--to", end.as_str()];
    let scores = installation.ask(&[&["sci", "--per", "request"], &window[..]].concat()).unwrap();
    let counted: Vec<_> = scores["answers"].as_array().unwrap().iter().map(|one| &one["r"]["value"]).collect();
    assert_eq!(counted, [&serde_json::json!(40.0)], "{scores}");
    assert!(scores["answers"][0].to_string().contains("chat"), "the engine's page stands: {scores}");
}
