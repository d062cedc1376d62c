//! Who is on devices: processes, and, where none is, the containers that hold them by allocation (kubelet). A holder whose
//! container is known is that workload; any other has a row of its own, without CPU time, which says whose pod it is.

use super::{WorkloadRow, WorkloadSample, Workloads};
use crate::collector::DeviceUse;
use crate::directory::Pod;
use crate::kubelet::{Allocations, Holding, Resolved};
use joulebook_units::{PodIdentity, Workload, WorkloadKind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::watch;

/// Begin of the identity of a holder of which only the allocation is known.
const ALLOCATION: &str = "allocation/";

/// Workloads on devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceUsers {
    /// That of each process that was named as a user of a device and was found.
    pub processes: BTreeMap<i32, String>,
    /// Those that hold a device, or a part of one, on which no process is, by its hardware identity.
    pub holders: BTreeMap<String, BTreeSet<String>>,
    /// How many names of allocated devices stand for no device that is known.
    pub unresolved: u64,
}

/// Devices without processes, and who holds devices.
#[derive(Debug)]
pub(super) struct Vacant {
    /// By device: itself, or parts of it.
    devices: BTreeMap<String, BTreeSet<String>>,
    /// Devices by the numbers of their files.
    minors: BTreeMap<u32, String>,
    allocations: watch::Receiver<Arc<Allocations>>,
}

impl Default for Vacant {
    fn default() -> Self {
        Self { devices: BTreeMap::new(), minors: BTreeMap::new(), allocations: watch::channel(Arc::default()).1 }
    }
}

/// Whether a workload that has gone will not come back, or has nothing to go on from.
pub(crate) fn is_brief(id: &str) -> bool {
    id.starts_with("process/") || id.starts_with(ALLOCATION)
}

impl Workloads {
    /// Knows who holds devices by allocation.
    #[must_use]
    pub fn holding(mut self, allocations: watch::Receiver<Arc<Allocations>>) -> Self {
        self.vacant.allocations = allocations;
        self
    }

    /// Sees the processes on devices now. From the next sample on each of them belongs to a row: who holds a device is
    /// somebody, however little CPU time it uses.
    pub fn see_devices(&mut self, used: &[DeviceUse]) {
        if used.is_empty() {
            return;
        }
        self.named = used.iter().flat_map(|used| used.users.iter().map(|user| user.pid)).collect();
        self.named.extend(self.own);
        for used in used {
            let whole = used.users.is_empty().then(|| used.device.clone());
            let vacant = used.free.keys().cloned().chain(whole).collect();
            self.vacant.devices.insert(used.device.clone(), vacant);
            // A number may go to another device.
            self.vacant.minors.retain(|_, device| *device != used.device);
            self.vacant.minors.extend(used.minor.map(|minor| (minor, used.device.clone())));
        }
    }

    /// Adds who holds the devices without processes.
    pub(super) fn add_holders(&self, sample: &mut WorkloadSample) {
        let allocations = Arc::clone(&self.vacant.allocations.borrow());
        let is_vacant = |device: &str| self.vacant.devices.values().any(|vacant| vacant.contains(device));
        let Resolved { held, unresolved } = allocations.resolve(&self.vacant.minors);
        sample.device_users.unresolved = unresolved.len() as u64;
        for (device, holdings) in held.into_iter().filter(|(device, _)| is_vacant(device)) {
            let holders = holdings.iter().map(|holding| self.holder(holding, &mut sample.rows)).collect();
            sample.device_users.holders.insert(device, holders);
        }
    }

    /// Identity of the workload that a holder is, which has a row then.
    fn holder(&self, holding: &Holding, rows: &mut Vec<WorkloadRow>) -> String {
        let directory = self.together.directory.borrow();
        let is_it = |pod: &Pod| pod.namespace == holding.namespace && pod.name == holding.pod;
        let known = directory.pods().find(|(_, pod)| is_it(pod));
        let container = known.and_then(|(_, pod)| pod.container(&holding.container));
        let runs = |row: &&WorkloadRow| {
            row.workload.kind == WorkloadKind::Container && row.workload.container_id.as_deref() == container
        };
        if let Some(row) = container.and_then(|_| rows.iter().find(runs)) {
            return row.workload.id.clone();
        }
        let Holding { namespace, pod, container } = holding;
        let id = format!("{ALLOCATION}{namespace}/{pod}/{container}");
        if !rows.iter().any(|row| row.workload.id == id) {
            let bare = || PodIdentity { namespace: namespace.clone(), name: pod.clone(), ..PodIdentity::default() };
            let workload = Workload {
                pod_uid: known.map(|(uid, _)| uid.clone()),
                pod: Some(known.map_or_else(bare, |(_, pod)| pod.identity())),
                group: known.and_then(|(_, pod)| pod.group()),
                ..Workload::bare(&id, WorkloadKind::Container, pod)
            };
            rows.push(WorkloadRow { workload, cpu_nanos: 0, origin: None, memory_bytes: None });
        }
        id
    }
}
