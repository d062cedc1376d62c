//! Hardware counters to energy: first reading, difference, wrap, reset, torn reading, standstill.
//!
//! Pure: no I/O, no clock, no log. What a counter shows is believed only within its ceiling; what cannot be believed
//! becomes a gap with bounds, never a guess. A fall that is no plausible wrap, and a rise that no hardware can make,
//! move nothing until a second reading agrees: one torn reading then costs nothing, and after a real reset the sum
//! goes on from the *first* of the agreeing readings, so that nothing after the reset is lost.
//!
//! Determination: a wrap to exactly 0 waits for a second reading too, since a torn reading shows exactly 0 and a wrap
//! does so once in 2³² times. When both the old baseline and the held reading explain the second one (a reset of a
//! counter that stood low), neither is chosen: the interval becomes a gap.

use joulebook_units::{BootNanos, GapReason, Microjoules, Milliwatts};

pub mod interval;
pub mod power;

/// A counter that stands still for this long while its device works is stuck.
const STUCK_NANOS: u64 = 180 * 1_000_000_000;
/// While it is stuck, a gap is declared this often.
const STUCK_GAP_NANOS: u64 = 60 * 1_000_000_000;
/// What a device that stays lost may have used is declared this often.
const LOST_GAP_NANOS: u64 = 60 * 1_000_000_000;
/// A reading of 0 is taken for a torn one if the counter shows its old value again within this time.
const TORN_NANOS: u64 = 10 * 1_000_000_000;
/// Falls among the last ten readings that make a counter unstable, and clean readings that end it.
const UNSTABLE_FALLS: u32 = 3;
const READINGS_WATCHED: u32 = 10;

/// What one reading of a counter means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The first reading: a baseline, no energy.
    First,
    /// Energy since the last reading that counted.
    Delta {
        /// The energy in µJ.
        microjoules: u64,
        /// Whether the counter wrapped once in between.
        wrapped: bool,
    },
    /// The baseline stays; the next reading decides.
    Hold(Held),
    /// The reading is refused; the baseline stays.
    Skip(Refused),
    /// Energy over an interval is not known; the sum goes on behind it.
    Gap(Unknown),
}

/// Why a reading waits for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// It equals the last one: the register was not refreshed yet, or nothing was used.
    Unchanged,
    /// It fell, and not by a plausible wrap.
    Backwards,
    /// It rose more than the hardware can make it.
    Implausible,
}

/// Why a reading is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// Above the counter's own range.
    OutOfRange,
    /// Not later than the reading before.
    NotLater,
    /// The counter falls too often; ten clean readings end this.
    Unstable,
    /// The counter stands still while its device works.
    Stuck,
}

/// An interval of unknown energy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown {
    /// Last instant at which the energy was known.
    pub from: BootNanos,
    /// First instant at which it is known again: the new baseline.
    pub to: BootNanos,
    /// Why.
    pub reason: GapReason,
    /// Least energy that can have passed between them, in µJ.
    pub low: Microjoules,
    /// Most energy that can have passed between them, in µJ.
    pub high: Microjoules,
    /// Energy from `to` to the reading that ended the gap, in µJ; 0 where that reading is the new baseline itself.
    pub after: u64,
}

/// A reading that counts: time and raw value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Baseline {
    /// When the value was read.
    pub at: BootNanos,
    /// The raw value in µJ.
    pub raw: u64,
}

/// Follows one counter.
#[derive(Debug, Clone)]
pub struct Tracker {
    ceiling: Milliwatts,
    last: Option<Baseline>,
    /// When the counter was last seen to agree with `last`: between this and now it may have wrapped unseen.
    seen: BootNanos,
    held: Option<Baseline>,
    /// One bit for each of the last readings, set where it fell.
    falls: u32,
    clean: Option<u32>,
    working: bool,
    /// Since when the counter has stood still while the device worked.
    standing: Option<BootNanos>,
    lost: bool,
    /// Up to here the time since the device was lost is declared; there is no baseline then.
    declared: Option<BootNanos>,
    stuck: bool,
    /// Whether the counter is too wide to wrap: then a fall is a reset, whatever its range.
    endless: bool,
}

impl Tracker {
    /// Follows a counter whose power never exceeds `ceiling` by more than a quarter.
    pub fn new(ceiling: Milliwatts) -> Self {
        Self {
            ceiling,
            last: None,
            seen: BootNanos(0),
            held: None,
            falls: 0,
            clean: None,
            working: false,
            standing: None,
            lost: false,
            declared: None,
            stuck: false,
            endless: false,
        }
    }

    /// The same for a counter that never wraps.
    pub fn endless(self) -> Self {
        Self { endless: true, ..self }
    }

    /// Goes on from a baseline of an earlier run of the agent in the same boot.
    pub fn resume(ceiling: Milliwatts, baseline: Baseline) -> Self {
        Self { last: Some(baseline), seen: baseline.at, ..Self::new(ceiling) }
    }

    /// The reading from which the next difference is taken.
    pub fn baseline(&self) -> Option<Baseline> {
        self.last
    }

