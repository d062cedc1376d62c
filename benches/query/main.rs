//! What does a question cost, over an hour and over a month, beside VictoriaMetrics and Prometheus? Every answer is held
//! against the truth before its time counts.
//!
//! `make bench-query`; the first line of the output says what was run, the last ones are the goals.

mod month;
mod raw;
mod scan;
mod theirs;

use anyhow::{Result, ensure};
use joulebook_benches::{cluster, meter, setting};

/// What is run, from the environment.
pub struct Settings {
    /// Nodes of eight GPUs.
    nodes: u32,
    /// Days of settled slots.
    days: u64,
    /// Seconds of rows.
    seconds: usize,
    /// How often a question is asked of us.
    asks: usize,
    /// How often of a peer.
    peer_asks: usize,
    /// Seconds between two samples of a peer over the days.
    peer_step: u64,
    seed: u64,
}

impl Settings {
    fn from_environment() -> Result<Self> {
        let settings = Self {
            nodes: setting("BENCH_NODES", 32)?,
            days: setting("BENCH_DAYS", 30)?,
            seconds: setting("BENCH_SECONDS", 3_600)?,
            asks: setting("BENCH_ASKS", 25)?,
            peer_asks: setting("BENCH_PEER_ASKS", 3)?,
            peer_step: setting("BENCH_PEER_STEP", 60)?,
            seed: setting("BENCH_SEED", 1)?,
        };
        ensure!((1..=400).contains(&settings.days), "BENCH_DAYS: 1 to 400");
        ensure!(settings.seconds <= 3_600, "BENCH_SECONDS: at most an hour, 3600");
        ensure!(settings.asks > 0 && settings.peer_asks > 0, "BENCH_ASKS, BENCH_PEER_ASKS: at least 1");
        ensure!(
            settings.peer_step > 0 && cluster::SLOT.unsigned_abs().is_multiple_of(settings.peer_step),
            "BENCH_PEER_STEP: a divisor of {}",
            cluster::SLOT
        );
        Ok(settings)
    }
}

/// A goal: what is at most allowed by itself, beside a peer and beside a floor.
struct Goal {
    id: &'static str,
    what: &'static str,
    most: f64,
    to_peer: f64,
    to_floor: f64,
}

fn main() -> Result<()> {
    let settings = Settings::from_environment()?;
    let Settings { nodes, days, seconds, asks, peer_step, seed, .. } = settings;
    meter::say(&format!(
        "bench: {nodes} nodes of {} GPUs, {days} days settled in slots of {} s, {seconds} s of rows, {asks} asks, peers with \
         a sample each {peer_step} s over the days, seed {seed}",
        cluster::GPUS,
        cluster::SLOT
    ));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let month = month::ours(&settings, &runtime)?;
    let peers = theirs::all(&settings, &runtime)?;
    let raw = raw::ours(&settings, &runtime)?;
    let scan = scan::victoria(&settings, &runtime, raw::SAMPLES)?;

    meter::say("| goal | what | ours | best peer | ratio | floor | |");
    meter::say("| --- | --- | --- | --- | --- | --- | --- |");
    let line = |goal: &Goal, ours: f64, peer: Option<f64>, floor: Option<f64>, further: bool| {
        let met = further
            && ours <= goal.most
            && peer.is_none_or(|peer| ours <= goal.to_peer * peer)
            && floor.is_none_or(|floor| ours <= goal.to_floor * floor);
        let shown = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"));
        meter::say(&format!(
            "| {} | {}, at most {} | {ours:.3} | {} | {} (≤ {}) | {} | {} |",
            goal.id,
            goal.what,
            goal.most,
            shown(peer),
            peer.map_or_else(|| "–".to_owned(), |peer| format!("{:.5}", ours / peer)),
            goal.to_peer,
            shown(floor),
            if met { "met" } else { "missed" }
        ));
    };
    let best = |of: fn(&theirs::Asked) -> Option<f64>| peers.iter().filter_map(of).min_by(f64::total_cmp);
    let goal = |id, what, most, to_peer| Goal { id, what, most, to_peer, to_floor: f64::INFINITY };
    let hour = Goal { to_floor: 1.5, ..goal("PERF-Q1", "energy by model, 1 h, ms", 1.5, 0.15) };
    line(&hour, month.hour, best(|peer| peer.hour), Some(month.seeks), true);
    let flat = month.days <= 1.5 * month.hour;
    line(
        &goal("PERF-Q2", "energy by model over the days, ms, and 1.5 times an hour's", 2.0, 0.004),
        month.days,
        best(|peer| peer.days),
        Some(1.5 * month.hour),
        flat,
    );
    line(
        &goal("PERF-Q3", "SCI by version over the days, ms", 20.0, 0.003),
        month.sci,
        best(|peer| peer.sci),
        None,
        true,
    );
    line(&goal("PERF-Q4", "scan of rows, CPU s per 250 M samples", 1.0, 0.333), raw.scan, scan, None, true);
    let off = month.off.max(raw.off);
    line(&goal("PERF-E1", "furthest answer from the truth, mJ", 0.0, 0.0), off, None, None, true);
    Ok(())
}
