//! OpenTelemetry: each step's figures are sent to a receiver, by gRPC or HTTP.
//!
//! What cannot be delivered waits, up to a number of points; beyond it the oldest is dropped and counted. Nothing else of
//! the aggregator waits for a receiver.

mod backlog;
mod convert;
pub mod name;
mod send;

pub use convert::messages;
pub use send::{OtlpError, Outcome};

use super::Snapshot;
use super::config::OtlpSection;
use super::live::{OVERFLOWED, REFUSED, RETRIES, SENT, WAITING};
use crate::clock::Clock;
use crate::ingest::Counters;
use backlog::Backlog;
use send::Receiver;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Wait after the first failure, doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest wait, and the longest that a receiver may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The task that sends.
pub struct Sender {
    section: OtlpSection,
    receiver: Receiver,
    counters: Arc<Counters>,
    backlog: Backlog,
}

impl Sender {
    /// A task for a receiver that is configured.
    ///
    /// # Errors
    /// The address, the headers or the certificates cannot be used.
    pub fn new(section: OtlpSection, clock: Arc<dyn Clock>, counters: Arc<Counters>) -> Result<Self, OtlpError> {
        let receiver = Receiver::new(&section, clock)?;
        let backlog = Backlog::new(section.max_points);
        Ok(Self { section, receiver, counters, backlog })
    }

    /// Sends until it is dropped, or nothing more will come.
    pub async fn run(mut self, mut figures: watch::Receiver<Option<Arc<Snapshot>>>) {
        let (mut failures, mut next) = (0u32, Instant::now());
        loop {
            let Some((message, points)) = self.backlog.first() else {
                if figures.changed().await.is_err() {
                    return;
                }
                self.take(&mut figures);
                continue;
            };
            tokio::select! {
                () = sleep_until(next) => {}
                changed = figures.changed() => match changed {
                    Ok(()) => { self.take(&mut figures); continue; }
                    Err(_) => return,
                },
            }
            match self.receiver.deliver(message).await {
                Outcome::Taken { rejected } => {
                    let rejected = rejected.min(points);
                    self.counters.add(SENT, (points - rejected) as u64);
                    self.counters.add(REFUSED, rejected as u64);
                    if rejected > 0 || failures > 0 {
                        tracing::info!(rejected, "the OpenTelemetry receiver takes points");
                    }
                    self.backlog.remove_first();
                    failures = 0;
                }
                Outcome::Refused(why) => {
                    self.counters.add(REFUSED, points as u64);
                    tracing::error!(points, %why, "the OpenTelemetry receiver refuses points; they are dropped");
                    self.backlog.remove_first();
                    failures = 0;
                }
                Outcome::Again { why, after } => {
                    self.counters.add(RETRIES, 1);
                    if failures == 0 {
                        tracing::warn!(%why, "the OpenTelemetry receiver takes nothing; it is tried again");
                    }
                    next = Instant::now() + pause(failures, after);
                    failures = failures.saturating_add(1);
                }
            }
            self.counters.set(WAITING, self.backlog.points() as u64);
        }
    }

    /// Puts the newest step's figures in line.
    fn take(&mut self, figures: &mut watch::Receiver<Option<Arc<Snapshot>>>) {
        let Some(snapshot) = figures.borrow_and_update().clone() else { return };
        for (message, points) in messages(&snapshot, self.section.cluster.as_deref()) {
            let dropped = self.backlog.add(message, points);
            self.counters.add(OVERFLOWED, dropped as u64);
        }
        self.counters.set(WAITING, self.backlog.points() as u64);
    }
}

/// The wait after so many failures; longer where the receiver asks for it.
fn pause(failures: u32, asked: Option<Duration>) -> Duration {
    let own = FIRST_PAUSE.saturating_mul(1 << failures.min(6));
    own.max(asked.unwrap_or_default()).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_minute_and_follow_the_receiver() {
        let seconds = |failures, asked: Option<u64>| pause(failures, asked.map(Duration::from_secs)).as_secs();
        assert_eq!([0, 1, 2, 5, 6, 90].map(|failures| seconds(failures, None)), [1, 2, 4, 32, 60, 60]);
        assert_eq!((seconds(0, Some(30)), seconds(0, Some(3_600)), seconds(3, Some(1))), (30, 60, 8));
    }
}
