//! Whether a source can be read at all: B08, B09, B11 and B12.

use super::*;
use joulebook_agent::collector::{Collector, rapl::Rapl};
use joulebook_agent::config::Overrides;
use joulebook_agent::exit;
use joulebook_agent::run::{RunError, run};
use joulebook_units::Method;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{Uid, mkfifo, setfsuid};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// A user that owns nothing. For root alone a mode closes nothing.
const NOBODY: u32 = 65_534;

/// This thread opens files as a user who may not open all until this is dropped.
pub(crate) struct Unprivileged(Uid);

impl Unprivileged {
    fn new() -> Self {
        let user = if Uid::effective().is_root() { Uid::from_raw(NOBODY) } else { Uid::effective() };
        Self(setfsuid(user))
    }
}

impl Drop for Unprivileged {
    fn drop(&mut self) {
        setfsuid(self.0);
    }
}

impl Machine {
    /// A machine on which the agent does not own the counter of a zone.
    fn close(&self, folder: &str) {
        fs::set_permissions(self.root.path(), fs::Permissions::from_mode(0o755)).expect("the folder's mode");
        self.set_mode(folder, 0o000);
        self.closed.set(true);
    }

    fn set_mode(&self, folder: &str, mode: u32) {
        fs::set_permissions(self.counter(folder), fs::Permissions::from_mode(mode)).expect("the file's mode");
    }

    /// What the agent may not do is not done by this thread until the answer is dropped.
    pub(crate) fn unprivileged(&self) -> Option<Unprivileged> {
        self.closed.get().then(Unprivileged::new)
    }

    fn counter(&self, folder: &str) -> PathBuf {
        self.zone_path(folder).join("energy_uj")
    }

    fn config(&self) -> Config {
        let overrides = Overrides {
            node: Some("n".to_owned()),
            insecure_loopback: true,
            spool_dir: Some(self.path("spool")),
            sysfs_root: Some(self.path("sys")),
            cgroup_root: Some(self.path("cgroup")),
            ..Overrides::default()
        };
        Config::load(None, overrides).expect("valid")
    }

    /// A zone as a container runtime leaves it that hides the counters.
    fn mask(&self, folder: &str) {
        fs::remove_dir_all(self.zone_path(folder)).expect("removed");
        symlink(format!("../../devices/virtual/powercap/intel-rapl/{folder}"), self.zone_path(folder)).expect("link");
    }

    /// A pipe in place of a file.
    fn pipe(&self, path: &str) -> PathBuf {
        self.write(path, "");
        let path = self.path(path);
        fs::remove_file(&path).expect("removed");
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("pipe");
        path
    }
}

/// A source that is off: nothing is known of it, and nothing is counted.
fn off() -> Outcome {
    Outcome { microjoules: 0, known: Vec::new(), gaps: Vec::new(), refused: Vec::new(), turns: Vec::new() }
}

impl Rig {
    /// Why a source is not read, as discovered at the start.
    fn why(&self, id: &str) -> &str {
        let state = self.states.iter().find(|state| state.source.id == id).expect("it is listed");
        state.unavailable.as_deref().expect("unavailable")
    }
}

#[test]
fn b08_a_closed_counter_is_off_and_named_and_the_others_run() {
    let machine = Machine::new();
    machine.close("intel-rapl:0");
    let path = machine.counter("intel-rapl:0");
    let mut rig = machine.start();
    for _ in 0..12 {
        rig.pass(1);
    }
    let why = format!("{} may not be read: needs uid 0 (or owner), see CVE-2020-8694", path.display());
    assert_eq!(rig.why(BROKEN), why);
    assert_eq!(rig.broken(), off());
    assert_eq!(said(&why).len(), 1, "told once");
    // Opened while the agent runs, it is read from then on.
    rig.machine.set_mode("intel-rapl:0", 0o644);
    rig.pass(1);
    rig.shows(format!("{}\n", BEGIN + 5));
    assert_eq!(rig.broken(), Outcome { microjoules: 5, known: vec![13, 14], ..off() });
}

