//! When cells were changed last, slot by slot of all nodes together: what is worked out of cells and kept in memory stands
//! until one of them changes.

use crate::store::Resolution;
use joulebook_units::UnixNanos;
use std::collections::{BTreeMap, BTreeSet};

/// Slots of which it is known when they changed: half a year of them.
const SLOTS: usize = 50_000;

/// What was changed after a version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangedCells {
    /// Version up to which it is told.
    pub version: u64,
    /// Begins of the slots of 300 s in which a cell of some node was changed.
    pub slots: BTreeSet<UnixNanos>,
    /// All before it may be gone.
    pub before: Option<UnixNanos>,
}

/// The changes since the database was opened.
#[derive(Debug, Default)]
pub(super) struct Changed {
    version: u64,
    slots: BTreeMap<UnixNanos, u64>,
    by_version: BTreeSet<(u64, UnixNanos)>,
    forgotten: Option<(u64, UnixNanos)>,
    /// What came up to this version is not known one by one.
    lost: u64,
}

impl Changed {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Cells that begin at these instants were changed.
    pub(super) fn note(&mut self, starts: impl Iterator<Item = UnixNanos>) {
        let slots: BTreeSet<UnixNanos> = starts.map(|start| start.floor_to(Resolution::Settled.seconds())).collect();
        if slots.is_empty() {
            return;
        }
        self.version += 1;
        for slot in slots {
            if let Some(before) = self.slots.insert(slot, self.version) {
                self.by_version.remove(&(before, slot));
            }
            self.by_version.insert((self.version, slot));
        }
        while self.slots.len() > SLOTS {
            let Some((version, slot)) = self.by_version.pop_first() else { return };
            self.slots.remove(&slot);
            self.lost = version;
        }
    }

    /// What lies before an instant goes.
    pub(super) fn forget(&mut self, before: Option<UnixNanos>) {
        if let Some(before) = before {
            self.version += 1;
            let until = self.forgotten.map_or(before, |(_, known)| known.max(before));
            self.forgotten = Some((self.version, until));
        }
    }

    /// Anything may be another than it was.
    pub(super) fn everything(&mut self) {
        self.version += 1;
        self.lost = self.version;
    }

    pub(super) fn since(&self, version: u64) -> Option<ChangedCells> {
        if version < self.lost {
            return None;
        }
        let after = (version.saturating_add(1), UnixNanos(i64::MIN));
        let before = self.forgotten.filter(|(at, _)| *at > version).map(|(_, before)| before);
        let slots = self.by_version.range(after..).map(|(_, slot)| *slot).collect();
        Some(ChangedCells { version: self.version, slots, before })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_since_is_told_once_or_not_at_all() {
        let at = |seconds: i64| UnixNanos::from_seconds(seconds);
        let mut changed = Changed::default();
        changed.note([at(301), at(0), at(359)].into_iter());
        changed.note([at(600)].into_iter());
        let told = |changed: &Changed, version| changed.since(version).map(|change| (change.slots, change.before));
        assert_eq!(told(&changed, 0), Some(([at(0), at(300), at(600)].into(), None)));
        assert_eq!(told(&changed, 1), Some(([at(600)].into(), None)));
        changed.note([at(300)].into_iter());
        assert_eq!(told(&changed, 1), Some(([at(300), at(600)].into(), None)), "the latest change of a slot");
        changed.forget(Some(at(100)));
        assert_eq!(told(&changed, 3), Some((BTreeSet::new(), Some(at(100)))));
        assert_eq!(told(&changed, changed.version()), Some((BTreeSet::new(), None)));
        let before = changed.version();
        changed.everything();
        assert_eq!((told(&changed, before), told(&changed, before + 1)), (None, Some((BTreeSet::new(), None))));
        let slots = i64::try_from(SLOTS).expect("small");
        changed.note((0..=slots).map(|slot| at(300 * slot)));
        assert_eq!((changed.slots.len(), changed.by_version.len()), (SLOTS, SLOTS));
        assert_eq!(told(&changed, before + 1), None, "one of them is not known any more");
    }
}
