//! A client of one BMC: one request at a time over one connection, in one session, within limits of time and bytes.
//!
//! No redirect is followed and no link to another host: name, password and session are shown to this host alone. A
//! session that ended is begun again once, with the credentials as they are in their file by then; what is refused again
//! is not asked for until a pause is over.

use super::gate::Gate;
use super::outcome::{self, Fault};
use super::secret::{self, Secret, SecretError};
use super::trust::{self, Trust, TrustError};
use crate::clock::{Clock, SystemClock};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, HOST, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// Where sessions are made.
const SESSIONS: &str = "/redfish/v1/SessionService/Sessions";
/// Largest body.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// Longest time for the end of a session, while the agent waits to stop.
const LOGOUT: Duration = Duration::from_secs(2);
/// Pause where a BMC asks for one and does not say how long.
const UNSAID_PAUSE: Duration = Duration::from_secs(10);

/// How a BMC is spoken with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Which certificate is its.
    pub trust: Trust,
    /// File with name and password.
    pub credentials: PathBuf,
    /// Whether the file's group may read it.
    pub group_readable: bool,
    /// Whether each request carries name and password, instead of a session's token.
    pub basic: bool,
    /// Longest time for one request, connecting included.
    pub request: Duration,
    /// When it may be asked.
    pub limits: super::gate::Limits,
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A pause is not over: nothing was asked.
    #[error("waiting until the BMC may be asked again")]
    Waiting,
    /// No connection.
    #[error("connecting to the BMC {host}:{port} failed: {source}; is it reachable from here?")]
    Connect {
        /// Host.
        host: String,
        /// Port.
        port: u16,
        /// Why.
        source: std::io::Error,
    },
    /// Its certificate is not the expected one.
    #[error(
        "the BMC {host} is not trusted: {objection}; configure its CA, or its certificate's fingerprint once you know \
         that it is right"
    )]
    Certificate {
        /// Host.
        host: String,
        /// What is wrong with it.
        objection: String,
    },
    /// The trust that is configured cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The credentials cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Too slow.
    #[error("{path} was not answered within {}", humantime::format_duration(*.limit))]
    Timeout {
        /// What was asked for.
        path: String,
        /// The limit.
        limit: Duration,
    },
    /// It does not speak HTTP, or stopped in the middle.
    #[error("reading {path} failed: {source}")]
    Http {
        /// What was asked for.
        path: String,
        /// Why.
        source: hyper::Error,
    },
    /// The path cannot stand in a request.
    #[error("asking for {path} failed: {source}")]
    Request {
        /// What was asked for.
        path: String,
        /// Why.
        source: hyper::http::Error,
    },
    /// Too many bytes.
    #[error("{path} sent more than {MAX_BODY_BYTES} bytes")]
    TooLarge {
        /// What was asked for.
        path: String,
    },
    /// Not JSON.
    #[error("{path} sent no JSON object, or one that is nested too deep")]
    NotJson {
        /// What was asked for.
        path: String,
    },
    /// Name and password, or the session, are refused.
    #[error("the BMC refuses name and password; they are read again from {credentials} when the pause is over")]
    Unauthorised {
        /// The file.
        credentials: PathBuf,
    },
    /// No further session.
    #[error("the BMC has no free session; close some, or wait for their end")]
    SessionLimit,
    /// Not now.
    #[error("{path} answered {status}: not now")]
    Later {
        /// What was asked for.
        path: String,
        /// The status.
        status: u16,
    },
}

impl ClientError {
    /// A word for counters; none where nothing was asked.
    pub fn reason(&self) -> Option<&'static str> {
        Some(match self {
            Self::Waiting => return None,
            Self::Connect { .. } => "connect",
            Self::Certificate { .. } | Self::Trust(_) => "certificate",
            Self::Secret(_) => "credentials",
            Self::Timeout { .. } => "timeout",
            Self::Http { .. } | Self::Request { .. } => "http",
            Self::TooLarge { .. } => "too_large",
            Self::NotJson { .. } => "json",
            Self::Unauthorised { .. } => "unauthorised",
            Self::SessionLimit => "session_limit",
            Self::Later { .. } => "busy",
        })
    }
}

#[derive(Debug, Clone)]
struct Session {
    token: HeaderValue,
    /// What is deleted at its end.
    path: Option<String>,
}

struct Reply {
    status: u16,
    retry_after: Option<String>,
    etag: Option<String>,
    token: Option<HeaderValue>,
    location: Option<String>,
    body: Vec<u8>,
}

impl Reply {
    fn document(&self) -> Result<Value, Fault> {
        outcome::document(self.status, self.retry_after.as_deref(), &self.body)
    }
}

/// A connection, and the task that drives it: dropped together, so that nothing goes on reading.
type Connection = (SendRequest<Full<Bytes>>, JoinSet<hyper::Result<()>>);

