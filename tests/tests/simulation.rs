//! Spool and protocol under simulated crashes, cuts and clocks (REL-R20): agents and an aggregator, their real code, on a
//! network, a time and a database of turmoil's and ours in which every choice comes from one seed.
//!
//! `SEEDS=` runs more of them; `SEED=` runs one again, event for event.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions that tests call may fail the test")]
#![allow(clippy::print_stdout, reason = "a simulation prints its seeds first and its figures last")]

#[path = "simulation/disk.rs"]
mod disk;
#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/time.rs"]
mod time;
#[path = "simulation/wire.rs"]
mod wire;
#[path = "simulation/world.rs"]
mod world;

use joulebook_tests::chaos::setting;
use std::sync::atomic::{AtomicU64, Ordering};
use world::{Counts, Outcome, run};

const SEEDS: u64 = 500;
/// Each of this many seeds is run a second time.
const AGAIN: u64 = 10;
/// Simulations at a time.
const THREADS: usize = 2;

/// Runs seeds until there are no more; the sum of what happened.
fn worker(next: &AtomicU64, last: u64) -> Counts {
    let mut counts = Counts::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed > last {
            return counts;
        }
        counts.add(&simulate(seed).counts);
    }
}

fn simulate(seed: u64) -> Outcome {
    run(seed).unwrap_or_else(|error| panic!("SEED={seed} fails: {error:?}"))
}

#[test]
fn nothing_is_lost_or_counted_twice_whatever_the_seed() {
    if std::env::var_os("SEED").is_some_and(|seed| !seed.is_empty()) {
        let outcome = simulate(setting("SEED", 0).unwrap());
        println!("{}\n{}", outcome.events.join("\n"), outcome.counts);
        return;
    }
    let seeds = setting("SEEDS", SEEDS).unwrap();
    println!("\nseeds 1 to {seeds}");
    let next = AtomicU64::new(1);
    let mut counts = Counts::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| worker(&next, seeds))).collect();
        for worker in workers {
            counts.add(&worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    println!("{seeds} seeds | {counts}");
    assert!(
        counts.agent_crashes > seeds
            && counts.aggregator_crashes > seeds
            && counts.cuts > seeds
            && counts.streams > seeds / 4,
        "void: {counts}"
    );
}

#[test]
fn a_seed_repeats_event_for_event() {
    for seed in (1..=SEEDS).step_by((SEEDS / AGAIN) as usize) {
        let (first, second) = (simulate(seed), simulate(seed));
        let differs = first.events.iter().zip(&second.events).position(|(a, b)| a != b);
        let pair = differs.map(|at| (&first.events[at], &second.events[at]));
        assert_eq!(pair, None, "SEED={seed} differs at event {differs:?}");
        assert_eq!(first.events.len(), second.events.len(), "SEED={seed}");
    }
}
