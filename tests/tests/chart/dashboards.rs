//! The dashboards against the types of Grafana's own SDK: what these do not know has no effect in Grafana, and is no error there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use joulebook_tests::chart::render::{chart, python};
use serde_json::{Value, json};

/// What is lost of dashboards on the way through Grafana's types, a line each.
fn lost(dashboards: &[PathBuf]) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards/schema.py");
    let done = Command::new(python()).arg(script).args(dashboards).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn dashboards() -> Vec<PathBuf> {
    fs::read_dir(chart().join("dashboards")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn grafanas_types_know_everything_that_the_dashboards_say() {
    let all = dashboards();
    assert_eq!(all.len(), 5);
    assert_eq!(lost(&all), Vec::<String>::new());
}

#[test]
fn a_key_that_grafana_does_not_know_is_found_wherever_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(chart().join("dashboards/joulebook-health.json")).unwrap();
    for (place, key) in [
        ("", "refrsh"),
        ("/panels/1", "desription"),
        ("/panels/1/options", "graphmode"),
        ("/panels/1/targets/0", "expresion"),
        ("/panels/1/fieldConfig/defaults", "unti"),
        ("/templating/list/0", "labels"),
    ] {
        let mut dashboard: Value = serde_json::from_str(&text).unwrap();
        let object = dashboard.pointer_mut(place).and_then(Value::as_object_mut);
        object.unwrap_or_else(|| panic!("{place} is not there")).insert(key.to_owned(), json!("x"));
        let path = folder.path().join("broken.json");
        fs::write(&path, dashboard.to_string()).unwrap();
        let found = lost(&[path]);
        assert!(found.len() == 1 && found[0].contains(&format!(".{key} is not known")), "{place} {key}: {found:?}");
    }
}
