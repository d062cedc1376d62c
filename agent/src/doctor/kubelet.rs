//! Who holds the devices of the node, as its kubelet tells it.

use super::Absent;
use crate::config::KubeletSection;
use crate::kubelet::{self, KubeletError};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What the kubelet tells.
pub(super) struct Told {
    /// Devices that are held.
    pub(super) held: Vec<Held>,
    /// Names that stand for no device that is known.
    pub(super) unresolved: Vec<Held>,
}

/// A device that a container holds by allocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Its hardware identity, or the name that stands for none.
    pub device: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container.
    pub container: String,
}

/// What the kubelet tells, on a node whose devices have these minor numbers, or why it tells nothing.
pub(super) fn held(section: &KubeletSection, minors: &BTreeMap<u32, String>) -> Result<Told, Absent> {
    let absent = |why: String, configured| Absent { kind: "kubelet", why, configured };
    if !section.enabled {
        return Err(absent("it is switched off in the configuration ([kubelet] enabled)".to_owned(), false));
    }
    // A thread of its own: whoever calls may be within another runtime.
    let asked = std::thread::scope(|scope| scope.spawn(|| ask(section)).join());
    let told = asked.unwrap_or_else(|_| Err("asking it failed".to_owned()));
    let allocations = told.map_err(|why| {
        let pool = "without it an idle GPU that a pod holds counts as idle capacity of the pool";
        absent(
            format!(
                "{why}; on a Kubernetes node mount the folder of its socket read-only, or name it with \
             kubelet.socket: {pool}"
            ),
            section.socket.is_some(),
        )
    })?;
    let kubelet::Resolved { held, unresolved } = allocations.resolve(minors);
    Ok(Told { held: rows(held), unresolved: rows(unresolved) })
}

fn rows(devices: BTreeMap<String, BTreeSet<kubelet::Holding>>) -> Vec<Held> {
    let rows = devices.into_iter().flat_map(|(device, holdings)| {
        holdings.into_iter().map(move |holding| Held {
            device: device.clone(),
            namespace: holding.namespace,
            pod: holding.pod,
            container: holding.container,
        })
    });
    rows.collect()
}

fn ask(section: &KubeletSection) -> Result<kubelet::Allocations, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("asking it failed: {error}"))?;
    let told = runtime.block_on(kubelet::list(section.socket()));
    told.map_err(|error: KubeletError| format!("{:#}", anyhow::Error::new(error)))
}
