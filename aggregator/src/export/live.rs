//! How the aggregator itself is, looked at when it is asked: ingest, nodes, factors, store and its own cost.

use super::metric::{
    ACK_REGRESSIONS, ACKS, BUDGET_DROPS, BUDGET_MISSED, BUILD, CERTIFICATE, COMMITS, CPU, DESCRIBED, DIRTY, DUPLICATES,
    EXPORT_FAILURES, FACTOR_FAILING, FACTOR_LAST, INTAKE_OPEN, INTAKE_STOPS, LOST, MEMORY, NODE_CONNECTED, NODE_LAST,
    NODE_LOST, NODE_REJECTED, NODE_SKEW, NODE_SOURCES, OTLP_LOST, OTLP_RETRIES, OTLP_SENT, OTLP_WAITING, POLL_FAILURES,
    POLLS, PRESSURE, RECEIVED, RECORDS, REJECTED, RELOAD_FAILURES, RELOADS, SCRAPES, SESSIONS, SKEW_EVENTS, STARTED,
    STORE_BYTES, STORE_DISK, STORE_FREE,
};
use super::point::{Points, seconds};
use crate::admin::FeedStates;
use crate::factor::Factors;
use crate::ingest::Counters;
use crate::pods;
use crate::store::Book;
use crate::store::space::{Space, bytes_of};
use joulebook_otlp::trace::queues;
use joulebook_otlp::{Counts, Queue, Signal};
use joulebook_proto::metrics::Metric;
use joulebook_units::UnixNanos;
use nix::sys::resource::{UsageWho, getrusage};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use tokio::sync::watch;

/// Pages that were served.
pub(super) const PAGES: &str = "metrics_pages_total";
/// Steps whose figures could not be worked out.
pub(super) const FAILURES: &str = "export_failures_total";
/// Every counter of [`Counters`], and what it is called outside.
const COUNTERS: &[(&str, &Metric, &[&str])] = &[
    ("intake_open", &INTAKE_OPEN, &[]),
    ("records_applied_total", &RECORDS, &[]),
    ("record_commits_total", &COMMITS, &[]),
    ("record_bytes_total", &RECEIVED, &[]),
    ("acknowledgements_total", &ACKS, &[]),
    ("series_described_total", &DESCRIBED, &[]),
    ("duplicates_total", &DUPLICATES, &[]),
    ("sessions_total", &SESSIONS, &[]),
    ("rejected_value_total", &REJECTED, &["telemetry", "value"]),
    ("rejected_time_total", &REJECTED, &["telemetry", "time"]),
    ("rejected_cardinality_total", &REJECTED, &["telemetry", "cardinality"]),
    ("rejected_unknown_series_total", &REJECTED, &["telemetry", "unknown_series"]),
    ("rejected_malformed_total", &REJECTED, &["telemetry", "malformed"]),
    ("seq_conflict_total", &REJECTED, &["telemetry", "sequence_conflict"]),
    ("poller_series_refused_total", &REJECTED, &["telemetry", "poller_series"]),
    ("speakers_refused_total", &REJECTED, &["telemetry", "speaker"]),
    ("connections_refused_total", &REJECTED, &["connection", "full"]),
    ("tls_handshake_failures_total", &REJECTED, &["connection", "handshake"]),
    ("records_lost_total", &LOST, &[]),
    ("pressure_queue_total", &PRESSURE, &["queue"]),
    ("pressure_memory_total", &PRESSURE, &["memory"]),
    ("pressure_disk_total", &PRESSURE, &["disk"]),
    ("disk_budget_rows_total", &BUDGET_DROPS, &["rows"]),
    ("disk_budget_minutes_total", &BUDGET_DROPS, &["minutes"]),
    ("disk_budget_settled_total", &BUDGET_DROPS, &["settled"]),
    ("disk_budget_missed_total", &BUDGET_MISSED, &[]),
    ("intake_stops_total", &INTAKE_STOPS, &[]),
    ("clock_skew_events_total", &SKEW_EVENTS, &[]),
    ("ack_regression_total", &ACK_REGRESSIONS, &[]),
    ("config_reloads_total", &RELOADS, &["configuration"]),
    ("config_reload_failures_total", &RELOAD_FAILURES, &["configuration"]),
    ("tls_reloads_total", &RELOADS, &["certificates"]),
    ("tls_reload_failures_total", &RELOAD_FAILURES, &["certificates"]),
    ("node_directory_reloads_total", &RELOADS, &["node_directory"]),
    ("node_directory_reload_failures_total", &RELOAD_FAILURES, &["node_directory"]),
    ("pod_lists_total", &RELOADS, &["pods"]),
    ("pod_watch_failures_total", &RELOAD_FAILURES, &["pods"]),
    (pods::REFUSED, &REJECTED, &["pod", "malformed"]),
    (pods::LEFT_OUT, &REJECTED, &["pod", "full"]),
    ("cert_expiry_seconds", &CERTIFICATE, &[]),
    ("factor_polls_total", &POLLS, &[]),
    ("factor_poll_failures_total", &POLL_FAILURES, &[]),
    (PAGES, &SCRAPES, &[]),
    (FAILURES, &EXPORT_FAILURES, &[]),
];
/// States that are not there before something set them: 0 would be a claim.
const SET_LATER: [&str; 2] = ["intake_open", "cert_expiry_seconds"];

