//! Columns say what runs say, wherever records lie.

use super::*;
use crate::store::Series;
use crate::store::block::row::StampedValue;
use proptest::collection::vec;
use std::collections::BTreeMap;

/// By source: its runs as far as each goes on.
type Known = BTreeMap<String, Vec<Vec<StampedValue>>>;

fn note(known: &mut Known, subject: &Subject, continued: bool, points: Vec<StampedValue>) {
    let Subject::Energy(source) = subject else { panic!("{subject:?}") };
    let own = known.entry(source.id.clone()).or_default();
    match own.last_mut() {
        Some(before) if continued && before.last() == points.first() => before.extend_from_slice(&points[1..]),
        _ => own.push(points),
    }
}

fn of_runs(runs: Vec<Run>) -> Known {
    let mut known = Known::new();
    runs.into_iter().for_each(|run| note(&mut known, &run.subject, run.continued, run.points));
    known
}

fn of_series(series: &[Series]) -> Known {
    let mut known = Known::new();
    for one in series {
        for stretch in one.column.stretches() {
            note(&mut known, &one.subject, stretch.before.is_some(), stretch.points().collect());
        }
    }
    known
}

/// What a batch tells of a series.
#[derive(Debug, Clone, Copy)]
enum Told {
    Nothing,
    EveryRow,
    /// In rows whose bit is set.
    Some(u8),
    /// So many milliseconds off its rows.
    Off(i8),
}

fn told() -> impl Strategy<Value = Told> {
    prop_oneof![
        1 => Just(Told::Nothing),
        5 => Just(Told::EveryRow),
        1 => any::<u8>().prop_map(Told::Some),
        1 => any::<i8>().prop_map(Told::Off),
    ]
}

/// Something that happens to a stream.
#[derive(Debug, Clone)]
enum Step {
    /// So many batches alike, after a pause of so many seconds: of each series what is told, and whether it goes on.
    Batches {
        count: u64,
        pause: u64,
        rows: u64,
        columns: Vec<(Told, bool)>,
    },
    /// What is over and settled is sealed.
    Seal,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let pause = prop_oneof![6 => Just(0u64), 2 => 1u64..100, 1 => 100u64..2_000];
    let columns = vec((told(), prop::bool::weighted(0.9)), 3);
    prop_oneof![
        8 => (1u64..12, pause, 1u64..8, columns)
            .prop_map(|(count, pause, rows, columns)| Step::Batches { count, pause, rows, columns }),
        2 => Just(Step::Seal),
        1 => Just(Step::Restart),
    ]
}

/// Tells a stream's steps from the end of an hour on; the second after its last row.
fn tell(rig: &mut Rig, steps: Vec<Step>) -> u64 {
    let mut at = rig.first_hour() + SEALED_SECONDS.unsigned_abs() - 60;
    let (mut sequence, mut last) = (0, [None; 3]);
    for step in steps {
        let (count, pause, rows, columns) = match step {
            Step::Batches { count, pause, rows, columns } => (count, pause, rows, columns),
            Step::Seal => {
                rig.later(OVER);
                rig.settle_all();
                rig.seal();
                continue;
            }
            Step::Restart => {
                rig.restart();
                continue;
            }
        };
        at += pause;
        for _ in 0..count {
            let mut batch = steady(at..at + rows, 1..1);
            for ((series, last), (told, goes_on)) in (1..).zip(&mut last).zip(&columns) {
                let off = |at: BootNanos, millis: i64| BootNanos(at.0.saturating_add_signed(millis * 1_000_000));
                let told = |(row, at): (usize, &BootNanos)| match told {
                    Told::Nothing => None,
                    Told::EveryRow => Some(*at),
                    Told::Some(mask) => (mask >> row & 1 == 1).then_some(*at),
                    Told::Off(millis) => Some(off(*at, i64::from(*millis))),
                };
                let instants: Vec<BootNanos> = batch.rows.iter().enumerate().filter_map(told).collect();
                // 90 W, and some rows without.
                let value = |at: BootNanos| at.0 / 100_000_000_000 * 9_000_000;
                let points: Vec<Point> = instants.iter().map(|at| Point { at: *at, value: value(*at) }).collect();
                let Some(end) = points.last().copied() else { continue };
                let previous = last.replace(end).filter(|_| *goes_on);
                batch.columns.push(Column { series, previous, points });
            }
            sequence += 1;
            at += rows;
            rig.now = rig.now.max(at);
            assert!(matches!(rig.record(sequence, batch), Reply::Ack { record: true, .. }));
        }
    }
    at
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn columns_say_what_runs_say(
        steps in vec(step(), 1..40), windows in vec((0u64..10_000, 1u64..4_000), 8)
    ) {
        let mut rig = Rig::open();
        let begin = rig.first_hour();
        tell(&mut rig, steps);
        let at = |second: u64| UnixNanos::from_seconds(BOOTED).plus_seconds(i64::try_from(second).expect("small"));
        let windows = windows.into_iter().map(|(from, length)| (begin + from, begin + from + length));
        let windows = windows.filter_map(|(from, to)| Window::new(at(from), at(to)));
        for window in windows.chain([rig.window()]) {
            let runs = rig.book.runs(0, window).expect("runs");
            let series = rig.book.series(0, window).expect("series");
            let points = runs.iter().map(|run| run.points.len() - usize::from(run.continued)).sum::<usize>();
            prop_assert_eq!(series.iter().map(|one| one.column.len()).sum::<usize>(), points);
            prop_assert_eq!(of_series(&series), of_runs(runs), "{:?}", window);
        }
    }
}

#[test]
fn what_is_sealed_while_it_is_read_is_there_once() {
    let mut rig = Rig::open();
    let hour = rig.first_hour();
    rig.batches(1, hour, 20);
    let mut loose = Vec::new();
    let visit: &mut Visit<'_> = &mut |key, value| {
        loose.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    rig.store.scan(Table::Rows, &[]..&[0xff; 32], Direction::Forward, visit).expect("scan");
    rig.later(OVER);
    rig.settle_all();
    assert_eq!(rig.seal(), 1);
    let at = |second: u64| UnixNanos::from_seconds(BOOTED).plus_seconds(i64::try_from(second).expect("small"));
    // The hour begins before what is read.
    let window = Window::new(at(hour + 62), at(hour + 90)).expect("ordered");
    let before = rig.book.series(0, window).expect("series");
    let mut writes = Writes::default();
    loose.into_iter().for_each(|(key, value)| writes.put(Table::Rows, key, value));
    rig.store.commit(writes, Durability::Buffered).expect("commit");
    assert!(rig.stored().len() > 1);
    assert_eq!(rig.book.series(0, window).expect("series"), before);
    assert_eq!(
        before.iter().map(|one| one.column.len()).sum::<usize>(),
        2 * 35,
        "seven records, the last goes on inside"
    );
}
