use super::*;
use crate::cell::Account;
use crate::settle::settle;
use crate::settle::tests::{SECOND, run, source, window};
use alloc::string::ToString;
use joulebook_units::{Component, Scope};
use proptest::prelude::*;

const WATT: u64 = 1_000_000;

fn meter(id: &str, method: Method) -> Source {
    Source { method, collector: "redfish".to_string(), ..source(id, Component::Wall) }
}

/// Cumulative points from (ns since the point before, µJ since then).
fn points(start: i64, steps: &[(i64, u64)]) -> Vec<(i64, u64)> {
    let mut points = vec![(start, 7)];
    for (time, energy) in steps {
        let (at, sum) = *points.last().expect("a first point");
        points.push((at + time, sum + energy));
    }
    points
}

/// So many watts for some seconds, a point every `each` seconds.
fn steady(watts: u64, start: i64, each: i64, count: usize) -> Vec<(i64, u64)> {
    points(start * SECOND, &vec![(each * SECOND, watts * WATT * each.unsigned_abs()); count])
}

fn node(runs: Vec<(Source, Vec<(i64, u64)>)>) -> NodeSeries {
    let runs: Vec<Run> =
        runs.into_iter().map(|(source, points)| run(Subject::Energy(source.into()), &points)).collect();
    NodeSeries { input_runs: runs.clone(), runs, ..NodeSeries::default() }
}

fn walls(cell: &Cell) -> Vec<(&str, u64)> {
    cell.input.meters.iter().map(|(key, nanos)| (key.id.as_str(), nanos / 1_000_000_000)).collect()
}

