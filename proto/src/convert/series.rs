//! Descriptors of series: sources, workloads, services.

use super::count::{consumption_from_wire, consumption_to_wire, count_kind_from_wire, count_kind_to_wire};
use super::{
    ConvertError, MAX_ID_BYTES, MAX_TEXT_BYTES, MAX_WORKLOAD_ID_BYTES, clean, enum_both_ways, identity, optional_clean,
    optional_text, refuse, required, text,
};
use crate::telemetry::{self, series::Subject as Wire};
use joulebook_units::{
    Component, CpuTimeMethod, IdleOrigin, Layer, Method, Milliwatts, PodIdentity, Scope, Service, ServiceRole, Serving,
    ServingConfiguration, Source, Subject, VersionSource, Workload, WorkloadKind,
};
use prost::Message;

enum_both_ways!(
    component_to_wire,
    component_from_wire,
    Component,
    "Source.component",
    [Cpu, Dram, Accelerator, Wall, Other]
);
enum_both_ways!(layer_to_wire, layer_from_wire, Layer, "Scope.layer", [Board, Node, Enclosure, Rack, Site]);
enum_both_ways!(method_to_wire, method_from_wire, Method, "Source.method", [Counter, IntegratedPower, Estimated]);
enum_both_ways!(
    idle_origin_to_wire,
    idle_origin_from_wire,
    IdleOrigin,
    "IdlePower.origin",
    [Configured, Learned, Table, Default]
);
enum_both_ways!(
    workload_kind_to_wire,
    workload_kind_from_wire,
    WorkloadKind,
    "Workload.kind",
    [Container, Unit, Cgroup, ProcessTree, Kernel, Remainder]
);
enum_both_ways!(
    cpu_time_method_to_wire,
    cpu_time_method_from_wire,
    CpuTimeMethod,
    "Workload.cpu_time_method",
    [Cgroup, ProcessTime]
);
enum_both_ways!(
    version_source_to_wire,
    version_source_from_wire,
    VersionSource,
    "ServiceIdentity.version_source",
    [Config, Pushed, Label, DenyList, EngineApi, PodLabel, Process, Image, Unresolved, NotReadable, ImageTag]
);
enum_both_ways!(service_role_to_wire, service_role_from_wire, ServiceRole, "Serving.role", [Router, Prefill, Decode]);

/// Most members of a layer.
const MAX_MEMBERS: usize = 1024;

/// The message that describes a source.
pub fn source_to_wire(source: &Source) -> telemetry::Source {
    telemetry::Source {
        source_id: clean(&source.id, MAX_ID_BYTES),
        component: component_to_wire(source.component),
        socket: source.socket,
        device: optional_clean(source.device.as_ref(), MAX_ID_BYTES),
        collector: clean(&source.collector, MAX_ID_BYTES),
        method: method_to_wire(source.method),
        unit_nanojoules: source.unit_nanojoules,
        ceiling_milliwatts: source.ceiling.0,
        uncertainty_permille: source.uncertainty_permille,
        contained_in: optional_clean(source.contained_in.as_ref(), MAX_ID_BYTES),
        basis: clean(&source.basis, MAX_TEXT_BYTES),
        scope: source.scope.as_ref().map(|scope| telemetry::Scope {
            layer: layer_to_wire(scope.layer),
            name: clean(&scope.name, MAX_ID_BYTES),
            members: scope.members.iter().take(MAX_MEMBERS).map(|member| clean(member, MAX_ID_BYTES)).collect(),
        }),
    }
}

/// A scope from the wire. Fails on an unknown layer, texts over their limit, more than 1,024 members, and on a layer above
/// the node without a name.
fn scope_from_wire(scope: telemetry::Scope) -> Result<Scope, ConvertError> {
    if scope.members.len() > MAX_MEMBERS {
        return Err(ConvertError::Limit { what: "Scope.members", limit: MAX_MEMBERS });
    }
    let layer = layer_from_wire(scope.layer)?;
    if layer > Layer::Node && scope.name.is_empty() {
        return Err(refuse("Scope.name", "not empty above the node"));
    }
    let member = |member: String| identity(member, "Scope.members", MAX_ID_BYTES);
    Ok(Scope {
        layer,
        name: text(scope.name, "Scope.name", MAX_ID_BYTES)?,
        members: scope.members.into_iter().map(member).collect::<Result<_, _>>()?,
    })
}

