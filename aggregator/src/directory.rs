//! What runs on which node, from a file: each agent is told the pods of its own node, whole, whenever they change.
//!
//! The file is TOML: a table `[node.NAME]` with `labels`, and for each pod `[[node.NAME.pod]]` with `uid`, `namespace`,
//! `name`, `labels`, `annotations`, `addresses`, and `[[node.NAME.pod.container]]` with `name`, `id`, `image`, `image_digest`,
//! `cpu_request_millicores`, `memory_request_bytes`. On bare metal the labels of nodes alone are of use.

use crate::config::{ConfigError, read_toml};
use crate::ingest::Counters;
use joulebook_proto::config_file::ConfigFile;
use joulebook_proto::telemetry::{NodeDirectory, Pod, PodContainer};
use joulebook_units::{NodeName, UnixNanos};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// Changes of the file that were refused: what was told before stays in force.
pub const FAILURES: &str = "node_directory_reload_failures_total";
/// Changes of the file that were taken over.
pub const RELOADS: &str = "node_directory_reloads_total";

/// The directories of all nodes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Directories(BTreeMap<NodeName, Arc<NodeDirectory>>);

impl Directories {
    /// Reads the file. Revisions are those of `now`, so that they grow over restarts.
    ///
    /// # Errors
    /// It cannot be read, others may write it, or it is none.
    pub fn read(path: &Path, now: UnixNanos) -> Result<Self, ConfigError> {
        let file: File = read_toml(path)?;
        let revision = u64::try_from(now.0 / 1_000_000).unwrap_or(0).max(1);
        Ok(Self(file.node.into_iter().map(|(name, node)| (name.0, Arc::new(node.wire(revision)))).collect()))
    }

    /// Those of these nodes.
    pub(crate) fn of_nodes(nodes: BTreeMap<NodeName, Arc<NodeDirectory>>) -> Self {
        Self(nodes)
    }

    /// The directory of a node; none if the file does not name it.
    pub fn of(&self, node: &NodeName) -> Option<&Arc<NodeDirectory>> {
        self.0.get(node)
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Takes changes of the file over until it is dropped.
pub(crate) async fn follow(
    path: PathBuf,
    mut file: ConfigFile,
    now: impl Fn() -> UnixNanos,
    told: watch::Sender<Arc<Directories>>,
    counters: Arc<Counters>,
) {
    counters.add(FAILURES, 0);
    loop {
        file.changed().await;
        match Directories::read(&path, now()) {
            Ok(found) => {
                counters.add(RELOADS, 1);
                tracing::info!(nodes = found.len(), "the node directory was read again");
                told.send_replace(Arc::new(found));
            }
            Err(error) => {
                counters.add(FAILURES, 1);
                tracing::error!(%error, "the changed node directory is not taken over: what was told before stays");
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    node: BTreeMap<Name, Node>,
}

/// A node's name as a key.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(try_from = "String")]
struct Name(NodeName);

impl TryFrom<String> for Name {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self).map_err(|_| format!("`{text}` is no node: 1 to 253 of letters, digits, '.', '-', '_'"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    pod: Vec<PodEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PodEntry {
    uid: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    addresses: Vec<IpAddr>,
    #[serde(default)]
    container: Vec<ContainerEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ContainerEntry {
    #[serde(default)]
    name: String,
    id: Option<String>,
    image: Option<String>,
    image_digest: Option<String>,
    cpu_request_millicores: Option<u64>,
    memory_request_bytes: Option<u64>,
}

impl Node {
    fn wire(self, revision: u64) -> NodeDirectory {
        let container = |one: ContainerEntry| PodContainer {
            name: one.name,
            container_id: one.id,
            image: one.image,
            image_digest: one.image_digest,
            cpu_request_millicores: one.cpu_request_millicores,
            memory_request_bytes: one.memory_request_bytes,
        };
        let pod = |one: PodEntry| Pod {
            pod_uid: one.uid,
            namespace: one.namespace,
            name: one.name,
            labels: one.labels,
            annotations: one.annotations,
            addresses: one.addresses.iter().map(ToString::to_string).collect(),
            containers: one.container.into_iter().map(container).collect(),
        };
        NodeDirectory { revision, pods: self.pod.into_iter().map(pod).collect(), node_labels: self.labels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[node.\"gpu-1\"]\nlabels = { zone = \"a\" }\n\
        [[node.\"gpu-1\".pod]]\nuid = \"u\"\nnamespace = \"chat\"\nlabels = { modelVersion = \"7\" }\n\
        addresses = [\"10.0.0.7\", \"fd00::7\"]\n\
        [[node.\"gpu-1\".pod.container]]\nid = \"c\"\nimage_digest = \"sha256:ab\"\n[node.plain]\n";

    fn read(text: &str) -> Result<Directories, ConfigError> {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("nodes.toml");
        std::fs::write(&path, text).expect("written");
        Directories::read(&path, UnixNanos(5_000_000_000))
    }

    #[test]
    fn each_node_has_its_own_pods() {
        let all = read(FILE).expect("valid");
        assert_eq!((all.len(), all.is_empty()), (2, false));
        let of = |name: &str| all.of(&name.parse().expect("a name")).cloned();
        let gpu = of("gpu-1").expect("named");
        assert_eq!((gpu.revision, gpu.node_labels.len(), gpu.pods.len()), (5_000, 1, 1));
        assert_eq!(gpu.pods[0].addresses, ["10.0.0.7", "fd00::7"]);
        assert_eq!(gpu.pods[0].containers[0].image_digest.as_deref(), Some("sha256:ab"));
        assert!(of("plain").expect("named").pods.is_empty());
        assert_eq!(of("other"), None);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (from, to, words) in [
            ("uid = \"u\"", "id = \"u\"", ["nodes.toml:4", "unknown field `id`"]),
            ("10.0.0.7", "host", ["nodes.toml:7", "IP address"]),
            ("node.plain", "node.\"a b\"", ["nodes.toml", "no node"]),
            ("[node.plain]", "[[pod]]", ["nodes.toml:11", "unknown field `pod`"]),
        ] {
            let error = read(&FILE.replace(from, to)).expect_err(to).to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{to}: {error}");
        }
    }
}
