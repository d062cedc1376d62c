//! What is known of the series of streams: whatever their numbers, and however often they are described.

use super::*;

const OTHER: StreamId = StreamId([8; 16]);

impl Rig {
    fn define(&mut self, stream: StreamId, series: Vec<(u32, Subject)>) {
        assert_eq!(self.apply(Request::Define(self.session, stream, series)), Reply::Done);
    }

    /// Takes a record of a stream; how many of its values are refused, by reason.
    fn take(&mut self, stream: StreamId, sequence: u64, batch: Batch) -> Vec<(RejectReason, u64)> {
        let Request::Record { session, hash, payload, batch, .. } = self.request(sequence, batch) else {
            panic!("not a record")
        };
        match self.apply(Request::Record { session, stream, sequence, hash, payload, batch }) {
            Reply::Ack { rejects, .. } => rejects.into_iter().map(|reject| (reject.reason, reject.count)).collect(),
            other => panic!("{other:?}"),
        }
    }
}

/// The batch with its columns in this order, under these numbers.
fn numbered(mut batch: Batch, numbers: &[u32]) -> Batch {
    batch.columns.iter_mut().zip(numbers).for_each(|(column, number)| column.series = *number);
    batch
}

proptest! {
    #[test]
    fn a_column_is_held_against_its_own_series_whatever_numbers_come_in_whatever_order(
        records in proptest::collection::vec(Just(vec![0, 1, 2, 9, 1 << 31, u32::MAX - 1, u32::MAX]).prop_shuffle(), 1..6),
        described in Just(vec![0, 1, 2, 9, 1 << 31, u32::MAX - 1, u32::MAX]).prop_shuffle(),
        // Descriptions that no record used are told again after a restart.
        restart in 2usize..7,
    ) {
        let mut rig = Rig::new(Arc::new(MemoryStore::new()));
        rig.say("gpu-1", 1, STREAM);
        rig.define(STREAM, described.iter().map(|number| (*number, energy(&number.to_string()))).collect());
        let mut second = 901;
        for (sequence, order) in (1..).zip(&records) {
            if sequence == restart {
                rig = Rig { now: rig.now, session: rig.session, ..Rig::new(Arc::clone(&rig.store)) };
                rig.say("gpu-1", 1, STREAM);
            }
            // Each series rises at a rate of its own: a point held against another one's last would fall or leap.
            let mut batch = numbered(steady(second..second + 5, 1..8), order);
            for column in &mut batch.columns {
                let rate = u64::from(column.series % 7) + 1;
                column.points.iter_mut().chain(&mut column.previous).for_each(|point| point.value *= rate);
            }
            prop_assert_eq!(rig.take(STREAM, sequence as u64, batch), []);
            second += 5;
        }
        for number in described {
            let expected = (second - 901) * 1_000_000 * (u64::from(number % 7) + 1);
            prop_assert_eq!(rig.energy(&number.to_string()), expected, "series {}", number);
        }
    }
}

#[test]
fn equal_descriptions_of_streams_and_nodes_are_held_once_and_after_a_restart_too() {
    let mut rig = Rig::open();
    assert_eq!(rig.record(1, steady(901..906, 1..4)), acked(1));
    assert!(matches!(rig.say("gpu-2", 1, OTHER), Reply::Opened(_)));
    rig.define(OTHER, (1..=3).map(|series| (series + 10, energy(&format!("rapl/{series}")))).collect());
    assert_eq!(rig.take(OTHER, 1, steady(901..906, 11..14)), []);
    for _ in 0..2 {
        let subjects = |node| -> Vec<Arc<Subject>> {
            let series = rig.book.series(node, rig.window()).expect("series");
            series.into_iter().map(|series| series.subject).collect()
        };
        let (one, two) = (subjects(0), subjects(1));
        assert_eq!((one.len(), two.len()), (3, 3));
        assert!(one.iter().zip(&two).all(|(one, two)| Arc::ptr_eq(one, two)));
        assert!(!Arc::ptr_eq(&one[0], &one[1]));
        rig = Rig { now: rig.now, ..Rig::new(Arc::clone(&rig.store)) };
    }
}

