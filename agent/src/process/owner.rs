//! Whose each process is: of an inference server, of itself, or of nobody in particular.

use super::part::{Child, Trees};
use super::proc::Process;
use super::{KERNEL, Key, MOST_PROCESS_ROWS, OWN_ROW_NANOS, Used, Workloads, key_of, row_id};
use joulebook_units::OwnProgram;
use std::collections::{BTreeMap, BTreeSet};

impl Workloads {
    /// The process row that each process belongs to, if any, and the trees of the servers.
    pub(super) fn owners(
        &mut self,
        used: &BTreeMap<Key, Used>,
        hosts: &BTreeMap<Key, Option<String>>,
    ) -> (BTreeMap<Key, String>, Trees) {
        let parent = |key: &Key, one: &Used| {
            let pid = one.process.parent;
            // One process at a time has a pid.
            let (parent, _) = used.range((pid, 0)..=(pid, u64::MAX)).next_back()?;
            (parent.1 <= key.1 && parent != key).then_some(*parent)
        };
        self.own_rows.retain(|key| self.table.lives(key));
        let host_of_key = |key: &Key| used.get(key).and_then(|one| one.host.as_deref());
        // Groups in which servers are told apart by process: whoever works beside them there is told apart as well.
        let split: BTreeSet<Option<&str>> =
            hosts.iter().filter(|(_, whole)| whole.is_none()).map(|(key, _)| host_of_key(key)).collect();
        let mut owners: BTreeMap<Key, String> = BTreeMap::new();
        // By start time: a parent's owner is known before its children's.
        let mut order: Vec<_> =
            used.iter().map(|(key, one)| Child { key: *key, one, parent: parent(key, one) }).collect();
        order.sort_unstable_by_key(|child| (child.key.1, child.key.0));
        let trees = self.trees(&order, used);
        for Child { key, one, parent } in order {
            if one.process.kernel || one.process.pid == 2 && one.process.comm == "kthreadd" {
                owners.insert(key, KERNEL.to_owned());
                continue;
            }
            let Some(seen) = self.seen.get(&key) else { continue };
            let inherited = parent.and_then(|parent| owners.get(&parent)).filter(|owner| *owner != KERNEL);
            let kept = seen.owner.as_ref().filter(|owner| self.is_live(owner, used));
            let server = trees.server(&key).filter(|server| hosts.get(server) == Some(&None));
            let owner = if let Some(row) = trees.leader(&key).or(server) {
                Some(row_id(row))
            } else if hosts.contains_key(&key) {
                None
            } else if self.own_program(&one.process).is_some() {
                Some(row_id(&key))
            } else if one.host.is_some() && !split.contains(&one.host.as_deref()) {
                None
            } else if self.own_rows.contains(&key) || self.named.contains(&key.0) {
                Some(row_id(&key))
            } else if seen.watched_nanos >= OWN_ROW_NANOS && self.own_rows.len() < MOST_PROCESS_ROWS {
                self.own_rows.insert(key);
                Some(row_id(&key))
            } else {
                kept.or(inherited).cloned()
            };
            // A member that runs in another group is counted there.
            let owner = owner.filter(|owner| {
                let root = key_of(owner).and_then(|root| used.get(&root));
                root.is_some_and(|root| root.host == one.host)
            });
            if let Some(owner) = owner {
                owners.insert(key, owner);
            }
        }
        (owners, trees)
    }

    /// The program of Joulebook that a process is of. Each has a row of its own in whatever group it runs: what the book
    /// costs itself is not to be looked for in a unit or a container.
    pub(super) fn own_program(&self, process: &Process) -> Option<OwnProgram> {
        let itself = (self.own == Some(process.pid)).then_some(OwnProgram::Agent);
        itself.or_else(|| OwnProgram::of_command(&process.comm))
    }

    fn is_live(&self, owner: &str, used: &BTreeMap<Key, Used>) -> bool {
        key_of(owner).is_some_and(|key| used.contains_key(&key))
    }
}