#[tokio::test]
async fn b08_without_a_usable_source_the_agent_refuses_with_77_and_writes_nothing() {
    let machine = Machine::new();
    machine.close("intel-rapl:0");
    machine.close("intel-rapl:1");
    let unprivileged = machine.unprivileged();
    let clock = Arc::clone(&machine.clock) as Arc<dyn Clock>;
    let error = run(machine.config(), clock, std::future::ready(())).await.expect_err("refused");
    drop(unprivileged);
    assert!(matches!(error, RunError::NoSource { .. }), "{error}");
    assert_eq!(exit::code(&error), 77);
    let (error, path) = (error.to_string(), machine.counter("intel-rapl:0").display().to_string());
    for word in [path.as_str(), "needs uid 0 (or owner)", "CVE-2020-8694", "allow_no_sources"] {
        assert!(error.contains(word), "{word} in {error}");
    }
    assert!(!machine.path("spool").exists());
}

#[test]
fn b09_a_masked_zone_is_off_and_names_the_mount_that_shows_it() {
    let machine = Machine::new();
    machine.mask("intel-rapl:0");
    let path = machine.zone_path("intel-rapl:0").display().to_string();
    let mut rig = machine.start();
    rig.pass(1);
    let id = "rapl/intel-rapl:0";
    for word in [
        &format!("{path} is masked"),
        "/sys/devices/virtual/powercap",
        "mount the host's /sys read-only",
        "--sysfs-root",
    ] {
        assert!(rig.why(id).contains(word), "{word} in {}", rig.why(id));
    }
    assert_eq!((rig.outcome(id), rig.broken()), (off(), off()));
    // The mount that it names: the same links, which lead somewhere there.
    let machine = Machine::new();
    let (shown, hidden) = (machine.path("sys/class/powercap"), machine.path("sys/devices/virtual/powercap/intel-rapl"));
    fs::create_dir_all(hidden.parent().expect("a folder")).expect("folder");
    fs::rename(&shown, &hidden).expect("moved");
    fs::create_dir(&shown).expect("folder");
    for zone in ["intel-rapl:0", "intel-rapl:1"] {
        symlink(format!("../../devices/virtual/powercap/intel-rapl/{zone}"), shown.join(zone)).expect("link");
    }
    let mut rig = machine.start();
    rig.shows(format!("{}\n", BEGIN + 5));
    assert_eq!(rig.broken(), Outcome { microjoules: 5, known: vec![0, 1], ..off() });
}

#[test]
fn b09_where_all_zones_are_masked_the_cpu_is_estimated_and_labelled_so() {
    let machine = Machine::new();
    machine.mask("intel-rapl:0");
    machine.mask("intel-rapl:1");
    let mut rig = machine.start();
    rig.pass(1);
    rig.pass(1);
    let read: Vec<_> = rig.states.iter().filter(|state| state.unavailable.is_none()).collect();
    assert!(read.iter().all(|state| state.source.method == Method::Estimated), "{read:?}");
    // Two threads, half busy: (1.48 + 7) ÷ 2 W for 2 s.
    assert_eq!(rig.outcome("estimate/cpu"), Outcome { microjoules: 8_480_000, known: vec![0, 1, 2], ..off() });
}

#[test]
fn b11_of_a_thousand_zones_the_first_256_are_read_and_the_log_counts_the_others() {
    let machine = Machine::new();
    let zone = |number: u64| format!("intel-rapl:{number:x}");
    for number in 2..1_000 {
        machine.zone(&zone(number), &format!("package-{number}"), BEGIN);
    }
    let mut rapl = Rapl::new(&machine.roots(), &Config::default().rapl);
    rapl.discover();
    assert_eq!(rapl.discover().len(), 256);
    assert_eq!(rapl.zones_ignored(), 744);
    assert_eq!(said("zones_ignored=744").len(), 1, "told once");
    let mut rig = machine.start();
    for number in (0..300).filter(|number| *number != 1) {
        rig.machine.shows(&zone(number), format!("{}\n", BEGIN + 1 + number));
    }
    rig.pass(1);
    assert_eq!(rig.broken(), Outcome { microjoules: 1, known: vec![0, 1], ..off() });
    for number in 2..300 {
        let read = Outcome { microjoules: 1 + number, known: vec![0, 1], ..off() };
        let expected = if number < 256 { read } else { off() };
        assert_eq!(rig.outcome(&format!("rapl/package-{number}")), expected, "{number}");
    }
}

