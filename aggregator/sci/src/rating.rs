//! What of totals comes of factors, or is a set: the part of a sum over time that [`crate::tally`] does not hold, as numbers in
//! columns.
//!
//! Grams are floating point. They add up, and nothing is ever taken away again from a sum of them: a short time would be left
//! with what rounding did to a long one. Each amount is kept with what its sum lost to rounding, so that sums of parts are those of
//! their terms: both are the value of the exact sum but for some 2⁻¹⁰⁰ of it, and print the same.
//!
//! The name of an amount (a source of error of a version, say) is kept once for all parts; parts of the same names share the list
//! of their places.

use crate::allocate::{IdleScope, ModelVersion};
use crate::attribution::Measures;
use crate::cell::Flags;
use crate::impact::{Impact, ImpactAmount, Impacts};
use crate::operational::CompensatedSum;
use crate::phase::Phases;
use crate::totals::{Totals, VersionTotals};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use joulebook_units::Service;

/// An amount of a version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Amount {
    /// Facility energy.
    Facility,
    Operational,
    Embodied,
    Joint,
    GapHigh,
    UnratedEnergy,
    UnratedLow,
    UnratedHigh,
    /// Energy by the origin of its intensity.
    Rated(usize),
    /// Deviation of a source of error.
    Deviation(String),
    /// Of an impact beside carbon.
    Impact(Impact, ImpactAmount),
}

/// What of a version is no amount.
#[derive(Debug, Clone, Default, PartialEq)]
struct Told {
    services: BTreeSet<Arc<Service>>,
    flags: Flags,
    scopes: BTreeSet<IdleScope>,
    measures: Measures,
    phases: Phases,
    /// Where factors of impacts come from.
    sources: BTreeSet<(Impact, String)>,
}

/// Amounts of one part of time, by the places that [`Columns`] gave out.
#[derive(Debug, Clone, Default)]
pub struct Rating {
    places: Arc<[u32]>,
    amounts: Vec<CompensatedSum>,
    versions: Vec<(u32, Told)>,
}

/// A sum of ratings.
#[derive(Debug, Clone, Default)]
pub struct RatingSum {
    /// By place; nothing at a place that no part has.
    amounts: Vec<Option<CompensatedSum>>,
    versions: BTreeMap<u32, Told>,
}

/// Which amount stands where. Places are given out once and never taken back.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    versions: BTreeMap<ModelVersion, OfVersion>,
    /// Embodied grams of each node that no version is charged with.
    unallocated: BTreeMap<String, u32>,
    next: u32,
    /// The places of the latest rating: the next one mostly has the same.
    latest: Arc<[u32]>,
}

#[derive(Debug, Clone, Default)]
struct OfVersion {
    number: u32,
    places: BTreeMap<Amount, u32>,
}

impl Told {
    fn of(version: &VersionTotals) -> Self {
        Self {
            services: version.services.clone(),
            flags: version.flags,
            scopes: version.scopes.clone(),
            measures: version.cost.used.measures,
            phases: version.phases,
            sources: BTreeSet::new(),
        }
    }

    fn merge(&mut self, other: &Self) {
        // Mostly they are known.
        for service in &other.services {
            if !self.services.contains(service) {
                self.services.insert(Arc::clone(service));
            }
        }
        self.flags.insert(other.flags);
        self.scopes.extend(other.scopes.iter().copied());
        self.measures.insert(other.measures);
        self.phases.merge(&other.phases);
        self.sources.extend(other.sources.iter().cloned());
    }
}

impl Rating {
    /// How many numbers of 64 bits it holds, about.
    pub fn numbers(&self) -> usize {
        let told = self.versions.iter().map(|(_, told)| 32 + told.services.len() + 8 * told.sources.len());
        2 * self.amounts.len() + told.sum::<usize>()
    }
}

impl RatingSum {
    /// Adds a part of time.
    pub fn plus(&mut self, part: &Rating) {
        let end = part.places.last().map_or(0, |last| index(*last) + 1);
        if self.amounts.len() < end {
            self.amounts.resize(end, None);
        }
        for (place, amount) in part.places.iter().zip(&part.amounts) {
            if let Some(sum) = self.amounts.get_mut(index(*place)) {
                sum.get_or_insert_default().merge(*amount);
            }
        }
        for (number, told) in &part.versions {
            self.versions.entry(*number).or_default().merge(told);
        }
    }

    /// The sum as one part of time.
    pub fn rating(self) -> Rating {
        let there = (0u32..).zip(self.amounts).filter_map(|(place, amount)| Some((place, amount?)));
        let (places, amounts): (Vec<u32>, Vec<CompensatedSum>) = there.unzip();
        Rating { places: places.into(), amounts, versions: self.versions.into_iter().collect() }
    }

