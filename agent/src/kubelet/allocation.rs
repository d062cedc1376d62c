//! Who holds what, out of the kubelet's list. Names and ids come from whoever wrote the pod or the plugin: what is no name
//! of Kubernetes, or no identity of hardware, is left out.

use super::device::Device;
use super::message::{ContainerResources, ListPodResourcesResponse};
use std::collections::{BTreeMap, BTreeSet};

/// Most devices of one node, and most holders of one device: a shared one may have many.
const MOST_DEVICES: usize = 1_024;
const MOST_HOLDERS: usize = 64;
/// Longest names that Kubernetes allows.
const LONGEST_LABEL: usize = 63;
const LONGEST_NAME: usize = 253;
/// Begin of the names of resources whose devices are NVIDIA's.
const RESOURCES: &str = "nvidia.com/";

/// Devices of this node that containers hold by allocation, as they are named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allocations {
    held: BTreeMap<Device, BTreeSet<Holding>>,
}

/// Devices that are held, by hardware identity, and what names none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Each device that is held, and its holders.
    pub held: BTreeMap<String, BTreeSet<Holding>>,
    /// Names of devices of NVIDIA that stand for no device that is known, and their holders.
    pub unresolved: BTreeMap<String, BTreeSet<Holding>>,
}

/// A container that holds a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holding {
    /// Namespace of its pod.
    pub namespace: String,
    /// Name of its pod.
    pub pod: String,
    /// Its name in the pod.
    pub container: String,
}

impl Allocations {
    /// What a list tells.
    pub(super) fn of(list: ListPodResourcesResponse) -> Self {
        let mut allocations = Self::default();
        for pod in list.pod_resources {
            for container in pod.containers {
                let devices = devices(&container);
                let holding =
                    Holding { namespace: pod.namespace.clone(), pod: pod.name.clone(), container: container.name };
                if holding.is_named() {
                    devices.into_iter().for_each(|device| allocations.add(device, &holding));
                }
            }
        }
        allocations
    }

    fn add(&mut self, device: Device, holding: &Holding) {
        if self.held.len() >= MOST_DEVICES && !self.held.contains_key(&device) {
            return;
        }
        let holders = self.held.entry(device).or_default();
        if holders.len() < MOST_HOLDERS {
            holders.insert(holding.clone());
        }
    }

    /// How many devices are held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// What is held, with the identities of the devices that have these minor numbers.
    pub fn resolve(&self, minors: &BTreeMap<u32, String>) -> Resolved {
        let mut resolved = Resolved::default();
        for (device, holders) in &self.held {
            let into = match device {
                Device::Identity(id) => resolved.held.entry(id.clone()),
                Device::Minor { minor, name } => match minors.get(minor) {
                    Some(id) => resolved.held.entry(id.clone()),
                    None => resolved.unresolved.entry(name.clone()),
                },
                Device::Other { name } => resolved.unresolved.entry(name.clone()),
            };
            into.or_default().extend(holders.iter().cloned());
        }
        resolved
    }
}

impl FromIterator<(String, Holding)> for Allocations {
    fn from_iter<Held: IntoIterator<Item = (String, Holding)>>(held: Held) -> Self {
        let mut allocations = Self::default();
        for (id, holding) in held {
            allocations.add(Device::named(&id).unwrap_or(Device::Other { name: id }), &holding);
        }
        allocations
    }
}

impl Holding {
    fn is_named(&self) -> bool {
        is_name(&self.namespace, LONGEST_LABEL)
            && is_name(&self.pod, LONGEST_NAME)
            && is_name(&self.container, LONGEST_LABEL)
    }
}

/// The devices that a container holds.
fn devices(container: &ContainerResources) -> BTreeSet<Device> {
    let ours = container.devices.iter().filter(|devices| devices.resource_name.starts_with(RESOURCES));
    let plugged = ours.flat_map(|devices| &devices.device_ids).filter_map(|id| Device::plugged(id));
    let claims = container.dynamic_resources.iter().flat_map(|claim| &claim.claim_resources);
    plugged.chain(claims.filter_map(Device::claimed)).collect()
}

fn is_name(text: &str, longest: usize) -> bool {
    let is_usable = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    !text.is_empty() && text.len() <= longest && text.bytes().all(is_usable)
}

#[cfg(test)]
mod tests {
    use super::super::message::{CdiDevice, ClaimResource, ContainerDevices, DynamicResource, PodResources};
    use super::*;

    fn pod(name: &str, ids: &[&str], claims: &[(&str, &str)]) -> PodResources {
        let claim = |(interface, device): &(&str, &str)| ClaimResource {
            cdi_devices: vec![CdiDevice { name: (*interface).to_owned() }],
            driver_name: if device.is_empty() { "" } else { "gpu.nvidia.com" }.to_owned(),
            device_name: (*device).to_owned(),
        };
        let plugged = |id: &&str| ContainerDevices {
            resource_name: if id.starts_with("nic") { "example.com/nic" } else { "nvidia.com/gpu" }.to_owned(),
            device_ids: vec![(*id).to_owned()],
        };
        let container = ContainerResources {
            name: "server".to_owned(),
            devices: ids.iter().map(plugged).collect(),
            dynamic_resources: vec![DynamicResource { claim_resources: claims.iter().map(claim).collect() }],
        };
        PodResources { name: name.to_owned(), namespace: "chat".to_owned(), containers: vec![container] }
    }

