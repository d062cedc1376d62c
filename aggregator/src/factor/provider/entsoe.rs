//! ENTSO-E transparency platform: actual generation by type of source (document A75, process A16), from which the intensity
//! of production follows: Σ generation × intensity of the source ÷ Σ generation.
//!
//! One question may span a year, we ask for 30 days. The answer is XML: a series of each type, in a curve of which points
//! that repeat the one before may be left out (A03). Series of consumption (pumping) are left out. What has not arrived yet
//! is an acknowledgement with the reason 999.

use super::{Ask, Cell, Provider, Unread, address, encoded, parts, written};
use crate::factor::feed::Feed;
use crate::factor::mapping::instant;
use joulebook_sci::intensity::mix;
use joulebook_sci::quantity::Quantity;
use joulebook_sci::series::Status;
use joulebook_units::{GramsCo2ePerKwh, UnixNanos, Window};
use roxmltree::{Document, Node};
use std::collections::BTreeMap;

const ADDRESS: &str = "https://web-api.tp.entsoe.eu";
/// Longest window of one question.
const DAYS: i64 = 30;
/// Reason of an acknowledgement that there is nothing.
const NOTHING: &str = "999";
/// Most points of a period: a year of quarters of an hour.
const MOST_POINTS: i64 = 36_000;

/// Medians over the life cycle in g/kWh (IPCC AR5 WG III, annex III, table A.III.2): lignite and peat as coal, oil as coal for
/// want of a value there, waste as biomass, other as gas, other renewable as biomass, storage as hydro power.
const GENERATION: [(&str, f64); 20] = [
    ("B01", 230.0),
    ("B02", 820.0),
    ("B03", 490.0),
    ("B04", 490.0),
    ("B05", 820.0),
    ("B06", 820.0),
    ("B07", 820.0),
    ("B08", 820.0),
    ("B09", 38.0),
    ("B10", 24.0),
    ("B11", 24.0),
    ("B12", 24.0),
    ("B13", 17.0),
    ("B14", 12.0),
    ("B15", 230.0),
    ("B16", 48.0),
    ("B17", 230.0),
    ("B18", 12.0),
    ("B19", 11.0),
    ("B20", 490.0),
];

pub(super) struct Entsoe {
    address: String,
    domain: String,
    sources: BTreeMap<String, f64>,
}

impl Entsoe {
    pub(super) fn new(feed: &Feed) -> Self {
        let mut sources: BTreeMap<String, f64> =
            GENERATION.into_iter().map(|(code, grams)| (code.to_owned(), grams)).collect();
        sources.extend(feed.config.generation.clone());
        Self { address: address(feed, ADDRESS), domain: feed.subject.zone.clone(), sources }
    }
}

impl Provider for Entsoe {
    fn asks(&self, window: Window, now: UnixNanos, secret: &str) -> Vec<Ask> {
        let past = Window::new(window.start(), window.end().min(now).max(window.start())).unwrap_or(window);
        let (token, domain) = (encoded(secret), encoded(&self.domain));
        let ask = |part: Window| {
            let hour = |at: UnixNanos| written(at, "%Y%m%d%H%M");
            let period = format!("periodStart={}&periodEnd={}", hour(part.start()), hour(part.end()));
            let query = format!("documentType=A75&processType=A16&in_Domain={domain}&{period}");
            let url = format!("{}/api?securityToken={token}&{query}", self.address);
            Ask { url, headers: vec![], secret: true }
        };
        parts(past, DAYS * 86_400).into_iter().map(ask).collect()
    }

    fn read(&self, body: &[u8]) -> Result<Vec<Cell>, Unread> {
        let text = std::str::from_utf8(body).map_err(|error| Unread::Strange(error.to_string()))?;
        let document = Document::parse(text).map_err(|error| Unread::Strange(error.to_string()))?;
        let root = document.root_element();
        if root.tag_name().name() == "Acknowledgement_MarketDocument" {
            let reason = child(root, "Reason");
            let of = |name: &str| reason.and_then(|reason| text_of(reason, name)).unwrap_or_default();
            return if of("code") == NOTHING { Ok(Vec::new()) } else { Err(Unread::Refused(of("text"))) };
        }
        let mut generation: BTreeMap<(UnixNanos, UnixNanos), BTreeMap<String, f64>> = BTreeMap::new();
        for series in children(root, "TimeSeries") {
            let Some(domain) = text_of(series, "inBiddingZone_Domain.mRID") else { continue };
            if domain != self.domain {
                return Err(Unread::Refused(format!("it speaks of zone `{domain}`, not of `{}`", self.domain)));
            }
            let source = child(series, "MktPSRType").and_then(|kind| text_of(kind, "psrType"));
            let source = source.ok_or_else(|| Unread::Strange("a series without a source".to_owned()))?;
            for period in children(series, "Period") {
                for (window, megawatts) in points(period)? {
                    let mix = generation.entry((window.start(), window.end())).or_default();
                    *mix.entry(source.clone()).or_default() += megawatts;
                }
            }
        }
        generation.into_iter().filter_map(|(time, mix)| self.cell(time, &mix).transpose()).collect()
    }
}

