//! One simulation: agents that send, an aggregator, faults for a while, then peace; at the end everything is compared.

use super::disk::Disk;
use super::oracle::Oracle;
use super::time::{SimulatedClock, Time};
use super::wire::{AGGREGATOR, SimulatedNetwork, serve};
use anyhow::{Context, Result, anyhow, ensure};
use joulebook_agent::spool::Spool;
use joulebook_agent::uplink::{Network, Security};
use joulebook_aggregator::ingest::{self, Intake};
use joulebook_aggregator::store::Book;
use joulebook_aggregator::store::space::{Least, Space};
use joulebook_tests::chaos::agent::{Agent, spool_config, uplink_config};
use joulebook_tests::chaos::plan::Plan;
use joulebook_tests::chaos::{Random, folder_in_memory};
use joulebook_units::UnixNanos;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tonic::service::Routes;
use turmoil::Sim;

const NODES: u32 = 3;
const TICK: Duration = Duration::from_millis(100);
/// Steps with faults, then steps in which what is left must arrive: longer than the longest wait before connecting anew
/// and than a dead connection lives.
const FAULTY: u64 = 1_800;
const PEACEFUL: u64 = 3_000;
/// By then every agent has told how it stands.
const SETTLING: u64 = 20;
/// An agent makes a batch this often.
const BATCH: Duration = Duration::from_millis(700);
/// Spoken of only; the simulated network leads to the one aggregator.
const ENDPOINT: &str = "http://127.0.0.1:7443";
const SECOND: i64 = UnixNanos::PER_SECOND;
/// How wrong a wall clock may be set.
const WRONG: [i64; 6] =
    [0, -SECOND, 3_600 * SECOND, -3_600 * SECOND, 10 * 365 * 86_400 * SECOND, -10 * 365 * 86_400 * SECOND];

/// How often what happened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Records made.
    pub records: u64,
    /// Streams begun after an outage.
    pub streams: u64,
    /// Agents that crashed, with a record half written.
    pub agent_crashes: u64,
    /// Crashes of the aggregator.
    pub aggregator_crashes: u64,
    /// Links that were cut or held, both ways or one.
    pub cuts: u64,
    /// Wall clocks that were set.
    pub clocks: u64,
}

impl Counts {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.streams += other.streams;
        self.agent_crashes += other.agent_crashes;
        self.aggregator_crashes += other.aggregator_crashes;
        self.cuts += other.cuts;
        self.clocks += other.clocks;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, streams, agent_crashes, aggregator_crashes, cuts, clocks } = self;
        write!(f, "{records} records, {streams} later streams, {agent_crashes} crashes of agents, ")?;
        write!(f, "{aggregator_crashes} of the aggregator, {cuts} cuts, {clocks} clocks set")
    }
}

/// What a run showed.
#[derive(Debug)]
pub struct Outcome {
    /// Every fault, and every change of what is durable or acknowledged, with its step.
    pub events: Vec<String>,
    /// How often what happened.
    pub counts: Counts,
}

/// What is wrong with a link.
#[derive(Debug, Clone, Copy)]
enum Cut {
    Both,
    ToAggregator,
    FromAggregator,
    Held,
}

/// An agent's side.
struct Node {
    name: String,
    clock: SimulatedClock,
    /// Step at which it starts again.
    down: Option<u64>,
    /// What is wrong with its link, and the step at which that ends.
    cut: Option<(Cut, u64)>,
}

struct World<'a> {
    sim: Sim<'a>,
    random: Random,
    folder: &'a Path,
    disk: Arc<Disk>,
    oracle: Oracle,
    nodes: Vec<Node>,
    aggregator_down: Option<u64>,
    counts: Counts,
    events: Vec<String>,
}