/// A source from the wire. Fails on an empty id, texts over their limit, a ceiling of 0 and unknown enum values.
pub fn source_from_wire(source: telemetry::Source) -> Result<Source, ConvertError> {
    if source.ceiling_milliwatts == 0 {
        return Err(refuse("Source.ceiling_milliwatts", "at least 1"));
    }
    Ok(Source {
        id: identity(source.source_id, "Source.source_id", MAX_ID_BYTES)?,
        component: component_from_wire(source.component)?,
        socket: source.socket,
        device: optional_text(source.device, "Source.device", MAX_ID_BYTES)?,
        collector: text(source.collector, "Source.collector", MAX_ID_BYTES)?,
        method: method_from_wire(source.method)?,
        unit_nanojoules: source.unit_nanojoules,
        ceiling: Milliwatts(source.ceiling_milliwatts),
        uncertainty_permille: source.uncertainty_permille,
        contained_in: optional_text(source.contained_in, "Source.contained_in", MAX_ID_BYTES)?,
        scope: source.scope.map(scope_from_wire).transpose()?,
        basis: text(source.basis, "Source.basis", MAX_TEXT_BYTES)?,
    })
}

/// The message that describes a workload.
pub fn workload_to_wire(workload: &Workload) -> telemetry::Workload {
    telemetry::Workload {
        workload_id: clean(&workload.id, MAX_WORKLOAD_ID_BYTES),
        kind: workload_kind_to_wire(workload.kind),
        name: clean(&workload.name, MAX_TEXT_BYTES),
        cgroup: optional_clean(workload.cgroup.as_ref(), MAX_TEXT_BYTES),
        container_id: optional_clean(workload.container_id.as_ref(), MAX_ID_BYTES),
        pod_uid: optional_clean(workload.pod_uid.as_ref(), MAX_ID_BYTES),
        cpu_time_method: cpu_time_method_to_wire(workload.cpu_time_method),
        reserved_millicores: workload.reserved_millicores,
        reservation_origin: optional_clean(workload.reservation_origin.as_ref(), MAX_ID_BYTES),
        part_of: optional_clean(workload.part_of.as_ref(), MAX_WORKLOAD_ID_BYTES),
        group: optional_clean(workload.group.as_ref(), MAX_ID_BYTES),
        engine: optional_clean(workload.engine.as_ref(), MAX_ID_BYTES),
        pod: workload.pod.as_ref().map(pod_to_wire),
    }
}

fn pod_to_wire(pod: &PodIdentity) -> telemetry::PodIdentity {
    telemetry::PodIdentity {
        namespace: clean(&pod.namespace, MAX_ID_BYTES),
        name: clean(&pod.name, MAX_ID_BYTES),
        tenant: optional_clean(pod.tenant.as_ref(), MAX_ID_BYTES),
        pool: optional_clean(pod.pool.as_ref(), MAX_ID_BYTES),
        support_of: optional_clean(pod.support_of.as_ref(), MAX_ID_BYTES),
        training_of: optional_clean(pod.training_of.as_ref(), MAX_ID_BYTES),
    }
}

fn pod_from_wire(pod: telemetry::PodIdentity) -> Result<PodIdentity, ConvertError> {
    Ok(PodIdentity {
        namespace: text(pod.namespace, "PodIdentity.namespace", MAX_ID_BYTES)?,
        name: text(pod.name, "PodIdentity.name", MAX_ID_BYTES)?,
        tenant: optional_text(pod.tenant, "PodIdentity.tenant", MAX_ID_BYTES)?,
        pool: optional_text(pod.pool, "PodIdentity.pool", MAX_ID_BYTES)?,
        support_of: optional_text(pod.support_of, "PodIdentity.support_of", MAX_ID_BYTES)?,
        training_of: optional_text(pod.training_of, "PodIdentity.training_of", MAX_ID_BYTES)?,
    })
}

