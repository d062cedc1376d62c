//! Answers about nodes with a meter at the input, and what stands in for it once it is silent.

use super::*;
use joulebook_proto::query::{EnergyRow, Reconciliation};
use joulebook_tests::history::{DeviceStep, Step, WallStep};

/// 100 s at most of the BMC's silence, after so many rows of 5 s; the parts draw more and more and then less again.
pub fn steps(told: usize, silent: usize, factor: u64) -> Vec<Step> {
    let nothing =
        DeviceStep { microjoules: 0, integrated_microjoules: 0, busy_nanos: 0, held_bytes: 0, users: 0, listed: true };
    let step = |number: usize| {
        let cpu = 90_000_000 * (10 + number as u64 / 60 % 7);
        Step {
            nanos: 5 * SECOND,
            microjoules: cpu,
            cpu_nanos: SECOND,
            tokens: 10,
            scraped: true,
            gap: false,
            ends_batch: false,
            running: 0,
            devices: [nothing.clone(), nothing.clone()],
            // 80 W and a quarter of what the parts draw, memory's ninth included.
            wall: WallStep {
                microjoules: (400_000_000 + (cpu + cpu / 9) * 5 / 4) * factor / 100,
                told: u8::from(number < told),
                broken: 0,
            },
        }
    };
    (0..told + silent).map(step).collect()
}

/// A node's answer over the last rows of its history, before and after the ledger has settled, and its rows of layers.
pub fn asked(steps: &[Step], last: i64, trust: Trust) -> (SciAnswer, SciAnswer, Vec<EnergyRow>) {
    asked_of(&[history(0, steps)], last, trust)
}

fn asked_of(histories: &[History], last: i64, trust: Trust) -> (SciAnswer, SciAnswer, Vec<EnergyRow>) {
    let mut aggregator = Aggregator::new(histories);
    for (index, history) in histories.iter().enumerate() {
        (0..history.batches.len()).for_each(|record| aggregator.send(index, history, record));
    }
    let end = aggregator.now.floor_to(1);
    let window = TimeWindow { start_unix_nanos: end.plus_seconds(-last).0, end_unix_nanos: end.0 };
    let query = query(&aggregator);
    let question =
        GetSciRequest { trust: trust.into(), ..question(window, IdlePolicy::ReservedCapacityTime, Level::Facility) };
    let ask = || timeless(query.sci(&question).expect("well-formed").answers.remove(0));
    let before = ask();
    aggregator.settle();
    let layers = GetEnergyRequest { window: Some(window), by: EnergyBy::Layer.into(), ..GetEnergyRequest::default() };
    (before, ask(), query.energy(&layers).expect("well-formed").rows)
}

fn input(answer: &SciAnswer) -> Reconciliation {
    assert_eq!(answer.conservation.expect("always there").residual_uj, 0);
    answer.reconciliation.clone().expect("always there")
}

fn flags(answer: &SciAnswer) -> Vec<String> {
    answer.quality.clone().expect("always there").flags
}

#[test]
fn a_wall_that_was_there_for_an_hour_teaches_what_the_platform_draws_once_it_is_silent() {
    // An hour and a half, then eight minutes of silence of which the last four are asked for.
    let (before, after, _) = asked(&steps(1080, 96, 100), 240, Trust::Components);
    assert_eq!(before.reconciliation, after.reconciliation, "the same from rows and from cells");
    let input = input(&after);
    assert_eq!((input.platform_method.as_str(), input.walls.len(), input.measured_input_uj), ("modelled", 0, 0));
    assert!(
        flags(&after).contains(&"residual_modelled".to_owned()) && !flags(&after).contains(&"psu_estimated".to_owned())
    );
    let components = after.conservation.expect("always there").wall_uj - input.platform_uj;
    let truth = 80.0 * 240.0 + components as f64 / 1e6 / 4.0;
    let modelled = input.platform_uj as f64 / 1e6;
    assert!((modelled / truth - 1.0).abs() < 0.01, "{modelled} J of {truth} J");
    assert!(input.platform_bound_uj < input.platform_uj / 20, "the fit is good and says so");

    // Half an hour teaches nothing: the power supply's efficiency stays.
    let (_, after, _) = asked(&steps(360, 96, 100), 240, Trust::Components);
    assert_eq!(self::input(&after).platform_method, "psu_efficiency");
    assert!(flags(&after).contains(&"psu_estimated".to_owned()));
}

