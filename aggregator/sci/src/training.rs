//! Training amortisation: a separate, gated, labelled block beside the score, from a ledger that conserves the training
//! carbon T (methodology B). No figure of it is ever called SCI.

pub mod ledger;
pub mod lineage;

use crate::operational::{facility, operational};
use alloc::vec::Vec;
use joulebook_units::{GramsCo2e, GramsCo2ePerKwh, Joules, Pue};

/// Training carbon by part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Total {
    /// Of the training itself.
    pub dynamic: GramsCo2e,
    /// Of the capacity kept idle for it.
    pub idle: GramsCo2e,
    /// With embodied carbon: T.
    pub training: GramsCo2e,
}

/// Adds up T. Without a PUE the energies are the facility's already.
pub fn total(
    dynamic: Joules,
    idle: Joules,
    embodied: GramsCo2e,
    pue: Option<Pue>,
    intensity: GramsCo2ePerKwh,
) -> Total {
    let grams = |energy: Joules| operational(pue.map_or(energy, |pue| facility(energy, pue)), intensity);
    let (dynamic, idle) = (grams(dynamic), grams(idle));
    Total { dynamic, idle, training: dynamic + idle + embodied }
}

/// Energy of `device_seconds` at `watts` each; without a PUE, at the device.
pub fn device_energy(device_seconds: f64, watts: f64, pue: Option<Pue>) -> Joules {
    let energy = Joules(device_seconds * watts);
    pue.map_or(energy, |pue| facility(energy, pue))
}

/// Time of `count` devices over `seconds`, in device-seconds.
pub fn device_seconds(count: f64, seconds: f64) -> f64 {
    count * seconds
}

/// Training carbon of one version and the units it is spread over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pool {
    /// T.
    pub training: GramsCo2e,
    /// N: units expected over the version's life, above 0.
    pub units: f64,
}

/// How a changed expectation of N is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnitsPolicy {
    /// Not at all: past N units nothing is charged.
    FrozenCap,
    /// What is not allocated yet is spread over the units to come.
    DynamicProspective,
    /// All periods are restated.
    DynamicRetroactive,
}

/// What N units of a version that is capped carried in a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Capped {
    /// Share of the window.
    pub share: GramsCo2e,
    /// Units past the cap, which carry nothing.
    pub free: f64,
    /// Whether the cap is reached.
    pub fully_amortised: bool,
}

/// A pool after N was revised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Revised {
    /// Booked before the revision.
    pub allocated: GramsCo2e,
    /// Grams per unit before it.
    pub before: f64,
    /// Grams per unit after it; absent where none can be stated.
    pub after: Option<f64>,
    /// Booked once the new N is used: at most T.
    pub at_end: Option<GramsCo2e>,
}

impl Pool {
    /// τ = T/N in grams per unit; `None` unless N is positive.
    pub fn per_unit(&self) -> Option<f64> {
        (self.units > 0.0).then(|| self.training.0 / self.units)
    }

    /// Share of `units`.
    pub fn share(&self, units: f64) -> Option<GramsCo2e> {
        self.per_unit().map(|per_unit| GramsCo2e(per_unit * units))
    }

    /// Share of several entities and what remains: Σ allocated + remaining = T.
    pub fn shares(&self, units: &[f64]) -> Option<(Vec<GramsCo2e>, GramsCo2e, GramsCo2e)> {
        let shares: Vec<GramsCo2e> = units.iter().map(|units| self.share(*units)).collect::<Option<_>>()?;
        let allocated = self.share(units.iter().sum())?;
        Some((shares, allocated, GramsCo2e(self.training.0 - allocated.0)))
    }

    /// Share of a window of `units` after `used` ones under the frozen cap.
    pub fn capped(&self, used: f64, units: f64) -> Option<Capped> {
        let charged = units.min((self.units - used).max(0.0));
        Some(Capped { share: self.share(charged)?, free: units - charged, fully_amortised: used + units >= self.units })
    }

