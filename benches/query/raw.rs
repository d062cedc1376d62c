//! Our aggregator, told rows of every second over mutual TLS: what it says of each GPU, and what reading all rows takes.

use crate::Settings;
use anyhow::{Context, Result, ensure};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_aggregator::store::Book;
use joulebook_aggregator::store::rocks::RocksStore;
use joulebook_benches::meter;
use joulebook_benches::ours::{self, Ours};
use joulebook_benches::workload::{self, Kind, Node};
use joulebook_proto::admin::GetStatusRequest;
use joulebook_proto::admin::admin_service_client::AdminServiceClient;
use joulebook_proto::query::query_service_client::QueryServiceClient;
use joulebook_proto::query::{EnergyBy, GetEnergyRequest, TimeWindow};
use joulebook_tests::chaos::plan::Plan;
use joulebook_tests::wait::until;
use joulebook_units::{UnixNanos, Window};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const HOUR_SECONDS: i64 = 3600;
/// Samples that the goal counts in.
pub const SAMPLES: f64 = 250e6;
/// How often all rows are read.
const SCANS: usize = 3;
/// How often it is looked whether cells wait, and for how long at most.
const STEP: Duration = Duration::from_millis(200);
const STEPS: usize = 1_500;

/// What was found.
pub struct Taken {
    /// CPU seconds to read 250 M samples.
    pub scan: f64,
    /// How far an answer was from the truth in mJ.
    pub off: f64,
}

/// Tells and asks it.
pub fn ours(settings: &Settings, runtime: &Runtime) -> Result<Taken> {
    let told = (0..settings.nodes).map(|number| workload::node(settings.seed, number.into(), settings.seconds, 1.0));
    let told: Arc<Vec<Node>> = Arc::new(told.collect());
    let folder = TempDir::new()?;
    let ours = Arc::new(Ours::start(folder.path())?);
    let begin = SystemClock.wall().floor_to(HOUR_SECONDS).plus_seconds(-2 * HOUR_SECONDS);
    let off = runtime.block_on(rows(settings, &ours, &told, begin))?;
    until("every hour is sealed", || ours.sealed() >= told.len());
    let mut ours = Arc::into_inner(ours).context("still in use")?;
    ensure!(ours.program.stop()?.success(), "{}", ours.program.said());
    Ok(Taken { scan: scan(&ours, &told, begin)?, off })
}

async fn rows(settings: &Settings, ours: &Arc<Ours>, told: &Arc<Vec<Node>>, begin: UnixNanos) -> Result<f64> {
    let mut tasks = JoinSet::new();
    for number in 0..settings.nodes {
        let (ours, told) = (Arc::clone(ours), Arc::clone(told));
        tasks.spawn(async move {
            let node = &told[number as usize];
            ours.connect(number, node).await?.send(node, begin).await
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let channel = ours.operator().await?;
    let mut admin = AdminServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20);
    for step in 0.. {
        ensure!(step < STEPS, "cells still wait to be settled");
        if admin.get_status(GetStatusRequest::default()).await?.into_inner().dirty_cells == 0 {
            break;
        }
        tokio::time::sleep(STEP).await;
    }
    let mut client = QueryServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let end = begin.plus_seconds(HOUR_SECONDS);
    let (mut times, mut off) = (Vec::new(), 0.0f64);
    for _ in 0..=settings.asks {
        let request = GetEnergyRequest {
            window: Some(TimeWindow { start_unix_nanos: begin.0, end_unix_nanos: end.0 }),
            by: EnergyBy::Gpu.into(),
            ..GetEnergyRequest::default()
        };
        let asked = SystemClock.boot();
        let rows = client.get_energy(request).await?.into_inner().rows;
        times.push(meter::seconds_since(asked) * 1e3);
        for (number, node) in (0u32..).zip(told.iter()) {
            for (_, gpu, values) in node.series.iter().filter(|(kind, ..)| *kind == Kind::GpuEnergy) {
                let (node, gpu) = (Plan::node(number), ours::device(number, *gpu));
                let mine = rows.iter().find(|row| {
                    row.key.iter().all(|part| match part.name.as_str() {
                        "node" => part.value == node,
                        "gpu" => part.value == gpu,
                        _ => true,
                    })
                });
                let found =
                    mine.and_then(|row| row.microjoules).with_context(|| format!("no energy of {gpu} of {node}"))?;
                let ends = values.first().zip(values.last()).context("rows")?;
                off = off.max(found.abs_diff((ends.1 - ends.0) * Kind::GpuEnergy.unit()) as f64 / 1e3);
            }
        }
    }
    let first = times.remove(0);
    meter::say(&format!(
        "ours: energy by GPU over {} s of rows: the first {first:.3} ms, then {:.3} ms, up to {off} mJ from the truth",
        settings.seconds,
        meter::median(&mut times)
    ));
    Ok(off)
}

/// CPU seconds that reading every sample takes, for 250 M of them.
fn scan(ours: &Ours, told: &Arc<Vec<Node>>, begin: UnixNanos) -> Result<f64> {
    let book = Book::open(Arc::new(RocksStore::open(ours.data())?))?;
    let own = i32::try_from(std::process::id())?;
    let hour = Window::new(begin, begin.plus_seconds(HOUR_SECONDS)).context("an hour")?;
    let expected: usize = told.iter().map(|node| node.rows.len() * node.series.len()).sum();
    let mut scans = Vec::new();
    for _ in 0..SCANS {
        let before = meter::cpu_millis(own)?;
        let mut samples = 0;
        for node in book.nodes() {
            let series = book.series(node.number, hour)?;
            samples += series.iter().map(|series| series.column.len()).sum::<usize>();
        }
        scans.push((meter::cpu_millis(own)? - before) / 1e3);
        ensure!(samples == expected, "{samples} samples are read, {expected} were told");
    }
    let took = meter::median(&mut scans);
    meter::say(&format!(
        "ours: {expected} samples read in {took:.3} CPU s: {:.1} M a CPU s",
        expected as f64 / 1e6 / took
    ));
    Ok(took * SAMPLES / expected as f64)
}
