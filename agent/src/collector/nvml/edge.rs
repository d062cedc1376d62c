//! When an energy counter showed its value: such counters step every 20 to 100 ms, and a step is worth up to 70 J.
//!
//! Pure. A value is as old as the last step, so it is dated by that step: a reading that is dated by its call is wrong
//! by up to a step at both ends of a window, 0.3 % of half a minute. Steps are watched for a moment, now and then, and
//! their period is known the better the further apart the watched ones are. A counter whose steps do not keep time is
//! dated by its calls.
//!
//! Determination: options were to watch for a step at every reading (exact, some twenty calls a reading), half a step
//! taken off every reading (simple, still 0.15 %), or this. What would change it: a library that tells the time stamp
//! of the counter's value.

/// Pause between two looks at a counter, in ns.
pub const LOOK_NANOS: u64 = 2_000_000;
/// Widest interval in which a step is seen well enough, in ns.
pub const SHARP_NANOS: u64 = 10_000_000;
/// How far the instant of a watched step may be off, in ns.
const ERROR_NANOS: u64 = SHARP_NANOS / 2;
/// A step is predicted while its error is at most this part of the period.
const TRUSTED_PART: u64 = 16;
/// Longest time for which steps are predicted without a look, in ns.
const LONGEST_NANOS: u64 = 300_000_000_000;
/// How long a counter that shows no steps in time is left alone, in ns.
const PAUSE_NANOS: u64 = 60_000_000_000;
/// Watches in vain before the next one waits, the first wait in ns, and how often it doubles: to some 17 minutes.
const FREE_TRIES: u32 = 12;
const FIRST_PAUSE_NANOS: u64 = 1_000_000_000;
const MOST_DOUBLINGS: u32 = 10;

/// The steps of one counter.
#[derive(Debug, Clone, Default)]
pub struct Edges {
    /// First and last watched step, and the number of periods between them.
    watched: Option<(u64, u64, u64)>,
    /// Not looked at before this instant.
    not_before: u64,
    /// Watches in a row in which steps were seen too vaguely.
    vain: u32,
}

impl Edges {
    /// Takes two neighbouring steps that were watched at `now`, or that none was seen.
    pub fn watched(&mut self, steps: Option<(u64, u64)>, now: u64) {
        let Some((before, step)) = steps.filter(|(before, step)| step.saturating_sub(*before) >= 4 * LOOK_NANOS) else {
            // It stands still, or steps too fast to be wrong by much.
            *self = Self { watched: None, not_before: now.saturating_add(PAUSE_NANOS), vain: 0 };
            return;
        };
        let kept = self.watched.and_then(|(first, last, periods)| {
            let period = last.saturating_sub(first) / periods.max(1);
            let passed = step.checked_sub(last)?;
            let more = (passed + period / 2).checked_div(period)?;
            let off = passed.abs_diff(more * period);
            // Steps that are late by more than could be predicted do not keep time: begin anew.
            (more > 0 && off <= period / 4).then_some((first, step, periods + more))
        });
        self.watched = Some(kept.unwrap_or((before, step, 1)));
        self.vain = 0;
    }

    /// Takes a watch in which steps were seen, and none of them well: calls are slow, or the machine is busy. The next
    /// ones wait longer and longer, so that a library that is always slow is not asked all the time.
    pub fn watched_in_vain(&mut self, now: u64) {
        self.vain = self.vain.saturating_add(1);
        if let Some(beyond) = self.vain.checked_sub(FREE_TRIES) {
            self.not_before = now.saturating_add(FIRST_PAUSE_NANOS << beyond.min(MOST_DOUBLINGS));
        }
    }

    /// Whether steps should be watched before the next reading.
    pub fn is_due(&self, now: u64) -> bool {
        if now < self.not_before {
            return false;
        }
        self.watched.is_none_or(|(_, last, _)| now.saturating_sub(last) > self.trusted_nanos())
    }

    fn period(&self) -> Option<u64> {
        let (first, last, periods) = self.watched?;
        last.saturating_sub(first).checked_div(periods).filter(|period| *period > 0)
    }

    /// How far from the last watched step others can be predicted.
    fn trusted_nanos(&self) -> u64 {
        let Some((first, last, _)) = self.watched else { return 0 };
        let Some(period) = self.period() else { return 0 };
        // Both ends are off by as much: over a time as long as the watched one, the error is as large.
        let allowed = period / TRUSTED_PART;
        let watched = last.saturating_sub(first);
        (watched.saturating_mul(allowed) / (2 * ERROR_NANOS)).min(LONGEST_NANOS)
    }

