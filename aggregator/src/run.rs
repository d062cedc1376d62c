//! The aggregator as a whole: opens the database, starts every task, stops them in order.

use crate::admin::{Admin, FeedStates, Series};
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::directory::{self, Directories};
use crate::export::Exporter;
use crate::export::listener::{self, Pages};
use crate::export::live::Live as Looks;
use crate::export::otlp;
use crate::factor::poll::Desk;
use crate::ingest::pressure::{Cause, Pressure};
use crate::ingest::{self, Counters, Intake};
use crate::keeping::Keeping;
use crate::keeping::disk::Disk;
use crate::ledger::Ledger;
use crate::memory::Memory;
use crate::pods;
use crate::query::{Query, warm};
use crate::reload::{Live, Reload};
use crate::server::accept::{Gate, Transport};
use crate::server::tls::{Renewal, TlsError};
use crate::server::{self, ServeError};
use crate::store::rocks::RocksStore;
use crate::store::space::Space;
use crate::store::{Book, Store, StoreError, schema};
use joulebook_otlp::{OtlpError, Sender, Signal, UnixClock};
use joulebook_proto::config_file::{ConfigFile, LOOK_EVERY};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic_health::server::HealthReporter;

/// How long sessions, calls and tasks may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// How often the disk is looked at for those who ask how healthy the aggregator is.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);
const NOTE_INTERVAL: Duration = Duration::from_secs(10);
const BACKLOG: u32 = 1024;

/// Why an aggregator does not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address cannot be listened on.
    #[error("listening on {listen}: {source}; stop what uses the port or set --listen")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The database cannot be opened or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The receiver of OpenTelemetry cannot be told anything.
    #[error("[otlp] {0}")]
    Otlp(#[from] OtlpError),
    /// The server failed.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A task ended by itself.
    #[error("a task of the aggregator ended unexpectedly; start it again and report its log")]
    Stuck,
}

impl From<JoinError> for RunError {
    fn from(_: JoinError) -> Self {
        Self::Stuck
    }
}

/// Runs until `shutdown` ends or something fails. `ready` gets the address that is listened on. When it returns,
/// everything acknowledged is durable and the database is closed.
pub async fn run(
    config: Config,
    clock: Arc<dyn Clock>,
    ready: oneshot::Sender<SocketAddr>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    run_reloading(config, None, clock, ready, shutdown).await
}