#[test]
fn a_series_that_was_described_in_two_ways_is_taken_again_once_it_is_described_as_before() {
    for stored in [false, true] {
        for restart in [false, true] {
            let mut rig = Rig::open();
            let first = if stored {
                assert_eq!(rig.record(1, steady(901..906, 1..2)), acked(1));
                2
            } else {
                1
            };
            if restart {
                rig.restart();
            }
            rig.define(STREAM, vec![(1, energy("another"))]);
            let refused = [(RejectReason::UnknownSeries, 5)];
            assert_eq!(rig.take(STREAM, first, steady(906..911, 1..3)), refused, "stored {stored}, restart {restart}");
            rig.define(STREAM, vec![(1, energy("rapl/1"))]);
            assert_eq!(rig.take(STREAM, first + 1, steady(911..916, 1..3)), []);
            // What lies before a loss that nobody declared is not known after a restart.
            let expected = if stored && !restart {
                15
            } else if stored {
                10
            } else {
                5
            };
            assert_eq!(rig.energy("rapl/1"), expected * 1_000_000, "stored {stored}, restart {restart}");
            assert_eq!((rig.energy("another"), rig.energy("rapl/2")), (0, 10_000_000));
        }
    }
}

#[test]
fn descriptions_that_no_record_uses_are_held_up_to_a_number() {
    let mut rig = Rig::new(Arc::new(MemoryStore::new()));
    rig.say("gpu-1", 1, STREAM);
    let most = u32::try_from(UNUSED_SERIES).expect("small");
    let describe = |rig: &mut Rig, series: Range<u32>| {
        rig.define(STREAM, series.rev().map(|series| (series, energy(&series.to_string()))).collect());
    };
    describe(&mut rig, 1..most + 1);
    describe(&mut rig, most + 1..most + 3);
    describe(&mut rig, 1..most + 1);
    let last = most - 1..most + 3;
    assert_eq!(rig.take(STREAM, 1, steady(901..902, last.clone())), [(RejectReason::UnknownSeries, 2)]);
    describe(&mut rig, most + 1..most + 4);
    assert_eq!(rig.take(STREAM, 2, steady(902..903, most - 1..most + 4)), [(RejectReason::UnknownSeries, 1)]);
}

#[test]
fn series_of_another_stream_that_fall_silent_make_room() {
    let cap = u32::try_from(ACTIVE_SERIES).expect("small");
    let stream = |number| StreamId([number; 16]);
    let mut rig = Rig::new(Arc::new(MemoryStore::new()));
    for number in 1..=3 {
        assert!(matches!(rig.say("gpu-1", 1, stream(number)), Reply::Opened(_)));
        rig.define(stream(number), (1..=cap + 1).map(|series| (series, energy(&series.to_string()))).collect());
    }
    let mut sequences = [0; 4];
    let mut take = |rig: &mut Rig, number: u8, series: Range<u32>| {
        rig.say("gpu-1", 1, stream(number));
        let sequence = &mut sequences[usize::from(number)];
        *sequence += 1;
        let second = rig.now - 10 + *sequence;
        let refused = rig.take(stream(number), *sequence, steady(second..second + 1, series));
        refused
            .into_iter()
            .map(|(reason, count)| {
                assert_eq!(reason, RejectReason::Cardinality);
                count
            })
            .sum::<u64>()
    };
    assert_eq!(take(&mut rig, 1, 1..cap + 1), 0);
    rig.now += 300;
    assert_eq!(take(&mut rig, 2, 1..cap + 1), 0);
    assert_eq!(take(&mut rig, 3, 1..11), 10, "the node has all it may");
    assert_eq!(take(&mut rig, 1, 1..5), 0, "these are active already");
    rig.now += 301;
    // All of the first one but those four have been silent for 601 s.
    assert_eq!(take(&mut rig, 3, 1..cap + 1), 4);
    assert_eq!(take(&mut rig, 3, 1..cap + 1), 4, "nothing fell silent since");
    assert_eq!(take(&mut rig, 2, 1..cap + 2), 1);
    rig.now += 601;
    assert_eq!(take(&mut rig, 1, 1..cap + 2), 1, "a stream has no more than its own");
}

#[test]
fn a_record_that_comes_twice_in_one_commit_is_told_from_one_with_other_content() {
    let mut rig = Rig::open();
    let first = rig.request(1, steady(901..906, 1..2));
    let other = rig.request(1, steady(901..907, 1..2));
    let second = rig.request(2, steady(906..911, 1..2));
    let requests = vec![first.clone(), second, first, other];
    let replies = rig.intake.apply(rig.clock(), requests).expect("commit");
    let rejects = vec![Reject { sequence: 1, reason: RejectReason::SequenceConflict, count: 6 }];
    let conflict = Reply::Ack { stream: STREAM, sequence: 2, rejects, record: true };
    assert_eq!(replies, [acked(1), acked(2), acked(2), conflict]);
    let counters = rig.counters.all();
    assert_eq!([counters["duplicates_total"], counters["records_applied_total"]], [1, 2]);
    assert_eq!(rig.energy("rapl/1"), 10_000_000);
}
