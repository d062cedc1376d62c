//! Buckets of histograms that say under which conditions a server works: how long requests take, how long prompts are.
//!
//! Every bucket is a series on the way to the aggregator, so that of each histogram a few bounds are kept. Buckets are
//! cumulative: those that are left out take nothing from those that are kept.

use super::exposition::{MetricType, Page, Sample};
use super::mapping::{Distributions, Histogram as Described, Metric};
use joulebook_units::CountKind;
use std::collections::BTreeMap;

/// Bounds of one histogram that are kept, the one without a bound not counted.
const MOST_BOUNDS: usize = 12;
/// Services of one target whose histograms are kept.
pub const MOST_SERVICES: usize = 16;
const NANOS_PER_SECOND: f64 = 1e9;

/// The histograms of a mapping.
#[derive(Debug, Clone, Default)]
pub struct Distributed {
    latency: Vec<Metric>,
    prompt_tokens: Vec<Metric>,
}

/// The histograms of a mapping that are on a page.
pub struct Told<'a> {
    histograms: Vec<Histogram<'a>>,
}

struct Histogram<'a> {
    metric: &'a Metric,
    kind: fn(u64) -> CountKind,
    /// From the page's unit to ours.
    factor: f64,
    /// The bounds that are kept, in the page's words.
    kept: BTreeMap<String, u64>,
}

impl Distributed {
    pub(super) fn new(distributions: Distributions) -> Self {
        let metrics = |histograms: Vec<Described>| histograms.into_iter().map(|Described(metric)| metric).collect();
        Self { latency: metrics(distributions.latency), prompt_tokens: metrics(distributions.prompt_tokens) }
    }

    /// Those on a page: of each kind the first whose family is a histogram there.
    pub fn told<'a>(&'a self, page: &Page<'_>) -> Told<'a> {
        let first = |metrics: &'a [Metric]| {
            metrics.iter().find(|metric| page.family_type(&metric.name, metric.kind) == Some(MetricType::Histogram))
        };
        let histogram = |metric: &'a Metric, kind: fn(u64) -> CountKind, factor: f64| Histogram {
            metric,
            kind,
            factor: metric.scale * factor,
            kept: kept(page, metric, metric.scale * factor),
        };
        let latency = first(&self.latency).map(|metric| histogram(metric, CountKind::LatencyWithin, NANOS_PER_SECOND));
        let prompt = first(&self.prompt_tokens).map(|metric| histogram(metric, CountKind::PromptWithin, 1.0));
        Told { histograms: latency.into_iter().chain(prompt).collect() }
    }
}

impl Told<'_> {
    /// What a sample counts, if it is a bucket that is kept.
    pub fn bucket(&self, sample: &Sample<'_>) -> Option<CountKind> {
        let histogram = self.histograms.iter().find(|histogram| {
            sample.name.strip_suffix("_bucket") == Some(&histogram.metric.name)
                && histogram.metric.filters.iter().all(|(label, filter)| filter.passes(sample.label(label)))
        })?;
        let bound = sample.label("le");
        match bound_of(bound, histogram.factor)? {
            u64::MAX => Some((histogram.kind)(u64::MAX)),
            _ => histogram.kept.get(bound).map(|bound| (histogram.kind)(*bound)),
        }
    }
}

/// A bound in our unit; `u64::MAX` is none, `None` a word that is no bound.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked: 0 to 10^18")]
fn bound_of(text: &str, factor: f64) -> Option<u64> {
    let value: f64 = text.parse().ok()?;
    if value.is_infinite() && value > 0.0 {
        return Some(u64::MAX);
    }
    let bound = (value * factor).round();
    (0.0..=1e18).contains(&bound).then_some(bound as u64)
}

/// Whether the bound at this place of so many is kept: evenly among them, the largest always.
pub fn is_kept(place: usize, all: usize) -> bool {
    let step = all.div_ceil(MOST_BOUNDS).max(1);
    (place + 1) % step == all % step
}

/// The bounds of a histogram that are kept: evenly among its own, the largest always.
fn kept(page: &Page<'_>, metric: &Metric, factor: f64) -> BTreeMap<String, u64> {
    let mut bounds: BTreeMap<u64, String> = BTreeMap::new();
    let of_metric = page.samples().iter().filter(|sample| sample.name.strip_suffix("_bucket") == Some(&metric.name));
    for sample in of_metric {
        let text = sample.label("le");
        if let Some(bound) = bound_of(text, factor).filter(|bound| *bound != u64::MAX) {
            bounds.entry(bound).or_insert_with(|| text.to_owned());
        }
    }
    let all = bounds.len();
    let every = bounds.into_iter().enumerate().filter(|(place, _)| is_kept(*place, all));
    every.map(|(_, (bound, text))| (text, bound)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(bounds: &[&str], ask: &str) -> Vec<Option<CountKind>> {
        let mapping = "latency = [{ metric = \"none\", type = \"histogram\" }, { metric = \"t\", type = \"histogram\", unit = \"ms\" }]";
        let distributed = Distributed::new(toml::from_str(mapping).expect("valid"));
        let lines: String = bounds.iter().map(|bound| format!("t_bucket{{le=\"{bound}\"}} 1\n")).collect();
        let text = format!("# TYPE t {ask}\n{lines}t_sum 1\nt_count 1\n");
        let page = Page::parse(text.as_bytes()).expect("legal");
        let told = distributed.told(&page);
        page.samples().iter().map(|sample| told.bucket(sample)).collect()
    }

    #[test]
    fn buckets_are_kept_in_our_unit_and_only_of_a_histogram() {
        let within = |nanos| Some(CountKind::LatencyWithin(nanos));
        let all = [within(500_000), within(1_000_000), within(u64::MAX), None, None];
        assert_eq!(told(&["0.5", "1", "+Inf"], "histogram"), all);
        assert_eq!(told(&["0.5", "+Inf"], "gauge"), [None; 4]);
        assert_eq!(told(&["NaN", "-1", "1e300", "x"], "histogram"), [None; 6]);
    }

    #[test]
    fn of_many_bounds_a_few_are_kept_and_always_the_largest() {
        let bounds: Vec<String> = (1..=30).map(|bound| bound.to_string()).collect();
        let bounds: Vec<&str> = bounds.iter().map(String::as_str).collect();
        let kept: Vec<_> = told(&bounds, "histogram").into_iter().flatten().collect();
        assert_eq!(kept.len(), 10);
        assert_eq!(kept.last(), Some(&CountKind::LatencyWithin(30_000_000)));
    }
}
