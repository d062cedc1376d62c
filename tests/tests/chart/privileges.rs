//! The allow-list: what pods may do and see, each entry with the reason for it. What is not in it fails.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use joulebook_tests::chart::pod::{Pod, pods, text};
use joulebook_tests::chart::render::{objects, of_kind, value_sets};

/// Something of outside that a container sees.
struct Mount {
    /// Part of Joulebook.
    component: &'static str,
    /// Where the container sees it.
    at: &'static str,
    /// What it is: the kind of volume, and the path where it is one of the node.
    what: &'static str,
    /// Whether the container may write there.
    writable: bool,
}

const fn mount(component: &'static str, at: &'static str, what: &'static str, writable: bool) -> Mount {
    Mount { component, at, what, writable }
}

/// Everything that is mounted anywhere.
const MOUNTS: [Mount; 36] = [
    // Meters: class, bus and block are links into devices, which hold powercap and hwmon.
    mount("agent", "/host/sys/class", "hostPath /sys/class", false),
    mount("agent", "/host/sys/devices", "hostPath /sys/devices", false),
    // An accelerator that is seen but not read must stand in the answer's exclusions.
    mount("agent", "/host/sys/bus", "hostPath /sys/bus", false),
    // The number of disks, for embodied carbon.
    mount("agent", "/host/sys/block", "hostPath /sys/block", false),
    // Which process belongs to which container, and its CPU time.
    mount("agent", "/host/proc", "hostPath /proc", false),
    mount("agent", "/host/cgroup", "hostPath /sys/fs/cgroup", false),
    // What is not delivered outlives the pod.
    mount("agent", "/var/lib/joulebook", "hostPath /var/lib/joulebook", true),
    // Servers tell their counts here.
    mount("agent", "/run/joulebook", "hostPath /run/joulebook", true),
    mount("agent", "/tmp", "emptyDir", true),
    mount("agent", "/etc/joulebook/config", "configMap", false),
    mount("agent", "/etc/joulebook/tls", "secret", false),
    mount("agent", "/etc/joulebook/tls", "projected", false),
    mount("agent", "/etc/joulebook/tls", "hostPath /var/lib/spiffe/joulebook", false),
    // How a container asks for all devices where the variable is not heeded.
    mount("agent", "/var/run/nvidia-container-devices/all", "hostPath /dev/null", false),
    // Which pod holds a GPU that no process uses.
    mount("agent", "/var/lib/kubelet/pod-resources", "hostPath /var/lib/kubelet/pod-resources", false),
    mount("aggregator", "/var/lib/joulebook", "persistentVolumeClaim", true),
    mount("aggregator", "/var/backups/joulebook", "persistentVolumeClaim", true),
    mount("aggregator", "/etc/joulebook/config", "configMap", false),
    mount("aggregator", "/etc/joulebook/tls", "secret", false),
    mount("aggregator", "/etc/joulebook/secrets", "secret", false),
    // Where pods are watched: a token for that, of an hour.
    mount("aggregator", "/var/run/secrets/joulebook/api", "projected", false),
    mount("poller", "/var/lib/joulebook", "emptyDir", true),
    mount("poller", "/var/lib/joulebook", "persistentVolumeClaim", true),
    mount("poller", "/etc/joulebook/config", "configMap", false),
    mount("poller", "/etc/joulebook/tls", "secret", false),
    mount("poller", "/etc/joulebook/accounts", "secret", false),
    mount("test", "/etc/joulebook/tls", "secret", false),
    // Only the container that makes certificates writes them; only those that store them may ask the API server.
    mount("bootstrap make", "/certificates", "emptyDir", true),
    mount("bootstrap store-aggregator", "/certificates", "emptyDir", false),
    mount("bootstrap store-operator", "/certificates", "emptyDir", false),
    mount("bootstrap store-poller", "/certificates", "emptyDir", false),
    mount("bootstrap store-agent", "/certificates", "emptyDir", false),
    mount("bootstrap store-aggregator", TOKEN, "projected", false),
    mount("bootstrap store-operator", TOKEN, "projected", false),
    mount("bootstrap store-poller", TOKEN, "projected", false),
    mount("bootstrap store-agent", TOKEN, "projected", false),
];
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Everything that every value set mounts: part, place, what, writable.
fn mounted(set: &str, pod: &Pod<'_>) -> Vec<(String, String, String, bool)> {
    let volumes = pod.volumes();
    let mut used = BTreeSet::new();
    let mut found = Vec::new();
    for container in pod.containers() {
        let component = match pod.component.as_str() {
            "bootstrap" => format!("bootstrap {}", text(&container["name"])),
            component => component.to_owned(),
        };
        for mount in container["volumeMounts"].as_array().unwrap() {
            assert!(mount.get("subPath").is_none(), "{set}: a file that is mounted alone never changes: {mount}");
            assert!(mount.get("mountPropagation").is_none(), "{set}: {mount}");
            let name = text(&mount["name"]);
            let volume = &volumes[&name];
            let kind = volume.as_object().unwrap().keys().next().unwrap().clone();
            let what = match kind.as_str() {
                "hostPath" => format!("hostPath {}", text(&volume["hostPath"]["path"])),
                _ => kind,
            };
            let writable = mount["readOnly"] != true;
            // Folders of the kernel have others mounted in them.
            let kernel = what.starts_with("hostPath /sys") || what.starts_with("hostPath /proc");
            assert!(!kernel || mount["recursiveReadOnly"] == "IfPossible", "{set}: {mount}");
            found.push((component.clone(), text(&mount["mountPath"]), what, writable));
            used.insert(name);
        }
    }
    let volumes: BTreeSet<_> = volumes.into_keys().collect();
    assert_eq!(volumes, used, "{set}: {}: volumes that nobody mounts", pod.component);
    found
}

