//! Components that nobody meters and somebody declares: networks that carry what is served, storage that holds it. They are
//! modelled, stand beside the score and are never in it (methodology A.2: what is not inside is named).

use crate::cell::ServiceUse;
use crate::estimate::figure::{network, storage};
use crate::score::FunctionalUnit;
use joulebook_units::{GramsCo2e, Joules};

/// Bytes of a gigabyte.
const GIGABYTE: f64 = 1e9;
const NANOS_PER_HOUR: f64 = 3.6e12;

/// What a component is declared to take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// Traffic of each unit that is served.
    Network {
        /// Energy of a gigabyte in kWh, at least 0.
        kwh_per_gigabyte: f64,
        /// Bytes of each unit, at least 0.
        bytes_per_unit: f64,
        /// The unit.
        unit: FunctionalUnit,
    },
    /// What is kept all the time.
    Storage {
        /// How much, replicas included, at least 0.
        terabytes: f64,
        /// Power of a terabyte in W, at least 0.
        watts_per_terabyte: f64,
    },
}

/// Energy and carbon of a component, with the ends of the 95 % interval of the grams.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Modelled {
    /// Energy.
    pub energy: Joules,
    /// Grams.
    pub carbon: GramsCo2e,
    /// Lower end.
    pub low: GramsCo2e,
    /// Upper end.
    pub high: GramsCo2e,
}

impl Load {
    /// What it takes in a window of so many nanoseconds; `None` if the engine does not tell the unit.
    #[allow(clippy::cast_precision_loss, reason = "a derived value")]
    pub fn energy(&self, used: &ServiceUse, nanos: u64) -> Option<Joules> {
        match *self {
            Self::Network { kwh_per_gigabyte, bytes_per_unit, unit } => {
                let gigabytes = unit.count(used)? * bytes_per_unit / GIGABYTE;
                Some(network(gigabytes, kwh_per_gigabyte).energy)
            }
            Self::Storage { terabytes, watts_per_terabyte } => {
                Some(storage(terabytes * nanos as f64 / NANOS_PER_HOUR, watts_per_terabyte).energy)
            }
        }
    }

    /// Its carbon at so many grams per joule, where the energy may be off by a share.
    pub fn modelled(&self, energy: Joules, grams_per_joule: f64, half_width: f64) -> Modelled {
        let grams = energy.0 * grams_per_joule;
        let end = |factor: f64| GramsCo2e((grams * factor).max(0.0));
        Modelled { energy, carbon: GramsCo2e(grams), low: end(1.0 - half_width), high: end(1.0 + half_width) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulebook_units::CountKind;

    #[test]
    fn traffic_goes_by_what_is_served_and_storage_by_the_time() {
        let used = ServiceUse { counts: [(CountKind::RequestsOk, 1_000_000)].into(), ..ServiceUse::default() };
        let network = Load::Network { kwh_per_gigabyte: 0.001, bytes_per_unit: 4_000.0, unit: FunctionalUnit::Request };
        let energy = network.energy(&used, 1).expect("told");
        assert!((energy.0 - 4.0 * 0.001 * 3.6e6).abs() < 1e-6, "4 GB: {energy:?}");
        assert!(network.energy(&ServiceUse::default(), 1).is_none(), "what is not told is not 0");
        let storage = Load::Storage { terabytes: 2.0, watts_per_terabyte: 1.2 };
        let energy = storage.energy(&used, 10_000_000_000).expect("always");
        assert!((energy.0 - 24.0).abs() < 1e-9, "{energy:?}");
        let modelled = storage.modelled(energy, 0.5, 0.4);
        let ends = (modelled.low.0, modelled.carbon.0, modelled.high.0);
        assert!((ends.0 - 7.2).abs() < 1e-9 && (ends.1 - 12.0).abs() < 1e-9 && (ends.2 - 16.8).abs() < 1e-9);
        assert!(storage.modelled(energy, 0.5, 2.0).low.0.abs() < 1e-12, "grams are not below 0");
    }
}
