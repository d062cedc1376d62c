//! Slots with the factors that hold in them, added up: all that answers about grams are made from.

use super::gather::{PueOrigins, Slot};
use super::question::Question;
use joulebook_sci::impact::Impacts;
use joulebook_sci::{Level, ModelVersion, SlotTerm, Totals};
use std::collections::BTreeMap;

/// Totals and what is found beside them.
pub(super) struct Rated {
    pub(super) totals: Totals,
    /// Water, abiotic depletion and primary energy by version; nothing below facility level.
    pub(super) impacts: Impacts,
    /// PUEs that were used, by site.
    pub(super) pues: PueOrigins,
}

impl Rated {
    /// Nothing yet.
    pub(super) fn new(question: &Question) -> Self {
        let totals = Totals::new(question.level, question.rule);
        Self { totals, impacts: Impacts::default(), pues: PueOrigins::default() }
    }

    /// Adds a slot at the question's level. Returns each version's terms.
    pub(super) fn add(&mut self, slot: &Slot, level: Level) -> BTreeMap<ModelVersion, Vec<SlotTerm>> {
        for (site, origin) in slot.sites.iter().zip(&slot.pues) {
            // They are the same from slot to slot.
            if !self.pues.get(site).is_some_and(|known| known.contains(origin)) {
                self.pues.entry(site.clone()).or_default().insert(origin.clone());
            }
        }
        let by_version = self.totals.add(&slot.nodes, &slot.factors);
        if level == Level::Facility {
            slot.add_impacts(&by_version, &mut self.impacts);
        }
        by_version
    }
}
