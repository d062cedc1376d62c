//! The month that is asked about: nodes of eight GPUs whose models change places, settled in cells of five minutes, and what is
//! true of it.
//!
//! Every number is a pure function of node, GPU and slot, so that the truth is added up beside the store and not read from it.

use anyhow::{Context, Result};
use joulebook_aggregator::factor::{FactorConfig, Factors};
use joulebook_aggregator::ingest::{Counters, Intake, Opening, Request};
use joulebook_aggregator::store::{Book, Resolution, Store};
use joulebook_proto::convert::encode_batch;
use joulebook_proto::query::query_service_client::QueryServiceClient;
use joulebook_proto::query::{EnergyBy, EnergyRow, GetEnergyRequest, TimeWindow};
use joulebook_sci::series::Status;
use joulebook_sci::{Account, Cell, EntryKey, Purpose, SourceKey, SourceUse};
use joulebook_units::{
    Batch, BootId, BootNanos, Column, Component, CountKind, Hardware, Inventory, Method, Milliwatts, Placement, Point,
    Service, Serving, Source, SourceState, StreamId, Subject, UnixNanos, VersionSource, Window, Workload, WorkloadKind,
};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use tonic::transport::Channel;

/// GPUs of a node.
pub const GPUS: u64 = 8;
/// Model versions, each of them on any GPU at some time.
pub const VERSIONS: u64 = 8;
/// Seconds of a slot.
pub const SLOT: i64 = 300;
/// Slots after which models change places: six hours.
const STAY: u64 = 72;
const SLOT_NANOS: u64 = 300_000_000_000;

/// A cluster.
pub struct Cluster {
    /// Its nodes.
    pub nodes: u32,
    /// When its first slot begins.
    pub start: UnixNanos,
    /// How many slots there are.
    pub slots: u64,
    services: Vec<Arc<Service>>,
}

/// What an aggregator is told of the site.
pub const CONFIGURATION: &str = r#"[site.one]
pue = 1.2
intensity_g_per_kwh = 300
intensity_source = "bench: mean of the month"
[[factor]]
name = "grid"
sites = ["one"]
kind = "average_consumption"
[embodied]
host_kg = 800
cpu_kg = 100
dram_kg_per_gb = 1.5
disk_kg = 50
gpu_kg = 160
"#;

/// Carbon intensity of a slot in g/kWh: another one each five minutes.
pub fn intensity(slot: u64) -> f64 {
    // Tenths are the same whoever divides.
    (1_000 + (slot * 37 + slot * slot % 101) % 4_000) as f64 / 10.0
}