proptest! {
    #[test]
    fn wall_and_overcount_are_components_and_platform_and_parts_add_up_to_the_whole(
        wall in prop::collection::vec((1i64..400 * SECOND, 0u64..1 << 36), 1..12),
        cpu in prop::collection::vec((1i64..90 * SECOND, 0u64..1 << 35), 1..40),
        (offset, cut) in (-100 * SECOND..100 * SECOND, 0i64..2000),
    ) {
        let wall = points(offset, &wall);
        let cpu = points(0, &cpu);
        let end = wall.last().expect("points").0.max(cpu.last().expect("points").0);
        let whole = window(-120 * SECOND, UnixNanos(end).ceil_to(1).0);
        let measured = wall.last().expect("points").1 - 7;
        let metered = cpu.last().expect("points").1 - 7;
        let node = node(vec![(meter("bmc", Method::IntegratedPower), wall), (source("cpu", Component::Cpu), cpu)]);
        let cell = settle(&node, whole);
        prop_assert_eq!(cell.measured_input_microjoules(), measured);
        prop_assert_eq!(
            measured + cell.overcount_microjoules,
            cell.input.component_microjoules + cell.input.platform_microjoules
        );
        prop_assert_eq!(cell.component_microjoules(), metered);
        prop_assert_eq!(cell.total_microjoules(), metered + cell.platform_microjoules());
        prop_assert!(cell.overcount_microjoules <= cell.input.component_microjoules);
        let middle = UnixNanos(cut * SECOND).min(whole.end());
        let mut parts = settle(&node, window(whole.start().0, middle.0));
        parts.merge(&settle(&node, window(middle.0, whole.end().0)));
        prop_assert_eq!(parts, cell);
    }

    /// Whoever settles a minute sees the same periods in it, however much more of the past and the future there is.
    #[test]
    fn a_minute_is_decided_by_what_lies_around_it(
        wall in prop::collection::vec((1i64..400 * SECOND, 0u64..1 << 36), 1..40),
        cpu in prop::collection::vec((1i64..20 * SECOND, 0u64..1 << 35), 1..200),
        lags in prop::collection::vec(prop::option::of(0..=MOST_SECONDS.unsigned_abs()), 4),
        minute in 0i64..60,
    ) {
        let mut known = Lags::default();
        for (hour, lag) in (0..).zip(lags) {
            let lag = lag.map(|lag| (meter("bmc", Method::IntegratedPower), lag * SECOND.unsigned_abs()));
            known.set(UnixNanos::from_seconds(hour * lag::HOUR_SECONDS), lag.into_iter().collect());
        }
        let minute = window(minute * 60 * SECOND, (minute + 1) * 60 * SECOND);
        let near = Window::new(
            minute.start().plus_seconds(-SURROUNDINGS_SECONDS),
            minute.end().plus_seconds(SURROUNDINGS_SECONDS),
        ).expect("ordered");
        let runs = [(meter("bmc", Method::IntegratedPower), points(-3, &wall)), (source("cpu", Component::Cpu), points(0, &cpu))];
        // A run for every interval, as records have them.
        let one_by_one = |keep: &dyn Fn(i64, i64) -> bool| -> Vec<Run> {
            let pairs = runs.iter().flat_map(|(source, points)| points.windows(2).map(move |pair| (source, pair)));
            let kept = pairs.filter(|(_, pair)| keep(pair[0].0, pair[1].0));
            kept.map(|(source, pair)| run(Subject::Energy(source.clone().into()), pair)).collect()
        };
        let all = NodeSeries { input_runs: one_by_one(&|_, _| true), lags: known.clone(), ..NodeSeries::default() };
        let around = NodeSeries {
            input_runs: one_by_one(&|from, to| from < near.end().0 && to >= near.start().0),
            lags: known,
            ..NodeSeries::default()
        };
        let of = |node: &NodeSeries| {
            let grid = Grid::new(minute);
            let wall = Wall::new(node, &grid);
            let slots: Vec<_> =
                wall.slots.iter().map(|slot| (slot.measured, slot.bound, slot.overcount, slot.components)).collect();
            (slots, wall.meters, wall.lags, wall.flags)
        };
        prop_assert_eq!(of(&all), of(&around));
    }

    #[test]
    fn a_container_is_never_added_to_its_content(
        tree in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8, 1u64..1 << 40), 1..30),
    ) {
        // Each source hangs below an earlier one or is a root; some are layers.
        let mut sources: Vec<(Source, u64)> = Vec::new();
        for (place, (parent, kind, energy)) in tree.into_iter().enumerate() {
            let id = alloc::format!("s{place}");
            let scope = |layer: Layer| Some(Scope { layer, name: "group".to_string(), members: vec![] });
            let contained_in =
                (place > 0 && kind % 2 == 0).then(|| sources[parent.index(sources.len())].0.id.clone());
            let made = match kind {
                0..=3 => source(&id, Component::Other),
                4 => source(&id, Component::Dram),
                5 => Source { scope: scope(Layer::Board), ..source(&id, Component::Other) },
                6 => meter(&id, Method::Counter),
                _ => Source { scope: scope(Layer::Rack), ..meter(&id, Method::Counter) },
            };
            sources.push((Source { contained_in, ..made }, energy));
        }
        let added: BTreeSet<&str> = sources.iter().map(|(source, _)| source).filter(|s| s.is_part()).map(|s| s.id.as_str()).collect();
        for (source, _) in sources.iter().filter(|(source, _)| source.is_part()) {
            let mut above = source.contained_in.as_deref();
            while let Some(id) = above {
                prop_assert!(!added.contains(id), "{} and its container {} are both added", source.id, id);
                above = sources.iter().find(|(other, _)| other.id == id).and_then(|(other, _)| other.contained_in.as_deref());
            }
        }
        let expected: u64 = sources.iter().filter(|(source, _)| added.contains(source.id.as_str())).map(|(_, e)| e).sum();
        let runs = sources.iter().map(|(source, energy)| (source.clone(), vec![(0, 0), (60 * SECOND, *energy)])).collect();
        let cell = settle(&node(runs), window(0, 60 * SECOND));
        prop_assert_eq!(cell.component_microjoules(), expected);
        prop_assert_eq!(cell.total_microjoules() - cell.platform_microjoules(), expected, "what is booked");
        prop_assert_eq!(cell.sources.len(), sources.len(), "every one is shown");
        prop_assert_eq!(
            cell.measured_input_microjoules() + cell.overcount_microjoules,
            cell.input.component_microjoules + cell.input.platform_microjoules
        );
    }
}

