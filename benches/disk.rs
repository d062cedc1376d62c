//! What a data folder weighs.

use crate::meter;
use anyhow::Result;
use joulebook_aggregator::store::rocks::RocksStore;
use std::fs;
use std::path::Path;

/// Bytes per sample of a data folder that RocksDB has compacted, and of each table.
pub fn compacted(data: &Path, samples: f64) -> Result<f64> {
    let store = RocksStore::open(data)?;
    for (table, bytes) in store.compact()? {
        meter::say(&format!("ours: table {:<10} {:.4} B/sample", table.name(), bytes as f64 / samples));
    }
    drop(store);
    Ok(size(data)? as f64 / samples)
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
