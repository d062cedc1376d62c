//! Layers: meters that contain parts of a node or whole nodes, each beside what it contains. Nothing of a layer is ever
//! added to its content.

use super::amount::Amount;
use super::energy::{key, method_name, row};
use super::input::told;
use joulebook_proto::query::EnergyRow;
use joulebook_sci::{LagUse, NodeSlot, SourceKey, SourceUse};
use joulebook_units::{Layer, Pue, Window};
use std::collections::{BTreeMap, BTreeSet};

/// Part of a slot, in percent, in which a meter must be known to be compared over it.
const KNOWN_PERCENT: u128 = 99;
/// Least half-width of a measured PUE (methodology C, hourly).
const MEASURED_PUE_UNCERTAINTY: f64 = 0.02;

/// A meter of a layer: the node that reads it, and what it says of itself.
pub type MeterKey = (Layer, String, String, SourceKey);

/// What a meter of a layer gave over a window.
#[derive(Debug, Clone, Copy, Default)]
pub struct MeterSum {
    amount: Amount,
    /// Own energy and that of the content over the slots in which both are known.
    compared: Option<(u64, u64)>,
    /// Nanoseconds in which it was the wall, and how late it was.
    wall: (u64, LagUse),
}

/// A PUE that was measured over a slot.
pub struct MeasuredPue {
    /// Energy of the site ÷ Σ inputs of its nodes.
    pub value: Pue,
    /// Its half-width.
    pub half_width: f64,
    /// Where it comes from.
    pub source: String,
}

/// One slot's nodes, each with the name of its site.
pub struct Nodes<'a> {
    /// When.
    pub window: Window,
    /// The nodes.
    pub nodes: &'a [NodeSlot],
    /// Their sites, in the same order; "" without one.
    pub sites: &'a [String],
}

