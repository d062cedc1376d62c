//! What an agent says of its node in Hello.

use super::series::{source_from_wire, source_to_wire};
use super::{
    ConvertError, MAX_ID_BYTES, MAX_TEXT_BYTES, MAX_WORKLOAD_ID_BYTES, clean, identity, optional_clean, optional_text,
    required, text,
};
use crate::{SCHEMA_VERSION, telemetry};
use joulebook_units::{Accelerator, Hardware, Inventory, Placement, SourceState, Support};

/// Most sources, and most accelerators, of one node.
const MAX_DEVICES: usize = 1024;
/// Most declarations of support of one node.
const MAX_SUPPORT: usize = 64;

/// A Hello that holds everything the inventory tells. Streams, epoch, boot id and clocks are the session's to fill in.
pub fn inventory_to_hello(inventory: &Inventory) -> telemetry::Hello {
    let sources = inventory.sources.iter().take(MAX_DEVICES).map(|state| telemetry::SourceState {
        source: Some(source_to_wire(&state.source)),
        unavailable_reason: state.unavailable.as_deref().map_or_else(String::new, |why| {
            // Empty means that it is read: a reason without words must not turn into that.
            if why.is_empty() { "not stated".into() } else { clean(why, MAX_TEXT_BYTES) }
        }),
    });
    let hardware = &inventory.hardware;
    let accelerators = hardware.accelerators.iter().take(MAX_DEVICES).map(|accelerator| telemetry::Accelerator {
        device: optional_clean(accelerator.device.as_ref(), MAX_ID_BYTES),
        model: clean(&accelerator.model, MAX_TEXT_BYTES),
        driver: optional_clean(accelerator.driver.as_ref(), MAX_ID_BYTES),
        memory_bytes: accelerator.memory_bytes,
    });
    telemetry::Hello {
        node: inventory.node.as_str().into(),
        agent_version: clean(&inventory.agent_version, MAX_ID_BYTES),
        schema_version: SCHEMA_VERSION,
        sources: sources.collect(),
        hardware: Some(telemetry::Hardware {
            sockets: hardware.sockets,
            threads: hardware.threads,
            cpu_model: optional_clean(hardware.cpu_model.as_ref(), MAX_TEXT_BYTES),
            memory_bytes: hardware.memory_bytes,
            disks: hardware.disks,
            rotating_disks: hardware.rotating_disks,
            accelerators: accelerators.collect(),
            guest: hardware.guest,
            kernel: optional_clean(hardware.kernel.as_ref(), MAX_TEXT_BYTES),
        }),
        placement: Some(telemetry::Placement {
            site: optional_clean(inventory.placement.site.as_ref(), MAX_ID_BYTES),
            pool: optional_clean(inventory.placement.pool.as_ref(), MAX_ID_BYTES),
            simulated: inventory.placement.simulated,
            support: inventory.placement.support.iter().take(MAX_SUPPORT).map(support_to_wire).collect(),
        }),
        ..telemetry::Hello::default()
    }
}

/// The inventory of a Hello. Fails on a node name, source or text that the contract refuses and on more than 1,024
/// sources or accelerators. Absent hardware and placement are unknown in every field.
pub fn hello_to_inventory(hello: &telemetry::Hello) -> Result<Inventory, ConvertError> {
    for (what, count) in [
        ("Hello.sources", hello.sources.len()),
        ("Hardware.accelerators", hello.hardware.as_ref().map_or(0, |hardware| hardware.accelerators.len())),
    ] {
        if count > MAX_DEVICES {
            return Err(ConvertError::Limit { what, limit: MAX_DEVICES });
        }
    }
    Ok(Inventory {
        node: hello.node.parse()?,
        agent_version: text(hello.agent_version.clone(), "Hello.agent_version", MAX_ID_BYTES)?,
        sources: hello.sources.iter().map(source_state).collect::<Result<_, _>>()?,
        hardware: hello.hardware.as_ref().map(hardware).transpose()?.unwrap_or_default(),
        placement: hello.placement.as_ref().map(placement).transpose()?.unwrap_or_default(),
    })
}

fn source_state(state: &telemetry::SourceState) -> Result<SourceState, ConvertError> {
    let why = text(state.unavailable_reason.clone(), "SourceState.unavailable_reason", MAX_TEXT_BYTES)?;
    Ok(SourceState {
        source: source_from_wire(required(state.source.clone(), "SourceState.source")?)?.into(),
        unavailable: (!why.is_empty()).then_some(why),
    })
}

