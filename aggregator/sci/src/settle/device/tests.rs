use super::super::settle;
use super::super::tests::{SECOND, run, service, source, window, workload};
use super::*;
use crate::cell::EntryKey;
use crate::cell::{Account, Cell};
use alloc::format;
use joulebook_units::{CountKind, IdleOrigin, Method, Source};
use proptest::prelude::*;

const GPU: &str = "GPU-0";
const GIB: u64 = 1 << 30;
const JOULE: u64 = 1_000_000;

fn gpu(device: &str) -> Source {
    let id = format!("nvml/{device}");
    Source { collector: "nvml".into(), device: Some(device.into()), ..source(&id, Component::Accelerator) }
}

/// Points each second from 0, so much more each time.
fn steady(each: u64, seconds: i64) -> Vec<(i64, u64)> {
    (0..=seconds).map(|second| (second * SECOND, each * second as u64)).collect()
}

fn time(workload: Option<&str>, points: &[(i64, u64)]) -> Run {
    run(Subject::DeviceTime { device: GPU.into(), workload: workload.map(str::to_string) }, points)
}

fn memory(workload: &str, bytes: u64, points: &[(i64, u64)]) -> Run {
    let held: Vec<(i64, u64)> = points.iter().map(|(at, _)| (*at, bytes)).collect();
    run(Subject::DeviceMemory { device: GPU.into(), workload: workload.into() }, &held)
}

/// One device of 48 GiB that draws so many watts for some seconds, its list of users known; 32 W of it with nothing on it.
fn node(watts: u64, seconds: i64) -> NodeSeries {
    let points = steady(watts * JOULE, seconds);
    let floor: Vec<(i64, u64)> = points.iter().map(|(at, _)| (*at, 32_000)).collect();
    NodeSeries {
        device_memory_bytes: [(GPU.to_string(), 48 * GIB)].into(),
        runs: vec![
            run(Subject::Energy(gpu(GPU).into()), &points),
            run(Subject::IdlePower { source: format!("nvml/{GPU}"), origin: IdleOrigin::Learned }, &floor),
            time(None, &steady(0, seconds)),
        ],
        ..NodeSeries::default()
    }
}

impl NodeSeries {
    fn with(mut self, runs: impl IntoIterator<Item = Run>) -> Self {
        self.runs.extend(runs);
        self
    }

    fn without_idle_power(mut self) -> Self {
        self.runs.retain(|run| !matches!(&*run.subject, Subject::IdlePower { .. }));
        self
    }
}

/// A process on the device: CPU, busy ms and memory each second, from and to a second.
fn user(id: &str, busy_ms: u64, bytes: Option<u64>, from: i64, to: i64) -> Vec<Run> {
    let shifted = |each: u64| -> Vec<(i64, u64)> {
        steady(each, to - from).into_iter().map(|(at, value)| (at + from * SECOND, value)).collect()
    };
    let cpu = run(Subject::CpuTime(workload(id, WorkloadKind::ProcessTree, None).into()), &shifted(1_000));
    let held = bytes.map(|bytes| memory(id, bytes, &shifted(0)));
    [cpu, time(Some(id), &shifted(busy_ms * 1_000_000))].into_iter().chain(held).collect()
}

/// Tokens of the service of a workload: so many each second.
fn tokens(id: &str, each: u64, seconds: i64) -> Run {
    run(Subject::Count(service(id).into(), CountKind::OutputTokens), &steady(each, seconds))
}

fn joules(cell: &Cell, account: impl Fn(&Account) -> bool, purpose: Purpose) -> f64 {
    let mine = |key: &EntryKey| key.component == Component::Accelerator && key.purpose == purpose;
    let sum: u64 = cell.entries.iter().filter(|(key, _)| mine(key) && account(&key.account)).map(|(_, e)| *e).sum();
    Microjoules(sum).to_joules().0
}

fn of(id: &str) -> impl Fn(&Account) -> bool {
    move |account| match account {
        Account::Service(service) => service.workload.as_deref() == Some(id),
        Account::Workload(workload) => workload.id == id,
        _ => false,
    }
}

fn pool_idle(cell: &Cell) -> f64 {
    joules(cell, |account| *account == Account::PoolIdle, Purpose::PoolIdle)
}

fn unattributed(cell: &Cell) -> f64 {
    joules(cell, |account| *account == Account::Unattributed, Purpose::Dynamic)
}

