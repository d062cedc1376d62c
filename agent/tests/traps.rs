//! The traps of engines' pages, a test each, on pages that were captured from them: what a name seems to say and does not.
//! Where a trap needs a process, a socket or a running engine, its test stands with those.

#![expect(clippy::expect_used, reason = "a test ends at what it did not expect")]

use joulebook_agent::inference::exposition::Page;
use joulebook_agent::inference::preset::Presets;
use joulebook_agent::inference::reader::{PageVersion, Reader};
use joulebook_agent::inference::tally::{FirstPage, Observation, Tally};
use joulebook_units::{BootNanos, CountKind};
use std::collections::BTreeMap;
use std::path::Path;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/expositions").join(file);
    std::fs::read_to_string(&path).expect("a captured page")
}

fn tally(preset: &str) -> Tally {
    let presets = Presets::built_in().expect("valid");
    let mapping = presets.named(preset).expect("built in").mapping.clone().expect("a mapping");
    let mut tally = Tally::new(Reader::new(mapping).expect("counts"));
    tally.new_epoch(FirstPage::CountsFromZero);
    tally
}

fn observe(tally: &mut Tally, text: &str, second: u64) -> Observation {
    tally.observe(&Page::parse(text.as_bytes()).expect("legal"), BootNanos(second * 1_000_000_000))
}

/// What a page adds by `model@version`, by this kind; `-` is what no label tells, `!` a word that is no version.
fn of(seen: &Observation, kind: CountKind) -> BTreeMap<String, Option<u64>> {
    let one = |(identity, counts): &(joulebook_agent::inference::reader::PageIdentity, _)| {
        let version = match &identity.version {
            PageVersion::Untold => "-",
            PageVersion::Denied => "!",
            PageVersion::Label(version) => version,
        };
        let counts: &joulebook_agent::inference::tally::Counts = counts;
        (format!("{}@{version}", identity.model.as_deref().unwrap_or("-")), counts.added.get(&kind).copied())
    };
    seen.services.iter().map(one).collect()
}

/// The same of one captured page.
fn page(preset: &str, file: &str, kind: CountKind) -> BTreeMap<String, Option<u64>> {
    of(&observe(&mut tally(preset), &read(file), 1), kind)
}

fn truth<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, Option<u64>> {
    counts.into_iter().map(|(name, count)| (name.to_owned(), Some(count))).collect()
}

#[test]
fn trap_words_that_are_no_version_name_none() {
    use CountKind::RequestsOk;
    let mlserver = page("mlserver", "mlserver-1.7.1.prom", RequestsOk);
    assert_eq!(mlserver, truth([("fraud@!", 1), ("iris@!", 2), ("iris@v1.0.0", 5), ("iris@v1.1.0", 3)]));
    let torchserve = page("torchserve", "torchserve-0.12.0.prom", RequestsOk);
    assert_eq!(torchserve, truth([("other@!", 1), ("scorer@!", 3), ("scorer@1.0", 6)]));
    assert!(page("bentoml", "bentoml-1.4.39.prom", RequestsOk).contains_key("iris_classifier@!"), "not available");
}

#[test]
fn trap_a_version_that_a_client_invented_opens_no_service() {
    let text = read("mlserver-1.7.1.prom");
    assert!(text.contains("model_infer_request_failure_total{model=\"iris\",version=\"v9\"} 1.0"), "it is on the page");
    let services = page("mlserver", "mlserver-1.7.1.prom", CountKind::RequestsFailed);
    assert!(!services.contains_key("iris@v9"), "{services:?}");
    assert_eq!(services["iris@v1.0.0"], Some(1));
}

#[test]
fn trap_a_failure_that_triton_counts_as_success_stays_as_the_page_says() {
    // One of the four was answered with an error of its Python model: the page does not tell which, and is not mended.
    let [ok, failed] = [CountKind::RequestsOk, CountKind::RequestsFailed]
        .map(|kind| page("triton", "triton-2.51.0.scrape1.prom", kind)["ranker@3"]);
    assert_eq!((ok, failed), (Some(4), Some(0)));
}

