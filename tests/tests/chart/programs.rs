//! The real programs take the configuration and the arguments that the chart renders.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use joulebook_tests::program::binary;
use serde_json::Value;

use joulebook_tests::chart::pod::{Pod, pods, text};
use joulebook_tests::chart::render::{chart, find, helm, objects, parse, value_sets};

/// Where containers see their configuration.
const CONFIG: &str = "/etc/joulebook/config";

/// Runs a pod's program with the pod's own arguments on the configuration that it mounts, for a check.
fn check(objects: &[Value], pod: &Pod<'_>, folder: &Path) -> Output {
    let map = text(&pod.volumes()["config"]["configMap"]["name"]);
    for (name, content) in find(objects, "ConfigMap", &map)["data"].as_object().unwrap() {
        fs::write(folder.join(name), text(content)).unwrap();
    }
    let arguments = pod.container()["args"].as_array().unwrap().iter().map(text);
    let here = |argument: String| argument.replace("$(NODE_NAME)", "gpu-1").replace(CONFIG, folder.to_str().unwrap());
    let program = if pod.component == "aggregator" { "joulebook-aggregator" } else { "joulebook-agent" };
    Command::new(binary(program).unwrap()).args(arguments.map(here)).arg("--check-config").output().unwrap()
}

#[test]
fn what_each_value_set_renders_is_a_valid_configuration() {
    let mut checked = 0;
    for set in value_sets() {
        let objects = objects(&set);
        for pod in pods(&objects).iter().filter(|pod| !["test", "bootstrap"].contains(&pod.component.as_str())) {
            let folder = tempfile::tempdir().unwrap();
            let done = check(&objects, pod, folder.path());
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{set}: {}: {said}", pod.component);
            assert_eq!(String::from_utf8_lossy(&done.stdout), "the configuration is valid\n");
            checked += 1;
        }
    }
    assert!(checked >= 25, "only {checked}");
}

/// What the values of a file render, on top of the value set `default`.
fn with(values: &str) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("values.yaml");
    fs::write(&path, values).unwrap();
    let done = helm(&["template", "joulebook"], &["--values", path.to_str().unwrap()]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    parse(std::str::from_utf8(&done.stdout).unwrap())
}

#[test]
fn a_key_that_the_programs_do_not_know_is_refused_with_its_line() {
    for (component, values, why) in [
        ("agent", "agent: {config: \"[samplng]\\ntick = '1s'\"}", "agent.toml:1: unknown field `samplng`"),
        ("agent", "agent: {config: \"[push]\\nsocket = '/x'\"}", "agent.toml:3: duplicate key"),
        ("aggregator", "aggregator: {config: \"[site.default]\\npu = 1\"}", "aggregator.toml:2: unknown field `pu`"),
        ("aggregator", "aggregator: {nodeDirectory: \"[node.a]\\nlabel = 1\"}", "nodes.toml:2: unknown field `label`"),
    ] {
        let objects = with(values);
        let all = pods(&objects);
        let pod = all.iter().find(|pod| pod.component == component).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let done = check(&objects, pod, folder.path());
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(78), "{values}: {said}");
        assert!(said.contains(why), "{values}: {said}");
    }
}

#[test]
fn names_that_need_quoting_in_toml_are_quoted() {
    let objects = with("agent: {site: \"fra \\\"1\\\"\", pool: \"a\\\\b\"}");
    let map = find(&objects, "ConfigMap", "joulebook-agent");
    let config: toml::Table = text(&map["data"]["agent.toml"]).parse().unwrap();
    assert_eq!(config["placement"]["site"].as_str(), Some("fra \"1\""));
    assert_eq!(config["placement"]["pool"].as_str(), Some("a\\b"));
}

#[test]
fn versions_of_chart_and_programs_are_one() {
    let about = parse(&fs::read_to_string(chart().join("Chart.yaml")).unwrap()).remove(0);
    for program in ["joulebook-agent", "joulebook-aggregator", "joulebook"] {
        let done = Command::new(binary(program).unwrap()).arg("--version").output().unwrap();
        let said = String::from_utf8(done.stdout).unwrap();
        assert_eq!(said.trim(), format!("{program} {}", text(&about["appVersion"])));
    }
    assert_eq!(about["version"], about["appVersion"]);
}
