//! Disclosures that cannot be, and one whose units are used up.

use super::*;
use joulebook_tests::scripted::grid;
use serde_json::json;

/// Training of the version of which the script discloses nothing.
fn document(more: &[(&str, Value)]) -> Value {
    let mut document = json!({
        "schema": "joulebook-training/1", "pool": "embed-1", "model": "embed", "version": "1", "scope": "final_run",
        "document": "https://example.org/card", "units": 1e9, "unit": "output_token", "training_g": 5e6,
    });
    more.iter().for_each(|(key, value)| document[key] = value.clone());
    document
}

#[test]
fn what_is_no_disclosure_is_refused_and_units_that_are_used_up_carry_no_more_than_t() {
    let rig = Rig::start(Script::ending(midnight(), 2, 3), |_| grid::CONFIGURATION.to_owned());
    let set = |document: &Value| {
        let path = rig.file("training.json", &document.to_string());
        ["training".to_owned(), "set".to_owned(), path.display().to_string()]
    };
    let refused = |more: &[(&str, Value)], expected: &str| {
        let words = set(&document(more));
        let said = rig.refused(&words.each_ref().map(String::as_str));
        assert!(said.contains(expected), "{said}");
    };
    let from = |pools: &[(&str, f64)], descent: &str| {
        let parent = |(pool, weight): &(&str, f64)| json!({"pool": pool, "descent": descent, "weight": weight});
        Value::Array(pools.iter().map(parent).collect())
    };
    refused(&[("units", json!(0))], "N must be above 0");
    refused(&[("document", Value::Null)], "no document is named");
    refused(&[("document", json!(""))], "no document is named");
    refused(&[("training_g", json!(-1))], "at least 0");
    refused(&[("parents", from(&[("chat-1", 0.4), ("code-1", 0.4)], "merge"))], "sum to 1");
    refused(&[("parents", from(&[("embed-1", 1.0)], "finetune"))], "embed-1");
    // A cycle over two documents.
    let taken = |document: &Value| {
        let words = set(document);
        rig.installation.text(&words.each_ref().map(String::as_str)).unwrap()
    };
    taken(&document(&[("parents", from(&[("code-1", 1.0)], "finetune"))]));
    let back = document(&[
        ("pool", json!("code-1")),
        ("model", json!("code")),
        ("parents", from(&[("embed-1", 1.0)], "finetune")),
    ]);
    let words = set(&back);
    let said = rig.refused(&words.each_ref().map(String::as_str));
    assert!(said.contains("its own ancestor"), "{said}");

    let extended = || rig.of("embed", 0..48, &["--extended"])["extended"].clone();
    taken(&document(&[]));
    let whole = extended();
    assert!(whole["available"] == true && close(number(&whole["per_unit_g"]), 5e6 / 1e9), "{whole}");
    let used = number(&whole["ledgers"][0]["used_units"]);
    assert!(used > 1000.0, "{whole}");
    // N below what was used: all of T is carried, once, and it is said.
    taken(&document(&[("units", json!(used / 4.0))]));
    let through = extended();
    let ledger = &through["ledgers"][0];
    assert!(close(number(&ledger["allocated_g"]), 5e6) && ledger["fully_amortised"] == true, "{through}");
    assert!(number(&ledger["remaining_g"]).abs() < 1e-3 && number(&through["training_g"]) <= 5e6 * (1.0 + 1e-9));
    // A revised N that is below use is not taken as one.
    taken(&document(&[("n_policy", json!("dynamic_prospective"))]));
    let revise =
        |units: &str| rig.installation.text(&["training", "revise", "embed-1", "--units", units, "--reason", "x"]);
    assert!(revise("0").is_err(), "an N of 0");
    revise("10").unwrap();
    let revised = extended();
    let ledger = &revised["ledgers"][0];
    let parts = ["allocated_g", "written_off_g", "remaining_g"].map(|part| number(&ledger[part]));
    assert!(close(parts.iter().sum(), 5e6) && parts.iter().all(|part| *part >= 0.0), "T is conserved: {revised}");
    assert!(
        number(&revised["per_unit_g"]) <= 5e6 / 1e9 * (1.0 + 1e-9),
        "what was served keeps what it carried: {revised}"
    );
}
