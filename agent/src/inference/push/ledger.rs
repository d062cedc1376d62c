//! What each process has told so far. Pure.

use super::super::CountSample;
use super::super::socket::ProcessId;
use super::report::{Refusal, Report};
use joulebook_units::{BootNanos, CountKind, Service};
use std::collections::BTreeMap;

/// Processes that are remembered at a time.
const MOST_PROCESSES: usize = 256;
/// Model versions of one process.
const MOST_SERVICES: usize = 32;

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Counted.
    Counted,
    /// Counted, and a cumulative count fell: its new value was added.
    Reset,
    /// A repetition, which changes nothing.
    Repeated,
}

impl Outcome {
    /// The line that says so.
    pub fn answer(self, seq: u64) -> String {
        let repeated = self == Self::Repeated;
        format!("{}\n", serde_json::json!({"ok": true, "seq": seq, "repeated": repeated}))
    }
}

/// The instants around a report.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// When it was taken.
    pub at: BootNanos,
    /// When the connection was made.
    pub connected: BootNanos,
    /// Start of the process, if it started after the agent: cumulative counts were 0 then.
    pub zero: Option<BootNanos>,
}

/// Everything told so far.
#[derive(Debug, Default)]
pub struct Ledger {
    peers: BTreeMap<(i32, u64), Peer>,
}

#[derive(Debug, Default)]
struct Peer {
    last_seq: u64,
    services: BTreeMap<Service, Told>,
}

#[derive(Debug)]
struct Told {
    cumulative: bool,
    at: BootNanos,
    /// Counted since the first report.
    totals: BTreeMap<CountKind, u64>,
    /// The process's own cumulative counts.
    shown: BTreeMap<CountKind, u64>,
}

/// The name under which a process's counts stand.
pub fn target(process: ProcessId) -> String {
    format!("push/{}@{}", process.pid, process.start_ticks)
}

impl Ledger {
    /// The processes that have told something.
    pub fn processes(&self) -> impl Iterator<Item = ProcessId> {
        self.peers.keys().map(|(pid, start_ticks)| ProcessId { pid: *pid, start_ticks: *start_ticks })
    }

    /// Takes a report of a process. `alive` tells which processes may be forgotten when there are too many.
    pub fn take(
        &mut self,
        process: ProcessId,
        report: &Report,
        times: Times,
        alive: impl Fn(ProcessId) -> bool,
    ) -> Result<(Outcome, Option<CountSample>), Refusal> {
        let key = (process.pid, process.start_ticks);
        if !self.peers.contains_key(&key) {
            self.peers.retain(|(pid, start_ticks), _| alive(ProcessId { pid: *pid, start_ticks: *start_ticks }));
            if self.peers.len() >= MOST_PROCESSES {
                return Err(Refusal { reason: "limit", why: "256 processes tell already".to_owned() });
            }
        }
        let known = self.peers.get(&key);
        if known.is_some_and(|peer| report.seq <= peer.last_seq) {
            return Ok((Outcome::Repeated, None));
        }
        let service = service(process, report);
        let told = known.and_then(|peer| peer.services.get(&service));
        if told.is_some_and(|told| told.cumulative != report.cumulative) {
            return Err(Refusal::value("`cumulative` must stay what it was for this model version"));
        }
        if told.is_none() && known.is_some_and(|peer| peer.services.len() >= MOST_SERVICES) {
            return Err(Refusal { reason: "limit", why: "the process tells of 32 model versions already".to_owned() });
        }
        let peer = self.peers.entry(key).or_default();
        peer.last_seq = report.seq;
        let first = !peer.services.contains_key(&service);
        let origin = if report.cumulative { times.zero } else { Some(times.connected) };
        let told = peer.services.entry(service.clone()).or_insert_with(|| Told {
            cumulative: report.cumulative,
            at: times.at,
            totals: BTreeMap::new(),
            shown: BTreeMap::new(),
        });
        let origin = if first { origin } else { Some(told.at) };
        let mut outcome = Outcome::Counted;
        for (kind, count) in report.counts() {
            let before = told.shown.get(&kind).copied();
            let grown = match before {
                _ if !report.cumulative => count,
                Some(before) if count < before => {
                    outcome = Outcome::Reset;
                    count
                }
                Some(before) => count - before,
                // What was counted before the agent watched is the baseline.
                None if first && times.zero.is_none() => 0,
                None => count,
            };
            let total = told.totals.entry(kind).or_insert(0);
            *total = total.saturating_add(grown);
            if report.cumulative {
                told.shown.insert(kind, count);
            }
        }
        told.at = times.at;
        let (counts, shown) = (told.totals.clone(), told.shown.clone());
        let sample =
            CountSample { service, of: None, at: times.at, counts, origin, shown, process: Some(process), part: None };
        Ok((outcome, Some(sample)))
    }
}

