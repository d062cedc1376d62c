//! More than the aggregator can take (PROC-P11): it refuses, in bounded memory, and loses nothing; who sends too much
//! costs the others little.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions that tests call may fail the test")]
#![allow(clippy::print_stdout, reason = "a rig prints its seed first and its figures last")]

use std::collections::BTreeMap;
use std::time::Duration;

use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_agent::uplink::Security;
use joulebook_proto::admin::GetStatusRequest;
use joulebook_proto::admin::admin_service_client::AdminServiceClient;
use joulebook_tests::chaos::checker::Checker;
use joulebook_tests::chaos::fleet::{Fleet, Shape};
use joulebook_tests::chaos::group::MemoryGroup;
use joulebook_tests::chaos::memory::Observer;
use joulebook_tests::chaos::oracle::Oracle;
use joulebook_tests::chaos::plan::Plan;
use joulebook_tests::chaos::preload::slow_sync;
use joulebook_tests::chaos::server::Server;
use joulebook_tests::chaos::{folder_in_memory, seed, setting};

/// What the aggregator may have, in bytes.
const MEMORY: u64 = 512 << 20;
const NODES: u32 = 40;
/// Three times what it takes while a sync takes a second and a commit at most 256 records.
const BATCHES_A_SECOND: u32 = 800;
/// How long records pile up while it is away, and how long it is overloaded, in seconds.
const SECONDS: u64 = 8;
/// Nodes with their fair share of batches a second, and one that makes a hundred times as many as each.
const FAIR: Shape = Shape { nodes: 20, first: 0, batches_a_second: 40 };
const GREEDY: Shape = Shape { nodes: 1, first: 20, batches_a_second: 200 };
/// A fair node's record is acknowledged within so many times what it takes without the greedy one.
const TIMES: u32 = 2;
/// A machine on which it takes longer in peace can show nothing about time.
const PEACE: Duration = Duration::from_millis(250);
const DRAIN: Duration = Duration::from_secs(120);

fn counters(fleet: &Fleet, endpoint: &str) -> BTreeMap<String, u64> {
    let asked = fleet.runtime().block_on(async {
        let mut admin = AdminServiceClient::connect(endpoint.to_owned()).await?;
        Ok::<_, Box<dyn std::error::Error>>(admin.get_status(GetStatusRequest {}).await?.into_inner())
    });
    asked.unwrap().counters.into_iter().collect()
}

/// Sends what is left; everything that was made is stored once, and as it was made.
fn settle(mut fleets: Vec<Fleet>, plan: Plan, oracle: &Oracle, endpoint: &str) {
    for fleet in &mut fleets {
        fleet.drain(DRAIN).unwrap();
        assert_eq!((fleet.rejected(), fleet.regressions(), fleet.lost()), (0, 0, 0), "refused, below the mark, lost");
    }
    let all = oracle.all();
    let checked = fleets[0].runtime().block_on(async { Checker::connect(plan, endpoint).await?.check(&all).await });
    let marks = checked.unwrap_or_else(|error| panic!("{error:?}"));
    let made: u64 = all.values().map(|known| known.durable()).sum();
    let stored: u64 = marks.values().map(|mark| mark.stored).sum();
    println!("  made {made} = stored {stored}");
    assert!(marks.iter().all(|(node, mark)| mark.stored == all[node].durable() && mark.lost + mark.rejected == 0));
}

