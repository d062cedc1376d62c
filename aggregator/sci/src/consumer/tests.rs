use super::*;
use crate::allocate::IdlePolicy;
use crate::sample;
use crate::totals::{Level, NodeTotals};
use alloc::string::ToString;
use alloc::sync::Arc;
use joulebook_units::Service;
use proptest::prelude::*;

const ENGINE: &str = "http://127.0.0.1:8080";

fn service(version: &str, target: &str) -> Arc<Service> {
    Arc::new(Service { engine: "llamacpp".to_string(), target: target.to_string(), ..sample::service(version) })
}

fn of(name: &str, endpoint: Option<&str>, model: Option<&str>) -> Consumption {
    Consumption {
        consumer: Consumer { kind: "team".to_string(), name: name.to_string() },
        engine: "litellm".to_string(),
        gateway: "http://127.0.0.1:4000/metrics/".to_string(),
        endpoint: endpoint.map(str::to_string),
        model: model.map(str::to_string),
        version: None,
    }
}

fn counts(counts: &[(CountKind, u64)]) -> BTreeMap<CountKind, u64> {
    counts.iter().copied().collect()
}

fn tokens(input: u64, output: u64) -> BTreeMap<CountKind, u64> {
    counts(&[(CountKind::InputTokens, input), (CountKind::OutputTokens, output)])
}

/// A window in which versions on one node cost and served so much, and gateways there told so much.
fn window(
    versions: &[(Arc<Service>, VersionCost, BTreeMap<CountKind, u64>)],
    told: &[(Consumption, BTreeMap<CountKind, u64>)],
) -> Totals {
    let mut totals = Totals::new(Level::Idle, IdlePolicy::Unallocated);
    let mut node = NodeTotals::default();
    for (service, cost, counts) in versions {
        let used = ServiceUse { counts: counts.clone(), resident_nanos: 7, ..ServiceUse::default() };
        node.cell.services.insert(Arc::clone(service), used.clone());
        let mine = totals.versions.entry(ModelVersion::of(service)).or_default();
        mine.cost.merge(&VersionCost { used, ..cost.clone() });
        mine.carbon.operational.add(12.0);
    }
    for (of, counts) in told {
        let used = ConsumptionUse { counts: counts.clone(), counted_nanos: 1 };
        node.cell.consumption.insert(Arc::new(of.clone()), used);
    }
    totals.nodes.insert("n1".to_string(), node);
    totals
}

fn cost(energy: u64) -> VersionCost {
    VersionCost { host: energy, ..VersionCost::default() }
}

fn names(parts: &[Part]) -> Vec<(&str, u64, Option<u64>)> {
    let name = |part: &Part| part.consumer.as_ref().map_or("direct".to_string(), |consumer| consumer.name.clone());
    let output = |part: &Part| part.totals.cost.used.counts.get(&CountKind::OutputTokens).copied();
    parts
        .iter()
        .map(|part| (&*name(part).leak(), part.totals.cost.with_idle(), output(part)))
        .map(|(name, energy, output)| (name as &str, energy, output))
        .collect()
}

fn split(totals: &Totals, version: &Arc<Service>) -> Vec<Part> {
    let version = ModelVersion::of(version);
    Consumers::new(totals, Entity::Consumer).split(&version, &totals.versions[&version])
}

#[test]
fn consumers_have_their_part_of_the_tokens_and_direct_has_the_rest() {
    let tiny = service("1.0", ENGINE);
    let told = [
        (of("a", Some("http://localhost:8080/v1"), None), tokens(24, 24)),
        (of("b", Some(ENGINE), None), tokens(12, 4)),
    ];
    let totals = window(&[(Arc::clone(&tiny), cost(1_000_000), tokens(60, 36))], &told);
    let parts = split(&totals, &tiny);
    assert_eq!(names(&parts), [("a", 500_000, Some(24)), ("b", 166_667, Some(4)), ("direct", 333_333, Some(8))]);
    let grams: f64 = parts.iter().map(|part| part.totals.carbon.operational.get()).sum();
    assert!((grams - 12.0).abs() < 1e-12);
    assert!((parts[0].totals.carbon.operational.get() - 6.0).abs() < 1e-9);
}