    fn at(&self, place: u32) -> Option<CompensatedSum> {
        self.amounts.get(index(place)).copied().flatten()
    }
}

fn index(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

impl Columns {
    /// The amounts of totals.
    pub fn rating(&mut self, totals: &Totals, impacts: &Impacts) -> Rating {
        let mut found: Vec<(u32, CompensatedSum)> = Vec::new();
        let mut versions = Vec::new();
        for (name, node) in &totals.nodes {
            found.push((place(&mut self.next, &mut self.unallocated, name), node.embodied_unallocated_g));
        }
        for (version, of) in &totals.versions {
            if !self.versions.contains_key(version) {
                let number = u32::try_from(self.versions.len()).unwrap_or(u32::MAX);
                self.versions.insert(version.clone(), OfVersion { number, places: BTreeMap::new() });
            }
            let Some(OfVersion { number, places }) = self.versions.get_mut(version) else { continue };
            let mut add = |amount: Amount, sum| found.push((place(&mut self.next, places, &amount), sum));
            let carbon = &of.carbon;
            for (amount, sum) in [
                (Amount::Facility, of.facility_j),
                (Amount::Operational, carbon.operational),
                (Amount::Embodied, carbon.embodied),
                (Amount::Joint, carbon.joint),
                (Amount::GapHigh, carbon.gap_high),
                (Amount::UnratedEnergy, carbon.unrated.energy_j),
                (Amount::UnratedLow, carbon.unrated.low_g),
                (Amount::UnratedHigh, carbon.unrated.high_g),
            ] {
                add(amount, sum);
            }
            carbon.rated.iter().for_each(|(origin, sum)| add(Amount::Rated(*origin), *sum));
            carbon.deviations.sums().for_each(|(source, sum)| add(Amount::Deviation(source.into()), sum));
            let mut told = Told::of(of);
            for (impact, totals) in impacts.of(version) {
                totals.amounts().for_each(|(amount, sum)| add(Amount::Impact(impact, amount), sum));
                told.sources.extend(totals.sources.iter().map(|source| (impact, source.clone())));
            }
            versions.push((*number, told));
        }
        found.sort_unstable_by_key(|(place, _)| *place);
        let (places, amounts): (Vec<u32>, Vec<CompensatedSum>) = found.into_iter().unzip();
        if *places != *self.latest {
            self.latest = places.into();
        }
        Rating { places: Arc::clone(&self.latest), amounts, versions }
    }

    /// Fills totals of the same time, made of a tally, with what it does not hold. Returns the impacts.
    pub fn fill(&self, sum: &RatingSum, totals: &mut Totals) -> Impacts {
        let mut impacts = Impacts::default();
        for (name, node) in &mut totals.nodes {
            let place = self.unallocated.get(name);
            node.embodied_unallocated_g = place.and_then(|place| sum.at(*place)).unwrap_or_default();
        }
        for (version, to) in &mut totals.versions {
            let Some(of) = self.versions.get(version) else { continue };
            let Some(told) = sum.versions.get(&of.number) else { continue };
            to.services.clone_from(&told.services);
            to.scopes.clone_from(&told.scopes);
            (to.flags, to.phases, to.cost.used.measures) = (told.flags, told.phases, told.measures);
            for (amount, place) in &of.places {
                let Some(sum) = sum.at(*place) else { continue };
                let carbon = &mut to.carbon;
                match amount {
                    Amount::Facility => to.facility_j = sum,
                    Amount::Operational => carbon.operational = sum,
                    Amount::Embodied => carbon.embodied = sum,
                    Amount::Joint => carbon.joint = sum,
                    Amount::GapHigh => carbon.gap_high = sum,
                    Amount::UnratedEnergy => carbon.unrated.energy_j = sum,
                    Amount::UnratedLow => carbon.unrated.low_g = sum,
                    Amount::UnratedHigh => carbon.unrated.high_g = sum,
                    Amount::Rated(origin) => drop(carbon.rated.insert(*origin, sum)),
                    Amount::Deviation(source) => carbon.deviations.set(source, sum),
                    Amount::Impact(impact, amount) => impacts.totals(version, *impact).set(amount, sum),
                }
            }
            for (impact, source) in &told.sources {
                impacts.totals(version, *impact).sources.insert(source.clone());
            }
        }
        impacts
    }
}

/// The place of a name, which is given out if it is new.
fn place<K: Ord + Clone>(next: &mut u32, known: &mut BTreeMap<K, u32>, name: &K) -> u32 {
    if let Some(place) = known.get(name) {
        return *place;
    }
    let place = *next;
    *next = next.saturating_add(1);
    known.insert(name.clone(), place);
    place
}
