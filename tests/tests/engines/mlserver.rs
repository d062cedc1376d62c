//! MLServer: one process listens, another one does the inference of all versions.

use joulebook_tests::cpu_time::process_ticks;
use joulebook_tests::engine::mlserver::{MODEL, start};
use joulebook_tests::engine::model_server::Ports;
use joulebook_tests::installation::{AgentSettings, Installation};
use joulebook_tests::program::Program;
use joulebook_tests::timestamp::now;

use crate::energy::{alone, cpu_energy, only, requests, wait_for_requests};

/// Rounds of one request to each version: some 8 s of work, many rounds between two scrapes.
const ROUNDS: u64 = 200;
/// Requests that fail in version v2.
const FAILURES: u64 = 3;
const VERSIONS: [&str; 2] = ["v1", "v2"];

#[test]
fn versions_of_mlserver_are_counted_exactly_and_share_the_energy_of_its_processes_by_busy_time() {
    let _alone = alone();
    let (installation, _aggregator) = Installation::start().unwrap();
    let ports = Ports::find().unwrap();
    let begin = now().unwrap();
    let settings = AgentSettings { targets: vec![ports.target("mlserver")], ..AgentSettings::default() };
    let mut agent = installation.start_agent(&settings).unwrap();
    let server = start(installation.folder(), ports).unwrap();
    let warm = VERSIONS.map(|version| (version.to_owned(), (u64::from(server.ask(version, 1).unwrap() == 200), 0)));
    wait_for_requests(&installation, MODEL, &warm.into());

    let load = now().unwrap();
    let mut processes = server.processes("").unwrap();
    assert!(!processes.is_empty(), "the worker is a process of its own");
    processes.push(server.pid());
    let ticks = || processes.iter().map(|pid| process_ticks(*pid).unwrap() as f64).collect::<Vec<f64>>();
    let busy_seconds = || VERSIONS.map(|version| server.busy_seconds(version).unwrap());
    let (ticks_before, busy_before) = (ticks(), busy_seconds());
    let busy = Program::start("sh", &["-c", "echo busy; while :; do :; done"]).unwrap();
    busy.wait_for("busy").unwrap();
    for _ in 0..ROUNDS {
        for version in VERSIONS {
            assert_eq!(server.ask(version, 1).unwrap(), 200);
        }
    }
    busy.freeze();
    for _ in 0..FAILURES {
        assert_eq!(server.ask("v2", -1).unwrap(), 400);
    }
    // A client that asks for a version that does not exist makes a series of it, but no version.
    assert_eq!(server.ask("v9", 1).unwrap(), 404);
    let used = |after: &[f64], before: &[f64]| after.iter().zip(before).map(|(a, b)| a - b).collect::<Vec<f64>>();
    let (ticks, busy_seconds) = (used(&ticks(), &ticks_before), used(&busy_seconds(), &busy_before));
    let other = process_ticks(busy.pid()).unwrap() as f64;
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let end = now().unwrap();

    let expected = [("v1".to_owned(), (1 + ROUNDS, 0)), ("v2".to_owned(), (1 + ROUNDS, FAILURES))];
    let counted = requests(&installation, MODEL, &["--from", &begin, "--to", &end].map(str::to_owned)).unwrap();
    assert_eq!(counted, expected.into(), "requests: successful, failed");

    let model = format!("{MODEL}@v1");
    let explained =
        installation.ask(&["explain", "--per", "request", "--model", &model, "--from", &load, "--to", &end]);
    // Nothing is reserved for the server, so what it uses while nobody asks is CPU time too.
    let energy = cpu_energy(&explained.unwrap(), &["cpu_dynamic", "cpu_dedicated_idle"]);
    let names = [model, format!("{MODEL}@v2"), format!("process/{}@", busy.pid())];
    let [one, two, beside] = names.map(|name| only(&energy, &name) as f64);
    // The energy of all of its processes is its versions' …
    let (by_energy, by_time) = ((one + two) / beside, ticks.iter().sum::<f64>() / other);
    println!(
        "versions to a busy process: energy {by_energy:.4}, CPU time {by_time:.4}; {ticks:?} ticks, the server last"
    );
    // … who share it as they were busy. The scrapes cut time apart where requests overlap their edges.
    let (split, by_busy) = (one / two, busy_seconds[0] / busy_seconds[1]);
    println!("v1 to v2: energy {split:.4}, busy time {by_busy:.4}");
    // On a machine that is busy with short-lived processes, whose CPU time is known late, the two differ by up to 4 %, and
    // so do the versions, which would be equal if they shared evenly.
    // Without the worker's time the versions would have a seventh of this energy.
    assert!((by_energy / by_time - 1.0).abs() < 0.08, "energy {by_energy:.4}, CPU time {by_time:.4}");
    assert!((split / by_busy - 1.0).abs() < 0.08, "energy {split:.4}, busy time {by_busy:.4}");
    // The process that is scraped would have had the lesser part of it.
    assert!(ticks.last().is_some_and(|listener| *listener < ticks.iter().sum::<f64>() / 2.0), "{ticks:?}");
}
