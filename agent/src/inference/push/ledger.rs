//! What each process has told so far. Pure.

use super::super::socket::ProcessId;
use super::super::told::party::{CONSUMER, Runs, WORKFLOW};
use super::super::told::{self, Refusal, Told};
use super::super::{CountSample, Names};
use super::NAME;
use super::report::Report;
use joulebook_units::{BootNanos, Consumer, Consumption, CountKind, Service};
use std::collections::BTreeMap;

/// Processes that are remembered at a time.
const MOST_PROCESSES: usize = 256;
/// Model versions of one process.
const MOST_SERVICES: usize = 32;

/// Consumers and workflows of one process, over all its model versions.
const MOST_PARTIES: usize = 256;

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
    /// By whom a service's reports are for: what the process itself shows.
    parties: BTreeMap<(Service, Parties), Shown>,
    consumed: BTreeMap<(Service, Consumer), Told>,
    runs: BTreeMap<String, Runs>,
}

/// Whom the counts of a report are for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Parties {
    consumer: Option<String>,
    workflow: Option<String>,
}

#[derive(Debug)]
struct Shown {
    cumulative: bool,
    /// The process's own cumulative counts.
    counts: BTreeMap<CountKind, u64>,
}

impl Ledger {
    /// The processes that have told something.
    pub fn processes(&self) -> impl Iterator<Item = ProcessId> {
        self.peers.keys().map(|(pid, start_ticks)| ProcessId { pid: *pid, start_ticks: *start_ticks })
    }

    /// Takes a report of a process; consumers are told by `names`, and not at all without. `alive` tells which processes may be forgotten when there are too many.
    pub fn take(
        &mut self,
        process: ProcessId,
        report: &Report,
        times: Times,
        names: Option<&Names>,
        alive: impl Fn(ProcessId) -> bool,
    ) -> Result<(Outcome, Vec<CountSample>), Refusal> {
        let key = (process.pid, process.start_ticks);
        if !self.peers.contains_key(&key) {
            self.peers.retain(|(pid, start_ticks), _| alive(ProcessId { pid: *pid, start_ticks: *start_ticks }));
            if self.peers.len() >= MOST_PROCESSES {
                return Err(Refusal { reason: "limit", why: "256 processes tell already".to_owned() });
            }
        }
        let known = self.peers.get(&key);
        if known.is_some_and(|peer| report.seq <= peer.last_seq) {
            return Ok((Outcome::Repeated, Vec::new()));
        }
        let service = service(process, report);
        let party = Parties { consumer: report.consumer.clone(), workflow: report.workflow.clone() };
        let entry = (service.clone(), party);
        let shown = known.and_then(|peer| peer.parties.get(&entry));
        if shown.is_some_and(|shown| shown.cumulative != report.cumulative) {
            return Err(Refusal::value("`cumulative` must stay what it was for this model version"));
        }
        let too_many = |peer: &Peer| {
            let services = !peer.services.contains_key(&service) && peer.services.len() >= MOST_SERVICES;
            services || peer.parties.len() >= MOST_PARTIES
        };
        if shown.is_none() && known.is_some_and(too_many) {
            let why = "the process tells of 32 model versions, or of 256 consumers and workflows, already";
            return Err(Refusal { reason: "limit", why: why.to_owned() });
        }
        let peer = self.peers.entry(key).or_default();
        peer.last_seq = report.seq;
        let first = !peer.parties.contains_key(&entry);
        let cumulative = report.cumulative;
        let shown = peer.parties.entry(entry).or_insert_with(|| Shown { cumulative, counts: BTreeMap::new() });
        let (mut grown, outcome) = grown(report, shown, first && times.zero.is_none());
        if let (Some(workflow), Some(root)) = (&report.workflow, &report.root) {
            let runs = peer.runs.entry(workflow.clone()).or_default();
            grown.insert(CountKind::Workflows, u64::from(runs.is_new(root)));
        }
        Ok((outcome, peer.samples(&service, report, (&grown, times), process, names)))
    }
}

/// What a report adds to what its process showed before.
fn grown(report: &Report, shown: &mut Shown, is_baseline: bool) -> (BTreeMap<CountKind, u64>, Outcome) {
    let mut outcome = Outcome::Counted;
    let mut all = BTreeMap::new();
    for (kind, count) in report.counts() {
        let before = shown.counts.get(&kind).copied();
        let grown = match before {
            _ if !report.cumulative => count,
            Some(before) if count < before => {
                outcome = Outcome::Reset;
                count
            }
            Some(before) => count - before,
            // What was counted before the agent watched is the baseline.
            None if is_baseline => 0,
            None => count,
        };
        all.insert(kind, grown);
        if report.cumulative {
            shown.counts.insert(kind, count);
        }
    }
    (all, outcome)
}

