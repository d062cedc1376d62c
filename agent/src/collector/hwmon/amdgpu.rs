//! AMD accelerators (`amdgpu`): `power1_average` (MI200 and older, a mean) or `power1_input` (MI300, the power now) in µW.
//!
//! No privilege. Of a card with two dies (MI250X) only the first one's value is valid, and is the whole card's: the other
//! shows 0 or an error, which is no idle accelerator. Some kernels print an error code as a number of 32 bits. The energy
//! accumulator of `gpu_metrics` sticks on some cards, so power is integrated. Partitions do not show here: power belongs
//! to the socket.

use super::channel::{Channel, Measure, Role};
use super::chip::Chip;
use joulebook_units::{Component, Milliwatts};

/// Highest power of a card that tells no limit.
const CEILING: Milliwatts = Milliwatts(2_000_000);

pub(super) fn channels(chip: &Chip) -> Vec<Channel> {
    if chip.name != "amdgpu" {
        return Vec::new();
    }
    // Where both are shown, the mean has seen what happened between two readings.
    let Some(file) = chip.file("power1_average").or_else(|| chip.file("power1_input")) else { return Vec::new() };
    vec![Channel {
        chip: chip.clone(),
        channel: "power1".to_owned(),
        label: chip.text("power1_label"),
        role: Role::Gpu,
        component: Component::Accelerator,
        socket: None,
        window: None,
        ceiling: ceiling(chip),
        measure: Measure::Power { file, draws: true },
        group: chip.identity().to_owned(),
        inside: &[],
        container: None,
    }]
}

/// 1.5 times the limit that the card tells.
fn ceiling(chip: &Chip) -> Milliwatts {
    let limits = ["power1_cap_max", "power1_cap"].map(|attribute| chip.number(attribute).unwrap_or(0));
    let told = limits.into_iter().max().filter(|limit| *limit > 0);
    told.map_or(CEILING, |limit| Milliwatts((limit / 2_000).saturating_mul(3)))
}
