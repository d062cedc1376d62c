//! The section `[kubelet]` of the configuration.

use super::{ConfigError, duration};
use crate::kubelet;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Who holds the devices of this node, as its kubelet tells it.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KubeletSection {
    /// Whether it is asked.
    pub enabled: bool,
    /// Its pod-resources socket; that of every kubelet if unset.
    pub socket: Option<PathBuf>,
    /// Time between two questions, 1 s to 1 h.
    #[serde(with = "duration")]
    pub interval: Duration,
}

impl Default for KubeletSection {
    fn default() -> Self {
        Self { enabled: true, socket: None, interval: Duration::from_secs(10) }
    }
}

impl KubeletSection {
    /// Where its socket is.
    pub fn socket(&self) -> &Path {
        self.socket.as_deref().unwrap_or(Path::new(kubelet::SOCKET))
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&self.interval) {
            return Err(ConfigError::value("kubelet.interval", "\"1s\" to \"1h\""));
        }
        if !self.socket().is_absolute() {
            return Err(ConfigError::value("kubelet.socket", "an absolute path"));
        }
        Ok(())
    }
}
