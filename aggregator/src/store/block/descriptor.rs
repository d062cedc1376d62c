//! What series measure, and what nodes are.
//!
//! Fields follow each other in the order of their types' declarations; an enumeration is one byte, its place in the
//! lists below. New kinds are appended, never inserted.

use super::fact::Fact;
use super::{Damaged, Reader, Writer};
use joulebook_sci::SourceKey;
use joulebook_units::{
    Accelerator, Component, CountKind, CpuTimeMethod, Hardware, IdleOrigin, Inventory, Method, Milliwatts, Placement,
    Service, Source, SourceState, Subject, VersionSource, Workload, WorkloadKind,
};
use std::sync::Arc;

const COMPONENTS: [Component; 5] =
    [Component::Cpu, Component::Dram, Component::Accelerator, Component::Wall, Component::Other];
const METHODS: [Method; 3] = [Method::Counter, Method::IntegratedPower, Method::Estimated];
const ORIGINS: [IdleOrigin; 4] = [IdleOrigin::Configured, IdleOrigin::Learned, IdleOrigin::Table, IdleOrigin::Default];
const WORKLOADS: [WorkloadKind; 6] = [
    WorkloadKind::Container,
    WorkloadKind::Unit,
    WorkloadKind::Cgroup,
    WorkloadKind::ProcessTree,
    WorkloadKind::Kernel,
    WorkloadKind::Remainder,
];
const CPU_METHODS: [CpuTimeMethod; 2] = [CpuTimeMethod::Cgroup, CpuTimeMethod::ProcessTime];
const VERSIONS: [VersionSource; 9] = [
    VersionSource::Config,
    VersionSource::Pushed,
    VersionSource::Label,
    VersionSource::DenyList,
    VersionSource::EngineApi,
    VersionSource::PodLabel,
    VersionSource::Process,
    VersionSource::Image,
    VersionSource::Unresolved,
];

/// Something that cells name by number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entity {
    /// A service.
    Service(Arc<Service>),
    /// A workload.
    Workload(Arc<Workload>),
    /// An energy source.
    Source(SourceKey),
}

pub(super) fn write_kind<T: PartialEq>(writer: &mut Writer, kinds: &[T], kind: &T) {
    let place = kinds.iter().position(|one| one == kind).and_then(|place| u8::try_from(place).ok());
    writer.byte(place.unwrap_or(u8::MAX));
}

pub(super) fn read_kind<T: Copy>(reader: &mut Reader<'_>, kinds: &[T]) -> Result<T, Damaged> {
    kinds.get(usize::from(reader.byte()?)).copied().ok_or(Damaged("unknown kind"))
}

pub(super) fn write_component(writer: &mut Writer, component: Component) {
    write_kind(writer, &COMPONENTS, &component);
}

pub(super) fn read_component(reader: &mut Reader<'_>) -> Result<Component, Damaged> {
    read_kind(reader, &COMPONENTS)
}

fn write_text(writer: &mut Writer, text: Option<&String>) {
    writer.option(text, |writer, text| writer.text(text));
}

fn write_number(writer: &mut Writer, number: Option<u32>) {
    writer.option(number, |writer, number| writer.number(u64::from(number)));
}

fn read_text(reader: &mut Reader<'_>) -> Result<Option<String>, Damaged> {
    reader.option(Reader::text)
}

fn read_number(reader: &mut Reader<'_>) -> Result<Option<u32>, Damaged> {
    reader.option(Reader::small)
}

fn write_source(writer: &mut Writer, source: &Source) {
    writer.text(&source.id);
    write_kind(writer, &COMPONENTS, &source.component);
    write_number(writer, source.socket);
    write_text(writer, source.device.as_ref());
    writer.text(&source.collector);
    write_kind(writer, &METHODS, &source.method);
    writer.option(source.unit_nanojoules, Writer::number);
    writer.number(source.ceiling.0);
    writer.number(u64::from(source.uncertainty_permille));
    write_text(writer, source.contained_in.as_ref());
    writer.text(&source.basis);
}

fn read_source(reader: &mut Reader<'_>) -> Result<Source, Damaged> {
    Ok(Source {
        id: reader.text()?,
        component: read_kind(reader, &COMPONENTS)?,
        socket: read_number(reader)?,
        device: read_text(reader)?,
        collector: reader.text()?,
        method: read_kind(reader, &METHODS)?,
        unit_nanojoules: reader.option(Reader::number)?,
        ceiling: Milliwatts(reader.number()?),
        uncertainty_permille: reader.small()?,
        contained_in: read_text(reader)?,
        basis: reader.text()?,
    })
}

fn write_workload(writer: &mut Writer, workload: &Workload) {
    writer.text(&workload.id);
    write_kind(writer, &WORKLOADS, &workload.kind);
    writer.text(&workload.name);
    write_text(writer, workload.cgroup.as_ref());
    write_text(writer, workload.container_id.as_ref());
    write_text(writer, workload.pod_uid.as_ref());
    write_kind(writer, &CPU_METHODS, &workload.cpu_time_method);
    writer.option(workload.reserved_millicores, Writer::number);
    write_text(writer, workload.reservation_origin.as_ref());
}

fn read_workload(reader: &mut Reader<'_>) -> Result<Workload, Damaged> {
    Ok(Workload {
        id: reader.text()?,
        kind: read_kind(reader, &WORKLOADS)?,
        name: reader.text()?,
        cgroup: read_text(reader)?,
        container_id: read_text(reader)?,
        pod_uid: read_text(reader)?,
        cpu_time_method: read_kind(reader, &CPU_METHODS)?,
        reserved_millicores: reader.option(Reader::number)?,
        reservation_origin: read_text(reader)?,
    })
}

