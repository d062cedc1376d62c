//! Answers: the same before and after the ledger has settled, conserved under every policy, and silent about nothing.

#![allow(clippy::expect_used, reason = "functions that tests call may fail the test")]

use joulebook_aggregator::factor::{FactorConfig, Factors};
use joulebook_aggregator::query::Query;
use joulebook_proto::query::{
    EnergyBy, EnergyRow, ExplainRequest, FunctionalUnit, GetEnergyRequest, GetSciRequest, IdlePolicy, KeyPart, Level,
    ModelSelector, SciAnswer, TimeWindow, Trust,
};
use joulebook_tests::aggregator::{Aggregator, At};
use joulebook_tests::history::{BOOTED, History, SECOND, history, step};
use joulebook_units::{Microjoules, UnixNanos};
use proptest::prelude::*;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::watch;

#[path = "answers/cost.rs"]
mod cost;
#[path = "answers/factors.rs"]
mod factors;
#[path = "answers/idle.rs"]
mod idle;
#[path = "answers/impacts.rs"]
mod impacts;
#[path = "answers/lag.rs"]
mod lag;
#[path = "answers/training.rs"]
mod training;
#[path = "answers/unseen.rs"]
mod unseen;
#[path = "answers/walls.rs"]
mod walls;

fn query(aggregator: &Aggregator) -> Query {
    let factors = Factors::new(&FactorConfig::default()).expect("the embedded tables");
    Query::new(Arc::clone(&aggregator.book), watch::channel(Arc::new(factors)).1, Arc::new(At(aggregator.now)))
}

/// A window of whole seconds inside the histories, from two fractions.
fn window(histories: &[History], from: u16, to: u16) -> TimeWindow {
    let end = histories.iter().map(|history| history.end / SECOND + 1).max().expect("a history") - 1000;
    let at = |part: u16| {
        let second = 1000 + u64::from(part) * end / u64::from(u16::MAX);
        BOOTED + i64::try_from(second * SECOND).expect("a time of this century")
    };
    let (start, end) = (at(from.min(to)), at(from.max(to)));
    TimeWindow { start_unix_nanos: start, end_unix_nanos: end.max(start + UnixNanos::PER_SECOND) }
}

fn question(window: TimeWindow, policy: IdlePolicy, level: Level) -> GetSciRequest {
    GetSciRequest {
        window: Some(window),
        selector: None,
        functional_unit: FunctionalUnit::OutputToken.into(),
        level: level.into(),
        idle_policy: policy.into(),
        trust: Trust::Unspecified.into(),
        ..GetSciRequest::default()
    }
}

/// Paths of every null of an answer.
fn nulls(value: &Value, path: &str, found: &mut Vec<String>) {
    let inside = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Null => found.push(path.to_owned()),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| nulls(value, &inside(name), found)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| nulls(value, &inside(&index.to_string()), found));
        }
        _ => {}
    }
}

fn energies(query: &Query, window: TimeWindow, by: EnergyBy, trust: Trust) -> (u64, u64) {
    let request =
        GetEnergyRequest { window: Some(window), by: by.into(), trust: trust.into(), ..GetEnergyRequest::default() };
    let answer = query.energy(&request).expect("a well-formed question");
    // What another row contains, and what contains others, is shown and not added.
    let beside = |part: &KeyPart| ["contained", "layer"].contains(&part.name.as_str()) && !part.value.is_empty();
    let contained = |row: &&EnergyRow| row.key.iter().any(beside);
    let rows = || answer.rows.iter().filter(|row| !contained(row));
    assert_eq!(rows().map(|row| row.simulated_microjoules).sum::<u64>(), answer.simulated_microjoules);
    (rows().filter_map(|row| row.microjoules).sum(), answer.total_microjoules)
}

/// The parts of an answer that the moment of asking does not change.
fn timeless(mut answer: SciAnswer) -> SciAnswer {
    answer.generated_at.clear();
    answer
}

