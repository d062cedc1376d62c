//! What the operator's tool does not push, and what the aggregator does not take.

use super::*;
use joulebook_tests::scripted::grid;

#[test]
fn what_cannot_be_a_factor_is_pushed_by_nobody_and_nothing_of_its_file_is_recorded() {
    let script = Script::ending(midnight(), 2, 3);
    let rig = Rig::start(script, |_| grid::CONFIGURATION.to_owned());
    let before = ["fra-grid", "fra-hall"].map(|name| rig.series(name).unwrap());
    let at = |hour: i64| text(script.hour(hour));
    let grid_words =
        ["--series", "fra-grid", "--kind", "average-consumption", "--basis", "lifecycle", "--zone", "fra-grid"];
    let hall_words = ["--series", "fra-hall", "--quantity", "pue"];
    let one = |value: &str| format!("start,value\n{},100\n{},{value}\n", at(6), at(7));
    // The bad row is behind more than one question's worth of good ones.
    let late = {
        let row = |index: i64| {
            let start = script.start.plus_seconds(-DAY * 300 + index * 300);
            let value = if index == 20_500 { "50000" } else { "321" };
            format!("{},{},{value}\n", text(start), text(start.plus_seconds(300)))
        };
        (0..20_501).fold("start,end,value\n".to_owned(), |text, index| text + &row(index))
    };
    let overlapping = format!("start,end,value\n{},{},100\n{},{},200\n", at(6), at(8), at(7), at(9));
    let cases: [(&str, &[&str], String, &[&str]); 9] = [
        ("negative", &grid_words, one("-5"), &["line 3", "-5 is no intensity"]),
        ("huge", &grid_words, one("50000"), &["line 3", "0 to 2000 g/kWh"]),
        ("late", &grid_words, late, &["line 20502", "50000"]),
        ("kilograms", &grid_words, format!("start,value\n{},0.1\n", at(6)), &["kg/kWh", "--unit"]),
        ("no number", &grid_words, one("n/a"), &["line 3", "`n/a` is no number"]),
        ("local", &grid_words, "start,value\n2026-06-01T10:00:00,100\n".into(), &["line 2", "is no time"]),
        ("overlapping", &grid_words, overlapping, &["lines 2 and 3", "overlap"]),
        ("pue", &hall_words, format!("start,value\n{},1.1\n{},0.99\n", at(6), at(7)), &["line 3", "0.99 is no pue"]),
        ("another zone", &[&grid_words[..7], &["iad-grid"]].concat(), one("200"), &["another name", "iad-grid"]),
    ];
    for (name, words, text, expected) in &cases {
        let path = rig.file(&format!("{name}.csv"), text);
        let said = rig.refused(&[&["factors", "push"], *words, &[path.to_str().unwrap()]].concat());
        assert!(expected.iter().all(|word| said.contains(word)), "{name}: {said}");
    }
    assert_eq!(before, ["fra-grid", "fra-hall"].map(|name| rig.series(name).unwrap()), "nothing was recorded");
    rig.is_as_scripted();
    // What is said to be in kilograms is taken as that.
    let path = rig.file("said.csv", &format!("start,value\n{},0.1\n", at(6)));
    let words = [&["factors", "push", "--unit", "kg-per-kwh", "--source", "scripted"], &grid_words[..]].concat();
    let said = rig.installation.text(&[&words[..], &[path.to_str().unwrap()]].concat());
    assert!(said.is_err_and(|error| error.to_string().contains("another name")), "its source is another one's");
    let words = [&["factors", "push", "--unit", "kg-per-kwh"], &grid_words[..], &["--source", "pushed"]].concat();
    rig.installation.text(&[&words[..], &[path.to_str().unwrap()]].concat()).unwrap();
    let rated = rig.of("chat", 6..7, &[]);
    assert!(close(number(&rated["intensity"]["effective_g_per_kwh"]), 100.0), "{}", rated["intensity"]);
}