    /// Says whether the device reports power (or is known to work), which makes a standing counter a stuck one.
    pub fn set_working(&mut self, working: bool) {
        self.working = working;
    }

    /// Says that the device or zone vanished. If it comes back lower, that is no wrap but a gap, and its reason is
    /// `SourceLost`.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    /// Declares, once a minute, what a device that stays lost may have used since it was last known: it may never come
    /// back. What it shows when it does is a new baseline.
    pub fn declare_lost(&mut self, now: BootNanos) -> Option<Unknown> {
        let from = self.declared.or(self.last.map(|last| last.at))?;
        if !self.lost || now.0.saturating_sub(from.0) < LOST_GAP_NANOS {
            return None;
        }
        self.last = None;
        self.held = None;
        self.declared = Some(now);
        Some(self.unknown(from, now, GapReason::SourceLost, 0))
    }

    /// Takes one reading: `raw` in µJ, read at `at`, of a counter that shows at most `range` before it wraps.
    pub fn observe(&mut self, at: BootNanos, raw: u64, range: Option<u64>) -> Step {
        let range = range.filter(|range| *range > 0);
        if range.is_some_and(|range| raw > range) {
            return Step::Skip(Refused::OutOfRange);
        }
        let Some(last) = self.last else {
            let step = match self.declared.take() {
                Some(from) if from < at => Step::Gap(self.unknown(from, at, GapReason::SourceLost, 0)),
                _ => Step::First,
            };
            self.rebase(at, raw);
            return step;
        };
        if at <= self.seen {
            return Step::Skip(Refused::NotLater);
        }
        if let Some(step) = self.count_falls(last, at, raw, range) {
            return step;
        }
        // Before a standstill: a counter that shows its old value after a long pause may have wrapped to just there.
        if !self.stuck && range.is_some_and(|range| self.may_wrap_twice(at, range)) {
            return self.gap(last.at, at, raw, GapReason::AmbiguousWrap, 0);
        }
        if raw == last.raw {
            self.held = None;
            return self.stand(last, at, raw);
        }
        if self.stuck {
            return self.gap(last.at, at, raw, GapReason::CounterStuck, 0);
        }
        match self.held {
            None => self.against_baseline(last, at, raw, range),
            Some(held) => self.against_both(last, held, at, raw, range),
        }
    }

    fn against_baseline(&mut self, last: Baseline, at: BootNanos, raw: u64, range: Option<u64>) -> Step {
        if let Some((microjoules, wrapped)) = self.explain(last, at, raw, range) {
            self.rebase(at, raw);
            return Step::Delta { microjoules, wrapped };
        }
        if !self.lost && is_jitter(last.raw, raw, range) {
            // The high-water mark stays: what was counted is not counted again.
            self.last = Some(Baseline { at, raw: last.raw });
            self.seen = at;
            return Step::Delta { microjoules: 0, wrapped: false };
        }
        self.hold(at, raw, if raw < last.raw { Held::Backwards } else { Held::Implausible })
    }

    /// The reading after one that was held: the baseline explains it (the held one was torn), the held one does (a
    /// reset, or a rise that is true after all), both do, or neither.
    fn against_both(&mut self, last: Baseline, held: Baseline, at: BootNanos, raw: u64, range: Option<u64>) -> Step {
        let old = self.explain(last, at, raw, range);
        let fell = held.raw < last.raw;
        let new = (raw >= held.raw || !fell).then(|| self.explain(held, at, raw, range)).flatten();
        // A counter that shows 0 and then soon what its old value explains was torn, or
        // wrapped to just there; after a pause it may as well have grown again.
        let looks_torn = held.raw == 0 && at.0.saturating_sub(last.at.0) <= TORN_NANOS;
        match (old, new) {
            (Some(_), Some((_, true))) if !fell => self.gap(last.at, at, raw, GapReason::Implausible, 0),
            // A counter that cannot wrap is no text that can be torn either: where it fell, it began anew.
            (Some(_), Some((after, _))) if fell && self.endless && !looks_torn => {
                let gap = self.unknown(last.at, held.at, self.reset_reason(range), after);
                self.rebase(at, raw);
                Step::Gap(gap)
            }
            (Some((microjoules, _)), Some(_)) if fell && microjoules > 0 && !looks_torn => {
                let reason = self.reset_reason(range);
                self.gap(last.at, at, raw, reason, 0)
            }
            (Some((microjoules, wrapped)), _) => {
                self.rebase(at, raw);
                Step::Delta { microjoules, wrapped }
            }
            (None, Some((after, _))) => {
                let reason = if fell { self.reset_reason(range) } else { GapReason::Implausible };
                let mut gap = self.unknown(last.at, held.at, reason, after);
                if held.raw == 0 {
                    // It may have been torn, and the reset come after it: the bound covers that too.
                    gap.high = self.unknown(last.at, at, reason, after).high;
                }
                self.rebase(at, raw);
                Step::Gap(gap)
            }
            (None, None) => self.hold(at, raw, if raw < last.raw { Held::Backwards } else { Held::Implausible }),
        }
    }

