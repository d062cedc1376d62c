//! Water, abiotic depletion and primary energy beside carbon: from the energy that is measured and factors that are declared.
//!
//! Water = IT energy × WUE of the site + IT energy × PUE × WUE of the electricity (PUE once, and never on the site's own
//! water). The others are of the electricity of the facility and of making the hardware, which is shared as its embodied carbon
//! is. A part without a factor is absent, and what lacks a part has no total: absent is never zero.

use crate::allocate::{ModelVersion, NodeSlot};
use crate::operational::{CompensatedSum, facility};
use crate::totals::{Level, MeterErrors, SiteFactors, SlotTerm, gap_energy};
use crate::uncertainty::{Deviations, LIFESPAN};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use joulebook_units::Joules;

/// An impact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Impact {
    /// Water in litres.
    Water,
    /// Depletion of abiotic resources in kg of antimony equivalents.
    AbioticDepletion,
    /// Primary energy in MJ.
    PrimaryEnergy,
}

/// What a part of an impact comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImpactPart {
    /// The site itself: cooling.
    Site,
    /// Making the electricity.
    Electricity,
    /// Making the hardware.
    Hardware,
}

impl Impact {
    /// All.
    pub const ALL: [Self; 3] = [Self::Water, Self::AbioticDepletion, Self::PrimaryEnergy];

    /// Its unit.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Water => "l",
            Self::AbioticDepletion => "kg Sb eq",
            Self::PrimaryEnergy => "MJ",
        }
    }

    /// The parts that it consists of.
    pub fn parts(self) -> [ImpactPart; 2] {
        match self {
            Self::Water => [ImpactPart::Site, ImpactPart::Electricity],
            Self::AbioticDepletion | Self::PrimaryEnergy => [ImpactPart::Electricity, ImpactPart::Hardware],
        }
    }
}

impl ImpactPart {
    /// Its name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::Electricity => "electricity",
            Self::Hardware => "hardware",
        }
    }
}

/// A factor that is declared.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// Its value: per kWh, or of what a node's hardware accrues in a slot.
    pub value: f64,
    /// Half-width of the 95 % interval as a share of the value.
    pub half_width: f64,
    /// Where it comes from.
    pub source: String,
}

/// Factors of a node in a slot, by impact and part; one that is not declared is not there.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ImpactFactors(pub BTreeMap<(Impact, ImpactPart), Declared>);

/// One impact of a version over a window.
#[derive(Debug, Clone, Default)]
pub struct ImpactTotals {
    /// By part.
    parts: BTreeMap<ImpactPart, CompensatedSum>,
    /// IT energy in joules.
    energy_j: CompensatedSum,
    /// Of it, that for which each part's factor is known.
    known_j: BTreeMap<ImpactPart, CompensatedSum>,
    /// Of all parts, what lies in time in which counts are known.
    joint: CompensatedSum,
    /// Most that declared gaps can add.
    gap_high: CompensatedSum,
    deviations: Deviations,
    meters: MeterErrors,
    /// Where factors come from.
    pub sources: BTreeSet<String>,
}

impl ImpactTotals {
    /// By part; what has no factor is not there.
    pub fn parts(&self) -> impl Iterator<Item = (ImpactPart, f64)> {
        self.parts.iter().map(|(part, sum)| (*part, sum.get()))
    }

    /// Part of the IT energy for which every part's factor is known; `None` without energy.
    pub fn known_fraction(&self, impact: Impact) -> Option<f64> {
        let energy = self.energy_j.get();
        let known = |part| self.known_j.get(&part).map_or(0.0, |sum| sum.get());
        let [first, second] = impact.parts();
        (energy > 0.0).then(|| (known(first).min(known(second)) / energy).clamp(0.0, 1.0))
    }

    /// The total; `None` where a factor is missing for some of the energy.
    pub fn total(&self, impact: Impact) -> Option<f64> {
        let energy = self.energy_j.get();
        // The sums of known and of all energy are of the same terms in the same order: equal where all is known.
        let whole = |part: ImpactPart| self.known_j.get(&part).is_some_and(|sum| sum.get() >= energy);
        let known = energy > 0.0 && impact.parts().into_iter().all(whole);
        known.then(|| self.parts.values().map(|sum| sum.get()).sum())
    }

    /// What lies in time in which counts are known.
    pub fn joint(&self) -> f64 {
        self.joint.get()
    }

    /// 95 % interval around the total.
    pub fn interval(&self, total: f64) -> (f64, f64) {
        self.deviations.interval(total, 0.0, self.gap_high.get())
    }

    fn add(&mut self, part: ImpactPart, (amount, joint): (f64, f64), factor: &Declared) {
        self.parts.entry(part).or_default().add(amount);
        self.joint.add(amount * joint);
        self.sources.insert(factor.source.clone());
        self.deviations.add(&format!("factor:{}", factor.source), amount, factor.half_width);
    }
}

