use super::*;
use crate::cell::Cell;
use crate::totals::Rate;
use alloc::vec::Vec;
use joulebook_units::{GramsCo2ePerKwh, Microjoules, Pue};

const KWH: u64 = 3_600_000_000_000;

fn site() -> SiteFactors {
    SiteFactors {
        intensity: Rate::Known(GramsCo2ePerKwh::new(100.0).expect("an intensity")),
        intensity_origin: 0,
        intensity_half_width: 0.1,
        intensity_source: "intensity:x".into(),
        pue: Pue::new(1.25).expect("a PUE"),
        pue_half_width: 0.1,
        pue_source: "pue:x".into(),
        embodied_half_width: 0.3,
        embodied_source: "te:x".into(),
    }
}

fn node() -> NodeSlot {
    NodeSlot {
        node: "n".into(),
        pool: "p".into(),
        simulated: false,
        support: Vec::new(),
        cell: Cell::default(),
        embodied_g: 20.0,
    }
}

/// Two kWh of IT energy and a quarter of the node's hardware, half of it while counts are known.
fn term() -> SlotTerm {
    SlotTerm {
        node: 0,
        energy: Microjoules(2 * KWH),
        operational_g: 250.0,
        embodied_g: 5.0,
        joint_share: 0.5,
        dedicated_idle: Microjoules(0),
        pool_idle: Microjoules(0),
    }
}

fn declared(factors: &[(Impact, ImpactPart, f64)]) -> ImpactFactors {
    let declared = |value| Declared { value, half_width: 0.3, source: "declared".into() };
    ImpactFactors(factors.iter().map(|(impact, part, value)| ((*impact, *part), declared(*value))).collect())
}

fn of(slots: &[ImpactFactors], impact: Impact) -> ImpactTotals {
    let (mut impacts, version) = (Impacts::default(), ModelVersion::default());
    for factors in slots {
        impacts.add(&version, &term(), (&node(), &site(), factors));
    }
    impacts.get(&version, impact).cloned().expect("it used energy")
}

fn close(value: Option<f64>, expected: f64) -> bool {
    value.is_some_and(|value| (value / expected - 1.0).abs() < 1e-12)
}

#[test]
fn water_is_of_the_site_by_it_energy_and_of_the_electricity_with_the_pue_once() {
    let factors = declared(&[(Impact::Water, ImpactPart::Site, 1.8), (Impact::Water, ImpactPart::Electricity, 3.1)]);
    let water = of(&[factors], Impact::Water);
    assert!(close(water.total(Impact::Water), 2.0 * 1.8 + 2.0 * 1.25 * 3.1));
    assert!(close(Some(water.joint()), 0.5 * (2.0 * 1.8 + 2.0 * 1.25 * 3.1)));
    assert_eq!(water.known_fraction(Impact::Water), Some(1.0));
    // One source of both factors: 30 % of all; and the PUE's tenth of the electricity's part.
    let half = libm::hypot(0.3 * 11.35, 0.1 * 7.75);
    let (low, high) = water.interval(11.35);
    assert!((low - (11.35 - half)).abs() < 1e-9 && (high - (11.35 + half)).abs() < 1e-9, "{low} {high}");
}

#[test]
fn making_the_hardware_is_shared_as_its_embodied_carbon_is() {
    let factors = declared(&[
        (Impact::AbioticDepletion, ImpactPart::Electricity, 4e-8),
        (Impact::AbioticDepletion, ImpactPart::Hardware, 8e-5),
        (Impact::PrimaryEnergy, ImpactPart::Electricity, 9.0),
        (Impact::PrimaryEnergy, ImpactPart::Hardware, 60.0),
    ]);
    let abiotic = of(core::slice::from_ref(&factors), Impact::AbioticDepletion);
    assert!(close(abiotic.total(Impact::AbioticDepletion), 2.5 * 4e-8 + 2e-5));
    let primary = of(&[factors], Impact::PrimaryEnergy);
    assert!(close(primary.total(Impact::PrimaryEnergy), 2.5 * 9.0 + 15.0));
}

#[test]
fn what_lacks_a_factor_has_parts_and_no_total() {
    let site_only = declared(&[(Impact::Water, ImpactPart::Site, 1.0)]);
    let both = declared(&[(Impact::Water, ImpactPart::Site, 1.0), (Impact::Water, ImpactPart::Electricity, 2.0)]);
    let water = of(&[site_only.clone(), both.clone(), both], Impact::Water);
    assert_eq!(water.total(Impact::Water), None, "for a third of its energy a factor is missing");
    assert!(close(water.known_fraction(Impact::Water), 2.0 / 3.0));
    let parts: Vec<_> = water.parts().collect();
    assert!(parts.len() == 2 && (parts[0].1 - 6.0).abs() < 1e-12 && (parts[1].1 - 10.0).abs() < 1e-12, "{parts:?}");
    let nothing = of(&[ImpactFactors::default()], Impact::PrimaryEnergy);
    assert_eq!((nothing.total(Impact::PrimaryEnergy), nothing.parts().count()), (None, 0));
    assert_eq!(nothing.known_fraction(Impact::PrimaryEnergy), Some(0.0));
}
