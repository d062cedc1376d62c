//! Polling of one BMC: finds the place of the node's power once, then reads it again and again.
//!
//! A thread of its own with a runtime of its own: an agent's row never waits for a BMC, however slow it is. What is read
//! goes to the collector through a bounded channel.

use super::client::{Client, ClientError, Settings};
use super::document::{Documents, Need};
use super::route::{Route, Shown};
use super::survey::{Depth, Enclosure, survey};
use super::value::{ENCLOSURE_CEILING, Skip};
use crate::clock::{Clock, SystemClock};
use joulebook_units::{BootNanos, Milliwatts};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// Events that may wait for the collector: it takes them at each row.
const WAITING_EVENTS: usize = 64;
/// Most documents of one survey.
const MOST_DOCUMENTS: usize = 600;
/// Times in a row that a place may be gone before it is looked for anew.
const GONE_TIMES: u32 = 3;
/// After this long a BMC without any power is looked through again.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// Longest time for which the end of the agent waits for the end of a session.
const STOP_WAIT: Duration = Duration::from_secs(3);

/// What a poll came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A new value.
    Sample {
        /// When it was asked for: the middle between request and answer.
        at: BootNanos,
        /// The value.
        shown: Shown,
        /// Where it stands.
        place: String,
        /// Name of the enclosure of several nodes whose power it is; none for this node's own.
        enclosure: Option<String>,
    },
    /// No value.
    Failed {
        /// The word for counters.
        reason: &'static str,
        /// What was tried and why it failed.
        why: String,
        /// Whether nothing is to be expected from this BMC as it is.
        off: bool,
    },
}

/// How often, and what is believed.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Time between two polls; each one is a tenth of it earlier or later, so that agents do not ask together.
    pub interval: Duration,
    /// Highest power that is believed.
    pub ceiling: Milliwatts,
}

