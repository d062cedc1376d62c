//! Parts of an inference server: processes of its tree that work for one model version alone, told by their command lines.
//!
//! A part has one row, however many processes work for it: that of the oldest living one whose own command line names
//! the version. What those processes start belongs to the part too. A part that lost all of them is the server's again.

use super::proc::{Process, read_bytes};
use super::{Key, Used, Workloads};
use regex::Regex;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Longest name of a model or version.
const MOST_NAME_BYTES: usize = 256;
/// Samples in which a process is looked at anew: until it runs its own program it looks like its parent.
const LOOKS: u32 = 16;

/// A model version by the names that its server gives it; a configuration may call it otherwise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartName {
    /// The model.
    pub model: String,
    /// The version.
    pub version: String,
}

/// How a server's processes for one model version are recognised: a regular expression with the groups `model` and
/// `version`. The first argument of the command line in which it is found tells.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct PartRule(Regex);

impl PartRule {
    /// The version that a command line (arguments, each ended by a NUL) names.
    pub fn name(&self, command_line: &[u8]) -> Option<PartName> {
        let text = String::from_utf8_lossy(command_line);
        let found = text.split('\0').find_map(|argument| self.0.captures(argument))?;
        let name = |group| {
            let name = found.name(group)?.as_str();
            let usable = !name.is_empty() && name.len() <= MOST_NAME_BYTES && !name.contains(char::is_control);
            usable.then(|| name.to_owned())
        };
        Some(PartName { model: name("model")?, version: name("version")? })
    }
}

impl PartialEq for PartRule {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for PartRule {}

impl TryFrom<String> for PartRule {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let regex = Regex::new(&text).map_err(|error| format!("`{text}` is not a regular expression: {error}"))?;
        let has = |name| regex.capture_names().flatten().any(|group| group == name);
        if has("model") && has("version") {
            return Ok(Self(regex));
        }
        Err(format!("`{text}` needs the groups (?P<model>…) and (?P<version>…)"))
    }
}

/// A part: the server, and the version.
pub(super) type Part = (Key, PartName);

/// What is remembered of a process of a server's tree.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    /// The server.
    server: Option<Key>,
    /// The version that it works for alone.
    part: Option<PartName>,
    /// Whether its own command line says so.
    is_named: bool,
    /// Times that its command line was read in vain, and the command name then.
    looks: u32,
    comm: String,
}

impl Place {
    /// Whether the process works for a server.
    pub(super) fn has_server(&self) -> bool {
        self.server.is_some()
    }

    fn look(&mut self, procfs: &Path, process: &Process, rule: &PartRule) {
        if self.comm != process.comm {
            (self.looks, self.comm) = (0, process.comm.clone());
        }
        if self.is_named || self.looks >= LOOKS {
            return;
        }
        self.looks += 1;
        let line = read_bytes(&procfs.join(process.pid.to_string()).join("cmdline"));
        if let Some(name) = line.and_then(|line| rule.name(&line)) {
            (self.part, self.is_named) = (Some(name), true);
        }
    }
}

/// A process of this sample.
pub(super) struct Child<'a> {
    pub(super) key: Key,
    pub(super) one: &'a Used,
    /// Its parent, if that is there and no younger.
    pub(super) parent: Option<Key>,
}

/// The servers' processes of one sample.
#[derive(Debug, Default)]
pub(super) struct Trees {
    servers: BTreeMap<Key, Key>,
    parts: BTreeMap<Key, Part>,
    leaders: BTreeMap<Part, Key>,
}

impl Trees {
    /// The server that a process works for.
    pub(super) fn server(&self, key: &Key) -> Option<&Key> {
        self.servers.get(key)
    }

    /// The process whose row counts the part that a process works for.
    pub(super) fn leader(&self, key: &Key) -> Option<&Key> {
        self.leaders.get(self.parts.get(key)?)
    }

    /// Every part with the process whose row it has.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&Part, &Key)> {
        self.leaders.iter()
    }
}

impl Workloads {
    /// Sorts processes into the servers' trees and their parts. `order` has parents before their children.
    pub(super) fn trees(&mut self, order: &[Child], used: &BTreeMap<Key, Used>) -> Trees {
        let mut trees = Trees::default();
        for Child { key, one, parent } in order {
            let Some(seen) = self.seen.get_mut(key) else { continue };
            let place = &mut seen.place;
            let above = parent.and_then(|parent| trees.servers.get(&parent).copied());
            // A child whose parent ended still works for the server.
            let server = if self.inference.contains_key(key) { Some(*key) } else { above.or(place.server) };
            // One that runs in another group is counted there.
            let lives_with = |server: &Key| used.get(server).is_some_and(|root| root.host == one.host);
            let server = server.filter(|server| self.inference.contains_key(server) && lives_with(server));
            if place.server != server {
                *place = Place { server, ..Place::default() };
            }
            let Some(server) = server else { continue };
            trees.servers.insert(*key, server);
            let inherited = parent.and_then(|parent| trees.parts.get(&parent)).filter(|(root, _)| *root == server);
            if let Some((_, name)) = inherited {
                place.part = Some(name.clone());
            } else if let Some(rule) = self.inference.get(&server).and_then(|group| group.parts.as_ref())
                && server != *key
            {
                place.look(&self.roots.procfs, &one.process, rule);
            }
            let Some(part) = place.part.clone().map(|name| (server, name)) else { continue };
            if place.is_named {
                trees.leaders.entry(part.clone()).or_insert(*key);
            }
            trees.parts.insert(*key, part);
        }
        trees
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Result<PartRule, String> {
        text.to_owned().try_into()
    }

    #[test]
    fn the_first_argument_that_matches_names_the_version() {
        let rule = rule(r"/(?P<model>[^/]+)/(?P<version>[0-9]+)/model\.py$").expect("valid");
        let name = |line: &str| rule.name(line.as_bytes()).map(|name| (name.model, name.version));
        let found = |model: &str, version: &str| Some((model.to_owned(), version.to_owned()));
        assert_eq!(name("/opt/stub\0/repo/scorer/2/model.py\0shm\0"), found("scorer", "2"));
        assert_eq!(name("/opt/stub\0/repo/a b/2/model.py\0/repo/c/3/model.py\0"), found("a b", "2"));
        for line in ["", "/opt/server\0--model-repository=/repo\0", "/repo/scorer/x/model.py\0", "/repo/a\n/1/model.py"]
        {
            assert_eq!(name(line), None, "{line:?}");
        }
        assert_eq!(name(&format!("/{}/1/model.py", "x".repeat(300))), None);
    }

    #[test]
    fn a_rule_that_names_no_version_is_refused() {
        for text in ["(", "/(?P<model>[^/]+)/", "/(?P<version>[^/]+)/"] {
            assert!(rule(text).is_err(), "{text}");
        }
    }
}
