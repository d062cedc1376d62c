//! Prometheus' text format 0.0.4, and OpenMetrics 1.0 for those who ask for it.
//!
//! `# HELP name text`, `# TYPE name type`, then `name{label="value",…} value`; in label values backslash, quote and line
//! feed are escaped. OpenMetrics names a counter's family without `_total`, has `# UNIT`, and ends with `# EOF`.

use super::metric::{ALL, Metric};
use super::point::Point;
use std::collections::BTreeMap;
use std::fmt::Write;

/// A format.
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

/// The page of all points.
pub fn write<'a>(points: impl IntoIterator<Item = &'a Point>, format: Format) -> String {
    let mut by_name: BTreeMap<&str, Vec<&Point>> = BTreeMap::new();
    for point in points {
        by_name.entry(point.metric.name).or_default().push(point);
    }
    let mut page = String::new();
    for metric in ALL {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::metric::{BUILD, INTAKE_OPEN, NODE_LOST, STORE_BYTES};
    use crate::export::point::Points;

    fn points() -> Vec<Point> {
        let mut points = Points::default();
        points.add(&STORE_BYTES, &[], 1.5e300);
        points.add(&NODE_LOST, &["a\"b\\c\nd\u{1b}[31m\r"], 0.1 + 0.2);
        points.add(&BUILD, &["1"], 1.0);
        points.into_vec()
    }

    #[test]
    fn the_text_format_escapes_hostile_values_and_keeps_every_digit() {
        let page = write(&points(), Format::Text);
        let expected = "# HELP joulebook_node_lost_records_total Records of a node that are lost, ever.\n\
                        # TYPE joulebook_node_lost_records_total counter\n\
                        joulebook_node_lost_records_total{node=\"a\\\"b\\\\c\\nd\u{fffd}[31m\u{fffd}\"} 0.30000000000000004\n";
        assert!(page.contains(expected), "{page}");
        assert!(page.starts_with("# HELP joulebook_build_info ") && page.contains("joulebook_store_bytes 1.5e300\n"));
        assert!(!page.contains("# EOF") && !page.contains("# UNIT"));
    }

    #[test]
    fn open_metrics_names_families_and_units_and_ends() {
        let page = write(&points(), Format::OpenMetrics);
        assert!(
            page.contains("# TYPE joulebook_node_lost_records counter\njoulebook_node_lost_records_total{"),
            "{page}"
        );
        assert!(page.contains("# UNIT joulebook_store_bytes bytes\n") && page.ends_with("# EOF\n"));
    }

    #[test]
    fn a_page_without_points_is_empty_and_the_format_is_the_one_asked_for() {
        assert_eq!(write(&[], Format::Text), "");
        let mut points = Points::default();
        points.add(&INTAKE_OPEN, &[], 1.0);
        assert!(write(&points.into_vec(), Format::Text).ends_with("joulebook_ingest_open 1.0\n"));
        assert_eq!(
            Format::of(Some("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")),
            Format::OpenMetrics
        );
        assert_eq!((Format::of(Some("*/*")), Format::of(None)), (Format::Text, Format::Text));
    }
}
