//! Embodied carbon: what a device's making cost, spread over its expected life (methodology A.4).

use joulebook_units::GramsCo2e;

/// Expected life where nothing else is stated: 4 years of 365 days, in hours (SCI's example, Impact Framework, CCF).
pub const DEFAULT_LIFESPAN_HOURS: f64 = 35_040.0;
const SECONDS_PER_HOUR: f64 = 3600.0;

/// Grams that a device of `total` accrues over `nanos` nanoseconds of a life of `lifespan_hours`; `None` for a life
/// that is not positive. Accrues by wall clock, whether the device is used or not.
#[allow(clippy::cast_precision_loss, reason = "a derived value")]
pub fn accrued(total: GramsCo2e, nanos: u64, lifespan_hours: f64) -> Option<GramsCo2e> {
    (lifespan_hours > 0.0).then(|| GramsCo2e(total.0 * (nanos as f64 / 1e9) / (lifespan_hours * SECONDS_PER_HOUR)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tonne_over_four_years_is_28_54_g_an_hour() {
        let grams = accrued(GramsCo2e(1_000_000.0), 3_600_000_000_000, DEFAULT_LIFESPAN_HOURS).expect("a life");
        assert!((grams.0 - 28.538_812_785).abs() < 1e-6);
        assert!(accrued(GramsCo2e(1.0), 1, 0.0).is_none());
    }
}