/// Numbers without a pattern.
fn mixed(of: u64) -> u64 {
    let mut mixed = of.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

impl Cluster {
    /// So many nodes over so many slots up to `end`.
    pub fn new(nodes: u32, slots: u64, end: UnixNanos) -> Self {
        let services = (0..VERSIONS * GPUS).map(|place| Arc::new(service(place / GPUS, place % GPUS))).collect();
        let start = end.plus_seconds(-SLOT * i64::try_from(slots).unwrap_or(0));
        Self { nodes, start, slots, services }
    }

    /// When a slot begins.
    pub fn begin(&self, slot: u64) -> UnixNanos {
        self.start.plus_seconds(SLOT * i64::try_from(slot).unwrap_or(0))
    }

    /// The version that a GPU serves in a slot.
    pub fn version(node: u32, gpu: u64, slot: u64) -> u64 {
        (u64::from(node) + gpu + slot / STAY) % VERSIONS
    }

    /// Energy of a GPU in a slot in µJ: above idle and at rest.
    pub fn gpu(node: u32, gpu: u64, slot: u64) -> (u64, u64) {
        let random = mixed(u64::from(node) << 40 | gpu << 32 | slot);
        (60_000_000_000 + random % 90_000_000_000, 21_000_000_000)
    }

    /// Tokens that it generated.
    pub fn tokens(node: u32, gpu: u64, slot: u64) -> u64 {
        Self::gpu(node, gpu, slot).0 / 300_000
    }

    /// Energy of a node's processors in a slot in µJ: of the servers together, and of nobody.
    fn host(node: u32, slot: u64) -> (u64, u64) {
        let random = mixed(u64::from(node) << 40 | 1 << 39 | slot);
        (40_000_000_000 + random % 8_000_000_000, 30_000_000_000)
    }

    /// The cell of a node.
    pub fn cell(&self, node: u32, slot: u64) -> Cell {
        let mut cell = Cell { covered_nanos: SLOT_NANOS, ..Cell::default() };
        let (host, idle) = Self::host(node, slot);
        let entry = |account, component, purpose| EntryKey { account, component, purpose };
        let mut components = 0;
        let used = |microjoules| SourceUse { microjoules, covered_nanos: SLOT_NANOS, ..SourceUse::default() };
        for gpu in 0..GPUS {
            let (dynamic, base) = Self::gpu(node, gpu, slot);
            let place = Self::version(node, gpu, slot) * GPUS + gpu;
            let Some(service) = self.services.get(usize::try_from(place).unwrap_or(0)) else { continue };
            let own = || Account::Service(Arc::clone(service));
            cell.sources.insert(key(&source(gpu)), used(dynamic + base));
            cell.add(entry(own(), Component::Accelerator, Purpose::Dynamic), dynamic);
            cell.add(entry(own(), Component::Accelerator, Purpose::Base), base);
            cell.add(entry(own(), Component::Cpu, Purpose::Dynamic), host / GPUS);
            let mine = cell.services.entry(Arc::clone(service)).or_default();
            let tokens = Self::tokens(node, gpu, slot);
            mine.counts.extend([
                (CountKind::RequestsOk, tokens / 200 + 1),
                (CountKind::InputTokens, tokens / 3 + slot % 97),
                (CountKind::OutputTokens, tokens),
            ]);
            (mine.counted_nanos, mine.resident_nanos) = (SLOT_NANOS, SLOT_NANOS);
            (mine.executing_nanos, mine.reserved_device_nanos) = (SLOT_NANOS - 7_000_000, SLOT_NANOS);
            mine.cpu_nanos = host / 500;
            mine.joint_microjoules = dynamic + base + host / GPUS;
            components += dynamic + base;
        }
        let host = host / GPUS * GPUS;
        for socket in 0..2 {
            let of = source(GPUS + socket);
            cell.sources.insert(key(&of), used((host + idle) / 2));
        }
        components += (host + idle) / 2 * 2;
        cell.add(entry(Account::PoolIdle, Component::Cpu, Purpose::PoolIdle), (host + idle) / 2 * 2 - host);
        cell.add(entry(Account::Platform, Component::Other, Purpose::Residual), components / 16);
        cell
    }

    /// Writes it into an empty store, through what sessions and the ledger use.
    pub fn write(&self, store: Arc<dyn Store>) -> Result<Arc<Book>> {
        let book = Arc::new(Book::open(store)?);
        let mut intake = Intake::new(Arc::clone(&book), Arc::new(Counters::default()));
        for node in 0..self.nodes {
            self.tell(&mut intake, node)?;
        }
        let hour = u64::try_from(3600 / SLOT)?;
        for node in 0..self.nodes {
            for first in (0..self.slots).step_by(usize::try_from(hour)?) {
                let slots = (first..self.slots.min(first + hour)).map(|slot| (slot, self.cell(node, slot)));
                let cells: Vec<_> = slots.map(|(slot, cell)| (Resolution::Settled, self.begin(slot), cell)).collect();
                book.settle(node, &cells, &[])?;
            }
        }
        let marks: Vec<_> = book.dirty(usize::MAX);
        for (node, start, generation) in marks {
            book.settle(node, &[], &[(start, generation)])?;
        }
        // As it lies once it is over: an aggregator would be busy with that while it is asked.
        book.seal(self.begin(self.slots).plus_seconds(2 * 3600), &|| false)?;
        let config: FactorConfig = toml::from_str(CONFIGURATION)?;
        let factors = Factors::new(&config)?;
        let feed = factors.feeds().first().context("the configuration names a series")?;
        let window = |slot| Window::new(self.begin(slot), self.begin(slot + 1));
        let cells = (0..self.slots).filter_map(|slot| Some((window(slot)?, intensity(slot), Status::Measured)));
        book.record_factors(&feed.name, &feed.subject, &cells.collect::<Vec<_>>(), self.begin(self.slots))?;
        Ok(book)
    }

    /// The node's agent says what there is, and one row.
    fn tell(&self, intake: &mut Intake, node: u32) -> Result<()> {
        let identity = u128::from(node).to_be_bytes();
        let (session, boot, stream) = (u64::from(node), BootId(identity), StreamId(identity));
        let booted = BootNanos(1_000_000_000);
        let sources = (0..GPUS + 2).map(|place| SourceState { source: source(place).into(), unavailable: None });
        let inventory = Inventory {
            node: format!("gpu-node-{node:04}").parse()?,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            sources: sources.collect(),
            hardware: Hardware { threads: Some(192), memory_bytes: Some(1 << 40), ..Hardware::default() },
            placement: Placement { site: Some("one".to_owned()), simulated: true, ..Placement::default() },
        };
        let opening = Opening {
            inventory,
            poller: None,
            epoch: 1,
            boot,
            boot_time: booted,
            wall: self.start,
            received: self.start,
            streams: vec![stream],
        };
        let described = vec![(1, Subject::Energy(source(0).into()))];
        let opened = vec![Request::Open(session, Box::new(opening)), Request::Define(session, stream, described)];
        intake.apply(self.start, opened)?;
        let column = Column { series: 1, previous: None, points: vec![Point { at: booted, value: 0 }] };
        let batch = Batch { boot, wall: self.start, rows: vec![booted], columns: vec![column], gaps: vec![] };
        let payload = encode_batch(&batch)?;
        let (hash, payload) = (payload.hash, payload.bytes.to_vec());
        let batch = Some(Box::new(batch));
        intake.apply(self.start, vec![Request::Record { session, stream, sequence: 1, hash, payload, batch }])?;
        Ok(())
    }

    /// Some slots as a window of a question.
    pub fn window(&self, slots: Range<u64>) -> TimeWindow {
        TimeWindow { start_unix_nanos: self.begin(slots.start).0, end_unix_nanos: self.begin(slots.end).0 }
    }

    /// What an aggregator says of the energy of GPUs by version in µJ.
    pub async fn energy(
        &self,
        client: &mut QueryServiceClient<Channel>,
        slots: Range<u64>,
    ) -> Result<BTreeMap<u64, u64>> {
        let (window, by) = (Some(self.window(slots)), EnergyBy::Model.into());
        let request = GetEnergyRequest { window, by, ..GetEnergyRequest::default() };
        let rows = client.get_energy(request).await?.into_inner().rows;
        let name = |row: &EnergyRow| {
            let model = row.key.iter().find(|part| part.name == "model").map(|part| part.value.clone());
            model.filter(|name| !name.is_empty())
        };
        let models = rows.iter().filter_map(|row| Some((name(row)?, row)));
        let energy = |row: &EnergyRow| row.component_microjoules.get("accelerator").copied().unwrap_or_default();
        models.map(|(name, row)| Ok((number(&name)?, energy(row)))).collect()
    }

    /// Accelerator energy in µJ by version over some slots.
    pub fn truth(&self, slots: Range<u64>) -> BTreeMap<u64, u64> {
        let mut truth = BTreeMap::new();
        for (slot, node) in slots.flat_map(|slot| (0..self.nodes).map(move |node| (slot, node))) {
            for gpu in 0..GPUS {
                let (dynamic, base) = Self::gpu(node, gpu, slot);
                *truth.entry(Self::version(node, gpu, slot)).or_default() += dynamic + base;
            }
        }
        truth
    }

    /// Grams of the same by version.
    pub fn grams(&self, slots: Range<u64>) -> BTreeMap<u64, f64> {
        let mut grams = BTreeMap::new();
        for slot in slots {
            for (version, energy) in self.truth(slot..slot + 1) {
                *grams.entry(version).or_default() += energy as f64 / 3.6e12 * intensity(slot);
            }
        }
        grams
    }
}

/// The number in the name of a version.
pub fn number(model: &str) -> Result<u64> {
    model.strip_prefix("model-").and_then(|number| number.parse().ok()).with_context(|| format!("{model} is not ours"))
}

fn service(version: u64, gpu: u64) -> Service {
    Service {
        model: Some(format!("model-{version}")),
        version: Some("1.0".to_owned()),
        version_source: VersionSource::Config,
        fingerprint: None,
        adapter: None,
        engine: "vllm".to_owned(),
        target: format!("http://127.0.0.1:{}/metrics", 8_000 + gpu),
        workload: Some(Workload::bare(format!("container/{gpu:064x}"), WorkloadKind::Container, "vllm").id),
        tokenizer: None,
        serving: Serving::default(),
    }
}

fn source(place: u64) -> Source {
    let (component, id, device) = match place {
        0..GPUS => (Component::Accelerator, format!("nvml/{place}"), Some(format!("GPU-{place}"))),
        _ => (Component::Cpu, format!("rapl/package-{}", place - GPUS), None),
    };
    Source {
        id,
        component,
        socket: None,
        device,
        collector: if place < GPUS { "nvml" } else { "rapl" }.to_owned(),
        method: Method::Counter,
        unit_nanojoules: None,
        ceiling: Milliwatts(1_500_000),
        uncertainty_permille: 50,
        contained_in: None,
        scope: None,
        basis: "bench".to_owned(),
    }
}

fn key(source: &Source) -> SourceKey {
    SourceKey {
        id: source.id.clone(),
        component: source.component,
        method: source.method,
        collector: source.collector.clone(),
        uncertainty_permille: source.uncertainty_permille,
        contained: false,
        scope: None,
    }
}
