//! Backups of a database that is under load (PROC-P15): each is restored, opened and held against what was made; the
//! aggregator is killed while it makes one; an older one is put in its place with agents ahead of it. `make crash` runs the
//! long form; `make test-rigs` the short one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions that tests call may fail the test")]
#![allow(clippy::print_stdout, reason = "a rig prints its seed first and its figures last")]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_aggregator::store::rocks::RocksStore;
use joulebook_aggregator::store::{Book, Durability, Store, Table, Writes};
use joulebook_proto::admin::admin_service_client::AdminServiceClient;
use joulebook_proto::admin::{DumpRequest, GetStatusRequest};
use joulebook_tests::chaos::checker::Checker;
use joulebook_tests::chaos::fleet::Fleet;
use joulebook_tests::chaos::oracle::{Known, Oracle};
use joulebook_tests::chaos::plan::Plan;
use joulebook_tests::chaos::server::Server;
use joulebook_tests::chaos::{Random, folder_in_memory, seed, setting};
use joulebook_tests::program::{Program, binary};

/// Backups in the short form, and as many kills during one.
const BACKUPS: u64 = 4;
/// Size of the large backup in the short form.
const RESTORE_MIB: u64 = 64;
const RESTORED: Duration = Duration::from_secs(60);
const DRAIN: Duration = Duration::from_secs(120);

/// Runs a program to its end, which must be a good one, and returns what it said.
fn succeed(program: &str, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = Command::new(binary(program).unwrap()).args(arguments).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{program} {arguments:?} ended with {status}: {out}{err}");
    out.into_owned()
}

/// Asks the operator's tool for JSON.
fn admin(endpoint: &str, words: &[&str]) -> serde_json::Value {
    let arguments = [&["--aggregator", endpoint, "--timeout", "60s", "admin"], words, &["-o", "json"]].concat();
    serde_json::from_str(&succeed("joulebook", &arguments)).unwrap()
}

fn restore(backups: &Path, number: u64, to: &Path) -> Duration {
    let (from, number, to) = (backups.to_str().unwrap(), number.to_string(), to.to_str().unwrap());
    let begin = SystemClock.boot();
    succeed("joulebook-aggregator", &["restore", "--from", from, "--backup", &number, "--data-dir", to]);
    let took = SystemClock.boot().since(begin);
    let verified = succeed("joulebook-aggregator", &["verify", "--data-dir", to]);
    assert!(verified.contains("nothing is damaged"), "{verified}");
    took
}

/// How far every node is stored.
fn stored(fleet: &Fleet, plan: Plan, endpoint: &str, nodes: &BTreeMap<u32, Known>) -> BTreeMap<u32, u64> {
    let marks =
        fleet.runtime().block_on(async { Checker::connect(plan, endpoint).await?.marks(nodes.keys().copied()).await });
    marks.unwrap().into_iter().map(|(node, mark)| (node, mark.stored)).collect()
}

/// A restored backup holds everything that was acknowledged before it was begun, and only what was made.
fn holds(
    fleet: &Fleet,
    plan: Plan,
    folder: &Path,
    data: &Path,
    before: &BTreeMap<u32, u64>,
    made: &BTreeMap<u32, Known>,
) {
    let mut server = Server::new(folder, data);
    let (program, _) = server.start().unwrap();
    let known = made.iter().map(|(node, known)| (*node, Known { acked: before[node], ..known.clone() })).collect();
    let checked =
        fleet.runtime().block_on(async { Checker::connect(plan, &server.endpoint()).await?.check(&known).await });
    checked.unwrap_or_else(|error| panic!("the restored database: {error:?}"));
    drop(program);
}

