//! Energy row by row. Rows of a question add up to the energy of the nodes exactly.

use super::accelerator;
use super::amount::Amount;
use super::consumer;
use super::gather::{Gathered, Pods};
use super::input::{is_estimated, reconciliation};
use super::name::{Names, version_name};
use super::namespace;
use super::own;
use super::question::Question;
use super::{Computed, QueryError};
use crate::store::NodePods;
use joulebook_proto::query::{EnergyBy, EnergyRow, GetEnergyRequest, GetEnergyResponse, KeyPart, TimeWindow};
use joulebook_sci::consumer::Entity;
use joulebook_sci::totals::NodeTotals;
use joulebook_sci::{Account, Cell, FunctionalUnit, Ledger, Level, ModelVersion, Totals, VersionTotals, score};
use joulebook_units::{Component, GramsCo2e, Layer, Method, Microjoules, PodIdentity, Share, Workload, WorkloadKind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Kind of the rows of Joulebook's own processes: its overhead.
const OWN: &str = "joulebook";

/// By what a question breaks energy down.
pub fn asked_by(request: &GetEnergyRequest) -> Result<EnergyBy, QueryError> {
    EnergyBy::try_from(request.by)
        .map_err(|_| QueryError::Invalid("the question breaks energy down by something unknown".to_owned()))
}

/// Answers an energy question. Of what rows by these are not made of, the totals of the question may hold nothing
/// ([`super::sums::hold`]).
pub fn rows(computed: &Computed<'_>, question: &Question, by: EnergyBy) -> Result<GetEnergyResponse, QueryError> {
    let nodes = &computed.totals.nodes;
    let rows = match by {
        EnergyBy::Unspecified | EnergyBy::Model => by_model(computed, question)?,
        EnergyBy::Workload => by_workload(nodes, |_| true, None),
        EnergyBy::Process => by_workload(nodes, |workload| workload.kind == WorkloadKind::ProcessTree, None),
        EnergyBy::Container => by_workload(nodes, |workload| workload.container_id.is_some(), None),
        EnergyBy::Pod => {
            let is_of_one = |workload: &Workload| workload.pod_uid.is_some() || workload.pod.is_some();
            by_workload(nodes, is_of_one, Some(&computed.gathered.pods()))
        }
        EnergyBy::Namespace => namespace::rows(nodes, &computed.gathered.pods()),
        EnergyBy::Gpu => accelerator::rows(nodes, &computed.gathered.members),
        EnergyBy::Source => by_source(nodes),
        EnergyBy::Component => by_component(nodes),
        EnergyBy::Consumer => consumer::rows(computed, question, Entity::Consumer)?,
        EnergyBy::Workflow => consumer::rows(computed, question, Entity::Workflow)?,
        EnergyBy::Layer => super::layer::rows(&computed.meters),
        EnergyBy::Node => nodes.iter().map(|(name, node)| node_row(name, node)).collect(),
    };
    let added = |node: &NodeTotals| match by {
        EnergyBy::Gpu | EnergyBy::Source => {
            let gpu_only = by == EnergyBy::Gpu;
            let sources = node.cell.sources.iter();
            let added =
                sources.filter(|(key, _)| key.is_part() && (!gpu_only || key.component == Component::Accelerator));
            added.map(|(_, source)| source.microjoules).sum()
        }
        _ => node.cell.total_microjoules(),
    };
    let total: Amount = nodes.values().map(|node| Amount::of_node(node, added(node))).collect();
    let named: Vec<_> = nodes.iter().map(|(name, node)| (name.as_str(), node)).collect();
    let Gathered { window, resolution_seconds, .. } = computed.gathered;
    Ok(GetEnergyResponse {
        rows,
        total_microjoules: total.microjoules,
        resolution_seconds: u64::try_from(resolution_seconds).unwrap_or(1),
        window: Some(TimeWindow { start_unix_nanos: window.start().0, end_unix_nanos: window.end().0 }),
        energy_measured_fraction: covered_share(nodes.values().map(|node| &node.cell)).map(Share::get),
        simulated: nodes.values().any(|node| node.simulated),
        simulated_microjoules: total.simulated_microjoules,
        reconciliation: Some(reconciliation(&named, question.trust)),
        own_microjoules: own::of(nodes.values()),
    })
}

/// Part of the expected time in which energy is known; `None` where none is expected.
#[allow(clippy::cast_precision_loss, reason = "a ratio")]
pub fn covered_share<'a>(cells: impl Iterator<Item = &'a Cell>) -> Option<Share> {
    let (covered, expected) = cells.fold((0u64, 0u64), |(covered, expected), cell| {
        (covered.saturating_add(cell.covered_nanos), expected.saturating_add(cell.expected_nanos))
    });
    (expected > 0).then(|| Share::new((covered as f64 / expected as f64).min(1.0)).ok()).flatten()
}

