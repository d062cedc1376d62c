//! The seam for sources of series: which questions fill a window, and what an answer says. One file each.

mod csv;
mod electricity_maps;
mod entsoe;
mod json;
mod neso;
mod prometheus;
mod watttime;

pub(super) use csv::read as read_csv;

pub use super::http::Ask;

use super::feed::{Feed, ProviderName};
use super::mapping::MappingError;
use jiff::Timestamp;
use joulebook_sci::series::Status;
use joulebook_units::{UnixNanos, Window};
use serde_json::Value;

/// A value over a time.
pub type Cell = (Window, f64, Status);

/// Why an answer holds no values.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Unread {
    /// It says, kindly or not, that it has none.
    #[error("the source refuses: {0}")]
    Refused(String),
    /// It is not what the source is documented to send.
    #[error("the answer cannot be read: {0}")]
    Strange(String),
    /// Its values are not used.
    #[error(transparent)]
    Mapping(#[from] MappingError),
}

/// A source.
pub trait Provider: Send + Sync {
    /// The question that turns name and password into a token, where that is needed.
    fn login(&self, _secret: &str) -> Result<Option<Ask>, Unread> {
        Ok(None)
    }

    /// The questions that fill a window, asked at `now`; `secret` is the token.
    fn asks(&self, window: Window, now: UnixNanos, secret: &str) -> Vec<Ask>;

    /// What an answer says. None where there is nothing yet.
    fn read(&self, body: &[u8]) -> Result<Vec<Cell>, Unread>;
}

/// The source of a feed; none for files and for what is pushed.
pub fn provider(feed: &Feed) -> Option<Box<dyn Provider>> {
    Some(match feed.provider? {
        ProviderName::Csv => return None,
        ProviderName::Json => Box::new(json::Json::new(feed)),
        ProviderName::Prometheus => Box::new(prometheus::Prometheus::new(feed)),
        ProviderName::ElectricityMaps => Box::new(electricity_maps::ElectricityMaps::new(feed)),
        ProviderName::Watttime => Box::new(watttime::WattTime::new(feed)),
        ProviderName::Neso => Box::new(neso::Neso::new(feed)),
        ProviderName::Entsoe => Box::new(entsoe::Entsoe::new(feed)),
    })
}

/// The address of a source: the configured one without its last slash, else its own.
fn address(feed: &Feed, own: &str) -> String {
    feed.config.url.as_deref().unwrap_or(own).trim_end_matches('/').to_owned()
}

/// Windows of at most `seconds` that make up a window.
fn parts(window: Window, seconds: i64) -> Vec<Window> {
    let (mut parts, mut start) = (Vec::new(), window.start());
    while start < window.end() {
        let end = start.plus_seconds(seconds).min(window.end());
        parts.extend(Window::new(start, end));
        start = end;
    }
    parts
}

/// RFC 3339 to the second, in UTC.
fn iso(at: UnixNanos) -> String {
    written(at, "%Y-%m-%dT%H:%M:%SZ")
}

/// An instant in UTC by a pattern.
fn written(at: UnixNanos, pattern: &str) -> String {
    Timestamp::from_nanosecond(i128::from(at.0)).map_or_else(|_| String::new(), |at| at.strftime(pattern).to_string())
}

/// A text as it may stand in a query.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut written, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => written.push(char::from(byte)),
            other => written.push_str(&format!("%{other:02X}")),
        }
        written
    })
}

/// The JSON document of an answer; one that only says that something is wrong is refused with what it says.
fn document(body: &[u8]) -> Result<Value, Unread> {
    let value: Value = serde_json::from_slice(body).map_err(|error| Unread::Strange(error.to_string()))?;
    for field in ["error", "errors", "message"] {
        if let Some(said) = value.get(field).filter(|said| !said.is_null()) {
            return Err(Unread::Refused(plain(said)));
        }
    }
    Ok(value)
}

/// A list in a document.
fn list<'a>(document: &'a Value, pointer: &str) -> Result<&'a Vec<Value>, Unread> {
    let found = document.pointer(pointer).and_then(Value::as_array);
    found.ok_or_else(|| Unread::Strange(format!("there is no list at `{pointer}`")))
}

/// A field as a text: numbers as they are written.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