/// A workload from the wire. Fails on an empty id, texts over their limit and unknown enum values.
pub fn workload_from_wire(workload: telemetry::Workload) -> Result<Workload, ConvertError> {
    Ok(Workload {
        id: identity(workload.workload_id, "Workload.workload_id", MAX_WORKLOAD_ID_BYTES)?,
        kind: workload_kind_from_wire(workload.kind)?,
        name: text(workload.name, "Workload.name", MAX_TEXT_BYTES)?,
        cgroup: optional_text(workload.cgroup, "Workload.cgroup", MAX_TEXT_BYTES)?,
        container_id: optional_text(workload.container_id, "Workload.container_id", MAX_ID_BYTES)?,
        pod_uid: optional_text(workload.pod_uid, "Workload.pod_uid", MAX_ID_BYTES)?,
        cpu_time_method: cpu_time_method_from_wire(workload.cpu_time_method)?,
        reserved_millicores: workload.reserved_millicores,
        reservation_origin: optional_text(workload.reservation_origin, "Workload.reservation_origin", MAX_ID_BYTES)?,
        part_of: optional_text(workload.part_of, "Workload.part_of", MAX_WORKLOAD_ID_BYTES)?,
        group: optional_text(workload.group, "Workload.group", MAX_ID_BYTES)?,
        engine: optional_text(workload.engine, "Workload.engine", MAX_ID_BYTES)?,
        pod: workload.pod.map(pod_from_wire).transpose()?,
    })
}

/// The message that describes a service.
pub fn service_to_wire(service: &Service) -> telemetry::ServiceIdentity {
    telemetry::ServiceIdentity {
        model: optional_clean(service.model.as_ref(), MAX_TEXT_BYTES),
        version: optional_clean(service.version.as_ref(), MAX_TEXT_BYTES),
        version_source: version_source_to_wire(service.version_source),
        fingerprint: optional_clean(service.fingerprint.as_ref(), MAX_TEXT_BYTES),
        adapter: optional_clean(service.adapter.as_ref(), MAX_TEXT_BYTES),
        engine: clean(&service.engine, MAX_ID_BYTES),
        target: clean(&service.target, MAX_TEXT_BYTES),
        workload_id: optional_clean(service.workload.as_ref(), MAX_WORKLOAD_ID_BYTES),
        tokenizer: optional_clean(service.tokenizer.as_ref(), MAX_TEXT_BYTES),
        serving: (service.serving != Serving::default()).then(|| serving_to_wire(&service.serving)),
    }
}

/// A service from the wire. Fails on an empty target, texts over their limit and unknown enum values.
pub fn service_from_wire(service: telemetry::ServiceIdentity) -> Result<Service, ConvertError> {
    Ok(Service {
        model: optional_text(service.model, "ServiceIdentity.model", MAX_TEXT_BYTES)?,
        version: optional_text(service.version, "ServiceIdentity.version", MAX_TEXT_BYTES)?,
        version_source: version_source_from_wire(service.version_source)?,
        fingerprint: optional_text(service.fingerprint, "ServiceIdentity.fingerprint", MAX_TEXT_BYTES)?,
        adapter: optional_text(service.adapter, "ServiceIdentity.adapter", MAX_TEXT_BYTES)?,
        engine: text(service.engine, "ServiceIdentity.engine", MAX_ID_BYTES)?,
        target: identity(service.target, "ServiceIdentity.target", MAX_TEXT_BYTES)?,
        workload: optional_text(service.workload_id, "ServiceIdentity.workload_id", MAX_WORKLOAD_ID_BYTES)?,
        tokenizer: optional_text(service.tokenizer, "ServiceIdentity.tokenizer", MAX_TEXT_BYTES)?,
        serving: service.serving.map(serving_from_wire).transpose()?.unwrap_or_default(),
    })
}

fn serving_to_wire(serving: &Serving) -> telemetry::Serving {
    let set_up = &serving.configuration;
    telemetry::Serving {
        base: optional_clean(serving.base.as_ref(), MAX_TEXT_BYTES),
        revision: optional_clean(serving.revision.as_ref(), MAX_ID_BYTES),
        role: serving.role.map_or(0, service_role_to_wire),
        group: optional_clean(serving.group.as_ref(), MAX_ID_BYTES),
        wraps: serving.wraps,
        configuration: (!set_up.is_unknown()).then(|| telemetry::ServingConfiguration {
            engine_version: optional_clean(set_up.engine_version.as_ref(), MAX_ID_BYTES),
            quantisation: optional_clean(set_up.quantisation.as_ref(), MAX_ID_BYTES),
            max_batch: set_up.max_batch,
            tensor_parallel: set_up.tensor_parallel,
            pipeline_parallel: set_up.pipeline_parallel,
            data_parallel: set_up.data_parallel,
            power_limit_milliwatts: set_up.power_limit_milliwatts,
        }),
    }
}

