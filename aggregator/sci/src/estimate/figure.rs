//! An estimate as it is told: by component, with its interval, and never as anything else than an estimate.

use crate::operational::{facility, operational};
use crate::uncertainty::{Deviations, LIFESPAN};
use alloc::vec::Vec;
use joulebook_units::{GramsCo2e, GramsCo2ePerKwh, Joules, Pue};

/// Half-widths of 95 % intervals (methodology C): a model of utilisation or thermal design power.
const MODEL: f64 = 0.40;
/// An intensity that stands for every hour of a year.
const YEARLY_INTENSITY: f64 = 0.30;
/// A PUE that somebody states, and the mean of a survey.
const STATED_PUE: f64 = 0.08;
const DEFAULT_PUE: f64 = 0.20;
/// A generic embodied total.
const EMBODIED: f64 = 0.50;
/// Energy of moving 10⁹ bytes over networks, in kWh (Cloud Carbon Footprint).
pub const NETWORK_KWH_PER_GIGABYTE: f64 = 0.001;
/// Energy of keeping 10¹² bytes on solid state for an hour, in Wh (Cloud Carbon Footprint).
pub const STORAGE_WH_PER_TERABYTE_HOUR: f64 = 1.2;
const WH_PER_KWH: f64 = 1e3;

/// A component of an estimate.
#[derive(Debug, Clone, PartialEq)]
pub struct Modeled {
    /// Its name.
    pub name: &'static str,
    /// Its energy: of the machines where the facility is added by the PUE, else as it is.
    pub energy: Joules,
    /// Whether the PUE is added to it.
    pub at_site: bool,
}

/// Energy of bytes that networks move: they are no part of the site.
pub fn network(gigabytes: f64, kwh_per_gigabyte: f64) -> Modeled {
    Modeled { name: "network", energy: Joules::from_kwh(gigabytes * kwh_per_gigabyte), at_site: false }
}

/// Energy of bytes that are kept.
pub fn storage(terabyte_hours: f64, wh_per_terabyte_hour: f64) -> Modeled {
    let energy = Joules::from_kwh(terabyte_hours * wh_per_terabyte_hour / WH_PER_KWH);
    Modeled { name: "storage", energy, at_site: true }
}

/// A PUE, and whether somebody states it for the site.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AssumedPue {
    /// The value.
    pub value: Pue,
    /// Whether it is the site's own.
    pub stated: bool,
}

/// A value with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranged {
    /// The value.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// An estimate.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Facility energy of each component in joules.
    pub components: Vec<(&'static str, f64)>,
    /// Facility energy in joules.
    pub energy_j: Ranged,
    /// Operational grams; `None` without an intensity.
    pub operational_g: Option<f64>,
    /// Embodied grams; `None` where nothing is stated of the hardware.
    pub embodied_g: Option<f64>,
    /// Of what is known of both; `None` without an intensity.
    pub carbon_g: Option<Ranged>,
}

impl Figure {
    /// Of components at one place.
    pub fn new(
        components: &[Modeled],
        pue: Option<AssumedPue>,
        intensity: Option<GramsCo2ePerKwh>,
        embodied: Option<GramsCo2e>,
    ) -> Self {
        let (mut of_energy, mut of_carbon) = (Deviations::default(), Deviations::default());
        let (mut energy, mut grams) = (0.0, 0.0);
        let mut parts = Vec::new();
        for one in components {
            let added = pue.filter(|_| one.at_site);
            let whole = added.map_or(one.energy, |pue| facility(one.energy, pue.value));
            let carbon = intensity.map_or(0.0, |intensity| operational(whole, intensity).0);
            parts.push((one.name, whole.0));
            (energy, grams) = (energy + whole.0, grams + carbon);
            for (deviations, term) in [(&mut of_energy, whole.0), (&mut of_carbon, carbon)] {
                deviations.add("model", term, MODEL);
                if let Some(pue) = added {
                    deviations.add("pue", term, if pue.stated { STATED_PUE } else { DEFAULT_PUE });
                }
            }
            of_carbon.add("intensity", carbon, YEARLY_INTENSITY);
        }
        if let Some(embodied) = embodied {
            of_carbon.add("embodied", embodied.0, EMBODIED);
            of_carbon.add("lifespan", embodied.0, LIFESPAN);
        }
        let ranged = |value: f64, deviations: &Deviations| {
            let (low, high) = deviations.interval(value, 0.0, 0.0);
            Ranged { value, low, high }
        };
        Self {
            components: parts,
            energy_j: ranged(energy, &of_energy),
            operational_g: intensity.map(|_| grams),
            embodied_g: embodied.map(|embodied| embodied.0),
            carbon_g: intensity.map(|_| ranged(grams + embodied.map_or(0.0, |embodied| embodied.0), &of_carbon)),
        }
    }