    /// The step that made a value which was read between `before` and `after`; how long to wait and read anew if a step
    /// is too near to tell. `None` where steps are not predicted.
    pub fn step_of(&self, before: u64, after: u64) -> Option<Result<u64, u64>> {
        Some(match (self.last_before(before)?, self.last_before(after)?) {
            (Ok(first), Ok(last)) if first == last => Ok(first),
            (_, Err(wait)) => Err(wait),
            // A step lies inside the call.
            _ => Err(LOOK_NANOS),
        })
    }

    fn last_before(&self, at: u64) -> Option<Result<u64, u64>> {
        let (_, last, _) = self.watched?;
        let period = self.period()?;
        let since = at.checked_sub(last)?;
        if since > self.trusted_nanos().saturating_add(period) {
            return None;
        }
        let error = ERROR_NANOS + period / TRUSTED_PART;
        let inside = since % period;
        if inside < error {
            return Some(Err(error - inside));
        }
        if period - inside < error {
            return Some(Err(period - inside + error));
        }
        Some(Ok(at - inside))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// What a look every 2 ms from `from` on sees of a counter that steps every `period`.
    fn watch(from: u64, period: u64) -> (u64, u64) {
        let mut steps =
            (1..).map(|look| from + look * LOOK_NANOS).filter(|at| at / period != (at - LOOK_NANOS) / period);
        let middle = |at: u64| at - LOOK_NANOS / 2;
        let first = steps.next().map(middle).expect("endless");
        (first, steps.next().map(middle).expect("endless"))
    }

    /// Reads at `at` as the helper does and gives the instant of the value.
    fn date(edges: &Edges, mut at: u64) -> Option<(u64, u64)> {
        loop {
            match edges.step_of(at, at)? {
                Ok(step) => return Some((at, step)),
                Err(wait) => at += wait,
            }
        }
    }

    #[test]
    fn a_value_is_dated_by_its_step_for_minutes_after_a_few_looks() {
        for period in [100 * MS, 100 * MS + 37_000, 20 * MS] {
            let mut edges = Edges::default();
            let mut looks = 0;
            let mut now = 10_000 * MS + 13 * MS;
            for _ in 0..600 {
                if edges.is_due(now) {
                    let steps = watch(now, period);
                    edges.watched(Some(steps), steps.1);
                    now = steps.1 + LOOK_NANOS;
                    looks += 1;
                }
                now += 1_000 * MS - now % (1_000 * MS) + 13 * MS;
                if let Some((at, step)) = date(&edges, now) {
                    let truth = at - at % period;
                    assert!(
                        step.abs_diff(truth) <= period / TRUSTED_PART + LOOK_NANOS,
                        "{step} for {truth}, period {period}"
                    );
                }
            }
            assert!((3..=100).contains(&looks), "{looks} looks in ten minutes, period {period}");
            assert!(edges.last_before(now).is_some());
        }
    }

    #[test]
    fn a_counter_without_steps_and_one_that_keeps_no_time_are_dated_by_their_calls() {
        let mut edges = Edges::default();
        assert!(edges.is_due(0) && edges.last_before(5).is_none());
        edges.watched(None, 7);
        assert!(!edges.is_due(8) && edges.is_due(8 + PAUSE_NANOS));
        assert_eq!(edges.last_before(9), None);
        edges.watched(Some((1_000 * MS, 1_100 * MS)), 1_100 * MS);
        edges.watched(Some((1_650 * MS, 1_740 * MS)), 1_740 * MS);
        assert_eq!(edges.period(), Some(90 * MS), "begun anew");
        let mut slow = Edges::default();
        (0..FREE_TRIES).for_each(|_| slow.watched_in_vain(0));
        assert!(!slow.is_due(FIRST_PAUSE_NANOS - 1) && slow.is_due(FIRST_PAUSE_NANOS));
        (0..40).for_each(|_| slow.watched_in_vain(0));
        assert!(!slow.is_due(1_000 * FIRST_PAUSE_NANOS) && slow.is_due(1_024 * FIRST_PAUSE_NANOS));
        edges.watched(Some((0, 4 * MS)), 0);
        assert_eq!(edges.last_before(2_000 * MS), None, "steps of 4 ms are not worth it");
    }
}
