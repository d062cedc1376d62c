//! What cannot be a factor or a disclosure, told to a running aggregator by files, by sources and by the operator's tool: a
//! refusal that says why, or a fallback of the same kind that is labelled. Never a figure that looks like any other.
//!
//! The energy is that of the scripted fleet, whose grams are known: what was refused has not moved them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]
#![allow(clippy::print_stdout, reason = "what a file of ten million rows took is printed")]

use jiff::Timestamp;
use joulebook_aggregator::store::rocks::RocksStore;
use joulebook_tests::installation::Installation;
use joulebook_tests::program::Program;
use joulebook_tests::scripted::{Fleet, Script, Truth};
use joulebook_tests::wait::until;
use joulebook_units::UnixNanos;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[path = "bad_factors/clocks.rs"]
mod clocks;
#[path = "bad_factors/files.rs"]
mod files;
#[path = "bad_factors/large.rs"]
mod large;
#[path = "bad_factors/pushes.rs"]
mod pushes;
#[path = "bad_factors/sources.rs"]
mod sources;
#[path = "bad_factors/training.rs"]
mod training;

const DAY: i64 = 86_400;

/// The last midnight, UTC.
fn midnight() -> UnixNanos {
    UnixNanos::from_seconds(Timestamp::now().as_second() / DAY * DAY)
}

/// An aggregator with the history of the scripted fleet.
struct Rig {
    aggregator: Program,
    script: Script,
    /// Goes when nothing writes into it any more.
    installation: Installation,
}

impl Rig {
    /// With these keys, made for the folder.
    fn start(script: Script, keys: impl FnOnce(&Path) -> String) -> Self {
        let (installation, aggregator) = Installation::start_with(|folder| {
            drop(Fleet::write(Arc::new(RocksStore::open(&folder.join("aggregator")).unwrap()), script));
            keys(folder)
        })
        .unwrap();
        Self { installation, aggregator, script }
    }

    /// What the tool answers about a stretch of the script in hours.
    fn sci(&self, hours: std::ops::Range<i64>, words: &[&str]) -> Vec<Value> {
        let [from, to] = [hours.start, hours.end].map(|hour| text(self.script.hour(hour)));
        let window = ["sci", "--from", &from, "--to", &to, "--per", "output-token", "--timeout", "60s"];
        let answered = self.installation.ask(&[&window, words].concat()).unwrap();
        answered["answers"].as_array().unwrap().clone()
    }

    /// The answer about one model in a stretch.
    fn of(&self, model: &str, hours: std::ops::Range<i64>, words: &[&str]) -> Value {
        let found = self.sci(hours, words).into_iter().find(|answer| answer["subject"]["model"] == model);
        found.unwrap_or_else(|| panic!("nothing of {model}"))
    }

    /// How a series is.
    fn series(&self, name: &str) -> Option<Value> {
        let listed = self.installation.ask(&["factors", "list"]).unwrap();
        listed["series"].as_array().unwrap().iter().find(|row| row["series"]["name"] == name).cloned()
    }

    /// Why a series' source failed, once it did.
    fn failure(&self, name: &str) -> String {
        let failure = |row: &Value| row["failure"].as_str().unwrap_or_default().to_owned();
        until(&format!("the source of {name} has failed"), || {
            self.series(name).is_some_and(|row| !failure(&row).is_empty())
        });
        failure(&self.series(name).unwrap())
    }

    /// What the tool says and ends with where it refuses.
    fn refused(&self, words: &[&str]) -> String {
        let said = self.installation.text(words).expect_err("refused").to_string();
        assert!(said.contains("exit status: 64"), "{words:?}: {said}");
        said
    }

    /// A file in the folder.
    fn file(&self, name: &str, text: &str) -> PathBuf {
        write(self.installation.folder(), name, text)
    }

    /// Grams of every version of a whole script of two days, against its truth.
    fn is_as_scripted(&self) {
        let truth = Truth::of(&self.script);
        let answers = self.sci(0..self.script.days * 24, &[]);
        assert_eq!(answers.len(), 3, "chat, code and embed");
        for answer in answers {
            let subject = &answer["subject"];
            let name = [&subject["model"], &subject["model_version"]].map(|word| word.as_str().unwrap());
            let expected = truth.versions[&name.join("@")].operational_g;
            assert!(close(number(&answer["carbon"]["o_g"]), expected), "{expected} g of {answer}");
        }
    }
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn text(at: UnixNanos) -> String {
    Timestamp::from_nanosecond(at.0.into()).unwrap().to_string()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn close(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= 1e-9 * expected.abs()
}

fn flags(answer: &Value) -> Vec<&str> {
    answer["quality"]["flags"].as_array().unwrap().iter().map(|flag| flag.as_str().unwrap()).collect()
}
