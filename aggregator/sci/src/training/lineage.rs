//! Who descends from whom: a unit of a version draws on its own pool and, by their weights, on those of its ancestors.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// How far the weights of a merge may be off 1.
const WEIGHT_TOLERANCE: f64 = 1e-9;

/// How a version came about from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Descent {
    /// Trained further for a task.
    Finetune,
    /// Trained on what another says.
    Distill,
    /// Weights of several put together, by weights that sum to 1.
    Merge,
    /// Trained further on more of the same.
    ContinuedPretrain,
    /// Stored in fewer bits.
    Quantize,
}

impl Descent {
    /// All.
    pub const ALL: [Self; 5] = [Self::Finetune, Self::Distill, Self::Merge, Self::ContinuedPretrain, Self::Quantize];

    /// Its name in disclosures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Finetune => "finetune",
            Self::Distill => "distill",
            Self::Merge => "merge",
            Self::ContinuedPretrain => "continued_pretrain",
            Self::Quantize => "quantize",
        }
    }

    /// The descent of that name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|descent| descent.name() == name)
    }
}

/// A parent.
#[derive(Debug, Clone, PartialEq)]
pub struct Parent {
    /// Its pool.
    pub pool: String,
    /// How the child came about from it.
    pub descent: Descent,
    /// Its part of a merge; 1 otherwise.
    pub weight: f64,
}

/// A family that makes no sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LineageError {
    /// A version is its own ancestor.
    #[error("pool `{0}` would be its own ancestor")]
    Cycle(String),
    /// Weights of a merge that are no parts of a whole, or a weight where nothing is merged.
    #[error(
        "the parents of `{pool}` weigh {sum} together: those of a merge must sum to 1, each of another descent has 1"
    )]
    Weights {
        /// The child.
        pool: String,
        /// The sum.
        sum: f64,
    },
    /// One parent is named twice.
    #[error("pool `{pool}` names its parent `{parent}` twice")]
    Twice {
        /// The child.
        pool: String,
        /// The parent.
        parent: String,
    },
}

/// Checks the parents of a pool: parts of a merge sum to 1, and nothing else has parts.
pub fn check(pool: &str, parents: &[Parent]) -> Result<(), LineageError> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = parents.iter().find(|parent| !seen.insert(&parent.pool)) {
        return Err(LineageError::Twice { pool: pool.to_string(), parent: twice.pool.clone() });
    }
    let sum = |merged: bool| {
        let of_kind = parents.iter().filter(|parent| (parent.descent == Descent::Merge) == merged);
        of_kind.fold((0.0, 0.0), |(sum, count), parent| (sum + parent.weight, count + 1.0))
    };
    let positive = parents.iter().all(|parent| parent.weight > 0.0 && parent.weight <= 1.0);
    let ((merged, parts), (single, others)) = (sum(true), sum(false));
    let off =
        (parts > 0.0 && (merged - 1.0_f64).abs() > WEIGHT_TOLERANCE) || (single - others).abs() > WEIGHT_TOLERANCE;
    if off || !positive {
        return Err(LineageError::Weights { pool: pool.to_string(), sum: merged + single });
    }
    Ok(())
}

/// The pools that a unit of `pool` draws on, each with its weight: itself with 1, ancestors by the products of the weights on
/// every way to them. Ancestors that `parents` does not know are left out: nothing is disclosed of them.
///
/// # Errors
/// [`LineageError::Cycle`].
pub fn draws_on(pool: &str, parents: &BTreeMap<String, Vec<Parent>>) -> Result<BTreeMap<String, f64>, LineageError> {
    let mut drawn: BTreeMap<String, f64> = BTreeMap::new();
    let mut way: Vec<String> = Vec::new();
    walk(pool, 1.0, parents, &mut way, &mut drawn)?;
    Ok(drawn)
}

fn walk(
    pool: &str,
    weight: f64,
    parents: &BTreeMap<String, Vec<Parent>>,
    way: &mut Vec<String>,
    drawn: &mut BTreeMap<String, f64>,
) -> Result<(), LineageError> {
    if way.iter().any(|before| before == pool) {
        return Err(LineageError::Cycle(pool.to_string()));
    }
    let Some(above) = parents.get(pool) else { return Ok(()) };
    *drawn.entry(pool.to_string()).or_default() += weight;
    way.push(pool.to_string());
    for parent in above {
        walk(&parent.pool, weight * parent.weight, parents, way, drawn)?;
    }
    way.pop();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(pool: &str, descent: Descent, weight: f64) -> Parent {
        Parent { pool: pool.to_string(), descent, weight }
    }

    fn family(of: &[(&str, &[Parent])]) -> BTreeMap<String, Vec<Parent>> {
        of.iter().map(|(pool, parents)| ((*pool).to_string(), parents.to_vec())).collect()
    }

    #[test]
    fn a_fine_tune_draws_on_its_base_and_a_merge_on_each_parent_by_its_weight() {
        let merge = [parent("a", Descent::Merge, 0.25), parent("b", Descent::Merge, 0.75)];
        let tuned = [parent("merged", Descent::Finetune, 1.0)];
        let base = [parent("root", Descent::ContinuedPretrain, 1.0)];
        let family = family(&[("root", &[]), ("a", &base), ("b", &base), ("merged", &merge), ("tuned", &tuned)]);
        let drawn = draws_on("tuned", &family).expect("no cycle");
        let of = |pool: &str| drawn.get(pool).copied().expect("drawn on");
        assert!((of("tuned") - 1.0).abs() < 1e-12 && (of("merged") - 1.0).abs() < 1e-12);
        assert!((of("a") - 0.25).abs() < 1e-12 && (of("b") - 0.75).abs() < 1e-12);
        assert!((of("root") - 1.0).abs() < 1e-12, "the root once, not once for each way to it");
    }

    #[test]
    fn what_is_not_disclosed_is_left_out() {
        let family = family(&[("tuned", &[parent("open-weights", Descent::Finetune, 1.0)])]);
        assert_eq!(draws_on("tuned", &family).expect("no cycle").len(), 1);
    }

    #[test]
    fn a_cycle_and_weights_that_are_no_parts_are_refused() {
        let family =
            family(&[("a", &[parent("b", Descent::Finetune, 1.0)]), ("b", &[parent("a", Descent::Distill, 1.0)])]);
        assert_eq!(draws_on("a", &family), Err(LineageError::Cycle("a".to_string())));
        let merge = |one, other| check("m", &[parent("a", Descent::Merge, one), parent("b", Descent::Merge, other)]);
        assert!(merge(0.25, 0.75).is_ok());
        assert!(matches!(merge(0.5, 0.6), Err(LineageError::Weights { .. })));
        assert!(matches!(merge(1.5, -0.5), Err(LineageError::Weights { .. })));
        assert!(check("t", &[parent("a", Descent::Finetune, 0.5)]).is_err());
        assert!(matches!(
            check("m", &[parent("a", Descent::Merge, 0.5), parent("a", Descent::Merge, 0.5)]),
            Err(LineageError::Twice { .. })
        ));
        assert!(check("root", &[]).is_ok());
    }
}
