//! Triton: one server, and a process for each version of a Python model.

use std::sync::atomic::{AtomicBool, Ordering};

use joulebook_tests::counted::{requests, wait_for_requests};
use joulebook_tests::cpu_time::process_ticks;
use joulebook_tests::engine::model_server::{ModelServer, Ports};
use joulebook_tests::engine::triton::{MODEL, file_of, start};
use joulebook_tests::installation::{AgentSettings, Installation};
use joulebook_tests::program::Program;
use joulebook_tests::timestamp::now;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::energy::{alone, cpu_energy, key, only};

/// Requests to version 1: some 8 s of its CPU time and 3 s of that of version 2, so that a clock tick is below half a percent.
const ROUNDS: u64 = 80;
const VERSIONS: [&str; 2] = ["1", "2"];

/// Asks a version as long as `goes_on` of the number of requests so far. Gives how many it answered with success and how
/// many with an error of the model, which refuses every tenth request.
fn ask(server: &ModelServer, version: &str, goes_on: impl Fn(u64) -> bool) -> [u64; 2] {
    let mut answers = [0, 0];
    for number in (0..).take_while(|number| goes_on(*number)) {
        match server.ask(version, if number % 10 == 9 { -1 } else { 1 }).unwrap() {
            200 => answers[0] += 1,
            500 => answers[1] += 1,
            status => panic!("version {version} answered {status}"),
        }
    }
    answers
}

fn ticks(pid: u32) -> f64 {
    process_ticks(pid).unwrap() as f64
}

fn used(after: [f64; 2], before: [f64; 2]) -> [f64; 2] {
    [after[0] - before[0], after[1] - before[1]]
}

#[test]
fn versions_of_triton_are_counted_exactly_and_each_has_the_energy_of_its_own_process() {
    let _alone = alone();
    let (installation, _aggregator) = Installation::start().unwrap();
    let ports = Ports::find().unwrap();
    let begin = now().unwrap();
    let settings = AgentSettings { targets: vec![ports.target("triton")], ..AgentSettings::default() };
    let mut agent = installation.start_agent(&settings).unwrap();
    let server = start(installation.folder(), ports).unwrap();
    let pids = VERSIONS.map(|version| match server.processes(&file_of(version)).unwrap()[..] {
        [pid] => pid,
        ref found => panic!("processes of version {version}: {found:?}"),
    });
    let warm = VERSIONS.map(|version| (version.to_owned(), (u64::from(server.ask(version, 1).unwrap() == 200), 0)));
    wait_for_requests(&installation, MODEL, &warm.into());

    let load = now().unwrap();
    let (own_before, ticks_before) = (ticks(server.pid()), pids.map(ticks));
    let busy_before = VERSIONS.map(|version| server.busy_seconds(version).unwrap());
    let busy = Program::start("sh", &["-c", "echo busy; while :; do :; done"]).unwrap();
    busy.wait_for("busy").unwrap();
    // Side by side, so that all work in the same seconds.
    let is_over = AtomicBool::new(false);
    let answers = std::thread::scope(|scope| {
        let second = scope.spawn(|| ask(&server, "2", |_| !is_over.load(Ordering::Relaxed)));
        let first = ask(&server, "1", |number| number < ROUNDS);
        is_over.store(true, Ordering::Relaxed);
        [first, second.join().unwrap()]
    });
    busy.freeze();
    let busy_seconds = used(VERSIONS.map(|version| server.busy_seconds(version).unwrap()), busy_before);
    // A version whose process is gone fails.
    kill(Pid::from_raw(i32::try_from(pids[1]).unwrap()), Signal::SIGKILL).unwrap();
    let failed = 2;
    for _ in 0..failed {
        assert_eq!(server.ask("2", 1).unwrap(), 500);
    }
    // The killed process can still be read: Triton does not wait for it.
    let own = ticks(server.pid()) - own_before;
    let [one, two] = used(pids.map(ticks), ticks_before);
    let other = ticks(busy.pid());
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let end = now().unwrap();

    // A request that the model answered with an error is a success to Triton, and its page does not tell.
    let ok = answers.map(|[ok, refused]| 1 + ok + refused);
    let expected = [("1".to_owned(), (ok[0], 0)), ("2".to_owned(), (ok[1], failed))];
    let counted = requests(&installation, MODEL, &["--from", &begin, "--to", &end]).unwrap();
    assert_eq!(counted, expected.into(), "requests: successful, failed");

    let rows = installation.ask(&["energy", "--by", "workload", "--from", &load, "--to", &end]).unwrap();
    let rows = rows["rows"].as_array().expect("an energy answer has rows");
    for (version, pid) in VERSIONS.into_iter().zip(pids) {
        let of_version = |row: &&Value| key(row, "name") == Some(format!("{MODEL}@{version}").as_str());
        let ids: Vec<_> = rows.iter().filter(of_version).filter_map(|row| key(row, "id")).collect();
        let process = format!("process/{pid}@");
        assert!(matches!(ids[..], [id] if id.starts_with(&process)), "{version} is served by {process}…: {ids:?}");
    }

    let model = format!("{MODEL}@1");
    let explained =
        installation.ask(&["explain", "--per", "request", "--model", &model, "--from", &load, "--to", &end]);
    // Nothing is reserved for the server, so what its versions use while none is asked is CPU time too.
    let energy = cpu_energy(&explained.unwrap(), &["cpu_dynamic", "cpu_dedicated_idle"]);
    let names = [model, format!("{MODEL}@2"), format!("process/{}@", busy.pid())];
    let joules = names.map(|name| only(&energy, &name) as f64);
    // The server's own process works for both, as long as each is busy.
    let by_busy = busy_seconds[0] / (busy_seconds[0] + busy_seconds[1]);
    let times = [one + own * by_busy, two + own * (1.0 - by_busy), other];
    let shares = |parts: [f64; 3]| parts.map(|part| part / parts.iter().sum::<f64>());
    let (by_energy, by_time) = (shares(joules), shares(times));
    println!(
        "energy {by_energy:.4?}, CPU time {by_time:.4?} of {times:.0?} ticks ({own} of the server), busy {by_busy:.4}"
    );
    // CPU time is cut to clock ticks and to seconds, for the rows and for what is held against them: some ticks of 1,500.
    for (energy, time) in by_energy.iter().zip(by_time) {
        assert!((energy - time).abs() < 0.01, "energy {by_energy:.4?}, CPU time {by_time:.4?}");
    }
    // Busy time, the next best measure, would have given version 2 far more than its process used.
    let by_process = one / (one + two);
    assert!(by_process - by_busy > 0.15, "{by_process:.4} of the CPU time and {by_busy:.4} of the busy time");
}
