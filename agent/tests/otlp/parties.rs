//! Whom exported work was for: consumers, workflows and their runs.

use super::*;
use joulebook_agent::inference::Names;

/// A data point of `inference.items` in second 10 with these attributes besides the model.
fn of(count: i64, attributes: &[(&str, &str)]) -> NumberDataPoint {
    let mut one = point(Value::AsInt(count), 1, 10);
    one.attributes.extend(attributes.iter().map(|(key, value)| text(key, value)));
    one
}

/// Kind and name of whom each sample is for, and what it counts; empty words for the version itself.
fn told(rig: &mut Rig, kind: CountKind) -> Vec<(String, String, Option<u64>)> {
    let told = |sample: CountSample| {
        let count = sample.counts.get(&kind).copied();
        let (consumer, target) = (sample.of, sample.service.target);
        let Some(of) = consumer else { return (String::new(), String::new(), count) };
        assert_eq!((of.engine.as_str(), of.endpoint.as_ref(), &of.gateway), ("otlp", Some(&target), &target));
        assert_eq!((of.model.as_deref(), of.version.as_deref()), (Some("m"), Some("2")));
        assert!(sample.shown.is_empty(), "what a process shows is its versions'");
        (of.consumer.kind, of.consumer.name, count)
    };
    rig.samples().into_iter().map(told).collect()
}

fn row(kind: &str, name: &str, count: u64) -> (String, String, Option<u64>) {
    (kind.to_owned(), name.to_owned(), Some(count))
}

#[tokio::test]
async fn a_version_has_the_counts_of_all_its_consumers_and_workflows_and_each_has_its_own() {
    let mut rig = Rig::new(EARLY);
    rig.inference.name_consumers(Names::Raw);
    let (alice, bob) = (("inference.consumer", "alice"), ("enduser.id", "bob"));
    let triage = ("inference.workflow", "triage");
    let points = vec![of(5, &[alice]), of(3, &[bob, triage]), of(2, &[])];
    assert_eq!(rig.exports(vec![sum("inference.items", CUMULATIVE, points.clone())]).await, 0);
    let all = [row("", "", 10), row("consumer", "alice", 5), row("consumer", "bob", 3), row("workflow", "triage", 3)];
    assert_eq!(told(&mut rig, CountKind::Items), all);
    // Sent again it changes nothing; what grows, grows for whom it did.
    rig.exports(vec![sum("inference.items", CUMULATIVE, points)]).await;
    let later = NumberDataPoint { time_unix_nano: (NOW + 20) * 1_000_000_000, ..of(9, &[alice]) };
    rig.exports(vec![sum("inference.items", CUMULATIVE, vec![later])]).await;
    assert_eq!(told(&mut rig, CountKind::Items), [row("", "", 14), row("consumer", "alice", 9)]);
    // The resource speaks for data points that are silent.
    let resource = vec![text("inference.consumer", "carol"), text("inference.root", "r")];
    let silent = vec![sum("inference.items", CUMULATIVE, vec![of(1, &[]), of(2, &[alice])])];
    rig.client().await.export(of_resource(resource, silent)).await.expect("taken");
    let more = [row("", "", 17), row("consumer", "alice", 11), row("consumer", "carol", 1)];
    assert_eq!((told(&mut rig, CountKind::Items), rig.failures()), (more.to_vec(), BTreeMap::new()));
}

#[tokio::test]
async fn consumers_of_gen_ai_metrics_are_hashed_and_without_a_secret_they_are_not_told() {
    let attributes = |kind: &str| {
        let model = text("gen_ai.response.model", "m");
        let version = text("inference.model_version", "2");
        let (consumer, flow) = (text("inference.consumer", "alice"), text("gen_ai.workflow.name", "triage"));
        vec![model, version, consumer, flow, text("gen_ai.token.type", kind)]
    };
    let usage = || {
        let points = vec![(attributes("input"), 4, 400.0), (attributes("output"), 4, 80.0)];
        histogram("gen_ai.client.token.usage", "{token}", points, 10)
    };
    let secret = Names::Hashed([7; 32]);
    let hash = secret.of("consumer", "alice");
    let mut rig = Rig::new(EARLY);
    rig.exports(vec![usage()]).await;
    assert_eq!(told(&mut rig, CountKind::OutputTokens), [row("", "", 80), row("workflow", "triage", 80)]);
    let mut rig = Rig::new(EARLY);
    rig.inference.name_consumers(secret);
    rig.exports(vec![usage()]).await;
    let samples = rig.samples();
    let text = format!("{samples:?}");
    assert!(text.contains(&hash) && !text.contains("alice"), "{text}");
    let tokens = |sample: &CountSample| (sample.of.is_some(), sample.counts[&CountKind::InputTokens]);
    assert_eq!(samples.iter().map(tokens).collect::<Vec<_>>(), [(false, 400), (true, 400), (true, 400)]);
}

