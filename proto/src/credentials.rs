//! What a process shows of itself and whom it trusts: a certificate chain, its key and a bundle of CA certificates, each
//! a PEM file.
//!
//! The files are read anew at each use, so that whoever rotates them restarts nothing. A key that others may read is
//! refused. One file for all three programs, so that they read the same files alike.

use joulebook_units::UnixNanos;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tonic::transport::ClientTlsConfig;
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// Larger files are no certificates.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Where the three files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialFiles {
    /// The own certificate, followed by the intermediate ones.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The CA certificates that the other side's must lead to.
    pub ca: PathBuf,
    /// Whether the key's group may read it, as the group of a Kubernetes volume (`fsGroup`) must.
    pub key_group_readable: bool,
}

/// The content of the three files at one moment.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    files: CredentialFiles,
    certificate: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

/// Files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file cannot be read.
    #[error("reading {path} failed: {source}; name an existing PEM file that this user may read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could take the key.
    #[error("the private key {path} can be read or written by others: run `chmod 600 {path}`")]
    KeyExposed {
        /// The file.
        path: PathBuf,
    },
    /// Not PEM, nothing in it, or not a certificate.
    #[error("{path} cannot be used: {why}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl CredentialError {
    /// Whether a permission is the reason (exit code 77), not the content (78).
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Unreadable { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Self::KeyExposed { .. } => true,
            Self::Malformed { .. } => false,
        }
    }
}

/// Why a configuration says neither how to speak TLS nor to speak plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecurityUnclear {
    /// No certificates, and plaintext was not allowed.
    #[error(
        "no certificates for TLS: give --tls-cert, --tls-key and --tls-ca (`joulebook-aggregator dev-certs FOLDER` makes \
         them for one machine), or --insecure-loopback for plaintext within this machine"
    )]
    Neither,
    /// Some of the three files.
    #[error("TLS needs a certificate, its key and the other side's CA: `{missing}` is not set")]
    Part {
        /// The key that is missing.
        missing: &'static str,
    },
    /// Both ways to speak.
    #[error("insecure_loopback and [tls] exclude each other: drop one of them")]
    Both,
}

impl CredentialFiles {
    /// The files that a `[tls]` section names, each with its key; none where plaintext is to be spoken instead.
    ///
    /// # Errors
    /// Neither of the two, both, or a part of the files.
    pub fn configured(
        [certificate, key, ca]: [(&'static str, Option<&PathBuf>); 3],
        key_group_readable: bool,
        plaintext: bool,
    ) -> Result<Option<Self>, SecurityUnclear> {
        match (certificate.1, key.1, ca.1) {
            (None, None, None) if plaintext => Ok(None),
            (None, None, None) => Err(SecurityUnclear::Neither),
            _ if plaintext => Err(SecurityUnclear::Both),
            (Some(certificate), Some(key), Some(ca)) => Ok(Some(Self {
                certificate: certificate.clone(),
                key: key.clone(),
                ca: ca.clone(),
                key_group_readable,
            })),
            (None, ..) => Err(SecurityUnclear::Part { missing: certificate.0 }),
            (_, None, _) => Err(SecurityUnclear::Part { missing: key.0 }),
            (.., None) => Err(SecurityUnclear::Part { missing: ca.0 }),
        }
    }

    /// Reads the three files.
    ///
    /// # Errors
    /// A file that cannot be read, is larger than 1 MiB, or is a key that others may read or write.
    pub fn read(&self) -> Result<Credentials, CredentialError> {
        let key = self.read_key()?;
        Ok(Credentials { certificate: read(&self.certificate)?.0, key, ca: read(&self.ca)?.0, files: self.clone() })
    }

    fn read_key(&self) -> Result<Vec<u8>, CredentialError> {
        let (bytes, mode) = read(&self.key)?;
        let exposed = if self.key_group_readable { 0o026 } else { 0o066 };
        if mode & exposed != 0 {
            return Err(CredentialError::KeyExposed { path: self.key.clone() });
        }
        Ok(bytes)
    }
}

/// The content and the mode of one and the same file, whatever its path points to a moment later.
fn read(path: &Path) -> Result<(Vec<u8>, u32), CredentialError> {
    let unreadable = |source| CredentialError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(malformed(path, "it is larger than 1 MiB"));
    }
    Ok((bytes, metadata.mode()))
}

impl Credentials {
    /// The own certificate and those between it and its CA; at least one.
    ///
    /// # Errors
    /// A file that holds no certificate or a broken one.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
        certificates(&self.files.certificate, &self.certificate)
    }

