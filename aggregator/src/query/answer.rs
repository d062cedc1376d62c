//! One answer: totals of a model version with everything they stand on. Each field is filled or says why it is not.

use super::energy::{component_name, covered_fraction, method_name, methods};
use super::gather::{Member, site_name};
use super::question::{Question, policy_name};
use super::{Computed, QueryError, rfc3339, seconds};
use crate::factor::Factors;
use crate::store::Book;
use joulebook_proto::query::{self as wire, SciAnswer};
use joulebook_sci::operational::{effective_intensity, effective_pue};
use joulebook_sci::totals::NodeTotals;
use joulebook_sci::uncertainty::PROFILE;
use joulebook_sci::{
    Flags, FunctionalUnit, IdlePolicy, IdleScope, Level, ModelVersion, SourceKey, VersionTotals, score,
};
use joulebook_units::{Component, CountKind, GramsCo2e, Joules, Microjoules, UnixNanos, VersionSource};
use std::collections::{BTreeMap, BTreeSet};

/// Version of the answer's structure and of its JSON schema.
pub const SCHEMA_VERSION: &str = "joulebook-answer/1";
/// Below this joint coverage an answer's quality is low.
const LOW_QUALITY_BELOW: f64 = 0.9;

/// What an answer is made from.
pub struct Context<'a> {
    /// Totals.
    pub computed: &'a Computed<'a>,
    /// The question.
    pub question: &'a Question,
    /// Factors.
    pub factors: &'a Factors,
    /// The book.
    pub book: &'a Book,
    /// When.
    pub generated_at: UnixNanos,
}

/// Fields that are absent, and why.
#[derive(Default)]
struct Missing(BTreeMap<String, String>);

impl Missing {
    fn note(&mut self, path: &str, reason: &str) {
        self.0.insert(path.to_owned(), format!("not available: {reason}"));
    }

    /// The value, noting its absence.
    fn or_note<T>(&mut self, value: Option<T>, path: &str, reason: &str) -> Option<T> {
        if value.is_none() {
            self.note(path, reason);
        }
        value
    }
}

/// What the parts of one answer share.
struct Parts<'a> {
    version: &'a ModelVersion,
    totals: &'a VersionTotals,
    members: Vec<&'a Member>,
    nodes: Vec<&'a NodeTotals>,
    unit: FunctionalUnit,
    has_accelerator: bool,
}

