//! What RocksDB wrote to table files, as its own log in the data folder tells it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Before each event in RocksDB's log.
const EVENT: &str = "EVENT_LOG_v1";

/// Bytes that went through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Keys and values that came out of memory, by a flush or when the log was read again after a kill.
    pub taken: u64,
    /// Table files made of them.
    pub flushed: u64,
    /// Table files that compactions made of others.
    pub compacted: u64,
}

impl Written {
    /// Bytes written for each that was taken in; 0 where none was.
    pub fn amplification(&self) -> f64 {
        if self.taken == 0 { 0.0 } else { (self.flushed + self.compacted) as f64 / self.taken as f64 }
    }
}

/// Of every time that the database in a folder was opened, as far as its logs go back.
pub fn written(folder: &Path) -> Result<Written> {
    let mut all = Written::default();
    let mut logs = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"LOG")) {
            let found =
                of_log(&String::from_utf8_lossy(&fs::read(&path)?)).with_context(|| path.display().to_string())?;
            all.taken += found.taken;
            all.flushed += found.flushed;
            all.compacted += found.compacted;
            logs += 1;
        }
    }
    ensure!(logs > 0, "{}: no log of RocksDB", folder.display());
    Ok(all)
}

/// Of one time. Jobs are numbered, and a file is of the job that made it.
fn of_log(log: &str) -> Result<Written> {
    let events = log.lines().filter_map(|line| line.split_once(EVENT));
    // A line that a kill cut short is no event.
    let events: Vec<Value> = events.filter_map(|(_, event)| serde_json::from_str(event.trim()).ok()).collect();
    let is = |event: &&Value, name: &str| event["event"] == name;
    let compactions: BTreeSet<u64> = events
        .iter()
        .filter(|event| is(event, "compaction_started"))
        .filter_map(|event| event["job"].as_u64())
        .collect();
    let mut written = Written::default();
    for event in events.iter().filter(|event| is(event, "table_file_creation")) {
        let bytes = event["file_size"].as_u64().context("a table file without a size")?;
        if event["job"].as_u64().is_some_and(|job| compactions.contains(&job)) {
            written.compacted += bytes;
            continue;
        }
        written.flushed += bytes;
        let raw = ["raw_key_size", "raw_value_size"].map(|size| event["table_properties"][size].as_u64().unwrap_or(0));
        written.taken += raw.iter().sum::<u64>();
    }
    Ok(written)
}
