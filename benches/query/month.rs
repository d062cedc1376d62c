//! Our aggregator, asked about the month over mutual TLS.

use crate::Settings;
use anyhow::{Context, Result, ensure};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_aggregator::store::rocks::RocksStore;
use joulebook_aggregator::store::{Book, Resolution, Store};
use joulebook_benches::cluster::{CONFIGURATION, Cluster, SLOT, number};
use joulebook_benches::meter;
use joulebook_benches::ours::Ours;
use joulebook_proto::query::query_service_client::QueryServiceClient;
use joulebook_proto::query::{GetSciRequest, Level};
use joulebook_units::UnixNanos;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The largest answer.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// A question that takes longer, in ms, is asked once.
const LONG: f64 = 5_000.0;
/// Slots of an hour and of a day.
const HOUR: u64 = 12;
pub const DAY: u64 = 288;
/// Grams of a sum of floating point numbers may be off by this share.
const ROUNDING: f64 = 1e-9;

/// What the questions took, in ms.
pub struct Taken {
    pub hour: f64,
    pub days: f64,
    pub sci: f64,
    /// Two seeks for each GPU in the same store.
    pub seeks: f64,
    /// How far an answer was from the truth in mJ.
    pub off: f64,
}

/// The month of the settings: it ended some hours ago.
pub fn cluster(settings: &Settings) -> Cluster {
    let end = SystemClock.wall().floor_to(3_600).plus_seconds(-3 * 3_600);
    Cluster::new(settings.nodes, settings.days * DAY, end)
}

/// Asks our aggregator.
pub fn ours(settings: &Settings, runtime: &Runtime) -> Result<Taken> {
    let folder = TempDir::new()?;
    let cluster = cluster(settings);
    let data = Ours::data_below(folder.path());
    let begin = SystemClock.boot();
    drop(cluster.write(Arc::new(RocksStore::open(&data)?))?);
    meter::say(&format!(
        "ours: {} slots of {} nodes written in {:.1} s",
        cluster.slots,
        cluster.nodes,
        meter::seconds_since(begin)
    ));
    let mut ours = Ours::configured(folder.path(), CONFIGURATION)?;
    let taken = runtime.block_on(ask(settings, &cluster, &ours))?;
    ensure!(ours.program.stop()?.success(), "{}", ours.program.said());
    Ok(Taken { seeks: seeks(&data, &cluster)?, ..taken })
}

async fn ask(settings: &Settings, cluster: &Cluster, ours: &Ours) -> Result<Taken> {
    let mut client = QueryServiceClient::new(ours.operator().await?).max_decoding_message_size(MAX_ANSWER_BYTES);
    let pid = i32::try_from(ours.program.pid())?;
    let all = cluster.slots;
    let mut off: f64 = 0.0;
    let mut shown = BTreeMap::new();
    // The last hour first, then longer and longer windows, none of which begins with an hour but the first.
    for (name, slots) in [("1 h", all.saturating_sub(HOUR)..all), ("days", 0..all), ("days less 7 slots", 3..all - 4)] {
        let truth = cluster.truth(slots.clone());
        let (mut times, cpu) = (Vec::new(), meter::cpu_millis(pid)?);
        for _ in 0..=settings.asks {
            let begin = SystemClock.boot();
            let found = cluster.energy(&mut client, slots.clone()).await?;
            times.push(meter::seconds_since(begin) * 1e3);
            ensure!(found.len() == truth.len(), "{name}: {} versions, not {}", found.len(), truth.len());
            let furthest = truth
                .iter()
                .map(|(version, energy)| found.get(version).map_or(u64::MAX, |found| found.abs_diff(*energy)));
            off = off.max(furthest.max().unwrap_or(u64::MAX) as f64 / 1e3);
        }
        let cpu = (meter::cpu_millis(pid)? - cpu) / times.len() as f64;
        let first = times.remove(0);
        let median = meter::median(&mut times);
        meter::say(&format!(
            "ours: energy by model, {name}: the first {first:.3} ms, then {median:.3} ms, {cpu:.3} ms of CPU each"
        ));
        shown.insert(name, median);
    }
    let truth = cluster.grams(0..all);
    let mut times = Vec::new();
    for (level, asks) in [(Level::Accelerator, 1), (Level::Facility, settings.asks.min(3) + 1)] {
        for _ in 0..asks {
            let begin = SystemClock.boot();
            let request =
                GetSciRequest { window: Some(cluster.window(0..all)), level: level.into(), ..GetSciRequest::default() };
            let answers = client.get_sci(request).await?.into_inner().answers;
            let took = meter::seconds_since(begin) * 1e3;
            if level == Level::Facility {
                times.push(took);
                if times.len() > 1 && took > LONG {
                    break;
                }
                continue;
            }
            ensure!(answers.len() == truth.len(), "{} versions, not {}", answers.len(), truth.len());
            for answer in answers {
                let version = number(answer.subject.and_then(|subject| subject.model).as_deref().unwrap_or_default())?;
                let found = answer.carbon.and_then(|carbon| carbon.o_g).context("grams")?;
                let grams = truth.get(&version).copied().unwrap_or_default();
                ensure!((found - grams).abs() <= ROUNDING * grams, "model-{version}: {found} g, not {grams} g");
            }
        }
    }
    let first = times.remove(0);
    let sci = meter::median(&mut times);
    meter::say(&format!(
        "ours: SCI by version, days, an intensity each {SLOT} s: the first {first:.1} ms, then {sci:.1} ms"
    ));
    let of = |name: &str| shown.get(name).copied().unwrap_or(f64::NAN);
    meter::say(&format!("ours: {} KiB resident after the questions", meter::memory(pid)?.resident_kib));
    Ok(Taken { hour: of("1 h"), days: of("days").max(of("days less 7 slots")), sci, seeks: f64::NAN, off })
}

/// What two seeks for each GPU take in the store, each at a node and instant of its own.
fn seeks(data: &Path, cluster: &Cluster) -> Result<f64> {
    let book = Book::open(Arc::new(RocksStore::open(data)?))?;
    let store: &Arc<dyn Store> = book.store();
    let mut times = Vec::new();
    for round in 0..5u64 {
        let begin = SystemClock.boot();
        for seek in 0..u64::from(cluster.nodes) * joulebook_benches::cluster::GPUS * 2 {
            let node = u32::try_from(seek % u64::from(cluster.nodes))?;
            // The cells of an hour that is over lie together under its begin.
            let start: UnixNanos = cluster.begin((seek * 7_919 + round) % cluster.slots).floor_to(3_600);
            let mut key = node.to_be_bytes().to_vec();
            key.extend((start.0.cast_unsigned() ^ 1 << 63).to_be_bytes());
            ensure!(store.get(Resolution::Settled.table(), &key)?.is_some(), "no cell of node {node} at {}", start.0);
        }
        times.push(meter::seconds_since(begin) * 1e3);
    }
    Ok(meter::median(&mut times))
}
