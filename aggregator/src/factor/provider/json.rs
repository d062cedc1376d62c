//! Any address that answers JSON, by a mapping. `{start}` and `{end}` in the address stand for the window.

use super::{Ask, Cell, Provider, Unread, address, document, iso, list, plain};
use crate::factor::feed::Feed;
use crate::factor::mapping::{Mapping, MappingError, RawCell};
use joulebook_sci::quantity::Quantity;
use joulebook_units::{UnixNanos, Window};
use serde_json::Value;

pub(super) struct Json {
    address: String,
    mapping: Mapping,
    quantity: Quantity,
}

impl Json {
    pub(super) fn new(feed: &Feed) -> Self {
        let (mapping, quantity) = (feed.config.mapping.clone(), feed.subject.quantity);
        Self { address: address(feed, ""), mapping, quantity }
    }
}

impl Provider for Json {
    fn asks(&self, window: Window, _now: UnixNanos, secret: &str) -> Vec<Ask> {
        let url = self.address.replace("{start}", &iso(window.start())).replace("{end}", &iso(window.end()));
        let headers =
            if secret.is_empty() { vec![] } else { vec![("authorization".into(), format!("Bearer {secret}"))] };
        vec![Ask { url, headers, secret: !secret.is_empty() }]
    }

    fn read(&self, body: &[u8]) -> Result<Vec<Cell>, Unread> {
        let document = document(body)?;
        let mapping = &self.mapping;
        let items = list(&document, mapping.items.as_deref().unwrap_or_default())?;
        let mut raw = Vec::with_capacity(items.len());
        for (item, line) in items.iter().zip(1..) {
            let start = needed(item, mapping.start.as_deref(), "start")?;
            let value = needed(item, mapping.value.as_deref(), "value")?;
            let optional = |name: &Option<String>| name.as_deref().and_then(|name| field(item, name)).map(plain);
            let (end, status) = (optional(&mapping.end), optional(&mapping.status));
            raw.push(RawCell { line, start, end, value, status });
        }
        Ok(mapping.cells(&raw, self.quantity)?.cells)
    }
}

/// A field by its name, or by a pointer.
fn field<'a>(item: &'a Value, name: &str) -> Option<&'a Value> {
    if name.starts_with('/') { item.pointer(name) } else { item.get(name) }
}

fn needed(item: &Value, named: Option<&str>, default: &str) -> Result<String, Unread> {
    let name = named.unwrap_or(default);
    let missing = || {
        let found = item.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default();
        Unread::Mapping(MappingError::Missing { name: name.to_owned(), found })
    };
    field(item, name).map(plain).ok_or_else(missing)
}