impl Context<'_> {
    /// The answer for one version.
    ///
    /// # Errors
    /// The store's.
    pub fn answer(&self, version: &ModelVersion, totals: &VersionTotals) -> Result<SciAnswer, QueryError> {
        let charged = |member: &&Member| totals.nodes.contains(member.record.inventory.node.as_str());
        let nodes: Vec<&NodeTotals> = self
            .computed
            .totals
            .nodes
            .iter()
            .filter(|(name, _)| totals.nodes.contains(*name))
            .map(|(_, node)| node)
            .collect();
        let parts = Parts {
            version,
            totals,
            members: self.computed.gathered.members.iter().filter(charged).collect(),
            unit: self.question.unit_for(totals),
            has_accelerator: nodes
                .iter()
                .any(|node| node.cell.sources.keys().any(|source| source.component == Component::Accelerator)),
            nodes,
        };
        let mut missing = Missing::default();
        // Every record that is applied may change the answer, and nothing else that is stored does.
        let revision = self.book.status().streams.iter().fold(0u64, |sum, stream| sum.saturating_add(stream.acked));
        let world = self.intensities(&parts).iter().any(|cell| cell.provenance.world);
        let quality = self.quality(&parts, world, &mut missing);
        let mut answer = SciAnswer {
            schema_version: SCHEMA_VERSION.to_owned(),
            answer_id: self.answer_id(version, parts.unit, revision),
            revision,
            generated_at: rfc3339(self.generated_at),
            subject: Some(self.subject(&parts, &mut missing)),
            window: Some(self.window()),
            r: Some(self.functional_unit(&parts, &mut missing)),
            boundary: Some(self.boundary(&parts)),
            energy: Some(self.energy(&parts, &mut missing)),
            idle: Some(self.idle(&parts)),
            intensity: Some(self.intensity(&parts, &mut missing)),
            pue: Some(self.pue(&parts, &mut missing)),
            embodied: Some(self.embodied(&parts, &mut missing)),
            carbon: Some(self.carbon(&parts, &mut missing)),
            sci: Some(self.sci(&parts, &mut missing)),
            extended: Some(wire::Extended {
                available: false,
                failed_gates: vec!["G1_disclosure".to_owned()],
                label: "extended_training_amortised".to_owned(),
            }),
            conformance: Some(self.conformance(&parts, world, &quality)),
            quality: Some(quality),
            conservation: Some(conservation(&parts)),
            provenance: Some(self.provenance(&parts)),
            tokens: Some(tokens(&parts, &mut missing)),
            hardware: hardware(&parts, &mut missing),
            operating: Some(self.operating(&parts, &mut missing)),
            instruments: self.instruments(&parts, &mut missing),
            ..SciAnswer::default()
        };
        self.declared(&parts, &mut answer, &mut missing);
        answer.not_available = missing.0;
        Ok(answer)
    }

    fn answer_id(&self, version: &ModelVersion, unit: FunctionalUnit, revision: u64) -> String {
        let window = self.computed.gathered.window;
        let question = format!(
            "{SCHEMA_VERSION}\n{version:?}\n{window:?}\n{unit:?}\n{:?}\n{:?}\n{revision}\n{}",
            self.question.level,
            self.question.policy,
            self.factors.revision(),
        );
        blake3::hash(question.as_bytes()).to_hex().as_str().chars().take(32).collect()
    }

    fn subject(&self, parts: &Parts<'_>, missing: &mut Missing) -> wire::Subject {
        let services = &parts.totals.services;
        let only = |values: BTreeSet<String>| (values.len() == 1).then(|| values.into_iter().next()).flatten();
        let pools: BTreeSet<String> =
            parts.members.iter().map(|member| super::gather::pool_name(&member.record)).collect();
        let source = services.iter().next().map_or("unresolved", |service| version_source(service.version_source));
        missing.note("subject.serving_config", "serving configurations are not told apart yet");
        missing.note("subject.entity", "no consuming entity is declared");
        wire::Subject {
            model: missing.or_note(parts.version.model.clone(), "subject.model", "nothing names the model"),
            model_version: missing.or_note(
                parts.version.version.clone(),
                "subject.model_version",
                "the version could not be resolved",
            ),
            model_version_digest: missing.or_note(
                only(services.iter().filter_map(|service| service.fingerprint.clone()).collect()),
                "subject.model_version_digest",
                "no fingerprint of the weights, or more than one, is known",
            ),
            version_source: source.to_owned(),
            serving_config: None,
            entity: None,
            pools: pools.into_iter().collect(),
            engines: services
                .iter()
                .map(|service| service.engine.clone())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
        }
    }

    fn window(&self) -> wire::AnswerWindow {
        let gathered = &self.computed.gathered;
        wire::AnswerWindow {
            start: rfc3339(gathered.window.start()),
            end: rfc3339(gathered.window.end()),
            cells: self.computed.totals.slots,
            resolution_seconds: u64::try_from(gathered.resolution_seconds).unwrap_or(1),
        }
    }

    fn functional_unit(&self, parts: &Parts<'_>, missing: &mut Missing) -> wire::FunctionalUnitValue {
        let used = &parts.totals.cost.used;
        let count = |kind: CountKind| used.counts.get(&kind).copied();
        let unknown = "the engine does not tell";
        let tokenizers: BTreeSet<&String> =
            parts.totals.services.iter().filter_map(|service| service.tokenizer.as_ref()).collect();
        let tokenizer = (tokenizers.len() == 1).then(|| tokenizers.first().map(|name| (*name).clone())).flatten();
        let ok_known = count(CountKind::RequestsOk).is_some();
        wire::FunctionalUnitValue {
            kind: parts.unit.name().to_owned(),
            value: missing.or_note(parts.unit.count(used), "r.value", unknown),
            filter: if parts.unit == FunctionalUnit::Request && ok_known { "successful" } else { "all" }.to_owned(),
            failed: missing.or_note(count(CountKind::RequestsFailed), "r.failed", unknown),
            aborted: missing.or_note(count(CountKind::RequestsAborted), "r.aborted", unknown),
            tokenizer_id: missing.or_note(tokenizer, "r.tokenizer_id", "no tokenizer is configured for the targets"),
            includes_reasoning: missing.or_note(
                count(CountKind::ReasoningTokens).map(|_| true),
                "r.includes_reasoning",
                "the engine does not tell reasoning tokens apart",
            ),
            statistic: "mean".to_owned(),
        }
    }

    fn boundary(&self, parts: &Parts<'_>) -> wire::Boundary {
        let level = self.question.level;
        let allocated = self.question.policy != IdlePolicy::Unallocated;
        let mut inclusions = Vec::new();
        let mut exclusions = Vec::new();
        let mut place =
            |inside: bool, name: &str| (if inside { &mut inclusions } else { &mut exclusions }).push(name.to_owned());
        place(parts.has_accelerator, "accelerators");
        place(level >= Level::Host, "cpu and memory");
        place(level >= Level::Host, "platform: power supply loss and unmetered parts, estimated");
        place(level >= Level::Idle, "dedicated idle of the version's reservation");
        place(level >= Level::Idle && allocated, "pool idle");
        place(level >= Level::Facility, "facility overhead (PUE)");
        place(level >= Level::Facility, "embodied carbon of the nodes");
        for name in [
            "network between nodes and to users",
            "end-user devices",
            "support services (none declared)",
            "training (extended boundary)",
        ] {
            place(false, name);
        }
        for member in &parts.members {
            let node = &member.record.inventory.node;
            for state in &member.record.inventory.sources {
                if let Some(reason) = &state.unavailable {
                    exclusions.push(format!("{node}: {} is not read: {reason}", state.source.id));
                }
            }
            if let Some(first) = member.record.first_row.filter(|first| *first > self.computed.gathered.window.start())
            {
                exclusions.push(format!("{node}: time before its first row at {}", rfc3339(first)));
            }
        }
        let label = match (level, allocated) {
            (Level::Facility, true) => "SCI".to_owned(),
            (Level::Facility, false) => "partial carbon per functional unit: idle_excluded, not SCI".to_owned(),
            _ => format!("partial carbon per functional unit at level {}, not SCI", level.name()),
        };
        wire::Boundary {
            level: level.name().to_owned(),
            platform_included: level >= Level::Host,
            embodied_included: level == Level::Facility,
            inclusions,
            exclusions,
            label,
        }
    }

    fn energy(&self, parts: &Parts<'_>, missing: &mut Missing) -> wire::Energy {
        let cost = &parts.totals.cost;
        let joules = |energy: u64| Microjoules(energy).to_joules().0;
        let facility = parts.totals.facility_j.get();
        let no_accelerator = "no accelerator is metered on the nodes that served it";
        let mut accelerator = |energy: u64, path: &str| {
            missing.or_note(parts.has_accelerator.then(|| joules(energy)), path, no_accelerator)
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
            host_j: Some(joules(cost.host)),
            platform_j: Some(joules(cost.platform)),
            dedicated_idle_j: Some(joules(cost.dedicated_idle)),
            pool_idle_j: Some(joules(cost.pool_idle)),
            overhead_j: Some(facility - joules(cost.with_idle())),
            total_j: by_level_j.get(self.question.level.name()).copied(),
            method: method_name(&parts.nodes.iter().flat_map(|node| methods(&node.cell)).collect()),
            by_level_j: BTreeMap::new(),
        };
        if !parts.has_accelerator {
            by_level_j.remove(Level::Accelerator.name());
            missing.note("energy.by_level_j.accelerator", no_accelerator);
        }
        let no_level = self.question.level == Level::Accelerator && !parts.has_accelerator;
        if no_level {
            missing.note("energy.total_j", no_accelerator);
        }
        wire::Energy { by_level_j, total_j: energy.total_j.filter(|_| !no_level), ..energy }
    }

    fn idle(&self, parts: &Parts<'_>) -> wire::Idle {
        let unallocated: u64 = parts.nodes.iter().map(|node| node.ledger.unallocated_idle).sum();
        let scope = |scope: &IdleScope| match scope {
            IdleScope::Node => "node",
            IdleScope::Pool => "pool",
            IdleScope::Cluster => "cluster",
        };
        wire::Idle {
            policy: policy_name(self.question.policy).to_owned(),
            scopes: parts.totals.scopes.iter().map(|found| scope(found).to_owned()).collect(),
            unallocated_j: Microjoules(unallocated).to_joules().0,
        }
    }

    /// Intensity cells of the sites of the nodes concerned.
    fn intensities(&self, parts: &Parts<'_>) -> Vec<&crate::factor::IntensityCell> {
        let sites: BTreeSet<String> = parts.members.iter().map(|member| site_name(&member.record)).collect();
        sites
            .iter()
            .filter_map(|site| self.computed.gathered.sites.get(site))
            .flat_map(|site| &site.intensity)
            .collect()
    }

    fn intensity(&self, parts: &Parts<'_>, missing: &mut Missing) -> wire::Intensity {
        let cells = self.intensities(parts);
        let each = |part: fn(&crate::factor::IntensityProvenance) -> String| {
            let values: BTreeSet<String> = cells.iter().map(|cell| part(&cell.provenance)).collect();
            values.into_iter().collect::<Vec<_>>().join(" + ")
        };
        let carbon = GramsCo2e(parts.totals.carbon.operational.get());
        let weighed = match self.question.level {
            Level::Facility => Joules(parts.totals.facility_j.get()),
            level => Microjoules(level.energy(&parts.totals.cost)).to_joules(),
        };
        let year = cells.iter().filter_map(|cell| cell.provenance.year).max().map(u32::from);
        let actual = cells.iter().all(|cell| cell.provenance.granularity == "hour");
        wire::Intensity {
            kind: each(|provenance| provenance.kind.to_string()),
            basis: each(|provenance| provenance.basis.to_string()),
            status: each(|provenance| provenance.status.to_string()),
            source: each(|provenance| provenance.source.to_string()),
            zone: each(|provenance| provenance.zone.to_string()),
            granularity: each(|provenance| provenance.granularity.to_string()),
            effective_g_per_kwh: missing.or_note(
                effective_intensity(carbon, weighed),
                "intensity.effective_g_per_kwh",
                "no energy was charged",
            ),
            actual_fraction: Some(if actual { 1.0 } else { 0.0 }),
            year: missing.or_note(year, "intensity.year", "the intensity is not of a year"),
        }
    }

    fn pue(&self, parts: &Parts<'_>, missing: &mut Missing) -> wire::PueUse {
        let sites: BTreeSet<String> = parts.members.iter().map(|member| site_name(&member.record)).collect();
        let cells: Vec<_> =
            sites.iter().filter_map(|site| self.computed.gathered.sites.get(site)).flat_map(|site| &site.pue).collect();
        let each = |part: fn(&crate::factor::PueCell) -> String| {
            cells.iter().map(|cell| part(cell)).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" + ")
        };
        let effective = effective_pue(Joules(parts.totals.facility_j.get()), parts.totals.it_j());
        wire::PueUse {
            source: each(|cell| cell.source.to_string()),
            granularity: each(|cell| cell.granularity.to_string()),
            effective: missing.or_note(effective, "pue.effective", "no energy was charged"),
        }
    }

    fn embodied(&self, parts: &Parts<'_>, missing: &mut Missing) -> wire::Embodied {
        let mut te_g: BTreeMap<String, f64> = BTreeMap::new();
        for (part, grams) in parts.members.iter().flat_map(|member| &member.embodied.parts) {
            *te_g.entry(part.clone()).or_default() += grams.0;
        }
        let sources: BTreeSet<String> =
            parts.members.iter().map(|member| member.embodied.te_source.to_string()).collect();
        let inside = self.question.level == Level::Facility;
        let outside = "embodied carbon is outside the asked level";
        let unallocated: f64 = parts.nodes.iter().map(|node| node.embodied_unallocated_g.get()).sum();
        wire::Embodied {
            te_source: sources.into_iter().collect::<Vec<_>>().join(" + "),
            el_h: parts
                .members
                .first()
                .map_or(joulebook_sci::embodied::DEFAULT_LIFESPAN_HOURS, |member| member.embodied.lifespan_hours),
            age_policy: "stop_at_el".to_owned(),
            rs_rule: "reserved CPU capacity over the node's; unreserved follows the idle policy".to_owned(),
            m_g: missing.or_note(inside.then(|| parts.totals.carbon.embodied.get()), "embodied.m_g", outside),
            unallocated_g: missing.or_note(inside.then_some(unallocated), "embodied.unallocated_g", outside),
            te_g,
        }
    }

    fn carbon(&self, parts: &Parts<'_>, missing: &mut Missing) -> wire::Carbon {
        let carbon = &parts.totals.carbon;
        let known = self.question.level != Level::Accelerator || parts.has_accelerator;
        let embodied = (self.question.level == Level::Facility).then(|| carbon.embodied.get());
        missing.note("carbon.market_based_o_g", "no contractual factor is configured");
        let no_accelerator = "no accelerator is metered on the nodes that served it";
        wire::Carbon {
            o_g: missing.or_note(known.then(|| carbon.operational.get()), "carbon.o_g", no_accelerator),
            m_g: missing.or_note(embodied, "carbon.m_g", "embodied carbon is outside the asked level"),
            total_g: missing.or_note(
                known.then(|| carbon.operational.get() + carbon.embodied.get()),
                "carbon.total_g",
                no_accelerator,
            ),
            market_based_o_g: None,
        }
    }

    fn sci(&self, parts: &Parts<'_>, missing: &mut Missing) -> wire::Sci {
        let carbon = &parts.totals.carbon;
        let units = parts.unit.count(&parts.totals.cost.used);
        let scored = match self.question.level == Level::Accelerator && !parts.has_accelerator {
            true => Err("no accelerator is metered on the nodes that served it".to_owned()),
            false => score(GramsCo2e(carbon.joint.get()), parts.unit, units).map_err(|reason| reason.to_string()),
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

    #[allow(clippy::cast_precision_loss, reason = "ratios")]
    fn quality(&self, parts: &Parts<'_>, world: bool, missing: &mut Missing) -> wire::Quality {
        let used = &parts.totals.cost.used;
        let time = covered_fraction(parts.nodes.iter().map(|node| &node.cell));
        let measured = time.map(|fraction| fraction * read_fraction(&parts.members));
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
        ];
        let mut names: Vec<String> =
            named.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| (*name).to_owned()).collect();
        if world {
            names.push("world_intensity".to_owned());
        }
        if self.question.policy == IdlePolicy::Unallocated {
            names.push("idle_excluded".to_owned());
        }
        let low = [measured, joint].into_iter().flatten().any(|fraction| fraction < LOW_QUALITY_BELOW);
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

    fn conformance(&self, parts: &Parts<'_>, world: bool, quality: &wire::Quality) -> wire::Conformance {
        let mut reasons = Vec::new();
        if self.question.level != Level::Facility {
            reasons.push(format!("sci_1_1: the level is {}, not facility", self.question.level.name()));
        }
        if self.question.policy == IdlePolicy::Unallocated {
            reasons.push("sci_1_1: idle capacity is left out".to_owned());
        }
        if world {
            reasons.push("sci_1_1: a world average is coarser than the standard accepts".to_owned());
        }
        let sci = reasons.is_empty();
        reasons.push("iso_21031_2024: intensity is average, the standard's first edition asks for marginal".to_owned());
        let consumer_unit = !matches!(parts.unit, FunctionalUnit::Item | FunctionalUnit::InferenceSecond);
        if !consumer_unit {
            reasons.push("sci_ai_consumer: the functional unit is not in the consumer's list".to_owned());
        }
        if quality.quality == "low" {
            reasons.push("coverage is low: see quality".to_owned());
        }
        wire::Conformance { sci_1_1: sci, iso_21031_2024: false, sci_ai_consumer: sci && consumer_unit, reasons }
    }

    fn provenance(&self, parts: &Parts<'_>) -> wire::Provenance {
        let datasets = self.factors.datasets().into_iter();
        let versions: BTreeSet<String> =
            parts.members.iter().map(|member| member.record.inventory.agent_version.clone()).collect();
        let skew = parts.members.iter().map(|member| member.record.clock_skew_nanos.unsigned_abs()).max();
        wire::Provenance {
            datasets: datasets
                .map(|set| wire::Dataset {
                    name: set.name.to_owned(),
                    version: set.version.to_owned(),
                    licence: set.licence.to_owned(),
                })
                .collect(),
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            agent_versions: versions.into_iter().collect(),
            clock_skew_max_s: skew.map(|nanos| std::time::Duration::from_nanos(nanos).as_secs_f64()),
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "ratios")]
    fn operating(&self, parts: &Parts<'_>, missing: &mut Missing) -> wire::Operating {
        let used = &parts.totals.cost.used;
        let length = seconds(self.computed.gathered.window);
        let busy = used.counts.get(&CountKind::BusyNanos);
        let concurrency =
            busy.filter(|_| used.executing_nanos > 0).map(|busy| *busy as f64 / used.executing_nanos as f64);
        let rate = used.counts.get(&CountKind::RequestsOk).filter(|_| length > 0.0).map(|ok| *ok as f64 / length);
        let utilisation = (used.resident_nanos > 0).then(|| used.executing_nanos as f64 / used.resident_nanos as f64);
        for (field, reason) in [
            ("latency_target_s", "no latency target is declared"),
            ("quantisation", "the serving configuration is not read yet"),
            ("serving_configuration", "the serving configuration is not read yet"),
        ] {
            missing.note(&format!("operating.{field}"), reason);
        }
        wire::Operating {
            concurrency: missing.or_note(
                concurrency,
                "operating.concurrency",
                "the engine does not tell its busy time",
            ),
            rate_per_s: missing.or_note(rate, "operating.rate_per_s", "the engine does not tell its requests"),
            utilisation: missing.or_note(utilisation, "operating.utilisation", "the version was not resident"),
            ..wire::Operating::default()
        }
    }

    /// Sensors of the nodes, each with the part of their energy that it gave.
    #[allow(clippy::cast_precision_loss, reason = "ratios")]
    fn instruments(&self, parts: &Parts<'_>, missing: &mut Missing) -> Vec<wire::Instrument> {
        let total: u64 = parts.nodes.iter().map(|node| node.cell.component_microjoules()).sum();
        let mut sums: BTreeMap<&SourceKey, u64> = BTreeMap::new();
        for (key, source) in parts.nodes.iter().flat_map(|node| &node.cell.sources) {
            *sums.entry(key).or_default() += source.microjoules;
        }
        let states = || parts.members.iter().flat_map(|member| &member.record.inventory.sources);
        let mut instruments = Vec::new();
        for (index, (key, energy)) in sums.into_iter().enumerate() {
            let basis = states().find(|state| state.source.id == key.id).map(|state| state.source.basis.clone());
            missing
                .note(&format!("instruments.{index}.period_s"), "the sampling period is not part of the inventory yet");
            instruments.push(wire::Instrument {
                collector: format!("{} ({})", key.collector, key.id),
                method: method_name(&BTreeSet::from([key.method])),
                period_s: None,
                energy_fraction: if total > 0 { energy as f64 / total as f64 } else { 0.0 },
                basis: basis.unwrap_or_default(),
            });
        }
        instruments
    }

    /// Fields that only a declaration can fill.
    fn declared(&self, parts: &Parts<'_>, answer: &mut SciAnswer, missing: &mut Missing) {
        let sites: BTreeSet<String> = parts.members.iter().map(|member| site_name(&member.record)).collect();
        let deployments: BTreeSet<String> = sites
            .iter()
            .filter_map(|site| self.factors.deployment((!site.is_empty()).then_some(site.as_str())))
            .map(|deployment| deployment.as_str().to_owned())
            .collect();
        let deployment = (!deployments.is_empty()).then(|| deployments.into_iter().collect::<Vec<_>>().join(" + "));
        let token =
            matches!(parts.unit, FunctionalUnit::InputToken | FunctionalUnit::OutputToken | FunctionalUnit::TotalToken);
        answer.task = missing.or_note(token.then(|| "text-generation".to_owned()), "task", "no task is declared");
        answer.modality = missing.or_note(token.then(|| "text".to_owned()), "modality", "no modality is declared");
        answer.deployment = missing.or_note(deployment, "deployment", "no deployment is declared for the site");
        answer.accountable_contact = missing.or_note(
            self.factors.accountable_contact().map(str::to_owned),
            "accountable_contact",
            "no accountable contact is configured",
        );
        answer.ghg_scope =
            missing.or_note(self.factors.ghg_scope().map(str::to_owned), "ghg_scope", "no GHG role is configured");
    }
}

