//! The seam for energy sources: one file per source, one line in the list.

use crate::config::{Config, Roots};
use crate::hardware;
use estimate::Estimate;
use joulebook_units::{BootNanos, Component, Hardware, Microjoules, SourceState};
use rapl::Rapl;

pub mod estimate;
pub mod rapl;

/// What a source shows at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A hardware counter in µJ, and the highest value it can show before it wraps, where it wraps and tells.
    Counter {
        /// The counter.
        raw: u64,
        /// Its range.
        range: Option<u64>,
    },
    /// Energy since this collector's last reading of the source: models and integrated power.
    Increment(Microjoules),
}

/// One raw value from a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Id of the source, one of those the collector declared.
    pub source: String,
    /// When it was read.
    pub at: BootNanos,
    /// What it showed.
    pub value: Value,
}

/// Why a source gave no reading.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reading source {source_id} failed: {why}")]
pub struct ReadFailure {
    /// Id of the source.
    pub source_id: String,
    /// Reason from a fixed list, for counters: `parse`, `permission`, `masked`, `missing`, `io`,
    /// `dead`.
    pub reason: &'static str,
    /// What was tried, why it failed, what to do.
    pub why: String,
}

/// A kind of energy source.
pub trait Collector: Send {
    /// Finds the sources, readable or not. Called at start and again when a source is lost.
    fn discover(&mut self) -> Vec<SourceState>;

    /// Reads every readable source once. A failure concerns its source only.
    fn read(&mut self, now: BootNanos) -> Vec<Result<Reading, ReadFailure>>;
}

/// Every source of the node: the sensors, and the model for what they leave unmetered.
pub struct Sources {
    sensors: Vec<Box<dyn Collector>>,
    estimate: Estimate,
    seen_only: Vec<SourceState>,
    states: Vec<SourceState>,
}

impl Sources {
    /// The collectors of a configuration. A new one is one file and one line here.
    pub fn new(config: &Config, roots: &Roots, hardware: &Hardware) -> Self {
        let mut sensors: Vec<Box<dyn Collector>> = Vec::new();
        if config.rapl.enabled {
            sensors.push(Box::new(Rapl::new(roots, &config.rapl)));
        }
        Self {
            sensors,
            estimate: Estimate::new(roots, &config.estimate),
            seen_only: hardware::unread_sources(hardware),
            states: Vec::new(),
        }
    }

    /// Looks for sources; the model takes what no readable sensor meters. Call again when one was lost or found.
    pub fn discover(&mut self) -> &[SourceState] {
        let mut states: Vec<SourceState> = self.sensors.iter_mut().flat_map(|sensor| sensor.discover()).collect();
        let metered =
            |component| states.iter().any(|state| state.source.component == component && state.unavailable.is_none());
        self.estimate.want(!metered(Component::Cpu), !metered(Component::Dram));
        states.extend(self.estimate.discover());
        states.extend(self.seen_only.iter().cloned());
        self.states = states;
        &self.states
    }

    /// The sources as last discovered.
    pub fn states(&self) -> &[SourceState] {
        &self.states
    }

    /// Whether sensors were found and none of them can be read.
    pub fn all_refused(&self) -> bool {
        let mut sensors = self.states.iter().filter(|state| state.source.collector == "rapl").peekable();
        sensors.peek().is_some() && sensors.all(|state| state.unavailable.is_some())
    }

    /// Idle power of the modelled sources.
    pub fn estimated_idle(&self) -> Vec<(&'static str, estimate::Idle)> {
        self.estimate.idle()
    }

    /// Reads every source once. If a source died or came to life, the sources are discovered again before the next
    /// reading, and the second value says so.
    pub fn read(&mut self, now: BootNanos) -> (Vec<Result<Reading, ReadFailure>>, bool) {
        let mut readings: Vec<_> = self.sensors.iter_mut().flat_map(|sensor| sensor.read(now)).collect();
        readings.extend(self.estimate.read(now));
        let unavailable =
            |id: &str| self.states.iter().any(|state| state.source.id == id && state.unavailable.is_some());
        let changed = readings.iter().any(|reading| match reading {
            Ok(reading) => unavailable(&reading.source),
            Err(failure) => failure.reason == "dead",
        });
        if changed {
            self.discover();
        }
        (readings, changed)
    }
}
