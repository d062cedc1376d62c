//! What is known of the cluster's pods and nodes, bounded, and what of it agents are told.

use super::object::Change;
use crate::directory::Directories;
use joulebook_proto::telemetry::{NodeDirectory, Pod};
use joulebook_units::{NodeName, UnixNanos};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Most pods of one node that an agent is told; agents take no more.
const MOST_OF_NODE: usize = 1024;

/// The pods and nodes of a cluster.
#[derive(Debug)]
pub(super) struct Book {
    pods: BTreeMap<String, Held>,
    nodes: BTreeMap<NodeName, Node>,
    /// Nodes of which something else is to be told.
    changed: BTreeSet<NodeName>,
    /// Whether all pods were listed once: before that, nothing is known to be all there is.
    listed: bool,
    most: usize,
    grace: Duration,
    revision: u64,
}

#[derive(Debug)]
struct Held {
    node: NodeName,
    pod: Pod,
    gone: Option<UnixNanos>,
}

#[derive(Debug, Default)]
struct Node {
    labels: BTreeMap<String, String>,
    pods: BTreeSet<String>,
    told: Option<Arc<NodeDirectory>>,
}

impl Book {
    /// An empty one that holds so many pods, and those that are gone for so long.
    pub(super) fn new(most: usize, grace: Duration) -> Self {
        let (pods, nodes, changed) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { pods, nodes, changed, listed: false, most, grace, revision: 0 }
    }

    /// How many pods it holds.
    pub(super) fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether there is something to tell.
    pub(super) fn is_changed(&self) -> bool {
        self.listed && !self.changed.is_empty()
    }

    /// Takes a change; gives how many pods were left out for want of room.
    pub(super) fn take(&mut self, change: Change, now: UnixNanos) -> u64 {
        match change {
            Change::Pod { node, pod, ended } => return self.put(node, *pod, ended, now),
            Change::Pods(all) => {
                self.listed = true;
                // Nodes without a pod are told that they have none.
                for (uid, held) in &mut self.pods {
                    if held.gone.is_none() && !all.contains(uid) {
                        held.gone = Some(now);
                        self.changed.insert(held.node.clone());
                    }
                }
            }
            Change::Node(name, labels) => {
                let node = self.nodes.entry(name.clone()).or_default();
                if node.labels != labels || node.told.is_none() {
                    node.labels = labels;
                    self.changed.insert(name);
                }
            }
            Change::NodeGone(name) => self.unlabel(&name),
            Change::Nodes(all) => {
                let gone: Vec<NodeName> = self.nodes.keys().filter(|name| !all.contains(*name)).cloned().collect();
                gone.iter().for_each(|name| self.unlabel(name));
            }
        }
        0
    }

    fn unlabel(&mut self, name: &NodeName) {
        if let Some(node) = self.nodes.get_mut(name).filter(|node| !node.labels.is_empty()) {
            node.labels.clear();
            self.changed.insert(name.clone());
        }
    }

    fn put(&mut self, node: NodeName, pod: Pod, ended: bool, now: UnixNanos) -> u64 {
        let uid = pod.pod_uid.clone();
        let gone = ended.then_some(now);
        if let Some(held) = self.pods.get_mut(&uid) {
            // What ended at first stays so: a uid never comes back.
            let gone = held.gone.or(gone);
            if held.pod == pod && held.node == node && held.gone == gone {
                return 0;
            }
            // A pod that has ended may have lost its addresses and containers: what they were is what agents ask for.
            if ended {
                let (old, new) = (std::mem::take(&mut held.pod), pod);
                held.pod = with_what_was(new, old);
            } else {
                held.pod = pod;
            }
            held.gone = gone;
            self.changed.insert(node);
            return 0;
        }
        let mut left_out = 0;
        if self.pods.len() >= self.most {
            let oldest = self.pods.iter().filter_map(|(uid, held)| Some((held.gone?, uid.clone()))).min();
            match oldest {
                Some((_, uid)) => self.remove(&uid),
                None => return 1,
            }
            left_out = 1;
        }
        self.nodes.entry(node.clone()).or_default().pods.insert(uid.clone());
        self.changed.insert(node.clone());
        self.pods.insert(uid, Held { node, pod, gone });
        left_out
    }

    /// Forgets pods that have been gone for long.
    pub(super) fn forget(&mut self, now: UnixNanos) {
        let grace = u64::try_from(self.grace.as_nanos()).unwrap_or(u64::MAX);
        let over = |held: &Held| held.gone.is_some_and(|gone| now.nanos_since(gone) > grace);
        let gone: Vec<String> = self.pods.iter().filter(|(_, held)| over(held)).map(|(uid, _)| uid.clone()).collect();
        gone.iter().for_each(|uid| self.remove(uid));
    }

    fn remove(&mut self, uid: &str) {
        let Some(held) = self.pods.remove(uid) else { return };
        if let Some(node) = self.nodes.get_mut(&held.node) {
            node.pods.remove(uid);
        }
        self.changed.insert(held.node);
    }

