//! One question over HTTP or HTTPS, to a receiver or to whoever knows factors: within limits of time and bytes, without redirects, and with secrets over TLS only.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::handshake;
use hyper::header::{ACCEPT, HOST, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use joulebook_units::UnixNanos;
use std::borrow::Cow;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Longest time for one answer, connecting included.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer in bytes.
pub const MAX_BODY_BYTES: usize = 16 << 20;
/// How much of a refusal is shown.
const SHOWN_BYTES: usize = 200;
/// Where systems keep the CA certificates that they trust.
const SYSTEM_CA: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ask {
    /// Whole address.
    pub url: String,
    /// Headers.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// Whether a secret is in it.
    pub secret: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not an address that can be asked.
    #[error("`{0}` is no http:// or https:// address")]
    Url(String),
    /// A secret would go over the network in plain text.
    #[error("{0} would get the secret in plain text: use https://")]
    Insecure(String),
    /// The CA certificates cannot be used.
    #[error("the CA certificates {path} cannot be used: {why}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The own certificate cannot be shown.
    #[error("the certificate that is shown cannot be used: {why}")]
    Identity {
        /// Why.
        why: String,
    },
    /// No connection, or the certificate is not trusted.
    #[error("connecting to {host} failed: {source}")]
    Connect {
        /// The host.
        host: String,
        /// Why.
        source: std::io::Error,
    },
    /// It does not speak HTTP, or stopped in the middle.
    #[error("{host} broke off: {source}")]
    Http {
        /// The host.
        host: String,
        /// Why.
        source: hyper::Error,
    },
    /// The address or a header cannot stand in a request.
    #[error("{host} cannot be asked: {source}")]
    Request {
        /// The host.
        host: String,
        /// Why.
        source: hyper::http::Error,
    },
    /// Too slow.
    #[error("{host} did not answer within {}", humantime::format_duration(*.limit))]
    Timeout {
        /// The host.
        host: String,
        /// The limit.
        limit: Duration,
    },
    /// Too large.
    #[error("{host} sent more than {MAX_BODY_BYTES} bytes")]
    TooLarge {
        /// The host.
        host: String,
    },
    /// Not 200; redirects are not followed.
    #[error("{host} answered {code}: {said}")]
    Status {
        /// The host.
        host: String,
        /// The status.
        code: u16,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
        /// The beginning of what it said.
        said: String,
    },
}

/// The file of CA certificates that the system trusts.
pub fn system_ca() -> PathBuf {
    PathBuf::from(SYSTEM_CA.into_iter().find(|path| Path::new(path).exists()).unwrap_or(SYSTEM_CA[0]))
}

/// A certificate, those between it and its CA, and its key, both PEM.
pub type OwnIdentity = (Vec<u8>, Vec<u8>);

/// Asks.
#[derive(Debug, Clone)]
pub struct Fetcher {
    ca: Option<PathBuf>,
    limit: Duration,
    /// What is shown.
    identity: Option<OwnIdentity>,
}

impl Fetcher {
    /// One that trusts the certificates of `ca`, else those of the system.
    pub fn new(ca: Option<PathBuf>) -> Self {
        Self { ca, limit: TIMEOUT, identity: None }
    }

    /// The same with another limit of time.
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// The same that shows a certificate with its key, both PEM.
    #[must_use]
    pub fn showing(self, identity: Option<OwnIdentity>) -> Self {
        Self { identity, ..self }
    }

    /// The body of the answer to a question asked at `now`.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn get(&self, ask: &Ask, now: UnixNanos) -> Result<Vec<u8>, FetchError> {
        self.send(ask, None, now).await
    }

    /// The body of the answer to what is told.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn post(&self, ask: &Ask, body: Bytes, now: UnixNanos) -> Result<Vec<u8>, FetchError> {
        self.send(ask, Some(body), now).await
    }

    /// An answer that goes on: the time is limited until it begins, and what is done with it is the caller's.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn open(&self, ask: &Ask, now: UnixNanos) -> Result<Open, FetchError> {
        let (url, host, tls) = address(ask)?;
        let opened = async {
            let opened = match self.connect(&url, &host, tls).await? {
                Connected::Plain(stream) => begin(stream, (ask, None), &url, &host).await,
                Connected::Tls(stream) => begin(stream, (ask, None), &url, &host).await,
            };
            let (response, driver) = opened?;
            if response.status().as_u16() == 200 {
                return Ok(Open { body: response.into_body(), _driver: driver });
            }
            finish(response, &host, now).await.and(Err(FetchError::Url(ask.url.clone())))
        };
        let opened = tokio::time::timeout(self.limit, opened).await;
        opened.unwrap_or(Err(FetchError::Timeout { host: host.clone(), limit: self.limit }))
    }

    async fn send(&self, ask: &Ask, body: Option<Bytes>, now: UnixNanos) -> Result<Vec<u8>, FetchError> {
        let (url, host, tls) = address(ask)?;
        let asked = self.ask((ask, body), &url, &host, tls, now);
        let answered = tokio::time::timeout(self.limit, asked).await;
        answered.unwrap_or(Err(FetchError::Timeout { host, limit: self.limit }))
    }

    async fn ask(
        &self,
        ask: (&Ask, Option<Bytes>),
        url: &Uri,
        host: &str,
        tls: bool,
        now: UnixNanos,
    ) -> Result<Vec<u8>, FetchError> {
        match self.connect(url, host, tls).await? {
            Connected::Plain(stream) => exchange(stream, ask, url, host, now).await,
            Connected::Tls(stream) => exchange(stream, ask, url, host, now).await,
        }
    }

    async fn connect(&self, url: &Uri, host: &str, tls: bool) -> Result<Connected, FetchError> {
        let failed = |source| FetchError::Connect { host: host.to_owned(), source };
        let port = url.port_u16().unwrap_or(if tls { 443 } else { 80 });
        if !tls {
            let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
            return Ok(Connected::Plain(stream));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(std::io::Error::other(error)))?;
        // Nobody is connected to before it is known whom to trust.
        let trust = self.trust()?;
        let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
        let stream = TlsConnector::from(trust).connect(name, stream).await.map_err(failed)?;
        Ok(Connected::Tls(Box::new(stream)))
    }

    /// Read anew each time, so that a renewed bundle is taken over.
    fn trust(&self) -> Result<Arc<ClientConfig>, FetchError> {
        let path = self.ca.clone().unwrap_or_else(system_ca);
        let refused = |why: String| FetchError::Ca { path: path.clone(), why };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&path).map_err(|error| refused(error.to_string()))? {
            // A system's bundle holds some that this library does not take; the others stand.
            let _ = roots.add(certificate.map_err(|error| refused(error.to_string()))?);
        }
        if roots.is_empty() {
            return Err(refused("there is no certificate in it".to_owned()));
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| refused(error.to_string()))?;
        let builder = builder.with_root_certificates(roots);
        let Some((certificate, key)) = &self.identity else { return Ok(Arc::new(builder.with_no_client_auth())) };
        let unusable = |why: String| FetchError::Identity { why };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
        let chain = chain.map_err(|error| unusable(error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| unusable(error.to_string()))?;
        let config = builder.with_client_auth_cert(chain, key).map_err(|error| unusable(error.to_string()))?;
        Ok(Arc::new(config))
    }
}

