//! The task that delivers what waits.

use crate::queue::Queue;
use crate::section::{OtlpError, OtlpSection};
use crate::send::{Outcome, Receiver};
use crate::signal::Signal;
use joulebook_units::UnixNanos;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Wait after the first failure, doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest wait, and the longest that a receiver may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Tells the time: a receiver may name an instant until which it wants to be left alone.
pub type UnixClock = Arc<dyn Fn() -> UnixNanos + Send + Sync>;

/// The task that delivers the messages of one signal.
pub struct Sender {
    signal: Signal,
    receiver: Receiver,
    queue: Arc<Queue>,
}

impl Sender {
    /// A task for a receiver that is configured, with a queue of `room` items unless the section names another limit.
    ///
    /// # Errors
    /// The address, the headers or the certificates cannot be used.
    pub fn new(section: &OtlpSection, signal: Signal, room: usize, clock: UnixClock) -> Result<Self, OtlpError> {
        let receiver = Receiver::new(section, signal, clock)?;
        let queue = Arc::new(Queue::new(section.max_points.unwrap_or(room)));
        Ok(Self { signal, receiver, queue })
    }

    /// Where messages are put in.
    pub fn queue(&self) -> Arc<Queue> {
        Arc::clone(&self.queue)
    }

    /// Sends until it is dropped.
    pub async fn run(&mut self) {
        let (mut failures, mut next) = (0u32, Instant::now());
        loop {
            self.queue.filled().await;
            sleep_until(next).await;
            // While it waited, an older one may have made room: what is the oldest now goes.
            let Some(message) = self.queue.take() else { continue };
            match self.receiver.deliver(&message).await {
                Outcome::Taken { rejected } => {
                    self.queue.delivered(&message, rejected);
                    if rejected > 0 || failures > 0 {
                        tracing::info!(
                            signal = self.signal.name(),
                            rejected,
                            "the OpenTelemetry receiver takes messages"
                        );
                    }
                    failures = 0;
                }
                Outcome::Refused(why) => {
                    self.queue.refused(&message);
                    let items = message.items;
                    tracing::error!(
                        signal = self.signal.name(),
                        items,
                        %why,
                        "the OpenTelemetry receiver refuses a message; it is dropped"
                    );
                    failures = 0;
                }
                Outcome::Again { why, after } => {
                    self.queue.put_back(message);
                    if failures == 0 {
                        tracing::warn!(
                            signal = self.signal.name(),
                            %why,
                            "the OpenTelemetry receiver takes nothing; it is tried again"
                        );
                    }
                    next = Instant::now() + pause(failures, after);
                    failures = failures.saturating_add(1);
                }
            }
        }
    }

    /// Sends once what waits, until something is not taken: the last act of a daemon.
    pub async fn drain(&mut self) {
        while let Some(message) = self.queue.take() {
            match self.receiver.deliver(&message).await {
                Outcome::Taken { rejected } => self.queue.delivered(&message, rejected),
                Outcome::Refused(_) => self.queue.refused(&message),
                Outcome::Again { .. } => return self.queue.put_back(message),
            }
        }
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
