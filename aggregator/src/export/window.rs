//! Figures of a window as points.

use super::metric::{
    ACCOUNT, GPU_ENERGY, LEFT_OUT, MODEL_CARBON, MODEL_COVERAGE, MODEL_ENERGY, MODEL_FAILED, MODEL_FLAG, MODEL_INFO,
    MODEL_INTENSITY, MODEL_PART, MODEL_SCI, MODEL_SCI_HIGH, MODEL_SCI_LOW, MODEL_TOKENS, MODEL_UNITS, NODE_COVERAGE,
    NODE_ENERGY, NODE_HELD, NODE_OVERCOUNT, SELF_ENERGY, WINDOW_END, WINDOW_START,
};
use super::point::{Points, joules, seconds, window_name};
use crate::query::overview::{NodeView, Overview, VersionView};
use joulebook_proto::query::{Energy, SciAnswer};

/// Which part of an overview is shown.
#[derive(Debug, Clone, Copy)]
pub struct Shown {
    /// Most model versions; those of the least energy are left out.
    pub model_versions: usize,
    /// Whether nodes and their accelerators are shown one by one.
    pub nodes: bool,
}

/// What an overview says.
pub fn points(overview: &Overview, shown: Shown) -> Points {
    let mut points = Points::default();
    let window = window_name(overview.window);
    points.add(&WINDOW_START, &[&window], seconds(overview.window.start()));
    points.add(&WINDOW_END, &[&window], seconds(overview.window.end()));
    for (account, energy) in &overview.accounts {
        points.add(&ACCOUNT, &[account, &window], joules(*energy));
    }
    let versions = most(overview, shown.model_versions);
    points.add(&LEFT_OUT, &[&window], count(overview.versions.len() - versions.len()));
    for version in versions {
        Of { version, window: &window }.add_to(&mut points);
    }
    for node in overview.nodes.iter().filter(|_| shown.nodes) {
        add_node(&mut points, node, &window);
    }
    points
}

/// The versions of the most energy, at most so many.
pub fn most(overview: &Overview, limit: usize) -> Vec<&VersionView> {
    let mut versions: Vec<&VersionView> = overview.versions.iter().collect();
    versions.sort_by(|a, b| energy(&b.answer).total_cmp(&energy(&a.answer)));
    versions.truncate(limit);
    versions
}