fn write_service(writer: &mut Writer, service: &Service) {
    write_text(writer, service.model.as_ref());
    write_text(writer, service.version.as_ref());
    write_kind(writer, &VERSIONS, &service.version_source);
    write_text(writer, service.fingerprint.as_ref());
    write_text(writer, service.adapter.as_ref());
    writer.text(&service.engine);
    writer.text(&service.target);
    write_text(writer, service.workload.as_ref());
    write_text(writer, service.tokenizer.as_ref());
}

fn read_service(reader: &mut Reader<'_>) -> Result<Service, Damaged> {
    Ok(Service {
        model: read_text(reader)?,
        version: read_text(reader)?,
        version_source: read_kind(reader, &VERSIONS)?,
        fingerprint: read_text(reader)?,
        adapter: read_text(reader)?,
        engine: reader.text()?,
        target: reader.text()?,
        workload: read_text(reader)?,
        tokenizer: read_text(reader)?,
    })
}

impl Fact for Subject {
    const NAME: &'static str = "a series' subject";
    fn write(&self, writer: &mut Writer) {
        match self {
            Self::Energy(source) => {
                writer.byte(0);
                write_source(writer, source);
            }
            Self::IdlePower { source, origin } => {
                writer.byte(1);
                writer.text(source);
                write_kind(writer, &ORIGINS, origin);
            }
            Self::CpuTime(workload) => {
                writer.byte(2);
                write_workload(writer, workload);
            }
            Self::Memory { workload } => {
                writer.byte(3);
                writer.text(workload);
            }
            Self::NodeMemoryUsed => writer.byte(4),
            Self::Count(service, kind) => {
                writer.byte(5);
                write_service(writer, service);
                write_kind(writer, &CountKind::ALL, kind);
            }
        }
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(match reader.byte()? {
            0 => Self::Energy(read_source(reader)?),
            1 => Self::IdlePower { source: reader.text()?, origin: read_kind(reader, &ORIGINS)? },
            2 => Self::CpuTime(read_workload(reader)?),
            3 => Self::Memory { workload: reader.text()? },
            4 => Self::NodeMemoryUsed,
            5 => Self::Count(read_service(reader)?, read_kind(reader, &CountKind::ALL)?),
            _ => return Err(Damaged("unknown kind of subject")),
        })
    }
}

impl Fact for Entity {
    const NAME: &'static str = "something that cells name";
    fn write(&self, writer: &mut Writer) {
        match self {
            Self::Service(service) => {
                writer.byte(0);
                write_service(writer, service);
            }
            Self::Workload(workload) => {
                writer.byte(1);
                write_workload(writer, workload);
            }
            Self::Source(source) => {
                writer.byte(2);
                writer.text(&source.id);
                write_kind(writer, &COMPONENTS, &source.component);
                write_kind(writer, &METHODS, &source.method);
                writer.text(&source.collector);
                writer.number(u64::from(source.uncertainty_permille));
                writer.byte(u8::from(source.contained));
            }
        }
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(match reader.byte()? {
            0 => Self::Service(Arc::new(read_service(reader)?)),
            1 => Self::Workload(Arc::new(read_workload(reader)?)),
            2 => Self::Source(SourceKey {
                id: reader.text()?,
                component: read_kind(reader, &COMPONENTS)?,
                method: read_kind(reader, &METHODS)?,
                collector: reader.text()?,
                uncertainty_permille: reader.small()?,
                contained: reader.truth()?,
            }),
            _ => return Err(Damaged("unknown kind of entity")),
        })
    }
}

pub(super) fn write_inventory(writer: &mut Writer, inventory: &Inventory) {
    writer.text(inventory.node.as_str());
    writer.text(&inventory.agent_version);
    writer.length(inventory.sources.len());
    for state in &inventory.sources {
        write_source(writer, &state.source);
        write_text(writer, state.unavailable.as_ref());
    }
    let hardware = &inventory.hardware;
    write_number(writer, hardware.sockets);
    write_number(writer, hardware.threads);
    write_text(writer, hardware.cpu_model.as_ref());
    writer.option(hardware.memory_bytes, Writer::number);
    write_number(writer, hardware.disks);
    writer.length(hardware.accelerators.len());
    for accelerator in &hardware.accelerators {
        write_text(writer, accelerator.device.as_ref());
        writer.text(&accelerator.model);
        write_text(writer, accelerator.driver.as_ref());
    }
    writer.option(hardware.guest, |writer, guest| writer.byte(u8::from(guest)));
    write_text(writer, hardware.kernel.as_ref());
    write_text(writer, inventory.placement.site.as_ref());
    write_text(writer, inventory.placement.pool.as_ref());
}

pub(super) fn read_inventory(reader: &mut Reader<'_>) -> Result<Inventory, Damaged> {
    let node = reader.text()?.parse().map_err(|_| Damaged("not a node name"))?;
    let agent_version = reader.text()?;
    let sources =
        reader.list(|reader| Ok(SourceState { source: read_source(reader)?, unavailable: read_text(reader)? }))?;
    let hardware = Hardware {
        sockets: read_number(reader)?,
        threads: read_number(reader)?,
        cpu_model: read_text(reader)?,
        memory_bytes: reader.option(Reader::number)?,
        disks: read_number(reader)?,
        accelerators: reader.list(|reader| {
            Ok(Accelerator { device: read_text(reader)?, model: reader.text()?, driver: read_text(reader)? })
        })?,
        guest: reader.option(Reader::truth)?,
        kernel: read_text(reader)?,
    };
    let placement = Placement { site: read_text(reader)?, pool: read_text(reader)? };
    Ok(Inventory { node, agent_version, sources, hardware, placement })
}
