use super::*;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;
const RANGE: u64 = 262_143_328_850;
const CEILING: Milliwatts = Milliwatts(1_500_000);

fn run(readings: &[(u64, u64)], range: Option<u64>) -> Vec<Step> {
    let mut tracker = Tracker::new(CEILING);
    readings.iter().map(|(second, raw)| tracker.observe(BootNanos(second * SECOND), *raw, range)).collect()
}

fn delta(microjoules: u64) -> Step {
    Step::Delta { microjoules, wrapped: false }
}

fn gap_of(step: Step) -> Unknown {
    match step {
        Step::Gap(gap) => gap,
        other => panic!("{other:?} is no gap"),
    }
}

#[test]
fn a_wrap_counts_at_once_and_exactly() {
    let steps = run(&[(1, 262_143_328_000), (2, 150)], Some(RANGE));
    assert_eq!(steps, [Step::First, Step::Delta { microjoules: 1_000, wrapped: true }]);
}

#[test]
fn a_torn_reading_of_zero_costs_nothing() {
    let steps = run(&[(1, 90_000_000_000), (2, 0), (3, 90_200_000_000)], Some(RANGE));
    assert_eq!(steps, [Step::First, Step::Hold(Held::Backwards), delta(200_000_000)]);
    let near_the_end = run(&[(1, RANGE - 100), (2, 0), (3, RANGE - 50)], Some(RANGE));
    assert_eq!(near_the_end, [Step::First, Step::Hold(Held::Backwards), delta(50)]);
}

#[test]
fn a_wrap_to_exactly_zero_is_one_too() {
    let steps = run(&[(1, RANGE - 900), (2, 0), (3, 700)], Some(RANGE));
    assert_eq!(steps[2], Step::Delta { microjoules: 1_600, wrapped: true });
}

#[test]
fn a_reset_is_dated_on_the_first_agreeing_reading_and_loses_nothing_after_it() {
    let steps = run(&[(1, 100_000_000_000), (2, 50_000_000), (3, 250_000_000)], Some(RANGE));
    let gap = gap_of(steps[2]);
    assert_eq!((gap.from, gap.to), (BootNanos(SECOND), BootNanos(2 * SECOND)));
    assert_eq!((gap.reason, gap.low, gap.high), (GapReason::CounterReset, Microjoules(0), Microjoules(1_875_000_000)));
    assert_eq!(gap.after, 200_000_000);
}

#[test]
fn a_fall_of_a_counter_without_range_is_a_gap_and_never_a_huge_rise() {
    let steps = run(&[(1, 100_000_000_000), (2, 50_000_000), (3, 50_000_100)], None);
    assert_eq!(gap_of(steps[2]).reason, GapReason::WrapUnknownRange);
}

#[test]
fn a_counter_that_cannot_wrap_began_anew_where_it_fell_however_low_it_stood() {
    let mut tracker = Tracker::new(CEILING).endless();
    let readings = [(1, 100_000_000), (2, 40_000_000), (3, 240_000_000)];
    let steps = readings.map(|(second, raw)| tracker.observe(BootNanos(second * SECOND), raw, None));
    let gap = gap_of(steps[2]);
    assert_eq!((gap.from, gap.to, gap.after), (BootNanos(SECOND), BootNanos(2 * SECOND), 200_000_000));
    assert_eq!(gap.reason, GapReason::CounterReset);
}

#[test]
fn a_pause_in_which_the_counter_may_have_wrapped_twice_is_a_gap() {
    let steps = run(&[(1, 1_000_000_000), (401, 30_000_000_000)], Some(65_532_610_987));
    let gap = gap_of(steps[1]);
    assert_eq!((gap.reason, gap.after), (GapReason::AmbiguousWrap, 0));
    assert_eq!(gap.high, Microjoules(750_000_000_000));
}

#[test]
fn an_impossible_rise_waits_for_a_second_reading() {
    let spike = run(&[(1, 1_000), (2, 90_000_000_000), (3, 2_000)], Some(RANGE));
    assert_eq!(spike, [Step::First, Step::Hold(Held::Implausible), delta(1_000)]);
    let real = run(&[(1, 1_000), (2, 90_000_000_000), (3, 90_000_000_500)], Some(RANGE));
    let gap = gap_of(real[2]);
    assert_eq!((gap.reason, gap.after), (GapReason::Implausible, 500));
}

