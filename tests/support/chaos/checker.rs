//! Holds the aggregator to what the oracle knows, through its public interface only.

use super::oracle::{Hours, Known, Oracle, hours, touched};
use super::plan::{Plan, ROWS, RigClock, SOURCES, STEP};
use anyhow::{Context, Result, bail, ensure};
use joulebook_agent::clock::Clock;
use joulebook_proto::admin::admin_service_client::AdminServiceClient;
use joulebook_proto::admin::{DumpRequest, DumpResponse, GetStatusRequest};
use joulebook_proto::query::query_service_client::QueryServiceClient;
use joulebook_proto::query::{EnergyBy, GetEnergyRequest, TimeWindow};
use std::collections::{BTreeMap, BTreeSet};
use tokio::runtime::Runtime;
use tonic::transport::Channel;

/// What an aggregator says of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// Highest stored number.
    pub stored: u64,
    /// Records declared lost.
    pub lost: u64,
    /// Values refused.
    pub rejected: u64,
}

/// Clients of one aggregator.
#[derive(Debug)]
pub struct Checker {
    plan: Plan,
    admin: AdminServiceClient<Channel>,
    query: QueryServiceClient<Channel>,
}

impl Checker {
    /// Connects.
    pub async fn connect(plan: Plan, endpoint: &str) -> Result<Self> {
        Ok(Self::over(plan, Channel::from_shared(endpoint.to_owned())?.connect().await?))
    }

