//! The ledger of one pool: what its units carry, stretch by stretch, so that allocated + remaining + written off = T.
//!
//! Time is cut where the terms change. What a stretch was charged is booked: terms that come later change what follows, never
//! what was. The one exception is chosen: [`UnitsPolicy::DynamicRetroactive`] restates all stretches by the last terms.

use super::UnitsPolicy;
use crate::operational::CompensatedSum;
use alloc::vec::Vec;
use joulebook_units::GramsCo2e;

/// What a pool's life is measured by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Lifespan {
    /// Units: each carries the same.
    Usage,
    /// Time: each instant of this many nanoseconds carries the same, shared by who used it. Who did not is written off.
    Time(u64),
}

/// Terms of a pool over a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// T.
    pub training: GramsCo2e,
    /// N, above 0.
    pub units: f64,
    /// How a changed N is applied.
    pub policy: UnitsPolicy,
    /// What the life is measured by.
    pub lifespan: Lifespan,
    /// Whether the pool is retired: nothing is charged any more.
    pub retired: bool,
    /// How many increments have joined the pool: what is left with each of them is spread over the units to come.
    pub increments: usize,
}

/// A stretch of time under one set of terms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stretch {
    /// The terms.
    pub terms: Terms,
    /// Units that draw on the pool, by their weights.
    pub units: f64,
    /// Its length in nanoseconds.
    pub nanos: u64,
    /// Whether it lies in the final period of a pool whose last users carry what remains at retirement.
    pub is_final: bool,
}

/// What was booked in one stretch.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Booked {
    /// Grams that its units carry.
    pub charged: f64,
    /// Grams of time without use.
    pub written_off: f64,
    /// Grams per unit; 0 where nothing is charged.
    pub per_unit: f64,
    /// Its units.
    pub units: f64,
}

/// A pool's ledger after its last stretch. Grams.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Account {
    /// T by the last terms.
    pub training: f64,
    /// N by the last terms.
    pub units: f64,
    /// Units that drew on it.
    pub used: f64,
    /// Grams that units carry.
    pub allocated: f64,
    /// Grams of time without use.
    pub written_off: f64,
    /// Grams that nobody carries yet; of a retired pool they are its owner's.
    pub remaining: f64,
    /// Whether nothing remains to be charged.
    pub fully_amortised: bool,
    /// Each stretch.
    pub stretches: Vec<Booked>,
}

/// Books the stretches of a pool in their order. `None` without a stretch, or where N or the lifespan is not positive.
pub fn book(stretches: &[Stretch]) -> Option<Account> {
    let last = stretches.last()?.terms;
    let proper =
        |terms: &Terms| terms.units > 0.0 && terms.training.0 >= 0.0 && !matches!(terms.lifespan, Lifespan::Time(0));
    if !stretches.iter().all(|stretch| proper(&stretch.terms)) {
        return None;
    }
    let restated = last.policy == UnitsPolicy::DynamicRetroactive;
    let (mut used, mut allocated, mut written_off) =
        (CompensatedSum::default(), CompensatedSum::default(), CompensatedSum::default());
    let mut booked = Vec::with_capacity(stretches.len());
    let mut before: Option<(Terms, f64)> = None;
    for stretch in stretches {
        let terms = if restated { Terms { retired: stretch.terms.retired, ..last } } else { stretch.terms };
        let left = (last.training.0.min(terms.training.0) - allocated.get() - written_off.get()).max(0.0);
        let rate = rate(terms, before, used.get(), left);
        let one = charge(terms, stretch, rate, used.get(), left);
        allocated.add(one.charged);
        written_off.add(one.written_off);
        used.add(stretch.units);
        before = Some((terms, rate));
        booked.push(Booked { units: stretch.units, ..one });
    }
    let rest = (last.training.0 - allocated.get() - written_off.get()).max(0.0);
    close(stretches, &mut booked, rest).into_iter().for_each(|extra| allocated.add(extra));
    let remaining = last.training.0 - allocated.get() - written_off.get();
    let through = match last.lifespan {
        Lifespan::Usage => used.get() >= last.units,
        Lifespan::Time(_) => false,
    };
    Some(Account {
        training: last.training.0,
        units: last.units,
        used: used.get(),
        allocated: allocated.get(),
        written_off: written_off.get(),
        remaining,
        fully_amortised: through || remaining <= last.training.0 * 1e-12,
        stretches: booked,
    })
}

