//! What two readings of one counter say of the time between them, all other readings left aside.

use joulebook_units::{Microjoules, Milliwatts};

/// A rise is plausible up to this multiple (in percent) of the ceiling over the time it took.
const PLAUSIBLE_PERCENT: u128 = 125;
/// Domains of RAPL that count; the others lie inside them (core, uncore) or contain them (psys).
const COUNTED_DOMAINS: [&str; 2] = ["package", "dram"];

/// Difference of two readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    /// The difference in µJ.
    pub microjoules: u64,
    /// Whether the counter wrapped once in between.
    pub wrapped: bool,
}

/// What passed between two readings of a counter that shows at most `range` before it wraps, at most one wrap taken for
/// granted; `None` for a fall of a counter without a range, or from beyond it.
pub fn difference(from: u64, to: u64, range: Option<u64>) -> Option<Difference> {
    if to >= from {
        return Some(Difference { microjoules: to - from, wrapped: false });
    }
    let microjoules = range?.checked_sub(from)?.checked_add(to)?;
    Some(Difference { microjoules, wrapped: true })
}

/// Most energy in µJ that can be believed of a device with this ceiling over `nanos`.
pub fn plausible(ceiling: Milliwatts, nanos: u64) -> u128 {
    u128::from(ceiling.0) * u128::from(nanos) / 1_000_000 * PLAUSIBLE_PERCENT / 100
}

/// Longest time in nanoseconds in which a counter of this range wraps at most once; `None` for a ceiling of 0.
pub fn unambiguous_nanos(range: u64, ceiling: Milliwatts) -> Option<u64> {
    // µJ = 10⁶ pJ = 10⁶ mW × ns.
    let nanos = (u128::from(range) * 1_000_000).checked_div(u128::from(ceiling.0))?;
    u64::try_from(nanos).ok()
}

/// What is said of an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The energy is known.
    Known(Microjoules),
    /// The counter was reset.
    Reset,
    /// It rose more than the hardware can make it.
    Implausible,
    /// It may have wrapped several times: so many counts of wraps are possible.
    Ambiguous(u64),
}

/// What two readings say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// The verdict.
    pub verdict: Verdict,
    /// Least energy; absent if nothing bounds it.
    pub low: Option<Microjoules>,
    /// Most energy; absent if nothing bounds it.
    pub high: Option<Microjoules>,
}

/// Judges two readings: of a counter with a finite range or none, `passed` being the time between them and the device's
/// ceiling, where both are known.
pub fn judge(from: u64, to: u64, range: Option<u64>, passed: Option<(u64, Milliwatts)>) -> Interval {
    let risen = difference(from, to, range);
    let most = passed.map(|(nanos, ceiling)| ceiling.over_nanos(nanos));
    if let (Some(risen), Some(range), Some((nanos, ceiling)), Some(most)) = (risen, range, passed, most)
        && range > 0
        && unambiguous_nanos(range, ceiling).is_some_and(|longest| nanos > longest)
    {
        let wraps = most.0.saturating_sub(risen.microjoules) / range;
        let high = risen.microjoules.saturating_add(wraps.saturating_mul(range));
        return Interval {
            verdict: Verdict::Ambiguous(wraps + 1),
            low: Some(Microjoules(risen.microjoules)),
            high: Some(Microjoules(high)),
        };
    }
    let believed = |risen: Difference| {
        passed.is_none_or(|(nanos, ceiling)| u128::from(risen.microjoules) <= plausible(ceiling, nanos))
    };
    match risen {
        Some(risen) if believed(risen) => {
            let energy = Microjoules(risen.microjoules);
            Interval { verdict: Verdict::Known(energy), low: Some(energy), high: Some(energy) }
        }
        Some(risen) if !risen.wrapped => {
            Interval { verdict: Verdict::Implausible, low: Some(Microjoules::ZERO), high: most }
        }
        // What a counter shows after a reset inside the interval has passed since.
        _ => Interval { verdict: Verdict::Reset, low: most.map(|most| most.min(Microjoules(to))), high: most },
    }
}

