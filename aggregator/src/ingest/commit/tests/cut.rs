//! Rows that went for the budget of the disk.

use super::*;
use crate::store::cut::Level;
use crate::store::retention::{Periods, drop_before};

const HOUR: i64 = 3_600;

/// Everything before the hour after the first rows goes.
fn cut(rig: &Rig) -> UnixNanos {
    let cut = UnixNanos::from_seconds(BOOTED).plus_seconds(901 + HOUR).floor_to(HOUR);
    drop_before(&rig.book, &Periods::default(), Level::Rows, cut, rig.clock()).expect("dropped");
    cut
}

#[test]
fn late_data_for_what_went_are_refused_and_change_nothing() {
    let mut rig = Rig::open();
    assert_eq!(rig.record(1, steady(901..906, 1..2)), acked(1));
    let (node, start, _) = rig.book.dirty(10)[0];
    rig.settle(&[(Resolution::Minute, start, cell())]);
    rig.now += 4 * HOUR.unsigned_abs();
    let cut = cut(&rig);
    assert_eq!(rig.book.runs(0, rig.window()).expect("runs"), []);
    for _ in 0..2 {
        assert_eq!(rig.book.cut().rows, cut);
        assert_eq!(rig.book.cell(node, Resolution::Minute, start).expect("cell"), Some(cell()));
        rig.restart();
    }
    let late = rig.record(2, steady(906..911, 1..2));
    assert!(
        matches!(&late, Reply::Ack { rejects, .. } if rejects.iter().all(|one| one.reason == RejectReason::Time) && !rejects.is_empty()),
        "{late:?}"
    );
    assert_eq!(rig.book.dirty(10), [], "no cell is worked out from what is left");
    let recent = rig.now - 10;
    assert_eq!(rig.record(3, steady(recent..recent + 5, 1..2)), acked(3));
}

#[test]
fn what_a_dirty_cell_needs_goes_once_it_is_settled() {
    let mut rig = Rig::open();
    assert_eq!(rig.record(1, steady(901..906, 1..2)), acked(1));
    rig.now += 4 * HOUR.unsigned_abs();
    cut(&rig);
    assert_eq!(rig.energy("rapl/1"), 5_000_000, "the cell is dirty");
    let start = rig.book.dirty(10)[0].1;
    rig.settle(&[(Resolution::Minute, start, cell())]);
    retention::apply(&rig.book, &Periods::default(), rig.clock()).expect("retention");
    assert_eq!(rig.book.runs(0, rig.window()).expect("runs"), []);
    assert!(rig.book.cell(0, Resolution::Minute, start).expect("cell").is_some());
}
