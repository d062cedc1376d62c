//! Values of a step as they stand under names.

use joulebook_units::{UnixNanos, Window};

pub use joulebook_proto::metrics::{Point, Points};

/// A window as its label says it: `5m`, `1h`.
pub fn window_name(window: Window) -> String {
    humantime::format_duration(std::time::Duration::from_nanos(window.nanos())).to_string()
}

/// Seconds since 1970.
#[allow(clippy::cast_precision_loss, reason = "microseconds are enough")]
pub(super) fn seconds(at: UnixNanos) -> f64 {
    at.0 as f64 / 1e9
}

/// Joules of µJ.
pub(super) fn joules(microjoules: u64) -> f64 {
    joulebook_units::Microjoules(microjoules).to_joules().0
}