/// The same, and takes over what `reload` reads again.
pub async fn run_reloading(
    config: Config,
    reload: Option<Reload>,
    clock: Arc<dyn Clock>,
    ready: oneshot::Sender<SocketAddr>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let factors = config.check()?;
    let all_pods = match &config.node_directory {
        Some(path) => Directories::read(path, clock.unix())?,
        None => Directories::default(),
    };
    let counters = Arc::new(Counters::default());
    // Read before anything is opened, so that files that cannot be used change nothing.
    let renewal = renewal(&config, &clock, &counters)?;
    // Bound before the database is opened, so that a taken port changes no file; listened on after it.
    let socket = bind(config.listen).map_err(|source| RunError::Listen { listen: config.listen, source })?;
    let sender = match config.otlp.tells(Signal::Metrics) {
        true => Some(Sender::new(&config.otlp, Signal::Metrics, otlp::ROOM, unix_clock(&clock))?),
        false => None,
    };
    let page = match config.metrics.listen {
        Some(listen) => Some((bind(listen).map_err(|source| RunError::Listen { listen, source })?, listen)),
        None => None,
    };
    let memory = Memory::of(config.memory_budget);
    let (store, book) = open(&config, memory)?;
    let space = Arc::new(Space::new(&config.data_dir, config.least_space()));
    let (stop, stopping) = watch::channel(false);
    let mut tasks: JoinSet<Result<(), RunError>> = JoinSet::new();

    let intake = Intake::new(Arc::clone(&book), Arc::clone(&counters));
    let (telemetry, committer) = ingest::telemetry(intake, Arc::clone(&space), Arc::clone(&clock), stopping.clone());
    let telemetry = telemetry.with_pollers(config.pollers()?);
    let (told, directories) = watch::channel(Arc::new(all_pods));
    let telemetry = telemetry.telling(directories.clone());
    if config.pods.watch {
        let follow = pods::follow(config.pods.clone(), Arc::clone(&clock), told.clone(), Arc::clone(&counters));
        tasks.spawn(until_stop(follow, stopping.clone()));
    }
    if let Some(path) = config.node_directory.clone() {
        let Ok(file) = ConfigFile::watch(Some(path.clone()), LOOK_EVERY) else { return Err(RunError::Stuck) };
        let (now, counters) = (Arc::clone(&clock), Arc::clone(&counters));
        tasks.spawn(until_stop(directory::follow(path, file, move || now.unix(), told, counters), stopping.clone()));
    }
    let pressure = committer.pressure();
    let (watch, memory_stops) = (committer.watch_memory(memory), stopping.clone());
    tasks.spawn(until_stop(watch, memory_stops));
    let commit_clock = Arc::clone(&clock);
    tasks.spawn(async move { Ok(committer.run(commit_clock).await?) });
    let (factors, periods) = (watch::Sender::new(Arc::new(factors)), watch::Sender::new(config.periods()));
    let keeping = Keeping { book: Arc::clone(&book), space: Arc::clone(&space), clock: Arc::clone(&clock) };
    let (drops, stops) = (keeping.clone().drop_old(periods.subscribe(), stopping.clone()), stopping.clone());
    tasks.spawn(async move { Ok(drops.await?) });
    let disk = Disk { store: Arc::clone(&store), counters: Arc::clone(&counters), periods: periods.subscribe() };
    let (kept, disk_stops) = (keeping.clone(), stopping.clone());
    tasks.spawn(async move { Ok(kept.keep_within(disk, disk_stops).await?) });
    tasks.spawn(async move { Ok(keeping.seal(stops).await?) });
    tasks.spawn(note_manifest(Arc::clone(&store), Arc::clone(&space), stopping.clone()));
    let ledger = Ledger::new(Arc::clone(&book), Arc::clone(&clock)).while_open(Arc::clone(&space));
    let ledger_stops = stopping.clone();
    tasks.spawn(async move { Ok(ledger.run(ledger_stops).await?) });

    let query = Query::new(Arc::clone(&book), factors.subscribe(), Arc::clone(&clock));
    let query = Arc::new(query.labelled(directories).within(memory));
    let (asked, mut stops) = (Arc::clone(&query), stopping.clone());
    tasks.spawn(async move {
        warm::warm(&asked, &mut stops).await;
        stopped(&mut stops).await;
        Ok(())
    });
    let states = FeedStates::default();
    let desk = Desk {
        book: Arc::clone(&book),
        clock: Arc::clone(&clock),
        states: Arc::clone(&states),
        counters: Arc::clone(&counters),
        space: Arc::clone(&space),
    };
    tasks.spawn(until_stop(desk.run(factors.subscribe()), stopping.clone()));
    let looks = Looks {
        book: Arc::clone(&book),
        counters: Arc::clone(&counters),
        factors: factors.subscribe(),
        feeds: Arc::clone(&states),
        space: Arc::clone(&space),
        told: sender.as_ref().map(Sender::queue),
        started: clock.unix(),
    };
    let exporter = Exporter {
        query: Query::new(Arc::clone(&book), factors.subscribe(), Arc::clone(&clock)),
        section: config.export.clone(),
        clock: Arc::clone(&clock),
        counters: Arc::clone(&counters),
    };
    let series = Series { factors: factors.subscribe(), states, clock: Arc::clone(&clock) };
    let (backups, kept) = (config.backup_dir.clone(), periods.subscribe());
    let admin = Admin::new(Arc::clone(&store), Arc::clone(&book), Arc::clone(&counters), kept, backups, series);
    let (routes, health) = server::services(telemetry, admin, query).await?;
    tasks.spawn(watch_space(Arc::clone(&space), health, pressure, Arc::clone(&counters), stopping.clone()));
    let transport = renewal.as_ref().map_or(Transport::Plain, |renewal| Transport::Tls(renewal.current()));
    let gate = Gate::new(transport, config.limits()?, clock, Arc::clone(&counters));
    let told = watch::Sender::new(None);
    let exports = page.is_some() || sender.is_some();
    if let Some(mut sender) = sender {
        let telling = otlp::tell(told.subscribe(), sender.queue(), config.otlp.cluster.clone());
        tasks.spawn(until_stop(telling, stopping.clone()));
        tasks.spawn(until_stop(async move { sender.run().await }, stopping.clone()));
    }
    if let Some((socket, listen)) = page {
        let figures = told.subscribe();
        let plain = config.metrics.is_plain();
        let tls = renewal.as_ref().filter(|_| !plain).map(Renewal::current);
        let (listener, address) = self::listen(socket).map_err(|source| RunError::Listen { listen, source })?;
        tracing::info!("metrics are read at {address}");
        let pages = Pages { live: looks, figures, counters: Arc::clone(&counters), tls };
        let stopping = stopping.clone();
        tasks.spawn(async move {
            listener::serve(pages, listener, stopping).await;
            Ok(())
        });
    }
    if exports {
        tasks.spawn(until_stop(exporter.run(told), stopping.clone()));
    }
    let listens_at = config.listen;
    let live = Live { factors, periods, space };
    if let Some(reload) = reload {
        tasks.spawn(until_stop(reload.run(config, live, counters), stopping.clone()));
    }
    if let Some(renewal) = renewal {
        tasks.spawn(until_stop(renewal.run(), stopping.clone()));
    }
    let (listener, address) = listen(socket).map_err(|source| RunError::Listen { listen: listens_at, source })?;
    tracing::info!("listening on {address}");
    // Nobody waits for the address outside tests.
    let _ = ready.send(address);
    tasks.spawn(async move {
        server::serve(routes, gate, listener, stopping).await;
        Ok(())
    });

    let ended = tokio::select! {
        () = shutdown => Ok(()),
        Some(ended) = tasks.join_next() => ended.map_err(RunError::from).and_then(|ended| ended).and(Err(RunError::Stuck)),
    };
    tracing::info!("stopping");
    // Fails only if every task is gone already.
    let _ = stop.send(true);
    let finished = finish(tasks).await;
    drop((book, store));
    // What ended it is the cause; what the others say after it is not.
    ended.and(finished)
}

