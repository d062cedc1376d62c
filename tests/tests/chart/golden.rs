//! What each value set renders is kept, and the chart's README says what its values are.

use std::path::PathBuf;
use std::process::Command;

use joulebook_tests::chart::render::{chart, python, root, text, value_sets};

/// With this variable goldens are written instead of compared.
const WRITE: &str = "JOULEBOOK_REWRITE_GOLDENS";

fn compare(path: PathBuf, now: &str) -> Result<(), String> {
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, now).unwrap();
        return Ok(());
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = kept.lines().zip(now.lines()).position(|(kept, now)| kept != now);
    if kept == now {
        return Ok(());
    }
    let line = differs.unwrap_or_else(|| kept.lines().count().min(now.lines().count()));
    let of = |text: &str| text.lines().nth(line).unwrap_or("the end").to_owned();
    Err(format!(
        "{}:{}: kept `{}`, now `{}`; if that is meant, run the test again with {WRITE}=1",
        path.display(),
        line + 1,
        of(&kept),
        of(now)
    ))
}

#[test]
fn each_value_set_renders_what_is_kept() {
    let folder = root().join("tests/chart");
    let sets = value_sets();
    let differ: Vec<_> =
        sets.iter().filter_map(|set| compare(folder.join(format!("{set}.yaml")), &text(set)).err()).collect();
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    let kept = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let kept = kept.filter(|path| path.extension().is_some_and(|ending| ending == "yaml")).count();
    assert_eq!(kept, sets.len(), "a golden without a value set");
}

#[test]
fn the_charts_readme_is_what_its_values_say() {
    let done = Command::new(python()).arg(root().join("helm/readme.py")).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    compare(chart().join("README.md"), std::str::from_utf8(&done.stdout).unwrap()).unwrap();
}
