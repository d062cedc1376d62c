//! Writes a scripted fleet into the data folder of an aggregator, and prints what is true of it.
//!
//! `scripted-fleet --data-dir DIR [--end 2026-10-01T00:00:00Z] [--days 30] [--hours-a-day 24] [--config FILE]`

use anyhow::{Context, Result, bail};
use joulebook_aggregator::store::rocks::RocksStore;
use joulebook_tests::scripted::{Fleet, Script, Truth, grid};
use joulebook_units::UnixNanos;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

const END: &str = "2026-10-01T00:00:00Z";

fn main() -> Result<()> {
    let (mut folder, mut config, mut end) = (None, None, END.to_owned());
    let (mut days, mut hours) = (30, 24);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--data-dir" => folder = Some(PathBuf::from(value)),
            "--config" => config = Some(PathBuf::from(value)),
            "--end" => end = value,
            "--days" => days = value.parse().context("--days is a number")?,
            "--hours-a-day" => hours = value.parse().context("--hours-a-day is a number, 1 to 24")?,
            other => bail!("{other} is not known: --data-dir, --config, --end, --days, --hours-a-day are"),
        }
    }
    let folder = folder.context("--data-dir names the empty folder to write")?;
    let end: jiff::Timestamp = end.parse().context("--end is an instant as 2026-10-01T00:00:00Z")?;
    let end = UnixNanos(i64::try_from(end.as_nanosecond()).context("--end lies in no time of ours")?);
    let script = Script::ending(end, days, hours);
    if let Some(file) = config {
        std::fs::write(&file, grid::CONFIGURATION).with_context(|| format!("writing {}", file.display()))?;
    }
    Fleet::write(Arc::new(RocksStore::open(&folder)?), script);
    writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&Truth::of(&script))?)?;
    Ok(())
}
