//! What has come together of one model version of a process, and of each whom it worked for.

use super::super::super::CountSample;
use super::super::super::socket::ProcessId;
use super::super::super::told::Told;
use super::series::Last;
use joulebook_units::{BootNanos, Consumer, Consumption, CountKind, Service};
use std::collections::BTreeMap;

/// A service of a process.
#[derive(Debug, Default)]
pub struct Account {
    told: Option<Told>,
    parties: BTreeMap<Consumer, Option<Told>>,
    /// What was counted before it opened, and since when.
    held: Additions,
    /// What its cumulative series show now.
    shown: BTreeMap<CountKind, u64>,
    /// Whether anything of it has succeeded: until then its name may be anybody's invention.
    open: bool,
    /// The bounds of its distributions: those that come first.
    latency: Vec<CountKind>,
    prompts: Vec<CountKind>,
}

/// What exports add to a service.
#[derive(Debug, Default)]
pub struct Additions {
    /// To its counts.
    pub whole: Grown,
    /// To those of whom it worked for.
    pub parties: BTreeMap<Consumer, Grown>,
}

/// Counts, and since when.
#[derive(Debug, Default)]
pub struct Grown {
    counts: BTreeMap<CountKind, u64>,
    origin: Option<BootNanos>,
}

impl Grown {
    /// Adds counts since an instant.
    pub fn add(&mut self, counts: impl IntoIterator<Item = (CountKind, u64)>, origin: Option<BootNanos>) {
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

impl Account {
    /// Takes note of what a cumulative series shows now.
    pub fn show(&mut self, now: &Last, last: Option<&Last>) {
        if !now.cumulative {
            return;
        }
        let counts = |last: &Last| last.counts.into_iter().flatten().chain(last.buckets.clone()).collect::<Vec<_>>();
        for (kind, count) in last.map(counts).unwrap_or_default() {
            let sum = self.shown.entry(kind).or_insert(0);
            *sum = sum.saturating_sub(count);
        }
        for (kind, count) in counts(now) {
            let sum = self.shown.entry(kind).or_insert(0);
            *sum = sum.saturating_add(count);
        }
    }

    /// Whether these buckets count: they have the bounds of those that came first. Others would not add up with them.
    pub fn takes(&mut self, buckets: &[(CountKind, u64)]) -> bool {
        let bounds = match buckets.first() {
            Some((CountKind::LatencyWithin(_), _)) => &mut self.latency,
            Some((CountKind::PromptWithin(_), _)) => &mut self.prompts,
            _ => return false,
        };
        if bounds.is_empty() {
            *bounds = buckets.iter().map(|(kind, _)| *kind).collect();
        }
        bounds.iter().eq(buckets.iter().map(|(kind, _)| kind))
    }

    /// Whether it has a distribution.
    pub fn is_distributed(&self) -> bool {
        !(self.latency.is_empty() && self.prompts.is_empty())
    }

    /// How many it worked for.
    pub fn parties(&self) -> usize {
        self.parties.len()
    }

    /// Whether it has worked for this one.
    pub fn knows(&self, party: &Consumer) -> bool {
        self.parties.contains_key(party)
    }

    /// It works for this one.
    pub fn meet(&mut self, party: &Consumer) {
        if !self.knows(party) {
            self.parties.insert(party.clone(), None);
        }
    }

    /// Where the service stands after an export, and whoever it was for; nothing if it is not open.
    pub fn samples(
        &mut self,
        service: &Service,
        additions: Additions,
        process: ProcessId,
        at: BootNanos,
    ) -> Vec<CountSample> {
        self.held.whole.add(additions.whole.counts, additions.whole.origin);
        for (party, grown) in additions.parties {
            self.held.parties.entry(party).or_default().add(grown.counts, grown.origin);
        }
        let succeeded = |kind: &CountKind| {
            let not =
                [CountKind::RequestsFailed, CountKind::RequestsAborted, CountKind::BusyNanos, CountKind::Workflows];
            !not.contains(kind)
        };
        let mut all = self.held.whole.counts.iter().chain(&self.shown);
        self.open |= all.any(|(kind, count)| succeeded(kind) && *count > 0);
        if !self.open {
            return Vec::new();
        }
        let held = std::mem::take(&mut self.held);
        let sample = |of, (counts, origin), shown| CountSample {
            service: service.clone(),
            of,
            at,
            counts,
            origin,
            shown,
            process: Some(process),
            part: None,
        };
        let told = Told::add(&mut self.told, &held.whole.counts, at, held.whole.origin);
        let mut samples = vec![sample(None, told, self.shown.clone())];
        for (consumer, grown) in held.parties {
            let told = Told::add(self.parties.entry(consumer.clone()).or_default(), &grown.counts, at, grown.origin);
            let of = Consumption::told_by(service, consumer);
            samples.push(sample(Some(of), told, BTreeMap::new()));
        }
        samples
    }
}
