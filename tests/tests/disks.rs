//! Disks of the aggregator that fill up or fail (PROC-P7, B85, B86). `make crash` runs the long forms; `make test-rigs` the
//! short ones.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions that tests call may fail the test")]
#![allow(clippy::print_stdout, reason = "a rig prints its seed first and its figures last")]

use std::collections::BTreeMap;
use std::time::Duration;

use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_tests::chaos::checker::Checker;
use joulebook_tests::chaos::fleet::Fleet;
use joulebook_tests::chaos::oracle::Oracle;
use joulebook_tests::chaos::plan::Plan;
use joulebook_tests::chaos::preload::Falls;
use joulebook_tests::chaos::server::Server;
use joulebook_tests::chaos::small_disk::SmallDisk;
use joulebook_tests::chaos::supervised::Supervised;
use joulebook_tests::chaos::{Random, folder_in_memory, seed, setting};
use tokio::runtime::Runtime;

/// Fillings in the short form.
const FULL: u64 = 2;
const DISK_BYTES: u64 = 512 << 20;
/// What stays free while the disk is nearly full: less than the aggregator wants, more than it needs.
const NEARLY_BYTES: u64 = 64 << 20;
/// Nothing may be acknowledged over this time.
const QUIET: Duration = Duration::from_secs(2);
/// Acknowledged again within this after there is room.
const BACK: Duration = Duration::from_secs(30);
const DRAIN: Duration = Duration::from_secs(120);
/// Writes that meet a full disk.
const NO_SPACE: u64 = 5;
/// A start makes fewer writes than this; each commit makes one.
const LATER: u64 = 80;
/// Failed syncs in the short form; the long one has every number from 1 on.
const EIO: [u64; 8] = [1, 2, 3, 5, 8, 13, 29, 50];
/// A process whose sync failed is gone within this.
const GONE: Duration = Duration::from_secs(20);
/// A write that met a full disk has ended the process within this, unless it was one that nobody needs.
const SEEN: Duration = Duration::from_secs(15);
const STEP: Duration = Duration::from_millis(20);

/// Every record of every node is stored as it was made, and all of them.
fn complete(plan: Plan, oracle: &Oracle, endpoint: &str, runtime: &Runtime) {
    let all = oracle.all();
    let broken: Vec<_> = all.values().flat_map(|known| known.broken.iter()).collect();
    assert!(broken.is_empty(), "{broken:?}");
    let marks = runtime.block_on(async { Checker::connect(plan, endpoint).await?.check(&all).await });
    let marks = marks.unwrap_or_else(|error| panic!("{error:?}"));
    for (node, known) in &all {
        let mark = marks[node];
        assert_eq!((mark.stored, mark.lost, mark.rejected), (known.durable(), 0, 0), "node {node}");
    }
}

/// Waits until `done`, watching the aggregator; says how long it took. None if it was not within `limit`.
fn within(limit: Duration, supervised: &mut Supervised, mut done: impl FnMut(&Supervised) -> bool) -> Option<Duration> {
    let begin = SystemClock.boot();
    loop {
        supervised.look().unwrap();
        let passed = SystemClock.boot().since(begin);
        if done(supervised) {
            return Some(passed);
        }
        if passed > limit {
            return None;
        }
        std::thread::sleep(STEP);
    }
}

