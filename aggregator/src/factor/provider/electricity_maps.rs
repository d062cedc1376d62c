//! Electricity Maps, version 3: flow-traced average of consumption, hourly, g CO2e/kWh over the life cycle.
//!
//! `/carbon-intensity/past-range` answers ten days at most and marks what is estimated, `/carbon-intensity/forecast` the days
//! to come. The token goes in the header `auth-token`. Times are those of the beginning of the hour.

use super::{Ask, Cell, Provider, Unread, address, document, encoded, iso, list, parts, plain};
use crate::factor::feed::Feed;
use crate::factor::mapping::{Mapping, RawCell};
use joulebook_sci::quantity::Quantity;
use joulebook_units::{UnixNanos, Window};

const ADDRESS: &str = "https://api.electricitymaps.com/v3";
/// Longest window of one question.
const DAYS: i64 = 10;

pub(super) struct ElectricityMaps {
    address: String,
    zone: String,
}

impl ElectricityMaps {
    pub(super) fn new(feed: &Feed) -> Self {
        Self { address: address(feed, ADDRESS), zone: feed.subject.zone.clone() }
    }
}

impl Provider for ElectricityMaps {
    fn asks(&self, window: Window, now: UnixNanos, secret: &str) -> Vec<Ask> {
        let (address, zone) = (&self.address, encoded(&self.zone));
        let ask = |url: String| Ask { url, headers: vec![("auth-token".into(), secret.to_owned())], secret: true };
        let past = Window::new(window.start(), window.end().min(now).max(window.start())).unwrap_or(window);
        let mut asks: Vec<Ask> = parts(past, DAYS * 86_400)
            .into_iter()
            .map(|part| {
                let (start, end) = (iso(part.start()), iso(part.end()));
                ask(format!("{address}/carbon-intensity/past-range?zone={zone}&start={start}&end={end}"))
            })
            .collect();
        asks.push(ask(format!("{address}/carbon-intensity/forecast?zone={zone}")));
        asks
    }

    fn read(&self, body: &[u8]) -> Result<Vec<Cell>, Unread> {
        let document = document(body)?;
        let zone = document.get("zone").and_then(|zone| zone.as_str()).unwrap_or_default();
        if zone != self.zone {
            return Err(Unread::Refused(format!("it speaks of zone `{zone}`, not of `{}`", self.zone)));
        }
        let forecast = document.get("forecast").is_some();
        let items = list(&document, if forecast { "/forecast" } else { "/data" })?;
        let mut raw = Vec::with_capacity(items.len());
        for (item, line) in items.iter().zip(1..) {
            // An hour that is not known yet.
            let Some(value) = item.get("carbonIntensity").filter(|value| !value.is_null()) else { continue };
            let estimated = item.get("isEstimated").and_then(|flag| flag.as_bool()).unwrap_or(false);
            let status = match (forecast, estimated) {
                (true, _) => "forecast",
                (_, true) => "estimated",
                _ => "measured",
            };
            raw.push(RawCell {
                line,
                start: item.get("datetime").map(plain).unwrap_or_default(),
                end: None,
                value: plain(value),
                status: Some(status.to_owned()),
            });
        }
        if raw.is_empty() {
            return Ok(Vec::new());
        }
        // Grams, by its documentation: a small value is a clean grid's.
        let grams = Mapping::in_unit("g/kWh");
        Ok(grams.cells(&raw, Quantity::Intensity)?.cells)
    }
}
