//! One answer: totals of a model version with everything they stand on. Each field is filled or says why it is not.

mod conditions;
mod extended;
mod figures;
mod impacts;
mod modelled;
mod origin;
mod quality;
mod simulation;

use super::accelerator;
use super::consumer::Share;
use super::energy::{covered_share, method_name, methods};
use super::gather::{Member, site_name};
use super::input::{is_estimated, platform_method, reconciliation};
use super::name::{Names, describe, digest};
use super::question::Question;
use super::{Computed, QueryError, rfc3339, seconds};
use crate::factor::Factors;
use crate::store::Book;
use joulebook_proto::query::{self as wire, SciAnswer};
use joulebook_sci::operational::{effective_intensity, effective_pue};
use joulebook_sci::totals::NodeTotals;
use joulebook_sci::uncertainty::PROFILE;
use joulebook_sci::{Flags, FunctionalUnit, IdlePolicy, Level, ModelVersion, SourceKey, VersionTotals, score};
use joulebook_units::{Component, CountKind, GramsCo2e, Joules, Layer, Microjoules, UnixNanos, VersionSource};
use simulation::Simulation;
use std::collections::{BTreeMap, BTreeSet};

/// Version of the answer's structure and of its JSON schema.
pub const SCHEMA_VERSION: &str = "joulebook-answer/1";

/// What an answer is made from.
#[derive(Clone, Copy)]
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
    /// The part of the version that it is about; absent: all of it.
    pub share: Option<&'a Share<'a>>,
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
    /// The version's own, where `totals` are a part of it.
    whole: &'a VersionTotals,
    members: Vec<&'a Member>,
    nodes: Vec<&'a NodeTotals>,
    /// The same with their names.
    named: Vec<(&'a str, &'a NodeTotals)>,
    unit: FunctionalUnit,
    /// Whether the version's accelerator energy is known; why not.
    accelerator: Result<(), &'static str>,
    simulation: Simulation,
}