#[test]
fn platform_is_what_the_wall_holds_beyond_the_parts() {
    let node = node(vec![
        (meter("bmc", Method::IntegratedPower), steady(500, 0, 20, 15)),
        (source("cpu", Component::Cpu), steady(300, 0, 1, 300)),
    ]);
    let cell = settle(&node, window(0, 300 * SECOND));
    assert_eq!(cell.platform_microjoules(), 60_000 * WATT);
    assert_eq!((cell.overcount_microjoules, cell.flags), (0, Flags::default()));
    assert_eq!(walls(&cell), [("bmc", 300)]);
    // 5 % of 150 kJ and of 90 kJ, in five periods.
    let of_period = libm::ceil(libm::hypot(1_500.0, 900.0) * 1e6) as u64;
    assert_eq!(cell.input.bound_microjoules, 5 * of_period);
    let second = settle(&node, window(100 * SECOND, 101 * SECOND));
    assert_eq!(second.platform_microjoules(), 200 * WATT, "any second has its part");
}

#[test]
fn a_meter_that_is_late_shows_no_overcount_at_a_step() {
    // 100 W, then 700 W from second 100 on; the meter holds what it saw 10 s ago for 10 s, 150 W above the parts.
    let power = |second: i64| if second < 100 { 100 } else { 700 };
    let cpu: Vec<(i64, u64)> = (0..300).map(|second| (SECOND, power(second) * WATT)).collect();
    let wall: Vec<(i64, u64)> = (0..30).map(|ten| (10 * SECOND, (power(ten * 10 - 10) + 150) * WATT * 10)).collect();
    let node = node(vec![
        (meter("bmc", Method::IntegratedPower), points(0, &wall)),
        (source("cpu", Component::Cpu), points(0, &cpu)),
    ]);
    let cell = settle(&node, window(0, 300 * SECOND));
    // Second by second it would be 10 s × 450 W.
    assert_eq!(cell.overcount_microjoules, 0);
    assert_eq!(cell.platform_microjoules(), (150 * 300 - 600 * 10) * WATT);
    assert!(cell.input.bound_microjoules > 6_000 * WATT, "what is missing lies within the bound");
    assert!(!cell.flags.contains(Flags::LAYER_CONFLICT));
}

#[test]
fn a_wall_below_the_parts_is_an_overcount_and_beyond_the_errors_a_conflict() {
    let cell = |wall: u64| {
        let node = node(vec![
            (meter("ipmi", Method::IntegratedPower), steady(wall, 0, 10, 30)),
            (source("gpu", Component::Cpu), steady(1000, 0, 1, 300)),
        ]);
        settle(&node, window(0, 300 * SECOND))
    };
    let (slight, flagged, conflict) = (cell(985), cell(970), cell(300));
    assert_eq!((slight.overcount_microjoules, slight.flags), (4_500 * WATT, Flags::default()), "1.5 % of the wall");
    assert_eq!((flagged.overcount_microjoules, flagged.flags), (9_000 * WATT, Flags::OVERCOUNT));
    assert!(conflict.flags.contains(Flags::LAYER_CONFLICT), "a meter without the accelerators");
    assert_eq!(conflict.total_microjoules(), 300_000 * WATT, "parts stand as they are");
    assert_eq!((conflict.platform_microjoules(), conflict.measured_input_microjoules()), (0, 90_000 * WATT));
}

