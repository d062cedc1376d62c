//! Pages of real engines against what a reader must report (schema `joulebook-expositions/1`).

#![expect(clippy::expect_used, clippy::panic, reason = "a test ends at what it did not expect")]

use joulebook_agent::inference::exposition::Page;
use joulebook_agent::inference::mapping::Mapping;
use joulebook_agent::inference::preset::{NOT_BUILT, Preset};
use joulebook_agent::inference::reader::{PageIdentity, PageVersion, Reader};
use joulebook_agent::inference::tally::{FirstPage, Observation, Tally};
use joulebook_units::{BootNanos, CountKind};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;

fn folder() -> PathBuf {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures");
    std::env::var_os("JOULEBOOK_FIXTURES_DIR").map_or_else(|| own.into(), PathBuf::from).join("expositions")
}

fn cases() -> Vec<Value> {
    let text = std::fs::read_to_string(folder().join("expected.json")).expect("expected.json");
    let file: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(file["schema"], "joulebook-expositions/1");
    file["cases"].as_array().expect("cases").clone()
}

fn page(name: &Value) -> String {
    std::fs::read_to_string(folder().join(name.as_str().expect("a file name"))).expect("page")
}

/// The page without the series that a case says must not matter.
fn without(page: &str, ignored: &Value) -> String {
    let gone = |line: &str| {
        let ignored = ignored.as_array().expect("ignored").iter().filter_map(Value::as_str);
        ignored.into_iter().any(|pattern| {
            let (name, labels) = pattern.split_once('{').unwrap_or((pattern, ""));
            let rest = line.strip_prefix(name).unwrap_or("");
            let rest =
                ["_bucket", "_sum", "_count", "_created"].iter().find_map(|end| rest.strip_prefix(end)).unwrap_or(rest);
            let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
            rest.starts_with([' ', '{']) && labels.into_iter().all(|label| rest.contains(label))
        })
    };
    page.lines().filter(|line| line.starts_with('#') || !gone(line)).map(|line| format!("{line}\n")).collect()
}

fn observe(tally: &mut Tally, text: &str) -> Observation {
    tally.observe(&Page::parse(text.as_bytes()).expect("a legal page"), BootNanos(0))
}

fn integer(expected: &Value, field: &str) -> Option<u64> {
    expected[field].as_u64()
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a test page")]
fn same_busy(expected: &Value, counted: Option<u64>) -> bool {
    match (expected["busy_seconds"].as_f64(), counted) {
        (None, None) => true,
        (Some(expected), Some(counted)) => (expected - counted as f64 / 1e9).abs() <= 1e-9 + 1e-9 * expected,
        _ => false,
    }
}

/// What the mapping's own names and the page tell, in the words of the case.
fn names(mapping: &Mapping, identity: &PageIdentity) -> (Option<String>, Option<String>, &'static str) {
    let model = identity.model.clone().or_else(|| mapping.fixed.model.clone());
    match (&mapping.fixed.version, &identity.version) {
        (_, PageVersion::Label(version)) => (model, Some(version.clone()), "label"),
        (Some(version), _) => (model, Some(version.clone()), "config"),
        (None, PageVersion::Denied) => (model, None, "deny_list"),
        (None, PageVersion::Untold) => (model, None, "unresolved"),
    }
}

fn check(case: &Value, mapping: &Mapping, seen: &Observation) {
    let file = &case["file"];
    let expected = case["services"].as_array().expect("services");
    assert_eq!(seen.services.len(), expected.len(), "services of {file}");
    for (identity, counts) in &seen.services {
        let (model, version, source) = names(mapping, identity);
        let matches = |service: &&Value| {
            service["model"].as_str() == model.as_deref()
                && service["version"].as_str() == version.as_deref()
                && service["version_source"] == source
        };
        let service = expected.iter().find(matches).unwrap_or_else(|| panic!("{file}: unexpected {identity:?}"));
        let fields = [
            ("requests_ok", CountKind::RequestsOk),
            ("requests_failed", CountKind::RequestsFailed),
            ("requests_aborted", CountKind::RequestsAborted),
            ("items", CountKind::Items),
            ("input_tokens", CountKind::InputTokens),
            ("input_cached_tokens", CountKind::CachedTokens),
            ("output_tokens", CountKind::OutputTokens),
        ];
        for (field, kind) in fields {
            assert_eq!(counts.added.get(&kind).copied(), integer(service, field), "{field} of {file}");
        }
        assert!(
            same_busy(service, counts.added.get(&CountKind::BusyNanos).copied()),
            "busy_seconds of {file}: {counts:?}"
        );
    }
}

#[test]
fn counts_are_what_the_engine_counted() {
    let mut left_out = BTreeSet::new();
    let mut read = 0;
    for case in cases() {
        let Some(id) = case["preset"].as_str() else { continue };
        if NOT_BUILT.contains(&id) {
            left_out.insert(id.to_owned());
            continue;
        }
        let preset = Preset::named(id).expect("a preset of this build");
        let own = || serde_json::from_value(case["mapping"].clone()).expect("a legal mapping");
        let mapping: Mapping = preset.mapping.unwrap_or_else(own);
        for text in [page(&case["file"]), without(&page(&case["file"]), &case["ignored"])] {
            let mut tally = Tally::new(Reader::new(mapping.clone()).expect("counts something"));
            tally.new_epoch(FirstPage::CountsFromZero);
            if case["after"].is_string() {
                observe(&mut tally, &page(&case["after"]));
            }
            check(&case, &mapping, &observe(&mut tally, &text));
            read += 1;
        }
    }
    assert!(read > 0);
    assert_eq!(left_out, NOT_BUILT.map(str::to_owned).into(), "presets of the cases that are not built yet");
}

#[test]
fn a_page_is_detected_as_its_engines_and_no_other() {
    let presets = Preset::all().expect("valid");
    for case in cases() {
        let text = page(&case["file"]);
        let page = Page::parse(text.as_bytes()).expect("a legal page");
        let detected: Vec<_> =
            presets.iter().filter(|preset| preset.detects(&page)).map(|preset| preset.id.as_str()).collect();
        let id = case["preset"].as_str().filter(|id| *id != "custom" && !NOT_BUILT.contains(id));
        assert_eq!(detected, id.into_iter().collect::<Vec<_>>(), "{}", case["file"]);
    }
}