/// What is looked at.
pub struct Live {
    /// The database.
    pub book: Arc<Book>,
    /// Counters since start.
    pub counters: Arc<Counters>,
    /// The configured series of factors.
    pub factors: watch::Receiver<Arc<Factors>>,
    /// How their sources are.
    pub feeds: FeedStates,
    /// The database's disk.
    pub space: Arc<Space>,
    /// What waits for a receiver of OpenTelemetry, if there is one.
    pub told: Option<Arc<Queue>>,
    /// When the process began.
    pub started: UnixNanos,
}

impl Live {
    /// What it says.
    pub fn points(&self) -> Points {
        let mut points = Points::default();
        points.add(&BUILD, &[env!("CARGO_PKG_VERSION")], 1.0);
        add_counters(&mut points, &self.counters.all());
        self.add_nodes(&mut points);
        self.add_factors(&mut points);
        self.add_store(&mut points);
        self.add_told(&mut points);
        add_process(&mut points);
        points.add(&STARTED, &[], seconds(self.started));
        points
    }

    /// Figures even while nobody is told them: that none is lost is known then.
    fn add_told(&self, points: &mut Points) {
        let figures = self.told.as_ref().map(|queue| queue.counts());
        add_counts(points, Signal::Metrics, figures.unwrap_or_default(), figures.is_some());
        for (signal, queue) in queues() {
            add_counts(points, *signal, queue.counts(), true);
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    fn add_nodes(&self, points: &mut Points) {
        let status = self.book.status();
        points.add(&DIRTY, &[], status.dirty_cells as f64);
        let mut sums: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        for stream in &status.streams {
            let sum = sums.entry(stream.node).or_default();
            sum.0 = sum.0.saturating_add(stream.lost_records);
            sum.1 = sum.1.saturating_add(stream.rejected_values);
        }
        for node in &status.nodes {
            let name = node.inventory.node.as_str();
            let (lost, rejected) = sums.get(&node.number).copied().unwrap_or_default();
            let (read, unavailable): (Vec<_>, Vec<_>) = node.sources().partition(|state| state.unavailable.is_none());
            points.add(&NODE_CONNECTED, &[name], f64::from(u8::from(node.connected)));
            points.add(&NODE_LAST, &[name], node.last_row.map(seconds));
            points.add(&NODE_SKEW, &[name], node.clock_skew_nanos as f64 / 1e9);
            points.add(&NODE_LOST, &[name], lost as f64);
            points.add(&NODE_REJECTED, &[name], rejected as f64);
            points.add(&NODE_SOURCES, &[name, "read"], read.len() as f64);
            points.add(&NODE_SOURCES, &[name, "unavailable"], unavailable.len() as f64);
        }
    }

    fn add_factors(&self, points: &mut Points) {
        for (name, fact) in self.book.factor_series() {
            points.add(&FACTOR_LAST, &[&name, fact.subject.quantity.name()], seconds(fact.last));
        }
        let states = self.feeds.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for feed in self.factors.borrow().feeds().iter().filter(|feed| feed.provider.is_some()) {
            let failing = states.get(&feed.name).map(|state| f64::from(u8::from(!state.failure.is_empty())));
            points.add(&FACTOR_FAILING, &[&feed.name], failing);
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "bytes for people")]
    fn add_store(&self, points: &mut Points) {
        points.add(&STORE_BYTES, &[], bytes_of(self.space.folder()).map(|bytes| bytes as f64));
        if let Some((free, size)) = self.space.free_and_size() {
            points.add(&STORE_FREE, &[], free as f64);
            points.add(&STORE_DISK, &[], size as f64);
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn add_counters(points: &mut Points, counters: &BTreeMap<&'static str, u64>) {
    for (name, metric, labels) in COUNTERS {
        let value = counters.get(name).copied();
        let value = if SET_LATER.contains(name) { value } else { Some(value.unwrap_or_default()) };
        points.add(metric, labels, value.map(|value| value as f64));
    }
}

fn add_counts(points: &mut Points, signal: Signal, counts: Counts, is_told: bool) {
    let name = signal.name();
    points.count(&OTLP_SENT, &[name], counts.sent);
    points.count(&OTLP_LOST, &[name, "overflow"], counts.overflow);
    points.count(&OTLP_LOST, &[name, "refused"], counts.refused);
    points.count(&OTLP_RETRIES, &[name], counts.retries);
    if is_told {
        points.count(&OTLP_WAITING, &[name], counts.waiting);
    }
}

#[allow(clippy::cast_precision_loss, reason = "seconds and bytes for people")]
fn add_process(points: &mut Points) {
    if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
        let times = [usage.user_time(), usage.system_time()];
        let seconds: f64 = times.iter().map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6).sum();
        points.add(&CPU, &[], seconds);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"));
    points.add(&MEMORY, &[], resident.and_then(|kilobytes| kilobytes.trim().parse::<f64>().ok()).map(|kb| kb * 1024.0));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    /// Names of counters that the sources of a folder spell.
    fn spelled(folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).expect("the sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                spelled(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("metric.rs") {
                let text = fs::read_to_string(&path).expect("a source");
                let strings = text.split('"').skip(1).step_by(2).filter(|word| word.ends_with("_total"));
                found.extend(
                    strings.filter(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')).map(str::to_owned),
                );
            }
        }
    }

    #[test]
    fn every_counter_of_the_aggregator_has_a_name_outside() {
        let mut found = vec![];
        spelled(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        assert!(found.len() > 20, "{found:?}");
        for name in found.iter().filter(|name| !name.starts_with("joulebook_") && *name != "_total") {
            assert!(COUNTERS.iter().any(|(known, ..)| known == name), "{name} is counted and shown nowhere");
        }
    }

    #[test]
    fn counters_begin_at_0_and_states_when_they_are_known() {
        let mut points = Points::default();
        add_counters(&mut points, &BTreeMap::from([("duplicates_total", 3)]));
        let points = points.into_vec();
        let value = |metric: &Metric| points.iter().find(|point| point.metric == metric).map(|point| point.value);
        assert_eq!((value(&DUPLICATES), value(&RECORDS), value(&INTAKE_OPEN)), (Some(3.0), Some(0.0), None));
        assert_eq!(points.len(), COUNTERS.len() - SET_LATER.len());
    }

    #[test]
    fn the_process_says_what_it_costs() {
        let mut points = Points::default();
        add_process(&mut points);
        let points = points.into_vec();
        assert!(points.iter().all(|point| point.value > 0.0) && points.len() == 2, "{points:?}");
    }
}
