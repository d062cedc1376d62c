//! Sums that are made before anybody asks: after a start the last thirty days are summed up in the background, hour by hour, the
//! latest day first, for the question that is asked most: SCI at the facility level under the default policy, and with it energy.
//!
//! It takes at most a quarter of one core: after each hour it rests three times as long as that took. What a question needs
//! meanwhile is made by the question.

use super::question::Question;
use super::sums::QUIET_SECONDS;
use super::{Query, QueryError};
use joulebook_proto::query::{GetSciRequest, TimeWindow};
use joulebook_units::Window;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

const HOUR_SECONDS: i64 = 3600;
const DAY_SECONDS: i64 = 86_400;
/// Days that are summed up, as far as there are rows.
const DAYS: i64 = 30;
/// How many times as long as it worked it rests.
const REST: u32 = 3;
/// Rest after an hour, at least.
const LEAST_REST: Duration = Duration::from_millis(5);

/// Sums the last days up, as far as there is room for it. Ends when they are, or soon after all stop.
pub async fn warm(query: &Arc<Query>, stopping: &mut watch::Receiver<bool>) {
    let (began, mut hours) = (Instant::now(), 0u64);
    let mut rest = Duration::ZERO;
    for hour in query.hours_to_warm() {
        // An error means that the other end is gone: time to stop, too.
        if timeout(rest, stopping.wait_for(|stop| *stop)).await.is_ok() {
            return;
        }
        let (asked, from) = (Arc::clone(query), Instant::now());
        // It waits for its turn as questions do. What is begun is waited for: it holds the store.
        let Ok(turn) = Arc::clone(&query.turns).acquire_owned().await else { return };
        match tokio::task::spawn_blocking(move || asked.warm(hour).map(|room| (room, turn))).await {
            Ok(Ok((true, _))) => hours += 1,
            Ok(Ok((false, _))) => break,
            Ok(Err(error)) => return tracing::warn!(%error, "the last days are summed up when they are asked for"),
            Err(_) => return tracing::error!("summing up the last days failed"),
        }
        rest = (from.elapsed() * REST).max(LEAST_REST);
    }
    tracing::debug!(hours, seconds = began.elapsed().as_secs_f64(), "the last days are summed up");
}

impl Query {
    /// The hours that are over, since the first row: those of the latest day first, and inside a day in their order.
    fn hours_to_warm(&self) -> Vec<Window> {
        let now = self.clock.unix();
        let first = self.book.nodes().iter().filter_map(|node| node.first_row).min();
        let since = first.map(|first| first.max(now.plus_seconds(-DAYS * DAY_SECONDS)).floor_to(HOUR_SECONDS));
        let over = now.plus_seconds(-QUIET_SECONDS).floor_to(HOUR_SECONDS);
        let all = since.and_then(|since| Window::new(since, over));
        let mut days: Vec<Vec<Window>> = all.into_iter().flat_map(|all| all.slots(DAY_SECONDS)).map(hours_of).collect();
        days.reverse();
        days.concat()
    }

    /// Makes the sums of an hour, if they are not there. Whether there is room for more.
    fn warm(&self, hour: Window) -> Result<bool, QueryError> {
        let asked = TimeWindow { start_unix_nanos: hour.start().0, end_unix_nanos: hour.end().0 };
        let question = Question::parse(&GetSciRequest { window: Some(asked), ..GetSciRequest::default() })?;
        self.compute_sci(&question)?;
        Ok(self.sums.as_ref().is_some_and(|sums| sums.has_room()))
    }
}

fn hours_of(day: Window) -> Vec<Window> {
    day.slots(HOUR_SECONDS).collect()
}