#[test]
fn what_goes_through_two_gateways_counts_once_for_those_whom_the_last_one_names() {
    let tiny = service("1.0", ENGINE);
    // The first one sends everything to the second (its port on this machine), which knows it by one key.
    let outer = |name: &str, endpoint: &str| Consumption {
        gateway: "http://127.0.0.1:5000/metrics/".to_string(),
        ..of(name, Some(endpoint), Some("tiny"))
    };
    let told = [
        (outer("alice", "http://localhost:4000/v1"), tokens(10, 10)),
        (outer("bob", "http://0.0.0.0:4000"), tokens(20, 20)),
        (of("outer", Some(ENGINE), None), tokens(30, 30)),
    ];
    let engine = (Arc::clone(&tiny), cost(1_000_000), tokens(50, 50));
    let totals = window(core::slice::from_ref(&engine), &told);
    assert_eq!(names(&split(&totals, &tiny)), [("outer", 600_000, Some(30)), ("direct", 400_000, Some(20))]);
    let consumers = Consumers::new(&totals, Entity::Consumer);
    assert!(consumers.remote.is_empty(), "a gateway is no engine elsewhere: {:?}", consumers.remote);
    // Another port is no gateway that is read: what is there is elsewhere.
    let told = [
        (outer("alice", "http://localhost:4001/v1"), tokens(10, 10)),
        (of("outer", Some(ENGINE), None), tokens(30, 30)),
    ];
    let totals = window(&[engine], &told);
    assert_eq!(Consumers::new(&totals, Entity::Consumer).remote.len(), 1);
}

#[test]
fn a_chain_of_three_gateways_adds_up_to_the_model_to_the_microjoule() {
    let tiny = service("1.0", ENGINE);
    let at = |port: u16, name: &str, next: &str| Consumption {
        gateway: alloc::format!("http://127.0.0.1:{port}/metrics"),
        ..of(name, Some(next), Some("tiny"))
    };
    // 5002 asks 5001, that asks 5000, that asks the engine; 5000 and the engine are asked by others too.
    let told = [
        (at(5002, "alice", "http://localhost:5001/v1"), tokens(3, 4)),
        (at(5002, "bob", "http://127.0.0.1:5001"), tokens(1, 5)),
        (at(5001, "second", "http://0.0.0.0:5000/v1"), tokens(4, 9)),
        (at(5000, "first", ENGINE), tokens(4, 9)),
        (at(5000, "carol", "http://localhost:8080/v1"), tokens(7, 1)),
    ];
    let totals = window(&[(Arc::clone(&tiny), cost(1_000_003), tokens(19, 12))], &told);
    let parts = split(&totals, &tiny);
    assert_eq!(names(&parts), [("carol", 258_065, Some(1)), ("first", 419_356, Some(9)), ("direct", 322_582, Some(2))]);
    assert_eq!(parts.iter().map(|part| part.totals.cost.with_idle()).sum::<u64>(), 1_000_003);
    let consumers = Consumers::new(&totals, Entity::Consumer);
    let version = ModelVersion::of(&tiny);
    assert!(!consumers.exceed(&version, &totals.versions[&version].cost.used), "nothing is added twice");
    assert!(consumers.remote.is_empty());
}

#[test]
fn a_gateway_that_asks_a_server_around_an_engine_asks_the_engine() {
    use crate::attribution::Measures;
    let engine = service("1.0", ENGINE);
    let around = service("app", "http://127.0.0.1:3000/metrics");
    let mut totals = window(
        &[(Arc::clone(&engine), cost(100), tokens(20, 0))],
        &[(of("a", Some("http://localhost:3000/v1"), None), tokens(5, 0))],
    );
    let left_out = ServiceUse { measures: Measures::LEFT_OUT, ..ServiceUse::default() };
    let mut around = Service::clone(&around);
    around.serving.wraps = true;
    let around = Arc::new(around);
    totals.nodes.get_mut("n1").expect("a node").cell.services.insert(around, left_out);
    assert_eq!(names(&split(&totals, &engine)), [("a", 25, Some(0)), ("direct", 75, Some(0))]);
    assert!(Consumers::new(&totals, Entity::Consumer).remote.is_empty());
}

