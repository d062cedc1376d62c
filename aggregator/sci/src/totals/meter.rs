//! Errors of the meters behind an amount that is proportional to energy of a node.
//!
//! The sources of error of a node have the same names in every slot. Names are made once, and where the sum of each stands is
//! remembered: a month of slots adds to the same few sums.

use super::Level;
use crate::allocate::NodeSlot;
use crate::cell::{Cell, Flags, SourceKey};
use crate::uncertainty::Deviations;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use joulebook_units::Method;

/// Places of the deviations of nodes' meters, among the deviations of one amount.
#[derive(Debug, Clone, Default)]
pub struct MeterErrors(BTreeMap<String, Places>);

#[derive(Debug, Clone, Default)]
struct Places {
    /// Of the parts of the node as they were last.
    parts: Vec<(SourceKey, Part)>,
    platform: Option<usize>,
    supply: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Part {
    /// Every node runs the same model: its error does not average out.
    Model(usize),
    /// One part of a sensor's error is its own, the other that of its kind; together they are the whole.
    Sensor { own: usize, kind: usize },
}

impl Part {
    fn of(source: &SourceKey, node: &str, deviations: &mut Deviations) -> Self {
        match source.method {
            Method::Estimated => Self::Model(deviations.place(&format!("model:{}", source.id))),
            _ => Self::Sensor {
                own: deviations.place(&format!("sensor:{node}:{}", source.id)),
                kind: deviations.place(&format!("sensor-kind:{}", source.collector)),
            },
        }
    }

    fn add(self, deviations: &mut Deviations, term: f64, half_width: f64) {
        match self {
            Self::Model(place) => deviations.add_at(place, term, half_width),
            Self::Sensor { own, kind } => {
                let half_width = half_width * core::f64::consts::FRAC_1_SQRT_2;
                deviations.add_at(own, term, half_width);
                deviations.add_at(kind, term, half_width);
            }
        }
    }
}

impl MeterErrors {
    /// Books the deviations of an amount that is proportional to energy of a node at a level. They always go to the same
    /// `deviations`.
    #[allow(clippy::cast_precision_loss, reason = "a ratio")]
    pub(crate) fn deviate(&mut self, deviations: &mut Deviations, node: &NodeSlot, level: Level, amount: f64) {
        if !self.0.contains_key(&node.node) {
            self.0.insert(node.node.clone(), Places::default());
        }
        let Some(places) = self.0.get_mut(&node.node) else { return };
        for (index, (source, share)) in energy_shares(&node.cell).enumerate() {
            let half_width = f64::from(source.uncertainty_permille) / 1e3;
            let known = places.parts.get(index).filter(|(known, _)| known == source);
            let part = match known {
                Some((_, part)) => *part,
                None => {
                    let part = Part::of(source, &node.node, deviations);
                    places.parts.truncate(index);
                    places.parts.push((source.clone(), part));
                    part
                }
            };
            part.add(deviations, amount * share, half_width);
        }
        if level < Level::Host {
            return;
        }
        // Power supplies are alike everywhere, while each meter and each model errs on its own.
        let input = &node.cell.input;
        let share = input.bound_microjoules as f64 / node.cell.total_microjoules().max(1) as f64;
        let place = match node.cell.flags.contains(Flags::PSU_ESTIMATED) {
            true => *places.supply.get_or_insert_with(|| deviations.place("psu_efficiency")),
            false => *places.platform.get_or_insert_with(|| deviations.place(&format!("platform:{}", node.node))),
        };
        deviations.add_at(place, amount, share);
    }
}

/// Component sources of a cell with their parts of its energy, Σ = 1 where there is any.
#[allow(clippy::cast_precision_loss, reason = "a ratio")]
fn energy_shares(cell: &Cell) -> impl Iterator<Item = (&SourceKey, f64)> {
    let total = cell.component_microjoules().max(1) as f64;
    let components = cell.sources.iter().filter(|(key, _)| key.is_part());
    components.map(move |(key, source)| (key, source.microjoules as f64 / total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::SourceUse;
    use alloc::vec;

    fn source(id: &str, method: Method) -> SourceKey {
        SourceKey {
            id: id.into(),
            component: joulebook_units::Component::Cpu,
            method,
            collector: "rapl".into(),
            uncertainty_permille: 100,
            contained: false,
            scope: None,
        }
    }

    fn node(name: &str, sources: &[&str]) -> NodeSlot {
        let used = SourceUse { microjoules: 10, ..SourceUse::default() };
        let method = |id: &str| if id.starts_with("tdp") { Method::Estimated } else { Method::Counter };
        let cell =
            Cell { sources: sources.iter().map(|id| (source(id, method(id)), used)).collect(), ..Cell::default() };
        NodeSlot { node: name.into(), pool: String::new(), simulated: false, support: vec![], cell, embodied_g: 0.0 }
    }

    #[test]
    fn what_is_remembered_of_a_node_changes_no_deviation() {
        let slots = [
            node("a", &["one", "two"]),
            node("b", &["one"]),
            node("a", &["one", "two"]),
            node("a", &["tdp", "two"]),
            node("a", &["two"]),
            node("a", &["one", "tdp", "two"]),
        ];
        let (mut remembered, mut all) = (MeterErrors::default(), Deviations::default());
        let mut apart = Deviations::default();
        for slot in &slots {
            remembered.deviate(&mut all, slot, Level::Host, 8.0);
            MeterErrors::default().deviate(&mut apart, slot, Level::Host, 8.0);
        }
        let told = |deviations: &Deviations| -> Vec<(String, u64)> {
            deviations.by_source().map(|(name, value)| (name.into(), value.to_bits())).collect()
        };
        assert_eq!(told(&all), told(&apart));
        assert_eq!(told(&all).len(), 7, "three sensors, their kind, a model and two platforms");
    }
}
