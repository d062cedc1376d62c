//! Pages of real engines against what a reader must report, schema `joulebook-expositions/1`.
//!
//! `JOULEBOOK_EXPOSITIONS_DIR=<dir>` names another folder of the same shape. A line per case: `ok`, `FAIL`, or `PENDING`
//! for a preset that this build does not have; then the sum.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use joulebook_agent::inference::exposition::{Page, Sample};
use joulebook_agent::inference::identity::Served;
use joulebook_agent::inference::preset::Presets;
use joulebook_agent::inference::tally::{Counts, FirstPage, Tally};
use joulebook_agent::inference::{Target, TargetConfig};
use joulebook_units::{BootNanos, CountKind, VersionSource};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    schema: String,
    cases: Vec<Case>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    file: String,
    #[serde(deserialize_with = "nullable")]
    preset: Option<String>,
    #[serde(deserialize_with = "nullable")]
    after: Option<String>,
    services: Vec<Service>,
    consumers: Vec<Consumer>,
    ignored: Vec<String>,
    #[serde(rename = "notes")]
    _notes: String,
    mapping: Option<Value>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    #[serde(deserialize_with = "nullable")]
    model: Option<String>,
    #[serde(deserialize_with = "nullable")]
    version: Option<String>,
    version_source: String,
    #[serde(deserialize_with = "nullable")]
    adapter: Option<String>,
    #[serde(deserialize_with = "nullable")]
    requests_ok: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    requests_failed: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    requests_aborted: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    items: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    input_tokens: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    input_cached_tokens: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    output_tokens: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    busy_seconds: Option<f64>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Consumer {
    key: String,
    value: String,
    #[serde(deserialize_with = "nullable")]
    requests_ok: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    input_tokens: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    output_tokens: Option<u64>,
}

/// A key that must be there and may be null.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

/// Model, version, the version's source, adapter.
type Name = (Option<String>, Option<String>, String, Option<String>);
type Sums = BTreeMap<CountKind, u64>;

/// What is reported of a page: counts by service, and by consumer (label, value).
#[derive(Debug, Default, PartialEq)]
struct Answer {
    services: BTreeMap<Name, Sums>,
    consumers: BTreeMap<(String, String), Sums>,
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Ok,
    Fail(String),
    Pending,
}

fn folder() -> PathBuf {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/expositions");
    std::env::var_os("JOULEBOOK_EXPOSITIONS_DIR").map_or_else(|| own.into(), PathBuf::from)
}

fn read(folder: &Path, name: &str) -> anyhow::Result<String> {
    let path = folder.join(name);
    std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

fn expected(text: &str) -> anyhow::Result<Vec<Case>> {
    let expected: Expected = serde_json::from_str(text).context("reading expected.json")?;
    ensure!(expected.schema == "joulebook-expositions/1", "schema {} is not known here", expected.schema);
    ensure!(!expected.cases.is_empty(), "no cases");
    for (index, case) in expected.cases.iter().enumerate() {
        let custom = case.preset.as_deref() == Some("custom");
        ensure!(case.mapping.is_some() == custom, "{}: `mapping` goes with preset custom, and only there", case.file);
        let known = |after: &String| expected.cases[..index].iter().any(|earlier| earlier.file == *after);
        ensure!(case.after.as_ref().is_none_or(known), "{}: `after` is no file of an earlier case", case.file);
    }
    Ok(expected.cases)
}

/// The page without the series that a case says must not matter.
fn without(page: &str, ignored: &[String]) -> anyhow::Result<String> {
    let patterns: Vec<String> = ignored.iter().map(|pattern| format!("{pattern} 0\n")).collect();
    let patterns: Vec<Page<'_>> =
        patterns.iter().map(|pattern| Page::parse(pattern.as_bytes())).collect::<Result<_, _>>()?;
    let gone = |sample: &Sample<'_>| {
        patterns.iter().flat_map(Page::samples).any(|pattern| {
            let end = sample.name.strip_prefix(pattern.name);
            let named = end.is_some_and(|end| ["", "_bucket", "_sum", "_count", "_created"].contains(&end));
            named && pattern.labels.iter().all(|label| sample.labels.contains(label))
        })
    };
    let mut kept = String::new();
    for line in page.lines() {
        let line = format!("{line}\n");
        if line.starts_with('#') || !Page::parse(line.as_bytes())?.samples().iter().any(gone) {
            kept.push_str(&line);
        }
    }
    Ok(kept)
}