#[test]
fn a_value_above_the_range_is_refused() {
    let steps = run(&[(1, 5), (2, RANGE + 1), (3, 10)], Some(RANGE));
    assert_eq!(steps, [Step::First, Step::Skip(Refused::OutOfRange), delta(5)]);
}

#[test]
fn a_zone_that_comes_back_lower_is_a_lost_source() {
    let mut tracker = Tracker::new(CEILING);
    tracker.observe(BootNanos(SECOND), 100_000_000_000, Some(RANGE));
    tracker.lose();
    assert_eq!(tracker.observe(BootNanos(4 * SECOND), 500, Some(RANGE)), Step::Hold(Held::Backwards));
    let gap = gap_of(tracker.observe(BootNanos(5 * SECOND), 700, Some(RANGE)));
    assert_eq!((gap.reason, gap.to, gap.after), (GapReason::SourceLost, BootNanos(4 * SECOND), 200));
}

#[test]
fn a_counter_that_falls_three_times_in_ten_readings_is_not_believed_until_ten_clean_ones() {
    let mut tracker = Tracker::new(CEILING);
    let mut steps = Vec::new();
    for (second, raw) in [90_000_000_000, 5_000, 90_100_000_000, 6_000, 90_200_000_000, 7_000].iter().enumerate() {
        steps.push(tracker.observe(BootNanos((second as u64 + 1) * SECOND), *raw, Some(RANGE)));
    }
    assert_eq!(steps[5], Step::Skip(Refused::Unstable));
    let after: Vec<_> = (7..=16)
        .map(|second| tracker.observe(BootNanos(second * SECOND), 91_000_000_000 + second, Some(RANGE)))
        .collect();
    assert!(after[..9].iter().all(|step| *step == Step::Skip(Refused::Unstable)));
    let gap = gap_of(after[9]);
    assert_eq!(gap.reason, GapReason::UnstableCounter);
    assert_eq!((gap.from, gap.to), (BootNanos(5 * SECOND), BootNanos(16 * SECOND)));
}

#[test]
fn a_counter_that_stands_for_three_minutes_while_its_device_works_is_stuck() {
    let mut tracker = Tracker::new(CEILING);
    tracker.set_working(true);
    let steps: Vec<_> =
        (0..=400).map(|second| tracker.observe(BootNanos(second * SECOND + 1), 700, Some(RANGE))).collect();
    assert!(steps[1..181].iter().all(|step| *step == Step::Hold(Held::Unchanged)));
    let gap = gap_of(steps[181]);
    assert_eq!((gap.from, gap.to), (BootNanos(1), BootNanos(181 * SECOND + 1)));
    assert_eq!(gap.reason, GapReason::CounterStuck);
    let gaps: Vec<_> = steps.iter().filter(|step| matches!(step, Step::Gap(_))).collect();
    assert_eq!(gaps.len(), 4, "one at three minutes, then one a minute");
}

#[test]
fn a_standing_counter_of_an_idle_device_is_no_fault() {
    let steps = run(&[(1, 700), (200, 700), (201, 800)], None);
    assert_eq!(steps, [Step::First, Step::Hold(Held::Unchanged), delta(100)]);
}

