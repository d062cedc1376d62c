//! What each process has exported so far: series by series what they grew by, and what comes together by model version. Pure.
//!
//! A cumulative series counts from where it was last seen; one that is met for the first time counts from 0 if it was 0 while
//! this agent watched, and is a baseline otherwise. It was 0 when the process started, when it says that it starts, or at the
//! last export of its reader, which did not have it: readers of cumulative series export all of them each time. Of a delta
//! the whole counts, once.

use super::super::CountSample;
use super::super::push::version;
use super::super::socket::ProcessId;
use super::super::told::{Refusal, Told, target};
use super::NAME;
use super::request::{Export, Key, Point};
use joulebook_units::{BootNanos, CountKind, Service, Serving};
use std::collections::{BTreeMap, HashMap};

/// Processes that are remembered at a time.
const MOST_PROCESSES: usize = 64;
/// Model versions of one process.
const MOST_SERVICES: usize = 32;
/// Series of one process.
const MOST_SERIES: usize = 1024;
/// Readers, by their resources and scopes, of one process.
const MOST_STREAMS: usize = 256;

/// The instants around an export.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// When it was taken.
    pub at: BootNanos,
    /// The same in ns since 1970.
    pub wall: u64,
    /// When the connection was made.
    pub connected: BootNanos,
    /// Since when the agent runs.
    pub watching: BootNanos,
    /// Start of the process, if it started after the agent.
    pub zero: Option<BootNanos>,
}

impl Times {
    /// The instant of a point's clock.
    fn instant(&self, unix: u64) -> BootNanos {
        BootNanos(self.at.0.saturating_sub(self.wall.saturating_sub(unix)))
    }
}

/// What became of an export.
#[derive(Debug, Default)]
pub struct Taken {
    /// Where the services stand that it counted for.
    pub samples: Vec<CountSample>,
    /// Data points that were refused.
    pub refused: Vec<Refusal>,
    /// Series that began again.
    pub resets: u64,
}

/// Everything exported so far.
#[derive(Debug, Default)]
pub struct Book {
    peers: BTreeMap<(i32, u64), Peer>,
}

#[derive(Debug, Default)]
struct Peer {
    /// Last export by reader.
    streams: BTreeMap<Key, BootNanos>,
    series: HashMap<Key, Last>,
    services: BTreeMap<Service, Account>,
}

/// A series when it was last seen.
#[derive(Debug, Clone, Copy)]
struct Last {
    cumulative: bool,
    start: u64,
    time: u64,
    counts: [Option<(CountKind, u64)>; 2],
}

/// A service of a process.
#[derive(Debug, Default)]
struct Account {
    told: Option<Told>,
    /// What was counted before it opened, and since when.
    held: Grown,
    /// What its cumulative series show now.
    shown: BTreeMap<CountKind, u64>,
    /// Whether anything of it has succeeded: until then its name may be anybody's invention.
    open: bool,
}

/// What an export adds to a service.
#[derive(Debug, Default)]
struct Grown {
    counts: BTreeMap<CountKind, u64>,
    origin: Option<BootNanos>,
}

impl Grown {
    fn add(&mut self, counts: impl IntoIterator<Item = (CountKind, u64)>, origin: Option<BootNanos>) {
        for (kind, count) in counts {
            let sum = self.counts.entry(kind).or_insert(0);
            *sum = sum.saturating_add(count);
        }
        self.origin = match (self.origin, origin) {
            (Some(known), Some(other)) => Some(known.min(other)),
            (known, other) => known.or(other),
        };
    }
}

/// What a point does to its series.
struct Step {
    grown: [Option<(CountKind, u64)>; 2],
    origin: Option<BootNanos>,
    reset: bool,
}

impl Book {
    /// The processes that have exported something.
    pub fn processes(&self) -> impl Iterator<Item = ProcessId> {
        self.peers.keys().map(|(pid, start_ticks)| ProcessId { pid: *pid, start_ticks: *start_ticks })
    }

