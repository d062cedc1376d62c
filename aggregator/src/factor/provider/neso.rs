//! Carbon intensity of Great Britain (National Energy System Operator): half hours, with imports, of what plants emit.
//!
//! `/intensity/FROM/TO` answers 14 days at most, with a forecast and, after the half hour, an actual value; a zone that is a
//! number is a region, which has forecasts only. No account is needed.

use super::{Ask, Cell, Provider, Unread, address, document, list, parts, plain, written};
use crate::factor::feed::Feed;
use crate::factor::mapping::{Mapping, RawCell};
use joulebook_sci::quantity::Quantity;
use joulebook_units::{UnixNanos, Window};

const ADDRESS: &str = "https://api.carbonintensity.org.uk";
/// Longest window of one question.
const DAYS: i64 = 14;
/// How far it looks ahead.
const AHEAD_SECONDS: i64 = 2 * 86_400;
const PATTERN: &str = "%Y-%m-%dT%H:%MZ";

pub(super) struct Neso {
    address: String,
    region: Option<u32>,
}

impl Neso {
    pub(super) fn new(feed: &Feed) -> Self {
        Self { address: address(feed, ADDRESS), region: feed.subject.zone.parse().ok() }
    }
}

impl Provider for Neso {
    fn asks(&self, window: Window, now: UnixNanos, _secret: &str) -> Vec<Ask> {
        let ahead = Window::new(window.start(), window.end().max(now.plus_seconds(AHEAD_SECONDS))).unwrap_or(window);
        let url = |part: Window| {
            let (from, to) = (written(part.start(), PATTERN), written(part.end(), PATTERN));
            match self.region {
                Some(region) => format!("{}/regional/intensity/{from}/{to}/regionid/{region}", self.address),
                None => format!("{}/intensity/{from}/{to}", self.address),
            }
        };
        parts(ahead, DAYS * 86_400).into_iter().map(|part| Ask { url: url(part), ..Ask::default() }).collect()
    }

    fn read(&self, body: &[u8]) -> Result<Vec<Cell>, Unread> {
        let document = document(body)?;
        let items = match self.region {
            Some(region) => {
                let found = document.pointer("/data/regionid").map(plain).unwrap_or_default();
                if found != region.to_string() {
                    return Err(Unread::Refused(format!("it speaks of region `{found}`, not of {region}")));
                }
                list(&document, "/data/data")?
            }
            None => list(&document, "/data")?,
        };
        let mut raw = Vec::new();
        for (item, line) in items.iter().zip(1..) {
            let known = |field: &str| item.pointer(&format!("/intensity/{field}")).filter(|value| !value.is_null());
            let (value, status) = match (known("actual"), known("forecast")) {
                (Some(actual), _) => (actual, "measured"),
                (None, Some(forecast)) => (forecast, "forecast"),
                (None, None) => continue,
            };
            raw.push(RawCell {
                line,
                start: item.get("from").map(plain).unwrap_or_default(),
                end: item.get("to").map(plain),
                value: plain(value),
                status: Some(status.to_owned()),
            });
        }
        if raw.is_empty() {
            return Ok(Vec::new());
        }
        let grams = Mapping::in_unit("g/kWh");
        Ok(grams.cells(&raw, Quantity::Intensity)?.cells)
    }
}