fn close(value: f64, expected: f64) -> bool {
    (value - expected).abs() < 1e-4
}

#[test]
fn what_two_resident_models_draw_at_rest_is_their_dedicated_idle_by_memory() {
    // An L40S: 84 W with models loaded and nothing running, 32 W of it its empty floor.
    let users = [user("a", 0, Some(24 * GIB), 0, 10), user("b", 0, Some(12 * GIB), 0, 10)];
    let node = node(84, 10).with(users.into_iter().flatten()).with([tokens("a", 0, 10), tokens("b", 0, 10)]);
    let cell = settle(&node, window(0, 10 * SECOND));
    // Base: half and a quarter of 32 W, the last quarter nobody's; the other 52 W by memory, two to one.
    assert!(close(joules(&cell, of("a"), Purpose::DedicatedIdle), 160.0 + 520.0 * 2.0 / 3.0));
    assert!(close(joules(&cell, of("b"), Purpose::DedicatedIdle), 80.0 + 520.0 / 3.0));
    assert!(close(pool_idle(&cell), 80.0));
    for purpose in [Purpose::Base, Purpose::Dynamic] {
        assert!(close(joules(&cell, |account| matches!(account, Account::Service(_)), purpose), 0.0));
    }
}

#[test]
fn several_share_base_by_memory_and_dynamic_by_busy_time() {
    let users = [user("a", 600, Some(24 * GIB), 0, 10), user("b", 200, Some(12 * GIB), 0, 10)];
    let node = node(232, 10).with(users.into_iter().flatten()).with([tokens("a", 5, 10), tokens("b", 5, 10)]);
    let cell = settle(&node, window(0, 10 * SECOND));
    assert!(close(joules(&cell, of("a"), Purpose::Base), 160.0) && close(joules(&cell, of("b"), Purpose::Base), 80.0));
    assert!(close(joules(&cell, of("a"), Purpose::Dynamic), 1500.0));
    assert!(close(joules(&cell, of("b"), Purpose::Dynamic), 500.0));
    assert!(close(pool_idle(&cell), 80.0));
    let reserved: Vec<u64> = cell.services.values().map(|used| used.reserved_device_nanos).collect();
    assert_eq!(reserved, [5_000_000_000, 2_500_000_000], "half and a quarter of a device for ten seconds");
    let known = cell.services.values().map(|used| used.joint_microjoules).sum::<u64>();
    assert_eq!(known, 2_240 * JOULE, "their counts are known all the time");
}

#[test]
fn one_alone_holds_the_whole_device_however_little_memory_it_has() {
    let node = node(132, 10).with(user("a", 300, Some(GIB), 0, 10)).with([tokens("a", 5, 10)]);
    let cell = settle(&node, window(0, 10 * SECOND));
    assert!(close(joules(&cell, of("a"), Purpose::Base), 320.0));
    assert!(close(joules(&cell, of("a"), Purpose::Dynamic), 1000.0));
    assert!(close(pool_idle(&cell), 0.0));
    assert_eq!(cell.services.values().next().expect("a").reserved_device_nanos, 10_000_000_000);
    assert!(!cell.flags.contains(Flags::IDLE_RATIO));
}

#[test]
fn a_second_is_cut_where_somebody_comes_or_goes() {
    // a leaves after 1.25 s; nobody is there until b comes at 1.5 s.
    let mut runs = user("b", 0, Some(GIB), 0, 1);
    for run in &mut runs {
        run.points = run.points.iter().map(|(at, value)| (UnixNanos(at.0 + SECOND * 3 / 2), *value)).collect();
    }
    let first = [time(Some("a"), &[(0, 0), (SECOND, 5), (SECOND * 5 / 4, 5)])];
    let cell = settle(&node(100, 2).with(first).with(runs), window(0, 2 * SECOND));
    // What a draws in its last quarter is idle: it does nothing then, and nobody told of memory.
    let all = |id: &str| {
        let purposes = [Purpose::Base, Purpose::Dynamic, Purpose::DedicatedIdle];
        purposes.into_iter().map(|purpose| joules(&cell, of(id), purpose)).sum::<f64>()
    };
    assert!(close(all("a"), 125.0) && close(pool_idle(&cell), 25.0) && close(all("b"), 50.0));
}