    /// What all nodes are told from now on; none before everything was listed once.
    pub(super) fn directories(&mut self, now: UnixNanos) -> Option<Directories> {
        if !self.listed {
            return None;
        }
        // Grows over restarts, as that of a file does.
        self.revision = u64::try_from(now.0 / 1_000_000).unwrap_or(0).max(self.revision.saturating_add(1));
        for name in std::mem::take(&mut self.changed) {
            let Some(node) = self.nodes.get_mut(&name) else { continue };
            if node.pods.is_empty() && node.labels.is_empty() {
                // A node that is named no more has no pods: whoever tells it says so.
                self.nodes.remove(&name);
                continue;
            }
            let held = node.pods.iter().filter_map(|uid| self.pods.get(uid));
            let mut pods: Vec<&Held> = held.collect();
            // Those that run first, then those that went last.
            pods.sort_by_key(|held| (held.gone.is_some(), std::cmp::Reverse(held.gone)));
            pods.truncate(MOST_OF_NODE);
            let pods = pods.into_iter().map(|held| held.pod.clone()).collect();
            let directory = NodeDirectory { revision: self.revision, pods, node_labels: node.labels.clone() };
            node.told = Some(Arc::new(directory));
        }
        let told = self.nodes.iter().filter_map(|(name, node)| Some((name.clone(), Arc::clone(node.told.as_ref()?))));
        Some(Directories::of_nodes(told.collect()))
    }
}

/// The last state of a pod, with what was known of it before and it does not say any more.
fn with_what_was(mut last: Pod, before: Pod) -> Pod {
    if last.addresses.is_empty() {
        last.addresses = before.addresses;
    }
    for old in before.containers {
        match last.containers.iter_mut().find(|one| one.name == old.name) {
            None => last.containers.push(old),
            Some(one) => {
                one.container_id = one.container_id.take().or(old.container_id);
                one.image_digest = one.image_digest.take().or(old.image_digest);
                one.image = one.image.take().or(old.image);
            }
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulebook_proto::telemetry::PodContainer;

    fn pod(uid: &str, node: &str, ended: bool) -> Change {
        let container = PodContainer { name: "c".to_owned(), ..PodContainer::default() };
        let pod = Pod { pod_uid: uid.to_owned(), containers: vec![container], ..Pod::default() };
        Change::Pod { node: node.parse().expect("a name"), pod: Box::new(pod), ended }
    }

    fn uids(book: &mut Book, node: &str, at: i64) -> Option<Vec<String>> {
        let all = book.directories(UnixNanos::from_seconds(at))?;
        let of = all.of(&node.parse().expect("a name"))?;
        Some(of.pods.iter().map(|pod| pod.pod_uid.clone()).collect())
    }

    #[test]
    fn nothing_is_told_before_everything_was_listed() {
        let (mut book, now) = (Book::new(10, Duration::from_secs(60)), UnixNanos::from_seconds(1));
        book.take(pod("a", "n", false), now);
        assert_eq!((book.is_changed(), uids(&mut book, "n", 1)), (false, None));
        book.take(Change::Pods(BTreeSet::from(["a".to_owned()])), now);
        assert_eq!((book.is_changed(), uids(&mut book, "n", 1)), (true, Some(vec!["a".to_owned()])));
        assert!(!book.is_changed());
    }

    #[test]
    fn a_pod_that_came_and_went_between_two_looks_is_told_for_its_grace() {
        let (mut book, now) = (Book::new(10, Duration::from_secs(60)), UnixNanos::from_seconds(100));
        book.take(Change::Pods(BTreeSet::new()), now);
        book.take(pod("a", "n", false), now);
        book.take(pod("a", "n", true), now);
        assert_eq!(uids(&mut book, "n", 100), Some(vec!["a".to_owned()]));
        book.forget(UnixNanos::from_seconds(160));
        assert_eq!(uids(&mut book, "n", 160), Some(vec!["a".to_owned()]), "not yet");
        book.forget(UnixNanos::from_seconds(161));
        assert!(book.is_changed());
        assert_eq!((uids(&mut book, "n", 161), book.len()), (None, 0));
    }

    #[test]
    fn a_list_tells_who_went_unseen_and_those_who_run_come_first() {
        let (mut book, now) = (Book::new(10, Duration::from_secs(60)), UnixNanos::from_seconds(100));
        for uid in ["a", "b"] {
            book.take(pod(uid, "n", false), now);
        }
        book.take(Change::Pods(BTreeSet::from(["b".to_owned()])), now);
        assert_eq!(uids(&mut book, "n", 100), Some(vec!["b".to_owned(), "a".to_owned()]));
    }

    #[test]
    fn when_there_is_no_room_those_that_are_gone_make_it_and_the_rest_is_counted() {
        let (mut book, now) = (Book::new(2, Duration::from_secs(60)), UnixNanos::from_seconds(100));
        book.take(Change::Pods(BTreeSet::new()), now);
        assert_eq!(book.take(pod("a", "n", true), now) + book.take(pod("b", "n", false), now), 0);
        assert_eq!(book.take(pod("c", "n", false), now), 1, "in the place of the one that is gone");
        assert_eq!(book.take(pod("d", "n", false), now), 1);
        assert_eq!((book.len(), uids(&mut book, "n", 100)), (2, Some(vec!["b".to_owned(), "c".to_owned()])));
    }

    #[test]
    fn only_nodes_that_changed_are_told_anew_and_revisions_grow() {
        let (mut book, now) = (Book::new(9, Duration::from_secs(60)), UnixNanos::from_seconds(100));
        book.take(Change::Pods(BTreeSet::new()), now);
        book.take(pod("a", "n", false), now);
        book.take(pod("b", "m", false), now);
        let revision = |book: &mut Book, node: &str| {
            let all = book.directories(now).expect("listed");
            all.of(&node.parse().expect("a name")).expect("named").revision
        };
        let first = revision(&mut book, "n");
        book.take(pod("b", "m", true), now);
        assert!(revision(&mut book, "m") > first);
        assert_eq!(revision(&mut book, "n"), first);
        book.take(Change::Node("n".parse().expect("a name"), BTreeMap::from([("z".into(), "1".into())])), now);
        assert!(revision(&mut book, "n") > first);
    }
}
