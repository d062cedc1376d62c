//! One task per target: page → tally → identity → [`CountSample`].
//!
//! A scrape that fails changes nothing: what the engine counted meanwhile is in its next page (carry). The process is
//! looked up while the connection is open and looked at again after the page, so that a page is never booked on
//! another process than the one that made it.

use super::exposition::{MAX_BYTES, Page, PageError};
use super::fetch::{Connection, FetchError};
use super::gateway::{Gateway, Instants, Names};
use super::identity::{self, Places, Served};
use super::preset::{Hook, Server};
use super::reader::{PageIdentity, PageVersion};
use super::socket::{self, Listener, ProcessId};
use super::tally::{Counts, FirstPage, Observation, Tally};
use super::target::Target;
use super::upstream::{self, Addresses};
use super::{CountSample, Failure, TargetState};
use crate::clock::Clock;
use crate::directory::Directory;
use crate::process::InferenceGroup;
use crate::process::part::PartName;
use joulebook_units::{BootNanos, CountKind, Service, VersionSource};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Longest time for one page, from connecting to its last byte.
const TOTAL: Duration = Duration::from_secs(5);
/// Between two log lines of one reason.
const QUIET: Duration = Duration::from_secs(10);
/// The identity is asked again after this many scrapes, since some engines change weights without a restart.
const RESOLVE_EVERY: u32 = 30;
/// So often an engine may fail to tell its identity before its counts are booked without.
const IDENTITY_TRIES: u32 = 3;
/// More services of one target are booked on one called `other`: the client may choose the label.
const MAX_SERVICES: usize = 200;

/// Why a scrape gave nothing.
#[derive(Debug, thiserror::Error)]
enum ScrapeError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("no whole page within {} s", TOTAL.as_secs())]
    Slow,
    #[error(transparent)]
    Page(#[from] PageError),
    #[error("none of {0:?} is on the page: is it the page of this preset's engine?")]
    Signature(Vec<String>),
    #[error("the engine did not tell which model it serves: {0}")]
    Identity(String),
    #[error("the process at the port changed during the scrape")]
    ProcessChanged,
}

impl ScrapeError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Fetch(error) => error.reason(),
            Self::Slow => "timeout",
            Self::Page(PageError::Limit { .. }) => "scrape_too_large",
            Self::Page(PageError::Malformed { .. }) => "parse",
            Self::Signature(_) => "signature",
            Self::Identity(_) => "identity",
            Self::ProcessChanged => "process_changed",
        }
    }
}

/// Where a task's results go.
#[derive(Debug, Clone)]
pub(super) struct Outputs {
    pub samples: mpsc::Sender<CountSample>,
    pub groups: Arc<watch::Sender<Vec<InferenceGroup>>>,
    pub failures: Arc<watch::Sender<BTreeMap<Failure, u64>>>,
    pub targets: Arc<watch::Sender<BTreeMap<String, TargetState>>>,
    /// How consumers are named; until it is known no gateway is read.
    pub names: watch::Receiver<Option<Names>>,
}

/// What a task needs to know of the machine.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub procfs: PathBuf,
    pub clock: Arc<dyn Clock>,
    /// When the agent started.
    pub started: BootNanos,
    /// The kernel's USER_HZ.
    pub ticks_per_second: u64,
    /// What is known of the node from the cluster.
    pub directory: watch::Receiver<Arc<Directory>>,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings")
            .field("procfs", &self.procfs)
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

/// A target among those that are told of, for as long as its task is there.
struct Shown {
    name: String,
    targets: Arc<watch::Sender<BTreeMap<String, TargetState>>>,
}

impl Shown {
    fn new(target: &Target, out: &Outputs) -> Self {
        let shown = Self { name: target.name.clone(), targets: Arc::clone(&out.targets) };
        shown.targets.send_modify(|targets| {
            targets.insert(shown.name.clone(), TargetState::default());
        });
        shown
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.targets.send_modify(|targets| {
            targets.remove(&self.name);
        });
    }
}

/// The state of one target.
pub(super) struct Task {
    target: Target,
    around: Surroundings,
    out: Outputs,
    tally: Tally,
    listener: Option<Listener>,
    /// The process that made the last booked page, if it was known then.
    counted: Option<ProcessId>,
    /// The process whose identity is in `served`.
    resolved_for: Option<ProcessId>,
    any_page: bool,
    served: Served,
    resolve_in: u32,
    /// Models of the page whose version was asked for.
    asked: BTreeSet<String>,
    identity_failures: u32,
    totals: BTreeMap<Service, BTreeMap<CountKind, u64>>,
    gateway: Gateway,
    addresses: Addresses,
    last: Option<BootNanos>,
    logged: BTreeMap<&'static str, BootNanos>,
}

