//! What a data folder weighs.

use crate::meter;
use anyhow::{Context, Result};
use joulebook_aggregator::store::rocks::RocksStore;
use std::fs;
use std::path::Path;

/// Bytes per sample of a data folder that RocksDB has compacted, and of each table. Whenever RocksDB opens a database it writes
/// its settings down, as text and twice, some 200 KB: what the aggregator's openings wrote counts, what this one wrote does not.
pub fn compacted(data: &Path, samples: f64) -> Result<f64> {
    let store = RocksStore::open(data)?;
    for (table, bytes) in store.compact()? {
        meter::say(&format!("ours: table {:<10} {:.4} B/sample", table.name(), bytes as f64 / samples));
    }
    drop(store);
    let Openings { this, earlier } = openings(data)?;
    meter::say(&format!(
        "ours: {:.4} B/sample written down by earlier openings, however much is stored; {:.4} by this one, not counted",
        earlier as f64 / samples,
        this as f64 / samples
    ));
    Ok((size(data)? - this) as f64 / samples)
}

/// Bytes that RocksDB wrote down of the openings of a folder: its logs and its files of settings.
#[derive(Default)]
struct Openings {
    this: u64,
    earlier: u64,
}

fn openings(data: &Path) -> Result<Openings> {
    let (mut openings, mut settings) = (Openings::default(), Vec::new());
    for entry in fs::read_dir(data)? {
        let entry = entry?;
        let (name, bytes) = (entry.file_name(), entry.metadata()?.len());
        let name = name.to_str().unwrap_or_default();
        if let Some(number) = name.strip_prefix("OPTIONS-") {
            settings.push((number.parse::<u64>()?, bytes));
        } else if name == "LOG" {
            openings.this += bytes;
        } else if name.starts_with("LOG.") {
            openings.earlier += bytes;
        }
    }
    settings.sort_unstable();
    let (_, newest) = settings.pop().context("no file of settings")?;
    openings.this += newest;
    openings.earlier += settings.into_iter().map(|(_, bytes)| bytes).sum::<u64>();
    Ok(openings)
}

/// Bytes of the files below a folder.
pub fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}
