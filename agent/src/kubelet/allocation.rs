//! Who holds what, out of the kubelet's list. Names and ids come from whoever wrote the pod or the plugin: what is no name
//! of Kubernetes, or no identity of hardware, is left out.

use super::message::{ClaimResource, ContainerResources, ListPodResourcesResponse};
use std::collections::{BTreeMap, BTreeSet};

/// Most devices of one node, and most holders of one device: a shared one may have many.
const MOST_DEVICES: usize = 1_024;
const MOST_HOLDERS: usize = 64;
/// Longest names that Kubernetes allows, and longest identity of a device.
const LONGEST_LABEL: usize = 63;
const LONGEST_NAME: usize = 253;
const LONGEST_ID: usize = 128;

/// Devices of this node that containers hold by allocation, by hardware identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allocations {
    held: BTreeMap<String, BTreeSet<Holding>>,
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

    fn add(&mut self, device: String, holding: &Holding) {
        if self.held.len() >= MOST_DEVICES && !self.held.contains_key(&device) {
            return;
        }
        let holders = self.held.entry(device).or_default();
        if holders.len() < MOST_HOLDERS {
            holders.insert(holding.clone());
        }
    }

    /// Each device that is held, and its holders.
    pub fn devices(&self) -> impl Iterator<Item = (&str, &BTreeSet<Holding>)> {
        self.held.iter().map(|(device, holders)| (device.as_str(), holders))
    }
}

impl FromIterator<(String, Holding)> for Allocations {
    fn from_iter<Held: IntoIterator<Item = (String, Holding)>>(held: Held) -> Self {
        let mut allocations = Self::default();
        held.into_iter().for_each(|(device, holding)| allocations.add(device, &holding));
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

/// Identities of the devices that a container holds.
fn devices(container: &ContainerResources) -> BTreeSet<String> {
    let plugged = container.devices.iter().flat_map(|devices| &devices.device_ids).filter_map(|id| identity(id));
    let claims = container.dynamic_resources.iter().flat_map(|claim| &claim.claim_resources);
    plugged.chain(claims.filter_map(of_claim)).collect()
}

/// The device that a claim names: by the first name of it that is one of hardware.
fn of_claim(claim: &ClaimResource) -> Option<String> {
    let interface = claim.cdi_devices.iter().filter_map(|device| device.name.rsplit('=').next());
    interface.chain([claim.device_name.as_str()]).find_map(identity)
}

/// The hardware's identity in an id. Shares of one device have a number behind it: `GPU-…::3`.
fn identity(id: &str) -> Option<String> {
    let id = id.split("::").next()?;
    let (_, uuid) = id.split_once('-').filter(|(kind, _)| matches!(*kind, "GPU" | "MIG"))?;
    let is_usable = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'/');
    (!uuid.is_empty() && id.len() <= LONGEST_ID && id.bytes().all(is_usable)).then(|| id.to_owned())
}

fn is_name(text: &str, longest: usize) -> bool {
    let is_usable = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    !text.is_empty() && text.len() <= longest && text.bytes().all(is_usable)
}

#[cfg(test)]
mod tests {
    use super::super::message::{CdiDevice, ContainerDevices, DynamicResource, PodResources};
    use super::*;

    fn pod(name: &str, ids: &[&str], claims: &[(&str, &str)]) -> PodResources {
        let claim = |(interface, device): &(&str, &str)| ClaimResource {
            cdi_devices: vec![CdiDevice { name: (*interface).to_owned() }],
            device_name: (*device).to_owned(),
        };
        let container = ContainerResources {
            name: "server".to_owned(),
            devices: vec![ContainerDevices { device_ids: ids.iter().map(|id| (*id).to_owned()).collect() }],
            dynamic_resources: vec![DynamicResource { claim_resources: claims.iter().map(claim).collect() }],
        };
        PodResources { name: name.to_owned(), namespace: "chat".to_owned(), containers: vec![container] }
    }

    fn held(pods: Vec<PodResources>) -> Vec<(String, Vec<String>)> {
        let found = Allocations::of(ListPodResourcesResponse { pod_resources: pods });
        let names = |holders: &BTreeSet<Holding>| holders.iter().map(|holding| holding.pod.clone()).collect();
        found.devices().map(|(device, holders)| (device.to_owned(), names(holders))).collect()
    }

    #[test]
    fn devices_of_plugins_and_of_claims_are_known_by_the_hardwares_identity() {
        let found = held(vec![
            pod("plugged", &["GPU-a", "nic-1"], &[]),
            pod("shares", &["GPU-b::0", "GPU-b::1"], &[]),
            pod("shares-too", &["GPU-b::2"], &[]),
            pod("claims", &[], &[("nvidia.com/gpu=GPU-c", "gpu-2"), ("x/y=z", "GPU-d"), ("x/y=z", "gpu-3")]),
            pod("instance", &["MIG-e"], &[]),
        ]);
        let row = |device: &str, pods: &[&str]| (device.to_owned(), pods.iter().map(|pod| (*pod).to_owned()).collect());
        let expected = [
            row("GPU-a", &["plugged"]),
            row("GPU-b", &["shares", "shares-too"]),
            row("GPU-c", &["claims"]),
            row("GPU-d", &["claims"]),
            row("MIG-e", &["instance"]),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_no_name_or_no_identity_is_left_out_and_what_is_held_is_bounded() {
        let long = "x".repeat(LONGEST_NAME + 1);
        let hostile = ["", "a\nb", "../etc", &long].map(|name| pod(name, &["GPU-a"], &[]));
        assert!(held(hostile.to_vec()).is_empty());
        let id = format!("GPU-{long}");
        assert!(held(vec![pod("p", &["", "GPU-", "GPU-a\u{1b}", "gpu", &id], &[])]).is_empty());
        let ids: Vec<String> = (0..2 * MOST_DEVICES).map(|number| format!("GPU-{number}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        assert_eq!(held(vec![pod("p", &ids, &[])]).len(), MOST_DEVICES);
        let many = (0..2 * MOST_HOLDERS).map(|number| pod(&format!("p{number}"), &["GPU-a"], &[]));
        assert_eq!(held(many.collect())[0].1.len(), MOST_HOLDERS);
    }
}
