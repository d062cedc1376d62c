//! A disk that is full, twenty times over (PROC-P7, B76): sampling goes on, what waits in memory is bounded, what is lost
//! is counted and declared, and everything is well again without a hand when there is space. `CYCLES=` and `SEED=`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions that tests call may fail the test")]
#![allow(clippy::print_stdout, reason = "a rig prints its seed first and its figures last")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use joulebook_agent::clock::{Clock as _, SystemClock};
use joulebook_agent::spool::{Baseline, Counters, Item, LocalState, Spool, SpoolConfig, SpoolError, SpoolHandle};
use joulebook_tests::chaos::disk::Small;
use joulebook_tests::chaos::{Random, seed, setting};
use joulebook_units::{Batch, BootId, BootNanos, Column, LossReason, Point, StreamGap, StreamId, Subject, UnixNanos};

const SPACE: u64 = 24 << 20;
const SECOND: u64 = 1_000_000_000;
/// Values of a batch, which takes about 20 KB: 8 MiB of memory hold some hundreds.
const SERIES: u32 = 180;
/// More batches than the memory for those that wait can hold.
const MANY: u64 = 900;
const FEW: u64 = 20;

fn config(folder: &Path) -> SpoolConfig {
    SpoolConfig {
        max_bytes: 16 << 20,
        min_free_bytes: 0,
        segment_bytes: 256 << 10,
        rewind_bytes: 1 << 20,
        ..SpoolConfig::new(folder.join("spool"))
    }
}

/// Batch number `n`: values that do not compress, of `n` alone.
fn batch(n: u64) -> (Batch, LocalState) {
    let at = BootNanos(n * SECOND);
    let mut random = Random::new(n);
    let mut point = |_| Point { at, value: random.next() >> 8 };
    let columns = (1..=SERIES).map(|series| Column { series, previous: None, points: vec![point(series)] }).collect();
    let (boot, wall) = (BootId([7; 16]), UnixNanos(5));
    let baselines =
        (1..=SERIES).map(|series| Baseline { series, raw: n, value: n, at, epoch: Random::new(n).next() }).collect();
    (Batch { boot, wall, rows: vec![at], columns, gaps: Vec::new() }, LocalState { boot, at, wall, baselines })
}

fn definitions() -> Vec<(u32, Subject)> {
    (1..=SERIES).map(|number| (number, Subject::Memory { workload: format!("unit/{number}") })).collect()
}

/// A spool and what is known of it.
struct Rig {
    disk: Small,
    spool: SpoolHandle,
    /// Batches given to the spool.
    made: u64,
    /// Whether the stream has its definitions.
    defined: bool,
    /// Of each number of each stream, the batch that it was read as.
    seen: BTreeMap<(StreamId, u64), u64>,
    lost: u64,
    /// Batches that were in memory when the agent was killed.
    unknown: u64,
    begun: u64,
    most_in_memory: u64,
}

impl Rig {
    fn counters(&self) -> Counters {
        self.spool.counters()
    }

    async fn append(&mut self, count: u64) -> u64 {
        let mut refused = 0;
        for _ in 0..count {
            self.made += 1;
            let (batch, local) = batch(self.made);
            let new = if std::mem::replace(&mut self.defined, true) { Vec::new() } else { definitions() };
            match self.spool.append(batch, local, new).await {
                Ok(_) => {}
                Err(SpoolError::NoSpace { .. }) => refused += 1,
                Err(error) => panic!("sampling must go on: {error}"),
            }
            self.most_in_memory = self.most_in_memory.max(self.counters().in_memory);
        }
        refused
    }

    /// Reads and acknowledges everything that is on the disk.
    async fn deliver(&mut self) {
        for state in self.spool.streams().await.unwrap() {
            let mut at = state.acked;
            loop {
                match self.spool.next_after(state.stream, at).await.unwrap() {
                    Item::None => break,
                    Item::Gap(StreamGap { from, to, reason, samples, .. }) => {
                        assert_eq!((from, reason), (at + 1, LossReason::NoSpace));
                        assert_eq!(samples, (to - from + 1) * u64::from(SERIES), "each value is declared once");
                        self.lost += to - from + 1;
                        at = to;
                    }
                    Item::Record { sequence, payload, .. } => {
                        let found = joulebook_proto::convert::decode_batch(&payload).unwrap();
                        let n = found.rows[0].0 / SECOND;
                        assert_eq!(found, batch(n).0, "as it was made");
                        assert_eq!(self.seen.insert((state.stream, sequence), n), None, "delivered once");
                        at = sequence;
                    }
                }
            }
            self.spool.acked(state.stream, at).await.unwrap();
        }
    }

    /// Gives space back and waits until nothing is in memory any more.
    async fn recover(&self) -> Duration {
        self.disk.free().unwrap();
        let begin = SystemClock.boot();
        // As the agent's writer does, every 2 s at most.
        while self.spool.write_waiting().await.is_err() {
            assert!(
                SystemClock.boot().since(begin) < Duration::from_secs(10),
                "space is back and the spool does not write"
            );
        }
        assert_eq!(self.counters().in_memory, 0);
        SystemClock.boot().since(begin)
    }