#[test]
fn b85_a_full_disk_stops_acknowledgements_and_nothing_else_and_needs_no_human() {
    let (seed, fillings) = (seed().unwrap(), setting("FULL", FULL).unwrap());
    println!("\nP7: the aggregator's disk full {fillings} times, SEED={seed}");
    let (disk, memory) = (SmallDisk::new(DISK_BYTES).unwrap(), folder_in_memory().unwrap());
    let (plan, oracle, mut random) = (Plan::new(seed), Oracle::default(), Random::new(seed));
    let mut supervised = Supervised::start(Server::new(memory.path(), &disk.path().join("db"))).unwrap();
    let endpoint = supervised.endpoint();
    let mut fleet = Fleet::start(plan, &oracle, memory.path(), &endpoint).unwrap();
    let (mut slowest, mut answered) = (Duration::ZERO, 0u64);

    for filling in 0..fillings {
        let before = oracle.count_acked();
        let going = within(BACK, &mut supervised, |_| oracle.count_acked() > before + 100);
        assert!(going.is_some(), "void: nothing was acknowledged before filling {filling}: {}", supervised.said());
        std::thread::sleep(random.millis(0, 500));
        // Every second time to the last block, while commits are under way: RocksDB itself meets the end.
        let left = if filling % 2 == 0 { NEARLY_BYTES } else { 0 };
        let filler = disk.fill(left).unwrap();
        let mut last = (oracle.count_acked(), SystemClock.boot());
        let quiet = within(BACK, &mut supervised, |_| {
            let now = (oracle.count_acked(), SystemClock.boot());
            if now.0 != last.0 {
                last = now;
            }
            now.1.since(last.1) >= QUIET
        });
        assert!(quiet.is_some(), "filling {filling}: acknowledged on and on with {} bytes free", disk.free().unwrap());
        assert!(oracle.count_waiting() > 0, "void: nothing waited to be acknowledged");
        // Questions are answered all the same, and what was acknowledged is there.
        let promised = oracle.acknowledged();
        let marks = fleet
            .runtime()
            .block_on(async { Checker::connect(plan, &endpoint).await?.marks(promised.keys().copied()).await });
        let marks = marks.unwrap_or_else(|error| panic!("filling {filling}: {error:?}: {}", supervised.said()));
        let lost: Vec<_> = promised.iter().filter(|(node, acked)| marks[node].stored < **acked).collect();
        assert!(lost.is_empty(), "filling {filling}: acknowledged and not stored: {lost:?}");
        answered += 1;
        let stopped = oracle.acknowledged();
        drop(filler);
        // Every agent, not only one that happened to ask again just then.
        let back = within(BACK, &mut supervised, |_| {
            let now = oracle.acknowledged();
            stopped.iter().all(|(node, acked)| now[node] > *acked)
        });
        slowest = slowest.max(back.unwrap_or_else(|| panic!("filling {filling}: not back: {}", supervised.said())));
    }
    let drained = std::thread::scope(|scope| {
        let watched = scope.spawn(|| fleet.drain(DRAIN));
        while !watched.is_finished() {
            supervised.look().unwrap();
            std::thread::sleep(STEP);
        }
        watched.join().unwrap()
    });
    drained.unwrap();
    complete(plan, &oracle, &endpoint, fleet.runtime());
    let (regressions, restarts) = (fleet.regressions(), supervised.restarts);
    println!(
        "P7 aggregator, disk full | seed {seed} | {fillings} fillings, {answered} answered meanwhile | back within {} ms | \
         {restarts} restarts by itself | {} records, 0 lost",
        slowest.as_millis(),
        oracle.count_acked()
    );
    assert_eq!(regressions, 0, "below the mark");
}