impl Task {
    pub(super) fn new(target: Target, around: Surroundings, out: Outputs) -> Self {
        let tally = Tally::new(target.reader.clone());
        let addresses = Addresses::new(target.upstreams.clone(), target.resolve_upstreams, upstream::system);
        Self {
            target,
            around,
            out,
            tally,
            listener: None,
            counted: None,
            resolved_for: None,
            any_page: false,
            served: Served::default(),
            resolve_in: 0,
            asked: BTreeSet::new(),
            identity_failures: 0,
            totals: BTreeMap::new(),
            gateway: Gateway::default(),
            addresses,
            last: None,
            logged: BTreeMap::new(),
        }
    }

    /// Scrapes at every interval and on demand, until nobody takes the samples any more.
    pub(super) async fn run(mut self, demands: mpsc::Receiver<oneshot::Sender<()>>) {
        let _shown = Shown::new(&self.target, &self.out);
        self.scrapes(demands).await;
    }

    async fn scrapes(&mut self, mut demands: mpsc::Receiver<oneshot::Sender<()>>) {
        let mut ticks = interval(self.target.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let samples = self.out.samples.clone();
        // The names of a gateway's consumers must not leave the node before it is known how they are told.
        let mut names = self.out.names.clone();
        if self.target.reader.is_gateway() && names.wait_for(Option::is_some).await.is_err() {
            return;
        }
        loop {
            let demand = tokio::select! {
                () = samples.closed() => return,
                _ = ticks.tick() => None,
                Some(demand) = demands.recv() => Some(demand),
            };
            for sample in self.scrape().await {
                if samples.send(sample).await.is_err() {
                    return;
                }
            }
            // Whoever asked may have gone.
            let _ = demand.map(|demand| demand.send(()));
        }
    }

    #[tracing::instrument(name = "scrape", skip_all, fields(target = %self.target.name))]
    async fn scrape(&mut self) -> Vec<CountSample> {
        let scraped = match timeout(TOTAL, self.page()).await {
            Ok(Ok((page, at))) => self.book(&page, at).await,
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ScrapeError::Slow),
        };
        self.out.targets.send_modify(|targets| {
            let state = targets.entry(self.target.name.clone()).or_default();
            state.is_up = Some(scraped.is_ok());
            state.scrapes += 1;
            state.samples += scraped.as_ref().map_or(0, |samples| u64::try_from(samples.len()).unwrap_or(0));
        });
        scraped.unwrap_or_else(|error| {
            self.fail(error.reason(), 1, &error);
            Vec::new()
        })
    }

    /// The page and the instant at which it was complete.
    async fn page(&mut self) -> Result<(Vec<u8>, BootNanos), ScrapeError> {
        let connection = match Connection::open(&self.target.host, self.target.port).await {
            Ok(connection) => connection,
            Err(error) => {
                if !self.lives().await {
                    self.publish(None);
                }
                return Err(error.into());
            }
        };
        let (procfs, peer, known) = (self.around.procfs.clone(), connection.local_peer(), self.listener);
        let lookup = tokio::task::spawn_blocking(move || peer.map(|peer| socket::listener(&procfs, peer, known)));
        match lookup.await.ok().flatten() {
            Some(Ok(listener)) => self.publish(Some(listener)),
            Some(Err(why)) => {
                self.fail("process_unknown", 1, &why);
                self.publish(None);
            }
            None => self.publish(None),
        }
        let page = connection.get(&self.target.path, MAX_BYTES).await?;
        let at = self.around.clock.boot();
        if self.listener.is_some() && !self.lives().await {
            return Err(ScrapeError::ProcessChanged);
        }
        Ok((page, at))
    }

    /// Whether the process last found at the port is still that process.
    async fn lives(&self) -> bool {
        let Some(listener) = self.listener else { return false };
        let procfs = self.around.procfs.clone();
        let now = tokio::task::spawn_blocking(move || ProcessId::read(&procfs, listener.process.pid)).await;
        now.ok().flatten() == Some(listener.process)
    }