#[test]
fn a_device_with_nobody_on_it_is_idle_capacity() {
    let cell = settle(&node(40, 5), window(0, 5 * SECOND));
    assert!(close(pool_idle(&cell), 200.0));
    assert_eq!(
        cell.total_microjoules() - cell.component_microjoules(),
        12_765_955,
        "and its share of the supply's loss"
    );
    assert!(!settle(&node(40, 5).without_idle_power(), window(0, 5 * SECOND)).flags.contains(Flags::IDLE_RATIO));
}

#[test]
fn a_device_that_is_held_by_allocation_alone_is_dedicated_idle_of_its_holders_while_no_process_is_on_it() {
    let holders = || [user("pod", 0, None, 0, 6), user("other", 0, None, 0, 6)].into_iter().flatten();
    let cell = settle(&node(40, 10).with(holders()).with(user("a", 500, Some(GIB), 6, 10)), window(0, 10 * SECOND));
    for id in ["pod", "other"] {
        assert!(close(joules(&cell, of(id), Purpose::DedicatedIdle), 120.0), "{id}: {cell:?}");
        assert!(close(joules(&cell, of(id), Purpose::Base) + joules(&cell, of(id), Purpose::Dynamic), 0.0), "{id}");
    }
    assert!(close(joules(&cell, of("a"), Purpose::Base), 128.0) && close(pool_idle(&cell), 0.0));
    // A process that rests has something there: that is as it was.
    let cell = settle(&node(40, 10).with(user("a", 0, Some(GIB), 0, 10)), window(0, 10 * SECOND));
    assert!(close(joules(&cell, of("a"), Purpose::Base), 320.0));
}

#[test]
fn while_it_is_not_known_who_is_on_it_a_devices_energy_is_nobodys() {
    let mut node = node(40, 4);
    node.runs.retain(|run| !matches!(&*run.subject, Subject::DeviceTime { .. }));
    assert!(close(unattributed(&settle(&node, window(0, 4 * SECOND))), 160.0));
    let listed = [time(None, &[(SECOND * 3 / 2, 0), (4 * SECOND, 0)])];
    let cell = settle(&node.with(listed).with(user("a", 9, None, 2, 4)), window(0, 4 * SECOND));
    assert!(close(unattributed(&cell), 60.0) && close(pool_idle(&cell), 20.0));
    assert!(
        close(joules(&cell, of("a"), Purpose::Base), 64.0) && close(joules(&cell, of("a"), Purpose::Dynamic), 16.0)
    );
    let nameless = NodeSeries::default()
        .with([run(Subject::Energy(source("gpu", Component::Accelerator).into()), &steady(JOULE, 4))]);
    assert!(close(unattributed(&settle(&nameless, window(0, 4 * SECOND))), 4.0));
}

#[test]
fn without_a_known_size_the_device_is_what_is_held_and_without_known_memory_parts_are_equal() {
    let users = || [user("a", 0, Some(24 * GIB), 0, 10), user("b", 0, Some(8 * GIB), 0, 10)].into_iter().flatten();
    let mut sizeless = node(32, 10).with(users());
    sizeless.device_memory_bytes.clear();
    let cell = settle(&sizeless, window(0, 10 * SECOND));
    assert!(close(joules(&cell, of("a"), Purpose::Base), 240.0) && close(joules(&cell, of("b"), Purpose::Base), 80.0));
    let cell = settle(&node(72, 10).with(users()).with(user("c", 0, None, 0, 10)), window(0, 10 * SECOND));
    for id in ["a", "b", "c"] {
        assert!(close(joules(&cell, of(id), Purpose::Base), 320.0 / 3.0), "{id}");
        assert!(close(joules(&cell, of(id), Purpose::Dynamic), 400.0 / 3.0), "{id}");
    }
    assert!(close(pool_idle(&cell), 0.0));
}

