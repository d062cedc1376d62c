//! Rows that are sealed say what they said before.

mod columns;

use super::*;
use crate::store::book::SEALED_SECONDS;
use crate::store::key::RowKey;
use crate::store::{Run, Writes};

/// An hour and what an hour must be over to be sealed.
const OVER: i64 = SEALED_SECONDS + 600;

impl Rig {
    /// Rows of five seconds from the second `from`, `count` batches of them from sequence `first`.
    fn batches(&mut self, first: u64, from: u64, count: u64) {
        for place in 0..count {
            let start = from + place * 5;
            self.now = self.now.max(start + 5);
            assert_eq!(self.record(first + place, steady(start..start + 5, 1..3)), acked(first + place));
        }
    }

    /// Twenty batches at the beginning of an hour, which is over and sealed, and the second at which it began.
    fn with_a_chunk() -> (Self, u64) {
        let mut rig = Self::open();
        let hour = rig.first_hour();
        rig.batches(1, hour, 20);
        rig.later(OVER);
        rig.settle_all();
        assert_eq!(rig.seal(), 1);
        (rig, hour)
    }

    fn seal(&self) -> usize {
        self.book.seal(self.clock(), &|| false).expect("seal").chunks
    }

    fn runs(&self) -> Vec<Run> {
        self.book.runs(0, self.window()).expect("runs")
    }

    /// Keys of the table of rows.
    fn stored(&self) -> Vec<RowKey> {
        let mut keys = Vec::new();
        let visit: &mut Visit<'_> = &mut |key, _| {
            keys.push(RowKey::decode(key).expect("a key"));
            ControlFlow::Continue(())
        };
        self.store.scan(Table::Rows, &[]..&[0xff; 32], Direction::Forward, visit).expect("scan");
        keys
    }

    /// Seconds from boot at which the first whole hour begins.
    fn first_hour(&self) -> u64 {
        (SEALED_SECONDS - BOOTED.rem_euclid(SEALED_SECONDS)).unsigned_abs() + SEALED_SECONDS.unsigned_abs()
    }

    fn later(&mut self, seconds: i64) {
        self.now += seconds.unsigned_abs();
    }
}

#[test]
fn an_hour_that_is_over_and_settled_is_one_chunk_and_says_the_same() {
    let mut rig = Rig::open();
    let hour = rig.first_hour();
    // The first row is at the very beginning of an hour, where the chunk will lie; the second hour is not over.
    rig.batches(1, hour, 900);
    let before = rig.runs();
    assert_eq!((before.len(), rig.stored().len(), rig.seal()), (1_800, 900, 0), "nothing is settled");
    rig.settle_all();
    assert_eq!(rig.seal(), 1, "the hour that is over");
    assert_eq!((rig.runs(), rig.stored().len()), (before.clone(), 1 + 180));
    assert_eq!(rig.seal(), 0, "it is sealed");
    rig.restart();
    assert_eq!((rig.runs(), rig.energy("rapl/1")), (before.clone(), 4_500_000_000));
    // Any part of it, and one that touches both.
    let at = |second: u64| UnixNanos::from_seconds(BOOTED).plus_seconds(i64::try_from(second).expect("small"));
    for (from, to) in [(0, 3), (1_799, 1_801), (3_590, 3_610), (3_600, 3_601)] {
        let window = Window::new(at(hour + from), at(hour + to)).expect("ordered");
        let part = rig.book.runs(0, window).expect("runs");
        let touches =
            |run: &&Run| run.points.last().expect("point").0 >= window.start() && run.points[0].0 < window.end();
        let whole: Vec<Run> = before.iter().filter(touches).cloned().collect();
        assert_eq!(part, whole, "from {from} to {to}");
        assert_eq!(rig.book.rows(0, window).expect("rows").len() as u64, to - from);
    }
    rig.later(OVER);
    assert_eq!(rig.seal(), 1, "the second hour");
    assert_eq!((rig.runs(), rig.stored().len()), (before, 2));
}

#[test]
fn what_comes_late_lies_beside_its_chunk_until_the_hour_is_sealed_again() {
    let (mut rig, hour) = Rig::with_a_chunk();
    rig.batches(21, hour + 100, 20);
    let before = rig.runs();
    assert_eq!((before.len(), rig.stored().len(), rig.seal()), (80, 21, 0), "the hour has changed cells");
    rig.settle_all();
    assert_eq!(rig.seal(), 1);
    assert_eq!((rig.runs(), rig.stored().len()), (before, 1));
}

