//! Physical quantities. Measured energy is an exact integer; everything derived from it is a float of its own type.

use core::iter::Sum;
use core::ops::{Add, AddAssign, Div, Mul, Sub};
use core::time::Duration;

/// A value outside the range of its quantity.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{value} is not a valid {quantity}: {rule}")]
pub struct InvalidQuantity {
    /// Name of the quantity.
    pub quantity: &'static str,
    /// The refused value.
    pub value: f64,
    /// What the value must satisfy.
    pub rule: &'static str,
}

const MICROJOULES_PER_JOULE: f64 = 1e6;
const JOULES_PER_KWH: f64 = 3.6e6;
/// Nanoseconds × milliwatts (picojoules) in a microjoule.
const PICOJOULES_PER_MICROJOULE: u128 = 1_000_000;

/// Power of memory that no sensor meters, in tenths of a milliwatt per 10⁹ bytes: 0.3725 W/GB (Green Algorithms,
/// Lannelongue et al. 2021).
pub const DRAM_TENTH_MILLIWATTS_PER_GIGABYTE: u32 = 3_725;

/// Measured energy in whole microjoules (µJ), 0 … 2⁶⁴−1. Sums are exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Microjoules(pub u64);

impl Microjoules {
    /// No energy. Only for sums of nothing: an energy that is not known is an absent value, never this.
    pub const ZERO: Self = Self(0);

    /// The sum, or `None` past 2⁶⁴−1 µJ (584 years at 1 kW).
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference, or `None` when `other` is larger.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// The same energy as a derived value in joules.
    #[allow(clippy::cast_precision_loss, reason = "a derived value; the exact one stays an integer")]
    pub fn to_joules(self) -> Joules {
        Joules(self.0 as f64 / MICROJOULES_PER_JOULE)
    }
}

impl AddAssign for Microjoules {
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.saturating_add(other.0);
    }
}

impl Add for Microjoules {
    type Output = Self;
    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl Sum for Microjoules {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::ZERO, Add::add)
    }
}

/// Power in whole milliwatts (mW): ceilings and idle power, which enter integer arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Milliwatts(pub u64);

impl Milliwatts {
    /// Rounds a power in watts to the nearest milliwatt. Refuses NaN, infinities, negatives and 18 PW and more.
    pub fn from_watts(watts: f64) -> Result<Self, InvalidQuantity> {
        if watts.is_finite() && (0.0..1.8e16).contains(&watts) {
            // In range by the test above; truncation after +0.5 is rounding.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "range checked above")]
            return Ok(Self((watts * 1e3 + 0.5) as u64));
        }
        Err(InvalidQuantity { quantity: "power in watts", value: watts, rule: "finite, at least 0" })
    }

    /// Energy of this power over `nanos` nanoseconds, rounded down to whole microjoules; saturates at 2⁶⁴−1.
    pub fn over_nanos(self, nanos: u64) -> Microjoules {
        let picojoules = u128::from(self.0) * u128::from(nanos);
        Microjoules(u64::try_from(picojoules / PICOJOULES_PER_MICROJOULE).unwrap_or(u64::MAX))
    }

    /// The same power in watts.
    #[allow(clippy::cast_precision_loss, reason = "a derived value")]
    pub fn to_watts(self) -> f64 {
        self.0 as f64 / 1e3
    }
}

/// Derived energy in joules (J).
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct Joules(pub f64);

impl Joules {
    /// The same energy in kilowatt-hours (1 kWh = 3.6e6 J).
    pub fn to_kwh(self) -> f64 {
        self.0 / JOULES_PER_KWH
    }

    /// An energy given in kilowatt-hours.
    pub fn from_kwh(kwh: f64) -> Self {
        Self(kwh * JOULES_PER_KWH)
    }

    /// Mean power in watts over `duration`; `None` over no time.
    pub fn watts_over(self, duration: Duration) -> Option<f64> {
        (!duration.is_zero()).then(|| self.0 / duration.as_secs_f64())
    }
}

impl Add for Joules {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for Joules {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl Mul<Pue> for Joules {
    type Output = Self;
    fn mul(self, pue: Pue) -> Self {
        Self(self.0 * pue.0)
    }
}

impl Mul<GramsCo2ePerKwh> for Joules {
    type Output = GramsCo2e;
    fn mul(self, intensity: GramsCo2ePerKwh) -> GramsCo2e {
        GramsCo2e(self.to_kwh() * intensity.0)
    }
}

/// Mass of CO2-equivalent in grams (g, GWP100).
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct GramsCo2e(pub f64);

impl Add for GramsCo2e {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Div<f64> for GramsCo2e {
    type Output = Self;
    fn div(self, by: f64) -> Self {
        Self(self.0 / by)
    }
}

impl Mul<Share> for GramsCo2e {
    type Output = Self;
    fn mul(self, share: Share) -> Self {
        Self(self.0 * share.0)
    }
}

/// Carbon intensity of electricity in grams of CO2-equivalent per kilowatt-hour (g/kWh), 0 … 2,000.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct GramsCo2ePerKwh(f64);

impl GramsCo2ePerKwh {
    /// Refuses values outside 0 … 2,000 g/kWh: above it a table is in the wrong unit (bad-inputs B68).
    pub fn new(value: f64) -> Result<Self, InvalidQuantity> {
        if (0.0..=2000.0).contains(&value) {
            return Ok(Self(value));
        }
        Err(InvalidQuantity { quantity: "carbon intensity in g/kWh", value, rule: "0 to 2000" })
    }

    /// The value in g/kWh.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// Power usage effectiveness: facility energy over IT energy, dimensionless, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Pue(f64);

impl Pue {
    /// Refuses values below 1 (more IT energy than the site draws) and above 10 (not a PUE).
    pub fn new(value: f64) -> Result<Self, InvalidQuantity> {
        if (1.0..=10.0).contains(&value) {
            return Ok(Self(value));
        }
        Err(InvalidQuantity { quantity: "PUE", value, rule: "1 to 10" })
    }

    /// The value.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// A part of a whole, 0 … 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Share(f64);

impl Share {
    /// Refuses values outside 0 … 1.
    pub fn new(value: f64) -> Result<Self, InvalidQuantity> {
        if (0.0..=1.0).contains(&value) {
            return Ok(Self(value));
        }
        Err(InvalidQuantity { quantity: "share", value, rule: "0 to 1" })
    }

    /// The value.
    pub fn get(self) -> f64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_kilowatt_for_one_hour_is_one_kilowatt_hour() {
        let energy = Milliwatts(1_000_000).over_nanos(3_600_000_000_000);
        assert_eq!(energy, Microjoules(3_600_000_000_000));
        assert!((energy.to_joules().to_kwh() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn quantities_outside_their_range_are_refused() {
        assert!(Pue::new(0.99).is_err());
        assert!(Pue::new(f64::NAN).is_err());
        assert!(GramsCo2ePerKwh::new(-0.1).is_err());
        assert!(GramsCo2ePerKwh::new(2000.1).is_err());
        assert!(Share::new(1.01).is_err());
        assert!(Milliwatts::from_watts(f64::INFINITY).is_err());
        assert!(Milliwatts::from_watts(-1.0).is_err());
    }

    #[test]
    fn grams_are_kilowatt_hours_times_intensity() {
        let grams = Joules::from_kwh(2.0) * GramsCo2ePerKwh::new(100.0).expect("in range");
        assert!((grams.0 - 200.0).abs() < 1e-9);
    }
}
