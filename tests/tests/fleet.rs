//! The scripted fleet: 30 days of four nodes in two zones, whose truth is known to the microjoule and to 1e-9 of the grams.
//!
//! `FLEET_HOURS=24` is the long form; the short one is on for four hours of each day. Ledger, factors and training are those
//! of the aggregator; how long an answer took is printed, and nothing hangs on it.

#![allow(clippy::expect_used, reason = "functions that tests call may fail the test")]
#![allow(clippy::print_stdout, reason = "it prints how long an answer took, and nothing hangs on it")]

use joulebook_aggregator::store::memory::MemoryStore;
use joulebook_proto::query::{
    FunctionalUnit, GetSciRequest, IdlePolicy, Level, ModelSelector, SciAnswer, TimeWindow, Trust,
};
use joulebook_tests::scripted::{Fleet, Script, Truth};
use joulebook_units::{UnixNanos, Window};
use std::sync::{Arc, LazyLock};

#[path = "fleet/energy.rs"]
mod energy;
#[path = "fleet/factors.rs"]
mod factors;
#[path = "fleet/grams.rs"]
mod grams;
#[path = "fleet/program.rs"]
mod program;
#[path = "fleet/training.rs"]
mod training;

const DAYS: i64 = 30;
/// 2026-10-01T00:00:00Z.
const END: UnixNanos = UnixNanos(1_790_812_800_000_000_000);

const POLICIES: [IdlePolicy; 6] = [
    IdlePolicy::ReservedCapacityTime,
    IdlePolicy::ActiveEnergy,
    IdlePolicy::Requests,
    IdlePolicy::UsageTime,
    IdlePolicy::Equal,
    IdlePolicy::Unallocated,
];

/// The fleet that all tests ask and none changes.
static FLEET: LazyLock<Fleet> = LazyLock::new(|| {
    let hours =
        std::env::var("FLEET_HOURS").map_or(4, |hours| hours.parse().expect("FLEET_HOURS is a number, 1 to 24"));
    written(DAYS, hours)
});

fn written(days: i64, hours: i64) -> Fleet {
    Fleet::write(Arc::new(MemoryStore::default()), Script::ending(END, days, hours))
}

fn truth(fleet: &Fleet) -> Truth {
    Truth::of(&fleet.script)
}

fn wire(window: Window) -> TimeWindow {
    TimeWindow { start_unix_nanos: window.start().0, end_unix_nanos: window.end().0 }
}

fn question(window: Window, policy: IdlePolicy) -> GetSciRequest {
    GetSciRequest {
        window: Some(wire(window)),
        functional_unit: FunctionalUnit::OutputToken.into(),
        level: Level::Facility.into(),
        idle_policy: policy.into(),
        trust: Trust::Unspecified.into(),
        ..GetSciRequest::default()
    }
}

fn ask(fleet: &Fleet, asked: &GetSciRequest) -> Vec<SciAnswer> {
    fleet.query().sci(asked).expect("a well-formed question").answers
}

fn name(answer: &SciAnswer) -> String {
    let subject = answer.subject.clone().expect("always there");
    format!("{}@{}", subject.model.expect("named"), subject.model_version.expect("resolved"))
}

fn selected(model: &str, version: &str) -> Option<ModelSelector> {
    Some(ModelSelector { model: Some(model.to_owned()), version: Some(version.to_owned()), ..ModelSelector::default() })
}

fn operational(answer: &SciAnswer) -> f64 {
    answer.carbon.expect("always there").o_g.expect("known")
}

fn close(a: f64, b: f64, within: f64) -> bool {
    (a - b).abs() <= within * b.abs().max(1e-12)
}
