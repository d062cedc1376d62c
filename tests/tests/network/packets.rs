//! Packets that are dropped without a word between two network namespaces: a share of them, all, or those of one direction.

use super::{LONGEST_WAIT, settle};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_tests::chaos::checker::Checker;
use joulebook_tests::chaos::fleet::{Fleet, Shape};
use joulebook_tests::chaos::netns::{Namespace, alone};
use joulebook_tests::chaos::oracle::Oracle;
use joulebook_tests::chaos::plan::Plan;
use joulebook_tests::chaos::secure::Keys;
use joulebook_tests::chaos::server::Server;
use joulebook_tests::chaos::{folder_in_memory, seed, setting};
use std::net::IpAddr;
use std::time::Duration;

const NODES: u32 = 24;
const BATCHES_A_SECOND: u32 = 240;
/// Share of packets that are lost each way, in percent.
const LOSS: u8 = 30;
/// Length of each part and of each partition in the short form, in seconds.
const SECONDS: u64 = 8;
const PARTITIONS: u64 = 1;

#[test]
fn lost_packets_partitions_and_a_cut_of_one_direction_lose_nothing_and_count_nothing_twice() {
    alone(|| {
        let seed = seed().unwrap();
        let seconds = Duration::from_secs(setting("PART_SECONDS", SECONDS).unwrap());
        let partitions = setting("PARTITIONS", PARTITIONS).unwrap();
        println!("\nP6: {LOSS} % loss, {partitions} partitions, cuts of one direction, {seconds:?} each, SEED={seed}");
        let (disk, memory) = (tempfile::tempdir().unwrap(), folder_in_memory().unwrap());
        let (plan, oracle) = (Plan::new(seed), Oracle::default());
        let network = Namespace::new().unwrap();
        let cable = network.join(1).unwrap();
        let keys = Keys::new(disk.path(), &[IpAddr::V4(cable.there)]).unwrap();
        let server = Server::new(disk.path(), &disk.path().join("db")).secure(&keys.server);
        let mut server = server.within(&network);
        let (_program, _) = server.start().unwrap();
        let address = format!("{}:{}", cable.there, server.port().unwrap());
        let shape = Shape { nodes: NODES, first: 0, batches_a_second: BATCHES_A_SECOND };
        let to = |node| Ok((format!("https://{address}"), keys.agent(node)));
        let fleet = Fleet::over(plan, &oracle, memory.path(), shape, to).unwrap();
        std::thread::sleep(seconds);
        let before = fleet.latency().take();
        println!("  before: {before}");
        assert!(before.count() > 0, "void: nothing was acknowledged before");

        network.lose(LOSS).unwrap();
        std::thread::sleep(seconds);
        println!("  {LOSS} % lost: {}, {} packets dropped", fleet.latency().take(), network.dropped().unwrap());
        assert!(network.dropped().unwrap() > 100, "void: hardly anything was dropped");
        network.heal().unwrap();
        recover(&fleet, "loss");

        for number in 0..partitions + 2 {
            // Acknowledgements only, then what the agents send only, then both.
            let (comes_in, goes_out) = (number != 0, number != 1);
            let acked = oracle.count_acked();
            network.cut(comes_in, goes_out).unwrap();
            std::thread::sleep(seconds);
            let dropped = network.dropped().unwrap();
            network.heal().unwrap();
            let passed = oracle.count_acked() - acked;
            println!("  cut in {comes_in}, out {goes_out}: {dropped} packets dropped, {passed} records acknowledged");
            assert!(dropped > 0, "void: nothing was dropped");
            recover(&fleet, "a cut");
        }
        let checker = fleet.runtime().block_on(keys.operator(&address)).unwrap();
        settle(fleet, &oracle, Checker::over(plan, checker));
    });
}

/// Waits until every agent is back and nothing waits that would not without faults.
fn recover(fleet: &Fleet, from: &str) {
    let begin = SystemClock.boot();
    let usual = u64::from(BATCHES_A_SECOND);
    loop {
        let passed = SystemClock.boot().since(begin);
        if fleet.connected() == NODES as usize && fleet.waiting() < usual {
            println!("    back to what is usual {passed:?} after {from}");
            return;
        }
        assert!(passed < LONGEST_WAIT * 2, "not back after {from}: {} connected", fleet.connected());
        std::thread::sleep(Duration::from_millis(50));
    }
}
