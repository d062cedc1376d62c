//! What the benches share: a look at a process, the workload, and our aggregator and its peers under it.

use anyhow::Context;

pub mod cluster;
pub mod disk;
pub mod meter;
pub mod ours;
pub mod peer;
pub mod workload;

/// A setting of the environment, or what it is without.
///
/// # Errors
/// What is set cannot be read.
pub fn setting<T: std::str::FromStr>(name: &str, default: T) -> anyhow::Result<T> {
    let given = std::env::var(name).ok().filter(|text| !text.is_empty());
    given.map_or(Ok(default), |text| text.parse().ok().with_context(|| format!("{name}={text} is no number")))
}
