//! The extended boundary: a ledger that follows what was served, gates, and nothing of it in a default answer.

use super::factors::Fixture;
use super::*;
use joulebook_aggregator::training::{Disclosure, Event, record};
use joulebook_proto::query::Extended;
use joulebook_sci::series::Status;

const T: f64 = 5e6;
const N: f64 = 1e6;

fn document(answer: &SciAnswer, pool: &str, more: &str) -> String {
    let subject = answer.subject.clone().expect("always there");
    let (model, version) = (subject.model.expect("named"), subject.model_version.expect("resolved"));
    format!(
        "{{\"schema\":\"joulebook-training/1\",\"pool\":\"{pool}\",\"model\":\"{model}\",\"version\":\"{version}\",\
         \"document\":\"https://example.org/card\",\"scope\":\"final_run\",\"units\":{N},\"unit\":\"output_token\",\
         \"training_g\":{T}{more}}}"
    )
}

fn disclose(fixture: &Fixture, text: &str) -> UnixNanos {
    let schema: Value = serde_json::from_str(include_str!("../../../cli/schema/training.schema.json")).expect("JSON");
    let value = serde_json::from_str(text).expect("JSON");
    let errors: Vec<String> = jsonschema::validator_for(&schema)
        .expect("a schema")
        .iter_errors(&value)
        .map(|error| error.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
    let disclosure = Disclosure::parse(text).expect("valid");
    let pool = disclosure.pool.clone();
    let event = Event::Disclose(Box::new(disclosure));
    record(&fixture.aggregator.book, &pool, &event, fixture.aggregator.now).expect("recorded")
}

/// A fixture whose intensity is known.
fn rated() -> Fixture {
    let fixture = Fixture::new();
    fixture.record("grid", 0, &[100.0; 10], Status::Measured, 1);
    fixture
}

/// The version of the fixture whose name is resolved.
fn ask(fixture: &Fixture, extended: bool, as_of: Option<i64>) -> (SciAnswer, Extended) {
    let answers = fixture.ask_all(GetSciRequest { extended, as_of_unix_nanos: as_of, ..GetSciRequest::default() });
    let resolved = |answer: &SciAnswer| answer.subject.as_ref().is_some_and(|subject| subject.model_version.is_some());
    let answer = answers.into_iter().find(resolved).expect("a version is resolved");
    let block = answer.extended.clone().expect("always there");
    (answer, block)
}

#[test]
fn what_a_version_carries_follows_what_it_served_and_its_ledger_conserves_t() {
    let fixture = rated();
    let (default, _) = ask(&fixture, false, None);
    let first = disclose(&fixture, &document(&default, "tiny", ""));
    let (again, untold) = ask(&fixture, false, None);
    assert_eq!((&again.sci, untold.sci, untold.training_g), (&default.sci, None, None), "never in a default answer");

    let (answer, block) = ask(&fixture, true, None);
    assert!(block.available && block.failed_gates.is_empty(), "{block:?}");
    assert_eq!((block.label.as_str(), block.t_scope.as_str()), ("extended_training_amortised", "final_run"));
    assert_eq!(answer.sci, default.sci, "the score beside it is the same");
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs().max(1e-12);
    let served = answer.r.clone().expect("always there").value.expect("told");
    assert!(close(block.per_unit_g.expect("known"), T / N));
    assert!(close(block.training_g.expect("known"), served * T / N), "{block:?}");
    let score = answer.sci.clone().expect("always there").value.expect("a score");
    let with = block.sci.expect("known");
    assert!(close(with, score + T / N), "one unit: SCI + τ");
    let (low, high) = (block.low.expect("known"), block.high.expect("known"));
    assert!(low < with && with < high);
    // T by a fifth and N by half, beside what the score may be off.
    let own = answer.sci.clone().expect("always there").high.expect("known") - score;
    let both = (own.powi(2) + (0.2f64.powi(2) + 0.5f64.powi(2)) * (T / N).powi(2)).sqrt();
    assert!(close(high - with, both), "{} {both}", high - with);
    let ledger = block.ledgers[0].clone();
    assert!(ledger.used_units > served, "what was served before the window counts too");
    assert!(close(ledger.allocated_g, ledger.used_units * T / N));
    assert!(close(ledger.allocated_g + ledger.written_off_g + ledger.remaining_g, T));

    // N becomes what was used: the pool is through from now on, and what was asked before stays.
    let event = Event::Revise { units: 1.0, reason: "measured".to_owned() };
    let at = fixture.window.start().0;
    record(&fixture.aggregator.book, "tiny", &event, UnixNanos(at)).expect("recorded");
    let (_, old) = ask(&fixture, true, Some(first.0));
    assert_eq!((old.sci, old.ledgers), (block.sci, block.ledgers));
}

#[test]
fn each_gate_that_is_not_met_is_named_and_there_is_no_figure() {
    let fixture = rated();
    let (default, _) = ask(&fixture, false, None);
    let (answer, block) = ask(&fixture, true, None);
    assert_eq!((block.available, block.failed_gates.as_slice()), (false, &["G1_disclosure".to_owned()][..]));
    assert_eq!(block.sci, None);
    let printed = serde_json::to_value(&answer).expect("JSON");
    let mut found = Vec::new();
    nulls(&printed, "", &mut found);
    assert!(found.iter().all(|path| answer.not_available.contains_key(path)), "{found:?}");

    disclose(&fixture, &document(&default, "guess", ",\"assumed\":true"));
    let (_, block) = ask(&fixture, true, None);
    assert_eq!((block.label.as_str(), block.available), ("extended_assumed", false));
    assert!(block.sci.is_some() && block.failed_gates == ["G1_disclosure"], "a guess, behind its gate");

    disclose(&fixture, &document(&default, "other", ""));
    let (_, block) = ask(&fixture, true, None);
    assert!(block.sci.is_none() && block.failed_gates == ["G1_disclosure"], "two disclosures of one version");
    assert!(block.notes.iter().any(|note| note.contains("guess, other")), "{:?}", block.notes);
}

#[test]
fn the_last_users_of_a_retired_pool_carry_what_remains_where_its_policy_says_so() {
    let fixture = rated();
    let (default, _) = ask(&fixture, false, None);
    let policy = ",\"remainder\":\"final_period\",\"final_days\":1";
    let disclosed = disclose(&fixture, &document(&default, "tiny", policy));
    let (_, before) = ask(&fixture, true, None);
    let event = Event::Retire { successor: None, reason: "replaced".to_owned() };
    record(&fixture.aggregator.book, "tiny", &event, fixture.aggregator.now).expect("recorded");
    let (_, after) = ask(&fixture, true, None);
    let ledger = after.ledgers[0].clone();
    assert!(ledger.remaining_g.abs() < 1e-6 * T && (ledger.allocated_g - T).abs() < 1e-6 * T, "{ledger:?}");
    assert!(after.per_unit_g.expect("known") > 10.0 * before.per_unit_g.expect("known"));
    assert_eq!(after.remainder_policy, "final_period");
    let (_, known) = ask(&fixture, true, Some(disclosed.0));
    assert_eq!((known.per_unit_g, known.ledgers), (before.per_unit_g, before.ledgers), "as it was known");
}

#[test]
fn an_increment_that_joins_a_pool_is_in_its_ledger_and_has_none_of_its_own() {
    let fixture = rated();
    let (default, _) = ask(&fixture, false, None);
    // The version that is served joins the pool of one that is not.
    let base = document(&default, "base", "").replace("\"version\":\"", "\"version\":\"base-of-");
    disclose(&fixture, &base);
    let joins = ",\"lineage_policy\":\"single_pool_increment\",\
                 \"parents\":[{\"pool\":\"base\",\"descent\":\"finetune\"}],\"serving_since\":\"2026-01-01T00:00:00Z\"";
    disclose(&fixture, &document(&default, "tuned", joins));
    let (_, block) = ask(&fixture, true, None);
    assert!(block.available, "{block:?}");
    let [ledger] = block.ledgers.as_slice() else { panic!("one ledger: {:?}", block.ledgers) };
    assert_eq!((ledger.pool_id.as_str(), block.lineage_policy.as_str()), ("base", "single_pool_increment"));
    let sum = ledger.allocated_g + ledger.written_off_g + ledger.remaining_g;
    assert!((sum - ledger.training_g).abs() <= 1e-9 * ledger.training_g);
}

#[test]
fn units_that_carry_no_version_make_a_figure_partial_or_refuse_it_where_tracing_is_strict() {
    let fixture = rated();
    let (default, _) = ask(&fixture, false, None);
    let answers = fixture.ask_all(GetSciRequest::default());
    let untold = answers.iter().any(|answer| answer.subject.as_ref().is_some_and(|of| of.model_version.is_none()));
    disclose(&fixture, &document(&default, "tiny", ",\"tracing\":\"strict\""));
    let (_, strict) = ask(&fixture, true, None);
    assert_eq!(strict.available, !untold, "{strict:?}");
    disclose(&fixture, &document(&default, "tiny", ""));
    let (_, traced) = ask(&fixture, true, None);
    let partial = traced.notes.iter().any(|note| note.starts_with("extended_label=partial"));
    assert_eq!((traced.available, partial), (true, untold));
}
