//! Our aggregator as an operator runs it: mutual TLS, every acknowledged record synced, cells settled, hours sealed.

use crate::workload::{Kind, Node};
use anyhow::{Context, Result, bail, ensure};
use joulebook_agent::clock::Clock;
use joulebook_agent::uplink::dictionaries;
use joulebook_proto::convert;
use joulebook_proto::telemetry::stream_request::Message as Up;
use joulebook_proto::telemetry::stream_response::Message as Down;
use joulebook_proto::telemetry::telemetry_service_client::TelemetryServiceClient;
use joulebook_proto::telemetry::{Hello, OpenStream, Record, StreamRequest, StreamResponse};
use joulebook_tests::chaos::latency;
use joulebook_tests::chaos::plan::{Plan, RigClock};
use joulebook_tests::chaos::secure::Keys;
use joulebook_tests::chaos::server::Server;
use joulebook_tests::program::Program;
use joulebook_units::{
    Batch, BootId, BootNanos, Column, Component, CountKind, CpuTimeMethod, Hardware, Inventory, Method, Milliwatts,
    Placement, Point, Service, Serving, Source, SourceState, StreamId, Subject, UnixNanos, VersionSource, Workload,
    WorkloadKind,
};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// Rows of a batch, as an agent sends them.
pub const ROWS: usize = 5;
/// Batches of a node that are not acknowledged yet, at most.
const UNDER_WAY: u64 = 16;
/// Within what all hours that are over are sealed, and how often that is looked at.
const SEALED_WITHIN: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// A running aggregator.
pub struct Ours {
    /// The process.
    pub program: Program,
    /// Where nodes and operators reach it.
    pub entrance: Arc<Entrance>,
    server: Server,
    data: PathBuf,
}

impl Ours {
    /// Starts it with its data below `folder`.
    pub fn start(folder: &Path) -> Result<Self> {
        Self::configured(folder, "")
    }

    /// The same with further lines in its configuration.
    pub fn configured(folder: &Path, settings: &str) -> Result<Self> {
        let keys = Keys::new(folder, &[IpAddr::V4(Ipv4Addr::LOCALHOST)])?;
        let data = Self::data_below(folder);
        let mut server = Server::new(folder, &data).with_settings(settings).secure(&keys.server);
        let (program, _) = server.start()?;
        let address = format!("127.0.0.1:{}", server.port()?);
        Ok(Self { program, entrance: Arc::new(Entrance::new(keys, address)), server, data })
    }

    /// Kills it and starts it again. How long it took from then on until it listened.
    pub fn recover(&mut self) -> Result<Duration> {
        self.program.kill()?;
        let (program, took) = self.server.start()?;
        self.program = program;
        Ok(took)
    }

