//! What is noted of a span while it is open, and the fields of spans and events.

use crate::point::text;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use std::fmt::Debug;
use tracing::field::{Field, Visit};

/// Longest text of a field in bytes; more is cut.
const LONGEST: usize = 1_024;

/// What tells a span from all others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ids {
    pub(super) trace: [u8; 16],
    pub(super) span: [u8; 8],
}

/// A span that is open.
#[derive(Debug)]
pub(super) struct Noted {
    pub(super) ids: Ids,
    pub(super) parent: Option<[u8; 8]>,
    pub(super) start: u64,
    pub(super) fields: Fields,
}

impl Noted {
    /// One that begins at an instant, within another or for itself.
    pub(super) fn new(parent: Option<Ids>, start: u64) -> Self {
        let trace = parent.map_or_else(random::<16>, |parent| parent.trace);
        let ids = Ids { trace, span: random() };
        Self { ids, parent: parent.map(|parent| parent.span), start, fields: Fields::default() }
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without randomness the ids are all 0, which receivers take for none: nothing is mixed up.
    let _ = getrandom::fill(&mut bytes);
    bytes
}

/// Fields; `message` and `error` apart.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) message: String,
    pub(super) error: Option<String>,
    pub(super) attributes: Vec<KeyValue>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: any_value::Value) {
        let value = Some(AnyValue { value: Some(value) });
        self.attributes.push(KeyValue { key: field.name().to_owned(), value, ..KeyValue::default() });
    }

    fn put_text(&mut self, field: &Field, mut value: String) {
        if value.len() > LONGEST {
            let end = (0..=LONGEST).rev().find(|end| value.is_char_boundary(*end)).unwrap_or_default();
            value.truncate(end);
        }
        match field.name() {
            "message" => self.message = value,
            "error" | "why" => self.error = Some(value),
            name => self.attributes.push(text(name, &value)),
        }
    }
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, any_value::Value::IntValue(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match i64::try_from(value) {
            Ok(value) => self.put(field, any_value::Value::IntValue(value)),
            Err(_) => self.put_text(field, value.to_string()),
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, any_value::Value::DoubleValue(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, any_value::Value::BoolValue(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put_text(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put_text(field, format!("{value:?}"));
    }
}
