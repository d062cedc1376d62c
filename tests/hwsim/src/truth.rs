//! The truth: power of a leaf as a piecewise-linear function of time, energy in closed form in integer pJ.

use hwsim_nvml::state::{SEGMENTS, Segment};

/// One consumer of energy.
#[derive(Debug, Clone)]
pub struct Leaf {
    history: Vec<Segment>,
}

impl Leaf {
    /// A leaf that draws `p_uw` from simulated 0 on.
    pub fn new(p_uw: i64) -> Self {
        Self { history: vec![Segment { p_uw, ..Segment::default() }] }
    }

    fn segment(&self, t_ns: u64) -> Segment {
        let index = self.history.partition_point(|segment| segment.t_ns <= t_ns);
        index.checked_sub(1).and_then(|index| self.history.get(index)).copied().unwrap_or_default()
    }

    /// Energy in pJ from simulated 0 to `t_ns`.
    pub fn energy_pj(&self, t_ns: u64) -> i128 {
        self.segment(t_ns).energy_pj(t_ns)
    }

    /// Power in µW at `t_ns`.
    pub fn power_uw(&self, t_ns: u64) -> i64 {
        self.segment(t_ns).power_uw(t_ns)
    }

    /// From `t_ns` on goes to `p_uw`, at once or evenly within `ramp_ns`; what was planned for later is forgotten.
    pub fn set(&mut self, t_ns: u64, p_uw: i64, ramp_ns: u64) {
        let now = Segment { t_ns, e_pj: self.energy_pj(t_ns), p_uw: self.power_uw(t_ns), slope: 0 };
        self.history.retain(|segment| segment.t_ns < t_ns);
        if ramp_ns == 0 {
            self.history.push(Segment { p_uw, ..now });
            return;
        }
        let slope = i128::from(p_uw - now.p_uw) * 1_000_000_000 / i128::from(ramp_ns);
        let ramp = Segment { slope: i64::try_from(slope).unwrap_or(0), ..now };
        let end = t_ns.saturating_add(ramp_ns);
        self.history.push(ramp);
        self.history.push(Segment { t_ns: end, e_pj: ramp.energy_pj(end), p_uw, slope: 0 });
    }

    /// The segments that reach `t_ns`, the newest first; the oldest is repeated where there are fewer.
    pub fn latest(&self, t_ns: u64) -> [Segment; SEGMENTS] {
        let index = self.history.partition_point(|segment| segment.t_ns <= t_ns);
        let past = self.history.get(..index).unwrap_or_default();
        let oldest = past.first().copied().unwrap_or_default();
        let mut latest = [oldest; SEGMENTS];
        for (place, segment) in latest.iter_mut().zip(past.iter().rev()) {
            *place = *segment;
        }
        latest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn energy_of_steps_and_ramps_is_exact() {
        let mut leaf = Leaf::new(100_000_000);
        leaf.set(10 * SECOND, 300_000_000, 4 * SECOND);
        leaf.set(20 * SECOND, 0, 0);
        // 100 W × 10 s + 200 W (the mean) × 4 s + 300 W × 6 s.
        assert_eq!(leaf.energy_pj(30 * SECOND), (1_000 + 800 + 1_800) * 1_000_000_000_000);
        assert_eq!(leaf.power_uw(12 * SECOND), 200_000_000);
    }

    #[test]
    fn a_new_order_replaces_a_ramp_that_is_under_way() {
        let mut leaf = Leaf::new(0);
        leaf.set(0, 100_000_000, 10 * SECOND);
        leaf.set(5 * SECOND, 50_000_000, 0);
        assert_eq!(leaf.energy_pj(15 * SECOND), (125 + 500) * 1_000_000_000_000);
    }
}
