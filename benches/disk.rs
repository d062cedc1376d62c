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
    let own = opening(data)?;
    meter::say(&format!("ours: {:.4} B/sample written down by this opening, not counted", own as f64 / samples));
    Ok((size(data)? - own) as f64 / samples)
}

/// Bytes that RocksDB wrote down of the last opening of a folder: its log, and the newest of its files of settings.
fn opening(data: &Path) -> Result<u64> {
    let mut settings = Vec::new();
    for entry in fs::read_dir(data)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_prefix("OPTIONS-")?.parse::<u64>().ok());
        settings.extend(number.map(|number| (number, path)));
    }
    let (_, newest) = settings.into_iter().max().context("no file of settings")?;
    Ok(fs::metadata(newest)?.len() + fs::metadata(data.join("LOG"))?.len())
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
