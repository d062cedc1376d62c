//! What is configured of meters that a program of this machine reads and tells.

use super::{ConfigError, duration, milliwatts};
use crate::collector::redfish::value::NODE_CEILING;
use joulebook_units::Milliwatts;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::time::Duration;

/// Most bytes of a name.
const MOST_NAME_BYTES: usize = 64;

/// One meter of the node at its input.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MeterSection {
    /// Its name, 1 to 64 of letters, digits, '.', '-', '_'.
    pub name: String,
    /// The user that may tell, as the kernel names it.
    pub uid: u32,
    /// How long a power that was told holds, 1 s to 1 h.
    #[serde(with = "duration")]
    pub hold: Duration,
    /// Highest power that is believed, in watts.
    pub ceiling_watts: Option<f64>,
    /// Half-width of the 95 % interval of its energy, in thousandths.
    pub uncertainty_permille: u32,
}

impl Default for MeterSection {
    fn default() -> Self {
        // Meters of class 1 are within 1 % of a full load, and less exact below.
        let hold = Duration::from_secs(60);
        Self { name: String::new(), uid: 0, hold, ceiling_watts: None, uncertainty_permille: 20 }
    }
}

impl MeterSection {
    /// Highest power that is believed.
    pub fn ceiling(&self) -> Milliwatts {
        self.ceiling_watts.map_or(NODE_CEILING, milliwatts)
    }
}

/// Refuses meters that no run could use.
pub(super) fn check(meters: &[MeterSection], has_socket: bool) -> Result<(), ConfigError> {
    let mut names = BTreeSet::new();
    for meter in meters {
        let good = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        if !(1..=MOST_NAME_BYTES).contains(&meter.name.len()) || !meter.name.chars().all(good) {
            return Err(ConfigError::value("meter.name", "1 to 64 of letters, digits, '.', '-', '_'"));
        }
        if !names.insert(&meter.name) {
            return Err(ConfigError::value("meter.name", "another one for each meter"));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(3_600)).contains(&meter.hold) {
            return Err(ConfigError::value("meter.hold", "\"1s\" to \"1h\""));
        }
        if meter.ceiling_watts.is_some_and(|watts| !(watts > 0.0 && watts <= 100_000.0)) {
            return Err(ConfigError::value("meter.ceiling_watts", "watts, above 0 and at most 100000"));
        }
        if !(1..=1_000).contains(&meter.uncertainty_permille) {
            return Err(ConfigError::value("meter.uncertainty_permille", "1 to 1000"));
        }
    }
    if !meters.is_empty() && !has_socket {
        return Err(ConfigError::value("push.socket", "set: a [[meter]] is told there"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meters_have_names_of_their_own_and_a_socket() {
        let meter = |name: &str| MeterSection { name: name.to_owned(), ..MeterSection::default() };
        let complaint = |meters: &[MeterSection], socket| {
            check(meters, socket).map_or_else(|error| error.to_string(), |()| String::new())
        };
        assert_eq!(complaint(&[], false), "");
        assert_eq!(complaint(&[meter("a"), meter("b")], true), "");
        assert!(complaint(&[meter("a"), meter("a")], true).contains("meter.name"));
        assert!(complaint(&[meter("a/b")], true).contains("meter.name"));
        assert!(complaint(&[meter("")], true).contains("meter.name"));
        assert!(complaint(&[meter("a")], false).contains("push.socket"));
        let section = MeterSection { hold: Duration::ZERO, ..meter("a") };
        assert!(complaint(&[section], true).contains("meter.hold"));
    }
}
