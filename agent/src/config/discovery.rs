//! The section `[discovery]` of the configuration.

use super::{ConfigError, duration};
use crate::inference::Wanted;
use serde::Deserialize;
use std::time::Duration;

/// Inference servers that nobody configured.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiscoverySection {
    /// Whether processes of this machine are looked at.
    pub processes: bool,
    /// Whether pods of this node that ask for it are scraped.
    pub pods: bool,
    /// Time between two looks, 1 s to 1 h.
    #[serde(with = "duration")]
    pub interval: Duration,
}

impl Default for DiscoverySection {
    fn default() -> Self {
        Self { processes: false, pods: true, interval: Duration::from_secs(30) }
    }
}

impl DiscoverySection {
    /// What is looked for; nothing if neither is wanted.
    pub fn wanted(&self) -> Option<Wanted> {
        let wanted = Wanted { processes: self.processes, pods: self.pods, every: self.interval };
        (self.processes || self.pods).then_some(wanted)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&self.interval) {
            return Err(ConfigError::value("discovery.interval", "\"1s\" to \"1h\""));
        }
        Ok(())
    }
}
