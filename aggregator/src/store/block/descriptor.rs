//! What series measure, and what nodes are.
//!
//! Fields follow each other in the order of their types' declarations; an enumeration is one byte, its place in the
//! lists below. New kinds are appended, never inserted: a workload that is a part of another one is a kind of its own, as
//! is a source with a scope, and what is known of a node since later stands behind everything else of its record.

use super::fact::Fact;
use super::{Damaged, Reader, Writer};
use joulebook_sci::SourceKey;
use joulebook_units::{
    Accelerator, Component, Consumer, Consumption, CountKind, CpuTimeMethod, Hardware, IdleOrigin, Inventory, Layer,
    Method, Milliwatts, Placement, PodIdentity, Scope, Service, ServiceRole, Serving, ServingConfiguration, Source,
    SourceState, Subject, Support, VersionSource, Workload, WorkloadKind,
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
const VERSIONS: [VersionSource; 11] = [
    VersionSource::Config,
    VersionSource::Pushed,
    VersionSource::Label,
    VersionSource::DenyList,
    VersionSource::EngineApi,
    VersionSource::PodLabel,
    VersionSource::Process,
    VersionSource::Image,
    VersionSource::Unresolved,
    VersionSource::NotReadable,
    VersionSource::ImageTag,
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
    /// A consumer of a gateway's upstream.
    Consumption(Arc<Consumption>),
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
        scope: None,
        basis: reader.text()?,
    })
}

fn write_scope(writer: &mut Writer, scope: &Scope) {
    write_kind(writer, &Layer::ALL, &scope.layer);
    writer.text(&scope.name);
    writer.length(scope.members.len());
    scope.members.iter().for_each(|member| writer.text(member));
}

fn read_scope(reader: &mut Reader<'_>) -> Result<Scope, Damaged> {
    Ok(Scope { layer: read_kind(reader, &Layer::ALL)?, name: reader.text()?, members: reader.list(Reader::text)? })
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
    if let Some(whole) = &workload.part_of {
        writer.text(whole);
    }
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
        part_of: None,
        group: None,
        engine: None,
        pod: None,
    })
}

/// A workload that is known to work for inference: everything that is known of it since its first layout.
fn write_member(writer: &mut Writer, workload: &Workload) {
    write_workload(writer, &Workload { part_of: None, ..workload.clone() });
    for text in [&workload.part_of, &workload.group, &workload.engine] {
        write_text(writer, text.as_ref());
    }
}

fn read_member(reader: &mut Reader<'_>) -> Result<Workload, Damaged> {
    let workload = read_workload(reader)?;
    let (part_of, group, engine) = (read_text(reader)?, read_text(reader)?, read_text(reader)?);
    Ok(Workload { part_of, group, engine, ..workload })
}

fn is_member(workload: &Workload) -> bool {
    workload.group.is_some() || workload.engine.is_some()
}

/// A workload whose pod is described.
fn write_in_pod(writer: &mut Writer, workload: &Workload, pod: &PodIdentity) {
    write_member(writer, workload);
    writer.text(&pod.namespace);
    writer.text(&pod.name);
    for text in [&pod.tenant, &pod.pool, &pod.support_of, &pod.training_of] {
        write_text(writer, text.as_ref());
    }
}

fn read_in_pod(reader: &mut Reader<'_>) -> Result<Workload, Damaged> {
    let workload = read_member(reader)?;
    let pod = PodIdentity {
        namespace: reader.text()?,
        name: reader.text()?,
        tenant: read_text(reader)?,
        pool: read_text(reader)?,
        support_of: read_text(reader)?,
        training_of: read_text(reader)?,
    };
    Ok(Workload { pod: Some(pod), ..workload })
}

fn read_part(reader: &mut Reader<'_>) -> Result<Workload, Damaged> {
    let workload = read_workload(reader)?;
    Ok(Workload { part_of: Some(reader.text()?), ..workload })
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
        serving: Serving::default(),
    })
}

