//! Gaudi accelerators through the agent's own collector, its helper process and a fake `libhlml.so`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_agent::collector::{ReadFailure, Reading, Sources, Value as Shown};
use joulebook_agent::config::{Config, Roots};
use joulebook_tests::program::binary;
use joulebook_tests::wait::Moment;
use joulebook_units::{Component, Method, SourceState};
use serde_json::Value;
use tempfile::TempDir;

/// Far more than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
const FIRST: &str = "gaudi/01P0-HL2080A0-15-AAA111";
const SECOND: &str = "gaudi/01P0-HL2080A0-15-BBB222";

/// A machine without any other sensor, with the library beside the file of its accelerators.
struct Rig {
    folder: TempDir,
    config: Config,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let built = ["libhwsim_hlml.so", "deps/libhwsim_hlml.so"]
            .map(|name| binary("joulebook-agent").unwrap().with_file_name(name));
        let built = built.iter().find(|path| path.is_file()).expect("built: cargo build -p joulebook-hwsim-hlml");
        let library = folder.path().join("libhlml.so");
        std::fs::copy(built, &library).unwrap();
        let at = |path: &str| folder.path().join(path);
        let mut config = Config {
            roots: Roots { sysfs: at("sys"), procfs: at("proc"), cgroup: at("sys/fs/cgroup") },
            ..Config::default()
        };
        config.nvml.enabled = false;
        config.gaudi.library = Some(library);
        config.gaudi.helper = Some(binary("joulebook-agent").unwrap());
        // A row waits for its own readings, so that a test knows which state it has seen.
        config.gaudi.patience = Duration::from_secs(30);
        config.gaudi.limits.first_pause = Duration::from_millis(5);
        config.gaudi.limits.longest_pause = Duration::from_millis(20);
        Self { folder, config }
    }

    /// Energy in mJ (none: no counter), power in mW and return code of each accelerator.
    fn show(&self, accelerators: &[(Option<u64>, u32, u32)]) {
        let line = |(source, (energy, power, code)): (&str, &(Option<u64>, u32, u32))| {
            let energy = energy.map_or("-".to_owned(), |energy| energy.to_string());
            format!("{} {energy} {power} {code} HL-225\n", source.trim_start_matches("gaudi/"))
        };
        let text: String = [FIRST, SECOND].into_iter().zip(accelerators).map(line).collect();
        let new = self.folder.path().join("hlml.new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.folder.path().join("hlml.state")).unwrap();
    }

    fn start(&self) -> Sources {
        let mut sources = Sources::new(&self.config, &self.config.roots);
        sources.discover();
        sources
    }

    /// A PCI bus with one accelerator.
    fn seat(&self) {
        let device = self.folder.path().join("sys/bus/pci/devices/0000:33:00.0");
        std::fs::create_dir_all(&device).unwrap();
        std::fs::write(device.join("vendor"), "0x1da3\n").unwrap();
        std::fs::write(device.join("class"), "0x120000\n").unwrap();
    }
}

fn state<'a>(sources: &'a Sources, id: &str) -> &'a SourceState {
    let found = sources.states().iter().find(|state| state.source.id == id);
    found.unwrap_or_else(|| panic!("{id} in {:?}", sources.states()))
}

/// What one row has of the accelerators.
fn row(sources: &mut Sources) -> Vec<Result<Reading, ReadFailure>> {
    let (shown, _) = sources.read(SystemClock.boot());
    let gaudi = |one: &Result<Reading, ReadFailure>| match one {
        Ok(reading) => reading.source.starts_with("gaudi/"),
        Err(failure) => failure.source_id.starts_with("gaudi/"),
    };
    shown.into_iter().filter(gaudi).collect()
}

fn value(row: &[Result<Reading, ReadFailure>], id: &str) -> Option<Shown> {
    row.iter().flatten().find(|reading| reading.source == id).map(|reading| reading.value.clone())
}

