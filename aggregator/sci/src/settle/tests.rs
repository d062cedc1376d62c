use super::*;
use crate::cell::Account;
use crate::cell::SourceUse;
use alloc::string::ToString;
use alloc::{format, vec};
use joulebook_units::{CpuTimeMethod, IdleOrigin, VersionSource};
use proptest::prelude::*;

pub(super) const SECOND: i64 = 1_000_000_000;

pub(super) fn source(id: &str, component: Component) -> Source {
    Source {
        id: id.to_string(),
        component,
        socket: None,
        device: None,
        collector: "rapl".to_string(),
        method: Method::Counter,
        unit_nanojoules: None,
        ceiling: Milliwatts(1_500_000),
        uncertainty_permille: 50,
        contained_in: None,
        scope: None,
        basis: String::new(),
    }
}

pub(super) fn workload(id: &str, kind: WorkloadKind, reserved: Option<u64>) -> Workload {
    Workload {
        id: id.to_string(),
        kind,
        name: id.to_string(),
        cgroup: None,
        container_id: None,
        pod_uid: None,
        cpu_time_method: CpuTimeMethod::ProcessTime,
        reserved_millicores: reserved,
        reservation_origin: None,
        part_of: None,
        group: None,
        engine: None,
        pod: None,
    }
}

pub(super) fn service(workload: &str) -> Service {
    Service {
        model: Some("tiny".to_string()),
        version: Some(workload.to_string()),
        version_source: VersionSource::Config,
        fingerprint: None,
        adapter: None,
        engine: "custom".to_string(),
        target: format!("http://{workload}/"),
        workload: Some(workload.to_string()),
        tokenizer: None,
        serving: joulebook_units::Serving::default(),
    }
}

pub(super) fn run(subject: Subject, points: &[(i64, u64)]) -> Run {
    Run { subject: Arc::new(subject), points: points.iter().map(|(at, value)| (UnixNanos(*at), *value)).collect() }
}

pub(super) fn window(start: i64, end: i64) -> Window {
    Window::new(UnixNanos(start), UnixNanos(end)).expect("ordered")
}

fn part(id: &str, whole: &str) -> Workload {
    Workload { part_of: Some(whole.to_string()), ..workload(id, WorkloadKind::ProcessTree, None) }
}

/// Two sources, one idle power, three workloads of which two serve, counts each 3 s; steps are (ns, µJ, CPU ns).
fn node(steps: &[(i64, u64, u64)]) -> NodeSeries {
    let mut at = 0i64;
    let (mut energy, mut dram, mut cpu, mut tokens) = (vec![(0, 0)], vec![(0, 0)], vec![(0, 0)], vec![(0, 0)]);
    for (index, (time, amount, nanos)) in steps.iter().enumerate() {
        at += time;
        let next = |points: &[(i64, u64)], more: u64| (at, points.last().expect("a first point").1 + more);
        energy.push(next(&energy, *amount));
        dram.push(next(&dram, amount / 7));
        cpu.push(next(&cpu, *nanos));
        if index % 3 == 2 {
            tokens.push(next(&tokens, nanos / 1000));
        }
    }
    let held = |value: u64| -> Vec<(i64, u64)> { energy.iter().map(|(at, _)| (*at, value)).collect() };
    NodeSeries {
        output_weight: OutputWeight::default(),
        threads: Some(4),
        memory_bytes: Some(1 << 34),
        device_memory_bytes: BTreeMap::new(),
        expected_sources: vec!["cpu".to_string(), "dram".to_string()],
        runs: vec![
            run(Subject::Energy(source("cpu", Component::Cpu).into()), &energy),
            run(Subject::Energy(source("dram", Component::Dram).into()), &dram),
            run(Subject::IdlePower { source: "cpu".to_string(), origin: IdleOrigin::Configured }, &held(20_000)),
            run(Subject::CpuTime(workload("a", WorkloadKind::ProcessTree, Some(500)).into()), &cpu),
            run(Subject::CpuTime(workload("b", WorkloadKind::ProcessTree, Some(500)).into()), &cpu),
            run(Subject::CpuTime(workload("rest", WorkloadKind::Remainder, None).into()), &cpu),
            run(Subject::Memory { workload: "a".to_string() }, &held(1 << 30)),
            run(Subject::NodeMemoryUsed, &held(3 << 30)),
            run(Subject::Count(service("a").into(), CountKind::OutputTokens), &tokens),
            run(Subject::Count(service("b").into(), CountKind::OutputTokens), &tokens),
        ],
        input_runs: vec![],
        lags: lag::Lags::default(),
        gaps: vec![],
        lost: vec![],
    }
}

