//! One connection of an exporter: HTTP/1.1 or HTTP/2, gRPC or plain, a request after the other.
//!
//! Memory is bounded by the requests that are read at a time, over all connections, not by who connects.

use super::super::socket::ProcessId;
use super::super::told::Refusal;
use super::answer::{self, Answer, Fault, Manner};
use super::head::{Watched, overdue};
use super::{Delivery, Event};
use crate::clock::Clock;
use bytes::{Buf, Bytes, BytesMut};
use flate2::read::GzDecoder;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use joulebook_units::BootNanos;
use std::convert::Infallible;
use std::io::Read;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

/// Path of the method in gRPC, and of metrics over plain HTTP.
const GRPC: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
const HTTP: &str = "/v1/metrics";
/// Bytes of a request, compressed and not.
const MOST_BYTES: usize = 2 << 20;
/// Bytes in front of a message in gRPC: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// From its head on, a request takes no longer.
const SLOWEST: Duration = Duration::from_secs(5);
/// A connection without a request is closed after so long; exporters send once in a minute, or more often.
const SILENCE: Duration = Duration::from_secs(120);
/// Requests of a connection in a second.
const MOST_A_SECOND: u32 = 20;
/// Bytes and number of headers.
const HEADER_BYTES: u32 = 16 << 10;
const HEADERS: usize = 64;

/// Requests of all connections that are read at a time.
pub(super) const MOST_READING: usize = 4;

/// One exporter.
pub(super) struct Connection {
    /// Who it is, or why that is not known.
    pub process: Result<ProcessId, Refusal>,
    pub connected: BootNanos,
    pub clock: Arc<dyn Clock>,
    pub events: mpsc::Sender<Event>,
    pub reading: Arc<Semaphore>,
}

/// A request that is not taken, and why.
struct Refused {
    fault: Fault,
    refusal: Refusal,
}

impl Refused {
    fn new(fault: Fault, reason: &'static str, why: &str) -> Self {
        Self { fault, refusal: Refusal { reason, why: why.to_owned() } }
    }

    fn too_large() -> Self {
        Self::new(Fault::TooLarge, "limit", "a request holds at most 2097152 bytes, and so when it is unpacked")
    }
}

impl Connection {
    /// Serves it to its end.
    pub async fn serve<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, io: I) {
        let clock = Arc::clone(&self.clock);
        let (calls, mut called) = watch::channel(0_u64);
        let pace = Mutex::new(Pace { second: self.connected, calls: 0 });
        let events = self.events.clone();
        let this = Arc::new((self, pace, calls));
        let service = service_fn(move |request| {
            let (this, now) = (Arc::clone(&this), clock.boot());
            async move {
                let (connection, pace, calls) = &*this;
                calls.send_modify(|calls| *calls += 1);
                let in_pace = pace.lock().unwrap_or_else(PoisonError::into_inner).take(now);
                let answer = connection.answer(request, in_pace).await;
                calls.send_modify(|calls| *calls += 1);
                Ok::<_, Infallible>(answer)
            }
        });
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new()).header_read_timeout(SLOWEST).max_headers(HEADERS).max_buf_size(64 << 10);
        http.http2()
            .timer(TokioTimer::new())
            // An exporter waits for its answer before the next export.
            .max_concurrent_streams(1)
            .max_header_list_size(HEADER_BYTES)
            .max_pending_accept_reset_streams(20)
            .max_local_error_reset_streams(128)
            .max_send_buf_size(64 << 10);
        let (io, mut unfinished) = Watched::new(io);
        let mut http = pin!(http.serve_connection(TokioIo::new(io), service));
        loop {
            tokio::select! {
                ended = http.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(error, "a connection of an exporter ended");
                        // After a request, silence is what there is between two.
                        if *called.borrow() == 0 && is_slow(error.as_ref()) {
                            refuse_slow(&events).await;
                        }
                    }
                    return;
                }
                () = overdue(&mut unfinished, SLOWEST) => return refuse_slow(&events).await,
                quiet = timeout(SILENCE, called.changed()) => if !matches!(quiet, Ok(Ok(()))) {
                    return;
                },
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>, in_pace: bool) -> Response<Answer> {
        let is_grpc = header(request.headers(), &CONTENT_TYPE).starts_with("application/grpc");
        let manner = if is_grpc { Manner::Grpc } else { Manner::Http };
        let refused = match self.take(request, manner, in_pace).await {
            Ok(refused) => return answer::taken(manner, &refused),
            Err(refused) => refused,
        };
        let Refused { fault, refusal } = refused;
        let response = answer::refused(manner, fault, &refusal.why);
        // Without an owner the agent stops.
        let _ = self.events.send(Event::Refused(refusal)).await;
        response
    }

    /// Takes a request; gives the data points that were refused.
    async fn take(&self, request: Request<Incoming>, manner: Manner, in_pace: bool) -> Result<Vec<Refusal>, Refused> {
        let process = self.process.clone().map_err(|refusal| Refused { fault: Fault::Forbidden, refusal })?;
        if !in_pace {
            return Err(Refused::new(Fault::Busy, "rate", "more than 20 exports in a second; export less often"));
        }
        let packing = accepts(&request, manner)?;
        let busy = || Refused::new(Fault::Busy, "rate", "other exports are being read; send it again");
        let read = timeout(SLOWEST, async {
            let room = self.reading.acquire().await.map_err(|_| busy())?;
            let body = whole(request.into_body()).await?;
            let body = match manner {
                Manner::Http => unpack(body, packing)?,
                Manner::Grpc => unframe(body, packing)?,
            };
            Ok((body, room))
        });
        let slow = || Refused::new(Fault::Slow, "timeout", "a request must come within 5 s");
        let (body, _room) = read.await.map_err(|_| slow())??;
        let (answer, answered) = oneshot::channel();
        let delivery = Delivery { process, connected: self.connected, body, answer };
        let stops = || Refused::new(Fault::Busy, "limit", "the agent stops");
        self.events.send(Event::Export(delivery)).await.map_err(|_| stops())?;
        let taken = answered.await.map_err(|_| stops())?;
        taken.map_err(|refusal| Refused { fault: Fault::of(&refusal), refusal })
    }
}