/// Runs a test that must not wait for a pipe, in a thread that may be left behind.
fn without_waiting(test: impl FnOnce() + Send + 'static) {
    let (done, ended) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    let ended = ended.recv_timeout(Duration::from_secs(60));
    assert!(ended != Err(RecvTimeoutError::Timeout), "somebody waits for a pipe");
    thread.join().expect("the test passes");
}

/// Whether anybody holds the pipe open to read from it.
fn has_reader(pipe: &Path) -> bool {
    match fs::OpenOptions::new().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(pipe) {
        Ok(_) => true,
        Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => false,
        Err(error) => panic!("{}: {error}", pipe.display()),
    }
}

#[test]
fn b12_a_pipe_in_place_of_a_counter_is_off_from_the_start_and_nobody_waits_for_it() {
    without_waiting(|| {
        let machine = Machine::new();
        let pipe = machine.pipe("sys/class/powercap/intel-rapl:0/energy_uj");
        let mut rig = machine.start();
        for _ in 0..5 {
            rig.pass(1);
            assert!(!has_reader(&pipe));
        }
        let why = "energy_uj could not be read: it is not a regular file; name the kernel's sysfs with --sysfs-root";
        assert!(rig.why(BROKEN).ends_with(why), "{}", rig.why(BROKEN));
        assert_eq!(rig.broken(), off());
    });
}

#[test]
fn b12_a_counter_that_becomes_a_pipe_is_refused_at_once_and_loses_nothing() {
    without_waiting(|| {
        let mut rig = Rig::new();
        rig.shows(format!("{}\n", BEGIN + 60_000_000));
        let pipe = rig.machine.pipe("sys/class/powercap/intel-rapl:0/energy_uj");
        for _ in 0..3 {
            rig.pass(1);
            assert!(!has_reader(&pipe));
        }
        let refused = vec![("io", 3)];
        let outcome = Outcome { microjoules: 60_000_000, known: vec![0, 1], refused, ..off() };
        assert_eq!(rig.broken(), outcome);
        assert_eq!(said("it is not a regular file; name the kernel's sysfs").len(), 1);
        fs::remove_file(&pipe).expect("removed");
        rig.shows(format!("{}\n", BEGIN + 300_000_000));
        assert_eq!(rig.broken(), Outcome { microjoules: 300_000_000, known: vec![0, 1, 5], ..outcome });
    });
}

#[test]
fn b12_nobody_waits_for_a_pipe_in_place_of_any_other_file() {
    without_waiting(|| {
        let machine = Machine::new();
        machine.zone("intel-rapl:2", "package-2", BEGIN);
        machine.write("sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw", "100000000\n");
        let pipes: Vec<_> = [
            "sys/class/powercap/intel-rapl:2/name",
            "sys/class/powercap/intel-rapl:0/max_energy_range_uj",
            "sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw",
            "sys/bus/pci/devices/0000:01:00.0/vendor",
            "sys/fs/cgroup/cpu.stat",
            "sys/fs/cgroup/x.service/cpu.stat",
            "proc/77/stat",
            "proc/meminfo",
            "proc/cpuinfo",
        ]
        .into_iter()
        .map(|path| machine.pipe(path))
        .collect();
        let mut rig = machine.start();
        rig.shows(format!("{}\n", BEGIN + 5));
        assert!(!pipes.iter().any(|pipe| has_reader(pipe)));
        assert_eq!(rig.broken(), Outcome { microjoules: 5, known: vec![0, 1], ..off() });
    });
}
