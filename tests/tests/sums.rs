//! Energy from sums of hours is that of adding up every slot, to the last bit: over any window, whatever comes late, after a
//! restart, and after what is old is dropped.

#![allow(clippy::expect_used, reason = "functions that tests call may fail the test")]

use joulebook_aggregator::clock::Clock;
use joulebook_aggregator::factor::{FactorConfig, Factors, OutOfServiceConfig};
use joulebook_aggregator::query::Query;
use joulebook_aggregator::store::{Book, Resolution, retention};
use joulebook_proto::query::{
    EnergyBy, FunctionalUnit, GetEnergyRequest, GetEnergyResponse, IdlePolicy, IdleScope, Level, TimeWindow, Trust,
};
use joulebook_tests::aggregator::Aggregator;
use joulebook_tests::history::{BOOTED, History, SECOND, Step, history, inventory, step};
use joulebook_units::UnixNanos;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::sync::watch;

#[path = "sums/grams.rs"]
mod grams;

const DAY: i64 = 86_400;

/// A clock that is set.
struct Set(AtomicI64);

impl Set {
    fn to(&self, at: UnixNanos) {
        self.0.store(at.0, Ordering::Relaxed);
    }
}

impl Clock for Set {
    fn unix(&self) -> UnixNanos {
        UnixNanos(self.0.load(Ordering::Relaxed))
    }
}

/// Rows of seconds, and pauses of some twenty minutes between: a history of hours.
fn long_step() -> impl Strategy<Value = Step> {
    let pause = prop_oneof![3 => Just(0), 1 => 600 * SECOND..2000 * SECOND];
    (step(), pause).prop_map(|(step, pause)| Step { nanos: step.nanos + pause, ..step })
}

/// A question: its window as parts of the histories' time, by what, how idle is charged and what is believed.
type Asked = (u16, u16, EnergyBy, (u8, u8, u8, u8));

fn asked() -> impl Strategy<Value = Asked> {
    // Every fourth window is all there is.
    let ends = prop_oneof![3 => (any::<u16>(), any::<u16>()), 1 => Just((0, u16::MAX))];
    let by = prop::sample::select(vec![
        EnergyBy::Model,
        EnergyBy::Gpu,
        EnergyBy::Source,
        EnergyBy::Component,
        EnergyBy::Node,
    ]);
    // Of the ways to charge idle so few that each is asked for again and again: what was kept for it is asked for, too.
    (ends, by, (0u8..2, 0u8..1, 0u8..2, 0u8..4)).prop_map(|((from, to), by, how)| (from, to, by, how))
}

fn request(histories: &[History], (from, to, by, (policy, scope, trust, level)): Asked) -> GetEnergyRequest {
    let end = histories.iter().map(|history| history.end / SECOND + 1).max().expect("a history") - 1000;
    let at = |part: u16| {
        let second = 1000 + u64::from(part) * end / u64::from(u16::MAX);
        BOOTED + i64::try_from(second * SECOND).expect("a time of this century")
    };
    let (start, end) = (at(from.min(to)), at(from.max(to)).max(at(from.min(to)) + UnixNanos::PER_SECOND));
    GetEnergyRequest {
        window: Some(TimeWindow { start_unix_nanos: start, end_unix_nanos: end }),
        by: by.into(),
        idle_policy: IdlePolicy::try_from(i32::from(policy)).expect("one of seven").into(),
        idle_scope: IdleScope::try_from(i32::from(scope)).expect("one of four").into(),
        trust: Trust::try_from(i32::from(trust)).expect("one of three").into(),
        level: Level::try_from(i32::from(level)).expect("none, or below the facility").into(),
        functional_unit: Some(FunctionalUnit::OutputToken.into()),
        ..GetEnergyRequest::default()
    }
}

/// Ways to answer the same questions.
struct Ways {
    clock: Arc<Set>,
    factors: watch::Receiver<Arc<Factors>>,
    remembering: Query,
    plain: Query,
}

impl Ways {
    fn new(book: &Arc<Book>, clock: &Arc<Set>, factors: &watch::Receiver<Arc<Factors>>) -> Self {
        let query = || Query::new(Arc::clone(book), factors.clone(), Arc::clone(clock) as Arc<dyn Clock>);
        Self {
            clock: Arc::clone(clock),
            factors: factors.clone(),
            remembering: query(),
            plain: query().remembering_nothing(),
        }
    }

