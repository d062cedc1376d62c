//! Embodied carbon: what a device's making cost, spread over its expected life (methodology A.4).

use crate::operational::CompensatedSum;
use joulebook_units::GramsCo2e;

/// Expected life where nothing else is stated: 4 years of 365 days, in hours (SCI's example, Impact Framework, CCF).
pub const DEFAULT_LIFESPAN_HOURS: f64 = 35_040.0;
/// Whole one-socket host with up to 16 GiB, without disks, in kg (ccf-coefficients; Dell R740 life-cycle study).
pub const HOST_BASE_KG: f64 = 1000.0;
/// Compute slices of a partitioned GPU.
pub const GPU_SLICES: u32 = 7;
const SECONDS_PER_HOUR: f64 = 3600.0;
const GRAMS_PER_KG: f64 = 1e3;

/// Grams that a device of `total` accrues over `nanos` nanoseconds of a life of `lifespan_hours`; `None` for a life
/// that is not positive. Accrues by wall clock, whether the device is used or not.
#[allow(clippy::cast_precision_loss, reason = "a derived value")]
pub fn accrued(total: GramsCo2e, nanos: u64, lifespan_hours: f64) -> Option<GramsCo2e> {
    (lifespan_hours > 0.0).then(|| GramsCo2e(total.0 * (nanos as f64 / 1e9) / (lifespan_hours * SECONDS_PER_HOUR)))
}

/// The resource share of a reservation: reserved over total, both in one unit. `None` for a device that has none.
pub fn resource_share(reserved: f64, total: f64) -> Option<f64> {
    (total > 0.0).then(|| reserved / total)
}

/// A device whose age is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Aged {
    /// Embodied carbon over its whole life.
    pub total: GramsCo2e,
    /// Its expected life.
    pub lifespan_hours: f64,
    /// Its age at the start of the window.
    pub age_hours: f64,
}

/// What happens when a device outlives its expected life.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AgePolicy {
    /// Nothing accrues any more: over its life a device accrues its total and no more.
    Stop,
    /// The life is longer than was expected: what remains is spread over the rest of it. Past shares stand.
    Extend {
        /// The new expected life, from the device's making.
        lifespan_hours: f64,
    },
}

/// A life that turned out longer than was expected: from an age on what remains is spread over the rest of it, and what
/// accrued before stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extension {
    /// Age at which it was decided.
    pub age_hours: f64,
    /// The new expected life, from the device's making.
    pub lifespan_hours: f64,
}

/// What a device accrued in a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accrual {
    /// Grams.
    pub grams: GramsCo2e,
    /// Whether the window ends at or past the device's life: nothing will accrue after it.
    pub fully_amortised: bool,
}

impl Aged {
    /// Accrual over `nanos`; `None` for a life that is not positive.
    pub fn accrue(&self, nanos: u64, policy: AgePolicy) -> Option<Accrual> {
        if self.lifespan_hours <= 0.0 {
            return None;
        }
        let (remaining, end) = match policy {
            AgePolicy::Stop => {
                let left = (self.lifespan_hours - self.age_hours).max(0.0);
                (self.total.0 * (left / self.lifespan_hours), self.lifespan_hours)
            }
            AgePolicy::Extend { lifespan_hours } => {
                (self.total.0 * (1.0 - self.age_hours / self.lifespan_hours).max(0.0), lifespan_hours)
            }
        };
        let left = end - self.age_hours;
        let used = hours(nanos);
        let grams = if left > 0.0 { remaining * (used.min(left) / left) } else { 0.0 };
        Some(Accrual { grams: GramsCo2e(grams), fully_amortised: self.age_hours + used >= end })
    }
}

impl Aged {
    /// Accrual over `nanos` of a device that accrues nothing past its life, which may have been extended. A window in which
    /// it was extended is cut there. `None` for a life that is not positive.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast saturates, and no time is below 0"
    )]
    pub fn accrue_extended(&self, nanos: u64, extension: Option<Extension>) -> Option<Accrual> {
        let Some(extension) = extension.filter(|longer| longer.lifespan_hours > self.lifespan_hours) else {
            return self.accrue(nanos, AgePolicy::Stop);
        };
        let until = extension.age_hours - self.age_hours;
        let before = if until > 0.0 { nanos.min((until * SECONDS_PER_HOUR * 1e9) as u64) } else { 0 };
        let first = self.accrue(before, AgePolicy::Stop)?;
        // By then it had accrued all of it, or this part of its life.
        let used = (extension.age_hours / self.lifespan_hours).clamp(0.0, 1.0);
        let rest = Self {
            total: GramsCo2e(self.total.0 * (1.0 - used)),
            lifespan_hours: extension.lifespan_hours - extension.age_hours,
            age_hours: (self.age_hours + hours(before) - extension.age_hours).max(0.0),
        };
        let second = match nanos - before {
            0 => Accrual { grams: GramsCo2e(0.0), fully_amortised: false },
            after => rest.accrue(after, AgePolicy::Stop)?,
        };
        Some(Accrual { grams: first.grams + second.grams, fully_amortised: second.fully_amortised })
    }
}

