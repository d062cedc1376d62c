//! Power cuts (PROC-P2): of the aggregator's database and of the agents' spools. A control run without syncs must fail,
//! or the rig sees nothing. `make crash` runs the long form; `make test-rigs` the short one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions that tests call may fail the test")]
#![allow(clippy::print_stdout, reason = "a rig prints its seed first and its figures last")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_agent::spool::{Spool, read_all};
use joulebook_tests::chaos::agent::{SEGMENT_BYTES, spool_config};
use joulebook_tests::chaos::checker::Checker;
use joulebook_tests::chaos::disk::Disk;
use joulebook_tests::chaos::fleet::Fleet;
use joulebook_tests::chaos::oracle::{Known, Oracle};
use joulebook_tests::chaos::plan::Plan;
use joulebook_tests::chaos::preload::{Environment, no_sync};
use joulebook_tests::chaos::process::{AGENTS, Process, Settings};
use joulebook_tests::chaos::report::Report;
use joulebook_tests::chaos::server::Server;
use joulebook_tests::chaos::{Random, folder_in_memory, seed, setting};

const CUTS: u64 = 40;
/// A control run has one cut for this many of the real one, and at least [`LEAST_CONTROLS`].
const CONTROLS: u64 = 4;
const LEAST_CONTROLS: u64 = 10;
/// Every stored record is compared this many times in a run; the marks of all nodes are after each cut.
const CHECKS: u64 = 4;
const DRAIN: Duration = Duration::from_secs(120);
/// A spool opens within this after a power cut, in 99 of 100 starts.
const OPENS: Duration = Duration::from_secs(1);

/// What became of the cuts of one run.
struct Outcome {
    report: Report,
    /// Each cut after which a promise was broken, in words.
    failed: Vec<String>,
}

impl Outcome {
    /// Prints the figures and requires that nothing failed, or for a control run that nearly everything did.
    fn judge(&self, synced: bool) {
        let (failed, faults) = (self.failed.len() as u64, self.report.faults);
        println!("{} | {failed} cuts lost something", self.report);
        if let Some(first) = self.failed.first() {
            println!("  first: {first}");
        }
        assert_eq!(self.report.void(), None, "{}", self.report);
        if synced {
            assert_eq!(self.failed, Vec::<String>::new());
        } else {
            assert!(
                failed * 10 >= faults * 9,
                "without syncs {failed} of {faults} cuts lost something: the rig is broken"
            );
        }
    }
}

/// What the aggregator finds on the cut disk: nothing acknowledged is missing, and with `whole` everything is as made.
async fn recovered(
    plan: Plan,
    endpoint: &str,
    promised: &BTreeMap<u32, u64>,
    made: &BTreeMap<u32, Known>,
    whole: bool,
) -> Result<()> {
    let mut checker = Checker::connect(plan, endpoint).await?;
    let marks = checker.marks(promised.keys().copied()).await?;
    let lost: u64 = promised.iter().map(|(node, acked)| acked.saturating_sub(marks[node].stored)).sum();
    ensure!(lost == 0, "{lost} of {} acknowledged records are lost", promised.values().sum::<u64>());
    if whole {
        // What was acknowledged when the power went; what was made meanwhile may be stored as well.
        let known =
            made.iter().map(|(node, known)| (*node, Known { acked: promised[node], ..known.clone() })).collect();
        checker.check(&known).await?;
    }
    Ok(())
}

fn cut_the_aggregator(name: &'static str, seed: u64, cuts: u64, environment: &Environment) -> Outcome {
    let (disk, memory) = (Disk::new().unwrap(), folder_in_memory().unwrap());
    let (plan, oracle, mut random) = (Plan::new(seed), Oracle::default(), Random::new(seed));
    let mut server = Server::new(memory.path(), &disk.live().join("db")).with(environment.clone());
    let synced = environment.is_empty();
    let (mut program, _) = server.start().unwrap();
    let mut fleet = Fleet::start(plan, &oracle, memory.path(), &server.endpoint()).unwrap();
    let mut report = Report { name, seed, ..Report::default() };
    let mut failed = Vec::new();

    for cut in 1..=cuts {
        let (acked, since) = (oracle.count_acked(), SystemClock.boot());
        std::thread::sleep(random.millis(200, 1_000));
        report.batches += oracle.count_acked() - acked;
        report.up += SystemClock.boot().since(since);
        report.in_flight += u64::from(fleet.in_flight() > 0);
        // What is promised is read before the power goes.
        let promised = oracle.acknowledged();
        let image = disk.snapshot().unwrap();
        program.kill().unwrap();
        let made = oracle.all();
        program = server.start().unwrap().0;
        report.faults += 1;

        let after = disk.mount(image).unwrap();
        let mut copy = Server::new(after.path(), &after.path().join("db"));
        let whole = synced && (cut % cuts.div_ceil(CHECKS) == 0 || cut == cuts);
        let result = copy.start().context("the aggregator does not start after the cut").and_then(|(copied, ready)| {
            report.ready.push(ready);
            let checked = fleet.runtime().block_on(recovered(plan, &copy.endpoint(), &promised, &made, whole));
            drop(copied);
            checked
        });
        if let Err(error) = result {
            failed.push(format!("cut {cut}: {error:#}"));
        }
    }
    fleet.drain(DRAIN).unwrap();
    // A control run is too short for many, and what it shows needs none.
    report.replays = synced.then(|| fleet.replays());
    drop(program);
    Outcome { report, failed }
}

