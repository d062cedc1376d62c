//! The role `bmc-poller`: power of other nodes at their inputs, from their BMCs over the management network.
//!
//! Accounts of BMCs are worth more than the energy of nodes, so no node holds one: a poller in a place of its own does. It
//! has a stream for each of its subjects, with a spool, a session and a thread of its own, and tells of nothing but what
//! the BMC shows. A BMC that hangs, or an aggregator that refuses one subject, stops that subject alone; a disk that
//! fails stops all of them.

use crate::clock::Clock;
use crate::collector::redfish::Redfish;
use crate::collector::{Collector, Sources};
use crate::config::{Config, Subject, SubjectSection};
use crate::metrics::{self, Board, export, listener};
use crate::run::delivery::{Delivery, deliver};
use crate::run::{Ending, RunError, boot_id, export_from, inventory, security, spool_config, unix_clock};
use crate::sampler::{Parts, Sampler, tell};
use crate::spool::{Spool, SpoolError};
use crate::uplink::{Uplink, UplinkConfig};
use joulebook_otlp::Sender;
use joulebook_units::PollerName;
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Smallest spool of a subject: two segments.
const LEAST_BYTES: u64 = 32 << 20;

/// Tells of every subject until `ending` says how, or one of them meets what waiting does not cure.
///
/// # Errors
/// See [`RunError`].
pub(crate) async fn run(
    config: Config,
    clock: Arc<dyn Clock>,
    ending: impl Future<Output = Ending>,
    process: Arc<metrics::Process>,
) -> Result<(), RunError> {
    let uplink = UplinkConfig {
        endpoint: config.aggregator_url().to_owned(),
        security: security(&config)?,
        boot: boot_id(&config.roots)?,
    };
    let (name, subjects) = (config.poller_name()?, config.subjects()?);
    let exporting = export::sender(&config.export, unix_clock(&clock))?;
    let listener = listener::bind(config.metrics.listen).await?;
    make_folder(&config)?;
    let (stop, stopped) = watch::channel(None);
    let (mut tasks, mut streams) = (JoinSet::new(), Vec::new());
    tracing::info!(poller = %name, subjects = subjects.len(), "poller starts");
    for subject in &subjects {
        let (delivery, stream) = begin(&config, subject, &name, subjects.len(), &uplink, &clock)?;
        streams.push(stream);
        let mut stopped = stopped.clone();
        tasks.spawn(async move {
            let told = async move {
                let told = stopped.wait_for(Option::is_some).await.map_or(None, |told| *told);
                // None: the other end is gone, time to stop, too.
                told.unwrap_or(Ending::Stop)
            };
            deliver(delivery, told).await
        });
    }
    let board = Board::new(process, streams, None).telling(exporting.as_ref().map(Sender::queue));
    let board = Arc::new(board);
    let _exporting = export_from(&board, exporting, &config);
    let page = listener.map(|listener| tokio::spawn(listener::serve(listener, board)));
    let (told, ended) = tokio::select! {
        ending = ending => (ending, Ok(())),
        Some(ended) = tasks.join_next() => (Ending::Stop, ended.map_err(RunError::Ended).and_then(|ended| ended)),
    };
    let _ = stop.send(Some(told));
    // What ended it is the cause; what the others say after it is not.
    let mut finished = ended;
    while let Some(ended) = tasks.join_next().await {
        finished = finished.and(ended.map_err(RunError::Ended).and_then(|ended| ended));
    }
    if let Some(page) = page {
        page.abort();
        // The address is free again for the poller that takes this one's place.
        let _ = page.await;
    }
    finished?;
    tracing::info!("poller stopped");
    Ok(())
}

/// The meters of all subjects, for looking around: each source's name begins with that of its node.
pub(crate) fn meters(config: &Config) -> Sources {
    let meter = |subject: &SubjectSection| -> Box<dyn Collector> {
        Box::new(Redfish::new(&subject.redfish).below(&subject.node))
    };
    Sources::of(config.subject.iter().map(meter).collect())
}

/// The folder of the subjects' spools.
fn make_folder(config: &Config) -> Result<(), RunError> {
    let dir = &config.spool.dir;
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            let why = "its parent folder does not exist: make it, or set spool.dir";
            Err(SpoolError::Configuration { path: dir.clone(), why }.into())
        }
        // Whether one that is there, or that could not be made, can be used, its spools say.
        _ => Ok(()),
    }
}

/// Everything of one subject, ready to run.
fn begin(
    config: &Config,
    subject: &Subject,
    name: &PollerName,
    subjects: usize,
    uplink: &UplinkConfig,
    clock: &Arc<dyn Clock>,
) -> Result<(Delivery, metrics::Stream), RunError> {
    let share = config.spool.max_bytes / u64::try_from(subjects).unwrap_or(u64::MAX).max(1);
    let dir = config.spool.dir.join(subject.node.as_str());
    let limit = share.max(LEAST_BYTES);
    let (spool, recovery) = Spool::open(&spool_config(config, &dir, limit))?;
    // The node's own agent may ask its BMC too.
    let mut sources = Sources::of(vec![Box::new(Redfish::new(&subject.redfish).below(name))]);
    let states = sources.discover().to_vec();
    states.iter().for_each(tell);
    let (told, inventory) = watch::channel(inventory(config, subject.node.clone(), states));
    let (tick, batch_rows) = pace(config, subject);
    let epoch = recovery.session_epoch;
    tracing::info!(node = %subject.node, stream = %recovery.stream, epoch, "subject starts");
    let parts = Parts {
        clock: Arc::clone(clock),
        boot: uplink.boot,
        batch_rows,
        sources,
        workloads: None,
        package_idle: None,
        // Nobody counts here: the other ends are gone at once.
        counts: mpsc::channel(1).1,
        groups: watch::channel(Vec::new()).1,
        inventory: told,
    };
    let sampler = Sampler::new(parts, &recovery);
    let uplink = Uplink::new(uplink.clone(), spool.clone(), inventory, Arc::clone(clock)).of_poller(name.clone());
    // Nobody measures spans of other nodes: the channel has no other end.
    let (_, spans) = mpsc::channel(1);
    let any_certificate = Some(subject.redfish.danger_accept_any_certificate);
    let (stream, asked) =
        metrics::Stream::new((subject.node.clone(), tick), (spool.watch(), limit), uplink.counters(), any_certificate);
    Ok((Delivery { sampler, spool, uplink, tick, scraper: None, spans, asked }, stream))
}

/// Time between rows of a subject, and rows of a batch: a row for each value of the BMC and batches as long as configured,
/// since each is synced to the disk.
fn pace(config: &Config, subject: &Subject) -> (Duration, usize) {
    let sampling = &config.sampling;
    let tick = sampling.tick.max(subject.redfish.interval);
    let batch = sampling.tick.saturating_mul(u32::try_from(sampling.batch_rows).unwrap_or(u32::MAX));
    let rows = batch.as_nanos() / tick.as_nanos().max(1);
    (tick, usize::try_from(rows).unwrap_or(1).max(1))
}