#[test]
fn of_a_divided_device_each_holds_its_slices_also_alone_and_the_rest_is_nobodys() {
    let slices = |workload: &str, millionths: u64, from: i64, to: i64| {
        let held = [(from * SECOND, millionths), (to * SECOND, millionths)];
        run(Subject::DeviceSlices { device: GPU.into(), workload: workload.into(), of: 7 }, &held)
    };
    // Three slices of seven with half of the memory; alone for ten seconds, then beside one with two slices that works.
    let node = node(102, 20)
        .with(user("a", 100, Some(24 * GIB), 0, 20))
        .with(user("b", 300, Some(12 * GIB), 10, 20))
        .with([slices("a", 3_000_000, 0, 20), slices("b", 2_000_000, 10, 20)]);
    let alone = settle(&node, window(0, 10 * SECOND));
    // 32 W of the device are base.
    assert!(close(joules(&alone, of("a"), Purpose::Base), 320.0 * 3.0 / 7.0), "{alone:?}");
    assert!(close(joules(&alone, of("a"), Purpose::Dynamic), 700.0));
    assert!(close(pool_idle(&alone), 320.0 * 4.0 / 7.0));
    let both = settle(&node, window(10 * SECOND, 20 * SECOND));
    assert!(close(joules(&both, of("a"), Purpose::Base), 320.0 * 3.0 / 7.0));
    assert!(close(joules(&both, of("b"), Purpose::Base), 320.0 * 2.0 / 7.0));
    assert!(close(joules(&both, of("b"), Purpose::Dynamic), 700.0 * 0.75), "by what each does");
    assert!(close(pool_idle(&both), 320.0 * 2.0 / 7.0));
    // Where the slices of one are not known, memory tells.
    let mut unknown = node;
    unknown.runs.retain(|run| !matches!(&*run.subject, Subject::DeviceSlices { workload, .. } if workload == "b"));
    let cell = settle(&unknown, window(10 * SECOND, 20 * SECOND));
    assert!(close(joules(&cell, of("a"), Purpose::Base), 160.0) && close(joules(&cell, of("b"), Purpose::Base), 80.0));
}

#[test]
fn without_idle_power_base_is_the_part_of_the_time_in_which_the_device_rests_and_the_cell_says_so() {
    let mut node = node(200, 10).without_idle_power().with(user("a", 250, Some(GIB), 0, 10));
    node.runs.retain(|run| !matches!(&*run.subject, Subject::DeviceTime { workload: None, .. }));
    let cell = settle(&node.with([time(None, &steady(250_000_000, 10))]), window(0, 10 * SECOND));
    assert!(close(joules(&cell, of("a"), Purpose::Base), 1500.0));
    assert!(close(joules(&cell, of("a"), Purpose::Dynamic), 500.0));
    assert!(cell.flags.contains(Flags::IDLE_RATIO));
}

#[test]
fn idle_power_that_is_told_now_and_then_holds_around_its_points() {
    let mut node = node(132, 10).without_idle_power().with(user("a", 300, Some(GIB), 0, 10));
    let told = Subject::IdlePower { source: format!("nvml/{GPU}"), origin: IdleOrigin::Learned };
    node.runs.push(run(told, &[(3 * SECOND, 30_000), (6 * SECOND, 40_000)]));
    let cell = settle(&node, window(0, 10 * SECOND));
    // 30 W up to its first point, 40 W after it: the value of a point holds since the point before.
    assert!(close(joules(&cell, of("a"), Purpose::Base), 3.0 * 30.0 + 7.0 * 40.0));
    assert!(!cell.flags.contains(Flags::IDLE_RATIO));
}

#[test]
fn processes_that_could_not_be_identified_are_a_workload_of_their_own() {
    let points = steady(100_000_000, 10);
    let unmapped = [time(Some("unmapped"), &points), memory("unmapped", 24 * GIB, &points)];
    let cell =
        settle(&node(132, 10).with(unmapped).with(user("a", 300, Some(24 * GIB), 0, 10)), window(0, 10 * SECOND));
    assert!(close(joules(&cell, of("unmapped"), Purpose::Base), 160.0));
    assert!(close(joules(&cell, of("unmapped"), Purpose::Dynamic), 250.0));
    let named = |key: &EntryKey| match &key.account {
        Account::Workload(workload) if workload.id == "unmapped" => Some((workload.kind, workload.name.clone())),
        _ => None,
    };
    let found = cell.entries.keys().find_map(named);
    assert_eq!(found, Some((WorkloadKind::Remainder, "processes that could not be identified".to_string())));
}

/// A node with a counter and, beside it, the integral of the power, both steady for some seconds from one on.
fn metered(counter: u64, integral: u64, from: i64, seconds: i64) -> NodeSeries {
    let shifted = |watts: u64| -> Vec<(i64, u64)> {
        steady(watts * JOULE, seconds).into_iter().map(|(at, value)| (at + from * SECOND, value)).collect()
    };
    let twin = Source {
        id: format!("nvml/{GPU}/power"),
        method: Method::IntegratedPower,
        contained_in: Some(format!("nvml/{GPU}")),
        ..gpu(GPU)
    };
    NodeSeries::default().with([
        run(Subject::Energy(gpu(GPU).into()), &shifted(counter)),
        run(Subject::Energy(twin.into()), &shifted(integral)),
    ])
}

