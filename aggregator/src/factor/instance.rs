//! Embodied carbon of cloud instances: each has the part of its vCPUs in the host of its family, accelerators and storage
//! inside.
//!
//! Data and credit: `data/instance.csv`, made by `data/instance.py`; NOTICE carries the licence.

use super::FactorError;
use super::table::{damaged, rows};
use std::collections::BTreeMap;

/// The table, byte for byte.
pub(super) const INSTANCES: &str = include_str!("../data/instance.csv");
/// Where it comes from, and which stages of life it covers.
pub(super) const SOURCE: &str =
    "Cloud Carbon Footprint (Amazon EC2 instances, 0.15.0; share of the host by vCPUs; manufacture)";

/// Kilograms of every instance by the name of its type. Fails only when the build embeds a damaged table.
pub(super) fn by_type() -> Result<BTreeMap<String, f64>, FactorError> {
    let read = |row: Result<(u64, [String; 3]), FactorError>| {
        let (line, [instance, _, kg]) = row?;
        let kg = kg.parse().ok().filter(|kg: &f64| *kg > 0.0);
        Ok((instance, kg.ok_or_else(|| damaged("instance.csv", line, "embodied_kg"))?))
    };
    rows("instance.csv", INSTANCES).map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_has_the_part_of_its_vcpus_in_its_host() {
        let instances = by_type().expect("the embedded table");
        assert_eq!(instances.len(), 499);
        let part = instances["m5.xlarge"] / instances["m5.24xlarge"];
        assert!((part - 4.0 / 96.0).abs() < 1e-5, "{part}");
        // Eight accelerators of 150 kg make a difference to the host without them.
        assert!(instances["p3.16xlarge"] > instances["m5.24xlarge"] + 1200.0);
    }
}
