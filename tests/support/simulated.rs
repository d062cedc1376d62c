//! The agent's own sensors and sampler over a simulated node, both on one clock that the test moves.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use joulebook_agent::clock::Clock;
use joulebook_agent::collector::Sources;
use joulebook_agent::config::{Config, Roots};
use joulebook_agent::hardware;
use joulebook_agent::process::Workloads;
use joulebook_agent::sampler::{Flush, Parts, Sampler};
use joulebook_agent::spool::{Spool, SpoolConfig, SpoolHandle};
use joulebook_hwsim::fault::{Fault, Kind};
use joulebook_hwsim::gpu;
use joulebook_hwsim::node::{Node, Options};
use joulebook_hwsim::profile::Profile;
use joulebook_units::{BootId, BootNanos, EnergyGap, Inventory, Placement, Point, Source, Subject, UnixNanos};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

use crate::program::binary;

/// A second in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;
/// The agent's clock at simulated 0: no agent starts at boot.
pub const BEGIN: u64 = 10 * SECOND;
/// How long a row of a moved clock waits for the devices: far more than a reading takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Hand(AtomicU64);

impl Clock for Hand {
    fn boot(&self) -> BootNanos {
        BootNanos(self.0.load(Ordering::SeqCst))
    }

    fn wall(&self) -> UnixNanos {
        let boot = i64::try_from(self.boot().0).unwrap_or(i64::MAX / 2);
        UnixNanos((1_795_478_400 * UnixNanos::PER_SECOND).saturating_add(boot))
    }
}

/// A profile of `tests/fixtures/profiles`.
pub fn profile(name: &str) -> Result<Profile> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/profiles/{name}.json"));
    Profile::read(&path).with_context(|| format!("reading {}", path.display()))
}

/// A simulated node and an agent's sampler on it.
pub struct Rig {
    /// The node.
    pub node: Node,
    /// The agent's configuration, taken when it starts.
    pub config: Config,
    clock: Arc<Hand>,
    agent: Option<Agent>,
    /// Goes when nothing writes into it any more.
    folder: TempDir,
}

struct Agent {
    sampler: Sampler,
    flushes: Vec<Flush>,
    subjects: BTreeMap<u32, Subject>,
    first_ns: u64,
    _channels: Channels,
}

type Channels = (
    mpsc::Sender<joulebook_agent::inference::CountSample>,
    watch::Sender<Vec<joulebook_agent::process::InferenceGroup>>,
    watch::Receiver<Inventory>,
    SpoolHandle,
);

/// What the agent reported of one series.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The last value: for energy, µJ since the first point.
    pub value: i128,
    /// Σ of the upper bounds of the gaps in µJ.
    pub high: i128,
    /// Points (instant on the agent's clock, value), ascending.
    pub points: Vec<(u64, u64)>,
    /// Declared gaps.
    pub gaps: Vec<EnergyGap>,
}

impl Rig {
    /// A node of this profile; with NVIDIA's GPUs, the fake library and the real helper program.
    pub fn new(name: &str, options: Options) -> Result<Self> {
        Self::of(profile(name)?, options)
    }

