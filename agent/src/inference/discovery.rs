//! Servers that nobody configured: processes of this machine by their command lines, and pods that ask to be scraped.
//!
//! A command line only makes a port worth a look: what is served there is told by the page (the presets' signatures), so that
//! a wrong guess counts nothing. A page at an address that is configured is left to the configuration. Of the pages of one
//! control group or pod each request is counted once: an engine's page goes before those of what is around it.
//!
//! A pod that is labelled as training is not looked at: what its servers answer is a part of the training.
//!
//! A listener in another network namespace is asked at its pod's address; without one it cannot be reached and is counted.

mod command;
mod local;

pub use command::engine_of_name;

use super::annotation;
use super::exposition::{MAX_BYTES, Page};
use super::fetch::Connection;
use super::preset::{Presets, Role};
use super::scrape::{Outputs, Surroundings, Task};
use super::target::{Target, TargetConfig};
use super::{Demand, Failure};
use crate::directory::Pod;
use joulebook_units::BootNanos;
use local::{Candidate, Found};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Longest time for one page of a port that may be a server's.
const PROBE: Duration = Duration::from_secs(2);
/// Longest time for the last look at a page.
const LAST: Duration = Duration::from_secs(6);
/// Looks in a row at a port without a page, before it is looked at only now and then.
const EAGER_LOOKS: u32 = 10;
/// Then every so many looks.
const LAZY: u32 = 20;
/// A server that was not found in so many looks is gone.
const GONE: u32 = 3;
/// Most servers that are read without being configured.
const MOST: usize = 64;
/// Annotation that names the preset of a pod's page.
const PRESET: &str = "joulebook.io/preset";
/// Name under which failures are counted.
const NAME: &str = "discovery";

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Processes of this machine.
    pub processes: bool,
    /// Pods of this node that ask to be scraped.
    pub pods: bool,
    /// Time between two looks.
    pub every: Duration,
}

/// A place that may have a page.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    address: SocketAddr,
    /// The path, where one is told.
    path: Option<String>,
    /// The preset, where one is named.
    preset: Option<String>,
    /// What shares the work and must not be counted twice.
    unit: String,
    engine: &'static str,
}

/// A page that is read.
struct Reading {
    unit: String,
    role: Role,
    task: JoinHandle<()>,
    demand: mpsc::Sender<Demand>,
    missed: u32,
}

/// The task that looks.
pub(super) struct Discovery {
    pub wanted: Wanted,
    pub presets: Presets,
    pub around: Surroundings,
    pub out: Outputs,
    /// Addresses that are configured.
    pub configured: BTreeSet<(IpAddr, u16)>,
    /// Whom to ask for scrapes out of turn: those of the configuration first.
    pub demands: watch::Sender<Vec<mpsc::Sender<Demand>>>,
    pub fixed: Vec<mpsc::Sender<Demand>>,
}

impl Discovery {
    /// Looks at every interval until nobody takes the samples any more.
    pub(super) async fn run(self) {
        let mut ticks = interval(self.wanted.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut readings, mut looks): (BTreeMap<SocketAddr, Reading>, BTreeMap<Place, u32>) = Default::default();
        let mut told: Option<BootNanos> = None;
        loop {
            tokio::select! {
                () = self.out.samples.closed() => return,
                _ = ticks.tick() => {}
            }
            let places = self.places(&mut told).await;
            looks.retain(|place, _| places.contains(place));
            for (address, reading) in &mut readings {
                let there = places.iter().any(|place| place.address == *address);
                reading.missed = if there { 0 } else { reading.missed + 1 };
            }
            let gone: Vec<_> = readings
                .iter()
                .filter(|(_, one)| one.missed >= GONE || one.task.is_finished())
                .map(|(at, _)| *at)
                .collect();
            for address in gone {
                self.stop(&mut readings, address).await;
            }
            for place in places.into_iter().filter(|place| self.is_new(place)) {
                let looked = looks.entry(place.clone()).or_default();
                *looked += 1;
                let due = *looked <= EAGER_LOOKS || *looked % LAZY == 0;
                if due && !readings.contains_key(&place.address) && readings.len() < MOST {
                    self.probe(&place, &mut readings).await;
                }
            }
            let found = readings.values().map(|reading| reading.demand.clone());
            self.demands.send_replace(self.fixed.iter().cloned().chain(found).collect());
        }
    }

