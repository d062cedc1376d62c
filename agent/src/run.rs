//! Starts the parts of an agent, in an order in which a refusal has changed nothing, and stops them in the other one.

use crate::clock::Clock;
use crate::collector::meter::{self, Meters, Told};
use crate::collector::{Sources, estimate};
use crate::config::{Config, ConfigError, Role, Roots, SupportSection};
use crate::directory::Directory;
use crate::hardware;
use crate::inference::{self, Desks, ListenError, MeterDesk, SpanDesk, TargetError};
use crate::kubelet;
use crate::metrics::listener::{self, PageError};
use crate::metrics::{self, Board, Targets, export};
use crate::poller;
use crate::process::{Workloads, proc::read_text};
use crate::sampler::{Parts, Sampler, tell};
use crate::spool::{Spool, SpoolConfig, SpoolError};
use crate::uplink::{Security, Uplink, UplinkConfig, UplinkError};
use delivery::{Delivery, deliver};
use joulebook_otlp::{OtlpError, Sender, UnixClock};
use joulebook_proto::credentials::CredentialError;
use joulebook_proto::telemetry::NodeDirectory;
use joulebook_units::{BootId, Hardware, Inventory, NodeName, Placement, SourceState, Support};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

pub(crate) mod delivery;

const SEGMENT_BYTES: u64 = 16 << 20;
/// Edges of spans that may wait for their row.
const WAITING_EDGES: usize = 64;

