//! The seam for inference counts: every way to learn them ends in a [`CountSample`].
//!
//! [`start`] runs one task per target. Presets, which say what is read from an engine's page, are data.

pub mod annotation;
pub mod discovery;
pub mod distribution;
pub mod exposition;
pub mod fetch;
pub mod gateway;
pub mod gguf;
pub mod identity;
pub mod listening;
pub mod mapping;
pub mod otlp;
pub mod preset;
pub mod push;
pub mod reader;
pub mod socket;
pub mod tally;
pub mod target;
pub mod upstream;

mod scrape;
mod told;

use crate::clock::Clock;
use crate::directory::Directory;
use crate::process::InferenceGroup;
use crate::process::part::PartName;
use joulebook_units::{BootNanos, Consumption, CountKind, Service};
use nix::unistd::{SysconfVar, sysconf};
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

use discovery::Discovery;
use preset::Presets;

pub use discovery::Wanted;
pub use gateway::Names;
pub use listening::{ListenError, SocketFile};
pub use push::{Desks, MeterDesk, SpanDesk};
pub use socket::ProcessId;
pub use target::{Target, TargetConfig, TargetError};

/// Whether a target is a process that tells of itself: no page is read there.
pub fn tells_itself(target: &str) -> bool {
    [push::NAME, otlp::NAME].iter().any(|way| target.strip_prefix(way).is_some_and(|rest| rest.starts_with('/')))
}

/// Samples that may wait before the scrapes wait for whoever takes them.
const SAMPLES: usize = 1024;
/// USER_HZ on every Linux of today.
const TICKS_PER_SECOND: u64 = 100;

/// Counts of one service at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountSample {
    /// The service. Its `workload` is absent: who knows the processes fills it in.
    pub service: Service,
    /// The consumer whose counts these are: then they are no service's, and `service` is where they were told.
    pub of: Option<Consumption>,
    /// When the counts were read.
    pub at: BootNanos,
    /// Cumulative counts since this agent first saw the service; a kind that is absent is not known. Never falls:
    /// resets of the engine's counters are already taken out.
    pub counts: BTreeMap<CountKind, u64>,
    /// The instant at which all of them were 0, if it is known (the server started while the agent was running, or the
    /// service was not there at the scrape before). It matters for counts that no earlier sample of the service held.
    pub origin: Option<BootNanos>,
    /// What the engine itself shows now, since its own start. With the same `process`, the difference to an earlier
    /// sample bridges a time in which the agent did not run.
    pub shown: BTreeMap<CountKind, u64>,
    /// The process that listens at the target's port; absent if it is not known.
    pub process: Option<ProcessId>,
    /// The one model version of the engine whose counts these are, by the engine's own names: processes that work for it
    /// alone did its work. Absent if the engine does not tell, or if several are counted as one service.
    pub part: Option<PartName>,
}

/// A kind of failure at a target. It costs time resolution, not counts, unless the reason is `value`, `duplicate` or
/// `counter_reset` (what was counted between the last page and the reset).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Failure {
    /// The target's URL as configured; `push` for reports, `otlp` for exports.
    pub target: String,
    /// Reason from a fixed list: `connect`, `http`, `redirect`, `status`, `form`, `timeout`, `scrape_too_large`,
    /// `parse`, `signature`, `identity`, `process_changed`, `process_unknown`, `value`, `duplicate`,
    /// `counter_reset`; of reports and exports `form`, `value`, `duplicate`, `peer`, `rate`, `limit`, `timeout`,
    /// `counter_reset`.
    pub reason: &'static str,
}

/// How a target is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TargetState {
    /// Whether the last scrape was taken; absent before the first one.
    pub is_up: Option<bool>,
    /// Scrapes since the start.
    pub scrapes: u64,
    /// Samples that they gave.
    pub samples: u64,
}

/// The running scrapes. They end when `samples` is dropped.
#[derive(Debug)]
pub struct Inference {
    /// The counts. When 1,024 wait, the scrapes wait too.
    pub samples: mpsc::Receiver<CountSample>,
    /// The processes found at the targets' ports; published before the samples that belong to them.
    pub groups: watch::Receiver<Vec<InferenceGroup>>,
    /// How the targets are, by URL as configured or found.
    pub targets: watch::Receiver<BTreeMap<String, TargetState>>,
    /// Failures since the start.
    pub failures: watch::Receiver<BTreeMap<Failure, u64>>,
    scraper: Scraper,
    names: watch::Sender<Option<Names>>,
    around: scrape::Surroundings,
    out: scrape::Outputs,
}

impl Inference {
    /// Says how consumers are named. Until it is said no gateway is read, and reports for consumers are taken without them.
    pub fn name_consumers(&self, names: Names) {
        self.names.send_replace(Some(names));
    }