fn serving_from_wire(serving: telemetry::Serving) -> Result<Serving, ConvertError> {
    let set_up = serving.configuration.unwrap_or_default();
    Ok(Serving {
        base: optional_text(serving.base, "Serving.base", MAX_TEXT_BYTES)?,
        revision: optional_text(serving.revision, "Serving.revision", MAX_ID_BYTES)?,
        role: if serving.role == 0 { None } else { Some(service_role_from_wire(serving.role)?) },
        group: optional_text(serving.group, "Serving.group", MAX_ID_BYTES)?,
        wraps: serving.wraps,
        configuration: ServingConfiguration {
            engine_version: optional_text(set_up.engine_version, "ServingConfiguration.engine_version", MAX_ID_BYTES)?,
            quantisation: optional_text(set_up.quantisation, "ServingConfiguration.quantisation", MAX_ID_BYTES)?,
            max_batch: set_up.max_batch,
            tensor_parallel: set_up.tensor_parallel,
            pipeline_parallel: set_up.pipeline_parallel,
            data_parallel: set_up.data_parallel,
            power_limit_milliwatts: set_up.power_limit_milliwatts,
        },
    })
}

/// The dictionary entry of series `number`.
pub fn series_to_wire(number: u32, subject: &Subject) -> telemetry::Series {
    let subject = match subject {
        Subject::Energy(source) => Wire::Energy(source_to_wire(source)),
        Subject::IdlePower { source, origin } => Wire::IdlePower(telemetry::IdlePower {
            source_id: clean(source, MAX_ID_BYTES),
            origin: idle_origin_to_wire(*origin),
        }),
        Subject::CpuTime(workload) => Wire::CpuTime(workload_to_wire(workload)),
        Subject::Memory { workload } => Wire::MemoryWorkloadId(clean(workload, MAX_WORKLOAD_ID_BYTES)),
        Subject::NodeMemoryUsed => Wire::NodeMemoryUsed(true),
        Subject::Count(service, kind) => {
            let (kind, at_most) = count_kind_to_wire(*kind);
            Wire::Count(telemetry::Count { service: Some(service_to_wire(service)), kind, at_most })
        }
        Subject::Consumption(consumption, kind) => Wire::Consumption(consumption_to_wire(consumption, *kind)),
        Subject::DeviceTime { device, workload } => Wire::DeviceTime(telemetry::DeviceUse {
            device: clean(device, MAX_ID_BYTES),
            workload_id: optional_clean(workload.as_ref(), MAX_WORKLOAD_ID_BYTES),
        }),
        Subject::DeviceMemory { device, workload } => Wire::DeviceMemory(telemetry::DeviceUse {
            device: clean(device, MAX_ID_BYTES),
            workload_id: Some(clean(workload, MAX_WORKLOAD_ID_BYTES)),
        }),
        Subject::DeviceSlices { device, workload, of } => Wire::DeviceSlices(telemetry::DeviceSlices {
            device: clean(device, MAX_ID_BYTES),
            workload_id: clean(workload, MAX_WORKLOAD_ID_BYTES),
            of: *of,
        }),
        Subject::ResidentIdlePower { source } => Wire::ResidentIdleSourceId(clean(source, MAX_ID_BYTES)),
    };
    telemetry::Series { series_id: number, subject: Some(subject) }
}

