//! Intel accelerators (`xe`, `i915`): energy counters in µJ, of the card and of the package on it.
//!
//! `energy1_input` is the card, `energy2_input` the package inside it (Linux 6.8 and later), labelled so by `xe`; the
//! chips `i915_gtN` count single tiles of the card. Readable by root. The kernel widens the counters to 64 bits, so that
//! a fall is a reset. (Level-zero's own counters wrap spuriously: they are not read.)

use super::channel::{Channel, Measure, Role};
use super::chip::Chip;
use joulebook_units::{Component, Milliwatts};

/// No card draws more.
const CEILING: Milliwatts = Milliwatts(3_000_000);

pub(super) fn channels(chip: &Chip) -> Vec<Channel> {
    let tile = chip.name.starts_with("i915_gt");
    if !tile && !matches!(chip.name.as_str(), "xe" | "i915") {
        return Vec::new();
    }
    let channel = |number: u32| {
        let channel = format!("energy{number}");
        let label = chip.text(&format!("{channel}_label"));
        let role = match (label.as_deref(), number) {
            _ if tile => Role::Package,
            (Some("card"), _) | (None, 1) => Role::Card,
            (Some("pkg"), _) | (None, 2) => Role::Package,
            _ => return None,
        };
        Some(Channel {
            chip: chip.clone(),
            label,
            role,
            component: Component::Accelerator,
            socket: None,
            window: None,
            ceiling: CEILING,
            measure: Measure::Energy { file: chip.file(&format!("{channel}_input"))? },
            group: chip.identity().to_owned(),
            inside: if role == Role::Card { &[] } else { &[Role::Card] },
            container: None,
            channel,
        })
    };
    chip.numbers("energy", "input").into_iter().filter_map(channel).collect()
}
