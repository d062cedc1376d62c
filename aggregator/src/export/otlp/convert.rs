//! A step's figures as messages of OpenTelemetry: each host is a resource, and the aggregator is the one of model versions.
//!
//! Sums are cumulative since the export began, so that a message that is lost costs resolution and no joule. Gauges are
//! means over the last step, or the figures of a window that their `joulebook.window` names.

use crate::export::Snapshot;
use crate::export::metric;
use crate::export::point::joules;
use crate::query::overview::{SourceView, VersionView};
use joulebook_otlp::Message;
use joulebook_otlp::name::{
    GEN_AI_ENERGY, GEN_AI_ENERGY_PER_TOKEN, GEN_AI_IDLE_RATIO, GEN_AI_POWER, HW_ENERGY, HW_GPU_MEMORY_LIMIT,
    HW_HOST_ENERGY, HW_HOST_POWER, HW_POWER, MODEL_CARBON, MODEL_ENERGY, Name, WINDOW_CARBON, WINDOW_COVERAGE,
    WINDOW_ENERGY, WINDOW_SCI, WINDOW_SCI_HIGH, WINDOW_SCI_LOW, WINDOW_TOKENS, WINDOW_UNITS, attribute, kind,
};
use joulebook_otlp::point::{How, Messages, Told, resource, text};
use joulebook_proto::metrics::{Metric as Ours, bounded};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use std::collections::BTreeMap;

/// Who tells.
const SERVICE: (&str, &str) = ("joulebook-aggregator", env!("CARGO_PKG_VERSION"));

/// Our figures of windows that are told, as gauges.
const WINDOWS: [(&Ours, Name); 8] = [
    (&metric::MODEL_ENERGY, WINDOW_ENERGY),
    (&metric::MODEL_CARBON, WINDOW_CARBON),
    (&metric::MODEL_SCI, WINDOW_SCI),
    (&metric::MODEL_SCI_LOW, WINDOW_SCI_LOW),
    (&metric::MODEL_SCI_HIGH, WINDOW_SCI_HIGH),
    (&metric::MODEL_UNITS, WINDOW_UNITS),
    (&metric::MODEL_TOKENS, WINDOW_TOKENS),
    (&metric::MODEL_COVERAGE, WINDOW_COVERAGE),
];

/// The messages of a step.
pub fn messages(snapshot: &Snapshot, cluster: Option<&str>) -> Vec<Message> {
    let writer = Writer { snapshot, seconds: seconds(snapshot) };
    let mut messages = Messages::default();
    for (node, sum) in &snapshot.tally.nodes {
        let mut points = Vec::new();
        writer.host(node, sum.energy, &sum.sources, &mut points);
        messages.add(&resource(SERVICE, Some(node), cluster), points);
    }
    let mut points = Vec::new();
    writer.sums(&mut points);
    snapshot.step.versions.iter().for_each(|version| writer.version(version, &mut points));
    writer.windows(&mut points);
    messages.add(&resource(SERVICE, None, cluster), points);
    messages.finish()
}

#[allow(clippy::cast_precision_loss, reason = "a step's length")]
fn seconds(snapshot: &Snapshot) -> f64 {
    snapshot.step.window.nanos() as f64 / 1e9
}

struct Writer<'a> {
    snapshot: &'a Snapshot,
    seconds: f64,
}