    /// Opens the spool anew, as after a kill: what is in memory is gone.
    async fn kill(&mut self) {
        let before = self.counters();
        self.unknown += before.in_memory;
        let folder = self.disk.path().to_owned();
        let (other, _) = Spool::open(&config(tempfile::tempdir().unwrap().path())).unwrap();
        drop(std::mem::replace(&mut self.spool, other));
        self.spool = loop {
            // The lock goes with the thread of the spool.
            match Spool::open(&config(&folder)) {
                Ok((spool, _)) => break spool,
                Err(SpoolError::Locked { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("a full disk keeps no agent from starting: {error}"),
            }
        };
        let after = self.counters();
        assert_eq!((after.lost_records, after.lost_samples), (before.lost_records, before.lost_samples));
        assert_eq!(after.highest, before.highest);
    }
}

#[tokio::test]
async fn b76_a_full_disk_stops_nothing_and_heals_by_itself() {
    let (seed, cycles) = (seed().unwrap(), setting("CYCLES", 20).unwrap());
    println!("\nP7 agent: {cycles} cycles of a full disk, SEED={seed}");
    let mut random = Random::new(seed);
    let disk = Small::new(SPACE).unwrap();
    let (spool, _) = Spool::open(&config(disk.path())).unwrap();
    let (seen, begin) = (BTreeMap::new(), SystemClock.boot());
    let mut rig = Rig { disk, spool, made: 0, defined: false, seen, lost: 0, unknown: 0, begun: 0, most_in_memory: 0 };
    let (mut slowest, mut refused, mut kills) = (Duration::ZERO, 0, 0);
    for cycle in 0..cycles {
        assert_eq!(rig.append(FEW + random.below(FEW)).await, 0, "there is space");
        rig.disk.fill().unwrap();
        let overflow = cycle % 4 == 1;
        // What the spool keeps for a rewind goes first.
        for _ in 0..MANY {
            refused += rig.append(1).await;
            if rig.counters().in_memory > 0 {
                break;
            }
        }
        assert!(rig.counters().in_memory > 0, "void: the disk was not full");
        refused += rig.append(if overflow { MANY } else { FEW + random.below(FEW) }).await;
        match cycle % 4 {
            1 => {
                let (lost, waiting) = (rig.counters().lost_records, rig.counters().in_memory);
                assert!(lost > rig.lost && waiting < MANY, "the oldest that wait are lost");
                rig.kill().await;
                kills += 1;
                // The losses are told although the disk is still full.
                rig.deliver().await;
                assert_eq!(rig.lost, lost);
            }
            2 => {
                // Acknowledging needs no space and makes some.
                rig.deliver().await;
                assert_eq!(rig.counters().in_memory, 0, "what waited is written to what became free");
                rig.deliver().await;
            }
            3 => {
                // A new stream needs a folder: it waits like everything else.
                rig.made += 1;
                let (batch, local) = batch(rig.made);
                assert!(matches!(
                    rig.spool.begin_stream(batch, local, definitions()).await,
                    Err(SpoolError::NoSpace { .. })
                ));
                rig.begun += 1;
            }
            _ => {}
        }
        slowest = slowest.max(rig.recover().await);
        assert_eq!(rig.append(1).await, 0);
        rig.deliver().await;
    }
    let counters = rig.counters();
    println!(
        "P7 agent | seed {seed} | {cycles} cycles, {kills} kills, {} batches, {} delivered, {} lost and declared, {} in memory \
         when killed | {refused} waited, {} at most | slowest recovery {slowest:.1?} | {:.1?} in all",
        rig.made,
        rig.seen.len(),
        rig.lost,
        rig.unknown,
        rig.most_in_memory,
        SystemClock.boot().since(begin)
    );
    assert_eq!(rig.seen.len() as u64 + rig.lost + rig.unknown, rig.made, "produced = delivered + lost + unknown");
    assert_eq!(counters.lost_records, rig.lost, "counted exactly");
    assert_eq!(counters.lost_samples, rig.lost * u64::from(SERIES));
    assert_eq!((counters.waiting, counters.in_memory), (0, 0));
    let order: Vec<u64> = rig.seen.values().copied().collect();
    assert!(rig.begun > 0 || order.is_sorted(), "in order");
}

#[tokio::test]
async fn the_spool_leaves_free_what_others_need() {
    let disk = Small::new(SPACE).unwrap();
    let free = || {
        let state = nix::sys::statvfs::statvfs(disk.path()).unwrap();
        state.blocks_available() * state.fragment_size()
    };
    // Room for all that the cap allows, and only half of it may be used.
    let (floor, segment) = (free() - (8 << 20), config(disk.path()).segment_bytes);
    let (spool, _) = Spool::open(&SpoolConfig { min_free_bytes: floor, ..config(disk.path()) }).unwrap();
    let mut least = u64::MAX;
    for n in 1..=MANY {
        let (batch, local) = batch(n);
        let new = if n == 1 { definitions() } else { Vec::new() };
        spool.append(batch, local, new).await.unwrap();
        least = least.min(free());
    }
    let counters = spool.counters();
    println!("{} of {MANY} batches lost, {least} bytes left free of {floor} that must be", counters.lost_records);
    assert!(least + segment >= floor, "{least} bytes are free, {floor} must be");
    assert!(counters.lost_records > 0 && counters.in_memory == 0, "void: {counters:?}");
    let (mut at, mut told, mut read) = (0, 0, 0);
    loop {
        match spool.next_after(spool.stream(), at).await.unwrap() {
            Item::None => break,
            Item::Gap(gap) => (at, told) = (gap.to, told + gap.to - gap.from + 1),
            Item::Record { sequence, .. } => (at, read) = (sequence, read + 1),
        }
    }
    assert_eq!((told, told + read), (counters.lost_records, MANY), "the oldest are lost, counted and declared");
}