    type Rows = Vec<(String, Vec<String>)>;

    /// What is held and what names nothing, on a node whose devices with minor numbers 0 and 2 are known.
    fn told(pods: Vec<PodResources>) -> (Rows, Rows) {
        let minors = BTreeMap::from([(0, "GPU-zero".to_owned()), (2, "GPU-b".to_owned())]);
        let found = Allocations::of(ListPodResourcesResponse { pod_resources: pods }).resolve(&minors);
        let names = |holders: &BTreeSet<Holding>| holders.iter().map(|holding| holding.pod.clone()).collect();
        let rows = |held: &BTreeMap<String, BTreeSet<Holding>>| {
            held.iter().map(|(device, holders)| (device.clone(), names(holders))).collect()
        };
        (rows(&found.held), rows(&found.unresolved))
    }

    fn row(device: &str, pods: &[&str]) -> (String, Vec<String>) {
        (device.to_owned(), pods.iter().map(|pod| (*pod).to_owned()).collect())
    }

    #[test]
    fn devices_of_plugins_and_of_claims_are_known_by_the_hardwares_identity() {
        let (held, unresolved) = told(vec![
            pod("plugged", &["GPU-a", "nic-1"], &[]),
            pod("shares", &["GPU-b::0", "GPU-b::1"], &[]),
            pod("shares-too", &["GPU-b::2"], &[]),
            pod("claims", &[], &[("nvidia.com/gpu=GPU-c", "gpu-7"), ("x/y=z", "GPU-d")]),
            pod("instance", &["MIG-e"], &[]),
        ]);
        let expected = [
            row("GPU-a", &["plugged"]),
            row("GPU-b", &["shares", "shares-too"]),
            row("GPU-c", &["claims"]),
            row("GPU-d", &["claims"]),
            row("MIG-e", &["instance"]),
        ];
        assert_eq!((held, unresolved), (expected.to_vec(), Vec::new()));
    }

    #[test]
    fn names_by_minor_number_are_the_devices_that_have_it_and_other_names_are_told_as_unresolved() {
        let claim = |device: &str| format!("k8s.gpu.nvidia.com/claim=dab5ab50-d59a-42a6-af16-cfd4628c0f7a-{device}");
        let (held, unresolved) = told(vec![
            pod("claims", &[], &[(&claim("gpu-0"), "gpu-0"), (&claim("gpu-1"), "gpu-1")]),
            // Of a kubelet that does not tell the device's name.
            pod("old", &[], &[(&claim("gpu-2"), "")]),
            pod("instance", &[], &[(&claim("gpu-0-mig-1g5gb-19-4"), "gpu-0-mig-1g5gb-19-4")]),
            pod("passed", &[], &[("vendor.com/vfio=gpu-vfio-0", "gpu-vfio-0")]),
            pod("file", &["nvidia0", "nvidia2/vgpu3", "nvidia2/gi1"], &[]),
            pod("other", &[], &[("k8s.nic.example.com/claim=x-gpu-0", ""), ("k8s.gpu.nvidia.com/claim=x", "")]),
        ]);
        let expected = [row("GPU-b", &["file", "old"]), row("GPU-zero", &["claims", "file"])];
        let rest = [
            row("gpu-0-mig-1g5gb-19-4", &["instance"]),
            row("gpu-1", &["claims"]),
            row("gpu-vfio-0", &["passed"]),
            row("k8s.gpu.nvidia.com/claim=x", &["other"]),
            row("nvidia2/gi1", &["file"]),
        ];
        assert_eq!((held, unresolved), (expected.to_vec(), rest.to_vec()));
    }

    #[test]
    fn what_is_no_name_or_no_identity_is_left_out_and_what_is_held_is_bounded() {
        let nothing = (Vec::new(), Vec::new());
        let long = "x".repeat(LONGEST_NAME + 1);
        let hostile = ["", "a\nb", "../etc", &long].map(|name| pod(name, &["GPU-a"], &[]));
        assert_eq!(told(hostile.to_vec()), nothing);
        let id = format!("GPU-{long}");
        // What cannot be shown is told of without its name.
        let (held, unresolved) = told(vec![pod("p", &["", "GPU-", "GPU-a\u{1b}", &id], &[])]);
        assert_eq!((held, unresolved), (Vec::new(), vec![row("GPU-", &["p"]), row("unreadable", &["p"])]));
        let ids: Vec<String> = (0..2 * MOST_DEVICES).map(|number| format!("GPU-{number}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        assert_eq!(told(vec![pod("p", &ids, &[])]).0.len(), MOST_DEVICES);
        let many = (0..2 * MOST_HOLDERS).map(|number| pod(&format!("p{number}"), &["GPU-a"], &[]));
        assert_eq!(told(many.collect()).0[0].1.len(), MOST_HOLDERS);
    }
}
