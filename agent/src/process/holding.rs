//! Who is on devices: processes, and, where none is, the containers that hold them by allocation (kubelet). A holder whose
//! container is known is that workload; any other has a row of its own, without CPU time, which says whose pod it is.

use super::{WorkloadRow, WorkloadSample, Workloads};
use crate::collector::DeviceUse;
use crate::directory::Pod;
use crate::kubelet::{Allocations, Holding};
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
    /// Those that hold a device on which no process is, by its hardware identity.
    pub holders: BTreeMap<String, BTreeSet<String>>,
}

/// Devices without processes, and who holds devices.
#[derive(Debug)]
pub(super) struct Vacant {
    devices: BTreeSet<String>,
    allocations: watch::Receiver<Arc<Allocations>>,
}

impl Default for Vacant {
    fn default() -> Self {
        Self { devices: BTreeSet::new(), allocations: watch::channel(Arc::default()).1 }
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
            if used.users.is_empty() {
                self.vacant.devices.insert(used.device.clone());
            } else {
                self.vacant.devices.remove(&used.device);
            }
        }
    }

    /// Adds who holds the devices without processes.
    pub(super) fn add_holders(&self, sample: &mut WorkloadSample) {
        let allocations = Arc::clone(&self.vacant.allocations.borrow());
        let vacant = allocations.devices().filter(|(device, _)| self.vacant.devices.contains(*device));
        for (device, holdings) in vacant {
            let holders = holdings.iter().map(|holding| self.holder(holding, &mut sample.rows)).collect();
            sample.device_users.holders.insert(device.to_owned(), holders);
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
