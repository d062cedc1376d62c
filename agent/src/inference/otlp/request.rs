//! A request of metrics (`ExportMetricsServiceRequest`): the data points that are counted, and how many are not.
//!
//! What is wrong with a request as a whole (no message of this kind, text that is no UTF-8, more than the limits) refuses
//! all of it. What is wrong with a data point refuses that one.

use super::super::told::Refusal;
use super::bucket::Buckets;
use super::names::{Instrument, Known, Part, Parts, VERSION, nanos_per};
use super::party::Party;
use super::wire::{Malformed, Value, fields};
use bytes::BufMut;
use joulebook_units::CountKind;

/// Data points of one request, whatever they are of.
const MOST_POINTS: usize = 10_000;
/// Attributes of a data point, a resource or a scope.
const MOST_ATTRIBUTES: usize = 64;
/// Bytes of an attribute's name, a metric's name or a unit.
const MOST_NAME_BYTES: usize = 256;
/// Bytes of an attribute's value.
const MOST_VALUE_BYTES: usize = 1024;
/// Bytes of a model's name or a version.
const MOST_MODEL_BYTES: usize = 256;
/// Highest count that a number with a fraction holds exactly.
const EXACT: u64 = 1 << 53;
/// The flag of a data point without a value.
const NO_VALUE: u64 = 1;

/// What tells a series, or whoever exports it, from others: a hash, so that none takes more memory than another.
pub type Key = [u8; 16];

/// A data point that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point<'a> {
    /// The model.
    pub model: &'a str,
    /// The version, as it is told.
    pub version: Option<&'a str>,
    /// Resource and scope, which one reader in the process exports together.
    pub stream: Key,
    /// The series.
    pub series: Key,
    /// Whether the counts are since `start`; else since the point before.
    pub cumulative: bool,
    /// Since when it counts, in ns since 1970; 0 if that is not told.
    pub start: u64,
    /// When it was read, in the same way.
    pub time: u64,
    /// The counts, one or two of different kinds.
    pub counts: [Option<(CountKind, u64)>; 2],
    /// The buckets of its distribution that are kept, all of one kind.
    pub buckets: Vec<(CountKind, u64)>,
    /// Whom it was for.
    pub party: Party<'a>,
}

/// A request, read.
#[derive(Debug, Default)]
pub struct Export<'a> {
    /// The data points that count.
    pub points: Vec<Point<'a>>,
    /// Those that are refused, each with its reason.
    pub refused: Vec<Refusal>,
}

/// Resource or data point attributes.
struct Attributes<'a>(Vec<(&'a str, &'a [u8])>);

impl<'a> Attributes<'a> {
    /// Reads the key-value pairs in the field of this number.
    fn read(message: &'a [u8], number: u32) -> Result<Self, Refusal> {
        let mut all = Vec::new();
        for pair in fields(message).messages(number) {
            let (mut key, mut value): (&str, &[u8]) = ("", &[]);
            for field in fields(pair.map_err(malformed)?) {
                match field.map_err(malformed)? {
                    (1, name) => key = name.text().map_err(malformed)?,
                    (2, any) => value = any.bytes().map_err(malformed)?,
                    _ => {}
                }
            }
            if key.len() > MOST_NAME_BYTES || value.len() > MOST_VALUE_BYTES {
                return Err(Refusal::limit("an attribute has a name of at most 256 bytes and a value of at most 1024"));
            }
            // A text has to be one, whoever reads it.
            text(value)?;
            all.push((key, value));
            if all.len() > MOST_ATTRIBUTES {
                return Err(Refusal::limit("a data point, a resource or a scope has at most 64 attributes"));
            }
        }
        all.sort_unstable();
        Ok(Self(all))
    }

    /// A text; empty if there is none.
    fn get(&self, key: &str) -> &'a str {
        let found = self.0.iter().find(|(name, _)| *name == key);
        found.and_then(|(_, value)| text(value).ok().flatten()).unwrap_or_default()
    }

    fn is_ambiguous(&self) -> bool {
        self.0.windows(2).any(|pair| pair[0].0 == pair[1].0)
    }

    fn hash(&self, hasher: &mut blake3::Hasher) {
        for (key, value) in &self.0 {
            part(hasher, key.as_bytes());
            part(hasher, value);
        }
    }
}