fn hardware(hardware: &telemetry::Hardware) -> Result<Hardware, ConvertError> {
    let accelerator = |accelerator: &telemetry::Accelerator| -> Result<Accelerator, ConvertError> {
        Ok(Accelerator {
            device: optional_text(accelerator.device.clone(), "Accelerator.device", MAX_ID_BYTES)?,
            model: text(accelerator.model.clone(), "Accelerator.model", MAX_TEXT_BYTES)?,
            driver: optional_text(accelerator.driver.clone(), "Accelerator.driver", MAX_ID_BYTES)?,
            memory_bytes: accelerator.memory_bytes,
        })
    };
    Ok(Hardware {
        sockets: hardware.sockets,
        threads: hardware.threads,
        cpu_model: optional_text(hardware.cpu_model.clone(), "Hardware.cpu_model", MAX_TEXT_BYTES)?,
        memory_bytes: hardware.memory_bytes,
        disks: hardware.disks,
        rotating_disks: hardware.rotating_disks,
        accelerators: hardware.accelerators.iter().map(accelerator).collect::<Result<_, _>>()?,
        guest: hardware.guest,
        kernel: optional_text(hardware.kernel.clone(), "Hardware.kernel", MAX_TEXT_BYTES)?,
    })
}

fn placement(placement: &telemetry::Placement) -> Result<Placement, ConvertError> {
    if placement.support.len() > MAX_SUPPORT {
        return Err(ConvertError::Limit { what: "Placement.support", limit: MAX_SUPPORT });
    }
    Ok(Placement {
        site: optional_text(placement.site.clone(), "Placement.site", MAX_ID_BYTES)?,
        pool: optional_text(placement.pool.clone(), "Placement.pool", MAX_ID_BYTES)?,
        simulated: placement.simulated,
        support: placement.support.iter().map(support).collect::<Result<_, _>>()?,
    })
}

fn support_to_wire(support: &Support) -> telemetry::Support {
    telemetry::Support {
        role: clean(&support.role, MAX_ID_BYTES),
        workload: optional_clean(support.workload.as_ref(), MAX_WORKLOAD_ID_BYTES),
        pool: optional_clean(support.pool.as_ref(), MAX_ID_BYTES),
    }
}

fn support(support: &telemetry::Support) -> Result<Support, ConvertError> {
    Ok(Support {
        role: identity(support.role.clone(), "Support.role", MAX_ID_BYTES)?,
        workload: optional_text(support.workload.clone(), "Support.workload", MAX_WORKLOAD_ID_BYTES)?,
        pool: optional_text(support.pool.clone(), "Support.pool", MAX_ID_BYTES)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulebook_units::{Component, Method, Milliwatts, Source};

    fn inventory() -> Inventory {
        let source = Source {
            id: "rapl/package-0".into(),
            component: Component::Cpu,
            socket: Some(0),
            device: None,
            collector: "rapl".into(),
            method: Method::Counter,
            unit_nanojoules: Some(61_035),
            ceiling: Milliwatts(1_500_000),
            uncertainty_permille: 50,
            contained_in: None,
            scope: None,
            basis: "energy_uj".into(),
        };
        Inventory {
            node: "gpu-1".parse().expect("a name"),
            agent_version: "0.1.0".into(),
            sources: vec![
                SourceState { source: source.clone().into(), unavailable: None },
                SourceState { source: source.into(), unavailable: Some("permission denied".into()) },
            ],
            hardware: Hardware {
                sockets: Some(1),
                disks: Some(5),
                rotating_disks: Some(3),
                guest: Some(true),
                accelerators: vec![Accelerator {
                    device: None,
                    model: "nvidia PCI device".into(),
                    driver: None,
                    memory_bytes: Some(80 << 30),
                }],
                ..Hardware::default()
            },
            placement: Placement {
                site: Some("fsn1".into()),
                pool: None,
                simulated: true,
                support: vec![
                    Support {
                        role: "router".into(),
                        workload: Some("unit/envoy.service".into()),
                        pool: Some("eu".into()),
                    },
                    Support { role: "vector store".into(), workload: None, pool: None },
                ],
            },
        }
    }

    #[test]
    fn an_inventory_comes_back_as_it_was_sent() {
        let inventory = inventory();
        assert_eq!(hello_to_inventory(&inventory_to_hello(&inventory)).expect("valid"), inventory);
    }

    #[test]
    fn a_source_that_cannot_be_read_stays_so_even_without_a_reason() {
        let mut inventory = inventory();
        inventory.sources[1].unavailable = Some(String::new());
        let back = hello_to_inventory(&inventory_to_hello(&inventory)).expect("valid");
        assert!(back.sources[0].unavailable.is_none() && back.sources[1].unavailable.is_some());
    }

    #[test]
    fn a_hello_with_a_bad_name_or_too_many_sources_is_refused() {
        let hello = inventory_to_hello(&inventory());
        assert!(hello_to_inventory(&telemetry::Hello { node: "a/b".into(), ..hello.clone() }).is_err());
        let placement = hello.placement.clone().expect("there");
        let support = vec![placement.support[0].clone(); MAX_SUPPORT + 1];
        let placement = Some(telemetry::Placement { support, ..placement });
        assert!(hello_to_inventory(&telemetry::Hello { placement, ..hello.clone() }).is_err());
        let sources = vec![hello.sources[0].clone(); MAX_DEVICES + 1];
        assert!(hello_to_inventory(&telemetry::Hello { sources, ..hello }).is_err());
    }
}