/// Why an agent did not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The files of mutual TLS.
    #[error(transparent)]
    Tls(#[from] CredentialError),
    /// A scrape target of the configuration.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A place at which servers tell.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The disk queue.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The connection to the aggregator, for a reason that waiting does not cure.
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    /// The page of metrics.
    #[error(transparent)]
    Page(#[from] PageError),
    /// The receiver of OpenTelemetry cannot be told anything.
    #[error("[export] {0}")]
    Export(#[from] OtlpError),
    /// Energy sensors exist and none may be read.
    #[error("no energy sensor may be read: {why}; run as root, or set allow_no_sources to run on estimates")]
    NoSource {
        /// The first sensor's reason.
        why: String,
    },
    /// The boot cannot be told from others.
    #[error("reading the boot id failed below {procfs}; name the host's procfs with --procfs-root")]
    Boot {
        /// The procfs root.
        procfs: String,
    },
    /// Threads or signals could not be had.
    #[error("starting the agent's tasks failed")]
    Start {
        /// Why.
        source: std::io::Error,
    },
    /// A task of the agent ended unexpectedly.
    #[error("a task of the agent ended unexpectedly")]
    Ended(#[source] JoinError),
}

/// Why an agent is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is stopped: what it holds is delivered before, as far as 10 s allow.
    Stop,
    /// Another takes its place in this process at once, which delivers what this one leaves in the spool.
    Replaced,
}

/// Runs an agent until `shutdown` completes, then scrapes once more, writes a last row, and sends what it can in 10 s.
///
/// # Errors
/// See [`RunError`]; [`crate::exit::code`] gives the exit code of each.
pub async fn run(config: Config, clock: Arc<dyn Clock>, shutdown: impl Future) -> Result<(), RunError> {
    let ending = async {
        shutdown.await;
        Ending::Stop
    };
    run_until(config, clock, ending).await
}

/// The same until `ending` says how. It is polled first when the agent has started.
///
/// # Errors
/// See [`RunError`].
pub async fn run_until(
    config: Config,
    clock: Arc<dyn Clock>,
    ending: impl Future<Output = Ending>,
) -> Result<(), RunError> {
    run_counted(config, clock, ending, Arc::default()).await
}

/// The same with what is counted for the whole process.
///
/// # Errors
/// See [`RunError`].
pub async fn run_counted(
    config: Config,
    clock: Arc<dyn Clock>,
    ending: impl Future<Output = Ending>,
    process: Arc<metrics::Process>,
) -> Result<(), RunError> {
    config.check()?;
    match config.role {
        Role::Node => run_node(config, clock, ending, process).await,
        Role::BmcPoller => poller::run(config, clock, ending, process).await,
    }
}

/// Runs the agent of the node that it is on.
async fn run_node(
    config: Config,
    clock: Arc<dyn Clock>,
    ending: impl Future<Output = Ending>,
    process: Arc<metrics::Process>,
) -> Result<(), RunError> {
    let security = security(&config)?;
    let boot = boot_id(&config.roots)?;
    let (tell, told) = meter::channel();
    let meters = (!config.meter.is_empty()).then(|| MeterDesk::new(&config.meter, tell));
    let (sources, inventory) = discover(&config, told)?;
    if let Some(socket) = &config.push.socket {
        inference::listening::check(inference::push::KEY, socket)?;
    }
    if let Some(socket) = &config.otlp.socket {
        inference::listening::check(inference::otlp::SOCKET, socket)?;
    }
    // Targets are checked before the spool is made: a refusal changes nothing.
    let (targets, procfs) = (config.target.clone(), config.roots.procfs.clone());
    let (pods, directory) = watch::channel(Arc::new(Directory::default()));
    let presets = config.presets()?;
    let inference = inference::start_among(
        targets,
        &presets,
        procfs,
        Arc::clone(&clock),
        directory.clone(),
        config.discovery.wanted(),
    )?;
    let exporting = export::sender(&config.export, unix_clock(&clock))?;
    let listener = listener::bind(config.metrics.listen).await?;
    let (spool, recovery) = Spool::open(&spool_config(&config, &config.spool.dir, config.spool.max_bytes))?;
    inference.name_consumers(config.consumers.names(&config.spool.dir)?);
    // Behind the spool's lock: a second agent of the same folder must not take the first one's socket.
    let (edges, spans) = mpsc::channel(WAITING_EDGES);
    let desks = Desks { meters, spans: Some(SpanDesk::new(&config.push.measure_uids, edges)) };
    let _socket = config.push.socket.as_deref().map(|socket| inference.listen_beside(socket, desks)).transpose()?;
    let mut receivers = Vec::new();
    if let Some(socket) = &config.otlp.socket {
        receivers.push(inference.receive_at(socket)?);
    }
    if let Some(address) = config.otlp.listen {
        receivers.push(inference.receive_on(address).await?);
    }
    let threads = inventory.hardware.threads.unwrap_or(1);
    let package_idle = package_idle(&config, &inventory);
    tracing::info!(node = %inventory.node, stream = %recovery.stream, epoch = recovery.session_epoch, "agent starts");
    let node = inventory.node.clone();
    let (inventory, told) = watch::channel(inventory);
    let scraper = inference.scraper();
    let (holding, allocations) = watch::channel(Arc::default());
    let parts = Parts {
        clock: Arc::clone(&clock),
        boot,
        batch_rows: config.sampling.batch_rows,
        sources,
        workloads: Some(
            Workloads::new(&config.roots, threads)
                .every(config.sampling.workloads)
                .among(directory.clone(), config.member.clone())
                .holding(allocations),
        ),
        package_idle,
        counts: inference.samples,
        groups: inference.groups,
        inventory,
    };
    let mut asking = JoinSet::new();
    if config.kubelet.enabled {
        asking.spawn(kubelet::follow(config.kubelet.clone(), holding));
    }
    let sampler = Sampler::new(parts, &recovery);
    let servers = Targets { states: inference.targets, failures: inference.failures };
    let uplink = UplinkConfig { endpoint: config.aggregator_url().to_owned(), security, boot };
    let uplink = Uplink::new(uplink, spool.clone(), told, clock);
    let pods = tokio::spawn(pass_on(uplink.node_directory(), pods));
    let tick = config.sampling.tick;
    let any_certificate = config.redfish.url.is_some().then_some(config.redfish.danger_accept_any_certificate);
    let spooled = (spool.watch(), config.spool.max_bytes);
    let (stream, asked) = metrics::Stream::new((node, tick), spooled, uplink.counters(), any_certificate);
    let board = Board::new(process, vec![stream], Some(servers));
    let board = Arc::new(board.telling(exporting.as_ref().map(Sender::queue)));
    let _exporting = export_from(&board, exporting, &config);
    let page = listener.map(|listener| tokio::spawn(listener::serve(listener, board)));
    let delivery = Delivery { sampler, spool, uplink, tick, scraper: Some(scraper), spans, asked };
    let delivered = deliver(delivery, ending).await;
    pods.abort();
    asking.abort_all();
    for receiver in receivers {
        receiver.close().await;
    }
    if let Some(page) = page {
        page.abort();
        // The address is free again for the agent that takes this one's place.
        let _ = page.await;
    }
    delivered?;
    tracing::info!("agent stopped");
    Ok(())
}

/// The wall clock for who delivers.
pub fn unix_clock(clock: &Arc<dyn Clock>) -> UnixClock {
    let clock = Arc::clone(clock);
    Arc::new(move || clock.wall())
}

/// Begins to tell a receiver of OpenTelemetry, if there is one. It ends with the value.
pub(crate) fn export_from(board: &Arc<Board>, exporting: Option<Sender>, config: &Config) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    if let Some(sender) = exporting {
        let (queue, cluster) = (sender.queue(), config.export.cluster.clone());
        tasks.spawn(export::tell(Arc::clone(board), (sender, queue), (cluster, export::STEP)));
    }
    tasks
}

/// Passes on what the aggregator tells of the node's pods.
async fn pass_on(mut told: watch::Receiver<Option<NodeDirectory>>, pods: watch::Sender<Arc<Directory>>) {
    while told.changed().await.is_ok() {
        let wire = told.borrow_and_update().clone();
        let directory = wire.map(Directory::from_wire).unwrap_or_default();
        tracing::info!(pods = directory.pods().count(), "the aggregator told the pods of this node");
        pods.send_replace(Arc::new(directory));
    }
}

/// A spool in a folder, of so many bytes at most, else as configured.
pub(crate) fn spool_config(config: &Config, dir: &Path, max_bytes: u64) -> SpoolConfig {
    let section = &config.spool;
    SpoolConfig {
        dir: dir.to_owned(),
        max_bytes,
        min_free_bytes: section.min_free_bytes.unwrap_or_else(|| SpoolConfig::default_min_free(&section.dir)),
        segment_bytes: SEGMENT_BYTES,
        rewind_bytes: section.rewind_bytes.unwrap_or(max_bytes / 4).min(max_bytes),
        keep_acked: section.keep_acked,
    }
}

/// How the aggregator is spoken with. Files that cannot be used are refused at the start, when somebody looks on; a
/// certificate that has ended is not: energy is spooled until it is renewed.
pub(crate) fn security(config: &Config) -> Result<Security, RunError> {
    let Some(files) = config.credential_files()? else { return Ok(Security::PlaintextOnLoopback) };
    files.read()?.check()?;
    Ok(Security::Tls(files))
}

/// Looks for hardware and sources and says what it found; refuses if sensors exist and none may be read.
fn discover(config: &Config, told: Receiver<Told>) -> Result<(Sources, Inventory), RunError> {
    let hardware = hardware::discover(&config.roots);
    let mut sources = Sources::new(config, &config.roots);
    if !config.meter.is_empty() {
        sources.add(Box::new(Meters::new(&config.meter, told)));
    }
    let states = sources.discover().to_vec();
    for state in &states {
        tell(state);
    }
    if sources.all_refused() && !config.allow_no_sources {
        let why = states.iter().find_map(|state: &SourceState| state.unavailable.clone()).unwrap_or_default();
        return Err(RunError::NoSource { why });
    }
    if !states.iter().any(|state| state.source.collector != "estimate" && state.unavailable.is_none()) {
        tracing::warn!("no energy sensor is read: all energy of this node is estimated");
    }
    let mut hardware = hardware;
    let accelerators = sources.accelerators();
    if !accelerators.is_empty() {
        hardware.accelerators = accelerators;
    }
    let inventory = Inventory { hardware, ..inventory(config, config.node_name()?, states) };
    Ok((sources, inventory))
}

/// What is told of a node and its sources, but for its hardware.
pub(crate) fn inventory(config: &Config, node: NodeName, sources: Vec<SourceState>) -> Inventory {
    let placement = Placement {
        site: config.placement.site.clone(),
        pool: config.placement.pool.clone(),
        simulated: config.placement.simulated,
        support: config.support.iter().map(support).collect(),
    };
    let agent_version = env!("CARGO_PKG_VERSION").to_owned();
    Inventory { node, agent_version, sources, hardware: Hardware::default(), placement }
}

fn support(section: &SupportSection) -> Support {
    Support { role: section.role.clone(), workload: section.workload.clone(), pool: section.pool.clone() }
}

/// Idle power of one metered package: configured, or the matching table row's.
fn package_idle(config: &Config, inventory: &Inventory) -> Option<estimate::Idle> {
    let packages = inventory
        .sources
        .iter()
        .filter(|state| state.source.collector == "rapl" && state.source.component == joulebook_units::Component::Cpu);
    let packages = u64::try_from(packages.count()).ok().filter(|packages| *packages > 0)?;
    estimate::package_idle(&hardware::cpu(&config.roots.procfs), &config.rapl, packages)
}

/// The boot's identity, of the given procfs; a tree without one (a made-up machine) has that of this machine.
pub(crate) fn boot_id(roots: &Roots) -> Result<BootId, RunError> {
    let file = "sys/kernel/random/boot_id";
    let own = read_text(&roots.procfs.join(file)).or_else(|| read_text(&Path::new("/proc").join(file)));
    own.and_then(|text| text.parse().ok()).ok_or_else(|| RunError::Boot { procfs: roots.procfs.display().to_string() })
}
