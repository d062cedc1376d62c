//! Waiting for something that only looking can tell, by the boot clock.

#![allow(clippy::panic, reason = "functions that tests call may fail the test")]

use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_units::BootNanos;
use std::time::Duration;

/// Longest time for anything that is waited for: far more than it takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// Time between two looks.
const BETWEEN: Duration = Duration::from_millis(300);

/// A moment, from which time is counted.
#[derive(Debug, Clone, Copy)]
pub struct Moment(BootNanos);

impl Moment {
    /// This one.
    pub fn now() -> Self {
        Self(SystemClock.boot())
    }

    /// Time since then.
    pub fn elapsed(self) -> Duration {
        SystemClock.boot().since(self.0)
    }
}

/// Waits until something is so.
///
/// # Panics
/// If it is not within a minute and a half.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Moment::now();
    while !is_so() {
        if begin.elapsed() > PATIENCE {
            panic!("{what}: not within {PATIENCE:?}");
        }
        std::thread::sleep(BETWEEN);
    }
}

/// The same where looking takes a while.
///
/// # Panics
/// If it is not within a minute and a half.
pub async fn until_async(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begin = Moment::now();
    while !is_so().await {
        if begin.elapsed() > PATIENCE {
            panic!("{what}: not within {PATIENCE:?}");
        }
        tokio::time::sleep(BETWEEN).await;
    }
}