    /// The pool after `used` units, when N becomes `units`.
    pub fn revise(&self, used: f64, units: f64, policy: UnitsPolicy) -> Option<Revised> {
        let (before, allocated) = (self.per_unit()?, self.share(used)?);
        let (after, at_end) = match policy {
            UnitsPolicy::FrozenCap => (Some(before), Some(before * units.max(used))),
            UnitsPolicy::DynamicProspective if units <= used => (Some(0.0), Some(allocated.0)),
            UnitsPolicy::DynamicProspective => {
                let after = (self.training.0 - allocated.0) / (units - used);
                (Some(after), Some(allocated.0 + after * (units - used)))
            }
            UnitsPolicy::DynamicRetroactive => {
                let after = (units > 0.0).then(|| self.training.0 / units);
                (after, after.map(|after| after * units))
            }
        };
        let at_end = at_end.map(|grams| GramsCo2e(grams.min(self.training.0)));
        Some(Revised { allocated, before, after, at_end })
    }

    /// What is booked and what remains when the version retires after `used` units.
    pub fn retire(&self, used: f64) -> Option<(GramsCo2e, GramsCo2e)> {
        let allocated = self.share(used)?;
        Some((allocated, GramsCo2e(self.training.0 - allocated.0)))
    }

    /// The pool of a successor that takes over a remainder.
    pub fn with_remainder(&self, remainder: GramsCo2e) -> Self {
        Self { training: self.training + remainder, units: self.units }
    }

    /// Grams per unit of the last period, which `final_units` share the remainder of.
    pub fn final_per_unit(&self, remainder: GramsCo2e, final_units: f64) -> Option<f64> {
        let per_unit = self.per_unit()?;
        (final_units > 0.0).then(|| per_unit + remainder.0 / final_units)
    }
}

/// How a child carries what its base cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LineagePolicy {
    /// The base over its family, the increment over the child.
    PooledBasePlusIncrement,
    /// The increment alone.
    Restart,
    /// Both over all units of both.
    SinglePoolIncrement,
}

/// What one unit of a child carries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Child {
    per_unit: f64,
}

impl Child {
    /// Grams per unit.
    pub fn per_unit(&self) -> f64 {
        self.per_unit
    }

    /// Share of `units`.
    pub fn share(&self, units: f64) -> GramsCo2e {
        GramsCo2e(self.per_unit * units)
    }
}

/// What a child of `base` that was trained on by `increment` carries; `None` unless the units are positive.
pub fn lineage(base: Pool, increment: Pool, policy: LineagePolicy) -> Option<Child> {
    let per_unit = match policy {
        LineagePolicy::PooledBasePlusIncrement => base.per_unit()? + increment.per_unit()?,
        LineagePolicy::Restart => increment.per_unit()?,
        LineagePolicy::SinglePoolIncrement => {
            Pool { training: base.training + increment.training, units: base.units + increment.units }.per_unit()?
        }
    };
    Some(Child { per_unit })
}

/// A condition of the extended block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    /// The provider discloses T and N.
    Disclosure,
    /// One allocation for all.
    Consistency,
    /// Units carry a concrete version.
    Traceability,
}

impl Gate {
    /// Its name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disclosure => "G1_disclosure",
            Self::Consistency => "G2_consistency",
            Self::Traceability => "G3_traceability",
        }
    }
}

/// The gates that a version fails, in order; none: the extended block is available.
pub fn failed_gates(training: Option<GramsCo2e>, units: Option<f64>, consistent: bool, traceable: bool) -> Vec<Gate> {
    let gates = [
        (Gate::Disclosure, training.is_some() && units.is_some()),
        (Gate::Consistency, consistent),
        (Gate::Traceability, traceable),
    ];
    gates.into_iter().filter(|(_, passed)| !passed).map(|(gate, _)| gate).collect()
}

/// What is done with units that no version can be named for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TracePolicy {
    /// They carry no training; the block is partial.
    TracedOnly,
    /// The block is refused unless all are traced.
    Strict,
}

/// Training share of traced units.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Traced {
    /// Share; absent where the policy refuses it.
    pub share: Option<GramsCo2e>,
    /// Traced part of all units; absent for no unit.
    pub fraction: Option<f64>,
    /// Whether some units carry no training.
    pub partial: bool,
}