/// What an agent's spool holds after a cut: every record that was durable before it and not acknowledged behind it, as
/// it was made. Returns how long it took to open.
fn spool_holds(plan: Plan, node: u32, folder: &Path, made: &Known, durable: u64) -> Result<Duration> {
    let begin = SystemClock.boot();
    let (spool, recovery) = Spool::open(&spool_config(folder, false))?;
    let ready = SystemClock.boot().since(begin);
    drop(spool);
    ensure!(recovery.highest_sequence >= durable, "{durable} durable, {} found", recovery.highest_sequence);
    let records = read_all(folder)?;
    let first = records.first().map_or(durable + 1, |record| record.sequence);
    ensure!(first <= made.acked + 1, "records {} to {} are missing", made.acked + 1, first - 1);
    let mut values = [0, 0];
    if let Some(record) = records.first() {
        for (value, column) in values.iter_mut().zip(&record.batch.columns) {
            *value = column.previous.map_or(0, |point| point.value);
        }
    }
    for (sequence, record) in (first..).zip(&records) {
        ensure!(record.sequence == sequence, "record {sequence} is missing, {} is there", record.sequence);
        let epoch = *made.epochs.get(usize::try_from(sequence)? - 1).context("a record that was never made")?;
        let batch = plan.batch(node, epoch, sequence, &mut values);
        ensure!(record.batch == batch, "record {sequence} is not what was made");
    }
    let last = first + records.len() as u64 - 1;
    ensure!(last >= durable, "{durable} durable, {last} can be read");
    Ok(ready)
}

fn cut_the_agents(name: &'static str, seed: u64, cuts: u64, environment: &Environment) -> Outcome {
    let (disk, memory) = (Disk::new().unwrap(), folder_in_memory().unwrap());
    let (plan, oracle, mut random) = (Plan::new(seed), Oracle::default(), Random::new(seed));
    let mut server = Server::new(memory.path(), &memory.path().join("db"));
    let (program, _) = server.start().unwrap();
    let settings: Vec<Settings> = (0..AGENTS)
        .map(|node| Settings {
            program: env!("CARGO_BIN_EXE_fleet-agent").into(),
            plan,
            node,
            spool: disk.live().join(Plan::node(node)),
            endpoint: server.endpoint(),
            keep_acked: false,
            segment_bytes: SEGMENT_BYTES,
            environment: environment.clone(),
        })
        .collect();
    let start = || settings.iter().map(|one| Process::start(one, &oracle).unwrap()).collect::<Vec<_>>();
    let mut running = start();
    let mut report = Report { name, seed, ..Report::default() };
    let mut failed = Vec::new();

    for cut in 1..=cuts {
        let (acked, since) = (oracle.count_acked(), SystemClock.boot());
        std::thread::sleep(random.millis(200, 1_000));
        report.batches += oracle.count_acked() - acked;
        report.up += SystemClock.boot().since(since);
        report.in_flight += u64::from(oracle.count_waiting() > 0);
        let promised = oracle.all();
        let image = disk.snapshot().unwrap();
        for agent in &mut running {
            agent.kill().unwrap();
        }
        running = start();
        // The starts told of what the killed ones had made last.
        let made = oracle.all();
        report.faults += 1;
        let after = disk.mount(image).unwrap();
        for (node, known) in &promised {
            let folder = after.path().join(Plan::node(*node));
            match spool_holds(plan, *node, &folder, &made[node], known.durable()) {
                Ok(ready) => report.ready.push(ready),
                Err(error) => {
                    failed.push(format!("cut {cut}, node {node}: {error:#}"));
                    break;
                }
            }
        }
    }
    for agent in &mut running {
        agent.drain().unwrap();
    }
    drop(program);
    let broken: Vec<_> = oracle.all().into_values().flat_map(|known| known.broken).collect();
    assert_eq!(broken, Vec::<String>::new(), "the disk that went on kept everything");
    Outcome { report, failed }
}

/// Cuts of the real run and of the control run.
fn counts() -> (u64, u64) {
    let cuts = setting("CUTS", CUTS).unwrap();
    (cuts, (cuts / CONTROLS).max(LEAST_CONTROLS).min(cuts.max(1)))
}

#[test]
fn power_cuts_take_nothing_that_the_aggregator_acknowledged() {
    let (seed, (cuts, controls)) = (seed().unwrap(), counts());
    println!("\nP2: {cuts} power cuts of the aggregator, {controls} without syncs, SEED={seed}");
    let folder = tempfile::tempdir().unwrap();
    let no_syncs = no_sync(folder.path()).unwrap();
    cut_the_aggregator("P2 aggregator, power cut", seed, cuts, &Environment::new()).judge(true);
    cut_the_aggregator("P2 aggregator, no syncs", seed, controls, &no_syncs).judge(false);
}

#[test]
fn power_cuts_take_no_durable_record_of_an_agent() {
    let (seed, (cuts, controls)) = (seed().unwrap(), counts());
    println!("\nP2: {cuts} power cuts of {AGENTS} agents, {controls} without syncs, SEED={seed}");
    let folder = tempfile::tempdir().unwrap();
    let no_syncs = no_sync(folder.path()).unwrap();
    let outcome = cut_the_agents("P2 agents, power cut", seed, cuts, &Environment::new());
    outcome.judge(true);
    assert!(outcome.report.ready_within(99) <= OPENS, "{}", outcome.report);
    cut_the_agents("P2 agents, no syncs", seed, controls, &no_syncs).judge(false);
}
