//! Operational carbon: energy × PUE × grid carbon intensity, cell by cell (methodology A.3).

use joulebook_units::{GramsCo2e, GramsCo2ePerKwh, Joules, Pue};

/// A sum of many floats whose error does not grow with their number (Neumaier).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CompensatedSum {
    sum: f64,
    lost: f64,
}

impl CompensatedSum {
    /// Adds a value.
    pub fn add(&mut self, value: f64) {
        let next = self.sum + value;
        self.lost += if self.sum.abs() >= value.abs() { (self.sum - next) + value } else { (value - next) + self.sum };
        self.sum = next;
    }

    /// Adds another sum, and what it lost.
    pub fn merge(&mut self, other: Self) {
        self.add(other.sum);
        self.lost += other.lost;
    }

    /// The sum.
    pub fn get(self) -> f64 {
        self.sum + self.lost
    }
}

/// Facility energy of IT energy: × PUE.
pub fn facility(it: Joules, pue: Pue) -> Joules {
    Joules(it.0 * pue.get())
}

/// Operational carbon of energy at the place where the intensity holds.
pub fn operational(energy: Joules, intensity: GramsCo2ePerKwh) -> GramsCo2e {
    GramsCo2e(energy.to_kwh() * intensity.get())
}

/// Effective intensity in g/kWh: grams over facility energy; `None` over no energy.
pub fn effective_intensity(grams: GramsCo2e, facility: Joules) -> Option<f64> {
    (facility.0 > 0.0).then(|| grams.0 / facility.to_kwh())
}

/// Effective PUE: facility energy over IT energy; `None` over no energy.
pub fn effective_pue(facility: Joules, it: Joules) -> Option<f64> {
    (it.0 > 0.0).then(|| facility.0 / it.0)
}

/// Energy behind a published carbon figure: carbon over intensity; `None` for an intensity of 0.
pub fn energy_of(carbon: GramsCo2e, intensity: GramsCo2ePerKwh) -> Option<Joules> {
    (intensity.get() > 0.0).then(|| Joules::from_kwh(carbon.0 / intensity.get()))
}

/// Carbon by contract (certificates, power purchase): a figure beside the score, never a part of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MarketBased {
    /// Energy × contractual factor.
    pub operational: GramsCo2e,
    /// With carbon of other scopes, where it is stated.
    pub carbon: GramsCo2e,
}

impl MarketBased {
    /// SCI admits no market-based instrument.
    pub const SCI_ELIGIBLE: bool = false;

    /// Energy at a contractual factor, with `other` scopes.
    pub fn new(energy: Joules, factor: GramsCo2ePerKwh, other: Option<GramsCo2e>) -> Self {
        let operational = operational(energy, factor);
        Self { operational, carbon: operational + other.unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_kilowatt_hour_at_pue_1_2_and_100_g_is_120_g() {
        let energy = facility(Joules::from_kwh(1.0), Pue::new(1.2).expect("a PUE"));
        let grams = operational(energy, GramsCo2ePerKwh::new(100.0).expect("an intensity"));
        assert!((grams.0 - 120.0).abs() < 1e-9);
        assert!((effective_intensity(grams, energy).expect("energy") - 100.0).abs() < 1e-9);
        assert!((effective_pue(energy, Joules::from_kwh(1.0)).expect("energy") - 1.2).abs() < 1e-12);
    }

    #[test]
    fn carbon_turns_back_into_the_energy_it_came_from() {
        let intensity = GramsCo2ePerKwh::new(480.0).expect("an intensity");
        let energy = energy_of(GramsCo2e(27.7), intensity).expect("an intensity above 0");
        assert!((operational(energy, intensity).0 - 27.7).abs() < 1e-9);
        assert!(energy_of(GramsCo2e(1.0), GramsCo2ePerKwh::new(0.0).expect("an intensity")).is_none());
    }

    #[test]
    fn a_compensated_sum_keeps_what_a_plain_one_loses() {
        let mut sum = CompensatedSum::default();
        for value in [1e16, 1.0, 1.0, -1e16] {
            sum.add(value);
        }
        assert!((sum.get() - 2.0).abs() < 1e-9);
    }
}