/// Share of `traced` units while `untraced` ones carry none.
pub fn traced(pool: Pool, traced: f64, untraced: f64, policy: TracePolicy) -> Traced {
    let partial = untraced > 0.0;
    let refused = partial && policy == TracePolicy::Strict;
    Traced {
        share: if refused { None } else { pool.share(traced) },
        fraction: part(traced, traced + untraced),
        partial,
    }
}

/// A call to a model: its units, its carbon, and the pool its version belongs to, where one is disclosed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Call {
    /// Units.
    pub units: f64,
    /// Carbon of the inference.
    pub inference: GramsCo2e,
    /// Pool.
    pub pool: Option<Pool>,
}

/// Calls of several providers together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calls {
    /// Carbon without training: the default.
    pub default: GramsCo2e,
    /// Training shares.
    pub training: GramsCo2e,
    /// Both.
    pub extended: GramsCo2e,
    /// Part of the units that have a pool; absent for no unit.
    pub coverage: Option<f64>,
    /// Whether some units have none.
    pub partial: bool,
}

/// Adds up calls; `None` if a pool has no units.
pub fn calls(calls: &[Call]) -> Option<Calls> {
    let (mut default, mut training) = (GramsCo2e::default(), GramsCo2e::default());
    let (mut pooled, mut all) = (0.0, 0.0);
    for call in calls {
        default = default + call.inference;
        all += call.units;
        if let Some(pool) = call.pool {
            training = training + pool.share(call.units)?;
            pooled += call.units;
        }
    }
    let coverage = part(pooled, all);
    let partial = coverage.is_some_and(|coverage| coverage < 1.0);
    Some(Calls { default, training, extended: default + training, coverage, partial })
}

fn part(some: f64, all: f64) -> Option<f64> {
    (all > 0.0).then(|| some / all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: Pool = Pool { training: GramsCo2e(600.0), units: 100.0 };

    #[test]
    fn what_is_allocated_and_what_remains_are_the_whole() {
        let (shares, allocated, remaining) = POOL.shares(&[10.0, 25.0]).expect("units");
        assert!((shares.iter().map(|share| share.0).sum::<f64>() - allocated.0).abs() < 1e-9);
        assert!((allocated.0 + remaining.0 - 600.0).abs() < 1e-9);
        assert!(Pool { units: 0.0, ..POOL }.shares(&[1.0]).is_none());
    }

    #[test]
    fn no_revision_books_more_than_the_training() {
        for policy in [UnitsPolicy::FrozenCap, UnitsPolicy::DynamicProspective, UnitsPolicy::DynamicRetroactive] {
            for units in [20.0, 50.0, 80.0, 400.0] {
                let revised = POOL.revise(50.0, units, policy).expect("units");
                assert!(revised.at_end.is_none_or(|grams| grams.0 <= 600.0 + 1e-9), "{policy:?} {units}");
            }
        }
        let short = POOL.revise(50.0, 20.0, UnitsPolicy::DynamicProspective).expect("units");
        assert_eq!(short.after, Some(0.0));
    }

    #[test]
    fn units_past_the_cap_are_free() {
        let capped = POOL.capped(99.0, 3.0).expect("units");
        assert!((capped.share.0 - 6.0).abs() < 1e-9 && (capped.free - 2.0).abs() < 1e-9 && capped.fully_amortised);
        let after = POOL.capped(200.0, 3.0).expect("units");
        assert!(after.share.0.abs() < 1e-12 && (after.free - 3.0).abs() < 1e-12);
    }

    #[test]
    fn strict_tracing_refuses_what_is_not_traced_whole() {
        assert!(traced(POOL, 3.0, 1.0, TracePolicy::Strict).share.is_none());
        assert!(traced(POOL, 3.0, 0.0, TracePolicy::Strict).share.is_some());
        assert!(traced(POOL, 3.0, 1.0, TracePolicy::TracedOnly).partial);
    }
}