    /// The data folder of one that is started below `folder`.
    pub fn data_below(folder: &Path) -> PathBuf {
        folder.join("data")
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Chunks that it has sealed so far.
    pub fn sealed(&self) -> usize {
        let said = self.program.said();
        let counts = said.lines().filter(|line| line.contains("rows are sealed"));
        let count = |line: &str| line.split("chunks=").nth(1)?.split_ascii_whitespace().next()?.parse::<usize>().ok();
        counts.filter_map(count).sum()
    }

    /// Waits until so many are sealed. Hours are looked at each minute, and cells may have to be settled before.
    ///
    /// # Errors
    /// They are not within ten minutes.
    pub fn until_sealed(&self, chunks: usize) -> Result<()> {
        let begin = RigClock.boot();
        while self.sealed() < chunks {
            let waited = RigClock.boot().since(begin);
            ensure!(waited < SEALED_WITHIN, "{} of {chunks} hours are sealed after {waited:?}", self.sealed());
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// A session of a node, its series told.
    pub async fn connect(&self, number: u32, node: &Node) -> Result<Session> {
        self.entrance.connect(number, node).await
    }

    /// An operator's connection.
    pub async fn operator(&self) -> Result<Channel> {
        self.entrance.keys.operator(&self.entrance.address).await
    }
}

/// An address over mutual TLS, with a pair for everyone who comes.
pub struct Entrance {
    keys: Keys,
    address: String,
}

impl Entrance {
    /// What listens at `address` shows the server's pair of `keys`.
    pub fn new(keys: Keys, address: String) -> Self {
        Self { keys, address }
    }

    /// A session of a node, its series told.
    pub async fn connect(&self, number: u32, node: &Node) -> Result<Session> {
        let name = Plan::node(number);
        let pair = self.keys.pair(&name);
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.keys.ca()))
            .identity(Identity::from_pem(&pair.certificate, &pair.key));
        let channel = Endpoint::from_shared(format!("https://{}", self.address))?.tls_config(tls)?.connect().await?;
        let boot = BootId(u128::from(number).to_be_bytes());
        let stream_id = boot.0.to_vec();
        let (now, wall) = (RigClock.boot(), RigClock.wall());
        let hello = Hello {
            node: name,
            streams: vec![OpenStream { stream_id: stream_id.clone(), highest_sequence: 0, acked_sequence: 0 }],
            session_epoch: 1,
            boot_id: boot.0.to_vec(),
            boot_time_nanos: now.0,
            wall_time_unix_nanos: wall.0,
            ..convert::inventory_to_hello(&inventory(number, node)?)
        };
        let (up, requests) = mpsc::channel(64);
        let mut client = TelemetryServiceClient::new(channel);
        say(&up, Up::Hello(hello)).await?;
        let mut down = client.stream(ReceiverStream::new(requests)).await?.into_inner();
        ensure!(matches!(down.message().await?.and_then(|first| first.message), Some(Down::HelloReply(_))), "no reply");
        let series = (0u32..).zip(&node.series);
        let series: Vec<_> = series.map(|(place, (kind, of, _))| (place + 1, subject(number, *kind, *of))).collect();
        for message in dictionaries(StreamId(boot.0), &series) {
            say(&up, Up::Dictionary(message)).await?;
        }
        Ok(Session { up, down, boot, now, wall, acked: 0 })
    }
}

/// A node's session.
pub struct Session {
    up: mpsc::Sender<StreamRequest>,
    down: tonic::Streaming<StreamResponse>,
    boot: BootId,
    /// One instant on the node's clock and on everyone's.
    now: BootNanos,
    wall: UnixNanos,
    acked: u64,
}

impl Session {
    /// Sends what a node tells from the instant `begin` on, as fast as it is acknowledged, and waits until all of it is.
    pub async fn send(&mut self, node: &Node, begin: UnixNanos) -> Result<()> {
        for (sequence, start) in batches(node) {
            self.record(node, begin, sequence, start).await?;
            while sequence - self.acked >= UNDER_WAY {
                self.acked = hear(&mut self.down, self.acked).await?;
            }
        }
        while self.acked < batches(node).count() as u64 {
            self.acked = hear(&mut self.down, self.acked).await?;
        }
        Ok(())
    }

    /// The same with a batch so often; what an acknowledgement takes is noted.
    pub async fn pace(
        mut self,
        node: &Node,
        begin: UnixNanos,
        pace: Duration,
        times: &mut latency::Node,
    ) -> Result<()> {
        let mut clock = tokio::time::interval(pace);
        for (sequence, start) in batches(node) {
            loop {
                tokio::select! {
                    _ = clock.tick() => break,
                    heard = hear(&mut self.down, self.acked) => self.acked = heard?,
                }
                times.acked(self.acked);
            }
            times.made(sequence);
            self.record(node, begin, sequence, start).await?;
        }
        while self.acked < batches(node).count() as u64 {
            self.acked = hear(&mut self.down, self.acked).await?;
            times.acked(self.acked);
        }
        Ok(())
    }