    async fn book(&mut self, page: &[u8], at: BootNanos) -> Result<Vec<CountSample>, ScrapeError> {
        let page = Page::parse(page)?;
        if !self.target.preset.signature.is_empty() && !self.target.preset.detects(&page) {
            return Err(ScrapeError::Signature(self.target.preset.signature.clone()));
        }
        let process = self.listener.map(|listener| listener.process);
        // Both pages must be of known processes: a page of an unknown one may already be this one's, and would then be
        // counted twice. Then only a falling series tells of a restart.
        let replaced = process.is_some() && self.counted.is_some() && process != self.counted;
        let fresh = !self.any_page || replaced;
        let models = self.models(&page);
        let due = self.resolve_in == 0 || models.iter().any(|model| !self.asked.contains(model));
        if fresh || due || (process.is_some() && process != self.resolved_for) {
            self.resolve(process, fresh, &models).await?;
        }
        self.resolve_in = self.resolve_in.saturating_sub(1);
        let mut zero = self.last;
        if fresh {
            let ticks = self.around.ticks_per_second;
            let is_new = |process: &ProcessId| replaced || process.started_after(self.around.started, ticks);
            zero = process.filter(is_new).map(|process| process.started(ticks));
            self.tally.new_epoch(if zero.is_some() { FirstPage::CountsFromZero } else { FirstPage::IsBaseline });
        }
        self.any_page = true;
        self.counted = process;
        self.last = Some(at);
        let seen = self.tally.observe(&page, at);
        self.skipped(&seen);
        if seen.reset && !fresh {
            self.fail("counter_reset", 1, &"a counter of the engine restarted; its new value is counted");
            // The counts cannot be taken back now: if the engine does not answer, the next scrape asks again.
            let _ = self.resolve(process, false, &models).await;
        }
        if self.target.reader.is_gateway() {
            return Ok(self.consumptions(seen, at, zero, process).await);
        }
        Ok(self.samples(seen, at, zero, process))
    }

    async fn consumptions(
        &mut self,
        mut seen: Observation,
        at: BootNanos,
        zero: Option<BootNanos>,
        process: Option<ProcessId>,
    ) -> Vec<CountSample> {
        let names = self.out.names.borrow().clone();
        let Some(names) = names else { return Vec::new() };
        let of_consumers = seen.consumers.iter_mut().map(|(consumer, _)| &mut consumer.upstream.endpoint);
        let all = of_consumers.chain(seen.upstreams.values_mut().map(|upstream| &mut upstream.endpoint)).collect();
        self.addresses.apply(all, at).await;
        let told = (seen.consumers, &seen.upstreams);
        self.gateway.samples(&self.target, &names, told, Instants { at, zero }, process)
    }

    /// Models of the page that the engine must be asked for, one by one.
    fn models(&self, page: &Page<'_>) -> BTreeSet<String> {
        let asks = self.target.preset.identity.version.0.iter().any(Hook::is_of_model);
        if asks { self.target.reader.models_without_version(page) } else { BTreeSet::new() }
    }