    /// Energy from `from` to a reading, if it is a plausible rise or a plausible single wrap.
    fn explain(&self, from: Baseline, at: BootNanos, raw: u64, range: Option<u64>) -> Option<(u64, bool)> {
        if raw < from.raw && (raw == 0 || self.lost) {
            // More likely torn than wrapped: the next reading tells. And what vanished may have begun anew.
            return None;
        }
        let risen = interval::difference(from.raw, raw, range)?;
        let most = self.most(at.0.saturating_sub(from.at.0));
        (u128::from(risen.microjoules) <= most).then_some((risen.microjoules, risen.wrapped))
    }

    /// Counts falls among the last ten readings; an unstable counter is not believed until ten clean ones.
    fn count_falls(&mut self, last: Baseline, at: BootNanos, raw: u64, range: Option<u64>) -> Option<Step> {
        let before = self.held.unwrap_or(last);
        let fell = raw < before.raw
            && !is_jitter(before.raw, raw, range)
            && self.explain(before, at, raw, range).is_none_or(|(_, wrapped)| !wrapped);
        self.falls = (self.falls << 1 | u32::from(fell)) & ((1 << READINGS_WATCHED) - 1);
        match self.clean {
            None if self.falls.count_ones() >= UNSTABLE_FALLS => {
                self.clean = Some(0);
                self.held = Some(Baseline { at, raw });
                Some(Step::Skip(Refused::Unstable))
            }
            None => None,
            Some(clean) => {
                let clean = if fell { 0 } else { clean + 1 };
                if clean < READINGS_WATCHED {
                    self.clean = Some(clean);
                    self.held = Some(Baseline { at, raw });
                    return Some(Step::Skip(Refused::Unstable));
                }
                self.clean = None;
                self.falls = 0;
                Some(self.gap(last.at, at, raw, GapReason::UnstableCounter, 0))
            }
        }
    }

    fn stand(&mut self, last: Baseline, at: BootNanos, raw: u64) -> Step {
        self.seen = at;
        if !self.working && !self.stuck {
            // Nothing was to be counted: the time does not count towards a standstill, and the energy stays known.
            self.standing = None;
            return Step::Hold(Held::Unchanged);
        }
        let stood = at.0.saturating_sub(self.standing.get_or_insert(at).0);
        let limit = if self.stuck { STUCK_GAP_NANOS } else { STUCK_NANOS };
        if stood < limit {
            return if self.stuck { Step::Skip(Refused::Stuck) } else { Step::Hold(Held::Unchanged) };
        }
        let step = self.gap(last.at, at, raw, GapReason::CounterStuck, 0);
        self.stuck = true;
        self.standing = Some(at);
        step
    }

    fn reset_reason(&self, range: Option<u64>) -> GapReason {
        match (self.lost, range) {
            (true, _) => GapReason::SourceLost,
            (false, None) if !self.endless => GapReason::WrapUnknownRange,
            (false, _) => GapReason::CounterReset,
        }
    }

    fn may_wrap_twice(&self, at: BootNanos, range: u64) -> bool {
        let nanos = at.0.saturating_sub(self.seen.0);
        // mW × ns = pJ; range is in µJ.
        u128::from(self.ceiling.0) * u128::from(nanos) >= u128::from(range) * 1_000_000
    }

    /// Most energy in µJ that can pass in `nanos`.
    fn most(&self, nanos: u64) -> u128 {
        interval::plausible(self.ceiling, nanos)
    }

    fn hold(&mut self, at: BootNanos, raw: u64, why: Held) -> Step {
        self.held = Some(Baseline { at, raw });
        Step::Hold(why)
    }

    fn rebase(&mut self, at: BootNanos, raw: u64) {
        self.last = Some(Baseline { at, raw });
        self.seen = at;
        self.held = None;
        self.lost = false;
        self.stuck = false;
        self.standing = None;
    }

    fn gap(&mut self, from: BootNanos, at: BootNanos, raw: u64, reason: GapReason, after: u64) -> Step {
        let gap = self.unknown(from, at, reason, after);
        self.rebase(at, raw);
        Step::Gap(gap)
    }

    fn unknown(&self, from: BootNanos, to: BootNanos, reason: GapReason, after: u64) -> Unknown {
        let high = u64::try_from(self.most(to.0.saturating_sub(from.0))).unwrap_or(u64::MAX);
        Unknown { from, to, reason, low: Microjoules::ZERO, high: Microjoules(high), after }
    }
}

/// Whether a fall is the backward step of a count or two that some parts show: at most 8 counts of the coarsest unit
/// (61 µJ), or 8 counts of the counter's own unit where its range tells it.
fn is_jitter(last: u64, raw: u64, range: Option<u64>) -> bool {
    let unit_nanojoules = range.map_or(61_035, |range| u128::from(range) * 1_000 / u128::from(u32::MAX));
    raw < last && u128::from(last - raw) <= 8 * unit_nanojoules / 1_000 + 8
}

#[cfg(test)]
mod tests;
