//! The section of the configuration that names a receiver.

use crate::signal::Signal;
use hyper::Uri;
use serde::{Deserialize, Deserializer};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How a receiver of OpenTelemetry is spoken with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// gRPC.
    #[default]
    Grpc,
    /// HTTP/1.1 with protobuf.
    Http,
}

/// A receiver of OpenTelemetry.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpSection {
    /// Its address; absent: nobody is told.
    pub endpoint: Option<String>,
    /// How it is spoken with.
    pub protocol: Protocol,
    /// Whether plaintext is spoken beyond this machine.
    pub plaintext: bool,
    /// File of headers, one `name: value` a line.
    pub headers_file: Option<PathBuf>,
    /// CA certificates of the receiver; absent: those of the system.
    pub ca_file: Option<PathBuf>,
    /// Certificate that is shown to it.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// How long one message may take.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// Points, spans or records that may wait for it, of each signal; absent: the daemon's own limit.
    pub max_points: Option<usize>,
    /// Name of the Kubernetes cluster: hosts are its nodes then.
    pub cluster: Option<String>,
    /// Whether figures are told.
    pub metrics: bool,
    /// Whether the daemon's own spans are told.
    pub traces: bool,
    /// Whether the daemon's own log is told.
    pub logs: bool,
}

impl Default for OtlpSection {
    fn default() -> Self {
        Self {
            endpoint: None,
            protocol: Protocol::default(),
            plaintext: false,
            headers_file: None,
            ca_file: None,
            certificate: None,
            key: None,
            timeout: Duration::from_secs(10),
            max_points: None,
            cluster: None,
            metrics: true,
            traces: false,
            logs: false,
        }
    }
}

/// Why nothing can be sent.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// No address of a receiver.
    #[error("endpoint = \"{0}\": write for example \"https://collector:4317\"")]
    Endpoint(String),
    /// Others could read it on the way.
    #[error("endpoint = \"{0}\" is plaintext: use https://, or plaintext = true where the network is closed otherwise")]
    Plaintext(String),
    /// A secret would go over the network in plain text.
    #[error("headers_file with endpoint = \"{0}\": headers go over https:// only")]
    Headers(String),
    /// Only figures have a place behind the path that is given.
    #[error("endpoint = \"{0}\": traces and logs need an address without a path, or one that ends in /v1/metrics")]
    Path(String),
    /// A file cannot be read.
    #[error("reading {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of headers is none.
    #[error("{path}:{line}: write `name: value`")]
    Header {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A certificate without its key, or a key alone.
    #[error("certificate and key belong together")]
    Pair,
    /// The certificates cannot be used.
    #[error("{0}")]
    Tls(String),
    /// A message must be given some time, and not all of it.
    #[error("timeout must be 1s to 5m")]
    Timeout,
    /// Some have to wait, and not all there are.
    #[error("max_points must be 1000 to 10000000")]
    MaxPoints,
}

impl OtlpSection {
    /// Whether a signal is told.
    pub fn tells(&self, signal: Signal) -> bool {
        let wanted = match signal {
            Signal::Metrics => self.metrics,
            Signal::Traces => self.traces,
            Signal::Logs => self.logs,
        };
        wanted && self.endpoint.is_some()
    }

    /// Refuses what cannot be.
    ///
    /// # Errors
    /// See [`OtlpError`].
    pub fn check(&self) -> Result<(), OtlpError> {
        if self.endpoint.is_some() {
            for signal in Signal::ALL.into_iter().filter(|signal| self.tells(*signal)) {
                self.url(signal)?;
            }
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(300)).contains(&self.timeout) {
            return Err(OtlpError::Timeout);
        }
        if self.max_points.is_some_and(|points| !(1_000..=10_000_000).contains(&points)) {
            return Err(OtlpError::MaxPoints);
        }
        Ok(())
    }

    /// The whole address for a signal.
    ///
    /// # Errors
    /// It is none, or plaintext that was not asked for.
    pub fn url(&self, signal: Signal) -> Result<Uri, OtlpError> {
        let text = self.endpoint.clone().unwrap_or_default();
        let bad = || OtlpError::Endpoint(text.clone());
        let url: Uri = text.parse().map_err(|_| bad())?;
        let host = url.host().ok_or_else(bad)?.trim_matches(['[', ']']).to_owned();
        let near = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        match url.scheme_str() {
            Some("https") => {}
            Some("http") if self.headers_file.is_some() && !near => return Err(OtlpError::Headers(text)),
            Some("http") if near || self.plaintext => {}
            Some("http") => return Err(OtlpError::Plaintext(text)),
            _ => return Err(bad()),
        }
        if self.certificate.is_some() != self.key.is_some() {
            return Err(OtlpError::Pair);
        }
        if self.protocol == Protocol::Grpc {
            return Ok(url);
        }
        let whole = match (url.path(), signal) {
            ("/", _) => format!("{}{}", text.trim_end_matches('/'), signal.path()),
            (_, Signal::Metrics) => return Ok(url),
            _ => {
                let base = text.strip_suffix(&Signal::Metrics.path()).ok_or_else(|| OtlpError::Path(text.clone()))?;
                format!("{base}{}", signal.path())
            }
        };
        whole.parse().map_err(|_| bad())
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: &str) -> OtlpSection {
        toml::from_str(text).expect("valid")
    }

    #[test]
    fn each_signal_has_its_own_path_over_http_and_one_address_over_grpc() {
        let paths = |endpoint: &str| {
            let section = section(&format!("endpoint = \"{endpoint}\"\nprotocol = \"http\""));
            Signal::ALL.map(|signal| section.url(signal).map(|url| url.path().to_owned()).ok())
        };
        let own = ["/v1/metrics", "/v1/traces", "/v1/logs"].map(|path| Some(path.to_owned()));
        assert_eq!(paths("https://collector:4318"), own);
        assert_eq!(paths("https://collector:4318/"), own);
        assert_eq!(paths("https://collector:4318/v1/metrics"), own);
        assert_eq!(
            paths("https://c/opentelemetry/api/v1/push"),
            [Some("/opentelemetry/api/v1/push".into()), None, None]
        );
        let grpc = section("endpoint = \"https://collector:4317\"");
        assert!(Signal::ALL.iter().all(|signal| grpc.url(*signal).is_ok_and(|url| url.path() == "/")));
    }

    #[test]
    fn a_receiver_is_told_figures_and_only_what_is_asked_for_beside_them() {
        let told = |text: &str| Signal::ALL.map(|signal| section(text).tells(signal));
        assert_eq!(told("logs = true"), [false; 3], "there is nobody");
        assert_eq!(told("endpoint = \"https://c\""), [true, false, false]);
        assert_eq!(told("endpoint = \"https://c\"\nmetrics = false\ntraces = true\nlogs = true"), [false, true, true]);
        let far = section("endpoint = \"https://c/push\"\nprotocol = \"http\"\ntraces = true").check();
        assert!(matches!(far, Err(OtlpError::Path(_))), "{far:?}");
    }

    #[test]
    fn limits_are_held() {
        for (text, good) in [
            ("timeout = \"1s\"\nmax_points = 1000", true),
            ("timeout = \"301s\"", false),
            ("timeout = \"10ms\"", false),
            ("max_points = 999", false),
            ("max_points = 10000001", false),
        ] {
            assert_eq!(section(text).check().is_ok(), good, "{text}");
        }
    }
}
