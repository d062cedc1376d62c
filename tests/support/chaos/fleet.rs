//! Many agent cores in one process, for rigs in which agents are not faulted.

use super::agent::{Agent, spool_config};
use super::echo::Echo;
use super::latency::Latency;
use super::oracle::Oracle;
use super::plan::Plan;
use anyhow::{Context, Result, anyhow, bail};
use joulebook_agent::spool::Counters;
use joulebook_agent::uplink::{Security, UplinkCounters};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};

/// Agents of a fleet.
pub const NODES: u32 = 24;
/// Batches that the fleet makes in a second.
pub const BATCHES_A_SECOND: u32 = 360;
/// Most records a session may have sent and not got acknowledged.
const WINDOW: u64 = 64;

/// How large a fleet is.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Agents, numbered from `first` on.
    pub nodes: u32,
    /// The first one's number.
    pub first: u32,
    /// Batches that they make in a second, all together.
    pub batches_a_second: u32,
}

/// How far a fleet is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Produce,
    Drain,
}

/// Agents that send, and one that repeats itself.
pub struct Fleet {
    runtime: Runtime,
    order: watch::Sender<Order>,
    tasks: Vec<JoinHandle<Result<()>>>,
    watched: Vec<(watch::Receiver<Counters>, watch::Receiver<UplinkCounters>)>,
    echo: Option<JoinHandle<Result<()>>>,
    replays: Arc<AtomicU64>,
    latency: Latency,
}

impl Fleet {
    /// Starts the fleet with spools below `folder`, on plaintext, and a node that repeats itself.
    pub fn start(plan: Plan, oracle: &Oracle, folder: &Path, endpoint: &str) -> Result<Self> {
        let shape = Shape { nodes: NODES, first: 0, batches_a_second: BATCHES_A_SECOND };
        let to = |_| Ok((endpoint.to_owned(), Security::PlaintextOnLoopback));
        let mut fleet = Self::over(plan, oracle, folder, shape, to)?;
        let mut echo = Echo::new(plan, NODES, oracle.clone(), endpoint, Arc::clone(&fleet.replays));
        let mut ordered = fleet.order.subscribe();
        fleet.echo = Some(fleet.runtime.spawn(async move {
            tokio::select! {
                ended = echo.run() => return ended,
                _ = ordered.wait_for(|order| *order == Order::Drain) => {}
            }
            echo.finish().await
        }));
        Ok(fleet)
    }

    /// Starts a fleet each of whose nodes sends to an endpoint of its own, in the network namespace of this thread.
    pub fn over(
        plan: Plan,
        oracle: &Oracle,
        folder: &Path,
        shape: Shape,
        to: impl Fn(u32) -> Result<(String, Security)>,
    ) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (order, ordered) = watch::channel(Order::Produce);
        let (mut tasks, mut watched, latency) = (Vec::new(), Vec::new(), Latency::default());
        let entered = runtime.enter();
        let every = Duration::from_secs(1) * shape.nodes / shape.batches_a_second;
        for node in shape.first..shape.first + shape.nodes {
            let spool = spool_config(&folder.join(Plan::node(node)), false);
            let (endpoint, security) = to(node)?;
            let agent = Agent::over(plan, node, &spool, &endpoint, security)?;
            oracle.opened(node, agent.spool().session_epoch(), agent.state().highest);
            watched.push((agent.spool().watch(), agent.watch_uplink()));
            tasks.push(tokio::spawn(run(agent, node, every, oracle.clone(), latency.clone(), ordered.clone())));
        }
        drop(entered);
        Ok(Self { runtime, order, tasks, watched, echo: None, replays: Arc::default(), latency })
    }

    /// How long acknowledgements took.
    pub fn latency(&self) -> &Latency {
        &self.latency
    }

    /// Agents whose session is open.
    pub fn connected(&self) -> usize {
        self.watched.iter().filter(|(_, uplink)| uplink.borrow().connected).count()
    }

    /// Sessions that were answered, of all agents.
    pub fn sessions(&self) -> u64 {
        self.watched.iter().map(|(_, uplink)| uplink.borrow().sessions).sum()
    }

    /// The fleet's runtime.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Records that the repeating node sent again although they were acknowledged.
    pub fn replays(&self) -> u64 {
        self.replays.load(Ordering::Relaxed)
    }

    /// Records that are on their way: of agents with an open session, durable and not acknowledged.
    pub fn in_flight(&self) -> u64 {
        let waits = |(spool, uplink): &(watch::Receiver<Counters>, watch::Receiver<UplinkCounters>)| {
            let state = *spool.borrow();
            if uplink.borrow().connected { state.highest.saturating_sub(state.acked).min(WINDOW) } else { 0 }
        };
        self.watched.iter().map(waits).sum()
    }

    /// Values that the aggregator said it refused.
    pub fn rejected(&self) -> u64 {
        self.watched.iter().map(|(_, uplink)| uplink.borrow().rejected.values().sum::<u64>()).sum()
    }

    /// Sessions that began below what was acknowledged.
    pub fn regressions(&self) -> u64 {
        self.watched.iter().map(|(_, uplink)| uplink.borrow().ack_regressions).sum()
    }

    /// Records that the spools declared lost.
    pub fn lost(&self) -> u64 {
        self.watched.iter().map(|(spool, _)| spool.borrow().lost_records).sum()
    }

    /// Makes no more batches and waits until all of them are acknowledged.
    pub fn drain(&mut self, patience: Duration) -> Result<()> {
        self.order.send_replace(Order::Drain);
        let tasks = std::mem::take(&mut self.tasks);
        let echo = self.echo.take();
        let all = async {
            for task in tasks {
                task.await.context("an agent of the fleet")??;
            }
            match echo {
                Some(echo) => echo.await.context("the repeating node")?,
                None => Ok(()),
            }
        };
        let drained = self.runtime.block_on(async { timeout(patience, all).await });
        match drained {
            Ok(result) => result,
            Err(_) => bail!("the fleet was not drained in {patience:?}: {} records still wait", self.waiting()),
        }
    }

    /// Records that are durable and not acknowledged.
    pub fn waiting(&self) -> u64 {
        self.watched.iter().map(|(spool, _)| spool.borrow().highest.saturating_sub(spool.borrow().acked)).sum()
    }
}

async fn run(
    mut agent: Agent,
    node: u32,
    every: Duration,
    oracle: Oracle,
    latency: Latency,
    mut ordered: watch::Receiver<Order>,
) -> Result<()> {
    let mut state = agent.spool().watch();
    let mut ticks = interval(every);
    let mut pending = latency.node();
    loop {
        let order = *ordered.borrow();
        oracle.acked(node, agent.state().acked);
        pending.acked(agent.state().acked);
        if order == Order::Drain && agent.state().acked >= agent.state().highest {
            return Ok(());
        }
        tokio::select! {
            _ = ticks.tick(), if order == Order::Produce => {
                let sequence = agent.produce().await?;
                oracle.durable(node, sequence);
                pending.made(sequence);
            }
            changed = state.changed() => changed.map_err(|_| anyhow!("the spool of node {node} closed"))?,
            // A fleet that is gone orders nothing more; its runtime ends this task.
            _ = ordered.changed(), if order == Order::Produce => {}
        }
    }
}
