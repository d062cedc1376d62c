use super::*;
use crate::store::{Book, Durability, Store, Table, Writes};
use std::sync::Arc;

const NO_PROGRESS: &Progress<'_> = &|_, _| ControlFlow::Continue(());

/// A database with a schema and `values` values that its own checks accept; and its identity.
fn database(dir: &Path, values: u32) -> (Arc<RocksStore>, [u8; 16]) {
    let store = Arc::new(RocksStore::open(dir).expect("open"));
    let book = Book::open(Arc::clone(&store) as Arc<dyn Store>).expect("a schema");
    fill(&store, 0..values);
    (store, book.cluster())
}

fn fill(store: &RocksStore, keys: std::ops::Range<u32>) {
    for key in keys {
        let mut writes = Writes::default();
        writes.put(Table::Quarantine, key.to_string(), vec![b'x'; 100]);
        store.commit(writes, Durability::Synced).expect("commit");
    }
}

fn count(store: &RocksStore) -> usize {
    let mut count = 0;
    let visit = &mut |_: &[u8], _: &[u8]| {
        count += 1;
        ControlFlow::Continue(())
    };
    store.scan(Table::Quarantine, &[]..&[0xff; 8], crate::store::Direction::Forward, visit).expect("scan");
    count
}

#[test]
fn a_backup_of_an_open_database_is_restored_with_what_it_held_and_no_more() {
    let folder = tempfile::tempdir().expect("tempdir");
    let (dir, backups) = (folder.path().join("db"), folder.path().join("backups"));
    assert_eq!(list(&backups).expect("no folder yet"), []);
    let (store, cluster_id) = database(&dir, 50);
    let first = store.back_up(&backups, cluster_id, None, NO_PROGRESS).expect("first");
    fill(&store, 50..80);
    let second = store.back_up(&backups, cluster_id, None, NO_PROGRESS).expect("second");
    fill(&store, 80..90);
    assert_eq!(list(&backups).expect("list"), [first, second]);
    assert_eq!(cluster(&backups).expect("tagged"), Some(cluster_id));
    assert!(verify(&backups, first.number, NO_PROGRESS).expect("verify").damages.is_empty());
    for (number, expected) in [(None, 80), (Some(first.number), 50)] {
        let restored = folder.path().join(format!("restored-{expected}"));
        restore(&backups, number, &restored, NO_PROGRESS).expect("restore");
        let opened = RocksStore::open(&restored).expect("open");
        assert_eq!(count(&opened), expected);
        assert!(opened.check(NO_PROGRESS).expect("check").damages.is_empty());
        assert_eq!(schema::stored(&opened).expect("read").map(|schema| schema.cluster), Some(cluster_id));
    }
}

#[test]
fn only_as_many_backups_are_kept_as_asked_and_numbers_are_not_used_again() {
    let folder = tempfile::tempdir().expect("tempdir");
    let backups = folder.path().join("backups");
    let (store, cluster) = database(&folder.path().join("db"), 5);
    for _ in 0..3 {
        store.back_up(&backups, cluster, Some(2), NO_PROGRESS).expect("backup");
    }
    let numbers: Vec<u32> = list(&backups).expect("list").iter().map(|backup| backup.number).collect();
    assert_eq!(numbers, [2, 3]);
    assert_eq!(fs::read_dir(backups.join(SEALS)).expect("seals").count(), 2);
    assert!(restore(&backups, Some(1), &folder.path().join("gone"), NO_PROGRESS).is_err());
}

#[test]
fn folders_of_others_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("tempdir");
    let (store, cluster) = database(&folder.path().join("db"), 5);
    let (other, other_cluster) = database(&folder.path().join("other"), 5);
    let (foreign, missing) = (folder.path().join("foreign"), folder.path().join("no/such"));
    fs::create_dir(&foreign).expect("dir");
    fs::write(foreign.join("letter.txt"), "hello").expect("write");
    let refused = |folder: &Path| store.back_up(folder, cluster, None, NO_PROGRESS).expect_err("refused");
    assert!(matches!(refused(&foreign), StoreError::NotOurs { .. }));
    assert!(matches!(list(&foreign), Err(StoreError::NotOurs { .. })));
    assert_eq!(fs::read_dir(&foreign).expect("list").count(), 1);
    assert!(matches!(refused(&missing), StoreError::MissingParent { .. }));

    let backups = folder.path().join("backups");
    other.back_up(&backups, other_cluster, None, NO_PROGRESS).expect("the other's");
    assert!(refused(&backups).to_string().contains("another database"));
    // A tag that was changed by hand: what comes back is not what it says.
    write_whole(&backups, CLUSTER_FILE, &"00".repeat(16)).expect("write");
    let restored = restore(&backups, None, &folder.path().join("restored"), NO_PROGRESS);
    assert!(restored.expect_err("refused").to_string().contains("not the database"));
}

