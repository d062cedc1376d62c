//! One number, term by term, and the balance of every node that it touches.

use super::gather::Slot;
use super::input::{is_estimated, meter_lag, platform_method};
use super::name::Names;
use super::question::Question;
use super::{Computed, MAX_ANSWER_BYTES, QueryError, rfc3339};
use joulebook_proto::query::{AccountBalance, ExplainResponse, MeterUse, NodeBalance, SciAnswer, Term};
use joulebook_sci::attribution::Measures;
use joulebook_sci::totals::NodeTotals;
use joulebook_sci::{Account, Cell, IdleRule, ModelVersion, Purpose, Rate, SlotTerm, VersionTotals};
use joulebook_units::Microjoules;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};

/// Sources of one collector that a term names one by one.
const NAMED_SOURCES: usize = 4;

/// The terms of one answer are longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the terms of this answer are more than {} MiB, the most that one may take: narrow the window{}",
    most >> 20,
    if *by_budget { ", or give the aggregator more (`memory_budget`, or the limit of its container)" } else { "" }
)]
pub struct Long {
    /// The most bytes that they may take as they are sent.
    pub most: u64,
    /// Whether what the process may have says so.
    pub by_budget: bool,
}

/// Terms that are listed slot by slot, of the one version that is selected.
pub struct Listed<'q> {
    question: &'q Question,
    /// The version that was seen, and every other one.
    seen: BTreeSet<ModelVersion>,
    terms: Vec<Term>,
    /// Bytes of the terms as they are sent, and the most that there may be.
    bytes: usize,
    most: Long,
}

impl<'q> Listed<'q> {
    /// Nothing yet, of at most so many bytes.
    pub fn new(question: &'q Question, budget: Option<u64>) -> Self {
        let longest = MAX_ANSWER_BYTES as u64;
        let most =
            Long { most: budget.unwrap_or(longest).min(longest), by_budget: budget.is_some_and(|most| most < longest) };
        Self { question, seen: BTreeSet::new(), terms: vec![], bytes: 0, most }
    }

    /// Lists what a slot says of the version.
    ///
    /// # Errors
    /// [`Long`] where there is no room for it.
    pub fn add(&mut self, slot: &Slot, terms: &BTreeMap<ModelVersion, Vec<SlotTerm>>) -> Result<(), QueryError> {
        for (version, parts) in terms.iter().filter(|(version, _)| self.question.selects(version)) {
            if !self.seen.contains(version) {
                self.seen.insert(version.clone());
            }
            if self.seen.len() > 1 {
                // There is no answer of several: who asks is told their names.
                self.terms = vec![];
                continue;
            }
            let from = self.terms.len();
            slot_terms(slot, parts, self.question.rule, &mut self.terms);
            self.bytes += self.terms.iter().skip(from).map(sent_bytes).sum::<usize>();
            if self.bytes as u64 > self.most.most {
                return Err(self.most.into());
            }
        }
        Ok(())
    }

    /// The answer of the version with its terms, their sums, and the balance of every node that it touches.
    pub fn into_answer(self, computed: &Computed<'_>, totals: &VersionTotals, answer: SciAnswer) -> ExplainResponse {
        let mut terms = self.terms;
        terms.extend(sums(totals, &answer));
        terms.extend(left_out(computed, totals));
        let nodes = computed.totals.nodes.iter().filter(|(name, _)| totals.nodes.contains(*name));
        let names = Names::of(computed.totals.versions.keys());
        let balances = nodes.map(|(name, node)| balance(name, node, &names)).collect();
        ExplainResponse { answer: Some(answer), terms, balances }
    }
}

/// Bytes of a term as it is sent: its tag, its length and itself.
fn sent_bytes(term: &Term) -> usize {
    let own = term.encoded_len();
    1 + prost::length_delimiter_len(own) + own
}

