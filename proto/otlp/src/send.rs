//! One message to a receiver, by gRPC or HTTP, within a limit of time.
//!
//! Certificates and headers are read anew with each connection, so that what is renewed is taken over. What may be tried
//! again follows the protocol's specification (OTLP 1.x, "Failures"). Messages are encoded already: the calls of gRPC take bytes.

use crate::http::{Ask, FetchError, Fetcher, OwnIdentity, system_ca};
use crate::section::{OtlpError, OtlpSection, Protocol};
use crate::sender::UnixClock;
use crate::signal::{Message, Signal};
use bytes::{BufMut, Bytes};
use hyper::Uri;
use hyper::http::uri::PathAndQuery;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message as _;
use std::fs;
use std::time::Duration;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{Ascii, MetadataKey, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

/// Codes of gRPC and statuses of HTTP after which the same message may be sent again. The last one is none of the
/// specification's: a connection that breaks in the middle of a call ends with it.
const AGAIN: [Code; 8] = [
    Code::Cancelled,
    Code::DeadlineExceeded,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unavailable,
    Code::DataLoss,
    Code::ResourceExhausted,
    Code::Unknown,
];
const AGAIN_HTTP: [u16; 4] = [429, 502, 503, 504];

/// What became of a message.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It was taken, but for some points.
    Taken {
        /// Points that the receiver says it did not take.
        rejected: usize,
    },
    /// It was not, and may be sent again.
    Again {
        /// Why.
        why: String,
        /// How long the receiver wants to be left alone.
        after: Option<Duration>,
    },
    /// It will never be.
    Refused(String),
}

/// A receiver.
pub(crate) struct Receiver {
    section: OtlpSection,
    signal: Signal,
    url: Uri,
    clock: UnixClock,
    channel: Option<Channel>,
}

impl Receiver {
    pub(crate) fn new(section: &OtlpSection, signal: Signal, clock: UnixClock) -> Result<Self, OtlpError> {
        let url = section.url(signal)?;
        let this = Self { section: section.clone(), signal, url, clock, channel: None };
        this.headers()?;
        if this.section.protocol == Protocol::Grpc {
            this.endpoint()?;
        }
        Ok(this)
    }

    /// Sends a message once.
    pub(crate) async fn deliver(&mut self, message: &Message) -> Outcome {
        let outcome = match self.section.protocol {
            Protocol::Grpc => self.call(message.body.clone()).await,
            Protocol::Http => self.post(message.body.clone()).await,
        };
        if !matches!(outcome, Outcome::Taken { .. }) {
            // The next one begins with what the files hold then.
            self.channel = None;
        }
        outcome
    }

    async fn call(&mut self, body: Bytes) -> Outcome {
        let again = |error: OtlpError| Outcome::Again { why: error.to_string(), after: None };
        let channel = match self.channel.clone().map_or_else(|| self.endpoint().map(|it| it.connect_lazy()), Ok) {
            Ok(channel) => channel,
            Err(error) => return again(error),
        };
        self.channel = Some(channel.clone());
        let mut request = tonic::Request::new(body);
        match self.headers() {
            Ok(headers) => {
                for (name, value) in headers {
                    let name = MetadataKey::<Ascii>::from_bytes(name.as_bytes());
                    let (Ok(name), Ok(value)) = (name, MetadataValue::try_from(value)) else {
                        return Outcome::Again { why: "a header cannot be sent".to_owned(), after: None };
                    };
                    request.metadata_mut().insert(name, value);
                }
            }
            Err(error) => return again(error),
        }
        let path = PathAndQuery::from_static(self.signal.call());
        let called = async move {
            let mut client = Grpc::new(channel);
            client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            client.unary(request, path, Encoded).await
        };
        let answered = tokio::time::timeout(self.section.timeout, called).await;
        match answered {
            Ok(Ok(response)) => taken(response.get_ref()),
            Ok(Err(status)) => failed(&status),
            Err(_) => Outcome::Again { why: format!("no answer within {:?}", self.section.timeout), after: None },
        }
    }

