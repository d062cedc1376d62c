//! Collector `meter`: energy of the whole node at its input, told by a program of this machine that reads a meter: the outlet
//! of a power distribution unit, a plug, a laboratory meter; or of several nodes, an enclosure's, a rack's, a site's.
//!
//! Takes what came to the push socket since the last row: cumulative energy in µJ, or power in mW. Needs no privilege; who
//! may tell is configured and checked by the socket. The first energy exists at the second report. A power holds until the
//! next report, for as long as is configured.

use super::hold::Hold;
use super::{Collector, ReadFailure, Reading, Value};
use crate::config::MeterSection;
use joulebook_units::{BootNanos, Component, Method, Milliwatts, Source, SourceState};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Reports that may wait for a row.
const WAITING_REPORTS: usize = 256;

/// What a meter shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Energy in µJ since any instant of the past.
    Energy(u64),
    /// Power now.
    Power(Milliwatts),
}

/// One report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Name of the meter.
    pub meter: String,
    /// When it came.
    pub at: BootNanos,
    /// What the meter shows.
    pub shown: Shown,
}

/// The way from the socket to the collector.
pub fn channel() -> (SyncSender<Told>, Receiver<Told>) {
    sync_channel(WAITING_REPORTS)
}

/// The collector.
#[derive(Debug)]
pub struct Meters {
    meters: Vec<Meter>,
    told: Receiver<Told>,
    changed: bool,
}

#[derive(Debug)]
struct Meter {
    section: MeterSection,
    hold: Hold,
    /// Whether it tells energy; decided by its first report.
    counts: Option<bool>,
    off: Option<String>,
}

impl Meters {
    /// Collects what comes through `told` of these meters.
    pub fn new(sections: &[MeterSection], told: Receiver<Told>) -> Self {
        let meter = |section: &MeterSection| Meter {
            hold: Hold::new(section.hold, section.ceiling()),
            section: section.clone(),
            counts: None,
            off: Some("nothing was told of it yet".to_owned()),
        };
        Self { meters: sections.iter().map(meter).collect(), told, changed: false }
    }
}

impl Meter {
    fn id(&self) -> String {
        format!("meter/{}", self.section.name)
    }

    fn failure(&self, reason: &'static str, why: String) -> ReadFailure {
        ReadFailure { source_id: self.id(), reason, why }
    }

    fn take(&mut self, told: &Told) -> Vec<Result<Reading, ReadFailure>> {
        let counts = matches!(told.shown, Shown::Energy(_));
        if *self.counts.get_or_insert(counts) != counts {
            let why = "it told energy before and power now, or the other way round: tell one of the two".to_owned();
            return vec![Err(self.failure("type", why))];
        }
        self.off = None;
        let source = self.id();
        let reading = |(at, value)| Ok(Reading { source: source.clone(), at, value });
        match told.shown {
            Shown::Energy(raw) => vec![reading((told.at, Value::Total { raw }))],
            Shown::Power(power) if power > self.section.ceiling() => {
                let why = format!("{} W are above its ceiling_watts", power.to_watts());
                vec![Err(self.failure("implausible", why))]
            }
            Shown::Power(power) => self.hold.sample(told.at, power).into_iter().map(reading).collect(),
        }
    }

    fn state(&self) -> SourceState {
        let counts = self.counts == Some(true);
        let source = Source {
            id: self.id(),
            component: Component::Wall,
            socket: None,
            device: None,
            collector: "meter".to_owned(),
            method: if counts { Method::Counter } else { Method::IntegratedPower },
            unit_nanojoules: None,
            ceiling: self.section.ceiling(),
            uncertainty_permille: self.section.uncertainty_permille,
            contained_in: None,
            scope: self.section.scope(),
            basis: format!("told at the push socket by uid {}", self.section.uid),
        };
        SourceState { source: source.into(), unavailable: self.off.clone() }
    }
}

impl Collector for Meters {
    fn discover(&mut self) -> Vec<SourceState> {
        self.changed = false;
        self.meters.iter().map(Meter::state).collect()
    }

    fn read(&mut self, now: BootNanos) -> Vec<Result<Reading, ReadFailure>> {
        let mut readings = Vec::new();
        for told in self.told.try_iter() {
            let Some(meter) = self.meters.iter_mut().find(|meter| meter.section.name == told.meter) else { continue };
            let before = meter.state();
            readings.extend(meter.take(&told));
            self.changed |= meter.state() != before;
        }
        for meter in &mut self.meters {
            let Some((at, value)) = meter.hold.tick(now) else { continue };
            readings.push(Ok(Reading { source: meter.id(), at, value }));
            let held = humantime::format_duration(meter.section.hold);
            let why = format!("no power was told for {held}: energy is unknown until one is");
            readings.push(Err(meter.failure("stale", why.clone())));
            meter.off = Some(why);
            self.changed = true;
        }
        readings
    }

    fn has_changed(&self) -> bool {
        self.changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulebook_units::Microjoules;

    const SECOND: u64 = 1_000_000_000;

    fn meters() -> (SyncSender<Told>, Meters) {
        let sections: Vec<MeterSection> = ["outlet", "plug"]
            .iter()
            .map(|name| MeterSection { name: (*name).to_owned(), ..MeterSection::default() })
            .collect();
        let (tell, told) = channel();
        (tell, Meters::new(&sections, told))
    }

    fn told(meter: &str, second: u64, shown: Shown) -> Told {
        Told { meter: meter.to_owned(), at: BootNanos(second * SECOND), shown }
    }

    #[test]
    fn energy_is_a_total_and_power_holds_until_the_next_report() {
        let (tell, mut meters) = meters();
        assert!(meters.discover().iter().all(|state| state.unavailable.is_some()));
        tell.send(told("outlet", 10, Shown::Energy(5_000))).expect("taken");
        tell.send(told("plug", 10, Shown::Power(Milliwatts(100_000)))).expect("taken");
        tell.send(told("plug", 12, Shown::Power(Milliwatts(300_000)))).expect("taken");
        let values: Vec<_> =
            meters.read(BootNanos(13 * SECOND)).into_iter().map(|one| one.expect("good").value).collect();
        let increment = |joules: u64| Value::increment(Microjoules(joules * 1_000_000));
        assert_eq!(values, [Value::Total { raw: 5_000 }, increment(0), increment(200)]);
        assert!(meters.has_changed());
        let states = meters.discover();
        assert_eq!([states[0].source.method, states[1].source.method], [Method::Counter, Method::IntegratedPower]);
        assert!(states.iter().all(|state| state.unavailable.is_none() && state.source.component == Component::Wall));
        // The next minute nothing comes: the power held as long as it may, then nothing is known.
        let late = meters.read(BootNanos(100 * SECOND));
        assert_eq!(late[0].as_ref().expect("a reading").value, increment(300 * 60));
        assert_eq!(late[1].as_ref().expect_err("stale").reason, "stale");
    }

    #[test]
    fn a_meter_tells_one_quantity_and_no_more_than_its_ceiling() {
        let (tell, mut meters) = meters();
        tell.send(told("plug", 1, Shown::Power(Milliwatts(u64::MAX)))).expect("taken");
        tell.send(told("plug", 2, Shown::Energy(1))).expect("taken");
        let reasons: Vec<_> =
            meters.read(BootNanos(3 * SECOND)).into_iter().map(|one| one.expect_err("bad").reason).collect();
        assert_eq!(reasons, ["implausible", "type"]);
    }
}
