//! `[pods]`: the API server that is watched, and how long what is gone is told on.

use crate::config::duration;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// Where a service account's token and the API server's CA lie in a pod.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The cluster that is watched. Field names are the keys of the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PodsSection {
    /// Whether pods are watched.
    pub watch: bool,
    /// Address of the API server.
    pub api_server: String,
    /// File with the token that is shown, read for each question.
    pub token_file: PathBuf,
    /// CA certificates that the API server's must lead to.
    pub ca_file: PathBuf,
    /// Whether the labels of nodes are watched as well.
    pub node_labels: bool,
    /// How long a pod that is gone is told on.
    #[serde(deserialize_with = "duration")]
    pub grace: Duration,
    /// Most pods that are held.
    pub most_pods: usize,
}

impl Default for PodsSection {
    fn default() -> Self {
        Self {
            watch: false,
            api_server: "https://kubernetes.default.svc".to_owned(),
            token_file: PathBuf::from(ACCOUNT).join("token"),
            ca_file: PathBuf::from(ACCOUNT).join("ca.crt"),
            node_labels: true,
            grace: Duration::from_secs(600),
            most_pods: 50_000,
        }
    }
}

/// A section that nobody can be watched by.
#[derive(Debug, thiserror::Error)]
pub enum PodsError {
    /// Two that tell the same.
    #[error("pods.watch and node_directory both say what runs on nodes: leave one of them out")]
    Two,
    /// Not an address.
    #[error("pods.api_server = `{0}`: write https:// and a host, without a path")]
    Server(String),
    /// A token would go in plain text over the network.
    #[error("pods.api_server = `{0}`: the token would go in plain text, use https://")]
    Plain(String),
    /// Nothing could be held.
    #[error("pods.most_pods must be at least 1")]
    None,
    /// Told on for ever.
    #[error("pods.grace must be 0s to 1d")]
    Grace,
}

impl PodsSection {
    /// Refuses what cannot be watched.
    ///
    /// # Errors
    /// See [`PodsError`].
    pub fn check(&self, has_directory: bool) -> Result<(), PodsError> {
        if !self.watch {
            return Ok(());
        }
        let server = || self.api_server.clone();
        let url: hyper::Uri = self.api_server.parse().map_err(|_| PodsError::Server(server()))?;
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        let loopback = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        match url.scheme_str() {
            _ if has_directory => Err(PodsError::Two),
            _ if url.path() != "/" || url.query().is_some() || host.is_empty() => Err(PodsError::Server(server())),
            Some("http") if !loopback => Err(PodsError::Plain(server())),
            Some("http" | "https") if self.most_pods == 0 => Err(PodsError::None),
            Some("http" | "https") if self.grace > Duration::from_secs(86_400) => Err(PodsError::Grace),
            Some("http" | "https") => Ok(()),
            _ => Err(PodsError::Server(server())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(change: impl FnOnce(&mut PodsSection), has_directory: bool) -> String {
        let mut section = PodsSection { watch: true, ..PodsSection::default() };
        change(&mut section);
        section.check(has_directory).map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn what_cannot_be_watched_is_refused_with_the_key_that_says_so() {
        assert_eq!(said(|_| {}, false), "");
        assert_eq!(said(|section| section.watch = false, true), "");
        assert!(said(|_| {}, true).contains("node_directory"));
        for url in ["", "kubernetes", "ftp://h", "https://h/path", "https://h?a"] {
            assert!(said(|section| section.api_server = url.to_owned(), false).contains("api_server"), "{url}");
        }
        assert!(said(|section| section.api_server = "http://h".to_owned(), false).contains("plain text"));
        assert_eq!(said(|section| section.api_server = "http://127.0.0.1:1".to_owned(), false), "");
        assert!(said(|section| section.most_pods = 0, false).contains("most_pods"));
        assert!(said(|section| section.grace = Duration::from_secs(90_000), false).contains("grace"));
    }
}