#[test]
fn overload_is_refused_in_bounded_memory_and_loses_nothing() {
    let (seed, seconds) = (seed().unwrap(), Duration::from_secs(setting("OVERLOAD_SECONDS", SECONDS).unwrap()));
    println!(
        "\nP11: {NODES} nodes, {BATCHES_A_SECOND} batches/s beside what piled up, {} MiB, SEED={seed}",
        MEMORY >> 20
    );
    let (disk, memory) = (tempfile::tempdir().unwrap(), folder_in_memory().unwrap());
    let (plan, oracle) = (Plan::new(seed), Oracle::default());
    let group = MemoryGroup::new(MEMORY).unwrap();
    let slow = disk.path().join("slow");
    let slowly = slow_sync(disk.path(), &slow).unwrap();
    let mut server = Server::new(disk.path(), &disk.path().join("db")).after(&group.words()).with(slowly);
    let (mut program, _) = server.start().unwrap();
    let shape = Shape { nodes: NODES, first: 0, batches_a_second: BATCHES_A_SECOND };
    let to = |_| Ok((server.endpoint(), Security::PlaintextOnLoopback));
    let fleet = Fleet::over(plan, &oracle, memory.path(), shape, to).unwrap();
    program.kill().unwrap();
    std::thread::sleep(seconds);
    let piled = fleet.waiting();
    let (program, _) = server.start().unwrap();
    std::fs::write(&slow, "").unwrap();
    let observer = Observer::start(program.pid()).unwrap();
    let (acked, begin) = (oracle.count_acked(), SystemClock.boot());
    std::thread::sleep(seconds);
    let (took, taken) = (SystemClock.boot().since(begin), oracle.count_acked() - acked);
    let counters = counters(&fleet, &server.endpoint());
    let (resident, files) = observer.most();
    let pressed = counters.get("pressure_queue_total").copied().unwrap_or(0);
    println!(
        "  {piled} records had piled up; {taken} taken in {took:?}, {} wait; no credit {pressed} times; {} MiB, {files} files",
        fleet.waiting(),
        resident >> 20,
    );
    println!("  group: memory ran out {} times, {} kills", group.failures().unwrap(), group.kills().unwrap());
    std::fs::remove_file(&slow).unwrap();
    settle(vec![fleet], plan, &oracle, &server.endpoint());
    assert_eq!(group.kills().unwrap(), 0, "a process was killed for memory");
    assert!(resident <= MEMORY, "{resident} bytes");
    assert!(piled > u64::from(BATCHES_A_SECOND), "void: only {piled} records had piled up");
    let overload = u64::from(BATCHES_A_SECOND) * took.as_secs() * 2 / 3;
    assert!(taken < overload, "void: {taken} records were taken in {took:?}, that was no overload");
    assert!(pressed > 0, "it never stopped granting credit: {counters:?}");
    drop(program);
}

#[test]
fn a_node_at_a_hundred_times_its_share_costs_the_others_little() {
    let (seed, seconds) = (seed().unwrap(), Duration::from_secs(setting("OVERLOAD_SECONDS", SECONDS).unwrap()));
    println!("\nP11: {FAIR:?} beside {GREEDY:?}, SEED={seed}");
    let (disk, memory) = (tempfile::tempdir().unwrap(), folder_in_memory().unwrap());
    let (plan, oracle) = (Plan::new(seed), Oracle::default());
    let mut server = Server::new(disk.path(), &disk.path().join("db"));
    let (program, _) = server.start().unwrap();
    let to = |_| Ok((server.endpoint(), Security::PlaintextOnLoopback));
    let fair = Fleet::over(plan, &oracle, memory.path(), FAIR, to).unwrap();
    std::thread::sleep(seconds / 2);
    fair.latency().take();
    std::thread::sleep(seconds);
    let before = fair.latency().take();
    let greedy = Fleet::over(plan, &oracle, memory.path(), GREEDY, to).unwrap();
    std::thread::sleep(seconds);
    let during = fair.latency().take();
    println!("  alone:    {before}\n  together: {during}\n  greedy:   {}", greedy.latency().take());
    settle(vec![fair, greedy], plan, &oracle, &server.endpoint());
    drop(program);
    if before.within(99) > PEACE {
        println!("  void (time only): {before} alone");
        return;
    }
    assert!(during.within(99) <= before.within(99) * TIMES, "{during}, alone {before}");
}
