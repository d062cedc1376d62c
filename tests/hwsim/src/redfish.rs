//! A BMC: Redfish over TLS, in the shapes of several makers, driven by the node's power.
//!
//! Values are latched each refresh, as sensors of BMCs are, and stand still in between. Sessions are few, and leak if
//! nobody ends them. What is broken is asked for by a [`fault::Fault`]. Everything asked is kept, so that a test can tell
//! what a client did.

use crate::redfish::fault::Fault;
use crate::redfish::shape::Shape;
use fault::Answer;
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

pub mod fault;
pub mod shape;

/// Sessions that the table holds.
pub const SESSIONS: usize = 4;
const SESSION_PATH: &str = "/redfish/v1/SessionService/Sessions";

/// The power of the node at its input at this moment, in watts.
pub type Power = Arc<dyn Fn() -> f64 + Send + Sync>;

/// What the BMC is.
pub struct Options {
    /// Its documents.
    pub shape: Shape,
    /// The node's power.
    pub power: Power,
    /// Time between two looks of its sensors.
    pub refresh: Duration,
    /// Name and password of its account.
    pub account: (String, String),
    /// Whether it has sessions.
    pub sessions: bool,
    /// Whether it stamps what it shows (`ReadingTime`, ETag of the refresh).
    pub stamps: bool,
}

/// One request that it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Method.
    pub method: String,
    /// Path.
    pub path: String,
    /// Whether it carried a token or a password.
    pub authorised: bool,
    /// Status of the answer.
    pub status: u16,
    /// Since the BMC was made.
    pub at: Duration,
}

/// The state that all connections share.
pub struct Bmc {
    inner: Mutex<Inner>,
    begin: Duration,
}

struct Inner {
    options: Options,
    tls: Arc<ServerConfig>,
    fault: Option<Fault>,
    sessions: Vec<(String, String)>,
    made: u64,
    most_sessions: usize,
    asked: Vec<Asked>,
    latched: Option<(Duration, u64, f64)>,
    connections: u64,
}

impl std::fmt::Debug for Bmc {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Bmc").finish_non_exhaustive()
    }
}

impl Bmc {
    /// A BMC that shows this certificate.
    pub fn new(options: Options, tls: Arc<ServerConfig>) -> Arc<Self> {
        let inner = Inner {
            options,
            tls,
            fault: None,
            sessions: Vec::new(),
            made: 0,
            most_sessions: 0,
            asked: Vec::new(),
            latched: None,
            connections: 0,
        };
        Arc::new(Self { inner: Mutex::new(inner), begin: boot() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Breaks it, or mends it.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.lock().fault = fault;
    }

    /// Changes the account's password. Sessions end with it.
    pub fn set_password(&self, password: &str) {
        let mut inner = self.lock();
        inner.options.account.1 = password.to_owned();
        inner.sessions.clear();
    }

    /// Shows another certificate from now on.
    pub fn set_certificate(&self, tls: Arc<ServerConfig>) {
        self.lock().tls = tls;
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.lock().asked.clone()
    }

    /// Logins that it was asked for so far, with their times.
    pub fn logins(&self) -> Vec<Asked> {
        self.lock().asked.iter().filter(|asked| asked.method == "POST").cloned().collect()
    }

    /// Sessions that it holds now, and the most that it held.
    pub fn sessions(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.sessions.len(), inner.most_sessions)
    }

    /// Connections that were made so far.
    pub fn connections(&self) -> u64 {
        self.lock().connections
    }

    /// Serves until the task is dropped.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(Arc::clone(&self).converse(stream));
        }
    }

    async fn converse(self: Arc<Self>, stream: TcpStream) {
        let (tls, fault) = {
            let mut inner = self.lock();
            inner.connections += 1;
            (Arc::clone(&inner.tls), inner.fault.clone())
        };
        if matches!(fault, Some(Fault::Refuse)) {
            // Whoever holds a connection loses it at its next request.
            return;
        }
        // A client that does not like the certificate goes away: its own affair.
        let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else { return };
        let answer = |request: Request<Incoming>| {
            let bmc = Arc::clone(&self);
            async move { bmc.answer(request).await }
        };
        let _ =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, Reset> {
        let (method, path, headers) =
            (request.method().clone(), request.uri().path().to_owned(), request.headers().clone());
        let body = request.into_body().collect().await.map_err(|_| Reset)?.to_bytes();
        let fault = self.lock().fault.clone();
        if let Some(Fault::Slow(time)) = &fault {
            tokio::time::sleep(Duration::from_millis(*time)).await;
        }
        let answer = match fault.as_ref().map(|fault| fault.answer(&method, &path)) {
            Some(Some(Answer::Reset)) => return Err(Reset),
            Some(Some(answer)) => answer,
            _ => self.regular(&method, &path, &headers, &body, fault.as_ref()),
        };
        let authorised = headers.contains_key("X-Auth-Token") || headers.contains_key("Authorization");
        let mut inner = self.lock();
        let status = answer.status();
        let at = boot().saturating_sub(self.begin);
        inner.asked.push(Asked { method: method.to_string(), path, authorised, status, at });
        Ok(answer.response())
    }

    fn regular(&self, method: &Method, path: &str, headers: &HeaderMap, body: &[u8], fault: Option<&Fault>) -> Answer {
        let mut inner = self.lock();
        if path.trim_end_matches('/') == SESSION_PATH && *method == Method::POST {
            let none = || Answer::error(404, "Base.1.12.ResourceMissingAtURI");
            return if inner.options.sessions { inner.log_in(body) } else { none() };
        }
        if !inner.is_authorised(headers) && path.trim_end_matches('/') != "/redfish/v1" {
            return Answer::error(401, "Base.1.12.NoValidSession");
        }
        if *method == Method::DELETE {
            let before = inner.sessions.len();
            inner.sessions.retain(|(_, known)| known != path);
            return if inner.sessions.len() < before {
                Answer::empty(204)
            } else {
                Answer::error(404, "Base.1.12.ResourceNotFound")
            };
        }
        inner.show(path, fault)
    }
}

