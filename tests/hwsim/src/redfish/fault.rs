//! What a BMC does wrong.

use super::shape::{placeholder, replace_readings};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::Method;
use hyper::body::{Body, Bytes, Frame};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use serde::Deserialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// One kind of wrong.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Each answer takes so many ms.
    Slow(u64),
    /// Every name, password and session is refused.
    #[serde(rename = "401")]
    Unauthorised,
    /// No further session is made.
    SessionLimit,
    /// 503, with the seconds after which to come again.
    #[serde(rename = "503")]
    Unavailable(Option<u64>),
    /// 429, with the seconds after which to come again.
    #[serde(rename = "429")]
    TooMany(u64),
    /// Answers end in the middle.
    Truncated,
    /// A login page where JSON belongs.
    Html,
    /// `null` where the power belongs.
    Null,
    /// The member that holds the power is not there.
    Absent,
    /// This text where the power belongs, whether or not it is JSON.
    Value(String),
    /// The sensors have stopped: the last value is shown for ever.
    Stale,
    /// Connections are closed as soon as they are made.
    Refuse,
    /// Connections are reset in the middle of an answer.
    #[serde(rename = "reset_conn")]
    ResetConnection,
    /// A body without an end.
    Endless,
    /// A document that is nested this deep.
    Deep(usize),
    /// A redirect to this address.
    Redirect(String),
}

/// An answer, regular or not.
#[derive(Debug)]
pub(super) enum Answer {
    /// Status, headers, body.
    Whole { status: u16, headers: HeaderMap, body: Vec<u8> },
    /// A body without an end.
    Endless,
    /// No answer at all.
    Reset,
}

impl Fault {
    /// What is answered instead of the regular answer; none where the fault is within it.
    pub(super) fn answer(&self, method: &Method, path: &str) -> Option<Answer> {
        let is_login = *method == Method::POST;
        Some(match self {
            Self::Unauthorised => Answer::error(401, "Base.1.12.NoValidSession"),
            Self::SessionLimit if is_login => Answer::error(503, "Base.1.12.SessionLimitExceeded"),
            Self::Unavailable(after) => later(503, *after),
            Self::TooMany(after) => later(429, Some(*after)),
            Self::ResetConnection | Self::Refuse => Answer::Reset,
            // The session is made as usual: what is wrong is what the BMC shows.
            _ if is_login || *method == Method::DELETE => return None,
            Self::Truncated => Answer::text("application/json", "{\"PowerControl\":[{\"PowerConsumedWatts\": 3"),
            Self::Html => Answer::text("text/html", "<html><body>Login</body></html>"),
            Self::Endless if path.ends_with("Power") => Answer::Endless,
            Self::Deep(depth) if path.ends_with("Power") => {
                let text = format!("{{\"PowerControl\":{}{}}}", "[".repeat(*depth), "]".repeat(*depth));
                Answer::text("application/json", &text)
            }
            Self::Redirect(to) => {
                let mut headers = HeaderMap::new();
                headers.insert(LOCATION, HeaderValue::from_str(to).ok()?);
                Answer::Whole { status: 302, headers, body: Vec::new() }
            }
            _ => return None,
        })
    }

    /// What the fault makes of a document.
    pub(super) fn distort(&self, mut document: Value) -> Value {
        match self {
            Self::Null => replace_readings(&mut document, &Value::Null),
            Self::Value(_) => replace_readings(&mut document, &json!(placeholder().parse::<f64>().unwrap_or_default())),
            Self::Absent => remove_readings(&mut document),
            _ => {}
        }
        document
    }
}

fn remove_readings(document: &mut Value) {
    match document {
        Value::Object(members) => {
            members.retain(|name, _| name != "PowerConsumedWatts" && name != "Reading");
            members.values_mut().for_each(remove_readings);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_readings),
        _ => {}
    }
}

fn later(status: u16, after: Option<u64>) -> Answer {
    let mut answer = Answer::error(status, "Base.1.12.ServiceTemporarilyUnavailable");
    if let (Answer::Whole { headers, .. }, Some(after)) = (&mut answer, after) {
        headers.insert(RETRY_AFTER, HeaderValue::from(after));
    }
    answer
}

impl Answer {
    pub(super) fn json(status: u16, body: &Value) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self::Whole { status, headers, body: body.to_string().into_bytes() }
    }

    pub(super) fn error(status: u16, code: &str) -> Self {
        Self::json(
            status,
            &json!({"error": {"code": code, "message": "", "@Message.ExtendedInfo": [{"MessageId": code}]}}),
        )
    }

    pub(super) fn empty(status: u16) -> Self {
        Self::Whole { status, headers: HeaderMap::new(), body: Vec::new() }
    }

    fn text(kind: &'static str, body: &str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        Self::Whole { status: 200, headers, body: body.as_bytes().to_vec() }
    }

    /// The same with one text in the place of another.
    pub(super) fn replacing(self, from: &str, to: &str) -> Self {
        let Self::Whole { status, headers, body } = self else { return self };
        let body = String::from_utf8_lossy(&body).replace(from, to).into_bytes();
        Self::Whole { status, headers, body }
    }

    pub(super) fn status(&self) -> u16 {
        match self {
            Self::Whole { status, .. } => *status,
            Self::Endless | Self::Reset => 200,
        }
    }

    pub(super) fn parts(self) -> (u16, HeaderMap, BoxBody<Bytes, Infallible>) {
        match self {
            Self::Whole { status, headers, body } => (status, headers, Full::new(Bytes::from(body)).boxed()),
            Self::Endless | Self::Reset => (200, HeaderMap::new(), Blanks.boxed()),
        }
    }
}

/// Blanks without an end.
struct Blanks;

impl Body for Blanks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b' '; 16 * 1024])))))
    }
}
