//! The mark of what stands on simulated hardware.

use super::quantity::percent;

/// What follows the name of something whose hardware is simulated, wholly or to a part; nothing for real hardware.
pub(crate) fn mark(simulated: bool, share: Option<f64>) -> String {
    match (simulated, share) {
        (false, _) => String::new(),
        (true, Some(share)) if share < 1.0 => format!(" (simulated to {})", percent(Some(share))),
        (true, _) => " (simulated)".to_owned(),
    }
}

/// Part of an energy that is simulated; `None` of no energy.
#[allow(clippy::cast_precision_loss, reason = "a ratio for reading")]
pub(crate) fn share(simulated_microjoules: u64, microjoules: Option<u64>) -> Option<f64> {
    microjoules.filter(|all| *all > 0).map(|all| simulated_microjoules as f64 / all as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_hardware_has_no_mark_and_a_part_says_how_much() {
        assert_eq!(mark(false, Some(0.0)), "");
        assert_eq!(mark(true, Some(1.0)), " (simulated)");
        assert_eq!(mark(true, None), " (simulated)");
        assert_eq!(mark(true, share(1, Some(8))), " (simulated to 12.5 %)");
        assert_eq!(share(0, Some(0)), None);
    }
}