/// Runs a seed: fails where a record is lost, stored twice or altered, or never arrives.
pub fn run(seed: u64) -> Result<Outcome> {
    let mut random = Random::new(seed);
    let plan = Plan { seed, boot: 1 << 40, wall: 1_790_000_000 * SECOND + i64::try_from(seed)? };
    let (folder, time, oracle, disk) = (folder_in_memory()?, Time::default(), Oracle::default(), Arc::default());
    let producing = Arc::new(AtomicBool::new(true));
    let mut builder = turmoil::Builder::new();
    builder.rng_seed(random.next()).tick_duration(TICK).enable_random_order().tcp_capacity(1 << 12);
    builder.min_message_latency(Duration::from_millis(1)).max_message_latency(Duration::from_millis(150));
    let mut sim = builder.simulation_duration(TICK * 20_000).build();

    let clock = SimulatedClock::new(plan, &time);
    let (aggregator_clock, aggregator_disk) = (clock.clone(), Arc::clone(&disk));
    sim.host(AGGREGATOR, move || aggregate(Arc::clone(&aggregator_disk), aggregator_clock.clone()));
    let network: Arc<dyn Network> = Arc::new(SimulatedNetwork::new(random.next()));
    let mut nodes = Vec::new();
    for number in 0..NODES {
        let (name, clock) = (Plan::node(number), SimulatedClock::new(plan, &time));
        let spool = spool_config(&folder.path().join(&name), false);
        let (oracle, producing) = (oracle.clone(), Arc::clone(&producing));
        let (node_clock, network) = (clock.clone(), Arc::clone(&network));
        sim.host(name.as_str(), move || {
            let (spool, oracle, producing) = (spool.clone(), oracle.clone(), Arc::clone(&producing));
            let (clock, network) = (Arc::new(node_clock.clone()), Arc::clone(&network));
            async move {
                let opened = Spool::open_on_runtime(&spool)?;
                let config = uplink_config(plan, number, ENDPOINT, Security::PlaintextOnLoopback);
                let agent = Agent::with(plan, number, opened, config, clock, network)?;
                Ok(produce(agent, number, &oracle, &producing).await?)
            }
        });
        nodes.push(Node { name, clock, down: None, cut: None });
    }

    let (counts, events) = (Counts::default(), Vec::new());
    let mut world = World {
        sim,
        random,
        folder: folder.path(),
        disk,
        oracle: oracle.clone(),
        nodes,
        aggregator_down: None,
        counts,
        events,
    };
    let mut told = String::new();
    for step in 0..FAULTY + PEACEFUL {
        if step < FAULTY {
            world.faults(step)?;
        } else if step == FAULTY {
            world.heal(step)?;
            producing.store(false, Ordering::Relaxed);
        } else if step > FAULTY + SETTLING && oracle.waiting() == 0 {
            break;
        }
        time.set(world.sim.elapsed());
        world.sim.step().map_err(|error| anyhow!("step {step}: {error}"))?;
        let state = oracle.words();
        if state != told {
            world.event(step, &state);
            told = state;
        }
    }
    ensure!(oracle.waiting() == 0, "{} records never arrived", oracle.waiting());
    let World { counts, events, disk, .. } = world;
    oracle.check_all(plan, &Book::open(disk)?).with_context(|| events.join("\n"))?;
    let (records, streams) = oracle.totals();
    Ok(Outcome { events, counts: Counts { records, streams, ..counts } })
}

