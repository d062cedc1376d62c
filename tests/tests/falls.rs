//! Falls: a process kills itself before, in or after one system call on its files, at every kind of call in turn
//! (PROC-P1 and P3, failpoints). Nothing promised is lost, wherever it falls.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions that tests call may fail the test")]
#![allow(clippy::print_stdout, reason = "a rig prints its seed first and its figures last")]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use joulebook_agent::spool::Spool;
use joulebook_tests::chaos::agent::spool_config;
use joulebook_tests::chaos::checker::Checker;
use joulebook_tests::chaos::fleet::Fleet;
use joulebook_tests::chaos::oracle::Oracle;
use joulebook_tests::chaos::plan::Plan;
use joulebook_tests::chaos::preload::{Environment, Falls, POINTS, Point};
use joulebook_tests::chaos::process::{AGENTS, Process, Settings};
use joulebook_tests::chaos::server::Server;
use joulebook_tests::chaos::{Random, folder_in_memory, seed, setting};
use nix::sys::signal::Signal;

/// Falls at each point.
const FALLS: u64 = 2;
/// An agent falls at one of its first calls of a kind; each makes this many within seconds on a machine that is not busy.
const AGENT_CALLS: u64 = 25;
/// Segments so small that one is begun and one is dropped several times a second.
const SEGMENT_BYTES: u64 = 4 << 10;
/// A process that was to fall and has not by then never will.
const LIMIT: Duration = Duration::from_secs(10);
const DRAIN: Duration = Duration::from_secs(120);

/// An aggregator falls at one of its first calls of a kind: how many it makes for sure, at its start or under load.
fn aggregator_calls(point: Point) -> u64 {
    match point.call {
        "write" => 60,
        "fdatasync" => 25,
        "create" => 12,
        "fsync" => 6,
        "unlink" => 3,
        _ => 2,
    }
}

/// Prints how often each point was hit, and requires that each one was.
fn judge(name: &str, seed: u64, hits: &BTreeMap<Point, u64>, asked: u64) {
    let all: u64 = hits.values().sum();
    let list: Vec<_> = hits.iter().map(|(point, count)| format!("{point} {count}")).collect();
    println!("{name} | seed {seed} | {all} falls of {} | {}", asked * POINTS.len() as u64, list.join(", "));
    let missed: Vec<_> = POINTS.iter().filter(|point| !hits.contains_key(point)).map(Point::to_string).collect();
    assert!(missed.is_empty(), "void: never hit: {missed:?}");
}

/// Every record of every node is stored as it was made, and all of them.
fn complete(plan: Plan, oracle: &Oracle, endpoint: &str, runtime: &tokio::runtime::Runtime) {
    let compared = Checker::compare(plan, oracle, endpoint, runtime).unwrap_or_else(|error| panic!("{error:?}"));
    for (node, (known, mark)) in &compared {
        assert_eq!((mark.stored, mark.lost, mark.rejected), (known.durable(), 0, 0), "node {node}");
    }
}

#[test]
fn an_aggregator_may_fall_at_any_system_call() {
    let (seed, falls_each) = (seed().unwrap(), setting("FALLS", FALLS).unwrap());
    println!("\nP1: {falls_each} falls of the aggregator at each of {} points, SEED={seed}", POINTS.len());
    let (disk, memory) = (tempfile::tempdir().unwrap(), folder_in_memory().unwrap());
    let (plan, oracle, mut random) = (Plan::new(seed), Oracle::default(), Random::new(seed));
    let falls = Falls::build(memory.path()).unwrap();
    let mut server = Server::new(disk.path(), &disk.path().join("db"));
    let (mut program, _) = server.start().unwrap();
    let mut fleet = Fleet::start(plan, &oracle, memory.path(), &server.endpoint()).unwrap();
    let mut hits = BTreeMap::new();

    for (round, point) in (0..falls_each).flat_map(|round| POINTS.map(|point| (round, point))) {
        std::thread::sleep(random.millis(50, 300));
        program.kill().unwrap();
        // How many calls of a kind a run makes depends on the machine: one that comes too late is made up for by the first.
        for most in [aggregator_calls(point), 1] {
            let environment = falls.at(point, most, &mut random);
            let mut falling = server.clone().with(environment).spawn().unwrap();
            if let Some(status) = falling.ends_within(LIMIT).unwrap() {
                assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{point}: {status}, {}", falling.said());
                *hits.entry(point).or_default() += 1;
                break;
            }
            falling.kill().unwrap();
        }
        let promised = oracle.acknowledged();
        program = server.start().unwrap_or_else(|error| panic!("round {round}, {point}: {error:?}")).0;
        let kept = Checker::keeps(plan, &promised, &server.endpoint(), fleet.runtime());
        kept.unwrap_or_else(|error| panic!("round {round}, {point}: {error:?}"));
    }
    fleet.drain(DRAIN).unwrap();
    complete(plan, &oracle, &server.endpoint(), fleet.runtime());
    judge("P1 aggregator falls", seed, &hits, falls_each);
    drop(program);
}

#[test]
fn an_agent_may_fall_at_any_system_call() {
    let (seed, falls_each) = (seed().unwrap(), setting("FALLS", FALLS).unwrap());
    println!("\nP3: {falls_each} falls of an agent at each of {} points, SEED={seed}", POINTS.len());
    let (disk, memory) = (tempfile::tempdir().unwrap(), folder_in_memory().unwrap());
    let (plan, oracle, mut random) = (Plan::new(seed), Oracle::default(), Random::new(seed));
    let falls = Falls::build(memory.path()).unwrap();
    let mut server = Server::new(disk.path(), &disk.path().join("db"));
    let (program, _) = server.start().unwrap();
    let settings: Vec<Settings> = (0..AGENTS)
        .map(|node| Settings {
            program: env!("CARGO_BIN_EXE_fleet-agent").into(),
            plan,
            node,
            spool: memory.path().join(Plan::node(node)),
            endpoint: server.endpoint(),
            keep_acked: false,
            segment_bytes: SEGMENT_BYTES,
            environment: Environment::new(),
        })
        .collect();
    let mut running: Vec<Process> = settings.iter().map(|one| Process::start(one, &oracle).unwrap()).collect();
    let mut hits = BTreeMap::new();

    for (round, point) in (0..falls_each).flat_map(|round| POINTS.map(|point| (round, point))) {
        let node = random.below(AGENTS.into()) as usize;
        running[node].kill().unwrap();
        for most in [AGENT_CALLS, 1] {
            let environment = falls.at(point, most, &mut random);
            let falling = Settings { environment, ..settings[node].clone() };
            let fell = Process::fall(&falling, &oracle, LIMIT);
            if fell.unwrap_or_else(|error| panic!("round {round}, {point}: {error:?}")) {
                *hits.entry(point).or_default() += 1;
                break;
            }
        }
        running[node] = Process::start(&settings[node], &oracle)
            .unwrap_or_else(|error| panic!("round {round}, {point}: {error:?}"));
    }
    for agent in &mut running {
        agent.drain().unwrap();
    }
    for one in &settings {
        let (spool, _) = Spool::open(&spool_config(&one.spool, false)).unwrap();
        let state = spool.counters();
        assert_eq!((state.lost_records, state.damaged, state.foreign), (0, 0, 0), "{:?}", one.spool);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    complete(plan, &oracle, &server.endpoint(), &runtime);
    judge("P3 agents fall", seed, &hits, falls_each);
    drop(program);
}