/// Total of a host: its base ([`HOST_BASE_KG`] where none is stated) and what was added to it.
pub fn host_total(base: Option<GramsCo2e>, additions: impl IntoIterator<Item = GramsCo2e>) -> GramsCo2e {
    let base = base.unwrap_or(GramsCo2e(HOST_BASE_KG * GRAMS_PER_KG));
    additions.into_iter().fold(base, |sum, part| sum + part)
}

/// Total of a node: its host and `count` equal accelerators.
pub fn node_total(host: GramsCo2e, accelerator: GramsCo2e, count: f64) -> GramsCo2e {
    host + GramsCo2e(accelerator.0 * count)
}

/// Equal devices of which a share is reserved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reserved {
    /// How many.
    pub count: f64,
    /// Total of each.
    pub total: GramsCo2e,
    /// Share of each that is reserved.
    pub share: f64,
}

/// Grams that the reserved shares of a fleet accrue over `nanos`; `None` for a life that is not positive.
pub fn fleet(devices: impl IntoIterator<Item = Reserved>, nanos: u64, lifespan_hours: f64) -> Option<GramsCo2e> {
    let mut sum = CompensatedSum::default();
    for device in devices {
        sum.add(accrued(device.total, nanos, lifespan_hours)?.0 * device.count * device.share);
    }
    Some(GramsCo2e(sum.get()))
}

#[allow(clippy::cast_precision_loss, reason = "a derived value")]
fn hours(nanos: u64) -> f64 {
    nanos as f64 / 1e9 / SECONDS_PER_HOUR
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000_000_000;

    #[test]
    fn a_tonne_over_four_years_is_28_54_g_an_hour() {
        let grams = accrued(GramsCo2e(1_000_000.0), HOUR, DEFAULT_LIFESPAN_HOURS).expect("a life");
        assert!((grams.0 - 28.538_812_785).abs() < 1e-6);
        assert!(accrued(GramsCo2e(1.0), 1, 0.0).is_none());
    }

    #[test]
    fn a_life_that_is_extended_keeps_what_accrued_and_spreads_the_rest() {
        let extension = Some(Extension { age_hours: 6.0, lifespan_hours: 14.0 });
        let grams = |age_hours: f64, hours: u64| {
            let aged = Aged { total: GramsCo2e(100.0), lifespan_hours: 10.0, age_hours };
            aged.accrue_extended(hours * HOUR, extension).expect("a life")
        };
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
        near(grams(0.0, 6).grams.0, 60.0);
        near(grams(6.0, 1).grams.0, 5.0);
        near(grams(5.0, 2).grams.0, 15.0);
        // Hour by hour or at once, over its life it accrues its total and no more.
        near((0..20).map(|hour| grams(f64::from(hour), 1).grams.0).sum(), 100.0);
        near(grams(0.0, 20).grams.0, 100.0);
        assert!(grams(13.0, 1).fully_amortised && !grams(12.0, 1).fully_amortised);
        near(grams(20.0, 1).grams.0, 0.0);
    }

    #[test]
    fn a_device_accrues_its_total_over_its_life_and_no_more_whatever_its_policy() {
        for policy in [AgePolicy::Stop, AgePolicy::Extend { lifespan_hours: 20.0 }] {
            let grams = |age_hours: f64, hours: u64| {
                let aged = Aged { total: GramsCo2e(100.0), lifespan_hours: 10.0, age_hours };
                aged.accrue(hours * HOUR, policy).expect("a life")
            };
            assert!((grams(0.0, 100).grams.0 - 100.0).abs() < 1e-9);
            assert!(grams(0.0, 20).fully_amortised && !grams(0.0, 9).fully_amortised);
            let after = grams(25.0, 1);
            assert!(after.grams.0.abs() < 1e-12 && after.fully_amortised);
        }
    }
}
