//! Figures for other systems: Prometheus reads a page, receivers of OpenTelemetry are told.
//!
//! Every `step` (5 min by default, never below a minute) the closed step and the windows that end with it are asked for,
//! the same way as an operator would ask: what is shown equals the command line's answer for that window. Nothing finer than a
//! step, no process and no user leaves the aggregator this way: a power meter that is read each second shows what a
//! machine computes.

pub mod config;
pub mod listener;
pub mod live;
pub mod metric;
pub mod otlp;
pub mod page;
pub mod point;
pub mod tally;
pub mod window;

use crate::clock::Clock;
use crate::ingest::Counters;
use crate::query::overview::Overview;
use crate::query::{Query, QueryError};
use config::ExportSection;
use joulebook_units::{UnixNanos, Window};
use metric::EXPORT_DURATION;
use point::{Point, Points};
use std::sync::Arc;
use std::time::Duration;
use tally::Tally;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use window::Shown;

/// How often it is looked whether a step is closed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Steps that are made up for after a pause; after a longer one the sums begin again.
const CATCH_UP: i64 = 12;

/// What the last closed step says.
#[derive(Debug)]
pub struct Snapshot {
    /// End of the step.
    pub at: UnixNanos,
    /// The step.
    pub step: Overview,
    /// Sums up to its end.
    pub tally: Tally,
    /// Everything for a page, but how the aggregator is at the moment.
    pub points: Vec<Point>,
}

/// The task that works the figures out.
pub struct Exporter {
    /// Answers.
    pub query: Query,
    /// The configuration.
    pub section: ExportSection,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub counters: Arc<Counters>,
}

impl Exporter {
    /// Works figures out until it is dropped, and tells them.
    pub async fn run(self, told: watch::Sender<Option<Arc<Snapshot>>>) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let this = Arc::new(self);
        let mut last: Option<Arc<Snapshot>> = None;
        loop {
            ticks.tick().await;
            let end = this.closed();
            if last.as_ref().is_some_and(|last| end <= last.at) {
                continue;
            }
            let (worker, before) = (Arc::clone(&this), last.clone());
            // Reads the store and computes: not on the runtime's threads.
            match tokio::task::spawn_blocking(move || worker.next(before.as_deref(), end)).await {
                Ok(Ok(snapshot)) => {
                    let snapshot = Arc::new(snapshot);
                    last = Some(Arc::clone(&snapshot));
                    told.send_replace(Some(snapshot));
                }
                Ok(Err(error)) => {
                    this.counters.add(live::FAILURES, 1);
                    tracing::warn!(%error, "figures for export could not be worked out; they are tried again");
                    tokio::time::sleep(this.section.delay).await;
                }
                Err(_) => {
                    this.counters.add(live::FAILURES, 1);
                    tracing::error!("working figures for export out failed");
                    tokio::time::sleep(this.section.delay).await;
                }
            }
        }
    }

    fn step_seconds(&self) -> i64 {
        i64::try_from(self.section.step.as_secs()).unwrap_or(i64::MAX).max(1)
    }

    /// End of the last closed step.
    fn closed(&self) -> UnixNanos {
        let delay = i64::try_from(self.section.delay.as_secs()).unwrap_or(i64::MAX);
        self.clock.unix().plus_seconds(delay.saturating_neg()).floor_to(self.step_seconds())
    }

    /// What the step that ends at `end` says, after what was said before.
    fn next(&self, before: Option<&Snapshot>, end: UnixNanos) -> Result<Snapshot, QueryError> {
        let began = Instant::now();
        let seconds = self.step_seconds();
        let first = end.plus_seconds(-CATCH_UP * seconds);
        let limit = self.section.max_model_versions;
        // The sums begin with the first step that is seen to close: what a process before had counted is not counted again.
        let (mut tally, mut at) = match before {
            Some(before) if before.at >= first => (before.tally.clone(), before.at),
            _ => (Tally::new(end), end.plus_seconds(-seconds)),
        };
        let begins = tally.since == end;
        let mut step = None;
        while at < end {
            let next = at.plus_seconds(seconds);
            let overview = self.query.overview(window_between(at, next)?)?;
            if !begins {
                tally.add(&overview, limit);
            }
            step = Some(overview);
            at = next;
        }
        let step = step.ok_or_else(|| QueryError::Invalid("no step is closed".to_owned()))?;
        let mut points: Vec<Point> = window::points(&step, Shown { model_versions: limit, nodes: true }).into_vec();
        for length in self.section.windows.iter().filter(|length| **length != self.section.step) {
            let length = i64::try_from(length.as_secs()).unwrap_or(i64::MAX);
            let overview = self.query.overview(window_between(end.plus_seconds(-length), end)?)?;
            points.extend(window::points(&overview, Shown { model_versions: limit, nodes: false }).into_vec());
        }
        points.extend(tally.points().into_vec());
        let mut own = Points::default();
        own.add(&EXPORT_DURATION, &[], began.elapsed().as_secs_f64());
        points.extend(own.into_vec());
        Ok(Snapshot { at: end, step, tally, points })
    }
}

fn window_between(start: UnixNanos, end: UnixNanos) -> Result<Window, QueryError> {
    Window::new(start, end).ok_or_else(|| QueryError::Invalid("a step ends before it starts".to_owned()))
}
