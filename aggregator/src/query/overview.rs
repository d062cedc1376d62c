//! A window as a whole, for those who show figures over time: every model version's answer and every node's accounts,
//! of one computation, so that they fit together.

use super::accelerator;
use super::amount::Amount;
use super::energy::{covered_share, left_over};
use super::gather::{pool_name, site_name};
use super::name::digest;
use super::own;
use super::question::Question;
use super::{Computed, Query, QueryError, answer};
use joulebook_proto::query::{GetSciRequest, SciAnswer, TimeWindow};
use joulebook_sci::totals::NodeTotals;
use joulebook_sci::{Account, ModelVersion, Purpose};
use joulebook_units::{Component, Share, Window};
use std::collections::BTreeMap;

/// A window as a whole.
#[derive(Debug)]
pub struct Overview {
    /// The window as it was answered.
    pub window: Window,
    /// Model versions.
    pub versions: Vec<VersionView>,
    /// Energy in µJ of what is charged to no version, by account, and of all versions (`model versions`): their sum is that
    /// of the nodes.
    pub accounts: BTreeMap<&'static str, u64>,
    /// Nodes of which something is known in the window.
    pub nodes: Vec<NodeView>,
}

/// A model version.
#[derive(Debug)]
pub struct VersionView {
    /// Model as served; "" if nothing names it.
    pub model: String,
    /// Version; "" if unresolved.
    pub version: String,
    /// Fingerprint of the weights; "" if unknown.
    pub weights: String,
    /// Digest of the set-up; "" if unknown.
    pub serving_config: String,
    /// Its answer at the facility level under the default policy.
    pub answer: SciAnswer,
}

/// A node.
#[derive(Debug)]
pub struct NodeView {
    /// Its name.
    pub node: String,
    /// Its pool.
    pub pool: String,
    /// Its site; "" without one.
    pub site: String,
    /// Whether its hardware is simulated.
    pub simulated: bool,
    /// Energy in µJ by account, before idle is charged to anybody.
    pub accounts: BTreeMap<&'static str, u64>,
    /// Energy of its parts beyond the meter at its input, in µJ.
    pub overcount: u64,
    /// Part of the window in which its energy is known.
    pub coverage: Option<f64>,
    /// Part of its accelerators' time in which something held them.
    pub held: Option<f64>,
    /// Energy in µJ of Joulebook's own processes on it, by program; what is not known is not there.
    pub own: BTreeMap<&'static str, u64>,
    /// What meters it.
    pub sources: Vec<SourceView>,
}

/// A source of a node's energy.
#[derive(Debug, Clone)]
pub struct SourceView {
    /// Its identity within the node.
    pub id: String,
    /// The part it meters.
    pub component: Component,
    /// For an accelerator: its identity and model.
    pub device: Option<(String, String)>,
    /// For an accelerator: its own memory in bytes, if it is known.
    pub memory_bytes: Option<u64>,
    /// Whether another source contains it, or it contains others: then it is never added.
    pub beside: bool,
    /// Energy in µJ.
    pub microjoules: u64,
}

impl NodeView {
    /// Its energy in µJ: Σ accounts.
    pub fn energy(&self) -> u64 {
        self.accounts.values().fold(0, |sum, energy| sum.saturating_add(*energy))
    }
}

impl Query {
    /// A window as a whole, at the facility level under the default policy.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn overview(&self, window: Window) -> Result<Overview, QueryError> {
        let asked = TimeWindow { start_unix_nanos: window.start().0, end_unix_nanos: window.end().0 };
        let question = Question::parse(&GetSciRequest { window: Some(asked), ..GetSciRequest::default() })?;
        let computed = self.compute(&question)?;
        let context = answer::Context {
            computed: &computed,
            question: &question,
            factors: &computed.factors,
            book: &self.book,
            generated_at: self.clock.unix(),
            share: None,
        };
        let mut versions = Vec::new();
        let mut charged = 0u64;
        for (version, totals) in &computed.totals.versions {
            charged = charged.saturating_add(totals.cost.with_idle());
            versions.push(view(version, context.answer(version, totals)?));
        }
        let none = Amount::default();
        let left = left_over(&computed.totals, none, none).map(|(name, amount)| (name, amount.microjoules));
        Ok(Overview {
            window: computed.gathered.window,
            versions,
            accounts: left.chain([("model versions", charged)]).collect(),
            nodes: nodes(&computed),
        })
    }
}

fn view(version: &ModelVersion, answer: SciAnswer) -> VersionView {
    VersionView {
        model: version.model.clone().unwrap_or_default(),
        version: version.version.clone().unwrap_or_default(),
        weights: version.weights.clone().unwrap_or_default(),
        serving_config: digest(&version.configuration).unwrap_or_default(),
        answer,
    }
}

fn nodes(computed: &Computed<'_>) -> Vec<NodeView> {
    let members: BTreeMap<&str, _> =
        computed.gathered.members.iter().map(|member| (member.record.inventory.node.as_str(), member)).collect();
    let view = |(name, node): (&String, &NodeTotals)| {
        let member = members.get(name.as_str());
        let sources = node.cell.sources.iter().map(|(key, used)| SourceView {
            id: key.id.clone(),
            component: key.component,
            device: (key.component == Component::Accelerator)
                .then(|| member.map(|member| accelerator::names(member, &key.id)))
                .flatten(),
            memory_bytes: (key.component == Component::Accelerator)
                .then(|| member.and_then(|member| accelerator::memory(member, &key.id)))
                .flatten(),
            beside: !key.is_part(),
            microjoules: used.microjoules,
        });
        NodeView {
            node: name.clone(),
            pool: member.map(|member| pool_name(&member.record)).unwrap_or_default(),
            site: member.map(|member| site_name(&member.record)).unwrap_or_default(),
            simulated: node.simulated,
            accounts: accounts(node),
            overcount: node.cell.overcount_microjoules,
            coverage: covered_share([&node.cell].into_iter()).map(Share::get),
            held: held(node),
            own: own::of_node(node),
            sources: sources.collect(),
        }
    };
    computed.totals.nodes.iter().map(view).collect()
}

/// Energy of a node in µJ by account; every account is there.
fn accounts(node: &NodeTotals) -> BTreeMap<&'static str, u64> {
    let names = ["model", "dedicated_idle", "workloads", "system", "pool_idle", "platform", "unattributed"];
    let mut accounts: BTreeMap<&'static str, u64> = names.into_iter().map(|name| (name, 0)).collect();
    for (entry, energy) in &node.cell.entries {
        let name = match (&entry.account, entry.purpose) {
            (Account::Service(_), Purpose::DedicatedIdle) => "dedicated_idle",
            (Account::Service(_), _) => "model",
            (Account::Workload(_), _) => "workloads",
            (Account::System, _) => "system",
            (Account::PoolIdle, _) => "pool_idle",
            (Account::Platform, _) => "platform",
            (Account::Unattributed, _) => "unattributed",
        };
        let sum = accounts.entry(name).or_default();
        *sum = sum.saturating_add(*energy);
    }
    accounts
}

/// Part of the accelerators' time in which services held them; none where no accelerator is metered.
#[allow(clippy::cast_precision_loss, reason = "a ratio")]
fn held(node: &NodeTotals) -> Option<f64> {
    let held = node.cell.services.values().fold(0u64, |sum, used| sum.saturating_add(used.reserved_device_nanos));
    let capacity = node.cell.capacity_device_nanos;
    (capacity > 0).then(|| (held as f64 / capacity as f64).min(1.0))
}
