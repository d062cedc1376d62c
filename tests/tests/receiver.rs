//! OpenTelemetry's own exporter, from its instruments to the answer per model version.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "functions that tests call may fail the test")]

use joulebook_tests::cpu_time::process_ticks;
use joulebook_tests::installation::{AGENT_READY, AgentSettings, Installation};
use joulebook_tests::program::{Program, binary};
use joulebook_tests::timestamp::now;
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_otlp::{MetricExporter, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use std::time::Duration;
use tonic::transport::Endpoint;

/// A server's instruments, whose readings go to the agent.
fn instruments(socket: &str, temporality: Temporality) -> SdkMeterProvider {
    let channel = Endpoint::try_from(format!("unix://{socket}")).unwrap().connect_lazy();
    let exporter = MetricExporter::builder().with_tonic().with_channel(channel).with_temporality(temporality);
    // It is told to export, not left to its time.
    let reader = PeriodicReader::builder(exporter.build().unwrap()).with_interval(Duration::from_secs(3600)).build();
    let version = KeyValue::new("inference.model_version", "7");
    let resource = Resource::builder().with_attributes([version]).build();
    SdkMeterProvider::builder().with_reader(reader).with_resource(resource).build()
}

/// Serves requests: each asks for some tokens and burns some time.
fn serve(provider: &SdkMeterProvider, model: &'static str, requests: u64) {
    let meter = provider.meter("server");
    let durations = meter.f64_histogram("gen_ai.server.request.duration").with_unit("s").build();
    let tokens = meter.u64_histogram("gen_ai.client.token.usage").with_unit("{token}").build();
    let of = |more: Option<KeyValue>| {
        [KeyValue::new("gen_ai.response.model", model)].into_iter().chain(more).collect::<Vec<_>>()
    };
    let kind = |kind: &'static str| of(Some(KeyValue::new("gen_ai.token.type", kind)));
    for _ in 0..requests {
        let until = process_ticks(std::process::id()).unwrap() + 20;
        while process_ticks(std::process::id()).unwrap() < until {}
        durations.record(0.25, &of(None));
        tokens.record(100, &kind("input"));
        tokens.record(10, &kind("output"));
    }
    durations.record(0.25, &of(Some(KeyValue::new("error.type", "timeout"))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_real_exporter_tells_is_counted_with_the_energy_of_its_process() {
    let (installation, _aggregator) = Installation::start().unwrap();
    let begin = now().unwrap();
    let socket = installation.folder().join("otlp.sock");
    let settings =
        AgentSettings { more: format!("[otlp]\nsocket = \"{}\"\n", socket.display()), ..AgentSettings::default() };
    let config = installation.agent_config(&settings).unwrap();
    let mut agent =
        Program::start(binary("joulebook-agent").unwrap(), &["--config".into(), config.into_os_string()]).unwrap();
    agent.wait_for(AGENT_READY).unwrap();
    // Two readers of one process: one tells what there is since its start, the other what is new.
    for (model, temporality) in [("chat", Temporality::Cumulative), ("code", Temporality::Delta)] {
        let provider = instruments(socket.to_str().unwrap(), temporality);
        for requests in [2, 3] {
            serve(&provider, model, requests);
            provider.force_flush().unwrap();
        }
        // It exports once more when it ends: that counts nothing anew.
        provider.shutdown().unwrap();
    }
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    assert!(!socket.exists(), "the socket goes with the agent");
    let end = now().unwrap();

    let window = ["--from", begin.as_str(), "--to", end.as_str()];
    for model in ["chat@7", "code@7"] {
        let scores = installation.ask(&[&["sci", "--per", "request", "--model", model], &window[..]].concat()).unwrap();
        let answers = scores["answers"].as_array().unwrap();
        assert_eq!(answers.len(), 1, "{scores}");
        let answer = &answers[0];
        assert_eq!(answer["r"]["value"], 5.0, "{answer}");
        assert_eq!(answer["r"]["failed"], 2, "{answer}");
        assert_eq!((&answer["tokens"]["input"], &answer["tokens"]["output"]), (&500.into(), &50.into()), "{answer}");
        assert!(answer["sci"]["value"].as_f64().is_some_and(|value| value > 0.0), "{answer}");
    }
    let explained =
        installation.ask(&[&["explain", "--per", "request", "--model", "chat@7"], &window[..]].concat()).unwrap();
    let balance = &explained["balances"][0];
    assert_eq!(balance["residual_microjoules"], 0, "{balance}");
    let accounts = balance["accounts"].as_array().unwrap();
    for model in ["chat@7", "code@7"] {
        let own = accounts.iter().find(|account| account["name"].as_str().is_some_and(|name| name.contains(model)));
        let dynamic = own.and_then(|own| own["parts"]["cpu_dynamic"].as_u64());
        assert!(dynamic.is_some_and(|microjoules| microjoules > 0), "its process worked for it: {explained}");
    }
}