/// Charges what remains to the users of the final period, each unit the same; without a user nobody carries it.
fn close(stretches: &[Stretch], booked: &mut [Booked], rest: f64) -> Vec<f64> {
    let carries = |stretch: &Stretch| stretch.is_final && !stretch.terms.retired && stretch.units > 0.0;
    let units: f64 = stretches.iter().filter(|stretch| carries(stretch)).map(|stretch| stretch.units).sum();
    let mut extras = Vec::new();
    for (_, one) in stretches.iter().zip(booked).filter(|(stretch, _)| carries(stretch)) {
        let extra = rest * (one.units / units);
        one.charged += extra;
        one.per_unit = one.charged / one.units;
        extras.push(extra);
    }
    extras
}

/// Grams per unit of a stretch by usage: T/N, or what is left over the units to come once N was revised prospectively.
fn rate(terms: Terms, before: Option<(Terms, f64)>, used: f64, left: f64) -> f64 {
    match before {
        Some((earlier, rate)) if earlier == Terms { retired: earlier.retired, ..terms } => rate,
        Some((earlier, _))
            if terms.policy == UnitsPolicy::DynamicProspective || terms.increments != earlier.increments =>
        {
            if terms.units > used { left / (terms.units - used) } else { 0.0 }
        }
        // The first N is frozen; an error in T that was corrected is not.
        Some((earlier, rate)) if terms.policy == UnitsPolicy::FrozenCap => {
            if earlier.training.0 > 0.0 {
                rate * (terms.training.0 / earlier.training.0)
            } else {
                rate
            }
        }
        _ => terms.training.0 / terms.units,
    }
}

