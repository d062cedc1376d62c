//! Platform while no meter stands at the input: learned while there was one, else a power supply's loss (methodology A.6).
//!
//! Works on cells when a question is asked and not when they are settled: a cell then depends on nothing but the rows
//! around it, and a model is whatever the cells that it was learned from say now.

use super::{PSU_EFFICIENCY, psu_loss};
use crate::cell::{Account, Cell, EntryKey, Flags, Purpose};
use crate::uncertainty;
use alloc::vec::Vec;
use joulebook_units::Component;

/// Fewest cells that a model is learned from: an hour of 300 s.
const FEWEST: usize = 12;
/// Time with a wall in nanoseconds from which a cell is learned from: four fifths of 300 s.
const LEARNED_NANOS: u64 = 240_000_000_000;
/// Half-width of a 95 % interval in standard deviations.
const WITHIN_95_PERCENT: f64 = 1.96;

/// `residual = base + slope × Σ components`, fitted by least squares over cells with a wall.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Model {
    base_watts: f64,
    slope: f64,
    error_watts: f64,
}

impl Model {
    /// What the cells teach; `None` where fewer than 12 of them have a wall for most of 300 s.
    #[allow(clippy::cast_precision_loss, reason = "powers")]
    pub fn fit<'a>(cells: impl Iterator<Item = &'a Cell>) -> Option<Self> {
        let points: Vec<(f64, f64)> = cells
            .filter(|cell| cell.input.nanos() >= LEARNED_NANOS)
            .map(|cell| {
                let watts = |microjoules: f64| microjoules * 1e3 / cell.input.nanos() as f64;
                let residual = cell.input.platform_microjoules as f64 - cell.overcount_microjoules as f64;
                (watts(cell.input.component_microjoules as f64), watts(residual))
            })
            .collect();
        if points.len() < FEWEST {
            return None;
        }
        let count = points.len() as f64;
        let mean = |part: fn(&(f64, f64)) -> f64| points.iter().map(part).sum::<f64>() / count;
        let (middle, height) = (mean(|point| point.0), mean(|point| point.1));
        let sum = |of: &dyn Fn(f64, f64) -> f64| points.iter().map(|(x, y)| of(x - middle, y - height)).sum::<f64>();
        let (spread, common) = (sum(&|x, _| x * x), sum(&|x, y| x * y));
        // Where the components always draw the same, nothing tells how the residual follows them.
        let slope = if spread > 1e-9 * middle * middle * count { common / spread } else { 0.0 };
        let squares = sum(&|x, y| (y - slope * x) * (y - slope * x));
        let error_watts = WITHIN_95_PERCENT * libm::sqrt(squares / (count - 2.0));
        Some(Self { base_watts: height - slope * middle, slope, error_watts })
    }

    /// Half-width of the 95 % interval of the residual in watts, as the fit shows it.
    pub fn error_watts(&self) -> f64 {
        self.error_watts
    }

    /// Residual in µJ over `nanos` in which the components gave `components`; never below 0.
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    fn residual(&self, components: u64, nanos: u64) -> u64 {
        rounded(self.base_watts * nanos as f64 / 1e3 + self.slope * components as f64)
    }
}

/// Estimates the platform of a cell where nothing measured it: by a model if one was learned, else it stays what a power
/// supply loses. Either way the interval of the platform grows by the estimate's.
#[allow(clippy::cast_precision_loss, reason = "an estimate")]
pub fn estimate(cell: &mut Cell, model: Option<&Model>) {
    let components = cell.component_microjoules().saturating_sub(cell.input.component_microjoules);
    if components == 0 {
        return;
    }
    // Time in which the components are known and the input is not.
    let nanos = cell.covered_nanos.saturating_sub(cell.input.nanos());
    let Some(model) = model.filter(|_| nanos > 0) else {
        let input = components.saturating_add(psu_loss(components, PSU_EFFICIENCY));
        widen(cell, rounded(input as f64 * uncertainty::PSU_EFFICIENCY));
        return;
    };
    let platform = cell.input.platform_microjoules.saturating_add(model.residual(components, nanos));
    cell.entries.retain(|key, _| key.account != Account::Platform);
    let key = EntryKey { account: Account::Platform, component: Component::Other, purpose: Purpose::Residual };
    cell.add(key, platform);
    cell.flags.remove(Flags::PSU_ESTIMATED);
    cell.flags.insert(Flags::RESIDUAL_MODELLED);
    widen(cell, rounded(model.error_watts * nanos as f64 / 1e3));
}