async fn refuse_slow(events: &mpsc::Sender<Event>) {
    let slow = Refused::new(Fault::Slow, "timeout", "a request's head must come within 5 s");
    // Without an owner the agent stops.
    let _ = events.send(Event::Refused(slow.refusal)).await;
}

/// Whether a connection ended since a head did not.
fn is_slow(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout)
}

/// Calls in the running second.
struct Pace {
    second: BootNanos,
    calls: u32,
}

impl Pace {
    fn take(&mut self, now: BootNanos) -> bool {
        if now.since(self.second) >= Duration::from_secs(1) {
            *self = Self { second: now, calls: 0 };
        }
        self.calls += 1;
        self.calls <= MOST_A_SECOND
    }
}

/// How a message is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Whether the head is that of an export, and how its message is packed.
fn accepts(request: &Request<Incoming>, manner: Manner) -> Result<Packing, Refused> {
    let (headers, grpc) = (request.headers(), HeaderName::from_static("grpc-encoding"));
    let (path, encoding) = match manner {
        Manner::Grpc => (GRPC, header(headers, &grpc)),
        Manner::Http => (HTTP, header(headers, &CONTENT_ENCODING)),
    };
    if request.uri().path() != path {
        return Err(Refused::new(Fault::NoSuchPath, "form", "metrics alone are taken, at /v1/metrics or over gRPC"));
    }
    if request.method() != Method::POST {
        return Err(Refused::new(Fault::Method, "form", "an export is a POST"));
    }
    let content = header(headers, &CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
    if manner == Manner::Http && content != "application/x-protobuf" {
        let why = "the content of an export is application/x-protobuf, or of gRPC";
        return Err(Refused::new(Fault::Unsupported, "form", why));
    }
    match encoding {
        "" | "identity" => Ok(Packing::Plain),
        "gzip" => Ok(Packing::Gzip),
        _ => Err(Refused::new(Fault::Unsupported, "form", "a message is packed with gzip or not at all")),
    }
}

/// The whole body, if it is within the limit.
async fn whole(mut body: Incoming) -> Result<Bytes, Refused> {
    if body.size_hint().lower() > (MOST_BYTES + PREFIX) as u64 {
        return Err(Refused::too_large());
    }
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refused::new(Fault::Invalid, "form", "the request was cut off"))?;
        let Ok(data) = frame.into_data() else { continue };
        if all.len() + data.len() > MOST_BYTES + PREFIX {
            return Err(Refused::too_large());
        }
        all.extend_from_slice(&data);
    }
    Ok(all.freeze())
}

/// The one message of a gRPC call.
fn unframe(mut body: Bytes, packing: Packing) -> Result<Bytes, Refused> {
    let wrong = || Refused::new(Fault::Invalid, "form", "a call holds exactly one message");
    let packed = body.try_get_u8().map_err(|_| wrong())?;
    let length = body.try_get_u32().map_err(|_| wrong())?;
    if u64::from(length) > MOST_BYTES as u64 {
        return Err(Refused::too_large());
    }
    if length as usize != body.len() || packed > 1 {
        return Err(wrong());
    }
    unpack(body, if packed == 1 { packing } else { Packing::Plain })
}

fn unpack(body: Bytes, packing: Packing) -> Result<Bytes, Refused> {
    if packing == Packing::Plain {
        return if body.len() > MOST_BYTES { Err(Refused::too_large()) } else { Ok(body) };
    }
    let mut plain = Vec::new();
    let mut limited = GzDecoder::new(&body[..]).take(MOST_BYTES as u64 + 1);
    limited.read_to_end(&mut plain).map_err(|_| Refused::new(Fault::Invalid, "form", "the message is no gzip"))?;
    if plain.len() > MOST_BYTES { Err(Refused::too_large()) } else { Ok(plain.into()) }
}