/// Name of a method, or of the mixture of several.
pub fn method_name(methods: &BTreeSet<Method>) -> String {
    match methods.iter().collect::<Vec<_>>().as_slice() {
        [] => "unknown",
        [Method::Counter] => "counter",
        [Method::IntegratedPower] => "integrated_power",
        [Method::Estimated] => "estimated",
        _ => "mixed",
    }
    .to_owned()
}

/// Methods of the component sources of a cell that gave energy.
pub fn methods(cell: &Cell) -> BTreeSet<Method> {
    let sources = cell.sources.iter().filter(|(key, source)| key.is_part() && source.microjoules > 0);
    sources.map(|(key, _)| key.method).collect()
}

/// A row's key.
pub(super) fn key(parts: &[(&str, &str)]) -> Vec<KeyPart> {
    parts.iter().map(|(name, value)| KeyPart { name: (*name).to_owned(), value: (*value).to_owned() }).collect()
}

/// A row of known energy.
pub(super) fn row(
    key: Vec<KeyPart>,
    amount: Amount,
    parts: BTreeMap<String, u64>,
    methods: &BTreeSet<Method>,
) -> EnergyRow {
    let component_microjoules = parts.into_iter().filter(|(_, energy)| *energy > 0).collect();
    EnergyRow {
        key,
        microjoules: Some(amount.microjoules),
        component_microjoules,
        method: method_name(methods),
        simulated: amount.simulated,
        simulated_microjoules: amount.simulated_microjoules,
        ..EnergyRow::default()
    }
}

/// What rows of one question share.
pub(super) struct Columns {
    /// Methods of all nodes.
    pub(super) methods: BTreeSet<Method>,
}

impl Columns {
    /// Of a window.
    pub(super) fn of(totals: &Totals) -> Self {
        Self { methods: totals.nodes.values().flat_map(|node| methods(&node.cell)).collect() }
    }
}

/// Model versions at the asked level, then what is charged to none of them.
fn by_model(computed: &Computed<'_>, question: &Question) -> Result<Vec<EnergyRow>, QueryError> {
    let totals = &computed.totals;
    let columns = Columns::of(totals);
    let selected: BTreeSet<&ModelVersion> = question.select(totals)?.into_iter().map(|(version, _)| version).collect();
    let names = Names::of(totals.versions.keys());
    let mut rows = Vec::new();
    let (mut outside, mut others) = (Amount::default(), Amount::default());
    for (version, mine) in &totals.versions {
        let cost = &mine.cost;
        let (energy, simulated) = (question.level.energy(cost), question.level.energy(&mine.simulated));
        if !selected.contains(version) {
            others.add(Amount::of_version(cost.with_idle(), mine.simulated.with_idle()));
            continue;
        }
        outside.add(Amount::of_version(cost.with_idle() - energy, mine.simulated.with_idle() - simulated));
        let name = |part: &Option<String>| part.clone().unwrap_or_else(|| "unresolved".to_owned());
        let parts = [("account", "model"), ("model", &name(&version.model)), ("version", &names.version(version))];
        rows.push(version_row(computed, question, &columns, (key(&parts), mine, mine)));
    }
    for (name, amount) in left_over(totals, outside, others) {
        let key = key(&[("account", name), ("model", ""), ("version", "")]);
        let mut row = row(key, amount, BTreeMap::new(), &columns.methods);
        row.per_unit_null_reason = question.unit.map(|_| "not a model version".to_owned());
        rows.push(row);
    }
    Ok(rows)
}

/// The row of a part (or all) of a version.
pub(super) fn version_row(
    computed: &Computed<'_>,
    question: &Question,
    columns: &Columns,
    (key, whole, mine): (Vec<KeyPart>, &VersionTotals, &VersionTotals),
) -> EnergyRow {
    let (totals, cost) = (&computed.totals, &mine.cost);
    let (energy, simulated) = (question.level.energy(cost), question.level.energy(&mine.simulated));
    let idle = |part: u64| if question.level >= Level::Idle { part } else { 0 };
    let host = |part: u64| if question.level >= Level::Host { part } else { 0 };
    let parts = [
        ("accelerator", cost.accelerator()),
        ("cpu", host(cost.cpu)),
        ("dram", host(cost.host.saturating_sub(cost.cpu))),
        ("platform", host(cost.platform)),
        ("dedicated_idle", idle(cost.dedicated_idle)),
        ("pool_idle", idle(cost.pool_idle)),
        ("support", idle(cost.support)),
    ];
    let parts = parts.into_iter().map(|(name, energy)| (name.to_owned(), energy)).collect();
    let mut row = row(key, Amount::of_version(energy, simulated), parts, &columns.methods);
    row.simulated = totals.nodes.iter().any(|(name, node)| node.simulated && mine.nodes.contains(name));
    row.cpu_seconds = Some(cpu_seconds(cost.used.cpu_nanos));
    if question.unit.is_some() {
        ratio(&mut row, question.unit_for(whole), (mine, whole), energy);
    }
    if energy == 0 && whole.cost.measured(()).is_none() {
        row.microjoules = None;
    }
    if question.level == Level::Accelerator
        && let Err(reason) = accelerator::known(totals, mine)
    {
        row.microjoules = None;
        row.joules_per_unit = None;
        row.per_unit_null_reason = Some(reason.to_owned());
    }
    row
}

