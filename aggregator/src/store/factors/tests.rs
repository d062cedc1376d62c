use super::*;
use crate::store::memory::MemoryStore;
use crate::store::{Store, Writes};
use joulebook_sci::quantity::{Basis, Kind, Quantity};
use joulebook_sci::series::best;
use std::sync::Arc;

fn at(second: i64) -> UnixNanos {
    UnixNanos::from_seconds(second)
}

fn window(start: i64, end: i64) -> Window {
    Window::new(at(start), at(end)).expect("ordered")
}

fn subject(zone: &str) -> SeriesSubject {
    SeriesSubject {
        quantity: Quantity::Intensity,
        kind: Some(Kind::AverageConsumption),
        basis: Some(Basis::Lifecycle),
        zone: zone.to_owned(),
        source: "test".to_owned(),
    }
}

fn hours(first: i64, values: &[f64]) -> Vec<(Window, f64, Status)> {
    let cell = |(hour, value): (i64, &f64)| {
        (window((first + hour) * 3600, (first + hour + 1) * 3600), *value, Status::Measured)
    };
    (0..).zip(values).map(cell).collect()
}

fn values(book: &Book, window: Window, as_of: Option<UnixNanos>) -> Vec<Option<f64>> {
    let known = book.factors("grid", window, as_of).expect("read");
    best(window, &known.cells).into_iter().map(|(_, cell)| cell.map(|cell| cell.value)).collect()
}

#[test]
fn a_correction_is_a_revision_and_what_was_known_before_stays_reproducible() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let book = Book::open(Arc::clone(&store)).expect("open");
    let first = book.record_factors("grid", &subject("FR"), &hours(0, &[10.0, 20.0, 30.0]), at(9)).expect("recorded");
    assert_eq!((first.recorded, first.revision), (3, Some(at(9))));
    let corrected =
        book.record_factors("grid", &subject("FR"), &hours(0, &[10.0, 25.0, 30.0]), at(9)).expect("recorded");
    assert_eq!((corrected.recorded, corrected.unchanged), (1, 2));
    let revision = corrected.revision.expect("a revision");
    assert!(revision > at(9), "later than every other, though the clock stood");
    let again = book.record_factors("grid", &subject("FR"), &hours(1, &[25.0]), at(10)).expect("nothing");
    assert_eq!(again, Recorded { recorded: 0, unchanged: 1, revision: None });

    let book = Book::open(store).expect("open again");
    let all = window(0, 10_800);
    assert_eq!(values(&book, all, None), [Some(10.0), Some(25.0), Some(30.0)]);
    assert_eq!(values(&book, all, Some(at(9))), [Some(10.0), Some(20.0), Some(30.0)]);
    assert_eq!(values(&book, all, Some(at(8))), [None]);
    let series = &book.factor_series()["grid"];
    assert_eq!((series.revisions, series.last_revision, series.last), (2, revision, at(10_800)));
}

#[test]
fn a_series_is_about_one_thing_and_names_and_cells_are_held_to_their_limits() {
    let book = Book::open(Arc::new(MemoryStore::new())).expect("open");
    let record =
        |name: &str, zone, cells: &[(Window, f64, Status)]| book.record_factors(name, &subject(zone), cells, at(0));
    record("grid", "FR", &hours(0, &[1.0])).expect("recorded");
    let other = record("grid", "DE", &hours(1, &[1.0])).expect_err("another zone").to_string();
    assert!(other.contains("of FR") && other.contains("of DE"), "{other}");
    for name in ["", "a b", "ü", &"x".repeat(129)] {
        assert!(matches!(record(name, "FR", &hours(0, &[1.0])), Err(RecordError::Name(_))), "{name}");
    }
    let long = [(window(0, 367 * 86_400), 1.0, Status::Measured)];
    assert!(matches!(record("grid", "FR", &long), Err(RecordError::Window(0))));
    let empty = [(window(5, 5), 1.0, Status::Measured)];
    assert!(matches!(record("grid", "FR", &empty), Err(RecordError::Window(_))));
}

#[test]
fn cells_of_every_length_are_found_from_every_instant_inside_them() {
    let book = Book::open(Arc::new(MemoryStore::new())).expect("open");
    let day = 86_400;
    let year = [(window(0, 365 * day), 1.0, Status::Estimated)];
    let month = [(window(100 * day, 131 * day), 2.0, Status::Estimated)];
    let many: Vec<f64> = (0..10_000).map(f64::from).collect();
    for cells in [&year[..], &month[..], &hours(110 * 24, &many)[..]] {
        book.record_factors("grid", &subject("FR"), cells, at(1)).expect("recorded");
    }
    let only = |second: i64| values(&book, window(second, second + 1), None)[0];
    assert_eq!(only(364 * day), Some(6096.0), "the hour before the month before the year");
    assert_eq!(only(50 * day), Some(1.0));
    assert_eq!(only(105 * day), Some(2.0));
    assert_eq!(only(110 * day + 9_999 * 3600), Some(9_999.0));
    let known = |second: i64| book.factors("grid", window(second, second + 1), None).expect("read").later;
    assert!(known(0) && !known(600 * day));
}

#[test]
fn damaged_cells_are_an_error_and_no_value() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let book = Book::open(Arc::clone(&store)).expect("open");
    book.record_factors("grid", &subject("FR"), &hours(0, &[10.0]), at(9)).expect("recorded");
    let key = FactorKey { name: "grid".to_owned(), long: false, start: at(0), revision: at(9) }.encode();
    let mut value = store.get(Table::Meta, &key).expect("get").expect("stored");
    value[5] ^= 1;
    let mut writes = Writes::default();
    writes.put(Table::Meta, key, value);
    store.commit(writes, Durability::Synced).expect("commit");
    assert!(matches!(book.factors("grid", window(0, 3600), None), Err(StoreError::Damaged { .. })));
}
