//! When agents are asked to wait: they keep their records in their spools, which is what spools are for.
//!
//! Under pressure no credit is granted. What was sent on earlier credit is taken: it is bounded, by the window and by
//! bytes. A full queue is over by itself, so the next credit is waited for in the session. Memory that runs out sends new
//! sessions away for some seconds.

pub mod memory;

use super::Counters;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Shortest and longest time for which an agent is sent away.
const AWAY: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];

/// What makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Requests wait to be committed.
    Queue = 1,
    /// The control group's memory runs out.
    Memory = 2,
    /// The disk runs full.
    Disk = 4,
}

impl Cause {
    /// Counts how often it came.
    fn counter(self) -> &'static str {
        match self {
            Self::Queue => "pressure_queue_total",
            Self::Memory => "pressure_memory_total",
            Self::Disk => "pressure_disk_total",
        }
    }
}

/// The causes that hold now.
#[derive(Debug, Clone)]
pub struct Pressure {
    causes: Arc<watch::Sender<u8>>,
    counters: Arc<Counters>,
}

impl Pressure {
    /// None holds.
    pub fn new(counters: Arc<Counters>) -> Self {
        Self { causes: Arc::default(), counters }
    }

    /// Says whether a cause holds.
    pub fn set(&self, cause: Cause, holds: bool) {
        let changed = self.causes.send_if_modified(|causes| {
            let after = if holds { *causes | cause as u8 } else { *causes & !(cause as u8) };
            std::mem::replace(causes, after) != after
        });
        if changed && holds {
            self.counters.add(cause.counter(), 1);
            if cause != Cause::Queue {
                tracing::warn!(?cause, "agents are asked to wait; they keep their records");
            }
        }
    }

    /// Whether a cause holds.
    pub fn is(&self, cause: Cause) -> bool {
        *self.causes.borrow() & cause as u8 != 0
    }

    /// A session's view.
    pub(super) fn watch(&self) -> Watch {
        Watch(self.causes.subscribe())
    }
}

/// What a session sees of it.
#[derive(Debug)]
pub(super) struct Watch(watch::Receiver<u8>);

impl Watch {
    /// Whether any cause holds.
    pub fn is_on(&self) -> bool {
        *self.0.borrow() != 0
    }

    /// Completes when it changes.
    pub async fn changed(&mut self) {
        // Whoever could say more is gone: nothing changes.
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// For how long a new session is sent away, at random so that not all come back at once; none if it may stay.
    pub fn away(&self) -> Option<Duration> {
        if *self.0.borrow() & !(Cause::Queue as u8) == 0 {
            return None;
        }
        let share = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
        Some(AWAY[0] + (AWAY[1] - AWAY[0]).mul_f64(share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_come_and_go_by_themselves_and_each_coming_is_counted() {
        let counters = Arc::new(Counters::default());
        let pressure = Pressure::new(Arc::clone(&counters));
        let watch = pressure.watch();
        for (cause, holds, on) in [
            (Cause::Queue, true, true),
            (Cause::Memory, true, true),
            (Cause::Memory, true, true),
            (Cause::Queue, false, true),
            (Cause::Memory, false, false),
            (Cause::Queue, true, true),
        ] {
            pressure.set(cause, holds);
            assert_eq!((watch.is_on(), pressure.is(cause)), (on, holds), "{cause:?} {holds}");
        }
        let all = counters.all();
        assert_eq!((all.get("pressure_queue_total"), all.get("pressure_memory_total")), (Some(&2), Some(&1)));
    }

    #[test]
    fn a_full_queue_sends_nobody_away_and_the_rest_for_some_seconds() {
        let pressure = Pressure::new(Arc::default());
        pressure.set(Cause::Queue, true);
        assert_eq!(pressure.watch().away(), None);
        pressure.set(Cause::Disk, true);
        for _ in 0..100 {
            assert!(pressure.watch().away().is_some_and(|away| (AWAY[0]..=AWAY[1]).contains(&away)));
        }
    }
}
