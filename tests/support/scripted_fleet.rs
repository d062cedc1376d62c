//! Writes a scripted fleet into the data folder of an aggregator, and prints what is true of it.

use anyhow::{Context, Result};
use clap::Parser;
use joulebook_aggregator::store::rocks::RocksStore;
use joulebook_tests::scripted::{Fleet, Script, Truth, grid};
use joulebook_units::UnixNanos;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// Writes a scripted fleet into the data folder of an aggregator, and prints what is true of it as JSON.
#[derive(Parser)]
#[command(name = "scripted-fleet")]
struct Arguments {
    /// The empty folder to write.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// A file to write with the configuration that goes with it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// When the last day ends.
    #[arg(long, value_name = "INSTANT", default_value = "2026-10-01T00:00:00Z")]
    end: jiff::Timestamp,
    /// Days before it.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(i64).range(1..))]
    days: i64,
    /// Hours of each day that have rows.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(i64).range(1..=24))]
    hours_a_day: i64,
}

fn main() -> Result<()> {
    let Arguments { data_dir, config, end, days, hours_a_day } = Arguments::parse();
    let end = UnixNanos(i64::try_from(end.as_nanosecond()).context("--end lies in no time of ours")?);
    let script = Script::ending(end, days, hours_a_day);
    if let Some(file) = config {
        std::fs::write(&file, grid::CONFIGURATION).with_context(|| format!("writing {}", file.display()))?;
    }
    Fleet::write(Arc::new(RocksStore::open(&data_dir)?), script);
    writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&Truth::of(&script))?)?;
    Ok(())
}
