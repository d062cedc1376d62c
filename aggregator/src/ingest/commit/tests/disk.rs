//! Disks that fail or are full: nothing is acknowledged, and what memory knows is what the disk has.

use super::*;
use crate::store::Writes;
use std::sync::atomic::{AtomicBool, Ordering};

/// A disk that fails when told.
#[derive(Default)]
struct Failing {
    memory: MemoryStore,
    broken: AtomicBool,
    full: AtomicBool,
}

impl Store for Failing {
    fn commit(&self, writes: Writes, durability: Durability) -> Result<(), StoreError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(StoreError::Io { what: "writing".to_owned(), reason: "fsync".to_owned() });
        }
        if self.full.load(Ordering::SeqCst) {
            return Err(StoreError::Full { what: "writing".to_owned() });
        }
        self.memory.commit(writes, durability)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.memory.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        range: Range<&[u8]>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        self.memory.scan(table, range, direction, visit)
    }
}

#[test]
fn b86_nothing_is_acknowledged_after_a_commit_that_failed() {
    let store = Arc::new(Failing::default());
    let mut rig = Rig::new(store.clone());
    rig.hello();
    assert_eq!(rig.record(1, steady(901..906, 1..2)), acked(1));
    store.broken.store(true, Ordering::SeqCst);
    let request = rig.request(2, steady(906..911, 1..2));
    assert!(matches!(rig.intake.apply(rig.clock(), vec![request.clone()]), Err(StoreError::Io { .. })));
    store.broken.store(false, Ordering::SeqCst);
    assert!(matches!(rig.intake.apply(rig.clock(), vec![request]), Err(StoreError::Latched { .. })));
    rig.restart();
    assert_eq!(rig.energy("rapl/1"), 5_000_000);
    assert_eq!(rig.record(2, steady(906..911, 1..2)), acked(2));
    assert_eq!(rig.energy("rapl/1"), 10_000_000);
}

#[test]
fn b85_after_a_commit_that_met_a_full_disk_marks_are_those_on_the_disk() {
    let store = Arc::new(Failing::default());
    let mut rig = Rig::new(store.clone());
    rig.hello();
    assert_eq!(rig.record(1, steady(901..906, 1..2)), acked(1));
    store.full.store(true, Ordering::SeqCst);
    let request = rig.request(2, steady(906..911, 1..2));
    assert!(matches!(rig.intake.apply(rig.clock(), vec![request.clone()]), Err(StoreError::Full { .. })));
    store.full.store(false, Ordering::SeqCst);
    // There is room again, but the engine has latched: nothing is stored until it is opened anew.
    assert!(matches!(rig.intake.apply(rig.clock(), vec![request.clone()]), Err(StoreError::Full { .. })));
    let mut intake = rig.intake.anew().expect("what is on the disk can be read");
    assert_eq!(intake.hold(&request), Reply::Held(Vec::new()));
    let opening = rig.book.nodes()[0].inventory.clone();
    let marks = rig.book.marks(&opening.node, None, &[STREAM, StreamId([9; 16])]);
    assert_eq!(marks, Some(vec![(STREAM, 1), (StreamId([9; 16]), 0)]));
    assert_eq!(
        rig.book.marks(&"another".parse().expect("a name"), None, &[STREAM]),
        None,
        "the stream is another node's"
    );
}