#[test]
fn a_restore_goes_into_an_empty_folder_only_and_one_that_was_cut_short_is_no_database() {
    let folder = tempfile::tempdir().expect("tempdir");
    let (dir, backups) = (folder.path().join("db"), folder.path().join("backups"));
    let (store, cluster) = database(&dir, 20);
    store.back_up(&backups, cluster, None, NO_PROGRESS).expect("backup");
    drop(store);
    assert!(matches!(restore(&backups, None, &dir, NO_PROGRESS), Err(StoreError::NotOurs { .. })));
    assert_eq!(count(&RocksStore::open(&dir).expect("untouched")), 20);
    let cut = folder.path().join("cut");
    let stop: &Progress<'_> = &|done, _| if done > 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    assert!(restore(&backups, None, &cut, stop).is_err());
    assert!(matches!(RocksStore::open(&cut), Err(StoreError::NotOurs { .. })));
}

#[test]
fn any_flipped_bit_of_a_backup_is_seen_by_verify_and_never_restored() {
    let folder = tempfile::tempdir().expect("tempdir");
    let backups = folder.path().join("backups");
    let (store, cluster) = database(&folder.path().join("db"), 20);
    let number = store.back_up(&backups, cluster, None, NO_PROGRESS).expect("backup").number;
    let mut paths: Vec<PathBuf> =
        Listing::read(&backups, number).expect("list").entries.iter().map(|entry| backups.join(&entry.path)).collect();
    paths.extend([meta(&backups, number), backups.join(SEALS).join(number.to_string())]);
    assert!(paths.len() > 4, "{paths:?}");
    // The log is empty: everything was flushed before.
    paths.retain(|path| path.metadata().is_ok_and(|data| data.len() > 0));
    for (attempt, path) in paths.iter().enumerate() {
        let whole = fs::read(path).expect("read");
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (attempt % 8);
            fs::write(path, &flipped).expect("write");
            let name = path.display();
            match verify(&backups, number, NO_PROGRESS) {
                Ok(checked) => assert_eq!(checked.damages.len(), 1, "{name} at {at}"),
                Err(error) => assert!(matches!(error, StoreError::Damaged { .. }), "{name} at {at}: {error}"),
            }
            let into = folder.path().join(format!("restored-{attempt}-{at}"));
            let restored = restore(&backups, Some(number), &into, NO_PROGRESS);
            assert!(matches!(restored, Err(StoreError::Damaged { .. })), "{name} at {at}: {restored:?}");
            assert!(RocksStore::read(&into).is_err(), "{name} at {at}");
        }
        fs::write(path, &whole).expect("write");
    }
    fs::remove_file(&paths[0]).expect("remove");
    let checked = verify(&backups, number, NO_PROGRESS).expect("the list is whole");
    assert_eq!(checked.damages.iter().map(|damage| PathBuf::from(&damage.file)).collect::<Vec<_>>(), paths[..1]);
}

#[test]
fn a_backup_without_a_seal_was_never_finished() {
    let folder = tempfile::tempdir().expect("tempdir");
    let backups = folder.path().join("backups");
    let (store, cluster) = database(&folder.path().join("db"), 20);
    let first = store.back_up(&backups, cluster, None, NO_PROGRESS).expect("first");
    let second = store.back_up(&backups, cluster, None, NO_PROGRESS).expect("second");
    fs::remove_file(backups.join(SEALS).join(second.number.to_string())).expect("unseal");
    assert_eq!(list(&backups).expect("list"), [first]);
    assert!(verify(&backups, second.number, NO_PROGRESS).is_err());
    let restored = restore(&backups, None, &folder.path().join("restored"), NO_PROGRESS).expect("the finished one");
    assert_eq!(restored, first);
    let third = store.back_up(&backups, cluster, Some(1), NO_PROGRESS).expect("the next one");
    assert_eq!(list(&backups).expect("list"), [third]);
}
