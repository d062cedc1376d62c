//! One request over a connection of its own. No redirects, no proxy, no compression: what a target sends back can cost
//! neither more than a limit of bytes nor, with the caller's timeout, more than a limit of time.

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Why nothing usable came back.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection.
    #[error("connecting to {host}:{port} failed: {source}; is the server running there?")]
    Connect {
        /// Host.
        host: String,
        /// Port.
        port: u16,
        /// Why.
        source: std::io::Error,
    },
    /// The other side does not speak HTTP, or stopped in the middle.
    #[error("reading {path} failed: {source}")]
    Http {
        /// Path asked for.
        path: String,
        /// Why.
        source: hyper::Error,
    },
    /// The path cannot stand in a request.
    #[error("asking for {path} failed: {source}")]
    Request {
        /// Path asked for.
        path: String,
        /// Why.
        source: hyper::http::Error,
    },
    /// A status other than 200.
    #[error("{path} answered {status}; redirects are not followed, and a page that needs a login cannot be read")]
    Status {
        /// Path asked for.
        path: String,
        /// The status.
        status: StatusCode,
    },
    /// Too many bytes.
    #[error("{path} sent more than {limit} bytes")]
    TooLarge {
        /// Path asked for.
        path: String,
        /// The limit.
        limit: usize,
    },
    /// A form that was not asked for.
    #[error("{path} sent {form}, which was not asked for")]
    Form {
        /// Path asked for.
        path: String,
        /// What it sent.
        form: String,
    },
}

impl FetchError {
    /// A word for counters.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Http { .. } | Self::Request { .. } => "http",
            Self::Status { status, .. } if status.is_redirection() => "redirect",
            Self::Status { .. } => "status",
            Self::TooLarge { .. } => "scrape_too_large",
            Self::Form { .. } => "form",
        }
    }
}

/// A connection to a target.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    host: String,
    port: u16,
}

impl Connection {
    /// Connects. The caller limits the time.
    ///
    /// # Errors
    /// Name not found, refused, unreachable.
    pub async fn open(host: &str, port: u16) -> Result<Self, FetchError> {
        let opened = TcpStream::connect((host, port)).await;
        let stream = opened.map_err(|source| FetchError::Connect { host: host.to_owned(), port, source })?;
        Ok(Self { stream, host: host.to_owned(), port })
    }

    /// The other end, if it is on this machine: a loopback address, or the same address as this end.
    pub fn local_peer(&self) -> Option<SocketAddr> {
        let (peer, own) = (self.stream.peer_addr().ok()?, self.stream.local_addr().ok()?);
        (peer.ip().to_canonical().is_loopback() || peer.ip() == own.ip()).then_some(peer)
    }

    /// Asks for a path and reads the whole body, at most `limit` bytes.
    ///
    /// # Errors
    /// Any status but 200, a compressed or HTML body, too many bytes, a broken connection.
    pub async fn get(self, path: &str, limit: usize) -> Result<Vec<u8>, FetchError> {
        self.send(Method::GET, path, Bytes::new(), limit).await
    }

    /// The same for a question that is put by POST of an empty JSON object.
    ///
    /// # Errors
    /// Those of [`Self::get`].
    pub async fn post(self, path: &str, limit: usize) -> Result<Vec<u8>, FetchError> {
        self.send(Method::POST, path, Bytes::from_static(b"{}"), limit).await
    }

    async fn send(self, method: Method, path: &str, body: Bytes, limit: usize) -> Result<Vec<u8>, FetchError> {
        let http = |source| FetchError::Http { path: path.to_owned(), source };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host };
        let mut request = Request::builder().method(method).uri(path);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .header(HOST, format!("{host}:{}", self.port))
            .header(ACCEPT, "text/plain;version=0.0.4,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1")
            .header(USER_AGENT, concat!("joulebook-agent/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close")
            .body(Full::new(body))
            .map_err(|source| FetchError::Request { path: path.to_owned(), source })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(self.stream)).await.map_err(http)?;
        // Dropped with this future, so that a timeout leaves no task that goes on reading.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let response = sender.send_request(request).await.map_err(http)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status { path: path.to_owned(), status: response.status() });
        }
        for name in [CONTENT_ENCODING, CONTENT_TYPE] {
            let form = response.headers().get(&name).map(|value| String::from_utf8_lossy(value.as_bytes()));
            let plain =
                |form: &str| if name == CONTENT_ENCODING { form == "identity" } else { !form.starts_with("text/html") };
            if let Some(form) = form.filter(|form| !plain(form)) {
                return Err(FetchError::Form { path: path.to_owned(), form: form.chars().take(64).collect() });
            }
        }
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(http)?;
            let chunk = frame.data_ref().map_or(&[][..], |chunk| &chunk[..]);
            if bytes.len() + chunk.len() > limit {
                return Err(FetchError::TooLarge { path: path.to_owned(), limit });
            }
            bytes.extend_from_slice(chunk);
        }
        Ok(bytes)
    }
}