/// An amount of an impact that adds up over time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ImpactAmount {
    /// IT energy.
    Energy,
    /// In time in which counts are known.
    Joint,
    /// Most that declared gaps can add.
    GapHigh,
    /// A part.
    Part(ImpactPart),
    /// IT energy for which a part's factor is known.
    Known(ImpactPart),
    /// Deviation of a source of error.
    Deviation(String),
}

impl ImpactTotals {
    /// All amounts.
    pub(crate) fn amounts(&self) -> impl Iterator<Item = (ImpactAmount, CompensatedSum)> {
        let parts = self.parts.iter().map(|(part, sum)| (ImpactAmount::Part(*part), *sum));
        let known = self.known_j.iter().map(|(part, sum)| (ImpactAmount::Known(*part), *sum));
        let deviations = self.deviations.sums().map(|(source, sum)| (ImpactAmount::Deviation(source.into()), sum));
        [
            (ImpactAmount::Energy, self.energy_j),
            (ImpactAmount::Joint, self.joint),
            (ImpactAmount::GapHigh, self.gap_high),
        ]
        .into_iter()
        .chain(parts)
        .chain(known)
        .chain(deviations)
    }

    /// Puts an amount in its place.
    pub(crate) fn set(&mut self, amount: &ImpactAmount, sum: CompensatedSum) {
        match amount {
            ImpactAmount::Energy => self.energy_j = sum,
            ImpactAmount::Joint => self.joint = sum,
            ImpactAmount::GapHigh => self.gap_high = sum,
            ImpactAmount::Part(part) => drop(self.parts.insert(*part, sum)),
            ImpactAmount::Known(part) => drop(self.known_j.insert(*part, sum)),
            ImpactAmount::Deviation(source) => self.deviations.set(source, sum),
        }
    }
}

/// Impacts of versions over a window, at facility level.
#[derive(Debug, Clone, Default)]
pub struct Impacts(BTreeMap<ModelVersion, BTreeMap<Impact, ImpactTotals>>);

impl Impacts {
    /// One impact of a version; `None` of one that used nothing.
    pub fn get(&self, version: &ModelVersion, impact: Impact) -> Option<&ImpactTotals> {
        self.0.get(version)?.get(&impact)
    }

    /// All impacts of a version.
    pub(crate) fn of(&self, version: &ModelVersion) -> impl Iterator<Item = (Impact, &ImpactTotals)> {
        self.0.get(version).into_iter().flatten().map(|(impact, totals)| (*impact, totals))
    }

    /// One impact of a version, to be filled.
    pub(crate) fn totals(&mut self, version: &ModelVersion, impact: Impact) -> &mut ImpactTotals {
        self.0.entry(version.clone()).or_default().entry(impact).or_default()
    }

    /// Adds a term of a version at facility level, on its node.
    pub fn add(
        &mut self,
        version: &ModelVersion,
        term: &SlotTerm,
        (node, site, factors): (&NodeSlot, &SiteFactors, &ImpactFactors),
    ) {
        let it = term.energy.to_joules();
        let whole = facility(it, site.pue);
        let gap = gap_energy(&node.cell, term.energy.0);
        let by_impact = self.0.entry(version.clone()).or_default();
        for impact in Impact::ALL {
            let totals = by_impact.entry(impact).or_default();
            totals.energy_j.add(it.0);
            for part in impact.parts() {
                let Some(factor) = factors.0.get(&(impact, part)) else { continue };
                let amount = match part {
                    ImpactPart::Site => it.to_kwh() * factor.value,
                    ImpactPart::Electricity => whole.to_kwh() * factor.value,
                    // As the embodied carbon of the node is shared; without any nobody knows whose it is.
                    ImpactPart::Hardware if node.embodied_g > 0.0 => factor.value * term.embodied_g / node.embodied_g,
                    ImpactPart::Hardware => continue,
                };
                totals.known_j.entry(part).or_default().add(it.0);
                totals.add(part, (amount, term.joint_share), factor);
                let ImpactTotals { deviations, meters, .. } = totals;
                match part {
                    ImpactPart::Site => {
                        meters.deviate(deviations, node, Level::Facility, amount);
                        totals.gap_high.add(Joules(gap).to_kwh() * factor.value);
                    }
                    ImpactPart::Electricity => {
                        meters.deviate(deviations, node, Level::Facility, amount);
                        deviations.add(&site.pue_source, amount, site.pue_half_width);
                        totals.gap_high.add(facility(Joules(gap), site.pue).to_kwh() * factor.value);
                    }
                    ImpactPart::Hardware => deviations.add("lifespan", amount, LIFESPAN),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