    /// Takes reports at a unix socket too. The socket goes with the value that is given back.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn listen(&self, socket: &Path) -> Result<SocketFile, ListenError> {
        self.listen_beside(socket, Desks::default())
    }

    /// The same, and takes what meters show, and measures spans.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn listen_beside(&self, socket: &Path, desks: Desks) -> Result<SocketFile, ListenError> {
        push::listen(socket, self.around.clone(), self.out.clone(), desks)
    }

    /// Takes OpenTelemetry metrics at a unix socket.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn receive_at(&self, socket: &Path) -> Result<otlp::Receiver, ListenError> {
        otlp::listen_at(socket, self.around.clone(), self.out.clone())
    }

    /// The same at a port of loopback.
    ///
    /// # Errors
    /// The port cannot be had.
    pub async fn receive_on(&self, address: SocketAddr) -> Result<otlp::Receiver, ListenError> {
        otlp::listen_on(address, self.around.clone(), self.out.clone()).await
    }

    /// A handle for scrapes on demand.
    pub fn scraper(&self) -> Scraper {
        self.scraper.clone()
    }
}

/// A scrape out of turn, and who waits for it.
type Demand = oneshot::Sender<()>;

/// Asks for scrapes out of turn.
#[derive(Debug, Clone)]
pub struct Scraper {
    demands: watch::Receiver<Vec<mpsc::Sender<Demand>>>,
}

impl Scraper {
    /// Scrapes every target once, side by side, and returns when the samples are in the channel (or the scrape has
    /// failed). Someone must take the samples meanwhile, or more than 1,024 of them make it wait.
    pub async fn scrape_now(&self) {
        let mut answers = Vec::new();
        let demands = self.demands.borrow().clone();
        for demand in &demands {
            let (done, answer) = oneshot::channel();
            if demand.send(done).await.is_ok() {
                answers.push(answer);
            }
        }
        for answer in answers {
            // A task that has ended has nothing to scrape.
            let _ = answer.await;
        }
    }
}

/// The address of a target that is named by one.
fn configured_address(target: &Target) -> Option<(IpAddr, u16)> {
    let ip = if target.host == "localhost" { Some(IpAddr::from([127, 0, 0, 1])) } else { target.host.parse().ok() };
    ip.map(|ip: IpAddr| (ip.to_canonical(), target.port))
}

/// Targets as they would be read.
///
/// # Errors
/// A target's configuration is wrong.
pub(crate) fn check(configured: Vec<TargetConfig>, presets: &Presets) -> Result<Vec<Target>, TargetError> {
    let mut targets = Vec::new();
    for (index, config) in configured.into_iter().enumerate() {
        targets.push(Target::new(index, config, presets)?);
    }
    let mut urls = HashSet::new();
    if let Some((index, twice)) = targets.iter().enumerate().find(|(_, target)| !urls.insert(&target.name)) {
        let why = "another target has the same URL, so it would be counted twice; remove one";
        return Err(TargetError::Key { index, key: "url", value: twice.name.clone(), why });
    }
    Ok(targets)
}

/// Starts a task per target on the current tokio runtime. `presets` are those that targets may name, `procfs` is the root
/// of the process tables.
///
/// # Errors
/// A target's configuration is wrong; nothing was started.
pub fn start(
    targets: Vec<TargetConfig>,
    presets: &Presets,
    procfs: PathBuf,
    clock: Arc<dyn Clock>,
) -> Result<Inference, TargetError> {
    start_among(targets, presets, procfs, clock, watch::channel(Arc::default()).1, None)
}

/// The same among the pods of a directory, and looks for servers that nobody configured.
///
/// # Errors
/// As [`start`].
pub fn start_among(
    targets: Vec<TargetConfig>,
    presets: &Presets,
    procfs: PathBuf,
    clock: Arc<dyn Clock>,
    directory: watch::Receiver<Arc<Directory>>,
    wanted: Option<Wanted>,
) -> Result<Inference, TargetError> {
    let targets = check(targets, presets)?;
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok());
    let ticks_per_second = ticks.filter(|ticks| *ticks > 0).unwrap_or(TICKS_PER_SECOND);
    let around = scrape::Surroundings { procfs, started: clock.boot(), clock, ticks_per_second, directory };
    let (sender, samples) = mpsc::channel(SAMPLES);
    let (groups_sender, groups) = watch::channel(Vec::new());
    let (failures_sender, failures) = watch::channel(BTreeMap::new());
    let (names, told_names) = watch::channel(None);
    let (states, told_states) = watch::channel(BTreeMap::new());
    let out = scrape::Outputs {
        samples: sender,
        groups: Arc::new(groups_sender),
        failures: Arc::new(failures_sender),
        targets: Arc::new(states),
        names: told_names,
    };
    let start_one = |target| {
        let (demand, demands) = mpsc::channel(1);
        tokio::spawn(scrape::Task::new(target, around.clone(), out.clone()).run(demands));
        demand
    };
    let configured = targets.iter().filter_map(configured_address).collect();
    let fixed: Vec<_> = targets.into_iter().map(start_one).collect();
    let (demands, asked) = watch::channel(fixed.clone());
    if let Some(wanted) = wanted {
        let (presets, around, out) = (presets.clone(), around.clone(), out.clone());
        tokio::spawn(Discovery { wanted, presets, around, out, configured, demands, fixed }.run());
    }
    Ok(Inference {
        samples,
        groups,
        targets: told_states,
        failures,
        scraper: Scraper { demands: asked },
        names,
        around,
        out,
    })
}
