//! Energy, carbon and score of an answer.

use super::*;
use joulebook_sci::ServiceUse;
use joulebook_sci::phase::PhaseMethod;
use joulebook_sci::uncertainty::Deviations;

/// Why there is no embodied carbon at the levels below the facility.
const OUTSIDE: &str = "embodied carbon is outside the asked level";
/// Why a version that was counted has no energy of its own.
const UNSEEN: &str = "nothing of its energy is known: no process of its servers was seen";

/// Why nothing of the version's own energy is known, where nothing is: that is not nothing.
fn unseen(parts: &Parts<'_>) -> Option<&'static str> {
    parts.whole.cost.measured(()).is_none().then_some(UNSEEN)
}

impl Context<'_> {
    pub(super) fn energy(&self, parts: &Parts<'_>, missing: &mut Missing) -> wire::Energy {
        let cost = &parts.totals.cost;
        let joules = |energy: u64| Microjoules(energy).to_joules().0;
        let facility = parts.totals.facility_j.get();
        let unknown = parts.accelerator.err();
        let unseen = unseen(parts);
        let mut own = |energy: f64, path: &str| missing.or_note(unseen.is_none().then_some(energy), path, UNSEEN);
        let host_j = own(joules(cost.host), "energy.host_j");
        let platform_j = own(joules(cost.platform), "energy.platform_j");
        let dedicated_idle_j = own(joules(cost.dedicated_idle), "energy.dedicated_idle_j");
        let overhead_j = own(facility - joules(cost.with_idle()), "energy.overhead_j");
        let unknown = unknown.or(unseen);
        let mut accelerator = |energy: u64, path: &str| {
            missing.or_note(unknown.is_none().then(|| joules(energy)), path, unknown.unwrap_or_default())
        };
        let mut by_level_j: BTreeMap<String, f64> = Level::ALL
            .into_iter()
            .map(|level| {
                (level.name().to_owned(), if level == Level::Facility { facility } else { joules(level.energy(cost)) })
            })
            .collect();
        let energy = wire::Energy {
            accelerator_j: accelerator(cost.accelerator(), "energy.accelerator_j"),
            accelerator_dynamic_j: accelerator(cost.accelerator_dynamic, "energy.accelerator_dynamic_j"),
            accelerator_base_j: accelerator(cost.accelerator_base, "energy.accelerator_base_j"),
            host_j,
            platform_j,
            dedicated_idle_j,
            pool_idle_j: Some(joules(cost.pool_idle)),
            overhead_j,
            total_j: by_level_j.get(self.question.level.name()).copied(),
            method: method_name(&parts.nodes.iter().flat_map(|node| methods(&node.cell)).collect()),
            by_level_j: BTreeMap::new(),
            support_j: missing.or_note(
                (!self.support(parts).is_empty()).then(|| joules(cost.support)),
                "energy.support_j",
                "no support service is declared for the version's pools",
            ),
        };
        if let Some(reason) = unknown {
            by_level_j.remove(Level::Accelerator.name());
            missing.note("energy.by_level_j.accelerator", reason);
        }
        if unseen.is_some() {
            by_level_j.clear();
            for level in Level::ALL.into_iter().filter(|level| *level != Level::Accelerator) {
                missing.note(&format!("energy.by_level_j.{}", level.name()), UNSEEN);
            }
        }
        let unknown = self.unknown(parts);
        if let Some(reason) = unknown {
            missing.note("energy.total_j", reason);
        }
        wire::Energy { by_level_j, total_j: energy.total_j.filter(|_| unknown.is_none()), ..energy }
    }

    /// Support services that are declared for the version's pools, by role.
    pub(super) fn support(&self, parts: &Parts<'_>) -> BTreeSet<String> {
        let pools: BTreeSet<String> =
            parts.members.iter().map(|member| crate::query::gather::pool_name(&member.record)).collect();
        let all = self.computed.gathered.members.iter().flat_map(|member| {
            let pool = crate::query::gather::pool_name(&member.record);
            let placement = &member.record.inventory.placement;
            placement
                .support
                .iter()
                .map(move |one| (one.role.clone(), one.pool.clone().unwrap_or_else(|| pool.clone())))
        });
        all.filter(|(_, pool)| pools.contains(pool)).map(|(role, _)| role).collect()
    }

    /// Why there is no figure at the asked level, where there is none.
    fn no_level(&self, parts: &Parts<'_>) -> Option<&'static str> {
        parts.accelerator.err().filter(|_| self.question.level == Level::Accelerator)
    }

    /// Why it has no embodied carbon, where it has none.
    fn no_embodied(&self, parts: &Parts<'_>) -> Option<&'static str> {
        if self.question.level == Level::Facility { unseen(parts) } else { Some(OUTSIDE) }
    }

    /// Why its energy and what is made of it are not known, where they are not.
    fn unknown(&self, parts: &Parts<'_>) -> Option<&'static str> {
        self.no_level(parts).or_else(|| unseen(parts))
    }

    pub(super) fn idle(&self, parts: &Parts<'_>) -> wire::Idle {
        let unallocated: u64 = parts.nodes.iter().map(|node| node.ledger.unallocated_idle).sum();
        let out: u64 = parts.nodes.iter().map(|node| node.ledger.out_of_service).sum();
        wire::Idle {
            policy: self.question.rule.policy.name().to_owned(),
            scopes: parts.totals.scopes.iter().map(|scope| scope.name().to_owned()).collect(),
            unallocated_j: Microjoules(unallocated).to_joules().0,
            out_of_service_j: Microjoules(out).to_joules().0,
            scope: self.question.rule.from.name().to_owned(),
        }
    }

    pub(super) fn embodied(&self, parts: &Parts<'_>, missing: &mut Missing) -> wire::Embodied {
        let mut te_g: BTreeMap<String, f64> = BTreeMap::new();
        for (part, grams) in parts.members.iter().flat_map(|member| &member.embodied.parts) {
            *te_g.entry(part.clone()).or_default() += grams.0;
        }
        let sources: BTreeSet<String> =
            parts.members.iter().map(|member| member.embodied.te_source.to_string()).collect();
        let policies: BTreeSet<&str> = parts.members.iter().map(|member| member.embodied.age_policy()).collect();
        let inside = self.question.level == Level::Facility;
        let no_share = self.no_embodied(parts);
        let unallocated: f64 = parts.nodes.iter().map(|node| node.embodied_unallocated_g.get()).sum();
        wire::Embodied {
            te_source: sources.into_iter().collect::<Vec<_>>().join(" + "),
            el_h: parts
                .members
                .first()
                .map_or(joulebook_sci::embodied::DEFAULT_LIFESPAN_HOURS, |member| member.embodied.expected_hours()),
            age_policy: policies.into_iter().collect::<Vec<_>>().join(" + "),
            rs_rule: rs_rule(parts),
            m_g: missing.or_note(
                no_share.is_none().then(|| parts.totals.carbon.embodied.get()),
                "embodied.m_g",
                no_share.unwrap_or_default(),
            ),
            unallocated_g: missing.or_note(inside.then_some(unallocated), "embodied.unallocated_g", OUTSIDE),
            te_g,
        }
    }

    pub(super) fn carbon(&self, parts: &Parts<'_>, missing: &mut Missing) -> wire::Carbon {
        let carbon = &parts.totals.carbon;
        let unknown = self.unknown(parts);
        let (known, reason) = (unknown.is_none(), unknown.unwrap_or_default());
        let no_share = self.no_embodied(parts);
        missing.note("carbon.market_based_o_g", "no contractual factor is configured");
        wire::Carbon {
            o_g: missing.or_note(known.then(|| carbon.operational.get()), "carbon.o_g", reason),
            m_g: missing.or_note(
                no_share.is_none().then(|| carbon.embodied.get()),
                "carbon.m_g",
                no_share.unwrap_or_default(),
            ),
            total_g: missing.or_note(
                known.then(|| carbon.operational.get() + carbon.embodied.get()),
                "carbon.total_g",
                reason,
            ),
            market_based_o_g: None,
        }
    }

    pub(super) fn sci(&self, parts: &Parts<'_>, missing: &mut Missing) -> wire::Sci {
        let carbon = &parts.totals.carbon;
        let units = parts.unit.count(&parts.totals.cost.used);
        let unrated = &carbon.unrated;
        let scored = match self.no_level(parts) {
            Some(reason) => Err(reason.to_owned()),
            None if unrated.energy_j.get() > 0.0 => Err(format!(
                "for {} J of its energy the grid's intensity is missing: they make {} to {} g",
                unrated.energy_j.get(),
                unrated.low_g.get(),
                unrated.high_g.get()
            )),
            None if self.mixes(parts) => {
                Err("its sites have average and marginal intensities, which are not summed; choose a kind".to_owned())
            }
            None => score(parts.whole.cost.measured(GramsCo2e(carbon.joint.get())), parts.unit, units)
                .map_err(|reason| reason.to_string()),
        };
        let (low, high) = carbon.deviations.interval(carbon.joint.get(), 0.0, carbon.gap_high.get());
        let ends = scored.as_ref().ok().and(units).map(|units| (low / units, high / units));
        let mut sci = wire::Sci {
            value: scored.as_ref().ok().copied(),
            unit: format!("gCO2e/{}", parts.unit.name()),
            null_reason: scored.err(),
            low: ends.map(|(low, _)| low),
            high: ends.map(|(_, high)| high),
            uncertainty_profile: PROFILE.to_owned(),
            errors: errors(&carbon.deviations),
        };
        match &mut sci {
            wire::Sci { null_reason: Some(reason), .. } => {
                for field in ["value", "low", "high"] {
                    missing.note(&format!("sci.{field}"), reason);
                }
            }
            _ => missing.note("sci.null_reason", "there is a value"),
        }
        sci
    }
}

/// Sources of error, the largest first.
fn errors(deviations: &Deviations) -> Vec<wire::ErrorSource> {
    let whole = deviations.half_width().powi(2);
    let share = |deviation: f64| if whole > 0.0 { deviation * deviation / whole } else { 0.0 };
    let source = |(source, deviation): (&str, f64)| wire::ErrorSource {
        source: source.to_owned(),
        deviation_g: deviation,
        share: share(deviation),
    };
    let mut errors: Vec<_> = deviations.by_source().map(source).collect();
    errors.sort_by(|a, b| b.share.total_cmp(&a.share));
    errors
}

/// The rules by which the nodes' embodied carbon is shared.
fn rs_rule(parts: &Parts<'_>) -> String {
    let has = |devices: bool| parts.nodes.iter().any(|node| (node.cell.capacity_device_nanos > 0) == devices);
    let rules = [
        (
            has(true),
            "accelerators held over the node's (one alone holds a whole one, several hold by memory, of a divided one each \
             holds its compute slices), its host parts with them",
        ),
        (has(false), "reserved CPU capacity over the node's"),
    ];
    let rules: Vec<&str> = rules.into_iter().filter(|(holds, _)| *holds).map(|(_, rule)| rule).collect();
    format!("{}; unreserved follows the idle policy", rules.join(" + "))
}

pub(super) fn conservation(parts: &Parts<'_>) -> wire::Conservation {
    let sum = |part: fn(&NodeTotals) -> u64| parts.nodes.iter().map(|node| part(node)).fold(0u64, u64::saturating_add);
    let residual: i128 = parts.nodes.iter().map(|node| node.residual()).sum();
    wire::Conservation {
        wall_uj: sum(NodeTotals::input),
        wall_estimated: parts.nodes.iter().any(|node| is_estimated(&node.cell)),
        allocated_uj: sum(|node| node.allocated),
        ledger_uj: sum(|node| node.ledger.total()),
        overcount_uj: sum(|node| node.cell.overcount_microjoules),
        residual_uj: i64::try_from(residual).unwrap_or(i64::MAX),
    }
}

/// Requests that failed over those that ended: those that were given up ended too.
#[allow(clippy::cast_precision_loss, reason = "a ratio")]
pub(super) fn failed_share(used: &ServiceUse) -> Option<f64> {
    let get = |kind| used.counts.get(&kind).copied();
    let (done, failed) = (get(CountKind::RequestsOk)?, get(CountKind::RequestsFailed)?);
    let ended = done.saturating_add(failed).saturating_add(get(CountKind::RequestsAborted).unwrap_or(0));
    (ended > 0).then(|| failed as f64 / ended as f64)
}

pub(super) fn tokens(parts: &Parts<'_>, missing: &mut Missing) -> wire::Tokens {
    let mut count = |kind: CountKind, path: &str| {
        missing.or_note(parts.totals.cost.used.counts.get(&kind).copied(), path, "the engine does not tell")
    };
    wire::Tokens {
        input: count(CountKind::InputTokens, "tokens.input"),
        cached: count(CountKind::CachedTokens, "tokens.cached"),
        output: count(CountKind::OutputTokens, "tokens.output"),
        reasoning: count(CountKind::ReasoningTokens, "tokens.reasoning"),
    }
}

pub(super) fn phases(parts: &Parts<'_>, missing: &mut Missing) -> wire::Phases {
    let costs = match parts.totals.phases.costs() {
        Ok(costs) => costs,
        Err(reason) => {
            for field in [
                "prefill_j_per_token",
                "prefill_low",
                "prefill_high",
                "decode_j_per_token",
                "decode_low",
                "decode_high",
            ] {
                missing.note(&format!("phases.{field}"), &reason.to_string());
            }
            return wire::Phases { method: "none".to_owned(), ..wire::Phases::default() };
        }
    };
    wire::Phases {
        prefill_j_per_token: Some(costs.prefill.joules),
        prefill_low: Some(costs.prefill.low),
        prefill_high: Some(costs.prefill.high),
        decode_j_per_token: Some(costs.decode.joules),
        decode_low: Some(costs.decode.low),
        decode_high: Some(costs.decode.high),
        method: match costs.method {
            PhaseMethod::Measured => "measured",
            PhaseMethod::Fitted => "fitted",
        }
        .to_owned(),
        slots: costs.slots,
    }
}
