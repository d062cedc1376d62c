//! Certificates of a rig: one CA, a server that is there under several addresses, and a pair for each node.

use super::plan::Plan;
use crate::tls::{Ca, operator, write};
use anyhow::{Context, Result};
use joulebook_agent::uplink::Security;
use joulebook_aggregator::certificate::{Issued, Subject};
use joulebook_proto::credentials::CredentialFiles;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// Everything that is needed to speak mutual TLS.
pub struct Keys {
    ca: Ca,
    folder: PathBuf,
    /// The server's files.
    pub server: CredentialFiles,
}

impl Keys {
    /// Made below `folder`; the server is there under these addresses.
    pub fn new(folder: &Path, addresses: &[IpAddr]) -> Result<Self> {
        let folder = folder.join("keys");
        std::fs::create_dir_all(&folder).context("making a folder for keys")?;
        let ca = Ca::new();
        let pair = ca.issue(&Subject::server("aggregator", &["localhost"], addresses));
        let server = write(&folder, "server", &pair, ca.certificate());
        Ok(Self { ca, folder, server })
    }

    /// What the agent of a node shows.
    pub fn agent(&self, node: u32) -> Security {
        let name = Plan::node(node);
        Security::Tls(write(&self.folder, &name, &self.ca.agent(&name), self.ca.certificate()))
    }

    /// A pair for the agent of a node.
    pub fn pair(&self, node: &str) -> Issued {
        self.ca.agent(node)
    }

    /// The CA's certificate.
    pub fn ca(&self) -> &str {
        self.ca.certificate()
    }

    /// An operator's connection to a server under this address.
    pub async fn operator(&self, address: &str) -> Result<Channel> {
        let pair = self.ca.issue(&operator());
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.ca.certificate()))
            .identity(Identity::from_pem(&pair.certificate, &pair.key));
        let endpoint = Endpoint::from_shared(format!("https://{address}"))?.connect_timeout(Duration::from_secs(30));
        Ok(endpoint.tls_config(tls)?.connect().await?)
    }
}
