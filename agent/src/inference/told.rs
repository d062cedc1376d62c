//! What servers tell themselves, whichever way: whose it is, what has come together of it, and what was refused.

use super::scrape::{Outputs, Surroundings};
use super::socket::ProcessId;
use super::{CountSample, Failure};
use crate::process::InferenceGroup;
use joulebook_units::{BootNanos, CountKind};
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) mod party;

/// A reason is logged once in so long.
const QUIET: Duration = Duration::from_secs(10);

/// Why something that was told was not counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Reason from a fixed list: `form`, `value`, `duplicate`, `peer`, `rate`, `limit`, `counter_reset`.
    pub reason: &'static str,
    /// In words.
    pub why: String,
}

impl Refusal {
    /// What was told has another form.
    pub fn form(why: impl Into<String>) -> Self {
        Self { reason: "form", why: why.into() }
    }

    /// Something holds what it cannot be.
    pub fn value(why: impl Into<String>) -> Self {
        Self { reason: "value", why: why.into() }
    }

    /// There is more than is taken.
    pub fn limit(why: impl Into<String>) -> Self {
        Self { reason: "limit", why: why.into() }
    }
}

/// Counts that come together.
#[derive(Debug)]
pub struct Told {
    at: BootNanos,
    /// Counted since the first time.
    totals: BTreeMap<CountKind, u64>,
}

impl Told {
    /// Adds to the totals; gives the instant from which on they are known, `origin` for the first.
    pub fn add(
        known: &mut Option<Self>,
        grown: &BTreeMap<CountKind, u64>,
        at: BootNanos,
        origin: Option<BootNanos>,
    ) -> (BTreeMap<CountKind, u64>, Option<BootNanos>) {
        let origin = known.as_ref().map_or(origin, |told| Some(told.at));
        let told = known.get_or_insert(Self { at, totals: BTreeMap::new() });
        for (kind, count) in grown {
            let total = told.totals.entry(*kind).or_insert(0);
            *total = total.saturating_add(*count);
        }
        told.at = at;
        (told.totals.clone(), origin)
    }
}

/// The way from one place at which servers tell to whoever takes the counts.
pub(super) struct Way {
    /// Its name: in failures, and before the process in the name of a target.
    name: &'static str,
    pub(super) around: Surroundings,
    pub(super) out: Outputs,
    logged: BTreeMap<&'static str, BootNanos>,
}

impl Way {
    pub(super) fn new(name: &'static str, around: Surroundings, out: Outputs) -> Self {
        Self { name, around, out, logged: BTreeMap::new() }
    }

    /// Start of a process, if it started after the agent: what it counts was 0 then.
    pub(super) fn zero(&self, process: ProcessId) -> Option<BootNanos> {
        let ticks = self.around.ticks_per_second;
        process.started_after(self.around.started, ticks).then(|| process.started(ticks))
    }

    /// Whether a process still runs.
    pub(super) fn alive(&self, process: ProcessId) -> bool {
        ProcessId::read(&self.around.procfs, process.pid) == Some(process)
    }

    /// Says which processes tell; before their samples, so that the counts find their workload.
    pub(super) fn publish(&self, processes: impl Iterator<Item = ProcessId>) {
        let group = |process: ProcessId| InferenceGroup {
            target: target(self.name, process),
            pid: process.pid,
            start_ticks: process.start_ticks,
            reserved_millicores: None,
            parts: None,
        };
        let own: Vec<InferenceGroup> = processes.map(group).collect();
        let mine =
            |group: &InferenceGroup| group.target.strip_prefix(self.name).is_some_and(|rest| rest.starts_with('/'));
        self.out.groups.send_if_modified(|groups| {
            if groups.iter().filter(|group| mine(group)).eq(own.iter()) {
                return false;
            }
            groups.retain(|group| !mine(group));
            groups.extend(own);
            true
        });
    }

    /// Counts refusals, and says so.
    pub(super) fn refused(&mut self, refusal: &Refusal, times: u64) {
        let failure = Failure { target: self.name.to_owned(), reason: refusal.reason };
        self.out.failures.send_modify(|failures| *failures.entry(failure).or_insert(0) += times);
        let now = self.around.clock.boot();
        if self.logged.get(refusal.reason).is_none_or(|last| now.since(*last) >= QUIET) {
            self.logged.insert(refusal.reason, now);
            // The words may quote what was told.
            let why: String = refusal.why.chars().take(200).collect();
            tracing::warn!(
                way = self.name,
                reason = refusal.reason,
                ?why,
                "what a server told was refused or corrected"
            );
        }
    }

    /// Passes samples on; whether somebody takes them.
    pub(super) async fn pass(&self, samples: Vec<CountSample>) -> bool {
        for sample in samples {
            if self.out.samples.send(sample).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// The name under which a process's counts stand.
pub(super) fn target(way: &str, process: ProcessId) -> String {
    format!("{way}/{}@{}", process.pid, process.start_ticks)
}
