//! One accepted connection: bytes in and out, and who is there.

use super::frames::Meter;
use crate::peer::Peer;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

/// The bytes' way.
pub(super) enum Stream {
    /// Plaintext on a loopback address.
    Plain(TcpStream),
    /// Mutual TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Completes when the connection must end at once, with the reason.
pub(super) type End = Pin<Box<dyn Future<Output = &'static str> + Send>>;

/// A peer that was let in.
pub(super) struct Connection {
    /// Its bytes.
    pub bytes: Bytes,
    /// Who it is; nobody is known on plaintext.
    pub peer: Option<Arc<Peer>>,
    /// When its certificate is worth nothing any more.
    pub end: End,
    /// Its places among all connections and among its peer's; given back with it.
    pub places: Box<dyn Send + Sync>,
}

/// The bytes of a connection, which are counted as they come.
pub(super) struct Bytes {
    stream: Stream,
    meter: Meter,
    /// Told once when the peer floods; nothing more is read then.
    flood: Arc<Notify>,
    flooded: bool,
    /// How long the first byte of a request may take; none once it came.
    first: Option<Pin<Box<Sleep>>>,
}

impl Bytes {
    pub(super) fn new(stream: Stream, first: Sleep) -> Self {
        let (meter, flood) = (Meter::new(Instant::now()), Arc::new(Notify::new()));
        Self { stream, meter, flood, flooded: false, first: Some(Box::pin(first)) }
    }

    /// Told when the peer floods.
    pub(super) fn flood(&self) -> Arc<Notify> {
        Arc::clone(&self.flood)
    }
}

impl AsyncRead for Bytes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.flooded {
            return Poll::Pending;
        }
        if let Some(first) = &mut this.first
            && first.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer said nothing")));
        }
        let before = buffer.filled().len();
        let read = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        let new = buffer.filled().get(before..).unwrap_or_default();
        if !new.is_empty() {
            this.first = None;
            if !this.meter.received(new, Instant::now()) {
                // What came is not worth understanding; who serves the connection ends it.
                buffer.set_filled(before);
                this.flooded = true;
                this.flood.notify_one();
                return Poll::Pending;
            }
        }
        read
    }
}

impl AsyncWrite for Bytes {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        };
        if let Poll::Ready(Ok(count)) = &written {
            self.meter.sent(*count);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
