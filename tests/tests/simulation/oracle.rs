//! What was promised in a simulation: every record that became durable at a node, in which stream, and how far each
//! stream was acknowledged. The database is held to it after each crash, and to the last value at the end.

use anyhow::{Context, Result, bail, ensure};
use joulebook_agent::spool::StreamState;
use joulebook_aggregator::store::Book;
use joulebook_aggregator::store::book::Run;
use joulebook_tests::chaos::agent::Agent;
use joulebook_tests::chaos::plan::{Plan, ROWS, SOURCES};
use joulebook_units::{StreamId, Subject, UnixNanos, Window};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A stream of a node.
#[derive(Debug, Clone)]
struct Stream {
    id: StreamId,
    /// Records of the node in the streams before it.
    base: u64,
    /// Highest acknowledged number.
    acked: u64,
}

#[derive(Debug, Clone, Default)]
struct Node {
    /// For each record from the first on: the start of the agent that made it.
    epochs: Vec<u64>,
    epoch: u64,
    streams: Vec<Stream>,
    /// Records that are not acknowledged.
    waiting: u64,
}

/// Shared by everything that reports.
#[derive(Debug, Clone, Default)]
pub struct Oracle(Arc<Mutex<BTreeMap<u32, Node>>>);

impl Oracle {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Node>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An agent started: records that it had not told of are of the start before, and none that it told of is missing.
    pub fn opened(&self, number: u32, agent: &Agent) -> Result<()> {
        let mut nodes = self.lock();
        let node = nodes.entry(number).or_default();
        let (known, before) = (node.epochs.len() as u64, node.epoch);
        ensure!(agent.made() >= known, "node {number}: {known} records were durable, {} are found", agent.made());
        while (node.epochs.len() as u64) < agent.made() {
            node.epochs.push(before);
        }
        node.epoch = agent.spool().session_epoch();
        node.began(agent);
        Ok(())
    }

    /// A record is durable.
    pub fn durable(&self, number: u32, agent: &Agent) -> Result<()> {
        let mut nodes = self.lock();
        let node = nodes.entry(number).or_default();
        node.epochs.push(node.epoch);
        let known = node.epochs.len();
        ensure!(agent.made() == known as u64, "node {number}: record {} follows record {known}", agent.made());
        node.began(agent);
        Ok(())
    }

    /// How far the streams of a node are acknowledged.
    pub fn acked(&self, number: u32, states: &[StreamState], waiting: u64) {
        let mut nodes = self.lock();
        let node = nodes.entry(number).or_default();
        for state in states {
            if let Some(stream) = node.streams.iter_mut().find(|stream| stream.id == state.stream) {
                stream.acked = stream.acked.max(state.acked);
            }
        }
        node.waiting = waiting;
    }

    /// Records that are durable and not acknowledged.
    pub fn waiting(&self) -> u64 {
        self.lock().values().map(|node| node.waiting).sum()
    }

    /// Records made, and streams begun after the first.
    pub fn totals(&self) -> (u64, u64) {
        let nodes = self.lock();
        let later = |node: &Node| (node.streams.len() as u64).saturating_sub(1);
        (nodes.values().map(|node| node.epochs.len() as u64).sum(), nodes.values().map(later).sum())
    }

    /// What is known, in words that change whenever it does. Streams have random names and are told by their order.
    pub fn words(&self) -> String {
        let nodes = self.lock();
        let streams = |node: &Node| node.streams.iter().map(|stream| (stream.base, stream.acked)).collect::<Vec<_>>();
        let words: Vec<_> = nodes.values().map(|node| (node.epoch, node.epochs.len(), streams(node))).collect();
        format!("{words:?}")
    }

    /// Nothing that was acknowledged is missing from a database that was left by a crash.
    pub fn check_promises(&self, book: &Book) -> Result<()> {
        let stored: BTreeMap<StreamId, u64> =
            book.status().streams.iter().map(|stream| (stream.id, stream.acked)).collect();
        for (number, node) in &*self.lock() {
            for (index, stream) in node.streams.iter().enumerate() {
                let stored = stored.get(&stream.id).copied().unwrap_or(0);
                let acked = stream.acked;
                ensure!(stored >= acked, "node {number}, stream {index}: {acked} acknowledged, {stored} stored");
            }
        }
        Ok(())
    }

