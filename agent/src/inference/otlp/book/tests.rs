use super::super::party::Party;
use super::*;
use proptest::prelude::*;

const PROCESS: ProcessId = ProcessId { pid: 7, start_ticks: 9 };
const WALL: u64 = 1_000_000_000_000;

fn times(zero: Option<u64>) -> Times {
    let [at, connected, watching] = [500_000_000_000, 400_000_000_000, 100_000_000_000].map(BootNanos);
    Times { at, wall: WALL, connected, watching, zero: zero.map(BootNanos) }
}

fn point(series: u8, cumulative: bool, (start, time): (u64, u64), items: u64) -> Point<'static> {
    let counts = [Some((CountKind::Items, items)), None];
    let (stream, series) = ([1; 16], [series; 16]);
    let (buckets, party) = (Vec::new(), Party::default());
    Point { model: "m", version: None, stream, series, cumulative, start, time, counts, buckets, party }
}

fn export(points: Vec<Point<'static>>) -> Export<'static> {
    Export { points, refused: Vec::new() }
}

fn items(taken: &Taken) -> Option<u64> {
    taken.samples.last().map(|sample| sample.counts[&CountKind::Items])
}

#[test]
fn the_first_point_counts_from_the_latest_instant_at_which_it_was_zero() {
    // (process started after the agent, start of the series before the end of the second second) → counted, origin.
    for (zero, start, counted) in [
        (None, 0, (0, None)),
        (None, WALL - 450_000_000_000, (0, None)),
        (None, WALL - 300_000_000_000, (5, Some(200_000_000_000))),
        (Some(150_000_000_000), 0, (5, Some(150_000_000_000))),
        (Some(150_000_000_000), WALL - 300_000_000_000, (5, Some(200_000_000_000))),
    ] {
        let mut book = Book::default();
        let taken = book.take(PROCESS, export(vec![point(1, true, (start, WALL), 5)]), times(zero), None, |_| true);
        let taken = taken.expect("taken");
        let sample = taken.samples.last().expect("a sample");
        assert_eq!(
            (items(&taken).expect("counted"), sample.origin.map(|origin| origin.0)),
            counted,
            "{zero:?} {start}"
        );
    }
    // A delta counts from its own start, or from the connection.
    for (start, origin) in [(WALL - 300_000_000_000, 200_000_000_000), (0, 400_000_000_000)] {
        let taken =
            Book::default().take(PROCESS, export(vec![point(1, false, (start, WALL), 5)]), times(None), None, |_| true);
        let taken = taken.expect("taken");
        assert_eq!(
            (items(&taken), taken.samples[0].origin, taken.samples[0].shown.len()),
            (Some(5), Some(BootNanos(origin)), 0)
        );
    }
}

#[test]
fn processes_without_end_are_refused_and_ended_ones_forgotten() {
    let mut book = Book::default();
    let mut take = |pid, alive| {
        let process = ProcessId { pid, start_ticks: 1 };
        book.take(process, export(vec![point(1, true, (1, 2), 5)]), times(Some(1)), None, |_| alive).map(drop)
    };
    for pid in 1..=64 {
        take(pid, true).expect("taken");
    }
    assert_eq!(take(65, true).expect_err("too many").reason, "limit");
    take(65, false).expect("the others have ended");
    assert_eq!(book.processes().count(), 1);
}

proptest! {
    #[test]
    fn exports_that_are_lost_or_sent_again_change_no_cumulative_count(
        steps in proptest::collection::vec((0_u64..50, 0_u8..4, any::<bool>()), 1..40)
    ) {
        let mut book = Book::default();
        let (mut truth, mut shown, mut start, mut counted) = (0, 0, 1, 0);
        for ((work, fate, restarts), time) in steps.into_iter().zip(10..) {
            // It begins again only after an export that has come: what ran since then nobody would know of.
            if restarts && counted == truth {
                (shown, start) = (0, time);
            }
            (shown, truth) = (shown + work, truth + work);
            // 0: lost on the way; 2 and more: sent again.
            for _ in 0..fate {
                let one = point(1, true, (start, time), shown);
                let taken = book.take(PROCESS, export(vec![one]), times(Some(1)), None, |_| true).expect("taken");
                prop_assert!(taken.refused.is_empty());
                counted = items(&taken).unwrap_or(counted);
            }
            if fate > 0 {
                prop_assert_eq!(counted, truth);
            }
        }
    }

    #[test]
    fn repetitions_change_no_delta(steps in proptest::collection::vec((0_u64..50, 1_u8..4), 1..40)) {
        let mut book = Book::default();
        let (mut truth, mut counted) = (0, 0);
        for ((work, sent), time) in steps.into_iter().zip(10..) {
            truth += work;
            for _ in 0..sent {
                let one = point(1, false, (time, time + 1), work);
                let taken = book.take(PROCESS, export(vec![one]), times(None), None, |_| true).expect("taken");
                counted = items(&taken).unwrap_or(counted);
            }
            prop_assert_eq!(counted, truth);
        }
    }
}
