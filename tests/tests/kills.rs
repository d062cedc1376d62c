//! Kills (PROC-P1 and P3): an aggregator, and agents, that are killed again and again under load. `make crash` runs the
//! long forms; `make test-rigs` the short ones.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions that tests call may fail the test")]
#![allow(clippy::print_stdout, reason = "a rig prints its seed first and its figures last")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_agent::spool::{Spool, read_all};
use joulebook_tests::chaos::agent::{SEGMENT_BYTES, spool_config};
use joulebook_tests::chaos::checker::Checker;
use joulebook_tests::chaos::fleet::{BATCHES_A_SECOND, Fleet, NODES, Shape};
use joulebook_tests::chaos::oracle::Oracle;
use joulebook_tests::chaos::plan::{Plan, VALUES};
use joulebook_tests::chaos::preload::Environment;
use joulebook_tests::chaos::process::{AGENTS, Process, Settings};
use joulebook_tests::chaos::report::Report;
use joulebook_tests::chaos::secure::Keys;
use joulebook_tests::chaos::server::Server;
use joulebook_tests::chaos::{Random, folder_in_memory, seed, setting};
use joulebook_tests::program::Program;

const KILLS: u64 = 60;
const AGENT_KILLS: u64 = 20;
/// One kill in so many is made over mutual TLS too.
const TLS_PART: u64 = 5;
/// Everything stored is compared after this many kills.
const CHECK_EVERY: u64 = 50;
/// One kill in this many comes into an orderly stop.
const STOPS: u64 = 20;
/// How long a fleet may take to send what is left.
const DRAIN: Duration = Duration::from_secs(120);
/// Ready again within this, in 99 of 100 starts.
const READY: Duration = Duration::from_secs(2);
/// On a machine that is busy with other things: within so many times what the start of an empty database takes there.
const READY_TO_EMPTY: u32 = 4;
/// An empty database is started after this many kills.
const EMPTY_EVERY: u64 = 10;

/// Every promise of the run: what the oracle knows is stored, once, and nothing was refused or lost.
fn check(plan: Plan, oracle: &Oracle, endpoint: &str, runtime: &tokio::runtime::Runtime, spooled: u64) {
    let compared = Checker::compare(plan, oracle, endpoint, runtime).unwrap_or_else(|error| panic!("{error:?}"));
    let produced: u64 = compared.values().map(|(known, _)| known.durable()).sum();
    let stored: u64 = compared.values().map(|(_, mark)| mark.stored - mark.lost).sum();
    let lost: u64 = compared.values().map(|(_, mark)| mark.lost).sum();
    let rejected: u64 = compared.values().map(|(_, mark)| mark.rejected).sum();
    println!("  made {produced} = stored {stored} + lost {lost} + spooled {spooled}; {rejected} values refused");
    assert_eq!(produced * VALUES, (stored + lost + spooled) * VALUES + rejected, "every value is somewhere");
    assert_eq!((lost, rejected), (0, 0), "nothing had to be lost or refused");
}

