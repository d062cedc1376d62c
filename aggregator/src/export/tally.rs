//! Sums since the export began, step by step: what counters of Prometheus and sums of OpenTelemetry are made of.
//!
//! A step enters once, when it is closed, and nothing is taken away later: a sum never falls. Rows that come later than
//! that are in the figures of windows and in every answer of the command line, and not in the sums. Question: why not
//! correct the sums? Because a receiver takes a sum that falls for one that began again.

use super::metric::{MODEL_CARBON_TOTAL, MODEL_ENERGY_TOTAL, NODE_ENERGY_TOTAL, SELF_ENERGY_TOTAL};
use super::point::{Points, joules};
use super::window::most;
use crate::query::overview::{Overview, SourceView};
use joulebook_units::UnixNanos;
use std::collections::BTreeMap;

/// A model version's identity: model, version, weights, serving configuration.
pub type VersionKey = [String; 4];

/// Sums of one model version.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VersionSum {
    /// Energy in joules by level.
    pub by_level: BTreeMap<String, f64>,
    /// Grams of CO2e by part; a part that was ever unknown is not there.
    pub grams: BTreeMap<&'static str, Option<f64>>,
    /// Policy of the idle in it.
    pub policy: String,
    /// Boundary level of the grams.
    pub level: String,
}

/// Sums of one node.
#[derive(Debug, Clone, Default)]
pub struct NodeSum {
    /// Energy in µJ.
    pub energy: u64,
    /// Energy in µJ of Joulebook's own processes on it, by program.
    pub own: BTreeMap<&'static str, u64>,
    /// Energy of its sources in µJ.
    pub sources: BTreeMap<String, SourceView>,
}

/// Sums since the export began.
#[derive(Debug, Clone)]
pub struct Tally {
    /// When it began.
    pub since: UnixNanos,
    /// Nodes.
    pub nodes: BTreeMap<String, NodeSum>,
    /// Model versions.
    pub versions: BTreeMap<VersionKey, VersionSum>,
}

impl Tally {
    /// Nothing yet.
    pub fn new(since: UnixNanos) -> Self {
        Self { since, nodes: BTreeMap::new(), versions: BTreeMap::new() }
    }

    /// Adds a closed step. At most `limit` model versions are ever kept, the first ones.
    pub fn add(&mut self, step: &Overview, limit: usize) {
        for node in &step.nodes {
            let sum = self.nodes.entry(node.node.clone()).or_default();
            sum.energy = sum.energy.saturating_add(node.energy());
            for (part, energy) in &node.own {
                let own = sum.own.entry(part).or_default();
                *own = own.saturating_add(*energy);
            }
            for source in &node.sources {
                match sum.sources.get_mut(&source.id) {
                    Some(known) => known.microjoules = known.microjoules.saturating_add(source.microjoules),
                    None => drop(sum.sources.insert(source.id.clone(), source.clone())),
                }
            }
        }
        for view in most(step, limit) {
            let key = [&view.model, &view.version, &view.weights, &view.serving_config].map(String::clone);
            if self.versions.len() >= limit && !self.versions.contains_key(&key) {
                continue;
            }
            let sum = self.versions.entry(key).or_default();
            let answer = &view.answer;
            sum.policy = answer.idle.as_ref().map(|idle| idle.policy.clone()).unwrap_or_default();
            sum.level = answer.boundary.as_ref().map(|boundary| boundary.level.clone()).unwrap_or_default();
            for (level, energy) in answer.energy.iter().flat_map(|energy| &energy.by_level_j) {
                *sum.by_level.entry(level.clone()).or_default() += energy;
            }
            if let Some(carbon) = &answer.carbon {
                for (part, grams) in [("operational", carbon.o_g), ("embodied", carbon.m_g)] {
                    let known = sum.grams.entry(part).or_insert(Some(0.0));
                    *known = known.zip(grams).map(|(sum, grams)| sum + grams);
                }
            }
        }
    }

    /// What it says.
    pub fn points(&self) -> Points {
        let mut points = Points::default();
        for (node, sum) in &self.nodes {
            points.add(&NODE_ENERGY_TOTAL, &[node], joules(sum.energy));
            for (part, energy) in &sum.own {
                points.add(&SELF_ENERGY_TOTAL, &[node, part], joules(*energy));
            }
        }
        for (key, sum) in &self.versions {
            let [model, version, weights, config] = key.each_ref().map(String::as_str);
            for (level, energy) in &sum.by_level {
                points.add(&MODEL_ENERGY_TOTAL, &[model, version, weights, config, level, &sum.policy], *energy);
            }
            for (part, grams) in &sum.grams {
                let labels = [model, version, weights, config, part, &sum.level, &sum.policy];
                points.add(&MODEL_CARBON_TOTAL, &labels, *grams);
            }
        }
        points
    }
}
