//! The version of the stored layouts: a newer one is refused, an older one is brought up to date step by step.
//!
//! Before the first step the database is kept as it is in a checkpoint. A step may take many commits; the version moves on
//! only after the last of them, so a step that was killed is done again from its beginning. It must therefore bear to find
//! some of its work done.

use super::block::fact::{Fact, Schema};
use super::key::Meta;
use super::{Durability, Store, StoreError, Table, Writes};

/// Version that this program writes.
pub const VERSION: u32 = 5;
/// The steps that lead to [`VERSION`], one for each version before it, oldest first.
pub const STEPS: &[Step] = &[
    Step {
        from: 1,
        what: "factors, training, consumers, pollers and what is known of services may be recorded; nothing is rewritten",
        apply: |_| Ok(()),
    },
    Step { from: 2, what: "hours of rows may be sealed, lags recorded; nothing is rewritten now", apply: |_| Ok(()) },
    Step { from: 3, what: "what a budget of the disk took may be recorded; nothing is rewritten", apply: |_| Ok(()) },
    Step { from: 4, what: "hours of cells may be put together; nothing is rewritten now", apply: |_| Ok(()) },
];

/// What leads from a version to the next one.
pub struct Step {
    /// The version before.
    pub from: u32,
    /// What it changes, for the log.
    pub what: &'static str,
    /// Does it. Called again from its beginning if the process was killed in it.
    pub apply: fn(&dyn Store) -> Result<(), StoreError>,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The database is empty.
    Empty,
    /// It had the version already.
    Current,
    /// It had this one and now has the program's.
    Migrated(u32),
}

/// The schema record; none in an empty database.
///
/// # Errors
/// The store's, or a record that is damaged.
pub fn stored(store: &dyn Store) -> Result<Option<Schema>, StoreError> {
    let key = Meta::Schema.encode();
    store.get(Table::Meta, &key)?.map(|value| Schema::decode(&key, &value)).transpose()
}