/// Part of the component sources seen on the nodes that is read: hardware that is seen and not read lowers coverage.
#[allow(clippy::cast_precision_loss, reason = "a ratio")]
fn read_fraction(members: &[&Member]) -> f64 {
    let states = members.iter().flat_map(|member| &member.record.inventory.sources);
    let counted =
        states.filter(|state| state.source.contained_in.is_none() && state.source.component != Component::Wall);
    let (read, seen) =
        counted.fold((0u32, 0u32), |(read, seen), state| (read + u32::from(state.unavailable.is_none()), seen + 1));
    if seen == 0 { 0.0 } else { f64::from(read) / f64::from(seen) }
}

fn conservation(parts: &Parts<'_>) -> wire::Conservation {
    let sum = |part: fn(&NodeTotals) -> u64| parts.nodes.iter().map(|node| part(node)).fold(0u64, u64::saturating_add);
    let residual: i128 = parts.nodes.iter().map(|node| node.residual()).sum();
    wire::Conservation {
        wall_uj: sum(NodeTotals::input),
        wall_estimated: parts.nodes.iter().any(|node| node.cell.flags.contains(Flags::PSU_ESTIMATED)),
        allocated_uj: sum(|node| node.allocated),
        ledger_uj: sum(|node| node.ledger.total()),
        overcount_uj: sum(|node| node.cell.overcount_microjoules),
        residual_uj: i64::try_from(residual).unwrap_or(i64::MAX),
    }
}

