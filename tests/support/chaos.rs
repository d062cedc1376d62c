//! Rigs of kills and power cuts: a fleet that sends what can be recomputed, an oracle that remembers what was promised,
//! and a checker that asks the aggregator through its public interface only.
//!
//! A run that was too quiet proves nothing: it is *void* and fails with that word. Every random choice comes from one
//! seed, which each run prints first.

pub mod agent;
pub mod checker;
pub mod disk;
pub mod echo;
pub mod fleet;
pub mod oracle;
pub mod plan;
pub mod preload;
pub mod process;
pub mod report;
pub mod server;
pub mod small_disk;
pub mod supervised;

use anyhow::{Context, Result};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// SplitMix64: small, seedable, and the same on every machine.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    #[allow(clippy::should_implement_trait, reason = "an endless sequence needs no Option")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `end`, which is at least 1.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A time of whole milliseconds between two.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from + 1))
    }
}

/// Spreads a number over 64 bits.
pub fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A number that the caller of the rig may set, for example `KILLS`; an empty one counts as not set.
pub fn setting(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name).ok().filter(|text| !text.is_empty()) {
        Some(text) => text.parse().with_context(|| format!("{name}={text} is not a number")),
        None => Ok(default),
    }
}

/// The seed of this run: `SEED`, or one of the clock.
pub fn seed() -> Result<u64> {
    use joulebook_agent::clock::{Clock, SystemClock};
    setting("SEED", SystemClock.boot().0 % 1_000_000)
}

/// A folder in memory, where a file system in memory is; there a sync costs nothing. For files whose process is killed
/// and whose machine is not.
pub fn folder_in_memory() -> Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.context("making a temporary folder")
}
