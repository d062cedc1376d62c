//! How an export is answered, over gRPC and over plain HTTP (OTLP 1.x, "OTLP/gRPC" and "OTLP/HTTP").

use super::super::told::Refusal;
use bytes::{BufMut, Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use prost::Message;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// `ExportMetricsServiceResponse`.
#[derive(Clone, PartialEq, Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

/// `ExportMetricsPartialSuccess`.
#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_data_points: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

/// `google.rpc.Status`, the body of a refusal over plain HTTP.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// How the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// gRPC.
    Grpc,
    /// A message in a POST.
    Http,
}

/// Why an export was not taken at all, as a client is told: gRPC's code and HTTP's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is wrong, and would be again.
    Invalid,
    /// It is larger than is taken.
    TooLarge,
    /// Who sends it may not, or is not known.
    Forbidden,
    /// Now is not the time: it may be sent again.
    Busy,
    /// It came too slowly.
    Slow,
    /// Nothing is here.
    NoSuchPath,
    /// Only POST.
    Method,
    /// Another kind of content, or another compression.
    Unsupported,
}

impl Fault {
    /// The fault that a reason of a refusal is.
    pub fn of(refusal: &Refusal) -> Self {
        match refusal.reason {
            "peer" => Self::Forbidden,
            "rate" => Self::Busy,
            _ => Self::Invalid,
        }
    }

    fn codes(self) -> (i32, StatusCode) {
        match self {
            Self::Invalid => (3, StatusCode::BAD_REQUEST),
            Self::TooLarge => (8, StatusCode::PAYLOAD_TOO_LARGE),
            Self::Forbidden => (7, StatusCode::FORBIDDEN),
            Self::Busy => (14, StatusCode::SERVICE_UNAVAILABLE),
            Self::Slow => (4, StatusCode::REQUEST_TIMEOUT),
            Self::NoSuchPath => (12, StatusCode::NOT_FOUND),
            Self::Method => (12, StatusCode::METHOD_NOT_ALLOWED),
            Self::Unsupported => (12, StatusCode::UNSUPPORTED_MEDIA_TYPE),
        }
    }
}

/// A body of at most one piece, and trailers.
#[derive(Debug, Default)]
pub struct Answer {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(data) = self.data.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
}

/// The export was taken, but for these data points.
pub fn taken(manner: Manner, refused: &[Refusal]) -> Response<Answer> {
    let partial_success = refused.first().map(|first| PartialSuccess {
        rejected_data_points: i64::try_from(refused.len()).unwrap_or(i64::MAX),
        error_message: format!("{}: {}", first.reason, first.why),
    });
    let message = ExportResponse { partial_success }.encode_to_vec();
    match manner {
        Manner::Http => respond(StatusCode::OK, "application/x-protobuf", Some(message.into()), None),
        Manner::Grpc => {
            let mut data = BytesMut::with_capacity(5 + message.len());
            data.put_u8(0);
            // An answer is a few hundred bytes.
            data.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
            data.put_slice(&message);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            respond(StatusCode::OK, "application/grpc", Some(data.freeze()), Some(trailers))
        }
    }
}

/// Nothing of the export was taken.
pub fn refused(manner: Manner, fault: Fault, why: &str) -> Response<Answer> {
    let (code, status) = fault.codes();
    match manner {
        Manner::Http => {
            let message = Status { code, message: why.to_owned() }.encode_to_vec();
            let mut response = respond(status, "application/x-protobuf", Some(message.into()), None);
            if fault == Fault::Busy {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            response
        }
        Manner::Grpc => {
            let mut response = respond(StatusCode::OK, "application/grpc", None, None);
            response.headers_mut().insert("grpc-status", HeaderValue::from(code));
            // A header holds printable ASCII, and % would begin an escape.
            let printable = |byte: char| if (' '..='~').contains(&byte) && byte != '%' { byte } else { '?' };
            if let Ok(why) = HeaderValue::from_str(&why.chars().map(printable).collect::<String>()) {
                response.headers_mut().insert("grpc-message", why);
            }
            if fault == Fault::Unsupported {
                response.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static("identity,gzip"));
            }
            response
        }
    }
}

fn respond(
    status: StatusCode,
    content_type: &'static str,
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
) -> Response<Answer> {
    let mut response = Response::new(Answer { data, trailers });
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
