//! Work on a database that no aggregator serves: a backup is restored, everything stored is looked at, a log is repaired.

use crate::store::rocks::RocksStore;
use crate::store::rocks::backup;
use crate::store::rocks::check::Progress;
use crate::store::rocks::repair;
use crate::store::{Book, Store, StoreError, schema};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

const NO_PROGRESS: &Progress<'_> = &|_, _| ControlFlow::Continue(());

/// Restores a backup of `from`, the newest finished one unless a number is given, to the missing or empty folder
/// `data_dir`, and says what came back.
///
/// # Errors
/// A folder that is not empty, or a backup that is not there or damaged.
pub fn restore(from: &Path, number: Option<u32>, data_dir: &Path, out: &mut dyn Write) -> Result<(), StoreError> {
    let backup = backup::restore(from, number, data_dir, NO_PROGRESS)?;
    let (number, files, bytes) = (backup.number, backup.files, backup.bytes);
    say(out, &format!("backup {number} is restored to {}: {files} files, {bytes} bytes", data_dir.display()));
    say(out, &held(data_dir)?);
    Ok(())
}

/// Looks at everything stored in `data_dir`, which is left as it is, and says what it found. Whether all is well.
///
/// # Errors
/// A folder that holds no database of ours, or one that cannot be opened at all.
pub fn verify(data_dir: &Path, out: &mut dyn Write) -> Result<bool, StoreError> {
    let (store, schema) = open(data_dir)?;
    let mut well = true;
    if schema == schema::VERSION {
        // What the facts say of each other.
        if let Err(error) = Book::open(Arc::clone(&store) as Arc<dyn Store>) {
            say(out, &error.to_string());
            well = false;
        }
    }
    let checked = store.check(NO_PROGRESS)?;
    for damage in &checked.damages {
        say(out, &format!("{}: {}", damage.file, damage.reason));
        well = false;
    }
    let end = if well { "nothing is damaged" } else { "damaged: restore a backup" };
    say(out, &format!("{} files, {} bytes: {end}", checked.files, checked.bytes));
    Ok(well)
}

/// Cuts a damaged log of the database in `data_dir` off where the damage begins, and says what was dropped.
///
/// # Errors
/// A folder that holds no database of ours, or damage that is not in its log.
pub fn repair(data_dir: &Path, out: &mut dyn Write) -> Result<(), StoreError> {
    let Some(cut) = repair::repair(data_dir)? else {
        say(out, "the log is not damaged: nothing is dropped");
        return Ok(());
    };
    say(out, &format!("{}: cut at byte {}: {} bytes dropped", cut.file.display(), cut.offset, cut.bytes));
    for (file, bytes) in &cut.later {
        say(out, &format!("{}: {bytes} bytes dropped", file.display()));
    }
    say(out, &format!("kept in {}", cut.kept.display()));
    say(out, &format!("what is left: {}", held(data_dir)?));
    Ok(())
}

/// What a database holds, in words.
fn held(data_dir: &Path) -> Result<String, StoreError> {
    let (store, schema) = open(data_dir)?;
    if schema != schema::VERSION {
        return Ok(format!("schema {schema}, which is brought up to date when the aggregator starts"));
    }
    let status = Book::open(store)?.status();
    let acked: u64 = status.streams.iter().map(|stream| stream.acked).sum();
    let (nodes, streams) = (status.nodes.len(), status.streams.len());
    Ok(format!("{nodes} nodes, {streams} streams, {acked} records; agents send what they still hold of the rest"))
}

fn open(data_dir: &Path) -> Result<(Arc<RocksStore>, u32), StoreError> {
    let store = RocksStore::read(data_dir)?;
    let damaged = || StoreError::Damaged {
        what: format!("the database in {}", data_dir.display()),
        reason: "it has no schema record".to_owned(),
    };
    let found = schema::stored(&store)?.ok_or_else(damaged)?;
    if found.version > schema::VERSION {
        return Err(StoreError::Newer { found: found.version, known: schema::VERSION });
    }
    Ok((Arc::new(store), found.version))
}

fn say(out: &mut dyn Write, line: &str) {
    // A closed pipe: whoever reads has read enough.
    let _gone = writeln!(out, "{line}");
}
