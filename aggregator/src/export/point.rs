//! A value under a name.

use super::metric::Metric;
use joulebook_units::{UnixNanos, Window};
use std::collections::BTreeSet;

/// Longest value of a label in bytes; a longer one is cut and told apart by its hash.
pub const LABEL_BYTES: usize = 128;

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

/// Points in the order of their names, each series once.
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

    /// All of them. Of equal series the first stays: a page that has one twice is refused as a whole.
    pub fn into_vec(self) -> Vec<Point> {
        let mut seen = BTreeSet::new();
        let mut points = self.0;
        points.retain(|point| seen.insert((point.metric.name, point.labels.clone())));
        points
    }
}

/// A label's value within its bound.
fn bounded(value: &str) -> String {
    if value.len() <= LABEL_BYTES {
        return value.to_owned();
    }
    let hash = blake3::hash(value.as_bytes()).to_hex();
    let hash = hash.as_str().get(..16).unwrap_or_default();
    let end = (0..=LABEL_BYTES - hash.len() - 3).rev().find(|end| value.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…{hash}", value.get(..end).unwrap_or_default())
}

/// A window as its label says it: `5m`, `1h`.
pub fn window_name(window: Window) -> String {
    humantime::format_duration(std::time::Duration::from_nanos(window.nanos())).to_string()
}

/// Seconds since 1970.
#[allow(clippy::cast_precision_loss, reason = "microseconds are enough")]
pub fn seconds(at: UnixNanos) -> f64 {
    at.0 as f64 / 1e9
}

/// Joules of µJ.
pub fn joules(microjoules: u64) -> f64 {
    joulebook_units::Microjoules(microjoules).to_joules().0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::metric::{NODE_CONNECTED, NODE_LAST};

    #[test]
    fn long_labels_are_cut_and_stay_apart() {
        let (one, other) = ("ä".repeat(500) + "1", "ä".repeat(500) + "2");
        let (one, other) = (bounded(&one), bounded(&other));
        assert!(one.len() <= LABEL_BYTES && other.len() <= LABEL_BYTES && one != other, "{one} {other}");
        assert_eq!(bounded("gpu-1"), "gpu-1");
    }

    #[test]
    fn absent_is_no_point_and_a_series_stands_once() {
        let mut points = Points::default();
        points.add(&NODE_LAST, &["a"], None);
        points.add(&NODE_CONNECTED, &["a"], 1.0);
        points.add(&NODE_CONNECTED, &["a"], 0.0);
        points.add(&NODE_CONNECTED, &["b"], 0.0);
        let points = points.into_vec();
        assert_eq!(points.iter().map(|point| point.value).collect::<Vec<_>>(), [1.0, 0.0]);
    }
}
