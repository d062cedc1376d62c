//! Energy by namespace of Kubernetes, before any allocation. A pod whose namespace nobody told is in one that is not known;
//! what is no pod's is in none. All rows together are the energy of the nodes.

use super::amount::Amount;
use super::energy::{key, methods, row};
use super::gather::Pods;
use crate::store::NodePods;
use joulebook_proto::query::EnergyRow;
use joulebook_sci::Account;
use joulebook_sci::totals::NodeTotals;
use joulebook_units::{Method, PodIdentity, Workload, WorkloadKind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Where energy belongs: an account beside the namespaces, or one of them.
type Place = (&'static str, String);

/// Of one row.
#[derive(Default)]
struct Sum {
    amount: Amount,
    components: BTreeMap<String, u64>,
    methods: BTreeSet<Method>,
}

/// One row a namespace, then what is in none that is known.
pub(super) fn rows(nodes: &BTreeMap<String, NodeTotals>, pods: &Pods) -> Vec<EnergyRow> {
    let mut sums: BTreeMap<Place, Sum> = BTreeMap::new();
    for (name, node) in nodes {
        let (pods, methods) = (pods.get(name).map(Arc::as_ref), methods(&node.cell));
        for (entry, energy) in &node.cell.entries {
            let sum = sums.entry(place(&entry.account, pods)).or_default();
            sum.amount.add(Amount::of_node(node, *energy));
            let component = sum.components.entry(entry.component.name().to_owned()).or_default();
            *component = component.saturating_add(*energy);
            sum.methods.extend(&methods);
        }
    }
    let row = |((account, namespace), sum): (Place, Sum)| {
        row(key(&[("namespace", &namespace), ("account", account)]), sum.amount, sum.components, &sum.methods)
    };
    sums.into_iter().map(row).collect()
}

fn place(account: &Account, pods: Option<&NodePods>) -> Place {
    let known = |id: &str| pods.and_then(|pods| pods.get(id));
    let beside = |account| (account, String::new());
    let within = |pod: Option<&PodIdentity>| match pod {
        Some(pod) => ("in a namespace", pod.namespace.clone()),
        None => beside("namespace not known"),
    };
    match account {
        Account::Workload(workload) if workload.kind == WorkloadKind::Kernel => beside("system"),
        Account::Workload(workload) => match (&workload.pod, known(&workload.id)) {
            (Some(pod), _) => within(Some(pod)),
            (None, Some(pod)) => within(pod),
            (None, None) if is_of_a_pod(workload) => within(None),
            (None, None) => beside("in no namespace"),
        },
        Account::Service(service) => match service.workload.as_deref().map(known) {
            Some(Some(pod)) => within(pod),
            Some(None) => beside("in no namespace"),
            // Counts without a process: it may be anywhere.
            None => within(None),
        },
        Account::System => beside("system"),
        Account::PoolIdle => beside("pool idle"),
        Account::Platform => beside("platform"),
        Account::Unattributed => beside("unattributed"),
    }
}

fn is_of_a_pod(workload: &Workload) -> bool {
    workload.pod_uid.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulebook_sci::{EntryKey, Purpose};
    use joulebook_units::{Component, Service, Serving, VersionSource};

    fn pod(namespace: &str) -> PodIdentity {
        PodIdentity { namespace: namespace.to_owned(), name: "p".to_owned(), ..PodIdentity::default() }
    }

    fn workload(id: &str, namespace: Option<&str>, uid: Option<&str>) -> Account {
        let (pod, pod_uid) = (namespace.map(pod), uid.map(str::to_owned));
        Account::Workload(Arc::new(Workload { pod, pod_uid, ..Workload::bare(id, WorkloadKind::Container, id) }))
    }

    fn service(workload: Option<&str>) -> Account {
        Account::Service(Arc::new(Service {
            model: Some("m".to_owned()),
            version: Some("1".to_owned()),
            version_source: VersionSource::Config,
            fingerprint: None,
            adapter: None,
            engine: "custom".to_owned(),
            target: "t".to_owned(),
            workload: workload.map(str::to_owned),
            tokenizer: None,
            serving: Serving::default(),
        }))
    }

    fn node(simulated: bool, entries: &[(Account, u64)]) -> NodeTotals {
        let mut node = NodeTotals { simulated, ..NodeTotals::default() };
        for (account, energy) in entries {
            let (component, purpose) = (Component::Cpu, Purpose::Dynamic);
            node.cell.add(EntryKey { account: account.clone(), component, purpose }, *energy);
        }
        node
    }

    #[test]
    fn every_microjoule_is_in_one_row_and_what_is_in_no_namespace_that_is_known_is_named() {
        let one = [
            (workload("a", Some("chat"), Some("u")), 1),
            // Its pod became known later.
            (workload("b", None, Some("u")), 20),
            (workload("c", None, Some("u")), 300),
            (workload("d", None, None), 4_000),
            (service(Some("b")), 50_000),
            (service(Some("d")), 600_000),
            (service(None), 7_000_000),
            (Account::PoolIdle, 80_000_000),
        ];
        let other = [(workload("a", Some("chat"), None), 900_000_000), (Account::Platform, 1)];
        let nodes = BTreeMap::from([("n".to_owned(), node(false, &one)), ("m".to_owned(), node(true, &other))]);
        let mut of_n = NodePods::default();
        for account in [workload("b", Some("team"), None), workload("c", None, Some("u"))] {
            if let Account::Workload(workload) = account {
                of_n.note((0, 1), &workload);
            }
        }
        let rows = rows(&nodes, &Pods::from([("n".to_owned(), Arc::new(of_n))]));
        let shown: Vec<_> = rows
            .iter()
            .map(|row| {
                (row.key[0].value.as_str(), row.key[1].value.as_str(), row.microjoules, row.simulated_microjoules)
            })
            .collect();
        let expected = [
            ("chat", "in a namespace", Some(900_000_001), 900_000_000),
            ("team", "in a namespace", Some(50_020), 0),
            ("", "in no namespace", Some(604_000), 0),
            ("", "namespace not known", Some(7_000_300), 0),
            ("", "platform", Some(1), 1),
            ("", "pool idle", Some(80_000_000), 0),
        ];
        assert_eq!(shown, expected);
        let total: u64 = nodes.values().map(|node| node.cell.total_microjoules()).sum();
        assert_eq!(rows.iter().filter_map(|row| row.microjoules).sum::<u64>(), total);
    }
}
