//! The page over HTTP/1.1: `/metrics`, `/healthz` (the process serves), `/readyz` (rows are taken, and kept on the disk).
//!
//! What a peer may take is bounded: connections, time for a request's head and in all, and its size. Nothing that is sent
//! with a request is read.
//!
//! Question: why is there no TLS, as there is on the aggregator's page? That one tells energy and carbon of tenants; this one
//! tells health, and no energy of the node. The agent's own certificate is a client's, which names the node and not the
//! address that Prometheus and the kubelet's probes come to; a second one a node would be one more to run out. So it listens
//! on this machine alone unless `metrics.plaintext` says that the network is closed otherwise (the chart's policy lets only
//! `monitoring.scrapers` in). Figures that are to leave the node encrypted go by OTLP, `[export]`. A page with energy on it
//! would change this.

use super::Board;
use super::name::ALL;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use joulebook_proto::metrics::{Format, write};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Connections at once; a further one waits.
const CONNECTIONS: usize = 8;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(5);
/// Its size: hyper's least.
const HEAD_BYTES: usize = 8192;
/// How long a connection may last; a scraper opens another one.
const AGE: Duration = Duration::from_secs(60);
/// Pause after a connection could not be accepted: descriptors are short.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);

/// The page cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("listening for scrapes at {address} failed; set metrics.listen to an address that is free")]
pub struct PageError {
    /// The configured address.
    pub address: SocketAddr,
    /// Why.
    pub source: std::io::Error,
}

/// Listens, if that is configured.
///
/// # Errors
/// The address is taken or not this machine's.
pub(crate) async fn bind(address: Option<SocketAddr>) -> Result<Option<TcpListener>, PageError> {
    let Some(address) = address else { return Ok(None) };
    let listener = TcpListener::bind(address).await.map_err(|source| PageError { address, source })?;
    tracing::info!(address = %listener.local_addr().unwrap_or(address), "metrics are served");
    Ok(Some(listener))
}

/// Answers until it is dropped.
pub(crate) async fn serve(listener: TcpListener, board: Arc<Board>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut tasks = JoinSet::new();
    loop {
        // Never closed.
        let place = Arc::clone(&places).acquire_owned().await;
        while tasks.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let board = Arc::clone(&board);
                tasks.spawn(async move {
                    let _place = place;
                    // Whatever it was, the peer is gone or its time is over.
                    let _ = timeout(AGE, speak(board, stream)).await;
                });
            }
            Err(_) => sleep(EXHAUSTED_WAIT).await,
        }
    }
}

async fn speak(board: Arc<Board>, stream: TcpStream) {
    let service = service_fn(move |request: Request<Incoming>| {
        let board = Arc::clone(&board);
        async move { Ok::<_, Infallible>(answer(&board, &request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to the metrics page ended");
    }
}

async fn answer(board: &Board, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n".to_owned());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/metrics" => {
            let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
            let format = Format::of(accept);
            let mut response = Response::new(Full::new(Bytes::from(write(ALL, &board.points().await, format))));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
            response
        }
        "/healthz" => text(StatusCode::OK, "serving\n".to_owned()),
        "/readyz" => match board.unready().await {
            None => text(StatusCode::OK, "rows are taken and kept\n".to_owned()),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
        },
        _ => text(StatusCode::NOT_FOUND, "/metrics, /healthz or /readyz\n".to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
