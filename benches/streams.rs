//! Many nodes at once: do acknowledgements keep up with so many paced streams, what does one cost, and is all of it stored?
//! Each is a node of 61 series with a certificate and a connection of its own, five rows every five seconds, over mutual
//! TLS; each record is synced before it is acknowledged. The nodes are as many tasks in this process, whose own CPU time is
//! told apart.

use anyhow::{Context, Result, ensure};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_benches::ours::{Ours, ROWS};
use joulebook_benches::workload::{self, Node, SERIES};
use joulebook_benches::{allow_connections, meter, setting};
use joulebook_proto::admin::admin_service_client::AdminServiceClient;
use joulebook_proto::admin::{DumpRequest, GetStatusRequest};
use joulebook_tests::chaos::latency::Latency;
use joulebook_tests::chaos::memory::Observer;
use joulebook_tests::chaos::plan::Plan;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// Time between two batches of a stream.
const PACE: Duration = Duration::from_secs(ROWS as u64);
/// Sessions that are begun at once: a node whose handshake had to wait for more would be cut off.
const BEGINNING: usize = 32;
/// Different nodes; each is told by many streams.
const DIFFERENT: u32 = 32;
/// Nodes of which every stored value is compared with what was sent.
const COMPARED: usize = 20;
/// The largest answer: the state of every node.
const MAX_ANSWER_BYTES: usize = 256 << 20;

fn main() -> Result<()> {
    let streams: u32 = setting("BENCH_STREAMS", 10_000)?;
    let seconds: usize = setting("BENCH_SECONDS", 60)?;
    let seed = setting("BENCH_SEED", 1)?;
    ensure!(streams > 0 && seconds >= ROWS, "BENCH_STREAMS: at least 1; BENCH_SECONDS: at least {ROWS}");
    allow_connections(streams)?;
    meter::say(&format!(
        "bench: {streams} streams of {SERIES} series, {ROWS} rows each {PACE:?} for {seconds} s, seed {seed}"
    ));
    let told: Vec<Node> = (0..DIFFERENT).map(|number| workload::node(seed, number.into(), seconds, 1.0)).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(streams, seconds, Arc::new(told)))
}

async fn run(streams: u32, seconds: usize, told: Arc<Vec<Node>>) -> Result<()> {
    let folder = TempDir::new()?;
    let aggregator = Arc::new(Ours::start(folder.path())?);
    let pid = i32::try_from(aggregator.program.pid())?;
    let (own, empty) = (i32::try_from(std::process::id())?, meter::memory(pid)?);
    let (before, begin) = (meter::cpu_millis(pid)?, SystemClock.boot());
    let (turns, latency) = (Arc::new(Semaphore::new(BEGINNING)), Latency::default());
    let ready = Arc::new(Barrier::new(streams as usize + 1));
    let mut nodes = JoinSet::new();
    for number in 0..streams {
        let (aggregator, told, turns) = (Arc::clone(&aggregator), Arc::clone(&told), Arc::clone(&turns));
        let (ready, mut times) = (Arc::clone(&ready), latency.node());
        nodes.spawn(async move {
            let node = &told[(number % DIFFERENT) as usize];
            let session = {
                let _turn = turns.acquire().await?;
                aggregator.connect(number, node).await
            };
            ready.wait().await;
            // Nodes have no common beat.
            tokio::time::sleep(PACE * number / streams).await;
            let begin = SystemClock.wall().plus_seconds(-i64::try_from(ROWS)?);
            session?.pace(node, begin, PACE, &mut times).await.with_context(|| format!("node {number}"))
        });
    }
    ready.wait().await;
    let connected = meter::cpu_millis(pid)?;
    let idle = meter::memory(pid)?;
    meter::say(&format!(
        "sessions: begun in {:.1?}, {:.2} CPU ms and {:.1} KiB each",
        SystemClock.boot().since(begin),
        (connected - before) / f64::from(streams),
        idle.resident_kib.saturating_sub(empty.resident_kib) as f64 / f64::from(streams),
    ));
    let observer = Observer::start(aggregator.program.pid())?;
    let (of_own, begin) = (meter::cpu_millis(own)?, SystemClock.boot());
    let mut failed = Vec::new();
    while let Some(done) = nodes.join_next().await {
        failed.extend(done?.err());
    }
    let took = SystemClock.boot().since(begin);
    let (cpu, of_own) = (meter::cpu_millis(pid)? - connected, meter::cpu_millis(own)? - of_own);
    let times = latency.take();
    let samples = f64::from(streams) * (SERIES * seconds) as f64;
    let (resident, files) = observer.most();
    meter::say(&format!("acknowledgements: {times}; the run took {took:.1?}, {} sessions failed", failed.len()));
    meter::say(&format!(
        "aggregator: {:.3} CPU s per M samples, {:.2} cores; at most {} MiB ({:.1} KiB a stream, {:.0} B a series), {files} files",
        cpu / 1e3 / (samples / 1e6),
        cpu / 1e3 / took.as_secs_f64(),
        resident >> 20,
        resident as f64 / 1024.0 / f64::from(streams),
        resident as f64 / f64::from(streams) / SERIES as f64,
    ));
    meter::say(&format!("the nodes, in this process: {:.2} cores", of_own / 1e3 / took.as_secs_f64()));
    if let Some(error) = failed.into_iter().next() {
        return Err(error);
    }
    stored(aggregator.operator().await?, streams, seconds, &told).await
}

/// Everything that was sent is stored, once.
async fn stored(channel: Channel, streams: u32, seconds: usize, told: &[Node]) -> Result<()> {
    let mut admin = AdminServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
    let status = admin.get_status(GetStatusRequest {}).await?.into_inner();
    let batches = seconds.div_ceil(ROWS) as u64;
    let whole = status.nodes.iter().filter(|node| {
        matches!(node.streams.as_slice(), [one] if one.acked_sequence == batches && one.lost_records == 0 && one.rejected_samples == 0)
    });
    let whole = whole.count();
    let mut values = 0;
    for number in (0..streams).step_by((streams as usize).div_ceil(COMPARED)) {
        let name = Plan::node(number);
        let mut runs = admin.dump(DumpRequest { node: name.clone(), ..DumpRequest::default() }).await?.into_inner();
        let mut found = Vec::new();
        while let Some(run) = runs.message().await? {
            // The first point is the end of the record before, where there is one.
            let known = usize::from(run.sequence > 1);
            found.extend(run.points.iter().skip(known).map(|point| point.value));
        }
        let series = told[(number % DIFFERENT) as usize].series.iter();
        let mut sent: Vec<u64> =
            series.flat_map(|(kind, _, values)| values.iter().map(|value| value * kind.unit())).collect();
        found.sort_unstable();
        sent.sort_unstable();
        values += sent.len();
        ensure!(found == sent, "node {name}: {} values are stored, {} were sent, or others", found.len(), sent.len());
    }
    meter::say(&format!(
        "stored: {whole} of {streams} nodes have all of their {batches} records, none lost or refused; {values} values of some \
         are those that were sent"
    ));
    ensure!(whole == streams as usize, "not all of it is stored");
    Ok(())
}
