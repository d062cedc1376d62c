//! A query to a Prometheus server (`/api/v1/query_range`): one series of the quantity, each value from its instant to the
//! next.

use super::{Ask, Cell, Provider, Unread, address, document, encoded, list, parts, plain};
use crate::factor::feed::Feed;
use crate::factor::mapping::{Mapping, RawCell};
use joulebook_sci::quantity::Quantity;
use joulebook_units::{UnixNanos, Window};

/// A server answers no more points of a series.
const POINTS: i64 = 10_000;
const DEFAULT_STEP_SECONDS: i64 = 300;

pub(super) struct Prometheus {
    address: String,
    query: String,
    step: i64,
    mapping: Mapping,
    quantity: Quantity,
}

impl Prometheus {
    pub(super) fn new(feed: &Feed) -> Self {
        let step = feed.config.step.and_then(|step| i64::try_from(step.as_secs()).ok()).filter(|step| *step > 0);
        Self {
            address: address(feed, ""),
            query: feed.config.query.clone().unwrap_or_default(),
            step: step.unwrap_or(DEFAULT_STEP_SECONDS),
            mapping: feed.config.mapping.clone(),
            quantity: feed.subject.quantity,
        }
    }
}

impl Provider for Prometheus {
    fn asks(&self, window: Window, now: UnixNanos, secret: &str) -> Vec<Ask> {
        // Only steps that are over: a value that may still change is not asked for.
        let end = window.end().min(now).floor_to(self.step);
        let start = window.start().floor_to(self.step).min(end);
        let past = Window::new(start, end).unwrap_or(window);
        let seconds = |at: UnixNanos| at.0.div_euclid(UnixNanos::PER_SECOND);
        let url = |part: Window| {
            let (from, to) = (seconds(part.start()), seconds(part.end()) - self.step);
            let (query, step) = (encoded(&self.query), self.step);
            format!("{}/api/v1/query_range?query={query}&start={from}&end={to}&step={step}", self.address)
        };
        let headers =
            if secret.is_empty() { vec![] } else { vec![("authorization".into(), format!("Bearer {secret}"))] };
        let ask = |part: Window| Ask { url: url(part), headers: headers.clone(), secret: !secret.is_empty() };
        parts(past, self.step * POINTS).into_iter().map(ask).collect()
    }

    fn read(&self, body: &[u8]) -> Result<Vec<Cell>, Unread> {
        let document = document(body)?;
        let series = list(&document, "/data/result")?;
        let only = match series.as_slice() {
            [] => return Ok(Vec::new()),
            [only] => only,
            many => return Err(Unread::Refused(format!("the query has {} series, not one", many.len()))),
        };
        let mut raw = Vec::new();
        for (point, line) in list(only, "/values")?.iter().zip(1..) {
            let (Some(at), Some(value)) = (point.get(0).and_then(|at| at.as_f64()), point.get(1)) else {
                return Err(Unread::Strange(format!("point {line} is no pair")));
            };
            // Steps are whole seconds.
            #[allow(clippy::cast_possible_truncation, reason = "a time of this millennium, rounded")]
            let at = at.round() as i64;
            let (start, end) = (at.to_string(), Some((at + self.step).to_string()));
            raw.push(RawCell { line, start, end, value: plain(value), status: None });
        }
        if raw.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.mapping.cells(&raw, self.quantity)?.cells)
    }
}