#[test]
fn trap_items_are_not_requests() {
    let sum = |kind| -> u64 { page("triton", "triton-2.51.0.scrape1.prom", kind).into_values().flatten().sum() };
    assert_eq!((sum(CountKind::RequestsOk), sum(CountKind::Items)), (15, 29));
}

#[test]
fn trap_probes_are_no_requests() {
    let text = read("bentoml-1.4.39.prom");
    assert!(text.contains("endpoint=\"/readyz\""), "it is on the page");
    let [ok, failed] = [CountKind::RequestsOk, CountKind::RequestsFailed]
        .map(|kind| page("bentoml", "bentoml-1.4.39.prom", kind)["iris_classifier@!"]);
    assert_eq!((ok, failed), (Some(7), Some(2)), "6 and 1 of calls, none of /readyz");
    let more = text.replace("endpoint=\"/readyz\"", "endpoint=\"/predict2\"");
    assert_eq!(of(&observe(&mut tally("bentoml"), &more, 1), CountKind::RequestsOk)["iris_classifier@!"], Some(8));
}

#[test]
fn trap_the_count_of_kserves_histogram_holds_failures_and_failures_are_unknown_not_none() {
    let [ok, failed] = [CountKind::RequestsOk, CountKind::RequestsFailed]
        .map(|kind| page("kserve", "kserve-0.21.0.prom", kind)["ranker@-"]);
    assert_eq!((ok, failed), (Some(2), None), "one of the two failed, and the page does not tell");
}

#[test]
fn trap_the_counter_of_litellm_that_reads_double_is_not_read() {
    let text = read("litellm-1.81.9.scrape1.prom");
    let seen = observe(&mut tally("litellm"), &text, 1);
    assert_eq!(seen.services, vec![], "a gateway opens no service");
    let requests: u64 = seen.consumers.iter().filter_map(|(_, counts)| counts.added.get(&CountKind::RequestsOk)).sum();
    assert_eq!(requests, 3, "litellm_proxy_total_requests_metric_total says 6 of them");
}

#[test]
fn trap_a_page_without_labels_and_requests_tells_tokens_and_no_requests() {
    let [requests, input, output] = [CountKind::RequestsOk, CountKind::InputTokens, CountKind::OutputTokens]
        .map(|kind| page("llamacpp", "llamacpp-xllamacpp-2026.10.11549.prom", kind)["-@-"]);
    assert_eq!((requests, input, output), (None, Some(40), Some(58)), "unknown is not 0; cached tokens are input");
}

#[test]
fn trap_a_model_that_is_loaded_again_resets_its_own_series_alone() {
    let mut tally = tally("triton");
    let text = read("triton-2.51.0.scrape2.prom");
    observe(&mut tally, &text, 1);
    // Version 2 was unloaded and loaded, in the same process; version 1 goes on from where it was.
    let reloaded = text
        .replace(
            "nv_inference_request_success{model=\"scorer\",version=\"2\"} 12",
            "nv_inference_request_success{model=\"scorer\",version=\"2\"} 3",
        )
        .replace(
            "nv_inference_request_success{model=\"scorer\",version=\"1\"} 10",
            "nv_inference_request_success{model=\"scorer\",version=\"1\"} 11",
        );
    assert_ne!(text, reloaded);
    let seen = observe(&mut tally, &reloaded, 2);
    assert_eq!(of(&seen, CountKind::RequestsOk), truth([("ranker@3", 0), ("scorer@1", 1), ("scorer@2", 3)]));
    assert!(seen.reset);
}

#[test]
fn trap_a_restart_counts_what_the_new_process_shows() {
    let mut tally = tally("triton");
    let requests = |seen: &Observation| -> u64 { of(seen, CountKind::RequestsOk).into_values().flatten().sum() };
    let [first, second] = ["scrape1", "scrape2"].map(|name| read(&format!("triton-2.51.0.{name}.prom")));
    assert_eq!(requests(&observe(&mut tally, &first, 1)), 15);
    assert_eq!(requests(&observe(&mut tally, &second, 2)), 15);
    assert_eq!(requests(&observe(&mut tally, &read("triton-2.51.0.scrape3-restarted.prom"), 3)), 15, "not 0");
}

