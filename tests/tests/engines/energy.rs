//! What the answers say of energy by account.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

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
