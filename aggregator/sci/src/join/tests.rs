use super::*;
use proptest::prelude::*;

fn window(start: i64, end: i64) -> Window {
    Window::new(UnixNanos(start), UnixNanos(end)).expect("ordered")
}

fn grams(value: f64) -> GramsCo2ePerKwh {
    GramsCo2ePerKwh::new(value).expect("in range")
}

proptest! {
    #[test]
    fn cutting_energy_at_factor_edges_makes_and_loses_nothing(
        energy in prop::collection::vec((0i64..1_000, 0i64..500, 0u64..1 << 40), 0..8),
        edges in prop::collection::vec(1i64..300, 1..8),
    ) {
        let energy: Vec<_> =
            energy.iter().map(|(start, length, amount)| (window(*start, start + length), Microjoules(*amount))).collect();
        let mut at = 0;
        let intensity: Vec<_> = edges.iter().map(|length| { at += length; (window(at - length, at), grams(1.0)) }).collect();
        let joined = with_factors(&energy, &intensity, &[]);
        let whole: u64 = energy.iter().map(|(_, amount)| amount.0).sum();
        prop_assert_eq!(joined.parts.iter().map(|part| part.0).sum::<u64>(), whole);
    }

    #[test]
    fn cells_add_up_to_the_series(
        series in prop::collection::vec((0i64..1_000, 0i64..500, 0u64..1 << 40), 0..8),
        cell in 1u64..200,
    ) {
        let series: Vec<_> =
            series.iter().map(|(start, length, amount)| (window(*start, start + length), Some(*amount))).collect();
        let cells = on_cells(&series, cell).expect("few cells");
        let whole: u64 = series.iter().filter_map(|(_, amount)| *amount).sum();
        prop_assert_eq!(cells.iter().flatten().sum::<u64>(), whole);
    }
}

#[test]
fn carbon_is_absent_where_any_energy_has_no_factor() {
    let energy = [(window(0, 10), Microjoules(10))];
    let pue = [(window(0, 10), Pue::new(1.0).expect("a PUE"))];
    let joined = with_factors(&energy, &[(window(0, 5), grams(100.0))], &pue);
    assert_eq!(joined.parts, [Microjoules(5), Microjoules(5)]);
    assert!(joined.carbon.is_none() && joined.facility.is_some());
    assert!(with_factors(&energy, &[(window(0, 10), grams(100.0))], &[]).facility.is_none());
}

#[test]
fn an_event_belongs_to_the_cell_that_holds_it() {
    let cells = on_cells(&[(window(0, 10), Some(10)), (window(25, 25), Some(3))], 10).expect("few cells");
    assert_eq!(cells, [Some(10), None, Some(3)]);
    assert_eq!(on_cells(&[(window(0, 10), None)], 10), Some(alloc::vec![None]));
    assert_eq!(on_cells(&[(window(0, 10), None)], 0), None);
}

#[test]
fn counts_that_lie_outside_the_energy_are_not_joint() {
    let joint = with_counts(&[(window(0, 100), Microjoules(100))], &[(window(50, 150), 10.0), (window(60, 70), 1.0)]);
    assert_eq!(joint.joint_energy, Microjoules(50));
    assert!((joint.joint_units - 6.0).abs() < 1e-12);
    assert!(joint.is_low());
    assert!(with_counts(&[], &[]).is_low());
    assert!(!is_low(0.9) && is_low(0.899_999));
}