fn energy(answer: &SciAnswer) -> f64 {
    answer.energy.as_ref().and_then(|energy| energy.total_j).unwrap_or_default()
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn count(number: usize) -> f64 {
    number as f64
}

/// The parts of an answer's energy, by name.
pub(super) fn parts(energy: &Energy) -> [(&'static str, Option<f64>); 7] {
    [
        ("accelerator", energy.accelerator_j),
        ("host", energy.host_j),
        ("platform", energy.platform_j),
        ("dedicated_idle", energy.dedicated_idle_j),
        ("pool_idle", energy.pool_idle_j),
        ("support", energy.support_j),
        ("overhead", energy.overhead_j),
    ]
}

/// A version in a window.
struct Of<'a> {
    version: &'a VersionView,
    window: &'a str,
}

impl Of<'_> {
    /// Its identity and further labels.
    fn labels<'b>(&'b self, more: &[&'b str]) -> Vec<&'b str> {
        let VersionView { model, version, weights, serving_config, .. } = self.version;
        [model.as_str(), version, weights, serving_config].into_iter().chain(more.iter().copied()).collect()
    }

    fn add_to(&self, points: &mut Points) {
        let (answer, window) = (&self.version.answer, self.window);
        let policy = answer.idle.as_ref().map_or("", |idle| idle.policy.as_str());
        let (level, boundary) = match &answer.boundary {
            Some(boundary) => (boundary.level.as_str(), boundary.label.as_str()),
            None => ("", ""),
        };
        if let Some(energy) = &answer.energy {
            for (level, value) in &energy.by_level_j {
                points.add(&MODEL_ENERGY, &self.labels(&[level, policy, window]), *value);
            }
            for (part, value) in parts(energy) {
                points.add(&MODEL_PART, &self.labels(&[part, policy, window]), value);
            }
        }
        if let Some(carbon) = &answer.carbon {
            for (part, value) in [("operational", carbon.o_g), ("embodied", carbon.m_g)] {
                points.add(&MODEL_CARBON, &self.labels(&[part, level, policy, window]), value);
            }
        }
        let unit = answer.r.as_ref().map_or("", |units| units.kind.as_str());
        if let Some(sci) = &answer.sci {
            let labels = [boundary, level, policy, unit, window];
            points.add(&MODEL_SCI, &self.labels(&labels), sci.value);
            points.add(&MODEL_SCI_LOW, &self.labels(&labels), sci.low);
            points.add(&MODEL_SCI_HIGH, &self.labels(&labels), sci.high);
        }
        self.add_use(points, unit);
        self.add_quality(points);
        let engines = answer.subject.as_ref().map(|subject| subject.engines.join(",")).unwrap_or_default();
        let source = answer.subject.as_ref().map_or("", |subject| subject.version_source.as_str());
        let set_up = answer.operating.as_ref().and_then(|operating| operating.serving_configuration.as_deref());
        points.add(&MODEL_INFO, &self.labels(&[&engines, source, set_up.unwrap_or_default()]), 1.0);
    }

    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    fn add_use(&self, points: &mut Points, unit: &str) {
        let (answer, window) = (&self.version.answer, self.window);
        if let Some(units) = &answer.r {
            points.add(&MODEL_UNITS, &self.labels(&[unit, window]), units.value);
            for (outcome, value) in [("failed", units.failed), ("aborted", units.aborted)] {
                points.add(&MODEL_FAILED, &self.labels(&[outcome, window]), value.map(|value| value as f64));
            }
        }
        if let Some(tokens) = &answer.tokens {
            let kinds = [
                ("input", tokens.input),
                ("cached", tokens.cached),
                ("output", tokens.output),
                ("reasoning", tokens.reasoning),
            ];
            for (kind, value) in kinds {
                points.add(&MODEL_TOKENS, &self.labels(&[kind, window]), value.map(|value| value as f64));
            }
        }
    }

    fn add_quality(&self, points: &mut Points) {
        let (answer, window) = (&self.version.answer, self.window);
        if let Some(quality) = &answer.quality {
            let coverage = [
                ("energy", quality.energy_measured_fraction),
                ("joint", quality.joint_coverage),
                ("counts", quality.count_fraction),
            ];
            for (of, value) in coverage {
                points.add(&MODEL_COVERAGE, &self.labels(&[of, window]), value);
            }
            for flag in &quality.flags {
                points.add(&MODEL_FLAG, &self.labels(&[flag, window]), 1.0);
            }
        }
        if let Some(intensity) = &answer.intensity {
            points.add(&MODEL_INTENSITY, &self.labels(&[&intensity.kind, window]), intensity.effective_g_per_kwh);
        }
    }
}

fn add_node(points: &mut Points, view: &NodeView, window: &str) {
    let NodeView { node, pool, site, accounts, overcount, coverage, held, own, sources, .. } = view;
    for (account, energy) in accounts {
        points.add(&NODE_ENERGY, &[node, pool, site, account, window], joules(*energy));
    }
    points.add(&NODE_OVERCOUNT, &[node, window], joules(*overcount));
    points.add(&NODE_COVERAGE, &[node, window], *coverage);
    points.add(&NODE_HELD, &[node, window], *held);
    for (part, energy) in own {
        points.add(&SELF_ENERGY, &[node, part, window], joules(*energy));
    }
    for source in sources.iter().filter(|source| !source.beside) {
        if let Some((gpu, model)) = &source.device {
            points.add(&GPU_ENERGY, &[node, gpu, model, window], joules(source.microjoules));
        }
    }
}
