//! Starts the parts of an agent, in an order in which a refusal has changed nothing, and stops them in the other one.

use crate::clock::Clock;
use crate::collector::meter::{self, Meters, Told};
use crate::collector::{Sources, estimate};
use crate::config::{Config, ConfigError, Roots};
use crate::directory::Directory;
use crate::hardware;
use crate::inference::{self, MeterDesk, PushError, Scraper, TargetError};
use crate::process::{Workloads, proc::read_text};
use crate::sampler::{Flush, Parts, Sampler, tell};
use crate::spool::{Spool, SpoolConfig, SpoolError, SpoolHandle};
use crate::uplink::{Security, Uplink, UplinkConfig, UplinkError};
use joulebook_proto::credentials::CredentialError;
use joulebook_proto::telemetry::NodeDirectory;
use joulebook_units::{BootId, Inventory, Placement, SourceState};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Batches that may wait for the disk before rows wait too.
const WAITING_BATCHES: usize = 16;
/// Longest time for the last scrape.
const LAST_SCRAPE: Duration = Duration::from_secs(6);
const SEGMENT_BYTES: u64 = 16 << 20;
/// How often a full disk is tried again when no batch comes.
const TRY_AGAIN: Duration = Duration::from_secs(2);

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
    /// The socket for reports.
    #[error(transparent)]
    Push(#[from] PushError),
    /// The disk queue.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The connection to the aggregator, for a reason that waiting does not cure.
    #[error(transparent)]
    Uplink(#[from] UplinkError),
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
    config.check()?;
    let security = security(&config)?;
    let boot = boot_id(&config.roots)?;
    let (tell, told) = meter::channel();
    let meters = (!config.meter.is_empty()).then(|| MeterDesk::new(&config.meter, tell));
    let (sources, inventory) = discover(&config, told)?;
    if let Some(socket) = &config.push.socket {
        inference::push::check(socket)?;
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
    let (spool, recovery) = Spool::open(&SpoolConfig {
        dir: config.spool.dir.clone(),
        max_bytes: config.spool.max_bytes,
        min_free_bytes: config.spool.min_free_bytes.unwrap_or_else(|| SpoolConfig::default_min_free(&config.spool.dir)),
        segment_bytes: SEGMENT_BYTES,
        rewind_bytes: config.spool.rewind_bytes.unwrap_or(config.spool.max_bytes / 4),
        keep_acked: config.spool.keep_acked,
    })?;
    // Behind the spool's lock: a second agent of the same folder must not take the first one's socket.
    let _socket = config.push.socket.as_deref().map(|socket| inference.listen_beside(socket, meters)).transpose()?;
    let threads = inventory.hardware.threads.unwrap_or(1);
    let package_idle = package_idle(&config, &inventory);
    tracing::info!(node = %inventory.node, stream = %recovery.stream, epoch = recovery.session_epoch, "agent starts");
    let (inventory, told) = watch::channel(inventory);
    let scraper = inference.scraper();
    let parts = Parts {
        clock: Arc::clone(&clock),
        boot,
        batch_rows: config.sampling.batch_rows,
        sources,
        workloads: Workloads::new(&config.roots, threads)
            .every(config.sampling.workloads)
            .among(directory.clone(), config.member.clone()),
        package_idle,
        counts: inference.samples,
        groups: inference.groups,
        inventory,
    };
    let sampler = Sampler::new(parts, &recovery);
    let uplink = UplinkConfig { endpoint: config.aggregator_url().to_owned(), security, boot };
    let uplink = Uplink::new(uplink, spool.clone(), told, clock);
    let (stop, stopped) = watch::channel(false);
    let (flushes, to_write) = mpsc::channel(WAITING_BATCHES);
    let wishes = uplink.wishes_for_a_stream();
    let pods = tokio::spawn(pass_on(uplink.node_directory(), pods));
    let mut uplink = tokio::spawn(uplink.run(stopped));
    let mut writer = tokio::spawn(write(spool.clone(), to_write));

    let tick = config.sampling.tick;
    let sampled = tokio::select! {
        ending = sample(sampler, tick, scraper, (flushes, wishes), ending) => Ok(ending),
        ended = &mut uplink => Err(ended.map_err(RunError::Ended)?.err().map_or(RunError::Spool(SpoolError::Closed), RunError::Uplink)),
        ended = &mut writer => Err(ended.map_err(RunError::Ended)?.err().map_or(SpoolError::Closed, |error| error).into()),
    };
    let ending = match sampled {
        Ok(ending) => ending,
        Err(error) => {
            // The spool's own error says more than that of the task that met the closed spool.
            let closed = matches!(error, RunError::Uplink(UplinkError::Spool(SpoolError::Closed)));
            if closed && let Ok(Ok(Err(cause))) = timeout(LAST_SCRAPE, &mut writer).await {
                return Err(cause.into());
            }
            return Err(error);
        }
    };
    writer.await.map_err(RunError::Ended)??;
    match ending {
        Ending::Stop => {
            let _ = stop.send(true);
            uplink.await.map_err(RunError::Ended)??;
        }
        // Nothing is measured meanwhile: what is on its way is sent again, and told apart as a replay.
        Ending::Replaced => uplink.abort(),
    }
    pods.abort();
    spool.close().await?;
    tracing::info!("agent stopped");
    Ok(())
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

/// How the aggregator is spoken with. Files that cannot be used are refused at the start, when somebody looks on; a
/// certificate that has ended is not: energy is spooled until it is renewed.
pub(crate) fn security(config: &Config) -> Result<Security, RunError> {
    let Some(files) = config.credential_files()? else { return Ok(Security::PlaintextOnLoopback) };
    files.read()?.check()?;
    Ok(Security::Tls(files))
}

/// Rows at every tick until `ending`, then the last scrape and the last row.
async fn sample(
    mut sampler: Sampler,
    tick: Duration,
    scraper: Scraper,
    (flushes, mut wishes): (mpsc::Sender<Flush>, watch::Receiver<u64>),
    ending: impl Future<Output = Ending>,
) -> Ending {
    let mut ticks = interval(tick);
    // A late row is simply longer; rows that were missed are not made up.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ending = std::pin::pin!(ending);
    let mut ready = Some(tick);
    let ending = loop {
        tokio::select! {
            biased;
            ending = &mut ending => break ending,
            _ = ticks.tick() => {}
        }
        // The uplink wishes for a new stream: what is old is delivered beside it. Its end is the agent's.
        let wished = wishes.has_changed().unwrap_or(false);
        let last_of_stream = wished.then(|| {
            wishes.mark_unchanged();
            sampler.begin_stream()
        });
        for flush in last_of_stream.flatten().into_iter().chain(sampler.tick()) {
            if flushes.send(flush).await.is_err() {
                // The writer has ended with an error, which the caller reports.
                std::future::pending::<()>().await;
            }
        }
        // Said once the first row exists: what starts from now on is seen from its start.
        if let Some(tick) = ready.take() {
            tracing::info!("sampling every {}", humantime::format_duration(tick));
        }
    };
    let scraped = timeout(LAST_SCRAPE, scraper.scrape_now()).await;
    if scraped.is_err() {
        tracing::warn!("the last scrape took too long: counts since the scrape before are left out");
    }
    for flush in sampler.finish() {
        let _ = flushes.send(flush).await;
    }
    ending
}

/// Appends batches in order. While the disk is full they wait in the spool's memory, and the disk is tried again.
async fn write(spool: SpoolHandle, mut flushes: mpsc::Receiver<Flush>) -> Result<(), SpoolError> {
    let mut waits = false;
    loop {
        let written = tokio::select! {
            flush = flushes.recv() => match flush {
                Some(Flush { batch, local, new_series, begins_stream: false }) => {
                    spool.append(batch, local, new_series).await.map(drop)
                }
                Some(Flush { batch, local, new_series, begins_stream: true }) => {
                    spool.begin_stream(batch, local, new_series).await.map(drop)
                }
                None => return Ok(()),
            },
            () = tokio::time::sleep(TRY_AGAIN), if waits => spool.write_waiting().await,
        };
        waits = match written {
            Ok(()) => {
                if waits {
                    tracing::warn!("the disk takes records again: those that waited in memory are written");
                }
                false
            }
            Err(error @ SpoolError::NoSpace { .. }) => {
                if !waits {
                    tracing::error!(%error, "the disk is full");
                }
                true
            }
            Err(error @ (SpoolError::Refused(_) | SpoolError::TooLarge)) => {
                tracing::error!(%error, "a batch cannot be recorded and is declared lost");
                waits
            }
            Err(error) => return Err(error),
        };
    }
}

/// Looks for hardware and sources and says what it found; refuses if sensors exist and none may be read.
fn discover(config: &Config, told: Receiver<Told>) -> Result<(Sources, Inventory), RunError> {
    let hardware = hardware::discover(&config.roots);
    let mut sources = Sources::new(config, &config.roots, &hardware);
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
    let placement = Placement {
        site: config.placement.site.clone(),
        pool: config.placement.pool.clone(),
        simulated: config.placement.simulated,
        support: Vec::new(),
    };
    let agent_version = env!("CARGO_PKG_VERSION").to_owned();
    Ok((sources, Inventory { node: config.node_name()?, agent_version, sources: states, hardware, placement }))
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
fn boot_id(roots: &Roots) -> Result<BootId, RunError> {
    let file = "sys/kernel/random/boot_id";
    let own = read_text(&roots.procfs.join(file)).or_else(|| read_text(&Path::new("/proc").join(file)));
    own.and_then(|text| text.parse().ok()).ok_or_else(|| RunError::Boot { procfs: roots.procfs.display().to_string() })
}