    /// The same after the process was started anew.
    fn restarted(&self, book: &Book) -> (Arc<Book>, Self) {
        let book = Arc::new(Book::open(Arc::clone(book.store())).expect("memory does not fail"));
        let ways = Self::new(&book, &self.clock, &self.factors);
        (book, ways)
    }

    /// Answers twice of what is remembered, and once anew.
    fn check(&self, request: &GetEnergyRequest) -> Result<(), TestCaseError> {
        let ask = |query: &Query| -> GetEnergyResponse { query.energy(request).expect("well-formed") };
        let plain = ask(&self.plain);
        prop_assert_eq!(&ask(&self.remembering), &plain, "{:?}", request);
        prop_assert_eq!(&ask(&self.remembering), &plain, "asked again: {:?}", request);
        Ok(())
    }
}

fn factors() -> watch::Receiver<Arc<Factors>> {
    let second = |after: i64| {
        let at = BOOTED / UnixNanos::PER_SECOND + 1000 + after;
        jiff::Timestamp::from_second(at).expect("of this century").to_string()
    };
    let out = OutOfServiceConfig {
        node: inventory(0).node.to_string(),
        from: second(2000),
        to: Some(second(5003)),
        reason: "repair".to_owned(),
    };
    let config = FactorConfig { out_of_service: vec![out], ..FactorConfig::default() };
    watch::channel(Arc::new(Factors::new(&config).expect("the embedded tables"))).1
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn energy_from_sums_is_that_of_every_slot_whatever_comes_late_or_goes(
        steps in prop::collection::vec(prop::collection::vec(long_step(), 2..40), 1..4),
        actions in prop::collection::vec((any::<prop::sample::Index>(), 0u8..6, asked()), 0..40),
        last in prop::collection::vec(asked(), 3),
        kept in any::<u16>(),
    ) {
        let histories: Vec<History> = (0u8..).zip(&steps).map(|(index, steps)| history(index, steps)).collect();
        let mut aggregator = Aggregator::new(&histories);
        let clock = Arc::new(Set(AtomicI64::new(aggregator.now.0)));
        let ways = Ways::new(&aggregator.book, &clock, &factors());
        // Live records before those of an outage, of which each changes what was asked about before.
        let arrival = |history: &History, turn: usize| (turn + history.outage()) % history.batches.len();
        let mut sent = vec![0usize; histories.len()];
        for (pick, what, asked) in actions {
            let index = pick.index(histories.len());
            match what {
                0 | 1 => ways.check(&request(&histories, asked))?,
                2 => aggregator.settle(),
                _ if sent[index] < histories[index].batches.len() => {
                    aggregator.send(index, &histories[index], arrival(&histories[index], sent[index]));
                    sent[index] += 1;
                }
                _ => {}
            }
        }
        // One record of each comes when its hour was summed up.
        let late: Vec<usize> = histories.iter().map(|history| history.batches.len() - 1).collect();
        for (index, history) in histories.iter().enumerate() {
            (sent[index]..late[index]).for_each(|turn| aggregator.send(index, history, arrival(history, turn)));
        }
        ways.check(&request(&histories, last[0]))?;
        aggregator.settle();
        // Later on every hour is over.
        clock.to(aggregator.now.plus_seconds(DAY));
        last.iter().try_for_each(|asked| ways.check(&request(&histories, *asked)))?;
        for (index, history) in histories.iter().enumerate() {
            (sent[index].max(late[index])..history.batches.len()).for_each(|turn| aggregator.send(index, history, arrival(history, turn)));
            last.iter().try_for_each(|asked| ways.check(&request(&histories, *asked)))?;
        }
        aggregator.settle();
        last.iter().try_for_each(|asked| ways.check(&request(&histories, *asked)))?;

        let (book, again) = ways.restarted(&aggregator.book);
        last.iter().try_for_each(|asked| again.check(&request(&histories, *asked)))?;

        // What lies before some instant goes, as it does after 400 days.
        let length = aggregator.now.0 - BOOTED;
        let cut = UnixNanos(BOOTED + i64::try_from(i128::from(kept) * i128::from(length) / i128::from(u16::MAX)).expect("inside"));
        let later = cut.floor_to(Resolution::Settled.seconds()).plus_seconds(400 * DAY);
        clock.to(later);
        last.iter().try_for_each(|asked| again.check(&request(&histories, *asked)))?;
        retention::apply(&book, &retention::Periods::default(), later).expect("memory does not fail");
        last.iter().try_for_each(|asked| again.check(&request(&histories, *asked)))?;
    }
}