fn tokens(parts: &Parts<'_>, missing: &mut Missing) -> wire::Tokens {
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

fn hardware(parts: &Parts<'_>, missing: &mut Missing) -> Vec<wire::HardwareUse> {
    let mut found: BTreeMap<(&str, Option<String>, Option<String>), f64> = BTreeMap::new();
    for hardware in parts.members.iter().map(|member| &member.record.inventory.hardware) {
        *found.entry((component_name(Component::Cpu), hardware.cpu_model.clone(), None)).or_default() +=
            f64::from(hardware.sockets.unwrap_or(1));
        for accelerator in &hardware.accelerators {
            let key =
                (component_name(Component::Accelerator), Some(accelerator.model.clone()), accelerator.driver.clone());
            *found.entry(key).or_default() += 1.0;
        }
    }
    let mut list = Vec::new();
    for (index, ((component, model, driver), count)) in found.into_iter().enumerate() {
        let path = |field: &str| format!("hardware.{index}.{field}");
        let driver_reason =
            if component == "cpu" { "a CPU has no driver" } else { "the driver's version was not read" };
        list.push(wire::HardwareUse {
            component: component.to_owned(),
            model: missing.or_note(model, &path("model"), "the hardware does not name itself"),
            count: Some(count),
            driver: missing.or_note(driver, &path("driver"), driver_reason),
        });
    }
    list
}

fn version_source(source: VersionSource) -> &'static str {
    match source {
        VersionSource::Config => "config",
        VersionSource::Pushed => "pushed",
        VersionSource::Label => "label",
        VersionSource::DenyList => "deny_list",
        VersionSource::EngineApi => "engine_api",
        VersionSource::PodLabel => "pod_label",
        VersionSource::Process => "process",
        VersionSource::Image => "image",
        VersionSource::Unresolved => "unresolved",
    }
}
