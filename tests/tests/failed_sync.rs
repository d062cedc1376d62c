//! An agent whose disk fails to sync (PROC-P7, B86): it ends with 74, since what the sync was to keep may be gone, and what
//! the next run of it delivers is whole. `EIO=50` tries every sync from the first to the fiftieth.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions that tests call may fail the test")]
#![allow(clippy::print_stdout, reason = "a rig prints its figures last")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_agent::spool::{Spool, SpoolConfig, read_all};
use joulebook_tests::chaos::preload::{Environment, Falls};
use joulebook_tests::chaos::setting;
use joulebook_tests::powercap::Powercap;
use joulebook_tests::program::{Program, binary};
use joulebook_units::Subject;

/// Syncs that fail in the short form.
const EIO: [u64; 4] = [1, 2, 5, 17];
/// Ten syncs a second and more: the fiftieth has long failed.
const GONE: Duration = Duration::from_secs(60);
const WATTS: u32 = 200;
const STEP: Duration = Duration::from_millis(20);
/// Records that a run without a fault adds.
const MORE: usize = 5;

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn agent(folder: &Path, environment: &Environment) -> Program {
    let mut command = Command::new(binary("joulebook-agent").unwrap());
    command.arg("--config").arg(folder.join("agent.toml"));
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    Program::spawn(command).unwrap()
}

#[test]
fn b86_an_agent_whose_sync_fails_ends_with_74_and_its_energy_stays_whole() {
    let numbers: Vec<u64> = match setting("EIO", 0).unwrap() {
        0 => EIO.to_vec(),
        most => (1..=most).collect(),
    };
    println!("\nB86: EIO at the agent's fdatasync number {numbers:?}");
    let folder = tempfile::tempdir().unwrap();
    let (root, spool) = (folder.path(), folder.path().join("spool"));
    let falls = Falls::build(root).unwrap();
    write(root, "proc/cpuinfo", "processor : 0\nvendor_id : GenuineIntel\nmodel name : Fake\n");
    write(root, "proc/stat", "cpu 50 0 0 50 0 0 0 0\n");
    // Nobody listens there: everything stays in the spool.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let at = |name: &str| root.join(name).display().to_string();
    let config = format!(
        "node = \"under-test\"\naggregator = \"http://{address}\"\ninsecure_loopback = true\n[spool]\ndir = \"{}\"\n\
         min_free_bytes = 0\nkeep_acked = true\n[sampling]\ntick = \"100ms\"\nworkloads = \"1s\"\nbatch_rows = 1\n[roots]\n\
         sysfs = \"{}\"\nprocfs = \"{}\"\ncgroup = \"{}\"\n[nvml]\nenabled = false\n",
        spool.display(),
        at("sys"),
        at("proc"),
        at("cgroup")
    );
    write(root, "agent.toml", &config);
    let mut zone = Powercap::new(&root.join("sys")).unwrap().zone("intel-rapl:0", "package-0", 1_000).unwrap();
    let mut flow = |mut done: Box<dyn FnMut() -> bool + '_>| {
        let begin = SystemClock.boot();
        while !done() {
            zone.flow(WATTS, STEP).unwrap();
            std::thread::sleep(STEP);
            assert!(SystemClock.boot().since(begin) < GONE, "it takes longer than {GONE:?}");
        }
    };

    let mut started = 0;
    for number in &numbers {
        let mut failing = agent(root, &falls.sync_error(*number));
        flow(Box::new(|| failing.has_ended()));
        let status = failing.wait().unwrap();
        assert_eq!(status.code(), Some(74), "sync {number}: {status}: {}", failing.said());
        started += u64::from(failing.said().contains("sampling every"));
        let (before, mut sound) =
            (read_all(&spool).map_or(0, |records| records.len()), agent(root, &Environment::new()));
        flow(Box::new(|| read_all(&spool).is_ok_and(|records| records.len() >= before + MORE)));
        // A clean stop waits ten seconds for the aggregator that is not there: the last one does, the others are killed.
        if Some(number) == numbers.last() {
            assert_eq!(sound.stop().unwrap().code(), Some(0), "{}", sound.said());
        } else {
            sound.kill().unwrap();
        }
    }
    let (opened, recovery) = Spool::open(&SpoolConfig::new(spool.clone())).unwrap();
    let counters = opened.counters();
    let is_package = |subject: &Subject| matches!(subject, Subject::Energy(source) if source.id == "rapl/package-0");
    let package = recovery.dictionary.iter().find(|(_, subject)| is_package(subject)).map(|(series, _)| *series);
    let records = read_all(&spool).unwrap();
    let mut last = None;
    for record in &records {
        for column in record.batch.columns.iter().filter(|column| Some(column.series) == package) {
            let from = column.previous.map(|point| point.value);
            assert!(last.is_none() || from == last, "record {}: goes on from {from:?}, not {last:?}", record.sequence);
            last = column.points.last().map(|point| point.value);
        }
    }
    println!(
        "B86 agent | {} syncs failed, {started} of them after sampling had begun | {} records, {} µJ without a hole",
        numbers.len(),
        records.len(),
        last.unwrap()
    );
    assert!(started > 0, "void: no sync failed while it sampled");
    assert_eq!(counters.lost_records, 0, "nothing that was durable is lost");
}