/// Brings a database to `version`, by `steps`. `keep` is called before the first one with the version that is there, and
/// must keep the database as it is; it is called again after a kill and must leave alone what it kept then.
///
/// # Errors
/// A newer version, one that no step leads away from, or what a step or `keep` says.
pub fn bring_up_to_date(
    store: &dyn Store,
    version: u32,
    steps: &[Step],
    keep: impl FnOnce(u32) -> Result<(), StoreError>,
) -> Result<Outcome, StoreError> {
    let Some(found) = stored(store)? else { return Ok(Outcome::Empty) };
    if found.version > version {
        return Err(StoreError::Newer { found: found.version, known: version });
    }
    if found.version == version {
        return Ok(Outcome::Current);
    }
    let way = (found.version..version).map(|from| {
        let step = steps.iter().find(|step| step.from == from);
        step.ok_or(StoreError::Older { found: found.version, known: version })
    });
    let way = way.collect::<Result<Vec<_>, _>>()?;
    keep(found.version)?;
    for step in way {
        tracing::info!(from = step.from, what = step.what, "the database is brought up to date");
        (step.apply)(store)?;
        let key = Meta::Schema.encode();
        let mut writes = Writes::default();
        let next = Schema { version: step.from + 1, ..found };
        writes.put(Table::Meta, key.clone(), next.encode(&key));
        store.commit(writes, Durability::Synced)?;
    }
    Ok(Outcome::Migrated(found.version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::book::Book;
    use crate::store::memory::MemoryStore;
    use crate::store::rocks::RocksStore;
    use crate::store::{Direction, Visit};
    use std::ops::{ControlFlow, Range};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Entries that the steps of the test work on.
    const ENTRIES: u8 = 5;

    /// Numbers of entries, and whether each has the layout of the step: one byte more.
    fn lengths(store: &dyn Store) -> Vec<usize> {
        let mut lengths = Vec::new();
        store
            .scan(Table::Quarantine, &[]..&[0xff], Direction::Forward, &mut |_, value| {
                lengths.push(value.len());
                ControlFlow::Continue(())
            })
            .expect("scan");
        lengths
    }

    /// Makes every entry `to` bytes long, each in a commit of its own.
    fn grow(store: &dyn Store, to: usize) -> Result<(), StoreError> {
        for entry in 0..ENTRIES {
            let mut writes = Writes::default();
            writes.put(Table::Quarantine, [entry], vec![entry; to]);
            store.commit(writes, Durability::Synced)?;
        }
        Ok(())
    }

    const FAKE: [Step; 2] = [
        Step { from: 1, what: "entries of two bytes", apply: |store| grow(store, 2) },
        Step { from: 2, what: "entries of three bytes", apply: |store| grow(store, 3) },
    ];

    /// A store that fails at a commit and at every later one.
    struct Dying<'a> {
        inner: &'a dyn Store,
        commits: AtomicU64,
        dies_at: u64,
    }

    impl Store for Dying<'_> {
        fn commit(&self, writes: Writes, durability: Durability) -> Result<(), StoreError> {
            if self.commits.fetch_add(1, Ordering::Relaxed) >= self.dies_at {
                return Err(StoreError::Latched { reason: "killed".to_owned() });
            }
            self.inner.commit(writes, durability)
        }
        fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            self.inner.get(table, key)
        }
        fn scan(
            &self,
            table: Table,
            range: Range<&[u8]>,
            direction: Direction,
            visit: &mut Visit<'_>,
        ) -> Result<(), StoreError> {
            self.inner.scan(table, range, direction, visit)
        }
    }

    /// A database of version 1 with entries of one byte.
    fn old(store: Arc<dyn Store>) -> [u8; 16] {
        let cluster = Book::open(Arc::clone(&store)).expect("create").cluster();
        let (key, mut writes) = (Meta::Schema.encode(), Writes::default());
        writes.put(Table::Meta, key.clone(), Schema { version: 1, cluster }.encode(&key));
        store.commit(writes, Durability::Synced).expect("older");
        grow(store.as_ref(), 1).expect("entries");
        cluster
    }

    #[test]
    fn b84_a_newer_schema_is_refused_and_left_as_it_is() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        old(Arc::clone(&store));
        bring_up_to_date(store.as_ref(), 3, &FAKE, |_| Ok(())).expect("migrated by a newer program");
        let (key, mut writes) = (Meta::Schema.encode(), Writes::default());
        let next = Schema { version: VERSION + 1, cluster: [1; 16] };
        writes.put(Table::Meta, key.clone(), next.encode(&key));
        store.commit(writes, Durability::Synced).expect("newer");
        let newer = StoreError::Newer { found: VERSION + 1, known: VERSION };
        let kept = |_| panic!("nothing is kept of what is refused");
        assert_eq!(bring_up_to_date(store.as_ref(), VERSION, STEPS, kept), Err(newer.clone()));
        assert_eq!(Book::open(Arc::clone(&store)).err(), Some(newer));
        assert_eq!(lengths(store.as_ref()), [3; ENTRIES as usize]);
    }

    #[test]
    fn b84_an_older_schema_without_a_way_is_refused() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        old(Arc::clone(&store));
        let refused = bring_up_to_date(store.as_ref(), 3, &FAKE[1..], |_| panic!("nothing is begun"));
        assert_eq!(refused, Err(StoreError::Older { found: 1, known: 3 }));
        assert_eq!(lengths(store.as_ref()), [1; ENTRIES as usize]);
    }

    #[test]
    fn b84_an_older_schema_is_kept_then_migrated_and_a_kill_at_any_commit_is_made_good() {
        let commits = 2 * (u64::from(ENTRIES) + 1);
        for dies_at in 0..=commits {
            let folder = tempfile::tempdir().expect("tempdir");
            let dir = folder.path().join("db");
            let store = Arc::new(RocksStore::open(&dir).expect("open"));
            let cluster = old(Arc::clone(&store) as Arc<dyn Store>);
            let keep = |store: &RocksStore| store.keep_before_migration(1);
            let dying = Dying { inner: store.as_ref(), commits: AtomicU64::new(0), dies_at };
            let died = bring_up_to_date(&dying, 3, &FAKE, |_| keep(&store));
            assert_eq!(died.is_err(), dies_at < commits, "{dies_at}: {died:?}");
            drop(store);

            let store = Arc::new(RocksStore::open(&dir).expect("open again"));
            let again = bring_up_to_date(store.as_ref(), 3, &FAKE, |_| keep(&store)).expect("goes on");
            assert!(matches!(again, Outcome::Migrated(1 | 2) | Outcome::Current), "{again:?}");
            assert_eq!(lengths(store.as_ref()), [3; ENTRIES as usize]);
            let schema = stored(store.as_ref()).expect("read").expect("there");
            assert_eq!((schema.version, schema.cluster), (3, cluster));
            let kept = RocksStore::open(&dir.join("before-migration-from-1")).expect("the checkpoint opens");
            assert_eq!(
                lengths(&kept),
                [1; ENTRIES as usize],
                "as it was before the first step, after {dies_at} commits"
            );
        }
    }

    #[test]
    fn b84_a_database_of_the_version_before_opens_after_its_steps() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let cluster = old(Arc::clone(&store));
        assert_eq!(Book::open(Arc::clone(&store)).err(), Some(StoreError::Older { found: 1, known: VERSION }));
        assert_eq!(bring_up_to_date(store.as_ref(), VERSION, STEPS, |_| Ok(())), Ok(Outcome::Migrated(1)));
        assert_eq!(Book::open(store).expect("opens").cluster(), cluster);
    }

    #[test]
    fn the_steps_of_this_program_lead_to_its_version_one_by_one() {
        assert!(STEPS.iter().zip(1..).all(|(step, from)| step.from == from && !step.what.is_empty()));
        assert_eq!(STEPS.len() + 1, VERSION as usize);
    }
}
