//! Nothing unfinished, no test that is switched off, nothing of one machine or of one package registry.

use regex::Regex;

use crate::sources::{Source, all};

/// What may not stand anywhere, and why; this file has to spell it and is left out.
fn forbidden() -> [(&'static str, Regex); 4] {
    [
        ("unfinished", Regex::new(r"\b(TODO|FIXME|XXX|HACK|WIP)\b|\b(todo|unimplemented)!\s*\(").unwrap()),
        ("a test that is switched off", Regex::new(r"#\[ignore\b|#\[cfg_attr\([^\]]*\bignore\b").unwrap()),
        ("a path of one machine", Regex::new(r#"(^|[\s"'`=(:,])/(work|root|farm)(/|["'`\s),;]|$)"#).unwrap()),
        (
            "the host of a package registry",
            Regex::new(r"\b(crates\.io|pypi\.org|pythonhosted\.org|registry\.npmjs\.org|npmjs\.com|deb\.debian\.org|proxy\.golang\.org)\b")
                .unwrap(),
        ),
    ]
}

/// Written by tools, or recorded from real systems.
const LEFT_OUT: [&str; 3] = ["LICENSE", "tests/fixtures/", "tests/tests/tidy/words.rs"];

fn left_out(path: &str) -> bool {
    path.ends_with("Cargo.lock") || LEFT_OUT.iter().any(|left_out| path.starts_with(left_out))
}

fn found_in(sources: &[Source]) -> Vec<String> {
    let rules = forbidden();
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| !left_out(&source.path)) {
        for (index, line) in source.text.lines().enumerate() {
            for (why, _) in rules.iter().filter(|(_, rule)| rule.is_match(line)) {
                found.push(format!("{}:{}: {why}: {}", source.path, index + 1, line.trim()));
            }
        }
    }
    found
}

#[test]
fn nothing_is_unfinished_switched_off_or_tied_to_one_machine() {
    let found = found_in(&all());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn each_forbidden_word_is_caught() {
    for line in [
        "// TODO later",
        "let x = todo!();",
        "#[ignore = \"slow\"]",
        "#[cfg_attr(miri, ignore)]",
        "dir = \"/root/.cache\"",
        "cd /work/main",
        "path: /farm",
        "registry = \"https://pypi.org/simple\"",
        "curl https://crates.io/api",
    ] {
        assert_eq!(found_in(&[Source::sample("agent/src/run.rs", line)]).len(), 1, "{line}");
    }
}

#[test]
fn paths_that_only_look_alike_are_free() {
    for line in [
        "/proc/<pid>/root",
        "/proc/1/root/etc",
        "format!(\"{proc}/{pid}/root\")",
        "the /rootless mode",
        "ignore(unused)",
    ] {
        assert_eq!(found_in(&[Source::sample("agent/src/run.rs", line)]), Vec::<String>::new());
    }
}