impl World<'_> {
    fn event(&mut self, step: u64, what: &str) {
        self.events.push(format!("{step} {what}"));
    }

    fn chance(&mut self, in_steps: u64) -> bool {
        self.random.below(in_steps) == 0
    }

    /// Begins and ends faults.
    fn faults(&mut self, step: u64) -> Result<()> {
        let crashes = self.chance(400);
        match self.aggregator_down {
            Some(until) if until <= step => self.restart_aggregator(),
            None if crashes => {
                self.sim.crash(AGGREGATOR);
                let random = &mut self.random;
                self.disk.crash(|buffered| usize::try_from(random.below(buffered as u64 + 1)).unwrap_or(0))?;
                let disk: Arc<Disk> = Arc::clone(&self.disk);
                self.oracle
                    .check_promises(&Book::open(disk)?)
                    .with_context(|| format!("after a crash in step {step}"))?;
                self.aggregator_down = Some(step + self.random.below(120));
                self.counts.aggregator_crashes += 1;
                self.event(step, "the aggregator crashes");
            }
            _ => {}
        }
        for index in 0..self.nodes.len() {
            self.fault_of(index, step)?;
        }
        Ok(())
    }

    fn fault_of(&mut self, index: usize, step: u64) -> Result<()> {
        let name = self.nodes[index].name.clone();
        let (crashes, is_cut) = (self.chance(300), self.chance(200));
        match self.nodes[index].down {
            Some(until) if until <= step => self.restart_agent(index)?,
            None if crashes => {
                self.sim.crash(name.as_str());
                self.nodes[index].down = Some(step + self.random.below(80));
                self.counts.agent_crashes += 1;
                self.event(step, &format!("{name} crashes"));
            }
            _ => {}
        }
        match self.nodes[index].cut {
            Some((_, until)) if until <= step => self.mend(index),
            None if is_cut => {
                let cut = match self.random.below(4) {
                    0 => Cut::Both,
                    1 => Cut::ToAggregator,
                    2 => Cut::FromAggregator,
                    _ => Cut::Held,
                };
                match cut {
                    Cut::Both => self.sim.partition(name.as_str(), AGGREGATOR),
                    Cut::ToAggregator => self.sim.partition_oneway(name.as_str(), AGGREGATOR),
                    Cut::FromAggregator => self.sim.partition_oneway(AGGREGATOR, name.as_str()),
                    Cut::Held => self.sim.hold(name.as_str(), AGGREGATOR),
                }
                self.nodes[index].cut = Some((cut, step + 1 + self.random.below(1_000)));
                self.counts.cuts += 1;
                self.event(step, &format!("{name}: {cut:?}"));
            }
            _ => {}
        }
        if self.chance(250) {
            let wrong = WRONG[usize::try_from(self.random.below(WRONG.len() as u64))?];
            self.nodes[index].clock.set_wrong(wrong);
            self.counts.clocks += 1;
            self.event(step, &format!("{name}: its wall clock is wrong by {wrong} ns"));
        }
        Ok(())
    }

    fn restart_aggregator(&mut self) {
        self.sim.bounce(AGGREGATOR);
        self.aggregator_down = None;
    }

    /// Starts an agent again, on a spool to which a record was being added.
    fn restart_agent(&mut self, index: usize) -> Result<()> {
        let folder = self.folder.join(&self.nodes[index].name);
        tear(&folder, &mut self.random)?;
        self.sim.bounce(self.nodes[index].name.as_str());
        self.nodes[index].down = None;
        Ok(())
    }

    fn mend(&mut self, index: usize) {
        let cut = self.nodes[index].cut.take();
        let name = self.nodes[index].name.as_str();
        match cut {
            Some((Cut::Both, _)) => self.sim.repair(name, AGGREGATOR),
            Some((Cut::ToAggregator, _)) => self.sim.repair_oneway(name, AGGREGATOR),
            Some((Cut::FromAggregator, _)) => self.sim.repair_oneway(AGGREGATOR, name),
            Some((Cut::Held, _)) => self.sim.release(name, AGGREGATOR),
            None => {}
        }
    }

    /// Ends every fault.
    fn heal(&mut self, step: u64) -> Result<()> {
        self.event(step, "peace");
        if self.aggregator_down.is_some() {
            self.restart_aggregator();
        }
        for index in 0..self.nodes.len() {
            self.mend(index);
            if self.nodes[index].down.is_some() {
                self.restart_agent(index)?;
            }
        }
        Ok(())
    }
}

/// The beginning of a record at the end of the newest segment, as a crash within the write leaves it.
fn tear(folder: &Path, random: &mut Random) -> Result<()> {
    if !folder.exists() {
        // It crashed before it had begun.
        return Ok(());
    }
    // The live stream is in the newest folder within, if there is one.
    let lane = names(folder)?.into_iter().filter(|path| path.is_dir()).max();
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "spl");
    let segments = names(&lane.unwrap_or_else(|| folder.to_owned()))?.into_iter().filter(is_segment);
    let Some(newest) = segments.max() else { return Ok(()) };
    // Length and type of a record that is longer than what follows, then anything.
    let mut torn = 2_000u32.to_le_bytes().to_vec();
    torn.extend([1, 0, 0, 0]);
    torn.extend(std::iter::repeat_with(|| random.next().to_le_bytes()).flatten().take(1_500));
    torn.truncate(usize::try_from(random.below(1_500))?);
    std::fs::OpenOptions::new().append(true).open(newest)?.write_all(&torn)?;
    Ok(())
}

fn names(folder: &Path) -> Result<Vec<PathBuf>> {
    std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

/// The aggregator's host.
async fn aggregate(disk: Arc<Disk>, clock: SimulatedClock) -> turmoil::Result {
    // Held until the end: its end would close every session.
    let (_stop, stopping) = watch::channel(false);
    let intake = Intake::new(Arc::new(Book::open(disk)?), Arc::default());
    // A disk of the simulation is never full.
    let space = Space::new(Path::new("/"), Least { percent: 0.0, bytes: 0 });
    let (telemetry, committer) = ingest::telemetry(intake, Arc::new(space), Arc::new(clock.clone()), stopping);
    tokio::spawn(committer.on_runtime().run(Arc::new(clock)));
    Ok(serve(Routes::new(telemetry.server())).await?)
}

/// What an agent does: a batch every so often, in a new stream after an outage.
async fn produce(mut agent: Agent, node: u32, oracle: &Oracle, producing: &AtomicBool) -> Result<()> {
    oracle.opened(node, &agent)?;
    let mut ticks = tokio::time::interval(BATCH);
    loop {
        ticks.tick().await;
        oracle.acked(node, &agent.spool().streams().await?, agent.state().waiting);
        if producing.load(Ordering::Relaxed) {
            agent.produce().await?;
            oracle.durable(node, &agent)?;
        }
    }
}