/// E, U, I, O and M of each node in a slot: Σ O and Σ M are the answer's grams.
fn slot_terms(slot: &Slot, parts: &[SlotTerm], rule: IdleRule, terms: &mut Vec<Term>) {
    for part in parts {
        let (Some(node), Some(site)) = (slot.nodes.get(part.node), slot.factors.get(part.node)) else {
            continue;
        };
        let place = format!("[{}, {}]", rfc3339(slot.window.start()), node.node);
        let term = |name: &str, formula: &str, value: f64, unit: &str, source: String| Term {
            name: format!("{name}{place}"),
            formula: formula.to_owned(),
            value: Some(value),
            unit: unit.to_owned(),
            source,
            microjoules: None,
            simulated: node.simulated,
        };
        let formula = "Σ entries of the version at the level";
        let mut energy = term("E", formula, part.energy.to_joules().0, "J", sources(&node.cell));
        energy.microjoules = Some(part.energy.0);
        terms.push(energy);
        // What of it is idle, and by what rule: pieces of E, added to nothing.
        let (policy, from) = (rule.policy.name(), rule.from.name());
        let by_policy = format!("of E: pool idle of the node by {policy}, looked for from the {from}");
        let pieces = [
            ("D", "of E: idle of what the version holds".to_owned(), part.dedicated_idle),
            ("P", by_policy, part.pool_idle),
        ];
        for (name, formula, idle) in pieces.into_iter().filter(|(_, _, idle)| idle.0 > 0) {
            let mut piece = term(name, &formula, idle.to_joules().0, "J", "ledger".to_owned());
            piece.microjoules = Some(idle.0);
            terms.push(piece);
        }
        terms.push(term("U", "PUE of the site", site.pue.get(), "1", site.pue_source.clone()));
        let mut intensity = term("I", "intensity of the grid", 0.0, "gCO2e/kWh", site.intensity_source.clone());
        match site.intensity {
            Rate::Known(value) => intensity.value = Some(value.get()),
            Rate::Between(low, high) => {
                intensity.value = None;
                intensity.source = format!("missing: between {} and {}", low.get(), high.get());
            }
        }
        terms.push(intensity);
        terms.push(term(
            "O",
            "E × U × I / 3.6e6 (U = 1 below facility level)",
            part.operational_g,
            "gCO2e",
            "computed".to_owned(),
        ));
        terms.push(term("M", "TE × time / life × share", part.embodied_g, "gCO2e", site.embodied_source.clone()));
        terms.push(term(
            "j",
            "part of O and M over time in which counts are known",
            part.joint_share,
            "1",
            "counts".to_owned(),
        ));
    }
}

/// The sources of a cell's energy: by name, or by kind where they are many.
fn sources(cell: &Cell) -> String {
    let mut by_collector: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for source in cell.sources.keys().filter(|source| source.is_part()) {
        by_collector.entry(&source.collector).or_default().push(&source.id);
    }
    let named = by_collector.into_iter().flat_map(|(collector, ids)| match ids.len() {
        0..=NAMED_SOURCES => ids.into_iter().map(str::to_owned).collect(),
        many => vec![format!("{collector} ({many} sources)")],
    });
    named.collect::<Vec<_>>().join(" + ")
}

fn sums(totals: &VersionTotals, answer: &SciAnswer) -> Vec<Term> {
    let carbon = &totals.carbon;
    let term = |name: &str, formula: &str, value: Option<f64>, unit: &str, source: &str| Term {
        name: name.to_owned(),
        formula: formula.to_owned(),
        value,
        unit: unit.to_owned(),
        source: source.to_owned(),
        microjoules: None,
        simulated: answer.simulated,
    };
    let sci = answer.sci.clone().unwrap_or_default();
    let r = answer.r.clone().unwrap_or_default();
    let mut terms = vec![
        term("O", "Σ O[…]", Some(carbon.operational.get()), "gCO2e", "computed"),
        term("M", "Σ M[…]", Some(carbon.embodied.get()), "gCO2e", "computed"),
        term("C", "Σ (O[…] + M[…]) × j[…]", Some(carbon.joint.get()), "gCO2e", "computed"),
        term(
            "R",
            "Σ counts of the servers",
            r.value,
            &r.kind,
            &if r.value.is_some() {
                totals.services.iter().map(|service| service.target.as_str()).collect::<Vec<_>>().join(" + ")
            } else {
                sci.null_reason.clone().unwrap_or_default()
            },
        ),
        term("SCI", "C / R", sci.value, &sci.unit, &sci.null_reason.clone().unwrap_or_else(|| "computed".to_owned())),
    ];
    terms.extend(carbon.deviations.by_source().map(|(source, deviation)| {
        term("δ", "Σ terms × half-width; sources of error add in quadrature", Some(deviation), "gCO2e", source)
    }));
    terms
}

