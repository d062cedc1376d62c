//! One connection's life: HTTP/2 with the limits of the transport, until its peer leaves or its time is over.
//!
//! It ends with GOAWAY and some patience for what is under way when it is old, idle or the aggregator stops, and with
//! GOAWAY and none when its peer floods. It is cut when the peer's certificate is not trusted any more.

use super::connection::Connection;
use super::pieces::Pieces;
use crate::peer::{Caller, Ending};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Status;
use tonic::codegen::Service;
use tonic::service::Routes;

/// Silence after which a peer is asked whether it is there, and how long it may take to answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const STREAMS_PER_CONNECTION: u32 = 8;
const HEADER_BYTES: u32 = 8 * 1024;
const PENDING_RESETS: usize = 20;
const ERROR_RESETS: usize = 128;
/// Bytes that a peer may send ahead of what is read, in one call and in all of its calls.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 512 * 1024;
/// Bytes that wait for a peer that does not read, in one call.
const SEND_BUFFER: usize = 128 * 1024;
/// How long one question may take. A stream of telemetry is none: its call has answered once it is open.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long calls under way may take to end when their connection's time is over.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a peer without calls, or one that floods, may take to read that it has to go.
const LAST_WORD: Duration = Duration::from_secs(1);

/// How long a connection may last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// In all.
    pub age: Duration,
    /// Without a call.
    pub idle: Duration,
}

/// Serves one peer to its end. `stopping` turns true when the aggregator stops.
pub(super) async fn serve(connection: Connection, routes: Routes, times: Times, mut stopping: watch::Receiver<bool>) {
    let Connection { bytes, peer, mut end, places: _places } = connection;
    let (flood, deadline) = (bytes.flood(), Instant::now() + times.age);
    let (calls, mut open) = watch::channel(0_u32);
    let (ending, ends) = watch::channel(false);
    let caller = Caller(peer.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        request.extensions_mut().insert(Ending(ends.clone()));
        answer(routes.clone(), request, Call::begin(&calls))
    });
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_header_list_size(HEADER_BYTES)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(ERROR_RESETS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER);
    let mut http = pin!(http.serve_connection(TokioIo::new(bytes), service));
    let (why, patience) = tokio::select! {
        // Whatever it was, the peer is gone.
        ended = http.as_mut() => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended");
            }
            return;
        }
        why = end.as_mut() => (why, None),
        () = sleep_until(deadline) => ("its time is over", Some(PATIENCE)),
        () = idle(&mut open, times.idle) => ("it was idle", Some(PATIENCE)),
        () = flood.notified() => ("its peer floods", Some(LAST_WORD)),
        // An error means that the other end is gone: time to stop, too.
        _ = stopping.wait_for(|stop| *stop) => ("the aggregator stops", Some(Duration::MAX)),
    };
    match &peer {
        Some(peer) => tracing::debug!(%peer, why, "a connection ends"),
        None => tracing::debug!(why, "a connection ends"),
    }
    let Some(patience) = patience else { return };
    http.as_mut().graceful_shutdown();
    ending.send_replace(true);
    tokio::select! {
        // Its end was decided already.
        _ended = http => {}
        _cut = end => {}
        () = sleep(patience) => {}
        // Nothing is under way: its peer may go, or does not listen.
        () = idle(&mut open, LAST_WORD) => {}
    }
}

/// Ends once there was no call for so long.
async fn idle(open: &mut watch::Receiver<u32>, limit: Duration) {
    loop {
        // The sender lives as long as the connection.
        if open.wait_for(|open| *open == 0).await.is_err() {
            std::future::pending().await
        }
        if timeout(limit, open.changed()).await.is_err() {
            return;
        }
    }
}

async fn answer(mut routes: Routes, request: Request<Incoming>, call: Call) -> Result<Response<Answer>, Infallible> {
    let response = match timeout(CALL_TIMEOUT, routes.call(request.map(Pieces::of))).await {
        Ok(response) => response?,
        Err(_) => Status::deadline_exceeded(format!("not answered within {CALL_TIMEOUT:?}")).into_http(),
    };
    Ok(response.map(|body| Answer { body, _call: call }))
}

/// A call under way; ends when dropped.
struct Call(watch::Sender<u32>);

impl Call {
    fn begin(calls: &watch::Sender<u32>) -> Self {
        calls.send_modify(|open| *open += 1);
        Self(calls.clone())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// What is sent back. Its call is under way until all of it is.
struct Answer {
    body: tonic::body::Body,
    _call: Call,
}

impl Body for Answer {
    type Data = hyper::body::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