const POLICIES: [IdlePolicy; 6] = [
    IdlePolicy::ReservedCapacityTime,
    IdlePolicy::ActiveEnergy,
    IdlePolicy::Requests,
    IdlePolicy::UsageTime,
    IdlePolicy::Equal,
    IdlePolicy::Unallocated,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_are_the_same_from_rows_and_from_cells_and_every_joule_is_in_them(
        steps in prop::collection::vec(prop::collection::vec(step(), 2..30), 1..3),
        (from, to, cut) in (any::<u16>(), any::<u16>(), any::<u16>()),
    ) {
        let histories: Vec<History> = (0u8..).zip(&steps).map(|(index, steps)| history(index, steps)).collect();
        let mut aggregator = Aggregator::new(&histories);
        for (index, history) in histories.iter().enumerate() {
            (0..history.batches.len()).for_each(|record| aggregator.send(index, history, record));
        }
        let asked = window(&histories, from, to);
        let query = query(&aggregator);
        let by = [EnergyBy::Model, EnergyBy::Workload, EnergyBy::Process, EnergyBy::Component, EnergyBy::Node, EnergyBy::Source, EnergyBy::Gpu];
        let ask = || {
            let sci = POLICIES.map(|policy| query.sci(&question(asked, policy, Level::Facility)).expect("well-formed"));
            (sci.map(|response| response.answers.into_iter().map(timeless).collect::<Vec<_>>()), by.map(|by| energies(&query, asked, by, Trust::Components)))
        };
        let from_rows = ask();
        aggregator.settle();
        let from_cells = ask();
        prop_assert_eq!(&from_rows.1, &from_cells.1);
        for (rows, cells) in from_rows.0.iter().flatten().zip(from_cells.0.iter().flatten()) {
            prop_assert_eq!(&rows.energy, &cells.energy);
            prop_assert_eq!(&rows.conservation, &cells.conservation);
            prop_assert_eq!(&rows.tokens, &cells.tokens);
            let grams = |answer: &SciAnswer| answer.carbon.and_then(|carbon| carbon.total_g);
            prop_assert_eq!(grams(rows), grams(cells));
        }

        // Rows of every kind add up to the total, and the total is that of its parts.
        let trusting = by.map(|by| energies(&query, asked, by, Trust::Wall));
        for (rows, total) in from_cells.1.iter().chain(&trusting) {
            prop_assert_eq!(rows, total);
        }
        prop_assert!(trusting[4].1 <= from_cells.1[4].1, "a trusted wall takes overcount away and nothing else");
        let middle = window(&histories, cut, cut).start_unix_nanos.clamp(asked.start_unix_nanos, asked.end_unix_nanos);
        if middle > asked.start_unix_nanos && middle < asked.end_unix_nanos {
            let before = TimeWindow { end_unix_nanos: middle, ..asked };
            let after = TimeWindow { start_unix_nanos: middle, ..asked };
            let total = |window| energies(&query, window, EnergyBy::Node, Trust::Components).1;
            prop_assert_eq!(total(before) + total(after), total(asked));
        }

        for answer in from_cells.0.iter().flatten() {
            let book = answer.conservation.expect("always there");
            prop_assert_eq!(book.residual_uj, 0);
            prop_assert_eq!(book.wall_uj + book.overcount_uj, book.allocated_uj + book.ledger_uj);
            let input = answer.reconciliation.clone().expect("always there");
            prop_assert_eq!(input.overcount_uj, book.overcount_uj);
            prop_assert!(input.measured_input_uj <= book.wall_uj && input.platform_uj <= book.wall_uj + book.overcount_uj);
            prop_assert_eq!(input.walls.is_empty(), input.measured_input_uj == 0 && input.overcount_fraction.is_none());
            let flags = answer.quality.clone().expect("always there").flags;
            let left = flags.iter().any(|flag| flag == "idle_excluded");
            let label = answer.boundary.clone().expect("always there").label;
            let idle = answer.idle.clone().expect("always there");
            prop_assert_eq!(label.starts_with("SCI"), !left, "{}", label);
            prop_assert_eq!(answer.simulated, label.ends_with("simulated)"));
            let simulated = answer.simulated_share.unwrap_or(0.0);
            prop_assert!((0.0..=1.0).contains(&simulated) && (answer.simulated || simulated == 0.0));
            prop_assert_eq!(left, idle.policy == "unallocated" || idle.unallocated_j > 0.0);
            let printed = serde_json::to_value(answer).expect("an answer is JSON");
            let mut found = Vec::new();
            nulls(&printed, "", &mut found);
            for path in found {
                prop_assert!(answer.not_available.contains_key(&path), "{} is null without a reason", path);
            }
        }

        // What explain prints adds up to what it explains.
        if let Some(version) = from_cells.0[0].first().and_then(|answer| answer.subject.clone()) {
            let selector = Some(ModelSelector { model: version.model, version: version.model_version, ..ModelSelector::default() });
            let asked = GetSciRequest { selector, ..question(asked, IdlePolicy::ReservedCapacityTime, Level::Facility) };
            let explained = query.explain(&ExplainRequest { question: Some(asked) }).expect("well-formed");
            let answered = explained.answer.clone().expect("always there");
            let (carbon, energy) = (answered.carbon.expect("grams"), answered.energy.expect("joules"));
            let sum = |name: &str| -> f64 {
                explained.terms.iter().filter(|term| term.name.starts_with(name)).filter_map(|term| term.value).sum()
            };
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs().max(1e-12);
            // Of an unseen server only what is charged to it besides is known.
            let is_seen = energy.host_j.is_some();
            for (sum, grams) in [(sum("O["), carbon.o_g), (sum("M["), carbon.m_g)] {
                prop_assert!(grams.map_or(!is_seen, |grams| close(sum, grams)), "{} {:?}", sum, grams);
            }
            let exact = |name: &str| -> u64 {
                explained.terms.iter().filter(|term| term.name.starts_with(name)).filter_map(|term| term.microjoules).sum()
            };
            let joules = |microjoules: u64| Microjoules(microjoules).to_joules().0;
            prop_assert!(energy.dedicated_idle_j.map_or(!is_seen, |idle| close(joules(exact("D[")), idle)));
            prop_assert!(close(joules(exact("P[")), energy.pool_idle_j.expect("known")));
            prop_assert!(explained.terms.iter().filter(|term| term.name.starts_with("P[")).all(|term| term.formula.contains("reserved_capacity_time")));
            for balance in explained.balances {
                let booked: u64 = balance.accounts.iter().map(|account| account.microjoules).sum();
                prop_assert_eq!(booked, balance.input_microjoules + balance.overcount_microjoules);
                prop_assert_eq!(balance.residual_microjoules, 0);
            }
        }
    }
}