impl Nodes<'_> {
    /// Meters of layers among the sources of a slot.
    fn meters(&self) -> impl Iterator<Item = (Layer, &NodeSlot, &SourceKey, &SourceUse)> {
        self.nodes.iter().flat_map(|node| {
            node.cell.sources.iter().filter_map(move |(key, used)| Some((key.layer()?, node, key, used)))
        })
    }

    fn is_known(&self, used: &SourceUse) -> bool {
        u128::from(used.covered_nanos) * 100 >= u128::from(self.window.nanos()) * KNOWN_PERCENT
    }

    /// Energy of what a meter contains; `None` where that is not declared or not known.
    fn content(&self, layer: Layer, reader: &NodeSlot, meter: &SourceKey) -> Option<u64> {
        let members: &[String] = meter.scope.as_ref().map_or(&[], |scope| &scope.members);
        let sum =
            |energies: Vec<u64>| (!energies.is_empty()).then(|| energies.into_iter().fold(0, u64::saturating_add));
        match layer {
            Layer::Board => {
                let of = |id: &String| reader.cell.sources.iter().find(|(key, _)| key.id == *id);
                let found: Option<Vec<u64>> = members.iter().map(|id| Some(of(id)?.1.microjoules)).collect();
                found.and_then(sum)
            }
            Layer::Node => Some(reader.cell.component_microjoules()),
            Layer::Site if members.is_empty() => {
                let site = meter.scope.as_ref().map(|scope| scope.name.as_str()).unwrap_or_default();
                let inside = self.nodes.iter().zip(self.sites).filter(|(_, own)| *own == site);
                sum(inside.map(|(node, _)| input(node)).collect())
            }
            Layer::Enclosure | Layer::Rack | Layer::Site => {
                let of = |name: &String| self.nodes.iter().find(|node| node.node == *name).map(input);
                let found: Option<Vec<u64>> = members.iter().map(of).collect();
                found.and_then(sum)
            }
        }
    }

    /// PUE of every site with a main meter that is known throughout: of several the one of the smallest declared error.
    /// Below 1 the meter or its list of nodes is wrong, and it is left out.
    #[allow(clippy::cast_precision_loss, reason = "a ratio")]
    pub fn measured_pue(&self) -> BTreeMap<String, MeasuredPue> {
        let mut best: BTreeMap<String, (u32, MeasuredPue)> = BTreeMap::new();
        for (layer, reader, meter, used) in self.meters() {
            let Some(scope) = meter.scope.as_ref().filter(|_| layer == Layer::Site && self.is_known(used)) else {
                continue;
            };
            let content = self.content(layer, reader, meter).filter(|content| *content > 0);
            let Some(Ok(value)) = content.map(|content| Pue::new(used.microjoules as f64 / content as f64)) else {
                continue;
            };
            let error = meter.uncertainty_permille;
            if best.get(&scope.name).is_none_or(|(other, _)| error < *other) {
                let half_width = (f64::from(error) / 1e3).max(MEASURED_PUE_UNCERTAINTY);
                let source = format!("measured by {} of {}", meter.id, reader.node);
                best.insert(scope.name.clone(), (error, MeasuredPue { value, half_width, source }));
            }
        }
        best.into_iter().map(|(site, (_, pue))| (site, pue)).collect()
    }

    /// Adds what the slot's meters gave.
    pub fn add_to(&self, sums: &mut BTreeMap<MeterKey, MeterSum>) {
        for (layer, reader, meter, used) in self.meters() {
            let name = meter.scope.as_ref().map(|scope| scope.name.clone()).unwrap_or_default();
            let sum = sums.entry((layer, name, reader.node.clone(), meter.clone())).or_default();
            let (own, simulated) = (used.microjoules, reader.simulated);
            let simulated_microjoules = if simulated { own } else { 0 };
            sum.amount.add(Amount { microjoules: own, simulated_microjoules, simulated });
            let input = &reader.cell.input;
            sum.wall.0 = sum.wall.0.saturating_add(input.meters.get(meter).copied().unwrap_or(0));
            sum.wall.1.merge(&input.lags.get(meter).copied().unwrap_or_default());
            if let Some(content) = self.content(layer, reader, meter).filter(|_| self.is_known(used)) {
                let (mine, others) = sum.compared.get_or_insert_default();
                (*mine, *others) = (mine.saturating_add(own), others.saturating_add(content));
            }
        }
    }
}

/// A node's input: metered, or estimated from its components.
fn input(node: &NodeSlot) -> u64 {
    node.cell.total_microjoules().saturating_sub(node.cell.overcount_microjoules)
}

