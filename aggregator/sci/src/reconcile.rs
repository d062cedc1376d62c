//! The node's input against its metered components: platform residual, overcount, power supply loss (methodology A.6).

mod model;

pub use model::{Model, estimate};

use crate::cell::{Account, Cell};
use crate::share::{largest_remainder, portion};
use alloc::vec::Vec;

/// Efficiency of a power supply, in millionths: 1 … 1,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Efficiency(u64);

/// Assumed where no meter stands at the input (methodology A.3).
pub const PSU_EFFICIENCY: Efficiency = Efficiency(940_000);
const WHOLE: u64 = 1_000_000;
/// Components beyond the wall meter by more than this part of it, in percent, are an overcount to be looked at.
const OVERCOUNT_FLAG_PERCENT: u128 = 2;

impl Efficiency {
    /// An efficiency given as a share, above 0 and at most 1; `None` outside.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "range checked")]
    pub fn new(share: f64) -> Option<Self> {
        (1e-6..=1.0).contains(&share).then_some(Self((share * 1e6 + 0.5) as u64))
    }
}

/// Σ components ÷ power supply efficiency, rounded to the nearest unit: the input where none is metered.
pub fn input_from_components(components: u64, efficiency: Efficiency) -> u64 {
    let parts = u128::from(efficiency.0.max(1));
    let input = (u128::from(components) * u128::from(WHOLE) + parts / 2) / parts;
    u64::try_from(input).unwrap_or(u64::MAX)
}

/// What a power supply of this efficiency loses while it feeds `components`.
pub fn psu_loss(components: u64, efficiency: Efficiency) -> u64 {
    input_from_components(components, efficiency).saturating_sub(components)
}

/// Which side is believed when the components exceed the wall meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// Components stand as they are; the overcount is declared.
    Components,
    /// What was charged is scaled down to the wall.
    Wall,
}

/// The difference between a wall meter and the components behind it. One of the two is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Residual {
    /// Fans, regulators, power supply loss: wall − Σ components.
    pub platform: u64,
    /// Σ components − wall.
    pub overcount: u64,
    wall: u64,
}

/// Compares a wall meter with Σ components, in one unit.
pub fn residual(wall: u64, components: u64) -> Residual {
    Residual { platform: wall.saturating_sub(components), overcount: components.saturating_sub(wall), wall }
}

impl Residual {
    /// Whether the components exceed the wall by more than 2 % of it.
    pub fn is_flagged(&self) -> bool {
        u128::from(self.overcount) * 100 > u128::from(self.wall) * OVERCOUNT_FLAG_PERCENT
    }

    /// Platform as a part of the wall; `None` for a wall of 0.
    pub fn platform_fraction(&self) -> Option<f64> {
        ratio(self.platform, self.wall)
    }

    /// Overcount as a part of the wall; `None` for a wall of 0.
    pub fn overcount_fraction(&self) -> Option<f64> {
        ratio(self.overcount, self.wall)
    }

    /// Energy of each workload (idle is one) with its part of the platform, or scaled to the wall where that is trusted.
    /// Where no workload used anything there is nobody to give it to and everything stays as it is.
    pub fn spread(&self, workloads: &[u64], trust: Trust) -> Vec<u64> {
        let weights: Vec<u128> = workloads.iter().map(|energy| u128::from(*energy)).collect();
        if trust == Trust::Wall && self.overcount > 0 {
            return largest_remainder(self.wall, &weights).unwrap_or_else(|| workloads.to_vec());
        }
        match largest_remainder(self.platform, &weights) {
            Some(parts) => workloads.iter().zip(parts).map(|(energy, part)| energy.saturating_add(part)).collect(),
            None => workloads.to_vec(),
        }
    }

    /// Everything that is in the book: Σ components + platform, or the wall where that is trusted.
    pub fn total(&self, trust: Trust) -> u64 {
        match trust {
            Trust::Wall => self.wall,
            Trust::Components => self.wall.saturating_add(self.overcount),
        }
    }
}

/// Scales what the components of a cell gave down to the wall, entry by entry, where the wall is trusted. The overcount of
/// the cell becomes 0; what it was stays in [`crate::cell::InputUse::scaled_microjoules`].
pub fn scale_to_wall(cell: &mut Cell) {
    let over = core::mem::take(&mut cell.overcount_microjoules);
    let own = |account: &Account| *account != Account::Platform;
    let weights: Vec<u128> =
        cell.entries.iter().filter(|(key, _)| own(&key.account)).map(|(_, energy)| u128::from(*energy)).collect();
    let components = cell.total_microjoules().saturating_sub(cell.platform_microjoules());
    let scaled = components.saturating_sub(over);
    let Some(parts) = largest_remainder(scaled, &weights) else { return };
    for ((_, energy), part) in cell.entries.iter_mut().filter(|(key, _)| own(&key.account)).zip(parts) {
        *energy = part;
    }
    cell.entries.retain(|_, energy| *energy > 0);
    for used in cell.services.values_mut() {
        used.joint_microjoules = portion(used.joint_microjoules, scaled, components);
    }
    cell.input.scaled_microjoules = cell.input.scaled_microjoules.saturating_add(over);
}

#[allow(clippy::cast_precision_loss, reason = "a ratio")]
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_two_percent_too_much_is_not_flagged_and_one_microjoule_more_is() {
        assert!(!residual(1_000, 1_020).is_flagged());
        assert!(residual(1_000, 1_021).is_flagged());
        assert!(!residual(0, 0).is_flagged());
        assert!(residual(0, 1).is_flagged() && residual(0, 1).overcount_fraction().is_none());
    }

    #[test]
    fn platform_is_spread_to_the_last_microjoule() {
        let spread = residual(110, 99).spread(&[33, 33, 33], Trust::Components);
        assert_eq!(spread, [37, 37, 36]);
        assert_eq!(residual(90, 99).spread(&[33, 33, 33], Trust::Wall), [30, 30, 30]);
        assert_eq!(residual(90, 99).spread(&[33, 33, 33], Trust::Components), [33, 33, 33]);
        assert_eq!(residual(90, 80).spread(&[0], Trust::Components), [0]);
    }

    #[test]
    fn a_trusted_wall_scales_every_entry_but_the_platform() {
        let mut cell = Cell { overcount_microjoules: 50, ..Cell::default() };
        let mut add = |account, microjoules| {
            let (component, purpose) = (joulebook_units::Component::Cpu, crate::cell::Purpose::Dynamic);
            cell.add(crate::cell::EntryKey { account, component, purpose }, microjoules);
        };
        add(Account::System, 600);
        add(Account::PoolIdle, 399);
        add(Account::Unattributed, 1);
        add(Account::Platform, 30);
        scale_to_wall(&mut cell);
        let energies: Vec<u64> = cell.entries.values().copied().collect();
        assert_eq!(energies, [570, 379, 30, 1], "by the largest remainder");
        assert_eq!((cell.overcount_microjoules, cell.input.scaled_microjoules), (0, 50));
        assert_eq!(cell.total_microjoules(), 980);
        let before = cell.clone();
        scale_to_wall(&mut cell);
        assert_eq!(cell, before, "nothing is left to scale");
    }

    #[test]
    fn input_is_rounded_to_the_nearest_microjoule() {
        assert_eq!(input_from_components(94, PSU_EFFICIENCY), 100);
        assert_eq!(input_from_components(1, PSU_EFFICIENCY), 1);
        assert_eq!(psu_loss(47, PSU_EFFICIENCY), 3);
        assert!(Efficiency::new(0.0).is_none() && Efficiency::new(1.1).is_none());
    }
}
