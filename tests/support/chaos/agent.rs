//! The core of a real agent (spool and uplink) with a simulated sensor.

use super::plan::{Plan, RigClock};
use anyhow::{Context, Result};
use joulebook_agent::spool::{Baseline, Counters, LocalState, Spool, SpoolConfig, SpoolHandle};
use joulebook_agent::uplink::{Security, Uplink, UplinkConfig, UplinkCounters};
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
        keep_acked,
        ..SpoolConfig::new(folder.to_owned())
    }
}

/// An agent that sends. It ends with the runtime it was started on, or when it is dropped.
#[derive(Debug)]
pub struct Agent {
    plan: Plan,
    node: u32,
    values: [u64; 2],
    spool: SpoolHandle,
    counters: watch::Receiver<UplinkCounters>,
    /// Keeps the uplink running.
    _stop: watch::Sender<bool>,
    uplink: JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.uplink.abort();
    }
}

impl Agent {
    /// Opens the spool of a node and starts its uplink on the running tokio runtime.
    pub fn start(plan: Plan, node: u32, spool: &SpoolConfig, endpoint: &str) -> Result<Self> {
        Self::over(plan, node, spool, endpoint, Security::PlaintextOnLoopback)
    }

    /// The same, spoken with as `security` says.
    pub fn over(plan: Plan, node: u32, spool: &SpoolConfig, endpoint: &str, security: Security) -> Result<Self> {
        let (spool, recovery) = Spool::open(spool)?;
        let mut values = [0, 0];
        if let Some(last) = &recovery.last {
            for (value, baseline) in values.iter_mut().zip(&last.local.baselines) {
                *value = baseline.value;
            }
        }
        let config = UplinkConfig { endpoint: endpoint.to_owned(), security, boot: plan.boot_id(node) };
        let (inventory, told) = watch::channel(Plan::inventory(node)?);
        let uplink = Uplink::new(config, spool.clone(), told, Arc::new(RigClock));
        let (stop, stopped) = watch::channel(false);
        let counters = uplink.counters();
        let uplink = tokio::spawn(async move {
            // What a node says of itself does not change; the sender lives as long as the uplink.
            let _inventory = inventory;
            if let Err(error) = uplink.run(stopped).await {
                // The spool's end is seen by the next append.
                drop(error);
            }
        });
        Ok(Self { plan, node, values, spool, counters, _stop: stop, uplink })
    }

    /// Makes the next record durable and returns its number.
    pub async fn produce(&mut self) -> Result<u64> {
        let (epoch, sequence) = (self.spool.session_epoch(), self.spool.counters().highest + 1);
        let batch = self.plan.batch(self.node, epoch, sequence, &mut self.values);
        let at = batch.rows.last().copied().unwrap_or(BootNanos(0));
        let baseline = |(series, value): (u32, u64)| Baseline { series, raw: value, value, at, epoch: 0 };
        let baselines = (1..).zip(self.values).map(baseline).collect();
        let local = LocalState { boot: batch.boot, at, wall: batch.wall, baselines };
        let given = self.spool.append(batch, local, Plan::dictionary()).await.context("appending to the spool")?;
        anyhow::ensure!(given == sequence, "record {sequence} became number {given}");
        Ok(given)
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