#[test]
fn a_stream_goes_on_from_sealed_rows_after_a_restart_and_a_loss() {
    let (mut rig, hour) = Rig::with_a_chunk();
    rig.restart();
    let last = hour + 99;
    let span = LostSpan { boot: BOOT, first: BootNanos((last + 1) * SECOND), last: BootNanos((last + 9) * SECOND) };
    let gap = StreamGap { from: 21, to: 22, reason: LossReason::SpoolFull, samples: 9, span: Some(span) };
    let lost = rig.apply(Request::Lost(rig.session, STREAM, gap));
    assert_eq!(lost, Reply::Ack { stream: STREAM, sequence: 22, rejects: Vec::new(), record: false });
    assert_eq!(rig.record(23, steady(last + 10..last + 15, 1..3)), acked(23));
    assert_eq!(rig.energy("rapl/1"), (100 + 14) * 1_000_000, "from the second before the first row to the last row");
}

#[test]
fn an_interval_that_began_long_before_its_record_is_found_in_the_chunk() {
    let mut rig = Rig::open();
    let hour = rig.first_hour();
    let mut batch = steady(hour + 1_200..hour + 1_205, 1..2);
    batch.columns[0].previous = Some(point(hour + 10, 7));
    rig.now = hour + 1_300;
    assert_eq!(rig.record(1, batch), acked(1));
    let at = |second: u64| UnixNanos::from_seconds(BOOTED).plus_seconds(i64::try_from(second).expect("small"));
    let window = Window::new(at(hour + 60), at(hour + 120)).expect("ordered");
    let before = rig.book.runs(0, window).expect("runs");
    assert_eq!(before.len(), 1);
    rig.later(OVER);
    rig.settle_all();
    assert_eq!(rig.seal(), 1);
    assert_eq!(rig.book.runs(0, window).expect("runs"), before);
}

#[test]
fn sealed_rows_go_with_their_hour() {
    let mut rig = Rig::open();
    let hour = rig.first_hour();
    rig.batches(1, hour, 1_440);
    rig.later(OVER);
    rig.settle_all();
    assert_eq!(rig.seal(), 2);
    let periods = retention::Periods::default();
    let of_first = rig.stored()[0].at;
    let age = i64::try_from(periods.rows.as_secs()).expect("small");
    retention::apply(&rig.book, &periods, of_first.plus_seconds(age + SEALED_SECONDS - 1)).expect("retention");
    assert_eq!(rig.stored().len(), 2, "a part of an hour does not go by itself");
    retention::apply(&rig.book, &periods, of_first.plus_seconds(age + SEALED_SECONDS)).expect("retention");
    let left = rig.stored();
    assert_eq!(left.len(), 1);
    assert_eq!(rig.runs().len(), 1_440);
}

#[test]
fn a_damaged_chunk_is_damage_and_never_a_number() {
    let (mut rig, hour) = Rig::with_a_chunk();
    let key = rig.stored()[0].encode();
    let whole = rig.store.get(Table::Rows, &key).expect("get").expect("a chunk");
    for place in [0, 1, whole.len() / 2, whole.len() - 1] {
        let (mut value, mut writes) = (whole.clone(), Writes::default());
        value[place] ^= 1;
        writes.put(Table::Rows, key, value);
        rig.store.commit(writes, Durability::Buffered).expect("commit");
        assert!(matches!(rig.book.runs(0, rig.window()), Err(StoreError::Damaged { .. })), "byte {place}");
        assert!(matches!(rig.book.series(0, rig.window()), Err(StoreError::Damaged { .. })), "byte {place}");
    }
    // Late rows do not hide it, and are not hidden by it.
    rig.batches(21, hour + 100, 1);
    rig.settle_all();
    assert_eq!((rig.seal(), rig.stored().len()), (0, 2));
    let after = Window::new(rig.clock().plus_seconds(-60), rig.clock()).expect("ordered");
    assert_eq!(rig.book.runs(0, after).expect("elsewhere"), []);
}
