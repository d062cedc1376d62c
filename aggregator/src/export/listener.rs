//! The page that Prometheus reads, over HTTP/1.1: `/metrics`, `/healthz` (the process serves), `/readyz` (telemetry is
//! stored, too).
//!
//! On a loopback address plaintext; elsewhere mutual TLS for operators, unless plaintext is asked for. What a peer may
//! take is bounded: connections, time for a handshake, a request's head and its answer.

use super::Snapshot;
use super::live::{Live, PAGES};
use super::page::{self, Format};
use crate::ingest::Counters;
use crate::peer::{Peer, Role};
use crate::server::tls::Tls;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// Connections at once; a further one waits.
const CONNECTIONS: usize = 32;
/// Pages that are made at once.
const PAGES_AT_ONCE: usize = 2;
/// How long a handshake, and a request's head, may take.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may last; a scraper opens another one.
const AGE: Duration = Duration::from_secs(600);
/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;
/// Wait after the system could give no further connection.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);

/// What is served.
pub struct Pages {
    /// How the aggregator is.
    pub live: Live,
    /// What the last step says; none before the first.
    pub figures: watch::Receiver<Option<Arc<Snapshot>>>,
    /// Counters.
    pub counters: Arc<Counters>,
    /// Certificates, where TLS is spoken.
    pub tls: Option<watch::Receiver<Arc<Tls>>>,
}

struct Shared {
    pages: Pages,
    making: Semaphore,
}

/// Serves until `stopping` turns true.
pub async fn serve(pages: Pages, listener: TcpListener, mut stopping: watch::Receiver<bool>) {
    let shared = Arc::new(Shared { pages, making: Semaphore::new(PAGES_AT_ONCE) });
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut tasks = JoinSet::new();
    loop {
        let next = async {
            // Never closed.
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            next = next => next,
            // An error means that the other end is gone: time to stop, too.
            _ = stopping.wait_for(|stop| *stop) => break,
        };
        while tasks.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                tasks.spawn(async move {
                    let _place = place;
                    // Whatever it was, the peer is gone or its time is over.
                    let _ = timeout(AGE, Shared::admit(shared, stream)).await;
                });
            }
            Err(_) => sleep(EXHAUSTED_WAIT).await,
        }
    }
    // Pages under way are not waited for: a scrape comes again.
    tasks.shutdown().await;
}

impl Shared {
    async fn admit(self: Arc<Self>, stream: TcpStream) {
        let Some(tls) = &self.pages.tls else { return self.speak(stream).await };
        let config = tls.borrow().http1();
        let Ok(Ok(stream)) = timeout(HEAD, TlsAcceptor::from(config).accept(stream)).await else {
            self.pages.counters.add("tls_handshake_failures_total", 1);
            return;
        };
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let peer = leaf.and_then(|leaf| Peer::of(leaf).ok());
        if !peer.is_some_and(|peer| matches!(peer.role(), Role::Operator(_))) {
            self.pages.counters.add("tls_handshake_failures_total", 1);
            tracing::debug!("only operators read the metrics page");
            return;
        }
        self.speak(stream).await;
    }

    async fn speak(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(move |request: Request<Incoming>| {
            let this = Arc::clone(&self);
            async move { Ok::<_, Infallible>(this.answer(&request).await) }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
        if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(%error, "a connection to the metrics page ended");
        }
    }

    async fn answer(self: &Arc<Self>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match request.uri().path() {
            "/metrics" => {
                let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
                self.page(Format::of(accept)).await
            }
            "/healthz" => text(StatusCode::OK, "serving\n"),
            // What does not look at the disk now is told by who does each second.
            "/readyz" => match self.pages.counters.all().get("intake_open") {
                Some(1) => text(StatusCode::OK, "storing\n"),
                _ => text(StatusCode::SERVICE_UNAVAILABLE, "nothing is stored: the disk is nearly full\n"),
            },
            _ => text(StatusCode::NOT_FOUND, "/metrics, /healthz or /readyz\n"),
        }
    }

    async fn page(self: &Arc<Self>, format: Format) -> Response<Full<Bytes>> {
        // Never closed.
        let _turn = self.making.acquire().await;
        self.pages.counters.add(PAGES, 1);
        let this = Arc::clone(self);
        // Looks at the disk and writes megabytes: not on the runtime's threads.
        let made = tokio::task::spawn_blocking(move || this.write(format)).await;
        let Ok(page) = made else { return text(StatusCode::INTERNAL_SERVER_ERROR, "see the aggregator's log\n") };
        let mut response = Response::new(Full::new(Bytes::from(page)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
        response
    }

    fn write(&self, format: Format) -> String {
        let live = self.pages.live.points().into_vec();
        let figures = self.pages.figures.borrow().clone();
        let figures = figures.iter().flat_map(|figures| &figures.points);
        page::write(live.iter().chain(figures), format)
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