/// The client.
pub struct Client {
    settings: Settings,
    gate: Gate,
    tls: Option<Arc<ClientConfig>>,
    secret: Option<Secret>,
    session: Option<Session>,
    basic: bool,
    connection: Option<Connection>,
}

impl Client {
    /// A client that has asked nothing yet.
    pub fn new(settings: Settings) -> Self {
        let (gate, basic) = (Gate::new(settings.limits), settings.basic);
        Self { settings, gate, tls: None, secret: None, session: None, basic, connection: None }
    }

    /// The document of a link; none if the BMC has none there, or does not show it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get(&mut self, path: &str) -> Result<Option<Value>, ClientError> {
        // A link elsewhere is not this BMC's, whatever it says.
        if !path.starts_with('/') || path.starts_with("//") {
            return Ok(None);
        }
        let mut again = true;
        loop {
            if !self.gate.is_open(now()) {
                return Err(ClientError::Waiting);
            }
            let authorisation = self.authorisation().await?;
            let reply = self.exchange(Method::GET, path, Some(authorisation), None).await?;
            match reply.document() {
                Ok(mut document) => {
                    self.gate.accepted();
                    if let (Some(etag), Some(object)) = (reply.etag, document.as_object_mut()) {
                        object.entry("@odata.etag").or_insert(Value::String(etag));
                    }
                    return Ok(Some(document));
                }
                Err(Fault::Permanent) => return Ok(None),
                Err(Fault::NotJson) => return Err(ClientError::NotJson { path: path.to_owned() }),
                Err(Fault::Later(pause)) => return Err(self.later(path, reply.status, pause)),
                Err(Fault::SessionLimit) => return Err(self.session_limit()),
                Err(Fault::Unauthorised) => {
                    self.session = None;
                    // Name and password of a file that did not change are refused again, and count.
                    let changed = self.read_secret_again()?;
                    if !std::mem::take(&mut again) || (self.basic && !changed) {
                        return Err(self.unauthorised());
                    }
                }
            }
        }
    }

    /// Ends the session, if there is one. What fails is the BMC's to clean up.
    pub async fn logout(&mut self) {
        let Some(Session { token, path: Some(path) }) = self.session.take() else { return };
        let _ = timeout(LOGOUT, self.exchange(Method::DELETE, &path, Some(("X-Auth-Token", token)), None)).await;
    }

    async fn authorisation(&mut self) -> Result<(&'static str, HeaderValue), ClientError> {
        if !self.basic && self.session.is_none() {
            self.login().await?;
        }
        match &self.session {
            Some(session) => Ok(("X-Auth-Token", session.token.clone())),
            None => {
                let secret = self.secret()?;
                let mut value = basic(&secret).ok_or_else(|| self.malformed())?;
                value.set_sensitive(true);
                Ok((AUTHORIZATION.as_str(), value))
            }
        }
    }

    async fn login(&mut self) -> Result<(), ClientError> {
        let mut again = true;
        loop {
            if !self.gate.login(now()) {
                return Err(ClientError::Waiting);
            }
            let secret = self.secret()?;
            let body = json!({"UserName": secret.user, "Password": secret.password}).to_string();
            let reply = self.exchange(Method::POST, SESSIONS, None, Some(body)).await?;
            if let (200..=299, Some(token)) = (reply.status, &reply.token) {
                let own = |location: &str| path_of(location, &self.settings.host);
                let named =
                    || serde_json::from_slice::<Value>(&reply.body).ok()?.get("@odata.id")?.as_str().and_then(own);
                let mut token = token.clone();
                token.set_sensitive(true);
                self.session = Some(Session { token, path: reply.location.as_deref().and_then(own).or_else(named) });
                return Ok(());
            }
            match reply.document() {
                // No sessions here: name and password go with each request.
                Ok(_) | Err(Fault::Permanent | Fault::NotJson) => {
                    self.basic = true;
                    return Ok(());
                }
                Err(Fault::SessionLimit) => return Err(self.session_limit()),
                Err(Fault::Later(pause)) => return Err(self.later(SESSIONS, reply.status, pause)),
                Err(Fault::Unauthorised) => {
                    let changed = self.read_secret_again()?;
                    if !changed || !std::mem::take(&mut again) {
                        return Err(self.unauthorised());
                    }
                }
            }
        }
    }

    fn secret(&mut self) -> Result<Secret, ClientError> {
        if self.secret.is_none() {
            self.secret = Some(secret::read(&self.settings.credentials, self.settings.group_readable)?);
        }
        self.secret.clone().ok_or_else(|| self.malformed())
    }

    /// Reads the credentials anew; whether they are others than before.
    fn read_secret_again(&mut self) -> Result<bool, ClientError> {
        let before = self.secret.take();
        let now = self.secret()?;
        Ok(before.is_some_and(|before| before != now))
    }

    fn malformed(&self) -> ClientError {
        ClientError::Secret(SecretError::Malformed { path: self.settings.credentials.clone() })
    }

    fn unauthorised(&mut self) -> ClientError {
        // The file may be replaced until then.
        self.secret = None;
        self.gate.refused(now());
        ClientError::Unauthorised { credentials: self.settings.credentials.clone() }
    }

    fn session_limit(&mut self) -> ClientError {
        self.gate.refused(now());
        ClientError::SessionLimit
    }

    fn later(&mut self, path: &str, status: u16, pause: Option<Duration>) -> ClientError {
        self.gate.close_for(now(), pause.unwrap_or(UNSAID_PAUSE));
        ClientError::Later { path: path.to_owned(), status }
    }

    /// One request and its whole answer. A connection on which something went wrong is not used again.
    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        authorisation: Option<(&'static str, HeaderValue)>,
        body: Option<String>,
    ) -> Result<Reply, ClientError> {
        let limit = self.settings.request;
        let asked = self.ask(method, path, authorisation, body);
        let answered = timeout(limit, asked).await;
        let answered = answered.unwrap_or_else(|_| Err(ClientError::Timeout { path: path.to_owned(), limit }));
        if answered.is_err() {
            self.connection = None;
        }
        answered
    }

    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        authorisation: Option<(&'static str, HeaderValue)>,
        body: Option<String>,
    ) -> Result<Reply, ClientError> {
        let host = &self.settings.host;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, format!("{host}:{}", self.settings.port))
            .header(ACCEPT, "application/json")
            .header("OData-Version", "4.0")
            .header(USER_AGENT, concat!("joulebook-agent/", env!("CARGO_PKG_VERSION")));
        if let Some((name, value)) = authorisation {
            request = request.header(name, value);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(Bytes::from(body.unwrap_or_default())));
        let request = request.map_err(|source| ClientError::Request { path: path.to_owned(), source })?;
        let http = |source| ClientError::Http { path: path.to_owned(), source };
        // A BMC closes connections that rest: one that is closed already is replaced before it is used.
        let kept = match self.connection.take() {
            Some((mut sender, driver)) => sender.ready().await.is_ok().then_some((sender, driver)),
            None => None,
        };
        let (mut sender, driver) = match kept {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        let response = sender.send_request(request).await.map_err(http)?;
        let header = |name: &hyper::header::HeaderName| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let mut reply = Reply {
            status: response.status().as_u16(),
            retry_after: header(&RETRY_AFTER),
            etag: header(&ETAG),
            token: response.headers().get("X-Auth-Token").cloned(),
            location: header(&LOCATION),
            body: Vec::new(),
        };
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(http)?;
            let chunk = frame.data_ref().map_or(&[][..], |chunk| &chunk[..]);
            if reply.body.len() + chunk.len() > MAX_BODY_BYTES {
                return Err(ClientError::TooLarge { path: path.to_owned() });
            }
            reply.body.extend_from_slice(chunk);
        }
        self.connection = Some((sender, driver));
        Ok(reply)
    }

    async fn connect(&mut self) -> Result<Connection, ClientError> {
        let (host, port) = (self.settings.host.clone(), self.settings.port);
        let failed = |source: std::io::Error| {
            if let Some(objection) = trust::objection(&source) {
                return ClientError::Certificate { host: host.clone(), objection };
            }
            ClientError::Connect { host: host.clone(), port, source }
        };
        let tls = match &self.tls {
            Some(tls) => Arc::clone(tls),
            None => Arc::clone(self.tls.insert(Arc::new(self.settings.trust.client()?))),
        };
        let name = ServerName::try_from(host.clone()).map_err(|error| failed(std::io::Error::other(error)))?;
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(failed)?;
        let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(failed)?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|source| ClientError::Http { path: "/".to_owned(), source })?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Ok((sender, driver))
    }
}

fn now() -> u64 {
    SystemClock.boot().0
}

/// The path of a link, if it is on this host.
fn path_of(location: &str, host: &str) -> Option<String> {
    if location.starts_with('/') && !location.starts_with("//") {
        return Some(location.to_owned());
    }
    let uri: hyper::Uri = location.parse().ok()?;
    let same = uri.host().is_some_and(|other| other.trim_matches(['[', ']']) == host);
    same.then(|| uri.path().to_owned())
}

fn basic(secret: &Secret) -> Option<HeaderValue> {
    let plain = format!("{}:{}", secret.user, secret.password);
    HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(plain))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_on_another_host_is_not_asked_for() {
        assert_eq!(path_of("/redfish/v1/S/1", "bmc").as_deref(), Some("/redfish/v1/S/1"));
        assert_eq!(path_of("https://bmc/redfish/v1/S/1", "bmc").as_deref(), Some("/redfish/v1/S/1"));
        assert_eq!(path_of("https://169.254.169.254/x", "bmc"), None);
        assert_eq!(path_of("//evil/x", "bmc"), None);
    }
}