fn service(process: ProcessId, report: &Report) -> Service {
    let (version, version_source) = report.version();
    Service {
        model: Some(report.model.trim().to_owned()),
        version,
        version_source,
        fingerprint: None,
        adapter: None,
        engine: "push".to_owned(),
        target: target(process),
        workload: None,
        tokenizer: None,
        serving: joulebook_units::Serving::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PROCESS: ProcessId = ProcessId { pid: 7, start_ticks: 9 };

    fn report(seq: u64, cumulative: bool, model: &str, items: u64) -> Report {
        let line = serde_json::json!({"seq": seq, "cumulative": cumulative, "model": model, "items": items});
        Report::parse(line.to_string().as_bytes()).expect("valid")
    }

    fn times(zero: Option<u64>) -> Times {
        Times { at: BootNanos(100), connected: BootNanos(50), zero: zero.map(BootNanos) }
    }

    fn items(sample: &CountSample) -> u64 {
        sample.counts[&CountKind::Items]
    }

    #[test]
    fn the_first_report_counts_from_the_process_start_or_is_a_baseline() {
        for (zero, counted) in [(Some(10), 5), (None, 0)] {
            let mut ledger = Ledger::default();
            let mut take = |seq, count| {
                let taken = ledger.take(PROCESS, &report(seq, true, "m", count), times(zero), |_| true);
                taken.expect("taken").1.expect("a sample")
            };
            let first = take(1, 5);
            assert_eq!((items(&first), first.origin), (counted, zero.map(BootNanos)));
            assert_eq!(first.shown[&CountKind::Items], 5);
            assert_eq!(items(&take(2, 8)), counted + 3);
        }
        let delta = Ledger::default().take(PROCESS, &report(1, false, "m", 5), times(None), |_| true);
        let delta = delta.expect("taken").1.expect("a sample");
        assert_eq!((items(&delta), delta.origin, delta.shown.len()), (5, Some(BootNanos(50)), 0));
    }

    #[test]
    fn what_would_confuse_or_fill_the_memory_is_refused() {
        let mut ledger = Ledger::default();
        let mut take = |process, report: Report, alive| ledger.take(process, &report, times(Some(1)), |_| alive);
        take(PROCESS, report(1, true, "m", 5), true).expect("taken");
        assert_eq!(take(PROCESS, report(2, false, "m", 5), true).expect_err("mixed").reason, "value");
        for model in 1..32 {
            take(PROCESS, report(1 + model, true, &format!("m{model}"), 1), true).expect("taken");
        }
        assert_eq!(take(PROCESS, report(99, true, "one more", 1), true).expect_err("limit").reason, "limit");
        for pid in 100..355 {
            take(ProcessId { pid, start_ticks: 1 }, report(1, true, "m", 1), true).expect("taken");
        }
        let next = ProcessId { pid: 400, start_ticks: 1 };
        assert_eq!(take(next, report(1, true, "m", 1), true).expect_err("limit").reason, "limit");
        take(next, report(1, true, "m", 1), false).expect("the ended ones are forgotten");
    }

    proptest! {
        #[test]
        fn repetitions_and_lost_reports_change_no_cumulative_count(
            steps in proptest::collection::vec((0_u64..50, 0_u8..4), 1..40)
        ) {
            let mut ledger = Ledger::default();
            let (mut truth, mut counted, mut seq) = (0, 0, 0);
            for (work, fate) in steps {
                truth += work;
                seq += 1;
                // 0: lost on the way; 2 and more: sent again.
                for _ in 0..fate {
                    let (_, sample) = ledger.take(PROCESS, &report(seq, true, "m", truth), times(Some(1)), |_| true).expect("taken");
                    counted = sample.as_ref().map_or(counted, items);
                }
                if fate > 0 {
                    prop_assert_eq!(counted, truth);
                }
            }
        }

        #[test]
        fn repetitions_change_no_delta(steps in proptest::collection::vec((0_u64..50, 1_u8..4), 1..40)) {
            let mut ledger = Ledger::default();
            let (mut truth, mut counted) = (0, 0);
            for (seq, (work, times_sent)) in (1..).zip(steps) {
                truth += work;
                for _ in 0..times_sent {
                    let (_, sample) = ledger.take(PROCESS, &report(seq, false, "m", work), times(None), |_| true).expect("taken");
                    counted = sample.as_ref().map_or(counted, items);
                }
                prop_assert_eq!(counted, truth);
            }
        }
    }
}
