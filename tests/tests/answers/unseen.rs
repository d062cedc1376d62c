//! A server whose counts are known and of whose processes nothing is.

use super::*;

#[test]
fn what_an_unseen_server_delivered_has_no_score_and_not_one_of_nothing() {
    let mut history = history(0, &walls::steps(0, 200, 100));
    let is_seen = |column: &joulebook_units::Column| column.series != joulebook_tests::history::SERVED;
    history.batches.iter_mut().for_each(|batch| batch.columns.retain(is_seen));
    let mut aggregator = Aggregator::new(std::slice::from_ref(&history));
    (0..history.batches.len()).for_each(|record| aggregator.send(0, &history, record));
    let asked = window(std::slice::from_ref(&history), u16::MAX / 4, u16::MAX / 2);
    let query = query(&aggregator);
    let answers = query.sci(&question(asked, IdlePolicy::ReservedCapacityTime, Level::Facility)).expect("well-formed");
    let has_served = |answer: &&SciAnswer| answer.r.as_ref().is_some_and(|r| r.value > Some(0.0));
    let answer = answers.answers.iter().find(has_served).expect("tokens were delivered");
    let sci = answer.sci.as_ref().expect("always there");
    assert_eq!((sci.value, sci.low, sci.high), (None, None, None));
    assert!(
        sci.null_reason.as_ref().is_some_and(|reason| reason.contains("no process of its servers was seen")),
        "{sci:?}"
    );
    let (energy, carbon) = (answer.energy.as_ref().expect("there"), answer.carbon.as_ref().expect("there"));
    assert_eq!((energy.total_j, energy.host_j, energy.platform_j, energy.overhead_j), (None, None, None, None));
    assert_eq!((carbon.o_g, carbon.m_g, carbon.total_g), (None, None, None), "what is not known is not nothing");
    assert!(energy.by_level_j.is_empty());
    for path in ["energy.total_j", "energy.by_level_j.host", "carbon.total_g"] {
        assert!(answer.not_available[path].contains("no process of its servers was seen"), "{answer:?}");
    }
    let by = GetEnergyRequest {
        window: Some(asked),
        by: EnergyBy::Model.into(),
        functional_unit: Some(FunctionalUnit::OutputToken.into()),
        ..GetEnergyRequest::default()
    };
    let rows = query.energy(&by).expect("well-formed").rows;
    let row = rows.iter().find(|row| row.units.is_some()).expect("the version's");
    assert_eq!(row.microjoules, None);
    assert!(row.joules_per_unit.is_none() && row.per_unit_null_reason.is_some(), "{row:?}");
}
