//! `dev-certs`: everything that mutual TLS on one machine needs, in one folder.

use crate::certificate::{Authority, IssueError, Issued, Subject};
use joulebook_units::{NodeName, PollerName, UnixNanos};
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Trust domain of the names in these certificates.
const DOMAIN: &str = "joulebook.local";
/// How long they hold.
pub const LIFE: Duration = Duration::from_secs(90 * 86_400);
/// Clocks of one laptop and its guests differ a little.
const EARLIER_SECONDS: i64 = 300;

/// Why the folder was not filled.
#[derive(Debug, thiserror::Error)]
pub enum DevCertsError {
    /// A file is there already.
    #[error("{path} exists: nothing is overwritten; name an empty folder")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file or the folder cannot be written.
    #[error("writing {path} failed: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A certificate cannot be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

/// URI of a node's agent.
pub fn agent_uri(node: &NodeName) -> String {
    format!("spiffe://{DOMAIN}/agent/node/{}", node.as_str())
}

/// URI of a poller.
pub fn poller_uri(poller: &PollerName) -> String {
    format!("spiffe://{DOMAIN}/bmc-poller/{}", poller.as_str())
}

/// URI of an operator.
pub fn operator_uri(name: &str) -> String {
    format!("spiffe://{DOMAIN}/operator/{name}")
}

/// Writes `ca.crt`, and `.crt` and `.key` of `server` (localhost, 127.0.0.1, ::1), of `operator`, of each node and of each poller. The CA's own
/// key is not kept: whoever wants another certificate makes another folder. Returns the paths.
///
/// # Errors
/// A file that is there already (then nothing is written), or one that cannot be written.
pub fn write(
    folder: &Path,
    nodes: &[NodeName],
    pollers: &[PollerName],
    now: UnixNanos,
) -> Result<Vec<PathBuf>, DevCertsError> {
    write_for(folder, nodes, pollers, &[], now)
}

/// The same for an aggregator that others reach by further host names.
///
/// # Errors
/// As [`write`].
pub fn write_for(
    folder: &Path,
    nodes: &[NodeName],
    pollers: &[PollerName],
    hosts: &[String],
    now: UnixNanos,
) -> Result<Vec<PathBuf>, DevCertsError> {
    let hosts: Vec<&str> = std::iter::once("localhost").chain(hosts.iter().map(String::as_str)).collect();
    let begins = now.plus_seconds(-EARLIER_SECONDS);
    let authority = Authority::new("joulebook dev CA", begins, LIFE)?;
    let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let mut subjects = vec![
        ("server".to_owned(), Subject::server("joulebook-aggregator", &hosts, &addresses)),
        ("operator".to_owned(), Subject::client("operator", operator_uri("operator"))),
    ];
    subjects.extend(nodes.iter().map(|node| {
        let name = node.as_str();
        (format!("node-{name}"), Subject::client(name, agent_uri(node)))
    }));
    subjects.extend(pollers.iter().map(|poller| {
        let name = poller.as_str();
        (format!("poller-{name}"), Subject::client(name, poller_uri(poller)))
    }));
    let mut files = vec![(folder.join("ca.crt"), authority.certificate().to_owned())];
    for (name, subject) in subjects {
        let Issued { certificate, key } = authority.issue(&subject, begins, LIFE)?;
        files.push((folder.join(format!("{name}.crt")), certificate));
        files.push((folder.join(format!("{name}.key")), key));
    }
    if let Some((path, _)) = files.iter().find(|(path, _)| path.symlink_metadata().is_ok()) {
        return Err(DevCertsError::Exists { path: path.clone() });
    }
    let failed = |path: &Path, source| DevCertsError::Write { path: path.to_owned(), source };
    DirBuilder::new().mode(0o700).recursive(true).create(folder).map_err(|source| failed(folder, source))?;
    for (path, text) in &files {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|source| failed(path, source))?;
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}
