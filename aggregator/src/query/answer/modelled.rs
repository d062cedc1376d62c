//! What nobody meters and the operator declares, beside the score of an answer.

use super::*;

impl Context<'_> {
    /// Components that are declared for the version, at its effective intensity; those that have no figure are noted.
    pub(super) fn modelled(&self, parts: &Parts<'_>, missing: &mut Missing) -> Vec<wire::ModelledComponent> {
        let (model, version) = (parts.version.model.as_deref(), parts.version.version.as_deref());
        let carbon = &parts.totals.carbon;
        let facility = parts.totals.facility_j.get();
        let intensity = match self.question.level {
            Level::Facility if carbon.unrated.energy_j.get() > 0.0 => {
                Err("for a part of its energy no intensity is known")
            }
            Level::Facility if facility > 0.0 => Ok(carbon.operational.get() / facility),
            Level::Facility => Err("it used no energy, so that no intensity is its own"),
            _ => Err("components beside the score are told at facility level"),
        };
        let pue = facility / Microjoules(parts.totals.cost.with_idle()).to_joules().0;
        let units = parts.unit.count(&parts.totals.cost.used);
        let mut told = Vec::new();
        for one in self.factors.components(model, version) {
            let path = format!("modelled.{}", one.name);
            let place = told.len();
            let kept = one.kind() == "storage" && self.share.is_some();
            let energy = one.load.energy(&parts.totals.cost.used, self.computed.gathered.window.nanos());
            let (energy, intensity) = match (energy, intensity) {
                _ if kept => {
                    missing.note(&path, "what is kept for a version is no consumer's");
                    continue;
                }
                (None, _) => {
                    missing.note(&path, "the engine does not tell the unit that it goes by");
                    continue;
                }
                (_, Err(reason)) => {
                    missing.note(&path, reason);
                    continue;
                }
                (Some(energy), Ok(intensity)) => (energy, intensity),
            };
            let energy = if one.at_site { Joules(energy.0 * pue) } else { energy };
            let modelled = one.load.modelled(energy, intensity, one.uncertainty);
            let per_unit = units.filter(|units| *units > 0.0).map(|units| modelled.carbon.0 / units);
            told.push(wire::ModelledComponent {
                name: one.name.clone(),
                kind: one.kind().to_owned(),
                method: "modelled".to_owned(),
                energy_j: modelled.energy.0,
                carbon_g: modelled.carbon.0,
                low_g: modelled.low.0,
                high_g: modelled.high.0,
                per_unit_g: missing.or_note(
                    per_unit,
                    &format!("modelled.{place}.per_unit_g"),
                    "no unit is known to be delivered",
                ),
                source: one.source.clone(),
            });
        }
        told
    }
}