/// The text of an attribute's value, if it is one.
fn text(value: &[u8]) -> Result<Option<&str>, Refusal> {
    let mut text = None;
    for field in fields(value) {
        if let (1, told) = field.map_err(malformed)? {
            text = Some(told.text().map_err(malformed)?);
        }
    }
    Ok(text)
}

/// A part of what is hashed, told from its neighbours by its length.
fn part(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    let mut length = [0; 8];
    (&mut length[..]).put_u64_le(bytes.len() as u64);
    hasher.update(&length).update(bytes);
}

fn key(hasher: &blake3::Hasher) -> Key {
    let mut key = Key::default();
    hasher.finalize_xof().fill(&mut key);
    key
}

fn malformed(malformed: Malformed) -> Refusal {
    Refusal::form(malformed.to_string())
}

/// Who exports: a resource and a scope.
struct Origin<'a> {
    version: &'a str,
    party: Party<'a>,
    hasher: blake3::Hasher,
}

/// A metric, its fields found.
#[derive(Default)]
struct Metric<'a> {
    name: &'a str,
    unit: &'a str,
    /// Number of its kind of data, and the data.
    data: Option<(u32, &'a [u8])>,
}

impl<'a> Metric<'a> {
    fn read(message: &'a [u8]) -> Result<Self, Refusal> {
        let mut metric = Self::default();
        for field in fields(message) {
            match field.map_err(malformed)? {
                (1, name) => metric.name = name.text().map_err(malformed)?,
                (3, unit) => metric.unit = unit.text().map_err(malformed)?,
                (number @ (5 | 7 | 9 | 10 | 11), data) => {
                    metric.data = Some((number, data.bytes().map_err(malformed)?))
                }
                _ => {}
            }
        }
        if metric.name.len() > MOST_NAME_BYTES || metric.unit.len() > MOST_NAME_BYTES {
            return Err(Refusal::limit("a metric has a name and a unit of at most 256 bytes"));
        }
        Ok(metric)
    }
}

/// Reads a request.
///
/// # Errors
/// It is refused as a whole: it is none, or it is beyond a limit.
pub fn read(body: &[u8]) -> Result<Export<'_>, Refusal> {
    let (mut export, mut points) = (Export::default(), 0);
    for resource_metrics in fields(body).messages(1) {
        let resource_metrics = resource_metrics.map_err(malformed)?;
        let mut hasher = blake3::Hasher::new();
        let (mut version, mut party) = ("", Party::default());
        for resource in fields(resource_metrics).messages(1) {
            let attributes = Attributes::read(resource.map_err(malformed)?, 1)?;
            attributes.hash(&mut hasher);
            version = attributes.get(VERSION);
            party = Party::read(|key| attributes.get(key));
        }
        for scope_metrics in fields(resource_metrics).messages(2) {
            let scope_metrics = scope_metrics.map_err(malformed)?;
            let mut hasher = hasher.clone();
            for scope in fields(scope_metrics).messages(1) {
                scope_of(scope.map_err(malformed)?, &mut hasher)?;
            }
            let origin = Origin { version, party, hasher };
            for metric in fields(scope_metrics).messages(2) {
                let metric = Metric::read(metric.map_err(malformed)?)?;
                read_metric(&metric, &origin, &mut points, &mut export)?;
            }
        }
    }
    Ok(export)
}

/// Name, version and attributes of a scope.
fn scope_of(scope: &[u8], hasher: &mut blake3::Hasher) -> Result<(), Refusal> {
    for field in fields(scope) {
        if let (1 | 2, told) = field.map_err(malformed)? {
            part(hasher, told.text().map_err(malformed)?.as_bytes());
        }
    }
    Attributes::read(scope, 3)?.hash(hasher);
    Ok(())
}