#[test]
fn an_answer_from_the_gateways_cache_counts_and_costs_nothing() {
    let tiny = service("1.0", ENGINE);
    let mut all = tokens(12, 4);
    all.extend([(CountKind::StoredTokens, 16), (CountKind::RequestsOk, 1), (CountKind::StoredRequests, 1)]);
    let told = [(of("a", Some(ENGINE), None), tokens(10, 10)), (of("cached", Some(ENGINE), None), all)];
    let totals = window(&[(Arc::clone(&tiny), cost(1_000), tokens(10, 10))], &told);
    let parts = split(&totals, &tiny);
    assert_eq!(names(&parts), [("a", 1_000, Some(10)), ("cached", 0, Some(4)), ("direct", 0, Some(0))]);
    assert_eq!(parts[1].totals.cost.used.counts[&CountKind::RequestsOk], 1, "it has R");
}

#[test]
fn an_engine_that_tells_no_tokens_is_shared_by_requests_and_one_that_tells_nothing_is_all_direct() {
    let tiny = service("1.0", ENGINE);
    let requests = |count| counts(&[(CountKind::RequestsOk, count)]);
    let told = [(of("a", Some(ENGINE), None), requests(1))];
    let totals = window(&[(Arc::clone(&tiny), cost(100), requests(4))], &told);
    assert_eq!(names(&split(&totals, &tiny)), [("a", 25, None), ("direct", 75, None)]);
    let totals = window(&[(Arc::clone(&tiny), cost(100), counts(&[(CountKind::Items, 3)]))], &told);
    assert_eq!(names(&split(&totals, &tiny)), [("a", 0, None), ("direct", 100, None)]);
}

#[test]
fn more_at_the_gateway_than_at_the_engine_leaves_nothing_direct_and_is_told() {
    let tiny = service("1.0", ENGINE);
    let told = [(of("a", Some(ENGINE), None), tokens(30, 0)), (of("b", Some(ENGINE), None), tokens(10, 0))];
    let totals = window(&[(Arc::clone(&tiny), cost(100), tokens(20, 0))], &told);
    assert_eq!(names(&split(&totals, &tiny)), [("a", 75, Some(0)), ("b", 25, Some(0)), ("direct", 0, Some(0))]);
    let version = ModelVersion::of(&tiny);
    let consumers = Consumers::new(&totals, Entity::Consumer);
    assert!(consumers.exceed(&version, &totals.versions[&version].cost.used));
}

#[test]
fn two_versions_behind_one_name_share_what_was_asked_by_what_they_served() {
    let (old, new) = (service("1.0", ENGINE), service("2.0", "http://127.0.0.1:9090"));
    let told = [(of("a", None, Some("openai/tiny")), tokens(40, 0))];
    let versions = [(Arc::clone(&old), cost(100), tokens(60, 0)), (Arc::clone(&new), cost(100), tokens(20, 0))];
    let totals = window(&versions, &told);
    assert_eq!(names(&split(&totals, &old)), [("a", 50, Some(0)), ("direct", 50, Some(0))]);
    assert_eq!(names(&split(&totals, &new)), [("a", 50, Some(0)), ("direct", 50, Some(0))]);
    let named = Consumption { version: Some("2.0".to_string()), ..told[0].0.clone() };
    let totals = window(&versions, &[(named, tokens(10, 0))]);
    assert_eq!(names(&split(&totals, &old)), [("direct", 100, Some(0))], "the gateway names the version");
    assert_eq!(names(&split(&totals, &new)), [("a", 50, Some(0)), ("direct", 50, Some(0))]);
}

#[test]
fn what_no_service_serves_is_remote_and_moves_no_energy() {
    let tiny = service("1.0", ENGINE);
    for (endpoint, model) in [
        (Some("https://api.openai.com/v1"), "tiny"),
        (Some("http://127.0.0.1:9/v1"), "tiny"),
        (None, "other"),
        (Some("http://llm:80"), "other"),
    ] {
        let told = [(of("a", endpoint, Some(model)), tokens(40, 2))];
        let totals = window(&[(Arc::clone(&tiny), cost(100), tokens(60, 0))], &told);
        assert_eq!(names(&split(&totals, &tiny)), [("direct", 100, Some(0))], "{endpoint:?} {model}");
        let consumers = Consumers::new(&totals, Entity::Consumer);
        let remote: Vec<_> = consumers.remote.values().map(|used| used.counts.clone()).collect();
        assert_eq!(remote, [tokens(40, 2)]);
    }
    let told = [(of("a", Some("http://llm:80"), Some("tiny")), tokens(60, 0))];
    let totals = window(&[(Arc::clone(&tiny), cost(100), tokens(60, 0))], &told);
    assert_eq!(names(&split(&totals, &tiny)), [("a", 100, Some(0)), ("direct", 0, Some(0))], "a name inside");
}

