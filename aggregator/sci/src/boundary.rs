//! Boundary levels as figures: energies by level, shares of the whole, and comparisons of boundaries (methodology A.2).

use crate::allocate::VersionCost;
use crate::operational::{effective_pue, facility};
use crate::totals::Level;
use joulebook_units::{Joules, Microjoules, Pue};

/// Where only the accelerator's energy is known, the whole is taken as this multiple of it; its method is *modelled*.
const PROXY_FACTOR: u64 = 2;

/// What the building adds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Overhead {
    /// In proportion to the energy of the machines.
    Pue(Pue),
    /// A metered amount.
    Energy(Joules),
}

/// Energy of one cost at every level, and what it is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Levels {
    /// L0.
    pub accelerator: Joules,
    /// L1: with host and platform.
    pub host: Joules,
    /// L2: with idle.
    pub idle: Joules,
    /// L3: with the building's overhead.
    pub facility: Joules,
}

impl Levels {
    /// The levels of a cost.
    pub fn of(cost: &VersionCost, overhead: Overhead) -> Self {
        let at = |level: Level| Microjoules(level.energy(cost)).to_joules();
        let idle = at(Level::Idle);
        let facility = match overhead {
            Overhead::Pue(pue) => facility(idle, pue),
            Overhead::Energy(energy) => idle + energy,
        };
        Self { accelerator: at(Level::Accelerator), host: at(Level::Host), idle, facility }
    }

    /// Parts of L3 that accelerator, host (platform included), idle and overhead are; Σ = 1. `None` over no energy.
    pub fn shares(&self) -> Option<[f64; 4]> {
        let of = |energy: Joules| energy.0 / self.facility.0;
        (self.facility.0 > 0.0).then(|| {
            [
                of(self.accelerator),
                of(self.host - self.accelerator),
                of(self.idle - self.host),
                of(self.facility - self.idle),
            ]
        })
    }

    /// L3 over L2; `None` over no energy.
    pub fn pue_effective(&self) -> Option<f64> {
        effective_pue(self.facility, self.idle)
    }
}

/// How much of the distance between two published figures is sampling, and how much boundary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Comprehensive over narrow.
    pub total: Option<f64>,
    /// Accelerator over narrow: another sample of the same boundary.
    pub sampling: Option<f64>,
    /// Comprehensive over accelerator: another boundary of the same sample.
    pub boundary: Option<f64>,
}

/// Compares a narrow figure with a comprehensive one of which `accelerator` is the narrow part. A ratio to no energy is
/// absent.
pub fn compare(narrow: Joules, accelerator: Joules, comprehensive: Joules) -> Comparison {
    let ratio = |energy: Joules, to: Joules| (to.0 > 0.0).then(|| energy.0 / to.0);
    Comparison {
        total: ratio(comprehensive, narrow),
        sampling: ratio(accelerator, narrow),
        boundary: ratio(comprehensive, accelerator),
    }
}

/// Energy of the whole where only the accelerator's is known: a model, never a measurement.
pub fn proxy(accelerator: Microjoules) -> Microjoules {
    Microjoules(accelerator.0.saturating_mul(PROXY_FACTOR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_all_levels_add_up_to_one_and_nothing_has_none() {
        let cost = VersionCost { accelerator_dynamic: 5, host: 2, platform: 1, pool_idle: 2, ..VersionCost::default() };
        let levels = Levels::of(&cost, Overhead::Pue(Pue::new(1.5).expect("a PUE")));
        assert!((levels.shares().expect("energy").iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!((levels.pue_effective().expect("energy") - 1.5).abs() < 1e-12);
        let nothing = Levels::of(&VersionCost::default(), Overhead::Energy(Joules(0.0)));
        assert!(nothing.shares().is_none() && nothing.pue_effective().is_none());
    }

    #[test]
    fn a_ratio_to_nothing_is_absent() {
        let compared = compare(Joules(0.0), Joules(2.0), Joules(3.0));
        assert_eq!((compared.total, compared.sampling), (None, None));
        assert_eq!(compared.boundary, Some(1.5));
    }
}