#[test]
fn live_backups_restore_to_what_was_acknowledged_and_older_ones_are_filled_up_by_agents() {
    let (seed, count) = (seed().unwrap(), setting("BACKUPS", BACKUPS).unwrap());
    println!("\nP15: {count} backups under load and {count} kills during one, SEED={seed}");
    let (disk, memory) = (tempfile::tempdir().unwrap(), folder_in_memory().unwrap());
    let (plan, oracle, mut random) = (Plan::new(seed), Oracle::default(), Random::new(seed));
    let (backups, restored) = (disk.path().join("backups"), disk.path().join("restored"));
    let settings = format!("backup_dir = \"{}\"\n", backups.display());
    let mut server = Server::new(disk.path(), &disk.path().join("db")).with_settings(&settings);
    let (mut program, _) = server.start().unwrap();
    let endpoint = server.endpoint();
    let mut fleet = Fleet::start(plan, &oracle, memory.path(), &endpoint).unwrap();
    let (mut slowest, mut numbers) = (Duration::ZERO, Vec::new());

    for _ in 0..count {
        std::thread::sleep(random.millis(500, 1_500));
        let before = oracle.acknowledged();
        let number = admin(&endpoint, &["backup"])["number"].as_u64().unwrap();
        numbers.push(number);
        assert_eq!(admin(&endpoint, &["verify", "--backup", &number.to_string()])["damages"], serde_json::json!([]));
        slowest = slowest.max(restore(&backups, number, &restored));
        holds(&fleet, plan, memory.path(), &restored, &before, &oracle.all());
        std::fs::remove_dir_all(&restored).unwrap();
    }
    assert_eq!(admin(&endpoint, &["verify"])["damages"], serde_json::json!([]), "the database itself, under load");

    let mut unfinished = 0;
    for _ in 0..count {
        let words = ["--aggregator", &endpoint, "admin", "backup"];
        let tool = Program::start(binary("joulebook").unwrap(), &words).unwrap();
        std::thread::sleep(random.millis(0, 150));
        program.kill().unwrap();
        drop(tool);
        program = server.start().unwrap().0;
        let listed = admin(&endpoint, &["backups"]);
        let listed: Vec<u64> =
            listed["backups"].as_array().unwrap().iter().map(|backup| backup["number"].as_u64().unwrap()).collect();
        assert!(numbers.iter().all(|number| listed.contains(number)), "{numbers:?} were made, {listed:?} are listed");
        unfinished += u64::from(listed.len() == numbers.len());
        for number in &listed {
            assert_eq!(
                admin(&endpoint, &["verify", "--backup", &number.to_string()])["damages"],
                serde_json::json!([])
            );
        }
        numbers = listed;
    }
    let before = oracle.acknowledged();
    let number = admin(&endpoint, &["backup"])["number"].as_u64().unwrap();
    restore(&backups, number, &restored);
    holds(&fleet, plan, memory.path(), &restored, &before, &oracle.all());
    std::fs::remove_dir_all(&restored).unwrap();

    // The oldest one takes the database's place: what agents still hold behind it comes again, the rest is declared lost.
    std::thread::sleep(random.millis(500, 1_500));
    program.kill().unwrap();
    restore(&backups, numbers[0], &restored);
    let mut server = server.on(&restored);
    program = server.start().unwrap().0;
    let back = stored(&fleet, plan, &endpoint, &oracle.all());
    fleet.drain(DRAIN).unwrap();
    let (mut refilled, mut lost) = (0, 0);
    for (node, known) in oracle.all() {
        let (mark, present) = fleet.runtime().block_on(present(&endpoint, node));
        assert_eq!(mark.0, known.durable(), "node {node}: everything is stored or declared lost");
        let missing: Vec<u64> = (1..=known.durable()).filter(|sequence| !present.contains(sequence)).collect();
        assert_eq!(missing.len() as u64, mark.1, "node {node}: exactly what is missing was declared lost");
        assert!(missing.iter().all(|sequence| *sequence > back[&node]), "node {node}: the backup itself is whole");
        refilled += known.durable() - back[&node].min(known.durable()) - mark.1;
        lost += mark.1;
    }
    let counted = admin(&endpoint, &["status"])["counters"]["ack_regression_total"].as_u64().unwrap_or(0);
    assert!(
        counted >= fleet.regressions(),
        "{counted} streams are counted that went back, agents count {}",
        fleet.regressions()
    );
    println!(
        "P15 backups | seed {seed} | {} made and restored under load, {count} kills during one ({unfinished} left none) | \
         restore within {} ms | an older one: {} agents went back, {refilled} records came again, {lost} declared lost",
        count + 1,
        slowest.as_millis(),
        fleet.regressions()
    );
    assert!(fleet.regressions() > 0 && refilled > 0, "void: no agent was ahead of the backup");
    drop(program);
}

#[test]
fn a_large_backup_is_restored_within_a_minute() {
    let (seed, mebibytes) = (seed().unwrap(), setting("RESTORE_MIB", RESTORE_MIB).unwrap());
    println!("\nP15: a backup of {mebibytes} MiB, SEED={seed}");
    let (disk, mut random) = (tempfile::tempdir().unwrap(), Random::new(seed));
    let (db, backups, restored) = (disk.path().join("db"), disk.path().join("backups"), disk.path().join("restored"));
    let store = Arc::new(RocksStore::open(&db).unwrap());
    let book = Book::open(Arc::clone(&store) as Arc<dyn Store>).unwrap();
    // Random bytes: what can be compressed would make it smaller. No block is compressed together with another.
    let noise: Vec<u8> = (0..1 << 13).flat_map(|_| random.next().to_le_bytes()).collect();
    for mebibyte in 0..mebibytes {
        let mut writes = Writes::default();
        for part in 0..16 {
            writes.put(Table::Quarantine, format!("{mebibyte:08}-{part:02}"), noise.clone());
        }
        store.commit(writes, Durability::Buffered).unwrap();
    }
    let begin = SystemClock.boot();
    let backup = store.back_up(&backups, book.cluster(), None, &|_, _| ControlFlow::Continue(())).unwrap();
    let made = SystemClock.boot().since(begin);
    drop((book, store));
    let begin = SystemClock.boot();
    let (from, to) = (backups.to_str().unwrap(), restored.to_str().unwrap());
    succeed("joulebook-aggregator", &["restore", "--from", from, "--data-dir", to]);
    let took = SystemClock.boot().since(begin);
    let (size, made, millis) = (backup.bytes >> 20, made.as_millis(), took.as_millis());
    println!("P15 large backup | {size} MiB | made and read again in {made} ms | restored and opened in {millis} ms");
    assert!(size >= mebibytes, "void: {size} MiB");
    assert!(took <= RESTORED, "{took:?}");
}

/// Mark and lost records of a node, and the numbers of the records of it that are stored.
async fn present(endpoint: &str, node: u32) -> ((u64, u64), BTreeSet<u64>) {
    let mut admin = AdminServiceClient::connect(endpoint.to_owned()).await.unwrap();
    let status = admin.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    let told = status.nodes.iter().find(|told| told.node == Plan::node(node)).unwrap();
    let mark = (told.streams[0].acked_sequence, told.streams[0].lost_records);
    let mut runs =
        admin.dump(DumpRequest { node: Plan::node(node), ..DumpRequest::default() }).await.unwrap().into_inner();
    let mut present = BTreeSet::new();
    while let Some(run) = runs.message().await.unwrap() {
        present.insert(run.sequence);
    }
    (mark, present)
}