/// What is known of a service besides, behind everything else of its record.
fn write_serving(writer: &mut Writer, serving: &Serving) {
    let set_up = &serving.configuration;
    for text in [&serving.base, &serving.revision, &serving.group, &set_up.engine_version, &set_up.quantisation] {
        write_text(writer, text.as_ref());
    }
    writer.option(serving.role, |writer, role| write_kind(writer, &ServiceRole::ALL, &role));
    for number in [set_up.max_batch, set_up.tensor_parallel, set_up.pipeline_parallel, set_up.data_parallel] {
        write_number(writer, number);
    }
    writer.option(set_up.power_limit_milliwatts, Writer::number);
}

fn read_serving(reader: &mut Reader<'_>) -> Result<Serving, Damaged> {
    let (base, revision, group) = (read_text(reader)?, read_text(reader)?, read_text(reader)?);
    let (engine_version, quantisation) = (read_text(reader)?, read_text(reader)?);
    let role = reader.option(|reader| read_kind(reader, &ServiceRole::ALL))?;
    let configuration = ServingConfiguration {
        engine_version,
        quantisation,
        max_batch: read_number(reader)?,
        tensor_parallel: read_number(reader)?,
        pipeline_parallel: read_number(reader)?,
        data_parallel: read_number(reader)?,
        power_limit_milliwatts: reader.option(Reader::number)?,
    };
    Ok(Serving { base, revision, role, wraps: false, group, configuration })
}

/// Kinds of subjects and entities: a service of which more is known, and one that is around an engine besides.
const SERVED: u8 = 16;
const WRAPPING: u8 = 20;

/// A service with its kind before it: `plain` if nothing more is known of it.
fn write_served(writer: &mut Writer, service: &Service, plain: u8) {
    let more = service.serving != Serving::default();
    writer.byte(match (service.serving.wraps, more) {
        (true, _) => WRAPPING,
        (false, true) => SERVED,
        (false, false) => plain,
    });
    write_service(writer, service);
    if more {
        write_serving(writer, &service.serving);
    }
}

fn read_wrapping(reader: &mut Reader<'_>) -> Result<Service, Damaged> {
    let mut service = read_served(reader)?;
    service.serving.wraps = true;
    Ok(service)
}

fn read_served(reader: &mut Reader<'_>) -> Result<Service, Damaged> {
    let service = read_service(reader)?;
    Ok(Service { serving: read_serving(reader)?, ..service })
}

/// Kinds with a bound stand apart from those without, whose list grows: the kind's byte, then the bound.
const LATENCY_WITHIN: u8 = 64;
const PROMPT_WITHIN: u8 = 65;

pub(super) fn write_count_kind(writer: &mut Writer, kind: CountKind) {
    let (byte, bound) = match kind {
        CountKind::LatencyWithin(bound) => (LATENCY_WITHIN, bound),
        CountKind::PromptWithin(bound) => (PROMPT_WITHIN, bound),
        plain => return write_kind(writer, &CountKind::ALL, &plain),
    };
    writer.byte(byte);
    writer.number(bound);
}

pub(super) fn read_count_kind(reader: &mut Reader<'_>) -> Result<CountKind, Damaged> {
    match reader.byte()? {
        LATENCY_WITHIN => Ok(CountKind::LatencyWithin(reader.number()?)),
        PROMPT_WITHIN => Ok(CountKind::PromptWithin(reader.number()?)),
        plain => CountKind::ALL.get(usize::from(plain)).copied().ok_or(Damaged("unknown kind of count")),
    }
}

fn write_consumption(writer: &mut Writer, of: &Consumption) {
    for text in [&of.consumer.kind, &of.consumer.name, &of.engine, &of.gateway] {
        writer.text(text);
    }
    for text in [&of.endpoint, &of.model, &of.version] {
        write_text(writer, text.as_ref());
    }
}

fn read_consumption(reader: &mut Reader<'_>) -> Result<Consumption, Damaged> {
    Ok(Consumption {
        consumer: Consumer { kind: reader.text()?, name: reader.text()? },
        engine: reader.text()?,
        gateway: reader.text()?,
        endpoint: read_text(reader)?,
        model: read_text(reader)?,
        version: read_text(reader)?,
    })
}

fn read_source_key(reader: &mut Reader<'_>) -> Result<SourceKey, Damaged> {
    Ok(SourceKey {
        id: reader.text()?,
        component: read_kind(reader, &COMPONENTS)?,
        method: read_kind(reader, &METHODS)?,
        collector: reader.text()?,
        uncertainty_permille: reader.small()?,
        contained: reader.truth()?,
        scope: None,
    })
}

