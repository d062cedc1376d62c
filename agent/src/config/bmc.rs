//! What is configured of the node's BMC.

use super::{ConfigError, duration, milliwatts};
use crate::collector::redfish::client::Settings;
use crate::collector::redfish::gate::Limits;
use crate::collector::redfish::trust::{Fingerprint, Trust};
use crate::collector::redfish::value::NODE_CEILING;
use joulebook_units::Milliwatts;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// Half-width of the 95 % interval of a BMC's power, in thousandths, where nothing else is said: supplies measure their
/// input within 5 % down to a fifth of their load.
const UNCERTAINTY_PERMILLE: u32 = 50;

/// The node's BMC over the network (Redfish).
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedfishSection {
    /// Its address, `https://host` or `https://host:port`; unset = it is not asked.
    pub url: Option<String>,
    /// File with name and password (TOML: `user`, `password`).
    pub credentials: Option<PathBuf>,
    /// Whether the file's group may read it.
    pub credentials_group_readable: bool,
    /// SHA-256 of its certificate.
    pub fingerprint: Option<String>,
    /// CA certificates that its certificate must lead to.
    pub ca: Option<PathBuf>,
    /// Whether any certificate will do.
    pub danger_accept_any_certificate: bool,
    /// Whether name and password go with each request, instead of a session.
    pub basic: bool,
    /// Time between two polls, 1 s to 1 h.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// How often the BMC's sensors are refreshed, at least `interval`; `interval` if unset.
    #[serde(deserialize_with = "duration::optional")]
    pub refresh: Option<Duration>,
    /// Longest time for one request, 100 ms to 60 s.
    #[serde(with = "duration")]
    pub request_timeout: Duration,
    /// Highest power that is believed, in watts.
    pub ceiling_watts: Option<f64>,
    /// Half-width of the 95 % interval of its energy, in thousandths.
    pub uncertainty_permille: u32,
    /// Pauses and logins.
    #[serde(skip)]
    pub limits: Limits,
}

impl Default for RedfishSection {
    fn default() -> Self {
        Self {
            url: None,
            credentials: None,
            credentials_group_readable: false,
            fingerprint: None,
            ca: None,
            danger_accept_any_certificate: false,
            basic: false,
            interval: Duration::from_secs(10),
            refresh: None,
            request_timeout: Duration::from_secs(10),
            ceiling_watts: None,
            uncertainty_permille: UNCERTAINTY_PERMILLE,
            limits: Limits::default(),
        }
    }
}