/// The boot clock; the kernel always has one.
fn boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// Cuts a connection.
#[derive(Debug, thiserror::Error)]
#[error("the connection is reset on purpose")]
struct Reset;

impl Inner {
    fn log_in(&mut self, body: &[u8]) -> Answer {
        let said: Value = serde_json::from_slice(body).unwrap_or_default();
        let (user, password) = &self.options.account;
        if said["UserName"] != json!(user) || said["Password"] != json!(password) {
            return Answer::error(401, "Base.1.12.ResourceAtUriUnauthorized");
        }
        if self.sessions.len() >= SESSIONS {
            return Answer::error(503, "Base.1.12.SessionLimitExceeded");
        }
        self.made += 1;
        let (token, path) = (format!("token-{}", self.made), format!("{SESSION_PATH}/{}", self.made));
        self.sessions.push((token.clone(), path.clone()));
        self.most_sessions = self.most_sessions.max(self.sessions.len());
        let body = json!({"@odata.id": path, "Id": self.made.to_string(), "Name": "User Session", "UserName": user});
        Answer::json(201, &body).with("X-Auth-Token", &token).with("Location", &path)
    }

    fn is_authorised(&self, headers: &HeaderMap) -> bool {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(token) = text("X-Auth-Token") {
            return self.sessions.iter().any(|(known, _)| known == token);
        }
        let (user, password) = &self.options.account;
        text("Authorization").is_some_and(|given| given == shape::basic(user, password))
    }

    fn show(&mut self, path: &str, fault: Option<&Fault>) -> Answer {
        let (count, watts) = self.latch(fault);
        let Some(mut document) = self.options.shape.document(path, watts) else {
            return Answer::error(404, "Base.1.12.ResourceMissingAtURI");
        };
        // A maker's own stamp follows what is shown.
        if let Some(etag) = document.get_mut("@odata.etag") {
            *etag = json!(format!("W/\"{count}\""));
        }
        let document = match fault {
            Some(fault) => fault.distort(document),
            None => document,
        };
        let mut answer = Answer::json(200, &document);
        if let Some(Fault::Value(text)) = fault {
            answer = answer.replacing(&shape::placeholder(), text);
        }
        if self.options.stamps { answer.with("ETag", &format!("W/\"{count}\"")) } else { answer }
    }

    /// What the sensors saw last, and how often they have looked.
    fn latch(&mut self, fault: Option<&Fault>) -> (u64, f64) {
        let now = boot();
        let is_stale = matches!(fault, Some(Fault::Stale));
        let (at, count, watts) = match self.latched {
            Some(latched) if is_stale || now.saturating_sub(latched.0) < self.options.refresh => latched,
            latched => (now, latched.map_or(1, |(_, count, _)| count + 1), (self.options.power)()),
        };
        self.latched = Some((at, count, watts));
        (count, watts)
    }
}

impl Answer {
    fn with(self, name: &str, value: &str) -> Self {
        let Self::Whole { status, mut headers, body } = self else { return self };
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
        Self::Whole { status, headers, body }
    }

    fn response(self) -> Response<BoxBody<Bytes, Infallible>> {
        let (status, headers, body) = self.parts();
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        *response.headers_mut() = headers;
        response
    }
}
