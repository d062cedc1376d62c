//! Energy from samples of power, for devices that have no energy counter.

use joulebook_units::{BootNanos, Microjoules, Milliwatts};

/// What a sample of power tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sampled {
    /// The power at its instant: the trapezoid between two samples.
    Point,
    /// The mean over the window that ends at it: the rectangle back to the sample before.
    Average,
}

/// Energy between the first and the last of samples in ascending order, rounded down once an interval. `None` for fewer
/// than two, for a step back in time, and past 2⁶⁴−1 µJ.
pub fn integrate(samples: &[(BootNanos, Milliwatts)], sampled: Sampled) -> Option<Microjoules> {
    if samples.len() < 2 {
        return None;
    }
    let mut sum = Microjoules::ZERO;
    for pair in samples.windows(2) {
        let [(start, before), (end, after)] = pair else { continue };
        let nanos = end.0.checked_sub(start.0)?;
        let energy = match sampled {
            Sampled::Point => Microjoules(Milliwatts(before.0.checked_add(after.0)?).over_nanos(nanos).0 / 2),
            Sampled::Average => after.over_nanos(nanos),
        };
        sum = sum.checked_add(energy)?;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rising_power_tells_trapezoid_from_rectangle() {
        let samples = [(0, 100_000), (10, 200_000), (15, 400_000)];
        let samples = samples.map(|(second, power)| (BootNanos(second * 1_000_000_000), Milliwatts(power)));
        assert_eq!(integrate(&samples, Sampled::Point), Some(Microjoules(3_000_000_000)));
        assert_eq!(integrate(&samples, Sampled::Average), Some(Microjoules(4_000_000_000)));
        assert_eq!(integrate(&samples[..1], Sampled::Point), None);
        let back = [samples[1], samples[0]];
        assert_eq!(integrate(&back, Sampled::Average), None);
    }
}
