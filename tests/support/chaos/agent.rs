//! The core of a real agent (spool and uplink) with a simulated sensor.

use super::plan::{Plan, RigClock};
use anyhow::{Context, Result};
use joulebook_agent::clock::Clock;
use joulebook_agent::spool::{Baseline, Counters, LocalState, Recovery, Spool, SpoolConfig, SpoolHandle};
use joulebook_agent::uplink::{Network, Security, SystemNetwork, Uplink, UplinkConfig, UplinkCounters};
use joulebook_units::BootNanos;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Segments small enough that they are begun and dropped all the time.
pub const SEGMENT_BYTES: u64 = 64 << 10;
const SPOOL_BYTES: u64 = 256 << 20;

/// How the rigs' spools are kept.
pub fn spool_config(folder: &Path, keep_acked: bool) -> SpoolConfig {
    SpoolConfig {
        max_bytes: SPOOL_BYTES,
        min_free_bytes: 0,
        segment_bytes: SEGMENT_BYTES,
        // Little, so that acknowledged segments are removed all the time.
        rewind_bytes: 4 * SEGMENT_BYTES,
        keep_acked,
        ..SpoolConfig::new(folder.to_owned())
    }
}

/// An agent that sends. It ends with the runtime it was started on, or when it is dropped.
#[derive(Debug)]
pub struct Agent {
    plan: Plan,
    node: u32,
    /// Records made since the plan's first row, in all streams.
    made: u64,
    values: [u64; 2],
    spool: SpoolHandle,
    counters: watch::Receiver<UplinkCounters>,
    /// The uplink's wishes for a new stream, where they are heeded.
    wishes: Option<watch::Receiver<u64>>,
    /// Keeps the uplink running.
    _stop: watch::Sender<bool>,
    uplink: JoinHandle<()>,
}

/// How the agent of a node speaks to an aggregator.
pub fn uplink_config(plan: Plan, node: u32, endpoint: &str, security: Security) -> UplinkConfig {
    UplinkConfig { endpoint: endpoint.to_owned(), security, boot: plan.boot_id(node) }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.uplink.abort();
    }
}

impl Agent {
    /// Opens the spool of a node and starts its uplink on the running tokio runtime, for one stream.
    pub fn start(plan: Plan, node: u32, spool: &SpoolConfig, endpoint: &str) -> Result<Self> {
        Self::over(plan, node, spool, endpoint, Security::PlaintextOnLoopback)
    }

    /// The same, spoken with as `security` says.
    pub fn over(plan: Plan, node: u32, spool: &SpoolConfig, endpoint: &str, security: Security) -> Result<Self> {
        let (opened, config) = (Spool::open(spool)?, uplink_config(plan, node, endpoint, security));
        Ok(Self::with(plan, node, opened, config, Arc::new(RigClock), Arc::new(SystemNetwork))?.in_one_stream())
    }

    /// Starts the uplink of an opened spool on the running tokio runtime, by a clock and over a network.
    pub fn with(
        plan: Plan,
        node: u32,
        (spool, recovery): (SpoolHandle, Recovery),
        config: UplinkConfig,
        clock: Arc<dyn Clock>,
        network: Arc<dyn Network>,
    ) -> Result<Self> {
        let (mut values, mut made) = ([0, 0], recovery.highest_sequence);
        if let Some(last) = &recovery.last {
            // Numbers without a record were used up by one that was damaged.
            made = plan.records(last.local.at) + (recovery.highest_sequence - last.sequence);
            for (value, baseline) in values.iter_mut().zip(&last.local.baselines) {
                *value = baseline.value;
            }
        }
        let (inventory, told) = watch::channel(Plan::inventory(node)?);
        let uplink = Uplink::new(config, spool.clone(), told, clock).over(network);
        let (stop, stopped) = watch::channel(false);
        let (counters, wishes) = (uplink.counters(), Some(uplink.wishes_for_a_stream()));
        let uplink = tokio::spawn(async move {
            // What a node says of itself does not change; the sender lives as long as the uplink.
            let _inventory = inventory;
            if let Err(error) = uplink.run(stopped).await {
                // The spool's end is seen by the next append.
                drop(error);
            }
        });
        Ok(Self { plan, node, made, values, spool, counters, wishes, _stop: stop, uplink })
    }

    /// Makes the next record durable and returns how many there are then, in all streams.
    pub async fn produce(&mut self) -> Result<u64> {
        let begins = self.wishes.as_mut().is_some_and(|wishes| {
            let wished = wishes.has_changed().unwrap_or(false);
            wishes.mark_unchanged();
            wished
        });
        if begins {
            self.values = [0, 0];
        }
        let epoch = self.spool.session_epoch();
        let sequence = if begins { 1 } else { self.spool.counters().highest + 1 };
        let batch = self.plan.batch(self.node, epoch, self.made + 1, &mut self.values);
        let at = batch.rows.last().copied().unwrap_or(BootNanos(0));
        let baseline = |(series, value): (u32, u64)| Baseline { series, raw: value, value, at, epoch: 0 };
        let baselines = (1..).zip(self.values).map(baseline).collect();
        let local = LocalState { boot: batch.boot, at, wall: batch.wall, baselines };
        let given = if begins {
            self.spool.begin_stream(batch, local, Plan::dictionary()).await
        } else {
            self.spool.append(batch, local, Plan::dictionary()).await
        };
        let given = given.context("appending to the spool")?;
        anyhow::ensure!(given == sequence, "record {sequence} became number {given}");
        self.made += 1;
        Ok(self.made)
    }

    /// The same in one stream for ever, for rigs that know records by their number alone.
    #[must_use]
    pub fn in_one_stream(mut self) -> Self {
        self.wishes = None;
        self
    }

    /// Records made since the plan's first row, in all streams.
    pub fn made(&self) -> u64 {
        self.made
    }

    /// The spool.
    pub fn spool(&self) -> &SpoolHandle {
        &self.spool
    }

    /// State of the spool, now.
    pub fn state(&self) -> Counters {
        self.spool.counters()
    }

    /// What the uplink met.
    pub fn uplink(&self) -> UplinkCounters {
        self.counters.borrow().clone()
    }

    /// The uplink's counters, whenever they change.
    pub fn watch_uplink(&self) -> watch::Receiver<UplinkCounters> {
        self.counters.clone()
    }
}
