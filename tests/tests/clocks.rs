//! Clocks that are wrong (PROC-P13): the real programs, the agent's wall clock moved by libfaketime and its boot clock by a
//! time namespace. Energy is exact, and stands where it was used by the aggregator's clock.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions that tests call may fail the test")]
#![allow(clippy::print_stdout, reason = "a rig prints its figures")]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_proto::admin::admin_service_client::AdminServiceClient;
use joulebook_proto::admin::{DumpRequest, GetStatusRequest, NodeStatus};
use joulebook_tests::chaos::server::Server;
use joulebook_tests::installation::AGENT_READY;
use joulebook_tests::powercap::{Powercap, Zone};
use joulebook_tests::program::{Program, binary};
use joulebook_units::UnixNanos;
use tempfile::TempDir;

const NODE: &str = "clocks";
const SERIES: &str = "energy rapl/package-0";
/// Where Debian's libfaketime lies, below the folder of libraries of the machine's kind.
const FAKETIME: &str = "faketime/libfaketimeMT.so.1";
/// Data stand at most so far from where they belong.
const PLACED: Duration = Duration::from_secs(2);
const HOUR: i64 = 3_600;
/// How long something may take that needs a few rows.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between two changes of the meter.
const STEP: Duration = Duration::from_millis(100);
/// Changes under each clock before and after the agent is started again.
const STEPS: usize = 15;

/// Wall clocks of the agent, as libfaketime is told, and how far they are from ours in seconds where that stays the same.
const CLOCKS: [(&str, Option<i64>); 7] = [
    ("+0", Some(0)),
    ("+3600", Some(HOUR)),
    ("-3600", Some(-HOUR)),
    ("+10y", None),
    ("-10y", None),
    ("@1970-01-01 00:00:10", None),
    // Without the sign before it, it stands still.
    ("2021-03-04 05:06:07", None),
];

