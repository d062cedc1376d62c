//! What each process has exported so far: series by series what they grew by, and what comes together by model version. Pure.
//!
//! A cumulative series counts from where it was last seen; one that is met for the first time counts from 0 if it was 0 while
//! this agent watched, and is a baseline otherwise. It was 0 when the process started, when it says that it starts, or at the
//! last export of its reader, which did not have it: readers of cumulative series export all of them each time. Of a delta
//! the whole counts, once.
//!
//! A version has the counts of all whom it worked for, and each of them has its own.

use super::super::distribution;
use super::super::gateway::OTHER;
use super::super::push::version;
use super::super::socket::ProcessId;
use super::super::told::party::{CONSUMER, Runs, WORKFLOW};
use super::super::told::{Refusal, target};
use super::super::{CountSample, Names};
use super::NAME;
use super::request::{Export, Key, Point};
use account::{Account, Additions};
use joulebook_units::{BootNanos, Consumer, CountKind, Service, Serving};
use series::{Last, SeriesBook};
use std::collections::BTreeMap;

mod account;
mod series;

/// Processes that are remembered at a time.
const MOST_PROCESSES: usize = 64;
/// Model versions of one process.
const MOST_SERVICES: usize = 32;
/// Readers, by their resources and scopes, of one process.
const MOST_STREAMS: usize = 256;
/// Consumers and workflows of one process, each for each of its model versions; more are one that is called `other`.
const MOST_PARTIES: usize = 256;

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
    series: SeriesBook,
    services: BTreeMap<Service, Account>,
    runs: BTreeMap<String, Runs>,
}

/// What a point does to its series.
struct Step {
    grown: [Option<(CountKind, u64)>; 2],
    buckets: Vec<(CountKind, u64)>,
    origin: Option<BootNanos>,
    reset: bool,
}

impl Book {
    /// The processes that have exported something.
    pub fn processes(&self) -> impl Iterator<Item = ProcessId> {
        self.peers.keys().map(|(pid, start_ticks)| ProcessId { pid: *pid, start_ticks: *start_ticks })
    }

    /// Takes an export of a process; consumers are told by `names`, and not at all without. `alive` tells which processes may be forgotten when there are too many.
    ///
    /// # Errors
    /// Too many processes export.
    pub fn take(
        &mut self,
        process: ProcessId,
        export: Export<'_>,
        times: Times,
        names: Option<&Names>,
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
        self.peers.entry(key).or_default().take(process, &points, (times, names), &mut taken);
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
    fn take(
        &mut self,
        process: ProcessId,
        points: &[Point<'_>],
        (times, names): (Times, Option<&Names>),
        taken: &mut Taken,
    ) {
        let mut all: BTreeMap<Service, Additions> = BTreeMap::new();
        self.series.begin();
        for point in points {
            let service = service(process, point);
            if !self.services.contains_key(&service) && self.services.len() >= MOST_SERVICES {
                taken.refused.push(Refusal::limit("the process tells of 32 model versions already"));
                continue;
            }
            let last = match self.series.last(point) {
                Ok(last) => last.cloned(),
                Err(refusal) => {
                    taken.refused.push(refusal);
                    continue;
                }
            };
            let step = match step(point, last.as_ref(), self.streams.get(&point.stream).copied(), times) {
                Ok(Some(step)) => step,
                // Told before.
                Ok(None) => continue,
                Err(refusal) => {
                    taken.refused.push(refusal);
                    continue;
                }
            };
            taken.resets += u64::from(step.reset);
            let may_distribute = self.may_distribute(&service, point);
            let account = self.services.entry(service.clone()).or_default();
            let buckets = if may_distribute && account.takes(&point.buckets) { &point.buckets[..] } else { &[] };
            let grown = if buckets.is_empty() { Vec::new() } else { step.buckets };
            let Point { cumulative, start, time, counts, .. } = *point;
            let now = Last { cumulative, start, time, counts, buckets: buckets.to_vec() };
            account.show(&now, last.as_ref());
            self.series.insert(point, now);
            let parties = self.parties(&service, point, names);
            let run = self.run(point, &parties);
            let counts: Vec<_> = step.grown.into_iter().flatten().chain(run).collect();
            let additions = all.entry(service).or_default();
            additions.whole.add(counts.iter().copied().chain(grown), step.origin);
            for party in parties {
                additions.parties.entry(party).or_default().add(counts.iter().copied(), step.origin);
            }
        }
        // Only now: what is new in this export was not in the one before.
        for point in points {
            if self.streams.len() < MOST_STREAMS || self.streams.contains_key(&point.stream) {
                self.streams.insert(point.stream, times.at);
            }
        }
        for (service, additions) in all {
            if let Some(account) = self.services.get_mut(&service) {
                taken.samples.extend(account.samples(&service, additions, process, times.at));
            }
        }
    }

    /// Whether the distributions of this service are kept.
    fn may_distribute(&self, service: &Service, point: &Point<'_>) -> bool {
        if point.buckets.is_empty() {
            return false;
        }
        let others = self.services.iter().filter(|(other, account)| *other != service && account.is_distributed());
        others.count() < distribution::MOST_SERVICES
    }

    /// Whom a point is for, as they are told.
    fn parties(&mut self, service: &Service, point: &Point<'_>, names: Option<&Names>) -> Vec<Consumer> {
        let consumer = point.party.consumer.zip(names).map(|(name, names)| (CONSUMER, names.of(CONSUMER, name)));
        // A workflow is no person: it is told by its name.
        let workflow = point.party.workflow.map(|name| (WORKFLOW, name.to_owned()));
        let mut parties = Vec::new();
        for (kind, name) in consumer.into_iter().chain(workflow) {
            let known = self.services.values().map(Account::parties).sum::<usize>();
            let Some(account) = self.services.get_mut(service) else { continue };
            let mut party = Consumer { kind: kind.to_owned(), name };
            if known >= MOST_PARTIES && !account.knows(&party) {
                party.name = OTHER.to_owned();
            }
            account.meet(&party);
            parties.push(party);
        }
        parties
    }

    /// A run of its workflow, if the point tells of one: counted when it is first seen.
    fn run(&mut self, point: &Point<'_>, parties: &[Consumer]) -> Option<(CountKind, u64)> {
        let root = point.party.root?;
        let workflow = parties.iter().find(|party| party.kind == WORKFLOW)?;
        let runs = self.runs.entry(workflow.name.clone()).or_default();
        Some((CountKind::Workflows, u64::from(runs.is_new(root))))
    }
}

/// What a point adds to its series; `None` if it was told before.
fn step(
    point: &Point<'_>,
    last: Option<&Last>,
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
        let added = |(kind, count)| (kind, if is_baseline { 0 } else { count });
        let grown = point.counts.map(|count| count.map(added));
        let buckets = point.buckets.iter().copied().map(added).collect();
        return Ok(Some(Step { grown, buckets, origin: zero, reset: false }));
    };
    if point.cumulative != last.cumulative {
        return Err(Refusal::value("a series stays cumulative, or delta, as it began"));
    }
    if point.cumulative { cumulative(point, last) } else { delta(point, last) }
}

fn cumulative(point: &Point<'_>, last: &Last) -> Result<Option<Step>, Refusal> {
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
    let buckets = match reset {
        true => point.buckets.clone(),
        false => last.grown(&point.buckets),
    };
    Ok(Some(Step { grown, buckets, origin: None, reset }))
}

fn delta(point: &Point<'_>, last: &Last) -> Result<Option<Step>, Refusal> {
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
    Ok(Some(Step { grown: point.counts, buckets: point.buckets.clone(), origin: None, reset: false }))
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
