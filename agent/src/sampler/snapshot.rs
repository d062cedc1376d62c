//! What every source shows as of the last row.

use super::Sampler;
use crate::span::{Shown, Snapshot};
use joulebook_units::{BootNanos, Microjoules};

impl Sampler {
    /// What the sources show as of the last row; absent before the first one.
    pub fn snapshot(&self) -> Option<Snapshot> {
        let states = self.parts.sources.states();
        let shown = |source: &joulebook_units::SourceState| {
            let meter = self.meters.get(&source.source.id);
            let shown = Shown {
                component: source.source.component,
                is_part: source.source.is_part(),
                series: meter.map_or(0, |meter| meter.series),
                energy: Microjoules(meter.map_or(0, |meter| meter.value)),
                at: meter.and_then(|meter| meter.last),
                gaps: meter.map_or(0, |meter| meter.gaps),
                idle: meter.and_then(|meter| meter.idle.get()).map(|(idle, _)| idle),
                unavailable: source.unavailable.clone(),
            };
            (source.source.id.clone(), shown)
        };
        let at: BootNanos = self.last_row?;
        Some(Snapshot { at, sources: states.iter().map(shown).collect() })
    }
}