/// What is charged to no row of a version, by account.
pub(super) fn left_over(
    totals: &Totals,
    outside: Amount,
    others: Amount,
) -> impl Iterator<Item = (&'static str, Amount)> {
    let left = |part: fn(&Ledger) -> u64| -> Amount {
        totals.nodes.values().map(|node| Amount::of_node(node, part(&node.ledger))).collect()
    };
    let rest = [
        ("other workloads", left(|ledger| ledger.workloads)),
        ("unattributed inference", left(|ledger| ledger.unattributed_inference)),
        ("system", left(|ledger| ledger.system)),
        ("unallocated idle", left(|ledger| ledger.unallocated_idle)),
        ("out of service", left(|ledger| ledger.out_of_service)),
        ("unattributed", left(|ledger| ledger.unattributed)),
        ("model versions outside the level", outside),
        ("other model versions", others),
    ];
    rest.into_iter().filter(|(_, amount)| amount.microjoules > 0)
}

/// Energy per unit of a part of a whole version.
#[allow(clippy::cast_precision_loss, reason = "a ratio")]
fn ratio(row: &mut EnergyRow, unit: FunctionalUnit, (totals, whole): (&VersionTotals, &VersionTotals), energy: u64) {
    row.units = unit.count(&totals.cost.used);
    let joint = totals.cost.joint_share().unwrap_or(1.0);
    // The ratio's arithmetic is that of the score: joules in the place of grams.
    match score(whole.cost.measured(GramsCo2e(Microjoules(energy).to_joules().0 * joint)), unit, row.units) {
        Ok(value) => row.joules_per_unit = Some(value),
        Err(reason) => row.per_unit_null_reason = Some(reason.to_string()),
    }
}

#[allow(clippy::cast_precision_loss, reason = "a derived value")]
fn cpu_seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// Workloads before any allocation, and the accounts beside them. Workloads that are not `shown` are one row together. With
/// `pods` each row says which pod it is of.
fn by_workload(
    nodes: &BTreeMap<String, NodeTotals>,
    shown: impl Fn(&Workload) -> bool,
    pods: Option<&Pods>,
) -> Vec<EnergyRow> {
    let mut rows = Vec::new();
    for (name, node) in nodes {
        let places = pods.map(|pods| places(node, pods.get(name).map(Arc::as_ref))).unwrap_or_default();
        let mut sums: BTreeMap<[String; 3], (u64, BTreeMap<String, u64>)> = BTreeMap::new();
        let mut cpu: BTreeMap<[String; 3], u64> = BTreeMap::new();
        let named = |kind: &str, name: &str, id: &str| [kind.to_owned(), name.to_owned(), id.to_owned()];
        let workload_key = |workload: &Workload| match shown(workload) {
            true if workload.own_program().is_some() => named(OWN, &workload.name, &workload.id),
            true => named(kind_name(workload.kind), &workload.name, &workload.id),
            false => named("not shown", "other workloads", ""),
        };
        for (entry, energy) in &node.cell.entries {
            let key = match &entry.account {
                Account::Service(service) => service_key(service),
                Account::Workload(workload) => workload_key(workload),
                Account::System => named("kernel", "system", ""),
                Account::PoolIdle => named("idle", "pool idle", ""),
                Account::Platform => named("platform", "platform", ""),
                Account::Unattributed => named("unattributed", "unattributed", ""),
            };
            let sum = sums.entry(key).or_default();
            sum.0 = sum.0.saturating_add(*energy);
            *sum.1.entry(entry.component.name().to_owned()).or_default() += energy;
        }
        for (workload, used) in &node.cell.workloads {
            let key = if workload.kind == WorkloadKind::Kernel {
                named("kernel", "system", "")
            } else {
                workload_key(workload)
            };
            *cpu.entry(key).or_default() += used.cpu_nanos;
        }
        for (service, used) in &node.cell.services {
            *cpu.entry(service_key(service)).or_default() += used.cpu_nanos;
        }
        let methods = methods(&node.cell);
        for (parts, (energy, components)) in sums {
            let mut columns =
                vec![("node", name.as_str()), ("kind", &parts[0]), ("name", &parts[1]), ("id", &parts[2])];
            if pods.is_some() {
                let place = places.get(parts[2].as_str()).copied();
                let part = |of: fn(&PodIdentity) -> Option<&String>| place.and_then(of).map_or("", String::as_str);
                columns.extend([
                    ("namespace", part(|pod| Some(&pod.namespace))),
                    ("pod", part(|pod| Some(&pod.name))),
                    ("tenant", part(|pod| pod.tenant.as_ref())),
                    ("pool", part(|pod| pod.pool.as_ref())),
                    ("support_of", part(|pod| pod.support_of.as_ref())),
                    ("training_of", part(|pod| pod.training_of.as_ref())),
                ]);
            }
            let mut row = row(key(&columns), Amount::of_node(node, energy), components, &methods);
            row.cpu_seconds = cpu.get(&parts).map(|nanos| cpu_seconds(*nanos));
            rows.push(row);
        }
    }
    rows
}

