//! What the answers say: energy of accounts and counts of versions.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use joulebook_tests::installation::Installation;
use serde_json::Value;

/// Times that the aggregator is asked for counts, and the pause between two: a minute, where ten seconds are needed.
const TRIES: u32 = 300;
const PAUSE: Duration = Duration::from_millis(200);

/// The machine for one test alone: shares of the CPU are measured best where nobody waits for it.
pub fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    // A test that failed has let go of it.
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// CPU energy in µJ by account name, over all nodes: these parts of it. Every balance must add up.
pub fn cpu_energy(explained: &Value, parts: &[&str]) -> BTreeMap<String, u64> {
    let mut energy = BTreeMap::new();
    for balance in explained["balances"].as_array().expect("an explanation has balances") {
        assert_eq!(balance["residual_microjoules"], 0, "{balance}");
        let accounts = balance["accounts"].as_array().expect("a balance has accounts");
        let sum: u64 = accounts.iter().map(|account| account["microjoules"].as_u64().unwrap()).sum();
        let input = balance["input_microjoules"].as_u64().unwrap() + balance["overcount_microjoules"].as_u64().unwrap();
        assert_eq!(sum, input, "the accounts add up to the input");
        for account in accounts {
            for part in parts.iter().filter_map(|part| account["parts"][part].as_u64()) {
                *energy.entry(account["name"].as_str().unwrap().to_owned()).or_default() += part;
            }
        }
    }
    energy
}

/// The only entry whose name contains the text.
pub fn only(energy: &BTreeMap<String, u64>, text: &str) -> u64 {
    let found: Vec<_> = energy.iter().filter(|(name, _)| name.contains(text)).collect();
    assert_eq!(found.len(), 1, "one account with {text:?} in {energy:?}");
    *found[0].1
}

/// Value of a key column of an energy row.
pub fn key<'a>(row: &'a Value, name: &str) -> Option<&'a str> {
    let parts = row["key"].as_array()?;
    parts.iter().find(|part| part["name"] == name).and_then(|part| part["value"].as_str())
}

/// Successful and failed requests by version of a model, from the answers of a window.
pub fn requests(installation: &Installation, model: &str, window: &[String]) -> Result<BTreeMap<String, (u64, u64)>> {
    let words = ["sci", "--per", "request"].into_iter().chain(window.iter().map(String::as_str)).collect::<Vec<_>>();
    let scores = installation.ask(&words)?;
    let answers = scores["answers"].as_array().expect("a score has answers");
    let of_model = answers.iter().filter(|answer| answer["subject"]["model"] == model);
    let counts = of_model.map(|answer| {
        let version = answer["subject"]["model_version"].as_str().expect("a version").to_owned();
        (version, (answer["r"]["value"].as_f64().unwrap_or(0.0) as u64, answer["r"]["failed"].as_u64().unwrap_or(0)))
    });
    Ok(counts.collect())
}

/// Waits until the aggregator knows these counts. The agent has found the server's processes then: what they used before
/// has no resolution in time, what they use from now on is known to the second.
pub fn wait_for_requests(installation: &Installation, model: &str, wanted: &BTreeMap<String, (u64, u64)>) {
    let window = ["--last", "10m"].map(str::to_owned);
    for _ in 0..TRIES {
        // As long as nothing has arrived there is no answer.
        if requests(installation, model, &window).is_ok_and(|counts| counts == *wanted) {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    panic!("the counts of {model} never were {wanted:?}: {:?}", requests(installation, model, &window));
}