#[test]
fn a_counter_that_differs_from_the_integrated_power_beside_it_is_disputed_over_its_whole_minute() {
    let disputed = |node: &NodeSeries, from, to| settle(node, window(from, to)).flags.contains(Flags::DISPUTED);
    let minute = 60 * SECOND;
    let node = metered(89, 100, 0, 60);
    for (from, to) in [(0, minute), (0, SECOND), (7 * SECOND, 9 * SECOND), (59 * SECOND, 61 * SECOND)] {
        assert!(disputed(&node, from, to), "{from} to {to}");
    }
    assert!(!disputed(&node, minute, 2 * minute), "the next minute has no reading");
    assert!(disputed(&metered(111, 100, 0, 60), 0, minute), "the other way round");
    assert!(!disputed(&metered(110, 100, 0, 60), 0, minute), "10 % are agreed");
    assert!(!disputed(&metered(90, 100, 0, 60), 0, minute), "10 % are agreed");
    assert!(disputed(&metered(50, 100, 5, 60), 0, minute), "55 s of the minute are known");
    assert!(!disputed(&metered(50, 100, 6, 50), 0, minute), "50 s of the minute are known");
    let cell = settle(&node, window(0, minute));
    assert_eq!(cell.component_microjoules(), 89 * 60 * JOULE, "the counter is booked");
    assert_eq!(cell.sources.values().map(|used| used.microjoules).sum::<u64>(), 189 * 60 * JOULE, "both stay visible");
}

proptest! {
    #[test]
    fn every_microjoule_of_every_device_is_booked_once_and_parts_add_up(
        steps in prop::collection::vec((1i64..4 * SECOND, 0u64..1 << 32, 0u64..8, 0u64..1 << 30, any::<bool>()), 2..30),
        (idle, sized) in (any::<bool>(), any::<bool>()),
        cut in 0i64..60,
    ) {
        let names = ["a", "unmapped", "c"];
        let mut at = 0i64;
        let (mut energy, mut all) = (vec![(0, 0)], vec![(0, 0)]);
        let mut runs: Vec<Run> = vec![];
        let mut total = 0;
        for (length, amount, present, busy, listed) in &steps {
            let before = at;
            at += length;
            total += amount;
            energy.push((at, total));
            if *listed {
                all.push((at, all.last().map_or(0, |last| last.1) + busy));
            } else {
                runs.push(time(None, &all));
                all = vec![(at, 0)];
            }
            for (bit, name) in names.iter().enumerate().filter(|(bit, _)| present & 1 << bit != 0) {
                runs.push(time(Some(name), &[(before, 0), (at, busy >> bit)]));
                if bit != 2 || *listed {
                    runs.push(memory(name, busy + 1, &[(before, 0), (at, 0)]));
                }
                if *name != "unmapped" {
                    let kind = WorkloadKind::ProcessTree;
                    runs.push(run(Subject::CpuTime(workload(name, kind, None).into()), &[(before, 0), (at, *busy)]));
                }
            }
        }
        runs.push(time(None, &all));
        let mut node = node(0, 0).with(runs).with([tokens("a", 3, at / SECOND)]);
        node.runs.retain(|run| !matches!(&*run.subject, Subject::Energy(_)) && (idle || !matches!(&*run.subject, Subject::IdlePower { .. })));
        node.runs.push(run(Subject::Energy(gpu(GPU).into()), &energy));
        if idle {
            let held = [(0, 0), (at / 2, 30_000)];
            node.runs.push(run(Subject::IdlePower { source: format!("nvml/{GPU}"), origin: IdleOrigin::Table }, &held));
        }
        if !sized {
            node.device_memory_bytes.clear();
        }
        let end = UnixNanos(at).ceil_to(1);
        let whole = settle(&node, window(0, end.0));
        let booked: u64 = whole.entries.iter().filter(|(key, _)| key.component == Component::Accelerator).map(|(_, e)| *e).sum();
        prop_assert_eq!(booked, total);
        let reserved: u64 = whole.services.values().map(|used| used.reserved_device_nanos).sum();
        prop_assert!(reserved <= end.0 as u64);
        let middle = UnixNanos(cut * SECOND).min(end);
        let mut parts = settle(&node, window(0, middle.0));
        parts.merge(&settle(&node, window(middle.0, end.0)));
        prop_assert_eq!(parts, whole);
    }
}