/// Two parts of workload `a`, the first with a service.
fn add_parts(node: &mut NodeSeries) {
    let energy = node.runs.first().expect("a source").points.clone();
    let points =
        |divisor: u64| -> Vec<(i64, u64)> { energy.iter().map(|(at, value)| (at.0, value / divisor)).collect() };
    let held: Vec<(i64, u64)> = energy.iter().map(|(at, _)| (at.0, 1 << 29)).collect();
    node.runs.push(run(Subject::CpuTime(part("a/1", "a").into()), &points(3)));
    node.runs.push(run(Subject::CpuTime(part("a/2", "a").into()), &points(5)));
    node.runs.push(run(Subject::Memory { workload: "a/1".to_string() }, &held));
    node.runs.push(run(Subject::Count(service("a/1").into(), CountKind::OutputTokens), &points(1000)));
}

proptest! {
    #[test]
    fn entries_are_the_measured_energy_and_cells_of_parts_add_up_to_the_cell_of_the_whole(
        steps in prop::collection::vec((1i64..12 * SECOND, 0u64..1 << 36, 0u64..1 << 33), 1..30),
        cut in 1i64..60,
    ) {
        let mut node = node(&steps);
        add_parts(&mut node);
        let end = UnixNanos(steps.iter().map(|step| step.0).sum()).ceil_to(1);
        let whole = settle(&node, window(0, end.0));
        let measured: u64 = steps.iter().map(|step| step.1 + step.1 / 7).sum();
        prop_assert_eq!(whole.component_microjoules(), measured);
        let platform: u64 = whole.entries.iter().filter(|(k, _)| k.account == Account::Platform).map(|(_, e)| *e).sum();
        prop_assert_eq!(whole.total_microjoules(), measured + platform);
        let middle = UnixNanos(cut * SECOND).min(end);
        let mut parts = settle(&node, window(0, middle.0));
        parts.merge(&settle(&node, window(middle.0, end.0)));
        prop_assert_eq!(parts, whole);
    }
}

#[test]
fn energy_that_no_reading_covers_is_not_covered_and_not_zero() {
    let mut cell = settle(&node(&[(2 * SECOND, 100, 1)]), window(0, 10 * SECOND));
    cell.set_expected(window(0, 10 * SECOND), Some(UnixNanos(-SECOND)), Some(4), 2);
    assert_eq!((cell.expected_nanos, cell.capacity_core_nanos), (10_000_000_000, 40_000_000_000));
    assert_eq!(cell.capacity_device_nanos, 0, "accelerators that are not metered");
    cell.sources.insert(source_key(&source("gpu", Component::Accelerator)), SourceUse::default());
    cell.set_expected(window(0, 10 * SECOND), Some(UnixNanos(-SECOND)), Some(4), 2);
    assert_eq!(cell.capacity_device_nanos, 20_000_000_000);
    assert_eq!(cell.covered_nanos, 2_000_000_000);
    let mut nothing = settle(&NodeSeries::default(), window(0, 10 * SECOND));
    nothing.set_expected(window(0, 10 * SECOND), None, None, 0);
    assert!(nothing.sources.is_empty() && nothing.entries.is_empty());
    assert_eq!(nothing.expected_nanos, 0);
}

#[test]
fn base_follows_reservations_and_dynamic_follows_cpu_time() {
    // 100 W for 3 s: 20 W idle; a and b reserve half a core of four each, all three use equal time.
    let cell = settle(
        &node(&[(SECOND, 100_000_000, 9), (SECOND, 100_000_000, 9), (SECOND, 100_000_000, 9_000)]),
        window(0, 3 * SECOND),
    );
    let sum = |account: &dyn Fn(&Account) -> bool, purpose: Purpose| -> u64 {
        let mine = cell.entries.iter().filter(|(k, _)| k.component == Component::Cpu && k.purpose == purpose);
        mine.filter(|(k, _)| account(&k.account)).map(|(_, e)| *e).sum()
    };
    let serves = |name: &'static str| move |account: &Account| matches!(account, Account::Service(s) if s.workload.as_deref() == Some(name));
    assert_eq!(sum(&serves("a"), Purpose::Base), 7_500_000);
    assert_eq!(sum(&|a| *a == Account::PoolIdle, Purpose::PoolIdle), 45_000_000);
    assert_eq!(sum(&serves("a"), Purpose::Dynamic), 80_000_001);
    // 3 × 80 J over three equal users: the odd microjoule of each second goes to the first in order.
    let rest = sum(&|account| matches!(account, Account::Workload(_)), Purpose::Dynamic);
    assert_eq!(sum(&serves("a"), Purpose::Dynamic) + sum(&serves("b"), Purpose::Dynamic) + rest, 240_000_000);
}

