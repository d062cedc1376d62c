//! Commands that the README names exist, and its way in is two commands.

use std::collections::BTreeSet;

use crate::sources::{all, root};

/// Lines of fenced blocks, without the prompt.
fn commands(page: &str) -> Vec<&str> {
    let blocks = page.split("```").skip(1).step_by(2);
    blocks.flat_map(str::lines).map(|line| line.trim().trim_start_matches("$ ")).collect()
}

/// Targets of the `make` commands of a page, without settings (`NAME=value`).
fn make_targets(page: &str) -> BTreeSet<String> {
    let settings_off = |line: &str| {
        let words = line.split('#').next().unwrap_or_default().split_whitespace();
        let mut words = words.filter(|word| !word.trim_matches(['[', ']']).contains('='));
        (words.next() == Some("make")).then(|| words.next().unwrap_or_default().to_owned())
    };
    commands(page).into_iter().filter_map(settings_off).collect()
}

/// Subcommands of `joulebook` that a page names in its blocks.
fn questions(page: &str) -> BTreeSet<String> {
    let lines = commands(page).into_iter().filter_map(|line| line.strip_prefix("joulebook "));
    let words =
        lines.filter_map(|line| line.split_whitespace().find(|word| !word.starts_with('-') && !word.contains("://")));
    words.map(str::to_owned).collect()
}

/// Targets that a Makefile has.
fn targets(makefile: &str) -> BTreeSet<String> {
    let lines = makefile.lines().filter(|line| !line.starts_with(['\t', '#', '.', ' ']));
    lines
        .filter_map(|line| line.split_once(':'))
        .filter(|(_, rest)| !rest.starts_with('='))
        .map(|(name, _)| name.to_owned())
        .collect()
}

fn page(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_readme_has_two_commands_and_both_exist() {
    let named = make_targets(&page("README.md"));
    assert_eq!(named, ["demo", "test"].map(str::to_owned).into(), "the README's commands are make demo and make test");
    let missing: Vec<_> = named.difference(&targets(&page("Makefile"))).cloned().collect();
    assert!(missing.is_empty(), "targets that the Makefile lacks: {missing:?}");
}

#[test]
fn questions_that_the_readme_shows_exist() {
    let help = page("cli/tests/help.txt");
    let missing: Vec<_> = questions(&page("README.md"))
        .into_iter()
        .filter(|question| !help.split_whitespace().any(|word| word == question))
        .collect();
    assert!(missing.is_empty(), "subcommands that the help does not know: {missing:?}");
}

#[test]
fn make_targets_that_scripts_and_comments_name_exist() {
    let have = targets(&page("Makefile"));
    let name = regex::Regex::new(r"`make ([a-z-]+)|run: make ([a-z-]+)").unwrap();
    for source in all().iter().filter(|source| !source.path.starts_with("tests/tests/tidy/")) {
        for found in name.captures_iter(&source.text) {
            let target = found.get(1).or(found.get(2)).unwrap().as_str();
            assert!(have.contains(target), "{} names make {target}, which the Makefile lacks", source.path);
        }
    }
}

#[test]
fn a_command_that_does_not_exist_is_seen() {
    let sample = "```sh\n$ make demo DEMO_SECONDS=60\nKEEP=1 make fly   # no\njoulebook --aggregator http://x sci --last 10m\n```\nmake tea\n";
    assert_eq!(make_targets(sample), ["demo", "fly"].map(str::to_owned).into());
    assert_eq!(questions(sample), ["sci".to_owned()].into());
    assert_eq!(
        targets("A := b\n# c: d\ndemo: build\n\techo x: y\ntest:\n"),
        ["demo", "test"].map(str::to_owned).into()
    );
}
