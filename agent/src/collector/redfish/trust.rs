//! Which certificate a BMC must show. There is no silent "any": without a CA, a fingerprint or the explicit danger, no
//! BMC is spoken with.

use ring::digest::{SHA256, digest};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring as provider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};

/// SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Reads 64 hexadecimal digits, with or without colons and a `sha256:` before them.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let digits = text.strip_prefix("sha256:").or_else(|| text.strip_prefix("SHA256:")).unwrap_or(text);
        let digits: String = digits.chars().filter(|digit| *digit != ':').collect();
        if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// That of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, certificate).as_ref());
        Self(bytes)
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Fingerprint({self})")
    }
}

/// What makes a certificate the BMC's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// It is this one, whatever name it has.
    Pinned(Fingerprint),
    /// It leads to a CA of this file and names the host.
    Authority(PathBuf),
    /// Nothing: whoever answers is believed, and is shown the password.
    Anyone,
}

/// Why no connection can be secured with this trust.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The CA file.
    #[error("the CA certificates {path} of the BMC cannot be used: {why}; name a PEM file")]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The library.
    #[error("preparing TLS failed: {0}")]
    Tls(#[from] Error),
}

/// Another certificate than the one that is expected.
#[derive(Debug, thiserror::Error)]
#[error(
    "its certificate has SHA-256 {seen}, not the configured {expected}: it was replaced, or somebody stands between"
)]
pub struct Changed {
    expected: Fingerprint,
    seen: Fingerprint,
}

impl Trust {
    /// The client's side of TLS 1.2 or 1.3; many BMCs know no 1.3.
    ///
    /// # Errors
    /// A CA file that cannot be used.
    pub fn client(&self) -> Result<ClientConfig, TrustError> {
        let provider = Arc::new(provider::default_provider());
        let builder =
            ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let pinned = match self {
            Self::Authority(path) => {
                let roots = roots(path).map_err(|why| TrustError::Authority { path: path.clone(), why })?;
                return Ok(builder.with_root_certificates(roots).with_no_client_auth());
            }
            Self::Pinned(fingerprint) => Some(*fingerprint),
            Self::Anyone => None,
        };
        let verifier = Arc::new(Pin { pinned, provider });
        Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
    }
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("it holds no certificate".to_owned()) } else { Ok(roots) }
}

/// What is wrong with the BMC's certificate, if a connection failed for that.
pub fn objection(error: &io::Error) -> Option<String> {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>())? {
        Error::InvalidCertificate(CertificateError::Other(OtherError(own))) => Some(own.to_string()),
        Error::InvalidCertificate(objection) => Some(objection.to_string()),
        _ => None,
    }
}

/// Lets in one certificate, or any. Who holds its key is checked either way.
#[derive(Debug)]
struct Pin {
    pinned: Option<Fingerprint>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let seen = Fingerprint::of(leaf);
        match self.pinned.filter(|expected| *expected != seen) {
            None => Ok(ServerCertVerified::assertion()),
            Some(expected) => {
                let changed = OtherError(Arc::new(Changed { expected, seen }));
                Err(Error::InvalidCertificate(CertificateError::Other(changed)))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_tools_print_it() {
        let plain = "0a".repeat(32);
        let colons = vec!["0A"; 32].join(":");
        assert_eq!(Fingerprint::parse(&plain), Fingerprint::parse(&format!("sha256:{colons}")));
        assert_eq!(Fingerprint::parse(&plain).map(|fingerprint| fingerprint.to_string()), Some(plain.clone()));
        assert_eq!(Fingerprint::parse(&plain[1..]), None);
        assert_eq!(Fingerprint::parse(&"zz".repeat(32)), None);
    }
}