impl Writer<'_> {
    fn told(&self, name: Name, how: How, attributes: Vec<KeyValue>, value: f64) -> Told {
        let nanos = |at: i64| u64::try_from(at).unwrap_or_default();
        let start = match how {
            How::Sum => self.snapshot.tally.since,
            How::Gauge | How::Level => self.snapshot.step.window.start(),
        };
        Told::new(name, how, attributes, (nanos(start.0), nanos(self.snapshot.at.0)), value)
    }

    fn host(&self, node: &str, energy: u64, sources: &BTreeMap<String, SourceView>, points: &mut Vec<Told>) {
        let id = || vec![text(attribute::HW_ID, node)];
        points.push(self.told(HW_HOST_ENERGY, How::Sum, id(), joules(energy)));
        let now = self.snapshot.step.nodes.iter().find(|view| view.node == node);
        if let Some(now) = now {
            points.push(self.told(HW_HOST_POWER, How::Gauge, id(), joules(now.energy()) / self.seconds));
        }
        // What contains others is the host's, and would be summed up with them.
        for source in sources.values().filter(|source| !source.beside) {
            let part = || {
                let mut attributes = vec![
                    text(attribute::HW_ID, &source.id),
                    text(attribute::HW_TYPE, kind(source.component)),
                    text(attribute::HW_PARENT, node),
                ];
                attributes.extend(source.device.as_ref().map(|(_, model)| text(attribute::HW_MODEL, model)));
                attributes
            };
            points.push(self.told(HW_ENERGY, How::Sum, part(), joules(source.microjoules)));
            if let Some(now) = now.and_then(|now| now.sources.iter().find(|now| now.id == source.id)) {
                points.push(self.told(HW_POWER, How::Gauge, part(), joules(now.microjoules) / self.seconds));
            }
            if let Some(bytes) = source.memory_bytes {
                #[allow(clippy::cast_precision_loss, reason = "bytes below 2^53")]
                points.push(self.told(HW_GPU_MEMORY_LIMIT, How::Level, part(), bytes as f64));
            }
        }
    }

    /// Sums of model versions.
    fn sums(&self, points: &mut Vec<Told>) {
        for (key, sum) in &self.snapshot.tally.versions {
            let [model, version, weights, config] = key.each_ref().map(String::as_str);
            for (level, energy) in &sum.by_level {
                let more = [("level", level.as_str()), ("policy", &sum.policy)];
                let attributes = identity([model, version, weights, config], &more);
                points.push(self.told(MODEL_ENERGY, How::Sum, attributes, *energy));
                if level == "idle" {
                    let attributes = identity([model, version, weights, config], &[("policy", &sum.policy)]);
                    points.push(self.told(GEN_AI_ENERGY, How::Sum, attributes, *energy));
                }
            }
            for (part, grams) in &sum.grams {
                let more = [("part", *part), ("level", &sum.level), ("policy", &sum.policy)];
                let attributes = identity([model, version, weights, config], &more);
                points.extend(grams.map(|grams| self.told(MODEL_CARBON, How::Sum, attributes, grams)));
            }
        }
    }

    /// What is proposed for model versions, over the step.
    #[allow(clippy::cast_precision_loss, reason = "tokens below 2^53")]
    fn version(&self, view: &VersionView, points: &mut Vec<Told>) {
        let Some(energy) = &view.answer.energy else { return };
        let Some(whole) = energy.by_level_j.get("idle").copied() else { return };
        let attributes = || identity([&view.model, &view.version, &view.weights, &view.serving_config], &[]);
        points.push(self.told(GEN_AI_POWER, How::Gauge, attributes(), whole / self.seconds));
        if let (Some(own), Some(pool)) = (energy.dedicated_idle_j, energy.pool_idle_j)
            && whole > 0.0
        {
            points.push(self.told(GEN_AI_IDLE_RATIO, How::Gauge, attributes(), (own + pool) / whole));
        }
        let tokens = view.answer.tokens.as_ref();
        let tokens = tokens.and_then(|tokens| Some(tokens.input? + tokens.output?)).filter(|tokens| *tokens > 0);
        points.extend(
            tokens.map(|tokens| self.told(GEN_AI_ENERGY_PER_TOKEN, How::Gauge, attributes(), whole / tokens as f64)),
        );
    }

    /// Figures of windows.
    fn windows(&self, points: &mut Vec<Told>) {
        for point in &self.snapshot.points {
            let Some((_, name)) = WINDOWS.iter().find(|(ours, _)| ours.name == point.metric.name) else { continue };
            let labels: Vec<(&str, &str)> =
                point.metric.labels.iter().copied().zip(point.labels.iter().map(String::as_str)).collect();
            let (own, more) = labels.split_at(4.min(labels.len()));
            let value = |place: usize| own.get(place).map_or("", |(_, value)| *value);
            let attributes = identity([value(0), value(1), value(2), value(3)], more);
            points.push(self.told(*name, How::Gauge, attributes, point.value));
        }
    }
}

/// Attributes of a model version; what is not known is not there. A long name is cut as it is on the page, so that sums and
/// windows of one version have the same.
fn identity([model, version, weights, config]: [&str; 4], more: &[(&str, &str)]) -> Vec<KeyValue> {
    let own = [
        (attribute::GEN_AI_REQUEST_MODEL.to_owned(), model),
        (attribute::MODEL_VERSION.to_owned(), version),
        (attribute::MODEL_WEIGHTS.to_owned(), weights),
        (attribute::SERVING_CONFIG.to_owned(), config),
    ];
    let more = more.iter().map(|(name, value)| (format!("{}{name}", attribute::PREFIX), *value));
    own.into_iter()
        .chain(more)
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| text(&name, &bounded(value)))
        .collect()
}
