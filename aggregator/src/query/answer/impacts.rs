//! Water, abiotic depletion and primary energy of an answer.

use super::*;
use joulebook_sci::impact::Impact;

/// Impacts that nothing is told of.
const NOT_ASSESSED: [&str; 4] = ["land use", "toxicity", "electronic waste", "eutrophication"];
const BELOW: &str = "impacts beside carbon are told at facility level";

impl Context<'_> {
    pub(super) fn impacts(&self, parts: &Parts<'_>, missing: &mut Missing) -> wire::Impacts {
        let mut one = |impact: Impact, field: &str| Some(self.impact(parts, impact, field, missing));
        wire::Impacts {
            water: one(Impact::Water, "water"),
            abiotic_depletion: one(Impact::AbioticDepletion, "abiotic_depletion"),
            primary_energy: one(Impact::PrimaryEnergy, "primary_energy"),
            not_assessed: NOT_ASSESSED.map(str::to_owned).to_vec(),
        }
    }

    fn impact(&self, parts: &Parts<'_>, impact: Impact, field: &str, missing: &mut Missing) -> wire::Impact {
        let totals = self.computed.impacts.get(parts.version, impact);
        // A part of a version has as much of it as of its energy.
        let part = self.share.map_or(1.0, |share| {
            let whole = share.whole.facility_j.get();
            if whole > 0.0 { parts.totals.facility_j.get() / whole } else { 0.0 }
        });
        let value = totals.and_then(|totals| totals.total(impact));
        let ends = totals.zip(value).map(|(totals, value)| totals.interval(value));
        let units = parts.unit.count(&parts.totals.cost.used);
        let joint = value.and(totals).map(|totals| totals.joint() * part);
        let per_unit = joint.map(|joint| {
            // The ratio's arithmetic is that of the score: the impact in the place of grams.
            score(parts.whole.cost.measured(GramsCo2e(joint)), parts.unit, units).map_err(|reason| reason.to_string())
        });
        let fraction = totals.and_then(|totals| totals.known_fraction(impact));
        let reason = match (self.question.level, fraction) {
            (Level::Facility, Some(fraction)) if fraction > 0.0 => {
                format!("all its factors are known for {fraction} of the energy only")
            }
            (Level::Facility, _) => {
                let needed: Vec<&str> = impact.parts().iter().map(|part| part.name()).collect();
                format!("not all of its factors are declared; it takes those of {}", needed.join(" and "))
            }
            _ => BELOW.to_owned(),
        };
        let path = |name: &str| format!("impacts.{field}.{name}");
        wire::Impact {
            unit: impact.unit().to_owned(),
            value: missing.or_note(value.map(|value| value * part), &path("value"), &reason),
            low: missing.or_note(ends.map(|(low, _)| low * part), &path("low"), &reason),
            high: missing.or_note(ends.map(|(_, high)| high * part), &path("high"), &reason),
            per_unit: missing.or_note(
                per_unit.as_ref().and_then(|ratio| ratio.as_ref().ok().copied()),
                &path("per_unit"),
                per_unit.as_ref().and_then(|ratio| ratio.as_ref().err()).unwrap_or(&reason),
            ),
            by_part: totals
                .into_iter()
                .flat_map(|totals| totals.parts())
                .map(|(name, amount)| (name.name().to_owned(), amount * part))
                .collect(),
            known_fraction: missing.or_note(
                fraction,
                &path("known_fraction"),
                if self.question.level == Level::Facility { "the version used no energy" } else { BELOW },
            ),
            sources: totals.into_iter().flat_map(|totals| totals.sources.iter().cloned()).collect(),
        }
    }
}
