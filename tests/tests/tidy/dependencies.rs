//! Licences, sources, duplicates and bans of dependencies, from `cargo metadata` and the lists of deny.toml.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::sources::root;

/// A dependency that is really built.
#[derive(Clone, Debug)]
struct Package {
    name: String,
    version: String,
    licence: String,
    /// Where it comes from; none for the workspace's own.
    source: Option<String>,
}

/// What deny.toml allows.
struct Policy {
    licences: BTreeSet<String>,
    banned: BTreeSet<String>,
    /// Duplicates that are known, as `name@version`.
    known: BTreeSet<String>,
}

fn policy(text: &str) -> Policy {
    let table: toml::Table = text.parse().unwrap();
    let list = |section: &str, key: &str| table[section][key].as_array().unwrap().clone();
    let crates = |key| list("bans", key).iter().map(|entry| entry["crate"].as_str().unwrap().to_owned()).collect();
    let licences = list("licenses", "allow").iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    Policy { licences, banned: crates("deny"), known: crates("skip") }
}

fn our_policy() -> Policy {
    policy(&std::fs::read_to_string(root().join("deny.toml")).unwrap())
}

/// `cargo metadata` of the workspace for one target, without the network.
fn metadata() -> Value {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--format-version", "1", "--locked", "--offline"]);
    command.args(["--filter-platform", "x86_64-unknown-linux-gnu"]).current_dir(root());
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

fn packages() -> Vec<Package> {
    let metadata = metadata();
    let built: BTreeSet<_> =
        metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|node| node["id"].as_str().unwrap()).collect();
    let all = metadata["packages"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let package = |package: &Value| Package {
        name: text(&package["name"]),
        version: text(&package["version"]),
        licence: text(&package["license"]),
        source: package["source"].as_str().map(str::to_owned),
    };
    all.filter(|package| built.contains(package["id"].as_str().unwrap())).map(package).collect()
}

/// Whether an SPDX expression can be met with the allowed licences. An exception (`WITH`) only adds rights.
fn allowed(expression: &str, licences: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = either(&words, &mut at, licences);
    met && at == words.len() && !words.is_empty()
}

fn either(words: &[&str], at: &mut usize, licences: &BTreeSet<String>) -> bool {
    let mut met = both(words, at, licences);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= both(words, at, licences);
    }
    met
}

fn both(words: &[&str], at: &mut usize, licences: &BTreeSet<String>) -> bool {
    let mut met = one(words, at, licences);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, licences);
    }
    met
}

fn one(words: &[&str], at: &mut usize, licences: &BTreeSet<String>) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let met = either(words, at, licences);
        *at += 1;
        return met;
    }
    if words.get(*at) == Some(&"WITH") {
        *at += 2;
    }
    licences.contains(*word)
}

/// Versions of each foreign crate.
fn versions(packages: &[Package]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut versions = BTreeMap::<_, BTreeSet<_>>::new();
    for package in packages.iter().filter(|package| package.source.is_some()) {
        versions.entry(package.name.as_str()).or_default().insert(package.version.as_str());
    }
    versions
}

/// Everything about the packages that the policy does not allow.
fn objections(packages: &[Package], policy: &Policy) -> Vec<String> {
    let mut found = Vec::new();
    for package in packages {
        let Package { name, version, licence, source } = package;
        let Some(source) = source else { continue };
        if !allowed(licence, &policy.licences) {
            found.push(format!("{name} {version}: the licence {licence:?} is not allowed"));
        }
        if !source.starts_with("registry+") {
            found.push(format!("{name} {version}: comes from {source}, not from the registry"));
        }
        if policy.banned.contains(name) {
            found.push(format!("{name} {version}: is banned"));
        }
    }
    let mut needed = BTreeSet::new();
    for (name, versions) in versions(packages).into_iter().filter(|(_, versions)| versions.len() > 1) {
        let known: BTreeSet<_> = versions
            .iter()
            .map(|version| format!("{name}@{version}"))
            .filter(|one| policy.known.contains(one))
            .collect();
        if versions.len() - known.len() > 1 {
            found.push(format!("{name}: more than one version: {versions:?}"));
        }
        needed.extend(known);
    }
    found.extend(policy.known.difference(&needed).map(|known| format!("{known}: is no duplicate any more")));
    found
}