/// A BMC that is being polled.
#[derive(Debug)]
pub struct Poll {
    events: Receiver<Event>,
    stop: watch::Sender<bool>,
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Poll {
    /// Starts the thread.
    ///
    /// # Errors
    /// Of starting a thread.
    pub fn start(settings: Settings, pace: Pace) -> std::io::Result<Self> {
        let (out, events) = sync_channel(WAITING_EVENTS);
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = sync_channel(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("redfish".to_owned()).spawn(move || {
            runtime.block_on(poll(Bmc::new(Client::new(settings), pace), out, stopped));
            let _ = end.send(());
        })?;
        Ok(Self { events, stop, ended, thread: Some(thread) })
    }

    /// The next event, if there is one.
    pub fn next(&self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    /// Says that no more is needed, without waiting.
    pub fn stop(&self) {
        let _ = self.stop.send(true);
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        self.stop();
        // A thread that does not end, because a name is being looked up say, ends with the process.
        if self.ended.recv_timeout(STOP_WAIT).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

async fn poll(mut bmc: Bmc, out: SyncSender<Event>, mut stopped: watch::Receiver<bool>) {
    let mut pause = spread(bmc.pace.interval / 4, bmc.pace.interval / 4);
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => break,
            () = sleep(pause) => {}
        }
        let event = tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => break,
            event = bmc.poll() => event,
        };
        // The collector takes events at each row; one that does not come any more needs none.
        event.into_iter().for_each(|event| drop(out.try_send(event)));
        pause = spread(bmc.pace.interval, bmc.pace.interval / 10);
    }
    bmc.client.logout().await;
}

/// A time at most `around` away from `middle`.
fn spread(middle: Duration, around: Duration) -> Duration {
    let mut byte = [0; 1];
    // Without randomness, agents ask together: no reason not to ask.
    let part = getrandom::fill(&mut byte).map_or(128, |()| u32::from(byte[0]));
    middle.saturating_sub(around) + around * 2 * part / 255
}

struct Bmc {
    client: Client,
    pace: Pace,
    /// What the BMC is made of, as long as the place in it holds.
    documents: Documents,
    route: Option<Route>,
    /// The enclosure that the place is of, if it is not this node's.
    enclosure: Option<String>,
    gone: u32,
    /// A BMC in which nothing was found is left alone until then.
    look_again: BootNanos,
    /// The last value and what tells that it is the same one.
    last: Option<(Milliwatts, String)>,
}

impl Bmc {
    fn new(client: Client, pace: Pace) -> Self {
        let look_again = BootNanos(0);
        Self {
            client,
            pace,
            documents: Documents::default(),
            route: None,
            enclosure: None,
            gone: 0,
            look_again,
            last: None,
        }
    }

    async fn poll(&mut self) -> Option<Event> {
        let read = match self.route.clone() {
            None => self.find().await,
            Some(route) => self.read(&route).await,
        };
        match read {
            Ok(Some((at, shown, route))) => self.sample(at, shown, &route),
            Ok(None) => None,
            Err(Trouble::Client(error)) => {
                let why = error.to_string();
                error.reason().map(|reason| Event::Failed { reason, why, off: false })
            }
            Err(Trouble::Skip(route, skip)) => {
                let why = format!("{} gives no power: {}", route.name(), skip.word());
                Some(Event::Failed { reason: skip.word(), why, off: false })
            }
            Err(Trouble::Nothing) => {
                let why = "the BMC shows no power of this node in any place that is known".to_owned();
                Some(Event::Failed { reason: "not_supported", why, off: true })
            }
        }
    }

    fn sample(&mut self, at: BootNanos, shown: Shown, route: &Route) -> Option<Event> {
        self.gone = 0;
        // The same value of the same time: the sensor was not read again since, and may have stopped.
        if let Some(stamp) = &shown.stamp {
            let new = (shown.power, stamp.clone());
            if self.last.as_ref() == Some(&new) {
                return None;
            }
            self.last = Some(new);
        }
        Some(Event::Sample { at, shown, place: route.name(), enclosure: self.enclosure.clone() })
    }

    /// Looks for the place; what was fetched for it stays known.
    async fn find(&mut self) -> Result<Option<(BootNanos, Shown, Route)>, Trouble> {
        if SystemClock.boot() < self.look_again {
            return Ok(None);
        }
        let mut at = SystemClock.boot();
        loop {
            match survey(&self.documents, Depth::Wall) {
                Err(Need(uri)) if self.documents.len() < MOST_DOCUMENTS => at = self.fetch(&uri).await?,
                Ok(found) => {
                    if let Some((route, shown)) = found.wall {
                        tracing::info!(place = route.name(), "the BMC shows the node's power");
                        (self.route, self.enclosure) = (Some(route.clone()), None);
                        return Ok(Some((at, shown, route)));
                    }
                    if let Some(Enclosure { chassis, route, shown }) = found.enclosure {
                        tracing::info!(
                            place = route.name(),
                            "the BMC shows the power of an enclosure of several nodes"
                        );
                        (self.route, self.enclosure) = (Some(route.clone()), Some(chassis));
                        return Ok(Some((at, shown, route)));
                    }
                    let mut skipped = found.skipped.into_iter();
                    let Some((route, skip)) = skipped.next() else { break };
                    // They exist: they are asked again at the next poll, the others are not.
                    let others: Vec<_> = skipped.map(|(route, _)| route).collect();
                    std::iter::once(&route).chain(&others).for_each(|route| self.forget(route));
                    return Err(Trouble::Skip(route, skip));
                }
                Err(_) => break,
            }
        }
        self.documents = Documents::default();
        let again = SystemClock.boot().0.saturating_add(u64::try_from(LOOK_AGAIN.as_nanos()).unwrap_or(u64::MAX));
        self.look_again = BootNanos(again);
        Err(Trouble::Nothing)
    }

    async fn read(&mut self, route: &Route) -> Result<Option<(BootNanos, Shown, Route)>, Trouble> {
        self.forget(route);
        let mut at = SystemClock.boot();
        let ceiling = if self.enclosure.is_some() { ENCLOSURE_CEILING } else { self.pace.ceiling };
        loop {
            match route.read(&self.documents, ceiling) {
                Err(Need(uri)) => at = self.fetch(&uri).await?,
                Ok(Ok(shown)) => return Ok(Some((at, shown, route.clone()))),
                Ok(Err(skip)) => {
                    // A place that has no value now is not another place; one that is not there any more may be.
                    let there = |uri: &&str| matches!(self.documents.get(uri), Ok(Some(_)));
                    self.gone = if route.uris().iter().any(there) { 0 } else { self.gone + 1 };
                    if self.gone >= GONE_TIMES {
                        self.route = None;
                        self.documents = Documents::default();
                    }
                    return Err(Trouble::Skip(route.clone(), skip));
                }
            }
        }
    }

    fn forget(&mut self, route: &Route) {
        route.uris().into_iter().for_each(|uri| self.documents.forget(uri));
    }

    /// Fetches a document. The instant is the middle of the time that it took.
    async fn fetch(&mut self, uri: &str) -> Result<BootNanos, Trouble> {
        let begin = SystemClock.boot();
        let document = self.client.get(uri).await.map_err(Trouble::Client)?;
        let end = SystemClock.boot();
        self.documents.keep(uri, document);
        Ok(BootNanos(begin.0 + end.0.saturating_sub(begin.0) / 2))
    }
}

enum Trouble {
    Client(ClientError),
    Skip(Route, Skip),
    Nothing,
}