    /// The private key.
    ///
    /// # Errors
    /// A file that holds no key.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, CredentialError> {
        PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| malformed(&self.files.key, &described(&error, "key")))
    }

    /// The trusted CA certificates; at least one.
    ///
    /// # Errors
    /// A file that holds no certificate or a broken one: a bundle that is trusted in part is trusted by nobody's decision.
    pub fn roots(&self) -> Result<RootCertStore, CredentialError> {
        let mut roots = RootCertStore::empty();
        for (index, certificate) in certificates(&self.files.ca, &self.ca)?.into_iter().enumerate() {
            let broken =
                |error| malformed(&self.files.ca, &format!("its certificate {} is broken ({error})", index + 1));
            roots.add(certificate).map_err(broken)?;
        }
        Ok(roots)
    }

    /// From when until when the own certificate is valid.
    ///
    /// # Errors
    /// As of [`Self::chain`].
    pub fn validity(&self) -> Result<(UnixNanos, UnixNanos), CredentialError> {
        let chain = self.chain()?;
        let parsed = chain.first().and_then(|leaf| validity(leaf));
        parsed.ok_or_else(|| malformed(&self.files.certificate, "its first certificate is broken"))
    }

    /// Whether all three can be read as what they are. Whether the key belongs to the certificate is found when both are used.
    ///
    /// # Errors
    /// A file with broken content.
    pub fn check(&self) -> Result<(), CredentialError> {
        self.validity()?;
        self.key()?;
        self.roots()?;
        Ok(())
    }

    /// The client's side of a connection to `host`, which must be a name or an address of the server's certificate.
    ///
    /// # Errors
    /// As of [`Self::check`].
    pub fn client(&self, host: &str, handshake: Duration) -> Result<ClientTlsConfig, CredentialError> {
        self.check()?;
        Ok(ClientTlsConfig::new()
            .ca_certificate(tonic::transport::Certificate::from_pem(&self.ca))
            .identity(tonic::transport::Identity::from_pem(&self.certificate, &self.key))
            .domain_name(host.trim_start_matches('[').trim_end_matches(']'))
            .timeout(handshake))
    }
}

/// From when until when a certificate is valid; none if it is not one.
pub fn validity(certificate: &CertificateDer<'_>) -> Option<(UnixNanos, UnixNanos)> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let validity = certificate.tbs_certificate().validity();
    let nanos =
        |time: x509_cert::time::Time| UnixNanos(i64::try_from(time.to_unix_duration().as_nanos()).unwrap_or(i64::MAX));
    Some((nanos(validity.not_before), nanos(validity.not_after)))
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| malformed(path, &described(&error, "certificate")))?;
    if found.is_empty() {
        return Err(malformed(path, "it holds no certificate (`-----BEGIN CERTIFICATE-----`)"));
    }
    Ok(found)
}

fn described(error: &pem::Error, what: &str) -> String {
    match error {
        pem::Error::NoItemsFound => format!("it holds no {what} in PEM"),
        pem::Error::MissingSectionEnd { .. } => "its end is missing: it is half written".to_owned(),
        error => format!("it is not PEM ({error})"),
    }
}

fn malformed(path: &Path, why: &str) -> CredentialError {
    CredentialError::Malformed { path: path.to_owned(), why: why.to_owned() }
}