    fn is_new(&self, place: &Place) -> bool {
        !self.configured.contains(&(place.address.ip().to_canonical(), place.address.port()))
    }

    /// Everywhere that a page may be.
    async fn places(&self, told: &mut Option<BootNanos>) -> BTreeSet<Place> {
        let mut places = BTreeSet::new();
        if self.wanted.processes {
            let procfs = self.around.procfs.clone();
            let found = tokio::task::spawn_blocking(move || local::look(&procfs)).await.unwrap_or_default();
            self.count(&found, told);
            let looked_at = found.candidates.iter().filter(|one| !self.trains(one));
            let reached: Vec<Option<Place>> = looked_at.map(|one| self.reach(one)).collect();
            let lost = reached.iter().filter(|place| place.is_none()).count();
            self.fail("netns", u64::try_from(lost).unwrap_or(0));
            places.extend(reached.into_iter().flatten());
        }
        if self.wanted.pods {
            places.extend(self.pods());
        }
        places
    }

    fn trains(&self, one: &Candidate) -> bool {
        let directory = self.around.directory.borrow();
        one.pod_uid.as_deref().and_then(|uid| directory.pod(uid)).is_some_and(Pod::trains)
    }

    /// Where the agent reaches a listener: in its own namespace at a loopback address, else at the address of its pod.
    fn reach(&self, one: &Candidate) -> Option<Place> {
        let bound = one.address.ip().to_canonical();
        let ip = match (one.is_near, bound.is_unspecified()) {
            (true, false) => bound,
            (true, true) => IpAddr::from([127, 0, 0, 1]),
            (false, all) => {
                let directory = self.around.directory.borrow();
                let pod = directory.pod(one.pod_uid.as_deref()?)?;
                pod.addresses.iter().copied().find(|ip| all || *ip == bound)?
            }
        };
        let unit = one.pod_uid.clone().unwrap_or_else(|| format!("process/{}@{}", one.pid, one.start_ticks));
        let address = SocketAddr::new(ip, one.address.port());
        Some(Place { address, path: None, preset: None, unit, engine: one.engine })
    }

    /// Pages that pods name in their annotations: at their own address, whatever they write.
    fn pods(&self) -> BTreeSet<Place> {
        let directory = self.around.directory.borrow().clone();
        let mut refused = 0;
        let mut places = BTreeSet::new();
        for (uid, pod) in directory.pods().filter(|(_, pod)| !pod.trains()) {
            let Some(ip) = pod.addresses.iter().next() else { continue };
            let page = match annotation::page(&pod.annotations) {
                Ok(Some(page)) => page,
                Ok(None) => continue,
                Err(why) => {
                    tracing::debug!(pod = %pod.name, namespace = %pod.namespace, %why, "a pod's annotations are not usable");
                    refused += 1;
                    continue;
                }
            };
            let preset = pod.told(PRESET).map(str::to_owned);
            let address = SocketAddr::new(*ip, page.port);
            places.insert(Place { address, path: page.path, preset, unit: uid.clone(), engine: "" });
        }
        self.fail("annotation", refused);
        places
    }