#[tokio::test]
async fn each_run_of_a_workflow_counts_once_however_many_requests_it_makes() {
    let mut rig = Rig::new(EARLY);
    let leaf = |root: &str, from: u64| {
        let (flow, root) = (("inference.workflow", "triage"), ("inference.root", root));
        NumberDataPoint {
            start_time_unix_nano: (NOW + from) * 1_000_000_000,
            time_unix_nano: (NOW + from + 1) * 1_000_000_000,
            ..of(2, &[flow, root])
        }
    };
    let leaves = |leaves: Vec<NumberDataPoint>| vec![sum("inference.items", DELTA, leaves)];
    rig.exports(leaves(vec![leaf("a", 1), leaf("b", 1)])).await;
    assert_eq!(told(&mut rig, CountKind::Workflows), [row("", "", 2), row("workflow", "triage", 2)]);
    for _ in 0..2 {
        rig.exports(leaves(vec![leaf("b", 5), leaf("c", 5)])).await;
    }
    let samples = rig.samples();
    let counts = |sample: &CountSample| (sample.counts[&CountKind::Workflows], sample.counts[&CountKind::Items]);
    assert_eq!(samples.iter().map(counts).collect::<Vec<_>>(), [(3, 8), (3, 8)]);
    assert!(!format!("{samples:?}").contains("\"c\""), "roots stay on the node");
    // A failed request of a run opens no service.
    let mut failed = leaf("d", 9);
    failed.attributes.retain(|one| one.key != "inference.model");
    failed.attributes.extend([text("inference.model", "invented"), text("inference.outcome", "failed")]);
    rig.exports(vec![sum("inference.requests", DELTA, vec![failed])]).await;
    assert_eq!((rig.samples(), rig.failures()), (vec![], BTreeMap::new()));
}

#[tokio::test]
async fn names_that_are_none_and_roots_of_nothing_are_refused() {
    let mut rig = Rig::new(EARLY);
    let long = "x".repeat(257);
    let (flow, root) = (("inference.workflow", "f"), ("inference.root", "r"));
    let bad =
        vec![of(1, &[("inference.consumer", "a\nb")]), of(1, &[("inference.workflow", &long)]), of(1, &[flow, root])];
    let metrics = vec![sum("inference.items", CUMULATIVE, bad), sum("inference.images", DELTA, vec![of(1, &[root])])];
    assert_eq!(rig.exports(metrics).await, 4);
    assert_eq!((rig.samples(), rig.failures()), (vec![], [("value", 4)].into()));
}

#[tokio::test]
async fn consumers_beyond_the_limit_are_one_that_is_called_other_and_none_is_lost() {
    let mut rig = Rig::new(EARLY);
    rig.inference.name_consumers(Names::Raw);
    let points = (0..300).map(|number| of(1, &[("inference.consumer", &format!("c{number}"))])).collect();
    assert_eq!(rig.exports(vec![sum("inference.items", CUMULATIVE, points)]).await, 0);
    let told = told(&mut rig, CountKind::Items);
    assert_eq!((told.len(), &told[0]), (1 + 256 + 1, &row("", "", 300)));
    assert!(told.contains(&row("consumer", "other", 44)), "{told:?}");
    assert_eq!(told[1..].iter().filter_map(|(_, _, count)| *count).sum::<u64>(), 300);
}

#[tokio::test]
async fn runs_without_end_are_forgotten_and_an_export_of_them_still_counts_once() {
    let mut rig = Rig::new(EARLY);
    let many = |range: std::ops::Range<u32>, from: u64| {
        let leaf = |number: u32| NumberDataPoint {
            start_time_unix_nano: (NOW + from) * 1_000_000_000,
            time_unix_nano: (NOW + from + 1) * 1_000_000_000,
            ..of(1, &[("inference.workflow", "f"), ("inference.root", &format!("r{number}"))])
        };
        vec![sum("inference.items", DELTA, range.map(leaf).collect())]
    };
    assert_eq!(rig.exports(many(0..3000, 1)).await, 0);
    assert_eq!(rig.count(CountKind::Items), Some(3000));
    // Of what is forgotten it is known no more than that it may have been told.
    assert_eq!(rig.exports(many(0..3000, 1)).await, 3000 - 1024);
    assert_eq!(rig.samples(), vec![]);
    assert_eq!(rig.exports(many(3000..3001, 5)).await, 0);
    assert_eq!(rig.count(CountKind::Items), Some(3001));
}
