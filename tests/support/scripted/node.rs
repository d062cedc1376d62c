//! What an agent on a node of the fleet would tell: its inventory, and its series over a minute.

use super::script::{Minute, Model, NODES};
use joulebook_sci::{NodeSeries, Run};
use joulebook_units::{
    Accelerator, Component, CountKind, CpuTimeMethod, Hardware, IdleOrigin, Inventory, Method, Milliwatts, Placement,
    Service, Serving, Source, SourceState, Subject, UnixNanos, VersionSource, Window, Workload, WorkloadKind,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Hardware threads of every node.
pub const THREADS: u32 = 8;
/// Memory of every node.
pub const MEMORY: u64 = 64 << 30;
/// Memory of an accelerator.
pub const DEVICE_MEMORY: u64 = 80 << 30;
/// Of it, what a server holds beside one that is tuned, and what that one holds.
pub const HELD: [u64; 2] = [40 << 30, 30 << 30];
/// Power of an accelerator with nothing on it in mW.
pub const DEVICE_IDLE_MILLIWATTS: u64 = 55_000;
/// Power of a processor at rest in mW.
const CPU_IDLE_MILLIWATTS: u64 = 40_000;
/// The workload that serves, and the one that tunes.
const SERVER: &str = "container/server";
const TUNER: &str = "container/tuner";
const MINUTE_NANOS: u64 = 60_000_000_000;

fn device(node: usize) -> String {
    format!("GPU-{node}")
}

fn source(id: &str, component: Component, device: Option<String>) -> Source {
    Source {
        id: id.to_owned(),
        component,
        socket: None,
        device,
        collector: if component == Component::Accelerator { "nvml" } else { "rapl" }.to_owned(),
        method: Method::Counter,
        unit_nanojoules: None,
        ceiling: Milliwatts(1_000_000),
        uncertainty_permille: 50,
        contained_in: None,
        scope: None,
        basis: "scripted".to_owned(),
    }
}

/// The sources of a node.
fn sources(node: usize) -> Vec<Source> {
    let mut sources =
        vec![source("rapl/package-0", Component::Cpu, None), source("rapl/dram-0", Component::Dram, None)];
    if NODES[node].accelerator {
        sources.push(source("nvml/0", Component::Accelerator, Some(device(node))));
    }
    sources
}

/// What its agent says of a node.
pub fn inventory(node: usize) -> Inventory {
    let accelerator = |node| Accelerator {
        device: Some(device(node)),
        model: "NVIDIA H100 80GB HBM3".to_owned(),
        driver: Some("570.86.15".to_owned()),
        memory_bytes: Some(DEVICE_MEMORY),
    };
    let known = &NODES[node];
    Inventory {
        node: known.name.parse().expect("a node name"),
        agent_version: "0.1.0".to_owned(),
        sources: sources(node)
            .into_iter()
            .map(|source: Source| SourceState { source: source.into(), unavailable: None })
            .collect(),
        hardware: Hardware {
            sockets: Some(1),
            threads: Some(THREADS),
            memory_bytes: Some(MEMORY),
            disks: Some(1),
            accelerators: known.accelerator.then(|| accelerator(node)).into_iter().collect(),
            guest: Some(false),
            ..Hardware::default()
        },
        placement: Placement {
            site: Some(known.site.to_owned()),
            pool: Some(known.pool.to_owned()),
            simulated: true,
            ..Placement::default()
        },
    }
}

/// The service of a version.
pub fn service(model: Model) -> Service {
    Service {
        model: Some(model.name.to_owned()),
        version: Some(model.version.to_owned()),
        version_source: VersionSource::Config,
        fingerprint: None,
        adapter: None,
        engine: "custom".to_owned(),
        target: "http://127.0.0.1:1/".to_owned(),
        workload: Some(SERVER.to_owned()),
        tokenizer: None,
        serving: Serving::default(),
    }
}

fn workload(id: &str, node: usize, alone: bool) -> Workload {
    // Where nobody else is on a node with an accelerator, the server has all of the processor.
    let cores = if alone && NODES[node].accelerator { THREADS } else { THREADS / 2 };
    Workload {
        cpu_time_method: CpuTimeMethod::Cgroup,
        reserved_millicores: Some(u64::from(cores) * 1000),
        reservation_origin: Some("config".to_owned()),
        ..Workload::bare(id, WorkloadKind::Container, id)
    }
}

/// A series over a minute: its value at the start and at the end, where it is 0 at the start of the hour.
pub(super) type Course = (Subject, u64, u64);

/// Every series of a node in the minute of this number in an hour.
pub(super) fn courses(node: usize, minute: &Minute, number: u64) -> Vec<Course> {
    let mut courses = Vec::new();
    let mut grows = |subject: Subject, each: u64| courses.push((subject, each * number, each * (number + 1)));
    let parts = [minute.cpu, minute.dram, minute.gpu];
    for (source, energy) in sources(node).into_iter().zip(parts) {
        grows(Subject::Energy(source.into()), energy);
    }
    let alone = !minute.tuned;
    let here: Vec<&str> =
        [minute.serves.map(|_| SERVER), minute.tuned.then_some(TUNER)].into_iter().flatten().collect();
    let cpu_nanos = u64::from(THREADS) * MINUTE_NANOS / 10;
    for id in &here {
        grows(Subject::CpuTime(workload(id, node, alone).into()), cpu_nanos);
    }
    let counts = [
        (CountKind::RequestsOk, minute.requests),
        (CountKind::InputTokens, minute.input_tokens),
        (CountKind::OutputTokens, minute.output_tokens),
    ];
    for (model, (kind, count)) in minute.serves.into_iter().flat_map(|model| counts.map(|count| (model, count))) {
        grows(Subject::Count(service(model).into(), kind), count);
    }
    if NODES[node].accelerator {
        let busy = if minute.requests > 0 || minute.tuned { MINUTE_NANOS / 2 } else { 0 };
        grows(Subject::DeviceTime { device: device(node), workload: None }, busy);
        for id in &here {
            grows(Subject::DeviceTime { device: device(node), workload: Some((*id).to_owned()) }, busy / 2);
        }
    }
    let mut holds = |subject: Subject, value: u64| courses.push((subject, value, value));
    let idle = |source: &str| Subject::IdlePower { source: source.to_owned(), origin: IdleOrigin::Configured };
    holds(idle("rapl/package-0"), CPU_IDLE_MILLIWATTS);
    // Memory is all in use where something runs, each its half, and by nobody elsewhere.
    let used = if here.is_empty() { 0 } else { MEMORY };
    holds(Subject::NodeMemoryUsed, used);
    for id in &here {
        holds(Subject::Memory { workload: (*id).to_owned() }, used / here.len() as u64);
    }
    if NODES[node].accelerator {
        holds(idle("nvml/0"), DEVICE_IDLE_MILLIWATTS);
        for (id, held) in here.iter().zip(HELD) {
            holds(Subject::DeviceMemory { device: device(node), workload: (*id).to_owned() }, held);
        }
    }
    courses
}

/// The first minute of an hour, as the ledger would read it out of the rows.
pub(super) fn series(node: usize, minute: &Minute, window: Window) -> NodeSeries {
    let points = |(from, to): (u64, u64)| -> Vec<(UnixNanos, u64)> { vec![(window.start(), from), (window.end(), to)] };
    let run = |(subject, from, to): Course| Run { subject: Arc::new(subject), points: points((from, to)) };
    NodeSeries {
        threads: Some(THREADS),
        memory_bytes: Some(MEMORY),
        device_memory_bytes: match NODES[node].accelerator {
            true => BTreeMap::from([(device(node), DEVICE_MEMORY)]),
            false => BTreeMap::new(),
        },
        expected_sources: sources(node).into_iter().map(|source| source.id).collect(),
        runs: courses(node, minute, 0).into_iter().map(run).collect(),
        ..NodeSeries::default()
    }
}
