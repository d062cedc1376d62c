//! What the answers say of requests: counts by version of a model.

#![allow(clippy::panic, reason = "functions that tests call may fail the test")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::installation::Installation;

/// Times that the aggregator is asked, and the pause between two: a minute, where ten seconds are needed.
const TRIES: u32 = 300;
const PAUSE: Duration = Duration::from_millis(200);

/// Successful and failed requests by version.
pub type Requests = BTreeMap<String, (u64, u64)>;

/// Requests of a model, from the answers of a window. What has no version is under the empty name.
pub fn requests(installation: &Installation, model: &str, window: &[&str]) -> Result<Requests> {
    let scores = installation.ask(&[&["sci", "--per", "request"], window].concat())?;
    let answers = scores["answers"].as_array().context("a score has answers")?;
    let of_model = answers.iter().filter(|answer| answer["subject"]["model"] == model);
    let counts = of_model.map(|answer| {
        let version = answer["subject"]["model_version"].as_str().unwrap_or_default().to_owned();
        (version, (answer["r"]["value"].as_f64().unwrap_or(0.0) as u64, answer["r"]["failed"].as_u64().unwrap_or(0)))
    });
    Ok(counts.collect())
}

/// Waits until the aggregator knows these counts. The agent has found the server's processes then: what they used before
/// has no resolution in time, what they use from now on is known to the second.
///
/// # Panics
/// If it does not know them in time.
pub fn wait_for_requests(installation: &Installation, model: &str, wanted: &Requests) {
    let window = ["--last", "10m"];
    for _ in 0..TRIES {
        // As long as nothing has arrived there is no answer.
        if requests(installation, model, &window).is_ok_and(|counts| counts == *wanted) {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    panic!("the counts of {model} never were {wanted:?}: {:?}", requests(installation, model, &window));
}