#[test]
fn b85_a_write_that_meets_a_full_disk_acknowledges_nothing_and_asks_for_a_restart() {
    let seed = seed().unwrap();
    println!("\nB85: ENOSPC at one write, SEED={seed}");
    let (disk, memory) = (tempfile::tempdir().unwrap(), folder_in_memory().unwrap());
    let (plan, oracle, mut random) = (Plan::new(seed), Oracle::default(), Random::new(seed));
    let falls = Falls::build(memory.path()).unwrap();
    let mut server = Server::new(disk.path(), &disk.path().join("db"));
    let (mut program, _) = server.start().unwrap();
    let mut fleet = Fleet::start(plan, &oracle, memory.path(), &server.endpoint()).unwrap();
    let (mut serving, mut unseen) = (0, 0);
    for round in 0..NO_SPACE {
        std::thread::sleep(random.millis(50, 300));
        program.kill().unwrap();
        // Later than all writes of a start, most of the time.
        let number = random.below(40) + if round % 4 == 0 { 1 } else { LATER };
        let mut failing = server.clone().with(falls.full_disk(number)).spawn().unwrap();
        match failing.ends_within(SEEN).unwrap() {
            Some(status) => {
                let said = failing.said();
                assert_eq!(status.code(), Some(75), "write {number}: {status}: {said}");
                serving += u64::from(said.contains("listening on"));
            }
            // RocksDB's own log of events: nobody needs it.
            None => unseen += 1,
        }
        let promised = oracle.acknowledged();
        program = server.start().unwrap_or_else(|error| panic!("write {number}: {error:?}")).0;
        let kept = Checker::keeps(plan, &promised, &server.endpoint(), fleet.runtime());
        kept.unwrap_or_else(|error| panic!("write {number}: {error:?}"));
    }
    fleet.drain(DRAIN).unwrap();
    complete(plan, &oracle, &server.endpoint(), fleet.runtime());
    println!(
        "B85 ENOSPC at a write | seed {seed} | {NO_SPACE} failures: {serving} while serving, {unseen} unseen | 0 lost"
    );
    assert!(serving > 0, "void: no write failed while it served");
    drop(program);
}

#[test]
fn b86_a_sync_that_fails_acknowledges_nothing_and_ends_the_process_with_74() {
    let seed = seed().unwrap();
    let numbers: Vec<u64> = match setting("EIO", 0).unwrap() {
        0 => EIO.to_vec(),
        most => (1..=most).collect(),
    };
    println!("\nB86: EIO at fdatasync number {numbers:?}, SEED={seed}");
    let (disk, memory) = (tempfile::tempdir().unwrap(), folder_in_memory().unwrap());
    let (plan, oracle, mut random) = (Plan::new(seed), Oracle::default(), Random::new(seed));
    let falls = Falls::build(memory.path()).unwrap();
    let mut server = Server::new(disk.path(), &disk.path().join("db"));
    let (mut program, _) = server.start().unwrap();
    let mut fleet = Fleet::start(plan, &oracle, memory.path(), &server.endpoint()).unwrap();
    let (mut in_flight, mut ends) = (0, BTreeMap::<bool, u64>::new());

    for number in &numbers {
        std::thread::sleep(random.millis(50, 300));
        program.kill().unwrap();
        let mut failing = server.clone().with(falls.sync_error(*number)).spawn().unwrap();
        let status = failing.ends_within(GONE).unwrap();
        let status = status.unwrap_or_else(|| panic!("fdatasync {number} failed and it goes on: {}", failing.said()));
        assert_eq!(status.code(), Some(74), "fdatasync {number}: {status}: {}", failing.said());
        *ends.entry(failing.said().contains("listening on")).or_default() += 1;
        // What the failed sync was to keep is gone: whatever was acknowledged for it is missing now.
        let promised = oracle.acknowledged();
        in_flight += u64::from(oracle.count_waiting() > 0);
        program = server.start().unwrap_or_else(|error| panic!("fdatasync {number}: {error:?}")).0;
        let kept = Checker::keeps(plan, &promised, &server.endpoint(), fleet.runtime());
        kept.unwrap_or_else(|error| panic!("fdatasync {number}: {error:?}"));
    }
    fleet.drain(DRAIN).unwrap();
    complete(plan, &oracle, &server.endpoint(), fleet.runtime());
    let (serving, starting) = (ends.get(&true).copied().unwrap_or(0), ends.get(&false).copied().unwrap_or(0));
    println!(
        "B86 EIO at fdatasync | seed {seed} | {} failures: {starting} at the start, {serving} while serving | \
         {} records, 0 lost, 0 twice",
        numbers.len(),
        oracle.count_acked()
    );
    assert!(
        serving > 0 && in_flight == numbers.len() as u64,
        "void: {serving} while serving, {in_flight} with records waiting"
    );
    drop(program);
}