#[test]
fn workflows_and_consumers_are_two_views_of_the_same_energy() {
    let tiny = service("1.0", "push/7@9");
    let team = of("a", Some("push/7@9"), None);
    let flow = Consumption { consumer: Consumer { kind: WORKFLOW.to_string(), name: "f".to_string() }, ..team.clone() };
    let told = [(team, tokens(10, 0)), (flow, tokens(5, 0))];
    let totals = window(&[(Arc::clone(&tiny), cost(100), tokens(20, 0))], &told);
    let version = ModelVersion::of(&tiny);
    let by = |entity| Consumers::new(&totals, entity).split(&version, &totals.versions[&version]);
    assert_eq!(names(&by(Entity::Consumer)), [("a", 50, Some(0)), ("direct", 50, Some(0))]);
    assert_eq!(names(&by(Entity::Workflow)), [("f", 25, Some(0)), ("direct", 75, Some(0))]);
}

proptest! {
    #[test]
    fn consumers_and_direct_are_the_version_to_the_microjoule(
        parts in prop::collection::vec(0u64..1 << 50, 10),
        served in 0u64..1 << 40,
        asked in prop::collection::vec((0u64..1 << 38, 0u64..1 << 38), 0..6),
    ) {
        let tiny = service("1.0", ENGINE);
        let whole = VersionCost {
            accelerator_dynamic: parts[0],
            accelerator_base: parts[1],
            host: parts[2],
            cpu: parts[3],
            platform: parts[4],
            dedicated_idle: parts[5],
            pool_idle: parts[6],
            direct: parts[7],
            support: parts[9],
            ..VersionCost::default()
        };
        let told: Vec<_> = asked.iter().enumerate().map(|(index, (input, output))| {
            (of(&index.to_string(), Some(ENGINE), None), tokens(*input, *output))
        }).collect();
        let totals = window(&[(Arc::clone(&tiny), whole.clone(), tokens(served, parts[8] >> 12))], &told);
        let split = split(&totals, &tiny);
        prop_assert_eq!(split.len(), asked.len() + 1);
        let mut sum = VersionCost::default();
        split.iter().for_each(|part| sum.merge(&part.totals.cost));
        for (mine, all) in [
            (sum.accelerator_dynamic, whole.accelerator_dynamic),
            (sum.accelerator_base, whole.accelerator_base),
            (sum.host, whole.host),
            (sum.cpu, whole.cpu),
            (sum.platform, whole.platform),
            (sum.dedicated_idle, whole.dedicated_idle),
            (sum.pool_idle, whole.pool_idle),
            (sum.direct, whole.direct),
            (sum.support, whole.support),
        ] {
            prop_assert_eq!(mine, all);
        }
        prop_assert_eq!(sum.with_idle(), whole.with_idle());
        let engine = &totals.versions[&ModelVersion::of(&tiny)].cost.used;
        for kind in [CountKind::InputTokens, CountKind::OutputTokens] {
            let counted: u64 = split.iter().map(|part| part.totals.cost.used.counts[&kind]).sum();
            let asked: u64 = split[..asked.len()].iter().map(|part| part.totals.cost.used.counts[&kind]).sum();
            prop_assert_eq!(counted, engine.counts[&kind].max(asked), "tokens add up wherever the engine counted them");
        }
        let grams: f64 = split.iter().map(|part| part.totals.carbon.operational.get()).sum();
        let weights: f64 = if whole.with_idle() > 0 { 1.0 } else { f64::from(u8::from(served > 0 || asked.is_empty() || asked.iter().any(|(a, b)| a + b > 0))) };
        prop_assert!((grams - 12.0).abs() < 1e-9 || weights < 1.0, "{}", grams);
    }
}