/// An answer that goes on.
pub struct Open {
    /// What comes.
    pub body: Incoming,
    // The connection ends with it.
    _driver: JoinSet<Result<(), hyper::Error>>,
}

/// A connection.
enum Connected {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The address that is asked, its host, and whether it is asked over TLS.
fn address(ask: &Ask) -> Result<(Uri, String, bool), FetchError> {
    let url: Uri = ask.url.parse().map_err(|_| FetchError::Url(ask.url.clone()))?;
    let (Some(scheme), Some(host)) = (url.scheme_str(), url.host()) else {
        return Err(FetchError::Url(ask.url.clone()));
    };
    let tls = match scheme {
        "https" => true,
        "http" => false,
        _ => return Err(FetchError::Url(ask.url.clone())),
    };
    let host = host.trim_matches(['[', ']']).to_owned();
    if ask.secret && !tls && !host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
        return Err(FetchError::Insecure(host));
    }
    Ok((url, host, tls))
}

async fn exchange<S>(
    stream: S,
    ask: (&Ask, Option<Bytes>),
    url: &Uri,
    host: &str,
    now: UnixNanos,
) -> Result<Vec<u8>, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (response, _driver) = begin(stream, ask, url, host).await?;
    finish(response, host, now).await
}

/// Asks, and gives the beginning of the answer.
async fn begin<S>(
    stream: S,
    (ask, body): (&Ask, Option<Bytes>),
    url: &Uri,
    host: &str,
) -> Result<(Response<Incoming>, JoinSet<Result<(), hyper::Error>>), FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let http = |source| FetchError::Http { host: host.to_owned(), source };
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(http)?;
    // Ends with the sender, and with it when this is dropped.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let authority = url.authority().map_or(host, |authority| authority.as_str());
    let method = if body.is_some() { Method::POST } else { Method::GET };
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, authority)
        .header(ACCEPT, "*/*")
        .header(USER_AGENT, concat!("joulebook/", env!("CARGO_PKG_VERSION")));
    for (name, value) in &ask.headers {
        request = request.header(name.as_ref(), value);
    }
    let request = request.body(Full::new(body.unwrap_or_default()));
    let request = request.map_err(|source| FetchError::Request { host: host.to_owned(), source })?;
    let response = sender.send_request(request).await.map_err(http)?;
    Ok((response, driver))
}

/// The body of an answer that has begun.
async fn finish(response: Response<Incoming>, host: &str, now: UnixNanos) -> Result<Vec<u8>, FetchError> {
    let http = |source| FetchError::Http { host: host.to_owned(), source };
    let code = response.status().as_u16();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|text| pause(text, now));
    let (mut body, mut bytes) = (response.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(part) = frame.map_err(http)?.into_data() else { continue };
        if bytes.len() + part.len() > MAX_BODY_BYTES {
            return Err(FetchError::TooLarge { host: host.to_owned() });
        }
        bytes.extend_from_slice(&part);
    }
    if code == 200 {
        return Ok(bytes);
    }
    let shown = bytes.get(..SHOWN_BYTES).unwrap_or(&bytes);
    let said = String::from_utf8_lossy(shown).replace(|letter: char| letter.is_control(), " ");
    Err(FetchError::Status { host: host.to_owned(), code, retry_after, said })
}

/// Retry-After: seconds, or a date.
fn pause(text: &str, now: UnixNanos) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at: Timestamp = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()?;
    let nanos = i64::try_from(at.as_nanosecond()).ok()?;
    Some(Duration::from_nanos(UnixNanos(nanos).nanos_since(now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let now = UnixNanos::from_seconds(1_445_412_420);
        assert_eq!(pause("120", now), Some(Duration::from_secs(120)));
        assert_eq!(pause("Wed, 21 Oct 2015 07:28:00 GMT", now), Some(Duration::from_secs(60)));
        assert_eq!(pause("soon", now), None);
    }
}