/// The pod of each workload of a node, by the workload's identity: as the cells say, else as its series do.
fn places<'a>(node: &'a NodeTotals, known: Option<&'a NodePods>) -> BTreeMap<&'a str, &'a PodIdentity> {
    let accounts = node.cell.entries.keys().filter_map(|entry| match &entry.account {
        Account::Workload(workload) => Some(workload),
        _ => None,
    });
    let workloads = accounts.chain(node.cell.workloads.keys());
    let told = workloads.filter_map(|workload| Some((workload.id.as_str(), workload.pod.as_ref()?)));
    known.into_iter().flat_map(NodePods::named).chain(told).collect()
}

fn service_key(service: &joulebook_units::Service) -> [String; 3] {
    let id = service.workload.clone().unwrap_or_default();
    ["model".to_owned(), version_name(&ModelVersion::of(service)), id]
}

fn kind_name(kind: WorkloadKind) -> &'static str {
    match kind {
        WorkloadKind::Container => "container",
        WorkloadKind::Unit => "unit",
        WorkloadKind::Cgroup => "cgroup",
        WorkloadKind::ProcessTree => "process",
        WorkloadKind::Kernel => "kernel",
        WorkloadKind::Remainder => "remainder",
    }
}

fn by_source(nodes: &BTreeMap<String, NodeTotals>) -> Vec<EnergyRow> {
    let mut rows = Vec::new();
    for (name, node) in nodes {
        for (source, used) in &node.cell.sources {
            let component = source.component.name();
            let contained = if source.contained { "yes" } else { "" };
            let layer = source.layer().map_or("", Layer::name);
            let columns = [
                ("node", name.as_str()),
                ("source", &source.id),
                ("component", component),
                ("contained", contained),
                ("layer", layer),
            ];
            let amount = Amount::of_node(node, used.microjoules);
            rows.push(row(key(&columns), amount, BTreeMap::new(), &BTreeSet::from([source.method])));
        }
    }
    rows
}

fn by_component(nodes: &BTreeMap<String, NodeTotals>) -> Vec<EnergyRow> {
    let mut sums: BTreeMap<&str, (Amount, BTreeSet<Method>)> = BTreeMap::new();
    for node in nodes.values() {
        for source in node.cell.sources.keys().filter(|key| key.is_part()) {
            sums.entry(source.component.name()).or_default().1.insert(source.method);
        }
        // From the entries, which are scaled where the wall is trusted.
        for (entry, energy) in node.cell.entries.iter().filter(|(entry, _)| entry.account != Account::Platform) {
            sums.entry(entry.component.name()).or_default().0.add(Amount::of_node(node, *energy));
        }
        let sum = sums.entry("platform").or_default();
        sum.0.add(Amount::of_node(node, node.cell.platform_microjoules()));
        sum.1.extend(platform_methods(&node.cell));
    }
    sums.into_iter()
        .map(|(name, (amount, methods))| row(key(&[("component", name)]), amount, BTreeMap::new(), &methods))
        .collect()
}

/// Methods of a cell's platform: those of its wall meters, and estimation where there was none.
fn platform_methods(cell: &Cell) -> BTreeSet<Method> {
    let estimated = is_estimated(cell).then_some(Method::Estimated);
    cell.input.meters.keys().map(|meter| meter.method).chain(estimated).collect()
}

fn node_row(name: &str, node: &NodeTotals) -> EnergyRow {
    let mut parts: BTreeMap<String, u64> = BTreeMap::new();
    for (entry, energy) in &node.cell.entries {
        let part = if entry.account == Account::Platform { "platform" } else { entry.component.name() };
        *parts.entry(part.to_owned()).or_default() += energy;
    }
    let amount = Amount::of_node(node, node.cell.total_microjoules());
    row(key(&[("node", name)]), amount, parts, &methods(&node.cell))
}
