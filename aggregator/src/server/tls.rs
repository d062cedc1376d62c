//! The aggregator's side of mutual TLS 1.3, and its renewal while connections go on.
//!
//! The three files are compared by content at each look, so that a file that is replaced, a link that is turned and a
//! mounted volume that is swapped are all seen. A set that cannot be used changes nothing: the old one stays.

use crate::clock::Clock;
use crate::ingest::Counters;
use crate::peer::Peer;
use joulebook_proto::credentials::{CredentialError, CredentialFiles, Credentials};
use joulebook_units::UnixNanos;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, ServerConfig, SignatureScheme,
    version,
};

/// Changes that were refused.
const FAILURES: &str = "tls_reload_failures_total";
/// Changes that were taken over.
const RELOADS: &str = "tls_reloads_total";
/// Seconds until the own certificate ends.
const EXPIRY: &str = "cert_expiry_seconds";

/// Why the aggregator cannot speak TLS with these files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The own certificate has ended.
    #[error("the certificate {path} ended at {at}: renew it")]
    Expired {
        /// The file.
        path: String,
        /// When.
        at: String,
    },
    /// The own certificate has not begun.
    #[error("the certificate {path} begins at {at}: wait, or set this machine's clock right")]
    NotYet {
        /// The file.
        path: String,
        /// When.
        at: String,
    },
    /// The key is that of another certificate, or of a kind that cannot be used.
    #[error("the certificate {path} cannot be used with its key: {why}")]
    Pair {
        /// The file.
        path: String,
        /// Why.
        why: Error,
    },
    /// The CA certificates cannot be used.
    #[error("the CA certificates {path} cannot be used: {why}")]
    Authority {
        /// The file.
        path: String,
        /// Why.
        why: VerifierBuilderError,
    },
}

impl TlsError {
    /// Whether a permission is the reason (exit code 77), not the content (78).
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Credential(error) if error.is_permission())
    }
}

/// One set of files, ready for connections.
#[derive(Debug)]
pub struct Tls {
    /// What new connections use.
    pub(super) config: Arc<ServerConfig>,
    clients: Arc<Clients>,
    expires: UnixNanos,
}

impl Tls {
    /// Checks a set of files and prepares it.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn new(files: &CredentialFiles, credentials: &Credentials, now: UnixNanos) -> Result<Self, TlsError> {
        let path = files.certificate.display().to_string();
        let (begins, expires) = credentials.validity()?;
        if now >= expires {
            return Err(TlsError::Expired { path, at: crate::query::rfc3339(expires) });
        }
        if now < begins {
            return Err(TlsError::NotYet { path, at: crate::query::rfc3339(begins) });
        }
        let provider = Arc::new(ring::default_provider());
        let clients = Clients::new(credentials, &provider)
            .map_err(|why| TlsError::Authority { path: files.ca.display().to_string(), why });
        let clients = Arc::new(clients?.map_err(TlsError::Credential)?);
        let pair = |why| TlsError::Pair { path: path.clone(), why };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(pair)?
            .with_client_cert_verifier(Arc::clone(&clients) as Arc<dyn ClientCertVerifier>)
            .with_single_cert(credentials.chain()?, credentials.key()?)
            .map_err(pair)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would skip the look at the client's certificate.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { config: Arc::new(config), clients, expires })
    }

    /// The same for connections that speak HTTP/1.1.
    pub fn http1(&self) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(&self.config);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// Whether a client that was let in would be let in again.
    pub(super) fn admits(&self, chain: &[CertificateDer<'_>], now: UnixNanos) -> bool {
        let Some((leaf, between)) = chain.split_first() else { return false };
        let now = Duration::from_nanos(u64::try_from(now.0).unwrap_or_default());
        self.clients.verify_client_cert(leaf, between, UnixTime::since_unix_epoch(now)).is_ok()
    }
}

/// Lets in clients whose certificate leads to the CA and names somebody.
#[derive(Debug)]
struct Clients(Arc<dyn ClientCertVerifier>);

impl Clients {
    fn new(
        credentials: &Credentials,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Result<Self, CredentialError>, VerifierBuilderError> {
        let roots = match credentials.roots() {
            Ok(roots) => Arc::new(roots),
            Err(error) => return Ok(Err(error)),
        };
        Ok(Ok(Self(WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider)).build()?)))
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(leaf, between, now)?;
        Peer::of(leaf).map_err(|error| Error::from(CertificateError::Other(OtherError(Arc::new(error)))))?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Looks at the files again and again and hands on what changed.
pub struct Renewal {
    files: CredentialFiles,
    every: Duration,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    /// The last content that was tried, good or not; none if it could not be read.
    tried: Option<Credentials>,
    current: watch::Sender<Arc<Tls>>,
}

impl Renewal {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// Files that cannot be used: the aggregator does not start.
    pub fn new(
        files: CredentialFiles,
        every: Duration,
        clock: Arc<dyn Clock>,
        counters: Arc<Counters>,
    ) -> Result<Self, TlsError> {
        let credentials = files.read()?;
        let tls = Tls::new(&files, &credentials, clock.unix())?;
        let current = watch::Sender::new(Arc::new(tls));
        counters.add(FAILURES, 0);
        Ok(Self { files, every, clock, counters, tried: Some(credentials), current })
    }

    /// What is current, now and later.
    pub fn current(&self) -> watch::Receiver<Arc<Tls>> {
        self.current.subscribe()
    }

    /// Looks at the files until it is dropped.
    pub async fn run(mut self) {
        let mut looks = interval(self.every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.look();
        }
    }

    fn look(&mut self) {
        match self.files.read() {
            Ok(found) if self.tried.as_ref() == Some(&found) => {}
            Ok(found) => {
                let renewed = Tls::new(&self.files, &found, self.clock.unix());
                self.tried = Some(found);
                match renewed {
                    Ok(tls) => {
                        tracing::info!(until = crate::query::rfc3339(tls.expires), "the certificate was renewed");
                        self.current.send_replace(Arc::new(tls));
                        self.counters.add(RELOADS, 1);
                    }
                    Err(error) => self.refuse(&error),
                }
            }
            // Said once, until the files can be read again.
            Err(error) if self.tried.take().is_some() => self.refuse(&error.into()),
            Err(_) => {}
        }
        let left = (self.current.borrow().expires.0 - self.clock.unix().0).max(0) / UnixNanos::PER_SECOND;
        self.counters.set(EXPIRY, u64::try_from(left).unwrap_or_default());
    }

    fn refuse(&self, error: &TlsError) {
        self.counters.add(FAILURES, 1);
        tracing::error!(%error, "the changed certificate is not taken over: the one before stays");
    }
}
