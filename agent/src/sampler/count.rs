//! Counts: which series a service's counts go to, and from where they are known.

use super::{Baseline, STALE, Sampler};
use crate::inference::{CountSample, ProcessId};
use joulebook_units::{BootNanos, Point, Service, Subject};
use std::sync::Arc;

/// Rows for which counts wait for the first list of those on the devices.
const PATIENCE_ROWS: u64 = 5;

impl Sampler {
    /// Takes counts. Which power limit a server works under is a part of whose counts they are: at the start they wait until
    /// it is known who is on which device.
    pub(super) fn counts(&mut self, new: Vec<CountSample>) {
        if self.rows >= PATIENCE_ROWS || self.parts.sources.accelerators().is_empty() {
            self.devices.wait_no_more();
        }
        self.waiting.extend(new);
        if self.devices.is_listed() {
            std::mem::take(&mut self.waiting).into_iter().for_each(|sample| self.count(sample));
        }
    }

    /// Takes the counts of a service.
    fn count(&mut self, sample: CountSample) {
        let service = sample.service;
        let whole = self.workload_ids.get(&service.target).cloned();
        let part = whole.clone().zip(sample.part).and_then(|part| self.part_ids.get(&part).cloned());
        let workload = service.workload.clone().or(part).or(whole);
        let mut serving = service.serving.clone();
        let configured = &mut serving.configuration.power_limit_milliwatts;
        let sources = &self.parts.sources;
        let read = |workload| self.devices.power_limit(workload, |device| sources.power_limit(device));
        *configured = configured.or_else(|| workload.as_deref().and_then(read));
        let epoch = sample.process.map_or(0, epoch_of);
        let described = Arc::new(Service { workload, serving, ..service.clone() });
        let consumed = sample.of.clone().map(Arc::new);
        for (kind, counted) in sample.counts {
            let subject = match &consumed {
                None => Subject::Count(Arc::clone(&described), kind),
                Some(of) => Subject::Consumption(Arc::clone(of), kind),
            };
            let series = self.book.series(&subject);
            let shown = sample.shown.get(&kind).copied();
            let key = (service.clone(), sample.of.clone(), kind);
            let before = self.count_points.get(&key).copied();
            let point = if let Some(base) = self.bases.get(&series).copied() {
                let point = Point { at: sample.at, value: base.saturating_add(counted) };
                match before {
                    // What was counted while another workload did the work is in that one's series.
                    Some((other, last)) if other != series => {
                        let from = Point { at: last.at, value: base.saturating_add(last.value) };
                        self.book.start(series, Some(from), point);
                    }
                    _ => self.book.extend(series, point),
                }
                point
            } else {
                self.begin_count(
                    series,
                    sample.at,
                    counted,
                    (shown, epoch),
                    before.map(|(_, last)| last).or(sample.origin.map(|at| Point { at, value: 0 })),
                )
            };
            // A later run of the agent goes on from one series only.
            if let Some((other, _)) = before.filter(|(other, _)| *other != series) {
                self.baselines.remove(&other);
            }
            self.count_points.insert(key, (series, Point { at: sample.at, value: counted }));
            let (at, value) = (point.at, point.value);
            self.baselines.insert(series, Baseline { series, raw: shown.unwrap_or(STALE), value, at, epoch });
        }
    }

    /// Begins the series of a count: from the instant and sum (`known`) at which it is known, or bridging the time in
    /// which no agent ran if the same process counts on.
    fn begin_count(
        &mut self,
        series: u32,
        at: BootNanos,
        counted: u64,
        (shown, epoch): (Option<u64>, u64),
        known: Option<Point>,
    ) -> Point {
        let recovered = self.recovered.get(&series).copied();
        let bridged = recovered
            .filter(|baseline| baseline.epoch == epoch && epoch != 0 && baseline.epoch != STALE && known.is_none())
            .and_then(|baseline| Some((baseline, shown?.checked_sub(baseline.raw)?)));
        let (base, from) = match bridged {
            Some((baseline, missed)) => {
                let base = baseline.value.saturating_add(missed).saturating_sub(counted);
                (base, Some(Point { at: baseline.at, value: baseline.value }))
            }
            None => {
                let base = recovered.map_or(0, |baseline| baseline.value);
                (base, known.map(|known| Point { at: known.at, value: base.saturating_add(known.value) }))
            }
        };
        self.bases.insert(series, base);
        let point = Point { at, value: base.saturating_add(counted) };
        self.book.start(series, from, point);
        point
    }
}

/// A number that tells processes apart; never 0 and never [`STALE`].
fn epoch_of(process: ProcessId) -> u64 {
    let pid = u64::from(process.pid.unsigned_abs());
    (process.start_ticks.wrapping_mul(4_194_304).wrapping_add(pid)).clamp(1, STALE - 1)
}
