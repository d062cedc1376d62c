//! The section `[metrics]` of the configuration.

use super::ConfigError;
use serde::Deserialize;
use std::net::SocketAddr;

/// The page that Prometheus reads.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSection {
    /// Where it listens; unset = not at all.
    pub listen: Option<SocketAddr>,
    /// Whether plaintext is spoken where other machines can reach it.
    pub plaintext: bool,
}

impl MetricsSection {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        match self.listen {
            Some(address) if !address.ip().is_loopback() && !self.plaintext => Err(ConfigError::value(
                "metrics.listen",
                "a loopback address, or metrics.plaintext = true where the network lets nobody but Prometheus in",
            )),
            _ => Ok(()),
        }
    }
}
