//! The time of day from outside of the workspace's clocks.

use anyhow::Result;
use std::process::Command;

/// Now, as the operator's tool reads it: RFC 3339 in UTC.
pub fn now() -> Result<String> {
    let printed = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.%3NZ"]).output()?;
    Ok(String::from_utf8(printed.stdout)?.trim().to_owned())
}