    /// Every record is stored once, as it was made, and none was refused or lost.
    pub fn check_all(&self, plan: Plan, book: &Book) -> Result<()> {
        for (number, node) in &*self.lock() {
            node.check(plan, *number, book).with_context(|| format!("node {number}"))?;
        }
        Ok(())
    }
}

impl Node {
    /// Takes note of the live stream.
    fn began(&mut self, agent: &Agent) {
        let (id, base) = (agent.spool().stream(), agent.made() - agent.state().highest);
        if self.streams.iter().all(|stream| stream.id != id) {
            self.streams.push(Stream { id, base, acked: 0 });
        }
    }

    /// Records of a stream.
    fn length(&self, index: usize) -> u64 {
        let end = self.streams.get(index + 1).map_or(self.epochs.len() as u64, |next| next.base);
        end - self.streams[index].base
    }

    fn check(&self, plan: Plan, number: u32, book: &Book) -> Result<()> {
        for (index, stream) in self.streams.iter().enumerate() {
            let status = book.status();
            let status =
                status.streams.iter().find(|status| status.id == stream.id).context("a stream is not known")?;
            let stored = (status.acked, status.lost_records, status.rejected_values);
            ensure!(stored == (self.length(index), 0, 0), "stream {index}: {} made, {stored:?}", self.length(index));
        }
        let named = book.node(&Plan::node(number).parse()?).context("the node is not known")?;
        let window = Window::new(plan.at(0).plus_seconds(-3_600), plan.at(self.epochs.len() as u64 * ROWS + 3_600));
        let mut found: BTreeMap<(usize, u64), u64> = BTreeMap::new();
        for run in book.runs(named, window.context("a window")?)? {
            let (source, record, energy) = self.record(plan, number, &run)?;
            if found.insert((source, record), energy).is_some() {
                bail!("record {record} is stored twice");
            }
        }
        for (source, name) in SOURCES.iter().enumerate() {
            for record in 0..self.epochs.len() as u64 {
                let made: u64 =
                    (record * ROWS..(record + 1) * ROWS).map(|row| self.energy(plan, number, row, source)).sum();
                let stored = found.remove(&(source, record));
                ensure!(stored == Some(made), "record {record} of {}: made {made} uJ, stored {stored:?}", name);
            }
        }
        ensure!(found.is_empty(), "records that were never made: {:?}", found.keys().next());
        Ok(())
    }

    fn energy(&self, plan: Plan, number: u32, row: u64, source: usize) -> u64 {
        let epoch = self.epochs.get(usize::try_from(row / ROWS).unwrap_or(usize::MAX)).copied().unwrap_or(0);
        plan.energy(number, epoch, row, source)
    }

    /// The source and the record (from 0) of a run, and what it adds to the sum of its stream. Each row's rise is the
    /// plan's, and a stream begins at 0 where the one before ended.
    fn record(&self, plan: Plan, number: u32, run: &Run) -> Result<(usize, u64, u64)> {
        let Subject::Energy(source) = run.subject.as_ref() else { bail!("an unknown series") };
        let source = SOURCES.iter().position(|known| *known == source.id).context("an unknown source")?;
        let stream = self.streams.iter().find(|stream| stream.id == run.stream).context("an unknown stream")?;
        let record = stream.base + run.sequence.checked_sub(1).context("record 0")?;
        let mut points: Vec<(UnixNanos, u64)> = run.points.clone();
        if record == 0 {
            // Nothing is known before the first row.
            points.insert(0, *points.first().context("no points")?);
        }
        ensure!(points.len() as u64 == ROWS + 1, "record {record}: {} points", points.len());
        ensure!(run.sequence > 1 || points[0].1 == 0, "a stream begins at {} uJ", points[0].1);
        for (row, pair) in (record * ROWS..).zip(points.windows(2)) {
            let (rise, made) = (pair[1].1.checked_sub(pair[0].1), self.energy(plan, number, row, source));
            ensure!(rise == Some(made), "row {row} rises by {rise:?}, made {made}");
        }
        Ok((source, record, points[points.len() - 1].1 - points[0].1))
    }
}