#[test]
fn a_resident_service_whose_counts_stand_still_holds_dedicated_idle() {
    let mut node = node(&[(SECOND, 100_000_000, 9), (SECOND, 100_000_000, 9), (SECOND, 100_000_000, 9)]);
    node.runs.retain(|run| !matches!(&*run.subject, Subject::Count(..)));
    let still = [(0, 5), (3 * SECOND, 5)];
    node.runs.push(run(Subject::Count(service("a").into(), CountKind::OutputTokens), &still));
    let cell = settle(&node, window(0, 3 * SECOND));
    let mine = cell.entries.iter().filter(|(key, _)| matches!(key.account, Account::Service(_)));
    assert!(mine.clone().count() > 0);
    assert!(mine.clone().all(|(key, _)| key.purpose == Purpose::DedicatedIdle));
    let used = cell.services.values().next().expect("the service");
    assert_eq!((used.executing_nanos, used.counted_nanos), (0, 3_000_000_000));
    assert_eq!(used.joint_microjoules, mine.map(|(_, energy)| *energy).sum::<u64>());
}

/// A server `s` with the parts `s/1` and `s/2`, each with a service: 30 W above 20 W of idle for 3 s, CPU time 2 : 3 : 1,
/// busy time of the two services 1 : 3; half a core of four is reserved for the server.
fn server_with_parts() -> NodeSeries {
    let seconds = |step: u64| -> Vec<(i64, u64)> { (0..=3).map(|s| (s * SECOND, s.unsigned_abs() * step)).collect() };
    let mut runs = vec![
        run(Subject::Energy(source("cpu", Component::Cpu).into()), &seconds(50_000_000)),
        run(Subject::IdlePower { source: "cpu".to_string(), origin: IdleOrigin::Configured }, &seconds(0)),
        run(Subject::CpuTime(workload("s", WorkloadKind::ProcessTree, Some(500)).into()), &seconds(200)),
        run(Subject::CpuTime(part("s/1", "s").into()), &seconds(300)),
        run(Subject::CpuTime(part("s/2", "s").into()), &seconds(100)),
        run(Subject::Count(service("s/1").into(), CountKind::BusyNanos), &seconds(1)),
        run(Subject::Count(service("s/2").into(), CountKind::BusyNanos), &seconds(3)),
    ];
    runs[1].points.iter_mut().for_each(|point| point.1 = 20_000);
    let expected_sources = vec!["cpu".to_string()];
    NodeSeries { threads: Some(4), expected_sources, runs, ..NodeSeries::default() }
}

/// Energy by service (the name of its workload) and purpose.
fn of_services(cell: &Cell) -> BTreeMap<(String, Purpose), u64> {
    let mut sums: BTreeMap<(String, Purpose), u64> = BTreeMap::new();
    for (key, energy) in &cell.entries {
        if let Account::Service(service) = &key.account {
            *sums.entry((service.workload.clone().expect("named"), key.purpose)).or_default() += energy;
        }
    }
    sums
}

#[test]
fn a_part_has_its_own_energy_and_the_rest_of_the_whole_is_shared_by_the_services_of_all_parts() {
    let cell = settle(&server_with_parts(), window(0, 3 * SECOND));
    let mut expected = BTreeMap::new();
    for (name, own, share) in [("s/1", 45_000_000, 1), ("s/2", 15_000_000, 3)] {
        // A third of 90 J is the server's own process; of 60 J of base an eighth is reserved.
        expected.insert((name.to_string(), Purpose::Dynamic), own + 30_000_000 * share / 4);
        // What is held is held by both models alike, however much each is asked.
        expected.insert((name.to_string(), Purpose::Base), 7_500_000 / 2);
    }
    assert_eq!(of_services(&cell), expected);
    for (service, used) in &cell.services {
        let cpu = if service.workload.as_deref() == Some("s/1") { 3 * (300 + 50) } else { 3 * (100 + 150) };
        assert_eq!(used.cpu_nanos, cpu, "{service:?}");
        let time = (used.resident_nanos, used.counted_nanos, used.executing_nanos);
        assert_eq!(time, (3_000_000_000, 3_000_000_000, 3_000_000_000), "once, not once for each workload");
    }
    assert!(cell.workloads.is_empty());
}