/// Rows until one is as wished.
fn until(sources: &mut Sources, wished: impl Fn(&[Result<Reading, ReadFailure>]) -> bool) {
    let begin = Moment::now();
    loop {
        let row = row(sources);
        if wished(&row) {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{row:?} {:?}", sources.states());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_counter_is_read_where_there_is_one_and_the_power_is_integrated_where_there_is_none() {
    let rig = Rig::new();
    rig.show(&[(Some(5_000_000), 250_000, 0), (None, 400_000, 0)]);
    let mut sources = rig.start();
    let [first, second] = [FIRST, SECOND].map(|id| state(&sources, id).clone());
    assert!(first.unavailable.is_none() && second.unavailable.is_none());
    assert_eq!((first.source.component, first.source.method), (Component::Accelerator, Method::Counter));
    assert_eq!((first.source.collector.as_str(), second.source.method), ("gaudi", Method::IntegratedPower));
    assert!(first.source.basis.contains("HL-225"), "{}", first.source.basis);
    assert_eq!(state(&sources, &format!("{FIRST}/power")).source.contained_in.as_deref(), Some(FIRST), "never added");
    until(&mut sources, |row| value(row, FIRST) == Some(Shown::Total { raw: 5_000_000_000 }));
    rig.show(&[(Some(5_012_345), 250_000, 0), (None, 400_000, 0)]);
    until(&mut sources, |row| value(row, FIRST) == Some(Shown::Total { raw: 5_012_345_000 }));

    // 400 W at every instant: the integral is exact, whenever the readings were made.
    let mut points = Vec::new();
    until(&mut sources, |row| row.iter().flatten().any(|reading| reading.source == SECOND));
    for _ in 0..20 {
        let found = row(&mut sources).into_iter().flatten().find(|reading| reading.source == SECOND);
        let Some(Reading { at, value: Shown::Increment { energy, .. }, .. }) = found else { continue };
        points.push((at.0, energy.0));
        std::thread::sleep(Duration::from_millis(20));
    }
    let nanos = points.last().unwrap().0 - points[0].0;
    let energy: u64 = points[1..].iter().map(|(_, energy)| energy).sum();
    let truth = nanos * 400 / 1_000;
    assert!(energy.abs_diff(truth) <= 20 && truth > 100_000_000, "{energy} of {truth} µJ");
}

#[test]
fn one_that_is_lost_gives_no_readings_and_the_other_goes_on() {
    let rig = Rig::new();
    rig.show(&[(Some(1_000), 100_000, 0), (Some(1_000), 100_000, 0)]);
    let mut sources = rig.start();
    until(&mut sources, |row| value(row, FIRST).is_some() && value(row, SECOND).is_some());
    // HLML_ERROR_AIP_IS_LOST.
    rig.show(&[(Some(2_000), 100_000, 0), (Some(1_000), 100_000, 15)]);
    let lost = |one: &Result<Reading, ReadFailure>| {
        one.as_ref().is_err_and(|failure| failure.source_id == SECOND && failure.reason == "gpu_lost")
    };
    until(&mut sources, |row| row.iter().any(lost));
    until(&mut sources, |row| {
        value(row, FIRST) == Some(Shown::Total { raw: 2_000_000 }) && value(row, SECOND).is_none()
    });
    until(&mut sources, |_| true);
    assert!(state(&sources, SECOND).unavailable.is_some() && state(&sources, FIRST).unavailable.is_none());
}

#[test]
fn a_library_that_is_not_there_or_does_not_start_is_an_exclusion_with_what_would_mend_it() {
    let mut rig = Rig::new();
    rig.seat();
    let mut sources = rig.start();
    until(&mut sources, |_| true);
    let why = state(&sources, "gaudi/0").unavailable.clone().unwrap();
    assert!(why.contains("load the kernel module habanalabs"), "{why}");
    rig.config.gaudi.library = Some(rig.folder.path().join("nothing.so"));
    let why = state(&rig.start(), "gaudi/0").unavailable.clone().unwrap();
    assert!(why.contains("nothing.so") && why.contains("gaudi.library"), "{why}");
    rig.config.gaudi.enabled = false;
    let why = state(&rig.start(), "gaudi/0").unavailable.clone().unwrap();
    assert!(why.contains("gaudi.enabled is false"), "{why}");
}

/// What the doctor of the real program finds with this configuration.
fn doctor(config: &Path) -> Value {
    let mut command = Command::new(binary("joulebook-agent").unwrap());
    command.args(["doctor", "--seconds", "1", "--output", "json", "--config"]).arg(config);
    serde_json::from_slice(&command.output().unwrap().stdout).unwrap()
}

#[test]
fn the_doctor_names_the_accelerators_or_says_why_there_are_none() {
    let rig = Rig::new();
    rig.show(&[(None, 300_000, 0)]);
    let write = |library: &Path| -> PathBuf {
        let path = rig.folder.path().join("agent.toml");
        let roots = &rig.config.roots;
        let text = format!(
            "node = \"n\"\n[roots]\nsysfs = \"{}\"\nprocfs = \"{}\"\ncgroup = \"{}\"\n[gaudi]\nlibrary = \"{}\"\n",
            roots.sysfs.display(),
            roots.procfs.display(),
            roots.cgroup.display(),
            library.display(),
        );
        std::fs::write(&path, text).unwrap();
        path
    };
    let found = doctor(&write(rig.config.gaudi.library.as_deref().unwrap()));
    let source = found["sources"].as_array().unwrap().iter().find(|source| source["id"] == FIRST).unwrap();
    assert!((source["w"].as_f64().unwrap() - 300.0).abs() < 0.1, "{source}");
    let found = doctor(&write(&rig.folder.path().join("nothing.so")));
    let absent = found["absent"].as_array().unwrap().iter().find(|absent| absent["kind"] == "gaudi").unwrap();
    assert!(absent["configured"] == true && absent["why"].as_str().unwrap().contains("nothing.so"), "{absent}");
}