struct Rig {
    runtime: tokio::runtime::Runtime,
    server: Server,
    _program: Program,
    meter: Zone,
    /// What the meter showed, and when that was written.
    shown: Vec<(UnixNanos, u64)>,
    config: PathBuf,
    clock: PathBuf,
    faketime: PathBuf,
    agent: Option<Program>,
    _folder: TempDir,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Server::new(folder.path(), &folder.path().join("db"));
        let (program, _) = server.start().unwrap();
        let sysfs = folder.path().join("sys");
        let meter = Powercap::new(&sysfs).unwrap().zone("intel-rapl:0", "package-0", 1_000).unwrap();
        let config = folder.path().join("agent.toml");
        let text = format!(
            "node = \"{NODE}\"\naggregator = \"{}\"\ninsecure_loopback = true\n\n[spool]\ndir = \"{}\"\n\n\
             [sampling]\ntick = \"500ms\"\nworkloads = \"10s\"\nbatch_rows = 2\n\n[roots]\nsysfs = \"{}\"\n",
            server.endpoint(),
            folder.path().join("spool").display(),
            sysfs.display(),
        );
        fs::write(&config, text).unwrap();
        let clock = folder.path().join("clock");
        fs::write(&clock, "+0\n").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let faketime = faketime().unwrap_or_else(|| panic!("libfaketime is not there: run .ci/setup rigs"));
        let (shown, agent) = (Vec::new(), None);
        Self { runtime, server, _program: program, meter, shown, config, clock, faketime, agent, _folder: folder }
    }

    /// Starts the agent behind further words, with the wall clock that the file says.
    fn start(&mut self, words: &[&str]) {
        let program = binary("joulebook-agent").unwrap().into_os_string();
        let mut words = words.iter().map(OsString::from).chain([program]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg("--config").arg(&self.config);
        command.env("LD_PRELOAD", &self.faketime).env("FAKETIME_TIMESTAMP_FILE", &self.clock);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let agent = Program::spawn(command).unwrap();
        agent.wait_for(AGENT_READY).unwrap();
        self.agent = Some(agent);
    }

    fn stop(&mut self) {
        let mut agent = self.agent.take().unwrap();
        assert!(agent.stop().unwrap().success(), "{}", agent.said());
    }

    /// Sets the wall clock of the agent, whether it runs or not.
    fn set(&self, clock: &str) {
        let new = self.clock.with_extension("new");
        fs::write(&new, format!("{clock}\n")).unwrap();
        fs::rename(new, &self.clock).unwrap();
    }

    /// Lets energy flow in small steps that differ, and notes when it did.
    fn flow(&mut self) {
        for step in 0..STEPS {
            let at = SystemClock.wall();
            self.meter.flow(20 + (step % 7) as u32 * 5, STEP).unwrap();
            self.shown.push((at, self.raw()));
            std::thread::sleep(STEP);
        }
    }

    fn raw(&self) -> u64 {
        fs::read_to_string(self.meter.file()).unwrap().trim().parse().unwrap()
    }

    fn node(&self) -> Option<NodeStatus> {
        let asked = self.runtime.block_on(async {
            let mut admin = AdminServiceClient::connect(self.server.endpoint()).await?;
            Ok::<_, Box<dyn std::error::Error>>(admin.get_status(GetStatusRequest {}).await?.into_inner())
        });
        asked.unwrap().nodes.into_iter().find(|node| node.node == NODE)
    }

    /// Every stored point of the meter, each once, in the order of time.
    fn points(&self) -> Vec<(UnixNanos, u64)> {
        let dumped = self.runtime.block_on(async {
            let mut admin = AdminServiceClient::connect(self.server.endpoint()).await?;
            let request = DumpRequest { node: NODE.to_owned(), ..DumpRequest::default() };
            let mut runs = admin.dump(request).await?.into_inner();
            let mut points = Vec::new();
            while let Some(run) = runs.message().await? {
                if run.series == SERIES {
                    points.extend(run.points.iter().map(|point| (UnixNanos(point.unix_nanos), point.value)));
                }
            }
            Ok::<_, Box<dyn std::error::Error>>(points)
        });
        let mut points = dumped.unwrap();
        points.sort_unstable();
        points.dedup();
        points
    }

    fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let begin = SystemClock.boot();
        while !is_so(self) {
            assert!(SystemClock.boot().since(begin) < PATIENCE, "never: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn faketime() -> Option<PathBuf> {
    let kinds = fs::read_dir("/usr/lib").ok()?.flatten().map(|kind| kind.path().join(FAKETIME));
    kinds.chain([Path::new("/usr/lib").join(FAKETIME)]).find(|path| path.is_file())
}

/// How far a time is outside of a span.
fn outside(at: UnixNanos, from: UnixNanos, to: UnixNanos) -> Duration {
    Duration::from_nanos(u64::try_from((from.0 - at.0).max(at.0 - to.0)).unwrap_or(0))
}

#[test]
fn wall_clocks_that_are_wrong_and_a_suspended_machine_cost_no_energy_and_move_none() {
    let mut rig = Rig::new();
    println!("\nP13: wall clocks {CLOCKS:?}, then one that loses a second again and again, then an hour of sleep");
    let first = rig.raw();
    let began = SystemClock.wall();
    rig.shown.push((began, first));
    rig.start(&[]);
    rig.until("a first row", |rig| rig.node().is_some_and(|node| node.last_row_unix_nanos.is_some()));
    for (clock, skew) in CLOCKS {
        rig.set(clock);
        rig.flow();
        // And with a session that begins under that clock.
        rig.stop();
        rig.start(&[]);
        rig.until("a session", |rig| rig.node().is_some_and(|node| node.connected));
        rig.flow();
        let node = rig.node().unwrap();
        if let Some(skew) = skew {
            let off = (node.clock_skew_nanos - skew * UnixNanos::PER_SECOND).unsigned_abs();
            assert!(off < UnixNanos::PER_SECOND.unsigned_abs(), "{clock}: {} ns", node.clock_skew_nanos);
        }
        assert_eq!(node.clock_skewed, skew != Some(0), "{clock}: {} ns", node.clock_skew_nanos);
    }
    for lost in 1..=3 {
        rig.set(&format!("-{lost}"));
        rig.flow();
    }
    rig.stop();
    rig.set("+0");
    rig.start(&["unshare", "--time", "--boottime", "3600", "--monotonic", "3600"]);
    rig.until("a session", |rig| rig.node().is_some_and(|node| node.connected));
    rig.flow();
    let truth = rig.raw() - first;
    rig.until("all of it is stored", |rig| rig.points().last().is_some_and(|(_, value)| *value == truth));
    rig.stop();

    let (points, now) = (rig.points(), SystemClock.wall());
    let mut worst = Duration::ZERO;
    for (at, value) in &points {
        let place = rig.shown.iter().position(|(_, raw)| raw - first == *value);
        let place = place.unwrap_or_else(|| panic!("{value} uJ was never shown"));
        let until = rig.shown.get(place + 1).map_or(now, |(next, _)| *next);
        let off = outside(*at, rig.shown[place].0, until);
        assert!(off <= PLACED, "{value} uJ stand at {at:?}, shown from {:?} to {until:?}", rig.shown[place].0);
        worst = worst.max(off);
    }
    let node = rig.node().unwrap();
    println!(
        "  {} points, {truth} uJ flowed, {} uJ stored, placed {} ms wrong at most",
        points.len(),
        points.last().unwrap().1 - points.first().unwrap().1,
        worst.as_millis()
    );
    assert!(points.len() > CLOCKS.len() * 4, "void: {} points", points.len());
    assert_eq!((points.first().unwrap().1, points.last().unwrap().1), (0, truth), "energy");
    assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1), "nothing falls");
    assert!(node.last_row_unix_nanos.is_some_and(|last| last <= now.0), "no row of the future");
    let rejected: u64 = node.streams.iter().map(|stream| stream.rejected_samples).sum();
    assert_eq!((rejected, node.streams.iter().map(|stream| stream.lost_records).sum::<u64>()), (0, 0));
}