/// A series' number (from 1) and its subject. Fails on number 0, a missing subject and whatever the subject refuses.
pub fn series_from_wire(series: telemetry::Series) -> Result<(u32, Subject), ConvertError> {
    if series.series_id == 0 {
        return Err(refuse("Series.series_id", "from 1"));
    }
    let subject = match required(series.subject, "Series.subject")? {
        Wire::Energy(source) => Subject::Energy(source_from_wire(source)?.into()),
        Wire::IdlePower(idle) => Subject::IdlePower {
            source: identity(idle.source_id, "IdlePower.source_id", MAX_ID_BYTES)?,
            origin: idle_origin_from_wire(idle.origin)?,
        },
        Wire::CpuTime(workload) => Subject::CpuTime(workload_from_wire(workload)?.into()),
        Wire::MemoryWorkloadId(workload) => {
            Subject::Memory { workload: identity(workload, "Series.memory_workload_id", MAX_WORKLOAD_ID_BYTES)? }
        }
        Wire::NodeMemoryUsed(true) => Subject::NodeMemoryUsed,
        Wire::NodeMemoryUsed(false) => return Err(refuse("Series.node_memory_used", "always true")),
        Wire::Count(count) => Subject::Count(
            service_from_wire(required(count.service, "Count.service")?)?.into(),
            count_kind_from_wire(count.kind, count.at_most)?,
        ),
        Wire::Consumption(count) => {
            let (consumption, kind) = consumption_from_wire(count)?;
            Subject::Consumption(consumption.into(), kind)
        }
        Wire::DeviceTime(used) => Subject::DeviceTime {
            device: identity(used.device, "DeviceUse.device", MAX_ID_BYTES)?,
            workload: used
                .workload_id
                .map(|workload| identity(workload, "DeviceUse.workload_id", MAX_WORKLOAD_ID_BYTES))
                .transpose()?,
        },
        Wire::DeviceMemory(used) => Subject::DeviceMemory {
            device: identity(used.device, "DeviceUse.device", MAX_ID_BYTES)?,
            workload: identity(
                required(used.workload_id, "DeviceUse.workload_id")?,
                "DeviceUse.workload_id",
                MAX_WORKLOAD_ID_BYTES,
            )?,
        },
        Wire::DeviceSlices(held) => Subject::DeviceSlices {
            device: identity(held.device, "DeviceSlices.device", MAX_ID_BYTES)?,
            workload: identity(held.workload_id, "DeviceSlices.workload_id", MAX_WORKLOAD_ID_BYTES)?,
            of: if held.of == 0 { return Err(refuse("DeviceSlices.of", "from 1")) } else { held.of },
        },
        Wire::ResidentIdleSourceId(source) => {
            Subject::ResidentIdlePower { source: identity(source, "Series.resident_idle_source_id", MAX_ID_BYTES)? }
        }
    };
    Ok((series.series_id, subject))
}

/// Definitions of series, serialized for a place that keeps them (the spool).
pub fn encode_definitions<'a>(definitions: impl IntoIterator<Item = (u32, &'a Subject)>) -> Vec<u8> {
    let series = definitions.into_iter().map(|(number, subject)| series_to_wire(number, subject)).collect();
    telemetry::Dictionary { stream_id: Vec::new(), series }.encode_to_vec()
}

