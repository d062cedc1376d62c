//! Rows B24 to B27 and B32: what a BMC shows where a power belongs.

use joulebook_agent::collector::{Collector, Value};
use joulebook_hwsim::redfish::fault::Fault;
use joulebook_hwsim::redfish::shape::Shape;
use joulebook_units::{Layer, Microjoules};
use std::path::Path;
use std::time::Duration;

use crate::rig::{Heard, Rig, first_failure, now, until};

/// The BMC shows this, and nothing of it becomes energy; then it shows its power again, and the time between is unknown.
fn is_skipped(fault: Fault, reason: &str) {
    let rig = Rig::new();
    let mut collector = rig.start();
    let mut heard = Heard::default();
    until(&mut collector, &mut heard, |heard| heard.readings.len() > 2);
    rig.fault(fault);
    until(&mut collector, &mut heard, |heard| heard.reasons().contains(&"stale"));
    let (known, count) = (heard.energy("redfish/wall"), heard.readings.len());
    until(&mut collector, &mut heard, |heard| heard.failures.len() > 5);
    assert_eq!(heard.readings.len(), count, "nothing is invented");
    let others: Vec<_> = heard.reasons().into_iter().filter(|one| *one != "stale").collect();
    assert!(others.len() > 3 && others.iter().all(|one| *one == reason), "{others:?}");
    assert!(!heard.has_gap());
    rig.bmc.set_fault(None);
    until(&mut collector, &mut heard, Heard::has_gap);
    assert_eq!(heard.energy("redfish/wall"), known, "the time in between is a gap, not energy");
}

#[test]
fn b24_a_power_that_is_null_or_not_there_is_missing() {
    is_skipped(Fault::Null, "missing");
    is_skipped(Fault::Absent, "missing");
}

#[test]
fn b25_a_power_in_quotes_is_of_the_wrong_type() {
    is_skipped(Fault::Value("\"372\"".to_owned()), "type");
}

#[test]
fn b26_what_no_node_draws_is_implausible_and_nan_is_no_json() {
    for value in ["-1", "65535", "1e308", "0"] {
        is_skipped(Fault::Value(value.to_owned()), "implausible");
    }
    is_skipped(Fault::Value("NaN".to_owned()), "json");
}

#[test]
fn b27_an_endless_body_is_cut_at_a_mebibyte_and_its_connection_dropped() {
    let rig = Rig::new();
    rig.fault(Fault::Endless);
    let mut collector = rig.start();
    let mut heard = Heard::default();
    until(&mut collector, &mut heard, |heard| heard.failures.len() >= 3);
    assert!(heard.reasons().iter().all(|reason| *reason == "too_large"), "{:?}", heard.reasons());
    assert!(heard.failures[0].why.contains("1048576 bytes"), "{}", heard.failures[0].why);
    assert!(rig.bmc.connections() >= 3, "the connection is not used again");
    assert!(heard.longest < Duration::from_millis(500), "a row never waits: {:?}", heard.longest);
}

#[test]
fn b32_a_document_nested_100_000_deep_is_no_json() {
    is_skipped(Fault::Deep(100_000), "json");
}

#[test]
fn a_page_that_is_cut_or_a_login_page_is_no_json() {
    is_skipped(Fault::Truncated, "json");
    is_skipped(Fault::Html, "json");
}

#[test]
fn every_maker_s_shape_is_read_over_the_wire_and_follows_the_node() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/redfish");
    let set = |name: &str| Shape::read(&fixtures.join(name)).expect("a set");
    let power = |name: &str, watts: f64| {
        let path = fixtures.join("third-party/libredfish-0.2.0-MIT").join(name);
        let text = std::fs::read_to_string(path).expect("a payload");
        Shape::of_power(serde_json::from_str(&text).expect("JSON"), watts)
    };
    let shapes = [
        ("supermicro", set("supermicro-x13")),
        ("ami", set("ami-no-powerconsumed")),
        ("openbmc", set("openbmc-sensors")),
        ("hgx", set("hgx-h100-telemetry")),
        ("dell", power("power-dell.json", 338.0)),
        ("hpe", power("power-hpe.json", 590.0)),
        ("lenovo", power("power-lenovo.json", 416.0)),
    ];
    for (name, shape) in shapes {
        let mut rig = Rig::with(shape, |_| {});
        rig.section.refresh = Some(Duration::from_secs(60));
        let mut collector = rig.start();
        let mut heard = Heard::default();
        until(&mut collector, &mut heard, |heard| heard.readings.len() > 2);
        rig.draw(1_000);
        // The value after next was asked for after the change for certain, and the one after that ends its time.
        let count = heard.readings.len();
        until(&mut collector, &mut heard, |heard| heard.readings.len() > count + 3);
        assert!(heard.failures.is_empty(), "{name}: {:?}", heard.failures);
        let pairs = heard.readings.windows(2);
        let mean = |pair: &[joulebook_agent::collector::Reading]| {
            let Value::Increment { energy: Microjoules(energy), .. } = pair[1].value else {
                panic!("{name}: {pair:?}")
            };
            // µJ × 1,000 / ns = W.
            energy * 1_000 / (pair[1].at.0 - pair[0].at.0)
        };
        let watts: Vec<_> = pairs.map(mean).collect();
        assert!((371..=372).contains(&watts[0]), "{name}: {watts:?}");
        assert!((999..=1_000).contains(watts.last().expect("some")), "{name}: {watts:?}");
    }
}

