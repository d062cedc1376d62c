//! The pods of this node, as the aggregator tells them (`NodeDirectory`): agents have no rights at the cluster's API.
//!
//! Whoever made a pod wrote its labels, and the aggregator passes them on as they are: they are cut, counted, and name
//! nothing but versions, groups and pages of that pod.

use joulebook_proto::telemetry::{NodeDirectory, Pod as WirePod};
use joulebook_units::PodIdentity;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Most pods of one node that are taken; the kubelet's own default limit is 110.
const MOST_PODS: usize = 1024;
/// Most labels, and most annotations, of one pod.
const MOST_LABELS: usize = 256;
/// Longest value of a label or annotation.
const MOST_BYTES: usize = 1024;
/// Hexadecimal digits of an image's digest in a version.
const IMAGE_DIGITS: usize = 12;
/// Labels and annotations that name a version, where the configuration does not say which do.
pub const VERSION_LABELS: [&str; 4] =
    ["joulebook.io/model-version", "app.kubernetes.io/version", "serving.knative.dev/revision", "modelVersion"];
/// Label or annotation that names the model that a pod serves, where its server does not.
pub const MODEL_LABEL: &str = "joulebook.io/model";
/// Whose a pod is.
pub const TENANT_LABEL: &str = "joulebook.io/tenant";
/// The serving pool that a pod belongs to.
pub const POOL_LABEL: &str = "joulebook.io/pool";
/// The pool that a pod is there for without serving a model itself.
pub const SUPPORT_LABEL: &str = "joulebook.io/support-of";
/// The model version, or the pool of training, that a pod works on.
pub const TRAINING_LABEL: &str = "joulebook.io/training-of";
/// Longest of these values that is taken: more would be refused with the whole record.
const MOST_VALUE_BYTES: usize = 256;
/// Labels that name the group of servers that a pod works in, each with what tells groups of one name apart.
const GROUP_LABELS: [(&str, &str, Option<&str>); 3] = [
    ("joulebook.io/service-group", "", None),
    ("leaderworkerset.sigs.k8s.io/name", "lws", Some("leaderworkerset.sigs.k8s.io/group-index")),
    ("ray.io/cluster", "ray", None),
];

/// What is known of this node from the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directory {
    pods: BTreeMap<String, Pod>,
    /// Labels of the node.
    pub node_labels: BTreeMap<String, String>,
}

/// A pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Container ids by their names in the pod.
    containers: BTreeMap<String, String>,
    /// Image digests by container id.
    images: BTreeMap<String, String>,
    /// Images by their names and tags, by container id.
    named: BTreeMap<String, String>,
}

impl Directory {
    /// The directory that a message describes; what is too much is left out.
    pub fn from_wire(wire: NodeDirectory) -> Self {
        let pods = wire.pods.into_iter().take(MOST_PODS).map(|pod| (pod.pod_uid.clone(), Pod::from_wire(pod)));
        Self { pods: pods.filter(|(uid, _)| !uid.is_empty()).collect(), node_labels: cut(wire.node_labels) }
    }

    /// The pod with this uid.
    pub fn pod(&self, uid: &str) -> Option<&Pod> {
        self.pods.get(uid)
    }

    /// Every pod, by uid.
    pub fn pods(&self) -> impl Iterator<Item = (&String, &Pod)> {
        self.pods.iter()
    }
}

impl Pod {
    fn from_wire(pod: WirePod) -> Self {
        let (mut containers, mut images, mut named) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for container in pod.containers {
            let Some(id) = container.container_id else { continue };
            containers.insert(container.name, id.clone());
            images.extend(container.image_digest.map(|digest| (id.clone(), digest)));
            named.extend(container.image.filter(|image| is_usable(image)).map(|image| (id, image)));
        }
        Self {
            namespace: pod.namespace,
            name: pod.name,
            labels: cut(pod.labels),
            annotations: cut(pod.annotations),
            addresses: pod.addresses.iter().filter_map(|address| address.parse().ok()).collect(),
            containers,
            images,
            named,
        }
    }