impl Context<'_> {
    /// The answer for one version.
    ///
    /// # Errors
    /// The store's.
    pub fn answer(&self, version: &ModelVersion, totals: &VersionTotals) -> Result<SciAnswer, QueryError> {
        let charged = |member: &&Member| totals.nodes.contains(member.record.inventory.node.as_str());
        let inside = self.computed.totals.nodes.iter().filter(|(name, _)| totals.nodes.contains(*name));
        let named: Vec<(&str, &NodeTotals)> = inside.map(|(name, node)| (name.as_str(), node)).collect();
        let nodes: Vec<&NodeTotals> = named.iter().map(|(_, node)| *node).collect();
        let whole = self.share.map_or(totals, |share| share.whole);
        let parts = Parts {
            version,
            totals,
            whole,
            members: self.computed.gathered.members.iter().filter(charged).collect(),
            unit: self.question.unit_for(whole),
            accelerator: accelerator::known(&self.computed.totals, totals),
            simulation: Simulation::of(&nodes, totals, self.question.level),
            nodes,
            named,
        };
        let mut missing = Missing::default();
        // Every record that is applied may change the answer, as may every revision of a factor; nothing else does.
        let records = self.book.applied();
        let revision =
            self.book.factor_series().values().fold(records, |sum, series| sum.saturating_add(series.revisions));
        let world = self.origins(&parts).iter().any(|(origin, _)| origin.world);
        let quality = self.quality(&parts, world, &mut missing);
        let mut answer = SciAnswer {
            schema_version: SCHEMA_VERSION.to_owned(),
            answer_id: self.answer_id(&parts, records),
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
            extended: Some(self.extended(&parts, &mut missing)?),
            conformance: Some(self.conformance(&parts, world, &quality)),
            quality: Some(quality),
            conservation: Some(figures::conservation(&parts)),
            reconciliation: Some(self.reconciliation(&parts, &mut missing)),
            provenance: Some(self.provenance(&parts)),
            tokens: Some(figures::tokens(&parts, &mut missing)),
            delivered: Some(conditions::delivered(&parts, &mut missing)),
            hardware: origin::hardware(&parts, &mut missing),
            operating: Some(self.operating(&parts, &mut missing)),
            instruments: self.instruments(&parts, &mut missing),
            phases: Some(figures::phases(&parts, &mut missing)),
            impacts: Some(self.impacts(&parts, &mut missing)),
            modelled: self.modelled(&parts, &mut missing),
            simulated: parts.simulation.any,
            simulated_share: missing.or_note(parts.simulation.share, "simulated_share", "the version used no energy"),
            ..SciAnswer::default()
        };
        self.declared(&parts, &mut answer, &mut missing);
        answer.not_available = missing.0;
        Ok(answer)
    }

    fn reconciliation(&self, parts: &Parts<'_>, missing: &mut Missing) -> wire::Reconciliation {
        let input = reconciliation(&parts.named, self.question.trust);
        for (field, value, reason) in [
            ("measured_fraction", input.measured_fraction, "no energy of the nodes' components is known"),
            ("overcount_fraction", input.overcount_fraction, "no meter at the input of the nodes is known"),
        ] {
            missing.or_note(value, &format!("reconciliation.{field}"), reason);
        }
        input
    }

    fn answer_id(&self, parts: &Parts<'_>, records: u64) -> String {
        let window = self.computed.gathered.window;
        let question = format!(
            "{SCHEMA_VERSION}\n{:?}\n{window:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{records}\n{}\n{:?}\n{:?}\n{:?}",
            parts.version,
            parts.unit,
            self.question.level,
            self.question.rule,
            self.question.trust,
            self.question.factors.kind,
            self.factors.revision(),
            self.revision(parts),
            self.share.map(|share| &share.entity),
            self.question.extended.then(|| self.book.training().map(|events| events.len())),
        );
        blake3::hash(question.as_bytes()).to_hex().as_str().chars().take(32).collect()
    }

    fn subject(&self, parts: &Parts<'_>, missing: &mut Missing) -> wire::Subject {
        let services = &parts.totals.services;
        let only = |values: BTreeSet<String>| (values.len() == 1).then(|| values.into_iter().next()).flatten();
        let pools: BTreeSet<String> =
            parts.members.iter().map(|member| super::gather::pool_name(&member.record)).collect();
        let source = services.iter().next().map_or("unresolved", |service| version_source(service.version_source));
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
            serving_config: missing.or_note(
                digest(&parts.version.configuration),
                "subject.serving_config",
                "nothing of the servers' configuration is known",
            ),
            label: Names::of(self.computed.totals.versions.keys()).full(parts.version),
            base: missing.or_note(
                only(services.iter().filter_map(|service| service.serving.base.clone()).collect()),
                "subject.base",
                "no server says which weights it was told, or they differ",
            ),
            revision: missing.or_note(
                only(services.iter().filter_map(|service| service.serving.revision.clone()).collect()),
                "subject.revision",
                "no revision of the weights is known, or they differ",
            ),
            apportioned_by: parts.totals.cost.used.measures.names().map(str::to_owned).collect(),
            entity: missing.or_note(
                self.share.map(|share| share.entity.clone()),
                "subject.entity",
                "the question does not break the version down",
            ),
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
            failed_share: missing.or_note(
                figures::failed_share(used),
                "r.failed_share",
                "not told, or no request ended",
            ),
            conversion: parts.unit.conversion().to_owned(),
        }
    }

    /// Whether pool idle of the nodes concerned is charged to nobody: by policy, or because no version has a weight.
    fn leaves_idle(&self, parts: &Parts<'_>) -> bool {
        self.question.rule.policy == IdlePolicy::Unallocated
            || parts.nodes.iter().any(|node| node.ledger.unallocated_idle > 0)
    }

    fn boundary(&self, parts: &Parts<'_>) -> wire::Boundary {
        let level = self.question.level;
        let allocated = !self.leaves_idle(parts);
        let mut inclusions = Vec::new();
        let mut exclusions = Vec::new();
        let mut place =
            |inside: bool, name: &str| (if inside { &mut inclusions } else { &mut exclusions }).push(name.to_owned());
        place(parts.accelerator.is_ok(), "accelerators");
        place(level >= Level::Host, "cpu and memory");
        let platform = platform_method(parts.nodes.iter().map(|node| &node.cell));
        place(level >= Level::Host, &format!("platform: power supply loss and unmetered parts ({platform})"));
        place(level >= Level::Idle, "dedicated idle of the version's reservation");
        place(level >= Level::Idle && allocated, "pool idle");
        place(level >= Level::Facility, "facility overhead (PUE)");
        place(level >= Level::Facility, "embodied carbon of the nodes");
        for name in ["network between nodes and to users", "end-user devices", "training (extended boundary)"] {
            place(false, name);
        }
        let support = self.support(parts);
        let roles = support.iter().cloned().collect::<Vec<_>>().join(", ");
        let charged = level >= Level::Idle && parts.totals.cost.support > 0;
        match (support.is_empty(), charged) {
            (true, _) => exclusions.push("support services (none declared)".to_owned()),
            (false, true) => inclusions.push(format!("support services: {roles}")),
            (false, false) => exclusions.push(format!("support services, charged to no version here: {roles}")),
        }
        inclusions.extend(self.share.map(|share| share.rule.clone()));
        for member in &parts.members {
            let node = &member.record.inventory.node;
            for state in member.record.sources() {
                if let Some(reason) = &state.unavailable {
                    exclusions.push(format!("{node}: {} is not read: {reason}", state.source.id));
                }
            }
            for model in accelerator::without_source(member) {
                exclusions.push(format!("{node}: accelerator {model} is seen and not metered"));
            }
            let inference = self.computed.totals.nodes.get(node.as_str());
            let inference = inference.map_or(0, |totals| totals.ledger.unattributed_inference);
            if inference > 0 {
                let joules = Microjoules(inference).to_joules().0;
                exclusions
                    .push(format!("{node}: {joules} J of inference that no counts and no service group attribute"));
            }
            let nobodys =
                self.computed.totals.nodes.get(node.as_str()).map_or(0, |node| accelerator::unattributed(&node.cell));
            if nobodys > 0 {
                let joules = Microjoules(nobodys).to_joules().0;
                exclusions.push(format!("{node}: {joules} J of accelerators while it was not known who was on them"));
            }
            if let Some(first) = member.record.first_row.filter(|first| *first > self.computed.gathered.window.start())
            {
                exclusions.push(format!("{node}: time before its first row at {}", rfc3339(first)));
            }
        }
        for (held, before) in self.computed.gathered.cut.missing(self.computed.gathered.window.start()) {
            let (held, before) = (held.name(), rfc3339(before));
            exclusions
                .push(format!("{held} before {before}: they went for the budget of the disk (retention.disk_budget)"));
        }
        let mut label = match (level, allocated) {
            (Level::Facility, true) => "SCI".to_owned(),
            (Level::Facility, false) => "partial carbon per functional unit: idle_excluded, not SCI".to_owned(),
            _ => format!("partial carbon per functional unit at level {}, not SCI", level.name()),
        };
        label.push_str(parts.simulation.label());
        wire::Boundary {
            level: level.name().to_owned(),
            platform_included: level >= Level::Host,
            embodied_included: level == Level::Facility,
            inclusions,
            exclusions,
            label,
        }
    }
}

/// Name of the origin of a version.
pub fn version_source(source: VersionSource) -> &'static str {
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
        VersionSource::NotReadable => "not_readable",
        VersionSource::ImageTag => "image_tag",
    }
}
