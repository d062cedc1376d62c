//! The closed table of rules, read from tests/golden/README.md, so that it stands once.

use std::collections::BTreeMap;

use crate::unit::Unit;

const README: &str = include_str!("../../golden/README.md");

/// What form a value has.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Scalar(Unit),
    Map(Unit),
    Nested(Unit),
    List(Unit),
    Series(Unit),
    Points(Unit),
    /// One of these words.
    Policy(Vec<String>),
}

/// One rule: its names.
#[derive(Debug, Default)]
pub struct Rule {
    pub required: BTreeMap<String, Kind>,
    pub optional: BTreeMap<String, Kind>,
    pub outputs: BTreeMap<String, Kind>,
}

/// Every rule by name.
pub fn rules() -> BTreeMap<String, Rule> {
    let mut rules = BTreeMap::new();
    let mut name = None;
    for line in README.lines() {
        if let Some(heading) = line.strip_prefix("### `") {
            let (rule, _) = heading.split_once('`').expect("a rule's name in backticks");
            rules.insert(rule.to_owned(), Rule::default());
            name = Some(rule.to_owned());
        }
        let Some(rule) = name.as_ref().and_then(|name| rules.get_mut(name)) else { continue };
        if let Some(list) = line.strip_prefix("- required: ") {
            rule.required = names(list);
        } else if let Some(list) = line.strip_prefix("- optional: ") {
            rule.optional = names(list);
        } else if let Some(list) = line.strip_prefix("- outputs: ") {
            rule.outputs = names(list);
        }
    }
    rules
}

/// Reads `` `name` kind [unit], `name` policy (a, b) ``.
fn names(list: &str) -> BTreeMap<String, Kind> {
    let mut found = BTreeMap::new();
    for part in list.split('`').skip(1).collect::<Vec<_>>().chunks(2) {
        let [name, kind] = part else { panic!("`{list}` is not a list of names") };
        let inside = |open: char, close: char| {
            let (_, rest) = kind.split_once(open)?;
            rest.split_once(close).map(|(inside, _)| inside)
        };
        let unit = || Unit::parse(inside('[', ']').expect("a unit in brackets")).expect("a unit");
        let kind = match kind.split_whitespace().next() {
            Some("scalar") => Kind::Scalar(unit()),
            Some("map") => Kind::Map(unit()),
            Some("nested") => Kind::Nested(unit()),
            Some("list") => Kind::List(unit()),
            Some("series") => Kind::Series(unit()),
            Some("points") => Kind::Points(unit()),
            Some("policy") => {
                Kind::Policy(inside('(', ')').expect("policies").split(", ").map(str::to_owned).collect())
            }
            other => panic!("kind {other:?} of `{name}` is not known"),
        };
        found.insert((*name).to_owned(), kind);
    }
    found
}

#[test]
fn the_table_names_every_rule_with_its_outputs() {
    let rules = rules();
    assert_eq!(rules.len(), README.lines().filter(|line| line.starts_with("### `")).count());
    assert!(rules.len() >= 50, "{}", rules.len());
    for (name, rule) in &rules {
        assert!(!rule.required.is_empty() && !rule.outputs.is_empty(), "{name}");
    }
    assert!(matches!(&rules["power.gap"].required["gap_policy"], Kind::Policy(words) if words.len() == 4));
}
