//! Hostile and broken clients (PROC-P10): 910 of them in a network of their own, beside an honest fleet.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions that tests call may fail the test")]
#![allow(clippy::print_stdout, reason = "a rig prints its seed first and its figures last")]

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use joulebook_tests::chaos::checker::Checker;
use joulebook_tests::chaos::fleet::{Fleet, Shape};
use joulebook_tests::chaos::hostile::{CROWD, Kind, attack};
use joulebook_tests::chaos::memory::Observer;
use joulebook_tests::chaos::netns::{Namespace, alone};
use joulebook_tests::chaos::oracle::Oracle;
use joulebook_tests::chaos::plan::Plan;
use joulebook_tests::chaos::secure::Keys;
use joulebook_tests::chaos::server::Server;
use joulebook_tests::chaos::{folder_in_memory, seed, setting};

/// Honest nodes, and the batches that they make in a second.
const NODES: u32 = 50;
const BATCHES_A_SECOND: u32 = 100;
/// Length of the attack in the short form, and of the time before it that it is held against, in seconds.
const ATTACK_SECONDS: u64 = 25;
const BEFORE: Duration = Duration::from_secs(12);
/// Most memory of the aggregator.
const RESIDENT: u64 = 512 << 20;
/// A silent peer is gone within this.
const SILENT_GONE: Duration = Duration::from_secs(10);
/// An honest record is acknowledged within this in 99 of 100 cases, and within so many times what it takes in peace.
const ACKED: Duration = Duration::from_secs(1);
const TIMES_PEACE: u32 = 2;
/// A machine on which it takes longer in peace can show nothing about time.
const PEACE: Duration = Duration::from_millis(250);
/// What is held against an attack at least: below it, two cores that all sides share decide.
const LEAST: Duration = Duration::from_millis(150);
const DRAIN: Duration = Duration::from_secs(60);

/// Lets this thread, and those that it starts, run behind all others: attackers have machines of their own.
fn give_way() {
    let thread = nix::unistd::gettid().to_string();
    let done = Command::new("renice").args(["-n", "19", "-p", &thread]).stdout(Stdio::null()).status();
    assert!(done.is_ok_and(|status| status.success()), "renice");
}

#[test]
fn hostile_clients_cost_an_honest_fleet_neither_records_nor_time_and_the_server_no_memory() {
    alone(|| {
        let seed = seed().unwrap();
        let lasts = Duration::from_secs(setting("ATTACK_SECONDS", ATTACK_SECONDS).unwrap());
        println!("\nP10: {CROWD:?} beside {NODES} honest nodes for {lasts:?}, SEED={seed}");
        let (disk, memory) = (tempfile::tempdir().unwrap(), folder_in_memory().unwrap());
        let (plan, oracle) = (Plan::new(seed), Oracle::default());
        let (network, elsewhere) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        let honest = network.join(1).unwrap();
        let addresses = [IpAddr::V4(honest.there), IpAddr::V4([10, 77, 2, 2].into())];
        let keys = Keys::new(disk.path(), &addresses).unwrap();
        let mut server = Server::new(disk.path(), &disk.path().join("db")).secure(&keys.server).within(&network);
        let (program, _) = server.start().unwrap();
        let (pid, port) = (program.pid(), server.port().unwrap());
        let address = format!("{}:{port}", honest.there);
        let shape = Shape { nodes: NODES, first: 0, batches_a_second: BATCHES_A_SECOND };
        let to = |node| Ok((format!("https://{address}"), keys.agent(node)));
        let fleet = Fleet::over(plan, &oracle, memory.path(), shape, to).unwrap();
        // Starting is not what is compared.
        std::thread::sleep(BEFORE / 3);
        fleet.latency().take();
        std::thread::sleep(BEFORE);
        let before = fleet.latency().take();
        println!("  peace:  {before}");

        let observer = Observer::start(pid).unwrap();
        let (sessions, enemies) = (
            fleet.sessions(),
            std::thread::scope(|scope| {
                let attackers = scope.spawn(|| {
                    elsewhere.enter().unwrap();
                    give_way();
                    let cable = network.join(2).unwrap();
                    let target = SocketAddr::from((cable.there, port));
                    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
                    threads.unwrap().block_on(attack(target, &keys, plan, &CROWD, lasts)).unwrap()
                });
                attackers.join().unwrap()
            }),
        );
        let during = fleet.latency().take();
        let (resident, files) = observer.most();
        println!("  attack: {during}");
        println!("  {enemies}");
        println!(
            "  aggregator: at most {} MiB resident, {files} files; honest sessions {sessions}, later {}",
            resident >> 20,
            fleet.sessions()
        );
        let mut fleet = fleet;
        fleet.drain(DRAIN).unwrap();
        let all = oracle.all();
        assert_eq!((fleet.rejected(), fleet.regressions(), fleet.lost()), (0, 0, 0), "refused, below the mark, lost");
        let checked =
            fleet.runtime().block_on(async { Checker::over(plan, keys.operator(&address).await?).check(&all).await });
        let marks = checked.unwrap_or_else(|error| panic!("{error:?}"));
        let made: u64 = all.values().map(|known| known.durable()).sum();
        println!("  made {made} = stored {}", marks.values().map(|mark| mark.stored).sum::<u64>());
        assert!(marks.iter().all(|(node, mark)| mark.stored == all[node].durable() && mark.lost == 0));
        assert!(resident <= RESIDENT, "{resident} bytes");
        let silent = enemies.of(Kind::Silent);
        assert!(silent.ended >= 500 && silent.longest <= SILENT_GONE, "{silent:?}");
        for (kind, count) in CROWD.into_iter().filter(|(kind, _)| *kind != Kind::Silent) {
            // Silent peers of the same address push some of them out; the others come in.
            let fate = enemies.of(kind);
            assert!(fate.entered * 2 >= count as u64, "void: {kind:?}: {fate:?}");
        }
        for kind in [Kind::Resetter, Kind::Headers] {
            let fate = enemies.of(kind);
            assert!(fate.ended >= fate.entered * 9 / 10, "they are hung up on: {kind:?}: {fate:?}");
        }
        if before.within(99) > PEACE {
            println!("  void (time only): {before} in peace");
            return;
        }
        let limit = ACKED.min(before.within(99).max(LEAST) * TIMES_PEACE);
        assert!(during.within(99) <= limit, "{during}, in peace {before}");
    });
}
