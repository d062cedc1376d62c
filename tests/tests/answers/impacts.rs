//! Water, abiotic depletion and primary energy: from measured energy, by series and constants, absent where none is declared.

use super::factors::Fixture;
use super::*;
use joulebook_proto::query::{Impact, Impacts};
use joulebook_sci::series::Status;

const CONSTANTS: &str = "[site.default]\nzone = \"DEU\"\npue = 1.25\nwue_site_l_per_kwh = 1.8\n\
     abiotic_kg_sb_per_kwh = 4e-8\nprimary_energy_mj_per_kwh = 9.0\nimpact_source = \"a study\"\n\
     [embodied]\nnode_abiotic_kg_sb = 0.1\n\
     [[factor]]\nname = \"rivers\"\nquantity = \"wue_source\"\n";

fn ask(fixture: &Fixture, level: Level) -> (SciAnswer, Impacts) {
    let factors = Arc::new(Factors::new(&toml::from_str(CONSTANTS).expect("syntax")).expect("valid"));
    let (book, clock) = (Arc::clone(&fixture.aggregator.book), Arc::new(At(fixture.aggregator.now)));
    let query = Query::new(book, watch::channel(factors).1, clock);
    let window = TimeWindow { start_unix_nanos: fixture.window.start().0, end_unix_nanos: fixture.window.end().0 };
    let answer = query.sci(&question(window, IdlePolicy::Equal, level)).expect("well-formed").answers.remove(0);
    let impacts = answer.impacts.clone().expect("always there");
    (answer, impacts)
}

fn close(found: Option<f64>, expected: f64) -> bool {
    found.is_some_and(|found| (found / expected - 1.0).abs() < 1e-9)
}

fn rivers(fixture: &Fixture, values: &[f64]) {
    let factors = Factors::new(&toml::from_str(CONSTANTS).expect("syntax")).expect("valid");
    let subject = &factors.feeds()[0].subject;
    let cells: Vec<_> = (0..).zip(values).map(|(cell, value)| (fixture.cell(cell), *value, Status::Measured)).collect();
    fixture.aggregator.book.record_factors("rivers", subject, &cells, UnixNanos(7)).expect("recorded");
}

#[test]
fn water_takes_the_series_of_its_time_and_what_is_not_declared_is_absent() {
    let fixture = Fixture::new();
    let (answer, before) = ask(&fixture, Level::Facility);
    let kwh = answer.energy.clone().expect("there").by_level_j["idle"] / 3.6e6;
    let water = before.water.expect("there");
    // Of the site all is known; of the electricity nothing: no total, and no 0.
    assert_eq!((water.value, water.low, water.high, water.per_unit), (None, None, None, None));
    assert!(close(water.by_part.get("site").copied(), kwh * 1.8) && !water.by_part.contains_key("electricity"));
    assert!(answer.not_available["impacts.water.value"].contains("site and electricity"), "{:?}", answer.not_available);

    rivers(&fixture, &[3.0; 9]);
    let (answer, partly) = ask(&fixture, Level::Facility);
    let water = partly.water.expect("there");
    assert!(water.value.is_none() && water.known_fraction.is_some_and(|part| part > 0.5 && part < 1.0), "{water:?}");
    assert!(answer.not_available["impacts.water.value"].contains("of the energy only"), "{:?}", answer.not_available);

    rivers(&fixture, &[3.0; 10]);
    let (answer, whole) = ask(&fixture, Level::Facility);
    let water: Impact = whole.water.expect("there");
    let expected = kwh * 1.8 + kwh * 1.25 * 3.0;
    assert!(close(water.value, expected), "{water:?}, {expected}");
    assert!(water.low < water.value && water.high > water.value && water.sources.len() == 2, "{water:?}");
    let (r, quality) = (answer.r.clone().expect("there"), answer.quality.clone().expect("there"));
    let joint = quality.joint_coverage.expect("known");
    assert!(water.per_unit.is_some_and(|each| (each * r.value.expect("counted") / expected - joint).abs() < 0.02));

    // Making the hardware: abiotic depletion is declared of the node, primary energy is not.
    let abiotic = whole.abiotic_depletion.expect("there");
    let share = answer.embodied.clone().expect("there").m_g.expect("inside") / node_grams(&answer);
    let accrued = 0.1 * 3000.0 / (35_040.0 * 3600.0);
    assert!(close(abiotic.by_part.get("hardware").copied(), share * accrued), "{abiotic:?}");
    assert!(close(abiotic.value, kwh * 1.25 * 4e-8 + share * accrued), "{abiotic:?}");
    let primary = whole.primary_energy.expect("there");
    assert!(
        primary.value.is_none() && close(primary.by_part.get("electricity").copied(), kwh * 1.25 * 9.0),
        "{primary:?}"
    );

    // Below the facility nothing of it is told.
    let (answer, below) = ask(&fixture, Level::Idle);
    assert!(below.water.is_some_and(|water| water.value.is_none() && water.by_part.is_empty()));
    assert!(answer.not_available["impacts.water.value"].contains("facility level"), "{:?}", answer.not_available);
}

/// Grams of embodied carbon that the node accrues in the window: 3000 s of its totals.
fn node_grams(answer: &SciAnswer) -> f64 {
    let embodied = answer.embodied.clone().expect("there");
    embodied.te_g.values().sum::<f64>() * 3000.0 / (embodied.el_h * 3600.0)
}
