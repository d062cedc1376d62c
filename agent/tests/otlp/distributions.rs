//! Histograms of exports are the distributions of how long requests took and how long prompts were.

use super::*;

/// A histogram of one data point since second 1.
fn buckets(name: &str, unit: &str, attributes: Vec<KeyValue>, (counts, bounds): (&[u64], &[f64]), at: u64) -> Metric {
    let mut metric = histogram(name, unit, vec![(attributes, counts.iter().sum(), 1.0)], at);
    if let Some(Data::Histogram(histogram)) = &mut metric.data {
        histogram.data_points[0].bucket_counts = counts.to_vec();
        histogram.data_points[0].explicit_bounds = bounds.to_vec();
    }
    metric
}

fn duration(counts: &[u64], bounds: &[f64], at: u64) -> Metric {
    let model = vec![text("gen_ai.response.model", "m")];
    buckets("gen_ai.server.request.duration", "s", model, (counts, bounds), at)
}

fn within(sample: &CountSample) -> Vec<(CountKind, u64)> {
    sample.counts.iter().filter(|(kind, _)| kind.is_bucket()).map(|(kind, count)| (*kind, *count)).collect()
}

use CountKind::{LatencyWithin, PromptWithin};

#[tokio::test]
async fn latencies_and_prompts_are_kept_with_their_bounds_in_our_units() {
    let mut rig = Rig::new(EARLY);
    let attributes = |kind: &str| vec![text("gen_ai.response.model", "m"), text("gen_ai.token.type", kind)];
    let usage =
        |kind| buckets("gen_ai.client.token.usage", "{token}", attributes(kind), (&[2, 1, 1], &[64.0, 1024.0]), 10);
    let failed = vec![text("gen_ai.response.model", "m"), text("error.type", "timeout")];
    let metrics = vec![
        duration(&[1, 2, 1], &[0.5, 2.0], 10),
        buckets("gen_ai.server.request.duration", "s", failed, (&[0, 0, 7], &[0.5, 2.0]), 10),
        usage("input"),
        usage("output"),
    ];
    assert_eq!(rig.exports(metrics).await, 0);
    let sample = rig.samples().pop().expect("a sample");
    let all = [
        (LatencyWithin(500_000_000), 1),
        (LatencyWithin(2_000_000_000), 3),
        (LatencyWithin(u64::MAX), 4),
        (PromptWithin(64), 2),
        (PromptWithin(1024), 3),
        (PromptWithin(u64::MAX), 4),
    ];
    assert_eq!(within(&sample), all, "the failed ones took as long as they did, and are no latencies");
    assert_eq!(sample.counts[&CountKind::RequestsFailed], 7);
    assert_eq!(sample.shown, sample.counts);
    // Cumulative: it grows by what came since.
    rig.exports(vec![duration(&[1, 5, 2], &[0.5, 2.0], 20)]).await;
    let sample = rig.samples().pop().expect("a sample");
    assert_eq!(within(&sample)[..3], [(all[0].0, 1), (all[1].0, 6), (all[2].0, 8)]);
}

#[tokio::test]
async fn buckets_with_other_bounds_do_not_mix_and_their_requests_count_all_the_same() {
    let mut rig = Rig::new(EARLY);
    rig.exports(vec![duration(&[1, 2], &[1.0], 10)]).await;
    rig.exports(vec![duration(&[1, 2, 3], &[1.0, 2.0], 20)]).await;
    let sample = rig.samples().pop().expect("a sample");
    assert_eq!(within(&sample), [(LatencyWithin(1_000_000_000), 1), (LatencyWithin(u64::MAX), 3)]);
    assert_eq!(sample.counts[&CountKind::RequestsOk], 6);
    // Back at the first ones: what came in between is not known, and counts from there.
    rig.exports(vec![duration(&[4, 4], &[1.0], 30)]).await;
    rig.exports(vec![duration(&[5, 6], &[1.0], 40)]).await;
    let sample = rig.samples().pop().expect("a sample");
    assert_eq!(within(&sample), [(LatencyWithin(1_000_000_000), 2), (LatencyWithin(u64::MAX), 6)]);
}

#[tokio::test]
async fn what_ran_before_the_agent_is_in_no_distribution() {
    let mut rig = Rig::new(LATE);
    let mut old = duration(&[1, 2], &[1.0], 10);
    if let Some(Data::Histogram(histogram)) = &mut old.data {
        histogram.data_points[0].start_time_unix_nano = (NOW - 100) * 1_000_000_000;
    }
    rig.exports(vec![old]).await;
    let sample = rig.samples().pop().expect("a sample");
    assert_eq!(within(&sample), [(LatencyWithin(1_000_000_000), 0), (LatencyWithin(u64::MAX), 0)]);
    assert_eq!(sample.shown[&LatencyWithin(u64::MAX)], 3);
}

#[tokio::test]
async fn buckets_that_are_none_refuse_their_data_point_alone() {
    let mut rig = Rig::new(EARLY);
    let falling = duration(&[1, 2, 3], &[2.0, 1.0], 10);
    assert_eq!(rig.exports(vec![falling, items(5, 10)]).await, 1);
    assert_eq!((rig.count(CountKind::Items), rig.failures()), (Some(5), [("value", 1)].into()));
    let many: Vec<f64> = (0..600).map(f64::from).collect();
    let refused = rig.client().await.export(request(vec![duration(&[0; 601], &many, 20)])).await;
    assert!(refused.is_err());
    assert_eq!(rig.failures(), [("limit", 1), ("value", 1)].into());
}