    async fn record(&self, node: &Node, begin: UnixNanos, sequence: u64, start: usize) -> Result<()> {
        let first = self.now.0.checked_add_signed(begin.0 - self.wall.0).context("before the node's boot")?;
        let payload = convert::encode_batch(&batch(node, self.boot, first, begin, start))?;
        let (payload_hash, payload) = (payload.hash.to_vec(), payload.bytes);
        say(&self.up, Up::Record(Record { stream_id: self.boot.0.to_vec(), sequence, payload_hash, payload })).await
    }
}

/// Number and first row of each batch of a node.
fn batches(node: &Node) -> impl Iterator<Item = (u64, usize)> + use<> {
    (1u64..).zip((0..node.rows.len()).step_by(ROWS))
}

async fn say(up: &mpsc::Sender<StreamRequest>, message: Up) -> Result<()> {
    up.send(StreamRequest { message: Some(message) }).await.context("the session is over")
}

async fn hear(down: &mut tonic::Streaming<StreamResponse>, acked: u64) -> Result<u64> {
    match down.message().await?.and_then(|heard| heard.message) {
        Some(Down::Ack(ack)) => {
            ensure!(ack.rejections.is_empty(), "{:?}", ack.rejections);
            Ok(ack.acked_sequence)
        }
        Some(_) => Ok(acked),
        None => bail!("the session is over"),
    }
}

/// A record of [`ROWS`] rows of a node from row `start` on. Its first row ever is at `first` on its boot clock, in ns, and at
/// `begin` on everyone's.
pub fn batch(node: &Node, boot: BootId, first: u64, begin: UnixNanos, start: usize) -> Batch {
    let rows = &node.rows[start..node.rows.len().min(start + ROWS)];
    let at = |row: usize| BootNanos(first + node.rows[row] * 1_000_000);
    let columns = (0u32..).zip(&node.series).map(|(place, (kind, _, values))| {
        let value = |row: usize| values[row] * kind.unit();
        let point = |row: usize| Point { at: at(row), value: value(row) };
        let previous = start.checked_sub(1).map(point);
        Column { series: place + 1, previous, points: (start..start + rows.len()).map(point).collect() }
    });
    let columns = columns.collect();
    let wall = UnixNanos(begin.0 + i64::try_from(rows[0]).unwrap_or(0) * 1_000_000);
    Batch { boot, wall, rows: (start..start + rows.len()).map(at).collect(), columns, gaps: Vec::new() }
}

/// As what we store a series. Powers and utilisation are no series of ours, whose energy says it all: they are stored as what
/// holds from one row to the next, like an idle power or a memory.
/// Devices and containers are those of one node, as they are in a fleet.
pub fn subject(number: u32, kind: Kind, of: usize) -> Subject {
    match kind {
        Kind::GpuEnergy | Kind::Package | Kind::Dram => Subject::Energy(source(number, kind, of).into()),
        Kind::GpuPower => Subject::ResidentIdlePower { source: format!("gpu-{of}") },
        Kind::GpuUtilisation => Subject::DeviceMemory { device: device(number, of), workload: workload(number, of).id },
        Kind::Input => Subject::NodeMemoryUsed,
        Kind::CpuTime => Subject::CpuTime(workload(number, of).into()),
        Kind::PromptTokens => Subject::Count(service(number, of).into(), CountKind::InputTokens),
        Kind::OutputTokens => Subject::Count(service(number, of).into(), CountKind::OutputTokens),
        Kind::Requests => Subject::Count(service(number, of).into(), CountKind::RequestsOk),
    }
}

/// Identity of a node's GPU, as NVML gives it.
pub fn device(number: u32, of: usize) -> String {
    format!("GPU-{number:08x}-0000-4000-8000-{of:012x}")
}

fn source(number: u32, kind: Kind, of: usize) -> Source {
    let (component, id, device) = match kind {
        Kind::GpuEnergy => (Component::Accelerator, format!("gpu-{of}"), Some(device(number, of))),
        Kind::Dram => (Component::Dram, format!("dram-{of}"), None),
        _ => (Component::Cpu, format!("package-{of}"), None),
    };
    Source {
        id,
        component,
        socket: None,
        device,
        collector: "bench".to_owned(),
        method: Method::Counter,
        unit_nanojoules: None,
        ceiling: Milliwatts(1_500_000),
        uncertainty_permille: 20,
        contained_in: None,
        scope: None,
        basis: String::new(),
    }
}

fn workload(number: u32, of: usize) -> Workload {
    let id = format!("{number:032x}{of:032x}");
    Workload {
        container_id: Some(id.clone()),
        cpu_time_method: CpuTimeMethod::Cgroup,
        ..Workload::bare(format!("container/{id}"), WorkloadKind::Container, format!("{of:012x}"))
    }
}

fn service(number: u32, of: usize) -> Service {
    Service {
        model: Some(format!("model-{}", of / 2)),
        version: Some(format!("v{}", of % 2 + 1)),
        version_source: VersionSource::Config,
        fingerprint: None,
        adapter: None,
        engine: "vllm".to_owned(),
        target: format!("http://127.0.0.1:{}/metrics", 8_000 + of),
        workload: Some(workload(number, of).id),
        tokenizer: None,
        serving: Serving::default(),
    }
}

/// What a node says that it has.
pub fn inventory(number: u32, node: &Node) -> Result<Inventory> {
    let sources = node.series.iter().filter(|(kind, ..)| matches!(subject(number, *kind, 0), Subject::Energy(_)));
    Ok(Inventory {
        node: Plan::node(number).parse()?,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        sources: sources
            .map(|(kind, of, _)| SourceState { source: source(number, *kind, *of).into(), unavailable: None })
            .collect(),
        hardware: Hardware { threads: Some(2 * 96), memory_bytes: Some(1 << 40), ..Hardware::default() },
        placement: Placement { simulated: true, ..Placement::default() },
    })
}