    async fn post(&self, body: Bytes) -> Outcome {
        let headers = match self.headers() {
            Ok(headers) => headers,
            Err(error) => return Outcome::Again { why: error.to_string(), after: None },
        };
        let secret = !headers.is_empty();
        let headers = headers.into_iter().chain([("content-type".to_owned(), "application/x-protobuf".to_owned())]);
        let ask = Ask {
            url: self.url.to_string(),
            headers: headers.map(|(name, value)| (name.into(), value)).collect(),
            secret,
        };
        let fetcher = Fetcher::new(self.section.ca_file.clone()).within(self.section.timeout);
        let fetcher = match self.identity() {
            Ok(identity) => fetcher.showing(identity),
            Err(error) => return Outcome::Again { why: error.to_string(), after: None },
        };
        match fetcher.post(&ask, body, (self.clock)()).await {
            // Some receivers answer with nothing, or with something else: it was taken all the same.
            Ok(body) => taken(&ExportMetricsServiceResponse::decode(body.as_slice()).unwrap_or_default()),
            Err(FetchError::Status { code, retry_after, said, .. }) if AGAIN_HTTP.contains(&code) => {
                Outcome::Again { why: format!("{code}: {said}"), after: retry_after }
            }
            Err(error @ FetchError::Status { .. }) => Outcome::Refused(error.to_string()),
            Err(error) => Outcome::Again { why: error.to_string(), after: None },
        }
    }

    /// Headers, read anew.
    fn headers(&self) -> Result<Vec<(String, String)>, OtlpError> {
        let Some(path) = &self.section.headers_file else { return Ok(vec![]) };
        let text = read(path).and_then(|bytes| {
            String::from_utf8(bytes).map_err(|_| OtlpError::Header { path: path.clone(), line: 1 })
        })?;
        let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
        lines
            .map(|(text, line)| {
                let bad = || OtlpError::Header { path: path.clone(), line };
                let (name, value) = text.split_once(':').ok_or_else(bad)?;
                let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().to_owned());
                let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
                let visible = |byte: u8| (b' '..=b'~').contains(&byte);
                if name.is_empty() || !name.bytes().all(token) || !value.bytes().all(visible) {
                    return Err(bad());
                }
                Ok((name, value))
            })
            .collect()
    }

    /// The own certificate and its key, where the receiver wants to see one.
    fn identity(&self) -> Result<Option<OwnIdentity>, OtlpError> {
        match (&self.section.certificate, &self.section.key) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => Ok(Some((read(certificate)?, read(key)?))),
            _ => Err(OtlpError::Pair),
        }
    }

    fn endpoint(&self) -> Result<Endpoint, OtlpError> {
        let endpoint = Endpoint::from_shared(self.url.to_string());
        let endpoint = endpoint.map_err(|_| OtlpError::Endpoint(self.url.to_string()))?;
        let endpoint = endpoint.connect_timeout(self.section.timeout);
        if self.url.scheme_str() != Some("https") {
            return Ok(endpoint);
        }
        let path = self.section.ca_file.clone().unwrap_or_else(system_ca);
        let host = self.url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&path)?)).domain_name(host);
        let tls = match self.identity()? {
            Some((certificate, key)) => tls.identity(Identity::from_pem(certificate, key)),
            None => tls,
        };
        endpoint.tls_config(tls).map_err(|error| OtlpError::Tls(error.to_string()))
    }
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, OtlpError> {
    fs::read(path).map_err(|source| OtlpError::File { path: path.to_owned(), source })
}

fn taken(response: &ExportMetricsServiceResponse) -> Outcome {
    let rejected = response.partial_success.as_ref().map_or(0, |part| part.rejected_data_points);
    Outcome::Taken { rejected: usize::try_from(rejected).unwrap_or_default() }
}

fn failed(status: &Status) -> Outcome {
    let why = format!("{:?}: {}", status.code(), status.message());
    if AGAIN.contains(&status.code()) { Outcome::Again { why, after: None } } else { Outcome::Refused(why) }
}

/// Messages that are encoded, and the answer that all signals share.
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = ExportMetricsServiceResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = ExportMetricsServiceResponse;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        // Some receivers answer with something else: it was taken all the same.
        Ok(Some(ExportMetricsServiceResponse::decode(buffer).unwrap_or_default()))
    }
}