    /// Looks for a page and begins to read it.
    async fn probe(&self, place: &Place, readings: &mut BTreeMap<SocketAddr, Reading>) {
        let Some((path, preset)) = self.page_of(place).await else { return };
        let Ok(known) = self.presets.named(&preset) else { return };
        let role = known.role;
        if role == Role::Gateway {
            tracing::info!(address = %place.address, preset, "a gateway was found: configure it to have its consumers");
            return;
        }
        // One counting point: what is around an engine counts the same requests.
        let same: Vec<SocketAddr> =
            readings.iter().filter(|(_, one)| one.unit == place.unit && one.role != role).map(|(at, _)| *at).collect();
        if same.iter().any(|at| readings.get(at).is_some_and(|one| one.role < role)) {
            return;
        }
        for at in same {
            self.stop(readings, at).await;
        }
        let host = match place.address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        // Dynamo's workers show the same requests again: their command lines tell whose group they are of.
        let config = TargetConfig::new(format!("http://{host}:{}{path}", place.address.port()), &preset);
        let target = match Target::new(0, config, &self.presets) {
            Ok(target) => target,
            Err(why) => {
                tracing::warn!(address = %place.address, %why, "a server that was found cannot be read");
                return;
            }
        };
        tracing::info!(target_url = %target.name, preset, unit = %place.unit, "a server was found");
        let (demand, demands) = mpsc::channel(1);
        let task = tokio::spawn(Task::new(target, self.around.clone(), self.out.clone()).run(demands));
        readings.insert(place.address, Reading { unit: place.unit.clone(), role, task, demand, missed: 0 });
    }

    /// The page of a place and the preset whose it is.
    async fn page_of(&self, place: &Place) -> Option<(String, String)> {
        let mut paths: Vec<String> = match &place.path {
            Some(path) => vec![path.clone()],
            None => Vec::new(),
        };
        if place.path.is_none() {
            let first = self.presets.iter().filter(|preset| preset.id == place.engine);
            for preset in first.chain(self.presets.iter().filter(|preset| !preset.signature.is_empty())) {
                if !paths.contains(&preset.path) {
                    paths.push(preset.path.clone());
                }
            }
        }
        for path in paths {
            let fetched = timeout(PROBE, async {
                let host = place.address.ip().to_string();
                let connection = Connection::open(&host, place.address.port()).await.ok()?;
                connection.get(&path, MAX_BYTES).await.ok()
            });
            let Ok(Some(bytes)) = fetched.await else { continue };
            let Ok(page) = Page::parse(&bytes) else { continue };
            if let Some(named) = &place.preset {
                let fits =
                    self.presets.named(named).is_ok_and(|preset| preset.signature.is_empty() || preset.detects(&page));
                return fits.then(|| (path, named.clone()));
            }
            if let Some(preset) = self.presets.detect(&page) {
                return Some((path, preset.id.clone()));
            }
        }
        None
    }

    /// Ends to read a page, after a last look at it: a pod that is not wanted any more may still be there.
    async fn stop(&self, readings: &mut BTreeMap<SocketAddr, Reading>, address: SocketAddr) {
        let Some(reading) = readings.remove(&address) else { return };
        let last = async {
            let (done, answer) = oneshot::channel();
            if reading.demand.send(done).await.is_ok() {
                // A task that has ended has nothing to look at.
                let _ = answer.await;
            }
        };
        // A server that hangs is not waited for.
        let _ = timeout(LAST, last).await;
        reading.task.abort();
        let own = |target: &str| {
            let place = target.strip_prefix("http://").and_then(|rest| rest.split('/').next());
            place.and_then(|place| place.parse::<SocketAddr>().ok()) == Some(address)
        };
        self.out.groups.send_if_modified(|groups| {
            let before = groups.len();
            groups.retain(|group| !own(&group.target));
            groups.len() != before
        });
        tracing::info!(%address, "a server that was found is not read any more");
    }

    fn count(&self, found: &Found, told: &mut Option<BootNanos>) {
        self.fail("denied", found.denied);
        if found.denied > 0 && told.is_none() {
            *told = Some(self.around.clock.boot());
            tracing::warn!(
                processes = found.denied,
                "processes that may be inference servers cannot be looked at: run as root or with CAP_SYS_PTRACE, or configure targets"
            );
        }
    }

    fn fail(&self, reason: &'static str, times: u64) {
        if times > 0 {
            let failure = Failure { target: NAME.to_owned(), reason };
            self.out.failures.send_modify(|failures| *failures.entry(failure).or_insert(0) += times);
        }
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.demands.send_replace(Vec::new());
    }
}
