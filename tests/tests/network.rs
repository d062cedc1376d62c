//! Bad networks (PROC-P6): sessions that are reset at any byte, networks that lose packets or go silent, bytes that turn or
//! come late. `make network` runs the long form; `make test-rigs` the short one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions that tests call may fail the test")]
#![allow(clippy::print_stdout, reason = "a rig prints its seed first and its figures last")]

#[path = "network/packets.rs"]
mod packets;
#[path = "network/sessions.rs"]
mod sessions;
#[path = "network/silence.rs"]
mod silence;

use std::collections::BTreeMap;
use std::time::Duration;

use joulebook_tests::chaos::checker::{Checker, Mark};
use joulebook_tests::chaos::fleet::Fleet;
use joulebook_tests::chaos::oracle::Oracle;

/// How long a fleet may take to send what is left.
const DRAIN: Duration = Duration::from_secs(150);
/// Longest wait of an agent before it connects again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Sends what is left and holds everything to what the oracle knows: each record is stored once, and none was refused.
fn settle(mut fleet: Fleet, oracle: &Oracle, mut checker: Checker) {
    fleet.drain(DRAIN).unwrap();
    assert_eq!((fleet.rejected(), fleet.regressions(), fleet.lost()), (0, 0, 0), "refused, below the mark, lost");
    let all = oracle.all();
    let broken: Vec<_> = all.values().flat_map(|known| known.broken.iter()).collect();
    assert!(broken.is_empty(), "{broken:?}");
    let marks: BTreeMap<u32, Mark> =
        fleet.runtime().block_on(checker.check(&all)).unwrap_or_else(|error| panic!("{error:?}"));
    let made: u64 = all.values().map(|known| known.durable()).sum();
    let stored: u64 = marks.values().map(|mark| mark.stored).sum();
    let (lost, refused): (u64, u64) =
        marks.values().fold((0, 0), |sums, mark| (sums.0 + mark.lost, sums.1 + mark.rejected));
    println!(
        "  made {made} = stored {stored}, lost {lost}, refused {refused}; energy by node, source and hour is equal"
    );
    assert_eq!((stored, lost, refused), (made, 0, 0));
}