    /// Takes an export of a process. `alive` tells which processes may be forgotten when there are too many.
    ///
    /// # Errors
    /// Too many processes export.
    pub fn take(
        &mut self,
        process: ProcessId,
        export: Export<'_>,
        times: Times,
        alive: impl Fn(ProcessId) -> bool,
    ) -> Result<Taken, Refusal> {
        let mut taken = Taken { refused: export.refused, ..Taken::default() };
        let key = (process.pid, process.start_ticks);
        if !self.peers.contains_key(&key) {
            if export.points.is_empty() {
                return Ok(taken);
            }
            self.peers.retain(|(pid, start_ticks), _| alive(ProcessId { pid: *pid, start_ticks: *start_ticks }));
            if self.peers.len() >= MOST_PROCESSES {
                return Err(Refusal::limit("64 processes export already"));
            }
        }
        let points = distinct(export.points, &mut taken.refused);
        self.peers.entry(key).or_default().take(process, &points, times, &mut taken);
        Ok(taken)
    }
}

/// The points in their order of time, without those that are there twice.
fn distinct<'a>(mut points: Vec<Point<'a>>, refused: &mut Vec<Refusal>) -> Vec<Point<'a>> {
    points.sort_by_key(|point| (point.time, point.series));
    let same = |a: &Point<'_>, b: &Point<'_>| (a.time, a.series) == (b.time, b.series);
    let mut distinct = Vec::with_capacity(points.len());
    for group in points.chunk_by(same) {
        match group {
            [one] => distinct.push(one.clone()),
            several => refused.extend(several.iter().map(|_| duplicate("a data point is there twice"))),
        }
    }
    distinct
}

fn duplicate(why: &str) -> Refusal {
    Refusal { reason: "duplicate", why: why.to_owned() }
}