#[allow(clippy::cast_precision_loss, reason = "a derived value")]
fn charge(terms: Terms, stretch: &Stretch, rate: f64, used: f64, left: f64) -> Booked {
    if terms.retired {
        return Booked::default();
    }
    match terms.lifespan {
        Lifespan::Usage => {
            // Past N units, or once all is charged, units are free.
            let open =
                if terms.policy == UnitsPolicy::FrozenCap { f64::INFINITY } else { (terms.units - used).max(0.0) };
            let charged = (rate * stretch.units.min(open)).min(left);
            let per_unit = if stretch.units > 0.0 { charged / stretch.units } else { rate.min(left) };
            Booked { charged, per_unit, ..Booked::default() }
        }
        Lifespan::Time(life) => {
            let share = (terms.training.0 * (stretch.nanos as f64 / life as f64)).min(left);
            match stretch.units > 0.0 {
                true => Booked { charged: share, per_unit: share / stretch.units, ..Booked::default() },
                false => Booked { written_off: share, ..Booked::default() },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: u64 = 3_600_000_000_000;

    fn terms(training: f64, units: f64, policy: UnitsPolicy) -> Terms {
        Terms { training: GramsCo2e(training), units, policy, lifespan: Lifespan::Usage, retired: false, increments: 0 }
    }

    fn stretch(terms: Terms, units: f64) -> Stretch {
        Stretch { terms, units, nanos: HOUR, is_final: false }
    }

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
    }

    #[test]
    fn a_frozen_pool_charges_the_same_until_all_of_it_is_charged() {
        let frozen = terms(600.0, 100.0, UnitsPolicy::FrozenCap);
        let account = book(&[stretch(frozen, 90.0), stretch(frozen, 30.0), stretch(frozen, 5.0)]).expect("terms");
        let charged: Vec<f64> = account.stretches.iter().map(|one| one.charged).collect();
        near(charged[0], 540.0);
        near(charged[1], 60.0);
        near(charged[2], 0.0);
        assert!(account.fully_amortised && account.remaining.abs() < 1e-9);
    }

    #[test]
    fn a_revised_n_changes_what_follows_and_never_what_was() {
        let (old, new) = (
            terms(600.0, 100.0, UnitsPolicy::DynamicProspective),
            terms(600.0, 200.0, UnitsPolicy::DynamicProspective),
        );
        let account = book(&[stretch(old, 50.0), stretch(new, 75.0), stretch(new, 75.0)]).expect("terms");
        near(account.stretches[0].charged, 300.0);
        near(account.stretches[1].per_unit, 2.0);
        near(account.allocated, 600.0);
        let below = terms(600.0, 40.0, UnitsPolicy::DynamicProspective);
        let account = book(&[stretch(old, 50.0), stretch(below, 10.0)]).expect("terms");
        near(account.stretches[1].charged, 0.0);
        let frozen = terms(600.0, 400.0, UnitsPolicy::FrozenCap);
        let account = book(&[stretch(terms(600.0, 100.0, UnitsPolicy::FrozenCap), 50.0), stretch(frozen, 10.0)]);
        near(account.expect("terms").stretches[1].per_unit, 6.0);
    }

    #[test]
    fn a_retroactive_revision_restates_all_stretches() {
        let (old, new) = (
            terms(600.0, 100.0, UnitsPolicy::DynamicRetroactive),
            terms(600.0, 200.0, UnitsPolicy::DynamicRetroactive),
        );
        let account = book(&[stretch(old, 50.0), stretch(new, 50.0)]).expect("terms");
        near(account.stretches[0].charged, 150.0);
        near(account.allocated, 300.0);
    }

    #[test]
    fn a_life_of_time_writes_off_what_nobody_used() {
        let timed = Terms { lifespan: Lifespan::Time(10 * HOUR), ..terms(600.0, 1.0, UnitsPolicy::FrozenCap) };
        let account = book(&[stretch(timed, 3.0), stretch(timed, 0.0), stretch(timed, 6.0)]).expect("terms");
        near(account.stretches[0].per_unit, 20.0);
        near(account.stretches[2].per_unit, 10.0);
        near(account.written_off, 60.0);
        near(account.remaining, 420.0);
    }

    #[test]
    fn a_retired_pool_charges_nobody_and_what_remains_is_its_owners() {
        let frozen = terms(600.0, 100.0, UnitsPolicy::FrozenCap);
        let retired = Terms { retired: true, ..frozen };
        let account = book(&[stretch(frozen, 10.0), stretch(retired, 50.0)]).expect("terms");
        near(account.allocated, 60.0);
        near(account.remaining, 540.0);
        near(account.stretches[1].charged, 0.0);
    }

    #[test]
    fn users_of_the_final_period_carry_what_remains_and_without_one_it_is_the_owners() {
        let frozen = terms(600.0, 100.0, UnitsPolicy::FrozenCap);
        let last = |units| Stretch { is_final: true, ..stretch(frozen, units) };
        let retired = stretch(Terms { retired: true, ..frozen }, 5.0);
        let account = book(&[stretch(frozen, 10.0), last(20.0), last(10.0), retired]).expect("terms");
        near(account.stretches[0].charged, 60.0);
        near(account.stretches[1].charged, 120.0 + 360.0 * 2.0 / 3.0);
        near(account.stretches[2].per_unit, 18.0);
        near(account.remaining, 0.0);
        let unused = book(&[stretch(frozen, 10.0), last(0.0), retired]).expect("terms");
        near(unused.remaining, 540.0);
    }

    #[test]
    fn an_increment_joins_a_pool_for_the_units_to_come() {
        let before = terms(600.0, 100.0, UnitsPolicy::FrozenCap);
        let after = Terms { increments: 1, ..terms(660.0, 150.0, UnitsPolicy::FrozenCap) };
        let account = book(&[stretch(before, 50.0), stretch(after, 60.0), stretch(after, 40.0)]).expect("terms");
        near(account.stretches[0].charged, 300.0);
        near(account.stretches[1].per_unit, 3.6);
        near(account.allocated, 660.0);
    }

    #[test]
    fn what_is_no_pool_has_no_account() {
        assert!(book(&[]).is_none());
        assert!(book(&[stretch(terms(600.0, 0.0, UnitsPolicy::FrozenCap), 1.0)]).is_none());
        let timeless = Terms { lifespan: Lifespan::Time(0), ..terms(600.0, 1.0, UnitsPolicy::FrozenCap) };
        assert!(book(&[stretch(timeless, 1.0)]).is_none());
    }

    proptest! {
        #[test]
        fn whatever_happens_the_ledger_conserves_t(
            policy in prop::sample::select(alloc::vec![
                UnitsPolicy::FrozenCap, UnitsPolicy::DynamicProspective, UnitsPolicy::DynamicRetroactive,
            ]),
            stretches in prop::collection::vec((1.0f64..1e4, 0.0f64..1e4, 0u64..100, any::<bool>()), 1..20),
            timed in any::<bool>(),
        ) {
            let mut retired = false;
            let stretches: Vec<Stretch> = stretches.into_iter().map(|(n, used, hours, retires)| {
                retired |= retires && hours > 90;
                let lifespan = if timed { Lifespan::Time(200 * HOUR) } else { Lifespan::Usage };
                let terms = Terms { lifespan, retired, ..terms(1e6, n, policy) };
                Stretch { terms, units: used, nanos: hours * HOUR, is_final: hours % 7 == 0 }
            }).collect();
            let account = book(&stretches).expect("terms");
            let sum: f64 = account.stretches.iter().map(|one| one.charged + one.written_off).sum();
            prop_assert!((sum + account.remaining - 1e6).abs() < 1e-3, "T is conserved");
            prop_assert!(account.remaining > -1e-3 && account.stretches.iter().all(|one| one.charged >= 0.0));
        }
    }
}