/// What servers of the version tell of themselves, and another place counts: it is in no sum.
fn left_out(computed: &Computed<'_>, totals: &VersionTotals) -> Vec<Term> {
    let mut terms = Vec::new();
    for (name, node) in computed.totals.nodes.iter().filter(|(name, _)| totals.served_on.contains(*name)) {
        let told = node.cell.services.iter().filter(|(_, used)| used.measures.contains(Measures::LEFT_OUT));
        for (told, _) in told {
            let mut pages =
                totals.services.iter().filter(|page| page.workload == told.workload && page.engine != told.engine);
            let Some(page) = pages.next() else { continue };
            let model = told.model.as_deref().unwrap_or("no model");
            terms.push(Term {
                name: format!("left out[{name}, {}]", told.target),
                formula: format!("counts of {model} by {}: {} counts the same requests", told.engine, page.engine),
                value: None,
                unit: String::new(),
                source: page.target.clone(),
                microjoules: None,
                simulated: node.simulated,
            });
        }
    }
    terms
}

/// Every joule of a node: input + overcount = Σ accounts.
fn balance(name: &str, node: &NodeTotals, names: &Names<'_>) -> NodeBalance {
    let mut accounts: BTreeMap<(String, String), AccountBalance> = BTreeMap::new();
    for (entry, energy) in &node.cell.entries {
        let (account, owner) = match &entry.account {
            Account::Service(service) => ("model", names.full(&ModelVersion::of(service))),
            Account::Workload(workload) => ("workload", format!("{} {}", workload.name, workload.id)),
            Account::System => ("system", String::new()),
            Account::PoolIdle => ("pool_idle", String::new()),
            Account::Platform => ("platform", String::new()),
            Account::Unattributed => ("unattributed", String::new()),
        };
        let purpose = match entry.purpose {
            Purpose::Dynamic => "dynamic",
            Purpose::Base => "base",
            Purpose::DedicatedIdle => "dedicated_idle",
            Purpose::PoolIdle => "idle",
            Purpose::Residual => "residual",
        };
        let balance = accounts.entry((account.to_owned(), owner.clone())).or_insert_with(|| AccountBalance {
            account: account.to_owned(),
            name: owner,
            ..AccountBalance::default()
        });
        balance.microjoules = balance.microjoules.saturating_add(*energy);
        *balance.parts.entry(format!("{}_{purpose}", entry.component.name())).or_default() += energy;
    }
    let booked: i128 = accounts.values().map(|account| i128::from(account.microjoules)).sum();
    let residual = i128::from(node.input()) + i128::from(node.cell.overcount_microjoules) - booked;
    let sources = node.cell.sources.iter().filter(|(key, _)| key.is_part());
    NodeBalance {
        node: name.to_owned(),
        input_microjoules: node.input(),
        input_estimated: is_estimated(&node.cell),
        overcount_microjoules: node.cell.overcount_microjoules,
        accounts: accounts.into_values().collect(),
        residual_microjoules: i64::try_from(residual).unwrap_or(i64::MAX),
        simulated: node.simulated,
        platform_method: platform_method([&node.cell].into_iter()).to_owned(),
        platform_bound_microjoules: node.cell.input.bound_microjoules,
        measured_input_microjoules: node.cell.measured_input_microjoules(),
        meters: meters(&node.cell),
        source_microjoules: sources.map(|(key, used)| (key.id.clone(), Microjoules(used.microjoules).0)).collect(),
    }
}

/// Meters of a cell that contain parts or nodes.
fn meters(cell: &Cell) -> Vec<MeterUse> {
    let meters = cell.sources.iter().filter_map(|(key, used)| Some((key.layer()?, key, used)));
    let seconds = |key| {
        let nanos = cell.input.meters.get(key).copied().unwrap_or(0);
        std::time::Duration::from_nanos(nanos).as_secs_f64()
    };
    meters
        .map(|(layer, key, used)| MeterUse {
            source_id: key.id.clone(),
            layer: layer.name().to_owned(),
            microjoules: used.microjoules,
            wall_seconds: seconds(key),
            lag: meter_lag(cell, key),
        })
        .collect()
}
