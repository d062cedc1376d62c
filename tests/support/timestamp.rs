//! The time of day from outside of the workspace's clocks.

use anyhow::Result;
use std::process::Command;

/// Now, as the operator's tool reads it: RFC 3339 in UTC.
pub fn now() -> Result<String> {
    date(&["+%Y-%m-%dT%H:%M:%S.%3NZ"])
}

/// When the next whole second begins: windows begin with one, and with what happened in it before an instant inside.
pub fn next_second() -> Result<String> {
    date(&["--date=1 second", "+%Y-%m-%dT%H:%M:%SZ"])
}

fn date(words: &[&str]) -> Result<String> {
    let printed = Command::new("date").arg("-u").args(words).output()?;
    Ok(String::from_utf8(printed.stdout)?.trim().to_owned())
}