    /// Learns who is served. An engine that does not answer keeps the page waiting a few times when nothing is known
    /// yet, and changes nothing otherwise.
    async fn resolve(
        &mut self,
        process: Option<ProcessId>,
        fresh: bool,
        models: &BTreeSet<String>,
    ) -> Result<(), ScrapeError> {
        let directory = Directory::clone(&self.around.directory.borrow());
        let places = Places { procfs: self.around.procfs.clone(), directory };
        // What was read of another process's weights means nothing.
        let known = self.served.weights.as_ref().filter(|_| process == self.resolved_for);
        let resolved = timeout(TOTAL, identity::resolve(&self.target, places, process, models, known)).await;
        let why = match resolved {
            Ok(Ok(served)) => {
                self.identity_failures = 0;
                self.resolve_in = RESOLVE_EVERY;
                self.resolved_for = process;
                self.asked.clone_from(models);
                self.adopt(served);
                return Ok(());
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        self.identity_failures += 1;
        let error = ScrapeError::Identity(why);
        if !fresh {
            self.fail("identity", 1, &error);
            return Ok(());
        }
        if self.identity_failures < IDENTITY_TRIES {
            return Err(error);
        }
        self.fail("identity", 1, &error);
        self.identity_failures = 0;
        self.adopt(Served::default());
        Ok(())
    }

    fn adopt(&mut self, served: Served) {
        if served == self.served {
            return;
        }
        let nameless = PageIdentity { model: None, version: PageVersion::Untold, consumer: None };
        let [before, now] = [&self.served, &served].map(|served| served.service(&self.target, &nameless, false));
        let name = &self.target.name;
        let both = before.fingerprint.is_some() && now.fingerprint.is_some();
        if both && before.fingerprint != now.fingerprint && before.model == now.model {
            let fixed = if before.version == now.version { " although the version is the same" } else { "" };
            tracing::warn!(
                target_url = %name, model = ?now.model, version = ?now.version, before = ?before.fingerprint,
                now = ?now.fingerprint, "other weights under the same name{fixed}: counted as another version from here on"
            );
        } else {
            let (model, version, source) = (&now.model, &now.version, now.version_source);
            tracing::info!(target_url = %name, ?model, ?version, ?source, fingerprint = ?now.fingerprint, "identity resolved");
        }
        self.served = served;
    }

    fn samples(
        &mut self,
        seen: Observation,
        at: BootNanos,
        zero: Option<BootNanos>,
        process: Option<ProcessId>,
    ) -> Vec<CountSample> {
        let mut services: BTreeMap<Service, (Counts, Option<PartName>)> = BTreeMap::new();
        for (identity, counts) in seen.services {
            let mut service = self.served.service(&self.target, &identity, seen.adapters);
            let mut part = part_name(identity);
            let known = self.totals.len() + services.keys().filter(|new| !self.totals.contains_key(*new)).count();
            if known >= MAX_SERVICES && !self.totals.contains_key(&service) && !services.contains_key(&service) {
                service.model = Some("other".to_owned());
                (service.version, service.version_source) = (None, VersionSource::Unresolved);
                part = None;
            }
            let (sum, of) = services.entry(service).or_insert_with(|| (Counts::default(), part.clone()));
            if *of != part {
                *of = None;
            }
            add(&mut sum.added, &counts.added);
            add(&mut sum.shown, &counts.shown);
        }
        let booked = services.into_iter().map(|(service, (counts, part))| {
            let origin = zero.filter(|_| !self.totals.contains_key(&service));
            let total = self.totals.entry(service.clone()).or_default();
            add(total, &counts.added);
            let known = |kind: &CountKind| counts.added.contains_key(kind);
            let now = total.iter().filter(|(kind, _)| known(kind)).map(|(kind, count)| (*kind, *count)).collect();
            // What holds now is no sum that could be gone on with.
            let shown = counts.shown.into_iter().filter(|(kind, _)| !kind.is_held()).collect();
            CountSample { service, of: None, at, counts: now, origin, shown, process, part }
        });
        booked.collect()
    }

    fn publish(&mut self, listener: Option<Listener>) {
        self.listener = listener;
        let server = listener.map(|listener| match self.target.preset.server {
            Server::Listener => listener.process,
            Server::Parent => listener.process.parent(&self.around.procfs).unwrap_or(listener.process),
        });
        let group = server.map(|server| InferenceGroup {
            target: self.target.name.clone(),
            pid: server.pid,
            start_ticks: server.start_ticks,
            reserved_millicores: self.target.reserved_millicores,
            parts: self.target.preset.version_process.clone(),
        });
        self.out.groups.send_if_modified(|groups| {
            let place = groups.iter().position(|known| known.target == self.target.name);
            if place.map(|place| &groups[place]) == group.as_ref() {
                return false;
            }
            groups.retain(|known| known.target != self.target.name);
            groups.extend(group);
            true
        });
    }

    fn skipped(&mut self, seen: &Observation) {
        if seen.bad_values > 0 {
            let why = "a value is negative, not finite, beyond 2^53 or part of a count; only that series is left out";
            self.fail("value", seen.bad_values, &why);
        }
        if seen.duplicates > 0 {
            self.fail("duplicate", seen.duplicates, &"a series occurs more than once; all of it is left out");
        }
    }

    fn fail(&mut self, reason: &'static str, times: u64, why: &dyn Display) {
        let failure = Failure { target: self.target.name.clone(), reason };
        self.out.failures.send_modify(|failures| *failures.entry(failure).or_insert(0) += times);
        let now = self.around.clock.boot();
        if self.logged.get(reason).is_none_or(|last| now.since(*last) >= QUIET) {
            self.logged.insert(reason, now);
            tracing::warn!(target_url = %self.target.name, reason, %why, "scrape incomplete; the next one catches up");
        }
    }
}

/// The model version that a page names, if it does.
fn part_name(identity: PageIdentity) -> Option<PartName> {
    match identity {
        PageIdentity { model: Some(model), version: PageVersion::Label(version), .. } => {
            Some(PartName { model, version })
        }
        _ => None,
    }
}

fn add(sum: &mut BTreeMap<CountKind, u64>, more: &BTreeMap<CountKind, u64>) {
    for (kind, count) in more {
        let total = sum.entry(*kind).or_insert(0);
        *total = total.saturating_add(*count);
    }
}