#[test]
fn pods_see_what_is_listed_and_nothing_else() {
    let mut seen = BTreeSet::new();
    for set in value_sets() {
        for pod in pods(&objects(&set)) {
            for (component, at, what, writable) in mounted(&set, &pod) {
                let allowed = MOUNTS.iter().position(|mount| {
                    (mount.component, mount.at, mount.what, mount.writable) == (&component, &at, &what, writable)
                });
                let place =
                    allowed.unwrap_or_else(|| panic!("{set}: {component} sees {what} at {at}, writable: {writable}"));
                seen.insert(place);
            }
        }
    }
    let never: Vec<_> = (0..MOUNTS.len()).filter(|place| !seen.contains(place)).map(|place| MOUNTS[place].at).collect();
    assert!(never.is_empty(), "listed, and in no value set: {never:?}");
}

#[test]
fn no_container_is_privileged_or_has_a_capability_and_only_agents_are_root() {
    for set in value_sets() {
        for pod in pods(&objects(&set)) {
            let agent = pod.component == "agent";
            for container in pod.containers() {
                let mut allowed = json!({
                    "privileged": false,
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                });
                if agent {
                    // The owner of the meters, which since CVE-2020-8694 are nobody else's.
                    let root = json!({"runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": false});
                    allowed.as_object_mut().unwrap().extend(root.as_object().unwrap().clone());
                }
                assert_eq!(container["securityContext"], allowed, "{set}: {}", pod.component);
                assert!(container["resources"]["limits"]["memory"].is_string(), "{set}: {}", pod.component);
                assert!(container.get("lifecycle").is_none() && container.get("devices").is_none());
            }
            let mut security = pod.spec["securityContext"].clone();
            let profile = security.as_object_mut().unwrap().remove("seccompProfile");
            assert_eq!(profile, Some(json!({"type": "RuntimeDefault"})), "{set}: {}", pod.component);
            security.as_object_mut().unwrap().remove("seLinuxOptions");
            let user = 65_532;
            let expected = match (agent, set.as_str()) {
                (true, _) => json!({}),
                (false, "openshift") => json!({"runAsNonRoot": true, "fsGroupChangePolicy": "OnRootMismatch"}),
                (false, _) => json!({
                    "runAsNonRoot": true, "runAsUser": user, "runAsGroup": user, "fsGroup": user,
                    "fsGroupChangePolicy": "OnRootMismatch",
                }),
            };
            assert_eq!(security, expected, "{set}: {}", pod.component);
        }
    }
}

