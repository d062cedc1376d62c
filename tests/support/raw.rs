//! HTTP/2 frame by frame over mutual TLS, for clients that no library would be.

#![allow(clippy::expect_used, reason = "functions that tests call may fail the test")]

use joulebook_aggregator::certificate::Issued;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

/// The first bytes of an HTTP/2 client, with empty settings.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Types of frames (RFC 9113).
pub const DATA: u8 = 0;
/// Begins a call.
pub const HEADERS: u8 = 1;
/// Ends a stream at once.
pub const RST_STREAM: u8 = 3;
/// Settings.
pub const SETTINGS: u8 = 4;
/// Asks for an answer.
pub const PING: u8 = 6;
/// The last word of a connection.
pub const GOAWAY: u8 = 7;
/// Permission to send.
pub const WINDOW_UPDATE: u8 = 8;
/// More headers.
pub const CONTINUATION: u8 = 9;
/// The method that agents call.
pub const STREAM: &str = "/joulebook.telemetry.v1.TelemetryService/Stream";
/// Flag of the last frame of a stream.
pub const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame as it was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
    /// What it holds.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error that a reset of a stream or the last word of a connection names.
    pub fn error(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        Some(u32::from_be_bytes(self.payload.get(at..at + 4)?.try_into().ok()?))
    }
}

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small payload").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Headers that begin a gRPC call, with further ones of the caller (name and value below 127 bytes each).
pub fn call(stream: u32, path: &str, further: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &fields(path, further))
}

/// The same, to be continued.
pub fn call_to_be_continued(stream: u32, path: &str, further: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, 0, stream, &fields(path, further))
}

/// The header block of a call: nothing of it is indexed or compressed.
fn fields(path: &str, further: &[(&str, &str)]) -> Vec<u8> {
    // POST and https of the static table; path and authority by their names there.
    let mut block = vec![0x83, 0x87, 0x04];
    block.extend(text(path));
    block.push(0x01);
    block.extend(text("127.0.0.1"));
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")].iter().chain(further) {
        block.extend(field(name, value));
    }
    block
}

/// One header.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    [vec![0], text(name), text(value)].concat()
}

fn text(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("a short text");
    [&[length], text.as_bytes()].concat()
}

/// A gRPC message in frames of data.
pub fn message(stream: u32, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a small message");
    let bytes = [&prefix(length)[..], message].concat();
    bytes.chunks(16 << 10).flat_map(|part| frame(DATA, 0, stream, part)).collect()
}

/// What stands before a gRPC message of this length that is not compressed.
pub fn prefix(length: u32) -> [u8; 5] {
    let [a, b, c, d] = length.to_be_bytes();
    [0, a, b, c, d]
}

/// A connection with a server under an address, whose certificate must lead to `ca`; `pair` is what is shown.
///
/// # Errors
/// Whatever refuses it.
pub async fn shake_hands(
    address: SocketAddr,
    ca: &str,
    pair: Option<&Issued>,
    version: &'static SupportedProtocolVersion,
) -> io::Result<TlsStream<TcpStream>> {
    let config = client(ca, pair, version);
    over(TcpStream::connect(address).await?, address, config).await
}

/// The handshake on a connection that is open.
///
/// # Errors
/// Whatever refuses it.
pub async fn over(
    stream: TcpStream,
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    TlsConnector::from(config).connect(ServerName::from(address.ip()), stream).await
}

/// What a client believes and shows.
pub fn client(ca: &str, pair: Option<&Issued>, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).expect("PEM")).expect("a certificate");
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).expect("a version");
    let builder = builder.with_root_certificates(roots);
    let mut config = match pair {
        None => builder.with_no_client_auth(),
        Some(Issued { certificate, key }) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(chain, key).expect("a pair")
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// The next frame; none at the end of the connection, however it came.
pub async fn hear(from: &mut (impl AsyncRead + Unpin)) -> Option<Frame> {
    let mut header = [0; 9];
    from.read_exact(&mut header).await.ok()?;
    let [high, middle, low, kind, flags, stream @ ..] = header;
    let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
    from.read_exact(&mut payload).await.ok()?;
    Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
}

/// Every frame until the end of the connection.
pub async fn hear_all(from: &mut (impl AsyncRead + Unpin)) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some(frame) = hear(from).await {
        frames.push(frame);
    }
    frames
}
