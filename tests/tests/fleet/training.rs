//! Training: each pool's ledger conserves T, units are those that were served, and a default answer has none of it.

use super::*;
use joulebook_aggregator::query::{Job, JobOf};
use joulebook_aggregator::training::{Disclosure, Family, Served, measure, pools};
use joulebook_tests::scripted::training::DISCLOSED;

#[test]
fn each_ledger_conserves_t_and_its_units_are_those_that_were_served() {
    let fleet = &*FLEET;
    let (truth, pools) = (truth(fleet), pools(&fleet.book, None).expect("read"));
    let served = |version: &str| truth.versions[version].output_tokens as f64;
    let family = Family::new(&pools, Served::new(&fleet.book, fleet.now));
    let account = |pool: &str| family.account_at(pool, fleet.now).expect("a ledger");
    for disclosed in DISCLOSED {
        let account = account(disclosed.pool);
        let sum = account.allocated + account.written_off + account.remaining;
        assert!(close(sum, account.training, 1e-9), "{}: {account:?}", disclosed.pool);
        assert!(account.allocated > 0.0, "{}", disclosed.pool);
    }
    // A unit of what was tuned draws on its base too; `chat-1` is retired and passes on what it did not charge.
    let expected = [served("chat@1"), served("chat@2"), served("code@1") + served("code@2"), served("code@2")];
    for (disclosed, expected) in DISCLOSED.iter().zip(expected) {
        let used = account(disclosed.pool).used;
        assert!(close(used, expected, 1e-12), "{}: {used}, not {expected}", disclosed.pool);
    }
    let (first, second) = (account("chat-1"), account("chat-2"));
    assert!(close(first.allocated, served("chat@1") * DISCLOSED[0].grams / DISCLOSED[0].units, 1e-9));
    assert!(close(second.training, DISCLOSED[1].grams + first.remaining, 1e-9));
}

#[test]
fn a_default_answer_has_no_training_and_an_extended_one_what_its_units_carry() {
    let fleet = &*FLEET;
    let asked = GetSciRequest {
        selector: selected("code", "2"),
        ..question(fleet.script.window(), IdlePolicy::ReservedCapacityTime)
    };
    let default = ask(fleet, &asked).remove(0);
    let extended = ask(fleet, &GetSciRequest { extended: true, ..asked }).remove(0);
    assert_eq!(default.sci, extended.sci);
    assert_eq!(default.extended.expect("always there").training_g, None);
    let block = extended.extended.expect("always there");
    let units = truth(fleet).versions["code@2"].output_tokens as f64;
    let tuned = &DISCLOSED[3];
    // A tuned version draws on its base for each unit, and on its own pool while anything is left of it.
    let own = (tuned.grams / tuned.units * units).min(tuned.grams);
    let base = DISCLOSED[2].grams / DISCLOSED[2].units * units;
    let training = block.training_g.expect("every gate is met");
    assert!(close(training, own + base, 1e-9), "{training}, not {own} + {base}");
}

#[test]
fn a_measured_job_yields_its_t_and_none_of_it_is_in_an_answer() {
    let fleet = &*FLEET;
    let truth = truth(fleet);
    let job = Job { of: JobOf::Workload("container/tuner".to_owned()), nodes: vec![], window: fleet.script.window() };
    let used = fleet.query().job(&job).expect("it ran");
    let joules = used.energy.to_joules().0;
    assert!(close(joules, truth.tuning_j, 1e-7), "{joules}, not {}", truth.tuning_j);
    assert!(close(used.operational.0, truth.tuning_g, 1e-7), "{:?}, not {}", used, truth.tuning_g);
    assert!(used.embodied.0 > 0.0);
    // Whatever the policy, the versions have all grams but these: `grams` holds them against the truth.
    let rfc3339 = |at: UnixNanos| jiff::Timestamp::from_nanosecond(at.0.into()).expect("a time").to_string();
    let text = |workload: &str| {
        format!(
            "{{\"schema\":\"joulebook-training/1\",\"pool\":\"tuned\",\"model\":\"code\",\"version\":\"2\",\
             \"scope\":\"final_run\",\"units\":1e9,\"unit\":\"output_token\",\
             \"measured\":{{\"workload\":\"{workload}\",\"nodes\":[\"iad-1\"],\"from\":\"{}\",\"to\":\"{}\"}}}}",
            rfc3339(job.window.start()),
            rfc3339(job.window.end())
        )
    };
    let mut disclosure = Disclosure::parse(&text("container/tuner")).expect("a document");
    assert!(disclosure.is_unmeasured());
    measure(&fleet.query(), &mut disclosure).expect("measured");
    assert!(close(disclosure.training().0, used.operational.0 + used.embodied.0, 1e-12));
    let mut nothing = Disclosure::parse(&text("container/nobody")).expect("a document");
    assert!(measure(&fleet.query(), &mut nothing).expect_err("it used nothing").to_string().contains("nobody"));
}
