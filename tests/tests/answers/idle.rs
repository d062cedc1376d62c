//! Idle capacity through the query: the same total under every policy from every scope, and the figures of the score.

use super::*;
use joulebook_proto::query::{GetIdleRequest, GetIdleResponse, IdleScope};

const SCOPES: [IdleScope; 3] = [IdleScope::Node, IdleScope::Pool, IdleScope::Cluster];

fn asked(window: TimeWindow, policy: IdlePolicy, scope: IdleScope) -> GetIdleRequest {
    GetIdleRequest {
        window: Some(window),
        idle_policy: policy.into(),
        idle_scope: scope.into(),
        functional_unit: FunctionalUnit::OutputToken.into(),
        ..GetIdleRequest::default()
    }
}

fn of_class(answer: &GetIdleResponse, class: &str) -> (u64, u64) {
    let of_class = answer.capacities.iter().filter(|one| one.class == class);
    of_class.fold((0, 0), |(all, charged), one| (all + one.microjoules, charged + one.charged_uj))
}

fn aggregator(histories: &[History]) -> Aggregator {
    let mut aggregator = Aggregator::new(histories);
    for (index, history) in histories.iter().enumerate() {
        (0..history.batches.len()).for_each(|record| aggregator.send(index, history, record));
    }
    aggregator
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_policy_from_every_scope_charges_the_same_joules_and_both_figures_are_those_of_the_score(
        steps in prop::collection::vec(prop::collection::vec(step(), 2..30), 1..3),
        (from, to) in (any::<u16>(), any::<u16>()),
    ) {
        let histories: Vec<History> = (0u8..).zip(&steps).map(|(index, steps)| history(index, steps)).collect();
        let aggregator = aggregator(&histories);
        let window = window(&histories, from, to);
        let query = query(&aggregator);
        let (_, total) = energies(&query, window, EnergyBy::Node, Trust::Components);
        for (policy, scope) in POLICIES.into_iter().zip(SCOPES.into_iter().cycle()) {
            let answer = query.idle(&asked(window, policy, scope)).expect("well-formed");
            prop_assert_eq!(answer.total_uj, total);
            prop_assert_eq!(answer.policies.len(), POLICIES.len());
            for sum in &answer.policies {
                prop_assert_eq!((sum.total_uj, sum.versions_uj + sum.ledger_uj), (total, total), "{}", &sum.policy);
            }
            let mine = answer.policies.iter().find(|sum| sum.policy == answer.policy).expect("the one asked for");
            let (pool, charged) = of_class(&answer, "IDLE-I3");
            prop_assert_eq!(pool - charged, mine.unallocated_uj);
            let versions: u64 = answer.versions.iter().map(|one| one.provisioned.clone().expect("there").microjoules).sum();
            prop_assert_eq!(versions, mine.versions_uj);

            // The provisioned figure is the score of the same question; what the work caused is never more.
            let request = GetSciRequest { idle_scope: scope.into(), ..question(window, policy, Level::Facility) };
            let scores = query.sci(&request).expect("well-formed").answers;
            prop_assert_eq!(scores.len(), answer.versions.len());
            for (one, score) in answer.versions.iter().zip(&scores) {
                let (marginal, whole) = (one.marginal.clone().expect("there"), one.provisioned.clone().expect("there"));
                prop_assert_eq!(&one.label, &score.subject.clone().expect("there").label);
                prop_assert_eq!(whole.g_per_unit, score.sci.clone().expect("there").value);
                prop_assert_eq!(whole.g_per_unit.is_none(), !whole.null_reason.is_empty());
                let parts = one.base_uj + one.dedicated_uj + one.pool_uj + one.support_uj;
                prop_assert_eq!(whole.microjoules, marginal.microjoules + parts);
                prop_assert!(marginal.carbon_g <= whole.carbon_g);
            }
        }
    }
}

#[test]
fn what_is_out_of_service_is_charged_to_nobody_and_leaves_the_score_whole() {
    let steps = walls::steps(0, 300, 100);
    let history = history(0, &steps);
    let aggregator = aggregator(std::slice::from_ref(&history));
    let window = TimeWindow {
        start_unix_nanos: BOOTED + i64::try_from(1100 * SECOND).expect("a time of this century"),
        end_unix_nanos: BOOTED + i64::try_from(2000 * SECOND).expect("a time of this century"),
    };
    let ask = |declared: &str| {
        let factors = Factors::new(&toml::from_str(declared).expect("syntax")).expect("valid");
        let query =
            Query::new(Arc::clone(&aggregator.book), watch::channel(Arc::new(factors)).1, Arc::new(At(aggregator.now)));
        let idle = query.idle(&asked(window, IdlePolicy::Equal, IdleScope::Node)).expect("well-formed");
        let score =
            query.sci(&question(window, IdlePolicy::Equal, Level::Facility)).expect("well-formed").answers.remove(0);
        (idle, score)
    };
    let (in_service, score) = ask("");
    let (all, charged) = of_class(&in_service, "IDLE-I3");
    assert!(all > 0 && charged == all, "{in_service:?}");
    assert!(
        in_service.capacities.iter().all(|one| !one.since_before && one.since_unix_nanos >= BOOTED),
        "{in_service:?}"
    );

    // Half of the window, to the second.
    let at = |second: i64| {
        let instant = BOOTED + second * UnixNanos::PER_SECOND;
        jiff::Timestamp::from_nanosecond(instant.into()).expect("a time of this century").to_string()
    };
    let declared = format!(
        "[[out_of_service]]\nnode = \"node-0\"\nfrom = \"{}\"\nto = \"{}\"\nreason = \"repair of a fan\"\n",
        at(1550),
        at(2000)
    );
    let (drained, after) = ask(&declared);
    let (out, of_it_charged) = of_class(&drained, "IDLE-I4");
    let (left, still_charged) = of_class(&drained, "IDLE-I3");
    assert_eq!((out + left, of_it_charged, still_charged), (all, 0, left), "{drained:?}");
    assert!(out.abs_diff(left) * 10 < all, "half of the time: {out} and {left}");
    for sum in &drained.policies {
        assert_eq!((sum.out_of_service_uj, sum.total_uj), (out, drained.total_uj), "{}", sum.policy);
    }
    let reason = |answer: &GetIdleResponse| {
        let found = answer.capacities.iter().find(|one| one.class == "IDLE-I4");
        found.map(|one| (one.reason.clone(), one.holder_kind.clone()))
    };
    assert_eq!(reason(&drained), Some(("repair of a fan".to_owned(), "nobody".to_owned())));
    let (label, idle) = (after.boundary.clone().expect("there").label, after.idle.clone().expect("there"));
    assert!(label.starts_with("SCI") && idle.out_of_service_j > 0.0, "{label} {idle:?}");
    assert!(after.sci.and_then(|sci| sci.value) < score.sci.and_then(|sci| sci.value));
    assert!(after.quality.expect("there").flags.contains(&"out_of_service".to_owned()));
    assert_eq!(after.conservation.expect("there").residual_uj, 0);
}
