//! Generated histories of nodes: what an agent would have sent, and what is true.

#![allow(clippy::expect_used, reason = "functions that tests call may fail the test")]

mod device;
pub mod wall;

pub use device::DeviceStep;
pub use wall::WallStep;

use joulebook_units::{
    Batch, BootId, BootNanos, Column, Component, CountKind, CpuTimeMethod, EnergyGap, GapReason, Hardware, IdleOrigin,
    Inventory, Method, Microjoules, Milliwatts, Placement, Point, Service, Source, SourceState, StreamId, Subject,
    UnixNanos, VersionSource, Workload, WorkloadKind,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Nanoseconds.
pub const SECOND: u64 = 1_000_000_000;
/// The aggregator's clock when the nodes' boot clocks show 0.
pub const BOOTED: i64 = 1_790_000_000 * 1_000_000_000;
const CPU: u32 = 1;
const DRAM: u32 = 2;
const IDLE: u32 = 3;
/// Series of the server's CPU time.
pub const SERVED: u32 = 4;
const OTHER: u32 = 5;
const TOKENS: u32 = 6;
/// Series of the workloads that come and go. The last is a part of the server, and serves a version of its own.
const VISITORS: [u32; 4] = [7, 8, 9, PART];
const PART: u32 = 10;
const PART_TOKENS: u32 = 11;

/// One row of a node's history: time since the row before, µJ and CPU ns since then, what else happens.
#[derive(Debug, Clone)]
pub struct Step {
    /// Time since the row before.
    pub nanos: u64,
    /// CPU energy since then in µJ; memory takes a ninth of it.
    pub microjoules: u64,
    /// CPU time of the server since then; the rest of the machine takes half of it.
    pub cpu_nanos: u64,
    /// Tokens since then.
    pub tokens: u64,
    /// Whether the server is scraped at this row.
    pub scraped: bool,
    /// Whether the CPU's energy since the row before is unknown.
    pub gap: bool,
    /// Whether the batch before this row is closed.
    pub ends_batch: bool,
    /// Which of four further workloads run since the row before, one a bit: they come and go.
    pub running: u8,
    /// What happens on each of its accelerators.
    pub devices: [DeviceStep; 2],
    /// What the meters at its input do.
    pub wall: WallStep,
}

impl Step {
    /// Tokens of the server's own version, or of the part's while the part runs.
    fn tokens_of(&self, series: u32) -> u64 {
        match series {
            PART_TOKENS if self.running & 1 << 3 == 0 => 0,
            PART_TOKENS => self.tokens / 2,
            _ => self.tokens,
        }
    }
}

/// Any row: short steps mostly, a pause now and then.
pub fn step() -> impl Strategy<Value = Step> {
    let wide = prop_oneof![8 => 200_000_000..3 * SECOND, 1 => 3 * SECOND..200 * SECOND];
    (
        wide,
        0u64..300_000_000,
        0u64..2 * SECOND,
        0u64..50,
        any::<bool>(),
        prop::bool::weighted(0.05),
        prop::bool::weighted(0.3),
        0u8..16,
        ([device::step(), device::step()], wall::step()),
    )
        .prop_map(|(nanos, microjoules, cpu_nanos, tokens, scraped, gap, ends_batch, running, (devices, wall))| {
            Step {
                nanos,
                microjoules: below_ceiling(microjoules, nanos),
                cpu_nanos,
                tokens,
                scraped,
                gap,
                ends_batch,
                running,
                devices: devices.map(|device| device.below_ceiling(nanos)),
                wall: wall.below_ceiling(nanos),
            }
        })
}

/// Never above the sources' ceiling of 1 kW.
fn below_ceiling(microjoules: u64, nanos: u64) -> u64 {
    microjoules.min(nanos / 1_000_000 * 900_000)
}

/// A node's records in their order, and what it measured.
#[derive(Debug)]
pub struct History {
    /// The stream of its older records.
    pub stream: StreamId,
    /// The stream of its newer ones, as an agent begins one after an outage.
    pub live: StreamId,
    /// Its records in their order.
    pub batches: Vec<Batch>,
    /// What it measured in µJ.
    pub energy: u64,
    /// Of it, that of its accelerators.
    pub devices_energy: u64,
    /// What its BMC told of its input in µJ, with what lies between two values that are joined.
    pub wall_energy: u64,
    /// Tokens it served.
    pub tokens: u64,
    /// Its boot clock at the last row.
    pub end: u64,
}

impl History {
    /// The first record of the live stream.
    pub fn outage(&self) -> usize {
        self.batches.len() / 2
    }

    /// Stream and sequence number of a record.
    pub fn place(&self, record: usize) -> (StreamId, u64) {
        match record.checked_sub(self.outage()) {
            Some(live) => (self.live, live as u64 + 1),
            None => (self.stream, record as u64 + 1),
        }
    }
}

/// Cumulative state of one series while its history is written.
#[derive(Default, Clone)]
struct Written {
    value: u64,
    last: Option<Point>,
    open: Vec<Column>,
}

impl Written {
    fn point(&mut self, series: u32, at: u64) {
        let point = Point { at: BootNanos(at), value: self.value };
        match self.open.last_mut() {
            Some(column) => column.points.push(point),
            None => self.open.push(Column { series, previous: self.last, points: vec![point] }),
        }
        self.last = Some(point);
    }

    /// The run breaks: what comes next is not joined to what was.
    fn cut(&mut self, series: u32, at: u64) {
        self.last = None;
        let point = Point { at: BootNanos(at), value: self.value };
        self.open.push(Column { series, previous: None, points: vec![point] });
        self.last = Some(point);
    }
}

/// The history of the node with this number.
pub fn history(index: u8, steps: &[Step]) -> History {
    let boot = BootId([index; 16]);
    let mut at = 1000 * SECOND + u64::from(index) * 137_000_001;
    let mut series: BTreeMap<u32, Written> =
        [CPU, DRAM, IDLE, SERVED, OTHER, TOKENS, PART_TOKENS, 7, 8, 9, PART].map(|id| (id, Written::default())).into();
    series.extend(device::series().chain(wall::series()).map(|id| (id, Written::default())));
    let (mut batches, mut rows, mut gaps): (Vec<Batch>, Vec<BootNanos>, Vec<EnergyGap>) = (vec![], vec![], vec![]);
    let (mut energy, mut devices_energy, mut wall_energy, mut tokens) = (0, 0, 0, 0);
    for (number, step) in steps.iter().enumerate() {
        let before = at;
        at += step.nanos;
        let first = rows.first().copied();
        let full = rows.len() == 5 || first.is_some_and(|first| at - first.0 > 50 * SECOND);
        if full || (step.ends_batch && !rows.is_empty()) {
            batches.push(close(boot, &mut rows, &mut series, &mut gaps));
        }
        rows.push(BootNanos(at));
        let gap = step.gap && number > 0;
        for id in [CPU, DRAM, IDLE, SERVED, OTHER, TOKENS, PART_TOKENS] {
            let Some(written) = series.get_mut(&id) else { continue };
            match id {
                CPU if gap => {
                    let (low, high) = (Microjoules(0), Microjoules(step.microjoules));
                    gaps.push(EnergyGap {
                        series: CPU,
                        from: BootNanos(before),
                        to: BootNanos(at),
                        reason: GapReason::CounterReset,
                        low,
                        high,
                    });
                    written.cut(CPU, at);
                    continue;
                }
                CPU => written.value += if number > 0 { step.microjoules } else { 0 },
                DRAM => written.value += if number > 0 { step.microjoules / 9 } else { 0 },
                IDLE => written.value = 20_000,
                SERVED | OTHER => written.value += if number > 0 { step.cpu_nanos / u64::from(id - 3) } else { 0 },
                _ => {
                    written.value += if number > 0 { step.tokens_of(id) } else { 0 };
                    if !(step.scraped || number == 0 || number + 1 == steps.len()) {
                        continue;
                    }
                }
            }
            written.point(id, at);
        }
        for (bit, id) in VISITORS.into_iter().enumerate() {
            let runs = |step: &Step| step.running & 1 << bit != 0;
            let Some(written) = series.get_mut(&id).filter(|_| runs(step)) else { continue };
            if number > 0 && runs(&steps[number - 1]) {
                written.value += step.cpu_nanos / u64::from(id);
                written.point(id, at);
            } else {
                written.cut(id, at);
            }
        }
        device::write(index, steps, number, at, &mut series);
        wall_energy += wall::write(index, steps, number, at, &mut series);
        if number > 0 {
            energy += if gap { 0 } else { step.microjoules } + step.microjoules / 9;
            devices_energy += device::energy(index, step);
            tokens += step.tokens_of(TOKENS) + step.tokens_of(PART_TOKENS);
        }
    }
    if !rows.is_empty() {
        batches.push(close(boot, &mut rows, &mut series, &mut gaps));
    }
    History {
        stream: StreamId([index ^ 0xa5; 16]),
        live: StreamId([index ^ 0x5a; 16]),
        batches,
        energy: energy + devices_energy,
        devices_energy,
        wall_energy,
        tokens,
        end: at,
    }
}

fn close(
    boot: BootId,
    rows: &mut Vec<BootNanos>,
    series: &mut BTreeMap<u32, Written>,
    gaps: &mut Vec<EnergyGap>,
) -> Batch {
    Batch {
        boot,
        wall: UnixNanos(BOOTED + i64::try_from(rows[0].0).expect("a time of this century")),
        rows: std::mem::take(rows),
        columns: series.values_mut().flat_map(|written| std::mem::take(&mut written.open)).collect(),
        gaps: std::mem::take(gaps),
    }
}

fn source(id: &str, component: Component) -> Source {
    Source {
        id: id.to_owned(),
        component,
        socket: None,
        device: None,
        collector: "rapl".to_owned(),
        method: Method::Counter,
        unit_nanojoules: None,
        ceiling: Milliwatts(1_000_000),
        uncertainty_permille: 50,
        contained_in: None,
        scope: None,
        basis: "generated".to_owned(),
    }
}

fn workload(id: &str, kind: WorkloadKind, reserved: Option<u64>) -> Workload {
    Workload {
        id: id.to_owned(),
        kind,
        name: id.to_owned(),
        cgroup: None,
        container_id: None,
        pod_uid: None,
        cpu_time_method: CpuTimeMethod::ProcessTime,
        reserved_millicores: reserved,
        reservation_origin: None,
        part_of: None,
        group: None,
        engine: None,
        pod: None,
    }
}

/// What its series measure.
pub fn dictionary() -> Vec<(u32, Subject)> {
    let service = Service {
        model: Some("tiny".to_owned()),
        version: Some("1".to_owned()),
        version_source: VersionSource::Config,
        fingerprint: None,
        adapter: None,
        engine: "custom".to_owned(),
        target: "http://127.0.0.1:1/".to_owned(),
        workload: Some("process/1".to_owned()),
        tokenizer: None,
        serving: joulebook_units::Serving::default(),
    };
    let other_version =
        Service { version: Some("2".to_owned()), workload: Some("process/10".to_owned()), ..service.clone() };
    let part = workload("process/10", WorkloadKind::ProcessTree, None);
    let part = Workload { part_of: Some("process/1".to_owned()), ..part };
    let mut subjects = vec![
        (CPU, Subject::Energy(source("rapl/package-0", Component::Cpu).into())),
        (DRAM, Subject::Energy(source("rapl/dram-0", Component::Dram).into())),
        (IDLE, Subject::IdlePower { source: "rapl/package-0".to_owned(), origin: IdleOrigin::Configured }),
        (SERVED, Subject::CpuTime(workload("process/1", WorkloadKind::ProcessTree, Some(500)).into())),
        (OTHER, Subject::CpuTime(workload("remainder", WorkloadKind::Remainder, None).into())),
        (TOKENS, Subject::Count(service.clone().into(), CountKind::OutputTokens)),
        (VISITORS[0], Subject::CpuTime(workload("container/7", WorkloadKind::Container, Some(1500)).into())),
        (VISITORS[1], Subject::CpuTime(workload("kernel", WorkloadKind::Kernel, None).into())),
        (VISITORS[2], Subject::CpuTime(workload("process/9", WorkloadKind::ProcessTree, None).into())),
        (PART, Subject::CpuTime(part.into())),
        (PART_TOKENS, Subject::Count(other_version.into(), CountKind::OutputTokens)),
    ];
    subjects.extend(device::dictionary());
    subjects.extend(wall::dictionary());
    subjects
}

/// What its agent says of itself. Every second node is simulated.
pub fn inventory(index: u8) -> Inventory {
    let state = |id, component| SourceState { source: source(id, component).into(), unavailable: None };
    let mut sources = vec![state("rapl/package-0", Component::Cpu), state("rapl/dram-0", Component::Dram)];
    sources.extend(device::sources(index));
    sources.extend(wall::sources(index));
    Inventory {
        node: format!("node-{index}").parse().expect("a node name"),
        agent_version: "0.1.0".to_owned(),
        sources,
        hardware: Hardware {
            threads: Some(4),
            memory_bytes: Some(1 << 34),
            accelerators: device::accelerators(index),
            ..Hardware::default()
        },
        placement: Placement { site: wall::site(index), simulated: index % 2 == 1, ..Placement::default() },
    }
}