    /// Over a connection that is open.
    pub fn over(plan: Plan, channel: Channel) -> Self {
        let query = QueryServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20);
        Self { plan, admin: AdminServiceClient::new(channel), query }
    }

    /// What the oracle knows of every node beside how far the aggregator stored it, once every record was compared.
    ///
    /// # Errors
    /// A promise that was broken before, or a record or sum that is not as it was made.
    pub fn compare(
        plan: Plan,
        oracle: &Oracle,
        endpoint: &str,
        runtime: &Runtime,
    ) -> Result<BTreeMap<u32, (Known, Mark)>> {
        let all = oracle.all();
        let broken: Vec<_> = all.values().flat_map(|known| known.broken.iter()).collect();
        ensure!(broken.is_empty(), "{broken:?}");
        let mut marks = runtime.block_on(async { Self::connect(plan, endpoint).await?.check(&all).await })?;
        Ok(all.into_iter().map(|(node, known)| (node, (known, marks.remove(&node).unwrap_or_default()))).collect())
    }

    /// Whether everything that was acknowledged is stored.
    ///
    /// # Errors
    /// What is missing, by node.
    pub fn keeps(plan: Plan, promised: &BTreeMap<u32, u64>, endpoint: &str, runtime: &Runtime) -> Result<()> {
        let marks =
            runtime.block_on(async { Self::connect(plan, endpoint).await?.marks(promised.keys().copied()).await })?;
        let lost: Vec<_> = promised.iter().filter(|(node, acked)| marks[node].stored < **acked).collect();
        ensure!(lost.is_empty(), "acknowledged and not stored: {lost:?}");
        Ok(())
    }

    /// How far every node is stored; one that the aggregator never met has nothing.
    pub async fn marks(&mut self, nodes: impl IntoIterator<Item = u32>) -> Result<BTreeMap<u32, Mark>> {
        let status = self.admin.get_status(GetStatusRequest {}).await?.into_inner();
        let mut marks = BTreeMap::new();
        for node in nodes {
            let mut mark = Mark::default();
            for told in status.nodes.iter().filter(|told| told.node == Plan::node(node)) {
                ensure!(told.streams.len() <= 1, "node {node} has {} streams", told.streams.len());
                for stream in &told.streams {
                    mark = Mark {
                        stored: stream.acked_sequence,
                        lost: stream.lost_records,
                        rejected: stream.rejected_samples,
                    };
                }
            }
            marks.insert(node, mark);
        }
        Ok(marks)
    }

    /// Every record of every node is stored once and as it was made, up to the aggregator's mark, and every sum by node,
    /// source and hour is the oracle's. Returns the marks.
    ///
    /// # Errors
    /// The first thing that is not so.
    pub async fn check(&mut self, all: &BTreeMap<u32, Known>) -> Result<BTreeMap<u32, Mark>> {
        let before = self.marks(all.keys().copied()).await?;
        let mut sums: BTreeMap<(u32, i64, &str), u64> = BTreeMap::new();
        for (node, known) in all {
            let mark = before.get(node).copied().unwrap_or_default();
            ensure!(mark.stored >= known.acked, "node {node}: {} acknowledged, {} stored", known.acked, mark.stored);
            ensure!(mark.stored <= known.durable(), "node {node}: {} made, {} stored", known.durable(), mark.stored);
            let last = self.plan.at(known.durable() * ROWS);
            ensure!(
                last < RigClock.wall(),
                "void: the plan of node {node} has reached the present: fewer faults a run"
            );
            self.records(*node, known, mark.stored).await.with_context(|| format!("node {node}"))?;
            let epochs = known.epochs.get(..usize::try_from(mark.stored)?).unwrap_or_default();
            let own: Hours = hours(&self.plan, *node, epochs);
            sums.extend(own.into_iter().map(|((hour, source), energy)| ((*node, hour, source), energy)));
        }
        let stored = self.sums(all.keys().copied(), before.values().map(|mark| mark.stored).max().unwrap_or(0)).await?;
        for key in sums.keys().chain(stored.keys()).collect::<BTreeSet<_>>() {
            let (made, found) = (sums.get(key), stored.get(key));
            ensure!(made == found, "(node, hour, source) {key:?}: made {made:?} uJ, the aggregator answers {found:?}");
        }
        Ok(before)
    }

    /// The stored records of a node are 1 to `stored`, each once in each series, with the values of the plan.
    async fn records(&mut self, node: u32, known: &Known, stored: u64) -> Result<()> {
        let request = DumpRequest { node: Plan::node(node), ..DumpRequest::default() };
        let mut runs = match self.admin.dump(request).await {
            Ok(runs) => runs.into_inner(),
            Err(status) if status.code() == tonic::Code::NotFound && stored == 0 => return Ok(()),
            Err(status) => return Err(status.into()),
        };
        let mut found: BTreeMap<(usize, u64), (u64, u64)> = BTreeMap::new();
        while let Some(run) = runs.message().await? {
            let ends =
                self.record(node, known, &run).with_context(|| format!("record {} {}", run.sequence, run.series))?;
            if found.insert((ends.0, run.sequence), ends.1).is_some() {
                bail!("record {} is stored twice: {}", run.sequence, run.series);
            }
        }
        for (source, name) in SOURCES.iter().enumerate() {
            let mut end = 0;
            for sequence in 1..=stored {
                let ends = found.remove(&(source, sequence));
                let (first, last) = ends.with_context(|| format!("record {sequence} is missing: {name}"))?;
                ensure!(first == end, "record {sequence} begins at {first}, the one before ends at {end}");
                end = last;
            }
        }
        ensure!(found.is_empty(), "records above the mark {stored} are stored: {:?}", found.keys().next());
        Ok(())
    }

    /// The source of a run, and its value before and after.
    fn record(&self, node: u32, known: &Known, run: &DumpResponse) -> Result<(usize, (u64, u64))> {
        let named = |source: &&str| run.series == format!("energy {source}");
        let source = SOURCES.iter().position(named).context("an unknown series")?;
        let index = usize::try_from(run.sequence)?.checked_sub(1).context("record 0")?;
        let epoch = *known.epochs.get(index).context("a record that was never made")?;
        let first = index as u64 * ROWS;
        let mut points: Vec<(i64, u64)> = run.points.iter().map(|point| (point.unix_nanos, point.value)).collect();
        if first == 0 {
            // Nothing is known before the first row.
            let (at, value) = *points.first().context("no points")?;
            points.insert(0, (at - i64::try_from(STEP)?, value));
        }
        ensure!(points.len() as u64 == ROWS + 1, "{} points", points.len());
        for ((row, pair), number) in (first..).zip(points.windows(2)).zip(0u64..) {
            let (rise, made) = (pair[1].1.checked_sub(pair[0].1), self.plan.energy(node, epoch, row, source));
            ensure!(rise == Some(made), "row {row} rises by {rise:?}, made {made}");
            let step = pair[1].0.abs_diff(pair[0].0);
            // Between records the aggregator may have measured the node's clock anew.
            ensure!(number == 0 || step == STEP, "row {row} is {step} ns behind the one before");
        }
        let value = |point: Option<&(i64, u64)>| point.map_or(0, |point| point.1);
        Ok((source, (value(points.first()), value(points.last()))))
    }

    /// Energy of every node, hour and source that has any.
    async fn sums(
        &mut self,
        nodes: impl IntoIterator<Item = u32>,
        records: u64,
    ) -> Result<BTreeMap<(u32, i64, &'static str), u64>> {
        let names: BTreeMap<String, u32> = nodes.into_iter().map(|node| (Plan::node(node), node)).collect();
        let mut sums = BTreeMap::new();
        for hour in touched(&self.plan, records) {
            let window = TimeWindow { start_unix_nanos: hour.0, end_unix_nanos: hour.plus_seconds(3600).0 };
            let request =
                GetEnergyRequest { window: Some(window), by: EnergyBy::Source.into(), ..GetEnergyRequest::default() };
            let answer = self.query.get_energy(request).await?.into_inner();
            for row in answer.rows {
                let part = |name: &str| row.key.iter().find(|part| part.name == name).map(|part| part.value.as_str());
                let node = part("node").and_then(|name| names.get(name)).context("a row of an unknown node")?;
                let source = SOURCES.iter().find(|source| part("source") == Some(**source)).context("a source")?;
                let energy = row.microjoules.context("an energy that is not known")?;
                if energy > 0 {
                    sums.insert((*node, hour.0, *source), energy);
                }
            }
        }
        Ok(sums)
    }
}