#[test]
fn a_part_whose_model_is_loaded_and_never_asked_keeps_its_idle() {
    let mut node = server_with_parts();
    node.runs.last_mut().expect("counts of the second").points.iter_mut().for_each(|point| point.1 = 0);
    let energy = of_services(&settle(&node, window(0, 3 * SECOND)));
    let of = |name: &str, purpose| energy.get(&(name.to_string(), purpose)).copied();
    assert_eq!(of("s/1", Purpose::Dynamic), Some(45_000_000 + 30_000_000));
    // What its own process used, and half of what is reserved for both.
    assert_eq!((of("s/2", Purpose::Dynamic), of("s/2", Purpose::DedicatedIdle)), (None, Some(15_000_000 + 3_750_000)));
}

#[test]
fn a_model_that_is_loaded_beside_a_busy_one_in_the_same_process_keeps_its_part_of_what_is_held() {
    let seconds = |step: u64| -> Vec<(i64, u64)> { (0..=3).map(|s| (s * SECOND, s.unsigned_abs() * step)).collect() };
    let named = |model: &str| Service { model: Some(model.to_string()), ..service("s") };
    let mut node = server_with_parts();
    node.runs.truncate(3);
    node.runs.push(run(Subject::Count(named("busy").into(), CountKind::BusyNanos), &seconds(1)));
    node.runs.push(run(Subject::Count(named("loaded").into(), CountKind::BusyNanos), &seconds(0)));
    let cell = settle(&node, window(0, 3 * SECOND));
    let of = |model: &str, purpose| -> u64 {
        let mine = cell.entries.iter().filter(|(key, _)| {
            let Account::Service(service) = &key.account else { return false };
            service.model.as_deref() == Some(model) && key.purpose == purpose
        });
        mine.map(|(_, energy)| *energy).sum()
    };
    // All of 90 J above idle, and an eighth of 60 J of it, reserved for the two.
    assert_eq!((of("busy", Purpose::Dynamic), of("busy", Purpose::Base)), (90_000_000, 3_750_000));
    assert_eq!((of("loaded", Purpose::Dynamic), of("loaded", Purpose::Base)), (0, 0));
    assert_eq!((of("busy", Purpose::DedicatedIdle), of("loaded", Purpose::DedicatedIdle)), (0, 3_750_000));
    let reserved: Vec<u64> = cell.services.values().map(|used| used.reserved_core_nanos).collect();
    assert_eq!(reserved, [750_000_000; 2]);
}

#[test]
fn a_part_that_nobody_counts_for_is_used_by_whoever_uses_the_whole() {
    let mut node = server_with_parts();
    node.runs.pop();
    let energy = of_services(&settle(&node, window(0, 3 * SECOND)));
    let expected = [(Purpose::Base, 7_500_000), (Purpose::Dynamic, 90_000_000)];
    assert_eq!(energy, expected.map(|(purpose, energy)| (("s/1".to_string(), purpose), energy)).into());
    // Counts that tell no version apart belong to the server itself, and its parts are used for them.
    node.runs.pop();
    node.runs.push(run(Subject::Count(service("s").into(), CountKind::BusyNanos), &[(0, 0), (3 * SECOND, 9)]));
    let cell = settle(&node, window(0, 3 * SECOND));
    let expected = [(Purpose::Base, 7_500_000), (Purpose::Dynamic, 90_000_000)];
    assert_eq!(of_services(&cell), expected.map(|(purpose, energy)| (("s".to_string(), purpose), energy)).into());
    assert_eq!(cell.services.values().map(|used| used.resident_nanos).collect::<Vec<_>>(), [3_000_000_000]);
    // Nobody counts for the whole either: each is a workload of its own.
    node.runs.pop();
    let cell = settle(&node, window(0, 3 * SECOND));
    assert_eq!((of_services(&cell).len(), cell.workloads.len()), (0, 3));
}

#[test]
fn a_gap_is_spread_with_its_bounds_and_flagged() {
    let mut node = node(&[(SECOND, 100, 9)]);
    node.gaps.push(Gap {
        source: source("cpu", Component::Cpu).into(),
        window: window(0, 4 * SECOND),
        reason: GapReason::AmbiguousWrap,
        low: Microjoules(10),
        high: Microjoules(401),
    });
    let mut sum = settle(&node, window(0, SECOND));
    sum.merge(&settle(&node, window(SECOND, 4 * SECOND)));
    let bounds = sum.sources.values().map(|s| (s.gap_low_microjoules, s.gap_high_microjoules)).max().expect("a source");
    assert_eq!(bounds, (10, 401));
    assert!(sum.flags.contains(Flags::WRAP_AMBIGUOUS));
}
