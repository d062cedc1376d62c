//! Whether two answers may be compared: what they must have in common, and what is said where they do not (methodology A.5,
//! A.3; the scoping review's demand that figures of different boundaries are not set side by side).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// What decides whether an answer may be compared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Basis {
    /// Model name; absent if nothing names it.
    pub model: Option<String>,
    /// Boundary level.
    pub level: String,
    /// Functional unit.
    pub unit: String,
    /// Which units are counted: successful ones, or all.
    pub filter: String,
    /// Tokenizer; absent if it is not known.
    pub tokenizer: Option<String>,
    /// Kind of intensity.
    pub intensity_kind: String,
    /// Which emissions the intensity counts.
    pub intensity_basis: String,
    /// Idle policy.
    pub idle_policy: String,
    /// First scope in which pool idle is charged.
    pub idle_scope: String,
    /// Whether idle capacity is left out: by policy, or because nobody has a weight.
    pub idle_excluded: bool,
    /// Which side is believed where parts exceed the wall.
    pub trust: String,
    /// Task; absent if none is declared.
    pub task: Option<String>,
    /// Whether hardware is simulated.
    pub simulated: bool,
}

/// Something in which two answers differ and must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// In what.
    pub what: &'static str,
    /// What the first has.
    pub first: String,
    /// What the second has.
    pub second: String,
}

impl Difference {
    /// For people.
    pub fn describe(&self) -> String {
        format!("{}: {} and {}", self.what, self.first, self.second)
    }
}

/// What stands against comparing two answers; nothing: they are comparable.
pub fn differences(first: &Basis, second: &Basis) -> Vec<Difference> {
    let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "not known".to_string());
    let mut found = Vec::new();
    let mut same = |what: &'static str, first: &str, second: &str| {
        if first != second {
            found.push(Difference { what, first: first.to_string(), second: second.to_string() });
        }
    };
    same("level", &first.level, &second.level);
    same("functional unit", &first.unit, &second.unit);
    same("filter of the unit", &first.filter, &second.filter);
    same("kind of intensity", &first.intensity_kind, &second.intensity_kind);
    same("basis of intensity", &first.intensity_basis, &second.intensity_basis);
    same("idle policy", &first.idle_policy, &second.idle_policy);
    same("idle scope", &first.idle_scope, &second.idle_scope);
    let idle = |left: bool| if left { "left out" } else { "charged" };
    same("idle capacity", idle(first.idle_excluded), idle(second.idle_excluded));
    same("trust", &first.trust, &second.trust);
    same("task", &known(&first.task), &known(&second.task));
    let hardware = |simulated: bool| if simulated { "simulated" } else { "real" };
    same("hardware", hardware(first.simulated), hardware(second.simulated));
    // A token is one only within its tokenizer; versions of one model are taken to share it where it is not told.
    let tokens = first.unit.ends_with("_token") && first.unit == second.unit;
    let told = first.tokenizer.is_some() && first.tokenizer == second.tokenizer;
    let kin =
        first.tokenizer.is_none() && second.tokenizer.is_none() && first.model.is_some() && first.model == second.model;
    if tokens && !told && !kin {
        let (first, second) = (known(&first.tokenizer), known(&second.tokenizer));
        found.push(Difference { what: "tokenizer", first, second });
    }
    found
}

/// The second score against the first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Second ÷ first.
    pub ratio: f64,
    /// Whether the 95 % intervals have a value in common: then the difference may be none.
    pub within_intervals: bool,
}

/// A score with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// The score, above 0.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Compares two scores; `None` against a score of 0.
pub fn compare(first: Scored, second: Scored) -> Option<Comparison> {
    let within_intervals = first.low <= second.high && second.low <= first.high;
    (first.value > 0.0).then(|| Comparison { ratio: second.value / first.value, within_intervals })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basis() -> Basis {
        Basis {
            model: Some("tiny".into()),
            level: "facility".into(),
            unit: "output_token".into(),
            filter: "all".into(),
            tokenizer: Some("bpe".into()),
            intensity_kind: "average_consumption".into(),
            intensity_basis: "lifecycle".into(),
            idle_policy: "equal".into(),
            idle_scope: "node".into(),
            idle_excluded: false,
            trust: "components".into(),
            task: Some("text-generation".into()),
            simulated: false,
        }
    }

    fn named(other: &Basis) -> Vec<&'static str> {
        differences(&basis(), other).into_iter().map(|difference| difference.what).collect()
    }

    #[test]
    fn each_thing_that_must_be_the_same_is_named_where_it_is_not() {
        assert!(named(&basis()).is_empty());
        type Change = fn(&mut Basis);
        let changes: [(&str, Change); 11] = [
            ("level", |b| b.level = "host".into()),
            ("functional unit", |b| b.unit = "request".into()),
            ("filter of the unit", |b| b.filter = "successful".into()),
            ("kind of intensity", |b| b.intensity_kind = "marginal_short_run".into()),
            ("basis of intensity", |b| b.intensity_basis = "direct".into()),
            ("idle policy", |b| b.idle_policy = "requests".into()),
            ("idle scope", |b| b.idle_scope = "cluster".into()),
            ("idle capacity", |b| b.idle_excluded = true),
            ("trust", |b| b.trust = "wall".into()),
            ("task", |b| b.task = None),
            ("hardware", |b| b.simulated = true),
        ];
        for (what, change) in changes {
            let mut other = basis();
            change(&mut other);
            assert_eq!(named(&other), [what]);
        }
    }

    #[test]
    fn tokens_are_compared_within_one_tokenizer() {
        let with = |tokenizer: Option<&str>, model: &str| Basis {
            tokenizer: tokenizer.map(String::from),
            model: Some(model.into()),
            ..basis()
        };
        assert_eq!(named(&with(Some("other"), "tiny")), ["tokenizer"]);
        assert_eq!(named(&with(None, "tiny")), ["tokenizer"]);
        let untold = with(None, "tiny");
        assert!(differences(&untold, &untold).is_empty(), "versions of one model");
        assert_eq!(differences(&untold, &with(None, "other")).len(), 1, "another model");
        let requests = Basis { unit: "request".into(), tokenizer: None, ..basis() };
        assert!(differences(&requests, &Basis { model: Some("other".into()), ..requests.clone() }).is_empty());
    }

    #[test]
    fn a_difference_within_the_intervals_is_said_to_be_one() {
        let scored = |value: f64, half: f64| Scored { value, low: value - half, high: value + half };
        let near = compare(scored(2.0, 0.5), scored(2.4, 0.1)).expect("a score");
        assert!(near.within_intervals && (near.ratio - 1.2).abs() < 1e-12);
        assert!(!compare(scored(2.0, 0.1), scored(3.0, 0.1)).expect("a score").within_intervals);
        assert!(compare(scored(0.0, 0.0), scored(3.0, 0.1)).is_none());
    }
}
