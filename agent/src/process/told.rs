//! Processes that tell of themselves (push, OTLP) inside a server whose page is read: they and the server are one, so that
//! what both count is seen to be the same requests.

use super::{InferenceGroup, Key, Used, Workloads};
use crate::inference::tells_itself;
use std::collections::{BTreeMap, BTreeSet};

/// So many generations above a process are looked at.
const GENERATIONS: usize = 16;

/// Whether a group is known because its process tells of itself.
pub(super) fn tells(group: &InferenceGroup) -> bool {
    tells_itself(&group.target)
}

/// The process of a group.
pub(super) fn key(group: &InferenceGroup) -> Key {
    (group.pid, group.start_ticks)
}

impl Workloads {
    /// Those that tell of themselves and are, or descend from, the process of a server whose page is read; each with that
    /// server.
    pub(super) fn within_pages(&self, groups: &[InferenceGroup], used: &BTreeMap<Key, Used>) -> BTreeMap<Key, Key> {
        let all = || groups.iter().chain(self.inference.values());
        let pages: BTreeSet<Key> = all().filter(|group| !tells(group)).map(key).collect();
        if pages.is_empty() {
            return BTreeMap::new();
        }
        let parent = |key: &Key| {
            let pid = used.get(key)?.process.parent;
            let (parent, _) = used.range((pid, 0)..=(pid, u64::MAX)).next_back()?;
            (parent.1 <= key.1 && parent != key).then_some(*parent)
        };
        let server = |key: Key| {
            let host = used.get(&key)?.host.as_deref();
            let mut line = std::iter::successors(Some(key), parent).take(GENERATIONS);
            let page = line.find(|one| pages.contains(one))?;
            (used.get(&page)?.host.as_deref() == host).then_some((key, page))
        };
        all().filter(|group| tells(group)).filter_map(|group| server(key(group))).collect()
    }
}