impl Entsoe {
    /// The intensity of one time; none where nothing was generated.
    fn cell(
        &self,
        (start, end): (UnixNanos, UnixNanos),
        generation: &BTreeMap<String, f64>,
    ) -> Result<Option<Cell>, Unread> {
        let total: f64 = generation.values().sum();
        let Some(window) = Window::new(start, end).filter(|_| total > 0.0) else { return Ok(None) };
        let mut shares = Vec::with_capacity(generation.len());
        for (source, megawatts) in generation {
            let grams = self.sources.get(source);
            let grams = grams.ok_or_else(|| {
                Unread::Strange(format!("source `{source}` has no intensity; set generation.{source}"))
            })?;
            let grams = GramsCo2ePerKwh::new(*grams).map_err(|error| Unread::Strange(error.to_string()))?;
            shares.push((megawatts / total, grams));
        }
        let value = mix(shares).map_err(|error| Unread::Strange(error.to_string()))?;
        let value = Quantity::Intensity.check(value.get()).map_err(|error| Unread::Strange(error.to_string()))?;
        Ok(Some((window, value, Status::Measured)))
    }
}

/// Points of a period in MW, each over its time; a point that is left out repeats the one before.
fn points(period: Node<'_, '_>) -> Result<Vec<(Window, f64)>, Unread> {
    let strange = |what: &str| Unread::Strange(format!("a period without a proper {what}"));
    let interval = child(period, "timeInterval").ok_or_else(|| strange("timeInterval"))?;
    let at = |name: &str| text_of(interval, name).and_then(|text| instant(&text, None).ok());
    let (start, end) = at("start").zip(at("end")).ok_or_else(|| strange("timeInterval"))?;
    let minutes = match text_of(period, "resolution").as_deref() {
        Some("PT15M") => 15,
        Some("PT30M") => 30,
        Some("PT60M" | "PT1H") => 60,
        _ => return Err(strange("resolution")),
    };
    let length = i64::try_from(end.nanos_since(start)).unwrap_or(0) / (minutes * 60 * UnixNanos::PER_SECOND);
    if !(1..=MOST_POINTS).contains(&length) {
        return Err(strange("timeInterval"));
    }
    let mut known: BTreeMap<i64, f64> = BTreeMap::new();
    for point in children(period, "Point") {
        let position = text_of(point, "position").and_then(|text| text.parse().ok());
        let quantity = text_of(point, "quantity").and_then(|text| text.parse::<f64>().ok());
        let quantity = quantity.filter(|quantity| quantity.is_finite() && *quantity >= 0.0);
        let (position, quantity) = position.zip(quantity).ok_or_else(|| strange("point"))?;
        known.insert(position, quantity);
    }
    let over = |position: i64| {
        let start = start.plus_seconds((position - 1) * minutes * 60);
        Window::new(start, start.plus_seconds(minutes * 60))
    };
    let cell = |position: i64| Some((over(position)?, *known.range(..=position).next_back()?.1));
    Ok((1..=length).filter_map(cell).collect())
}

fn children<'a, 'd>(node: Node<'a, 'd>, name: &'static str) -> impl Iterator<Item = Node<'a, 'd>> {
    node.children().filter(move |child| child.tag_name().name() == name)
}

fn child<'a, 'd>(node: Node<'a, 'd>, name: &str) -> Option<Node<'a, 'd>> {
    node.children().find(|child| child.tag_name().name() == name)
}

fn text_of(node: Node<'_, '_>, name: &str) -> Option<String> {
    child(node, name)?.text().map(|text| text.trim().to_owned())
}