#[test]
fn a_wall_that_goes_silent_leaves_the_power_supply_and_says_so() {
    let node = node(vec![
        (meter("bmc", Method::IntegratedPower), steady(500, 0, 20, 6)),
        (source("cpu", Component::Cpu), steady(300, 0, 1, 300)),
    ]);
    let cell = settle(&node, window(0, 300 * SECOND));
    assert_eq!(walls(&cell), [("bmc", 120)]);
    assert!(cell.flags.contains(Flags::PSU_ESTIMATED));
    let estimated: u64 = 180 * psu_loss(300 * WATT, PSU_EFFICIENCY);
    assert_eq!(cell.platform_microjoules(), 120 * 200 * WATT + estimated);
    assert_eq!(cell.input.platform_microjoules, 120 * 200 * WATT);
}

#[test]
fn a_meter_that_shows_nothing_while_the_parts_draw_something_is_no_wall() {
    let node = node(vec![
        (meter("bmc", Method::IntegratedPower), steady(0, 0, 20, 15)),
        (source("cpu", Component::Cpu), steady(300, 0, 1, 300)),
    ]);
    let cell = settle(&node, window(0, 300 * SECOND));
    assert_eq!((walls(&cell), cell.overcount_microjoules), (vec![], 0));
    assert_eq!(cell.flags, Flags::PSU_ESTIMATED);
}

#[test]
fn one_meter_is_the_wall_and_the_next_best_stands_in_where_it_is_silent() {
    let named = |id: &str, method, permille| Source { uncertainty_permille: permille, ..meter(id, method) };
    let coarse = Source { unit_nanojoules: Some(3_600_000_000_000_000), ..named("kwh", Method::Counter, 10) };
    let psys = Source { collector: "rapl".to_string(), ..source("rapl/psys", Component::Wall) };
    let supply = Source { contained_in: Some("redfish".to_string()), ..named("supply-1", Method::Counter, 10) };
    let scope = Some(Scope { layer: Layer::Enclosure, name: "e".to_string(), members: vec![] });
    let enclosure = Source { scope, ..named("enclosure", Method::Counter, 10) };
    let slow = steady(500, 0, 60, 5);
    let node = node(vec![
        (psys, steady(400, 0, 1, 300)),
        (supply, steady(250, 0, 1, 300)),
        (enclosure, steady(2000, 0, 1, 300)),
        (coarse, steady(490, 0, 60, 5)),
        (named("redfish", Method::IntegratedPower, 50), steady(510, 0, 10, 30)),
        (named("outlet", Method::IntegratedPower, 10), steady(505, 0, 10, 12)),
        (named("acpi", Method::IntegratedPower, 1), slow),
        (named("energy", Method::Counter, 50), steady(500, 240, 60, 1)),
        (source("cpu", Component::Cpu), steady(300, 0, 1, 300)),
    ]);
    let cell = settle(&node, window(0, 300 * SECOND));
    assert_eq!(walls(&cell), [("energy", 60), ("outlet", 120), ("redfish", 120)]);
    assert_eq!(cell.measured_input_microjoules(), (60 * 500 + 120 * 505 + 120 * 510) * WATT);
    assert_eq!(cell.component_microjoules(), 90_000 * WATT, "none of them is added");
}

#[test]
fn a_wall_without_any_part_is_platform() {
    let cell =
        settle(&node(vec![(meter("bmc", Method::IntegratedPower), steady(500, 0, 20, 15))]), window(0, 300 * SECOND));
    assert_eq!((cell.total_microjoules(), cell.platform_microjoules()), (150_000 * WATT, 150_000 * WATT));
    assert!(cell.entries.keys().all(|key| key.account == Account::Platform));
}

#[test]
fn readings_far_apart_are_cut_at_minutes() {
    let node = node(vec![
        (meter("pdu", Method::Counter), vec![(30 * SECOND, 0), (930 * SECOND, 900 * 400 * WATT)]),
        (source("cpu", Component::Cpu), steady(300, 0, 1, 1000)),
    ]);
    let minute = settle(&node, window(600 * SECOND, 660 * SECOND));
    assert_eq!(minute.platform_microjoules(), 60 * 100 * WATT);
    assert_eq!(settle(&node, window(0, 1000 * SECOND)).measured_input_microjoules(), 900 * 400 * WATT);
}
