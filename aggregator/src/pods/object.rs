//! Pods and nodes as the API server writes them: the few fields that agents are told of, and nothing else.

use joulebook_proto::telemetry::{Pod, PodContainer};
use joulebook_units::NodeName;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Longest label or annotation that is kept; agents take no longer ones.
const MOST_BYTES: usize = 1024;
/// Most labels, and most annotations, of one object.
const MOST_LABELS: usize = 64;
/// Most containers of one pod.
const MOST_CONTAINERS: usize = 64;

/// Something that became of the cluster.
#[derive(Debug)]
pub(super) enum Change {
    /// A pod is there, or is another than before. `ended`: nothing of it runs any more.
    Pod {
        /// Where it runs.
        node: NodeName,
        /// What is told of it.
        pod: Box<Pod>,
        /// Whether it has ended.
        ended: bool,
    },
    /// All pods were listed: who is not among these uids is gone.
    Pods(BTreeSet<String>),
    /// A node is there, or has other labels.
    Node(NodeName, BTreeMap<String, String>),
    /// A node is gone.
    NodeGone(NodeName),
    /// All nodes were listed.
    Nodes(BTreeSet<NodeName>),
}

/// A page of a list.
#[derive(Deserialize)]
pub(super) struct Page<T> {
    /// Of the list.
    #[serde(default)]
    pub(super) metadata: ListMeta,
    /// The objects.
    #[serde(default = "Vec::new")]
    pub(super) items: Vec<T>,
}

/// Where a list stands.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListMeta {
    /// What a watch goes on from.
    #[serde(default)]
    pub(super) resource_version: String,
    /// What the next page is asked with; empty: this was the last.
    #[serde(default, rename = "continue")]
    pub(super) next: String,
}

/// A line of a watch.
#[derive(Deserialize)]
pub(super) struct Event<'a> {
    /// ADDED, MODIFIED, DELETED, BOOKMARK or ERROR.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// What it is about.
    #[serde(borrow)]
    pub(super) object: &'a serde_json::value::RawValue,
}

/// What every object and every bookmark has, and what an error says.
#[derive(Deserialize)]
pub(super) struct Any {
    /// Its metadata.
    #[serde(default)]
    pub(super) metadata: Meta,
    /// Of an error.
    #[serde(default)]
    pub(super) code: u16,
    /// Of an error.
    #[serde(default)]
    pub(super) message: String,
}

/// Metadata of an object.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct Meta {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    uid: String,
    /// What a watch goes on from.
    #[serde(default)]
    pub(super) resource_version: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// An object of a cluster that is of use here.
pub(super) trait Object: for<'de> Deserialize<'de> + Send {
    /// What it means that it is there, or that it is gone; none if it is of no use.
    fn change(self, gone: bool) -> Option<Change>;
}

/// A pod as the API server has it.
#[derive(Deserialize)]
pub(super) struct PodObject {
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    node_name: Option<String>,
    #[serde(default)]
    containers: Vec<Container>,
    #[serde(default)]
    init_containers: Option<Vec<Container>>,
}

#[derive(Deserialize)]
struct Container {
    name: String,
    #[serde(default)]
    resources: Resources,
}

#[derive(Deserialize, Default)]
struct Resources {
    #[serde(default)]
    requests: Option<BTreeMap<String, Quantity>>,
}

/// Requests are written as strings, and read as numbers as well.
#[derive(Deserialize)]
#[serde(untagged)]
enum Quantity {
    Text(String),
    Number(serde_json::Number),
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    phase: String,
    #[serde(default, rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(default, rename = "podIPs")]
    pod_ips: Option<Vec<Address>>,
    #[serde(default)]
    container_statuses: Option<Vec<Running>>,
    #[serde(default)]
    init_container_statuses: Option<Vec<Running>>,
    #[serde(default)]
    ephemeral_container_statuses: Option<Vec<Running>>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(default)]
    ip: String,
}

#[derive(Deserialize)]
struct Running {
    name: String,
    #[serde(default, rename = "containerID")]
    id: String,
    #[serde(default)]
    image: String,
    #[serde(default, rename = "imageID")]
    image_id: String,
}

impl Object for PodObject {
    fn change(self, gone: bool) -> Option<Change> {
        let Self { metadata, mut spec, status } = self;
        // Without a node it does not run.
        let node: NodeName = spec.node_name.take()?.parse().ok()?;
        if metadata.uid.is_empty() || metadata.uid.len() > MOST_BYTES {
            return None;
        }
        let mut addresses: Vec<String> = status.pod_ips.into_iter().flatten().map(|one| one.ip).collect();
        addresses.extend(status.pod_ip.filter(|_| addresses.is_empty()));
        addresses.retain(|address| address.parse::<std::net::IpAddr>().is_ok());
        let ended = gone || matches!(status.phase.as_str(), "Succeeded" | "Failed");
        let mut containers: BTreeMap<String, PodContainer> = BTreeMap::new();
        for one in spec.containers.into_iter().chain(spec.init_containers.into_iter().flatten()).take(MOST_CONTAINERS) {
            let asked =
                |what: &str| one.resources.requests.as_ref().and_then(|all| all.get(what)).and_then(thousandths);
            let (cpu, memory) = (asked("cpu"), asked("memory").map(|bytes| bytes.div_ceil(1000)));
            let entry = containers.entry(one.name.clone()).or_default();
            (entry.name, entry.cpu_request_millicores, entry.memory_request_bytes) = (one.name, cpu, memory);
        }
        let statuses = [status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses];
        for one in statuses.into_iter().flatten().flatten().take(MOST_CONTAINERS) {
            let entry = containers.entry(one.name.clone()).or_default();
            entry.name = one.name;
            // "containerd://<id>"
            entry.container_id = one.id.rsplit_once("//").map(|(_, id)| id.to_owned()).filter(|id| !id.is_empty());
            // "registry/name@sha256:<digest>", or the digest of a local image alone.
            let digest = one.image_id.rfind("sha256:").and_then(|at| one.image_id.get(at..)).map(str::to_owned);
            entry.image_digest = digest.filter(|digest| digest.len() <= MOST_BYTES);
            entry.image = Some(one.image).filter(|image| !image.is_empty() && image.len() <= MOST_BYTES);
        }
        let pod = Pod {
            pod_uid: metadata.uid,
            namespace: metadata.namespace,
            name: metadata.name,
            labels: kept(metadata.labels),
            annotations: kept(metadata.annotations),
            addresses,
            containers: containers.into_values().collect(),
        };
        Some(Change::Pod { node, pod: Box::new(pod), ended })
    }
}

