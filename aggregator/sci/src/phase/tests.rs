use super::*;
use crate::cell::ServiceUse;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use proptest::prelude::*;

/// A slot of prompt and generated tokens that took so much.
fn slot(prefill: u64, decode: u64, microjoules: u64, times: Option<(u64, u64)>) -> VersionCost {
    let mut counts: BTreeMap<CountKind, u64> =
        [(CountKind::InputTokens, prefill + 7), (CountKind::CachedTokens, 7), (CountKind::OutputTokens, decode)].into();
    if let Some((reading, generating)) = times {
        counts.extend([(CountKind::PrefillNanos, reading), (CountKind::DecodeNanos, generating)]);
    }
    let used = ServiceUse { counts, joint_microjoules: microjoules, ..ServiceUse::default() };
    VersionCost { accelerator_dynamic: microjoules, direct: microjoules, used, ..VersionCost::default() }
}

fn of(slots: &[VersionCost]) -> Result<PhaseCosts, NoPhases> {
    let mut phases = Phases::default();
    slots.iter().for_each(|slot| phases.add(slot));
    phases.costs()
}

/// Tokens of slots that are no multiples of each other.
fn mixed(count: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..count).map(|index| (1_000 + 977 * (index % 7), 300 + 611 * (index % 5)))
}

proptest! {
    #[test]
    fn known_joules_per_token_are_found_again(prefill in 1u64..5_000, decode in 1u64..50_000) {
        let slots: Vec<_> = mixed(12).map(|(p, d)| slot(p, d, p * prefill + d * decode, None)).collect();
        let found = of(&slots).expect("a fit");
        prop_assert_eq!((found.method, found.slots), (PhaseMethod::Fitted, 12));
        prop_assert!((found.prefill.joules * 1e6 / prefill as f64 - 1.0).abs() < 1e-6);
        prop_assert!((found.decode.joules * 1e6 / decode as f64 - 1.0).abs() < 1e-6);
    }

    #[test]
    fn measured_times_split_every_microjoule(energies in prop::collection::vec((1u64..1 << 40, 1u64..1 << 30, 1u64..1 << 30), 1..20)) {
        let slots: Vec<_> = energies.iter().map(|(energy, reading, generating)| {
            slot(1_000, 10, *energy, Some((*reading, *generating)))
        }).collect();
        let mut phases = Phases::default();
        slots.iter().for_each(|slot| phases.add(slot));
        let total: u64 = energies.iter().map(|(energy, _, _)| energy).sum();
        prop_assert_eq!(phases.prefill_microjoules + phases.decode_microjoules, total);
        prop_assert_eq!(phases.costs().expect("measured").method, PhaseMethod::Measured);
    }
}

/// 2,000 experiments with a known truth and errors of 5 % of a slot: the interval holds the truth in about 95 % of them.
#[test]
fn the_interval_holds_the_truth_as_often_as_it_says() {
    let mut state = 88_172_645_463_325_252u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let (mut prefill_held, mut decode_held) = (0u32, 0u32);
    for _ in 0..2_000 {
        let slots: Vec<_> = mixed(12)
            .map(|(p, d)| {
                let normal = (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
                let energy = (p * 400 + d * 9_000) as f64 + normal * 700_000.0;
                slot(p, d, energy.max(0.0) as u64, None)
            })
            .collect();
        let found = of(&slots).expect("a fit");
        prefill_held += u32::from((found.prefill.low..=found.prefill.high).contains(&400e-6));
        decode_held += u32::from((found.decode.low..=found.decode.high).contains(&9_000e-6));
    }
    assert!((1_860..=1_940).contains(&decode_held), "{decode_held} of 2,000");
    assert!((1_860..=1_960).contains(&prefill_held), "{prefill_held} of 2,000");
}

#[test]
fn what_cannot_be_told_is_not_told() {
    let line: Vec<_> = (1..20).map(|k| slot(100 * k, 10 * k, 1_000 * k, None)).collect();
    assert_eq!(of(&line), Err(NoPhases::NotIndependent));
    let few: Vec<_> = mixed(7).map(|(p, d)| slot(p, d, p + d, None)).collect();
    assert_eq!(of(&few), Err(NoPhases::FewSlots));
    let wrong: Vec<_> = mixed(12).map(|(p, d)| slot(p, d, d * 30_000 - p * 1_000, None)).collect();
    assert_eq!(of(&wrong).map(|found| found.prefill.joules < 0.0), Err(NoPhases::Negative));
    assert_eq!(of(&[]), Err(NoPhases::NoTokens));
    let half = VersionCost { direct: 2_000, ..slot(10, 10, 1_000, Some((1, 3))) };
    let found = of(&[half]).expect("measured");
    let close = |joules: f64, expected: f64| (joules - expected).abs() < 1e-15;
    assert!(
        close(found.prefill.joules, 12.5e-6) && close(found.decode.joules, 37.5e-6),
        "half of the energy: {found:?}"
    );
}

#[test]
fn the_quantile_is_students() {
    for (freedom, table) in [(6.0, 2.447), (10.0, 2.228), (30.0, 2.042), (120.0, 1.980)] {
        assert!((student(freedom) - table).abs() < 0.003, "{freedom}: {}", student(freedom));
    }
}