fn widen(cell: &mut Cell, bound: u64) {
    cell.input.bound_microjoules = cell.input.bound_microjoules.saturating_add(bound);
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast saturates, and what is below 0 is 0"
)]
fn rounded(microjoules: f64) -> u64 {
    libm::round(microjoules.max(0.0)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use joulebook_units::Method;

    const SECOND: u64 = 1_000_000_000;

    fn source(id: &str, component: Component) -> crate::cell::SourceKey {
        crate::cell::SourceKey {
            id: id.to_string(),
            component,
            method: Method::Counter,
            collector: "c".to_string(),
            uncertainty_permille: 50,
            contained: false,
            scope: None,
        }
    }

    fn platform() -> EntryKey {
        EntryKey { account: Account::Platform, component: Component::Other, purpose: Purpose::Residual }
    }

    /// 300 s of so many watts of components; with a wall if a residual in watts is given.
    fn cell(components: u64, residual: Option<u64>) -> Cell {
        let mut cell = Cell { covered_nanos: 300 * SECOND, ..Cell::default() };
        let energy = components * 300_000_000;
        cell.sources.entry(source("cpu", Component::Cpu)).or_default().microjoules = energy;
        match residual {
            Some(residual) => {
                cell.input.meters.insert(source("bmc", Component::Wall), 300 * SECOND);
                cell.input.component_microjoules = energy;
                cell.input.platform_microjoules = residual * 300_000_000;
                cell.add(platform(), residual * 300_000_000);
            }
            None => {
                cell.flags.insert(Flags::PSU_ESTIMATED);
                cell.add(platform(), psu_loss(energy, PSU_EFFICIENCY));
            }
        }
        cell
    }

    #[test]
    fn a_silent_meter_is_stood_in_for_by_what_it_taught() {
        // 80 W and a fifth of the components.
        let taught: Vec<Cell> = (0..12).map(|step| cell(100 + 50 * step, Some(80 + 20 + 10 * step))).collect();
        let model = Model::fit(taught.iter()).expect("twelve cells");
        assert!((model.base_watts - 80.0).abs() < 1e-6 && (model.slope - 0.2).abs() < 1e-9 && model.error_watts < 1e-6);
        let mut silent = cell(1000, None);
        estimate(&mut silent, Some(&model));
        assert_eq!(silent.platform_microjoules(), 280 * 300_000_000);
        assert_eq!((silent.flags, silent.input.bound_microjoules), (Flags::RESIDUAL_MODELLED, 0));
        let mut measured = cell(1000, Some(300));
        let before = measured.clone();
        estimate(&mut measured, Some(&model));
        assert_eq!(measured, before, "what is measured stays");
    }

    #[test]
    fn a_model_needs_an_hour_and_tells_its_error() {
        let noisy: Vec<Cell> = (0..12).map(|step| cell(400, Some(100 + 20 * (step % 2)))).collect();
        assert_eq!(Model::fit(noisy.iter().take(11)), None);
        let model = Model::fit(noisy.iter()).expect("twelve cells");
        assert!(model.slope.abs() < 1e-12, "components that never change teach no slope");
        let error = 1.96 * libm::sqrt(12.0 * 100.0 / 10.0);
        assert!((model.error_watts() - error).abs() < 1e-9);
        let mut silent = cell(400, None);
        estimate(&mut silent, Some(&model));
        assert_eq!(silent.platform_microjoules(), 110 * 300_000_000);
        assert_eq!(silent.input.bound_microjoules, rounded(error * 300e6));
        let brief = vec![Cell { input: crate::cell::InputUse::default(), ..cell(400, Some(1)) }; 20];
        assert_eq!(Model::fit(brief.iter()), None, "cells without a wall teach nothing");
    }

    #[test]
    fn without_a_model_the_power_supply_stays_and_its_error_counts() {
        let mut silent = cell(940, None);
        estimate(&mut silent, None);
        assert_eq!(silent.platform_microjoules(), 60 * 300_000_000);
        assert_eq!((silent.flags, silent.input.bound_microjoules), (Flags::PSU_ESTIMATED, 40 * 300_000_000));
        let mut nothing = Cell::default();
        estimate(&mut nothing, None);
        assert_eq!(nothing, Cell::default());
    }
}