#[derive(Debug, Clone)]
enum Event {
    /// Power in mW for a time in ms, then a reading.
    Run(u64, u64),
    /// The counter restarts at 0, then runs.
    Reset,
    /// One reading shows 0.
    Torn(u64, u64),
    /// The agent sleeps for this many seconds.
    Pause(u64, u64),
    /// A reading fails.
    Failed(u64, u64),
    /// The zone is gone for one reading, and counts on.
    Lost(u64, u64),
    /// The counter jumps close to its end with its energy unread (as after a resume), to provoke wraps.
    NearEnd(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let power = 0..=1_500_000u64;
    let event = prop_oneof![
        8 => (power.clone(), 100..3_000u64).prop_map(|(p, t)| Event::Run(p, t)),
        1 => Just(Event::Reset),
        1 => (power.clone(), 100..3_000u64).prop_map(|(p, t)| Event::Torn(p, t)),
        1 => (power.clone(), 10..400u64).prop_map(|(p, t)| Event::Pause(p, t)),
        1 => (power.clone(), 100..3_000u64).prop_map(|(p, t)| Event::Failed(p, t)),
        1 => (power, 100..3_000u64).prop_map(|(p, t)| Event::Lost(p, t)),
        1 => (0..2_000_000_000u64).prop_map(Event::NearEnd),
    ];
    prop::collection::vec(event, 1..120)
}

proptest! {
    /// Against an independent model in u128: what was counted, with the bounds of what was declared unknown, always
    /// holds the truth; without a declared gap it is the truth exactly.
    #[test]
    fn counted_energy_and_declared_bounds_hold_the_truth(start in 100_000_000_000..RANGE, events in events()) {
        // Modulus as the rule has it: (range − last) + current.
        let modulus = u128::from(RANGE);
        let mut truth: u128 = 0;
        let mut shift = u128::from(start);
        let mut now: u64 = SECOND;
        let mut known: Vec<(u64, u128)> = vec![(now, 0)];
        let mut tracker = Tracker::new(CEILING);
        prop_assert_eq!(tracker.observe(BootNanos(now), (shift % modulus) as u64, Some(RANGE)), Step::First);
        let (mut counted, mut low, mut high, mut gaps) = (0u128, 0u128, 0u128, 0u32);
        let mut torn_before = false;
        // A jump shows itself at two readings in a row: over a pause, any rise is plausible again.
        let events = events.into_iter().flat_map(|event| {
            let after = matches!(event, Event::NearEnd(_)).then_some(Event::Run(1_000, 1_000));
            [event].into_iter().chain(after)
        });
        for event in events {
            if matches!(event, Event::Lost(..)) {
                tracker.lose();
            }
            // Two torn readings in a row agree: that is a reset to anyone who reads them.
            let torn_now = matches!(event, Event::Torn(..)) && !torn_before;
            let (power, millis, raw) = match event {
                Event::Run(power, millis) => (power, millis, None),
                Event::Pause(power, seconds) => (power, seconds * 1_000, None),
                Event::Torn(power, millis) => (power, millis, torn_now.then_some(Some(0))),
                Event::Failed(power, millis) | Event::Lost(power, millis) => (power, millis, Some(None)),
                // A reset far from the end: one that lands on a plausible wrap cannot be told from it by anyone.
                Event::Reset => {
                    let raw = (truth + shift) % modulus;
                    if (100_000_000_000..modulus - 100_000_000_000).contains(&raw) {
                        shift = modulus - truth % modulus;
                    }
                    (1_000, 1_000, None)
                }
                Event::NearEnd(distance) => {
                    let raw = (truth + shift) % modulus;
                    // A jump while a reading is held may land where the old baseline explains it.
                    let clear = tracker.baseline().is_some_and(|last| last.at.0 == now);
                    if clear && (100_000_000_000..modulus - 100_000_000_000).contains(&raw) {
                        shift = modulus - truth % modulus + modulus - 1 - u128::from(distance);
                    }
                    (1_000, 1_000, None)
                }
            };
            // A failed reading in between does not make a second torn one.
            torn_before = torn_now || torn_before && raw == Some(None);
            now += millis * 1_000_000;
            truth += u128::from(power) * u128::from(millis);
            known.push((now, truth));
            let shown = ((truth + shift) % modulus) as u64;
            let raw = match raw {
                Some(None) => continue,
                Some(Some(torn)) => torn,
                None => shown,
            };
            match tracker.observe(BootNanos(now), raw, Some(RANGE)) {
                Step::First => prop_assert!(false, "a second first reading"),
                Step::Delta { microjoules, .. } => counted += u128::from(microjoules),
                Step::Hold(_) | Step::Skip(_) => {}
                Step::Gap(gap) => {
                    gaps += 1;
                    counted += u128::from(gap.after);
                    low += u128::from(gap.low.0);
                    high += u128::from(gap.high.0);
                }
            }
            let at = tracker.baseline().map(|baseline| baseline.at.0);
            let Some((_, true_then)) = known.iter().find(|(t, _)| Some(*t) == at) else {
                return Err(TestCaseError::fail("a baseline at no reading"));
            };
            prop_assert!(counted + low <= *true_then, "{counted} + {low} > {true_then}");
            prop_assert!(counted + high >= *true_then, "{counted} + {high} < {true_then}");
            prop_assert!(gaps > 0 || counted == *true_then);
        }
    }
}