#[test]
fn namespaces_of_the_node_are_shared_by_gpu_agents_alone_and_only_that_of_processes() {
    for set in value_sets() {
        for pod in pods(&objects(&set)) {
            let is = |key: &str, default: bool| pod.spec.get(key).map_or(default, |value| *value == true);
            let gpu = pod.variant.as_deref() == Some("gpu");
            assert_eq!(is("hostPID", false), gpu, "{set}: {}", pod.component);
            assert!(!is("hostNetwork", false) && !is("hostIPC", false), "{set}: {}", pod.component);
            assert!(is("hostUsers", true), "{set}: {}", pod.component);
            let ports = pod.containers().into_iter().flat_map(|container| container["ports"].as_array()).flatten();
            assert!(ports.into_iter().all(|port| port.get("hostPort").is_none()), "{set}: {}", pod.component);
        }
    }
}

#[test]
fn nobody_but_the_job_that_stores_certificates_and_the_watch_of_pods_has_a_right_or_a_token() {
    for set in value_sets() {
        let objects = objects(&set);
        for pod in pods(&objects) {
            assert_eq!(pod.spec["automountServiceAccountToken"], false, "{set}: {}", pod.component);
        }
        assert!(of_kind(&objects, "ServiceAccount").all(|account| account["automountServiceAccountToken"] == false));
        let rules: Vec<&Value> = of_kind(&objects, "Role").map(|role| &role["rules"]).collect();
        let bound = of_kind(&objects, "RoleBinding").count();
        if set == "bootstrap" {
            // What is there is neither read nor replaced.
            assert_eq!(rules, [&json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]}])]);
            assert_eq!(bound, 1);
        } else {
            assert!(rules.is_empty() && bound == 0, "{set}");
        }
        let cluster: Vec<_> = objects
            .iter()
            .filter(|object| object["kind"].as_str().unwrap().starts_with("ClusterRole"))
            .map(|object| object.get("rules").or(object.get("subjects")).unwrap().clone())
            .collect();
        if set == "pods" {
            // What runs where is read; nothing is written, and no secret, log or kubelet is reached.
            let rules = json!([{"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]}]);
            let bound = json!([{"kind": "ServiceAccount", "name": "joulebook-aggregator", "namespace": "joulebook"}]);
            assert_eq!(cluster, [rules, bound]);
        } else {
            assert!(cluster.is_empty(), "{set}");
        }
    }
}

#[test]
fn openshift_allows_agents_what_they_are_and_no_more() {
    let objects = objects("openshift");
    let allowed = of_kind(&objects, "SecurityContextConstraints").next().expect("one for agents");
    let off =
        ["allowPrivilegedContainer", "allowPrivilegeEscalation", "allowHostNetwork", "allowHostIPC", "allowHostPorts"];
    assert!(off.iter().all(|key| allowed[*key] == false), "{allowed}");
    assert_eq!(allowed["allowedCapabilities"], json!([]));
    assert_eq!(allowed["requiredDropCapabilities"], json!(["ALL"]));
    let kinds: BTreeSet<String> = allowed["volumes"].as_array().unwrap().iter().map(text).collect();
    for pod in pods(&objects).iter().filter(|pod| pod.component == "agent") {
        let used = pod.volumes().into_values().map(|volume| volume.as_object().unwrap().keys().next().unwrap().clone());
        assert!(used.into_iter().all(|kind| kinds.contains(&kind)), "{kinds:?}");
        let account = format!("system:serviceaccount:joulebook:{}", text(&pod.spec["serviceAccountName"]));
        assert_eq!(allowed["users"], json!([account]));
    }
}