    /// The same of a profile that is at hand.
    pub fn of(profile: Profile, options: Options) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let node = Node::new(profile, &folder.path().join("node"), options)?;
        let mut config = Config::default();
        config.nvml.enabled = node.has_nvml();
        if node.has_nvml() {
            let built = gpu::built_library().context("cargo builds the library beside the tests")?;
            config.nvml.library = Some(gpu::install(&built, node.root())?);
            config.nvml.helper = Some(binary("joulebook-agent")?);
            // A real clock does not wait for anybody.
            config.nvml.patience = if options.manual { PATIENCE } else { Duration::ZERO };
        }
        Ok(Self { folder, node, config, clock: Arc::new(Hand(AtomicU64::new(BEGIN))), agent: None })
    }

    /// Starts the agent's parts and takes their first row.
    pub fn start(&mut self) -> Result<()> {
        let root = self.node.root();
        let roots = Roots { sysfs: root.join("sys"), procfs: root.join("proc"), cgroup: root.join("sys/fs/cgroup") };
        let hardware = hardware::discover(&roots);
        let mut sources = Sources::new(&self.config, &roots);
        let states = sources.discover().to_vec();
        let (agent_version, placement) = ("0".to_owned(), Placement::default());
        let inventory = Inventory { node: "n".parse()?, agent_version, sources: states, hardware, placement };
        let (counts_kept, counts) = mpsc::channel(1);
        let (groups_kept, groups) = watch::channel(Vec::new());
        let (inventory, told) = watch::channel(inventory);
        let parts = Parts {
            clock: self.clock.clone(),
            boot: BootId([7; 16]),
            batch_rows: 60,
            sources,
            workloads: Some(Workloads::new(&roots, 1)),
            package_idle: None,
            counts,
            groups,
            inventory,
        };
        let (spool, recovery) = Spool::open(&SpoolConfig::new(self.folder.path().join("spool")))?;
        let sampler = Sampler::new(parts, &recovery);
        let first_ns = self.node.shown_ns();
        let _channels = (counts_kept, groups_kept, told, spool);
        self.agent = Some(Agent { sampler, flushes: Vec::new(), subjects: BTreeMap::new(), first_ns, _channels });
        self.row();
        Ok(())
    }

    /// The agent's sampler.
    ///
    /// # Panics
    /// Before [`Rig::start`].
    #[allow(clippy::expect_used, reason = "a test that asks a sampler that it did not start is wrong")]
    pub fn sampler(&self) -> &Sampler {
        &self.agent.as_ref().expect("started").sampler
    }

    /// What the agent tells of its node.
    ///
    /// # Panics
    /// Before [`Rig::start`].
    #[allow(clippy::expect_used, reason = "as above")]
    pub fn inventory(&self) -> Inventory {
        self.agent.as_ref().expect("started")._channels.2.borrow().clone()
    }

    /// The agent's clock.
    pub fn agent_now(&self) -> u64 {
        BEGIN + self.node.boot_ns()
    }

    /// Takes a row.
    pub fn row(&mut self) {
        self.clock.0.store(self.agent_now(), Ordering::SeqCst);
        if let Some(agent) = &mut self.agent {
            agent.flushes.extend(agent.sampler.tick());
        }
    }

    /// Lets time pass, with a row at each step.
    pub fn pass(&mut self, rows: u64, step_ns: u64) -> Result<()> {
        for _ in 0..rows {
            self.node.step(step_ns)?;
            self.row();
        }
        Ok(())
    }

    /// Breaks something.
    pub fn fault(&mut self, target: &str, kind: Kind, n: Option<i64>, for_ms: Option<u64>) -> Result<()> {
        Ok(self.node.fault(&Fault { target: target.to_owned(), kind, n, for_ms })?)
    }

    /// All series that were reported so far, with what they measure.
    pub fn series(&mut self) -> Vec<(Subject, Report)> {
        let Some(agent) = &mut self.agent else { return Vec::new() };
        agent.flushes.extend(agent.sampler.close());
        let mut reports: BTreeMap<u32, Report> = BTreeMap::new();
        for flush in &agent.flushes {
            agent.subjects.extend(flush.new_series.iter().cloned());
            for column in &flush.batch.columns {
                let report = reports.entry(column.series).or_default();
                for Point { at, value } in &column.points {
                    report.value = i128::from(*value);
                    report.points.push((at.0, *value));
                }
            }
            for gap in &flush.batch.gaps {
                let report = reports.entry(gap.series).or_default();
                report.high += i128::from(gap.high.0);
                report.gaps.push(gap.clone());
            }
        }
        reports.into_iter().filter_map(|(id, report)| Some((agent.subjects.get(&id)?.clone(), report))).collect()
    }

    /// Energy that a collector reported, by source. A source that went on in another way is the sum of its series.
    ///
    /// # Panics
    /// If a sum of energy fell.
    pub fn energy(&mut self, collector: &str) -> BTreeMap<String, (Source, Report)> {
        let mut found: BTreeMap<String, (Source, Report)> = BTreeMap::new();
        for (subject, report) in self.series() {
            let Subject::Energy(source) = subject else { continue };
            if source.collector != collector {
                continue;
            }
            assert!(report.points.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{}: a sum never falls", source.id);
            let (_, sum) =
                found.entry(source.id.clone()).or_insert_with(|| (Source::clone(&source), Report::default()));
            sum.value += report.value;
            sum.high += report.high;
            sum.points.extend(report.points);
            sum.gaps.extend(report.gaps);
        }
        found
    }

    /// Instant of simulated time of the agent's first row.
    pub fn first_ns(&self) -> u64 {
        self.agent.as_ref().map_or(0, |agent| agent.first_ns)
    }

    /// Energy of a zone in µJ since the agent's first row, exactly.
    pub fn zone_truth(&self, zone: &str) -> i128 {
        self.node.truth(self.first_ns(), self.node.shown_ns()).zones.get(zone).copied().unwrap_or(0)
    }

    /// Energy of a leaf in µJ between two instants of simulated time, exactly.
    pub fn leaf_truth(&self, leaf: &str, from_ns: u64, to_ns: u64) -> i128 {
        self.node.truth(from_ns, to_ns).leaves.get(leaf).copied().unwrap_or(0)
    }
}

impl Report {
    /// Whether the value is the truth within 0.1 %.
    pub fn agrees(&self, truth: i128) -> bool {
        truth > 0 && (self.value - truth).abs() * 1_000 <= truth
    }
}
