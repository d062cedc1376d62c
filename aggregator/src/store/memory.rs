//! A store in memory: for tests, and as the model RocksDB is tested against.

use super::{Change, Direction, Durability, Store, StoreError, Table, Visit, Writes};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

type Tables = BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>;

/// Tables in memory. Lost with the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    tables: RwLock<Tables>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn commit(&self, writes: Writes, _durability: Durability) -> Result<(), StoreError> {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        for change in writes.changes {
            match change {
                Change::Put(table, key, value) => {
                    tables.entry(table).or_default().insert(key, value);
                }
                Change::Delete(table, key) => {
                    tables.entry(table).or_default().remove(&key);
                }
                Change::DeleteRange(table, range) => {
                    tables.entry(table).or_default().retain(|key, _| *key < range.start || *key >= range.end);
                }
            }
        }
        Ok(())
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.read().get(&table).and_then(|rows| rows.get(key).cloned()))
    }

    fn scan(
        &self,
        table: Table,
        range: Range<&[u8]>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        if range.start >= range.end {
            return Ok(());
        }
        // Copied, so that a visitor may write and still sees the state at the start.
        let mut found: Vec<(Vec<u8>, Vec<u8>)> = match self.read().get(&table) {
            Some(rows) => {
                rows.range(range.start.to_vec()..range.end.to_vec()).map(|(k, v)| (k.clone(), v.clone())).collect()
            }
            None => return Ok(()),
        };
        if direction == Direction::Backward {
            found.reverse();
        }
        for (key, value) in &found {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}