fn read_metric<'a>(
    metric: &Metric<'a>,
    origin: &Origin<'a>,
    points: &mut usize,
    export: &mut Export<'a>,
) -> Result<(), Refusal> {
    let Some((number, data)) = metric.data else { return Ok(()) };
    let known = Known::named(metric.name);
    let wrong = known.and_then(|known| wrong_kind(known, number, data).transpose()).transpose()?;
    let cumulative = temporality(data)?;
    for message in fields(data).messages(1) {
        let message = message.map_err(malformed)?;
        *points += 1;
        if *points > MOST_POINTS {
            return Err(Refusal::limit("a request holds at most 10000 data points"));
        }
        // The limits hold for all of them.
        let attributes = Attributes::read(message, attributes_field(number))?;
        let Some(known) = known else { continue };
        let point = match (wrong, cumulative) {
            (Some(why), _) => Err(Refusal::form(format!("{} {why}", metric.name))),
            (None, None) => Err(Refusal::form(format!("{} has no temporality", metric.name))),
            (None, Some(cumulative)) => {
                Number::read(number, message)?.point(known, metric, origin, &attributes, cumulative)
            }
        };
        match point {
            Ok(point) => export.points.extend(point),
            Err(refusal) => export.refused.push(refusal),
        }
    }
    Ok(())
}

/// Number of the field with the attributes of a data point, by the kind of data.
fn attributes_field(kind: u32) -> u32 {
    match kind {
        9 => 9,
        10 => 1,
        _ => 7,
    }
}

/// Why data of this kind is not what the metric has to be.
fn wrong_kind(known: Known, kind: u32, data: &[u8]) -> Result<Option<&'static str>, Refusal> {
    match (known.instrument(), kind) {
        (Instrument::Histogram, 9 | 10) => Ok(None),
        (Instrument::Histogram, _) => Ok(Some("must be a histogram")),
        (Instrument::Sum, 7) => {
            let mut monotonic = false;
            for field in fields(data) {
                if let (3, told) = field.map_err(malformed)? {
                    monotonic = told.varint().map_err(malformed)? != 0;
                }
            }
            Ok((!monotonic).then_some("must be a monotonic sum"))
        }
        (Instrument::Sum, _) => Ok(Some("must be a sum")),
    }
}

/// Whether the data is cumulative; `None` if it does not say.
fn temporality(data: &[u8]) -> Result<Option<bool>, Refusal> {
    let mut cumulative = None;
    for field in fields(data) {
        if let (2, told @ Value::Varint(_)) = field.map_err(malformed)? {
            cumulative = match told.varint().map_err(malformed)? {
                1 => Some(false),
                2 => Some(true),
                _ => None,
            };
        }
    }
    Ok(cumulative)
}

/// A data point's numbers.
#[derive(Default)]
struct Number {
    start: u64,
    time: u64,
    flags: u64,
    times: Option<f64>,
    sum: Option<f64>,
    buckets: Buckets,
}

impl Number {
    #[expect(clippy::cast_possible_wrap, reason = "what wraps is beyond 2^53, and refused")]
    fn read(kind: u32, message: &[u8]) -> Result<Self, Refusal> {
        let mut number = Self::default();
        let eight = |value: Value<'_>| value.fixed64().map_err(malformed);
        for field in fields(message) {
            let (field, value) = field.map_err(malformed)?;
            match (kind, field) {
                (_, 2) => number.start = eight(value)?,
                (_, 3) => number.time = eight(value)?,
                (7, 8) | (9 | 10, 10) => number.flags = value.varint().map_err(malformed)?,
                (7, 4) | (9 | 10, 5) => number.sum = Some(f64::from_bits(eight(value)?)),
                (7, 6) => number.sum = Some(whole_of(eight(value)? as i64)),
                (9, 6) => number.buckets.add_counts(value)?,
                (9, 7) => number.buckets.add_bounds(value)?,
                (9 | 10, 4) => number.times = Some(whole_of(eight(value)? as i64)),
                _ => {}
            }
        }
        Ok(number)
    }