    /// The same a number of times: runs that were repeated, or requests.
    pub fn times(mut self, count: f64) -> Self {
        let all =
            |ranged: Ranged| Ranged { value: ranged.value * count, low: ranged.low * count, high: ranged.high * count };
        self.components.iter_mut().for_each(|(_, energy)| *energy *= count);
        self.energy_j = all(self.energy_j);
        self.operational_g = self.operational_g.map(|grams| grams * count);
        self.embodied_g = self.embodied_g.map(|grams| grams * count);
        self.carbon_g = self.carbon_g.map(all);
        self
    }
}

/// Grams of units that somebody else delivered, by a rate per unit: published by who delivered them, or itself an estimate.
pub fn rated(units: f64, grams_per_unit: f64, half_width: f64) -> Ranged {
    let value = units * grams_per_unit;
    Ranged { value, low: (value * (1.0 - half_width)).max(0.0), high: value * (1.0 + half_width) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machines(kwh: f64) -> Modeled {
        Modeled { name: "machines", energy: Joules::from_kwh(kwh), at_site: true }
    }

    #[test]
    fn an_estimate_is_wide_and_each_of_its_sources_widens_it() {
        let pue = AssumedPue { value: Pue::new(1.5).expect("a PUE"), stated: false };
        let intensity = GramsCo2ePerKwh::new(200.0).expect("an intensity");
        let figure = Figure::new(&[machines(2.0)], Some(pue), Some(intensity), Some(GramsCo2e(60.0)));
        let carbon = figure.carbon_g.expect("an intensity");
        assert!((figure.energy_j.value - 3.0 * 3.6e6).abs() < 1e-6 && (carbon.value - 660.0).abs() < 1e-9);
        let half = |shares: &[(f64, f64)]| {
            libm::sqrt(shares.iter().map(|(term, share)| (term * share) * (term * share)).sum())
        };
        let expected = half(&[(600.0, 0.4), (600.0, 0.2), (600.0, 0.3), (60.0, 0.5), (60.0, 0.25)]);
        assert!((carbon.high - 660.0 - expected).abs() < 1e-9 && (carbon.low - 660.0 + expected).abs() < 1e-9);
        assert!((figure.energy_j.high / figure.energy_j.value - 1.0 - libm::hypot(0.4, 0.2)).abs() < 1e-12);
    }

    #[test]
    fn networks_have_no_pue_and_what_is_not_known_is_not_there() {
        let pue = AssumedPue { value: Pue::new(2.0).expect("a PUE"), stated: true };
        let parts =
            [machines(1.0), network(100.0, NETWORK_KWH_PER_GIGABYTE), storage(50.0, STORAGE_WH_PER_TERABYTE_HOUR)];
        let figure = Figure::new(&parts, Some(pue), None, None);
        let kwh: Vec<f64> = figure.components.iter().map(|(_, joules)| joules / 3.6e6).collect();
        assert!(
            (kwh[0] - 2.0).abs() < 1e-12 && (kwh[1] - 0.1).abs() < 1e-12 && (kwh[2] - 0.12).abs() < 1e-12,
            "{kwh:?}"
        );
        assert_eq!((figure.operational_g, figure.embodied_g, figure.carbon_g), (None, None, None));
        let twice = figure.clone().times(2.0);
        assert!((twice.energy_j.high - 2.0 * figure.energy_j.high).abs() < 1e-6);
        assert_eq!(rated(1000.0, 0.5, 0.4), Ranged { value: 500.0, low: 300.0, high: 700.0 });
        assert!(rated(1000.0, 0.5, 1.4).low.abs() < 1e-12);
    }
}
