//! The aggregator's database: in memory, and after a crash as a log that was written in order leaves it.

use anyhow::Result;
use joulebook_aggregator::store::memory::MemoryStore;
use joulebook_aggregator::store::{Direction, Durability, Store, StoreError, Table, Visit, Writes};
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Above every key.
const END: [u8; 64] = [0xff; 64];

/// A database that forgets, in a crash, the newest of what was written since the last sync.
#[derive(Debug, Default)]
pub struct Disk(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    live: Arc<MemoryStore>,
    synced: MemoryStore,
    /// Written and not synced, in order.
    buffered: Vec<Writes>,
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Power fails: of the commits that were not synced, as many as `kept` says of their number are there.
    pub fn crash(&self, kept: impl FnOnce(usize) -> usize) -> Result<()> {
        let mut state = self.lock();
        let buffered = std::mem::take(&mut state.buffered);
        let kept = kept(buffered.len());
        for writes in buffered.into_iter().take(kept) {
            state.synced.commit(writes, Durability::Synced)?;
        }
        state.live = Arc::new(copy(&state.synced)?);
        Ok(())
    }
}

fn copy(store: &MemoryStore) -> Result<MemoryStore> {
    let mut all = Writes::default();
    for table in Table::ALL {
        store.scan(table, &[]..&END, Direction::Forward, &mut |key, value| {
            all.put(table, key, value);
            ControlFlow::Continue(())
        })?;
    }
    let copy = MemoryStore::new();
    copy.commit(all, Durability::Synced)?;
    Ok(copy)
}

impl Store for Disk {
    fn commit(&self, writes: Writes, durability: Durability) -> Result<(), StoreError> {
        let mut state = self.lock();
        state.live.commit(writes.clone(), durability)?;
        state.buffered.push(writes);
        if durability == Durability::Synced {
            for writes in std::mem::take(&mut state.buffered) {
                state.synced.commit(writes, durability)?;
            }
        }
        Ok(())
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.lock().live.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        range: Range<&[u8]>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        // Not under the lock: a visitor may write.
        let live = Arc::clone(&self.lock().live);
        live.scan(table, range, direction, visit)
    }
}