#[test]
fn a_sensor_that_stopped_is_a_gap_and_never_its_last_value() {
    let rig = Rig::with(Shape::plain(), |options| options.stamps = true);
    let mut collector = rig.start();
    let mut heard = Heard::default();
    until(&mut collector, &mut heard, |heard| heard.readings.len() > 2);
    rig.fault(Fault::Stale);
    until(&mut collector, &mut heard, |heard| heard.reasons().contains(&"stale"));
    let count = heard.readings.len();
    let asked = rig.bmc.asked().len();
    until(&mut collector, &mut heard, |_| rig.bmc.asked().len() > asked + 5);
    assert_eq!((heard.readings.len(), heard.failures.len()), (count, 1), "answers go on, values do not");
    rig.bmc.set_fault(None);
    until(&mut collector, &mut heard, Heard::has_gap);
}

#[test]
fn a_bmc_without_any_power_is_off_and_says_so() {
    let rig = Rig::with(Shape::without_power(), |_| {});
    let mut collector = rig.start();
    let failure = first_failure(&mut collector);
    assert_eq!(failure.reason, "not_supported", "{failure}");
    let states = collector.discover();
    assert!(states[0].unavailable.as_ref().is_some_and(|why| why.contains("no power of this node")), "{states:?}");
}

#[test]
fn the_integral_keeps_to_the_truth_within_one_spacing_of_samples_at_each_step() {
    let mut rig = Rig::new();
    rig.section.refresh = Some(Duration::from_secs(60));
    let mut collector = rig.start();
    let mut heard = Heard::default();
    until(&mut collector, &mut heard, |heard| !heard.readings.is_empty());
    // (since when in ns, W), as the BMC has it.
    let mut history = vec![(heard.readings[0].at.0, 372u64)];
    for watts in [900, 150, 700, 2_000, 372, 1_000] {
        rig.draw(watts);
        history.push((now().0, watts));
        let count = heard.readings.len();
        until(&mut collector, &mut heard, |heard| heard.readings.len() > count + 8);
    }
    let end = heard.readings.last().expect("some").at.0;
    let ends = history.iter().skip(1).map(|(since, _)| *since).chain([end]);
    let truth: u64 = history.iter().zip(ends).map(|((since, watts), end)| (end - since) * watts / 1_000).sum();
    let spacing = heard.readings.windows(2).map(|pair| pair[1].at.0 - pair[0].at.0).max().expect("some");
    let steps: u64 = history.windows(2).map(|pair| pair[0].1.abs_diff(pair[1].1)).sum();
    let energy = heard.energy("redfish/wall");
    assert!(heard.failures.is_empty(), "{:?}", heard.failures);
    assert!(energy.abs_diff(truth) <= steps * spacing / 1_000, "{energy} µJ, in truth {truth}, spacing {spacing} ns");
    assert!(energy.abs_diff(truth) * 10 < truth, "{energy} µJ, in truth {truth}");
}

#[test]
fn an_enclosure_of_several_nodes_is_a_layer_and_nobody_s_wall() {
    let power = serde_json::json!({"PowerControl": [{"Name": "Chassis Power Control", "PowerConsumedWatts": 1.5}]});
    let rig = Rig::with(Shape::of_power(power, 1.5).shared_by(2), |_| {});
    rig.draw(2_400);
    let mut collector = rig.start();
    let mut heard = Heard::default();
    until(&mut collector, &mut heard, |heard| heard.readings.len() > 2);
    assert!(heard.readings.iter().all(|reading| reading.source == "redfish/enclosure"), "{:?}", heard.readings);
    let states = collector.discover();
    assert_eq!(states[0].source.layer(), Some(Layer::Enclosure));
    assert_eq!(states[0].unavailable, None);
}
