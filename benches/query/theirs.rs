//! The peers, told the energies of the month's GPUs and asked the same. A GPU's energy for each version is a series of its own,
//! which goes on whenever the version is there: what it grew by over a window is its energy in it.

use crate::Settings;
use crate::month::cluster;
use anyhow::Result;
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_benches::cluster::{Cluster, GPUS, SLOT, VERSIONS, intensity};
use joulebook_benches::meter;
use joulebook_benches::peer::Peer;
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Slots in a request.
const SLOTS: u64 = 3;
/// How far an answer may be from the truth in mJ to be one.
const RIGHT: f64 = 1.0;
/// The longest a question may take before it is asked once only, in ms.
const LONG: f64 = 10_000.0;

/// What the questions took, in ms; none where there is no answer, or a wrong one.
#[derive(Default)]
pub struct Asked {
    pub hour: Option<f64>,
    pub days: Option<f64>,
    pub sci: Option<f64>,
}

/// All that are installed.
pub fn all(settings: &Settings, runtime: &Runtime) -> Result<Vec<Asked>> {
    type Start = fn(&Path, &Path) -> Result<Peer>;
    let peers: [(&str, _, Start); 2] = [
        ("VictoriaMetrics", Peer::find(), Peer::start),
        ("Prometheus", Peer::find_prometheus(), Peer::start_prometheus),
    ];
    let mut asked = Vec::new();
    for (name, program, start) in peers {
        let Some(program) = program else {
            meter::say(&format!("{name}: not installed; run: make bench-peers"));
            continue;
        };
        let folder = TempDir::new()?;
        let mut peer = start(&program, folder.path())?;
        let cluster = cluster(settings);
        let begin = SystemClock.boot();
        let samples = feed(&peer, &cluster, settings)?;
        peer.flush()?;
        meter::say(&format!("{name}: {samples} samples written in {:.1} s", meter::seconds_since(begin)));
        asked.push(runtime.block_on(ask(name, &peer, &cluster, settings))?);
        peer.program.terminate();
        peer.program.wait()?;
    }
    Ok(asked)
}

/// Tells the month in the order of time: Prometheus refuses what is an hour older than the newest.
fn feed(peer: &Peer, cluster: &Cluster, settings: &Settings) -> Result<u64> {
    let mut connection = peer.connect()?;
    let mut counters: BTreeMap<(u32, u64, u64), u64> = BTreeMap::new();
    let mut samples = 0;
    let steps = SLOT.unsigned_abs() / settings.peer_step;
    for first in (0..cluster.slots).step_by(SLOTS as usize) {
        let mut series: BTreeMap<(u32, u64, u64), Vec<(i64, f64)>> = BTreeMap::new();
        let mut grid = Vec::new();
        for slot in first..cluster.slots.min(first + SLOTS) {
            let begin = cluster.begin(slot).0 / 1_000_000;
            let at = |step: u64| begin + i64::try_from(step * settings.peer_step * 1_000).unwrap_or(0);
            grid.push((at(0), intensity(slot)));
            for (node, gpu) in (0..cluster.nodes).flat_map(|node| (0..GPUS).map(move |gpu| (node, gpu))) {
                let key = (node, gpu, Cluster::version(node, gpu, slot));
                let (dynamic, base) = Cluster::gpu(node, gpu, slot);
                let counter = counters.entry(key).or_default();
                // From where it stood to where it stands, the last step one ms before the next slot begins.
                let values = (0..=steps).map(|step| {
                    let at = if step == steps { at(step) - 1 } else { at(step) };
                    (at, (*counter + (dynamic + base) * step / steps) as f64)
                });
                series.entry(key).or_default().extend(values);
                *counter += dynamic + base;
            }
        }
        let energies = series.into_iter().map(|((node, gpu, version), values)| {
            samples += values.len() as u64;
            let labels = [
                ("__name__", "gpu_energy_uj_total".to_owned()),
                ("gpu", gpu.to_string()),
                ("model", format!("model-{version}")),
                ("node", format!("gpu-node-{node:04}")),
            ];
            (labels.map(|(name, value)| (name.to_owned(), value)).to_vec(), values)
        });
        let grid = std::iter::once((vec![("__name__".to_owned(), "grid_g_per_kwh".to_owned())], grid));
        Peer::write(&mut connection, energies.chain(grid))?;
    }
    Ok(samples)
}

async fn ask(name: &str, peer: &Peer, cluster: &Cluster, settings: &Settings) -> Result<Asked> {
    // The instant of the last sample: what was before the first one's is not in a window up to it.
    let end = cluster.begin(cluster.slots).0 / 1_000_000 - 1;
    let mut asked = Asked::default();
    let days = cluster.slots * SLOT.unsigned_abs();
    for (what, window, to) in [("1 h", 3_600, &mut asked.hour), ("days", days, &mut asked.days)] {
        let range = format!("gpu_energy_uj_total[{window}s]");
        let query = format!("sum by (model) (max_over_time({range}) - min_over_time({range}))");
        let slots = cluster.slots - window / SLOT.unsigned_abs()..cluster.slots;
        let truth = cluster.truth(slots);
        let (mut times, mut off) = (Vec::new(), f64::INFINITY);
        for _ in 0..settings.peer_asks {
            let begin = SystemClock.boot();
            let found = match peer.ask(&query, end).await {
                Ok(found) => found,
                Err(error) => {
                    meter::say(&format!("{name}: {what}: no answer: {error:#}"));
                    break;
                }
            };
            times.push(meter::seconds_since(begin) * 1e3);
            let of = |version: u64| {
                let model = format!("model-{version}");
                found.iter().find(|(labels, _)| labels.get("model") == Some(&model)).map(|(_, value)| *value)
            };
            let furthest =
                truth.iter().map(|(version, energy)| (of(*version).unwrap_or(0.0) - *energy as f64).abs() / 1e3);
            off = furthest.fold(0.0, f64::max);
            if times.iter().sum::<f64>() > LONG {
                break;
            }
        }
        if !times.is_empty() {
            let median = meter::median(&mut times);
            meter::say(&format!("{name}: energy by model, {what}: {median:.1} ms, up to {off:.3} mJ from the truth"));
            // A wrong answer is no measure, however soon it comes.
            *to = (off <= RIGHT).then_some(median);
        }
    }
    let query = format!(
        "sum by (model) (sum_over_time((sum by (model) (increase(gpu_energy_uj_total[{SLOT}s])) / 3.6e12 * on () group_left () \
         grid_g_per_kwh)[{days}s:{SLOT}s]))"
    );
    let begin = SystemClock.boot();
    match peer.ask(&query, end).await {
        Ok(found) => {
            let took = meter::seconds_since(begin) * 1e3;
            let truth: f64 = cluster.grams(0..cluster.slots).values().sum();
            let all: f64 = found.iter().map(|(_, grams)| grams).sum();
            meter::say(&format!(
                "{name}: grams of {} versions of {VERSIONS} over the days: {took:.0} ms, {:.2} % from the truth",
                found.len(),
                100.0 * (all - truth).abs() / truth
            ));
            asked.sci = Some(took);
        }
        Err(error) => meter::say(&format!("{name}: grams: no answer: {error:#}")),
    }
    Ok(asked)
}