/// Reads what [`encode_definitions`] made. Fails where [`series_from_wire`] does.
pub fn decode_definitions(bytes: &[u8]) -> Result<Vec<(u32, Subject)>, ConvertError> {
    telemetry::Dictionary::decode(bytes)?.series.into_iter().map(series_from_wire).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulebook_units::{Consumer, Consumption, CountKind};
    use proptest::prelude::*;
    use proptest::{option, sample::select};

    fn words() -> impl Strategy<Value = String> {
        "[a-zA-Z0-9/:. ä*_-]{1,40}"
    }

    fn subjects() -> impl Strategy<Value = Subject> {
        let source = (words(), 1u64.., option::of(any::<u32>()), option::of(words()), option::of(1u64..), words());
        let source = source.prop_map(|(id, ceiling, socket, device, unit_nanojoules, basis)| Source {
            id,
            component: Component::Dram,
            socket,
            device: device.clone(),
            collector: "rapl".into(),
            method: Method::Counter,
            unit_nanojoules,
            ceiling: Milliwatts(ceiling),
            uncertainty_permille: 50,
            contained_in: device.clone(),
            scope: device.map(|name| Scope { layer: Layer::Rack, members: vec![name.clone()], name }),
            basis,
        });
        let workload = (words(), words(), option::of(words()), option::of(any::<u64>()));
        let workload = workload.prop_map(|(id, name, cgroup, reserved_millicores)| Workload {
            id,
            kind: WorkloadKind::ProcessTree,
            name,
            cgroup: cgroup.clone(),
            container_id: cgroup.clone(),
            pod_uid: cgroup.clone(),
            cpu_time_method: CpuTimeMethod::ProcessTime,
            reserved_millicores,
            reservation_origin: cgroup.clone(),
            part_of: cgroup.clone(),
            group: cgroup.clone(),
            engine: cgroup.clone(),
            pod: cgroup.map(|name| PodIdentity {
                namespace: name.clone(),
                tenant: Some(name.clone()),
                support_of: Some(name.clone()),
                training_of: Some(name.clone()),
                pool: Some(name.clone()),
                name,
            }),
        });
        let service = (option::of(words()), option::of(words()), words(), option::of(words()));
        let service = service.prop_map(|(model, version, target, workload)| Service {
            model,
            version: version.clone(),
            version_source: VersionSource::DenyList,
            fingerprint: version.clone(),
            adapter: version,
            engine: "llamacpp".into(),
            target,
            workload: workload.clone(),
            tokenizer: workload.clone(),
            serving: Serving {
                base: workload.clone(),
                revision: None,
                role: workload.as_ref().map(|_| ServiceRole::Decode),
                wraps: workload.is_some(),
                group: workload.clone(),
                configuration: ServingConfiguration {
                    max_batch: workload.as_ref().map(|name| u32::try_from(name.len()).unwrap_or(0)),
                    quantisation: workload,
                    ..ServingConfiguration::default()
                },
            },
        });
        let origin = select(vec![IdleOrigin::Configured, IdleOrigin::Learned, IdleOrigin::Table, IdleOrigin::Default]);
        let kinds = || {
            prop_oneof![
                select(CountKind::ALL.to_vec()),
                any::<u64>().prop_map(CountKind::LatencyWithin),
                any::<u64>().prop_map(CountKind::PromptWithin),
            ]
        };
        let consumption = (words(), words(), option::of(words()), option::of(words()));
        let consumption = consumption.prop_map(|(kind, name, endpoint, model)| Consumption {
            consumer: Consumer { kind, name },
            engine: "litellm".into(),
            gateway: "http://g:1".into(),
            endpoint: endpoint.clone(),
            model,
            version: endpoint,
        });
        prop_oneof![
            source.prop_map(|source| Subject::Energy(source.into())),
            (words(), origin).prop_map(|(source, origin)| Subject::IdlePower { source, origin }),
            workload.prop_map(|workload| Subject::CpuTime(workload.into())),
            words().prop_map(|workload| Subject::Memory { workload }),
            Just(Subject::NodeMemoryUsed),
            (service, kinds()).prop_map(|(service, kind)| Subject::Count(service.into(), kind)),
            (consumption, select(CountKind::ALL.to_vec())).prop_map(|(of, kind)| Subject::Consumption(of.into(), kind)),
            (words(), option::of(words())).prop_map(|(device, workload)| Subject::DeviceTime { device, workload }),
            (words(), words()).prop_map(|(device, workload)| Subject::DeviceMemory { device, workload }),
            (words(), words(), 1u32..).prop_map(|(device, workload, of)| Subject::DeviceSlices {
                device,
                workload,
                of
            }),
            words().prop_map(|source| Subject::ResidentIdlePower { source }),
        ]
    }

    proptest! {
        #[test]
        fn a_series_comes_back_as_it_was_sent(number in 1u32.., subject in subjects()) {
            let back = series_from_wire(series_to_wire(number, &subject)).expect("valid");
            prop_assert_eq!(back, (number, subject));
        }
    }

    #[test]
    fn every_value_of_every_enum_survives_the_wire() {
        (1..=5).for_each(|v| assert_eq!(component_to_wire(component_from_wire(v).expect("known")), v));
        (1..=5).for_each(|v| assert_eq!(layer_to_wire(layer_from_wire(v).expect("known")), v));
        (1..=3).for_each(|v| assert_eq!(method_to_wire(method_from_wire(v).expect("known")), v));
        (1..=4).for_each(|v| assert_eq!(idle_origin_to_wire(idle_origin_from_wire(v).expect("known")), v));
        (1..=6).for_each(|v| assert_eq!(workload_kind_to_wire(workload_kind_from_wire(v).expect("known")), v));
        (1..=2).for_each(|v| assert_eq!(cpu_time_method_to_wire(cpu_time_method_from_wire(v).expect("known")), v));
        (1..=9).for_each(|v| assert_eq!(version_source_to_wire(version_source_from_wire(v).expect("known")), v));
        assert!(component_from_wire(0).is_err());
    }

    #[test]
    fn a_series_without_number_subject_or_name_is_refused() {
        let memory = |workload: &str| Subject::Memory { workload: workload.into() };
        assert!(series_from_wire(series_to_wire(0, &memory("a"))).is_err());
        assert!(series_from_wire(series_to_wire(1, &memory(""))).is_err());
        assert!(series_from_wire(telemetry::Series { series_id: 1, subject: None }).is_err());
        let hidden = telemetry::Series { series_id: 1, subject: Some(Wire::NodeMemoryUsed(false)) };
        assert!(series_from_wire(hidden).is_err());
        let nobody = telemetry::DeviceUse { device: "GPU-1".into(), workload_id: None };
        let nobody = telemetry::Series { series_id: 1, subject: Some(Wire::DeviceMemory(nobody)) };
        assert!(series_from_wire(nobody).is_err());
        let nothing = telemetry::DeviceSlices { device: "GPU-1".into(), workload_id: "a".into(), of: 0 };
        let nothing = telemetry::Series { series_id: 1, subject: Some(Wire::DeviceSlices(nothing)) };
        assert!(series_from_wire(nothing).is_err());
        let controls = telemetry::Series { series_id: 1, subject: Some(Wire::MemoryWorkloadId("a\0b".into())) };
        assert!(series_from_wire(controls).is_err());
        let long = telemetry::Series { series_id: 1, subject: Some(Wire::MemoryWorkloadId("a".repeat(513))) };
        assert!(series_from_wire(long).is_err());
    }

    #[test]
    fn a_source_of_an_agent_that_knows_no_scopes_is_read_as_it_always_was() {
        // source_id "s", wall, collector "rapl", counter, ceiling 128 mW, 50 ‰, contained in "w", basis "b"; series 1.
        let bytes = "121c 0801 1218 0a0173 1004 2a047261706c 3001 408001 4832 520177 5a0162".replace(' ', "");
        let bytes: Vec<u8> =
            (0..bytes.len()).step_by(2).map(|at| u8::from_str_radix(&bytes[at..at + 2], 16).expect("hex")).collect();
        let read = decode_definitions(&bytes).expect("what was sent before");
        let [(1, subject @ Subject::Energy(source))] = read.as_slice() else { panic!("{read:?}") };
        assert_eq!((source.scope.as_ref(), source.layer()), (None, Some(Layer::Board)), "psys");
        assert_eq!(encode_definitions([(1, subject)]), bytes, "and told in the same way");
    }

    #[test]
    fn a_layer_above_the_node_has_a_name_and_a_bounded_number_of_members() {
        let scope = |layer: Layer, name: &str, members: usize| telemetry::Scope {
            layer: layer_to_wire(layer),
            name: name.into(),
            members: vec!["gpu-1".into(); members],
        };
        assert!(scope_from_wire(scope(Layer::Node, "", 0)).is_ok());
        assert!(scope_from_wire(scope(Layer::Rack, "", 1)).is_err());
        assert!(scope_from_wire(scope(Layer::Rack, "r12", MAX_MEMBERS)).is_ok());
        assert!(scope_from_wire(scope(Layer::Rack, "r12", MAX_MEMBERS + 1)).is_err());
        assert!(
            scope_from_wire(telemetry::Scope { members: vec![String::new()], ..scope(Layer::Site, "s", 0) }).is_err()
        );
    }

    #[test]
    fn a_name_that_may_not_be_sent_is_cut_and_cleaned_and_then_accepted() {
        let odd = Subject::Memory { workload: format!("process/1@2\n{}", "x".repeat(600)) };
        let (_, back) = series_from_wire(series_to_wire(1, &odd)).expect("cleaned");
        let Subject::Memory { workload } = back else { panic!("kind changed") };
        assert!(workload.starts_with("process/1@2?x") && workload.len() == MAX_WORKLOAD_ID_BYTES);
    }
}
