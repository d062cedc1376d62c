//! How near the process is to the memory that it may have.

use super::{Cause, Pressure};
use crate::ingest::Waiting;
use crate::memory::{Memory, used};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Shares of the limit, in percent, from which it is pressing and below which it is no more.
const PRESSING: u64 = 80;
const EASY: u64 = 70;
/// Whether it is pressing. What takes the memory while no record waits is nothing that waiting agents would give back.
fn is_pressing(was: bool, used: u64, limit: u64, waits: bool) -> bool {
    let share = if was { EASY } else { PRESSING };
    waits && u128::from(used) * 100 >= u128::from(limit) * u128::from(share)
}

/// Looks for ever.
pub(in crate::ingest) async fn watch(memory: Memory, pressure: Pressure, waiting: Waiting) {
    let Some(limit) = memory.limit() else { return std::future::pending().await };
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (was, waits) = (pressure.is(Cause::Memory), waiting.any());
        // The kernel takes longer to tell than a live agent's record takes: it is asked only where that decides something.
        if !was && !waits {
            continue;
        }
        let Some(used) = used() else { continue };
        pressure.set(Cause::Memory, is_pressing(was, used, limit, waits));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_begins_late_ends_later_and_not_without_records() {
        assert!(is_pressing(false, 80, 100, true) && !is_pressing(false, 79, 100, true));
        assert!(is_pressing(true, 70, 100, true) && !is_pressing(true, 69, 100, true));
        assert!(!is_pressing(true, 100, 100, false), "agents have nothing to do with it");
    }
}