#[test]
fn dependencies_keep_to_deny_toml() {
    let packages = packages();
    assert!(packages.iter().filter(|package| package.source.is_some()).count() > 100, "too few dependencies were seen");
    let found = objections(&packages, &our_policy());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn our_own_crates_are_apache_2_0_and_not_published() {
    for package in packages().iter().filter(|package| package.source.is_none()) {
        assert_eq!(package.licence, "Apache-2.0", "{}", package.name);
    }
    let licence = std::fs::read_to_string(root().join("LICENSE")).unwrap();
    assert!(licence.contains("Apache License") && licence.contains("END OF TERMS AND CONDITIONS"));
}

#[test]
fn the_operators_tool_links_neither_the_store_nor_a_vendors_library() {
    let metadata = metadata();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let id_of = |name: &str| {
        let packages = metadata["packages"].as_array().unwrap();
        packages.iter().find(|package| package["name"] == name).unwrap()["id"].as_str().unwrap()
    };
    let (mut seen, mut open) = (BTreeSet::new(), vec![id_of("joulebook")]);
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let node = nodes.iter().find(|node| node["id"] == id).unwrap();
        for dependency in node["deps"].as_array().unwrap() {
            // Kind null is a normal dependency; dev and build dependencies are not linked.
            if dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null()) {
                open.push(dependency["pkg"].as_str().unwrap());
            }
        }
    }
    assert!(seen.len() > 20, "the walk saw only {} packages", seen.len());
    for name in ["librocksdb-sys", "rocksdb", "joulebook-agent", "joulebook-aggregator", "nvml-wrapper"] {
        let linked = seen
            .iter()
            .any(|id| id.split(['#', '/']).any(|part| part == name || part.starts_with(&format!("{name}@"))));
        assert!(!linked, "the operator's tool links {name}");
    }
}

#[test]
fn a_bad_licence_source_ban_or_duplicate_is_caught() {
    let policy = our_policy();
    let package = |name: &str, version: &str, licence: &str, source: &str| Package {
        name: name.to_owned(),
        version: version.to_owned(),
        licence: licence.to_owned(),
        source: Some(source.to_owned()),
    };
    let none = Policy { known: BTreeSet::new(), ..our_policy() };
    for (samples, words) in [
        (vec![package("a", "1.0.0", "LGPL-3.0", "registry+x")], "is not allowed"),
        (vec![package("a", "1.0.0", "", "registry+x")], "is not allowed"),
        (vec![package("a", "1.0.0", "MIT", "git+https://x")], "not from the registry"),
        (vec![package("openssl-sys", "1.0.0", "MIT", "registry+x")], "is banned"),
        (
            vec![package("a", "1.0.0", "MIT", "registry+x"), package("a", "2.0.0", "MIT", "registry+x")],
            "more than one version",
        ),
    ] {
        let found = objections(&samples, &none);
        assert!(found.len() == 1 && found[0].contains(words), "{found:?}");
    }
    assert_eq!(objections(&[], &policy).len(), policy.known.len(), "an entry that is no longer needed is seen");
}

#[test]
fn licence_expressions_are_read_as_spdx_reads_them() {
    let licences = ["MIT", "Apache-2.0", "Unicode-3.0"].map(str::to_owned).into();
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0 OR MIT", true),
        ("MIT/Apache-2.0", true),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("(MIT OR GPL-3.0) AND Unicode-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("MIT OR GPL-3.0 AND LGPL-3.0", true),
        ("(MIT OR Apache-2.0) AND GPL-3.0", false),
        ("GPL-3.0", false),
        ("", false),
        ("MIT MIT", false),
    ] {
        assert_eq!(allowed(expression, &licences), expected, "{expression}");
    }
}