/// A workload behind its kind: `part` or `whole` where nothing but that is known of what it belongs to.
fn write_any_workload(writer: &mut Writer, workload: &Workload, part: u8, whole: u8) {
    match &workload.pod {
        Some(pod) => {
            writer.byte(18);
            write_in_pod(writer, workload, pod);
        }
        None if is_member(workload) => {
            writer.byte(17);
            write_member(writer, workload);
        }
        None => {
            writer.byte(if workload.part_of.is_some() { part } else { whole });
            write_workload(writer, workload);
        }
    }
}

impl Fact for Subject {
    const NAME: &'static str = "a series' subject";
    fn write(&self, writer: &mut Writer) {
        match self {
            Self::Energy(source) => {
                writer.byte(if source.scope.is_some() { 10 } else { 0 });
                write_source(writer, source);
                source.scope.iter().for_each(|scope| write_scope(writer, scope));
            }
            Self::IdlePower { source, origin } => {
                writer.byte(1);
                writer.text(source);
                write_kind(writer, &ORIGINS, origin);
            }
            Self::CpuTime(workload) => write_any_workload(writer, workload, 6, 2),
            Self::Memory { workload } => {
                writer.byte(3);
                writer.text(workload);
            }
            Self::NodeMemoryUsed => writer.byte(4),
            Self::Count(service, kind) => {
                write_served(writer, service, 5);
                write_count_kind(writer, *kind);
            }
            Self::Consumption(of, kind) => {
                writer.byte(11);
                write_consumption(writer, of);
                write_count_kind(writer, *kind);
            }
            Self::DeviceTime { device, workload } => {
                writer.byte(7);
                writer.text(device);
                write_text(writer, workload.as_ref());
            }
            Self::DeviceMemory { device, workload } => {
                writer.byte(8);
                writer.text(device);
                writer.text(workload);
            }
            Self::DeviceSlices { device, workload, of } => {
                writer.byte(19);
                writer.text(device);
                writer.text(workload);
                writer.number((*of).into());
            }
            Self::ResidentIdlePower { source } => {
                writer.byte(9);
                writer.text(source);
            }
        }
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(match reader.byte()? {
            0 => Self::Energy(read_source(reader)?.into()),
            10 => {
                let source = read_source(reader)?;
                Self::Energy(Source { scope: Some(read_scope(reader)?), ..source }.into())
            }
            1 => Self::IdlePower { source: reader.text()?, origin: read_kind(reader, &ORIGINS)? },
            2 => Self::CpuTime(read_workload(reader)?.into()),
            6 => Self::CpuTime(read_part(reader)?.into()),
            7 => Self::DeviceTime { device: reader.text()?, workload: read_text(reader)? },
            8 => Self::DeviceMemory { device: reader.text()?, workload: reader.text()? },
            9 => Self::ResidentIdlePower { source: reader.text()? },
            3 => Self::Memory { workload: reader.text()? },
            4 => Self::NodeMemoryUsed,
            5 => Self::Count(read_service(reader)?.into(), read_count_kind(reader)?),
            11 => Self::Consumption(read_consumption(reader)?.into(), read_count_kind(reader)?),
            SERVED => Self::Count(read_served(reader)?.into(), read_count_kind(reader)?),
            WRAPPING => Self::Count(read_wrapping(reader)?.into(), read_count_kind(reader)?),
            17 => Self::CpuTime(read_member(reader)?.into()),
            18 => Self::CpuTime(read_in_pod(reader)?.into()),
            19 => Self::DeviceSlices { device: reader.text()?, workload: reader.text()?, of: reader.small()? },
            _ => return Err(Damaged("unknown kind of subject")),
        })
    }
}

