use super::super::tests::{SECOND, run, service, source, window, workload};
use super::super::{NodeSeries, settle};
use super::*;
use crate::attribution::Measures;
use crate::cell::{Account, Cell};
use alloc::string::ToString;
use alloc::vec;
use joulebook_units::{Component, Subject, WorkloadKind};

/// What a server says of its model in some way.
fn counted(engine: &str, model: &str, version: Option<&str>) -> Service {
    Service {
        model: Some(model.to_string()),
        version: version.map(String::from),
        engine: engine.to_string(),
        target: engine.to_string(),
        ..service("s")
    }
}

/// What the page of a server around an engine says of its model.
fn wrapping(engine: &str, model: &str, version: Option<&str>) -> Service {
    let mut service = counted(engine, model, version);
    service.serving.wraps = true;
    service
}

/// One server that uses all of 10 W for 10 s.
fn server() -> NodeSeries {
    let steps = |step: u64| -> Vec<(i64, u64)> { (0..=10).map(|s| (s * SECOND, s.unsigned_abs() * step)).collect() };
    NodeSeries {
        threads: Some(4),
        expected_sources: vec!["cpu".to_string()],
        runs: vec![
            run(Subject::Energy(source("cpu", Component::Cpu).into()), &steps(10_000_000)),
            run(Subject::CpuTime(workload("s", WorkloadKind::ProcessTree, Some(500)).into()), &steps(500)),
        ],
        ..NodeSeries::default()
    }
}

/// Counts of a service that grow evenly from one second to another.
fn count(node: &mut NodeSeries, service: &Service, kind: CountKind, (from, to): (i64, i64), amount: u64) {
    node.runs.push(run(Subject::Count(service.clone().into(), kind), &[(from * SECOND, 0), (to * SECOND, amount)]));
}

fn of(cell: &Cell, engine: &str, kind: CountKind) -> Option<u64> {
    let mut services = cell.services.iter().filter(|(service, _)| service.engine == engine);
    services.find_map(|(_, used)| used.counts.get(&kind).copied())
}

fn energy(cell: &Cell, engine: &str) -> u64 {
    let mine = cell.entries.iter();
    mine.filter(|(key, _)| matches!(&key.account, Account::Service(service) if service.engine == engine))
        .map(|(_, energy)| *energy)
        .sum()
}

#[test]
fn a_request_that_the_page_counts_and_its_server_tells_too_is_one_request() {
    use CountKind::{OutputTokens, RequestsOk};
    for told in [["push", "otlp"], ["otlp", "push"]] {
        let mut node = server();
        count(&mut node, &counted("vllm", "org/m", Some("7")), RequestsOk, (0, 10), 20);
        for way in told {
            count(&mut node, &counted(way, "m", None), RequestsOk, (0, 10), 20);
            count(&mut node, &counted(way, "m", None), OutputTokens, (0, 10), 500);
        }
        let cell = settle(&node, window(0, 10 * SECOND));
        assert_eq!(of(&cell, "vllm", RequestsOk), Some(20));
        assert_eq!(of(&cell, "vllm", OutputTokens), Some(500), "what the page does not tell, pushed before exported");
        for way in told {
            assert_eq!((of(&cell, way, RequestsOk), of(&cell, way, OutputTokens)), (None, None), "{way}");
            assert_eq!(energy(&cell, way), 0);
        }
        assert_eq!(energy(&cell, "vllm"), 100_000_000);
        let left_out: Vec<&str> =
            cell.services.iter().filter(|(_, used)| used.is_left_out()).map(|(one, _)| one.engine.as_str()).collect();
        assert_eq!(left_out, ["otlp", "push"], "and it is said");
        assert_eq!(cell.counted_services().count(), 1, "they are no versions");
        let mut halves = settle(&node, window(0, 4 * SECOND));
        halves.merge(&settle(&node, window(4 * SECOND, 10 * SECOND)));
        assert_eq!(halves, cell);
    }
}

#[test]
fn an_engine_and_the_server_around_it_whose_pages_are_both_read_are_one() {
    use CountKind::{OutputTokens, RequestsOk};
    // Of one's own making as well: what a preset is called does not matter.
    for wrapper in ["bentoml", "our-own"] {
        let mut node = server();
        count(&mut node, &wrapping(wrapper, "app", Some("3")), RequestsOk, (0, 10), 20);
        count(&mut node, &counted("vllm", "m", Some("7")), RequestsOk, (0, 10), 20);
        count(&mut node, &counted("vllm", "m", Some("7")), OutputTokens, (0, 10), 500);
        count(&mut node, &counted("push", "m", None), RequestsOk, (0, 10), 20);
        let cell = settle(&node, window(0, 10 * SECOND));
        assert_eq!(of(&cell, "vllm", RequestsOk), Some(20), "{wrapper}");
        assert_eq!((of(&cell, wrapper, RequestsOk), of(&cell, "push", RequestsOk)), (None, None), "{wrapper}");
        assert_eq!((energy(&cell, "vllm"), energy(&cell, wrapper)), (100_000_000, 0));
        // Without the engine's page its own stands, and what is pushed does not.
        let mut node = server();
        count(&mut node, &wrapping(wrapper, "app", Some("3")), RequestsOk, (0, 10), 20);
        count(&mut node, &counted("push", "app", None), RequestsOk, (0, 10), 20);
        let cell = settle(&node, window(0, 10 * SECOND));
        assert_eq!((of(&cell, wrapper, RequestsOk), of(&cell, "push", RequestsOk)), (Some(20), None));
        // The same pages in two processes are two servers.
        let mut node = server();
        let elsewhere = Service { workload: Some("elsewhere".to_string()), ..counted("vllm", "app", None) };
        count(&mut node, &wrapping(wrapper, "app", None), RequestsOk, (0, 10), 20);
        count(&mut node, &elsewhere, RequestsOk, (0, 10), 20);
        let cell = settle(&node, window(0, 10 * SECOND));
        assert_eq!(of(&cell, wrapper, RequestsOk), Some(20));
    }
}

