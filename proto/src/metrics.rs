//! The page of metrics that both daemons serve: names with what they say, values under them, and Prometheus' text format
//! 0.0.4, or OpenMetrics 1.0 for those who ask for it.
//!
//! `# HELP name text`, `# TYPE name type`, then `name{label="value",…} value`; in label values backslash, quote and line
//! feed are escaped. OpenMetrics names a counter's family without `_total`, has `# UNIT`, and ends with `# EOF`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Longest value of a label in bytes; a longer one is cut and told apart by its hash.
pub const LABEL_BYTES: usize = 128;
/// Letters of that hash.
const HASH_LETTERS: usize = 16;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows until the process starts again.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// Whether a name may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stability {
    /// Name, unit, labels and meaning stay within a major version.
    Stable,
    /// It may change with any version, and the release notes say so.
    Experimental,
}

/// A name and what it says.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// The name, after Prometheus' conventions; that of a counter ends in `_total`.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// Unit, as the name says it; "" where the value has none.
    pub unit: &'static str,
    /// Labels, in the order of a point's values.
    pub labels: &'static [&'static str],
    /// What it says, in sentences; each line of a documentation comment begins with a space.
    pub help: &'static str,
    /// Whether it may change.
    pub stability: Stability,
}

impl Metric {
    /// Its name without the ending of a counter, as OpenMetrics calls the family.
    pub fn family(&self) -> &'static str {
        match self.kind {
            Kind::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            Kind::Gauge => self.name,
        }
    }

    /// Name of its type.
    pub fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        }
    }

    /// What it says, on one line.
    pub fn text(&self) -> &'static str {
        self.help.trim_start()
    }
}

/// Defines metrics, each as `/// Help.` and `NAME = "name", Kind, "unit", &["label"], Stability;`, and `ALL` of them in the
/// order of the page.
#[macro_export]
macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $id:ident = $name:literal, $kind:ident, $unit:literal, $labels:expr, $stability:ident;)+) => {
        $($(#[doc = $doc])+ pub static $id: $crate::metrics::Metric = $crate::metrics::Metric {
            name: $name,
            kind: $crate::metrics::Kind::$kind,
            unit: $unit,
            labels: $labels,
            help: concat!($($doc),+),
            stability: $crate::metrics::Stability::$stability,
        };)+
        /// All of them, in the order of the page.
        pub static ALL: &[&$crate::metrics::Metric] = &[$(&$id),+];
    };
}

/// A value under a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The name.
    pub metric: &'static Metric,
    /// Values of its labels, in their order.
    pub labels: Vec<String>,
    /// The value.
    pub value: f64,
}

/// Points, each series once.
#[derive(Debug, Default)]
pub struct Points(Vec<Point>);

impl Points {
    /// Adds a value; none is not added, since absent is not 0.
    pub fn add(&mut self, metric: &'static Metric, labels: &[&str], value: impl Into<Option<f64>>) {
        debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
        if let Some(value) = value.into() {
            let labels = labels.iter().map(|value| bounded(value)).collect();
            self.0.push(Point { metric, labels, value });
        }
    }

    /// Adds a count.
    #[allow(clippy::cast_precision_loss, reason = "a page knows nothing else than floating point")]
    pub fn count(&mut self, metric: &'static Metric, labels: &[&str], count: u64) {
        self.add(metric, labels, count as f64);
    }

    /// All of them. Of equal series the first stays: a page that has one twice is refused as a whole.
    pub fn into_vec(self) -> Vec<Point> {
        let mut seen = BTreeSet::new();
        let mut points = self.0;
        points.retain(|point| seen.insert((point.metric.name, point.labels.clone())));
        points
    }
}

/// A label's value within its bound, as it stands wherever it is told.
pub fn bounded(value: &str) -> String {
    if value.len() <= LABEL_BYTES {
        return value.to_owned();
    }
    let hash = blake3::hash(value.as_bytes()).to_hex();
    let hash = hash.as_str().get(..HASH_LETTERS).unwrap_or_default();
    let end = (0..=LABEL_BYTES - HASH_LETTERS - '…'.len_utf8()).rev().find(|end| value.is_char_boundary(*end));
    format!("{}…{hash}", value.get(..end.unwrap_or(0)).unwrap_or_default())
}

/// A format of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The one that an `Accept` header asks for.
    pub fn of(accept: Option<&str>) -> Self {
        let asked = accept.unwrap_or_default().to_ascii_lowercase();
        if asked.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Text }
    }

    /// Its Content-Type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The page of points whose names are among `all`, in the order of these.
pub fn write<'a>(all: &[&'static Metric], points: impl IntoIterator<Item = &'a Point>, format: Format) -> String {
    let mut by_name: BTreeMap<&str, Vec<&Point>> = BTreeMap::new();
    for point in points {
        by_name.entry(point.metric.name).or_default().push(point);
    }
    let mut page = String::new();
    for metric in all {
        if let Some(points) = by_name.get(metric.name) {
            head(&mut page, metric, format);
            points.iter().for_each(|point| line(&mut page, point));
        }
    }
    if format == Format::OpenMetrics {
        page.push_str("# EOF\n");
    }
    page
}

