//! Certificates of a made-up CA, and an aggregator in this process that speaks mutual TLS with them.

#![allow(clippy::expect_used, reason = "functions that tests call may fail the test")]

use joulebook_agent::collector::redfish::trust::Fingerprint;
use joulebook_aggregator::certificate::{Authority, Issued, Subject};
use joulebook_aggregator::clock::{Clock, SystemClock};
use joulebook_aggregator::config::Config;
use joulebook_aggregator::dev_certs::{agent_uri, operator_uri};
use joulebook_aggregator::run::{RunError, run};
use joulebook_proto::admin::GetStatusRequest;
use joulebook_proto::admin::admin_service_client::AdminServiceClient;
use joulebook_proto::credentials::CredentialFiles;
use joulebook_units::UnixNanos;
use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

const DAY: Duration = Duration::from_secs(86_400);
/// How often an aggregator of a test looks at its files.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A CA.
pub struct Ca(Authority);

impl Ca {
    /// A new one, valid now.
    pub fn new() -> Self {
        Self(Authority::new("a test's CA", SystemClock.unix().plus_seconds(-86_400), DAY * 30).expect("a CA"))
    }

    /// Its certificate, PEM.
    pub fn certificate(&self) -> &str {
        self.0.certificate()
    }

    /// A certificate valid from yesterday for two days.
    pub fn issue(&self, subject: &Subject) -> Issued {
        self.issue_at(subject, SystemClock.unix().plus_seconds(-86_400), DAY * 2)
    }

    /// A certificate of any time.
    pub fn issue_at(&self, subject: &Subject, begins: UnixNanos, life: Duration) -> Issued {
        self.0.issue(subject, begins, life).expect("a certificate")
    }

    /// A server's certificate for 127.0.0.1.
    pub fn server(&self) -> Issued {
        self.issue(&server())
    }

    /// An operator's certificate.
    pub fn operator(&self) -> Issued {
        self.issue(&operator())
    }

    /// The certificate of a node's agent.
    pub fn agent(&self, node: &str) -> Issued {
        self.issue(&agent(node))
    }
}

impl Default for Ca {
    fn default() -> Self {
        Self::new()
    }
}

/// A server at 127.0.0.1.
pub fn server() -> Subject {
    Subject::server("aggregator", &["localhost"], &[IpAddr::V4(Ipv4Addr::LOCALHOST)])
}

/// An operator.
pub fn operator() -> Subject {
    Subject::client("ann", operator_uri("ann"))
}

/// The agent of a node.
pub fn agent(node: &str) -> Subject {
    Subject::client(node, agent_uri(&node.parse().expect("a node's name")))
}

/// Writes a pair and a bundle below a folder as `NAME.crt`, `NAME.key` and `NAME.ca`, each replaced at once.
pub fn write(folder: &Path, name: &str, pair: &Issued, bundle: &str) -> CredentialFiles {
    let path = |kind: &str| folder.join(format!("{name}.{kind}"));
    let files =
        CredentialFiles { certificate: path("crt"), key: path("key"), ca: path("ca"), key_group_readable: false };
    replace(&files.key, &pair.key);
    replace(&files.certificate, &pair.certificate);
    replace(&files.ca, bundle);
    files
}

/// The fingerprint by which a pair's certificate is pinned.
pub fn fingerprint(pair: &Issued) -> String {
    let leaf = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("PEM");
    Fingerprint::of(&leaf).to_string()
}

/// Replaces a file by one that only its owner may read.
pub fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).expect("a writable folder");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("an own file");
    fs::rename(&new, path).expect("a writable folder");
}

/// A configuration of an aggregator with these files, on a free port.
pub fn config(data: PathBuf, files: &CredentialFiles) -> Config {
    let mut config = Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)), data_dir: data, ..Config::default() };
    config.tls.certificate = Some(files.certificate.clone());
    config.tls.key = Some(files.key.clone());
    config.tls.client_ca = Some(files.ca.clone());
    config.tls.look_every = LOOK_EVERY;
    config
}

/// An aggregator in this process.
pub struct Serving {
    /// Where it listens.
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    done: JoinHandle<Result<(), RunError>>,
}

impl Serving {
    /// Starts it.
    pub async fn start(config: Config) -> Self {
        let (ready, address) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let done = tokio::spawn(run(config, Arc::new(SystemClock), ready, shutdown));
        Self { address: address.await.expect("listening"), stop, done }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// A connection with a pair of a client; the server must belong to the CA.
    ///
    /// # Errors
    /// Whatever refuses it before a call is made.
    pub async fn connect(&self, pair: &Issued, ca: &str) -> Result<Channel, tonic::transport::Error> {
        let tls = tonic::transport::ClientTlsConfig::new()
            .ca_certificate(tonic::transport::Certificate::from_pem(ca))
            .identity(tonic::transport::Identity::from_pem(&pair.certificate, &pair.key))
            .domain_name("127.0.0.1");
        let endpoint = Endpoint::from_shared(self.url()).expect("a URL").connect_timeout(Duration::from_secs(30));
        endpoint.tls_config(tls)?.connect().await
    }

    /// Whether a client with this pair is let in: it asks whether the server is there and gets any answer of it at all.
    pub async fn admits(&self, pair: &Issued, ca: &str) -> bool {
        let Ok(channel) = self.connect(pair, ca).await else { return false };
        match status(channel).await {
            Ok(_) => true,
            // Answered by the server's own rules, so it was let in.
            Err(refused) => refused.code() == tonic::Code::PermissionDenied,
        }
    }

    /// Ends it; everything it was told is durable then.
    pub async fn stop(self) {
        self.stop.send(()).expect("running");
        self.done.await.expect("no panic").expect("a clean end");
    }
}

/// The aggregator's counters and the names of the nodes it knows.
///
/// # Errors
/// The server's refusal, or the connection's end.
pub async fn status(channel: Channel) -> Result<(BTreeMap<String, u64>, Vec<String>), Status> {
    let answer = AdminServiceClient::new(channel).get_status(GetStatusRequest::default()).await?.into_inner();
    let nodes = answer.nodes.into_iter().map(|node| node.node).collect();
    Ok((answer.counters.into_iter().collect(), nodes))
}
