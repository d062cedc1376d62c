//! First-order uncertainty: linear within a source of error, root of squares between sources (methodology C).

use crate::operational::CompensatedSum;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// Name of the table of half-widths that intervals rest on.
pub const PROFILE: &str = "joulebook-default/1";
/// Half-width of the assumed power supply efficiency.
pub const PSU_EFFICIENCY: f64 = 0.04;
/// Half-width of the expected life: ± 1 year of 4.
pub const LIFESPAN: f64 = 0.25;
/// Half-width of a training carbon that its provider discloses.
pub const TRAINING_DISCLOSED: f64 = 0.20;
/// Half-width of a training carbon that the user assumes.
pub const TRAINING_ASSUMED: f64 = 0.50;
/// Half-width of the units that a version is expected to serve.
pub const TRAINING_UNITS: f64 = 0.50;

/// Deviations by source of error, in the unit of the total.
#[derive(Debug, Clone, Default)]
pub struct Deviations {
    /// Where the sum of each source of error stands.
    places: BTreeMap<String, usize>,
    sums: Vec<CompensatedSum>,
}

impl Deviations {
    /// Adds a term `value` that a source of error touches with the relative half-width `half_width`.
    pub fn add(&mut self, source: &str, value: f64, half_width: f64) {
        let place = self.place(source);
        self.add_at(place, value, half_width);
    }

    /// Where the sum of a source of error stands, for terms that come in their thousands.
    pub(crate) fn place(&mut self, source: &str) -> usize {
        if let Some(place) = self.places.get(source) {
            return *place;
        }
        self.places.insert(String::from(source), self.sums.len());
        self.sums.push(CompensatedSum::default());
        self.sums.len() - 1
    }

    /// [`Deviations::add`] to the sum at a place.
    pub(crate) fn add_at(&mut self, place: usize, value: f64, half_width: f64) {
        if let Some(sum) = self.sums.get_mut(place) {
            sum.add(value * half_width);
        }
    }

    /// The sum of each source of error.
    pub(crate) fn sums(&self) -> impl Iterator<Item = (&str, CompensatedSum)> {
        let of = |place: &usize| self.sums.get(*place).copied().unwrap_or_default();
        self.places.iter().map(move |(source, place)| (source.as_str(), of(place)))
    }

    /// Puts a sum in the place of what a source of error has.
    pub(crate) fn set(&mut self, source: &str, sum: CompensatedSum) {
        let place = self.place(source);
        if let Some(mine) = self.sums.get_mut(place) {
            *mine = sum;
        }
    }

    /// Half-width of the 95 % interval without gaps: root of the squares of the sources' deviations.
    pub fn half_width(&self) -> f64 {
        libm::sqrt(self.by_source().fold(0.0, |sum, (_, deviation)| sum + deviation * deviation))
    }

    /// 95 % interval around `value`; gap bounds widen it linearly, and the lower end is never below 0.
    pub fn interval(&self, value: f64, gap_low: f64, gap_high: f64) -> (f64, f64) {
        let half = self.half_width();
        ((value - half - gap_low).max(0.0), value + half + gap_high)
    }

    /// Deviation of each source.
    pub fn by_source(&self) -> impl Iterator<Item = (&str, f64)> {
        self.sums().map(|(source, sum)| (source, sum.get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_adds_linearly_and_two_in_quadrature() {
        let mut same = Deviations::default();
        same.add("sensor", 10.0, 0.1);
        same.add("sensor", 10.0, 0.1);
        assert_eq!(same.interval(20.0, 0.0, 0.0), (18.0, 22.0));
        let mut two = Deviations::default();
        two.add("sensor", 30.0, 0.1);
        two.add("grid", 40.0, 0.1);
        let (low, high) = two.interval(70.0, 1.0, 2.0);
        assert!((low - 64.0).abs() < 1e-9 && (high - 77.0).abs() < 1e-9);
    }
}