#[test]
fn trap_the_label_version_of_ray_is_rays_own() {
    let services = page("rayserve", "rayserve-2.60.0.prom", CountKind::RequestsOk);
    assert_eq!(services, truth([("iris-app/Scorer@-", 6), ("rank-app/Ranker@-", 3)]));
    assert!(read("rayserve-2.60.0.prom").contains("Version=\"2.60.0\""));
}

#[test]
fn trap_times_are_in_the_pages_unit() {
    let busy = |preset, file| -> u64 { page(preset, file, CountKind::BusyNanos).into_values().flatten().sum() };
    // What the engine says, in its own unit: µs, ms, µs and s.
    let told = |file: &str, sample: &str, nanos: f64| {
        let text = read(file);
        let lines = text.lines().filter(|line| line.starts_with(sample));
        lines
            .map(|line| line.rsplit(' ').next().and_then(|last| last.parse::<f64>().ok()).expect("a number") * nanos)
            .sum::<f64>()
    };
    for (preset, file, sample, nanos) in [
        ("triton", "triton-2.51.0.scrape1.prom", "nv_inference_compute_infer_duration_us{", 1e3),
        ("rayserve", "rayserve-2.60.0.prom", "ray_serve_deployment_processing_latency_ms_sum{", 1e6),
        ("torchserve", "torchserve-0.12.0.prom", "ts_inference_latency_microseconds{", 1e3),
        ("mlserver", "mlserver-1.7.1.prom", "model_infer_request_duration_sum{", 1e9),
    ] {
        let (busy, told) = (busy(preset, file), told(file, sample, nanos));
        let apart = (busy as f64 - told).abs();
        // A version that a client invented has a duration too.
        assert!(busy > 0 && apart <= 0.05 * told, "{preset}: {busy} of {told}");
    }
}

#[test]
fn trap_a_gauge_without_bound_is_no_count_and_costs_no_other() {
    let text = read("driven/vllm-0.32.0-v1-dp2-lora.driven.prom");
    let odd = ["NaN", "+Inf", "9.223372036854776e+18"].map(|value| {
        let line = format!("vllm:num_requests_waiting{{engine=\"0\",model_name=\"llama-3.1-8b-instruct\"}} {value}\n");
        let without: String = text
            .lines()
            .filter(|one| !one.starts_with("vllm:num_requests_waiting{"))
            .map(|one| format!("{one}\n"))
            .collect();
        without + &line
    });
    for page in odd {
        let mut tally = tally("vllm");
        let seen = observe(&mut tally, &page, 1);
        assert_eq!((seen.bad_values, of(&seen, CountKind::RequestsOk)), (1, truth([("llama-3.1-8b-instruct@-", 15)])));
        assert_eq!(of(&observe(&mut tally, &page, 2), CountKind::WaitingNanos).into_values().flatten().sum::<u64>(), 0);
    }
}

#[test]
fn trap_a_histogram_that_is_named_total_is_no_counter() {
    let mapping = "labels.model = \"model_name\"\n\
        values.output_tokens = { first = [{ metric = \"vllm:iteration_tokens_total\", type = \"counter\" }, \
        { metric = \"vllm:generation_tokens_total\", type = \"counter\" }] }";
    let mut tally = Tally::new(Reader::new(toml::from_str(mapping).expect("valid")).expect("counts"));
    tally.new_epoch(FirstPage::CountsFromZero);
    let seen = observe(&mut tally, &read("driven/vllm-0.32.0-v1-dp2-lora.driven.prom"), 1);
    assert_eq!(of(&seen, CountKind::OutputTokens), truth([("llama-3.1-8b-instruct@-", 1469)]), "the second one");
}

#[test]
fn trap_engines_behind_one_page_are_summed() {
    let kinds = [CountKind::RequestsOk, CountKind::RequestsAborted, CountKind::OutputTokens];
    let [ok, aborted, output] = kinds.map(|kind| page("vllm", "driven/vllm-0.32.0-v1-dp2-lora.driven.prom", kind));
    let of = |count| truth([("llama-3.1-8b-instruct@-", count)]);
    assert_eq!((ok, aborted, output), (of(9 + 6), of(3 + 1), of(996 + 473)), "an abort is no success");
}
