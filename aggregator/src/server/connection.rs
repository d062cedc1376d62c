//! One accepted connection: bytes in and out, who is there, and when it must end.

use crate::peer::{Caller, Peer};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// The bytes' way.
pub(super) enum Stream {
    /// Plaintext on a loopback address.
    Plain(TcpStream),
    /// Mutual TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Completes when the connection must end, with the reason.
pub(super) type End = Pin<Box<dyn Future<Output = &'static str> + Send>>;

/// A connection that the server reads from.
pub(super) struct Connection {
    stream: Stream,
    peer: Option<Arc<Peer>>,
    end: End,
    /// How long the first byte of a request may take; none once it came.
    first: Option<Pin<Box<Sleep>>>,
    /// Its places among all connections and among its peer's; given back with it.
    _places: Box<dyn Send + Sync>,
}

impl Connection {
    pub(super) fn new(
        stream: Stream,
        peer: Option<Arc<Peer>>,
        end: End,
        first: Sleep,
        places: impl Send + Sync + 'static,
    ) -> Self {
        Self { stream, peer, end, first: Some(Box::pin(first)), _places: Box::new(places) }
    }

    /// Why the connection is over, if it is.
    fn over(&mut self, context: &mut Context<'_>) -> Option<&'static str> {
        if let Some(first) = &mut self.first
            && first.as_mut().poll(context).is_ready()
        {
            return Some("the peer said nothing");
        }
        match self.end.as_mut().poll(context) {
            Poll::Ready(why) => Some(why),
            Poll::Pending => None,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        Caller(self.peer.clone())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(why) = this.over(context) {
            // An ended future is not asked again.
            this.end = Box::pin(std::future::pending());
            tracing::debug!(peer = this.peer.as_deref().map(tracing::field::display), why, "a connection ends");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        let before = buffer.filled().len();
        let read = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        if buffer.filled().len() > before {
            this.first = None;
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
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