/// The wall clock for who delivers.
pub fn unix_clock(clock: &Arc<dyn Clock>) -> UnixClock {
    let clock = Arc::clone(clock);
    Arc::new(move || clock.unix())
}

/// The certificates that the configuration names; none for plaintext.
fn renewal(config: &Config, clock: &Arc<dyn Clock>, counters: &Arc<Counters>) -> Result<Option<Renewal>, RunError> {
    let Some(files) = config.credential_files()? else { return Ok(None) };
    let renewal = Renewal::new(files, config.tls.look_every, Arc::clone(clock), Arc::clone(counters))?;
    Ok(Some(renewal))
}

/// Runs what never ends by itself until the aggregator stops.
async fn until_stop(endless: impl Future<Output = ()>, mut stopping: watch::Receiver<bool>) -> Result<(), RunError> {
    // Looked at first: what another task kept going ends with that one when all stop.
    tokio::select! {
        biased;
        () = stopped(&mut stopping) => Ok(()),
        () = endless => Err(RunError::Stuck),
    }
}

fn open(config: &Config, memory: Memory) -> Result<(Arc<RocksStore>, Arc<Book>), StoreError> {
    let store = Arc::new(RocksStore::open_within(&config.data_dir, memory)?);
    schema::bring_up_to_date(store.as_ref(), schema::VERSION, schema::STEPS, |version| {
        store.keep_before_migration(version)
    })?;
    let book = Book::open(Arc::clone(&store) as Arc<dyn Store>)?;
    Ok((store, Arc::new(book.weighing(config.apportioning.output_weight()))))
}

/// Looks at the disk, tells whether telemetry is taken, and logs each change.
async fn watch_space(
    space: Arc<Space>,
    health: HealthReporter,
    pressure: Pressure,
    counters: Arc<Counters>,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), RunError> {
    let mut ticks = interval(SPACE_INTERVAL);
    let mut was_open = true;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stopped(&mut stopping) => return Ok(()),
        }
        let open = space.is_open();
        counters.set("intake_open", u64::from(open));
        if open == was_open {
            continue;
        }
        was_open = open;
        server::tell_intake(&health, open).await;
        // Agents with a session send no more than they hold credit for; new ones are sent away.
        pressure.set(Cause::Disk, !open);
        if open {
            tracing::info!("the disk has room again: telemetry is stored");
        } else {
            counters.add("intake_stops_total", 1);
            tracing::error!("the disk is nearly full: nothing is stored until there is room; free some");
        }
    }
}

/// Waits for every task; those that take too long are dropped: what they had acknowledged is durable.
async fn finish(mut tasks: JoinSet<Result<(), RunError>>) -> Result<(), RunError> {
    let all = async {
        let mut result = Ok(());
        while let Some(ended) = tasks.join_next().await {
            result = result.and(ended.map_err(RunError::from).and_then(|ended| ended));
        }
        result
    };
    if let Ok(result) = timeout(STOP_TIMEOUT, all).await {
        return result;
    }
    tracing::warn!("calls are still open; they are cut");
    tasks.shutdown().await;
    Ok(())
}

/// Notes how far the manifest reaches, now and then.
async fn note_manifest(
    store: Arc<RocksStore>,
    space: Arc<Space>,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), RunError> {
    let mut ticks = interval(NOTE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stopped(&mut stopping) => return Ok(()),
        }
        let store = Arc::clone(&store);
        if !space.is_open() {
            continue;
        }
        match tokio::task::spawn_blocking(move || store.note_manifest()).await? {
            // A later note does as well.
            Err(StoreError::Full { .. }) => {}
            noted => noted?,
        }
    }
}

/// Ends when the aggregator stops.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the other end is gone: time to stop, too.
    let _ = stopping.wait_for(|stop| *stop).await;
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for the connections of the process before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn listen(socket: TcpSocket) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = socket.listen(BACKLOG)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_ends_because_all_stop_is_no_error_and_what_ends_by_itself_is() {
        let (stop, stopping) = watch::channel(false);
        assert!(matches!(until_stop(async {}, stopping.clone()).await, Err(RunError::Stuck)));
        stop.send(true).expect("somebody listens");
        // Both are ready: which one is looked at first must not be left to chance.
        for _ in 0..100 {
            assert!(until_stop(async {}, stopping.clone()).await.is_ok());
        }
    }
}