/// What the product reports of a page, read after another one if there is one.
fn answer(target: &Target, after: Option<&str>, text: &str) -> anyhow::Result<Answer> {
    let mut tally = Tally::new(target.reader.clone());
    tally.new_epoch(FirstPage::CountsFromZero);
    if let Some(after) = after {
        tally.observe(&Page::parse(after.as_bytes())?, BootNanos(0));
    }
    let seen = tally.observe(&Page::parse(text.as_bytes())?, BootNanos(1));
    ensure!(seen.duplicates == 0, "{} samples refused as duplicates", seen.duplicates);
    let mut answer = Answer::default();
    let add = |own: &mut Sums, counts: &Counts| {
        for (kind, count) in &counts.added {
            *own.entry(*kind).or_insert(0) += count;
        }
    };
    for (consumer, counts) in &seen.consumers {
        add(answer.consumers.entry((consumer.key.clone(), consumer.value.clone())).or_default(), counts);
    }
    for (identity, counts) in &seen.services {
        let service = Served::default().service(target, identity, seen.adapters);
        let source = match service.version_source {
            VersionSource::Label => "label",
            VersionSource::DenyList => "deny_list",
            VersionSource::Unresolved => "unresolved",
            VersionSource::Config => "config",
            other => bail!("a page alone cannot tell the version by {other:?}"),
        };
        let name = (service.model, service.version, source.to_owned(), service.adapter);
        add(answer.services.entry(name).or_default(), counts);
    }
    Ok(answer)
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a test page")]
fn compare(case: &Case, answer: &Answer) -> anyhow::Result<()> {
    let name =
        |own: &Service| (own.model.clone(), own.version.clone(), own.version_source.clone(), own.adapter.clone());
    let wanted: BTreeMap<Name, &Service> = case.services.iter().map(|own| (name(own), own)).collect();
    ensure!(wanted.len() == case.services.len(), "the case lists a service twice");
    let (found, listed): (Vec<_>, Vec<_>) = (answer.services.keys().collect(), wanted.keys().collect());
    ensure!(found == listed, "services are {found:?}, not {listed:?}");
    for (name, counts) in &answer.services {
        let own = wanted[name];
        let fields = [
            (own.requests_ok, CountKind::RequestsOk),
            (own.requests_failed, CountKind::RequestsFailed),
            (own.requests_aborted, CountKind::RequestsAborted),
            (own.items, CountKind::Items),
            (own.input_tokens, CountKind::InputTokens),
            (own.input_cached_tokens, CountKind::CachedTokens),
            (own.output_tokens, CountKind::OutputTokens),
        ];
        for (expected, kind) in fields {
            let counted = counts.get(&kind).copied();
            ensure!(counted == expected, "{kind:?} of {name:?} is {counted:?}, not {expected:?}");
        }
        let busy = counts.get(&CountKind::BusyNanos).map(|nanos| *nanos as f64 / 1e9);
        let same = match (busy, own.busy_seconds) {
            (None, None) => true,
            (Some(busy), Some(expected)) => (busy - expected).abs() <= 1e-9 + 1e-9 * expected.abs(),
            _ => false,
        };
        ensure!(same, "busy_seconds of {name:?} is {busy:?}, not {:?}", own.busy_seconds);
    }
    compare_consumers(case, answer)
}

fn compare_consumers(case: &Case, answer: &Answer) -> anyhow::Result<()> {
    let wanted: BTreeMap<_, _> = case.consumers.iter().map(|own| ((own.key.clone(), own.value.clone()), own)).collect();
    ensure!(wanted.len() == case.consumers.len(), "the case lists a consumer twice");
    let (found, listed): (Vec<_>, Vec<_>) = (answer.consumers.keys().collect(), wanted.keys().collect());
    ensure!(found == listed, "consumers are {found:?}, not {listed:?}");
    for (name, counts) in &answer.consumers {
        let own = wanted[name];
        for (expected, kind) in [
            (own.requests_ok, CountKind::RequestsOk),
            (own.input_tokens, CountKind::InputTokens),
            (own.output_tokens, CountKind::OutputTokens),
        ] {
            let counted = counts.get(&kind).copied();
            ensure!(counted == expected, "{kind:?} of {name:?} is {counted:?}, not {expected:?}");
        }
    }
    Ok(())
}

fn check(folder: &Path, case: &Case, presets: &Presets) -> anyhow::Result<Verdict> {
    let text = read(folder, &case.file)?;
    let built = case.preset.as_deref().filter(|id| presets.iter().any(|preset| preset.id == *id));
    if built != Some("custom") {
        let page = Page::parse(text.as_bytes())?;
        let detected: Vec<_> = presets.iter().filter(|preset| preset.detects(&page)).map(|preset| &preset.id).collect();
        // A preset without a signature is never recognised, and no other may claim its page.
        let signed = built.filter(|id| presets.named(id).is_ok_and(|preset| !preset.signature.is_empty()));
        ensure!(detected == Vec::from_iter(signed), "detected as {detected:?}, not {signed:?}");
    }
    match (&case.preset, built) {
        (None, _) => {
            ensure!(case.services.is_empty() && case.consumers.is_empty(), "nothing reads this page");
            return Ok(Verdict::Ok);
        }
        (Some(_), None) => return Ok(Verdict::Pending),
        _ => {}
    }
    let mut config = json!({"url": "http://127.0.0.1:1", "preset": built});
    if let Some(mapping) = &case.mapping {
        config["mapping"] = mapping.clone();
    }
    let target = Target::new(0, serde_json::from_value::<TargetConfig>(config)?, presets)?;
    let after = case.after.as_ref().map(|after| read(folder, after)).transpose()?;
    compare(case, &answer(&target, after.as_deref(), &text)?)?;
    let cut = without(&text, &case.ignored)?;
    compare(case, &answer(&target, after.as_deref(), &cut)?).context("without the ignored series")?;
    Ok(Verdict::Ok)
}

fn judge(folder: &Path, case: &Case, presets: &Presets) -> Verdict {
    check(folder, case, presets).unwrap_or_else(|error| Verdict::Fail(format!("{error:#}")))
}

/// Judges every case of a folder, prints a line each, and fails if one is not ok.
fn judge_folder(folder: &Path) {
    let presets = Presets::built_in().unwrap();
    let cases = expected(&read(folder, "expected.json").unwrap()).unwrap();
    // Written past the capture of passing tests: the lines are what this is run for.
    let mut out = std::io::stdout().lock();
    let (mut ok, mut failed, mut pending) = (0, 0, 0);
    for case in &cases {
        let of = format!("{} {}", case.file, case.preset.as_deref().unwrap_or("null"));
        match judge(folder, case, &presets) {
            Verdict::Ok => {
                ok += 1;
                writeln!(out, "ok {of}").unwrap();
            }
            Verdict::Fail(why) => {
                failed += 1;
                writeln!(out, "FAIL {of}: {why}").unwrap();
            }
            Verdict::Pending => {
                pending += 1;
                writeln!(out, "PENDING {of}").unwrap();
            }
        }
    }
    writeln!(out, "expositions: {ok} ok, {failed} failed, {pending} pending").unwrap();
    drop(out);
    assert_eq!((failed, pending), (0, 0), "cases failed or are pending, see the lines above");
    assert!(ok > 0, "no case was read");
}

#[test]
fn every_page_is_read_as_its_case_says() {
    judge_folder(&folder());
}

/// Pages written by hand from the names in the engines' sources, for engines that were not captured.
#[test]
fn every_page_made_from_an_engines_source_is_read_as_its_case_says() {
    judge_folder(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/expositions-made")));
}

/// Pages of real servers that this project's own load was sent to: built bentos, a restart, failures.
#[test]
fn every_page_captured_from_a_server_of_the_tests_is_read_as_its_case_says() {
    judge_folder(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/expositions-captured")));
}

/// The project's own cases, whatever folder the environment names.
fn own() -> (PathBuf, Value) {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/expositions"));
    let text = read(&folder, "expected.json").unwrap();
    (folder, serde_json::from_str(&text).unwrap())
}

#[test]
fn each_wrong_expectation_fails_its_case() {
    let (folder, file) = own();
    let presets = Presets::built_in().unwrap();
    let right = file["cases"].as_array().unwrap().iter().find(|case| case["preset"] == "mlserver").unwrap();
    let verdict = |case: &Value| judge(&folder, &serde_json::from_value(case.clone()).unwrap(), &presets);
    assert_eq!(verdict(right), Verdict::Ok);
    let wrong: [(&str, &str, Value); 7] = [
        ("/services/0/requests_ok", "RequestsOk", json!(6)),
        ("/services/0/requests_aborted", "RequestsAborted", json!(0)),
        ("/services/0/requests_failed", "RequestsFailed", json!(null)),
        ("/services/0/busy_seconds", "busy_seconds", json!(0.015_004_551)),
        ("/services/0/adapter", "services are", json!("*")),
        ("/preset", "detected as", json!("triton")),
        ("/ignored", "without the ignored", json!(["model_infer_request_success_total{version=\"v1.0.0\"}"])),
    ];
    for (place, why, value) in wrong {
        let mut case = right.clone();
        *case.pointer_mut(place).unwrap() = value;
        let Verdict::Fail(told) = verdict(&case) else { panic!("{place} passes") };
        assert!(told.contains(why), "{place}: {told}");
    }
}

#[test]
fn each_wrong_expectation_of_consumers_fails_its_case() {
    let (folder, file) = own();
    let presets = Presets::built_in().unwrap();
    let right = file["cases"].as_array().unwrap().iter().find(|case| case["preset"] == "litellm").unwrap();
    let verdict = |case: &Value| judge(&folder, &serde_json::from_value(case.clone()).unwrap(), &presets);
    assert_eq!(verdict(right), Verdict::Ok);
    let wrong: [(&str, &str, Value); 5] = [
        ("/consumers/0/requests_ok", "RequestsOk", json!(4)),
        ("/consumers/0/output_tokens", "OutputTokens", json!(null)),
        ("/consumers/1/key", "consumers are", json!("user")),
        ("/consumers/1/value", "consumers are", json!("None")),
        ("/services", "services are", file["cases"][0]["services"].clone()),
    ];
    for (place, why, value) in wrong {
        let mut case = right.clone();
        *case.pointer_mut(place).unwrap() = value;
        let Verdict::Fail(told) = verdict(&case) else { panic!("{place} passes") };
        assert!(told.contains(why), "{place}: {told}");
    }
}

#[test]
fn vllm_on_rays_page_reads_as_on_its_own() {
    let (folder, file) = own();
    let case = file["cases"].as_array().unwrap().iter().find(|case| case["preset"] == "vllm").unwrap();
    let case: Case = serde_json::from_value(case.clone()).unwrap();
    let text = read(&folder, &case.file).unwrap();
    let target = |preset: &str| {
        let config = json!({"url": "http://127.0.0.1:1", "preset": preset});
        Target::new(0, serde_json::from_value(config).unwrap(), &Presets::built_in().unwrap()).unwrap()
    };
    let (vllm, own) = (target("vllm"), answer(&target("vllm"), None, &text).unwrap());
    let ray = text.replace("vllm:", "ray_vllm_").replace("{engine", "{ReplicaId=\"r\",WorkerId=\"w\",engine");
    assert!(vllm.preset.detects(&Page::parse(ray.as_bytes()).unwrap()));
    assert_eq!(answer(&vllm, None, &ray).unwrap(), own);
    // V0 knows only the time from arrival to the end, which holds the queue too.
    let old = text.replace("vllm:request_inference_time_seconds", "vllm:other_seconds");
    let busy =
        |answer: &Answer| answer.services.values().next().and_then(|counts| counts.get(&CountKind::BusyNanos).copied());
    let old = answer(&vllm, None, &old).unwrap();
    assert!(busy(&old) > busy(&own), "{old:?}");
}

#[test]
fn unknown_and_missing_keys_are_errors() {
    let (_, file) = own();
    assert!(expected(&file.to_string()).is_ok());
    let broken: [fn(&mut Value); 6] = [
        |file| file["schema"] = json!("joulebook-expositions/2"),
        |file| file["more"] = json!(1),
        |file| file["cases"][0]["more"] = json!(1),
        |file| file["cases"][0]["services"][0]["more"] = json!(1),
        |file| drop(file["cases"][0]["services"][0].as_object_mut().unwrap().remove("items")),
        |file| drop(file["cases"][0].as_object_mut().unwrap().remove("after")),
    ];
    for breaks in broken {
        let mut file = file.clone();
        breaks(&mut file);
        assert!(expected(&file.to_string()).is_err());
    }
}

#[test]
fn a_case_of_a_preset_that_is_not_built_is_pending() {
    let (folder, file) = own();
    let case = file["cases"].as_array().unwrap().iter().find(|case| case["preset"] == "bentoml").unwrap();
    let case = serde_json::from_value(case.clone()).unwrap();
    // Any build lacks the presets that it is not given.
    assert_eq!(judge(&folder, &case, &Presets::default()), Verdict::Pending);
}