impl Peer {
    /// Where the service stands, and whoever the report was for.
    fn samples(
        &mut self,
        service: &Service,
        report: &Report,
        (grown, times): (&BTreeMap<CountKind, u64>, Times),
        process: ProcessId,
        names: Option<&Names>,
    ) -> Vec<CountSample> {
        let origin = if report.cumulative { times.zero } else { Some(times.connected) };
        let sample = |of, counts, origin, shown| CountSample {
            service: service.clone(),
            of,
            at: times.at,
            counts,
            origin,
            shown,
            process: Some(process),
            part: None,
        };
        let mut shown: BTreeMap<CountKind, u64> = BTreeMap::new();
        for (_, one) in self.parties.iter().filter(|((other, _), _)| other == service) {
            for (kind, count) in &one.counts {
                let sum = shown.entry(*kind).or_insert(0);
                *sum = sum.saturating_add(*count);
            }
        }
        let mut told = self.services.remove(service);
        let (totals, known) = Told::add(&mut told, grown, times.at, origin);
        self.services.extend(told.map(|told| (service.clone(), told)));
        let mut samples = vec![sample(None, totals, known, shown)];
        let consumer = report.consumer.as_ref().zip(names).map(|(name, names)| (CONSUMER, names.of(CONSUMER, name)));
        // A workflow is no person: it is told by its name.
        let workflow = report.workflow.as_ref().map(|name| (WORKFLOW, name.clone()));
        for (kind, name) in consumer.into_iter().chain(workflow) {
            let consumer = Consumer { kind: kind.to_owned(), name };
            let entry = (service.clone(), consumer.clone());
            let mut told = self.consumed.remove(&entry);
            let (totals, known) = Told::add(&mut told, grown, times.at, origin);
            self.consumed.extend(told.map(|told| (entry, told)));
            let of = Consumption::told_by(service, consumer);
            samples.push(sample(Some(of), totals, known, BTreeMap::new()));
        }
        samples
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
        engine: NAME.to_owned(),
        target: told::target(NAME, process),
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
                let taken = ledger.take(PROCESS, &report(seq, true, "m", count), times(zero), None, |_| true);
                taken.expect("taken").1.into_iter().next().expect("a sample")
            };
            let first = take(1, 5);
            assert_eq!((items(&first), first.origin), (counted, zero.map(BootNanos)));
            assert_eq!(first.shown[&CountKind::Items], 5);
            assert_eq!(items(&take(2, 8)), counted + 3);
        }
        let delta = Ledger::default().take(PROCESS, &report(1, false, "m", 5), times(None), None, |_| true);
        let delta = delta.expect("taken").1.into_iter().next().expect("a sample");
        assert_eq!((items(&delta), delta.origin, delta.shown.len()), (5, Some(BootNanos(50)), 0));
    }

    #[test]
    fn what_would_confuse_or_fill_the_memory_is_refused() {
        let mut ledger = Ledger::default();
        let mut take = |process, report: Report, alive| ledger.take(process, &report, times(Some(1)), None, |_| alive);
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

    #[test]
    fn a_version_has_the_counts_of_all_its_consumers_and_workflows_and_each_has_its_own() {
        let mut ledger = Ledger::default();
        let mut take = |fields: serde_json::Value| {
            let report = Report::parse(fields.to_string().as_bytes()).expect("valid");
            let taken = ledger.take(PROCESS, &report, times(Some(1)), Some(&Names::Raw), |_| true).expect("taken");
            let told = |sample: CountSample| {
                let of = sample.of.map(|of| format!("{} {}", of.consumer.kind, of.consumer.name));
                let workflows = sample.counts.get(&CountKind::Workflows).copied();
                (of.unwrap_or_default(), sample.counts[&CountKind::OutputTokens], workflows)
            };
            taken.1.into_iter().map(told).collect::<Vec<_>>()
        };
        let line = |seq: u64, tokens: u64, more: serde_json::Value| {
            let mut line = serde_json::json!({"seq": seq, "model": "m", "output_tokens": tokens});
            line.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
            line
        };
        use serde_json::json;
        let text = |text: &str| text.to_owned();
        let cumulative = |consumer: &str| json!({"cumulative": true, "consumer": consumer});
        assert_eq!(take(line(1, 5, cumulative("a"))), [(text(""), 5, None), (text("consumer a"), 5, None)]);
        assert_eq!(take(line(2, 3, cumulative("b"))), [(text(""), 8, None), (text("consumer b"), 3, None)]);
        assert_eq!(take(line(3, 9, cumulative("a"))), [(text(""), 12, None), (text("consumer a"), 9, None)]);
        let leaf = |root: &str| json!({"cumulative": false, "workflow": "triage", "root": root});
        let flow = text("workflow triage");
        assert_eq!(take(line(4, 1, leaf("r1"))), [(text(""), 13, Some(1)), (flow.clone(), 1, Some(1))]);
        assert_eq!(take(line(5, 1, leaf("r1"))), [(text(""), 14, Some(1)), (flow.clone(), 2, Some(1))], "the same run");
        assert_eq!(take(line(6, 1, leaf("r2"))), [(text(""), 15, Some(2)), (flow, 3, Some(2))]);
    }

    #[test]
    fn consumers_without_end_are_refused() {
        let mut ledger = Ledger::default();
        let mut refused = 0;
        for seq in 1..=300u64 {
            let line = serde_json::json!({"seq": seq, "cumulative": true, "model": "m", "items": 1, "consumer": seq.to_string()});
            let report = Report::parse(line.to_string().as_bytes()).expect("valid");
            refused += usize::from(ledger.take(PROCESS, &report, times(Some(1)), None, |_| true).is_err());
        }
        assert_eq!(refused, 300 - MOST_PARTIES);
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
                    let (_, samples) = ledger.take(PROCESS, &report(seq, true, "m", truth), times(Some(1)), None, |_| true).expect("taken");
                    counted = samples.first().map_or(counted, items);
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
                    let (_, samples) = ledger.take(PROCESS, &report(seq, false, "m", work), times(None), None, |_| true).expect("taken");
                    counted = samples.first().map_or(counted, items);
                }
                prop_assert_eq!(counted, truth);
            }
        }
    }
}
