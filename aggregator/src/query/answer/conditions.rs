//! Under which conditions a version served, and what it delivered besides tokens.

use super::*;
use joulebook_sci::distribution::{Distribution, Measure};

impl Context<'_> {
    #[allow(clippy::cast_precision_loss, reason = "ratios")]
    pub(super) fn operating(&self, parts: &Parts<'_>, missing: &mut Missing) -> wire::Operating {
        let used = &parts.totals.cost.used;
        let length = seconds(self.computed.gathered.window);
        let count = |kind: CountKind| used.counts.get(&kind).map(|count| *count as f64);
        // The engine's own number of requests at work, else what their times add up to.
        let over = |nanos: f64, of: u64| (of > 0).then(|| nanos / of as f64);
        let running = count(CountKind::RunningNanos).or_else(|| count(CountKind::BusyNanos));
        let concurrency = running.and_then(|nanos| over(nanos, used.executing_nanos));
        let waiting = count(CountKind::WaitingNanos).and_then(|nanos| over(nanos, used.counted_nanos));
        let rate = count(CountKind::RequestsOk).filter(|_| length > 0.0).map(|ok| ok / length);
        let utilisation = (used.resident_nanos > 0).then(|| used.executing_nanos as f64 / used.resident_nanos as f64);
        missing.note("operating.latency_target_s", "no latency target is declared");
        let set_up = &parts.version.configuration;
        let untold = "no server tells it, and it is not configured";
        let mut quantile = |measure: Measure, share: f64, unit: f64, field: &str, unknown: &str| {
            let value = Distribution::of(&used.counts, measure).and_then(|buckets| buckets.quantile(share));
            missing.or_note(value.map(|value| value / unit), &format!("operating.{field}"), unknown)
        };
        let no_times = "the engine's page has no distribution of times, or it lies beyond the last bound";
        let no_lengths = "the engine's page has no distribution of prompts, or it lies beyond the last bound";
        let latency_p50_s = quantile(Measure::Latency, 0.5, 1e9, "latency_p50_s", no_times);
        let latency_p95_s = quantile(Measure::Latency, 0.95, 1e9, "latency_p95_s", no_times);
        let prompt_p50_tokens = quantile(Measure::Prompt, 0.5, 1.0, "prompt_p50_tokens", no_lengths);
        let prompt_p95_tokens = quantile(Measure::Prompt, 0.95, 1.0, "prompt_p95_tokens", no_lengths);
        wire::Operating {
            concurrency: missing.or_note(
                concurrency,
                "operating.concurrency",
                "the engine tells neither how many requests run nor its busy time",
            ),
            rate_per_s: missing.or_note(rate, "operating.rate_per_s", "the engine does not tell its requests"),
            utilisation: missing.or_note(utilisation, "operating.utilisation", "the version was not resident"),
            waiting: missing.or_note(waiting, "operating.waiting", "the engine does not tell how many requests wait"),
            latency_p50_s,
            latency_p95_s,
            prompt_p50_tokens,
            prompt_p95_tokens,
            quantisation: missing.or_note(set_up.quantisation.clone(), "operating.quantisation", untold),
            serving_configuration: missing.or_note(describe(set_up), "operating.serving_configuration", untold),
            ..wire::Operating::default()
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "derived values")]
pub(super) fn delivered(parts: &Parts<'_>, missing: &mut Missing) -> wire::Delivered {
    let mut count = |kind: CountKind, field: &str, unknown: &str| {
        let value = parts.totals.cost.used.counts.get(&kind).copied();
        missing.or_note(value, &format!("delivered.{field}"), unknown)
    };
    let untold = "the engine does not tell";
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    wire::Delivered {
        items: count(CountKind::Items, "items", untold),
        images: count(CountKind::Images, "images", untold),
        audio_s: count(CountKind::AudioNanos, "audio_s", untold).map(seconds),
        video_s: count(CountKind::VideoNanos, "video_s", untold).map(seconds),
        sessions: count(CountKind::Sessions, "sessions", untold),
        workflows: count(CountKind::Workflows, "workflows", "no workflow is told"),
        stored_requests: count(CountKind::StoredRequests, "stored_requests", "no gateway tells of its own cache"),
    }
}
