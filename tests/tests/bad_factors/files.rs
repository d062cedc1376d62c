//! Files of `[[factor]]` that are refused: each stands before the series that holds, and none takes its place.

use super::*;
use joulebook_tests::scripted::grid;
use std::fmt::Write;

/// A file, the series that it is to fill, and words of the refusal.
struct Refused {
    name: &'static str,
    keys: &'static str,
    text: String,
    words: &'static [&'static str],
}

const INTENSITY: &str = "kind = \"average_consumption\"\n";

fn refused(name: &'static str, keys: &'static str, text: String, words: &'static [&'static str]) -> Refused {
    Refused { name, keys, text, words }
}

/// Hours of the first day, from six on, with a value each.
fn hours(script: &Script, values: &[&str]) -> String {
    let mut text = "start,value\n".to_owned();
    for (value, hour) in values.iter().zip(6..) {
        writeln!(text, "{},{value}", super::text(script.hour(hour))).unwrap();
    }
    text
}

fn all(script: &Script) -> Vec<Refused> {
    let local = |times: &[&str]| times.iter().fold("start,value\n".to_owned(), |text, time| text + time + "\n");
    let overlapping = {
        let at = |hour| text(script.hour(hour));
        format!("start,end,value\n{},{},100\n{},{},200\n", at(6), at(8), at(7), at(9))
    };
    let berlin = "kind = \"average_consumption\"\nmapping.time_zone = \"Europe/Berlin\"\n";
    vec![
        refused("negative", INTENSITY, hours(script, &["100", "-5", "100"]), &["line 3", "-5 is no intensity"]),
        refused("huge", INTENSITY, hours(script, &["50000", "50000"]), &["line 2", "50000", "0 to 2000 g/kWh"]),
        refused("kilograms", INTENSITY, hours(script, &["0.1", "0.2"]), &["kg/kWh", "mapping.unit"]),
        refused("words", INTENSITY, hours(script, &["n/a"]), &["line 2", "`n/a` is no number"]),
        refused("header", INTENSITY, "start,value\n".into(), &["no value in it"]),
        refused("empty", INTENSITY, String::new(), &["no value in it"]),
        refused("renamed", INTENSITY, "start,intensity\n".into(), &["no `value`", "start, intensity"]),
        refused(
            "twice",
            INTENSITY,
            hours(script, &["100"]) + hours(script, &["200"]).trim_start_matches("start,value\n"),
            &["lines 2 and 3", "different values"],
        ),
        refused("overlapping", INTENSITY, overlapping, &["lines 2 and 3", "different values"]),
        refused("placeless", INTENSITY, local(&["2026-06-01T10:00:00,100"]), &["line 2", "no offset", "time_zone"]),
        refused(
            "set-back",
            berlin,
            local(&["2026-10-25T02:00:00,100", "2026-10-25T02:00:00,200"]),
            &["lines 2 and 3", "set back", "offset"],
        ),
        refused("set-forward", berlin, local(&["2026-03-29T02:30:00,100"]), &["line 2", "set forward"]),
        refused("pue", "quantity = \"pue\"\n", hours(script, &["0.9"]), &["line 2", "0.9 is no pue", "1 to 10"]),
    ]
}

#[test]
fn a_file_that_cannot_be_is_refused_by_its_line_and_the_series_behind_it_holds() {
    let script = Script::ending(midnight(), 2, 3);
    let all = all(&script);
    let rig = Rig::start(script, |folder| {
        let mut keys = String::new();
        for Refused { name, keys: own, text, .. } in &all {
            let path = write(folder, &format!("{name}.csv"), text);
            writeln!(
                keys,
                "[[factor]]\nname = \"{name}\"\nprovider = \"csv\"\nsites = [\"fra\", \"iad\"]\npath = \"{}\"\n{own}",
                path.display()
            )
            .unwrap();
        }
        keys + grid::CONFIGURATION
    });
    for Refused { name, words, .. } in &all {
        let said = rig.failure(name);
        assert!(words.iter().all(|word| said.contains(word)), "{name}: {said}");
        assert!(rig.series(name).unwrap()["revisions"].as_u64() == Some(0), "{name} has no value");
    }
    rig.is_as_scripted();
    // What led to the value of each is told.
    let answer = rig.of("chat", 6..7, &[]);
    let used = &answer["intensity"]["uses"][0];
    assert!(used["steps"].as_array().unwrap().iter().any(|step| step == "series fra-grid: hour"), "{used}");
}

#[test]
fn a_hole_is_held_for_two_hours_and_then_missing_and_a_row_of_a_hundred_is_left_out_by_its_line() {
    let script = Script::ending(midnight(), 2, 12);
    let rig = Rig::start(script, |folder| {
        // Hours 6 and 7, then 8 is left out, 9; then 10 to 13 are left out: more than two hours; then all others.
        let mut text = "start,end,value\n".to_owned();
        for hour in (0..48).filter(|hour| *hour != 8 && !(10..14).contains(hour)) {
            let [start, end] = [hour, hour + 1].map(|hour| super::text(script.hour(hour)));
            writeln!(text, "{start},{end},{}", 100 + hour).unwrap();
        }
        // One row of more than a hundred is none.
        for minute in 0..120 {
            let [start, end] =
                [minute, minute + 1].map(|minute| super::text(script.hour(60).plus_seconds(minute * 60)));
            writeln!(text, "{start},{end},{}", if minute == 60 { "-1" } else { "50" }).unwrap();
        }
        let path = write(folder, "holes.csv", &text);
        format!(
            "[site.fra]\npue = 1.3\n[[factor]]\nname = \"holes\"\nprovider = \"csv\"\nsites = [\"fra\"]\n{INTENSITY}path = \"{}\"\n",
            path.display()
        )
    });
    until("the file is read", || rig.series("holes").is_some_and(|row| row["revisions"] == 1));
    until("its bad row is told", || rig.aggregator.said().contains("-1 is no intensity"));
    let known = rig.of("chat", 7..8, &[]);
    assert!(close(number(&known["intensity"]["effective_g_per_kwh"]), 107.0), "{}", known["intensity"]);
    assert!(!flags(&known).contains(&"stale_intensity"), "{:?}", flags(&known));
    let held = rig.of("chat", 8..9, &[]);
    assert!(close(number(&held["intensity"]["effective_g_per_kwh"]), 107.0), "{}", held["intensity"]);
    assert!(flags(&held).contains(&"stale_intensity"), "{:?}", flags(&held));
    let missing = rig.of("chat", 11..12, &[]);
    assert!(missing["sci"]["value"].is_null() && flags(&missing).contains(&"intensity_missing"), "{}", missing["sci"]);
    assert!(missing["sci"]["null_reason"].as_str().unwrap().contains("intensity is missing"), "{}", missing["sci"]);
    let [low, high] = ["missing_low_g", "missing_high_g"].map(|end| number(&missing["intensity"][end]));
    assert!(low > 0.0 && low < high, "between the least and the most that the series had: {low} to {high} g");
}