/// Whether a domain's energy is added to its machine's: packages and memory, by the kernel's names.
pub fn is_counted(domain: &str) -> bool {
    COUNTED_DOMAINS.iter().any(|counted| domain.starts_with(counted))
}

/// A counter that was read on both sides of a gap in telemetry: all energy is known, and spread evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bridge {
    /// The energy.
    pub energy: Microjoules,
    /// Mean power; absent over no time.
    pub mean_power: Option<Milliwatts>,
    /// Whether the resolution in time is lost.
    pub coarse: bool,
}

impl Bridge {
    /// A counter known at all times between its ends is covered wholly.
    pub const COVERAGE: u8 = 1;

    /// Bridges `nanos` from one reading to another of a counter that never falls, with a gap of `gap_nanos` inside;
    /// `None` for one that fell.
    pub fn new(from: u64, to: u64, nanos: u64, gap_nanos: u64) -> Option<Self> {
        let energy = to.checked_sub(from)?;
        // µJ × 10⁶ = pJ; pJ / ns = mW.
        let mean = (u128::from(energy) * 1_000_000).checked_div(u128::from(nanos));
        let mean_power = mean.and_then(|mean| u64::try_from(mean).ok()).map(Milliwatts);
        Some(Self { energy: Microjoules(energy), mean_power, coarse: gap_nanos > 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const WATT: Milliwatts = Milliwatts(1_000);

    #[test]
    fn a_counter_that_can_have_wrapped_twice_is_ambiguous_and_one_at_the_limit_is_not() {
        let at = |nanos| judge(10, 30, Some(1_000_000), Some((nanos, WATT)));
        assert_eq!(at(SECOND).verdict, Verdict::Known(Microjoules(20)));
        assert_eq!(at(SECOND + 1).verdict, Verdict::Ambiguous(1));
        let longer = at(3 * SECOND);
        assert_eq!(longer.verdict, Verdict::Ambiguous(3));
        assert_eq!((longer.low, longer.high), (Some(Microjoules(20)), Some(Microjoules(2_000_020))));
    }

    #[test]
    fn more_than_the_ceiling_and_a_quarter_is_not_believed() {
        let rise = |to| judge(0, to, None, Some((SECOND, WATT))).verdict;
        assert_eq!(rise(1_250_000), Verdict::Known(Microjoules(1_250_000)));
        assert_eq!(rise(1_250_001), Verdict::Implausible);
        let fall = judge(5_000_000, 600_000, None, Some((SECOND, WATT)));
        assert_eq!(fall.verdict, Verdict::Reset);
        assert_eq!((fall.low, fall.high), (Some(Microjoules(600_000)), Some(Microjoules(1_000_000))));
    }

    #[test]
    fn a_reset_that_nothing_bounds_has_no_bounds() {
        let fall = judge(5, 1, None, None);
        assert_eq!((fall.verdict, fall.low, fall.high), (Verdict::Reset, None, None));
        assert_eq!(judge(100, 10, Some(105), None).verdict, Verdict::Known(Microjoules(15)));
    }

    #[test]
    fn core_uncore_and_psys_are_not_added() {
        let counted = ["package-0", "core", "uncore", "dram", "psys", "dram-1"].map(is_counted);
        assert_eq!(counted, [true, false, false, true, false, true]);
    }

    #[test]
    fn a_bridge_over_no_time_has_no_power_and_a_fall_is_no_bridge() {
        assert_eq!(Bridge::new(5, 7, 0, 0).and_then(|bridge| bridge.mean_power), None);
        assert_eq!(Bridge::new(7, 5, 1, 0), None);
        let bridge = Bridge::new(0, 3_000_000, SECOND, 1).expect("a rise");
        assert_eq!((bridge.mean_power, bridge.coarse), (Some(Milliwatts(3_000)), true));
    }
}