impl Fact for Entity {
    const NAME: &'static str = "something that cells name";
    fn write(&self, writer: &mut Writer) {
        match self {
            Self::Service(service) => write_served(writer, service, 0),
            Self::Workload(workload) => write_any_workload(writer, workload, 3, 1),
            Self::Source(source) => {
                writer.byte(if source.scope.is_some() { 4 } else { 2 });
                writer.text(&source.id);
                write_kind(writer, &COMPONENTS, &source.component);
                write_kind(writer, &METHODS, &source.method);
                writer.text(&source.collector);
                writer.number(u64::from(source.uncertainty_permille));
                writer.byte(u8::from(source.contained));
                source.scope.iter().for_each(|scope| write_scope(writer, scope));
            }
            Self::Consumption(of) => {
                writer.byte(5);
                write_consumption(writer, of);
            }
        }
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(match reader.byte()? {
            5 => Self::Consumption(Arc::new(read_consumption(reader)?)),
            0 => Self::Service(Arc::new(read_service(reader)?)),
            SERVED => Self::Service(Arc::new(read_served(reader)?)),
            WRAPPING => Self::Service(Arc::new(read_wrapping(reader)?)),
            17 => Self::Workload(Arc::new(read_member(reader)?)),
            18 => Self::Workload(Arc::new(read_in_pod(reader)?)),
            1 => Self::Workload(Arc::new(read_workload(reader)?)),
            3 => Self::Workload(Arc::new(read_part(reader)?)),
            2 => Self::Source(read_source_key(reader)?),
            4 => {
                let source = read_source_key(reader)?;
                Self::Source(SourceKey { scope: Some(read_scope(reader)?), ..source })
            }
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
    let sources = reader
        .list(|reader| Ok(SourceState { source: read_source(reader)?.into(), unavailable: read_text(reader)? }))?;
    let hardware = Hardware {
        sockets: read_number(reader)?,
        threads: read_number(reader)?,
        cpu_model: read_text(reader)?,
        memory_bytes: reader.option(Reader::number)?,
        disks: read_number(reader)?,
        rotating_disks: None,
        accelerators: reader.list(|reader| {
            let (device, model, driver) = (read_text(reader)?, reader.text()?, read_text(reader)?);
            Ok(Accelerator { device, model, driver, memory_bytes: None })
        })?,
        guest: reader.option(Reader::truth)?,
        kernel: read_text(reader)?,
    };
    let placement = Placement { site: read_text(reader)?, pool: read_text(reader)?, ..Placement::default() };
    Ok(Inventory { node, agent_version, sources, hardware, placement })
}

/// What is known of a node since its record had its first layout.
pub(super) fn write_later_inventory(writer: &mut Writer, inventory: &Inventory) {
    for accelerator in &inventory.hardware.accelerators {
        writer.option(accelerator.memory_bytes, Writer::number);
    }
    writer.byte(u8::from(inventory.placement.simulated));
    let scopes = || inventory.sources.iter().map(|state| state.source.scope.as_ref());
    let support = &inventory.placement.support;
    let rotating = inventory.hardware.rotating_disks;
    if scopes().any(|scope| scope.is_some()) || !support.is_empty() || rotating.is_some() {
        scopes().for_each(|scope| writer.option(scope, write_scope));
    }
    if !support.is_empty() || rotating.is_some() {
        writer.length(support.len());
        for one in support {
            writer.text(&one.role);
            write_text(writer, one.workload.as_ref());
            write_text(writer, one.pool.as_ref());
        }
    }
    if rotating.is_some() {
        write_number(writer, rotating);
    }
}

/// Completes an inventory with what [`write_later_inventory`] wrote.
pub(super) fn read_later_inventory(reader: &mut Reader<'_>, inventory: &mut Inventory) -> Result<(), Damaged> {
    for accelerator in &mut inventory.hardware.accelerators {
        accelerator.memory_bytes = reader.option(Reader::number)?;
    }
    inventory.placement.simulated = reader.truth()?;
    // A record from before there were scopes ends here, as does one without any.
    if reader.end().is_err() {
        for state in &mut inventory.sources {
            Arc::make_mut(&mut state.source).scope = reader.option(read_scope)?;
        }
    }
    // One from before support was declared, as does one without any.
    if reader.end().is_err() {
        inventory.placement.support = reader.list(|reader| {
            Ok(Support { role: reader.text()?, workload: read_text(reader)?, pool: read_text(reader)? })
        })?;
    }
    // One from before rotating disks were counted.
    if reader.end().is_err() {
        inventory.hardware.rotating_disks = read_number(reader)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