/// One row a meter, from the outside in.
#[allow(clippy::cast_precision_loss, reason = "a ratio")]
pub fn rows(sums: &BTreeMap<MeterKey, MeterSum>) -> Vec<EnergyRow> {
    let row = |((layer, name, reader, meter), sum): (&MeterKey, &MeterSum)| {
        let columns = [("layer", layer.name()), ("name", name.as_str()), ("node", reader), ("source", &meter.id)];
        let residual = sum.compared.map(|(own, content)| i128::from(own) - i128::from(content));
        let ratio = sum.compared.filter(|(own, content)| *layer == Layer::Site && *content > 0 && own >= content);
        EnergyRow {
            content_microjoules: sum.compared.map(|(_, content)| content),
            layer_residual_microjoules: residual.and_then(|residual| i64::try_from(residual).ok()),
            lag: (sum.wall.0 > 0).then(|| told(sum.wall.0, &sum.wall.1)),
            pue: ratio.map(|(own, content)| own as f64 / content as f64),
            method: method_name(&BTreeSet::from([meter.method])),
            ..row(key(&columns), sum.amount, BTreeMap::new(), &BTreeSet::new())
        }
    };
    sums.iter().rev().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulebook_sci::{Account, Cell, EntryKey, Purpose};
    use joulebook_units::{Component, Method, Scope, UnixNanos};

    const SECOND: u64 = 1_000_000_000;

    fn meter(id: &str, layer: Layer, name: &str, members: &[&str], permille: u32) -> SourceKey {
        let members = members.iter().map(|member| (*member).to_owned()).collect();
        SourceKey {
            id: id.to_owned(),
            component: Component::Wall,
            method: Method::Counter,
            collector: "meter".to_owned(),
            uncertainty_permille: permille,
            contained: false,
            scope: Some(Scope { layer, name: name.to_owned(), members }),
        }
    }

    fn node(name: &str, energy: u64, meters: &[(SourceKey, u64, u64)]) -> NodeSlot {
        let mut cell = Cell::default();
        let key = EntryKey { account: Account::System, component: Component::Cpu, purpose: Purpose::Dynamic };
        cell.add(key, energy);
        for (meter, microjoules, seconds) in meters {
            let used = SourceUse { microjoules: *microjoules, covered_nanos: seconds * SECOND, ..SourceUse::default() };
            cell.sources.insert(meter.clone(), used);
        }
        NodeSlot {
            node: name.to_owned(),
            pool: String::new(),
            simulated: false,
            support: Vec::new(),
            cell,
            embodied_g: 0.0,
        }
    }

    fn shown(nodes: &[NodeSlot], sites: &[&str]) -> (Vec<EnergyRow>, Vec<(String, f64, String)>) {
        let window = Window::new(UnixNanos(0), UnixNanos(300_000_000_000)).expect("ordered");
        let sites: Vec<String> = sites.iter().map(|site| (*site).to_owned()).collect();
        let slot = Nodes { window, nodes, sites: &sites };
        let mut sums = BTreeMap::new();
        slot.add_to(&mut sums);
        let pue = slot.measured_pue().into_iter().map(|(site, pue)| (site, pue.value.get(), pue.source)).collect();
        (rows(&sums), pue)
    }

    #[test]
    fn a_residual_closes_each_layer_and_a_site_has_a_measured_pue() {
        let rack = meter("outlet", Layer::Rack, "r1", &["a", "b"], 10);
        let site = meter("main", Layer::Site, "fsn", &[], 10);
        let coarse = meter("bill", Layer::Site, "fsn", &[], 50);
        let nodes = [
            node("a", 100, &[(rack, 330, 300), (site, 600, 300), (coarse, 900, 300)]),
            node("b", 200, &[]),
            node("elsewhere", 1000, &[]),
        ];
        let (rows, pue) = shown(&nodes, &["fsn", "fsn", "hel"]);
        let of = |row: &EnergyRow| (row.microjoules, row.content_microjoules, row.layer_residual_microjoules, row.pue);
        assert_eq!(of(&rows[0]), (Some(600), Some(300), Some(300), Some(2.0)), "the site, outermost");
        assert_eq!(of(&rows[2]), (Some(330), Some(300), Some(30), None), "the rack");
        assert_eq!(pue, [("fsn".to_owned(), 2.0, "measured by main of a".to_owned())], "by the better meter");
    }

    #[test]
    fn what_is_not_declared_or_not_known_throughout_is_not_compared() {
        let undeclared = meter("e", Layer::Enclosure, "e1", &[], 10);
        let unknown_member = meter("r", Layer::Rack, "r1", &["a", "gone"], 10);
        let interrupted = meter("main", Layer::Site, "fsn", &[], 10);
        let (rows, pue) = shown(
            &[node("a", 100, &[(undeclared, 300, 300), (unknown_member, 300, 300), (interrupted, 300, 290)])],
            &["fsn"],
        );
        assert!(rows.iter().all(|row| row.microjoules == Some(300) && row.content_microjoules.is_none()));
        assert!(pue.is_empty());
        let below = meter("main", Layer::Site, "fsn", &[], 10);
        let (rows, pue) = shown(&[node("a", 100, &[(below, 90, 300)])], &["fsn"]);
        assert_eq!((rows[0].layer_residual_microjoules, rows[0].pue), (Some(-10), None), "said, not clamped");
        assert!(pue.is_empty(), "a PUE below 1 is none");
    }
}