/// A node as the API server has it.
#[derive(Deserialize)]
pub(super) struct NodeObject {
    #[serde(default)]
    metadata: Meta,
}

impl Object for NodeObject {
    fn change(self, gone: bool) -> Option<Change> {
        let node: NodeName = self.metadata.name.parse().ok()?;
        Some(if gone { Change::NodeGone(node) } else { Change::Node(node, kept(self.metadata.labels)) })
    }
}

impl Change {
    /// What tells the object apart in a list.
    pub(super) fn listed(&self, pods: &mut BTreeSet<String>, nodes: &mut BTreeSet<NodeName>) {
        match self {
            Self::Pod { pod, .. } => {
                pods.insert(pod.pod_uid.clone());
            }
            Self::Node(node, _) => {
                nodes.insert(node.clone());
            }
            Self::Pods(_) | Self::Nodes(_) | Self::NodeGone(_) => {}
        }
    }
}

fn kept(labels: Option<BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let short = |(key, value): &(String, String)| key.len() <= MOST_BYTES && value.len() <= MOST_BYTES;
    labels.unwrap_or_default().into_iter().filter(short).take(MOST_LABELS).collect()
}

/// A quantity in thousandths: "250m", "2", "1.5", "64Mi", "1e3"; none if it is no such thing.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "checked")]
fn thousandths(quantity: &Quantity) -> Option<u64> {
    let text = match quantity {
        Quantity::Text(text) => text.clone(),
        Quantity::Number(number) => number.to_string(),
    };
    let text = text.trim();
    const SCALES: [(&str, f64); 16] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
        ("", 1.0),
    ];
    let (number, scale) = SCALES.iter().find_map(|(suffix, scale)| Some((text.strip_suffix(suffix)?, *scale)))?;
    let value = number.parse::<f64>().ok()? * scale * 1000.0;
    // As the API server does, parts of the smallest unit are rounded up.
    let value = (value - 1e-6).ceil();
    (value.is_finite() && value >= 0.0 && value < u64::MAX as f64).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_the_api_server_writes_them() {
        let read = |text: &str| thousandths(&Quantity::Text(text.to_owned()));
        for (text, value) in [
            ("250m", 250),
            ("2", 2_000),
            ("1.5", 1_500),
            ("0.1", 100),
            ("64Mi", 67_108_864_000),
            ("1k", 1_000_000),
            ("1e3", 1_000_000),
            ("100u", 1),
            ("0", 0),
        ] {
            assert_eq!(read(text), Some(value), "{text}");
        }
        for text in ["", "m", "-1", "1e400", "two", "1 m", "NaN", "inf"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_pod_is_told_with_its_containers_requests_images_and_addresses() {
        let object = serde_json::json!({
            "metadata": {"name": "p", "namespace": "chat", "uid": "u", "labels": {"a": "b", "long": "x".repeat(2000)}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "resources": {"requests": {"cpu": "2", "memory": "1Gi"}}}]},
            "status": {"phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}],
                "containerStatuses": [{"name": "c", "containerID": "containerd://abc", "image": "r/i:1.2",
                    "imageID": "r/i@sha256:12"}]},
        });
        let read: PodObject = serde_json::from_value(object).expect("a pod");
        let Some(Change::Pod { node, pod, ended }) = read.change(false) else { panic!("a pod") };
        assert_eq!((node.as_str(), ended, pod.namespace.as_str(), pod.labels.len()), ("n1", false, "chat", 1));
        assert_eq!(pod.addresses, ["10.0.0.7", "fd00::7"]);
        let container = PodContainer {
            name: "c".to_owned(),
            container_id: Some("abc".to_owned()),
            image_digest: Some("sha256:12".to_owned()),
            cpu_request_millicores: Some(2_000),
            memory_request_bytes: Some(1 << 30),
            image: Some("r/i:1.2".to_owned()),
        };
        assert_eq!(pod.containers, [container]);
    }

    #[test]
    fn pods_without_a_node_or_a_uid_are_of_no_use() {
        for text in [r#"{"metadata":{"uid":"u"}}"#, r#"{"spec":{"nodeName":"n"}}"#, "{}"] {
            let read: PodObject = serde_json::from_str(text).expect("an object");
            assert!(read.change(false).is_none(), "{text}");
        }
    }
}