    /// The data point; `None` if it says that it has no value, or nothing that is of a model.
    fn point<'a>(
        &self,
        known: Known,
        metric: &Metric<'a>,
        origin: &Origin<'a>,
        attributes: &Attributes<'a>,
        cumulative: bool,
    ) -> Result<Option<Point<'a>>, Refusal> {
        if self.flags & NO_VALUE != 0 {
            return Ok(None);
        }
        if attributes.is_ambiguous() {
            return Err(Refusal { reason: "duplicate", why: "an attribute of a data point is there twice".to_owned() });
        }
        let get = |key: &str| attributes.get(key);
        let Some(parts) = known.parts(get) else {
            return Err(Refusal::value(format!("an attribute of {} holds a word that is none of its", metric.name)));
        };
        let model = known.model(get).trim();
        if model.is_empty() {
            return match known {
                // A failed request may be of no model, by the conventions.
                Known::GenAiRequests | Known::GenAiTokens => Ok(None),
                _ => Err(Refusal::value("a data point needs the attribute inference.model")),
            };
        }
        let version = [get(VERSION), origin.version].into_iter().find(|version| !version.trim().is_empty());
        let bad = |name: &&str| name.len() > MOST_MODEL_BYTES || name.contains(char::is_control);
        if [Some(model), version].into_iter().flatten().any(|name| bad(&name)) {
            return Err(Refusal::value("a model or version holds at most 256 bytes and no control characters"));
        }
        if self.time == 0 || self.start > self.time {
            return Err(Refusal::value("a data point has a time, and does not end before it starts"));
        }
        let party = Party::read(get).of_point(origin.party, cumulative)?;
        let counts = self.counts(parts, metric)?;
        let buckets = self.within(parts, metric)?;
        let mut hasher = origin.hasher.clone();
        let stream = key(&hasher);
        part(&mut hasher, metric.name.as_bytes());
        part(&mut hasher, metric.unit.as_bytes());
        attributes.hash(&mut hasher);
        let series = key(&hasher);
        let (start, time) = (self.start, self.time);
        Ok(Some(Point { model, version, stream, series, cumulative, start, time, counts, buckets, party }))
    }

    /// How many lie within the bounds of the distribution, if it is kept.
    fn within(&self, parts: Parts, metric: &Metric<'_>) -> Result<Vec<(CountKind, u64)>, Refusal> {
        let Some((kind, times)) = parts.buckets.zip(self.times) else { return Ok(Vec::new()) };
        // The sum of the other histogram are tokens.
        let factor = if matches!(parts.sum, Part::Time(_)) { nanos_per(metric.unit) } else { Some(1.0) };
        factor.map_or(Ok(Vec::new()), |factor| self.buckets.within(kind, factor, whole(times)?))
    }

    fn counts(&self, parts: Parts, metric: &Metric<'_>) -> Result<[Option<(CountKind, u64)>; 2], Refusal> {
        let of = |part, told: Option<f64>| match (part, told) {
            (Part::Unused, _) | (_, None) => Ok(None),
            (Part::Count(kind), Some(count)) => whole(count).map(|count| Some((kind, count))),
            (Part::Time(kind), Some(time)) => {
                let unit = nanos_per(metric.unit)
                    .ok_or_else(|| Refusal::form(format!("{} must have the unit s, ms, us or ns", metric.name)))?;
                nanos(time * unit).map(|nanos| Some((kind, nanos)))
            }
        };
        let counts = [of(parts.times, self.times)?, of(parts.sum, self.sum)?];
        if counts.iter().all(Option::is_none) {
            return Err(Refusal::value(format!("a data point of {} has no value", metric.name)));
        }
        Ok(counts)
    }
}

/// A whole number; not finite if it is more than a number with a fraction holds exactly.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn whole_of(number: i64) -> f64 {
    if number.unsigned_abs() > EXACT { f64::INFINITY } else { number as f64 }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "0 to 2^53")]
fn whole(count: f64) -> Result<u64, Refusal> {
    if !(0.0..=EXACT as f64).contains(&count) || count.fract().abs() >= f64::MIN_POSITIVE {
        return Err(Refusal::value("a count is a whole number from 0 to 2^53"));
    }
    Ok(count as u64)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10^18")]
fn nanos(nanos: f64) -> Result<u64, Refusal> {
    if !(0.0..=1e18).contains(&nanos) {
        return Err(Refusal::value("a time is from 0 to 10^9 s"));
    }
    Ok(nanos.round() as u64)
}