#[test]
fn a_distribution_is_of_one_place_whatever_its_bounds() {
    let mut node = server();
    for (way, bound) in [("vllm", 1), ("otlp", 2)] {
        for bound in [bound, u64::MAX] {
            count(&mut node, &counted(way, "m", None), CountKind::LatencyWithin(bound), (0, 10), 20);
        }
    }
    count(&mut node, &counted("otlp", "m", None), CountKind::PromptWithin(64), (0, 10), 20);
    let cell = settle(&node, window(0, 10 * SECOND));
    assert_eq!(of(&cell, "vllm", CountKind::LatencyWithin(1)), Some(20));
    assert_eq!(of(&cell, "vllm", CountKind::LatencyWithin(u64::MAX)), Some(20));
    assert_eq!(of(&cell, "vllm", CountKind::LatencyWithin(2)), None, "bounds of two places do not add up");
    assert_eq!(of(&cell, "vllm", CountKind::PromptWithin(64)), Some(20), "the page has no other");
}

#[test]
fn what_is_told_counts_while_no_page_is_read() {
    let mut node = server();
    count(&mut node, &counted("vllm", "m", Some("7")), CountKind::RequestsOk, (5, 10), 10);
    count(&mut node, &counted("push", "m", Some("7")), CountKind::RequestsOk, (0, 10), 20);
    let cell = settle(&node, window(0, 10 * SECOND));
    let both = ["vllm", "push"].map(|way| of(&cell, way, CountKind::RequestsOk));
    assert_eq!(both, [Some(10), Some(10)], "each for its half");
    let told = cell.services.iter().find(|(service, _)| service.engine == "push").expect("there").1;
    assert!(told.measures.contains(Measures::LEFT_OUT) && !told.is_left_out());
}

#[test]
fn a_model_that_the_page_does_not_show_beside_others_counts_where_it_is_told() {
    let other = Service { workload: Some("elsewhere".to_string()), ..counted("vllm", "m", None) };
    let mut node = server();
    for model in ["a", "b"] {
        count(&mut node, &counted("triton", model, Some("1")), CountKind::RequestsOk, (0, 10), 10);
    }
    count(&mut node, &counted("push", "c", None), CountKind::RequestsOk, (0, 10), 5);
    count(&mut node, &other, CountKind::RequestsOk, (0, 10), 5);
    let cell = settle(&node, window(0, 10 * SECOND));
    assert_eq!(of(&cell, "push", CountKind::RequestsOk), Some(5));
    assert!(cell.services.values().all(|used| !used.measures.contains(Measures::LEFT_OUT)));
    // With one model a page has whatever its server does, under whatever name.
    let told = counted("push", "an adapter", None);
    let page = counted("vllm", "base", None);
    assert_eq!(counting_for(&told, [&page].into_iter()), [&page]);
    // Of several versions that of the same name stands for it.
    let (one, two) = (counted("triton", "m", Some("1")), counted("triton", "m", Some("2")));
    let told = counted("otlp", "m", Some("2"));
    assert_eq!(counting_for(&told, [&one, &two].into_iter()), [&two]);
    assert_eq!(counting_for(&counted("otlp", "m", None), [&one, &two].into_iter()), [&one, &two]);
    assert!(counting_for(&page, [&told].into_iter()).is_empty(), "a page yields to nobody");
}

#[test]
fn memory_of_loaded_models_shares_what_is_held_and_is_no_work() {
    let mut node = server();
    let held = [(0, 20_000), (10 * SECOND, 20_000)];
    let origin = joulebook_units::IdleOrigin::Configured;
    node.runs.push(run(Subject::IdlePower { source: "cpu".to_string(), origin }, &held));
    for (model, busy, bytes) in [("a", 10, 3), ("b", 0, 1)] {
        let service = counted("custom", model, None);
        count(&mut node, &service, CountKind::BusyNanos, (0, 10), busy);
        count(&mut node, &service, CountKind::ResidentByteSeconds, (0, 10), bytes << 30);
    }
    let cell = settle(&node, window(0, 10 * SECOND));
    let of = |model: &str| {
        let mine = cell.entries.iter().filter(
            |(key, _)| matches!(&key.account, Account::Service(service) if service.model.as_deref() == Some(model)),
        );
        mine.map(|(_, energy)| *energy).sum::<u64>()
    };
    // An eighth of the base is reserved; nothing is above idle.
    assert_eq!((of("a"), of("b")), (9_375_000, 3_125_000));
    let loaded = cell.services.iter().find(|(service, _)| service.model.as_deref() == Some("b")).expect("there").1;
    assert_eq!((loaded.executing_nanos, loaded.measures.names().collect::<Vec<_>>()), (0, vec!["busy_time", "memory"]));
    let reserved: Vec<u64> = cell.services.values().map(|used| used.reserved_core_nanos).collect();
    assert_eq!(reserved, [3_750_000_000, 1_250_000_000]);
}