    /// A label, else an annotation, of this name.
    pub fn told(&self, key: &str) -> Option<&str> {
        self.labels.get(key).or_else(|| self.annotations.get(key)).map(|value| value.trim()).filter(|v| !v.is_empty())
    }

    /// What its workloads carry of it.
    pub fn identity(&self) -> PodIdentity {
        let told = |key: &str| self.told(key).filter(|value| value.len() <= MOST_VALUE_BYTES).map(str::to_owned);
        PodIdentity {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            tenant: told(TENANT_LABEL),
            pool: told(POOL_LABEL),
            support_of: told(SUPPORT_LABEL),
            training_of: told(TRAINING_LABEL),
        }
    }

    /// Whether it trains a model: nothing that runs in it is inference.
    pub fn trains(&self) -> bool {
        self.told(TRAINING_LABEL).is_some()
    }

    /// Id of the container with this name.
    pub fn container(&self, name: &str) -> Option<&str> {
        self.containers.get(name).map(String::as_str)
    }

    /// The version that the first of these labels names.
    pub fn version(&self, labels: &[String], is_version: impl Fn(&str) -> bool) -> Option<String> {
        labels.iter().filter_map(|label| self.told(label)).find(|value| is_version(value)).map(str::to_owned)
    }

    /// The version that the image of a container stands for: `image:` and 12 hexadecimal digits.
    pub fn image_version(&self, container: Option<&str>) -> Option<String> {
        let container = container?;
        // A pod may ask for an image by its digest.
        let asked = || self.named.get(container)?.split_once('@').map(|(_, digest)| digest);
        let digest = self.images.get(container).map(String::as_str).or_else(asked)?;
        let hex = digest.rsplit(':').next()?;
        let usable = hex.len() >= IMAGE_DIGITS && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        usable.then(|| format!("image:{}", hex.chars().take(IMAGE_DIGITS).collect::<String>()))
    }

    /// The tag of the image that a container was asked to run, if it is a version. Weak: whoever has the registry moves it.
    pub fn image_tag(&self, container: Option<&str>, is_version: impl Fn(&str) -> bool) -> Option<String> {
        let name = self.named.get(container?)?.split('@').next()?;
        // Before the last slash a colon stands before a port.
        let (_, tag) = name.rsplit('/').next()?.rsplit_once(':')?;
        is_version(tag).then(|| tag.to_owned())
    }

    /// The service group that it works in: pods of one group on other nodes have the same labels.
    pub fn group(&self) -> Option<String> {
        let found = GROUP_LABELS.into_iter().find_map(|(label, kind, index)| {
            let name = self.told(label)?;
            let index = index.map_or(Some(""), |label| self.told(label))?;
            Some((kind, name, index))
        });
        found.map(|(kind, name, index)| match (kind, index) {
            ("", _) => name.to_owned(),
            (kind, "") => format!("{kind}/{}/{name}", self.namespace),
            (kind, index) => format!("{kind}/{}/{name}/{index}", self.namespace),
        })
    }
}

fn cut(labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let usable = |(key, value): &(String, String)| key.len() <= MOST_BYTES && is_usable(value);
    labels.into_iter().take(MOST_LABELS).filter(usable).collect()
}

