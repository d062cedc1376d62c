//! WattTime, version 3: short-run marginal emissions (`co2_moer`), each five minutes, in pounds of CO2 per MWh.
//!
//! `/login` turns name and password (HTTP basic) into a token that is good for half an hour; `/v3/historical` answers 32 days
//! at most, `/v3/forecast` the day to come. Times are those of the beginning of the period.

use super::{Ask, Cell, Provider, Unread, address, document, encoded, iso, list, parts, plain};
use crate::factor::feed::Feed;
use crate::factor::mapping::{Mapping, RawCell};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use joulebook_sci::quantity::Quantity;
use joulebook_units::{UnixNanos, Window};

const ADDRESS: &str = "https://api.watttime.org";
/// Longest window of one question.
const DAYS: i64 = 32;
/// Length of a period.
const PERIOD_SECONDS: i64 = 300;
const UNIT: &str = "lbs_co2_per_mwh";

pub(super) struct WattTime {
    address: String,
    region: String,
}

impl WattTime {
    pub(super) fn new(feed: &Feed) -> Self {
        Self { address: address(feed, ADDRESS), region: feed.subject.zone.clone() }
    }
}

impl Provider for WattTime {
    fn login(&self, secret: &str) -> Result<Option<Ask>, Unread> {
        let mut lines = secret.lines().map(str::trim).filter(|line| !line.is_empty());
        let (Some(user), Some(password), None) = (lines.next(), lines.next(), lines.next()) else {
            return Err(Unread::Refused("the secret must be name and password, in two lines".to_owned()));
        };
        let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
        let url = format!("{}/login", self.address);
        Ok(Some(Ask { url, headers: vec![("authorization".into(), basic)], secret: true }))
    }

    fn asks(&self, window: Window, now: UnixNanos, secret: &str) -> Vec<Ask> {
        let (address, region) = (&self.address, encoded(&self.region));
        let ask = |url: String| Ask {
            url,
            headers: vec![("authorization".into(), format!("Bearer {secret}"))],
            secret: true,
        };
        let past = Window::new(window.start(), window.end().min(now).max(window.start())).unwrap_or(window);
        let mut asks: Vec<Ask> = parts(past, DAYS * 86_400)
            .into_iter()
            .map(|part| {
                let (start, end) = (iso(part.start()), iso(part.end()));
                let query = format!("region={region}&signal_type=co2_moer&start={start}&end={end}");
                ask(format!("{address}/v3/historical?{query}"))
            })
            .collect();
        asks.push(ask(format!("{address}/v3/forecast?region={region}&signal_type=co2_moer")));
        asks
    }

    fn read(&self, body: &[u8]) -> Result<Vec<Cell>, Unread> {
        let document = document(body)?;
        let meta = |field: &str| document.pointer(&format!("/meta/{field}")).map(plain).unwrap_or_default();
        if meta("region") != self.region {
            return Err(Unread::Refused(format!("it speaks of region `{}`, not of `{}`", meta("region"), self.region)));
        }
        if meta("units") != UNIT {
            return Err(Unread::Strange(format!("values are in `{}`, not in {UNIT}", meta("units"))));
        }
        let forecast = document.pointer("/meta/generated_at").is_some();
        let raw: Vec<RawCell> = list(&document, "/data")?
            .iter()
            .zip(1..)
            .map(|(item, line)| RawCell {
                line,
                start: item.get("point_time").map(plain).unwrap_or_default(),
                end: None,
                value: item.get("value").map(plain).unwrap_or_default(),
                status: Some(if forecast { "forecast" } else { "measured" }.to_owned()),
            })
            .collect();
        if raw.is_empty() {
            return Ok(Vec::new());
        }
        let pounds = Mapping::in_unit("lb/MWh");
        Ok(pounds.cells_each(&raw, Quantity::Intensity, PERIOD_SECONDS)?.cells)
    }
}