#[test]
fn a_wall_is_named_with_its_platform_and_a_window_with_both_is_mixed() {
    let (before, after, layers) = asked(&steps(360, 0, 100), 600, Trust::Components);
    assert_eq!(before.reconciliation, after.reconciliation);
    let measured = input(&after);
    assert_eq!(
        (measured.platform_method.as_str(), measured.walls.as_slice()),
        ("measured", ["node-0: redfish/wall".to_owned()].as_slice())
    );
    assert_eq!((measured.overcount_uj, measured.overcount_fraction), (0, Some(0.0)));
    assert_eq!(measured.measured_input_uj, after.conservation.expect("always there").wall_uj);
    assert!(!after.conservation.expect("always there").wall_estimated);
    let walls: Vec<_> = after.instruments.iter().filter(|one| one.wall).map(|one| one.layer.as_str()).collect();
    assert_eq!(walls, ["node"]);
    assert!(after.instruments.iter().filter(|one| one.layer != "part").all(|one| one.energy_fraction == 0.0));
    let wall = layers.iter().find(|row| row.key[3].value == "redfish/wall").expect("the wall is a layer");
    let residual = wall.layer_residual_microjoules.expect("known throughout");
    assert_eq!(wall.microjoules, wall.content_microjoules.map(|content| content + residual.unsigned_abs()));

    let (_, mixed, _) = asked(&steps(360, 60, 100), 600, Trust::Components);
    assert_eq!(input(&mixed).platform_method, "mixed");
    assert!(input(&mixed).measured_fraction.is_some_and(|part| (0.4..0.6).contains(&part)));
}

#[test]
fn a_trusted_wall_is_what_is_charged_and_the_overcount_stays_visible() {
    // The meter shows half of what it should: the parts exceed it.
    let [(_, components, _), (_, wall, _)] =
        [Trust::Components, Trust::Wall].map(|trust| asked(&steps(360, 0, 50), 600, trust));
    let (declared, trusted) = (input(&components), input(&wall));
    assert!(declared.overcount_uj > 0 && declared.overcount_uj == trusted.overcount_uj);
    assert_eq!((declared.trust.as_str(), trusted.trust.as_str()), ("components", "wall"));
    assert!(
        flags(&components).contains(&"overcount".to_owned())
            && flags(&components).contains(&"layer_conflict".to_owned())
    );
    let (book, scaled) = (components.conservation.expect("always there"), wall.conservation.expect("always there"));
    assert_eq!((book.overcount_uj, scaled.overcount_uj), (declared.overcount_uj, 0));
    assert_eq!(book.wall_uj, scaled.wall_uj, "the input is the meter's either way");
    assert_eq!(book.allocated_uj + book.ledger_uj, scaled.allocated_uj + scaled.ledger_uj + declared.overcount_uj);
    assert_ne!(components.answer_id, wall.answer_id);
}

#[test]
fn a_sites_main_meter_over_the_inputs_of_its_nodes_is_its_pue() {
    // The second node reads the meter and is all that is placed in the site; twice what the meter of a node would show.
    let steps = steps(240, 0, 200);
    let (before, after, layers) = asked_of(&[history(0, &steps), history(1, &steps)], 600, Trust::Components);
    assert_eq!(before.pue, after.pue);
    let main = layers.iter().find(|row| row.key[3].value == "meter/main").expect("the meter is a layer");
    let key: Vec<&str> = main.key.iter().map(|part| part.value.as_str()).collect();
    assert_eq!(key, ["site", joulebook_tests::history::wall::SITE, "node-1", "meter/main"]);
    let (own, content) = (main.microjoules.expect("known"), main.content_microjoules.expect("declared"));
    assert_eq!(main.layer_residual_microjoules, Some(i64::try_from(own - content).expect("small")));
    assert!((main.pue.expect("above 1") - own as f64 / content as f64).abs() < 1e-12);
    let used = after.pue.expect("always there");
    assert!(
        used.source.contains("measured by meter/main of node-1") && used.granularity.contains("measured"),
        "{used:?}"
    );
    assert!(used.granularity.contains("default"), "the other site has no meter: {used:?}");
}