fn is_usable(text: &str) -> bool {
    text.len() <= MOST_BYTES && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulebook_proto::telemetry::PodContainer;

    fn pod(labels: &[(&str, &str)]) -> WirePod {
        WirePod {
            pod_uid: "u".into(),
            namespace: "chat".into(),
            labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            addresses: vec!["10.0.0.7".into(), "not an address".into()],
            containers: vec![PodContainer {
                container_id: Some("c".repeat(64)),
                image_digest: Some(format!("sha256:{}", "ab".repeat(32))),
                ..PodContainer::default()
            }],
            ..WirePod::default()
        }
    }

    fn read(labels: &[(&str, &str)]) -> Pod {
        let directory = NodeDirectory { pods: vec![pod(labels), WirePod::default()], ..NodeDirectory::default() };
        let directory = Directory::from_wire(directory);
        assert_eq!(directory.pods().count(), 1, "one has no uid");
        directory.pod("u").expect("known").clone()
    }

    #[test]
    fn a_pods_version_is_that_of_the_first_label_that_names_one_and_its_image_stands_behind() {
        let labels: Vec<String> = VERSION_LABELS.map(str::to_owned).to_vec();
        let is_version = |word: &str| word != "latest";
        let known = read(&[("app.kubernetes.io/version", "latest"), ("modelVersion", "7")]);
        assert_eq!(known.version(&labels, is_version).as_deref(), Some("7"));
        assert_eq!(known.image_version(Some(&"c".repeat(64))).as_deref(), Some("image:abababababab"));
        assert_eq!((known.image_version(Some("other")), known.image_version(None)), (None, None));
        assert_eq!(known.addresses.len(), 1);
    }

    #[test]
    fn an_images_tag_is_what_stands_behind_its_name_and_a_digest_asked_for_is_one() {
        let of = |image: &str| {
            let mut wire = pod(&[]);
            wire.containers[0].image_digest = None;
            wire.containers[0].image = Some(image.to_owned());
            let pod = Pod::from_wire(wire);
            let id = "c".repeat(64);
            (pod.image_tag(Some(&id), |tag| tag != "latest"), pod.image_version(Some(&id)))
        };
        let tag = |tag: &str| (Some(tag.to_owned()), None);
        assert_eq!(of("registry.example:5000/llm/vllm:v0.9.1"), tag("v0.9.1"));
        assert_eq!(of("vllm:2"), tag("2"));
        for none in ["registry.example:5000/llm/vllm", "vllm", "vllm:latest", "", "a:b\n"] {
            assert_eq!(of(none), (None, None), "{none}");
        }
        let digest = format!("vllm:2@sha256:{}", "ab".repeat(32));
        assert_eq!(of(&digest), (Some("2".to_owned()), Some("image:abababababab".to_owned())));
    }

    #[test]
    fn pods_that_serve_together_have_one_group_whatever_node_they_run_on() {
        let lws = [("leaderworkerset.sigs.k8s.io/name", "llama"), ("leaderworkerset.sigs.k8s.io/group-index", "0")];
        assert_eq!(read(&lws).group().as_deref(), Some("lws/chat/llama/0"));
        assert_eq!(read(&lws[..1]).group(), None, "several groups of one set are not one");
        assert_eq!(read(&[("ray.io/cluster", "r")]).group().as_deref(), Some("ray/chat/r"));
        let own = [("ray.io/cluster", "r"), ("joulebook.io/service-group", "g")];
        assert_eq!(read(&own).group().as_deref(), Some("g"));
        assert_eq!(read(&[]).group(), None);
    }

    #[test]
    fn labels_say_whose_a_pod_is_and_what_it_is_there_for() {
        let long = "x".repeat(MOST_VALUE_BYTES + 1);
        let known =
            read(&[(TENANT_LABEL, " team "), (SUPPORT_LABEL, "chat"), (TRAINING_LABEL, ""), (POOL_LABEL, &long)]);
        let identity = PodIdentity {
            namespace: "chat".into(),
            tenant: Some("team".into()),
            support_of: Some("chat".into()),
            ..PodIdentity::default()
        };
        assert_eq!(known.identity(), identity);
    }

    #[test]
    fn hostile_labels_are_left_out() {
        let long = "x".repeat(MOST_BYTES + 1);
        let known = read(&[("modelVersion", &long), ("ray.io/cluster", "a\nb")]);
        assert!(known.labels.is_empty());
    }
}
