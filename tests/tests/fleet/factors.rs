//! Factors: what was forecast, what was corrected, and what a value that comes late changes.

use super::*;
use joulebook_proto::query::ExplainRequest;
use joulebook_sci::series::Status;
use joulebook_tests::scripted::grid;
use joulebook_tests::scripted::script::DAY_HOURS;

/// Operational grams of each slot of a version, with the slot's place.
fn slots(fleet: &Fleet, window: Window) -> Vec<f64> {
    let asked =
        GetSciRequest { selector: selected("embed", "1"), ..question(window, IdlePolicy::ReservedCapacityTime) };
    let explained = fleet.query().explain(&ExplainRequest { question: Some(asked) }).expect("well-formed");
    let terms = explained.terms.iter().filter(|term| term.name.starts_with("O["));
    terms.map(|term| term.value.expect("known")).collect()
}

#[test]
fn a_late_intensity_changes_its_own_cells_and_what_was_known_before_is_known_still() {
    let fleet = written(3, 4);
    let day = Window::new(fleet.script.day(1), fleet.script.day(2)).expect("ordered");
    let late = DAY_HOURS + 8;
    let (before, asked) = (slots(&fleet, day), question(fleet.script.window(), IdlePolicy::ReservedCapacityTime));
    let (first, known) = (ask(&fleet, &asked), fleet.now);
    let (old, new) = (grid::intensity("iad", late), 123.4);
    let at = fleet.now.plus_seconds(1);
    grid::record(&fleet.book, &fleet.script, 1, [(late, new)].into_iter(), (Status::Measured, at));

    let after = slots(&fleet, day);
    assert_eq!((before.len(), after.len()), (48, 48), "four hours of slots");
    for (slot, (before, after)) in before.iter().zip(&after).enumerate() {
        // The third hour of the day in which the fleet is on.
        let expected = if (24..36).contains(&slot) { before * new / old } else { *before };
        assert!(close(*after, expected, 1e-12), "slot {slot}: {after}, not {expected}");
    }
    let second = ask(&fleet, &asked);
    let truth = truth(&fleet);
    let changed = truth.hours[&("iad", late)] * (new - old) / old;
    let sum = |answers: &[SciAnswer]| answers.iter().map(operational).sum::<f64>();
    assert!((sum(&second) - sum(&first) - changed).abs() <= 1e-9 * sum(&first), "the grams of the hour alone");
    for (first, second) in first.iter().zip(&second) {
        let touched = ["code@1", "embed@1"].contains(&name(first).as_str());
        assert_eq!(first.carbon == second.carbon, !touched, "{}", name(first));
    }
    let as_of = GetSciRequest { as_of_unix_nanos: Some(known.0), ..asked };
    for (first, known) in first.iter().zip(ask(&fleet, &as_of)) {
        assert_eq!((&first.carbon, &first.sci, &first.answer_id), (&known.carbon, &known.sci, &known.answer_id));
    }
}

#[test]
fn a_forecast_holds_until_the_values_come() {
    let fleet = &*FLEET;
    let day = grid::FORECAST_DAY;
    let window = Window::new(fleet.script.hour(day * DAY_HOURS + 6), fleet.script.hour(day * DAY_HOURS + 7));
    let asked = GetSciRequest {
        selector: selected("chat", "2"),
        ..question(window.expect("ordered"), IdlePolicy::ReservedCapacityTime)
    };
    let effective = |as_of: Option<UnixNanos>| {
        let asked = GetSciRequest { as_of_unix_nanos: as_of.map(|at| at.0), ..asked.clone() };
        let intensity = ask(fleet, &asked).remove(0).intensity.expect("always there");
        (intensity.effective_g_per_kwh.expect("rated"), intensity.status)
    };
    let (forecast, status) = effective(Some(fleet.script.day(day).plus_seconds(1)));
    assert!(close(forecast, 55.5, 1e-9) && status == "forecast", "{forecast} {status}");
    let (measured, status) = effective(None);
    assert!(close(measured, grid::intensity("fra", day * DAY_HOURS + 6), 1e-9) && status == "measured");
}