impl Peer {
    fn take(&mut self, process: ProcessId, points: &[Point<'_>], times: Times, taken: &mut Taken) {
        let mut all: BTreeMap<Service, Grown> = BTreeMap::new();
        for point in points {
            let service = service(process, point);
            if !self.services.contains_key(&service) && self.services.len() >= MOST_SERVICES {
                taken.refused.push(Refusal::limit("the process tells of 32 model versions already"));
                continue;
            }
            let last = self.series.get(&point.series).copied();
            if last.is_none() && self.series.len() >= MOST_SERIES {
                taken.refused.push(Refusal::limit("the process has 1024 series already"));
                continue;
            }
            let step = match step(point, last, self.streams.get(&point.stream).copied(), times) {
                Ok(Some(step)) => step,
                // Told before.
                Ok(None) => continue,
                Err(refusal) => {
                    taken.refused.push(refusal);
                    continue;
                }
            };
            taken.resets += u64::from(step.reset);
            let account = self.services.entry(service.clone()).or_default();
            account.show(point, last);
            let Point { cumulative, start, time, counts, .. } = *point;
            self.series.insert(point.series, Last { cumulative, start, time, counts });
            all.entry(service).or_default().add(step.grown.into_iter().flatten(), step.origin);
        }
        // Only now: what is new in this export was not in the one before.
        for point in points {
            if self.streams.len() < MOST_STREAMS || self.streams.contains_key(&point.stream) {
                self.streams.insert(point.stream, times.at);
            }
        }
        for (service, grown) in all {
            if let Some(account) = self.services.get_mut(&service) {
                taken.samples.extend(account.sample(service, grown, process, times.at));
            }
        }
    }
}

/// What a point adds to its series; `None` if it was told before.
fn step(
    point: &Point<'_>,
    last: Option<Last>,
    exported: Option<BootNanos>,
    times: Times,
) -> Result<Option<Step>, Refusal> {
    let since = (point.start > 0).then(|| times.instant(point.start));
    let Some(last) = last else {
        let zero = if point.cumulative {
            // The latest of the instants at which it is known to have been 0.
            let started = since.filter(|since| *since >= times.watching);
            [times.zero, exported, started].into_iter().flatten().max()
        } else {
            Some(since.unwrap_or(times.connected).min(times.at))
        };
        let is_baseline = zero.is_none();
        let grown = point.counts.map(|count| count.map(|(kind, count)| (kind, if is_baseline { 0 } else { count })));
        return Ok(Some(Step { grown, origin: zero, reset: false }));
    };
    if point.cumulative != last.cumulative {
        return Err(Refusal::value("a series stays cumulative, or delta, as it began"));
    }
    if point.cumulative { cumulative(point, last) } else { delta(point, last) }
}

fn cumulative(point: &Point<'_>, last: Last) -> Result<Option<Step>, Refusal> {
    let fell = point.counts.iter().flatten().zip(last.counts.iter().flatten()).any(|(now, before)| now.1 < before.1);
    let began_again = point.start > last.start && last.start > 0;
    if point.start < last.start || (fell && point.time < last.time) {
        // Late: what came before it holds it already.
        return Ok(None);
    }
    if point.time == last.time && !began_again {
        let repeated = point.counts == last.counts;
        return if repeated {
            Ok(None)
        } else {
            Err(duplicate("a data point of this time was told with another value"))
        };
    }
    let reset = began_again || fell;
    let mut grown = point.counts;
    for (grown, before) in grown.iter_mut().zip(last.counts).filter(|_| !reset) {
        if let (Some((_, grown)), Some((_, before))) = (grown, before) {
            *grown -= before;
        }
    }
    Ok(Some(Step { grown, origin: None, reset }))
}

fn delta(point: &Point<'_>, last: Last) -> Result<Option<Step>, Refusal> {
    if (point.start, point.time) == (last.start, last.time) {
        let repeated = point.counts == last.counts;
        return if repeated {
            Ok(None)
        } else {
            Err(duplicate("a data point of this time was told with another value"))
        };
    }
    // Without a start only the order of the ends tells; a clock that was set back begins where the last one ended.
    let overlaps = if point.start == 0 { point.time < last.time } else { point.start < last.time };
    if overlaps {
        return Err(duplicate("a data point's time was told already"));
    }
    Ok(Some(Step { grown: point.counts, origin: None, reset: false }))
}

impl Account {
    /// Takes note of what a cumulative series shows now.
    fn show(&mut self, point: &Point<'_>, last: Option<Last>) {
        if !point.cumulative {
            return;
        }
        let before = last.map(|last| last.counts).unwrap_or_default();
        for (kind, count) in before.into_iter().flatten() {
            let sum = self.shown.entry(kind).or_insert(0);
            *sum = sum.saturating_sub(count);
        }
        for (kind, count) in point.counts.into_iter().flatten() {
            let sum = self.shown.entry(kind).or_insert(0);
            *sum = sum.saturating_add(count);
        }
    }

    /// Where the service stands after an export, if it is open.
    fn sample(&mut self, service: Service, grown: Grown, process: ProcessId, at: BootNanos) -> Option<CountSample> {
        self.held.add(grown.counts, grown.origin);
        let succeeded = |kind: &CountKind| {
            !matches!(kind, CountKind::RequestsFailed | CountKind::RequestsAborted | CountKind::BusyNanos)
        };
        let mut all = self.held.counts.iter().chain(&self.shown);
        self.open |= all.any(|(kind, count)| succeeded(kind) && *count > 0);
        if !self.open {
            return None;
        }
        let held = std::mem::take(&mut self.held);
        let (counts, origin) = Told::add(&mut self.told, &held.counts, at, held.origin);
        let shown = self.shown.clone();
        Some(CountSample { service, of: None, at, counts, origin, shown, process: Some(process), part: None })
    }
}

fn service(process: ProcessId, point: &Point<'_>) -> Service {
    let (version, version_source) = version(point.version);
    Service {
        model: Some(point.model.to_owned()),
        version,
        version_source,
        fingerprint: None,
        adapter: None,
        engine: NAME.to_owned(),
        target: target(NAME, process),
        workload: None,
        tokenizer: None,
        serving: Serving::default(),
    }
}

#[cfg(test)]
mod tests;
