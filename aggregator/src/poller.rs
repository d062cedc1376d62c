//! Who may speak for a node from outside: the list of pollers and of the nodes whose meters each of them reads.
//!
//! The list is the aggregator's own. A poller's certificate says which poller it is and nothing of nodes, so that a poller
//! that was broken into reaches no node but those that were given to it.

use joulebook_units::{InvalidId, NodeName, PollerName};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// `[[poller]]`: a poller as it is configured.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PollerSection {
    /// Its name, which its certificate says.
    pub name: String,
    /// Names of the nodes that it may speak for.
    pub nodes: Vec<String>,
}

/// Pollers that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PollerError {
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] InvalidId),
    /// One poller twice.
    #[error("the poller `{0}` is listed twice: give it one list of nodes")]
    Twice(PollerName),
}

/// The pollers and their nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pollers(BTreeMap<PollerName, BTreeSet<NodeName>>);

impl Pollers {
    /// Those of a configuration.
    ///
    /// # Errors
    /// See [`PollerError`].
    pub fn new(sections: &[PollerSection]) -> Result<Self, PollerError> {
        let mut pollers = BTreeMap::new();
        for section in sections {
            let name: PollerName = section.name.parse()?;
            let nodes = section.nodes.iter().map(|node| node.parse()).collect::<Result<_, _>>()?;
            if pollers.insert(name.clone(), nodes).is_some() {
                return Err(PollerError::Twice(name));
            }
        }
        Ok(Self(pollers))
    }

    /// Whether a poller may speak for a node.
    pub fn may_speak(&self, poller: &PollerName, node: &NodeName) -> bool {
        self.0.get(poller).is_some_and(|nodes| nodes.contains(node))
    }

    /// How many nodes a poller may speak for: it has a session for each.
    pub fn nodes(&self, poller: &PollerName) -> usize {
        self.0.get(poller).map_or(0, BTreeSet::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pollers(sections: &[(&str, &[&str])]) -> Result<Pollers, PollerError> {
        let section = |(name, nodes): &(&str, &[&str])| PollerSection {
            name: (*name).to_owned(),
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
        };
        Pollers::new(&sections.iter().map(section).collect::<Vec<_>>())
    }

    #[test]
    fn a_poller_speaks_for_its_own_nodes_only() {
        let pollers = pollers(&[("east", &["a", "b"]), ("west", &["c"])]).expect("good");
        let may = |poller: &str, node: &str| {
            pollers.may_speak(&poller.parse().expect("a name"), &node.parse().expect("a name"))
        };
        assert!(may("east", "a") && may("east", "b") && may("west", "c"));
        assert!(!may("east", "c") && !may("west", "a") && !may("nobody", "a"));
        assert_eq!(pollers.nodes(&"east".parse().expect("a name")), 2);
    }

    #[test]
    fn a_poller_that_is_listed_twice_or_that_no_name_names_is_refused() {
        assert_eq!(pollers(&[("a", &[]), ("a", &[])]), Err(PollerError::Twice("a".parse().expect("a name"))));
        assert!(matches!(pollers(&[("a/b", &[])]), Err(PollerError::Name(_))));
        assert!(matches!(pollers(&[("a", &["x/y"])]), Err(PollerError::Name(_))));
    }
}
