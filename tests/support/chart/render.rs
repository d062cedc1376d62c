//! Helm, and what it renders of the chart.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Reads documents of YAML and writes them as one JSON list, twice the same key being an error.
const TO_JSON: &str = "
import json, sys, yaml
class Strict(yaml.CSafeLoader): pass
def mapping(loader, node):
    keys = [loader.construct_object(key) for key, _ in node.value]
    assert len(keys) == len(set(keys)), f'twice the same key: {keys}'
    return loader.construct_mapping(node, deep=True)
Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
json.dump([document for document in yaml.load_all(sys.stdin, Strict) if document], sys.stdout)
";

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The chart's folder.
pub fn chart() -> PathBuf {
    root().join("helm/joulebook")
}

/// A tool that `make test` installs, by its variable.
pub fn tool(variable: &str) -> PathBuf {
    std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is set by `make test`")).into()
}

/// Python with what looks at charts.
pub fn python() -> PathBuf {
    tool("JOULEBOOK_CHART_PYTHON")
}

/// Names of the value sets, from the files in the chart's folder `ci`.
pub fn value_sets() -> Vec<String> {
    let files = std::fs::read_dir(chart().join("ci")).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<_> = files.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    assert!(names.len() >= 9, "{names:?}");
    names
}

/// Runs Helm with words before and behind the chart's folder, as release `joulebook` in the namespace of that name.
pub fn helm(command: &[&str], arguments: &[&str]) -> Output {
    let mut helm = Command::new(tool("JOULEBOOK_HELM"));
    helm.args(command).arg(chart()).args(["--namespace", "joulebook"]).args(arguments);
    helm.output().unwrap()
}

/// What a value set renders, as text.
pub fn text(set: &str) -> String {
    let values = chart().join("ci").join(format!("{set}.yaml"));
    let done = helm(&["template", "joulebook"], &["--values", values.to_str().unwrap()]);
    assert!(done.status.success(), "{set}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// What a value set renders, as objects.
pub fn objects(set: &str) -> Vec<Value> {
    parse(&text(set))
}

/// Documents of YAML.
pub fn parse(yaml: &str) -> Vec<Value> {
    let mut command = Command::new(python());
    command.args(["-c", TO_JSON]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut python = command.spawn().unwrap();
    let mut input = python.stdin.take().unwrap();
    let yaml = yaml.to_owned();
    let writer = std::thread::spawn(move || input.write_all(yaml.as_bytes()));
    let done = python.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

/// The objects of a kind.
pub fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

/// The object of a kind and name.
pub fn find<'a>(objects: &'a [Value], kind: &'a str, name: &str) -> &'a Value {
    let mut found = of_kind(objects, kind).filter(|object| object["metadata"]["name"] == name);
    let first = found.next().unwrap_or_else(|| panic!("no {kind} {name}"));
    assert!(found.next().is_none(), "{kind} {name} stands there twice");
    first
}
