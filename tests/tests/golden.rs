//! Worked cases of the methodology, each run through the functions that make the product's answers.
//!
//! `JOULEBOOK_GOLDEN_DIR` names the folder of cases; the default is tests/golden. The adapter renames and converts units
//! and never calculates. It prints `ok <id>`, `FAIL <id>: why` or `PENDING <id>` a line, and a total.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]

#[path = "golden/case.rs"]
mod case;
#[path = "golden/inputs.rs"]
mod inputs;
#[path = "golden/outputs.rs"]
mod outputs;
#[path = "golden/rules.rs"]
mod rules;
#[path = "golden/table.rs"]
mod table;
#[path = "golden/unit.rs"]
mod unit;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use case::Case;
use inputs::Stop;
use outputs::Outputs;
use table::Rule;

/// How a case went.
#[derive(Debug, PartialEq)]
enum Verdict {
    Met,
    Pending,
    Failed(String),
}

fn judge(name: &str, text: &str, table: &BTreeMap<String, Rule>) -> Verdict {
    let case = match Case::read(name, text, table) {
        Ok(case) => case,
        Err(why) => return Verdict::Failed(why),
    };
    let outputs = match rules::run(&case.rule, &case.inputs) {
        None => return Verdict::Pending,
        Some(Ok(outputs)) => outputs,
        Some(Err(Stop::Undefined)) => Outputs::undefined(),
        Some(Err(Stop::Wrong(why))) => return Verdict::Failed(why),
    };
    let differences = case.differences(&outputs);
    if differences.is_empty() { Verdict::Met } else { Verdict::Failed(differences.join("; ")) }
}

/// The cases of a folder by name.
fn cases(folder: &Path) -> BTreeMap<String, PathBuf> {
    let entries = folder.read_dir().unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.unwrap().path());
    let named = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    named.map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), path)).collect()
}

fn project_cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

#[test]
fn every_worked_case_comes_out_of_the_product() {
    let folder = std::env::var_os("JOULEBOOK_GOLDEN_DIR").map_or_else(project_cases, PathBuf::from);
    let table = table::rules();
    let (mut met, mut pending, mut failed) = (0, 0, Vec::new());
    // Past the harness's capture: the lines are the test's product.
    let mut out = std::io::stdout().lock();
    // With one thread the harness has begun a line of its own.
    writeln!(out).unwrap();
    for (name, path) in cases(&folder) {
        let verdict = match std::fs::read_to_string(&path) {
            Ok(text) => judge(&name, &text, &table),
            Err(error) => Verdict::Failed(error.to_string()),
        };
        match verdict {
            Verdict::Met => {
                met += 1;
                writeln!(out, "ok {name}").unwrap();
            }
            Verdict::Pending => {
                pending += 1;
                writeln!(out, "PENDING {name}").unwrap();
            }
            Verdict::Failed(why) => {
                writeln!(out, "FAIL {name}: {why}").unwrap();
                failed.push(name);
            }
        }
    }
    let all = met + pending + failed.len();
    writeln!(out, "golden: {all} cases, {met} ok, {} FAIL, {pending} PENDING", failed.len()).unwrap();
    assert!(all > 0, "no case in {}", folder.display());
    assert!(failed.is_empty(), "{} of {all} cases fail: {}", failed.len(), failed.join(", "));
}

#[test]
fn every_rule_of_the_table_is_known_to_the_adapter_and_no_other() {
    let none = inputs::Inputs::new(BTreeMap::new()).unwrap();
    for name in table::rules().keys() {
        if let Some(Err(Stop::Wrong(why))) = rules::run(name, &none) {
            assert!(!why.contains("no such rule"), "{name}");
        }
    }
    assert!(matches!(rules::run("no.rule", &none), Some(Err(Stop::Wrong(why))) if why.contains("no such rule")));
}

#[test]
fn what_is_not_understood_is_a_failure_and_never_a_skip() {
    let table = table::rules();
    let (name, path) = cases(&project_cases()).into_iter().find(|(name, _)| name == "gap-power-stream").unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(judge(&name, &text, &table), Verdict::Met);
    for (from, to) in [
        ("\"schema\":", "\"scheme\": 1, \"schema\":"),
        ("sci-golden/2", "sci-golden/3"),
        ("\"id\": \"gap", "\"id\": \"gop"),
        ("power.gap", "power.gaps"),
        ("\"hold_last\"", "\"zero\""),
        ("\"power_before\"", "\"power_since\""),
        ("\"power_idle\"", "\"power_rest\""),
        ("\"energy_low\"", "\"energy_least\""),
        ("\"W\"", "\"furlong\""),
        ("\"W\"", "\"J\""),
        ("1440000", "1440001"),
        ("1440000", "null"),
        ("\"rel\"", "\"relative\""),
        ("\"kind\": \"derived\"", "\"kind\": \"guessed\""),
    ] {
        assert!(text.contains(from), "{from}");
        let verdict = judge(&name, &text.replace(from, to), &table);
        assert!(matches!(verdict, Verdict::Failed(_)), "{from} -> {to}: {verdict:?}");
    }
}
