//! Grams: every policy gives out the same ones, and by the default each version has those that the script says.

use super::*;
use joulebook_tests::scripted::script::DAY_HOURS;
use joulebook_tests::wait::Moment;

#[test]
fn every_policy_gives_out_the_same_joules_and_grams_and_the_default_those_of_the_script() {
    let fleet = &*FLEET;
    let truth = truth(fleet);
    for policy in POLICIES {
        let began = Moment::now();
        let answers = ask(fleet, &question(fleet.script.window(), policy));
        println!(
            "SCI of 5 versions over 30 days × {} h by {policy:?}: {:?}",
            fleet.script.hours_a_day,
            began.elapsed()
        );
        assert_eq!(answers.len(), 5);
        for answer in &answers {
            let balance = answer.conservation.expect("always there");
            assert_eq!((balance.residual_uj, balance.overcount_uj), (0, 0), "{policy:?}");
            assert_eq!(balance.allocated_uj + balance.ledger_uj, balance.wall_uj, "{policy:?}");
        }
        let grams: f64 = answers.iter().map(operational).sum();
        let embodied: f64 = answers.iter().map(|answer| answer.carbon.expect("there").m_g.expect("known")).sum();
        assert!(embodied > 0.0 && embodied <= truth.embodied_g.values().sum(), "{policy:?}");
        if policy == IdlePolicy::Unallocated {
            assert!(grams < truth.operational_g - truth.tuning_g, "idle capacity is nobody's");
            continue;
        }
        // The tuning is nobody's inference: all the rest is on the versions, whoever carries how much.
        let expected = truth.operational_g - truth.tuning_g;
        assert!(close(grams, expected, 1e-8), "{policy:?}: {grams}, not {expected}");
        if policy == IdlePolicy::ReservedCapacityTime {
            answers.iter().for_each(|answer| as_scripted(answer, &truth));
        }
    }
}

fn as_scripted(answer: &SciAnswer, truth: &Truth) {
    let name = name(answer);
    let expected = &truth.versions[&name];
    let tokens = answer.tokens.expect("always there");
    let counted = (tokens.input.expect("told"), tokens.output.expect("told"));
    assert_eq!(counted, (expected.input_tokens, expected.output_tokens), "{name}");
    let within = if expected.shared { 1e-7 } else { 1e-9 };
    let grams = operational(answer);
    assert!(close(grams, expected.operational_g, within), "{name}: {grams}, not {}", expected.operational_g);
}

#[test]
fn embodied_grams_accrue_by_the_wall_clock_whether_a_node_is_on_or_not() {
    let fleet = &*FLEET;
    let days = Window::new(fleet.script.day(1), fleet.script.day(3)).expect("ordered");
    let asked = GetSciRequest { selector: selected("embed", "1"), ..question(days, IdlePolicy::ReservedCapacityTime) };
    // It alone is on its node, and charged on no other: the rest is that of hours in which nothing is on.
    let embodied = ask(fleet, &asked).remove(0).embodied.expect("always there");
    let sum = embodied.m_g.expect("known") + embodied.unallocated_g.expect("known");
    let whole = truth(fleet).embodied_g["iad-2"];
    let hours = fleet.script.days * DAY_HOURS - fleet.script.hours().next().expect("an hour");
    assert!(close(sum, whole * 48.0 / hours as f64, 1e-9), "{sum} of {whole}");
}