#[test]
fn a_killed_aggregator_loses_nothing_and_counts_nothing_twice() {
    let (seed, kills) = (seed().unwrap(), setting("KILLS", KILLS).unwrap());
    println!("\nP1: {kills} kills of the aggregator, SEED={seed}");
    let (disk, memory) = (tempfile::tempdir().unwrap(), folder_in_memory().unwrap());
    let (plan, oracle, mut random) = (Plan::new(seed), Oracle::default(), Random::new(seed));
    let mut server = Server::new(disk.path(), &disk.path().join("db"));
    let (mut program, _) = server.start().unwrap();
    let mut fleet = Fleet::start(plan, &oracle, memory.path(), &server.endpoint()).unwrap();
    let mut report = Report { name: "P1 aggregator killed", seed, ..Report::default() };
    let mut empty = Duration::ZERO;

    for kill in 1..=kills {
        let (acked, since) = (oracle.count_acked(), SystemClock.boot());
        std::thread::sleep(random.millis(50, 1_500));
        report.in_flight += u64::from(fleet.in_flight() > 0);
        report.batches += oracle.count_acked() - acked;
        report.up += SystemClock.boot().since(since);
        if random.below(STOPS) == 0 {
            program.terminate();
            std::thread::sleep(random.millis(0, 3_000));
        }
        program.kill().unwrap();
        let ready;
        (program, ready) = server.start().unwrap();
        report.ready.push(ready);
        report.faults += 1;
        if kill % EMPTY_EVERY == 0 {
            let folder = tempfile::tempdir().unwrap();
            empty = empty.max(Server::new(folder.path(), &folder.path().join("db")).start().unwrap().1);
        }
        if kill % CHECK_EVERY == 0 {
            // What is acknowledged is known first, what is stored is read behind it; what is made meanwhile is known last.
            let acked = oracle.acknowledged();
            let runtime = fleet.runtime();
            let marks = runtime.block_on(async {
                Checker::connect(plan, &server.endpoint()).await?.marks(acked.keys().copied()).await
            });
            let marks = marks.unwrap();
            let lost: Vec<_> = acked.iter().filter(|(node, acked)| marks[node].stored < **acked).collect();
            assert!(lost.is_empty(), "after kill {kill}: acknowledged and not stored: {lost:?}, marks {marks:?}");
        }
    }
    fleet.drain(DRAIN).unwrap();
    report.replays = Some(fleet.replays());
    println!("{report}, an empty database {} ms at most", empty.as_millis());
    assert_eq!((fleet.rejected(), fleet.regressions(), fleet.lost()), (0, 0, 0), "refused, below the mark, lost");
    check(plan, &oracle, &server.endpoint(), fleet.runtime(), 0);
    assert_eq!(report.void(), None, "{report}");
    assert!(report.ready_within(99) <= READY.max(empty * READY_TO_EMPTY), "{report}, empty {empty:?}");
    drop(program);
}

/// Starts every agent.
fn agents(plan: Plan, folder: &Path, endpoint: &str) -> Vec<Settings> {
    let settings = |node| Settings {
        program: env!("CARGO_BIN_EXE_fleet-agent").into(),
        plan,
        node,
        spool: folder.join(Plan::node(node)),
        endpoint: endpoint.to_owned(),
        keep_acked: false,
        segment_bytes: SEGMENT_BYTES,
        environment: Environment::new(),
    };
    (0..AGENTS).map(settings).collect()
}

