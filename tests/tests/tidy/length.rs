//! Files are at most 600 lines; tables are data and may be longer.

use crate::sources::{Source, all};

const MOST: usize = 600;
/// Kinds of files that people read as code.
const KINDS: [&str; 4] = [".rs", ".py", ".sh", "Makefile"];

fn too_long(sources: &[Source]) -> Vec<String> {
    let read = sources.iter().filter(|source| KINDS.iter().any(|kind| source.path.ends_with(kind)));
    let counted = read.map(|source| (source, source.text.lines().count()));
    counted
        .filter(|(_, lines)| *lines > MOST)
        .map(|(source, lines)| format!("{}: {lines} lines", source.path))
        .collect()
}

#[test]
fn no_file_is_longer_than_600_lines() {
    let found = too_long(&all());
    assert!(found.is_empty(), "split: {}", found.join("\n"));
}

#[test]
fn modules_have_no_empty_names() {
    let empty = ["util", "utils", "common", "helper", "helpers", "manager", "handler", "data", "info", "mod"];
    let named = |source: &Source| {
        let name = source.path.rsplit('/').next().unwrap_or_default();
        name.strip_suffix(".rs").is_some_and(|name| empty.contains(&name))
    };
    let found: Vec<_> = all().into_iter().filter(named).map(|source| source.path).collect();
    assert!(found.is_empty(), "name for what it holds: {found:?}");
    assert!(named(&Source::sample("agent/src/process/mod.rs", "")) && named(&Source::sample("cli/src/util.rs", "")));
}

#[test]
fn a_file_of_601_lines_is_caught_and_a_table_is_not() {
    let (long, fits) = ("\n".repeat(MOST + 1), "\n".repeat(MOST));
    assert_eq!(too_long(&[Source::sample("cli/src/main.rs", &long)]).len(), 1);
    assert!(too_long(&[Source::sample("cli/src/main.rs", &fits)]).is_empty());
    assert!(too_long(&[Source::sample("agent/src/data/cpu_power.csv", &long)]).is_empty());
}
