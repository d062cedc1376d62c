//! What is configured of meters that a program of this machine reads and tells.

use super::{ConfigError, duration, milliwatts};
use crate::collector::redfish::value::NODE_CEILING;
use joulebook_units::{Layer, Milliwatts, NodeName, Scope};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::time::Duration;

/// Most bytes of a name.
const MOST_NAME_BYTES: usize = 64;

/// Most nodes that one meter names, and most bytes of the name of what it meters.
const MOST_MEMBERS: usize = 1_024;
const MOST_LAYER_BYTES: usize = 256;
/// What the main meter of a site may show, and what one of a rack may.
const SITE_CEILING: Milliwatts = Milliwatts(1_000_000_000_000);
const RACK_CEILING: Milliwatts = Milliwatts(1_000_000_000);

/// What a meter meters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metered {
    /// This node at its input.
    #[default]
    Node,
    /// Nodes that share power supplies.
    Enclosure,
    /// The nodes behind a rack's distribution unit.
    Rack,
    /// A site at its main meter, cooling included.
    Site,
}

/// One meter: of the node at its input, or of several nodes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MeterSection {
    /// Its name, 1 to 64 of letters, digits, '.', '-', '_'.
    pub name: String,
    /// The user that may tell, as the kernel names it.
    pub uid: u32,
    /// What it meters.
    pub of: Metered,
    /// Name of the enclosure, rack or site.
    pub of_name: Option<String>,
    /// The nodes behind it; a site without any has those that are placed in it.
    pub nodes: Vec<String>,
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
        let (of, of_name, nodes) = (Metered::Node, None, Vec::new());
        Self { name: String::new(), uid: 0, of, of_name, nodes, hold, ceiling_watts: None, uncertainty_permille: 20 }
    }
}

impl MeterSection {
    /// Highest power that is believed.
    pub fn ceiling(&self) -> Milliwatts {
        let usual = match self.of {
            Metered::Node => NODE_CEILING,
            Metered::Enclosure | Metered::Rack => RACK_CEILING,
            Metered::Site => SITE_CEILING,
        };
        self.ceiling_watts.map_or(usual, milliwatts)
    }

    /// The layer that it meters; none for the node itself.
    pub fn scope(&self) -> Option<Scope> {
        let layer = match self.of {
            Metered::Node => return None,
            Metered::Enclosure => Layer::Enclosure,
            Metered::Rack => Layer::Rack,
            Metered::Site => Layer::Site,
        };
        Some(Scope { layer, name: self.of_name.clone().unwrap_or_default(), members: self.nodes.clone() })
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
        let named = meter.of_name.as_ref().is_some_and(|name| (1..=MOST_LAYER_BYTES).contains(&name.len()));
        if named != (meter.of != Metered::Node) {
            return Err(ConfigError::value(
                "meter.of_name",
                "1 to 256 bytes for an enclosure, rack or site, unset for a node",
            ));
        }
        let nodes = meter.nodes.iter().all(|node| node.parse::<NodeName>().is_ok());
        if !nodes || meter.nodes.len() > MOST_MEMBERS || meter.of == Metered::Node && !meter.nodes.is_empty() {
            return Err(ConfigError::value(
                "meter.nodes",
                "names of at most 1024 nodes behind an enclosure, rack or site",
            ));
        }
        if meter.of != Metered::Site && meter.of != Metered::Node && meter.nodes.is_empty() {
            return Err(ConfigError::value("meter.nodes", "the names of the nodes behind the enclosure or rack"));
        }
        if meter.ceiling_watts.is_some_and(|watts| !(watts > 0.0 && watts <= 1e9)) {
            return Err(ConfigError::value("meter.ceiling_watts", "watts, above 0 and at most 1000000000"));
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
        let rack = MeterSection { of: Metered::Rack, of_name: Some("r1".to_owned()), ..meter("pdu") };
        assert!(complaint(std::slice::from_ref(&rack), true).contains("meter.nodes"));
        let rack = MeterSection { nodes: vec!["n1".to_owned(), "n2".to_owned()], ..rack };
        assert_eq!(complaint(std::slice::from_ref(&rack), true), "");
        assert_eq!(rack.scope().map(|scope| (scope.layer, scope.members.len())), Some((Layer::Rack, 2)));
        let site = MeterSection { of: Metered::Site, nodes: Vec::new(), ..rack.clone() };
        assert_eq!(complaint(&[site], true), "");
        assert!(complaint(&[MeterSection { of_name: None, ..rack.clone() }], true).contains("meter.of_name"));
        assert!(complaint(&[MeterSection { of: Metered::Node, ..rack }], true).contains("meter.of_name"));
        let section = MeterSection { hold: Duration::ZERO, ..meter("a") };
        assert!(complaint(&[section], true).contains("meter.hold"));
    }
}