fn head(page: &mut String, metric: &Metric, format: Format) {
    let name = match format {
        Format::Text => metric.name,
        Format::OpenMetrics => metric.family(),
    };
    // Writing to a string does not fail.
    let _ = write!(page, "# HELP {name} {}\n# TYPE {name} {}\n", metric.text(), metric.type_name());
    if format == Format::OpenMetrics && !metric.unit.is_empty() {
        let _ = writeln!(page, "# UNIT {name} {}", metric.unit);
    }
}

fn line(page: &mut String, point: &Point) {
    page.push_str(point.metric.name);
    for (place, (name, value)) in point.metric.labels.iter().zip(&point.labels).enumerate() {
        page.push_str(if place == 0 { "{" } else { "," });
        page.push_str(name);
        page.push_str("=\"");
        escape(page, value);
        page.push('"');
    }
    if !point.labels.is_empty() {
        page.push('}');
    }
    // The shortest digits that read back as the same value.
    let _ = writeln!(page, " {:?}", point.value);
}

fn escape(page: &mut String, value: &str) {
    for letter in value.chars() {
        match letter {
            '\\' => page.push_str("\\\\"),
            '"' => page.push_str("\\\""),
            '\n' => page.push_str("\\n"),
            // Nobody's terminal is to be driven by a name.
            other if other.is_control() => page.push('\u{fffd}'),
            other => page.push(other),
        }
    }
}

/// The reference of all names, as a table in Markdown.
pub fn reference(all: &[&'static Metric]) -> String {
    let mut text =
        "| name | type | unit | labels | stability | meaning |\n| --- | --- | --- | --- | --- | --- |\n".to_owned();
    for metric in all {
        let unit = if metric.unit.is_empty() { "1" } else { metric.unit };
        let stability = match metric.stability {
            Stability::Stable => "stable",
            Stability::Experimental => "experimental",
        };
        let labels = metric.labels.join(", ");
        let (name, kind, meaning) = (metric.name, metric.type_name(), metric.text());
        // Writing to a string does not fail.
        let _ = writeln!(text, "| `{name}` | {kind} | {unit} | {labels} | {stability} | {meaning} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    metrics! {
        /// Bytes on the disk.
        BYTES = "test_spool_bytes", Gauge, "bytes", &[], Stable;
        /// Records that are lost,
        /// ever.
        LOST = "test_lost_records_total", Counter, "records", &["node"], Experimental;
    }

    fn points() -> Vec<Point> {
        let mut points = Points::default();
        points.add(&LOST, &["a\"b\\c\nd\u{1b}[31m\r"], 0.1 + 0.2);
        points.count(&BYTES, &[], 15);
        points.count(&BYTES, &[], 16);
        points.add(&LOST, &["unknown"], None);
        points.into_vec()
    }

    #[test]
    fn the_text_format_escapes_hostile_values_keeps_every_digit_and_shows_a_series_once() {
        let expected = "# HELP test_spool_bytes Bytes on the disk.\n\
                        # TYPE test_spool_bytes gauge\n\
                        test_spool_bytes 15.0\n\
                        # HELP test_lost_records_total Records that are lost, ever.\n\
                        # TYPE test_lost_records_total counter\n\
                        test_lost_records_total{node=\"a\\\"b\\\\c\\nd\u{fffd}[31m\u{fffd}\"} 0.30000000000000004\n";
        assert_eq!(write(ALL, &points(), Format::Text), expected);
        assert_eq!(write(ALL, &[], Format::Text), "");
    }

    #[test]
    fn open_metrics_names_families_and_units_and_ends() {
        let page = write(ALL, &points(), Format::OpenMetrics);
        assert!(page.contains("# TYPE test_lost_records counter\n# UNIT test_lost_records records\n"), "{page}");
        assert!(page.contains("# UNIT test_spool_bytes bytes\n") && page.ends_with("# EOF\n"));
        let asked = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
        assert_eq!(Format::of(Some(asked)), Format::OpenMetrics);
        assert_eq!((Format::of(Some("*/*")), Format::of(None)), (Format::Text, Format::Text));
    }

    #[test]
    fn a_label_is_bounded_and_told_apart_from_others_of_the_same_beginning() {
        let (one, two) = ("ä".repeat(4000), "ä".repeat(4001));
        assert!(bounded(&one).len() <= LABEL_BYTES && bounded(&one) != bounded(&two));
        assert!(bounded(&one).starts_with("ää") && bounded("short") == "short");
    }

    #[test]
    fn the_reference_has_a_line_a_name() {
        let text = reference(ALL);
        assert_eq!(text.lines().count(), 4);
        let line =
            "| `test_lost_records_total` | counter | records | node | experimental | Records that are lost, ever. |";
        assert!(text.contains(line), "{text}");
    }
}
