//! How good an answer is, and which norms it meets.

use super::*;

impl Context<'_> {
    #[allow(clippy::cast_precision_loss, reason = "ratios")]
    pub(super) fn quality(&self, parts: &Parts<'_>, world: bool, missing: &mut Missing) -> wire::Quality {
        let used = &parts.totals.cost.used;
        let time = covered_share(parts.nodes.iter().map(|node| &node.cell));
        let measured = time.map(|share| share.get() * read_fraction(&parts.members));
        let joint = parts.totals.cost.joint_share();
        let counted =
            (used.resident_nanos > 0).then(|| (used.counted_nanos as f64 / used.resident_nanos as f64).min(1.0));
        let flags = parts.totals.flags;
        let named = [
            (Flags::WRAP_AMBIGUOUS, "wrap_ambiguous"),
            (Flags::RESET, "reset"),
            (Flags::COARSE, "coarse"),
            (Flags::OVERCOUNT, "overcount"),
            (Flags::PSU_ESTIMATED, "psu_estimated"),
            (Flags::INTERPOLATED, "interpolated"),
            (Flags::ESTIMATED, "estimated"),
            (Flags::RECORDS_LOST, "records_lost"),
            (Flags::GAP, "gap"),
            (Flags::IDLE_RATIO, "idle_ratio"),
            (Flags::DISPUTED, "disputed"),
            (Flags::LAYER_CONFLICT, "layer_conflict"),
            (Flags::RESIDUAL_MODELLED, "residual_modelled"),
            (Flags::FULLY_AMORTISED, "fully_amortised"),
            (Flags::OUT_OF_SERVICE, "out_of_service"),
        ];
        let mut names: Vec<String> =
            named.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| (*name).to_owned()).collect();
        if world {
            names.push("world_intensity".to_owned());
        }
        let has = |status: &str| self.origins(parts).iter().any(|(origin, _)| origin.status == status);
        let unrated = parts.totals.carbon.unrated.energy_j.get() > 0.0;
        for (flag, is_set) in [
            ("forecast_intensity", has("forecast")),
            ("stale_intensity", has("held")),
            ("intensity_missing", unrated),
            ("idle_excluded", self.leaves_idle(parts)),
        ] {
            if is_set {
                names.push(flag.to_owned());
            }
        }
        if self.share.is_some_and(|share| share.exceeded) {
            names.push(crate::query::consumer::EXCEEDED.to_owned());
        }
        let low = [measured, joint].into_iter().flatten().any(joulebook_sci::join::is_low);
        wire::Quality {
            energy_measured_fraction: missing.or_note(
                measured,
                "quality.energy_measured_fraction",
                "no row of the nodes lies in the window",
            ),
            joint_coverage: missing.or_note(joint, "quality.joint_coverage", "the version used no energy of its own"),
            count_fraction: missing.or_note(counted, "quality.count_fraction", "the version was not resident"),
            quality: if low { "low" } else { "good" }.to_owned(),
            flags: names,
        }
    }

    pub(super) fn conformance(&self, parts: &Parts<'_>, world: bool, quality: &wire::Quality) -> wire::Conformance {
        let mut reasons = Vec::new();
        if self.question.level != Level::Facility {
            reasons.push(format!("sci_1_1: the level is {}, not facility", self.question.level.name()));
        }
        if self.leaves_idle(parts) {
            reasons
                .push("sci_1_1: idle capacity is left out: no policy, or no version with a weight under it".to_owned());
        }
        if world {
            reasons.push("sci_1_1: a world average is coarser than the standard accepts".to_owned());
        }
        if parts.simulation.any {
            reasons.push("sci_1_1: hardware is simulated, its energy was drawn by nobody".to_owned());
        }
        if parts.totals.carbon.unrated.energy_j.get() > 0.0 {
            reasons.push("sci_1_1: for a part of the energy no intensity of the kind is known".to_owned());
        }
        let kinds = self.kinds(parts);
        if kinds.len() > 1 {
            reasons.push("sci_1_1: its sites have intensities of different kinds; choose one".to_owned());
        }
        let sci = reasons.is_empty();
        let marginal = kinds.iter().all(|kind| kind.is_marginal());
        if !marginal {
            reasons.push(
                "iso_21031_2024: intensity is average, the standard's first edition asks for marginal".to_owned(),
            );
        }
        let consumer_unit =
            !matches!(parts.unit, FunctionalUnit::Item | FunctionalUnit::InferenceSecond | FunctionalUnit::GpuSecond);
        if !consumer_unit {
            reasons.push("sci_ai_consumer: the functional unit is not in the consumer's list".to_owned());
        }
        if quality.quality == "low" {
            reasons.push("coverage is low: see quality".to_owned());
        }
        wire::Conformance {
            sci_1_1: sci,
            iso_21031_2024: sci && marginal,
            sci_ai_consumer: sci && consumer_unit,
            reasons,
        }
    }
}

/// Part of the component sources seen on the nodes that is read: hardware that is seen and not read lowers coverage.
#[allow(clippy::cast_precision_loss, reason = "a ratio")]
fn read_fraction(members: &[&Member]) -> f64 {
    let states = members.iter().flat_map(|member| &member.record.inventory.sources);
    let counted = states.filter(|state| state.source.is_part());
    let (read, seen) =
        counted.fold((0u32, 0u32), |(read, seen), state| (read + u32::from(state.unavailable.is_none()), seen + 1));
    if seen == 0 { 0.0 } else { f64::from(read) / f64::from(seen) }
}