impl RedfishSection {
    /// Its host and port; none if it is not configured, or not as it must be.
    fn address(&self) -> Option<(String, u16)> {
        let uri: hyper::Uri = self.url.as_deref()?.parse().ok()?;
        let plain = uri.scheme_str() == Some("https") && matches!(uri.path(), "" | "/") && uri.query().is_none();
        let authority = uri.authority()?;
        if !plain || authority.as_str().contains('@') || uri.port_u16() == Some(0) {
            return None;
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        (!host.is_empty()).then(|| (host, uri.port_u16().unwrap_or(443)))
    }

    /// Its host.
    pub fn host(&self) -> Option<String> {
        self.address().map(|(host, _)| host)
    }

    fn trust(&self) -> Option<Trust> {
        let pinned = self.fingerprint.as_deref().map(|text| Fingerprint::parse(text).map(Trust::Pinned));
        let authority = self.ca.clone().map(|path| Some(Trust::Authority(path)));
        let anyone = self.danger_accept_any_certificate.then_some(Some(Trust::Anyone));
        // One of them, and not a second one that it would make void.
        let mut said = [pinned, authority, anyone].into_iter().flatten();
        said.next().flatten().filter(|_| said.next().is_none())
    }

    /// How it is spoken with; none if it is not configured.
    pub fn settings(&self) -> Option<Settings> {
        let (host, port) = self.address()?;
        Some(Settings {
            host,
            port,
            trust: self.trust()?,
            credentials: self.credentials.clone()?,
            group_readable: self.credentials_group_readable,
            basic: self.basic,
            request: self.request_timeout,
            limits: self.limits,
        })
    }

    /// How often its sensors are refreshed, as far as polls can tell.
    pub fn refresh(&self) -> Duration {
        self.refresh.unwrap_or(self.interval).max(self.interval)
    }

    /// Highest power that is believed.
    pub fn ceiling(&self) -> Milliwatts {
        self.ceiling_watts.map_or(NODE_CEILING, milliwatts)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.url.is_none() {
            return Ok(());
        }
        if self.address().is_none() {
            return Err(ConfigError::value("redfish.url", "https://host or https://host:port"));
        }
        if self.credentials.is_none() {
            return Err(ConfigError::value("redfish.credentials", "a file with user and password"));
        }
        if self.fingerprint.as_deref().is_some_and(|text| Fingerprint::parse(text).is_none()) {
            return Err(ConfigError::value(
                "redfish.fingerprint",
                "the SHA-256 of a certificate: 64 hexadecimal digits",
            ));
        }
        if self.trust().is_none() {
            let rule = "set, or redfish.ca, or redfish.danger_accept_any_certificate; only one of the three";
            return Err(ConfigError::value("redfish.fingerprint", rule));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(3_600)).contains(&self.interval) {
            return Err(ConfigError::value("redfish.interval", "\"1s\" to \"1h\""));
        }
        if self.refresh.is_some_and(|refresh| refresh < self.interval) {
            return Err(ConfigError::value("redfish.refresh", "at least redfish.interval"));
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&self.request_timeout) {
            return Err(ConfigError::value("redfish.request_timeout", "\"100ms\" to \"60s\""));
        }
        if !(1..=1_000).contains(&self.uncertainty_permille) {
            return Err(ConfigError::value("redfish.uncertainty_permille", "1 to 1000"));
        }
        Ok(())
    }
}

/// The node's own BMC through the kernel (IPMI DCMI).
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IpmiSection {
    /// Whether to ask it.
    pub enabled: bool,
    /// The kernel's device.
    pub device: PathBuf,
    /// Time between two readings, 5 s to 1 h.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// Highest power that is believed, in watts.
    pub ceiling_watts: Option<f64>,
    /// Half-width of the 95 % interval of its energy, in thousandths.
    pub uncertainty_permille: u32,
}

impl Default for IpmiSection {
    fn default() -> Self {
        Self {
            enabled: false,
            device: "/dev/ipmi0".into(),
            interval: Duration::from_secs(10),
            ceiling_watts: None,
            uncertainty_permille: UNCERTAINTY_PERMILLE,
        }
    }
}

impl IpmiSection {
    /// Highest power that is believed.
    pub fn ceiling(&self) -> Milliwatts {
        self.ceiling_watts.map_or(NODE_CEILING, milliwatts)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !(Duration::from_secs(5)..=Duration::from_secs(3_600)).contains(&self.interval) {
            return Err(ConfigError::value("ipmi.interval", "\"5s\" to \"1h\""));
        }
        if !(1..=1_000).contains(&self.uncertainty_permille) {
            return Err(ConfigError::value("ipmi.uncertainty_permille", "1 to 1000"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: &str) -> RedfishSection {
        toml::from_str(text).expect("a section")
    }

    fn complaint(text: &str) -> String {
        section(text).check().map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn a_bmc_is_configured_with_exactly_one_reason_to_trust_it() {
        let base = "url = \"https://10.0.0.7\"\ncredentials = \"/x\"\n";
        let pin = format!("fingerprint = \"{}\"\n", "ab".repeat(32));
        assert_eq!(complaint(""), "");
        assert!(complaint(base).contains("redfish.fingerprint"), "there is no silent insecure");
        assert_eq!(complaint(&format!("{base}{pin}")), "");
        assert_eq!(complaint(&format!("{base}ca = \"/ca.pem\"\n")), "");
        assert_eq!(complaint(&format!("{base}danger_accept_any_certificate = true\n")), "");
        assert!(complaint(&format!("{base}{pin}danger_accept_any_certificate = true\n")).contains("only one"));
        assert!(complaint(&format!("{base}fingerprint = \"abc\"\n")).contains("64 hexadecimal"));
        assert!(complaint(&format!("url = \"http://10.0.0.7\"\n{pin}credentials = \"/x\"\n")).contains("redfish.url"));
        assert!(
            complaint(&format!("url = \"https://u:p@10.0.0.7\"\n{pin}credentials = \"/x\"\n")).contains("redfish.url")
        );
    }

    #[test]
    fn an_address_has_a_port_and_may_be_ipv6() {
        let address = |url: &str| section(&format!("url = \"{url}\"")).address();
        assert_eq!(address("https://bmc-7"), Some(("bmc-7".to_owned(), 443)));
        assert_eq!(address("https://[fe80::1]:8443/"), Some(("fe80::1".to_owned(), 8443)));
        assert_eq!(address("https://bmc-7/redfish"), None);
    }
}
