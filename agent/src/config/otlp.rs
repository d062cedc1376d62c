//! Counts that servers export as OpenTelemetry metrics.

use super::ConfigError;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Counts that servers export as OpenTelemetry metrics.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpSection {
    /// Path of the unix socket; unset = none.
    pub socket: Option<PathBuf>,
    /// Address of loopback with a port; unset = none.
    pub listen: Option<SocketAddr>,
}

impl OtlpSection {
    /// Whether nothing is taken.
    pub fn is_off(&self) -> bool {
        self.socket.is_none() && self.listen.is_none()
    }

    /// Refuses an address at which the kernel could not say who exports.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.listen.is_some_and(|address| !address.ip().is_loopback() || address.port() == 0) {
            return Err(ConfigError::value(
                "otlp.listen",
                "an address of loopback with a port, like \"127.0.0.1:4317\"",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_port_of_loopback_is_listened_at() {
        let with = |listen: &str| OtlpSection { socket: None, listen: Some(listen.parse().expect("an address")) };
        for listen in ["127.0.0.1:4317", "[::1]:4318"] {
            assert!(with(listen).check().is_ok(), "{listen}");
        }
        for listen in ["0.0.0.0:4317", "[::]:4317", "10.0.0.7:4317", "127.0.0.1:0"] {
            let error = with(listen).check().expect_err(listen).to_string();
            assert!(error.contains("otlp.listen"), "{error}");
        }
        assert!(OtlpSection::default().is_off() && !with("127.0.0.1:4317").is_off());
    }
}