#[test]
fn over_mutual_tls_a_killed_aggregator_keeps_its_promises_too() {
    let (seed, kills) = (seed().unwrap(), setting("KILLS", KILLS).unwrap().div_ceil(TLS_PART));
    println!("\nP1: {kills} kills of the aggregator over mutual TLS, SEED={seed}");
    let (disk, memory) = (tempfile::tempdir().unwrap(), folder_in_memory().unwrap());
    let (plan, oracle, mut random) = (Plan::new(seed), Oracle::default(), Random::new(seed));
    let keys = Keys::new(disk.path(), &[IpAddr::V4(Ipv4Addr::LOCALHOST)]).unwrap();
    let mut server = Server::new(disk.path(), &disk.path().join("db")).secure(&keys.server);
    let (mut program, _) = server.start().unwrap();
    let address = format!("127.0.0.1:{}", server.port().unwrap());
    let shape = Shape { nodes: NODES, first: 0, batches_a_second: BATCHES_A_SECOND };
    let to = |node| Ok((format!("https://{address}"), keys.agent(node)));
    let mut fleet = Fleet::over(plan, &oracle, memory.path(), shape, to).unwrap();
    let mut report = Report { name: "P1 over mutual TLS", seed, ..Report::default() };
    for _ in 0..kills {
        let (acked, since) = (oracle.count_acked(), SystemClock.boot());
        std::thread::sleep(random.millis(500, 1_500));
        report.in_flight += u64::from(fleet.in_flight() > 0);
        report.batches += oracle.count_acked() - acked;
        report.up += SystemClock.boot().since(since);
        program.kill().unwrap();
        let ready;
        (program, ready) = server.start().unwrap();
        report.ready.push(ready);
        report.faults += 1;
    }
    fleet.drain(DRAIN).unwrap();
    println!("{report}");
    assert_eq!((fleet.rejected(), fleet.regressions(), fleet.lost()), (0, 0, 0), "refused, below the mark, lost");
    let all = oracle.all();
    let broken: Vec<_> = all.values().flat_map(|known| known.broken.iter()).collect();
    assert!(broken.is_empty(), "{broken:?}");
    let marks = fleet.runtime().block_on(async {
        let channel = keys.operator(&address).await?;
        Checker::over(plan, channel).check(&all).await
    });
    for (node, mark) in marks.unwrap_or_else(|error| panic!("{error:?}")) {
        assert_eq!((mark.stored, mark.lost, mark.rejected), (all[&node].durable(), 0, 0), "node {node}");
    }
    println!("  {} made = stored, once and as they were made", oracle.count_acked());
    assert_eq!(report.void(), None, "{report}");
    drop(program);
}

#[test]
fn killed_agents_lose_no_durable_record_and_send_none_twice() {
    let (seed, kills) = (seed().unwrap(), setting("AGENT_KILLS", AGENT_KILLS).unwrap());
    println!("\nP3: {kills} kills of {AGENTS} agents, SEED={seed}");
    let (disk, memory) = (tempfile::tempdir().unwrap(), folder_in_memory().unwrap());
    let (plan, oracle, mut random) = (Plan::new(seed), Oracle::default(), Random::new(seed));
    let mut server = Server::new(disk.path(), &disk.path().join("db"));
    let (program, _): (Program, _) = server.start().unwrap();
    let settings = agents(plan, memory.path(), &server.endpoint());
    let mut running: Vec<Process> = settings.iter().map(|one| Process::start(one, &oracle).unwrap()).collect();
    let mut report = Report { name: "P3 agents killed", seed, ..Report::default() };

    for _ in 0..kills {
        let (acked, since) = (oracle.count_acked(), SystemClock.boot());
        std::thread::sleep(random.millis(50, 1_500));
        let node = random.below(AGENTS.into()) as usize;
        let known = oracle.all().remove(&settings[node].node).unwrap();
        report.in_flight += u64::from(known.durable() > known.acked);
        report.batches += oracle.count_acked() - acked;
        report.up += SystemClock.boot().since(since);
        running[node].kill().unwrap();
        // A second kill before the first record of a start is as likely as any other.
        if random.below(4) == 0 {
            running[node] = Process::start(&settings[node], &oracle).unwrap();
            report.ready.push(running[node].ready);
            running[node].kill().unwrap();
        }
        running[node] = Process::start(&settings[node], &oracle).unwrap();
        report.ready.push(running[node].ready);
        report.faults += 1;
    }
    for agent in &mut running {
        agent.drain().unwrap();
    }
    println!("{report}");
    let mut spooled = 0;
    for one in &settings {
        let config = spool_config(&one.spool, false);
        let (spool, recovery) = Spool::open(&config).unwrap();
        let state = spool.counters();
        assert_eq!((state.lost_records, state.damaged, state.foreign), (0, 0, 0), "{:?}", one.spool);
        assert_eq!(recovery.highest_sequence, oracle.all()[&one.node].durable());
        spooled += state.highest - state.acked;
        assert!(read_all(&one.spool).is_ok(), "the spool can be read");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    check(plan, &oracle, &server.endpoint(), &runtime, spooled);
    assert_eq!(report.void(), None, "{report}");
    drop(program);
}
